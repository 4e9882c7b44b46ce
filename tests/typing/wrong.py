"""What is wrong, on lines that end with `# wrong`: `tests/test_typing.py` has type checkers find just these."""

from __future__ import annotations

from pydantic import BaseModel

from greenroom import Context, Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Workflow, aio, step
from greenroom.retry import retry_policy
from greenroom.testing import WorkflowTestRunner


class Tally(BaseModel):
    words: int = 0


class Page(Event):
    text: str


class Approval(HumanResponseEvent):
    approved: bool


class Flow(Workflow):
    @step
    def blocking(self, ctx: Context[Tally], ev: StartEvent) -> StopEvent:
        state: str = ctx.store.get_state()  # wrong
        ctx.store.get_state().letters += 1  # wrong
        name: int = ctx.ask(InputRequiredEvent(), Approval)  # wrong
        page: Approval = ctx.wait_for_event(Page)  # wrong
        ctx.wait_for_event(Tally)  # wrong
        ctx.send_event("page")  # wrong
        ctx.send_event(Page)  # wrong
        ctx.send_event(Page(text="a"), steps="one")  # wrong
        pages: str = ctx.collect_events(ev, [Page])  # wrong
        ctx.collect_events(ev, Page)  # wrong
        count: str = ctx.once("count", len, "abc")  # wrong
        return StopEvent(result=[state, name, page, pages, count])

    @step(num_worker=4)  # wrong
    def options(self, ev: Page) -> StopEvent:
        return StopEvent(result=ev.text + 1)  # wrong

    @step(retry_policy=retry_policy)  # wrong
    def policy(self, ev: Page) -> StopEvent:
        return Page(text="not declared")  # wrong

    @step
    async def awaiting(self, ctx: aio.Context[Tally], ev: Page) -> StopEvent:
        approved: bool = ctx.ask(InputRequiredEvent(), Approval).approved  # wrong
        text: Approval = await ctx.wait_for_event(Page)  # wrong
        with ctx.store.edit_state() as state:  # wrong
            state.words += 1
        return StopEvent(result=[approved, text])


def missing() -> Page:
    return Page(txt="declared fields are checked")  # wrong


def outside() -> None:
    handler = Flow(timeout="soon").run()  # wrong
    handler.result("soon")  # wrong
    handler.send_event(7)  # wrong
    handler.respond(7, {})  # wrong
    for event in handler.stream_events(after="start"):  # wrong
        event.text.upper()
    WorkflowTestRunner(Flow).run()  # wrong
    WorkflowTestRunner(Flow()).run(answers={InputRequiredEvent: "yes"})  # wrong

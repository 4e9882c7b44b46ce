"""What a user writes, as strictly typed as they like. `tests/test_typing.py` has mypy and pyright check it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, assert_type

from pydantic import BaseModel

from greenroom import (
    ChildRun,
    Context,
    Event,
    Handler,
    HumanResponseEvent,
    InputRequiredEvent,
    PendingInput,
    Runtime,
    StartEvent,
    StopEvent,
    Workflow,
    aio,
    step,
)
from greenroom.resources import Resource, ResourceConfig, ResourceManager
from greenroom.retry import retry_policy, stop_after_attempt
from greenroom.testing import WorkflowTestResult, WorkflowTestRunner


class Tally(BaseModel):
    words: int = 0


class Page(Event):
    text: str


class Counted(Event):
    words: int


class Approval(HumanResponseEvent):
    approved: bool


class Total(StopEvent):
    words: int = 0


class Count(Workflow):
    """Methods, a typed state, and contexts with and without a parameter."""

    def __init__(self, minimum: int) -> None:
        super().__init__(timeout=10, num_concurrent_runs=2)
        self.minimum = minimum

    @step
    def split(self, ctx: Context, ev: StartEvent) -> Page | None:
        assert_type(ev.pages, Any)  # a keyword argument of run(), declared nowhere
        for text in ev.pages:
            ctx.send_event(Page(text=text))
        return None

    @step(num_workers=8, retry_policy=retry_policy(stop=stop_after_attempt(3)))
    def count(self, ctx: Context[Tally], ev: Page) -> Counted:
        assert_type(ev.text, str)
        with ctx.store.edit_state() as state:
            assert_type(state, Tally)
            state.words += len(ev.text.split())
        log(ctx, f"{ctx.store.get_state().words} words")
        return Counted(words=len(ev.text.split()))

    @step
    async def join(self, ctx: aio.Context[Tally], ev: Counted) -> Total | None:
        counts = ctx.collect_events(ev, {Counted: 2})
        assert_type(counts, list[Counted] | None)
        if counts is None:
            return None
        state = await ctx.store.get_state()
        assert_type(state, Tally)
        return Total(words=state.words)


def open_pages(tally: Annotated[Tally, ResourceConfig("tally.toml", "first")]) -> Iterator[list[str]]:
    yield ["page"] * tally.words


class Read(Workflow):
    @step
    def read(self, ev: StartEvent, pages: Annotated[list[str], Resource(open_pages, scope="run")]) -> StopEvent:
        assert_type(pages, list[str])
        return StopEvent(result=pages)


def with_resources() -> None:
    resources = ResourceManager()
    resources.set(open_pages, ["page"])
    with Read(resource_manager=resources, disable_validation=True) as workflow:
        assert_type(workflow, Read)
        workflow.run().result()


@step(workflow=Count)
def ask(ctx: Context, ev: StartEvent) -> InputRequiredEvent | None:
    return InputRequiredEvent(question=ev.question) if "question" in ev else None


def answer(ev: InputRequiredEvent) -> HumanResponseEvent:
    return HumanResponseEvent(answer=ev.question)


def log(ctx: Context, text: str) -> None:
    ctx.write_event_to_stream(Event(text=text))


def texts(handler: Handler) -> Iterator[str]:
    for event in handler.stream_events():
        assert_type(event, Event)
        yield event.get("text", "")


def blocking() -> int:
    with Runtime(max_threads=4) as runtime:
        handler = Count(minimum=1).run(pages=["to be or", "not to be"])
        assert_type(handler, Handler)
        assert runtime.runs
        assert_type(list(texts(handler)), list[str])
        total = handler.result(timeout=10)
        assert_type(total, Any)
        handler.cancel_run()
    words: int = total.words
    return words


class Asks(Workflow):
    """Waits of both kinds of step."""

    @step
    def ask(self, ctx: Context[Tally], ev: StartEvent) -> Page:
        assert_type(ctx.ask(InputRequiredEvent(prefix="name?")), HumanResponseEvent)
        assert_type(ctx.ask(InputRequiredEvent(), timeout=10), HumanResponseEvent)
        approval = ctx.ask(InputRequiredEvent(prefix="sure?"), Approval)
        assert_type(approval, Approval)
        assert_type(approval.approved, bool)
        assert_type(ctx.ask(InputRequiredEvent(), response=Approval, timeout=10, key="again"), Approval)
        page = ctx.wait_for_event(Page, waiter_event=InputRequiredEvent(), requirements={"text": "a"})
        assert_type(page, Page)
        assert_type(ctx.once("words", len, page.text), int)
        assert_type(ctx.collect_events(ev, [Page, Page]), list[Page] | None)
        for both in (ctx.collect_events(ev, [Page, Counted]), ctx.collect_events(ev, {Page: 1, Counted: 2})):
            if both is not None:
                counted = both[1]  # of either class, so that a field of one can be read
                log(ctx, f"{counted.words} words")
        assert_type(ctx.store.get("words"), Any)
        assert_type(ctx.store.get_state(), Tally)
        assert_type(ctx.retry_info().retry_number, int)
        assert_type(ctx.cancelled, bool)
        return page

    @step
    async def confirm(self, ctx: aio.Context[Tally], ev: Page) -> StopEvent:
        assert_type(await ctx.ask(InputRequiredEvent()), HumanResponseEvent)
        assert_type(await ctx.ask(InputRequiredEvent(), Approval), Approval)
        assert_type(await ctx.wait_for_event(Page), Page)
        assert_type(await ctx.once("words", len, ev.text), int)
        assert_type(await ctx.once("total", fetch, 3), str)
        async with ctx.store.edit_state() as state:
            assert_type(state, Tally)
        return StopEvent(result=await ctx.store.get("words", 0))


async def fetch(n: int) -> str:
    return str(n)


def questions(handler: Handler) -> None:
    for question in handler.pending_inputs():
        assert_type(question, PendingInput)
        assert_type(question.request, Event)
        handler.respond(question.input_id, {"approved": True})
    assert_type(handler.result(timeout=1), Any)
    assert_type(handler.exception(), BaseException | None)
    assert_type(handler.stop_event_result(), StopEvent)
    assert_type(handler.ctx.snapshot(), Any)  # handler.ctx is of the workflow's kind, blocking or awaited
    assert_type(Context.restore(Asks(), b""), Context[Any])
    assert_type(aio.Context.from_dict(Asks(), {}), aio.Context[Any])


def ends() -> list[StopEvent]:
    return [StopEvent(), StopEvent(3), StopEvent(result=3, cost=2), Total(words=1)]


def tested() -> None:
    answers = {InputRequiredEvent: Approval(approved=True)}
    test = WorkflowTestRunner(Asks()).run(StartEvent(), answers=answers)
    assert_type(test, WorkflowTestResult)
    assert_type(test.collected, list[Event])
    assert_type(test.event_types, dict[type[Event], int])


class Double(aio.Workflow):
    @step
    async def double(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
        await ctx.store.set("n", ev.n)
        return StopEvent(result=2 * await ctx.store.get("n"))


class Parent(Workflow):
    @step
    def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
        run = ctx.run(Double(), n=3)
        assert_type(run, ChildRun)
        assert_type(run.result(timeout=10), Any)
        return StopEvent(result=run.result())

    @step
    async def never(self, ctx: aio.Context, ev: Counted) -> StopEvent:
        run = ctx.run(Count(minimum=1), pages=[])
        assert_type(run, aio.ChildRun)
        return StopEvent(result=await run)


async def awaiting() -> int:
    handler = Double().run(start_event=StartEvent(n=21))
    assert_type(handler, aio.Handler)
    async for event in handler.stream_events():
        assert_type(event, Event)
    assert_type(await handler.ctx.running_steps(), Any)
    await handler.cancel_run()
    assert_type(await handler.stop_event_result(), StopEvent)
    total: int = await handler
    counted: Total = await Count(minimum=1).run(pages=["or", "not"])
    return total + counted.words

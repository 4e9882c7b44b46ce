"""What a user writes, as strictly typed as they like. `tests/test_typing.py` has mypy and pyright check it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, assert_type

from pydantic import BaseModel

from greenroom import (
    Context,
    Event,
    Handler,
    HumanResponseEvent,
    InputRequiredEvent,
    Runtime,
    StartEvent,
    StopEvent,
    Workflow,
    aio,
    step,
)
from greenroom.resources import Resource, ResourceConfig, ResourceManager
from greenroom.retry import retry_policy, stop_after_attempt


class Tally(BaseModel):
    words: int = 0


class Page(Event):
    text: str


class Counted(Event):
    words: int


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


class Double(aio.Workflow):
    @step
    async def double(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
        await ctx.store.set("n", ev.n)
        return StopEvent(result=2 * await ctx.store.get("n"))


async def awaiting() -> int:
    handler = Double().run(start_event=StartEvent(n=21))
    assert_type(handler, aio.Handler)
    async for event in handler.stream_events():
        assert_type(event, Event)
    await handler.cancel_run()
    assert_type(await handler.stop_event_result(), StopEvent)
    total: int = await handler
    counted: Total = await Count(minimum=1).run(pages=["or", "not"])
    return total + counted.words


def wrong() -> Page:
    return Page(txt="declared fields are checked")  # type: ignore[call-arg]

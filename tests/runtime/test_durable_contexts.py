"""Durable runs that go on from the context of another run: `run(ctx=...)` with a store, here and after a restart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from greenroom import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    Runtime,
    StartEvent,
    StopEvent,
    Workflow,
    step,
)
from greenroom.stores import RunStore
from tests.support.flavours import DEADLINE
from tests.support.waiting import wait_until


class Ask(InputRequiredEvent):
    n: int


class Answer(HumanResponseEvent):
    n: int


class Tick(Event):
    n: int


class Asks(Workflow):
    """Streams, asks in a child and itself, and streams again."""

    @step
    def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        for n in range(ev.get("ticks", 2)):
            ctx.write_event_to_stream(Tick(n=n))
        first = ctx.ask(Ask(n=1), Answer, timeout=3600).n
        ctx.write_event_to_stream(Tick(n=-1))
        second = ctx.run(Inner()).result() if ev.get("has_child") else ctx.ask(Ask(n=2), Answer).n
        ctx.write_event_to_stream(Tick(n=-2))
        return StopEvent(result=(first, second))


class Inner(Workflow):
    @step
    def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=ctx.ask(Ask(n=2), Answer).n)


def question(handler: Any) -> str:
    """Wait until the run asks, and return the id."""
    assert wait_until(handler.pending_inputs, DEADLINE)
    return str(handler.pending_inputs()[0].input_id)


def read(handler: Any, after: int | None = None) -> list[str]:
    """The stream to its end: the numbers of the ticks, and the names of the other events."""
    return [str(event.n) if isinstance(event, Tick) else type(event).__name__ for event in handler.stream_events(after)]


def cut_off(how: str, make_store: Callable[[], RunStore], has_child: bool) -> tuple[Any, str]:
    """Return the context of a run that was ended at its question, or at that of its child, and the question's id."""
    runtime = Runtime(store=make_store()) if how == "durable" else Runtime()
    with runtime:
        handler = Asks(runtime=runtime).run(run_id="first", has_child=has_child)
        if has_child:
            handler.respond(question(handler), {"n": 1})
            assert wait_until(lambda: [asked for asked in handler.pending_inputs() if asked.request.n == 2], DEADLINE)
        asked = question(handler)
        handler.cancel_run()
        if how == "snapshot":
            return Context.restore(Asks(), handler.ctx.snapshot()), asked
        return handler.ctx, asked


WAYS = ["memory", "durable", "snapshot"]


@pytest.mark.parametrize("durability", ["sync", "async"])
@pytest.mark.parametrize("how", WAYS)
def test_the_stream_goes_on_without_a_gap(how: str, durability: Any, make_store: Callable[[], RunStore]) -> None:
    """Offsets continue those of the run before; the earlier events are that run's. A restart changes none of it."""
    ctx, asked = cut_off(how, make_store, has_child=False)
    store = make_store()
    with Runtime(store=store, durability=durability) as runtime:
        handler = Asks(runtime=runtime).run(run_id="second", ctx=ctx)
        assert question(handler) == asked
        handler.respond(asked, {"n": 7})
        assert wait_until(lambda: [each for each in handler.pending_inputs() if each.request.n == 2], DEADLINE)
        last = question(handler)
    for handled in ([], [last]):
        store = make_store()
        with Runtime(store=store, durability=durability) as runtime:
            runtime.recover([Asks])
            again = runtime.get("second")
            assert again is not None
            if not handled:
                again.respond(last, {"n": 8})
            assert again.result(DEADLINE) == (7, 8)
            whole = ["-1", "Ask", "-2", "StopEvent"]
            assert read(again, after=-1) == read(again, after=3) == whole
            assert read(again, after=4) == whole[1:]
            assert [offset for offset, _ in store.events("second")] == [4, 5, 6, 7]
            row = store.row("second")
            assert row is not None
            assert row.next_offset == 8


@pytest.mark.parametrize("has_child", [False, True])
@pytest.mark.parametrize("how", WAYS)
def test_open_questions_go_with_the_run(how: str, has_child: bool, make_store: Callable[[], RunStore]) -> None:
    """They are listed and answered by the store as well, while the run rests, and in another process."""
    ctx, asked = cut_off(how, make_store, has_child)
    with Runtime(store=make_store(), idle_timeout=0.0) as runtime:
        handler = Asks(runtime=runtime).run(run_id="second", ctx=ctx)
        assert wait_until(lambda: handler.supervisor is None, DEADLINE)
        assert [(each.input_id, each.run_id) for each in runtime.pending_inputs()] == [(asked, "second")]
    with Runtime(store=make_store()) as runtime:
        runtime.recover([Asks])
        assert [(each.input_id, each.run_id) for each in runtime.pending_inputs()] == [(asked, "second")]
        runtime.respond(asked, {"n": 5})
        again = runtime.get("second")
        assert again is not None
        if not has_child:
            again.respond(question(again), {"n": 6})
        assert again.result(DEADLINE) == ((1, 5) if has_child else (5, 6))


def test_deadlines_go_from_one_runtime_to_another(make_store: Callable[[], RunStore]) -> None:
    """Whose clocks begin at other times: what had an hour left has it still."""
    ctx, asked = cut_off("memory", make_store, has_child=False)
    with Runtime(store=make_store()) as runtime:
        handler = Asks(runtime=runtime).run(run_id="second", ctx=ctx)
        assert question(handler) == asked
        (pending,) = handler.pending_inputs()
        assert pending.expires_at is not None
        assert 3000 < (pending.expires_at - pending.asked_at).total_seconds() <= 3600
        (row,) = runtime.keeper.store.inputs("second")  # type: ignore[union-attr]
        assert row.expires_at is not None
        assert abs(row.expires_at - pending.expires_at.timestamp()) < 1
        handler.cancel_run()
    with Runtime() as runtime:
        back = Asks(runtime=runtime).run(run_id="third", ctx=handler.ctx)
        assert question(back) == asked
        assert back.pending_inputs()[0].asked_at == pytest.approx(
            pending.asked_at, abs=pending.expires_at - pending.asked_at
        )
        back.cancel_run()

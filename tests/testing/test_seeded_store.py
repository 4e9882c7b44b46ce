"""Durable workflows on a seeded schedule: `SeededRuntime(store=...)`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from greenroom import (
    Context,
    DeadlockError,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    RuntimeShutdownError,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowRuntimeError,
    aio,
    step,
)
from greenroom.inbox import post_answer
from greenroom.named import registry_of
from greenroom.stores import MemoryStore, RunStore, SQLiteStore
from greenroom.testing import SeededRuntime, explore

HOUR = 3600.0
DAY = 24 * HOUR


class Ask(InputRequiredEvent):
    n: int


class Answer(HumanResponseEvent):
    n: int


class Paid(Event):
    n: int


class Order(Workflow):
    """Charges once, sleeps a day, and asks."""

    def __init__(self, charges: list[int], **options: Any) -> None:
        super().__init__(**options)
        self.charges = charges

    @step
    def pay(self, ctx: Context, ev: StartEvent) -> Paid:
        ctx.once("charge", self.charges.append, ev.n)
        ctx.sleep(DAY)
        return Paid(n=ev.n)

    @step
    async def ask(self, ctx: aio.Context, ev: Paid) -> StopEvent:
        answer = await ctx.ask(Ask(n=ev.n), Answer, timeout=DAY)
        return StopEvent(result=ev.n + answer.n)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> RunStore:
    return MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "runs.db")


def answer(runtime: SeededRuntime) -> None:
    """Answer the one question, when it is asked."""
    (question,) = runtime.pending_inputs()
    runtime.respond(question.input_id, {"n": 10})


@pytest.mark.parametrize("durability", ["sync", "async"])
@pytest.mark.parametrize("idle_timeout", [None, 0.0, HOUR])
@pytest.mark.parametrize("seed", range(3))
def test_a_durable_run_sleeps_rests_and_is_answered_in_virtual_time(
    seed: int, idle_timeout: float | None, durability: Any, store: RunStore
) -> None:
    """It leaves memory after the idle time, and comes back at its time and for its answer."""
    charges: list[int] = []
    with SeededRuntime(seed, store=store, durability=durability, idle_timeout=idle_timeout) as runtime:
        handler = Order(charges).run(n=1)
        runtime.advance(2 * HOUR)
        assert (handler.supervisor is None) == (idle_timeout is not None)
        assert runtime.pending_inputs() == []
        runtime.advance(DAY)
        answer(runtime)
        assert handler.result() == 11
        assert DAY <= runtime.now() < DAY + 3 * HOUR
    assert charges == [1]


@pytest.mark.parametrize("timeout", [None, 0.0])
@pytest.mark.parametrize("hours", [0, 1, 25])
def test_a_run_goes_on_in_the_next_runtime_where_time_has_stopped(
    hours: int, timeout: float | None, store: RunStore
) -> None:
    """Whether it was ended in order or at once; what was done once is not done again."""
    charges: list[int] = []
    runtime = SeededRuntime(1, store=store)
    with runtime:
        handler = Order(charges).run(run_id="order", n=1)
        runtime.advance(hours * HOUR)
        runtime.shutdown(timeout)
        with pytest.raises(RuntimeShutdownError):
            handler.result()
    with SeededRuntime(2, store=store) as runtime:
        assert hours * HOUR <= runtime.now() < hours * HOUR + 1
        runtime.recover([Order(charges)])
        again = runtime.get("order")
        assert again is not None
        runtime.advance(max(0.0, 25 * HOUR - runtime.now()))
        answer(runtime)
        assert again.result() == 11
        assert runtime.now() < 26 * HOUR
        assert Order(charges).run(n=2).run_id == "run-1"
        runtime.shutdown(0.0)
    assert charges == [1]
    with SeededRuntime(3, store=store) as runtime:
        assert Order(charges).run(n=3).run_id == "run-2"
        runtime.shutdown(0.0)


def test_a_run_at_rest_is_woken_by_its_timer_after_recover(store: RunStore) -> None:
    """Though nobody asks for it: its timer was set in a process that is gone."""
    charges: list[int] = []
    with SeededRuntime(1, store=store, idle_timeout=0.0) as runtime:
        Order(charges).run(run_id="order", n=1)
        runtime.advance(HOUR)
    with SeededRuntime(2, store=store, idle_timeout=0.0) as runtime:
        runtime.recover([Order(charges)])
        assert runtime.pending_inputs() == []
        runtime.advance(DAY)
        answer(runtime)
        handler = runtime.get("order")
        assert handler is not None
        assert handler.result() == 11


def test_looking_does_not_keep_a_run_in_memory(store: RunStore) -> None:
    """The time after which it rests goes on from what has happened to it, not from who has looked."""
    with SeededRuntime(1, store=store, idle_timeout=100.0) as runtime:
        handler = Order([]).run(n=1)
        runtime.advance(DAY + 60)
        (question,) = runtime.pending_inputs()
        assert [each.input_id for each in handler.pending_inputs()] == [question.input_id]
        assert handler.dead_letters() == []
        runtime.advance(30)
        assert handler.supervisor is not None
        assert [each.input_id for each in runtime.pending_inputs()] == [question.input_id]
        runtime.advance(20)
        assert handler.supervisor is None
        handler.send_event(Paid(n=5))
        runtime.advance(90)
        assert handler.supervisor is not None


def test_nothing_left_is_told_at_once(store: RunStore) -> None:
    """As without a store: a keeper that would look for ever does not hide it, nor does a run that rests."""

    class Waits(Workflow):
        @step
        def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=ctx.ask(Ask(n=1), Answer).n)

    for idle_timeout in (None, 10.0):
        with SeededRuntime(1, store=store, idle_timeout=idle_timeout):
            handler = Waits().run()
            with pytest.raises(DeadlockError, match="nothing is left to run"):
                handler.result()
            assert (handler.supervisor is None) == (idle_timeout is not None)


def test_the_same_seed_gives_the_same_run() -> None:
    """Step by step, with a MemoryStore; and other seeds give others."""

    def trace(seed: int) -> list[str]:
        charges: list[int] = []
        with SeededRuntime(seed, store=MemoryStore(), idle_timeout=HOUR) as runtime:
            handlers = [Order(charges).run(n=n) for n in range(3)]
            runtime.advance(DAY + HOUR / 2)
            for question in runtime.pending_inputs():
                runtime.spawn(runtime.respond, question.input_id, {"n": 1})
            assert [handler.result() for handler in handlers] == [1, 2, 3]
            return runtime.trace

    traces = [trace(seed) for seed in range(4)]
    assert traces == [trace(seed) for seed in range(4)]
    assert len({tuple(each) for each in traces}) == 4


def test_what_is_posted_is_taken(store: RunStore) -> None:
    """By a run in memory or at rest, as from another process."""
    for number, idle_timeout in enumerate((None, 0.0)):
        with SeededRuntime(1, store=store, idle_timeout=idle_timeout) as runtime:
            workflow = Order([])
            handler = workflow.run(run_id=f"order-{number}", n=1)
            runtime.advance(DAY + HOUR)
            (question,) = runtime.pending_inputs()
            assert post_answer(store, handler.run_id, question.input_id, Answer(n=4), registry_of(workflow))
            assert handler.result() == 5


def test_deadlines_of_a_context_go_on() -> None:
    """A question with an hour left has it on another seeded runtime, with a store or without."""
    contexts: list[Any] = []
    with SeededRuntime(1) as runtime:
        handler = Order([]).run(n=1)
        runtime.advance(DAY + HOUR)
        handler.cancel_run()
        contexts.append(handler.ctx)
    with SeededRuntime(2, store=MemoryStore()) as runtime:
        handler = Order([]).run(ctx=contexts[0])
        runtime.advance(21 * HOUR)
        (question,) = runtime.pending_inputs()
        assert question.expires_at is not None
        assert 0 < (question.expires_at - question.asked_at).total_seconds() <= DAY
        with pytest.raises(TimeoutError):
            handler.result()
        assert 22 * HOUR < runtime.now() < 24 * HOUR


def test_wrong_options_are_told() -> None:
    """As by `Runtime`."""
    with pytest.raises(WorkflowRuntimeError, match="'sync' or 'async'"):
        SeededRuntime(1, store=MemoryStore(), durability="now")  # type: ignore[arg-type]
    with pytest.raises(WorkflowRuntimeError, match="idle_timeout"):
        SeededRuntime(1, store=MemoryStore(), idle_timeout=-1)


def test_explore_finds_a_step_that_is_not_safe_to_run_again() -> None:
    """A workflow that charges outside of `once`, stopped at a time that the seed decides."""

    class Careless(Workflow):
        charges: list[int]

        @step
        def pay(self, ctx: Context, ev: StartEvent) -> Paid:
            self.charges.append(ev.n)
            return Paid(n=ctx.ask(Ask(n=ev.n), Answer).n)

        @step
        def end(self, ev: Paid) -> StopEvent:
            return StopEvent(result=ev.n)

    def survives(make: Callable[[], Any]) -> Callable[[SeededRuntime], None]:
        def test(runtime: SeededRuntime) -> None:
            durable = MemoryStore()
            with SeededRuntime(runtime.seed, store=durable) as first:
                workflow = make()
                workflow.run(run_id="order", n=1)
                first.advance(runtime.seed / 1000)
                first.shutdown(0.0)
            with SeededRuntime(runtime.seed, store=durable) as second:
                second.recover([workflow])
                handler = second.get("order")
                assert handler is not None
                second.advance(25 * HOUR)
                for question in second.pending_inputs():
                    second.respond(question.input_id, {"n": 1})
                handler.result()
            assert workflow.charges == [1]

        return test

    def careless() -> Careless:
        made = Careless()
        made.charges = []
        return made

    explore(survives(lambda: Order([])), seeds=range(0, 40, 4))
    with pytest.raises(AssertionError):
        explore(survives(careless), seeds=range(0, 40, 4))

"""Observers hear of a child run as of a run of its own, whatever becomes of it and of those around it."""

import asyncio
import contextlib
import gc
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from greenroom import (
    Context,
    Event,
    HumanResponseEvent,
    InputError,
    InputRequiredEvent,
    Runtime,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowRuntimeError,
    aio,
    step,
)
from greenroom.facts import Crashed, Finished
from greenroom.observer import Observer, RunRecord
from greenroom.retry import retry_policy, stop_after_attempt, wait_fixed, wait_none
from greenroom.run_state import RunState
from greenroom.runtime import add_observer, remove_observer
from greenroom.stores import SQLiteStore
from greenroom.testing import SeededRuntime, explore
from tests.support.flavours import DEADLINE, Flavour
from tests.support.hearing import Log
from tests.support.waiting import wait_until


class Part(Event):
    n: int = 0


class Answer(HumanResponseEvent):
    n: int


class Asks(Workflow):
    """Asks a person for a number."""

    @step
    def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=ctx.ask(InputRequiredEvent(), Answer).n)


def test_a_child_is_told_as_a_run_with_its_parent(flow: Flavour) -> None:
    """A child has a record of its own that names its parent, and its attempts, retries, letters and waits are told."""

    class Inner(Workflow):
        @flow.step(retry_policy=retry_policy(stop=stop_after_attempt(2), wait=wait_none()))
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            if ctx.retry_info().retry_number == 0:
                raise ValueError("once")
            ctx.write_event_to_stream(Part())
            ctx.send_event(Part())
            return StopEvent(result=(await flow(ctx.ask(InputRequiredEvent(), Answer))).n)

    inner = Inner(disable_validation=True)

    class Outer(Workflow):
        @flow.step
        async def begin(self, ctx: Context, ev: StartEvent) -> Part:
            return Part()

        @flow.step
        async def total(self, ctx: Context, ev: Part) -> StopEvent:
            return StopEvent(result=await flow(ctx.run(inner).result()))

    log = Log()
    with SeededRuntime(1, observers=[log]) as runtime:
        handler = Outer().run(run_id="r")
        runtime.run_until_idle()
        (question,) = handler.pending_inputs()
        handler.respond(question.input_id, Answer(n=4))
        assert handler.result() == 4
        (letter,) = handler.dead_letters()
    assert letter.reason.startswith("in run 'r/Inner.1.0'")
    outer, child = log.runs
    assert (outer.run_id, outer.workflow, outer.parent) == ("r", "Outer", None)
    assert (child.run_id, child.workflow, child.origin) == ("r/Inner.1.0", "Inner", "r/Inner.1.0")
    assert child.parent == (outer, "total", 1)
    assert child.outcome is not None
    assert child.outcome.status == "completed"
    assert log.of(child.run_id) == [
        "run",
        "StartEvent to one",
        "one 1",
        "one 1 failed",
        "one again in 0",
        "one 2",
        "stream Part",
        "dead Part",
        "wait Answer",
        "stream InputRequiredEvent",
        "idle",
        "wait Answer answered",
        "one 2 completed",
        "stream StopEvent",
        "run completed",
    ]
    # What is told of the child is not told of its parent again.
    assert log.of("r") == [
        "run",
        "StartEvent to begin",
        "begin 1",
        "begin 1 completed",
        "Part to total",
        "total 1",
        "idle",
        "total 1 completed",
        "stream StopEvent",
        "run completed",
    ]
    assert not log.faults
    assert not log.open


def test_nested_children_name_their_parents(flow: Flavour) -> None:
    """Each run within a run within a run has the one around it as its parent, and all end from the inside out."""

    class Nest(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            if ev.depth == 0:
                return StopEvent(result=0)
            return StopEvent(result=1 + await flow(ctx.run(self, depth=ev.depth - 1).result()))

    log = Log()
    with Runtime(observers=[log]):
        assert Nest().run(depth=3, run_id="r").result(DEADLINE) == 3
    parents = [run.parent.run if run.parent else None for run in log.runs]
    assert parents == [None, *log.runs[:-1]]
    ends = [run for run, line in zip(log.whose, log.lines, strict=True) if line == "run completed"]
    assert ends == [run.run_id for run in reversed(log.runs)]
    assert not log.faults
    assert not log.open


def test_a_child_that_failed_is_another_run_in_the_retry(flow: Flavour) -> None:
    """A retry begins a failed child anew, which is told as a run of its own; one that goes on is told once."""

    class Inner(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            if next(counts) == 0:
                raise ValueError("once")
            return StopEvent(result="done")

    class Outer(Workflow):
        @flow.step(retry_policy=retry_policy(stop=stop_after_attempt(2), wait=wait_fixed(1)))
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            asks = ctx.run(Asks())
            await flow(ctx.run(Inner()).result())
            return StopEvent(result=await flow(asks.result()))

    counts = iter(range(10))
    log = Log()
    with SeededRuntime(1, observers=[log]) as runtime:
        handler = Outer().run(run_id="r")
        runtime.advance(2)
        (question,) = handler.pending_inputs()
        handler.respond(question.input_id, Answer(n=4))
        assert handler.result() == 4
    ends = [(run.workflow, run.outcome.status) for run in log.runs if run.outcome]
    assert ends == [("Outer", "completed"), ("Asks", "completed"), ("Inner", "failed"), ("Inner", "completed")]
    assert not log.faults
    assert not log.open


@pytest.mark.parametrize("how", ["cancelled", "timed_out", "completed", "failed"])
def test_a_parents_end_ends_what_is_told_of_its_children(how: str) -> None:
    """Cancel, timeout, stop event and failure of the parent end its children, their attempts and waits as cancelled."""

    class Sleeps(Workflow):
        @step
        async def one(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(1000)
            return StopEvent()

    class Middle(Workflow):
        @step
        def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            children = [ctx.run(Asks()), ctx.run(Sleeps())]
            return StopEvent(result=[child.result() for child in children])

    class Outer(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=ctx.run(Middle()).result())

        @step
        async def other(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(5 if how in ("completed", "failed") else 1000)
            if how == "failed":
                raise ValueError("the other")
            return StopEvent()

    log = Log()
    with SeededRuntime(1, observers=[log]) as runtime:
        handler = Outer(timeout=10 if how == "timed_out" else None).run()
        runtime.advance(4)
        assert len(log.runs) == 4
        if how == "cancelled":
            handler.cancel_run()
        assert (handler.exception() is None) == (how == "completed")
    assert [run.outcome.status for run in log.runs if run.outcome] == [how, "cancelled", "cancelled", "cancelled"]
    assert [wait.end for wait in log.waits] == ["cancelled"]
    assert {attempt.end for attempt in log.attempts if attempt.step == "one"} == {"cancelled"}
    assert not log.faults
    assert not log.open


def test_a_child_goes_on_in_a_run_that_was_restored() -> None:
    """In a run that goes on from a snapshot a child has no start event, and the origin of the child that it was."""

    class Outer(Workflow):
        @step
        def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=ctx.run(Asks()).result())

    log = Log()
    with SeededRuntime(1, observers=[log]) as runtime:
        handler = Outer().run(run_id="first")
        runtime.run_until_idle()
        data = handler.ctx.snapshot()
        handler.cancel_run()
        workflow = Outer()
        again = workflow.run(ctx=Context.restore(workflow, data), run_id="second")
        runtime.run_until_idle()
        (question,) = again.pending_inputs()
        again.respond(question.input_id, Answer(n=4))
        assert again.result() == 4
    seen = {run.run_id: (run.origin, run.start_event is None) for run in log.runs}
    assert seen == {
        "first": ("first", False),
        "first/Asks.0.0": ("first/Asks.0.0", False),
        "second": ("first", True),
        "second/Asks.0.0": ("first/Asks.0.0", True),
    }
    assert [wait.end for wait in log.waits] == ["cancelled", "answered"]
    assert not log.faults
    assert not log.open


def test_what_a_child_sends_after_the_end_is_told_as_its_dead_letter() -> None:
    """A body of a child that outlives a cancel sends in vain, and that is told of the child, once."""
    began, may_go_on = threading.Event(), threading.Event()

    class Stays(Workflow):
        @step
        def one(self, ctx: Context, ev: StartEvent) -> StopEvent | Part:
            began.set()
            assert may_go_on.wait(DEADLINE)
            return Part()

        @step
        def two(self, ev: Part) -> StopEvent:
            return StopEvent()

    class Outer(Workflow):
        @step
        def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=ctx.run(Stays(), run_id="child").result())

    log = Log()
    with Runtime(observers=[log]):
        handler = Outer().run(run_id="r")
        assert began.wait(DEADLINE)
        handler.cancel_run()
        may_go_on.set()
        wait_until(lambda: any(line.startswith("dead") for line in log.lines))
    assert log.of("child")[-2:] == ["run cancelled", "dead Part"]
    assert "dead Part" not in log.of("r")
    assert not log.faults
    assert not log.open


def test_children_that_have_ended_are_let_go_of() -> None:
    """What watched a child holds on to nothing of it once it has ended, however long the step around it goes on."""

    class Brief(Workflow):
        @step
        async def one(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    class Outer(Workflow):
        @step
        def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            for _ in range(50):
                ctx.run(Brief()).result()
            gc.collect()
            held = [each for each in gc.get_objects() if isinstance(each, RunState) and each.graph.name == "Brief"]
            return StopEvent(result=len(held))

    with Runtime(observers=[Log()]):
        assert Outer().run().result(DEADLINE) < 5


def test_observers_of_runs_alone_hear_of_children() -> None:
    """One who overrides no more than the begin and end of runs hears those of children too."""

    class Brief(Observer):
        def __init__(self) -> None:
            self.lines: list[tuple[str, str]] = []

        def run_started(self, run: RunRecord) -> None:
            self.lines.append((run.workflow, "begins"))

        def run_ended(self, run: RunRecord) -> None:
            assert run.outcome is not None
            self.lines.append((run.workflow, run.outcome.status))

    class Outer(Workflow):
        @step
        def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=ctx.run(Asks()).result())

    brief = Brief()
    with SeededRuntime(1, observers=[brief]) as runtime:
        handler = Outer().run()
        runtime.run_until_idle()
        handler.cancel_run()
    assert brief.lines == [("Outer", "begins"), ("Asks", "begins"), ("Asks", "cancelled"), ("Outer", "cancelled")]


@pytest.mark.parametrize("fatal", [False, True])
def test_a_failure_of_the_engine_ends_what_was_told_of_children(fatal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the core itself fails in a child, once or for good, the end of the child and of its parent is told."""
    apply = RunState.apply

    def fail(self: RunState, fact: Any, now: float) -> Any:
        if type(fact) is Finished or (fatal and type(fact) is Crashed):
            raise AssertionError("a bug of ours")
        return apply(self, fact, now)

    class Inner(Workflow):
        @step
        def one(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    class Outer(Workflow):
        @step
        async def one(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await ctx.run(Inner()))

    monkeypatch.setattr(RunState, "apply", fail)
    log = Log()
    with Runtime(observers=[log]):
        assert isinstance(Outer().run().exception(DEADLINE), WorkflowRuntimeError)
        wait_until(lambda: not log.open)
    assert [run.outcome is not None for run in log.runs] == [True, True]
    assert not log.faults


def test_a_durable_run_tells_of_its_children(flow: Flavour, tmp_path: Path) -> None:
    """A run that a store keeps tells of its children, in each process that goes on with it.

    A wait that goes on without a body is told with the run, as in the run itself.
    """

    class Outer(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await flow(ctx.run(Asks()).result()))

    log = Log()
    with Runtime(store=SQLiteStore(tmp_path / "runs.db"), observers=[log]) as runtime:
        Outer().run(run_id="r")
        wait_until(lambda: bool(log.waits))
        runtime.shutdown(timeout=0.0)
    assert not log.open
    with Runtime(store=SQLiteStore(tmp_path / "runs.db"), observers=[log]) as runtime:
        runtime.recover([Outer()])
        again = runtime.get("r")
        assert again is not None
        (question,) = again.pending_inputs()
        again.respond(question.input_id, Answer(n=4))
        assert again.result(DEADLINE) == 4
    assert [wait.end for wait in log.waits] == ["given_back", "answered"]
    assert [run.run_id for run in log.runs] == ["r", "r/Asks.0.0"] * 2
    assert {run.run_id for run in log.runs} == {"r", "r/Asks.0.0"}
    assert not log.faults
    assert not log.open


# -- every interleaving ------------------------------------------------------------------------------------------------


class Job(Event):
    n: int


class Done(Event):
    n: int


class Leaf(Workflow):
    """Fails, asks or waits, as its number says."""

    @step(retry_policy=retry_policy(stop=stop_after_attempt(2), wait=wait_none()))
    def begin(self, ctx: Context, ev: StartEvent) -> Part | StopEvent:
        if ev.n == 1 and ctx.retry_info().retry_number == 0:
            raise ValueError(ev.n)
        if ev.n == 2:
            ctx.ask(InputRequiredEvent(), Answer, timeout=50)
        return Part(n=ev.n)

    @step
    async def end(self, ctx: aio.Context, ev: Part) -> StopEvent:
        await asyncio.sleep(0.1)
        if ev.n == 3 and await ctx.once("first", lambda: True):
            raise ValueError("a child that fails")
        return StopEvent(result=ev.n)


class Branch(Workflow):
    """Begins leaves from both kinds of steps, one of which is tried again, and one of which gives up in time."""

    @step
    def begin(self, ctx: Context, ev: StartEvent) -> Job | None:
        for n in range(4):
            ctx.send_event(Job(n=n))

    @step(num_workers=2, retry_policy=retry_policy(stop=stop_after_attempt(2), wait=wait_fixed(0.1)))
    def work(self, ctx: Context, ev: Job) -> Done:
        leaf = ctx.run(Leaf(), n=ev.n)
        with contextlib.suppress(ValueError):
            leaf.result()
        if ev.n == 0 and ctx.retry_info().retry_number == 0:
            raise ValueError("once")
        return Done(n=ev.n)

    @step(skip_graph_checks=["dead_end"])
    async def twin(self, ctx: aio.Context, ev: Job) -> None:
        leaf = ctx.run(Leaf(), n=ev.n)
        if ev.n == 2:
            leaf.cancel()
        with contextlib.suppress(TimeoutError, ValueError, WorkflowCancelledByUser):
            await leaf.result(timeout=0.05 if ev.n == 0 else None)

    @step
    async def gather(self, ctx: aio.Context, ev: Done) -> StopEvent | None:
        return ctx.collect_events(ev, {Done: 4}) and StopEvent(result="done")


class Tree(Workflow):
    """Two branches side by side."""

    @step
    async def begin(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
        branches = [ctx.run(Branch()), ctx.run(Branch())]
        return StopEvent(result=[await branch for branch in branches])


@pytest.mark.parametrize("max_parked", [0, 1000])
@pytest.mark.parametrize("how", ["answered", "cancelled", "timed_out"])
def test_every_begin_has_its_end_on_any_schedule(max_parked: int, how: str) -> None:
    """Whatever the order, each run, attempt and wait of a tree begins once and ends once, none outlives its parent."""
    ends: Counter[str] = Counter()

    def check(runtime: SeededRuntime) -> None:
        runtime.parking._max_parked = max_parked
        log = Log()
        add_observer(log)
        try:
            handler = Tree(timeout=0.15 if how == "timed_out" else None).run()
            runtime.advance(0.15 if how == "cancelled" else 1)
            if how == "cancelled":
                handler.cancel_run()
            elif how == "answered":
                while questions := handler.pending_inputs():
                    handler.respond(questions[0].input_id, Answer(n=1))
                    runtime.advance(1)
            assert handler.exception() is None or how != "answered"
        finally:
            remove_observer(log)
        assert not log.faults
        assert not log.open
        assert len({run.workflow for run in log.runs}) == 3
        ends.update(run.outcome.status for run in log.runs if run.outcome)
        ends.update(str(attempt.end) for attempt in log.attempts)

    explore(check, range(40))
    assert ends["passivated"] or max_parked
    assert ends["failed"]
    assert ends["cancelled"]


def test_every_begin_has_its_end_on_threads() -> None:
    """As above, on real threads: many trees at once, of which half are cancelled in the middle."""
    log = Log()
    with Runtime(observers=[log], max_parked=5) as runtime:
        handlers = [Tree().run() for _ in range(10)]
        for handler in handlers[1::2]:
            handler.cancel_run()
        for handler in handlers[::2]:
            while not handler.done():
                for question in handler.pending_inputs():
                    with contextlib.suppress(InputError):
                        handler.respond(question.input_id, Answer(n=1))
                runtime.dispatcher.wait(handler, 0.01)
            assert handler.result(DEADLINE) == ["done", "done"]
    assert not log.faults
    assert not log.open
    assert len([run for run in log.runs if run.parent is None]) == 10

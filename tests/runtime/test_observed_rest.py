"""What is told of durable runs that leave memory and come back: to observers, in spans, and in the log."""

import ast
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace

import greenroom
from greenroom import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    Runtime,
    RuntimeShutdownError,
    StartEvent,
    StopEvent,
    Workflow,
    aio,
    step,
)
from greenroom.errors import LeaseLostError
from greenroom.observer import Observer, RunRecord, WaitRecord
from greenroom.otel import OpenTelemetry
from greenroom.stores import Commit, MemoryStore, RunStore, SQLiteStore
from greenroom.testing import SeededRuntime
from tests.support.flavours import DEADLINE, Flavour
from tests.support.hearing import Log
from tests.support.telemetry import Telemetry
from tests.support.waiting import wait_until


class Ask(InputRequiredEvent):
    n: int


class Answer(HumanResponseEvent):
    n: int


class Item(Event):
    n: int


def asking(flow: Flavour) -> Workflow:
    """A workflow that passes an item on, and asks a person about it."""

    class Asking(Workflow):
        @flow.step
        async def begin(self, ctx: Context, ev: StartEvent) -> Item:
            return Item(n=ev.n)

        @flow.step
        async def ask(self, ctx: Context, ev: Item) -> StopEvent:
            answer = await flow(ctx.ask(Ask(n=ev.n), Answer))
            return StopEvent(result=ev.n + answer.n)

    return Asking()


def until_at_rest(handler: greenroom.Handler) -> None:
    """Wait until a run rests. When it is woken, it does not go to rest again before somebody has come to ask it."""
    assert wait_until(lambda: handler.supervisor is None)
    handler._link.runtime.keeper.idle_timeout = None  # type: ignore[union-attr]


def answer(runtime: Runtime, n: int) -> None:
    """Answer the one question that is open."""
    assert wait_until(runtime.pending_inputs)
    (question,) = runtime.pending_inputs()
    runtime.respond(question.input_id, Answer(n=n))


def steal(store: RunStore, run_id: str) -> None:
    """Take a run over as another process does when this one's lease is over."""
    row = store.row(run_id)
    assert row is not None
    assert row.owner is not None
    store.resign(row.owner)
    assert store.acquire([run_id], "another") == {run_id: row.fence + 1}


# -- observers ---------------------------------------------------------------------------------------------------------


def test_a_run_that_rests_is_told_to_have_left_and_to_be_woken(
    flow: Flavour, make_store: Callable[[], RunStore], durability: Any
) -> None:
    """Its wait ends as rested and begins again with the run, and nothing is open in between."""
    log = Log()
    with Runtime(store=make_store(), durability=durability, idle_timeout=0.01, observers=[log]) as runtime:
        handler = asking(flow).run(run_id="r", n=1)
        until_at_rest(handler)
        assert not log.open
        answer(runtime, 2)
        assert handler.result(DEADLINE) == 3
    assert log.lines[-14:-6] == [
        "ask 1",
        "wait Answer",
        "stream Ask",
        "idle",
        "ask 1 passivated",
        "wait Answer rested",
        "run rested",
        "run",
    ]
    assert log.lines[-6:] == [
        "wait Answer",
        "ask 3",
        "wait Answer answered",
        "ask 3 completed",
        "stream StopEvent",
        "run completed",
    ]
    first, second = log.runs
    assert (first.beginning, first.left, first.outcome) == ("started", "rested", None)
    assert (second.beginning, second.left, second.start_event) == ("woken", None, None)
    # Both know when it began, and the wait when it did.
    assert first.started_at == second.started_at
    before, after = log.waits
    assert (before.input_id, before.started_at) == (after.input_id, after.started_at)
    assert not log.faults
    assert not log.open


def test_a_run_that_is_given_back_is_told_so_and_then_to_be_recovered(
    flow: Flavour, make_store: Callable[[], RunStore], durability: Any
) -> None:
    """It has not been cancelled: its wait and all else in it end as given back, and it loses no event."""
    log, workflow = Log(), asking(flow)
    with Runtime(store=make_store(), durability=durability, observers=[log]):
        handler = workflow.run(run_id="r", n=1)
        assert wait_until(lambda: log.waits)
    with pytest.raises(RuntimeShutdownError):
        handler.result(DEADLINE)
    assert not log.open
    assert [wait.end for wait in log.waits] == ["given_back"]
    assert log.attempts[-1].end == "given_back"
    assert log.runs[0].left == "given_back"
    assert not [line for line in log.lines if line.startswith("dead")]
    with Runtime(store=make_store(), durability=durability, observers=[log]) as runtime:
        runtime.recover([workflow])
        again = runtime.get("r")
        assert again is not None
        answer(runtime, 2)
        assert again.result(DEADLINE) == 3
    assert [run.beginning for run in log.runs] == ["started", "recovered"]
    assert [wait.end for wait in log.waits] == ["given_back", "answered"]
    assert not log.faults
    assert not log.open


def test_a_body_at_work_ends_as_given_back_where_the_shutdown_does_not_wait(flow: Flavour) -> None:
    """The attempt is told to have ended then, though the body of a `def` step may go on for a while."""
    began, release = threading.Event(), threading.Event()

    class Slow(Workflow):
        @flow.step
        async def work(self, ev: StartEvent) -> StopEvent:
            began.set()
            await flow.until(release)
            return StopEvent()

    log = Log()
    runtime = Runtime(store=MemoryStore(), observers=[log], max_threads=4)
    try:
        Slow(runtime=runtime).run(run_id="r")
        assert began.wait(DEADLINE)
        runtime.shutdown(timeout=0.0)
        assert [attempt.end for attempt in log.attempts] == ["given_back"]
        assert [run.left for run in log.runs] == ["given_back"]
    finally:
        release.set()
    assert not log.faults
    assert not log.open


def test_a_run_that_is_lost_is_told_so(flow: Flavour, make_store: Callable[[], RunStore], durability: Any) -> None:
    """Whoever has it tells how it ends; here it has not ended."""
    log, store = Log(), make_store()
    with Runtime(store=store, durability=durability, observers=[log]):
        handler = asking(flow).run(run_id="r", n=1)
        assert wait_until(lambda: log.waits and store.inputs())
        steal(store, "r")
        with pytest.raises(LeaseLostError):
            handler.send_event(Event())
        with pytest.raises(LeaseLostError):
            handler.result(DEADLINE)
    assert log.runs[0].left == "lost"
    assert [wait.end for wait in log.waits] == ["lost"]
    assert log.lines[-1] == "run lost"
    assert not log.faults
    assert not log.open


class HeldStore(MemoryStore):
    """Commits nothing that ends a run until it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let, self.is_asked = threading.Event(), threading.Event()

    def commit(self, commits: Any) -> Any:
        if any(commit.status is not None for commit in commits):
            self.is_asked.set()
            assert self.let.wait(DEADLINE)
        return super().commit(commits)


def test_the_end_of_a_run_is_told_when_the_store_has_it(flow: Flavour) -> None:
    """One that is lost in its last moment has been lost, and has not ended: it ends elsewhere."""
    log, store = Log(), HeldStore()

    class Quick(Workflow):
        @flow.step
        async def work(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=1)

    with Runtime(store=store, observers=[log]):
        handler = Quick().run(run_id="kept")
        assert store.is_asked.wait(DEADLINE)
        assert log.lines[-1] == "stream StopEvent"
        store.let.set()
        assert handler.result(DEADLINE) == 1
        assert log.lines[-1] == "run completed"
        store.let.clear()
        store.is_asked.clear()
        handler = Quick().run(run_id="lost")
        assert store.is_asked.wait(DEADLINE)
        steal(store, "lost")
        store.let.set()
        with pytest.raises(LeaseLostError):
            handler.result(DEADLINE)
    assert [(run.run_id, run.left) for run in log.runs] == [("kept", None), ("lost", "lost")]
    assert not log.faults
    assert not log.open


def test_a_run_that_has_waited_for_its_turn_is_not_told_to_have_left(flow: Flavour) -> None:
    """It has never begun."""
    log, workflow = Log(), asking(flow)
    workflow._num_concurrent_runs = 1
    with Runtime(store=MemoryStore(), observers=[log]) as runtime:
        workflow.run(run_id="first", n=1)
        assert wait_until(lambda: log.waits)
        second = workflow.run(run_id="second", n=1)
        runtime.shutdown(timeout=0.0)
        assert isinstance(second.exception(DEADLINE), RuntimeShutdownError)
    assert [run.run_id for run in log.runs] == ["first"]
    assert not log.open


@pytest.mark.parametrize(
    ("idle_timeout", "how", "beginning"), [(0.01, "rested", "woken"), (None, "given_back", "recovered")]
)
def test_children_leave_with_their_parent(
    flow: Flavour, tmp_path: Path, idle_timeout: float | None, how: str, beginning: str
) -> None:
    """Before it, and as it does; those that go on with it are told to have come as it has, and know when they began."""
    inner = asking(flow)

    class Outer(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await flow(ctx.run(inner, n=1).result()))

    log, outer = Log(), Outer()
    outer.inner = inner  # type: ignore[attr-defined]
    with Runtime(store=SQLiteStore(tmp_path / "runs.db"), observers=[log], idle_timeout=idle_timeout):
        handler = outer.run(run_id="r")
        assert wait_until(lambda: handler.supervisor is None if idle_timeout else log.waits)
    assert [line for line in log.lines if line.startswith("run")] == ["run", "run", f"run {how}", f"run {how}"]
    assert log.whose[-1] == "r"
    with Runtime(store=SQLiteStore(tmp_path / "runs.db"), observers=[log]) as runtime:
        runtime.recover([outer])
        again = runtime.get("r")
        assert again is not None
        answer(runtime, 2)
        assert again.result(DEADLINE) == 3
    begun = [(run.parent is None, run.beginning) for run in log.runs]
    assert begun == [(True, "started"), (False, "started"), (True, beginning), (False, beginning)]
    # By the journal a run has begun when it was made, which is a moment before its first turn.
    assert all(back.started_at <= first.started_at for first, back in zip(log.runs[:2], log.runs[2:], strict=True))
    assert [(wait.end, wait.started_at) for wait in log.waits] == [
        (how, log.waits[0].started_at),
        ("answered", log.waits[0].started_at),
    ]
    assert not log.faults
    assert not log.open


def test_an_observer_that_raises_harms_no_run_that_leaves(flow: Flavour, caplog: pytest.LogCaptureFixture) -> None:
    """The others hear of it all the same."""

    class Bad(Observer):
        def run_started(self, run: RunRecord) -> None:
            raise RuntimeError("no")

        def run_left(self, run: RunRecord) -> None:
            raise RuntimeError("no")

        def wait_ended(self, wait: WaitRecord) -> None:
            raise RuntimeError("no")

    before, after = Log(), Log()
    with Runtime(store=MemoryStore(), idle_timeout=0.01, observers=[before, Bad(), after]) as runtime:
        handler = asking(flow).run(run_id="r", n=1)
        until_at_rest(handler)
        answer(runtime, 2)
        assert handler.result(DEADLINE) == 3
    assert before.lines == after.lines
    assert "run rested" in before.lines
    complaints = [record.getMessage() for record in caplog.records if record.name == "greenroom.observer"]
    assert sum("run_left() of" in complaint for complaint in complaints) == 1


class Evil:
    """Cannot be compared or shown."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("no")

    __hash__ = None  # type: ignore[assignment]
    __repr__ = __eq__  # type: ignore[assignment]


@pytest.mark.parametrize("carried", [{"n": 1}, {1: "n"}, {"evil": Evil()}, ["n"]])
def test_what_cannot_be_carried_is_logged_and_harms_no_run(carried: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Only texts are kept: all else might not be read again."""

    class Carries(Observer):
        def run_started(self, run: RunRecord) -> None:
            run.carried = carried

    store = MemoryStore()
    with Runtime(store=store, observers=[Carries()]) as runtime:
        handler = asking(Flavour("mixed")).run(run_id="r", n=1)
        answer(runtime, 2)
        assert handler.result(DEADLINE) == 3
    (complaint,) = [record.getMessage() for record in caplog.records if record.name == "greenroom.observer"]
    assert complaint.startswith("what observers carry with a run cannot be kept: ")


def test_what_observers_carry_comes_back_with_the_run(make_store: Callable[[], RunStore], durability: Any) -> None:
    """After a rest, after it was given back, and after its process has died; each may add to it."""

    class Counts(Observer):
        def __init__(self, name: str) -> None:
            self.name = name
            self.seen: list[str] = []

        def run_started(self, run: RunRecord) -> None:
            self.seen.append(run.carried.get(self.name, ""))
            run.carried[self.name] = run.carried.get(self.name, "") + "I"

    one, two = Counts("one"), Counts("two")
    workflow = asking(Flavour("mixed"))
    options: Any = {"durability": durability, "observers": [one, two]}
    with Runtime(store=make_store(), idle_timeout=0.01, **options):
        until_at_rest(workflow.run(run_id="r", n=1))
    with Runtime(store=make_store(), **options) as runtime:  # woken, and given back
        runtime.recover([workflow])
        handler = runtime.get("r")
        assert handler is not None
        handler.pending_inputs()
        runtime.pending_inputs()
    store = make_store()
    with Runtime(store=store, **options) as runtime:  # recovered, and lost
        runtime.recover([workflow])
        handler = runtime.get("r")
        assert handler is not None
        handler.send_event(Event())  # committed, and so is what the observers carry
        steal(store, "r")
        with pytest.raises(LeaseLostError):
            handler.send_event(Event())
        store.resign("another")
    with Runtime(store=make_store(), **options) as runtime:
        runtime.recover([workflow])
        handler = runtime.get("r")
        assert handler is not None
        answered = runtime.pending_inputs()[0]
        runtime.respond(answered.input_id, Answer(n=2))
        handler.result(DEADLINE)
    assert one.seen == two.seen == ["", "I", "II", "III"]


def test_what_befalls_a_run_that_leaves_is_told_in_order_on_every_schedule() -> None:
    """Whatever the order of turns, bodies and commits: what begins ends once, within its run."""

    class Both(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> Item | None:
            for n in range(3):
                ctx.send_event(Item(n=n))
            return None

        @step(num_workers=3)
        async def ask(self, ctx: aio.Context, ev: Item) -> StopEvent | None:
            if ev.n:
                await ctx.sleep(ev.n * 4)
                return None
            answer = await ctx.ask(Ask(n=ev.n), Answer)
            return StopEvent(result=answer.n)

    for seed in range(60):
        log, store = Log(), MemoryStore()
        options: Any = {
            "store": store,
            "durability": "sync" if seed % 2 else "async",
            "idle_timeout": 3.0,
            "observers": [log],
        }
        with SeededRuntime(seed, **options) as first:
            handler = Both().run(run_id="r")
            first.advance(seed % 13)
            first.shutdown(timeout=0.0 if seed % 3 else None)
        assert not log.open, seed
        assert not log.faults, seed
        assert [run.left for run in log.runs][-1] in ("rested", "given_back"), seed
        assert handler.exception(0) is not None, seed
        with SeededRuntime(seed, **options) as second:
            second.recover([Both])
            again = second.get("r")
            assert again is not None, seed
            second.advance(20)
            (question,) = second.pending_inputs()
            second.respond(question.input_id, Answer(n=7))
            assert again.result() == 7, seed
        assert not log.open, seed
        assert not log.faults, seed
        assert log.lines[-1] == "run completed", seed


# -- OpenTelemetry -----------------------------------------------------------------------------------------------------


def test_spans_of_a_run_that_comes_back_are_one_trace_with_links(
    flow: Flavour, telemetry: Telemetry, make_store: Callable[[], RunStore], durability: Any
) -> None:
    """Each stretch in memory has a span: the first is the parent of the others, each links to the one before it."""
    workflow = asking(flow)
    options: Any = {"durability": durability, "observers": [telemetry.observer]}
    with (
        telemetry.tracer.start_as_current_span("request"),
        Runtime(store=make_store(), idle_timeout=0.01, **options) as runtime,
    ):
        until_at_rest(workflow.run(run_id="r", n=1))
        assert not telemetry.observer._spans
    # Another process, which knows nothing of the first one's spans but what the run carries.
    options["observers"] = [OpenTelemetry(tracer_provider=telemetry.tracers, meter_provider=telemetry.meters)]
    with Runtime(store=make_store(), **options) as runtime:
        runtime.recover([workflow])
        handler = runtime.get("r")
        assert handler is not None
        assert handler.pending_inputs()
    with Runtime(store=make_store(), **options) as runtime, telemetry.tracer.start_as_current_span("other request"):
        runtime.recover([workflow])
        handler = runtime.get("r")
        assert handler is not None
        answer(runtime, 2)
        assert handler.result(DEADLINE) == 3
    first, second, third = telemetry.spans("run Asking")
    assert telemetry.parent_of(first) == "request"
    assert [telemetry.parent_of(span) for span in (second, third)] == ["run Asking"] * 2
    assert second.parent.span_id == third.parent.span_id == first.context.span_id
    assert [[link.context.span_id for link in span.links] for span in (first, second, third)] == [
        [],
        [first.context.span_id],
        [second.context.span_id],
    ]
    # The run alone says so: the one who has woken it is within another trace.
    assert {span.context.trace_id for span in telemetry.spans() if span.name != "other request"} == {
        first.context.trace_id
    }
    told = [(s.attributes["greenroom.beginning"], s.attributes["greenroom.outcome"]) for s in (first, second, third)]
    assert told == [("started", "rested"), ("woken", "given_back"), ("recovered", "completed")]
    assert [span.attributes["greenroom.outcome"] for span in telemetry.spans("wait")] == [
        "rested",
        "given_back",
        "answered",
    ]
    assert telemetry.values("greenroom.runs", "outcome") == {("completed",): 1}
    (duration,) = telemetry.points("greenroom.run.duration")
    (waited,) = telemetry.points("greenroom.wait.duration")
    # The whole of it, over three runtimes; a stretch that ends with a rest is not counted by itself.
    assert duration.sum >= (third.start_time - first.start_time) / 1e9 - 0.05
    assert waited.sum >= (third.start_time - first.end_time) / 1e9 - 0.05
    assert waited.attributes["greenroom.outcome"] == "answered"


KILLED = """
import sys, time
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from greenroom import Event, Runtime, StartEvent, StopEvent, Workflow, step
from greenroom.otel import OpenTelemetry
from greenroom.stores import SQLiteStore

class Part(Event):
    n: int

class Killed(Workflow):
    @step
    def first(self, ev: StartEvent) -> Part:
        return Part(n=1)

    @step
    def second(self, ev: Part) -> StopEvent:
        if len(sys.argv) == 2:
            print(f"{trace.get_current_span().get_span_context().trace_id:032x}", flush=True)
            time.sleep(600)
        return StopEvent(result=f"{trace.get_current_span().get_span_context().trace_id:032x}")

observer = OpenTelemetry(tracer_provider=TracerProvider(shutdown_on_exit=False))
with Runtime(store=SQLiteStore(sys.argv[1]), observers=[observer]) as runtime:
    runtime.recover([Killed])
    print(Killed().run(run_id="r").result(), flush=True)
"""


def test_a_run_whose_process_is_killed_goes_on_in_its_trace(tmp_path: Path) -> None:
    """What the run carries was committed as it began."""
    command = [sys.executable, "-c", KILLED, str(tmp_path / "runs.db")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        begun = first.stdout.readline().strip()
        first.kill()
    second = subprocess.run([*command, "again"], capture_output=True, text=True, timeout=DEADLINE * 2)
    assert (second.stdout.strip(), second.stderr) == (begun, "")


def test_a_run_without_a_span_carries_nothing(make_store: Callable[[], RunStore]) -> None:
    """Without an SDK there is no context to keep, and the journal is as without the observer."""
    store = make_store()
    with Runtime(store=store, observers=[OpenTelemetry(tracer_provider=trace.NoOpTracerProvider())]):
        asking(Flavour("def")).run(run_id="r", n=1)
        assert wait_until(lambda: store.inputs())
        loaded = store.load(["r"])["r"]
    assert not isinstance(loaded, Exception)
    assert b"Carried" not in b"".join(record for _, record in loaded.records)


def test_what_a_run_carries_and_is_no_context_begins_a_trace_anew(telemetry: Telemetry, tmp_path: Path) -> None:
    """As where somebody has changed it."""

    class Breaks(Observer):
        def run_started(self, run: RunRecord) -> None:
            for name in run.carried:
                run.carried[name] = "not-a-traceparent"

    workflow = asking(Flavour("def"))
    with Runtime(store=SQLiteStore(tmp_path / "runs.db"), observers=[telemetry.observer, Breaks()], idle_timeout=0.01):
        until_at_rest(workflow.run(run_id="r", n=1))
    with Runtime(store=SQLiteStore(tmp_path / "runs.db"), observers=[telemetry.observer]) as runtime:
        runtime.recover([workflow])
        assert runtime.get("r") is not None
        answer(runtime, 2)
    first, second = telemetry.spans("run Asking")
    assert second.parent is None
    assert not second.links
    assert first.context.trace_id != second.context.trace_id


# -- logs --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def run_lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What greenroom.run and greenroom.durable have logged, at INFO."""
    caplog.set_level(logging.INFO, "greenroom.run")
    return lambda: [
        record.getMessage().partition(" after ")[0]
        for record in caplog.records
        if record.name in ("greenroom.run", "greenroom.durable")
    ]


def test_the_log_tells_the_life_of_a_durable_run(
    flow: Flavour, run_lines: Callable[[], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    """From its begin over rests and processes to its end, at INFO; each record bears the run's id."""
    store, workflow = MemoryStore(), asking(flow)
    with Runtime(store=store, idle_timeout=0.01) as runtime:
        handler = workflow.run(run_id="r", n=1)
        until_at_rest(handler)
        answer(runtime, 2)
        handler.result(DEADLINE)
    with Runtime(store=store, idle_timeout=0.01):
        until_at_rest(workflow.run(run_id="s", n=1))
    with Runtime(store=store) as runtime:
        runtime.recover([workflow])
        handler = runtime.get("s")  # type: ignore[assignment]
        handler.pending_inputs()
    with Runtime(store=store) as runtime:
        runtime.recover([workflow])
        handler = runtime.get("s")  # type: ignore[assignment]
        handler.send_event(Event())
        steal(store, "s")
        with pytest.raises(LeaseLostError):
            handler.send_event(Event())
    assert run_lines() == [
        "run 'r' of Asking began",
        "run 'r' of Asking rests in its store",
        "run 'r' of Asking is woken",
        "run 'r' of Asking: completed",
        "run 's' of Asking began",
        "run 's' of Asking rests in its store",
        "run 's' of Asking is woken",
        "run 's' of Asking is given back to its store",
        "run 's' of Asking is recovered",
        "run 's' of Asking is lost to another process",
    ]
    assert {record.run_id for record in caplog.records if record.name == "greenroom.run"} == {"r", "s"}


def test_a_run_that_is_set_aside_is_logged_with_its_id(
    run_lines: Callable[[], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    """At ERROR, with the reason."""
    store = MemoryStore()
    workflow = asking(Flavour("def"))
    with Runtime(store=store, idle_timeout=0.01):
        until_at_rest(workflow.run(run_id="r", n=1))
    loaded = store.load(["r"])["r"]
    assert not isinstance(loaded, Exception)
    fence = store.acquire(["r"], "tester")["r"]
    store.commit([Commit("r", fence, snapshot=(loaded.row.next_seq, b"damaged"), release=True, wake_at=0.0)])
    with Runtime(store=store) as runtime:
        runtime.recover([workflow])
        assert wait_until(lambda: store.row("r").status == "set_aside")  # type: ignore[union-attr]
    (told,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert (told.run_id, told.step, told.invocation) == ("r", "", "")  # type: ignore[attr-defined]
    assert told.getMessage().startswith("run 'r' is set aside: ")


def test_verbose_tells_of_rests(flow: Flavour, capsys: pytest.CaptureFixture[str]) -> None:
    """A line when it rests, and one when it is woken."""
    workflow = asking(flow)
    workflow._verbose = True
    with Runtime(store=MemoryStore(), idle_timeout=0.01) as runtime:
        handler = workflow.run(run_id="r", n=1)
        until_at_rest(handler)
        answer(runtime, 2)
        handler.result(DEADLINE)
    lines = capsys.readouterr().out.splitlines()
    assert lines[lines.index("[idle]") :][:5] == [
        "[idle]",
        "[ask:0] passivated",
        "[ask:0] wait for Answer rested",
        "[rested]",
        "[woken]",
    ]
    assert lines[-1] == "[result] StopEvent(result=3)"


def test_every_record_of_the_engine_bears_the_three_attributes() -> None:
    """Each call of a logger in the package gives them, so that a format may name them for all records."""
    bare = []
    for path in Path(next(iter(greenroom.__path__))).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("debug", "info", "warning", "error", "exception", "critical", "log")
                and "log" in ast.unparse(node.func.value)
                and not any(keyword.arg == "extra" for keyword in node.keywords)
            ):
                bare.append(f"{path.name}:{node.lineno}")
    assert not bare


# -- the end of a runtime ----------------------------------------------------------------------------------------------


def test_a_run_whose_commit_is_under_way_is_given_back_at_shutdown() -> None:
    """Nobody waits for it, but the store stays open until it is."""

    class Held(MemoryStore):
        let, is_asked = threading.Event(), threading.Event()

        def commit(self, commits: Any) -> Any:
            if any(commit.opened for commit in commits):
                self.is_asked.set()
                assert self.let.wait(DEADLINE)
            return super().commit(commits)

    store = Held()
    runtime = Runtime(store=store)
    workflow = asking(Flavour("async def"))
    workflow._runtime = runtime
    handler = workflow.run(run_id="r", n=1)
    supervisor: Any = handler.supervisor.actor  # type: ignore[union-attr]
    assert store.is_asked.wait(DEADLINE)
    ending = threading.Thread(target=runtime.shutdown, args=(0.0,))
    ending.start()
    assert wait_until(lambda: supervisor._leaves_with is not None)
    store.let.set()
    ending.join(DEADLINE)
    assert isinstance(handler.exception(0), RuntimeShutdownError)
    row = store.row("r")
    assert row is not None
    assert row.owner is None

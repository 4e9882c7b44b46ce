"""What the keeper of durable runs does beside committing: it sweeps, lists questions, and leaves others alone."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
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
    WorkflowRuntimeError,
    step,
)
from greenroom.deploy import check
from greenroom.stores import Loaded, MemoryStore, RunStore, SQLiteStore
from tests.support.flavours import DEADLINE
from tests.support.waiting import wait_until


class Ask(InputRequiredEvent):
    n: int


class Answer(HumanResponseEvent):
    n: int


class Tick(Event):
    n: int


class Asks(Workflow):
    @step
    def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(Tick(n=1))
        return StopEvent(result=ctx.ask(Ask(n=ev.n), Answer).n)


@pytest.fixture(params=["memory", "sqlite"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], RunStore]:
    """Returns the same store each time, as another process would open it."""
    if request.param == "memory":
        store = MemoryStore()
        return lambda: store
    return lambda: SQLiteStore(tmp_path / "runs.db", poll_interval=0.01)


def until(condition: Callable[[], object]) -> None:
    assert wait_until(condition, DEADLINE), "it never came to be"


def answer(handler: Any, n: int) -> None:
    until(handler.pending_inputs)
    handler.respond(handler.pending_inputs()[0].input_id, {"n": n})


# -- runs at rest that cannot go on ------------------------------------------------------------------------------------


def test_runs_at_rest_that_cannot_go_on_are_listed_by_check_and_set_aside_when_they_are_woken(
    make_store: Callable[[], RunStore],
) -> None:
    """To recover wakes none of them, and to check beside it changes nothing: all are told, with their reasons."""

    class Renamed(Workflow):
        @step
        def ask_other(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=ctx.ask(Ask(n=ev.n), Answer).n)

    with Runtime(store=make_store(), idle_timeout=0.0) as runtime:
        for n in range(3):
            Asks(workflow_name="flow").run(run_id=f"run-{n}", n=n)
        until(lambda: not runtime.runs)
    changed, store = Renamed(workflow_name="flow"), make_store()
    with Runtime(store=store) as runtime:
        assert runtime.recover([changed]) == []
        before = store.runs()
        report = check(store, [changed])
        assert store.runs() == before
        assert {row.status for row in before} == {"running"}
        assert sorted(run.run_id for run in report.broken) == ["run-0", "run-1", "run-2"]
        problem = "step 'ask' is gone, and has StartEvent in hand"
        assert all(problem in [fault.problem for fault in run.faults] for run in report.broken)
        with pytest.raises(WorkflowRuntimeError, match="set_aside"):
            runtime.get("run-1")
        (row,) = store.runs(status="set_aside")
        assert (row.run_id, problem in str(row.reason)) == ("run-1", True)


# -- retention ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retention", [None, 3600.0])
def test_the_journal_of_a_run_that_has_ended_is_dropped_and_its_result_is_kept(
    retention: float | None, make_store: Callable[[], RunStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever `retention` is; that of a run that goes on is not touched."""
    monkeypatch.setattr("greenroom.keeper.lookout.SWEEP_SECONDS", 0.0)
    store = make_store()

    def kept(run_id: str) -> bool:
        loaded = store.load([run_id])[run_id]
        assert isinstance(loaded, Loaded)
        return loaded.snapshot is not None or bool(loaded.records)

    with Runtime(store=store, retention=retention) as runtime:
        ended, goes_on = (Asks().run(run_id=name, n=1) for name in ("ended", "goes on"))
        answer(ended, 2)
        assert ended.result(DEADLINE) == 2
        until(goes_on.pending_inputs)
        assert runtime.keeper is not None
        look = runtime.keeper.lookout.look
        until(lambda: look() or not kept("ended"))
        assert kept("goes on")
    with Runtime(store=make_store(), retention=retention) as runtime:
        runtime.recover([Asks])
        again = runtime.get("ended")
        assert again is not None
        assert again.result(DEADLINE) == 2
        assert [type(event).__name__ for event in again.stream_events(after=-1)] == ["Tick", "Ask", "StopEvent"]


# -- questions ---------------------------------------------------------------------------------------------------------


class Counts:
    """A store that counts the calls of one thread, and holds commits up while it is told so."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._thread = threading.current_thread()
        self.calls: Counter[str] = Counter()
        self.taken: list[str] = []
        self.may_commit = threading.Event()
        self.may_commit.set()
        self.asked = threading.Event()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is self._thread:
                self.calls[name] += 1
            if name == "acquire":
                self.taken += args[0]
            if name == "commit":
                self.asked.set()
                self.may_commit.wait(DEADLINE)
            return method(*args, **kwargs)

        return call


def test_questions_are_listed_in_pages_and_no_run_is_woken(
    make_store: Callable[[], RunStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call of the store a page, however many runs ask; of all runs that rest, and of workflows that are known."""
    monkeypatch.setattr("greenroom.keeper.questions.PAGE", 10)

    class Unknown(Asks): ...

    with Runtime(store=make_store(), idle_timeout=0.0) as runtime:
        Unknown().run(run_id="unknown", n=-1)
        for n in range(35):
            Asks().run(run_id=f"run-{n}", n=n)
        until(lambda: not runtime.runs)
    store: Any = Counts(make_store())
    with Runtime(store=store, idle_timeout=0.0) as runtime:
        assert runtime.pending_inputs() == []
        runtime.recover([Asks])
        store.calls.clear()
        listed = runtime.pending_inputs()
        assert sorted(question.request.n for question in listed) == list(range(35))
        assert [question.asked_at for question in listed] == sorted(question.asked_at for question in listed)
        assert store.calls == {"inputs": 5}
        assert store.taken == []
        assert runtime.runs == {}


def test_looking_at_a_run_does_not_wake_it(make_store: Callable[[], RunStore]) -> None:
    """Neither one that rests nor one that is just going to; and it stays good for an answer."""
    store: Any = Counts(make_store())
    with Runtime(store=store, idle_timeout=0.05) as runtime, ThreadPoolExecutor() as pool:
        handler = Asks().run(run_id="one", n=1)
        until(handler.pending_inputs)
        actor: Any = handler.supervisor.actor  # type: ignore[union-attr]
        store.may_commit.clear()
        until(lambda: actor._resting)
        looks = [pool.submit(look) for look in (handler.pending_inputs, handler.dead_letters, runtime.pending_inputs)]
        questions, letters, of_all = (look.result(DEADLINE) for look in looks)
        store.may_commit.set()
        assert [question.run_id for question in questions] == [question.run_id for question in of_all] == ["one"]
        assert letters == []
        until(lambda: handler.supervisor is None)
        for _ in range(3):
            assert [question.input_id for question in handler.pending_inputs()] == ["one:1"]
            assert [question.input_id for question in runtime.pending_inputs()] == ["one:1"]
        assert handler.supervisor is None
        assert store.taken == []
        handler.respond("one:1", {"n": 3})
        assert handler.result(DEADLINE) == 3
        assert handler.pending_inputs() == runtime.pending_inputs() == []


def test_a_question_that_cannot_be_read_hides_no_other(
    make_store: Callable[[], RunStore], caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged; `greenroom check` tells more."""
    store = make_store()
    with Runtime(store=store, idle_timeout=0.0) as runtime:
        for name in ("one", "two", "three"):
            Asks().run(run_id=name, n=1)
        until(lambda: not runtime.runs)
    rest: Any = make_store()
    inputs = rest.inputs
    rest.inputs = lambda *args, **kwargs: [
        replace(row, response="gone:Gone") if row.run_id == "two" else row for row in inputs(*args, **kwargs)
    ]
    with Runtime(store=rest) as runtime, caplog.at_level(logging.ERROR, "greenroom.durable"):
        runtime.recover([Asks])
        assert {question.run_id for question in runtime.pending_inputs()} == {"one", "three"}
    del rest.inputs
    assert "question 'two:1' of run 'two' cannot be read" in caplog.text

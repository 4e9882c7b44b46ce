"""What a run's supervisor does when the engine itself fails under it."""

from __future__ import annotations

import threading

import pytest

from greenroom import Context, Event, Runtime, StartEvent, StopEvent, Workflow, WorkflowRuntimeError, step
from greenroom.actors.step import StepActor
from greenroom.errors import RuntimeShutdownError
from greenroom.facts import EventSent
from greenroom.run_state import RunState
from tests.support.waiting import wait_until

SOON = 10.0


class Ping(Event):
    """Sent into the run to trip it."""


class Busy(Workflow):
    """One body holds the state, another waits for it, and a third trips the engine."""

    def __init__(self, **options):
        super().__init__(**options)
        self.editing, self.tripping, self.answered, self.let_go = (threading.Event() for _ in range(4))

    @step
    def hold(self, ctx: Context, ev: StartEvent) -> StopEvent:
        with ctx.store.edit_state():
            self.editing.set()
            assert self.let_go.wait(SOON)
        return StopEvent()

    @step
    def wait(self, ctx: Context, ev: StartEvent) -> StopEvent:
        assert self.editing.wait(SOON)
        try:
            ctx.store.set("x", 1)
        finally:
            self.answered.set()
        return StopEvent()

    @step
    def trip(self, ctx: Context, ev: StartEvent) -> StopEvent | Ping:
        assert self.tripping.wait(SOON)
        ctx.send_event(Ping())
        return StopEvent()

    @step
    def never(self, ev: Ping) -> StopEvent:
        return StopEvent()


@pytest.mark.parametrize("fault", [ValueError("broken"), SystemExit(3)], ids=repr)
def test_a_run_whose_supervisor_fails_ends_for_everybody(monkeypatch, fault, caplog):
    """Its result raises, its stream ends once, bodies that wait for an answer get one, and nothing is left running."""
    original = RunState.apply

    def apply(self, fact, now):
        if type(fact) is EventSent:
            raise fault
        return original(self, fact, now)

    monkeypatch.setattr(RunState, "apply", apply)
    with Runtime(max_threads=4) as runtime:
        workflow = Busy(timeout=60)
        handler = workflow.run()
        assert wait_until(lambda: handler.supervisor.actor._state.store._waiting)
        workflow.tripping.set()
        with pytest.raises(WorkflowRuntimeError, match="engine itself failed") as caught:
            handler.result(SOON)
        assert caught.value.__cause__ is fault
        assert workflow.answered.wait(SOON)
        assert [type(event).__name__ for event in handler.stream_events()] == ["WorkflowFailedEvent"]
        assert not handler.supervisor.is_alive()
        workflow.let_go.set()
        assert wait_until(lambda: runtime.dispatcher._running == 0)
        assert not runtime.runs
        assert not runtime.root.actor._groups
    assert "failed and has stopped" in caplog.text


def test_a_run_whose_state_is_broken_for_good_ends_all_the_same(monkeypatch, caplog):
    """Where not even the crash can be applied, the handler and the stream end."""

    def apply(self, fact, now):
        raise ValueError("broken for good")

    with Runtime(max_threads=4) as runtime:
        monkeypatch.setattr(RunState, "apply", apply)
        handler = Busy(timeout=60).run()
        with pytest.raises(WorkflowRuntimeError, match="broken for good"):
            handler.result(SOON)
        assert [type(event).__name__ for event in handler.stream_events()] == ["WorkflowFailedEvent"]
        assert wait_until(lambda: not runtime.runs)


def test_a_supervisor_that_fails_after_the_end_adds_nothing_to_it(monkeypatch, caplog):
    """The outcome and the stream stay as they were."""

    class Quick(Workflow):
        @step
        def quick(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result="done")

    with Runtime(max_threads=2):
        handler = Quick().run()
        assert handler.result(SOON) == "done"
        assert [type(event).__name__ for event in handler.stream_events(after=-1)] == ["StopEvent"]
        monkeypatch.setattr(RunState, "apply", lambda *_: 1 / 0)
        handler.supervisor.tell(EventSent(0, 1, Ping(), None, None))
        assert wait_until(lambda: not handler.supervisor.is_alive() and handler.supervisor.actor.closed)
        assert [type(event).__name__ for event in handler.stream_events(after=-1)] == ["StopEvent"]
        assert handler.result(0) == "done"
        assert handler.status == "completed"


def test_a_run_whose_step_actor_fails_ends(monkeypatch, caplog):
    """The supervisor watches its step actors."""

    def on_receive(self, message):
        raise ValueError("broken step actor")

    with Runtime(max_threads=2):
        monkeypatch.setattr(StepActor, "on_receive", on_receive)
        handler = Busy().run()
        with pytest.raises(WorkflowRuntimeError, match=r"StepActor.*broken step actor"):
            handler.result(SOON)


def test_a_run_whose_supervisor_is_stopped_ends(monkeypatch):
    """Even where nothing failed, the root tells the handler."""
    let_go = threading.Event()

    class Waits(Workflow):
        @step
        def waits(self, ev: StartEvent) -> StopEvent:
            assert let_go.wait(SOON)
            return StopEvent()

    with Runtime(max_threads=2):
        handler = Waits().run()
        handler.supervisor.stop(timeout=SOON)
        with pytest.raises(WorkflowRuntimeError, match="it was stopped"):
            handler.result(SOON)
        let_go.set()


def test_a_run_that_begins_while_the_runtime_is_drained_is_refused_by_name(monkeypatch):
    """However the two interleave, it is RuntimeShutdownError, and nobody hangs."""
    let_go = threading.Event()

    class Waits(Workflow):
        @step
        def waits(self, ev: StartEvent) -> StopEvent:
            assert let_go.wait(SOON)
            return StopEvent()

    runtime = Runtime(max_threads=2)
    Waits(runtime=runtime).run()
    shutdowns = []

    class Hooked(dict):
        def setdefault(self, run_id, handler):
            found = super().setdefault(run_id, handler)
            # Another thread drains the runtime between the entry and the look at `draining`.
            thread = threading.Thread(target=runtime.shutdown)
            shutdowns.append(thread)
            thread.start()
            assert wait_until(lambda: handler.done())
            return found

    runtime.runs = runtime.root.actor._runs = Hooked(runtime.runs)
    with pytest.raises(RuntimeShutdownError):
        Waits(runtime=runtime).run()
    let_go.set()
    shutdowns[0].join(SOON)
    assert not shutdowns[0].is_alive()
    assert wait_until(lambda: not runtime.dispatcher._threads)

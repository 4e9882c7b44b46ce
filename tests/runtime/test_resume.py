"""Runs that go on from the context of an earlier run, with real actors."""

from __future__ import annotations

import threading

import pytest

from greenroom import Context, Event, Runtime, StartEvent, StopEvent, Workflow, step
from greenroom.errors import ContextStateError, WorkflowRuntimeError, WorkflowValidationError
from tests.support.waiting import wait_until


class Topic(StartEvent):
    topic: str


class Part(Event):
    n: int


class Gated(Workflow):
    """One step blocks until it is let through; the next ends the run."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.entered = threading.Semaphore(0)
        self.gates: list[threading.Event] = []
        self.ends = 0

    @step
    def block(self, ev: Topic) -> Part:
        gate = threading.Event()
        self.gates.append(gate)
        number = len(self.gates)
        self.entered.release()
        gate.wait()
        return Part(n=number)

    @step
    def end(self, ev: Part) -> StopEvent:
        self.ends += 1
        return StopEvent(result=ev.n)


def test_a_body_of_the_cancelled_run_that_goes_on_does_not_move_the_run_that_resumed_it() -> None:
    """Both bodies have the same number and attempt, but only the new run's own result counts."""
    with Runtime():
        workflow = Gated()
        first = workflow.run(topic="x")
        workflow.entered.acquire()
        first.cancel_run()
        second = workflow.run(ctx=first.ctx)
        workflow.entered.acquire()
        workflow.gates[0].set()
        assert wait_until(first.dead_letters)
        assert [(letter.event, letter.reason) for letter in first.dead_letters()] == [
            (Part(n=1), "it was returned after the run had ended")
        ]
        assert not second.done()
        workflow.gates[1].set()
        assert second.result(timeout=30) == 2
        assert workflow.ends == 1


def test_a_run_that_is_refused_leaves_its_context_as_it_was() -> None:
    """A wrong start event, or an id that is taken, costs a context nothing."""
    with Runtime():
        workflow = Gated()
        first = workflow.run(topic="x")
        workflow.entered.acquire()
        first.cancel_run()
        with pytest.raises(ContextStateError, match="unfinished work"):
            workflow.run(ctx=first.ctx, topic="y")
        other = workflow.run(topic="z", run_id="taken")
        workflow.entered.acquire()
        with pytest.raises(WorkflowRuntimeError, match="'taken' is going on"):
            workflow.run(ctx=first.ctx, run_id="taken")
        again = workflow.run(ctx=first.ctx)
        workflow.entered.acquire()
        for gate in workflow.gates:
            gate.set()
        assert again.result(timeout=30) == 3
        assert other.result(timeout=30) == 2
        with pytest.raises(WorkflowRuntimeError, match="cannot make the start event"):
            workflow.run(ctx=again.ctx)
        last = workflow.run(ctx=again.ctx, topic="w")
        workflow.entered.acquire()
        workflow.gates[-1].set()
        assert last.result(timeout=30) == 4


def test_what_was_sent_to_a_run_that_is_cancelled_in_line_is_accounted_for() -> None:
    """Who sends to a run in line is answered at once; when the run never begins, the event is a dead letter."""
    with Runtime():
        workflow = Gated(num_concurrent_runs=1)
        first = workflow.run(topic="x")
        workflow.entered.acquire()
        waiting = workflow.run(topic="y")
        early = Part(n=1)
        waiting.send_event(early)
        waiting.cancel_run()
        with pytest.raises(WorkflowRuntimeError, match="has ended"):
            waiting.send_event(Part(n=2))
        assert early in [letter.event for letter in waiting.dead_letters()]
        workflow.gates[0].set()
        assert first.result(timeout=30) == 1


def test_a_step_cannot_be_added_to_workflow_itself() -> None:
    """It would become a step of every workflow."""
    with pytest.raises(WorkflowValidationError, match="subclass Workflow"):

        @step(workflow=Workflow)
        def everywhere(ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent()

    assert "everywhere" not in Workflow._free_steps

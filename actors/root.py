"""The root supervisor of a runtime: it admits runs, watches their supervisors, and drains them at the end."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from greenroom.actors.base import PooledActor, Ref, Reply, Terminated
from greenroom.actors.dispatcher import Dispatcher
from greenroom.actors.supervisor import Finisher
from greenroom.errors import RuntimeShutdownError, WorkflowRuntimeError
from greenroom.facts import CancelAsked, DrainAsked, RunResumed, RunStarted
from greenroom.run_state import failed_outcome

__all__ = ["Drain", "RootSupervisor", "RunAdmitted", "RunEnded"]


class RunAdmitted(NamedTuple):
    """A run wants to begin.

    Attributes:
        run_id: Its id.
        supervisor: Its supervisor.
        beginning: The fact that begins it.
        finisher: What is told if the supervisor itself fails.
        group: The runs that share a limit.
        limit: How many of the group may go on at once, or None.
    """

    run_id: str
    supervisor: Ref
    beginning: RunStarted | RunResumed
    finisher: Finisher
    group: int
    limit: int | None


class RunEnded(NamedTuple):
    """A run has its outcome."""

    run_id: str


class Drain(NamedTuple):
    """Asks that no run begins any more and that those which go on end when they come to rest.

    Answered when none is left.
    """

    error: RuntimeShutdownError


class RootSupervisor(PooledActor):
    """Owns the table of runs, and for each group with a limit the line of those that wait to begin."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__(dispatcher)
        self._runs: dict[str, RunAdmitted] = {}
        self._going: dict[int, int] = {}
        self._lines: dict[int, deque[RunAdmitted]] = {}
        self._draining: Drain | None = None
        self._drained: list[Reply] = []

    def on_receive(self, message: Any) -> None:
        """Begin a run or put it in line, or take the next one when a run has ended."""
        match message:
            case RunAdmitted():
                self._runs[message.run_id] = message
                if self._draining is not None:
                    message.supervisor.tell_control(CancelAsked(self._draining.error))
                elif message.limit is None:
                    message.supervisor.tell(message.beginning)
                elif self._going.get(message.group, 0) < message.limit:
                    self._begin(message)
                else:
                    self._lines.setdefault(message.group, deque()).append(message)
            case RunEnded():
                self._forget(message.run_id)
            case Terminated():
                self._supervisor_ended(message)

    def on_ask(self, message: Drain, reply: Reply) -> None:
        """Drain."""
        self._draining = message
        waiting = {run.run_id for line in self._lines.values() for run in line}
        for run_id, run in list(self._runs.items()):
            fact = CancelAsked(message.error) if run_id in waiting else DrainAsked(message.error)
            run.supervisor.tell_control(fact)
        self._drained.append(reply)
        self._answer_drained()

    def _begin(self, run: RunAdmitted) -> None:
        self._going[run.group] = self._going.get(run.group, 0) + 1
        run.supervisor.tell(run.beginning)

    def _forget(self, run_id: str) -> None:
        run = self._runs.pop(run_id, None)
        if run is None:
            return
        if run.limit is not None:
            line = self._lines.get(run.group)
            if line is not None and run in line:
                line.remove(run)
            else:
                self._going[run.group] -= 1
                if line:
                    self._begin(line.popleft())
            if not line:
                self._lines.pop(run.group, None)
            if not self._going.get(run.group):
                self._going.pop(run.group, None)
        self._answer_drained()

    def _supervisor_ended(self, message: Terminated) -> None:
        for run in list(self._runs.values()):
            if run.supervisor is message.ref:
                reason = message.reason or RuntimeError("it was stopped")
                error = WorkflowRuntimeError(f"the supervisor of run '{run.run_id}' has failed: {reason!r}")
                error.__cause__ = message.reason
                run.finisher.finish(failed_outcome(error))
                self._forget(run.run_id)

    def _answer_drained(self) -> None:
        if not self._runs:
            for reply in self._drained:
                reply.set(None)
            self._drained.clear()

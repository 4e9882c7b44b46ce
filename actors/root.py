"""The root supervisor of a runtime: it admits runs that share a limit, hears of supervisors that fail, and drains.

A run without a limit needs nobody's leave: it begins at once, and the root hears of it only if its supervisor fails or
the runtime is drained. `runs` is shared with the runtime, which enters a run before it begins; the run takes itself out
when it ends. Only single dict operations are used on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from greenroom.actors.base import PooledActor, Ref, Reply, Terminated
from greenroom.actors.dispatcher import Dispatcher
from greenroom.actors.resources import ResourcesForgotten
from greenroom.errors import RuntimeShutdownError, WorkflowRuntimeError
from greenroom.facts import DrainAsked
from greenroom.outcome import Outcome
from greenroom.run_state import failed_outcome

__all__ = ["Drain", "RootSupervisor", "Run", "RunAdmitted", "RunEnded"]


class Run(Protocol):
    """What the root knows of a run: its handler."""

    run_id: str

    @property
    def supervisor(self) -> Ref | None:
        """Its supervisor, or None for one that has left memory."""
        ...

    def has_ended(self) -> bool:
        """Return whether the run has its outcome. True before the root is told `RunEnded`."""
        ...

    def finish(self, outcome: Outcome) -> None:
        """Take the outcome, if there is none yet."""


class RunAdmitted(NamedTuple):
    """A run wants to begin.

    Attributes:
        run: The run.
        beginning: The message that begins it.
        group: The runs that share a limit.
        limit: How many of the group may go on at once.
    """

    run: Run
    beginning: Any
    group: int
    limit: int


class RunEnded(NamedTuple):
    """A run has its outcome. Told for runs with a limit, and for all while the runtime is drained."""

    run: Run


class Drain(NamedTuple):
    """Asks that the runs end when they come to rest. Answered when none of them is left."""

    runs: Mapping[str, Run]
    error: RuntimeShutdownError


class RootSupervisor(PooledActor):
    """Owns, for each group with a limit, the runs that go on and the line of those that wait to begin."""

    def __init__(self, dispatcher: Dispatcher, runs: Mapping[str, Run]) -> None:
        super().__init__(dispatcher)
        self._runs = runs
        self._going: dict[int, set[str]] = {}
        self._lines: dict[int, deque[RunAdmitted]] = {}
        self._groups: dict[str, int] = {}
        self._undrained: dict[str, Run] | None = None
        self._drain_error: RuntimeShutdownError | None = None
        self._drained: list[Reply] = []

    def on_receive(self, message: Any) -> None:
        """Let a run begin or put it in line, or let the next one begin when a run has ended."""
        match message:
            case RunAdmitted() if message.run.run_id in self._groups:
                self._begin_now(message)  # It comes back from a rest, and has kept its place.
            case RunAdmitted():
                self._groups[message.run.run_id] = message.group
                if len(self._going.get(message.group, ())) < message.limit:
                    self._begin(message)
                else:
                    self._lines.setdefault(message.group, deque()).append(message)
            case RunEnded():
                self._forget(message.run)
            case ResourcesForgotten():
                message.resources.end()
            case Terminated():
                self._supervisor_ended(message)

    def on_ask(self, message: Drain, reply: Reply) -> None:
        """Drain."""
        # One without a supervisor has just left memory.
        left = {id: run for id, run in message.runs.items() if not run.has_ended() and run.supervisor is not None}
        undrained = self._undrained = left
        waiting = {admitted.run.run_id for line in self._lines.values() for admitted in line}
        self._drain_error = message.error
        for run_id, run in undrained.items():
            # Those in line begin as others end, and are told then.
            if run_id not in waiting:
                # Not on the control lane: it must not overtake the fact that begins the run.
                _tell(run, DrainAsked(message.error))
        self._drained.append(reply)
        self._answer_drained()

    def _begin(self, admitted: RunAdmitted) -> None:
        self._going.setdefault(admitted.group, set()).add(admitted.run.run_id)
        self._begin_now(admitted)

    def _begin_now(self, admitted: RunAdmitted) -> None:
        _tell(admitted.run, admitted.beginning)
        if self._drain_error is not None:
            _tell(admitted.run, DrainAsked(self._drain_error))

    def _forget(self, run: Run) -> None:
        group = self._groups.pop(run.run_id, None)
        if group is not None:
            going, line = self._going.get(group, set()), self._lines.get(group, deque())
            if run.run_id in going:
                going.remove(run.run_id)
                if line:
                    self._begin(line.popleft())
            else:
                line.remove(next(admitted for admitted in line if admitted.run is run))
            if not line:
                self._lines.pop(group, None)
            if not going:
                self._going.pop(group, None)
        if self._undrained is not None:
            self._undrained.pop(run.run_id, None)
            self._answer_drained()

    def _supervisor_ended(self, message: Terminated) -> None:
        for run in list(self._runs.values()):
            if run.supervisor == message.ref:
                reason = message.reason or RuntimeError("it was stopped")
                error = WorkflowRuntimeError(f"the supervisor of run '{run.run_id}' has failed: {reason!r}")
                error.__cause__ = message.reason
                run.finish(failed_outcome(error))
                self._forget(run)

    def _answer_drained(self) -> None:
        if not self._undrained:
            for reply in self._drained:
                reply.set(None)
            self._drained.clear()


def _tell(run: Run, message: Any) -> None:
    supervisor = run.supervisor
    if supervisor is not None:
        supervisor.tell(message)

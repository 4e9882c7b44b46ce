"""The handlers of runs that rest in the store, for those who hold on to them here.

No lock: `_handlers` and `_kept` are used by single operations, which any thread may do, supervisors in their turns as
well; `_round` by the look-out alone.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from greenroom.actors.root import RunEnded
from greenroom.codec import decode
from greenroom.errors import RunHeldError, RuntimeShutdownError, WorkflowRuntimeError
from greenroom.events import Event, WorkflowCancelledEvent
from greenroom.launch import ended
from greenroom.named import registry_of
from greenroom.outcome import Outcome
from greenroom.owners import describe_owner
from greenroom.ports import HasGraph
from greenroom.run_state import failed_outcome
from greenroom.stores import ENDED, RunRow, RunStore

if TYPE_CHECKING:
    from greenroom.handler import Handler
    from greenroom.runtime import Runtime
    from greenroom.workflow import Workflow

__all__ = ["AtRest", "run_held", "where"]

PAGE = 500


class AtRest:
    """The handlers of runs that came to rest here. They stay good, and are used again when the run is woken."""

    def __init__(self, runtime: Runtime, store: RunStore) -> None:
        self._runtime = runtime
        self._store = store
        self._handlers: weakref.WeakValueDictionary[str, Handler] = weakref.WeakValueDictionary()
        self._kept: dict[str, Handler] = {}  # those that must come to their end though nobody holds on to them
        self._round: list[Any] = []  # weak references to the handlers that are looked after next

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._handlers

    def get(self, run_id: str) -> Handler | None:
        """Return the handler of a run that rests."""
        return self._handlers.get(run_id)

    def put(self, handler: Handler) -> None:
        """Enter a handler whose run rests."""
        self._handlers[handler.run_id] = handler

    def drop(self, run_id: str) -> None:
        """Take out a handler whose run rests no longer."""
        self._handlers.pop(run_id, None)

    def enter(self, run_id: str, published: int) -> None:
        """Take note that a run was put to rest. Called in its supervisor's turn."""
        runtime = self._runtime
        handler = runtime.runs[run_id]
        # Out of `runs` last: whoever wakes the run looks there first.
        handler.leave(published)
        self.put(handler)
        if handler.is_limited:
            self.keep(handler)  # It keeps its place among those that may go on.
        if handler.origin != run_id:
            runtime.leave_resumed(handler.origin, handler)
        del runtime.runs[run_id]
        if runtime.draining:
            runtime.root.tell(RunEnded(handler))

    def keep(self, handler: Handler) -> None:
        """Hold on to a handler until its run has ended: somebody is told of that, or it has a place to give back."""
        self._kept[handler.run_id] = handler
        if handler.has_ended():
            self.let_go(handler)

    def let_go(self, handler: Handler) -> None:
        """Take note that the run has ended."""
        self._kept.pop(handler.run_id, None)

    # -- runs that have ended, here or elsewhere -----------------------------------------------------------------------

    def ended_handler(self, workflow: Workflow, row: RunRow) -> Handler:
        """Return a handler of a run that has ended.

        Raises:
            WorkflowRuntimeError: If its result is gone.
            StoreError: If the store failed.
        """
        outcome = self._outcome(workflow, row)
        if outcome is None:
            raise WorkflowRuntimeError(f"run '{row.run_id}' has ended as {row.status}, and its result was swept")
        return ended(workflow, self._runtime, row.run_id, row.next_offset, outcome)

    def earlier_events(self, run_id: str, after: int, before: int, workflow: HasGraph) -> list[Event]:
        """Return the events of a run after one offset and before another, from the store.

        Raises:
            StoreError: If the store failed.
        """
        registry = registry_of(workflow)
        events: list[Event] = []
        while after + 1 < before:
            # One that went on from another run has none before its own first one.
            page = self._store.events(run_id, after, min(PAGE, before - after - 1))
            if not page:
                break
            events += [decode(data, registry) for offset, data in page if offset < before]
            after = page[-1][0]
        return events

    def look_after(self, count: int, drop: Callable[[str], bool]) -> None:
        """Tell those who hold on to a run that it has ended in another process. A few runs at a time.

        Args:
            count: How many runs to look at, at most.
            drop: Takes out a handler, unless its run is being woken or was; returns whether it did.

        Raises:
            StoreError: If the store failed.
        """
        if not self._round:
            self._round = self._handlers.valuerefs()
        for _ in range(min(count, len(self._round))):
            handler = self._round.pop()()
            if handler is None or handler.supervisor is not None or handler.has_ended():
                continue
            row = self._store.row(handler.run_id)
            if row is None or row.status != "running":
                outcome, missed = self._end_elsewhere(handler, row)
                if drop(handler.run_id):
                    handler.end_at_rest(outcome, missed)

    def _end_elsewhere(self, handler: Handler, row: RunRow | None) -> tuple[Outcome, list[Event]]:
        """Return how a run has ended, and the events that its handler has missed."""
        workflow = handler._link.workflow
        outcome = None if row is None else self._outcome(workflow, row)
        if row is None or outcome is None:
            said = "it was deleted" if row is None else where(row)
            lost = failed_outcome(WorkflowRuntimeError(f"run '{handler.run_id}' cannot go on: {said}"))
            return lost, [lost.event]
        return outcome, self.earlier_events(row.run_id, handler.seen - 1, row.next_offset, workflow)

    def _outcome(self, workflow: HasGraph, row: RunRow) -> Outcome | None:
        data = self._store.result(row.run_id)
        if data is None:
            return None
        event, error = decode(data, registry_of(workflow))
        status: Any = row.status
        return Outcome(status, event, error)

    def end_all(self, error: RuntimeShutdownError) -> None:
        """Tell all who hold on to a run that it does not go on here."""
        for reference in self._handlers.valuerefs():
            handler = reference()
            if handler is not None and handler.supervisor is None:
                handler.end_at_rest(Outcome("cancelled", WorkflowCancelledEvent(), error), [WorkflowCancelledEvent()])


def run_held(run_id: str, owner: str) -> RunHeldError:
    """Return the error for a run that another runtime has."""
    return RunHeldError(
        f"run '{run_id}' is held by {describe_owner(owner)}: respond(), send_event() and cancel_run() of the runtime"
        " reach it there, and get() gives its handler when it rests or has ended"
    )


def where(row: RunRow) -> str:
    """Return why a run cannot be had here, in words."""
    if row.status in ENDED:
        return f"it has ended as {row.status}; of its past only the result, the status and the stream are kept"
    if row.status != "running":
        return f"it is {row.status}" + (f", {row.reason}" if row.reason else "")
    return "it is at rest" if row.owner is None else f"it is held by {describe_owner(row.owner)}"

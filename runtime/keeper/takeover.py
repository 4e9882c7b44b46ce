"""Making runs, taking them over, and waking those that rest: how a run comes to be at work here, once.

`_lock` protects `_taking`, `_unsure`, and that a handler at rest is told its end only while nobody takes its run. It is
never held while the store is called. `_unmade` is used by single operations.

A run is claimed before it is made or taken, by an entry in `_taking`; it enters `runs` before the entry is taken out.
So whoever finds it in neither, under the lock, is the only one that takes it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any

from greenroom.actors.base import Reply
from greenroom.actors.dispatcher import Unlimited
from greenroom.actors.durable import JournalingRef, Kept
from greenroom.errors import (
    ContextSerdeError,
    GreenroomError,
    RunExistsError,
    RuntimeShutdownError,
    StoreDamagedError,
    StoreError,
    WorkflowRuntimeError,
)
from greenroom.keeper.at_rest import AtRest, run_held, where
from greenroom.keeper.posted import Posted
from greenroom.launch import go_on
from greenroom.log_fields import log_fields
from greenroom.named import graphs_named_by, registry_for
from greenroom.recovery import read_run
from greenroom.stores import FIRST_FENCE, Commit, Loaded, RunStore

if TYPE_CHECKING:
    from greenroom.handler import Handler
    from greenroom.runtime import Runtime
    from greenroom.workflow import Workflow

__all__ = ["Takeover", "Waitable"]

logger = logging.getLogger("greenroom.durable")


class Takeover:
    """Brings runs to work under one owner."""

    def __init__(
        self,
        runtime: Runtime,
        store: RunStore,
        owner: str,
        workflows: Mapping[str, Workflow],
        at_rest: AtRest,
        posted: Posted,
    ) -> None:
        """Make it.

        Args:
            runtime: Where the runs come to work.
            store: Where they are.
            owner: Under which name.
            workflows: Those that are known, by name.
            at_rest: The handlers of those that rest.
            posted: Hands on what waits for a run in its inbox.
        """
        self._runtime = runtime
        self._store = store
        self._owner = owner
        self._workflows = workflows
        self._at_rest = at_rest
        self._posted = posted
        self._lock = threading.Lock()
        self._taking: dict[str, Future[Handler | None]] = {}
        self._unsure: set[str] = set()  # runs that may be ours and are not at work, since the store has failed
        self._unmade: set[str] = set()  # runs that the store may have made as it failed; whoever asked was told so

    # -- runs that begin -----------------------------------------------------------------------------------------------

    def make(self, commit: Commit, handler: Handler) -> None:
        """Make a run in the store, and enter it among those at work.

        Raises:
            RunExistsError: If there is a run of this id.
            StoreError: If the store failed. The run does not begin.
        """
        run_id = commit.run_id
        with self._lock:
            claimed = self._claim([run_id])
        if not claimed:
            raise RunExistsError(f"Run '{run_id}' is just being made or taken over.")
        made: Handler | None = None
        self._unmade.add(run_id)
        try:
            (refusal,) = self._store.commit([commit])
            self._unmade.discard(run_id)
            if refusal is not None:
                raise refusal
            made = self._runtime.runs[run_id] = handler
        finally:
            with self._lock:
                del self._taking[run_id]
            claimed[run_id].set_result(made)

    def _unmake(self, run_id: str) -> None:
        """Delete a run of which somebody was told that it does not begin, unless it was asked for again since."""
        with self._lock:
            claimed = self._claim([run_id])
        if not claimed:
            return  # It is just being made, or was asked for again.
        try:
            row = self._store.row(run_id)
            if row is not None and row.owner == self._owner and row.fence == FIRST_FENCE:
                self._store.delete(run_id, owner=self._owner)
            self._unmade.discard(run_id)
        finally:
            with self._lock:
                del self._taking[run_id]
            claimed[run_id].set_result(None)

    # -- runs that are there already -----------------------------------------------------------------------------------

    def settled(self, run_id: str) -> Handler | None:
        """Return the handler of a run that is at work or rests here, or None; wait if it is just being taken."""
        with self._lock:
            taking = self._taking.get(run_id)
        if taking is not None:
            self._runtime.dispatcher.wait(Waitable(taking))
        return self._runtime.runs.get(run_id) or self._at_rest.get(run_id)

    def wake(self, run_id: str) -> Handler:
        """Bring a run that rests, or whose process has died, to work; or return the handler of one that is at work.

        Raises:
            RunHeldError: If another process has it.
            WorkflowRuntimeError: If it was set aside.
            RuntimeShutdownError: If the runtime is being shut down.
            StoreError: If the store failed.
        """
        with self._lock:
            handler = self._runtime.runs.get(run_id)
            if handler is not None:
                return handler
            taking = self._taking.get(run_id)
            claimed = self._claim([run_id])
        if claimed:
            taken = self._take(claimed)
            handler = taken[0] if taken else None
        else:
            assert taking is not None
            self._runtime.dispatcher.wait(Waitable(taking))
            handler = taking.result()
        if handler is None:
            row = self._store.row(run_id)
            if row is not None and row.status == "running" and row.owner is not None:
                raise run_held(run_id, row.owner)
            raise WorkflowRuntimeError(
                f"run '{run_id}' cannot go on here: {where(row)}" if row else f"there is no run '{run_id}'"
            )
        return handler

    def acquire(self, run_ids: Iterable[str]) -> list[Handler]:
        """Take over those of the runs that nobody here takes or has; return the handlers of those that go on.

        Raises:
            RuntimeShutdownError: If the runtime is being shut down.
            StoreError: If the store failed.
        """
        with self._lock:
            claimed = self._claim(run_ids)
        return self._take(claimed) if claimed else []

    def make_sure(self) -> None:
        """Try again what was left open when the store failed.

        Raises:
            StoreError: If it fails again.
        """
        if self._unsure:
            with self._lock:
                unsure = self._unsure - self._taking.keys()
                self._unsure -= self._runtime.runs.keys()
            self.acquire(unsure)
        for run_id in list(self._unmade):
            self._unmake(run_id)

    def drop_at_rest(self, run_id: str) -> bool:
        """Take out the handler of a run at rest, unless that is being woken or was; return whether it was done."""
        with self._lock:
            if run_id in self._runtime.runs or run_id in self._taking:
                return False
            self._at_rest.drop(run_id)
            return True

    def redeliver(self, run_id: str, late: list[tuple[Any, Reply | None]]) -> None:
        """Have what came for a run that rests handed to the supervisor that it is woken with. Does not block."""
        self._runtime.dispatcher.execute(Unlimited(lambda: self._redeliver(run_id, late)))

    def _redeliver(self, run_id: str, late: list[tuple[Any, Reply | None]]) -> None:
        try:
            supervisor = None
            while supervisor is None:
                supervisor = self.wake(run_id).supervisor
        except Exception as error:
            for _, reply in late:
                if reply is not None:
                    reply.set_exception((type(error), error, None))
            if any(reply is None for _, reply in late):
                what = "run '%s' could not be woken for what had come for it"
                logger.exception(what, run_id, extra=log_fields(run_id))
            return
        assert isinstance(supervisor, JournalingRef)
        for message, reply in late:
            supervisor.forward(message, reply)

    # -- taking --------------------------------------------------------------------------------------------------------

    def _claim(self, run_ids: Iterable[str]) -> dict[str, Future[Handler | None]]:
        """Note that this thread takes runs that nobody here takes or has. Called under `_lock`."""
        at_work, taking = self._runtime.runs, self._taking
        claimed: dict[str, Future[Handler | None]] = {
            run_id: Future() for run_id in run_ids if run_id not in at_work and run_id not in taking
        }
        self._taking.update(claimed)
        return claimed

    def _take(self, claimed: Mapping[str, Future[Handler | None]]) -> list[Handler]:
        """Take over runs and go on with them; those that cannot be read are set aside with the reason."""
        handlers: dict[str, Handler] = {}
        error: BaseException | None = None
        with self._lock:
            self._unsure.update(claimed)  # until it is known what became of them
        try:
            self._runtime.check_usable()
            fences = self._store.acquire(list(claimed), self._owner)
            self._sure(claimed.keys() - fences.keys())
            loaded = self._store.load(list(fences))
            for run_id, fence in fences.items():
                handler = self._go_on(run_id, loaded.get(run_id), fence)
                if handler is not None:
                    handlers[run_id] = handler
                self._sure([run_id])
        except BaseException as failure:
            error = failure
            raise
        finally:
            with self._lock:
                for run_id in claimed:
                    del self._taking[run_id]
            for run_id, taking in claimed.items():
                if error is None or run_id in handlers:
                    taking.set_result(handlers.get(run_id))
                else:
                    taking.set_exception(error)
        return list(handlers.values())

    def _sure(self, run_ids: Iterable[str]) -> None:
        with self._lock:
            self._unsure.difference_update(run_ids)

    def _go_on(self, run_id: str, loaded: Loaded | StoreError | None, fence: int) -> Handler | None:
        """Go on with a run that is ours now; return None if it had to be set aside.

        Raises:
            StoreError: If the store failed, so that it must be tried again.
        """
        if loaded is None:
            return None  # It was deleted just now.
        try:
            if isinstance(loaded, StoreError):
                raise loaded
            return self._activate(loaded, fence)
        except Exception as error:
            # Whatever it is: the user's classes are built here, and one run must not keep the others from going on.
            if isinstance(error, StoreError | RuntimeShutdownError) and not isinstance(error, StoreDamagedError):
                raise
            reason = error
        said = str(reason) if isinstance(reason, GreenroomError) else f"{type(reason).__name__}: {reason}"
        logger.error("run '%s' is set aside: %s", run_id, said, exc_info=reason, extra=log_fields(run_id))
        self._store.commit([Commit(run_id, fence, status="set_aside", reason=said)])
        return None

    def _activate(self, loaded: Loaded, fence: int) -> Handler:
        row = loaded.row
        workflow = self._workflows[row.workflow]
        graph = workflow._graph
        named = graphs_named_by(workflow)
        registry = registry_for(*named)
        if loaded.snapshot is None:
            raise ContextSerdeError("the store has no checkpoint of it")
        recovery = read_run(
            graph,
            loaded.snapshot[1],
            loaded.records,
            registry,
            published=row.next_offset,
            timeout=workflow.timeout,
            on_stuck=workflow.on_stuck,
            named=named,
        )
        state = recovery.state
        state.run_id = row.run_id
        rested = self._at_rest.get(row.run_id)
        missed: list[Any] = []
        if rested is not None:
            missed = self._at_rest.earlier_events(row.run_id, rested.seen - 1, state.published, workflow)
        entries = self._store.inbox(run_id=row.run_id)
        # It may be at rest again before the call is over.
        self._at_rest.drop(row.run_id)
        try:
            handler = go_on(workflow, self._runtime, recovery, Kept(registry, fence, row.next_seq), rested, missed)
        except BaseException:
            if rested is not None:
                self._at_rest.put(rested)
            raise
        for entry in entries:
            self._posted.hand_on(entry, handler)
        return handler


class Waitable:
    """A future, as a dispatcher waits for it."""

    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    def is_done(self) -> bool:
        return self._future.done()

    def block(self, timeout: float | None) -> None:
        wait([self._future], timeout)

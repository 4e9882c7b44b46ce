"""The keeper of durable runs: what a runtime does with its store beside committing.

It makes runs and takes them over, wakes those that rest when something wants them, hands on what other processes have
posted, keeps the lease, and sweeps what is past its time. Every method but `rested` and `lost` may block in the store,
and is called on a thread that may: the user's, or one of the dispatcher's. `_lock` protects `_waking`.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Collection, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from greenroom.actors.base import Ref, Reply
from greenroom.actors.dispatcher import Unlimited
from greenroom.actors.durable import FromInbox, JournalingRef, LeaseGone
from greenroom.actors.journal import Flush, JournalActor
from greenroom.actors.ticker import Ticker, TickNow
from greenroom.checkpoint import dump_checkpoint
from greenroom.codec import decode
from greenroom.errors import (
    ContextSerdeError,
    GreenroomError,
    StoreError,
    WorkflowRuntimeError,
)
from greenroom.events import Event
from greenroom.facts import Outcome, RunResumed, RunStarted
from greenroom.inbox import read_entry, read_question
from greenroom.inputs import PendingInput
from greenroom.journal import encode_fact, pack_record
from greenroom.named import graphs_named_by, registry_for
from greenroom.owners import is_dead, owner_name
from greenroom.recovery import read_run
from greenroom.run_state import RunState
from greenroom.stores import ENDED, FIRST_FENCE, Commit, InboxEntry, Loaded, NewRun, RunRow, RunStore

if TYPE_CHECKING:
    from greenroom.handler import Handler
    from greenroom.runtime import Runtime
    from greenroom.workflow import Workflow

__all__ = ["Durability", "RunKeeper"]

logger = logging.getLogger("greenroom.durable")

PAGE = 500
POLL_SECONDS = 0.5
SWEEP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Durability:
    """How a runtime keeps its runs.

    Attributes:
        is_sync: Whether what follows from a fact waits for its commit.
        flush_interval: Seconds for which commits that nobody waits for are gathered.
        idle_timeout: Seconds after which a run that does nothing leaves memory, or None for never.
        lease: Seconds for which the runs of a process that has died stay its own.
        poll_interval: Seconds between two looks at what is due.
        retention: Seconds for which runs that have ended are kept, or None for ever.
    """

    is_sync: bool
    flush_interval: float
    idle_timeout: float | None
    lease: float
    retention: float | None


class RunKeeper:
    """Keeps the durable runs of one runtime in one store.

    Attributes:
        owner: The name under which this runtime holds runs; no other ever has it.
        store: Where the runs are.
        journal: The actor that commits.
        offset: Seconds since the epoch at which the dispatcher's clock stands at 0.
    """

    def __init__(self, runtime: Runtime, store: RunStore, durability: Durability) -> None:
        """Open the store and begin to hold runs in it.

        Raises:
            StoreError: If the store cannot be opened.
        """
        store.open()
        dispatcher = runtime.dispatcher
        self.store = store
        self.owner = owner_name()
        self.is_sync = durability.is_sync
        self.idle_timeout = durability.idle_timeout
        self.offset = dispatcher.wall_time().timestamp() - dispatcher.now()
        self.journal: Ref = JournalActor.start(dispatcher, store, durability.flush_interval)
        self._durability = durability
        self._runtime = runtime
        self._workflows: dict[str, Workflow] = {}
        self._recovering: set[str] = set()  # the workflows whose orphans are ours to take
        self._at_rest: weakref.WeakValueDictionary[str, Handler] = weakref.WeakValueDictionary()
        self._waking: dict[str, Future[Handler]] = {}
        # Held from the look for orphans until they are taken: two that look at once would take each other's.
        self._taking = threading.Lock()
        self._lock = threading.Lock()
        self._handed_on: set[int] = set()  # inbox entries that a supervisor has, touched by the ticker's call alone
        self._last_sweep = float("-inf")
        self._is_ending = False
        self.store.renew(self.owner, durability.lease)
        self._heartbeat: Ref = Ticker.start(dispatcher, durability.lease / 3, self._renew)
        self._clock: Ref = Ticker.start(dispatcher, POLL_SECONDS, self._look)
        self.wakes_others = True  # whether runs that came to rest in other processes are woken here
        self._unwatch = store.watch(lambda: self._clock.tell(TickNow()))

    # -- runs that begin -----------------------------------------------------------------------------------------------

    def know(self, workflow: Workflow) -> None:
        """Note a workflow, so that its runs can be found by name."""
        self._workflows.setdefault(workflow.workflow_name, workflow)

    def make(self, workflow: Workflow, state: RunState, beginning: RunStarted | RunResumed) -> None:
        """Make a run in the store, with its first fact.

        Raises:
            RunExistsError: If there is a run of this id.
            ContextSerdeError: If the start event or the context cannot be encoded.
            StoreError: If the store failed. The run does not begin.
        """
        self.know(workflow)
        registry, now = registry_for(*graphs_named_by(workflow)), self.now()
        commit = Commit(
            state.run_id,
            FIRST_FENCE,
            new=NewRun(workflow.workflow_name, self.owner),
            snapshot=(0, dump_checkpoint(state, now, registry)),
            records=[(0, pack_record(now, encode_fact(beginning, registry)))],
        )
        (refusal,) = self.store.commit([commit])
        if refusal is not None:
            raise refusal

    def now(self) -> float:
        """Return the time of the clock of durable runs: seconds since the epoch, that never go back."""
        return self._runtime.dispatcher.now() + self.offset

    # -- runs that are there already -----------------------------------------------------------------------------------

    def get(self, run_id: str) -> Handler | None:
        """Return the handler of a run: one at work here, one that rests or has ended, or None if there is none.

        Raises:
            WorkflowRuntimeError: If another process has it, or its workflow is not known here.
        """
        handler = self._runtime.runs.get(run_id) or self._at_rest.get(run_id)
        if handler is not None:
            return handler
        row = self.store.row(run_id)
        if row is None:
            return None
        workflow = self._workflows.get(row.workflow)
        if workflow is None:
            raise WorkflowRuntimeError(
                f"run '{run_id}' is of {row.workflow}, which this runtime does not know: give it to"
                " runtime.recover([...]) first"
            )
        if row.status in ENDED:
            return self._ended_handler(workflow, row)
        if row.status == "set_aside":
            raise WorkflowRuntimeError(f"run '{run_id}' was set aside: {row.reason}")
        if row.owner is not None and row.owner != self.owner and self._is_alive(row.owner):
            raise WorkflowRuntimeError(
                f"run '{run_id}' is held by another process, {row.owner}; send to it with greenroom answer or cancel"
            )
        return self.wake(run_id)

    def recover(self, workflows: Iterable[Workflow]) -> list[Handler]:
        """Go on with all runs of these workflows whose process has died, now and from now on."""
        known = {workflow.workflow_name: workflow for workflow in workflows}
        self._workflows.update(known)
        self._recovering |= set(known)
        self._end_leases_of_the_dead()
        return self._take_orphans(known)

    def take_over(self, workflow: Workflow, run_id: str) -> Handler:
        """Go on with one run of the store, or return the handler of one that has ended.

        Raises:
            WorkflowRuntimeError: If there is no such run of this workflow, another process holds it or it was set
                aside.
            StoreError: If the store failed.
        """
        row = self.store.row(run_id)
        if row is None:
            raise WorkflowRuntimeError(f"there is no run '{run_id}'")
        if row.workflow != workflow.workflow_name:
            raise WorkflowRuntimeError(f"run '{run_id}' is of {row.workflow}, not of {workflow.workflow_name}")
        self.know(workflow)
        self._end_leases_of_the_dead()
        return self._ended_handler(workflow, row) if row.status in ENDED else self.wake(run_id)

    def wake(self, run_id: str) -> Handler:
        """Bring a run that rests back to work, or return the handler of one that is at work already.

        Raises:
            WorkflowRuntimeError: If it is held by another process, or was set aside.
            StoreError: If the store failed.
        """
        with self._lock:
            handler = self._runtime.runs.get(run_id)
            if handler is not None:
                return handler
            waking, is_ours = self._waking.get(run_id), False
            if waking is None:
                waking, is_ours = self._waking.setdefault(run_id, Future()), True
        if not is_ours:
            return waking.result()
        try:
            handlers = self._acquire([run_id])
            if not handlers:
                row = self.store.row(run_id)
                raise WorkflowRuntimeError(
                    f"run '{run_id}' cannot go on here: {_where(row)}" if row else f"there is no run '{run_id}'"
                )
            waking.set_result(handlers[0])
        except BaseException as error:
            waking.set_exception(error)
            raise
        finally:
            with self._lock:
                self._waking.pop(run_id, None)
        return handlers[0]

    def _acquire(self, run_ids: Collection[str]) -> list[Handler]:
        """Take over runs and go on with them; those that cannot be read are set aside with the reason."""
        fences = self.store.acquire(run_ids, self.owner)
        loaded = self.store.load(list(fences))
        handlers = []
        for run_id, fence in fences.items():
            item = loaded[run_id]
            try:
                if isinstance(item, StoreError):
                    raise item
                handlers.append(self._activate(item, fence))
            except (GreenroomError, RecursionError) as error:
                logger.error("run '%s' is set aside: %s", run_id, error)
                self.store.commit([Commit(run_id, fence, status="set_aside", reason=str(error))])
        return handlers

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
        recovery.state.run_id = row.run_id
        kept = self._at_rest.pop(row.run_id, None)
        handler = workflow._go_on(self._runtime, recovery, fence, row.next_seq, kept)
        for entry in self.store.inbox(run_id=row.run_id):
            self._hand_on(entry, handler)
        return handler

    def _ended_handler(self, workflow: Workflow, row: RunRow) -> Handler:
        data = self.store.result(row.run_id)
        if data is None:
            raise WorkflowRuntimeError(f"run '{row.run_id}' has ended as {row.status}, and its result was swept")
        event, error = decode(data, registry_for(*graphs_named_by(workflow)))
        status: Any = row.status
        return workflow._ended(self._runtime, row.run_id, row.next_offset, Outcome(status, event, error))

    def questions_at_rest(self, runs: Collection[str]) -> list[PendingInput]:
        """Return the open questions in the store of the workflows that are known here, but for some runs."""
        questions: list[PendingInput] = []
        after: str | None = None
        known: dict[str, Workflow | None] = {}
        while True:
            page = self.store.inputs(after=after, limit=PAGE)
            for row in page:
                if row.run_id in runs:
                    continue
                if row.run_id not in known:
                    run = self.store.row(row.run_id)
                    known[row.run_id] = None if run is None else self._workflows.get(run.workflow)
                workflow = known[row.run_id]
                if workflow is not None:
                    questions.append(read_question(row, registry_for(*graphs_named_by(workflow))))
            if len(page) < PAGE:
                return questions
            after = page[-1].input_id

    def asker_at_rest(self, input_id: str) -> Handler | None:
        """Return the handler of the run that asks a question which is open in the store, or None."""
        row = self.store.input(str(input_id))
        return None if row is None or row.closed is not None else self.get(row.run_id)

    def earlier_events(self, run_id: str, after: int, before: int, workflow_graph: Any) -> list[Event]:
        """Return the events of a run after one offset and before another, from the store."""
        registry = registry_for(workflow_graph)
        events: list[Event] = []
        while after + 1 < before:
            page = self.store.events(run_id, after, min(PAGE, before - after - 1))
            if not page:
                break
            events += [decode(data, registry) for _, data in page]
            after = page[-1][0]
        return events

    # -- called by supervisors, in their turns -------------------------------------------------------------------------

    def rested(self, run_id: str, late: list[tuple[Any, Reply | None]]) -> None:
        """Take note that a run was put to rest, and see to what came for it meanwhile."""
        handler = self._runtime.runs[run_id]
        # Out of `runs` last: whoever wakes the run looks there first.
        handler.leave()
        self._at_rest[run_id] = handler
        del self._runtime.runs[run_id]
        if late:
            self.redeliver(run_id, late)

    def redeliver(self, run_id: str, late: list[tuple[Any, Reply | None]]) -> None:
        """Have what came for a run that rests handed to the supervisor that it is woken with."""
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
                logger.exception("run '%s' could not be woken for what had come for it", run_id)
            return
        assert isinstance(supervisor, JournalingRef)
        for message, reply in late:
            supervisor.forward(message, reply)

    # -- again and again -----------------------------------------------------------------------------------------------

    def _renew(self) -> None:
        if self.store.renew(self.owner, self._durability.lease):
            return
        held = self.store.held(self.owner)
        for run_id, handler in list(self._runtime.runs.items()):
            if run_id not in held:
                supervisor = handler.supervisor
                if supervisor is not None:
                    supervisor.tell_control(LeaseGone())

    def _look(self) -> None:
        try:
            self._look_around()
        except StoreError:
            if not self._is_ending:  # The store may be closed under a look that began before.
                raise

    def _look_around(self) -> None:
        """Hand on what was posted, wake what is due, take over what is left of the dead."""
        for entry in self.store.inbox(owner=self.owner):
            handler = self._runtime.runs.get(entry.run_id)
            if handler is not None:
                self._hand_on(entry, handler)
        due = self.store.due(list(self._workflows), self.now())
        for row in due if self.wakes_others else [row for row in due if row.run_id in self._at_rest]:
            try:
                self.wake(row.run_id)
            except WorkflowRuntimeError:
                continue  # Another process was quicker.
        if self._recovering:
            self._end_leases_of_the_dead()
            self._take_orphans(self._recovering)
        self._sweep()

    def _hand_on(self, entry: InboxEntry, handler: Handler) -> None:
        with self._lock:
            if entry.id in self._handed_on:
                return
            self._handed_on.add(entry.id)
        registry = registry_for(handler._link.graph)
        try:
            fact = read_entry(entry, registry)
        except ContextSerdeError as error:
            logger.error("what was posted for run '%s' cannot be read, and stays in its inbox: %s", entry.run_id, error)
            return
        supervisor = handler.supervisor
        if supervisor is not None:
            supervisor.tell(FromInbox(fact, entry.id))

    def _take_orphans(self, workflows: Collection[str]) -> list[Handler]:
        handlers: list[Handler] = []
        while True:
            with self._taking:
                rows = self.store.orphans(list(workflows), PAGE)
                handlers += self._acquire([row.run_id for row in rows]) if rows else []
            if len(rows) < PAGE:
                return handlers

    def _is_alive(self, owner: str) -> bool:
        """Return whether an owner may still be at work. The lease of one that is not is over then."""
        if is_dead(owner):
            self.store.resign(owner)
        return owner in self.store.owners()

    def _end_leases_of_the_dead(self) -> None:
        """End the leases of processes of this machine that are gone, so that nobody need wait for them."""
        for owner in self.store.owners():
            if owner != self.owner and is_dead(owner):
                self.store.resign(owner)

    def _sweep(self) -> None:
        retention, now = self._durability.retention, self.now()
        if retention is not None and now - self._last_sweep >= SWEEP_SECONDS:
            self._last_sweep = now
            # The journal of a run that has ended is of no more use; what it came to is kept.
            self.store.sweep(now - retention, now)

    # -- the end -------------------------------------------------------------------------------------------------------

    def prepare_end(self) -> None:
        """Wake and take over no more runs."""
        self._is_ending = True
        self._unwatch()
        self._clock.stop(block=False)

    def close(self, seconds: float) -> None:
        """Let go of the store, when the runs have been given back or `seconds` are over."""
        dispatcher = self._runtime.dispatcher
        dispatcher.wait(self.journal.ask(Flush(), block=False), seconds)
        self._heartbeat.stop(block=False)
        self.store.resign(self.owner)
        self.store.close()


def _where(row: RunRow) -> str:
    if row.status != "running":
        return f"it is {row.status}" + (f", {row.reason}" if row.reason else "")
    return f"it is held by {row.owner}"

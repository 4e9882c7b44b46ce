"""The keeper of durable runs: what a runtime does with its store beside committing.

It makes runs and takes them over, wakes those that rest when something wants them, hands on what other processes have
posted, keeps the lease, and sweeps what is past its time. Every method but those that supervisors call may block in
the store, and is called on a thread that may: the user's, or one of the dispatcher's. `_lock` protects `_taking`,
`_unsure` and what supervisors were handed, and is never held while the store is called; `_renewing` the end of the
lease.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from greenroom.actors.base import Ref, Reply
from greenroom.actors.dispatcher import Unlimited
from greenroom.actors.durable import DurableSupervisor, FromInbox, JournalingRef, Kept, LeaseDoubted
from greenroom.actors.journal import Flush, JournalActor
from greenroom.actors.root import RunEnded
from greenroom.actors.ticker import Ticker, TickNow
from greenroom.checkpoint import dump_checkpoint
from greenroom.codec import TypeRegistry, decode
from greenroom.errors import (
    ContextSerdeError,
    GreenroomError,
    InputAnsweredError,
    InputExpiredError,
    RunExistsError,
    RuntimeShutdownError,
    StoreDamagedError,
    StoreError,
    WorkflowRuntimeError,
)
from greenroom.events import Event, WorkflowCancelledEvent
from greenroom.facts import Outcome, RunResumed, RunStarted
from greenroom.inbox import read_entry, read_question
from greenroom.inputs import PendingInput
from greenroom.journal import encode_fact, pack_record
from greenroom.named import graphs_named_by, registry_for, registry_of
from greenroom.owners import is_dead, owner_name
from greenroom.ports import HasGraph
from greenroom.recovery import read_run
from greenroom.run_state import RunState, failed_outcome
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
REST_ROUND = 100


@dataclass(frozen=True, slots=True)
class Durability:
    """How a runtime keeps its runs.

    Attributes:
        is_sync: Whether what follows from a fact waits for its commit.
        flush_interval: Seconds for which commits that nobody waits for are gathered.
        idle_timeout: Seconds after which a run that does nothing leaves memory, or None for never.
        lease: Seconds for which the runs of a process that has died stay its own.
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
        self._kept: dict[str, Handler] = {}  # those that must come to their end though nobody holds on to them
        self._taking: dict[str, Future[Handler | None]] = {}
        self._unsure: set[str] = set()  # runs that may be ours and are not at work, since the store has failed
        self._unmade: set[str] = set()  # runs that the store may have made as it failed; whoever asked was told so
        self._lock = threading.Lock()
        self._renewing = threading.Lock()
        self._lease_until = float("-inf")
        self._closed = False
        self._resting_round: list[Any] = []  # weak references to the handlers that are looked after next
        self._last_sweep = float("-inf")
        self._is_ending = False
        self._renew()
        self._heartbeat: Ref = Ticker.start(dispatcher, durability.lease / 3, self._renew)
        self._clock: Ref = Ticker.start(dispatcher, POLL_SECONDS, self._look)
        self.wakes_others = True  # whether runs that came to rest in other processes are woken here
        self._unwatch = store.watch(lambda: self._clock.tell(TickNow()))

    # -- runs that begin -----------------------------------------------------------------------------------------------

    def know(self, workflow: Workflow) -> None:
        """Note a workflow, so that its runs can be found by name."""
        self._workflows.setdefault(workflow.workflow_name, workflow)

    def make(
        self,
        workflow: Workflow,
        handler: Handler,
        state: RunState,
        beginning: RunStarted | RunResumed,
        registry: TypeRegistry,
    ) -> None:
        """Make a run in the store, with its first fact, and enter it among those at work.

        Raises:
            RunExistsError: If there is a run of this id.
            ContextSerdeError: If the start event or the context cannot be encoded.
            StoreError: If the store failed. The run does not begin.
        """
        self.know(workflow)
        now = self.now()
        commit = Commit(
            state.run_id,
            FIRST_FENCE,
            new=NewRun(workflow.workflow_name, self.owner),
            snapshot=(0, dump_checkpoint(state, now, registry)),
            records=[(0, pack_record(now, encode_fact(beginning, registry)))],
        )
        with self._lock:
            claimed = self._claim([state.run_id])
        if not claimed:
            raise RunExistsError(f"Run '{state.run_id}' is just being made or taken over.")
        made: Handler | None = None
        self._unmade.add(state.run_id)
        try:
            (refusal,) = self.store.commit([commit])
            self._unmade.discard(state.run_id)
            if refusal is not None:
                raise refusal
            made = self._runtime.runs[state.run_id] = handler
        finally:
            with self._lock:
                del self._taking[state.run_id]
            claimed[state.run_id].set_result(made)

    def now(self) -> float:
        """Return the time of the clock of durable runs: seconds since the epoch, that never go back."""
        return self._runtime.dispatcher.now() + self.offset

    # -- runs that are there already -----------------------------------------------------------------------------------

    def get(self, run_id: str) -> Handler | None:
        """Return the handler of a run: one at work here, one that rests or has ended, or None if there is none.

        Raises:
            WorkflowRuntimeError: If another process has it, or its workflow is not known here.
        """
        with self._lock:
            taking = self._taking.get(run_id)
        if taking is not None:
            self._runtime.dispatcher.wait(_Waitable(taking))
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
        self._end_leases_of_the_dead()
        handlers = self._take_orphans(known)
        # Only now, or the look that is taken again and again would take some of them first, and they be missing here.
        self._recovering |= set(known)
        return handlers

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
        """Bring a run that rests, or whose process has died, to work; or return the handler of one that is at work.

        Raises:
            WorkflowRuntimeError: If it is held by another process, or was set aside.
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
            self._runtime.dispatcher.wait(_Waitable(taking))
            handler = taking.result()
        if handler is None:
            row = self.store.row(run_id)
            raise WorkflowRuntimeError(
                f"run '{run_id}' cannot go on here: {_where(row)}" if row else f"there is no run '{run_id}'"
            )
        return handler

    def _claim(self, run_ids: Iterable[str]) -> dict[str, Future[Handler | None]]:
        """Note that this thread takes runs that nobody here takes or has. Called under `_lock`."""
        at_work, taking = self._runtime.runs, self._taking
        claimed: dict[str, Future[Handler | None]] = {
            run_id: Future() for run_id in run_ids if run_id not in at_work and run_id not in taking
        }
        self._taking.update(claimed)
        return claimed

    def _acquire(self, run_ids: Iterable[str]) -> list[Handler]:
        """Take over those of the runs that nobody here takes or has."""
        with self._lock:
            claimed = self._claim(run_ids)
        return self._take(claimed) if claimed else []

    def _take(self, claimed: Mapping[str, Future[Handler | None]]) -> list[Handler]:
        """Take over runs and go on with them; those that cannot be read are set aside with the reason."""
        handlers: dict[str, Handler] = {}
        error: BaseException | None = None
        with self._lock:
            self._unsure.update(claimed)  # until it is known what became of them
        try:
            self._runtime.check_usable()
            fences = self.store.acquire(list(claimed), self.owner)
            self._sure(claimed.keys() - fences.keys())
            loaded = self.store.load(list(fences))
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
        logger.error("run '%s' is set aside: %s", run_id, said, exc_info=reason)
        self.store.commit([Commit(run_id, fence, status="set_aside", reason=said)])
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
        kept = self._at_rest.get(row.run_id)
        missed = [] if kept is None else self.earlier_events(row.run_id, kept.seen - 1, state.published, workflow)
        entries = self.store.inbox(run_id=row.run_id)
        # It may be at rest again before the call is over.
        self._at_rest.pop(row.run_id, None)
        try:
            handler = workflow._go_on(self._runtime, recovery, Kept(registry, fence, row.next_seq), kept, missed)
        except BaseException:
            if kept is not None:
                self._at_rest[row.run_id] = kept
            raise
        for entry in entries:
            self._hand_on(entry, handler)
        return handler

    def _ended_handler(self, workflow: Workflow, row: RunRow) -> Handler:
        data = self.store.result(row.run_id)
        if data is None:
            raise WorkflowRuntimeError(f"run '{row.run_id}' has ended as {row.status}, and its result was swept")
        event, error = decode(data, registry_of(workflow))
        status: Any = row.status
        return workflow._ended(self._runtime, row.run_id, row.next_offset, Outcome(status, event, error))

    def questions_at_rest(self, runs: Collection[str]) -> list[PendingInput]:
        """Return the open questions in the store of the workflows that are known here, but for some runs."""
        questions: list[PendingInput] = []
        after: str | None = None
        known: dict[str, Workflow | None] = {}
        registries: dict[str, TypeRegistry] = {}
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
                    name = workflow.workflow_name
                    if name not in registries:
                        registries[name] = registry_of(workflow)
                    questions.append(read_question(row, registries[name]))
            if len(page) < PAGE:
                return questions
            after = page[-1].input_id

    def asker_at_rest(self, input_id: str) -> Handler | None:
        """Return the handler of the run that asks a question which is open in the store, or None.

        Raises:
            InputError: If it is closed.
        """
        row = self.store.input(str(input_id))
        if row is None:
            return None
        if row.closed == "expired":
            raise InputExpiredError(f"question '{input_id}' was given up: nobody had answered in time")
        if row.closed is not None:
            raise InputAnsweredError(f"question '{input_id}' is no longer asked: it was {row.closed}")
        return self.get(row.run_id)

    def earlier_events(self, run_id: str, after: int, before: int, workflow: HasGraph) -> list[Event]:
        """Return the events of a run after one offset and before another, from the store."""
        registry = registry_of(workflow)
        events: list[Event] = []
        while after + 1 < before:
            page = self.store.events(run_id, after, min(PAGE, before - after - 1))
            if not page:
                break
            events += [decode(data, registry) for _, data in page]
            after = page[-1][0]
        return events

    # -- called by supervisors, in their turns -------------------------------------------------------------------------

    def holds_lease(self) -> bool:
        """Return whether the lease goes on for certain, so that no other process can have a run of ours."""
        return self._runtime.dispatcher.now() < self._lease_until

    def rested(self, run_id: str, published: int, late: list[tuple[Any, Reply | None]]) -> None:
        """Take note that a run was put to rest, and see to what came for it meanwhile."""
        runtime = self._runtime
        handler = runtime.runs[run_id]
        # Out of `runs` last: whoever wakes the run looks there first.
        handler.leave(published)
        self._at_rest[run_id] = handler
        if handler.is_limited:
            self.keep(handler)  # It keeps its place among those that may go on.
        if handler.origin != run_id:
            runtime.leave_resumed(handler.origin, handler)
        del runtime.runs[run_id]
        if runtime.draining:
            runtime.root.tell(RunEnded(handler))
        if late:
            self.redeliver(run_id, late)

    def keep(self, handler: Handler) -> None:
        """Hold on to a handler until its run has ended: somebody is told of that, or it has a place to give back."""
        self._kept[handler.run_id] = handler
        if handler.has_ended():
            self.let_go(handler)

    def let_go(self, handler: Handler) -> None:
        """Take note that the run has ended."""
        self._kept.pop(handler.run_id, None)

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
        now = self._runtime.dispatcher.now
        with self._renewing:
            if self._closed:
                return
            begun = now()
            in_time = self.store.renew(self.owner, self._durability.lease)
            # Somebody may have taken our runs and swept our name away, which the store then knows nothing of.
            if not in_time or begun >= self._lease_until:
                held = self.store.held(self.owner)
                for run_id, handler in list(self._runtime.runs.items()):
                    supervisor = handler.supervisor
                    if run_id not in held and supervisor is not None:
                        supervisor.tell_control(LeaseDoubted())
            self._lease_until = begun + self._durability.lease

    def _look(self) -> None:
        try:
            self._look_around()
        except StoreError:
            if not self._is_ending:  # The store may be closed under a look that began before.
                raise

    def _look_around(self) -> None:
        """Hand on what was posted, wake what is due, take over what is left of the dead."""
        if self._unsure:
            with self._lock:
                unsure = self._unsure - self._taking.keys()
                self._unsure -= self._runtime.runs.keys()
            self._acquire(unsure)
        for run_id in list(self._unmade):
            self._unmake(run_id)
        for entry in self.store.inbox(owner=self.owner):
            handler = self._runtime.runs.get(entry.run_id)
            if handler is not None:
                self._hand_on(entry, handler)
        due = [row.run_id for row in self.store.due(list(self._workflows), self.now())]
        self._acquire(due if self.wakes_others else [run_id for run_id in due if run_id in self._at_rest])
        if self._recovering:
            self._end_leases_of_the_dead()
            self._take_orphans(self._recovering)
        self._look_after_those_at_rest()
        self._sweep()

    def _unmake(self, run_id: str) -> None:
        """Delete a run of which somebody was told that it does not begin, unless it was asked for again since."""
        with self._lock:
            claimed = self._claim([run_id])
        if not claimed:
            return  # It is just being made, or was asked for again.
        try:
            row = self.store.row(run_id)
            if row is not None and row.owner == self.owner and row.fence == FIRST_FENCE:
                reason = "the store failed as the run was made"
                self.store.commit([Commit(run_id, FIRST_FENCE, status="cancelled", reason=reason)])
                self.store.delete(run_id)
            self._unmade.discard(run_id)
        finally:
            with self._lock:
                del self._taking[run_id]
            claimed[run_id].set_result(None)

    def _look_after_those_at_rest(self) -> None:
        """Tell those who hold on to a run at rest that it has ended in another process. A few at a time."""
        if not self._resting_round:
            self._resting_round = self._at_rest.valuerefs()
        for _ in range(min(REST_ROUND, len(self._resting_round))):
            handler = self._resting_round.pop()()
            if handler is None or handler.supervisor is not None or handler.has_ended():
                continue
            row = self.store.row(handler.run_id)
            if row is None or row.status != "running":
                self._end_at_rest(handler, row)

    def _end_at_rest(self, handler: Handler, row: RunRow | None) -> None:
        workflow = handler._link.workflow
        data = None if row is None else self.store.result(row.run_id)
        if row is None or data is None:
            where = "it was deleted" if row is None else _where(row)
            outcome = failed_outcome(WorkflowRuntimeError(f"run '{handler.run_id}' cannot go on: {where}"))
            missed: list[Event] = [outcome.event]
        else:
            event, error = decode(data, registry_of(workflow))
            status: Any = row.status
            outcome = Outcome(status, event, error)
            missed = self.earlier_events(row.run_id, handler.seen - 1, row.next_offset, workflow)
        with self._lock:
            if handler.run_id in self._runtime.runs or handler.run_id in self._taking:
                return
            self._at_rest.pop(handler.run_id, None)
        handler.end_at_rest(outcome, missed)

    def _hand_on(self, entry: InboxEntry, handler: Handler) -> None:
        supervisor = handler.supervisor
        if supervisor is None:
            return  # It rests, and is due.
        actor = supervisor.actor
        assert isinstance(actor, DurableSupervisor)
        fact, unread = None, None
        if (
            entry.id not in actor.handed
        ):  # looked at again below: to read it may call the user's code, and takes no lock
            try:
                fact = read_entry(entry, registry_of(handler._link.workflow))
            except ContextSerdeError as error:
                unread = error
        with self._lock:
            if entry.id in actor.handed:
                return
            actor.handed.add(entry.id)
            if fact is not None:
                supervisor.tell(FromInbox(fact, entry.id))  # in here, so that the order of arrival is kept
        if unread is not None:
            logger.error("what was posted for run '%s' cannot be read, and stays there: %s", entry.run_id, unread)

    def _take_orphans(self, workflows: Collection[str]) -> list[Handler]:
        handlers: list[Handler] = []
        while True:
            rows = self.store.orphans(list(workflows), PAGE)
            taken = self._acquire([row.run_id for row in rows])
            handlers += taken
            if len(rows) < PAGE or not taken:
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
        """Wake and take over no more runs of its own accord."""
        self._is_ending = True
        self._clock.stop(block=False)

    def close(self, seconds: float, error: RuntimeShutdownError) -> None:
        """Let go of the store, when the runs have been given back or `seconds` are over.

        A store that does not answer is left as it is: the lease ends by itself.
        """
        dispatcher = self._runtime.dispatcher
        deadline = dispatcher.now() + seconds
        self._heartbeat.stop(block=False)
        if not dispatcher.wait(self.journal.ask(Flush(), block=False), seconds / 2):
            # What is not committed will not be: those who wait for it are told, and whoever goes on begins before it.
            runs = list(self._runtime.runs.values())
            for handler in runs:
                handler.end(error)
            for handler in runs:
                dispatcher.wait(handler, max(0.0, deadline - dispatcher.now()) / 2)
        for reference in self._at_rest.valuerefs():
            at_rest = reference()
            if at_rest is not None and at_rest.supervisor is None:
                at_rest.end_at_rest(Outcome("cancelled", WorkflowCancelledEvent(), error), [WorkflowCancelledEvent()])
        closing: Future[None] = Future()
        dispatcher.execute(Unlimited(lambda: self._close(closing)))
        dispatcher.wait(_Waitable(closing), max(0.0, deadline - dispatcher.now()))

    def _close(self, closing: Future[None]) -> None:
        try:
            self._unwatch()
            with self._renewing:
                self._closed = True
                self.store.resign(self.owner)
            self.store.close()
        except StoreError as error:
            logger.warning("the store failed as it was closed; the lease ends by itself: %r", error)
        finally:
            closing.set_result(None)


class _Waitable:
    """A future, as a dispatcher waits for it."""

    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    def is_done(self) -> bool:
        return self._future.done()

    def block(self, timeout: float | None) -> None:
        wait([self._future], timeout)


def _where(row: RunRow) -> str:
    if row.status in ENDED:
        return f"it has ended as {row.status}; of its past only the result, the status and the stream are kept"
    if row.status != "running":
        return f"it is {row.status}" + (f", {row.reason}" if row.reason else "")
    return f"it is held by {row.owner}"

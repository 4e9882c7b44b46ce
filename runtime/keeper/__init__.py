"""The keeper of durable runs: what a runtime does with its store beside committing.

Its parts, one idea each, and what protects what. No lock is held while another is asked for, so their order does not
matter; and none but the lease's is held while the store is called, which may take as long as it likes.

- `lease`: the lease is prolonged and ended. `Lease._renewing` protects when it is over.
- `takeover`: runs are made, taken over and woken. `Takeover._lock` protects which runs are just being taken, and which
  may be ours without being at work.
- `at_rest`: the handlers of runs that rest. No lock: single operations on dicts.
- `posted`: what other processes have posted is handed on. `Posted._handing` protects what each supervisor was handed.
- `lookout`: the look around, again and again. No lock: the ticker takes one look at a time.
- `questions`: the open questions, as the store has them. No state.
- `elsewhere`: answers and events for runs that another runtime has. No state.

Every method but those that supervisors call may block in the store, and is called on a thread that may: the user's, or
one of the dispatcher's.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from greenroom.actors.base import Ref, Reply
from greenroom.actors.dispatcher import Unlimited
from greenroom.actors.durable import question_row
from greenroom.actors.journal import Flush, JournalActor
from greenroom.actors.ticker import Ticker, TickNow
from greenroom.checkpoint import dump_checkpoint
from greenroom.codec import TypeRegistry
from greenroom.errors import (
    InputAnsweredError,
    InputExpiredError,
    RunHeldError,
    RuntimeShutdownError,
    StoreError,
    WorkflowRuntimeError,
)
from greenroom.events import Event
from greenroom.facts import RunResumed, RunStarted
from greenroom.inbox import post_cancel
from greenroom.inputs import PendingInput
from greenroom.journal import encode_fact, pack_record
from greenroom.keeper.at_rest import AtRest, run_held
from greenroom.keeper.elsewhere import answer_elsewhere, send_elsewhere
from greenroom.keeper.lease import Lease
from greenroom.keeper.lookout import Lookout
from greenroom.keeper.posted import Posted
from greenroom.keeper.questions import stored_questions
from greenroom.keeper.takeover import Takeover, Waitable
from greenroom.log_fields import log_fields
from greenroom.ports import HasGraph
from greenroom.run_state import RunState, all_questions
from greenroom.stores import ENDED, FIRST_FENCE, Commit, InputRow, NewRun, RunStore
from greenroom.stores.sharing import close_shared, open_shared

if TYPE_CHECKING:
    from greenroom.handler import Handler
    from greenroom.runtime import Runtime
    from greenroom.workflow import Workflow

__all__ = ["Durability", "RunKeeper"]

logger = logging.getLogger("greenroom.durable")

POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Durability:
    """How a runtime keeps its runs.

    Attributes:
        is_sync: Whether what follows from a fact waits for its commit.
        flush_interval: Seconds for which commits that nobody waits for are gathered.
        idle_timeout: Seconds after which a run that does nothing leaves memory, or None for never.
        lease: Seconds for which the runs of a process that has died stay its own.
        retention: Seconds for which the results of runs that have ended are kept, or None for ever.
        poll: Seconds between two looks around; infinite for looks only when there is something. None as it is usual.
    """

    is_sync: bool
    flush_interval: float
    idle_timeout: float | None
    lease: float
    retention: float | None
    poll: float | None = None


class RunKeeper:
    """Keeps the durable runs of one runtime in one store.

    Attributes:
        store: Where the runs are.
        lease: Under which they are held.
        journal: The actor that commits.
        takeover: Makes and wakes runs.
        lookout: Looks around again and again.
        offset: Seconds since the epoch at which the dispatcher's clock stands at 0.
    """

    def __init__(self, runtime: Runtime, store: RunStore, durability: Durability) -> None:
        """Open the store and begin to hold runs in it.

        Raises:
            StoreError: If the store cannot be opened.
        """
        open_shared(store)
        dispatcher = runtime.dispatcher
        self.store = store
        self.is_sync = durability.is_sync
        self.idle_timeout = durability.idle_timeout
        self.offset = dispatcher.wall_time().timestamp() - dispatcher.now()
        self.journal: Ref = JournalActor.start(dispatcher, store, durability.flush_interval)
        self._runtime = runtime
        self._workflows: dict[str, Workflow] = {}
        self._at_rest = AtRest(runtime, store)
        self.lease = Lease(store, durability.lease, dispatcher.now, runtime.runs)
        poll = POLL_SECONDS if durability.poll is None else durability.poll
        posted = Posted()
        self.takeover = Takeover(runtime, store, self.lease.owner, self._workflows, self._at_rest, posted)
        self.lookout = Lookout(
            store,
            self.lease,
            self._workflows,
            runtime.runs,
            self.takeover,
            self._at_rest,
            posted,
            self.now,
            durability.retention,
            poll,
        )
        self._heartbeat: Ref = Ticker.start(dispatcher, durability.lease / 3, self.lease.renew)
        self._clock: Ref = Ticker.start(dispatcher, poll, self.lookout.look)
        self._is_told = math.isinf(poll)  # whether the clock does not tick by itself
        self._unwatch = store.watch(lambda: self._clock.tell(TickNow()))

    def now(self) -> float:
        """Return the time of the clock of durable runs: seconds since the epoch, that never go back."""
        return self._runtime.dispatcher.now() + self.offset

    # -- runs that begin -----------------------------------------------------------------------------------------------

    def know(self, workflow: Workflow) -> None:
        """Note a workflow, so that its runs can be found by name."""
        if self._workflows.setdefault(workflow.workflow_name, workflow) is workflow and self._is_told:
            self._clock.tell(TickNow())

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
        first = Commit(
            state.run_id,
            FIRST_FENCE,
            # One that goes on from another run has its offsets and its questions.
            new=NewRun(workflow.workflow_name, self.lease.owner, next_offset=state.published),
            opened=[question_row(question, state.run_id, registry) for question in all_questions(state)],
            snapshot=(0, dump_checkpoint(state, now, registry)),
            records=[(0, pack_record(now, encode_fact(beginning, registry)))],
        )
        self.takeover.make(first, handler)

    # -- runs that are there already -----------------------------------------------------------------------------------

    def get(self, run_id: str, of: str | None = None) -> Handler | None:
        """Return the handler of a run: one at work here, one that rests or has ended, or None if there is none.

        Args:
            run_id: The run.
            of: The name of the workflow that it must be of; None for any that is known here.

        Raises:
            RunHeldError: If another process has it.
            WorkflowRuntimeError: If its workflow is not known here, or is another than `of`.
            StoreError: If the store failed.
        """
        handler = self.takeover.settled(run_id)
        if handler is not None:
            _check_workflow(run_id, handler._link.workflow.workflow_name, of)
            return handler
        row = self.store.row(run_id)
        if row is None:
            return None
        _check_workflow(run_id, row.workflow, of)
        workflow = self._workflows.get(row.workflow)
        if workflow is None:
            raise WorkflowRuntimeError(
                f"run '{run_id}' is of {row.workflow}, which this runtime does not know: give it to"
                " runtime.recover([...]) first"
            )
        if row.status in ENDED:
            return self._at_rest.ended_handler(workflow, row)
        if row.status == "set_aside":
            raise WorkflowRuntimeError(f"run '{run_id}' was set aside: {row.reason}")
        if row.owner is not None and row.owner != self.lease.owner and self.lease.is_alive(row.owner):
            raise run_held(run_id, row.owner)
        return self.wake(run_id)

    def recover(self, workflows: Iterable[Workflow]) -> list[Handler]:
        """Go on with all runs of these workflows whose process has died, now and from now on."""
        known = {workflow.workflow_name: workflow for workflow in workflows}
        self._workflows.update(known)
        handlers = self.lookout.recover(known)
        if self._is_told:
            self._clock.tell(TickNow())
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
            hint = (
                ": it was begun by a program that defines the class itself, and only goes on in that; put workflows and"
                " events into a module"
                if row.workflow.startswith("__main__.")
                else ""
            )
            raise WorkflowRuntimeError(f"run '{run_id}' is of {row.workflow}, not of {workflow.workflow_name}{hint}")
        self.know(workflow)
        self.lease.end_those_of_the_dead()
        return self._at_rest.ended_handler(workflow, row) if row.status in ENDED else self.wake(run_id)

    def wake(self, run_id: str) -> Handler:
        """Bring a run that rests, or whose process has died, to work; see `Takeover.wake`."""
        return self.takeover.wake(run_id)

    def questions(self, run_id: str | None = None) -> Iterator[PendingInput]:
        """Return the open questions in the store, of one run or of all whose workflows are known here.

        Raises:
            StoreError: If the store failed.
        """
        return stored_questions(self.store, self._workflows, run_id)

    def open_question(self, input_id: str) -> InputRow | None:
        """Return a question that is open in the store, or None if there never was one.

        Raises:
            InputError: If it is closed.
        """
        row = self.store.input(str(input_id))
        if row is not None and row.closed == "expired":
            raise InputExpiredError(f"question '{input_id}' was given up: nobody had answered in time")
        if row is not None and row.closed is not None:
            raise InputAnsweredError(f"question '{input_id}' is no longer asked: it was {row.closed}")
        return row

    def answer(self, input_id: str, response: Event | Mapping[str, Any]) -> bool:
        """Answer a question that is open in the store, wherever its run is; return False if there is no such question.

        Raises:
            InputError: If it is closed, or the answer does not fit.
        """
        row = self.open_question(input_id)
        if row is None:
            return False
        try:
            handler = self.get(row.run_id)
            if handler is not None:
                handler.answer_question(input_id, response)
        except RunHeldError:  # It may have had its rest here, and be at work there.
            answer_elsewhere(self.store, self._workflows[row.workflow], row, response)
            return True
        return handler is not None

    def send(self, run_id: str, event: Event, dedup_key: str | None) -> None:
        """Send an event to a run that another process has."""
        send_elsewhere(self.store, self._workflow_of(run_id), run_id, event, dedup_key)

    def cancel(self, run_id: str) -> None:
        """Ask for the end of a run that another process has."""
        post_cancel(self.store, run_id)

    def _workflow_of(self, run_id: str) -> Workflow:
        row = self.store.row(run_id)
        if row is None:
            raise WorkflowRuntimeError(f"there is no run '{run_id}'")
        return self._workflows[row.workflow]

    def earlier_events(self, run_id: str, after: int, before: int, workflow: HasGraph) -> list[Event]:
        """Return the events of a run after one offset and before another, from the store."""
        return self._at_rest.earlier_events(run_id, after, before, workflow)

    def keep(self, handler: Handler) -> None:
        """Hold on to a handler until its run has ended: somebody is told of that."""
        self._at_rest.keep(handler)

    # -- called by supervisors, in their turns -------------------------------------------------------------------------

    def holds_lease(self) -> bool:
        """Return whether the lease goes on for certain, so that no other process can have a run of ours."""
        return self.lease.goes_on()

    def rested(self, run_id: str, published: int, late: list[tuple[Any, Reply | None]]) -> None:
        """Take note that a run was put to rest, and see to what came for it meanwhile."""
        self._at_rest.enter(run_id, published)
        if late:
            self.redeliver(run_id, late)
        if self._is_told:
            self._clock.tell(TickNow())

    def redeliver(self, run_id: str, late: list[tuple[Any, Reply | None]]) -> None:
        """Have what came for a run that rests handed to the supervisor that it is woken with."""
        self.takeover.redeliver(run_id, late)

    def let_go(self, handler: Handler) -> None:
        """Take note that a run has ended."""
        self._at_rest.let_go(handler)

    # -- the end -------------------------------------------------------------------------------------------------------

    def prepare_end(self) -> None:
        """Wake and take over no more runs of its own accord."""
        self.lookout.is_ending = True
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
        self._at_rest.end_all(error)
        closing: Future[None] = Future()
        dispatcher.execute(Unlimited(lambda: self._close(closing)))
        dispatcher.wait(Waitable(closing), max(0.0, deadline - dispatcher.now()))

    def _close(self, closing: Future[None]) -> None:
        try:
            self._unwatch()
            try:
                self.lease.end()
            finally:
                close_shared(self.store)
        except StoreError as error:
            logger.warning("the store failed as it was closed; the lease ends by itself: %r", error, extra=log_fields())
        finally:
            closing.set_result(None)


def _check_workflow(run_id: str, name: str, wanted: str | None) -> None:
    if wanted not in (None, name):
        raise WorkflowRuntimeError(f"run '{run_id}' is there already, and is of {name}, not of {wanted}")

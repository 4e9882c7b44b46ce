"""The supervisor of a durable run: nothing follows from a fact before the journal has it.

Facts are applied as they come; what they lead to is held until the store has committed them. Bodies encode what they
tell on their own threads. All attributes belong to the supervisor's turn.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable
from contextvars import Context as Variables
from itertools import islice
from typing import Any, NamedTuple

from pykka._envelope import Envelope

from greenroom.actors.base import Ref, Reply
from greenroom.actors.dispatcher import Dispatcher
from greenroom.actors.journal import CommitAsked, Committed, Refused
from greenroom.actors.parking import Parking
from greenroom.actors.resting import IDLE, Ledger, RestingSupervisor
from greenroom.actors.supervisor import TimerDue
from greenroom.checkpoint import dump_checkpoint
from greenroom.child_facts import ForChild
from greenroom.codec import TypeRegistry, encode
from greenroom.effects import Answer, AskPerson, Effect, Finish, Publish
from greenroom.errors import (
    ContextSerdeError,
    GreenroomError,
    LeaseLostError,
    RuntimeShutdownError,
    StaleOwnerError,
    StoreError,
)
from greenroom.facts import (
    BecameQuiet,
    CancelAsked,
    CollectAsked,
    DrainAsked,
    EventArrived,
    Fact,
    Failed,
    Finished,
    Inspect,
    OnceAsked,
    OnceDone,
    Responded,
    TimerFired,
)
from greenroom.journal import encode_fact, is_recorded, pack_record
from greenroom.run_state import RunState, as_taken
from greenroom.state import StoreCall
from greenroom.stores import Commit, InputRow
from greenroom.waits import OpenInput

__all__ = ["Begin", "DurableSupervisor", "FromInbox", "Kept", "LeaseDoubted", "Recorded", "question_row"]

logger = logging.getLogger("greenroom.journal")

CHECKPOINT_BYTES = 64 * 1024
_AWAITED = frozenset({EventArrived, Responded, OnceDone})


def _is_awaited(fact: Fact) -> bool:
    """Return whether whoever told a fact waits for its commit."""
    return type(fact.fact if isinstance(fact, ForChild) else fact) in _AWAITED


class Recorded(NamedTuple):
    """A fact and its bytes for the journal, which its sender has made."""

    fact: Fact
    data: bytes


class Begin(NamedTuple):
    """The run begins with a fact that the journal has already.

    Attributes:
        fact: The fact.
        late: Whether the run has waited to begin: its times are other than the journal says.
    """

    fact: Fact
    late: bool


class LeaseDoubted(NamedTuple):
    """The lease had run out: another process may hold the run now. The store is to say."""


class FromInbox(NamedTuple):
    """A fact that another process has put into the run's inbox. It stays there until the journal has the fact."""

    fact: Fact
    entry: int


class Kept(NamedTuple):
    """How a run is kept in the store.

    Attributes:
        registry: The classes whose instances the run may contain.
        fence: Tells its owner from those before.
        next_seq: The number of the next record of its journal.
    """

    registry: TypeRegistry
    fence: int
    next_seq: int


class JournalingRef(Ref):
    """The address of a durable supervisor. Facts are encoded by whoever tells them."""

    def __init__(self, actor: DurableSupervisor, registry: TypeRegistry) -> None:
        super().__init__(actor)
        self._registry = registry

    def tell(self, message: Any) -> None:
        """Send a fact. What a step has returned and cannot be encoded is the step's failure."""
        try:
            self.actor.put(self._recorded(message))
        except ContextSerdeError as error:
            fact = message.fact if type(message) is ForChild else message
            if type(fact) is not Finished:
                raise
            failed = Failed(fact.invocation, fact.attempt, error, self.actor.dispatcher.wall_time())
            super().tell(self._recorded(ForChild(message.path, failed) if fact is not message else failed))

    def ask(self, message: Any, *, block: bool = True, timeout: float | None = None) -> Any:
        """Send a fact and wait for the answer, which comes when the fact is committed."""
        return super().ask(self._recorded(message), block=block, timeout=timeout)

    def forward(self, message: Any, reply: Reply | None) -> None:
        """Send on what another supervisor had been asked or told."""
        recorded = self._recorded(message)
        self.actor.put(recorded if reply is None else Envelope(recorded, reply_to=reply))

    def _recorded(self, message: Any) -> Any:
        return Recorded(message, encode_fact(message, self._registry)) if is_recorded(message) else message


_FROM_OUTSIDE = (EventArrived, Responded, StoreCall)
_ASK_POLICIES = frozenset({Failed, TimerFired})


class DurableSupervisor(RestingSupervisor):
    """Owns a run, and has the journal keep it.

    Attributes:
        handed: The inbox entries that it was handed. `greenroom.keeper.posted` alone uses it, under its lock.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        state: RunState,
        functions: Callable[[str], Callable[..., Any]],
        variables: Variables,
        parking: Parking,
        ledger: Ledger,
        kept: Kept,
    ) -> None:
        """Make the actor.

        Args:
            dispatcher: Gives turns, threads and time.
            state: The run.
            functions: Returns the function of a step by its name, bound to the workflow.
            variables: The context variables of whoever called `run()`.
            parking: Where bodies that wait are counted.
            ledger: The place where the run is kept.
            kept: How it is kept there.
        """
        super().__init__(dispatcher, state, functions, variables, parking)
        self._ledger = ledger
        self._registry, self._fence, self._next_seq = kept
        self._now = lambda: dispatcher.now() + ledger.offset
        self._clock_offset = ledger.offset
        self._data: bytes | None = None  # the bytes of the fact that is being taken in, if its sender has made them
        self._records: list[bytes] = []
        self._events: list[tuple[int, bytes]] = []
        self._opened: list[InputRow] = []
        self._taken: list[int] = []
        self._closed_known = len(state.inputs.closed)
        self._finish_effect: Finish | None = None
        self._urgent = False
        self._turn_effects: list[Effect] = []
        self._held: deque[list[Effect]] = deque()
        self._journal_bytes = 0
        self._checkpoint_bytes = 0
        self._checkpoint_due = False
        self._is_known = False  # whether the journal has the fact that is being taken in
        self._asks_store = False  # whether the store is to say that the run is still ours, if with nothing to write
        self._is_doubted = False
        self.handed: set[int] = set()

    @property
    def actor_ref(self) -> Ref:  # type: ignore[override]
        """An address that encodes the facts that it is told."""
        return JournalingRef(self, self._registry)

    def checkpoint_first(self) -> None:
        """Take a checkpoint with the first commit: what was journaled before was of another graph."""
        self._checkpoint_due = True

    # -- messages ------------------------------------------------------------------------------------------------------

    def on_receive(self, message: Any) -> None:
        """Take a fact in, or the end of a commit."""
        kind = type(message)
        if kind is Recorded:
            self._data = message.data
            message = message.fact
        elif kind is Committed:
            self._committed()
            return
        elif kind is LeaseDoubted:
            if self._begun and not (self._run_ended or self._resting or self._detached):
                self._asks_store = self._is_doubted = True
            return
        elif kind is Refused:
            self._lose(_why_lost(self._state.run_id, message.error))
            self._held.popleft()
            return
        if kind is DrainAsked or (kind is CancelAsked and isinstance(message.error, RuntimeShutdownError)):
            self._end_here(message.error, at_once=kind is CancelAsked)
        elif self._resting:
            self._data = None
            if kind is not TimerDue and kind is not FromInbox:  # The inbox has it still, and so the run is due.
                self._defer(message, None)
        elif kind is TimerDue and message.key == IDLE:
            self._timers.pop(IDLE, None)
            self._rest()
        elif kind is Begin:
            self._is_known, self._checkpoint_due = True, message.late
            super().on_receive(message.fact)
        elif not (self._begun or self._run_ended) and isinstance(_fact_in(message), _FROM_OUTSIDE):
            self._data = None
            self._early.append(message)  # Answered when it is committed, which is when the run has begun.
        elif kind is FromInbox:
            if self._state.outcome is None:  # else it stays in the inbox, where it is accounted for
                self._taken.append(message.entry)
                self._urgent = True
                super().on_receive(as_taken(self._state, message.fact))
        else:
            super().on_receive(message)

    def on_ask(self, message: Any, reply: Reply) -> None:
        """Take in a fact whose answer somebody waits for."""
        if self._resting and type(message) is Inspect:
            reply.set(message.read(self._state))  # It stays as it is, and is not woken to be looked at.
        elif self._resting:
            self._defer(message.fact if type(message) is Recorded else message, reply)
        elif self._lost is not None and type(message) is Inspect and message.is_told:
            # The state here may be ahead of the journal, for good: a question in it was never asked.
            reply.set_exception((type(self._lost), self._lost, None))
        elif type(message) is Inspect and message.is_told and self._ledger.is_sync and not self._detached:
            self._turn_effects.append(Answer(reply, message.read(self._state)))
        else:
            if type(message) is Recorded:
                self._data = message.data
                message = message.fact
            super().on_ask(message, reply)

    def on_turn_end(self) -> None:
        """Ask for the commit of what the turn has brought."""
        super().on_turn_end()
        # What nobody waits for is gathered while a commit is under way.
        at_once = self._ledger.is_sync or self._urgent or self._asks_store or not self._held
        if at_once and (self._records or self._taken or self._events or self._asks_store):
            self._ask_commit()
        elif self._turn_effects:
            # Nothing of the turn is for the journal: what follows from it waits for the commits before it.
            effects, self._turn_effects = self._turn_effects, []
            if self._held:
                self._held[-1].extend(effects)
            else:
                self._obey(effects)
        self._mind_rest()

    def on_rejected(self, message: Any) -> None:
        """Wake a run that has just gone to rest for the wish that it end."""
        fact = message.fact if type(message) is Recorded else message
        if type(fact) is CancelAsked and self._run_ended and self._state.outcome is None:
            self._defer(fact, None)
        else:
            super().on_rejected(message)

    def _serve_early(self) -> None:
        early, self._early = self._early, []
        for message in early:
            self.on_receive(message)

    # -- facts ---------------------------------------------------------------------------------------------------------

    def _apply(self, fact: Fact) -> None:
        data, self._data = self._data, None
        known, self._is_known = self._is_known, False
        now, kind = self._now(), type(fact)
        is_news = not (known or self._detached or self._state.outcome is not None)
        if not is_news:
            data = None
        elif data is None and kind is not BecameQuiet and is_recorded(fact):
            data = encode_fact(fact, self._registry)
        effects = self._take(fact, now)
        asked = fact.fact if type(fact) is ForChild else fact
        if data is not None and type(asked) in _ASK_POLICIES:
            data = encode_fact(fact, self._registry)  # with what the retry policy has said
        if kind is BecameQuiet:
            if not effects:
                return
            data = encode_fact(fact, self._registry) if is_news else None
        if data is not None:
            record = pack_record(now, data)
            self._records.append(record)
            self._journal_bytes += len(record)
            self._urgent = self._urgent or _is_awaited(fact)
        if data is not None or known:
            self._note(effects)
        if type(asked) is OnceAsked and (self._is_doubted or not self._ledger.holds_lease()):
            # What is done once is not begun by a process that was suspended while another took the run over.
            self._asks_store = not self._detached
        if self._detached or not (data is not None or self._asks_store or self._turn_effects or self._held):
            self._obey(effects)
        elif type(asked) is CollectAsked:
            # A coroutine asks it without awaiting, and a loop must not block. What the step then does by its context is
            # held behind it.
            self._obey(effects)
        elif self._ledger.is_sync:
            self._turn_effects += effects
        else:
            # What somebody waits for, who may tell it outside, is held; all else goes on.
            awaited = _is_awaited(fact) or (type(asked) is OnceAsked and self._asks_store)
            self._turn_effects += [e for e in effects if (awaited and type(e) is Answer) or type(e) is Finish]
            self._obey([e for e in effects if not ((awaited and type(e) is Answer) or type(e) is Finish)])

    def _note(self, effects: list[Effect]) -> None:
        """Note what the store is to know of what follows from a fact."""
        for effect in effects:
            if type(effect) is Publish:
                self._events.append((effect.offset, encode(effect.event, self._registry)))
            elif type(effect) is AskPerson:
                self._opened.append(question_row(effect.question, self._state.run_id, self._registry))
            elif type(effect) is Finish:
                self._finish_effect = effect
                self._urgent = True

    # -- commits -------------------------------------------------------------------------------------------------------

    def _ask_commit(self) -> None:
        state, records = self._state, self._records
        first, self._next_seq = self._next_seq, self._next_seq + len(records)
        commit = Commit(
            state.run_id,
            self._fence,
            records=list(enumerate(records, first)),
            events=self._events,
            opened=self._opened,
            closed=self._newly_closed(),
            taken=self._taken,
        )
        if self._finish_effect is not None:
            outcome = self._finish_effect.outcome
            commit.status = outcome.status
            commit.result = encode([outcome.event, outcome.error], self._registry)
            commit.reason = None if outcome.error is None else repr(outcome.error)
        elif self._checkpoint_due or self._journal_bytes > max(CHECKPOINT_BYTES, 4 * self._checkpoint_bytes):
            commit.snapshot = self._take_checkpoint()
        self._records, self._events, self._opened, self._taken = [], [], [], []
        effects, self._turn_effects = self._turn_effects, []
        self._held.append(effects)
        urgent = self._ledger.is_sync or self._urgent or self._asks_store
        self._urgent = self._asks_store = False
        self._ledger.journal.tell(CommitAsked(self, commit, urgent))

    def _take_checkpoint(self) -> tuple[int, bytes]:
        data = dump_checkpoint(self._state, self._now(), self._registry)
        self._journal_bytes, self._checkpoint_bytes, self._checkpoint_due = 0, len(data), False
        return self._next_seq, data

    def _newly_closed(self) -> list[tuple[str, str]]:
        closed = self._state.inputs.closed
        count = len(closed) - self._closed_known
        if not count:
            return []
        self._closed_known = len(closed)
        newest = [(input_id, str(how)) for input_id, how in islice(reversed(closed.items()), count)]
        return newest[::-1]

    def _committed(self) -> None:
        effects = self._held.popleft()
        self._obey(effects)
        if not self._held:
            self._is_doubted = False
            self._all_committed()

    # -- what leaving needs to know of the store -----------------------------------------------------------------------

    @property
    def _written(self) -> int:
        return self._next_seq + len(self._records)

    @property
    def _is_committing(self) -> bool:
        return bool(self._held or self._records)

    @property
    def _is_settled(self) -> bool:
        return not (self._held or self._records or self._turn_effects or self._asks_store)

    def _ask_last_commit(self, commit: Commit) -> None:
        self._held.append([])
        self._ledger.journal.tell(CommitAsked(self, commit, True))

    def _drop_held(self) -> list[Effect]:
        waiting = [effect for effects in self._held for effect in effects] + self._turn_effects
        self._held = deque([] for _ in self._held)
        self._turn_effects, self._records, self._events = [], [], []
        return waiting


def question_row(question: OpenInput, run_id: str, registry: TypeRegistry) -> InputRow:
    """Return a question as the store keeps it."""
    return InputRow(
        question.input_id,
        run_id,
        question.step,
        encode(question.request, registry),
        f"{question.response.__module__}:{question.response.__qualname__}",
        json.dumps(question.response.model_json_schema()),
        question.asked_at,
        question.expires_at,
    )


def _why_lost(run_id: str, refused: Exception) -> GreenroomError:
    if isinstance(refused, StaleOwnerError):
        return LeaseLostError(f"run '{run_id}' goes on in another process: {refused}")
    error = StoreError(
        f"run '{run_id}' is given up in this process, since the store cannot commit for it: {refused!r}. The store has"
        f" the run as of its last commit; once this is mended, runtime.get('{run_id}') goes on from there"
    )
    error.__cause__ = refused
    return error


def _fact_in(message: Any) -> Any:
    return message.fact if type(message) is FromInbox else message

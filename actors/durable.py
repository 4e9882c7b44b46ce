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
from typing import Any, NamedTuple, Protocol

from pykka._envelope import Envelope

from greenroom.actors.base import Ref, Reply
from greenroom.actors.dispatcher import Dispatcher
from greenroom.actors.journal import CommitAsked, Committed, Refused
from greenroom.actors.parking import Parking
from greenroom.actors.supervisor import RunSupervisor, TimerDue
from greenroom.checkpoint import dump_checkpoint
from greenroom.codec import TypeRegistry, encode
from greenroom.effects import Answer, AskPerson, Effect, Finish, Publish, SetTimer
from greenroom.errors import ContextSerdeError, LeaseLostError, RuntimeShutdownError
from greenroom.facts import (
    BecameQuiet,
    CancelAsked,
    CollectAsked,
    DrainAsked,
    EventArrived,
    Fact,
    Failed,
    Finished,
    ForChild,
    Inspect,
    OnceAsked,
    OnceDone,
    PassivateAsked,
    Recovered,
    Responded,
    RunResumed,
    TimerFired,
)
from greenroom.journal import encode_fact, is_recorded, pack_record
from greenroom.run_state import RunState, failed_outcome
from greenroom.state import StoreCall
from greenroom.stores import Commit, InputRow

__all__ = ["Begin", "DurableSupervisor", "FromInbox", "Kept", "LeaseDoubted", "Ledger", "Recorded"]

logger = logging.getLogger("greenroom.journal")

CHECKPOINT_BYTES = 64 * 1024
IDLE = ("idle",)
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


class Ledger(Protocol):
    """What a durable supervisor needs to know of the place where its run is kept."""

    journal: Ref
    is_sync: bool
    idle_timeout: float | None
    offset: float  # seconds since the epoch at which the dispatcher's clock stands at 0

    def holds_lease(self) -> bool:
        """Return whether the lease goes on for certain, so that no other process can have the run."""

    def rested(self, run_id: str, published: int, late: list[tuple[Any, Reply | None]]) -> None:
        """Take note that a run was put to rest, how many events its stream has had, and what came for it meanwhile.

        Called in the supervisor's turn.
        """

    def redeliver(self, run_id: str, late: list[tuple[Any, Reply | None]]) -> None:
        """Wake a run for what has come for it. Called in the supervisor's turn."""


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
_MAY_SET_RETRIES = frozenset({Failed, TimerFired, Recovered, RunResumed})


class DurableSupervisor(RunSupervisor):
    """Owns a run, and has the journal keep it.

    Attributes:
        handed: The inbox entries that it was handed. The keeper alone uses it, under its lock.
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
        self._resting = False
        self._detached = False
        self._late: list[tuple[Any, Reply | None]] = []
        self._retrying = 0  # invocations in the delay before a retry
        self._asks_store = False  # whether the store is to say that the run is still ours, if with nothing to write
        self._is_doubted = False
        self.handed: set[int] = set()
        self._shutdown: BaseException | None = None  # given back with this error as soon as it rests
        self._leaves_with: BaseException | None = None  # given back with this error as soon as all is committed

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
            lost = LeaseLostError(f"run '{self._state.run_id}' goes on in another process: {message.error}")
            self._lose(lost)
            self._held.popleft()
            return
        if kind is DrainAsked or (kind is CancelAsked and isinstance(message.error, RuntimeShutdownError)):
            self._end_here(message.error, at_once=kind is CancelAsked)
        elif self._resting:
            self._data = None
            if kind is not TimerDue:
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
                super().on_receive(message.fact)
        else:
            super().on_receive(message)

    def on_ask(self, message: Any, reply: Reply) -> None:
        """Take in a fact whose answer somebody waits for."""
        if self._resting:
            self._defer(message.fact if type(message) is Recorded else message, reply)
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
        if self._retrying and self._only_waits and self._begun and self.empty() and not self._resting:
            if self._shutdown is not None:
                self._end_here(self._shutdown, at_once=False)
            elif self._state.timeout is None:
                self._mind_idleness(self._now())  # With a timeout the delay is part of the time that it takes.
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
        if kind in _MAY_SET_RETRIES:
            self._count_retries(fact, effects)
        elif kind is BecameQuiet:
            if self._shutdown is not None and not effects:
                self._end_here(self._shutdown, at_once=False)
                return
            self._mind_idleness(now)
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

    def _count_retries(self, fact: Fact, effects: list[Effect]) -> None:
        if type(fact) is Recovered:
            self._retrying = 0
        elif type(fact) is TimerFired and fact.key[0] == "retry":
            self._retrying -= 1
        self._retrying += sum(type(effect) is SetTimer and effect.key[0] == "retry" for effect in effects)

    @property
    def _only_waits(self) -> bool:
        """Whether nothing is queued or in flight, so that only the outside or a timer can go on: a retry's as well."""
        state = self._state
        if state.outcome is not None or state.children or not self._retrying:
            return state.is_quiet
        return len(state.invocations) == state.parked + self._retrying

    def _note(self, effects: list[Effect]) -> None:
        """Note what the store is to know of what follows from a fact."""
        for effect in effects:
            if type(effect) is Publish:
                self._events.append((effect.offset, encode(effect.event, self._registry)))
            elif type(effect) is AskPerson:
                question = effect.question
                self._opened.append(
                    InputRow(
                        question.input_id,
                        self._state.run_id,
                        question.step,
                        encode(question.request, self._registry),
                        f"{question.response.__module__}:{question.response.__qualname__}",
                        json.dumps(question.response.model_json_schema()),
                        question.asked_at,
                        question.expires_at,
                    )
                )
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
        if self._held:
            return
        self._is_doubted = False
        if self._resting:
            self._leave()
        elif self._leaves_with is not None and not self._records:
            self._give_back(self._leaves_with)

    # -- rest ----------------------------------------------------------------------------------------------------------

    def _mind_idleness(self, now: float) -> None:
        """Set the time at which a run that does nothing leaves memory."""
        may_rest = self._state.outcome is None and not self._state.children and not self._detached
        if self._ledger.idle_timeout is not None and may_rest:
            self._set_timer(SetTimer(IDLE, now + self._ledger.idle_timeout))

    def _rest(self) -> None:
        """Put the run to rest in the store, if it still does nothing."""
        state = self._state
        if not self._only_waits or state.children or self._run_ended or self._detached:
            return
        if self._held or self._records or self._turn_effects or self._asks_store:
            return  # It is idle again when that is committed.
        for invocation in list(state.invocations.values()):
            if invocation.is_live:
                # Its body is unwound; what follows is part of the checkpoint.
                self._obey(self._take(PassivateAsked(invocation.number, invocation.attempt), self._now()))
        self._resting = True
        commit = Commit(
            state.run_id, self._fence, snapshot=self._take_checkpoint(), release=True, wake_at=state.next_due()
        )
        self._held.append([])
        self._ledger.journal.tell(CommitAsked(self, commit, True))

    def _defer(self, message: Any, reply: Reply | None) -> None:
        """Keep what comes for a run that rests, for the supervisor that it is woken with."""
        if type(message) is FromInbox:
            return  # The inbox has it still, and so the run is due.
        if reply is None and type(message) is not CancelAsked:
            self.dispatcher.dead_letter(self, message)  # of a body that was unwound: it will tell it again
        elif self._run_ended:
            self._ledger.redeliver(self._state.run_id, [(message, reply)])
        else:
            self._late.append((message, reply))

    def _leave(self) -> None:
        """The run is at rest: this supervisor has nothing more to do with it."""
        for _, timer in self._timers.values():
            self.dispatcher.drop_timer(timer)
        self._timers.clear()
        self._run_ended = True
        if self._cast.resources is not None:
            self._cast.resources.end()  # It is woken with others, here or elsewhere.
        late, self._late = self._late, []
        self._ledger.rested(self._state.run_id, self._state.published, late)
        self.stop()

    def _end_here(self, error: BaseException, *, at_once: bool) -> None:
        """End the run in this process only: at once, or when it comes to rest."""
        if self._run_ended or self._detached:
            return
        if not (at_once or self._only_waits):
            self._shutdown = error
        elif at_once and self._leaves_with is not None:
            self._let_go(error)  # It was told before, and the store has not committed since.
        elif self._resting or self._held or self._records:
            self._leaves_with = error
        else:
            self._give_back(error)

    def _give_back(self, error: BaseException) -> None:
        """Give the run back to the store as it is, for whoever goes on with it."""
        state = self._state
        if state.outcome is None:
            wake_at = state.next_due() if self._only_waits and self._begun else 0.0
            commit = Commit(state.run_id, self._fence, release=True, wake_at=wake_at)
            self._ledger.journal.tell(CommitAsked(self, commit, True))
            self._held.append([])
        self._let_go(error)

    def _let_go(self, error: BaseException) -> None:
        """End the run for those who hold on to it here; the journal keeps what it has."""
        self._detached, self._resting = True, False
        waiting = [effect for effects in self._held for effect in effects] + self._turn_effects
        self._held = deque([] for _ in self._held)
        self._turn_effects, self._records, self._events = [], [], []
        for effect in waiting:
            if type(effect) is Answer:
                self._obey([Answer(effect.asker, None, effect.error or error)])
            elif type(effect) is Finish:
                self._obey([Finish(failed_outcome(error))])
        if self._state.outcome is None:
            self._obey(self._take(CancelAsked(error), self._now()))
        late, self._late = self._late, []
        for _, reply in late:
            if reply is not None:
                reply.set_exception((type(error), error, None))

    def _lose(self, error: LeaseLostError) -> None:
        """Another process has the run."""
        if not self._run_ended and not self._detached:
            logger.error("%s", error, extra=self.log_fields())
            self._let_go(error)


def _fact_in(message: Any) -> Any:
    return message.fact if type(message) is FromInbox else message

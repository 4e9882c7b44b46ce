"""How a durable run leaves its process: to rest in its store, given back at the end of the process, or lost to another.

A run and the runs within it leave as one: they have one journal and one checkpoint, and rest when all of them only
wait. What the store is to have by then is the affair of `greenroom.actors.durable`, which says here whether it has it.
All attributes belong to the supervisor's turn.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

from greenroom.actors.base import Ref, Reply
from greenroom.actors.supervisor import RunSupervisor
from greenroom.child_facts import ForChild
from greenroom.effects import Answer, Effect, Finish, SetTimer
from greenroom.errors import GreenroomError
from greenroom.facts import CancelAsked, PassivateAsked
from greenroom.run_state import casts_within, failed_outcome, live_bodies
from greenroom.stores import Commit

__all__ = ["IDLE", "Ledger", "RestingSupervisor"]

logger = logging.getLogger("greenroom.journal")

IDLE = ("idle",)


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


class RestingSupervisor(RunSupervisor):
    """Owns a run that may leave this process and go on, here or elsewhere, with another supervisor.

    Attributes:
        _ledger: The place where the run is kept.
        _fence: Tells this owner of the run from those before.
    """

    _ledger: Ledger
    _fence: int

    def __init__(self, *parts: Any) -> None:
        """Make the actor.

        Args:
            *parts: As for `RunSupervisor`.
        """
        super().__init__(*parts)
        self._idle_since = 0  # how much was written when the time began to run after which it rests
        self._resting = False  # from the checkpoint that it rests with, until that is committed
        self._detached = False  # it goes on elsewhere: nothing more is written here
        self._lost: GreenroomError | None = None  # why it does not go on here
        self._late: list[tuple[Any, Reply | None]] = []
        self._shutdown: BaseException | None = None  # given back with this error as soon as it only waits
        self._leaves_with: BaseException | None = None  # given back with this error as soon as all is committed

    # -- what is said of the store -------------------------------------------------------------------------------------

    @property
    def _written(self) -> int:
        """How many records the journal has of the run, or is to have: it shows whether something has happened."""
        raise NotImplementedError

    @property
    def _is_committing(self) -> bool:
        """Whether the store does not have all yet that has happened."""
        raise NotImplementedError

    @property
    def _is_settled(self) -> bool:
        """Whether the store has all that has happened, and all that follows from it has been passed on."""
        raise NotImplementedError

    def _take_checkpoint(self) -> tuple[int, bytes]:
        """Return the run as it is, for a commit."""
        raise NotImplementedError

    def _ask_last_commit(self, commit: Commit) -> None:
        """Have the commit made with which the run leaves."""
        raise NotImplementedError

    def _drop_held(self) -> list[Effect]:
        """Write nothing more; return what waits for a commit that may never be made."""
        raise NotImplementedError

    # -- rest ----------------------------------------------------------------------------------------------------------

    def _mind_rest(self) -> None:
        """See at the end of a turn whether the run only waits, so that it may leave now or in a while."""
        state = self._state
        if not (state.only_waits and self._begun and self.empty()) or self._resting or self._detached:
            return
        if self._shutdown is not None:
            self._end_here(self._shutdown, at_once=False)
        elif self._ledger.idle_timeout is not None and not self._spends_time:
            if IDLE in self._timers and self._written == self._idle_since:
                return  # Somebody has only looked at it.
            self._idle_since = self._written
            self._set_timer(SetTimer(IDLE, self._now() + self._ledger.idle_timeout))

    @property
    def _spends_time(self) -> bool:
        """Whether a timeout counts the delay before a retry, which only a run in memory can see to."""
        state = self._state
        return state.is_at_work and state.spends_time

    def _rest(self) -> None:
        """Put the run to rest in the store, if it still does nothing."""
        state = self._state
        if not state.only_waits or self._spends_time or self._run_ended or self._detached:
            return
        if not self._is_settled:
            return  # It is idle again when that is committed.
        for path, invocation in live_bodies(state):
            # Its body is unwound; what follows is part of the checkpoint.
            unwound = PassivateAsked(invocation.number, invocation.attempt)
            self._obey(self._take(ForChild(path, unwound) if path else unwound, self._now()))
        self._resting = True
        checkpoint = self._take_checkpoint()
        self._ask_last_commit(
            Commit(state.run_id, self._fence, snapshot=checkpoint, release=True, wake_at=state.next_due())
        )

    def _defer(self, message: Any, reply: Reply | None) -> None:
        """Keep what comes for a run that rests, for the supervisor that it is woken with."""
        if reply is None and type(message) is not CancelAsked:
            self.dispatcher.dead_letter(self, message)  # of a body that was unwound: it will tell it again
        elif self._run_ended:
            self._ledger.redeliver(self._state.run_id, [(message, reply)])
        else:
            self._late.append((message, reply))

    def _all_committed(self) -> None:
        """The store has all that it was asked to commit: the run leaves, if it waited for that."""
        if self._resting:
            self._leave()
        elif self._leaves_with is not None and not self._is_committing:
            self._give_back(self._leaves_with)

    def _leave(self) -> None:
        """The run is at rest: this supervisor has nothing more to do with it."""
        for _, timer in self._timers.values():
            self.dispatcher.drop_timer(timer)
        self._timers.clear()
        self._run_ended = True
        for cast in (self._cast, *casts_within(self._state)):
            if cast.resources is not None:
                cast.resources.end()  # It is woken with others, here or elsewhere.
        late, self._late = self._late, []
        self._ledger.rested(self._state.run_id, self._state.published, late)
        self.stop()

    # -- an end that is one here only ----------------------------------------------------------------------------------

    def _end_here(self, error: BaseException, *, at_once: bool) -> None:
        """End the run in this process only: at once, or when it only waits."""
        if self._run_ended or self._detached:
            return
        if not (at_once or self._state.only_waits):
            self._shutdown = error
        elif at_once and self._leaves_with is not None:
            self._let_go(error)  # It was told before, and the store has not committed since.
        elif self._resting or self._is_committing:
            self._leaves_with = error
        else:
            self._give_back(error)

    def _give_back(self, error: BaseException) -> None:
        """Give the run back to the store as it is, for whoever goes on with it."""
        state = self._state
        if state.outcome is None:
            wake_at = state.next_due() if state.only_waits and self._begun else 0.0
            self._ask_last_commit(Commit(state.run_id, self._fence, release=True, wake_at=wake_at))
        self._let_go(error)

    def _let_go(self, error: BaseException) -> None:
        """End the run for those who hold on to it here; the journal keeps what it has."""
        self._detached, self._resting = True, False
        for effect in self._drop_held():
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

    def _lose(self, error: GreenroomError) -> None:
        """The run cannot go on here: another process has it, or the store has a fault."""
        if not self._run_ended and not self._detached:
            logger.error("%s", error, extra=self.log_fields())
            self._lost = error
            self._let_go(error)

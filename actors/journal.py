"""The journal of a runtime: commits what its durable runs ask for, many runs in one transaction.

The actor's turn only gathers. The store blocks, so each transaction is a body on a thread of the dispatcher; while one
is under way the next is gathered, and so the busier the runs are the more of them share a transaction. `_waiting` and
`_flushing` are touched by the turn alone; the body is handed a list of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from greenroom.actors.base import PooledActor, Reply
from greenroom.actors.dispatcher import Dispatcher, Timer, Unlimited
from greenroom.actors.mailbox import Mailbox
from greenroom.errors import StoreBusyError, StoreFullError, StoreReadOnlyError, StoreUnavailableError
from greenroom.log_fields import log_fields
from greenroom.stores import Commit, RunStore

__all__ = ["CommitAsked", "Committed", "Flush", "JournalActor", "Refused"]

logger = logging.getLogger("greenroom.journal")

RETRY_SECONDS = 0.05
MAX_RETRY_SECONDS = 5.0
# What may pass by itself, or by what an operator does. Anything else would fail again.
_MAY_PASS = (StoreUnavailableError, StoreBusyError, StoreFullError, StoreReadOnlyError)


class CommitAsked(NamedTuple):
    """A supervisor wants something committed. Answered with `Committed` or `Refused`, in the order asked.

    Attributes:
        asker: Who asks.
        commit: What.
        urgent: Whether somebody waits for it. What nobody waits for may be gathered for longer.
    """

    asker: Mailbox
    commit: Commit
    urgent: bool


class Committed(NamedTuple):
    """The oldest commit of a supervisor that was not answered yet is done."""


_COMMITTED = Committed()


class Refused(NamedTuple):
    """A commit of a supervisor will not be done: the run is not its own any more, or the store has a fault."""

    error: Exception


class Flush(NamedTuple):
    """Asks to be answered when all that was asked before is committed."""


class _FlushDue(NamedTuple):
    pass


class _Transaction(Unlimited):
    """A group commit, and then the message that it has ended.

    It is reported after the body, so that what follows from it may stay on the thread.

    Attributes:
        batch: What to commit.
        results: Why each was refused, or None; itself None if the journal is to try again.
        error: Why it is.
    """

    label = "greenroom-journal"

    def __init__(self, journal: JournalActor, store: RunStore, batch: list[CommitAsked]) -> None:
        self._journal = journal
        self._store = store
        self.batch = batch
        self.results: Sequence[Exception | None] | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            try:
                results = self._store.commit([asked.commit for asked in self.batch])
                if len(results) != len(self.batch):
                    raise ValueError(f"the store has answered {len(results)} of {len(self.batch)} commits")
                self.results = results
            except Exception as error:
                if isinstance(error, _MAY_PASS):
                    raise
                self.results = self._commit_one_by_one()
        except BaseException as error:
            # The journal tries again.
            self.error = error

    def _commit_one_by_one(self) -> list[Exception | None]:
        """Find out which runs it is that the store has failed for: the others share nothing but the transaction.

        A commit that is done already is not done twice.
        """
        failed: dict[str, Exception] = {}
        results: list[Exception | None] = []
        for _, commit, _ in self.batch:
            result: Exception | None = failed.get(commit.run_id)
            if result is None:
                try:
                    (result,) = self._store.commit([commit])
                except Exception as error:
                    if isinstance(error, _MAY_PASS):
                        raise
                    what = "the store has failed for run '%s', which is given up here"
                    logger.exception(what, commit.run_id, extra=log_fields(commit.run_id))
                    result = failed[commit.run_id] = error
            results.append(result)
        return results

    def report(self) -> None:
        self._journal.put(self)


class JournalActor(PooledActor):
    """Commits for the supervisors of a runtime.

    While the store is locked, full or out of reach the runs wait, and it is tried again. Any other failure is a fault
    that does not pass: the runs that it strikes are refused.
    """

    def __init__(self, dispatcher: Dispatcher, store: RunStore, flush_interval: float) -> None:
        """Make the actor.

        Args:
            dispatcher: Gives threads to the transactions.
            store: Where to commit.
            flush_interval: Seconds within which a fact that nobody waits for is committed.
        """
        super().__init__(dispatcher)
        self._store = store
        # Half is for the commit of its run that a fact may find under way.
        self._gather_seconds = flush_interval / 2
        self._waiting: list[CommitAsked] = []
        self._flushing = False
        self._urgent = False
        self._timer: Timer | None = None
        self._failures = 0
        self._waiters: list[Reply] = []

    def on_receive(self, message: Any) -> None:
        """Gather a commit, or take the end of a transaction."""
        if type(message) is CommitAsked:
            self._waiting.append(message)
            self._urgent = self._urgent or message.urgent
        elif type(message) is _Transaction:
            self._take_end(message)
        else:
            self._timer = None
            self._urgent = True

    def on_ask(self, message: Flush, reply: Reply) -> None:
        """Answer when nothing is left to commit."""
        self._waiters.append(reply)
        self._urgent = True

    def on_turn_end(self) -> None:
        """Begin a transaction, or see to it that one begins in time."""
        if self._flushing or self._timer is not None:
            if self._urgent and self._timer is not None and not self._failures:
                self.dispatcher.drop_timer(self._timer)
                self._timer = None
            else:
                return
        if not self._waiting:
            self._urgent = False
            waiters, self._waiters = self._waiters, []
            for reply in waiters:
                reply.set(None)
        elif self._urgent:
            self._begin()
        else:
            self._set_timer(self._gather_seconds)

    def _begin(self) -> None:
        batch, self._waiting = self._waiting, []
        self._flushing, self._urgent = True, bool(self._waiters)
        self.dispatcher.execute(_Transaction(self, self._store, batch))

    def _take_end(self, end: _Transaction) -> None:
        self._flushing = False
        if end.results is None:
            # The runs wait where they are: nothing that follows from what is not committed has been done.
            delay = min(MAX_RETRY_SECONDS, RETRY_SECONDS * 2**self._failures)
            self._failures += 1
            if self._failures in (1, 10) or self._failures % 100 == 0:
                logger.warning(
                    "the store cannot commit for %d durable runs, which wait for it; trying again in %.2f s: %r",
                    len({asked.commit.run_id for asked in end.batch}),
                    delay,
                    end.error,
                    extra=self.log_fields(),
                )
            self._waiting[:0] = end.batch
            self._urgent = True
            self._set_timer(delay)
            return
        if self._failures:
            logger.warning("the store commits again", extra=self.log_fields())
            self._failures = 0
        for asked, error in zip(end.batch, end.results, strict=True):
            asked.asker.put_control(_COMMITTED if error is None else Refused(error))

    def _set_timer(self, seconds: float) -> None:
        self._timer = self.dispatcher.set_timer(self.dispatcher.now() + seconds, self.actor_ref, _FlushDue())

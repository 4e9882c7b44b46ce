"""What every store can do.

A store keeps rows and bytes; what the bytes mean is not its affair. Every method blocks, and any thread may call it.
Every method raises a `StoreError` when the store cannot do it, and then nothing of it was done; the one exception is
`StoreUnavailableError`, see there.

**Owners.** An owner is a process at work: a name that no other process has or ever had. It holds runs for as long as
its lease lasts, which it prolongs with `renew` for all its runs at once. When the lease is over its runs are orphans,
and `acquire` gives them to another owner with a higher fence. Leases only say when a takeover may be tried, by the
store's clock; it is the fence that refuses the writes of the former owner. So a clock that jumps forward costs a
takeover, one that jumps back delays it, and neither lets two owners write.

**Runs** are held by an owner, or at rest, or no longer running. A run at rest has been given back by its owner with
`Commit.release`: it only waits, and becomes due when its `wake_at` has come or something was posted for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from greenroom.errors import StoreError
from greenroom.stores.rows import Commit, InboxEntry, InputRow, Loaded, RunRow, Status

__all__ = ["RunStore"]


class RunStore(Protocol):
    """Keeps runs."""

    def open(self) -> None:
        """Make or migrate the schema. It may be called again, and by several processes at once.

        Raises:
            StoreVersionError: If the store was written by a newer Greenroom or is not one of ours.
        """

    def close(self) -> None:
        """Give back what the store holds in this process. It can be opened again."""

    # Owners

    def renew(self, owner: str, seconds: float) -> bool:
        """Let the lease of an owner end `seconds` from now.

        Returns:
            False if its lease had run out before: some of its runs may have been taken over; `held` tells which it has.
        """
        ...

    def resign(self, owner: str) -> None:
        """End the lease of an owner at once: what it still holds are orphans now."""

    def held(self, owner: str) -> dict[str, int]:
        """The fences of all runs that an owner holds, by run id."""
        ...

    def owners(self) -> list[str]:
        """The owners that hold runs and whose lease is not over."""
        ...

    def create(self, run_id: str, workflow: str, owner: str) -> int | None:
        """Make a run and return its fence, or None if there is one of this id. `Commit.new` does it within a commit."""
        ...

    def acquire(self, run_ids: Collection[str], owner: str) -> dict[str, int]:
        """Take over those of the runs that run and that no other owner holds.

        A run that this owner holds already is given to it anew, with a higher fence: a process that does not know
        whether its call was carried out calls again. The process itself sees to it that it has one writer a run.

        Returns:
            The new fences by run id. Runs that are unknown, held by others or no longer running are not in it.
        """
        ...

    # Writing

    def commit(self, commits: Sequence[Commit]) -> list[StoreError | None]:
        """Commit for many runs in one transaction. Each commit is admitted or refused by itself, in the order given.

        Returns:
            For each commit None, or why it was refused: `StaleOwnerError`, `UnknownRunError`, `RunExistsError` or
            `JournalGapError`. What was refused left no trace, and the others are not touched by it.

        Raises:
            StoreError: If the store failed. None of the commits was done.
            StoreUnavailableError: If the store was lost on the way. Giving the same commits again is safe.
        """
        ...

    def post(self, run_id: str, kind: str, payload: bytes, dedup_key: str | None = None) -> bool:
        """Put something into the inbox of a run, from whichever process. It is committed on return.

        A run at rest is due from now on. Runs that were set aside keep what comes for when they are put back.

        Returns:
            False if something with this key was posted for the run before; nothing is done then.

        Raises:
            UnknownRunError: If there is no such run.
            RunEndedError: If it has ended.
        """
        ...

    def put_back(self, run_id: str) -> bool:
        """Let a run that was set aside run again: it is at rest and due. False if it was not set aside."""
        ...

    def delete(self, run_id: str, *, owner: str | None = None) -> bool:
        """Delete all of a run, whatever its status. False if there is none, or if an owner with a lease holds it.

        Args:
            run_id: The run.
            owner: Delete it only if this owner holds it, with a lease or without.
        """
        ...

    def sweep(self, runs_before: float, journals_before: float) -> int:
        """Delete what is past its time of the runs that have ended; return how many runs were deleted whole.

        Args:
            runs_before: Runs that ended before this time are deleted whole.
            journals_before: Runs that ended before this time lose their journal and snapshot, and keep row, result and
                stream.
        """
        ...

    # Reading

    def row(self, run_id: str) -> RunRow | None:
        """The row of a run, None if there is none."""
        ...

    def load(self, run_ids: Collection[str]) -> dict[str, Loaded | StoreError]:
        """What is needed to go on with these runs, as of one moment. Unknown runs are missing in it.

        A run that cannot be read has the error in its place, and does not keep the others from being read.
        """
        ...

    def result(self, run_id: str) -> bytes | None:
        """What `Commit.result` said at the end of the run, None while there is nothing."""
        ...

    def events(self, run_id: str, after: int = -1, limit: int = 1000) -> list[tuple[int, bytes]]:
        """The first `limit` stream events of a run after an offset, with their offsets."""
        ...

    def runs(
        self,
        workflow: str | None = None,
        status: Status | None = None,
        *,
        newest_first: bool = True,
        after: str | None = None,
        limit: int = 100,
    ) -> list[RunRow]:
        """Runs in the order in which they were made, a page at a time.

        Args:
            workflow: Only of this workflow.
            status: Only with this status.
            newest_first: Else the oldest come first.
            after: The run id that the page before ended with.
            limit: The length of a page.

        Raises:
            UnknownRunError: If there is no run `after`.
        """
        ...

    def orphans(self, workflows: Collection[str], limit: int = 1000) -> list[RunRow]:
        """Runs of these workflows whose owner's lease is over: it died with them, or resigned."""
        ...

    def due(self, workflows: Collection[str], now: float, limit: int = 1000) -> list[RunRow]:
        """Runs of these workflows that are at rest and want to be woken by `now`, the longest overdue first."""
        ...

    def inputs(self, run_id: str | None = None, *, after: int = 0, limit: int = 1000) -> list[InputRow]:
        """Open questions, the oldest first, of one run or of all.

        Args:
            run_id: Only of this run.
            after: The number of the question that the page before ended with.
            limit: The length of a page.
        """
        ...

    def input(self, input_id: str) -> InputRow | None:
        """One question, open or closed. Where several runs have one of this id, an open one and then the newest."""
        ...

    def inbox(self, *, owner: str | None = None, run_id: str | None = None, limit: int = 1000) -> list[InboxEntry]:
        """What was posted and not taken yet, in order of arrival: for all runs that an owner holds, or for one run.

        What a run has left in its inbox when it ends stays there, to be accounted for, until the run is deleted.
        """
        ...

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back whenever something may have come into an inbox; return what ends that.

        The callback is called by the thread that posts, or by a thread of the store for what other processes have
        posted, perhaps by several at once. It must be quick. A call does not mean that there is something new.
        """
        ...

"""The rule of what may be committed, in one place for every store: pure, without I/O.

A writer is told apart by its fence. Each change of hands raises a run's fence, so a writer that was suspended, or
whose clock jumped, finds another fence than its own and is refused, whatever its lease says. Who writes under one fence
is one writer; so a record whose number is in the journal already is one that it has written, and is not written again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from greenroom.errors import (
    JournalGapError,
    RunExistsError,
    StaleOwnerError,
    StoreError,
    UnknownRunError,
)
from greenroom.stores.rows import FIRST_FENCE, Commit, Status

__all__ = ["Head", "admit", "first_head"]


@dataclass(slots=True)
class Head:
    """The end of a run's journal, and who may write there.

    Attributes:
        key: The run's number within the store.
        journal: The store's own mark of the newest journal record.
        first_seq: The number of the oldest record that the journal holds: that of the snapshot.
    """

    key: int
    status: Status
    owner: str | None
    fence: int
    token: int
    next_seq: int
    next_offset: int
    first_seq: int
    bytes: int
    journal: int = 0


class Admitted(NamedTuple):
    """The part of a commit that is still to be done. `done`: nothing is."""

    records: Sequence[tuple[int, bytes]]
    events: Sequence[tuple[int, bytes]]
    done: bool = False


def first_head(commit: Commit, key: int) -> Head:
    """The head of the run that a commit makes."""
    new = commit.new
    assert new is not None
    return Head(key, "running", new.owner, FIRST_FENCE, new.token, 0, new.next_offset, 0, 0)


def admit(head: Head | None, commit: Commit) -> Admitted | StoreError:
    """Tell what of a commit is to be done, or why it is refused. A new run is judged by its `first_head`."""
    if head is None:
        return UnknownRunError(f"The store knows no run {commit.run_id!r}: it was deleted, or never made.")
    if commit.new is not None and commit.new.token != head.token:
        return RunExistsError(f"There is a run {commit.run_id!r} already. Get it, or choose another run id.")
    if commit.fence != head.fence:
        return StaleOwnerError(
            f"Run {commit.run_id!r} was taken over: its fence is {head.fence}, this commit has {commit.fence}. "
            "Nothing of it was written; its new owner goes on with the run."
        )
    records = _fresh(commit, "record", commit.records, head.next_seq)
    if isinstance(records, StoreError):
        return records
    events = _fresh(commit, "event", commit.events, head.next_offset)
    if isinstance(events, StoreError):
        return events
    if head.owner is None:
        again = not records and not events and (commit.status == head.status or commit.release)
        return Admitted((), (), done=True) if again else _given_back(head, commit)
    if commit.snapshot is not None and commit.snapshot[0] > head.next_seq + len(records):
        return JournalGapError(
            f"The snapshot of run {commit.run_id!r} is of record {commit.snapshot[0]}, "
            f"but its journal ends before {head.next_seq + len(records)}."
        )
    return Admitted(records, events)


def _given_back(head: Head, commit: Commit) -> StaleOwnerError:
    what = "was released" if head.status == "running" else f"is {head.status}"
    return StaleOwnerError(f"Run {commit.run_id!r} {what}, so nothing can be written to it. Acquire it first.")


def _fresh(
    commit: Commit, what: str, items: Sequence[tuple[int, bytes]], expected: int
) -> Sequence[tuple[int, bytes]] | JournalGapError:
    """The items that are not there yet."""
    if not items:
        return ()
    first = items[0][0]
    if first > expected or (len(items) > 1 and any(number != first + i for i, (number, _) in enumerate(items))):
        numbers = ", ".join(str(number) for number, _ in items[:20])
        return JournalGapError(f"Run {commit.run_id!r} continues with {what} {expected}, but was given {numbers}.")
    return items[expected - first :] if first != expected else items

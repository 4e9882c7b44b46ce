"""What goes into a store and comes out of it: rows and bytes.

A store does not know what the bytes mean. Times are seconds since the epoch, UTC.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "ENDED",
    "FIRST_FENCE",
    "STATUSES",
    "Commit",
    "InboxEntry",
    "InputRow",
    "Loaded",
    "NewRun",
    "RunRow",
    "Status",
]

Status = Literal["running", "completed", "failed", "timed_out", "cancelled", "set_aside"]

STATUSES: tuple[Status, ...] = ("running", "completed", "failed", "timed_out", "cancelled", "set_aside")

# A run that was set aside has not ended: `put_back` lets it go on.
ENDED: frozenset[str] = frozenset({"completed", "failed", "timed_out", "cancelled"})

# The fence of a run whose first owner still has it.
FIRST_FENCE = 1


@dataclass(frozen=True, slots=True)
class RunRow:
    """What is known of a run without loading it.

    Attributes:
        run_id: The run.
        workflow: The name of its workflow.
        status: `running` (at rest as well), how it ended, or `set_aside`.
        created_at: When its first commit was made.
        updated_at: When its newest commit was made.
        owner: Who holds it; None for a run at rest or one that no longer runs.
        lease_until: When the lease of its owner is over.
        fence: How many times it has changed hands. A commit bears the fence of its writer.
        wake_at: When a run at rest wants to be woken, 0.0: at once. None for runs that somebody holds.
        reason: Why it failed or was set aside.
        next_seq: The number of its next journal record.
        next_offset: The offset of its next stream event.
        bytes: The size of its journal since the newest snapshot.
    """

    run_id: str
    workflow: str
    status: Status
    created_at: float
    updated_at: float
    owner: str | None
    lease_until: float | None
    fence: int
    wake_at: float | None
    reason: str | None
    next_seq: int
    next_offset: int
    bytes: int


@dataclass(frozen=True, slots=True)
class InputRow:
    """A question to a person.

    Attributes:
        input_id: The id that an answer names.
        run_id: The run that asks.
        step: The step that asks.
        request: The event that carries the question, encoded.
        response: The name of the class that answers it.
        schema: The JSON schema of that class, as JSON.
        asked_at: When it was asked.
        expires_at: When it is given up.
        closed: How it was closed (`answered`, `expired`, `withdrawn`); None while it is open.
        workflow: The name of the run's workflow, as the store gives it. A commit need not say it.
        number: Its place in the order asked, as the store gives it. A commit need not say it.
    """

    input_id: str
    run_id: str
    step: str
    request: bytes
    response: str
    schema: str
    asked_at: float
    expires_at: float | None = None
    closed: str | None = None
    workflow: str = ""
    number: int = 0


@dataclass(frozen=True, slots=True)
class InboxEntry:
    """Something that a process has put down for a run. Ids grow in the order of arrival and are never used again."""

    id: int
    run_id: str
    kind: str
    payload: bytes
    dedup_key: str | None


@dataclass(frozen=True, slots=True)
class Loaded:
    """All that is needed to go on with a run: the newest snapshot, if any, and the journal records after it.

    Attributes:
        row: The run's row, of the same moment.
        snapshot: The number of the first record that it does not contain, and its bytes.
        records: Number and bytes, from the snapshot's number (or 0) to `row.next_seq`, without a gap.
    """

    row: RunRow
    snapshot: tuple[int, bytes] | None
    records: list[tuple[int, bytes]]


@dataclass(frozen=True, slots=True)
class NewRun:
    """Makes the run that a commit is for.

    Attributes:
        workflow: The name of its workflow.
        owner: Who holds it from the start.
        token: Tells this attempt from another one with the same run id.
        next_offset: The offset of its first stream event: above 0 for a run that goes on from another one.
    """

    workflow: str
    owner: str
    token: int = field(default_factory=lambda: random.getrandbits(62))
    next_offset: int = 0


@dataclass(slots=True)
class Commit:
    """What one run wants to have committed, all of it or nothing.

    The same commit may be given again when its fate is not known: what was done already is not done twice.

    Attributes:
        run_id: The run.
        fence: The fence that `create` or `acquire` gave its writer.
        new: Given in the first commit of a run: makes it, with the fence `FIRST_FENCE`.
        records: Journal records with their numbers, which continue at `next_seq` without a gap.
        events: Stream events with their offsets, which continue at `next_offset` without a gap.
        snapshot: The state after all records before this number. Those records are dropped.
        status: Given at the end of the run, or to set it aside. It also gives the run back.
        result: What the run returned or how it failed, with `status`.
        reason: Why it failed or was set aside, with `status`.
        opened: Questions that are asked now.
        closed: Ids of questions that are closed now, and how.
        taken: Ids of inbox entries that the records contain now. They leave the inbox.
        release: Puts the run to rest: nobody holds it any more.
        wake_at: When it wants to be woken, with `release`.
    """

    run_id: str
    fence: int
    new: NewRun | None = None
    records: Sequence[tuple[int, bytes]] = ()
    events: Sequence[tuple[int, bytes]] = ()
    snapshot: tuple[int, bytes] | None = None
    status: Status | None = None
    result: bytes | None = None
    reason: str | None = None
    opened: Sequence[InputRow] = ()
    closed: Sequence[tuple[str, str]] = ()
    taken: Sequence[int] = ()
    release: bool = False
    wake_at: float | None = None

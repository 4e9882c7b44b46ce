"""A group commit in SQLite: the commits of many runs, within one transaction.

All that most commits hold is gathered and written with three statements, however many runs there are; what is rare
(ends, questions, snapshots) is written one by one after that.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from greenroom.errors import StoreError
from greenroom.stores.admission import Admitted, Head, admit, first_head
from greenroom.stores.rows import ENDED, Commit, Status

__all__ = ["CHAIN", "Known", "commit_all"]

# The records of one run, from the newest to the oldest: numbers, ids and sizes.
CHAIN = """WITH RECURSIVE chain (id, seq, prev) AS (
    SELECT id, seq, prev FROM journal WHERE id = :newest AND run = :run
    UNION ALL
    SELECT j.id, j.seq, j.prev FROM chain CROSS JOIN journal j ON j.id = chain.prev
    WHERE chain.seq > :first AND j.run = :run
)"""


# Heads that are remembered from one transaction to the next.
_MAX_HEADS = 10_000


@dataclass(slots=True)
class Known:
    """What a transaction leaves to the next one, so that it need not be read again.

    Attributes:
        generation: It holds for this generation of the connections.
        heads: The heads of runs that go on, by run id.
        newest: The id of the newest record in the journal, 0: not looked up.
    """

    generation: int = -1
    heads: dict[str, Head] = field(default_factory=dict)
    newest: int = 0


def commit_all(db: sqlite3.Connection, commits: Sequence[Commit], now: float, known: Known) -> list[StoreError | None]:
    """Write what is admitted of the commits; return for each why it was refused, or None."""
    group = _Group(db, now, known, {commit.run_id for commit in commits})
    outcomes = [group.add(commit) for commit in commits]
    group.write()
    return outcomes


class _Group:
    def __init__(self, db: sqlite3.Connection, now: float, known: Known, run_ids: set[str]) -> None:
        self._db = db
        self._now = now
        self._known = known
        self._heads = known.heads
        self._run_ids = run_ids
        if len(known.heads) > _MAX_HEADS:
            known.heads.clear()
        unknown = run_ids - known.heads.keys()
        if unknown:
            known.heads.update(_read_heads(db, unknown))
        self._changed: dict[int, Head] = {}
        self._records: list[tuple[int, int, int, int, int, bytes]] = []
        self._events: list[tuple[int, int, bytes]] = []
        self._later: list[tuple[str, Any]] = []

    def add(self, commit: Commit) -> StoreError | None:
        head = self._heads.get(commit.run_id)
        new = head is None and commit.new is not None
        if new:
            head = first_head(commit, 0)
        admitted = admit(head, commit)
        if isinstance(admitted, StoreError):
            return admitted
        assert head is not None
        if admitted.done:
            return None
        if new:
            self._make_run(head, commit)
        self._heads[commit.run_id] = self._changed[head.key] = head
        self._add_items(head, commit, admitted)
        if commit.opened or commit.closed or commit.taken or commit.status is not None or commit.release:
            self._add_rare(head, commit)
        return None

    def _make_run(self, head: Head, commit: Commit) -> None:
        assert commit.new is not None
        self._db.execute("INSERT OR IGNORE INTO owners VALUES (?, 0.0)", (commit.new.owner,))
        made = self._db.execute(
            "INSERT INTO runs (run_id, workflow, status, created_at, updated_at, owner, fence, token, next_seq,"
            " next_offset, bytes, first_seq, newest) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, 0, 0, 0, 0)",
            (
                commit.run_id,
                commit.new.workflow,
                head.status,
                self._now,
                self._now,
                head.owner,
                head.fence,
                head.token,
            ),
        )
        assert made.lastrowid is not None
        head.key = made.lastrowid

    def _add_items(self, head: Head, commit: Commit, admitted: Admitted) -> None:
        run = head.key
        before = 0  # records before this one are not kept
        if commit.snapshot is not None and commit.snapshot[0] >= head.first_seq:
            before = commit.snapshot[0]
            self._add_snapshot(head, before, commit.snapshot[1])
        for seq, data in admitted.records:
            if seq >= before:
                record = self._new_record()
                self._records.append((record, run, seq, head.journal, zlib.crc32(data), data))
                head.journal = record
                head.bytes += len(data)
        head.next_seq += len(admitted.records)
        for number, data in admitted.events:
            self._events.append((run, number, data))
        head.next_offset += len(admitted.events)

    def _new_record(self) -> int:
        known = self._known
        if not known.newest:
            (newest,) = self._db.execute("SELECT max(id) FROM journal").fetchone()
            known.newest = newest or 0
        known.newest += 1
        return known.newest

    def _add_snapshot(self, head: Head, before: int, data: bytes) -> None:
        self._later.append(
            ("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?)", (head.key, before, zlib.crc32(data), data))
        )
        if head.first_seq < head.next_seq:
            chain = {"newest": head.journal, "run": head.key, "first": head.first_seq, "before": before}
            kept = 0
            if before < head.next_seq:
                # Of what this group adds to the chain, nothing is written yet.
                self._write_items()
                (kept,) = self._db.execute(
                    f"{CHAIN} SELECT sum(length(j.data)) FROM chain CROSS JOIN journal j ON j.id = chain.id"
                    " WHERE chain.seq >= :before",
                    chain,
                ).fetchone()
            self._later.append(
                (f"{CHAIN} DELETE FROM journal WHERE id IN (SELECT id FROM chain WHERE seq < :before)", chain)
            )
            head.bytes = kept
        head.first_seq = before

    def _add_rare(self, head: Head, commit: Commit) -> None:
        run = head.key
        for row in commit.opened:
            self._later.append(
                (
                    "INSERT OR IGNORE INTO inputs (run, input_id, step, request, response, schema, asked_at,"
                    " expires_at, closed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        run,
                        row.input_id,
                        row.step,
                        row.request,
                        row.response,
                        row.schema,
                        row.asked_at,
                        row.expires_at,
                        row.closed,
                    ),
                )
            )
        for input_id, how in commit.closed:
            self._later.append(
                ("UPDATE inputs SET closed = ? WHERE run = ? AND input_id = ? AND closed IS NULL", (how, run, input_id))
            )
        for entry in commit.taken:
            self._later.append(("DELETE FROM inbox WHERE id = ? AND run = ?", (entry, run)))
        if commit.status is not None:
            self._add_end(head, commit, commit.status)
        elif commit.release:
            head.owner = None
            self._later.append(
                (
                    "UPDATE runs SET owner = NULL, wake_at = CASE WHEN EXISTS (SELECT 1 FROM inbox WHERE run = runs.id)"
                    " THEN 0.0 ELSE ? END WHERE id = ?",
                    (commit.wake_at, run),
                )
            )

    def _add_end(self, head: Head, commit: Commit, status: Status) -> None:
        run = head.key
        head.status, head.owner = status, None
        ended_at = self._now if status in ENDED else None
        self._later.append(
            (
                "UPDATE runs SET status = ?, owner = NULL, reason = ?, ended_at = ? WHERE id = ?",
                (status, commit.reason, ended_at, run),
            )
        )
        self._later.append(("UPDATE inbox SET live = 0 WHERE run = ?", (run,)))
        if commit.result is not None:
            self._later.append(("INSERT OR REPLACE INTO results VALUES (?, ?)", (run, commit.result)))
        if status in ENDED:
            self._later.append(("UPDATE inputs SET closed = 'withdrawn' WHERE run = ? AND closed IS NULL", (run,)))

    def _write_items(self) -> None:
        if self._records:
            self._db.executemany("INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?)", self._records)
            self._records = []
        if self._events:
            self._db.executemany("INSERT INTO events (run, number, data) VALUES (?, ?, ?)", self._events)
            self._events = []

    def write(self) -> None:
        self._write_items()
        for statement, parameters in self._later:
            self._db.execute(statement, parameters)
        if self._changed:
            self._db.executemany(
                "UPDATE runs SET next_seq = ?, next_offset = ?, bytes = ?, first_seq = ?, newest = ?, updated_at = ?"
                " WHERE id = ?",
                [
                    (h.next_seq, h.next_offset, h.bytes, h.first_seq, h.journal, self._now, h.key)
                    for h in self._changed.values()
                ],
            )
        for run_id in self._run_ids:
            head = self._heads.get(run_id)
            if head is not None and head.owner is None:
                del self._heads[run_id]  # It has ended, or rests.


def _read_heads(db: sqlite3.Connection, run_ids: set[str]) -> dict[str, Head]:
    rows = db.execute(
        "SELECT r.run_id, r.id, r.status, r.owner, r.fence, r.token, r.next_seq, r.next_offset, r.first_seq, r.bytes,"
        " r.newest FROM json_each(?) wanted CROSS JOIN runs r ON r.run_id = wanted.value",
        (json.dumps(list(run_ids)),),
    )
    return {run_id: Head(*head) for run_id, *head in rows}

"""The store for one machine: a file, through the standard library's sqlite3. See `SQLiteStore`."""

from __future__ import annotations

import heapq
import logging
import math
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

from greenroom.errors import (
    RunEndedError,
    StoreDamagedError,
    StoreError,
    UnknownRunError,
)
from greenroom.log_fields import log_fields
from greenroom.stores.forks import at_fork
from greenroom.stores.rows import (
    ENDED,
    FIRST_FENCE,
    STATUSES,
    Commit,
    InboxEntry,
    InputRow,
    Loaded,
    NewRun,
    RunRow,
    Status,
)
from greenroom.stores.sqlite_commit import CHAIN, Known, commit_all
from greenroom.stores.sqlite_connections import Connections
from greenroom.stores.sqlite_errors import translated
from greenroom.stores.sqlite_schema import prepare
from greenroom.stores.watchers import Listener, Watchers

__all__ = ["SQLiteStore"]

_logger = logging.getLogger("greenroom.stores")

_ROW = (
    "SELECT r.run_id, r.workflow, r.status, r.created_at, r.updated_at, r.owner, o.lease_until, r.fence, r.wake_at,"
    " r.reason, r.next_seq, r.next_offset, r.bytes, r.id FROM runs r LEFT JOIN owners o ON o.owner = r.owner"
)
_INPUT = (
    "SELECT i.input_id, r.run_id, i.step, i.request, i.response, i.schema, i.asked_at, i.expires_at, i.closed,"
    " r.workflow, i.id FROM inputs i CROSS JOIN runs r ON r.id = i.run"
)
_ENTRY = "SELECT i.id, r.run_id, i.kind, i.payload, i.dedup_key FROM inbox i CROSS JOIN runs r ON r.id = i.run"

_OF_RUN = "i.run = (SELECT id FROM runs WHERE run_id = ?)"

# Runs that a sweep deletes in one transaction: others that want to write wait no longer than that takes.
_SWEPT_AT_ONCE = 200


class SQLiteStore:
    """Keeps runs in one SQLite file. Any number of processes of one machine may use it at once.

    The file is made if it does not exist, readable by its owner only; beside it SQLite keeps `-wal` and `-shm`. It does
    not shrink when runs are deleted, their place is used again; SQLite's `VACUUM` gives it back.

    Args:
        path: The file, on a local disk.
        synchronous: What a commit waits for. `normal`: until the operating system has it, so it survives the death of
            the process (`kill -9` as well), but when the machine itself goes down, the commits of its last moments may
            be lost, and nothing else is. `full`: until the disk has it, so it survives a power failure, for the price
            of one `fsync` a transaction.
        busy_timeout: Seconds to wait for another process that writes, before `StoreBusyError` is raised.
        poll_interval: Seconds between two looks for what other processes have posted, while somebody watches.
        clock: Tells the time for leases, in seconds since the epoch.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> store = SQLiteStore(f"{folder.name}/runs.db")
        >>> store.open()
        >>> store.renew("me", seconds=30)
        True
        >>> fence = store.create("run-1", "Invoices", owner="me")
        >>> store.commit([Commit("run-1", fence, records=[(0, b"started")], release=True, wake_at=60.0)])
        [None]
        >>> [row.run_id for row in store.due(["Invoices"], now=61.0)]
        ['run-1']
        >>> store.close()
        >>> folder.cleanup()
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: Literal["normal", "full"] = "normal",
        busy_timeout: float = 10.0,
        poll_interval: float = 0.05,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if synchronous not in ("normal", "full"):
            raise ValueError(f"synchronous is 'normal' or 'full', not {synchronous!r}")
        for name, seconds in (("busy_timeout", busy_timeout), ("poll_interval", poll_interval)):
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
                raise ValueError(f"{name} is a number of seconds, 0 or more, not {seconds!r}")
        if os.fspath(path) in ("", ":memory:") or os.fspath(path).startswith("file:"):
            raise ValueError(f"a store is a file, not {os.fspath(path)!r}; MemoryStore keeps runs in memory")
        self._path = Path(path).absolute()
        self._synchronous = synchronous
        self._busy_timeout = busy_timeout
        self._poll_interval = poll_interval
        self._clock = clock
        self._connections: Connections | None = None
        self._known = Known()  # only used within a write transaction
        self._watchers = Watchers(self._listen)
        at_fork(self)

    def open(self) -> None:
        prepare(self._path, busy_timeout=self._busy_timeout)
        if self._connections is None:
            self._connections = Connections(
                self._path, full_sync=self._synchronous == "full", busy_timeout=self._busy_timeout
            )

    def close(self) -> None:
        self._watchers.clear()
        connections, self._connections = self._connections, None
        if connections is not None:
            connections.close()

    def before_fork(self) -> None:
        pass

    def after_fork(self, *, in_child: bool) -> None:
        if in_child:
            self._watchers.forget()

    def _opened(self) -> Connections:
        if self._connections is None:
            raise StoreError(f"The store {self._path} is not open. Call open() first.")
        return self._connections

    def _writing(self) -> AbstractContextManager[sqlite3.Connection]:
        return self._opened().writing()

    def _reading(self) -> AbstractContextManager[sqlite3.Connection]:
        return self._opened().reading()

    def _select(self, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with self._reading() as db:
            return db.execute(statement, parameters).fetchall()

    # Owners

    def renew(self, owner: str, seconds: float) -> bool:
        self._opened().check_file()
        now = self._clock()
        with self._writing() as db:
            lease = db.execute("SELECT lease_until FROM owners WHERE owner = ?", (owner,)).fetchone()
            db.execute("INSERT OR REPLACE INTO owners VALUES (?, ?)", (owner, now + seconds))
        return lease is None or bool(lease[0] > now)

    def resign(self, owner: str) -> None:
        with self._writing() as db:
            db.execute("UPDATE owners SET lease_until = 0.0 WHERE owner = ?", (owner,))

    def held(self, owner: str) -> dict[str, int]:
        return dict(self._select("SELECT run_id, fence FROM runs WHERE owner = ?", (owner,)))

    def owners(self) -> list[str]:
        rows = self._select(
            "SELECT owner FROM owners WHERE lease_until > ?"
            " AND EXISTS (SELECT 1 FROM runs WHERE runs.owner = owners.owner)",
            (self._clock(),),
        )
        return [owner for (owner,) in rows]

    def create(self, run_id: str, workflow: str, owner: str) -> int | None:
        (refused,) = self.commit([Commit(run_id, FIRST_FENCE, new=NewRun(workflow, owner))])
        return FIRST_FENCE if refused is None else None

    def acquire(self, run_ids: Collection[str], owner: str) -> dict[str, int]:
        fences = {}
        with self._writing() as db:
            now = self._clock()
            db.execute("INSERT OR IGNORE INTO owners VALUES (?, 0.0)", (owner,))
            for run_id in run_ids:
                taken = db.execute(
                    "UPDATE runs SET owner = :owner, fence = fence + 1, wake_at = NULL WHERE run_id = :run"
                    " AND status = 'running' AND (owner IS NULL OR owner = :owner OR NOT EXISTS"
                    " (SELECT 1 FROM owners o WHERE o.owner = runs.owner AND o.lease_until > :now)) RETURNING fence",
                    {"owner": owner, "run": run_id, "now": now},
                ).fetchall()
                if taken:
                    fences[run_id] = int(taken[0][0])
        return fences

    # Writing

    def commit(self, commits: Sequence[Commit]) -> list[StoreError | None]:
        connections = self._opened()
        with connections.writing(remembers=True) as db:
            if self._known.generation != connections.generation:
                self._known = Known(connections.generation)
            return commit_all(db, commits, self._clock(), self._known)

    def post(self, run_id: str, kind: str, payload: bytes, dedup_key: str | None = None) -> bool:
        with self._writing() as db:
            row = db.execute("SELECT id, status, owner FROM runs WHERE run_id = ?", (run_id,)).fetchone()
            if row is None:
                raise UnknownRunError(f"The store knows no run {run_id!r}: it was deleted, or never made.")
            run, status, owner = row
            if status in ENDED:
                raise RunEndedError(f"Run {run_id!r} is {status}: nothing can be sent to it any more.")
            if dedup_key is not None:
                done = db.execute("INSERT OR IGNORE INTO dedup VALUES (?, ?)", (run, dedup_key))
                if not done.rowcount:
                    return False
            db.execute(
                "INSERT INTO inbox (run, kind, payload, dedup_key, live) VALUES (?, ?, ?, ?, ?)",
                (run, kind, payload, dedup_key, status == "running"),
            )
            if status == "running" and owner is None:
                db.execute("UPDATE runs SET wake_at = 0.0 WHERE id = ?", (run,))
        self._watchers.notify()
        return True

    def put_back(self, run_id: str) -> bool:
        with self._writing() as db:
            row = db.execute("SELECT id FROM runs WHERE run_id = ? AND status = 'set_aside'", (run_id,)).fetchone()
            if row is None:
                return False
            db.execute(
                "UPDATE runs SET status = 'running', fence = fence + 1, wake_at = 0.0, reason = NULL WHERE id = ?", row
            )
            db.execute("UPDATE inbox SET live = 1 WHERE run = ?", row)
            db.execute("DELETE FROM results WHERE run = ?", row)
            return True

    def delete(self, run_id: str, *, owner: str | None = None) -> bool:
        with self._writing() as db:
            row = db.execute(
                "SELECT id FROM runs WHERE run_id = :run_id AND CASE WHEN :owner IS NULL THEN NOT EXISTS"
                " (SELECT 1 FROM owners o WHERE o.owner = runs.owner AND o.lease_until > :now)"
                " ELSE owner = :owner END",
                {"run_id": run_id, "owner": owner, "now": self._clock()},
            ).fetchone()
            if row is None:
                return False
            self._delete(db, row[0])
            return True

    def _delete(self, db: sqlite3.Connection, run: int) -> None:
        self._trim(db, run)
        for table in ("results", "events", "inputs", "inbox", "dedup"):
            db.execute(f"DELETE FROM {table} WHERE run = ?", (run,))
        db.execute("DELETE FROM runs WHERE id = ?", (run,))

    def _trim(self, db: sqlite3.Connection, run: int) -> None:
        newest, first, next_seq = db.execute(
            "SELECT newest, first_seq, next_seq FROM runs WHERE id = ?", (run,)
        ).fetchone()
        if first < next_seq:
            db.execute(
                f"{CHAIN} DELETE FROM journal WHERE id IN (SELECT id FROM chain)",
                {"newest": newest, "run": run, "first": first},
            )
        db.execute("DELETE FROM snapshots WHERE run = ?", (run,))
        db.execute("UPDATE runs SET first_seq = next_seq, bytes = 0, trimmed = 1 WHERE id = ?", (run,))

    def sweep(self, runs_before: float, journals_before: float) -> int:
        swept = self._sweep("SELECT id FROM runs WHERE ended_at < ? LIMIT ?", runs_before, self._delete)
        self._sweep(
            "SELECT id FROM runs WHERE ended_at < ? AND trimmed = 0 AND ended_at IS NOT NULL LIMIT ?",
            journals_before,
            self._trim,
        )
        with self._writing() as db:
            db.execute(
                "DELETE FROM owners WHERE lease_until < ? AND NOT EXISTS"
                " (SELECT 1 FROM runs WHERE runs.owner = owners.owner)",
                (self._clock(),),
            )
        return swept

    def _sweep(self, which: str, before: float, end: Callable[[sqlite3.Connection, int], None]) -> int:
        swept = 0
        while True:
            with self._writing() as db:
                runs = db.execute(which, (before, _SWEPT_AT_ONCE)).fetchall()
                for (run,) in runs:
                    end(db, run)
            swept += len(runs)
            if len(runs) < _SWEPT_AT_ONCE:
                return swept

    # Reading

    def row(self, run_id: str) -> RunRow | None:
        rows = self._select(f"{_ROW} WHERE r.run_id = ?", (run_id,))
        return RunRow(*rows[0][:-1]) if rows else None

    def load(self, run_ids: Collection[str]) -> dict[str, Loaded | StoreError]:
        loaded: dict[str, Loaded | StoreError] = {}
        with self._reading() as db:
            db.execute("BEGIN")
            for run_id in run_ids:
                try:
                    with translated(self._path):
                        found = self._load(db, run_id)
                except StoreDamagedError as damaged:
                    loaded[run_id] = damaged
                else:
                    if found is not None:
                        loaded[run_id] = found
        return loaded

    def _load(self, db: sqlite3.Connection, run_id: str) -> Loaded | None:
        ends = db.execute("SELECT newest, first_seq FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        if ends is None:
            return None
        *fields, run = db.execute(f"{_ROW} WHERE r.run_id = ?", (run_id,)).fetchone()
        row = RunRow(*fields)
        newest, first = ends
        snapshot = db.execute("SELECT seq, data, crc FROM snapshots WHERE run = ?", (run,)).fetchone()
        records: list[tuple[int, bytes, int]] = []
        if first < row.next_seq:
            records = db.execute(
                f"{CHAIN} SELECT j.seq, j.data, j.crc FROM chain CROSS JOIN journal j ON j.id = chain.id",
                {"newest": newest, "run": run, "first": first},
            ).fetchall()
            records.reverse()
        if [seq for seq, _, _ in records] != list(range(first, row.next_seq)):
            raise self._damaged(run_id, f"records are missing between {first} and {row.next_seq - 1}")
        for seq, data, crc in records:
            if zlib.crc32(data) != crc:
                raise self._damaged(run_id, f"record {seq} is not what was written")
        if snapshot is not None and zlib.crc32(snapshot[1]) != snapshot[2]:
            raise self._damaged(run_id, "its snapshot is not what was written")
        return Loaded(row, snapshot[:2] if snapshot else None, [(seq, data) for seq, data, _ in records])

    def _damaged(self, run_id: str, how: str) -> StoreDamagedError:
        return StoreDamagedError(
            f"Run {run_id!r} in the store {self._path} is damaged: {how}. Other runs are not touched by it."
        )

    def result(self, run_id: str) -> bytes | None:
        found = self._select("SELECT data FROM results WHERE run = (SELECT id FROM runs WHERE run_id = ?)", (run_id,))
        return found[0][0] if found else None

    def events(self, run_id: str, after: int = -1, limit: int = 1000) -> list[tuple[int, bytes]]:
        return self._select(
            "SELECT number, data FROM events WHERE run = (SELECT id FROM runs WHERE run_id = ?) AND number > ?"
            " ORDER BY number LIMIT ?",
            (run_id, after, limit),
        )

    def runs(
        self,
        workflow: str | None = None,
        status: Status | None = None,
        *,
        newest_first: bool = True,
        after: str | None = None,
        limit: int = 100,
    ) -> list[RunRow]:
        with self._reading() as db:
            db.execute("BEGIN")
            past = 0
            if after is not None:
                found = db.execute("SELECT id FROM runs WHERE run_id = ?", (after,)).fetchone()
                if found is None:
                    raise UnknownRunError(f"There is no run {after!r}, after which a page could begin.")
                past = found[0]
            conditions = ["r.id < ?" if newest_first else "r.id > ?"] if past else []
            order = f" ORDER BY r.id {'DESC' if newest_first else 'ASC'} LIMIT ?"
            # The index that serves one workflow needs a status as well: each has a page, and they are merged.
            statuses: Sequence[str | None] = STATUSES if workflow is not None and status is None else (status,)
            pages = []
            for one in statuses:
                wanted = {"r.workflow = ?": workflow, "r.status = ?": one}
                given = {condition: value for condition, value in wanted.items() if value is not None}
                where = " AND ".join([*given, *conditions])
                pages.append(
                    db.execute(
                        f"{_ROW}{' WHERE ' + where if where else ''}{order}",
                        [*given.values(), *([past] if past else []), limit],
                    ).fetchall()
                )
        merged = heapq.merge(*pages, key=lambda row: row[-1], reverse=newest_first)
        return [RunRow(*row[:-1]) for row, _ in zip(merged, range(limit), strict=False)]

    def orphans(self, workflows: Collection[str], limit: int = 1000) -> list[RunRow]:
        marks = ",".join("?" * len(workflows))
        rows = self._select(
            "SELECT r.run_id, r.workflow, r.status, r.created_at, r.updated_at, r.owner, o.lease_until, r.fence,"
            " r.wake_at, r.reason, r.next_seq, r.next_offset, r.bytes FROM owners o CROSS JOIN runs r"
            f" ON r.owner = o.owner WHERE o.lease_until <= ? AND r.workflow IN ({marks}) LIMIT ?",
            (self._clock(), *workflows, limit),
        )
        return [RunRow(*row) for row in rows]

    def due(self, workflows: Collection[str], now: float, limit: int = 1000) -> list[RunRow]:
        with self._reading() as db:
            pages = [
                db.execute(
                    f"{_ROW} WHERE r.workflow = ? AND r.wake_at <= ? ORDER BY r.wake_at LIMIT ?", (workflow, now, limit)
                ).fetchall()
                for workflow in workflows
            ]
        rows = [RunRow(*row[:-1]) for page in pages for row in page]
        return sorted(rows, key=lambda row: row.wake_at or 0.0)[:limit]

    def inputs(self, run_id: str | None = None, *, after: int = 0, limit: int = 1000) -> list[InputRow]:
        if run_id is None:
            which, parameters = "i.closed IS NULL", []
        else:
            which, parameters = f"{_OF_RUN} AND +i.closed IS NULL", [run_id]
        statement = f"{_INPUT} WHERE {which} AND i.id > ? ORDER BY i.id LIMIT ?"
        return [InputRow(*row) for row in self._select(statement, (*parameters, after, limit))]

    def input(self, input_id: str) -> InputRow | None:
        rows = self._select(
            f"{_INPUT} WHERE i.input_id = ? ORDER BY i.closed IS NOT NULL, i.id DESC LIMIT 1", (input_id,)
        )
        return InputRow(*rows[0]) if rows else None

    def inbox(self, *, owner: str | None = None, run_id: str | None = None, limit: int = 1000) -> list[InboxEntry]:
        if (owner is None) == (run_id is None):
            raise ValueError("inbox() takes either owner or run_id")
        where, value = ("i.live = 1 AND r.owner = ?", owner) if owner is not None else (_OF_RUN, run_id)
        rows = self._select(f"{_ENTRY} WHERE {where} ORDER BY i.id LIMIT ?", (value, limit))
        return [InboxEntry(*row) for row in rows]

    # Watching

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._opened()
        return self._watchers.add(callback)

    def _listen(self, listener: Listener) -> None:
        """The thread that looks for what other processes have posted: it asks for the newest id ever given."""
        seen = -1
        failing = False
        while not listener.ended.is_set():
            try:
                ((newest,),) = self._select("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'inbox'")
            except StoreError:
                if not failing:
                    _logger.exception(
                        "Cannot look for what other processes have posted; trying again.", extra=log_fields()
                    )
                failing = True
            else:
                failing = False
                if newest != seen:
                    listener.notify()
                seen = newest
            listener.ended.wait(self._poll_interval)

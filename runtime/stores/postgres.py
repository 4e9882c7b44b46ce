"""The store for many machines: a PostgreSQL database (extra `[postgres]`). See `PostgresStore`."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Collection, Sequence
from functools import cache
from typing import Any, TypeVar

try:
    import psycopg
    from psycopg import errors, sql

    from greenroom.stores.postgres_commit import NOW, commit_all
    from greenroom.stores.postgres_connections import Connection, Connections, translated
    from greenroom.stores.postgres_schema import VERSION, newer, prepare
except ImportError as missing:
    raise ImportError("PostgresStore needs psycopg: pip install 'greenroom[postgres]'") from missing

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
    Commit,
    InboxEntry,
    InputRow,
    Loaded,
    NewRun,
    RunRow,
    Status,
)
from greenroom.stores.watchers import Listener, Watchers

__all__ = ["PostgresStore"]

_logger = logging.getLogger("greenroom.stores")

T = TypeVar("T")

_ROW = (
    "SELECT r.run_id, r.workflow, r.status, r.created_at, r.updated_at, r.owner, o.lease_until, r.fence, r.wake_at,"
    " r.reason, r.next_seq, r.next_offset, r.bytes, r.id FROM ~runs r LEFT JOIN ~owners o ON o.owner = r.owner"
)
_INPUT = (
    "SELECT i.input_id, r.run_id, i.step, i.request, i.response, i.schema, i.asked_at, i.expires_at, i.closed,"
    " r.workflow, i.id FROM ~inputs i JOIN ~runs r ON r.id = i.run"
)
_ENTRY = "SELECT i.id, r.run_id, i.kind, i.payload, i.dedup_key FROM ~inbox i JOIN ~runs r ON r.id = i.run"
_HELD = f"EXISTS (SELECT FROM ~owners o WHERE o.owner = runs.owner AND o.lease_until > {NOW})"

# Runs that a sweep deletes in one transaction.
_SWEPT_AT_ONCE = 200
# Runs whose journals are read in one statement.
_LOADED_AT_ONCE = 1000
# Seconds for which a post without a key of its own is remembered; longer than any poster tries again.
_REMEMBERED = 3600.0
# Seconds after its last lease for which an owner without runs is kept: it may be about to make one.
_FORGOTTEN = 86400.0
# Seconds between two looks at a listening connection that says nothing: it may be dead.
_SILENCE = 5.0


class PostgresStore:
    """Keeps runs in a schema of a PostgreSQL database (13 or newer), for the processes of any number of machines.

    What is posted is heard by all watchers at once, through LISTEN and NOTIFY. Leases are judged by the server's clock.

    Args:
        conninfo: The server and database, as libpq reads it: `postgresql://user@host/name` or `host=... dbname=...`.
        schema: The schema that holds the tables; `open` makes it.
        pool_size: How many connections this process may have at once, besides the one that listens.
        patience: Seconds for which a call is tried again while the server cannot be reached, as when it is restarted.
            After that the call raises `StoreUnavailableError`.

    Example:
        >>> store = PostgresStore("postgresql://localhost/app", schema="runs")
        >>> store.row("run-1")
        Traceback (most recent call last):
        ...
        greenroom.errors.StoreError: The store is not open. Call open() first.
    """

    def __init__(self, conninfo: str, *, schema: str = "greenroom", pool_size: int = 8, patience: float = 30.0) -> None:
        if not schema:
            raise ValueError("the schema must have a name")
        self._schema = schema
        self._channel = f"greenroom {schema}"
        self._connections = Connections(conninfo, size=pool_size, patience=patience)
        self._watchers = Watchers(self._listen)
        prefix = f"{sql.Identifier(schema).as_string()}."
        # Few texts, each used again and again.
        self._sql: Callable[[str], Any] = cache(lambda text: text.replace("~", prefix).encode())
        at_fork(self)

    def open(self) -> None:
        try:
            with self._connections.connect() as connection:
                prepare(connection, self._schema)
        except psycopg.Error as exception:
            raise translated(exception) from exception
        self._connections.open()

    def close(self) -> None:
        self._watchers.clear()
        self._connections.close()

    def before_fork(self) -> None:
        pass

    def after_fork(self, *, in_child: bool) -> None:
        if in_child:
            self._watchers.forget()

    def _write(self, work: Callable[[Connection, bool], T]) -> T:
        """Run a transaction that writes. `work` is told whether an earlier try may have been committed."""

        def transaction(connection: Connection, again: bool) -> T:
            with connection.pipeline(), connection.transaction():
                ((version,),) = connection.execute(self._sql("SELECT version FROM ~meta")).fetchall()
                self._check_version(version)
                return work(connection, again)

        return self._connections.transact(transaction)

    def _check_version(self, version: int) -> None:
        if version != VERSION:
            raise newer(self._schema, version)

    def _select(self, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
        return self._connections.transact(
            lambda connection, again: connection.execute(self._sql(statement), parameters, binary=True).fetchall()
        )

    # Owners

    def renew(self, owner: str, seconds: float) -> bool:
        def renew(connection: Connection, again: bool) -> bool:
            ((valid,),) = connection.execute(
                self._sql(
                    "WITH old AS (SELECT lease_until FROM ~owners WHERE owner = %(owner)s)"
                    f" INSERT INTO ~owners VALUES (%(owner)s, {NOW} + %(seconds)s)"
                    " ON CONFLICT (owner) DO UPDATE SET lease_until = excluded.lease_until"
                    f" RETURNING coalesce((SELECT lease_until FROM old) > {NOW}, true)"
                ),
                {"owner": owner, "seconds": float(seconds)},
            ).fetchall()
            # A try whose answer was lost may have found the lease run out, and has renewed it.
            return bool(valid) and not again

        return self._write(renew)

    def resign(self, owner: str) -> None:
        self._write(
            lambda connection, again: connection.execute(
                self._sql(f"UPDATE ~owners SET lease_until = {NOW} WHERE owner = %s"), (owner,)
            )
        )

    def held(self, owner: str) -> dict[str, int]:
        return dict(self._select("SELECT run_id, fence FROM ~runs WHERE owner = %s", (owner,)))

    def owners(self) -> list[str]:
        rows = self._select(
            f"SELECT owner FROM ~owners o WHERE lease_until > {NOW}"
            " AND EXISTS (SELECT 1 FROM ~runs r WHERE r.owner = o.owner)",
            (),
        )
        return [owner for (owner,) in rows]

    def create(self, run_id: str, workflow: str, owner: str) -> int | None:
        (refused,) = self.commit([Commit(run_id, FIRST_FENCE, new=NewRun(workflow, owner))])
        return FIRST_FENCE if refused is None else None

    def acquire(self, run_ids: Collection[str], owner: str) -> dict[str, int]:
        def acquire(connection: Connection, again: bool) -> dict[str, int]:
            connection.execute(self._sql("INSERT INTO ~owners VALUES (%s, 0) ON CONFLICT DO NOTHING"), (owner,))
            # Locked first, judged then: the statement that judges sees what others committed before the lock was got.
            locked = connection.execute(
                self._sql("SELECT id FROM ~runs WHERE run_id = ANY(%s) AND status = 'running' ORDER BY id FOR UPDATE"),
                (list(run_ids),),
            ).fetchall()
            taken = connection.execute(
                self._sql(
                    "UPDATE ~runs runs SET owner = %(owner)s, fence = fence + 1, wake_at = NULL"
                    " WHERE id = ANY(%(runs)s)"
                    f" AND (owner IS NULL OR owner = %(owner)s OR NOT {_HELD}) RETURNING run_id, fence"
                ),
                {"owner": owner, "runs": [run for (run,) in locked]},
            ).fetchall()
            return dict(taken)

        return self._write(acquire)

    # Writing

    def commit(self, commits: Sequence[Commit]) -> list[StoreError | None]:
        if not commits:
            return []
        return self._connections.transact(
            lambda connection, again: commit_all(connection, self._sql, self._check_version, commits)
        )

    def post(self, run_id: str, kind: str, payload: bytes, dedup_key: str | None = None) -> bool:
        token = secrets.randbits(62)
        # In two name spaces: what users give, and what makes a post without a key known again.
        key = f"u{dedup_key}" if dedup_key is not None else f"t{token}"

        def post(connection: Connection, again: bool) -> bool:
            row = connection.execute(
                self._sql("SELECT id, status, owner FROM ~runs WHERE run_id = %s FOR UPDATE"), (run_id,)
            ).fetchone()
            if row is None:
                raise UnknownRunError(f"The store knows no run {run_id!r}: it was deleted, or never made.")
            run, status, owner = row
            posted = connection.execute(
                self._sql("SELECT token FROM ~posts WHERE run = %s AND key = %s"), (run, key)
            ).fetchone()
            if posted is not None:
                return bool(posted[0] == token)
            if status in ENDED:
                raise RunEndedError(f"Run {run_id!r} is {status}: nothing can be sent to it any more.")
            with connection.pipeline():
                connection.execute(
                    self._sql(f"INSERT INTO ~posts VALUES (%s, %s, %s, CASE WHEN %s THEN {NOW} + {_REMEMBERED} END)"),
                    (run, key, token, dedup_key is None),
                )
                connection.execute(
                    self._sql("INSERT INTO ~inbox (run, kind, payload, dedup_key, live) VALUES (%s, %s, %b, %s, %s)"),
                    (run, kind, payload, dedup_key, status == "running"),
                )
                if status == "running" and owner is None:
                    connection.execute(self._sql("UPDATE ~runs SET wake_at = 0 WHERE id = %s"), (run,))
                connection.execute("SELECT pg_notify(%s, '')", (self._channel,))
            return True

        return self._write(post)

    def put_back(self, run_id: str) -> bool:
        def put_back(connection: Connection, again: bool) -> bool:
            row = connection.execute(
                self._sql("SELECT id, status, owner FROM ~runs WHERE run_id = %s FOR UPDATE"), (run_id,)
            ).fetchone()
            if row is None or row[1] != "set_aside":
                # An earlier try may have done it.
                return again and row is not None and row[1] == "running"
            run = row[:1]
            connection.execute(
                self._sql(
                    "UPDATE ~runs SET status = 'running', fence = fence + 1, wake_at = 0, reason = NULL WHERE id = %s"
                ),
                run,
            )
            connection.execute(self._sql("UPDATE ~inbox SET live = true WHERE run = %s"), run)
            connection.execute(self._sql("DELETE FROM ~results WHERE run = %s"), run)
            return True

        return self._write(put_back)

    def delete(self, run_id: str, *, owner: str | None = None) -> bool:
        allowed = f"NOT {_HELD}" if owner is None else "owner = %(owner)s"

        def delete(connection: Connection, again: bool) -> bool:
            runs = connection.execute(
                self._sql(f"SELECT id FROM ~runs runs WHERE run_id = %(run_id)s AND {allowed} FOR UPDATE"),
                {"run_id": run_id, "owner": owner},
            ).fetchall()
            self._delete(connection, [run for (run,) in runs])
            return bool(runs) or again

        return self._write(delete)

    def _delete(self, connection: Connection, runs: list[int]) -> None:
        for table in ("journal", "snapshots", "results", "events", "inputs", "inbox", "posts"):
            connection.execute(self._sql(f"DELETE FROM ~{table} WHERE run = ANY(%s)"), (runs,))
        connection.execute(self._sql("DELETE FROM ~runs WHERE id = ANY(%s)"), (runs,))

    def _trim(self, connection: Connection, runs: list[int]) -> None:
        for table in ("journal", "snapshots"):
            connection.execute(self._sql(f"DELETE FROM ~{table} WHERE run = ANY(%s)"), (runs,))
        connection.execute(
            self._sql("UPDATE ~runs SET first_seq = next_seq, bytes = 0, trimmed = true WHERE id = ANY(%s)"), (runs,)
        )

    def sweep(self, runs_before: float, journals_before: float) -> int:
        swept = self._sweep("ended_at < %s", runs_before, self._delete)
        self._sweep("ended_at < %s AND NOT trimmed", journals_before, self._trim)

        def forget(connection: Connection, again: bool) -> None:
            connection.execute(self._sql(f"DELETE FROM ~posts WHERE forget_at < {NOW}"))
            connection.execute(
                self._sql(
                    f"DELETE FROM ~owners o WHERE lease_until < {NOW} - {_FORGOTTEN}"
                    " AND NOT EXISTS (SELECT FROM ~runs r WHERE r.owner = o.owner)"
                )
            )

        self._write(forget)
        return swept

    def _sweep(self, which: str, before: float, end: Callable[[Connection, list[int]], None]) -> int:
        def some(connection: Connection, again: bool) -> int:
            # Another process that sweeps as well has locked what it deletes.
            statement = f"SELECT id FROM ~runs WHERE {which} LIMIT {_SWEPT_AT_ONCE} FOR UPDATE SKIP LOCKED"
            runs = connection.execute(self._sql(statement), (before,)).fetchall()
            end(connection, [run for (run,) in runs])
            return len(runs)

        swept = 0
        while done := self._write(some):
            swept += done
        return swept

    # Reading

    def row(self, run_id: str) -> RunRow | None:
        rows = self._select(f"{_ROW} WHERE r.run_id = %s", (run_id,))
        return RunRow(*rows[0][:-1]) if rows else None

    def load(self, run_ids: Collection[str]) -> dict[str, Loaded | StoreError]:
        wanted = list(run_ids)
        loaded: dict[str, Loaded | StoreError] = {}
        for i in range(0, len(wanted), _LOADED_AT_ONCE):
            loaded |= self._load(wanted[i : i + _LOADED_AT_ONCE])
        return loaded

    def _load(self, run_ids: list[str]) -> dict[str, Loaded | StoreError]:
        try:
            return self._connections.transact(lambda connection, again: self._read_runs(connection, run_ids))
        except StoreDamagedError as damaged:
            if len(run_ids) == 1:
                return {run_ids[0]: damaged}
            return {run_id: found for one in run_ids for run_id, found in self._load([one]).items()}

    def _read_runs(self, connection: Connection, run_ids: list[str]) -> dict[str, Loaded | StoreError]:
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            rows = connection.execute(self._sql(f"{_ROW} WHERE r.run_id = ANY(%s)"), (run_ids,), binary=True).fetchall()
            runs = {row[-1]: RunRow(*row[:-1]) for row in rows}
            snapshots = connection.execute(
                self._sql("SELECT run, seq, data FROM ~snapshots WHERE run = ANY(%s)"), (list(runs),), binary=True
            ).fetchall()
            journal = connection.execute(
                self._sql("SELECT run, seq, data FROM ~journal WHERE run = ANY(%s) ORDER BY run, seq"),
                (list(runs),),
                binary=True,
            ).fetchall()
            firsts = connection.execute(
                self._sql("SELECT id, first_seq FROM ~runs WHERE id = ANY(%s)"), (list(runs),)
            ).fetchall()
        snapshot = {run: (seq, data) for run, seq, data in snapshots}
        records: dict[int, list[tuple[int, bytes]]] = {run: [] for run in runs}
        for run, seq, data in journal:
            records[run].append((seq, data))
        loaded: dict[str, Loaded | StoreError] = {}
        for run, first in firsts:
            row = runs[run]
            if [seq for seq, _ in records[run]] == list(range(first, row.next_seq)):
                loaded[row.run_id] = Loaded(row, snapshot.get(run), records[run])
            else:
                loaded[row.run_id] = StoreDamagedError(
                    f"Run {row.run_id!r} is damaged: records are missing between {first} and {row.next_seq - 1}. "
                    "Other runs are not touched by it."
                )
        return {run_id: loaded[run_id] for run_id in run_ids if run_id in loaded}

    def result(self, run_id: str) -> bytes | None:
        found = self._select(
            "SELECT data FROM ~results WHERE run = (SELECT id FROM ~runs WHERE run_id = %s)", (run_id,)
        )
        return found[0][0] if found else None

    def events(self, run_id: str, after: int = -1, limit: int = 1000) -> list[tuple[int, bytes]]:
        return self._select(
            "SELECT number, data FROM ~events WHERE run = (SELECT id FROM ~runs WHERE run_id = %s) AND number > %s"
            " ORDER BY number LIMIT %s",
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
        conditions, parameters = [], []
        for column, value in (("workflow", workflow), ("status", status)):
            if value is not None:
                conditions.append(f"r.{column} = %s")
                parameters.append(value)
        if after is not None:
            last = self._select("SELECT id FROM ~runs WHERE run_id = %s", (after,))
            if not last:
                raise UnknownRunError(f"There is no run {after!r}, after which a page could begin.")
            conditions.append("r.id < %s" if newest_first else "r.id > %s")
            parameters.append(last[0][0])
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        order = f" ORDER BY r.id {'DESC' if newest_first else 'ASC'} LIMIT %s"
        return [RunRow(*row[:-1]) for row in self._select(f"{_ROW}{where}{order}", (*parameters, limit))]

    def orphans(self, workflows: Collection[str], limit: int = 1000) -> list[RunRow]:
        rows = self._select(
            f"{_ROW} WHERE o.lease_until <= {NOW} AND r.workflow = ANY(%s) LIMIT %s", (list(workflows), limit)
        )
        return [RunRow(*row[:-1]) for row in rows]

    def due(self, workflows: Collection[str], now: float, limit: int = 1000) -> list[RunRow]:
        rows = self._select(
            f"{_ROW} WHERE r.workflow = ANY(%s) AND r.wake_at <= %s ORDER BY r.wake_at LIMIT %s",
            (list(workflows), float(now), limit),
        )
        return [RunRow(*row[:-1]) for row in rows]

    def inputs(self, run_id: str | None = None, *, after: int = 0, limit: int = 1000) -> list[InputRow]:
        whose, parameters = ("", []) if run_id is None else (" AND r.run_id = %s", [run_id])
        statement = f"{_INPUT} WHERE i.closed IS NULL AND i.id > %s{whose} ORDER BY i.id LIMIT %s"
        return [InputRow(*row) for row in self._select(statement, (after, *parameters, limit))]

    def input(self, input_id: str) -> InputRow | None:
        rows = self._select(
            f"{_INPUT} WHERE i.input_id = %s ORDER BY i.closed IS NOT NULL, i.id DESC LIMIT 1", (input_id,)
        )
        return InputRow(*rows[0]) if rows else None

    def inbox(self, *, owner: str | None = None, run_id: str | None = None, limit: int = 1000) -> list[InboxEntry]:
        if (owner is None) == (run_id is None):
            raise ValueError("inbox() takes either owner or run_id")
        where, value = ("i.live AND r.owner = %s", owner) if owner is not None else ("r.run_id = %s", run_id)
        rows = self._select(f"{_ENTRY} WHERE {where} ORDER BY i.id LIMIT %s", (value, limit))
        return [InboxEntry(*row) for row in rows]

    # Watching

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._connections.check_open()
        return self._watchers.add(callback)

    def _listen(self, listener: Listener) -> None:
        """The thread that hears the server's notifications, on a connection of its own."""
        listener.wake = self._notify
        failing = False
        while not listener.ended.is_set():
            try:
                with self._connections.connect() as connection:
                    connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
                    failing = False
                    # What was posted while nobody listened.
                    listener.notify()
                    while not listener.ended.is_set():
                        heard = False
                        for _ in connection.notifies(timeout=_SILENCE, stop_after=1):
                            heard = True
                        if heard and not listener.ended.is_set():
                            listener.notify()
                        if not heard:
                            connection.execute("SELECT")
            except psycopg.Error:
                if not failing:
                    _logger.warning(
                        "Lost the connection that listens for posts; trying again.", exc_info=True, extra=log_fields()
                    )
                failing = True
                listener.ended.wait(1.0)

    def _notify(self) -> None:
        """Wake the listening thread, so that it sees that it has ended. Without a server it wakes by itself."""
        try:
            with self._connections.connect() as connection:
                connection.execute("SELECT pg_notify(%s, '')", (self._channel,))
        except errors.OperationalError:
            _logger.debug(
                "The server is gone; the listening thread ends within seconds.", exc_info=True, extra=log_fields()
            )

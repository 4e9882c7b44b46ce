"""The stores of the tests that kill, and a ledger beside them: every record and checkpoint that was ever committed.

A store drops what it needs no more; triggers within it write all of it down as well, so that a test may ask at the end
what was recorded, and how often.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import psycopg

from greenroom.stores import PostgresStore, RunStore, SQLiteStore


class Ledger(Protocol):
    """A store, and what was ever committed to it.

    Attributes:
        kind: What `tests.support.store_process.store_of` calls the store.
        where: And where it is.
    """

    kind: str
    where: str

    def store(self) -> RunStore:
        """Another opening of the store, not open yet."""

    def records(self, run_id: str) -> list[bytes]:
        """All records of a run that were ever committed, in order."""

    def last_snapshot(self, run_id: str) -> tuple[int, bytes]:
        """The last checkpoint of a run: the number of the first record after it, and the checkpoint."""

    def left_over(self) -> dict[str, int]:
        """How many rows there are in the tables that only runs need which have not ended."""

    def has_leases(self) -> bool:
        """Whether anybody's lease goes on."""

    def in_transaction(self) -> bool:
        """Whether any process stands in a transaction that others may have to wait for."""

    def assert_whole(self) -> None:
        """Have the database look for damage."""


class SQLiteLedger:
    """A file."""

    kind = "sqlite"

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        with closing(self.store()) as store:
            store.open()
        with self._connected() as db:
            for table in ("journal", "snapshots"):
                db.execute(f"CREATE TABLE kept_{table} (run INTEGER, seq INTEGER, data BLOB)")
                db.execute(
                    f"CREATE TRIGGER keep_{table} AFTER INSERT ON {table}"
                    f" BEGIN INSERT INTO kept_{table} VALUES (NEW.run, NEW.seq, NEW.data); END"
                )

    def store(self) -> SQLiteStore:
        return SQLiteStore(self.where)

    def records(self, run_id: str) -> list[bytes]:
        return [data for (data,) in self._select(_RECORDS.format("?"), (run_id,))]

    def last_snapshot(self, run_id: str) -> tuple[int, bytes]:
        ((seq, data),) = self._select(_LAST_SNAPSHOT.format("?"), (run_id,))
        return seq, data

    def left_over(self) -> dict[str, int]:
        return {table: self._select(f"SELECT count(*) FROM {table}")[0][0] for table in ("journal", "snapshots")}

    def has_leases(self) -> bool:
        return bool(self._select("SELECT 1 FROM owners WHERE lease_until > ?", (time.time(),)))

    def in_transaction(self) -> bool:
        with closing(sqlite3.connect(self.where, timeout=0.0, isolation_level=None)) as db:
            try:
                db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            db.execute("ROLLBACK")
            return False

    def assert_whole(self) -> None:
        assert self._select("PRAGMA integrity_check") == [("ok",)]

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.where)) as db, db:
            yield db

    def _select(self, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with self._connected() as db:
            return db.execute(statement, parameters).fetchall()


class PostgresLedger:
    """A schema on a server."""

    kind = "postgres"

    def __init__(self, conninfo: str, schema: str, patience: float = 30.0) -> None:
        self.where = f"{conninfo}|{schema}|{patience}"
        self._conninfo, self._schema = conninfo, schema
        with closing(self.store()) as store:
            store.open()
        with self._connected() as db:
            for table in ("journal", "snapshots"):
                db.execute(f"CREATE TABLE kept_{table} (run bigint, seq bigint, data bytea)")
                db.execute(
                    f"CREATE FUNCTION keep_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                    f' INSERT INTO "{schema}".kept_{table} VALUES (NEW.run, NEW.seq, NEW.data); RETURN NULL; END $$'
                )
                db.execute(
                    f"CREATE TRIGGER keep AFTER INSERT OR UPDATE ON {table}"
                    f" FOR EACH ROW EXECUTE FUNCTION keep_{table}()"
                )

    def store(self) -> PostgresStore:
        return PostgresStore(self._conninfo, schema=self._schema)

    def records(self, run_id: str) -> list[bytes]:
        return [data for (data,) in self._select(_RECORDS.format("%s"), (run_id,))]

    def last_snapshot(self, run_id: str) -> tuple[int, bytes]:
        ((seq, data),) = self._select(_LAST_SNAPSHOT.format("%s"), (run_id,))
        return seq, data

    def left_over(self) -> dict[str, int]:
        return {table: self._select(f"SELECT count(*) FROM {table}")[0][0] for table in ("journal", "snapshots")}

    def has_leases(self) -> bool:
        return bool(self._select("SELECT 1 FROM owners WHERE lease_until > extract(epoch FROM now())"))

    def in_transaction(self) -> bool:
        return bool(
            self._select(
                "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
                " AND (xact_start IS NOT NULL OR state = 'active')"
            )
        )

    def assert_whole(self) -> None:
        with self._connected() as db:
            db.execute("SET enable_indexscan = off")  # so that every page is read
            for (table,) in db.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", (self._schema,)):
                db.execute(f"SELECT count(t.*::text) FROM {table} t".encode())

    @contextmanager
    def _connected(self) -> Iterator[psycopg.Connection[Any]]:
        with _connect(self._conninfo) as db:
            db.execute(f'SET search_path = "{self._schema}"'.encode())
            yield db

    def _select(self, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with self._connected() as db:
            return db.execute(statement.encode(), parameters).fetchall()


def _connect(conninfo: str) -> psycopg.Connection[Any]:
    """A connection, as soon as the server has one to give: a test may have crashed it."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return psycopg.connect(conninfo, autocommit=True)
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


_RECORDS = "SELECT k.data FROM kept_journal k JOIN runs r ON r.id = k.run WHERE r.run_id = {} ORDER BY k.seq"
_LAST_SNAPSHOT = (
    "SELECT k.seq, k.data FROM kept_snapshots k JOIN runs r ON r.id = k.run WHERE r.run_id = {}"
    " ORDER BY k.seq DESC LIMIT 1"
)

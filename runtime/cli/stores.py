"""The store that a command is about: found by its name, opened, and never made by mistake."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from greenroom.cli.faults import CommandError
from greenroom.codec import to_jsonable
from greenroom.named import registry_of
from greenroom.owners import is_dead
from greenroom.stores import RunRow, RunStore, SQLiteStore
from greenroom.workflow import Workflow

__all__ = ["find_run", "find_store", "is_held", "opened", "plain_document"]

_PATIENCE = 5.0
_POSTGRES = ("postgresql://", "postgres://")


def find_store(reference: str | None, *, may_make: bool = False) -> RunStore:
    """Return the store of that name, not opened yet.

    Args:
        reference: The path of a SQLite file or the URL of a PostgreSQL database; None if none was named.
        may_make: Whether a store may be made where there is none.

    Raises:
        CommandError: If none was named, or there is none.
    """
    if not reference:
        raise CommandError("name the store: --store runs.db or --store postgresql://..., or set GREENROOM_STORE")
    if reference.startswith(_POSTGRES):
        return _find_postgres(reference, may_make)
    if "://" in reference:
        raise CommandError(f"'{reference.partition('://')[0]}://' is no store: name a file, or postgresql://...")
    path = Path(reference)
    if path.is_dir():
        raise CommandError(f"the store {path} is a folder, not a file")
    if not may_make and (not path.exists() or path.stat().st_size == 0):
        what = "there is no store" if not path.exists() else "this file is empty, and no store:"
        raise CommandError(f"{what} {path}; `greenroom run --store {path} ...` makes one")
    return SQLiteStore(path)


def _find_postgres(url: str, may_make: bool) -> RunStore:
    try:
        import psycopg

        from greenroom.stores import PostgresStore
    except ImportError as error:
        raise CommandError("a store in PostgreSQL needs psycopg: pip install 'greenroom[postgres]'") from error
    try:
        with psycopg.connect(url, connect_timeout=int(_PATIENCE)) as connection:
            row = connection.execute("SELECT to_regclass('greenroom.meta')").fetchone()
    except psycopg.Error as error:
        raise CommandError(f"the database cannot be reached: {str(error).strip()}") from error
    if not may_make and (row is None or row[0] is None):
        raise CommandError("this database has no store of Greenroom; `greenroom run --store ...` makes one in it")
    return PostgresStore(url, pool_size=2, patience=_PATIENCE)


@contextmanager
def opened(reference: str | None) -> Iterator[RunStore]:
    """Open a store that is there, and close it in the end.

    Raises:
        CommandError: If there is none.
        StoreError: If it cannot be opened.
    """
    store = find_store(reference)
    store.open()
    try:
        yield store
    finally:
        store.close()


def find_run(store: RunStore, run_id: str) -> RunRow:
    """Return the row of a run.

    Raises:
        CommandError: If there is no such run.
    """
    row = store.row(run_id)
    if row is None:
        raise CommandError(f"the store has no run '{run_id}'; `greenroom runs` lists those that it has")
    return row


def is_held(store: RunStore, row: RunRow) -> bool:
    """Return whether a process that is alive has the run, as far as can be told."""
    return row.owner is not None and row.owner in store.owners() and not is_dead(row.owner)


def plain_document(value: Any, workflow: Workflow) -> Any:
    """Return a value that the workflow knows as JSON-able values."""
    return to_jsonable(value, registry_of(workflow))

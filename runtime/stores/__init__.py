"""Stores: where durable runs are kept. `RunStore` says what each of them can do.

`MemoryStore` lives as long as its process, `SQLiteStore` is one file for the processes of one machine, `PostgresStore`
serves any number of machines (extra `[postgres]`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from greenroom.stores.memory import MemoryStore
from greenroom.stores.protocol import RunStore
from greenroom.stores.rows import ENDED, FIRST_FENCE, Commit, InboxEntry, InputRow, Loaded, NewRun, RunRow, Status
from greenroom.stores.sqlite import SQLiteStore

if TYPE_CHECKING:
    from greenroom.stores.postgres import PostgresStore as PostgresStore

__all__ = [
    "ENDED",
    "FIRST_FENCE",
    "Commit",
    "InboxEntry",
    "InputRow",
    "Loaded",
    "MemoryStore",
    "NewRun",
    "RunRow",
    "RunStore",
    "SQLiteStore",
    "Status",
]


def __getattr__(name: str) -> Any:
    # psycopg is an extra, so `PostgresStore` is imported when somebody asks for it.
    if name == "PostgresStore":
        from greenroom.stores.postgres import PostgresStore

        return PostgresStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Stores: where durable runs are kept. `RunStore` says what each of them can do.

`MemoryStore` lives as long as its process, `SQLiteStore` is one file for the processes of one machine, `PostgresStore`
serves any number of machines (extra `[postgres]`).
"""

from __future__ import annotations

from greenroom.stores.memory import MemoryStore
from greenroom.stores.protocol import RunStore
from greenroom.stores.rows import ENDED, FIRST_FENCE, Commit, InboxEntry, InputRow, Loaded, NewRun, RunRow, Status
from greenroom.stores.sqlite import SQLiteStore

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

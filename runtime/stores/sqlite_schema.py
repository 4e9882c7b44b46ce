"""The schema of a store in SQLite, and how a file comes to have it.

A file bears our mark (`application_id`) and the number of its schema (`user_version`). A newer Greenroom migrates an
older file when it opens it; an older one refuses a newer file. Since a file may be migrated while an older program has
it open, every write transaction looks at the number first.

The layout follows the load: many runs, each with a few small records in every transaction.

- `journal` and `events` only grow at their ends, so that a transaction touches few pages, however many runs write.
- The records of a run are a chain: `runs.newest` names the newest, `prev` the one before. The oldest has the number
  `runs.first_seq`; what its `prev` names is gone. An index would cost more than the record itself.
- `owners` has the leases, so that prolonging the lease on any number of runs changes one row.
- `inbox.live` is 1 while the run has not ended, so that leftovers are not in the way of those who look for work.
- `runs.id` numbers the runs in the order in which they were made.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from greenroom.errors import StoreError, StoreReadOnlyError, StoreVersionError
from greenroom.stores.sqlite_errors import translated

__all__ = ["VERSION", "check_version", "prepare"]

# A commit writes whole pages, of which it changes a few hundred bytes. Bytes; files that are there keep theirs.
_PAGE_SIZE = 1024

# "grnr"
_APPLICATION_ID = 0x67726E72

_VERSION_1 = """
CREATE TABLE owners (
    owner TEXT PRIMARY KEY,
    lease_until REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL UNIQUE,
    workflow TEXT NOT NULL,
    status TEXT NOT NULL,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    ended_at REAL,
    owner TEXT,
    fence INTEGER NOT NULL,
    token INTEGER NOT NULL,
    wake_at REAL,
    reason TEXT,
    next_seq INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    newest INTEGER NOT NULL,
    trimmed INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX runs_listed ON runs (workflow, status);
CREATE INDEX runs_by_status ON runs (status);
CREATE INDEX runs_held ON runs (owner) WHERE owner IS NOT NULL;
CREATE INDEX runs_due ON runs (workflow, wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX runs_ended ON runs (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX runs_untrimmed ON runs (ended_at) WHERE ended_at IS NOT NULL AND trimmed = 0;

CREATE TABLE journal (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    prev INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    data BLOB NOT NULL
);

CREATE TABLE snapshots (
    run INTEGER PRIMARY KEY,
    seq INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    data BLOB NOT NULL
);

CREATE TABLE results (
    run INTEGER PRIMARY KEY,
    data BLOB NOT NULL
);

CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    number INTEGER NOT NULL,
    data BLOB NOT NULL
);
CREATE UNIQUE INDEX events_of_run ON events (run, number);

CREATE TABLE inputs (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    input_id TEXT NOT NULL,
    step TEXT NOT NULL,
    request BLOB NOT NULL,
    response TEXT NOT NULL,
    schema TEXT NOT NULL,
    asked_at REAL NOT NULL,
    expires_at REAL,
    closed TEXT
);
CREATE UNIQUE INDEX inputs_of_run ON inputs (run, input_id);
CREATE INDEX inputs_by_id ON inputs (input_id);
CREATE INDEX inputs_open ON inputs (closed) WHERE closed IS NULL;

CREATE TABLE inbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run INTEGER NOT NULL,
    kind TEXT NOT NULL,
    payload BLOB NOT NULL,
    dedup_key TEXT,
    live INTEGER NOT NULL
);
CREATE INDEX inbox_of_run ON inbox (run);
CREATE INDEX inbox_live ON inbox (live) WHERE live = 1;

CREATE TABLE dedup (
    run INTEGER NOT NULL,
    key TEXT NOT NULL,
    PRIMARY KEY (run, key)
) WITHOUT ROWID;
"""

# The script at place n makes version n + 1 of version n. A script that was released is never changed.
_MIGRATIONS = (_VERSION_1,)

VERSION = len(_MIGRATIONS)


def check_version(path: Path, connection: sqlite3.Connection) -> None:
    """Refuse a file that another Greenroom has migrated in the meantime."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != VERSION:
        raise _newer(path, version)


def prepare(path: Path, *, busy_timeout: float) -> None:
    """Make the file, or migrate it. Several processes may do so at once."""
    with translated(path):
        if not path.parent.is_dir():
            raise StoreError(f"There is no folder {path.parent} for the store {path.name}. Make it first.")
        # Runs may hold secrets: the file is for its owner only. SQLite gives the files beside it the same mode.
        # A file that is there is not opened: to close it again would end the locks that this process has on it through
        # another store, and another process could take away the WAL under it.
        with suppress(FileExistsError):
            os.close(os.open(path.resolve(), os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
            raise StoreReadOnlyError(f"The store {path}, or its folder, may not be written to. Check who owns it.")
        connection = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None)
        try:
            connection.execute("BEGIN")
            _refuse_foreign(path, connection)
            connection.execute("ROLLBACK")
            connection.execute(f"PRAGMA page_size = {_PAGE_SIZE}")
            _use_wal(path, connection, busy_timeout)
            connection.execute("BEGIN IMMEDIATE")
            version = _refuse_foreign(path, connection)
            for script in _MIGRATIONS[version:]:
                for statement in script.split(";"):
                    connection.execute(statement)
            if version < VERSION:
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.execute("COMMIT")
        finally:
            connection.close()


def _refuse_foreign(path: Path, connection: sqlite3.Connection) -> int:
    """The version of the file, 0 for an empty one. Within a transaction, since another process may be making it."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application_id != _APPLICATION_ID and (tables or version or application_id):
        raise StoreVersionError(f"The file {path} is a database of another program. Give the store a file of its own.")
    if version > VERSION:
        raise _newer(path, version)
    return int(version)


def _newer(path: Path, version: int) -> StoreVersionError:
    return StoreVersionError(
        f"The store {path} has schema {version}, this Greenroom knows {VERSION}: a newer Greenroom has written it. "
        "Upgrade Greenroom here as well. Nothing in the file was touched."
    )


def _use_wal(path: Path, connection: sqlite3.Connection, busy_timeout: float) -> None:
    """Switch the file to WAL mode, which it keeps. When another process does the same, SQLite does not wait."""
    deadline = time.monotonic() + busy_timeout
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            break
        except sqlite3.OperationalError as exception:
            if exception.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.005)
    if mode != "wal":
        raise StoreError(
            f"The store {path} cannot use SQLite's WAL mode (it has {mode!r}): a network file system? "
            "Put it on a local disk."
        )

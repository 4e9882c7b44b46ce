"""What SQLite complains about, in our words: what happened, to which file, and what to do."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from greenroom.errors import (
    StoreBusyError,
    StoreDamagedError,
    StoreError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
)

__all__ = ["translated", "translation"]


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise what SQLite raises as an error of ours that says what to do."""
    try:
        yield
    except (sqlite3.Error, OSError) as exception:
        raise translation(path, exception) from exception


def translation(path: Path, exception: sqlite3.Error | OSError) -> StoreError:
    """Return the error of ours for what SQLite, or the system, has raised about a file."""
    if isinstance(exception, OSError):
        return StoreUnavailableError(f"The store {path} cannot be used: {exception}.")
    return _error(path, exception)


def _error(path: Path, exception: sqlite3.Error) -> StoreError:
    code = getattr(exception, "sqlite_errorcode", None)
    primary = code & 0xFF if code is not None else None
    said = f"SQLite says: {exception}."
    if primary == sqlite3.SQLITE_FULL or (primary == sqlite3.SQLITE_IOERR and _disk_is_full(path)):
        return StoreFullError(f"There is no room for the store {path}. Make room on its disk and try again. {said}")
    if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return StoreReadOnlyError(f"The store {path} may not be written to. Check who owns it and its folder. {said}")
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL):
        return StoreBusyError(
            f"Another process keeps the store {path} locked. Find it (a shell with an open transaction, a backup), or "
            f"give SQLiteStore a longer busy_timeout. {said}"
        )
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreDamagedError(
            f"The file {path} is damaged, or no SQLite database. Save a copy, then restore a backup or try the "
            f"command `.recover` of the sqlite3 shell. {said}"
        )
    if primary in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR):
        return StoreUnavailableError(f"The file {path} cannot be read or written. Check its disk and folder. {said}")
    return StoreError(f"The store {path} failed. {said}")


def _disk_is_full(path: Path) -> bool:
    # SQLite calls it an I/O error where it finds no room for the index of the WAL.
    stat = os.statvfs(path.parent)
    return stat.f_bavail * stat.f_frsize < 1024 * 1024

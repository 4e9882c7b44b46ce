"""The connections of one store to PostgreSQL: psycopg's pool, and what to do when a connection is lost.

Any thread may call it. A transaction that is lost to the connection, to a deadlock or to a conflict is done again, for
as long as `patience` allows. When the connection is lost during COMMIT, nobody knows what became of it: so every
transaction is written such that doing it twice is the same as doing it once, and is told whether it is tried again.

A forked child leaves the parent's connections alone and makes a pool of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from psycopg import errors
from psycopg_pool import ConnectionPool

from greenroom.errors import (
    StoreBusyError,
    StoreDamagedError,
    StoreError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
    StoreVersionError,
)
from greenroom.stores.forks import at_fork

__all__ = ["Connection", "Connections", "translated"]

Connection = psycopg.Connection[tuple[Any, ...]]
T = TypeVar("T")

_AGAIN = (errors.SerializationFailure, errors.DeadlockDetected)
# Seconds between two tries to reach a server that is gone.
_PAUSE = 0.1
# Seconds to wait for a connection of the pool before it is asked anew.
_POOL_WAIT = 1.0

# Pools of a parent process, kept for ever in its forked children: closing them would speak on the parent's connections.
_of_parents: list[object] = []


class Connections:
    """Lends connections and repeats transactions.

    Args:
        conninfo: The server and database, as libpq reads it.
        size: How many connections there may be at once.
        patience: Seconds for which a transaction is tried again while the server cannot be reached.
    """

    def __init__(self, conninfo: str, *, size: int, patience: float) -> None:
        self._conninfo = conninfo
        self._size = size
        self._patience = patience
        self._lock = threading.Lock()  # protects the two below
        self._is_open = False
        self._pool: ConnectionPool[Connection] | None = None
        at_fork(self)

    def connect(self) -> Connection:
        """A connection outside the pool, in autocommit mode."""
        return psycopg.connect(self._conninfo, autocommit=True)

    def transact(self, work: Callable[[Connection, bool], T]) -> T:
        """Call `work(connection, again)` until it goes through; `again`: an earlier try may have done so as well."""
        give_up_at = time.monotonic() + self._patience
        again = False
        while True:
            began = False
            try:
                # The pool does not look for a server that comes back; who asks it anew makes it look.
                with self._opened().connection(timeout=_POOL_WAIT) as connection:
                    began = True
                    return work(connection, again)
            except psycopg.Error as exception:
                lost = not began or _is_lost(exception)
                if not (lost or isinstance(exception, _AGAIN)) or time.monotonic() >= give_up_at:
                    raise translated(exception) from exception
                again = again or began
                if lost:
                    time.sleep(_PAUSE)

    def open(self) -> None:
        """Let transactions begin."""
        with self._lock:
            self._is_open = True

    def check_open(self) -> None:
        """Refuse what is done before `open` or after `close`."""
        if not self._is_open:
            raise StoreError("The store is not open. Call open() first.")

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            self._is_open = False
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def _opened(self) -> ConnectionPool[Connection]:
        with self._lock:
            self.check_open()
            if self._pool is None:
                self._pool = ConnectionPool(
                    self._conninfo,
                    min_size=1,
                    max_size=self._size,
                    kwargs={"autocommit": True},
                    open=True,
                    name="greenroom-store",
                    reconnect_timeout=_PAUSE,
                )
            return self._pool

    def before_fork(self) -> None:
        self._lock.acquire()

    def after_fork(self, *, in_child: bool) -> None:
        if in_child:
            _of_parents.append(self._pool)
            self._pool = None
        self._lock.release()


def _is_lost(exception: psycopg.Error) -> bool:
    """Whether the server or the connection to it went away."""
    if isinstance(exception, psycopg.InterfaceError):
        return True
    state = exception.sqlstate
    # No state: libpq speaks, not the server. 57P: the server is shut down or starts. 08: the connection.
    return isinstance(exception, psycopg.OperationalError) and (
        state is None or state[:2] == "08" or state[:3] == "57P"
    )


def translated(exception: psycopg.Error) -> StoreError:
    """An error of psycopg as one of ours that says what to do."""
    said = f"PostgreSQL says: {str(exception).strip()}"
    if isinstance(exception, (errors.DiskFull, errors.OutOfMemory)):
        return StoreFullError(f"There is no room left for the database. Make room on its disk and try again. {said}")
    if isinstance(exception, (errors.ReadOnlySqlTransaction, errors.InsufficientPrivilege)):
        return StoreReadOnlyError(f"The database may not be written to: a standby, or missing rights. {said}")
    if isinstance(exception, (errors.LockNotAvailable, errors.QueryCanceled, *_AGAIN)):
        return StoreBusyError(f"The database is too busy, or something keeps its tables locked. {said}")
    if isinstance(exception, (errors.DataCorrupted, errors.IndexCorrupted)):
        return StoreDamagedError(f"The database is damaged. Restore it from a backup. {said}")
    if isinstance(exception, (errors.UndefinedTable, errors.InvalidSchemaName)):
        return StoreError(f"The store is not in the database any more, or never was. Call open() first. {said}")
    if isinstance(exception, (errors.DuplicateTable, errors.DuplicateObject)):
        return StoreVersionError(f"The schema holds tables of another program. Give the store one of its own. {said}")
    if isinstance(exception, (psycopg.OperationalError, psycopg.InterfaceError)):
        return StoreUnavailableError(f"The database cannot be reached. Check that it runs and the conninfo. {said}")
    return StoreError(f"The database failed. {said}")

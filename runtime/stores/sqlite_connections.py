"""The SQLite connections of one store in one process: one that writes, and a few that read.

Any thread may call it. `_writing` is held for the length of a write transaction; the readers' condition protects the
list of idle readers and the count of those at work. In WAL mode readers and the writer do not wait for each other.

SQLite does not survive a fork: a child that inherits a connection shares its locks with nobody, and could destroy the
file. So before a fork all connections are closed, once their transactions are over, and parent and child open new ones.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from greenroom.errors import StoreError, StoreUnavailableError
from greenroom.log_fields import log_fields
from greenroom.stores.forks import at_fork
from greenroom.stores.sqlite_errors import translated, translation
from greenroom.stores.sqlite_schema import check_version

__all__ = ["Connections"]

_logger = logging.getLogger("greenroom.stores")

_IDLE_READERS = 4
# The size in bytes at which SQLite tries to begin the WAL file anew, and that it keeps then. Each time costs an fsync.
_WAL_LIMIT = 16 * 1024 * 1024
# Write transactions between two looks at the size of the WAL file.
_LOOK_EVERY = 256


class Connections:
    """Opens, lends and closes the connections to one file.

    Args:
        path: The file, an absolute path. It is there and has the schema.
        full_sync: Whether each commit waits until the disk has it.
        busy_timeout: Seconds to wait for other processes that write.

    Attributes:
        generation: What a writer remembers of the file from one transaction to the next holds while this number is the
            same. It is only looked at within `writing`.
    """

    def __init__(self, path: Path, *, full_sync: bool, busy_timeout: float) -> None:
        self._path = path
        self._full_sync = full_sync
        self._busy_timeout = busy_timeout
        self._writing = threading.Lock()
        self._writer: sqlite3.Connection | None = None
        self._transactions = 0
        self._data_version: int | None = None
        self.generation = 0
        self._file = _identity(path)
        self._readers = threading.Condition(threading.Lock())
        self._idle: list[sqlite3.Connection] = []
        self._at_work = 0
        self._closed = False
        self._forking: int | None = None  # the thread that is about to fork
        at_fork(self)

    @contextmanager
    def writing(self, *, remembers: bool = False) -> Iterator[sqlite3.Connection]:
        """A write transaction: committed at the end of the block, rolled back if the block raises.

        Args:
            remembers: Whether the writer keeps what it remembers up to date with what it writes.
        """
        # A generator, in spite of what it costs: wherever an interrupt strikes, it is closed and gives the lock back.
        with self._writing:
            if not remembers:
                self.generation += 1
            connection = None
            try:
                connection = self._writer or self._open_writer()
                connection.execute("BEGIN IMMEDIATE")
                # Another number if any other connection has written: it may have migrated the file, or taken runs over.
                (data_version,) = connection.execute("PRAGMA data_version").fetchone()
                if data_version != self._data_version:
                    check_version(self._path, connection)
                    self._data_version = data_version
                    self.generation += 1
                yield connection
                connection.execute("COMMIT")
            except BaseException as exception:
                if connection is not None:
                    self._give_up(connection, exception)
                if isinstance(exception, sqlite3.Error | OSError):
                    raise translation(self._path, exception) from exception
                raise
            self._transactions += 1
            if self._transactions % _LOOK_EVERY == 0:
                self._bound_wal(connection)

    def _open_writer(self) -> sqlite3.Connection:
        self._check_open()
        connection = self._writer = self._connect()
        self._data_version = None
        return connection

    def _give_up(self, connection: sqlite3.Connection, exception: BaseException) -> None:
        """Leave nothing half done. A connection that SQLite has complained about is not trusted again."""
        self.generation += 1
        if isinstance(exception, sqlite3.Error):
            self._writer = None
            connection.close()  # rolls back
        elif connection.in_transaction:
            connection.execute("ROLLBACK")

    def _bound_wal(self, connection: sqlite3.Connection) -> None:
        """Start the WAL anew if it has outgrown its limit: readers that never pause keep SQLite from doing so."""
        try:
            if os.stat(f"{self._path}-wal").st_size <= 4 * _WAL_LIMIT:
                return
            # It waits for readers; one that stands still must not hold up the writers for long.
            connection.execute("PRAGMA busy_timeout = 200")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            connection.execute(f"PRAGMA busy_timeout = {int(self._busy_timeout * 1000)}")
        except (OSError, sqlite3.Error):
            # The transaction is committed, whatever becomes of this. What is wrong with the file shows at the next one.
            _logger.warning("The WAL file of %s could not be cut back.", self._path, exc_info=True, extra=log_fields())

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that only reads. What is read within one `BEGIN` is of one moment."""
        with self._readers:
            while self._forking not in (None, threading.get_ident()):
                self._readers.wait()
            self._at_work += 1
            connection = self._idle.pop() if self._idle else None
        broken = True
        try:
            with translated(self._path):
                if connection is None:
                    self._check_open()
                    connection = self._connect()
                    connection.execute("PRAGMA query_only = 1")
                yield connection
            # After a damaged page this fails as well: then the connection is not lent again.
            with suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                broken = False
        finally:
            with self._readers:
                if connection is not None and not broken and not self._closed and len(self._idle) < _IDLE_READERS:
                    self._idle.append(connection)
                    connection = None
            if connection is not None:
                connection.close()
            with self._readers:
                self._at_work -= 1
                self._readers.notify_all()

    def check_file(self) -> None:
        """Refuse to go on with a file that was deleted or replaced: what is written to it is lost."""
        with translated(self._path):
            if _identity(self._path) != self._file:
                raise StoreUnavailableError(
                    f"The file {self._path} was replaced while it was in use. Restart this process."
                )

    def close(self) -> None:
        """Close everything; a reader that is at work does so when it is done."""
        with self._writing:
            self._closed = True
            self._close_all()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"The store {self._path} was closed while it was in use.")

    def _close_all(self) -> None:
        with self._readers:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self._path.as_uri()}?mode=rw",
            uri=True,
            timeout=self._busy_timeout,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.execute(f"PRAGMA synchronous = {'FULL' if self._full_sync else 'NORMAL'}")
            connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT}")
            (page_size,) = connection.execute("PRAGMA page_size").fetchone()
            connection.execute(f"PRAGMA wal_autocheckpoint = {_WAL_LIMIT // page_size}")
        except BaseException:
            connection.close()
            raise
        return connection

    def before_fork(self) -> None:
        self._writing.acquire()
        with self._readers:
            self._forking = threading.get_ident()
            self._readers.wait_for(lambda: not self._at_work)
        self._close_all()

    def after_fork(self, *, in_child: bool) -> None:
        if in_child:
            self._readers = threading.Condition(threading.Lock())  # its waiters stayed in the parent
        with self._readers:
            self._forking = None
            self._readers.notify_all()
        self._writing.release()


def _identity(path: Path) -> tuple[int, int]:
    stat = os.stat(path)
    return stat.st_dev, stat.st_ino

"""Runs that were put away in files.

A file is one msgpack map: the version of this format, the import path of the workflow, and the snapshot. The import
path is there to be shown and typed: reading a file imports nothing. What `ctx.snapshot()` returned can be read as well.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import msgpack

from greenroom.cli.faults import CommandError

__all__ = ["SavedRun", "check_writable", "hold", "read_saved", "write_saved", "write_whole"]

FORMAT = 1


@dataclass(frozen=True, slots=True)
class SavedRun:
    """A run in a file.

    Attributes:
        workflow: The import path of its workflow, as `module:name`; None where the file does not say it.
        snapshot: What `ctx.snapshot()` returned.
    """

    workflow: str | None
    snapshot: bytes


def write_saved(path: Path, saved: SavedRun) -> None:
    """Write a file, whole or not at all, that only its owner may read.

    Raises:
        OSError: If it cannot be written. What was there before is still there.
    """
    document = {"greenroom_file": FORMAT, "workflow": saved.workflow, "snapshot": saved.snapshot}
    write_whole(path, cast("bytes", msgpack.packb(document)))


def write_whole(path: Path, data: bytes) -> None:
    """Write bytes to a file, all of them or none, that only its owner may read.

    Raises:
        OSError: If it cannot be written. What was there before is still there.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the error that brought us here is the one to tell
            os.unlink(temporary)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the new name last as well."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system whose folders cannot be synced
            raise
    finally:
        os.close(descriptor)


def read_saved(path: Path) -> SavedRun:
    """Read a file. Nothing is imported.

    Raises:
        CommandError: If it cannot be read, or is no such file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from error
    try:
        document = msgpack.unpackb(data, max_map_len=8, max_array_len=0, max_ext_len=0)
    except Exception as error:
        raise CommandError(f"{path} is damaged, or no saved run: {error or type(error).__name__}") from error
    match document:
        case {"greenroom_file": int(version)} if version > FORMAT:
            raise CommandError(f"{path} was saved by a newer version of Greenroom: upgrade greenroom")
        case {"greenroom": int(), "head": bytes(), "document": bytes()}:
            return SavedRun(None, data)
        case {"greenroom_file": int(), "workflow": str(workflow), "snapshot": bytes(snapshot)}:
            return SavedRun(workflow, snapshot)
    raise CommandError(f"{path} is no saved run of Greenroom")


def check_writable(path: Path) -> None:
    """Raise before any work is done if a file cannot be written there.

    Raises:
        CommandError: If it cannot.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise CommandError(f"cannot save to {path}: {error.strerror}") from error


@contextlib.contextmanager
def hold(path: Path) -> Iterator[None]:
    """Keep other processes from resuming a file while this one does.

    Raises:
        CommandError: If another process does, or there is no such file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError(f"another process is resuming {path}") from None
        if not path.exists() or not os.path.samestat(os.fstat(descriptor), path.stat()):
            raise CommandError(f"another process has just resumed {path}; try again")
        yield
    finally:
        os.close(descriptor)

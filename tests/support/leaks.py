"""What a test must not leave behind: threads and file descriptors.

`Held.now()` lists what the process holds. Taken before and after a test, the difference is what the test left.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import NamedTuple

from tests.support.waiting import wait_until

# Seconds that a thread or descriptor may take to go after the test has ended. Only a test that leaks waits for so long.
GRACE = 5.0


class Held(NamedTuple):
    """The threads and open files of this process."""

    # Threads by object: an identifier is used again as soon as its thread has ended.
    threads: frozenset[threading.Thread]
    # Threads started by `_thread`, which `threading` does not list, by identifier.
    bare_threads: frozenset[int]
    # Descriptor, device, inode: a number is used again as soon as it is closed.
    files: frozenset[tuple[int, int, int]]

    @classmethod
    def now(cls) -> Held:
        """List what the process holds at this moment."""
        # A dummy stands for a thread of `_thread` that once asked for its name, and may outlive it.
        threads = frozenset(t for t in threading.enumerate() if not isinstance(t, threading._DummyThread))
        known = {thread.ident for thread in threads}
        bare = frozenset(ident for ident in sys._current_frames() if ident not in known)
        return cls(threads, bare, frozenset(_open_files()))

    def since(self, before: Held) -> Held:
        """What is held now and was not then."""
        return Held(*(now - then for now, then in zip(self, before, strict=True)))

    def describe(self) -> list[str]:
        """One line for each thing held, for a person to read."""
        return [
            *(f"thread {thread.name!r} ({'daemon' if thread.daemon else 'not daemon'})" for thread in self.threads),
            *(f"thread {ident}, started by _thread" for ident in self.bare_threads),
            *(f"file descriptor {fd}: {_target(fd)}" for fd, _, _ in self.files),
        ]


def left_since(before: Held) -> list[str]:
    """What was left since `before` and does not go within `GRACE` seconds; one line for each thing."""
    left = Held.now().since(before)

    def all_gone() -> bool:
        nonlocal left
        left = Held.now().since(before)
        return not any(left)

    return [] if not any(left) or wait_until(all_gone, GRACE) else left.describe()


def _open_files() -> list[tuple[int, int, int]]:
    found = []
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):  # the descriptor that lists the folder is closed by now
            status = os.fstat(int(name))
            found.append((int(name), status.st_dev, status.st_ino))
    return found


def _target(fd: int) -> str:
    try:
        return os.readlink(f"/dev/fd/{fd}")
    except OSError as error:  # closed this instant, or a system whose /dev/fd holds no links
        return str(error)

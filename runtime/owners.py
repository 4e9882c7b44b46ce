"""The names of owners: processes that hold runs, and whether they are still there."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

__all__ = ["describe_owner", "is_dead", "owner_name"]


def owner_name() -> str:
    """Return a name that tells the machine, the process and this runtime of it."""
    return f"{_machine()}/{os.getpid()}/{_started(os.getpid()) or 0}/{secrets.token_hex(4)}"


def describe_owner(owner: str) -> str:
    """Return in words who an owner is, for messages."""
    machine, pid, *_ = [*owner.rsplit("/", 3), ""]
    if not pid.isdecimal():
        return owner
    if machine == _machine() and int(pid) == os.getpid():
        return "another Runtime of this process"
    return f"process {pid} of machine {machine.partition(':')[0]}"


def _machine() -> str:
    """Return what processes have in common that see each other's process ids."""
    parts = [socket.gethostname()]
    for path, read in (("/proc/sys/kernel/random/boot_id", Path.read_text), ("/proc/self/ns/pid", os.readlink)):
        try:
            parts.append(str(read(Path(path))).strip())
        except OSError:
            continue  # Not Linux: the host's name has to do.
    return ":".join(parts)


def _started(pid: int) -> int | None:
    """Return when a process began, in the kernel's ticks; None where that cannot be known, and -1 if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        # One whose parent has not asked for its end yet is still listed.
        return -1 if fields[0] in ("Z", "X") else int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def is_dead(owner: str) -> bool:
    """Return whether an owner is a process of this machine that is gone for certain."""
    try:
        machine, pid, started = owner.rsplit("/", 3)[0], *map(int, owner.split("/")[-3:-1])
    except ValueError:
        return False
    if machine != _machine():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    now_started = _started(pid)
    return bool(started and now_started is not None and now_started != started)

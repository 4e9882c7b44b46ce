"""A PostgreSQL server of the tests' own: in a temporary folder, on a socket there."""

from __future__ import annotations

import atexit
import os
import pwd
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

# The server refuses to run as root; root runs it as this user.
_USER = "postgres"


def missing() -> str | None:
    """What is lacking to start a server here, None if nothing is."""
    if _binaries() is None:
        return "no PostgreSQL server (initdb and pg_ctl, on PATH or under /usr/lib/postgresql)"
    if os.getuid() == 0:
        if shutil.which("setpriv") is None:
            return "no setpriv to run PostgreSQL as another user than root"
        try:
            pwd.getpwnam(_USER)
        except KeyError:
            return f"no user {_USER!r} to run PostgreSQL as, for it refuses to run as root"
    return None


def _binaries() -> Path | None:
    on_path = shutil.which("initdb")
    if on_path is not None and shutil.which("pg_ctl", path=Path(on_path).parent) is not None:
        return Path(on_path).parent
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    return found[-1].parent if found else None


class CommandFailed(Exception):
    """A program of PostgreSQL has failed, and said why."""


class PostgresServer:
    """Started by the constructor; `close` ends it and removes its folder."""

    def __init__(self, *, fsync: bool = False) -> None:
        self._folder = _make_folder()
        self._data = self._folder / "data"
        _run("cp", "-a", _template(), self._data)
        with open(self._data / "postgresql.conf", "a") as conf:
            conf.write(f"listen_addresses = ''\nunix_socket_directories = '{self._folder}'\nmax_connections = 60\n")
            conf.write(f"fsync = {'on' if fsync else 'off'}\n")
        self.conninfo = f"host={self._folder} user=greenroom dbname=postgres"
        self.pid_file = self._data / "postmaster.pid"
        self.start()

    def start(self) -> None:
        """Start, and wait until it takes connections."""
        self._control("start", "-l", self._folder / "log")

    def stop(self, mode: str = "immediate") -> None:
        """Stop. `immediate` is a crash: it recovers from its WAL when it starts again."""
        self._control("stop", "-m", mode)

    def restart(self, mode: str = "immediate") -> None:
        """Stop and start."""
        self._control("restart", "-m", mode, "-l", self._folder / "log")

    @contextmanager
    def revived(self) -> Iterator[list[float]]:
        """Start it again whenever something crashes it in the block; the list gets the time of each start.

        A server that does not start is tried again: the test that waits for it gives up.
        """
        starts: list[float] = []
        over = threading.Event()

        def revive() -> None:
            while not over.wait(0.01):
                if not self.pid_file.exists():
                    # It may be crashed again before `pg_ctl` sees that it takes connections.
                    with suppress(CommandFailed):
                        self.start()
                    starts.append(time.monotonic())

        thread = threading.Thread(target=revive)
        thread.start()
        try:
            yield starts
        finally:
            over.set()
            thread.join()

    def close(self) -> None:
        """Stop, and remove all of it."""
        self.stop()
        shutil.rmtree(self._folder)

    def _control(self, *arguments: str | Path) -> None:
        _run(_program("pg_ctl"), "-D", self._data, "-w", *arguments)


@cache
def _template() -> Path:
    """A database that was made and never started. Servers copy it: to make one takes seconds."""
    folder = _make_folder()
    atexit.register(shutil.rmtree, folder)
    data = folder / "data"
    _run(_program("initdb"), "-D", data, "-U", "greenroom", "-A", "trust", "-E", "UTF8", "--no-sync")
    return data


def _make_folder() -> Path:
    """A folder of the server's user. Its path is short: that of a socket has at most 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="greenroom-pg-"))
    if os.getuid() == 0:
        os.chown(folder, pwd.getpwnam(_USER).pw_uid, pwd.getpwnam(_USER).pw_gid)
    return folder


def _program(name: str) -> Path:
    binaries = _binaries()
    assert binaries is not None
    return binaries / name


def _run(*command: str | Path) -> None:
    """Run a program as the server's user."""
    if os.getuid() == 0:
        command = ("setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups", *command)
    # Not through pipes, which the server would inherit and keep open.
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        output.seek(0)
        if done.returncode:
            raise CommandFailed(f"{command} ended with {done.returncode}:\n{output.read().decode()}")

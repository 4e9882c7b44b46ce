"""A PostgreSQL server of the tests' own: in a temporary folder, on a socket there."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
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


class PostgresServer:
    """Started by the constructor; `close` ends it and removes its folder."""

    def __init__(self, *, fsync: bool = False) -> None:
        # A short path, open to the server's user: that of a socket has at most 107 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="greenroom-pg-"))
        self._data = self._folder / "data"
        if os.getuid() == 0:
            os.chown(self._folder, pwd.getpwnam(_USER).pw_uid, pwd.getpwnam(_USER).pw_gid)
        self._run("initdb", "-D", self._data, "-U", "greenroom", "-A", "trust", "-E", "UTF8", "--no-sync")
        with open(self._data / "postgresql.conf", "a") as conf:
            conf.write(f"listen_addresses = ''\nunix_socket_directories = '{self._folder}'\nmax_connections = 60\n")
            conf.write(f"fsync = {'on' if fsync else 'off'}\n")
        self.conninfo = f"host={self._folder} user=greenroom dbname=postgres"
        self.start()

    def start(self) -> None:
        """Start, and wait until it takes connections."""
        self._run("pg_ctl", "-D", self._data, "-l", self._folder / "log", "-w", "start")

    def stop(self, mode: str = "immediate") -> None:
        """Stop. `immediate` is a crash: it recovers from its WAL when it starts again."""
        self._run("pg_ctl", "-D", self._data, "-w", "-m", mode, "stop")

    def restart(self, mode: str = "immediate") -> None:
        self.stop(mode)
        self.start()

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def _run(self, program: str, *arguments: str | Path) -> None:
        binaries = _binaries()
        assert binaries is not None
        command: list[str | Path] = [binaries / program, *arguments]
        if os.getuid() == 0:
            command = ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups", *command]
        # Not through pipes, which the server would inherit and keep open.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output)
            output.seek(0)
            assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{output.read().decode()}"

"""The command `greenroom` in a process of its own, with a terminal and without one."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIME_LIMIT = 25.0
"""Seconds after which a command that should have gone on is killed and the test fails."""


def command(*arguments: str | Path) -> list[str]:
    return [str(Path(sysconfig.get_path("scripts"), "greenroom")), *map(str, arguments)]


def environment() -> dict[str, str]:
    """This environment, with a terminal that has no colours."""
    dropped = ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS")
    return {name: value for name, value in os.environ.items() if name not in dropped} | {"TERM": "dumb"}


def run(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the command with no terminal on any side."""
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=TIME_LIMIT,
        check=False,
    )


class Terminal:
    """The person's side of a pseudo-terminal on which the command runs."""

    def __init__(self, process: subprocess.Popen[bytes], person: int) -> None:
        self.process = process
        self._person = person
        self._unread = ""

    def read_until(self, text: str) -> str:
        """Read the screen up to and with a text that must come."""
        deadline = time.monotonic() + TIME_LIMIT
        while text not in self._unread:
            chunk = self._read(deadline)
            assert chunk, f"{text!r} did not come, the screen shows: {self._unread!r}"
            self._unread += chunk
        before, _, self._unread = self._unread.partition(text)
        return before + text

    def read_rest(self) -> str:
        """Read the screen until the command has left the terminal."""
        deadline = time.monotonic() + TIME_LIMIT
        while chunk := self._read(deadline):
            self._unread += chunk
        rest, self._unread = self._unread, ""
        return rest

    def type(self, keys: str) -> None:
        os.write(self._person, keys.encode())

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        self.process.send_signal(number)

    def code(self) -> int:
        return self.process.wait(TIME_LIMIT)

    def _read(self, deadline: float) -> str:
        ready, _, _ = select.select([self._person], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"the screen shows only: {self._unread!r}"
        try:
            return os.read(self._person, 65536).decode().replace("\r\n", "\n")
        except OSError:  # Linux reports the end of a pseudo-terminal as an error.
            return ""


@contextmanager
def terminal(*arguments: str | Path, cwd: Path = ROOT, stdout: int | None = None) -> Iterator[Terminal]:
    """Run the command on a pseudo-terminal of its own; its output may go elsewhere."""
    person, program = os.openpty()
    # A test run that is a background job of a shell ignores SIGINT, and its children would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with subprocess.Popen(
            command(*arguments),
            cwd=cwd,
            env=environment(),
            stdin=program,
            stdout=program if stdout is None else stdout,
            stderr=program,
        ) as process:
            os.close(program)
            try:
                yield Terminal(process, person)
            finally:
                process.kill()
    finally:
        signal.signal(signal.SIGINT, before)
        os.close(person)

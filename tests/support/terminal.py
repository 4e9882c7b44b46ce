"""A command in a process of its own, with a terminal and without one."""

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

__all__ = ["GREENROOM", "ROOT", "TIME_LIMIT", "Program", "Terminal"]

ROOT = Path(__file__).parents[2]
TIME_LIMIT = 25.0
"""Seconds after which a command that should have gone on is killed and the test fails."""


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


class Program:
    """A command, to be run with arguments."""

    def __init__(self, *start: str | Path, kind: str) -> None:
        """Take what its command line begins with, and the kind of terminal that it is told to have."""
        self._start = [*map(str, start)]
        self._kind = kind

    @property
    def environment(self) -> dict[str, str]:
        """This environment, without what would tell `rich` that a pipe is a terminal, or how wide it is."""
        dropped = ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS")
        return {name: value for name, value in os.environ.items() if name not in dropped} | {"TERM": self._kind}

    def command(self, *arguments: str | Path) -> list[str]:
        return [*self._start, *map(str, arguments)]

    def run(self, *arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
        """Run it with no terminal on any side."""
        return subprocess.run(
            self.command(*arguments),
            cwd=cwd,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=TIME_LIMIT,
            check=False,
        )

    def run_unread(self, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
        """Run it with a standard output that nobody reads any more, as in `| head -1`."""
        read_end, write_end = os.pipe()
        os.close(read_end)
        try:
            return subprocess.run(
                self.command(*arguments),
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=write_end,
                stderr=subprocess.PIPE,
                timeout=TIME_LIMIT,
                check=False,
            )
        finally:
            os.close(write_end)

    @contextmanager
    def terminal(self, *arguments: str | Path, cwd: Path = ROOT, stdout: int | None = None) -> Iterator[Terminal]:
        """Run it on a pseudo-terminal of its own; its output may go elsewhere."""
        person, program = os.openpty()
        # A test run that is a background job of a shell ignores SIGINT, and its children would inherit that.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with subprocess.Popen(
                self.command(*arguments),
                cwd=cwd,
                env=self.environment,
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


# On a terminal that has no colours.
GREENROOM = Program(Path(sysconfig.get_path("scripts"), "greenroom"), kind="dumb")

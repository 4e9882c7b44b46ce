"""Runs the rows: a process a side, in turns, and puts the figures together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import Any, Self

from benchmarks.row import PEER, Figure, Result, Row, Side
from benchmarks.worker import path_of

ROUND_SECONDS = 0.5


def peer_version() -> str | None:
    """Return the version of the peer that is installed, or None."""
    return installed_version(PEER)


def installed_version(distribution: str) -> str | None:
    """Return the installed version of a distribution, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


class Worker:
    """A process that measures one side of one row whenever it is told to."""

    def __init__(self, row: type[Row], side: Side) -> None:
        # The child finds modules where we do, rows of a test included.
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        self.figure = Figure()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", path_of(row), side],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": path},
        )

    def take_round(self, size: int, seconds: float) -> None:
        """Measure one round and add it to the figure; a failure stays in the figure and ends the measuring."""
        if self.figure.error is not None:
            return
        answer = self._ask(json.dumps({"size": size, "seconds": seconds}))
        if answer is None:
            self.figure.error = f"the process ended with code {self._process.wait()}; stderr says where it was"
        elif "error" in answer:
            self.figure.error = answer["error"]
        else:
            self.figure.samples.append(answer["value"])
            self.figure.noted.append(answer["notes"])

    def _ask(self, order: str) -> dict[str, Any] | None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(order + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        line = self._process.stdout.readline()
        answer: dict[str, Any] | None = json.loads(line) if line else None
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """End the process. It must end by itself and in order: an engine that hangs at exit is a failed row."""
        if error is not None:
            self._process.kill()
        self._process.communicate()
        code = self._process.returncode
        if error is None and code != 0 and self.figure.error is None:
            self.figure.error = f"the process ended with code {code} after its last round; stderr says where it was"


def compare(row: type[Row], rounds: int, quick: bool, with_peer: bool) -> Result:
    """Measure one row, the sides taking turns.

    Args:
        row: What to measure.
        rounds: How many rounds each side gets, unless the row asks for fewer.
        quick: Take one measurement of the row's quick size a round.
        with_peer: Measure the peer too, where the row has it. Peers other than `PEER` must be installed as well.

    Returns:
        The figures of both sides; a side that failed bears its error.
    """
    size = row.quick_size if quick else row.size
    seconds = 0.0 if quick else ROUND_SECONDS
    with ExitStack() as stack:
        ours = stack.enter_context(Worker(row, "ours"))
        with_peer = (
            with_peer and row.has_peer() and (row.peer_name == PEER or installed_version(row.peer_name) is not None)
        )
        peer = stack.enter_context(Worker(row, "peer")) if with_peer else None
        for _ in range(min(rounds, row.max_rounds or rounds)):
            for worker in (ours, peer):
                if worker is not None:
                    worker.take_round(size, seconds)
    return Result(row, size, ours.figure, peer.figure if peer else None)


def compare_all(rows: list[type[Row]], rounds: int, quick: bool, with_peer: bool) -> Iterator[Result]:
    """Measure the rows one after the other and yield each as soon as it is known."""
    for row in rows:
        yield compare(row, rounds, quick, with_peer)

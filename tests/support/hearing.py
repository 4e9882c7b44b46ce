"""An observer that writes down what it hears."""

from __future__ import annotations

import threading
from typing import Any

from greenroom import Event
from greenroom.observer import AttemptRecord, Observer, RunRecord, WaitRecord

__all__ = ["Log", "run_of"]


class Log(Observer):
    """Writes down what it hears, and complains of what comes out of order or twice."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.whose: list[str] = []
        self._lock = threading.Lock()
        self.faults: list[str] = []
        self.open: set[Any] = set()
        self.attempts: list[AttemptRecord] = []
        self.waits: list[WaitRecord] = []
        self.runs: list[RunRecord] = []

    def of(self, run_id: str) -> list[str]:
        """The lines of one run."""
        return [line for run, line in zip(self.whose, self.lines, strict=True) if run == run_id]

    def _say(self, record: Any, line: str) -> None:
        with self._lock:  # Bodies of several runs tell at once.
            self.whose.append(run_of(record).run_id)
            self.lines.append(line)

    def _begin(self, record: Any) -> None:
        if record in self.open or (record.ended_at is not None and not isinstance(record, AttemptRecord)):
            self.faults.append(f"began twice or too late: {record}")
        self.open.add(record)

    def _end(self, record: Any) -> None:
        if record not in self.open or record.ended_at is None:
            self.faults.append(f"ended twice or without a begin: {record}")
        self.open.discard(record)

    def run_started(self, run: RunRecord) -> None:
        self._begin(run)
        self.runs.append(run)
        self._say(run, "run")

    def run_ended(self, run: RunRecord) -> None:
        assert run.outcome is not None
        self._end_run(run, run.outcome.status)

    def run_left(self, run: RunRecord) -> None:
        assert run.left is not None
        assert run.outcome is None
        self._end_run(run, run.left)

    def _end_run(self, run: RunRecord, how: str) -> None:
        self._end(run)
        self.faults += [f"outlived its run: {record}" for record in self.open if run_of(record) is run]
        inside = [record for record in self.open if isinstance(record, RunRecord) and record.parent]
        self.faults += [f"outlived its parent: {record}" for record in inside if record.parent.run is run]
        self._say(run, f"run {how}")

    def run_idle(self, run: RunRecord) -> None:
        self._say(run, "idle")

    def event_routed(self, run: RunRecord, event: Event, step: str, is_queued: bool) -> None:
        self._say(run, f"{type(event).__name__} to {step}{', queued' if is_queued else ''}")

    def event_streamed(self, run: RunRecord, event: Event) -> None:
        self._say(run, f"stream {type(event).__name__}")

    def event_held(self, run: RunRecord, event: Event) -> None:
        self._say(run, f"held {type(event).__name__}")

    def dead_letter(self, run: RunRecord, letter: Any) -> None:
        self._say(run, f"dead {type(letter.event).__name__}")

    def step_started(self, attempt: AttemptRecord) -> None:
        self._begin(attempt)
        self.attempts.append(attempt)
        self._say(attempt, f"{attempt.step} {attempt.attempt}")

    def step_ended(self, attempt: AttemptRecord) -> None:
        self._end(attempt)
        self._say(attempt, f"{attempt.step} {attempt.attempt} {attempt.end}")

    def step_retried(self, run: RunRecord, step: str, invocation: int, delay: float) -> None:
        self._say(run, f"{step} again in {delay:g}")

    def wait_started(self, wait: WaitRecord) -> None:
        self._begin(wait)
        self.waits.append(wait)
        self._say(wait, f"wait {wait.event_type.__name__}")

    def wait_ended(self, wait: WaitRecord) -> None:
        self._end(wait)
        self._say(wait, f"wait {wait.event_type.__name__} {wait.end}")


def run_of(record: Any) -> RunRecord:
    """The run that a record belongs to."""
    if isinstance(record, WaitRecord):
        return record.attempt.run
    return record if isinstance(record, RunRecord) else record.run

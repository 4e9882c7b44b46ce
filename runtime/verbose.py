"""What `Workflow(verbose=True)` prints.

A line for whatever happens in a run, written before its result is there. Lines begin with the run's id while several
verbose runs go on; those of a child always do. `_going` holds those; only single set operations are used on it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from greenroom.events import Event, StepState, StepStateChanged, StopEvent, UnhandledEvent, WorkflowIdleEvent
from greenroom.log_fields import log_fields
from greenroom.observer import AttemptRecord, Observer, RunRecord, WaitRecord
from greenroom.outcome import DeadLetter

__all__ = ["Verbose", "describe"]

logger = logging.getLogger("greenroom.verbose")

_going: set[str] = set()


class Verbose(Observer):
    """Prints a line for whatever happens in a run and its children, or logs it where somebody listens."""

    def __init__(self) -> None:
        """Print for a run that is about to begin."""
        self._put = _writer()

    def _write(self, run: RunRecord, line: str) -> None:
        is_named = run.parent is not None or len(_going) > 1
        self._put(f"{run.run_id} {line}" if is_named else line, run.run_id)

    def run_started(self, run: RunRecord) -> None:
        _going.add(run.run_id)
        if run.beginning in ("woken", "recovered"):
            self._write(run, f"[{run.beginning}]")

    def run_left(self, run: RunRecord) -> None:
        assert run.left is not None
        self._write(run, f"[{run.left.replace('_', ' ')}]")
        _going.discard(run.run_id)

    def run_idle(self, run: RunRecord) -> None:
        self._write(run, "[idle]")

    def run_ended(self, run: RunRecord) -> None:
        assert run.outcome is not None
        self._write(run, f"[result] {run.outcome.event!r}")
        _going.discard(run.run_id)

    def event_routed(self, run: RunRecord, event: Event, step: str, is_queued: bool) -> None:
        self._write(run, f"[tick] add: {type(event).__name__} -> {step}")
        if is_queued:
            self._write(run, f"[{step}] enqueued (waiting for capacity)")

    def event_streamed(self, run: RunRecord, event: Event) -> None:
        if not isinstance(event, StopEvent):
            self._write(run, f"[stream] {type(event).__name__}")

    def event_held(self, run: RunRecord, event: Event) -> None:
        self._write(run, f"[unhandled] {type(event).__name__}: it is kept for a wait")

    def dead_letter(self, run: RunRecord, letter: DeadLetter) -> None:
        self._write(run, f"[unhandled] {type(letter.event).__name__}: {letter.reason}")

    def step_started(self, attempt: AttemptRecord) -> None:
        self._write(attempt.run, f"{_worker(attempt)} started from {type(attempt.event).__name__}")

    def step_ended(self, attempt: AttemptRecord) -> None:
        if attempt.end == "completed":
            how = f"complete with {attempt.output_name or 'no result'}"
        else:
            how = (attempt.end or "") if attempt.error is None else f"{attempt.end} with {attempt.error!r}"
        self._write(attempt.run, f"{_worker(attempt)} {how}")

    def step_retried(self, run: RunRecord, step: str, invocation: int, delay: float) -> None:
        self._write(run, f"[{step}] tried again in {delay:g} s")

    def wait_started(self, wait: WaitRecord) -> None:
        self._write(wait.attempt.run, f"{_worker(wait.attempt)} waits for {wait.event_type.__name__}")

    def wait_ended(self, wait: WaitRecord) -> None:
        how = wait.end if wait.answer is None else f"answered with {type(wait.answer).__name__}"
        self._write(wait.attempt.run, f"{_worker(wait.attempt)} wait for {wait.event_type.__name__} {how}")


def _worker(attempt: AttemptRecord) -> str:
    return f"[{attempt.step}:{attempt.worker}]"


def _writer() -> Callable[[str, str], None]:
    if logger.isEnabledFor(logging.DEBUG):
        return lambda line, run_id: logger.debug("%s", line, extra=log_fields(run_id))
    if logger.isEnabledFor(logging.INFO):
        return lambda line, run_id: logger.info("%s", line, extra=log_fields(run_id))
    # In one piece: several threads write.
    return lambda line, run_id: print(line + "\n", end="", flush=True)


def describe(event: Event) -> str | None:
    """Return a line that tells of an event of a stream, internal ones included; None where it is not worth one."""
    match event:
        case StepStateChanged(step_state=StepState.RUNNING):
            return f"[{event.name}:{event.worker_id}] started from {event.input_event_name}"
        case StepStateChanged(step_state=StepState.PREPARING):
            return f"[{event.name}] enqueued (waiting for capacity)"
        case StepStateChanged():
            output = f"with {event.output_event_name}" if event.output_event_name else "with no result"
            return f"[{event.name}:{event.worker_id}] complete {output}"
        case UnhandledEvent():
            return f"[unhandled] {event.event_type}"
        case WorkflowIdleEvent():
            return "[idle]"
        case StopEvent():
            return f"[result] {event!r}"
    return f"[stream] {type(event).__name__}"

"""What `Workflow(verbose=True)` prints."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from greenroom.events import Event, StepState, StepStateChanged, StopEvent, UnhandledEvent, WorkflowIdleEvent

if TYPE_CHECKING:
    from greenroom.handler import Handler

__all__ = ["describe", "print_progress"]

logger = logging.getLogger("greenroom.verbose")


def print_progress(handler: Handler) -> None:
    """Print a line for whatever happens in a run, until it ends."""
    write = _writer()
    for event in handler.stream_events(after=-1, expose_internal=True):
        line = describe(event)
        if line is not None:
            write(line)


def _writer() -> Callable[[str], None]:
    if logger.isEnabledFor(logging.DEBUG):
        return logger.debug
    if logger.isEnabledFor(logging.INFO):
        return logger.info
    return lambda line: print(line, flush=True)


def describe(event: Event) -> str | None:
    """Return a line that tells of an event; None where it is not worth one."""
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

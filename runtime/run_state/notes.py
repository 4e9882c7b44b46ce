"""Notes: internal events that are built only when somebody reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from greenroom.events import Event, StepState, StepStateChanged, UnhandledEvent

# How many events the run and its children had published, how to build the event, and with what.
Note = tuple[Any, ...]


def read_note(note: Note) -> Event:
    """Build the internal event that a note stands for."""
    event: Event = note[1](*note[2:])
    return event


def of_child(run_id: str, build: Callable[..., Event], *arguments: Any) -> Event:
    """Build an internal event of a child; `run_id` tells whose it is."""
    return build(*arguments)


def state_changed(name: str, state: StepState, worker: int | None, event: type[Event], output: str | None) -> Event:
    """Build the event that tells of an invocation that was queued, began or ended."""
    return StepStateChanged(
        name=name,
        step_state=state,
        worker_id="<enqueued>" if worker is None else str(worker),
        input_event_name=event.__name__,
        output_event_name=output,
    )


def written(event: Event) -> Event:
    """Return an internal event that a step wrote."""
    return event


def unhandled(event_class: type[Event], step: str | None, idle: bool) -> Event:
    """Build the event that tells of an event which no step takes."""
    return UnhandledEvent(
        event_type=event_class.__name__,
        qualified_name=f"{event_class.__module__}.{event_class.__qualname__}",
        step_name=step,
        idle=idle,
    )

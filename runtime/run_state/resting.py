"""How a run comes to rest: it waits for the outside, or nothing can ever go on and it is stuck."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from greenroom.effects import Effect
from greenroom.errors import WorkflowStuckError
from greenroom.events import Event, WorkflowCancelledEvent, WorkflowIdleEvent
from greenroom.facts import BecameQuiet
from greenroom.outcome import Outcome
from greenroom.run_state.child_runs import rest_children
from greenroom.run_state.ending import end, fail

if TYPE_CHECKING:
    from greenroom.run_state.state import RunState


def became_quiet(state: RunState, fact: BecameQuiet, now: float, effects: list[Effect]) -> None:
    """Nothing is queued or in flight: the run rests, or it is stuck."""
    if state.touched:
        rest_children(state, now, effects)
    if not state.is_quiet:
        return
    if state.drain_error is not None:
        end(state, Outcome("cancelled", WorkflowCancelledEvent(), state.drain_error), effects)
        return
    if not state.idle_noted:
        state.idle_noted = True
        state.notes.append((state.place, WorkflowIdleEvent))
    # Asked at each rest: what the run has waited for may have come since, and led nowhere.
    may_go_on = state.graph.asks_people or state.inputs.open or state.waits or state.delayed
    if state.on_stuck == "fail" and not may_go_on:
        fail(state, WorkflowStuckError(describe_stuck(state)), effects)


def describe_stuck(state: RunState) -> str:
    """Say why nothing can go on, with each buffer and what it lacks."""
    lines = [
        f"run '{state.run_id}' of {state.graph.name} is stuck: nothing is queued, in flight or awaited, and no step"
        " takes an event that only somebody outside can send"
    ]
    for (step, buffer_id), buffer in state.buffers.items():
        lack = f" and lacks {_describe_lack(buffer.lacks)}" if buffer.lacks else ", enough, but nothing asked for them"
        what = f"the collection '{buffer_id}' of step '{step}'" if isinstance(buffer_id, str) else f"the join '{step}'"
        lines.append(f"  - {what} holds {len(buffer.events)}{lack}")
    for event, _ in state.held[-5:]:
        lines.append(f"  - {type(event).__name__} was sent from outside and no step takes it")
    for letter in list(state.dead_letters)[-5:]:
        lines.append(f"  - {type(letter.event).__name__} was not taken: {letter.reason}")
    lines.append("return an event that leads to a stop event, or keep the run with Workflow(on_stuck='wait')")
    return "\n".join(lines)


def _describe_lack(lacks: Mapping[type[Event], int]) -> str:
    """Say what a collection lacks, such as `2 x Result, 1 x Query`."""
    return ", ".join(f"{count} x {cls.__name__}" for cls, count in lacks.items())

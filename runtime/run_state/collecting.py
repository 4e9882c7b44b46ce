"""Collections: events that are counted until a batch is complete."""

from __future__ import annotations

from typing import TYPE_CHECKING

from greenroom.buffers import CollectBuffer
from greenroom.events import Event
from greenroom.facts import Answer, CollectAsked, Effect
from greenroom.invocation import Invocation
from greenroom.run_state.answers import given_up

if TYPE_CHECKING:
    from greenroom.run_state.state import RunState


def collect_asked(state: RunState, fact: CollectAsked, now: float, effects: list[Effect]) -> None:
    """An invocation counts an event in and asks for the batch."""
    invocation = state.current(fact.invocation, fact.attempt)
    if invocation is not None:
        effects.append(Answer(fact.asker, collect(state, invocation, fact)))
    else:
        effects.append(Answer(fact.asker, None, given_up()))


def collect(state: RunState, invocation: Invocation, fact: CollectAsked) -> list[Event] | None:
    """Return what a call of collect_events is answered: from the log where an earlier attempt has asked it."""
    log = invocation.collects
    if log is None:
        log = invocation.collects = []
    position, invocation.collect_position = invocation.collect_position, invocation.collect_position + 1
    if position < len(log):
        return log[position]  # What an earlier attempt was answered goes to this one.
    buffer_id, expected = fact.buffer_id, fact.expected
    key = (invocation.spec.name, buffer_id)
    buffer = state.buffers.get(key)
    if buffer is None:
        buffer = state.buffers[key] = CollectBuffer()
    if not fact.own:
        batch = buffer.add(fact.event, expected)
    elif invocation.collected is None or buffer_id not in invocation.collected:
        batch = buffer.add(fact.event, expected)
        invocation.collected = (invocation.collected or set()) | {buffer_id}
    else:
        batch = buffer.take_complete(expected)
    if buffer.is_empty:
        del state.buffers[key]
    log.append(batch)
    return batch

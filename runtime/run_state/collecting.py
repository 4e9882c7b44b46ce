"""Collections: events that are counted until a batch is complete, and fan-outs until their lists are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from greenroom.buffers import CollectBuffer
from greenroom.collect import Join
from greenroom.events import CollectionReleaseEvent, Event
from greenroom.facts import Answer, CollectAsked, Effect
from greenroom.invocation import Invocation
from greenroom.lineage import FanOut, Lineage
from greenroom.run_state.answers import given_up
from greenroom.run_state.work import admit
from greenroom.steps import StepSpec

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


# -- fan-outs ----------------------------------------------------------------------------------------------------------


def open_fan_out(state: RunState, producer: StepSpec, outer: Lineage | None) -> Lineage:
    """Open a fan-out for a list that a step has returned; return the lineage of its events.

    It is kept open until the caller, who is about to deliver them, calls `settle` with that lineage.
    """
    number, state.next_fan_out = state.next_fan_out, state.next_fan_out + 1
    fan_out = state.fan_outs[number] = FanOut(number, producer.name, outer)
    fan_out.live = 1
    if outer is not None and outer.fan_out is not None:
        outer.fan_out.live += 1
    return Lineage(fan_out.recoveries, fan_out)


def gather(
    state: RunState, spec: StepSpec, event: Event, lineage: Lineage | None, now: float, effects: list[Effect]
) -> bool:
    """Count an event in at a step that takes many at once; return whether there is something for it to belong to."""
    if isinstance(spec.gather, Join):
        _join(state, spec, spec.gather, event, lineage, now, effects)
        return True
    fan_out = None if lineage is None else lineage.fan_out
    if fan_out is None:
        return False
    assert lineage is not None
    assert spec.gather is not None
    if spec.name in fan_out.served:
        state.bury(event, f"step '{spec.name}' had taken as many as it takes", spec.name)
        return True
    members = fan_out.gathered.setdefault(spec.name, [])
    members.append(event)
    fan_out.note_recoveries(lineage)
    if len(members) == spec.gather.limit:
        _release(state, spec, fan_out, now, effects)
    return True


def settle(state: RunState, lineage: Lineage, now: float, effects: list[Effect]) -> None:
    """Something of a lineage has come to its end: if it was the last of its fan-out, release what is gathered there."""
    fan_out = lineage.fan_out
    if fan_out is None:
        return
    fan_out.live -= 1
    if fan_out.live:
        return
    del state.fan_outs[fan_out.number]
    for spec in (*state.graph.collectors(fan_out.producer), *(state.graph.steps[name] for name in fan_out.gathered)):
        if spec.name not in fan_out.served:
            _release(state, spec, fan_out, now, effects)
    for spec in state.graph.steps.values():
        if isinstance(spec.gather, Join):
            left = state.buffers.pop((spec.name, _join_buffer(fan_out)), None)
            for event in left.events if left is not None else ():
                state.bury(event, "nothing was left that could have joined it", spec.name)
    if fan_out.outer is not None:
        settle(state, fan_out.outer, now, effects)


def _release(state: RunState, spec: StepSpec, fan_out: FanOut, now: float, effects: list[Effect]) -> None:
    fan_out.served.add(spec.name)
    event = CollectionReleaseEvent.model_construct(events=fan_out.gathered.get(spec.name, []))
    admit(state, state.new_invocation(spec, event, fan_out.lineage_outside()), now, effects)


def _join(
    state: RunState,
    spec: StepSpec,
    join: Join,
    event: Event,
    lineage: Lineage | None,
    now: float,
    effects: list[Effect],
) -> None:
    key = (spec.name, _join_buffer(None if lineage is None else lineage.fan_out))
    buffer = state.buffers.get(key)
    if buffer is None:
        buffer = state.buffers[key] = CollectBuffer()
    batch = buffer.add(event, join.classes)
    if buffer.is_empty:
        del state.buffers[key]
    if batch is not None:
        released = CollectionReleaseEvent.model_construct(events=batch)
        admit(state, state.new_invocation(spec, released, lineage), now, effects)


def _join_buffer(fan_out: FanOut | None) -> str:
    """Return the id of the buffer of a join: events of different fan-outs never meet."""
    return "join" if fan_out is None else f"join {fan_out.number}"

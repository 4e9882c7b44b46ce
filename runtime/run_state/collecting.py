"""Collections: events that are counted until a batch is complete, and fan-outs until their lists are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from greenroom.buffers import CollectBuffer
from greenroom.collect import Join
from greenroom.effects import Answer, Effect
from greenroom.events import CollectionReleaseEvent, Event
from greenroom.facts import CollectAsked
from greenroom.invocation import Invocation
from greenroom.lineage import FanOut, Gathered, Lineage, most, recoveries_of, with_recoveries
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
        batch = buffer.add(fact.event, expected, recoveries_of(invocation.lineage))
    elif invocation.collected is None or buffer_id not in invocation.collected:
        batch = buffer.add(fact.event, expected, recoveries_of(invocation.lineage))
        invocation.collected = (invocation.collected or set()) | {buffer_id}
    else:
        batch = buffer.take_complete(expected)
    if buffer.is_empty:
        del state.buffers[key]
    if batch is not None:
        invocation.lineage = with_recoveries(invocation.lineage, buffer.recoveries)
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
    return Lineage(recoveries_of(outer), fan_out)


def gather(
    state: RunState, spec: StepSpec, event: Event, lineage: Lineage | None, now: float, effects: list[Effect]
) -> bool:
    """Count an event in at a step that takes many at once; return whether there is something for it to belong to."""
    if isinstance(spec.gather, Join):
        _join(state, spec, spec.gather, event, lineage, now, effects)
        return True
    if lineage is None or lineage.fan_out is None:
        return False
    fan_out = lineage.fan_out
    if spec.name in fan_out.served:
        state.bury(event, f"step '{spec.name}' had been given its list", spec.name)
        return True
    gathered = fan_out.gathered.get(spec.name)
    if gathered is None:
        gathered = fan_out.gathered[spec.name] = Gathered()
    gathered.events.append(event)
    gathered.recoveries = most(gathered.recoveries, lineage.recoveries)
    assert spec.gather is not None
    if len(gathered.events) == spec.gather.limit:
        _release(state, spec, fan_out, now, effects)
    return True


def settle(state: RunState, lineage: Lineage | None, now: float, effects: list[Effect]) -> None:
    """Something of a lineage has come to its end: if it was the last of its fan-out, release what is gathered there."""
    while lineage is not None and lineage.fan_out is not None:
        fan_out = lineage.fan_out
        fan_out.live -= 1
        if fan_out.live:
            return
        _close(state, fan_out, now, effects)
        # The fan-out was itself something of the one around it.
        lineage = fan_out.outer


def _close(state: RunState, fan_out: FanOut, now: float, effects: list[Effect]) -> None:
    del state.fan_outs[fan_out.number]
    for spec in (*state.graph.collectors(fan_out.producer), *(state.graph.steps[name] for name in fan_out.gathered)):
        if spec.name not in fan_out.served:
            _release(state, spec, fan_out, now, effects)
    for name in state.graph.joins:
        left = state.buffers.pop((name, fan_out.number), None)
        for event in left.events if left is not None else ():
            state.bury(event, "nothing was left that could have joined it", name)


def _release(state: RunState, spec: StepSpec, fan_out: FanOut, now: float, effects: list[Effect]) -> None:
    events, lineage = fan_out.take(spec.name)
    event = CollectionReleaseEvent.model_construct(events=events)
    admit(state, state.new_invocation(spec, event, lineage), now, effects)


def _join(
    state: RunState,
    spec: StepSpec,
    join: Join,
    event: Event,
    lineage: Lineage | None,
    now: float,
    effects: list[Effect],
) -> None:
    # Events of different fan-outs never meet: each has a buffer of its own.
    key = (spec.name, None if lineage is None or lineage.fan_out is None else lineage.fan_out.number)
    buffer = state.buffers.get(key)
    if buffer is None:
        buffer = state.buffers[key] = CollectBuffer()
    batch = buffer.add(event, join.classes, recoveries_of(lineage))
    if buffer.is_empty:
        del state.buffers[key]
    if batch is not None:
        released = CollectionReleaseEvent.model_construct(events=batch)
        lineage = with_recoveries(lineage, buffer.recoveries)
        admit(state, state.new_invocation(spec, released, lineage), now, effects)

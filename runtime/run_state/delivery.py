"""Events on their way: to the waits that they answer and the steps that take them."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from greenroom.effects import Answer, Effect, SetTimer
from greenroom.errors import InputError
from greenroom.events import Event, HumanResponseEvent, StopEvent
from greenroom.facts import (
    EventArrived,
    EventSent,
    EventWritten,
    Finished,
    Recovered,
    Responded,
    RunResumed,
    RunStarted,
)
from greenroom.graph import EventKind
from greenroom.invocation import Invocation
from greenroom.lineage import Lineage
from greenroom.outcome import Outcome
from greenroom.run_state.child_runs import answer_arrived, child_responded
from greenroom.run_state.collecting import gather, open_fan_out, settle
from greenroom.run_state.ending import end, forget_children, lose_bodies
from greenroom.run_state.notes import written
from greenroom.run_state.waiting import ask_people, close_question, end_wait, withdraw_waits
from greenroom.run_state.work import admit, leave, serve_queue
from greenroom.waits import OpenInput, Wait

if TYPE_CHECKING:
    from greenroom.run_state.state import RunState


def run_started(state: RunState, fact: RunStarted, now: float, effects: list[Effect]) -> None:
    """The run begins."""
    state.began_at = now
    deliver(state, fact.event, None, None, now, effects)


def run_resumed(state: RunState, fact: RunResumed, now: float, effects: list[Effect]) -> None:
    """The run goes on: timers are set anew, and unfinished invocations start again."""
    if state.began_at is None:
        state.began_at = now
    for number, (_, _, due, _) in state.delayed.items():
        effects.append(SetTimer(("delayed", number), due))
    for wait in state.waits.by_number.values():
        if wait.deadline is not None:
            effects.append(SetTimer(("wait", wait.number), wait.deadline))
    for invocation in list(state.invocations.values()):
        if invocation.parked_at is not None:
            continue
        if invocation.retry_at is not None and invocation.retry_at > now:
            effects.append(SetTimer(("retry", invocation.number), invocation.retry_at))
        else:
            invocation.retry_at = None
            admit(state, invocation, now, effects)
    state.retrying = sum(invocation.retry_at is not None for invocation in state.invocations.values())


def recovered(state: RunState, fact: Recovered, now: float, effects: list[Effect]) -> None:
    """The run goes on in another process, or after a rest: all bodies and all callers are gone."""
    lose_bodies(state, fact.last)
    run_resumed(state, RunResumed(), now, effects)


def event_arrived(state: RunState, fact: EventArrived, now: float, effects: list[Effect]) -> None:
    """Somebody outside sent an event: it is taken, or held until a wait claims it."""
    event = fact.event
    if fact.dedup_key is not None:
        if fact.dedup_key in state.dedup_keys:
            effects.append(Answer(fact.asker, None))
            return
        state.dedup_keys.add(fact.dedup_key)
    if state.children and fact.step is None and answer_arrived(state, fact, now, effects):
        return
    state.tally.deeds["outside", "", type(event)] += 1
    if not deliver(state, event, fact.step, None, now, effects):
        state.held.append((event, fact.step))
        state.note_unhandled(event, fact.step)
    effects.append(Answer(fact.asker, None))


def event_sent(state: RunState, fact: EventSent, now: float, effects: list[Effect]) -> None:
    """An invocation sent an event, at once or after a delay."""
    invocation = state.current(fact.invocation, fact.attempt)
    if invocation is not None:
        if invocation.skips_sends:
            invocation.skips_sends -= 1  # a replay: it was sent before
            return
        invocation.sends += 1
        state.tally.deeds["sent", invocation.spec.name, type(fact.event)] += 1
        if fact.delay:
            number, state.next_delayed = state.next_delayed, state.next_delayed + 1
            lineage = invocation.lineage
            state.delayed[number] = (fact.event, fact.step, now + fact.delay, lineage)
            if lineage is not None and lineage.fan_out is not None:
                lineage.fan_out.live += 1
            effects.append(SetTimer(("delayed", number), now + fact.delay))
        else:
            deliver_inside(state, fact.event, fact.step, invocation.lineage, now, effects)
    else:
        state.bury(fact.event, "it was sent by an attempt that had been given up", fact.step)


def event_written(state: RunState, fact: EventWritten, now: float, effects: list[Effect]) -> None:
    """An invocation wrote an event to the stream."""
    invocation = state.current(fact.invocation, fact.attempt)
    if invocation is not None:
        if invocation.skips_writes:
            invocation.skips_writes -= 1  # a replay: it was written before
            return
        invocation.writes += 1
        kind = state.graph.kind(type(fact.event))
        if kind is EventKind.INPUT:
            state.tally.deeds["sent", invocation.spec.name, type(fact.event)] += 1
            ask_people(state, fact.event, invocation.spec.name, None, None, now, effects)
        elif kind is EventKind.INTERNAL:
            state.notes.append((state.place, written, fact.event))
        else:
            state.publish(fact.event, effects)
    else:
        state.bury(fact.event, "it was written by an attempt that had been given up", None)


def responded(state: RunState, fact: Responded, now: float, effects: list[Effect]) -> None:
    """A person has answered a question by its id."""
    if state.children and child_responded(state, fact, now, effects):
        return
    try:
        question = state.inputs.find(fact.input_id)
    except InputError as error:
        effects.append(Answer(fact.asker, None, error))
        return
    if question.wait is not None:
        end_wait(state, state.waits.by_number[question.wait], fact.event, now, effects)
    else:
        state.inputs.close(question.input_id, "answered")
        state.tally.deeds["outside", "", type(fact.event)] += 1
        if not deliver(state, fact.event, None, question.lineage, now, effects, closes=False):
            state.held.append((fact.event, None))
        settle(state, question.lineage, now, effects)
    effects.append(Answer(fact.asker, None))


def finished(state: RunState, fact: Finished, now: float, effects: list[Effect]) -> None:
    """An attempt ended well: what it returned is delivered, and its worker freed."""
    event = fact.event
    invocation = state.invocations.get(fact.invocation)
    if invocation is None or invocation.attempt != fact.attempt:
        for late in fact.events:
            state.bury(late, "it was returned by an attempt that had been given up", None)
        return
    del state.invocations[fact.invocation]
    if invocation.waits:
        withdraw_waits(state, invocation, effects)
    if invocation.children:
        forget_children(state, invocation, effects)
    if event is None:
        state.tally.finished[invocation.spec.name][type(invocation.event)][None] += 1
        worker = leave(state, invocation, None, effects)
        serve_queue(state, invocation.spec, worker, now, effects)
        if invocation.lineage is not None:
            settle(state, invocation.lineage, now, effects)
        return
    event_class = type(event)
    kind = state.graph.kind(event_class)
    state.tally.finished[invocation.spec.name][type(invocation.event)][event_class] += 1
    worker = leave(state, invocation, event_class.__name__, effects)
    if kind is EventKind.STOP:
        end(state, Outcome("completed", cast("StopEvent", event)), effects)
        return
    serve_queue(state, invocation.spec, worker, now, effects)
    lineage = invocation.lineage
    if kind is EventKind.PLAIN:
        deliver_inside(state, cast("Event", event), None, lineage, now, effects)
    elif kind is EventKind.MANY:
        inner = open_fan_out(state, invocation.spec, lineage)
        for member in fact.events:
            state.tally.deeds["sent", invocation.spec.name, type(member)] += 1
            _emit(state, invocation, member, state.graph.kind(type(member)), inner, now, effects)
        settle(state, inner, now, effects)
    else:
        _emit(state, invocation, cast("Event", event), kind, lineage, now, effects)
    if lineage is not None:
        settle(state, lineage, now, effects)


def _emit(
    state: RunState,
    invocation: Invocation,
    event: Event,
    kind: EventKind,
    lineage: Lineage | None,
    now: float,
    effects: list[Effect],
) -> None:
    """Send on what a step has returned."""
    if kind is EventKind.INPUT:
        event = ask_people(state, event, invocation.spec.name, None, lineage, now, effects)
        deliver(state, event, None, lineage, now, effects)
    else:
        deliver_inside(state, event, None, lineage, now, effects)


def deliver(
    state: RunState,
    event: Event,
    step: str | None,
    lineage: Lineage | None,
    now: float,
    effects: list[Effect],
    *,
    closes: bool = True,
) -> bool:
    """Give an event to the waits that it answers and to the steps that take it; return whether there was one.

    A step that is answered in a wait does not take the same event as its input. A person's answer also `closes` the
    question that it answers, unless that was named and is closed.
    """
    taken = False
    question: OpenInput | None = None
    answered: list[Wait] = state.waits.answered_by(event, step) if state.waits else []
    for wait in answered:
        end_wait(state, wait, event, now, effects)
    steps = state.graph.route(type(event)) if step is None else (state.graph.steps[step],)
    if answered:
        if isinstance(event, HumanResponseEvent):
            if closes and answered[0].input_id is None:
                question = close_question(state, event, answered[0].step)
                if question is not None:
                    settle(state, question.lineage, now, effects)
            return True
        taken = True
        waited = {wait.step for wait in answered}
        steps = tuple(spec for spec in steps if spec.name not in waited and state.graph.accepts(spec, type(event)))
    elif closes and isinstance(event, HumanResponseEvent):
        question = close_question(state, event, None)
        lineage = question.lineage if question is not None and lineage is None else lineage
    for spec in steps:
        if spec.gather is None:
            admit(state, state.new_invocation(spec, event, lineage), now, effects)
            taken = True
        elif gather(state, spec, event, lineage, now, effects):
            state.tally.deeds["gathered", spec.name, type(event)] += 1
            taken = True
    if question is not None:
        settle(state, question.lineage, now, effects)
    return taken


def deliver_inside(
    state: RunState, event: Event, step: str | None, lineage: Lineage | None, now: float, effects: list[Effect]
) -> None:
    """Deliver an event from within the run; one that nobody takes is a dead letter."""
    if not deliver(state, event, step, lineage, now, effects):
        state.note_unhandled(event, step)
        takers = state.graph.route(type(event)) if step is None else (state.graph.steps[step],)
        names = ", ".join(f"'{spec.name}'" for spec in takers)
        reason = f"it came out of no list for {names} to gather" if takers else "no step takes it"
        state.bury(event, reason, step)

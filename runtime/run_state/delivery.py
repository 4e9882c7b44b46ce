"""Events on their way: to the waits that they answer and the steps that take them."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from greenroom.errors import InputError
from greenroom.events import Event, HumanResponseEvent, InputRequiredEvent, StopEvent
from greenroom.facts import (
    Answer,
    Effect,
    EventArrived,
    EventSent,
    EventWritten,
    Finished,
    Outcome,
    Responded,
    RunResumed,
    RunStarted,
    SetTimer,
)
from greenroom.graph import EventKind
from greenroom.run_state.ending import end
from greenroom.run_state.waiting import ask_people, close_question, end_wait, withdraw_waits
from greenroom.run_state.work import admit, leave, serve_queue
from greenroom.waits import Wait

if TYPE_CHECKING:
    from greenroom.run_state.state import RunState


def run_started(state: RunState, fact: RunStarted, now: float, effects: list[Effect]) -> None:
    """The run begins."""
    deliver(state, fact.event, None, now, effects)


def run_resumed(state: RunState, fact: RunResumed, now: float, effects: list[Effect]) -> None:
    """The run goes on: timers are set anew, and unfinished invocations start again."""
    for number, (_, _, due) in state.delayed.items():
        effects.append(SetTimer(("delayed", number), due))
    for wait in state.waits.by_number.values():
        if wait.deadline is not None:
            effects.append(SetTimer(("wait", wait.number), wait.deadline))
    for invocation in list(state.invocations.values()):
        if invocation.retry_at is not None and invocation.retry_at > now:
            effects.append(SetTimer(("retry", invocation.number), invocation.retry_at))
        else:
            invocation.retry_at = None
            admit(state, invocation, now, effects)


def event_arrived(state: RunState, fact: EventArrived, now: float, effects: list[Effect]) -> None:
    """Somebody outside sent an event: it is taken, or held until a wait claims it."""
    event = fact.event
    if not deliver(state, event, fact.step, now, effects):
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
        if fact.delay:
            number, state.next_delayed = state.next_delayed, state.next_delayed + 1
            state.delayed[number] = (fact.event, fact.step, now + fact.delay)
            effects.append(SetTimer(("delayed", number), now + fact.delay))
        else:
            deliver_inside(state, fact.event, fact.step, now, effects)
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
        if isinstance(fact.event, InputRequiredEvent):
            ask_people(state, fact.event, invocation.spec.name, None, now, effects)
        else:
            state.publish(fact.event, effects)
    else:
        state.bury(fact.event, "it was written by an attempt that had been given up", None)


def responded(state: RunState, fact: Responded, now: float, effects: list[Effect]) -> None:
    """A person has answered a question by its id."""
    try:
        question = state.inputs.find(fact.input_id)
    except InputError as error:
        effects.append(Answer(fact.asker, None, error))
        return
    if question.wait is not None:
        end_wait(state, state.waits.by_number[question.wait], fact.event, now, effects)
    else:
        state.inputs.close(question.input_id, "answered")
        if not deliver(state, fact.event, None, now, effects, closes=False):
            state.held.append((fact.event, None))
    effects.append(Answer(fact.asker, None))


def finished(state: RunState, fact: Finished, now: float, effects: list[Effect]) -> None:
    """An attempt ended well: what it returned is delivered, and its worker freed."""
    event = fact.event
    invocation = state.invocations.get(fact.invocation)
    if invocation is None or invocation.attempt != fact.attempt:
        if event is not None:
            state.bury(event, "it was returned by an attempt that had been given up", None)
        return
    del state.invocations[fact.invocation]
    if invocation.waits:
        withdraw_waits(state, invocation, effects)
    if event is None:
        worker = leave(state, invocation, None, effects)
        serve_queue(state, invocation.spec, worker, now, effects)
        return
    event_class = type(event)
    kind = state.graph.kind(event_class)
    worker = leave(state, invocation, event_class.__name__, effects)
    if kind is EventKind.STOP:
        end(state, Outcome("completed", cast("StopEvent", event)), effects)
        return
    serve_queue(state, invocation.spec, worker, now, effects)
    if kind is EventKind.INPUT:
        deliver(state, ask_people(state, event, invocation.spec.name, None, now, effects), None, now, effects)
    else:
        deliver_inside(state, event, None, now, effects)


def deliver(
    state: RunState, event: Event, step: str | None, now: float, effects: list[Effect], *, closes: bool = True
) -> bool:
    """Give an event to the waits that it answers and to the steps that take it; return whether there was one.

    A step that is answered in a wait does not take the same event as its input. A person's answer also `closes` the
    question that it answers, unless that was named and is closed.
    """
    answered: list[Wait] = state.waits.answered_by(event, step) if state.waits else []
    for wait in answered:
        end_wait(state, wait, event, now, effects)
    steps = state.graph.route(type(event)) if step is None else (state.graph.steps[step],)
    if answered:
        if isinstance(event, HumanResponseEvent):
            if closes and answered[0].input_id is None:
                close_question(state, event, answered[0].step)
            return True
        waited = {wait.step for wait in answered}
        steps = tuple(spec for spec in steps if spec.name not in waited and state.graph.accepts(spec, type(event)))
    elif closes and isinstance(event, HumanResponseEvent):
        close_question(state, event, None)
    for spec in steps:
        admit(state, state.new_invocation(spec, event), now, effects)
    return bool(steps or answered)


def deliver_inside(state: RunState, event: Event, step: str | None, now: float, effects: list[Effect]) -> None:
    """Deliver an event from within the run; one that nobody takes is a dead letter."""
    if not deliver(state, event, step, now, effects):
        state.note_unhandled(event, step)
        state.bury(event, "no step takes it", step)

"""Waits, `once` and questions: how an invocation stands still, and how it goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

from greenroom.effects import Answer, AskPerson, CancelInvocation, DropTimer, Effect, SetTimer
from greenroom.errors import StepPassivated
from greenroom.events import Event
from greenroom.facts import OnceAsked, OnceDone, PassivateAsked, WaitAsked
from greenroom.invocation import Invocation
from greenroom.lineage import Lineage
from greenroom.run_state.answers import answer_to_wait, given_up
from greenroom.run_state.work import admit, serve_queue, take_worker
from greenroom.waits import OpenInput, Wait

if TYPE_CHECKING:
    from greenroom.run_state.state import RunState


def wait_asked(state: RunState, fact: WaitAsked, now: float, effects: list[Effect]) -> None:
    """An invocation waits: it is answered from the log or from what was held, else it parks."""
    invocation = state.current(fact.invocation, fact.attempt)
    if invocation is None:
        effects.append(Answer(fact.asker, None, given_up()))
        return
    waits = invocation.waits = invocation.waits if invocation.waits is not None else {}
    wait = waits.get(fact.key)
    if wait is None:
        wait = waits[fact.key] = new_wait(state, invocation, fact, now, effects)
    elif wait.state != "open":
        effects.append(answer_to_wait(wait, fact.asker))
        return
    elif wait.event_type is None:
        wait.event_type = fact.event_type
        wait.requirements = dict(fact.requirements)
        state.waits.add(wait)
    wait.asker = fact.asker
    for index, (event, step) in enumerate(state.held):
        if wait.matches(event, step):
            del state.held[index]
            end_wait(state, wait, event, now, effects)
            return
    if invocation.worker is not None:
        park(state, invocation, now, effects)


def new_wait(state: RunState, invocation: Invocation, fact: WaitAsked, now: float, effects: list[Effect]) -> Wait:
    """Register a wait, set its deadline, and publish what goes with it."""
    number, state.next_wait = state.next_wait, state.next_wait + 1
    deadline = None if fact.timeout is None else now + fact.timeout
    wait = Wait(number, invocation.number, invocation.spec.name, fact.key, fact.event_type, fact.requirements, deadline)
    state.waits.add(wait)
    if deadline is not None:
        effects.append(SetTimer(("wait", number), deadline))
    if fact.request is not None:
        if fact.is_question:
            state.tally.deeds["asked", wait.step, None] += 1
            ask_people(state, fact.request, wait.step, wait, None, now, effects)
        else:
            state.publish(fact.request, effects)
    return wait


def park(state: RunState, invocation: Invocation, now: float, effects: list[Effect]) -> None:
    """Take the worker of an invocation that stands at a wait."""
    worker = take_worker(state, invocation, None, effects)
    if invocation.step_deadline is not None:
        invocation.time_left = max(0.0, invocation.step_deadline - now)
    invocation.parked_at, invocation.is_live = now, True
    state.parked += 1
    serve_queue(state, invocation.spec, worker, now, effects)
    if invocation.unwinds:
        passivate(state, invocation, effects)


def end_wait(state: RunState, wait: Wait, event: Event | None, now: float, effects: list[Effect]) -> None:
    """End a wait with an event or, without one, because its time is over."""
    wait.answer = event
    conclude_wait(state, wait, "expired" if event is None else "answered", now, effects)


def conclude_wait(
    state: RunState, wait: Wait, how: Literal["answered", "expired"], now: float, effects: list[Effect]
) -> None:
    """Let the invocation go on whose wait has ended."""
    wait.state = how
    state.waits.remove(wait)
    if wait.deadline is not None:
        effects.append(DropTimer(("wait", wait.number)))
    state.inputs.close(wait.input_id, how)
    if wait.answer is not None and wait.input_id is not None:
        state.tally.deeds["answered", wait.step, None] += 1
    elif wait.answer is not None:
        state.tally.deeds["awaited", wait.step, type(wait.answer)] += 1
    invocation = state.invocations[wait.invocation]
    if invocation.parked_at is None:
        # It runs, as one that waits in several tasks at once, or its next attempt will be answered from the log.
        asker, wait.asker = wait.asker, None
        effects.append(answer_to_wait(wait, asker))
    elif invocation.ready is None:
        invocation.ready = [wait]
        state.parked -= 1
        admit(state, invocation, now, effects, is_retry=True)
    else:
        invocation.ready.append(wait)


def passivate_asked(state: RunState, fact: PassivateAsked, now: float, effects: list[Effect]) -> None:
    """A body that waits is to free its thread."""
    invocation = state.current(fact.invocation, fact.attempt)
    if invocation is None or invocation.ready is not None:
        return
    if invocation.parked_at is None:
        invocation.unwinds = True  # It is on its way to its wait.
        return
    passivate(state, invocation, effects)


def passivate(state: RunState, invocation: Invocation, effects: list[Effect]) -> None:
    """Unwind a body that waits; another is started when its wait has ended."""
    invocation.unwinds = False
    effects.append(CancelInvocation(invocation.spec.name, invocation.number, invocation.attempt))
    state.release_store(invocation, effects)
    invocation.attempt += 1
    invocation.is_live = False
    for wait in (invocation.waits or {}).values():
        asker, wait.asker = wait.asker, None
        if asker is not None:
            effects.append(Answer(asker, None, StepPassivated("this step waits on without its thread")))


def withdraw_waits(state: RunState, invocation: Invocation, effects: list[Effect]) -> None:
    """Drop the waits that an invocation leaves behind as it ends."""
    for wait in (invocation.waits or {}).values():
        if wait.state == "open":
            state.waits.remove(wait)
            state.inputs.close(wait.input_id, "withdrawn")
            if wait.deadline is not None:
                effects.append(DropTimer(("wait", wait.number)))


def once_asked(state: RunState, fact: OnceAsked, now: float, effects: list[Effect]) -> None:
    """An invocation asks whether it has done something before."""
    invocation = state.current(fact.invocation, fact.attempt)
    if invocation is None:
        effects.append(Answer(fact.asker, None, given_up()))
        return
    done = invocation.done_once or {}
    effects.append(Answer(fact.asker, (fact.key in done, done.get(fact.key))))


def once_done(state: RunState, fact: OnceDone, now: float, effects: list[Effect]) -> None:
    """An invocation has done what it does once."""
    invocation = state.current(fact.invocation, fact.attempt)
    if invocation is None:
        effects.append(Answer(fact.asker, None, given_up()))
        return
    if invocation.done_once is None:
        invocation.done_once = {}
    invocation.done_once[fact.key] = fact.result
    effects.append(Answer(fact.asker, None))


def ask_people(
    state: RunState,
    request: Event,
    step: str,
    wait: Wait | None,
    lineage: Lineage | None,
    now: float,
    effects: list[Effect],
) -> Event:
    """Publish a question under an id of its own, and list it among the open ones; return it as published."""
    input_id, state.next_input = f"{state.origin}:{state.next_input}", state.next_input + 1
    # A copy: the step may hold on to its event, and ask with it again.
    request = request.model_copy(update={"input_id": input_id})
    response = state.graph.response_class if wait is None else cast("type[Event]", wait.event_type)
    expires_at = None if wait is None else wait.deadline
    number = None if wait is None else wait.number
    question = OpenInput(input_id, request, response, step, now, expires_at, number, lineage)
    if lineage is not None and lineage.fan_out is not None:
        lineage.fan_out.live += 1
    state.inputs.open[input_id] = question
    if wait is not None:
        wait.input_id = input_id
    state.publish(request, effects)
    effects.append(AskPerson(question))
    return request


def close_question(state: RunState, answer: Event, step: str | None) -> OpenInput | None:
    """Close the question that an answer fits which named none: one of the step that had streamed it, or of any."""
    question = state.inputs.oldest_without_wait(answer, step) if state.inputs.open else None
    if question is not None:
        state.inputs.close(question.input_id, "answered")
    return question

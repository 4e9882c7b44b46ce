"""The rules for children: how a step begins one, waits for its end and cancels it, and how its facts reach it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from greenroom.child_facts import ChildAsked, ChildAwaited, ChildCancelAsked, ForChild
from greenroom.effects import Answer, Effect, SetTimer
from greenroom.errors import InputError, WorkflowCancelledByUser, WorkflowRuntimeError
from greenroom.events import HumanResponseEvent
from greenroom.facts import (
    BecameQuiet,
    EventArrived,
    Fact,
    Responded,
    RunResumed,
    RunStarted,
    TimerFired,
    changes_nothing,
)
from greenroom.invocation import Invocation
from greenroom.run_state.answers import answer_to_wait, given_up
from greenroom.run_state.child import Child
from greenroom.run_state.children import asks, child_that_asks, close_child, find_question, lift, mind_busy
from greenroom.run_state.ending import abandon, apply_after_end, failed_outcome
from greenroom.run_state.waiting import conclude_wait, park
from greenroom.waits import Wait

if TYPE_CHECKING:
    from greenroom.run_state.state import RunState

MAX_DEPTH = 100
JOIN = "end of its runs"  # the key of the wait of a step that has come to its own end


def child_asked(state: RunState, fact: ChildAsked, now: float, effects: list[Effect]) -> None:
    """An invocation begins a child, or comes by the call again and finds the one that it began."""
    invocation = state.current(fact.invocation, fact.attempt)
    if invocation is None:
        state.bury(fact.event, "it was to begin a run, for an attempt that had been given up", None)
        return
    child = state.children.get(fact.name)
    if child is None:
        child = state.children[fact.name] = Child(fact.name, invocation.number, fact.run_id, fact.graph)
        if invocation.children is None:
            invocation.children = []
        invocation.children.append(fact.name)
    if child.outcome is not None:
        effects.append(Answer(fact.watcher, child.outcome.status))
        return
    child.watcher = fact.watcher
    if child.cast is not None:
        return  # It goes on meanwhile.
    child.cast, child.run_id, child.watch = fact.cast, fact.run_id, fact.watch
    if child.run is None:
        begin(state, child, fact, invocation, now, effects)
    else:
        take_up(state, child, fact, now, effects)


def begin(
    state: RunState, child: Child, fact: ChildAsked, invocation: Invocation, now: float, effects: list[Effect]
) -> None:
    """Begin a child with its start event."""
    run = child.run = state.within(fact.graph, fact.run_id, fact.timeout, fact.on_stuck)
    # Questions of one that a retry begins anew have other ids.
    run.origin = f"{state.origin}/{child.name}" + (f"~{invocation.failures}" if invocation.failures else "")
    if run.depth > MAX_DEPTH:
        error = WorkflowRuntimeError(
            f"run '{fact.run_id}' would be {run.depth} runs deep, and {MAX_DEPTH} is the most: a workflow that runs"
            " itself needs an end"
        )
        run.outcome = failed_outcome(error)
        child_ended(state, child, now, effects)
        return
    state.tally.deeds["ran", invocation.spec.name, fact.graph.name] += 1
    apply(state, child, RunStarted(fact.event), now, effects)


def take_up(state: RunState, child: Child, fact: ChildAsked, now: float, effects: list[Effect]) -> None:
    """Let a child go on that was put away with its parent."""
    old = child.run
    assert old is not None
    if old.graph is not fact.graph:
        error = WorkflowRuntimeError(
            f"run '{fact.run_id}' was put away as one of another class that is named {fact.graph.name} as well: give"
            " ctx.run() a workflow of the same class again"
        )
        old.outcome = failed_outcome(error)
        child_ended(state, child, now, effects)
        return
    run = child.run = old.reopen(fact.run_id, fact.timeout, fact.on_stuck)
    run.origin, run.next_input, run.depth, run.worked = old.origin, old.next_input, state.depth + 1, old.worked
    run.began_at = old.began_at
    child.lifted, child.closed = run.place, len(run.inputs.closed)
    early, child.early = child.early, []
    apply(state, child, RunResumed(), now, effects)
    for answer in early:
        apply(state, child, answer, now, effects)


def for_child(state: RunState, fact: ForChild, now: float, effects: list[Effect]) -> None:
    """Something has happened to a child, or to one within it."""
    child = state.children.get(fact.path[0])
    if child is None:
        apply_after_end(state, fact.fact, effects)
    else:
        apply(state, child, fact.inner(), now, effects)


def child_timer_fired(state: RunState, name: str, fact: TimerFired, now: float, effects: list[Effect]) -> None:
    """A timer of a child is due."""
    child = state.children[name]
    child.timers.discard(("child", name, *fact.key))
    apply(state, child, fact, now, effects)


def apply(state: RunState, child: Child, fact: Fact, now: float, effects: list[Effect]) -> None:
    """Have a child take a fact in, and see what follows for its parent."""
    run = child.run
    if run is None:
        # It has ended; what its bodies still tell is accounted for here.
        apply_after_end(state, fact.fact if isinstance(fact, ForChild) else fact, effects)
        return
    if not changes_nothing(fact):
        state.touched[child.name] = None
    lift(state, child, child.take(fact, now), effects)
    mind_busy(state, child)
    if len(run.inputs.closed) > child.closed:
        child.closed = len(run.inputs.closed)
        state.inputs.closed.update(run.inputs.closed)
    if run.outcome is not None:
        child_ended(state, child, now, effects)


def child_ended(state: RunState, child: Child, now: float, effects: list[Effect]) -> None:
    """Tell those who wait for a child that it has ended."""
    if child.run is not None:
        child.outcome = child.run.outcome
        close_child(state, child, effects)
    outcome = child.outcome
    assert outcome is not None
    state.touched.pop(child.name, None)
    waits, child.waits = child.waits, []
    for wait in waits:
        if wait.state != "open":
            continue  # Its time was over before.
        wait.left -= 1
        if wait.key != JOIN or outcome.has_failed:
            wait.outcome = outcome
        elif wait.left:
            continue
        child.is_told = True
        conclude_wait(state, wait, "answered", now, effects)


def child_awaited(state: RunState, fact: ChildAwaited, now: float, effects: list[Effect]) -> None:
    """An invocation waits for the end of a child, or of all that it has not asked after."""
    invocation = state.current(fact.invocation, fact.attempt)
    if invocation is None:
        effects.append(Answer(fact.asker, None, given_up()))
        return
    waits = invocation.waits = invocation.waits if invocation.waits is not None else {}
    key = JOIN if fact.name is None else f"result of {fact.name}#{fact.nth}"
    wait = waits.get(key)
    if wait is not None and wait.state != "open":
        for name in wait.runs:
            state.children[name].is_told |= wait.state == "answered"
        effects.append(answer_to_wait(wait, fact.asker))
        return
    children = _awaited(state, invocation, fact.name, effects)
    if not children:
        effects.append(Answer(fact.asker, None))
        return
    if wait is None:
        number, state.next_wait = state.next_wait, state.next_wait + 1
        deadline = None if fact.timeout is None else now + fact.timeout
        names = tuple(child.name for child in children)
        wait = Wait(number, invocation.number, invocation.spec.name, key, None, {}, deadline, names)
        waits[key] = wait
        state.waits.add(wait)
        if deadline is not None:
            effects.append(SetTimer(("wait", number), deadline))
    wait.asker = fact.asker
    going_on = [child for child in children if child.outcome is None]
    ended = [child for child in children if child.outcome is not None]
    failed = [child for child in ended if child.outcome.has_failed]  # type: ignore[union-attr]
    if ended and (failed or fact.name is not None):
        told = (failed or ended)[0]
        told.is_told, wait.outcome = True, told.outcome
    elif going_on:
        wait.left = len(going_on)
        for child in going_on:
            if wait not in child.waits:
                child.waits.append(wait)
        if invocation.worker is not None:
            park(state, invocation, now, effects)
        return
    conclude_wait(state, wait, "answered", now, effects)


def _awaited(state: RunState, invocation: Invocation, name: str | None, effects: list[Effect]) -> list[Child]:
    if name is not None:
        return [state.children[name]]
    children = [state.children[name] for name in invocation.children or ()]
    for child in children:
        if child.is_at_rest:
            # Its step has come to its end and not by the call that began it: it went another way this time.
            abandon(state, child, effects)
    return [child for child in children if not child.is_told]


def child_cancel_asked(state: RunState, fact: ChildCancelAsked, now: float, effects: list[Effect]) -> None:
    """A step ends one of its children."""
    child = state.children.get(fact.name)
    if state.current(fact.invocation, fact.attempt) is None or child is None:
        return
    if child.outcome is None:
        abandon(state, child, effects, WorkflowCancelledByUser(f"run '{child.run_id}' was cancelled by its step"))
        child_ended(state, child, now, effects)
    child.is_told = True


def rest_children(state: RunState, now: float, effects: list[Effect]) -> None:
    """Let the children to which something has happened see whether they have come to rest."""
    touched, state.touched = state.touched, {}
    for name in touched:
        child = state.children.get(name)
        if child is not None and child.run is not None:
            apply(state, child, BecameQuiet(), now, effects)


# -- answers of people -------------------------------------------------------------------------------------------------


def child_responded(state: RunState, fact: Responded, now: float, effects: list[Effect]) -> bool:
    """Pass an answer on if it is to a question of a child; return whether it is."""
    child = child_that_asks(state, fact.input_id)
    if child is None or child.run is None:
        return False
    if not child.is_at_rest:
        apply(state, child, fact, now, effects)
        return True
    try:
        find_question(state, fact.input_id)
    except InputError as error:
        effects.append(Answer(fact.asker, None, error))
        return True
    # Its step has not come by its ctx.run yet: kept, and in every snapshot, until it does.
    effects.append(Answer(fact.asker, None))
    keep_for(state, child, Responded(fact.input_id, fact.event))
    return True


def keep_for(state: RunState, child: Child, answer: Responded) -> None:
    """Keep an answer for a child that was put away."""
    child.early.append(answer)
    state.inputs.closed[answer.input_id] = "answered"


def answer_arrived(state: RunState, fact: EventArrived, now: float, effects: list[Effect]) -> bool:
    """Pass on an answer that names an open question of a child; return whether it does."""
    event = fact.event
    if not isinstance(event, HumanResponseEvent):
        return False
    input_id = event.get("input_id")
    child = child_that_asks(state, input_id)
    if child is None or not asks(state, input_id):
        return False
    if not child.is_at_rest:
        apply(state, child, fact, now, effects)
    elif isinstance(event, find_question(state, input_id).response):
        keep_for(state, child, Responded(input_id, event))
        effects.append(Answer(fact.asker, None))
    else:
        return False
    return True

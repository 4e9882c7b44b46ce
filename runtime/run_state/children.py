"""The children of a run: runs that its steps have begun within it, each a state of its own held in the parent's.

What happens to a child comes to the parent as `ForChild` and goes on to the child's state; what is to be done for it is
lifted out, with the child's name put in front of the path. So a tree of runs has one writer, and a snapshot, a cancel
or an end of the parent takes in all of it between two facts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from greenroom.effects import (
    Answer,
    CancelInvocation,
    DropTimer,
    Effect,
    Finish,
    FromChild,
    Publish,
    SetTimer,
    StartInvocation,
)
from greenroom.errors import InputAnsweredError, InputError
from greenroom.invocation import Invocation
from greenroom.outcome import DeadLetter
from greenroom.run_state.child import Child
from greenroom.run_state.notes import of_child
from greenroom.waits import OpenInput

if TYPE_CHECKING:
    from greenroom.run_state.state import RunState


# -- lifting -----------------------------------------------------------------------------------------------------------


def lift(state: RunState, child: Child, lifted: list[Effect], effects: list[Effect]) -> None:
    """Pass on what is to be done for a child, with its internal events in their places."""
    for effect in lifted:
        kind = type(effect)
        if kind is SetTimer:
            key = ("child", child.name, *effect.key)  # type: ignore[union-attr]
            child.timers.add(key)
            effects.append(SetTimer(key, effect.at))  # type: ignore[union-attr]
        elif kind is DropTimer:
            key = ("child", child.name, *effect.key)  # type: ignore[union-attr]
            child.timers.discard(key)
            effects.append(DropTimer(key))
        elif isinstance(effect, StartInvocation | CancelInvocation | Publish | Finish | FromChild):
            path, inner, cast = effect if isinstance(effect, FromChild) else ((), effect, child.cast)
            if type(inner) is Publish:
                _lift_notes(state, child, child.lifted)
                own, others = child.lifted
                child.lifted = (own, others + 1) if path else (own + 1, others)
                published, of_children = state.place
                state.place = (published, of_children + 1)
            effects.append(FromChild((child.name, *path), inner, cast))
        else:
            effects.append(effect)
    if child.run is not None:
        _lift_notes(state, child, child.run.place)


def _lift_notes(state: RunState, child: Child, place: tuple[int, int]) -> None:
    """Lift out the internal events of a child that come before a place in what it publishes."""
    assert child.run is not None
    notes = child.run.notes
    while notes and notes[0][0][0] <= place[0] and notes[0][0][1] <= place[1]:
        _, *told = notes.popleft()
        state.notes.append((state.place, *(told if told[0] is of_child else (of_child, child.run_id, *told))))


def mind_busy(state: RunState, child: Child) -> None:
    """Count a child that works among those that do, and one that only waits for retries among those."""
    run = child.run
    is_busy = run is not None and run.outcome is None and run.is_at_work
    if is_busy != child.is_busy:
        child.is_busy = is_busy
        state.busy += 1 if is_busy else -1
        state.idle_noted = False
    is_dozing = is_busy and run is not None and run.only_waits
    if is_dozing != child.is_dozing:
        child.is_dozing = is_dozing
        state.dozing += 1 if is_dozing else -1


# -- the end -----------------------------------------------------------------------------------------------------------


def close_child(state: RunState, child: Child, effects: list[Effect]) -> None:
    """Take over what a child leaves that has ended: its dead letters, and the ids of its questions."""
    run = child.run
    assert run is not None
    _take_letters(state, child, run)
    state.inputs.closed.update(run.inputs.closed)
    effects.extend(DropTimer(key) for key in child.timers)
    child.timers.clear()
    child.run = child.cast = child.watch = None
    mind_busy(state, child)
    assert child.outcome is not None
    watcher, child.watcher = child.watcher, None
    effects.append(Answer(watcher, child.outcome.status))


def _take_letters(state: RunState, child: Child, run: RunState) -> None:
    letters = all_dead_letters(run)
    for letter in letters:
        state.bury(letter.event, f"in run '{child.run_id}': {letter.reason}", letter.step)
    run.dead_letters.clear()
    if letters and child.watch is not None:
        child.watch.passed_on(state.dead_letters[-len(letters) :])


# -- the log -----------------------------------------------------------------------------------------------------------


def forget_failed_children(state: RunState, invocation: Invocation) -> None:
    """Before a retry: the children that did not complete are begun anew. The others' results are given again."""
    waits = invocation.waits or {}
    for name in list(invocation.children or ()):
        outcome = state.children[name].outcome
        if outcome is not None and outcome.status != "completed":
            del state.children[name]
            assert invocation.children is not None
            invocation.children.remove(name)
            for key in [key for key, wait in waits.items() if name in wait.runs]:
                del waits[key]


# -- looking into the tree ---------------------------------------------------------------------------------------------


def live_bodies(state: RunState, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Invocation]]:
    """Return the invocations whose bodies stand at a wait, of the run and of those within it, with their paths."""
    found = [(path, inv) for inv in state.invocations.values() if inv.is_live and inv.parked_at is not None]
    for child, run in _runs(state):
        if not child.is_at_rest:
            found += live_bodies(run, (*path, child.name))
    return found


def casts_within(state: RunState) -> list[Any]:
    """Return what runs the bodies of the runs within a run, and of those within these."""
    found = []
    for child, run in _runs(state):
        if not child.is_at_rest:
            found += [child.cast, *casts_within(run)]
    return found


def _runs(state: RunState) -> Iterator[tuple[Child, RunState]]:
    for child in state.children.values():
        if child.run is not None:
            yield child, child.run


def all_dead_letters(state: RunState) -> list[DeadLetter]:
    """Return the events that nobody will take, those of children that go on after the run's own."""
    letters = list(state.dead_letters)
    for child, run in _runs(state):
        letters += [
            DeadLetter(letter.event, f"in run '{child.run_id}': {letter.reason}", letter.step)
            for letter in all_dead_letters(run)
        ]
    return letters


def all_questions(state: RunState) -> list[OpenInput]:
    """Return the questions that are open, of the run and of its children, in the order they were asked."""
    found = list(state.inputs.open.values())
    for child, run in _runs(state):
        answered = {answer.input_id for answer in child.early}
        found += [question for question in all_questions(run) if question.input_id not in answered]
    return sorted(found, key=lambda question: question.asked_at) if state.children else found


def find_question(state: RunState, input_id: str) -> OpenInput:
    """Return an open question, of the run or of a child; see `InputBook.find`."""
    child = child_that_asks(state, input_id)
    if child is None or child.run is None:
        return state.inputs.find(input_id)
    if any(answer.input_id == input_id for answer in child.early):
        raise InputAnsweredError(f"question '{input_id}' has been answered")
    return find_question(child.run, input_id)


def asks(state: RunState, input_id: str) -> bool:
    """Return whether a question of this id is open, of the run or of a child."""
    try:
        find_question(state, input_id)
    except InputError:
        return False
    return True


def asks_or_asked(state: RunState, input_id: str) -> bool:
    """Return whether the run or one of its children has ever asked a question of this id."""
    if input_id in state.inputs.open or input_id in state.inputs.closed:
        return True
    child = child_that_asks(state, input_id)
    return child is not None and child.run is not None and asks_or_asked(child.run, input_id)


def child_that_asks(state: RunState, input_id: Any) -> Child | None:
    """Return the child that a question's id begins with, whether it has asked it or one within it."""
    own = f"{state.origin}/"
    if not state.children or not isinstance(input_id, str) or not input_id.startswith(own):
        return None
    rest = input_id[len(own) :].rpartition(":")[0]
    while rest:
        # A child that a retry has begun anew has the number of failures in what its questions begin with.
        child = state.children.get(rest) or state.children.get(rest.rpartition("~")[0])
        if child is not None:
            return child
        rest = rest.rpartition("/")[0]
    return None

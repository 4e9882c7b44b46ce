"""Sees what happens to one run, and tells the observers: of the outermost run, and of each child a watch of its own.

The supervisor's turn sees every fact and what follows from it, and tells the observers before it passes the orders on;
a child's facts come by here on their way to the child's state. Two hooks belong to the bodies: their begin and end, on
their own threads. `going` holds the attempts whose end nobody has told yet: the supervisor's turn enters them, and
whoever takes one out, by a single dict operation, tells its end: the body as it ends, or the turn that gives it up. As
a body may be given up just as it begins, its begin and its end each come to the attempt's lock, and the second of the
two tells the end: so no end is told without its begin.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import Context as Variables
from typing import Any, Literal, TypeAlias, cast

from greenroom.child_facts import ChildAsked
from greenroom.effects import Answer, CancelInvocation, Effect, Publish, SetTimer, StartInvocation
from greenroom.errors import StepPassivated
from greenroom.facts import Fact, Failed, Finished, Recovered, RunResumed, RunStarted, WaitAsked
from greenroom.observer import (
    AttemptEnd,
    AttemptRecord,
    Observers,
    RunLeaving,
    RunParent,
    RunRecord,
    WaitEnd,
    WaitRecord,
)
from greenroom.outcome import DeadLetter, Outcome
from greenroom.run_state import RunState
from greenroom.state import StoreCall

__all__ = ["RunWatch"]


class _Going:
    """An attempt whose end has not been told."""

    __slots__ = ("_first", "record")

    def __init__(self, record: AttemptRecord) -> None:
        self.record = record
        self._first = threading.Lock()  # Taken by the first of the two that come here: its begin and its end.

    def comes_second(self) -> bool:
        return not self._first.acquire(blocking=False)


GoingAttempts: TypeAlias = dict[tuple[int, int], _Going]


class _OpenWait:
    """A wait whose end has not been told, and where the step will be answered."""

    __slots__ = ("asker", "record")

    def __init__(self, record: WaitRecord) -> None:
        self.record = record
        self.asker: Any = None


class RunWatch:
    """Tells observers what happens to one run. Its methods are called in the supervisor's turn.

    Attributes:
        tell: Calls a hook of all observers.
        now: Returns the time.
        hears_only_runs: Whether the observers want no more than begins and ends of runs.
        going: The attempts whose end has not been told.
        to_carry: What observers want to have kept with a run that has just begun, whatever it is; else None.
    """

    def __init__(
        self,
        observers: Observers,
        variables: Variables,
        now: Callable[[], float],
        outer: RunWatch | None = None,
        parent: RunParent | None = None,
    ) -> None:
        """Watch a run that is about to begin.

        Args:
            observers: Those to tell.
            variables: The context variables of the run.
            now: Returns the time.
            outer: What watches the run around it, if it is a child.
            parent: The step that has begun it, if it is a child.
        """
        self.tell = observers.tell
        self.now = now
        self.hears_only_runs = observers.hear_only_runs
        self.going: GoingAttempts = {}
        self.to_carry: dict[str, str] | None = None
        self._state: RunState
        self._observers = observers
        self._variables = variables
        self._has_left = False
        self._outer = outer
        self._parent = parent
        self._run: RunRecord | None = None
        self._inside: dict[RunWatch, None] = {}  # The children that have begun and not ended.
        self._due: dict[int, float] = {}  # Since when invocations could run that have not begun to.
        self._waits: dict[int, dict[str, _OpenWait]] = {}  # By invocation and key.
        self._askers: dict[Any, tuple[int, str]] = {}  # Which wait will be answered there.
        self._newest_letter: DeadLetter | None = None  # of those that have been told
        self._passed_on: set[int] = set()  # The ids of letters that were told as those of a child.

    def take(self, state: RunState, fact: Fact, now: float) -> list[Effect]:
        """Have the run take a fact in, and tell what follows. The end of the outermost run is told by `end`."""
        self._state = state
        if self._has_left:
            return state.apply(fact, now)
        if not self._is_going_on(state, fact, now):
            effects = state.apply(fact, now)
            if self._run is not None:
                self._tell_letters(self._run)
        else:
            if type(fact) is ChildAsked:
                self._watch_child(fact)
            effects = state.apply(fact, now) if self.hears_only_runs else self._observe(state, fact, now)
        if state.outcome is not None and self._outer is not None:
            self.end(state.outcome, now)
        return effects

    def saw(self, effects: list[Effect]) -> None:
        """Tell what has followed for the run from what befell the one around it."""
        run, now = self._run, self.now()
        if run is None or self._has_left:
            return
        if run.outcome is None:
            for effect in effects:
                self._hear(run, None, effect, now)
        self._tell_letters(run)
        if self._state.outcome is not None:
            self.end(self._state.outcome, now)

    def passed_on(self, letters: list[DeadLetter]) -> None:
        """Have the run around it not tell again of letters that were told as this run's."""
        if self._outer is not None and not self.hears_only_runs:
            self._outer._passed_on.update(id(letter) for letter in letters)

    def end(self, outcome: Outcome, now: float) -> None:
        """Tell that the run has ended, and before it all in it that has not."""
        run = self._run
        if run is None or run.outcome is not None or self._has_left:
            return
        for child in list(self._inside):
            child.end(outcome, now)  # Only after a failure of the engine: else they have ended before.
        self._end_all("cancelled", now)
        run.ended_at, run.outcome = max(now, run.started_at), outcome
        self.tell("run_ended", run)
        if self._outer is not None:
            self._outer._inside.pop(self, None)

    def leave(self, how: RunLeaving, now: float) -> None:
        """Tell that the run leaves memory, and all in it with it. Nothing is told of it from now on."""
        run = self._run
        if self._has_left or (run is not None and run.outcome is not None):
            return
        self._has_left = True
        if run is None:
            return  # It had waited for its turn to begin.
        for child in list(self._inside):
            child.leave(how, now)
        self._end_all(how, now)
        run.ended_at, run.left = max(now, run.started_at), how
        self.tell("run_left", run)

    def _end_all(self, how: Literal["cancelled"] | RunLeaving, now: float) -> None:
        for number in list(self._waits):
            self._end_waits(number, how, now)
        for key in list(self.going):
            self._give_up(key, how, None, now)

    def _watch_child(self, fact: ChildAsked) -> None:
        """Have what happens to a child told as well."""
        run, invocation = self._run, self._state.invocations.get(fact.invocation)
        if run is not None and invocation is not None:
            parent = RunParent(run, invocation.spec.name, invocation.number)
            fact.watch = fact.cast.watch = RunWatch(self._observers, fact.cast.variables, self.now, self, parent)

    # -- the run -------------------------------------------------------------------------------------------------------

    def _is_going_on(self, state: RunState, fact: Fact, now: float) -> bool:
        """Return whether the run has begun and not ended; its first fact begins it."""
        run = self._run
        if run is None and type(fact) is not StoreCall:
            run = self._run = self._record(state, fact, now)
            self._due = dict.fromkeys(state.invocations, now)
            self._newest_letter = state.dead_letters[-1] if state.dead_letters else None
            if self._outer is not None:
                self._outer._inside[self] = None
            self._variables.run(self.tell, "run_started", run)
            self.to_carry = run.carried
        return run is not None and run.outcome is None

    def _record(self, state: RunState, fact: Fact, now: float) -> RunRecord:
        parent, origin = self._parent, state.origin
        if parent is not None:
            origin, outer = state.run_id, parent.run
            if origin.startswith(f"{outer.run_id}/"):
                origin = outer.origin + origin[len(outer.run_id) :]
        run = RunRecord(state.run_id, state.graph.name, origin, now, parent)
        if type(fact) is RunStarted:
            run.start_event = fact.event
        elif type(fact) is RunResumed:
            comes_back = parent is not None and parent.run.beginning in _COMES_BACK
            run.beginning = parent.run.beginning if parent is not None and comes_back else "resumed"
        elif type(fact) is Recovered:
            run.beginning = "woken" if fact.has_rested else "recovered"
            run.carried = dict(state.carried)
        if run.beginning in _COMES_BACK and state.began_at is not None:
            run.started_at = state.began_at
        return run

    def _observe(self, state: RunState, fact: Fact, now: float) -> list[Effect]:
        run = self._run
        assert run is not None
        first_new, held, was_idle = state.next_invocation, len(state.held), state.idle_noted
        wait = self._find_wait(fact, now) if type(fact) is WaitAsked else None
        effects = state.apply(fact, now)
        if len(state.held) > held:
            self.tell("event_held", run, state.held[-1][0])
        for number in range(first_new, state.next_invocation):
            self._event_routed(run, number, now)
        if wait is not None:
            self._begin_wait(cast("WaitAsked", fact), wait)
        if type(fact) is Recovered or (type(fact) is RunResumed and run.beginning in _COMES_BACK):
            self._take_up_waits(run, now)
        for effect in effects:
            self._hear(run, fact, effect, now)
        if self._waits and isinstance(fact, Finished | Failed):
            self._withdraw_waits(fact.invocation, now)
        if state.idle_noted and not was_idle:
            self.tell("run_idle", run)
        self._tell_letters(run)
        return effects

    def _hear(self, run: RunRecord, fact: Fact | None, effect: Effect, now: float) -> None:
        hearer = _HEARERS.get(type(effect))
        if hearer is not None:
            hearer(self, run, fact, effect, now)

    def _event_routed(self, run: RunRecord, number: int, now: float) -> None:
        invocation = self._state.invocations.get(number)
        if invocation is not None:
            is_queued = invocation.worker is None
            if is_queued:
                self._due[number] = now
            self.tell("event_routed", run, invocation.event, invocation.spec.name, is_queued)

    def _event_published(self, run: RunRecord, fact: Fact | None, effect: Publish, now: float) -> None:
        self.tell("event_streamed", run, effect.event)

    def _tell_letters(self, run: RunRecord) -> None:
        new: list[DeadLetter] = []
        for letter in reversed(self._state.dead_letters):
            if letter is self._newest_letter:
                break
            new.append(letter)
        if new:
            self._newest_letter = new[0]
        for letter in reversed(new):
            if id(letter) not in self._passed_on:
                self.tell("dead_letter", run, letter)
        self._passed_on.clear()

    # -- attempts ------------------------------------------------------------------------------------------------------

    def _begin_attempt(self, run: RunRecord, fact: Fact | None, effect: StartInvocation, now: float) -> None:
        invocation = effect.invocation
        number, attempt, event = invocation.number, effect.attempt, invocation.event
        due = min(self._due.pop(number, now), now)
        worker = invocation.worker or 0
        record = AttemptRecord(run, invocation.spec.name, number, attempt, invocation.failures, worker, event, due)
        self.going[number, attempt] = _Going(record)

    def _invocation_cancelled(self, run: RunRecord, fact: Fact | None, effect: CancelInvocation, now: float) -> None:
        key = effect.invocation, effect.attempt
        if effect.error is not None:
            self._withdraw_waits(effect.invocation, now)
            self._give_up(key, "timed_out", effect.error, now)
        elif self._state.outcome is None:
            self._give_up(key, "passivated", None, now)
        else:
            self._end_waits(effect.invocation, "cancelled", now)
            self._give_up(key, "cancelled", None, now)

    def _give_up(self, key: tuple[int, int], end: AttemptEnd, error: BaseException | None, now: float) -> None:
        going = self.going.pop(key, None)
        if going is not None:
            record = going.record
            record.end, record.error, record.ended_at = end, error, now
            if going.comes_second():
                self.tell("step_ended", record)

    def _timer_set(self, run: RunRecord, fact: Fact | None, effect: SetTimer, now: float) -> None:
        if effect.key[0] == "retry":
            number = effect.key[1]
            self._due[number] = effect.at
            if type(fact) is not RunResumed:
                step = self._state.invocations[number].spec.name
                self.tell("step_retried", run, step, number, effect.at - now)

    # -- waits ---------------------------------------------------------------------------------------------------------

    def _find_wait(self, fact: WaitAsked, now: float) -> _OpenWait | None:
        """Return the wait that begins or is taken up again, or None where it is none: it has ended before."""
        invocation = self._state.current(fact.invocation, fact.attempt)
        going = self.going.get((fact.invocation, fact.attempt))
        if invocation is None or going is None:
            return None
        known = self._waits.get(fact.invocation, {}).get(fact.key)
        if known is not None:
            return known
        logged = (invocation.waits or {}).get(fact.key)
        if logged is not None and logged.state != "open":
            return None
        return _OpenWait(WaitRecord(going.record, fact.event_type, fact.timeout, now))

    def _take_up_waits(self, run: RunRecord, now: float) -> None:
        """Tell the waits of a run that comes back, before any body has come to them."""
        state = self._state
        for wait in state.waits.by_number.values():
            if wait.event_type is None:
                continue  # For children, which are seen by themselves.
            invocation, question = state.invocations[wait.invocation], state.inputs.open.get(wait.input_id or "")
            since = invocation.parked_at if question is None else question.asked_at
            since = now if since is None else since
            name, number, event = invocation.spec.name, invocation.number, invocation.event
            attempt = AttemptRecord(run, name, number, invocation.attempt, invocation.failures, 0, event, now)
            timeout = None if wait.deadline is None else max(0.0, wait.deadline - since)
            record = WaitRecord(attempt, wait.event_type, timeout, since, wait.input_id)
            self._waits.setdefault(number, {})[wait.key] = _OpenWait(record)
            self._variables.run(self.tell, "wait_started", record)

    def _begin_wait(self, fact: WaitAsked, wait: _OpenWait) -> None:
        number, key, record = fact.invocation, fact.key, wait.record
        waits = self._waits.setdefault(number, {})
        self._askers.pop(wait.asker, None)  # of an attempt that has failed meanwhile
        wait.asker = fact.asker
        self._askers[fact.asker] = number, key
        if key not in waits:
            waits[key] = wait
            logged = (self._state.invocations[number].waits or {})[key]
            record.input_id = logged.input_id
            fact.variables.run(self.tell, "wait_started", record)

    def _wait_answered(self, run: RunRecord, fact: Fact | None, effect: Answer, now: float) -> None:
        place = self._askers.pop(effect.asker, None)
        if place is None or isinstance(effect.error, StepPassivated):
            return
        number, key = place
        waits = self._waits[number]
        record = waits.pop(key).record
        if not waits:
            del self._waits[number]
        if effect.error is None:
            record.answer = effect.value
            self._end_wait(record, "answered", now)
        else:
            self._end_wait(record, "expired" if isinstance(effect.error, TimeoutError) else "cancelled", now)

    def _withdraw_waits(self, number: int, now: float) -> None:
        """End the waits of an invocation that has ended."""
        if number in self._waits and number not in self._state.invocations:
            self._end_waits(number, "withdrawn", now)

    def _end_waits(self, number: int, end: WaitEnd, now: float) -> None:
        for wait in self._waits.pop(number, {}).values():
            self._askers.pop(wait.asker, None)
            self._end_wait(wait.record, end, now)

    def _end_wait(self, record: WaitRecord, end: WaitEnd, now: float) -> None:
        record.end, record.ended_at = end, max(now, record.started_at)
        self.tell("wait_ended", record)


_COMES_BACK = ("woken", "recovered")
_HEARERS: dict[type, Callable[[RunWatch, RunRecord, Fact | None, Any, float], None]] = {
    StartInvocation: RunWatch._begin_attempt,
    CancelInvocation: RunWatch._invocation_cancelled,
    Publish: RunWatch._event_published,
    SetTimer: RunWatch._timer_set,
    Answer: RunWatch._wait_answered,
}

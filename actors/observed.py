"""The supervisor and the step actor of a run that somebody observes; a run without observers has neither.

The supervisor's turn sees every fact and what follows from it, and tells the observers before it passes the orders on.
Two hooks belong to the bodies: their begin and end, on their own threads. `_going` holds the attempts whose end nobody
has told yet: the supervisor's turn enters them, and whoever takes one out, by a single dict operation, tells its end:
the body as it ends, or the turn that gives it up. As a body may be given up just as it begins, its begin and its end
each come to the attempt's lock, and the second of the two tells the end: so no end is told without its begin.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Any, TypeAlias, cast

from greenroom.actors.durable import DurableSupervisor
from greenroom.actors.step import StepActor, _AsyncBody, _Body
from greenroom.actors.supervisor import RunSupervisor
from greenroom.errors import StepPassivated
from greenroom.events import Event
from greenroom.facts import (
    Answer,
    CancelInvocation,
    ChildAwaited,
    DeadLetter,
    Effect,
    Fact,
    Failed,
    Finished,
    Outcome,
    Publish,
    RunResumed,
    RunStarted,
    SetTimer,
    StartInvocation,
    WaitAsked,
)
from greenroom.observer import AttemptEnd, AttemptRecord, Observers, RunRecord, WaitEnd, WaitRecord
from greenroom.ports import current_step
from greenroom.run_state import failed_outcome
from greenroom.state import StoreCall

__all__ = ["ObservedDurableSupervisor", "ObservedSupervisor"]

Tell: TypeAlias = Callable[..., None]


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


class ObservedSupervisor(RunSupervisor):
    """Tells observers what happens to its run."""

    def __init__(self, observers: Observers, *arguments: Any) -> None:
        """Make the actor.

        Args:
            observers: Those to tell.
            *arguments: As for `RunSupervisor`.
        """
        super().__init__(*arguments)
        self._tell: Tell = observers.tell
        self._hear_only_runs = observers.hear_only_runs
        self._run: RunRecord | None = None
        self._going: GoingAttempts = {}
        self._due: dict[int, float] = {}  # Since when invocations could run that have not begun to.
        self._waits: dict[int, dict[str, _OpenWait]] = {}  # By invocation and key.
        self._askers: dict[Any, tuple[int, str]] = {}  # Which wait will be answered there.

    def on_failure(self, exception_type: Any, exception_value: Any, traceback: Any) -> None:
        try:
            super().on_failure(exception_type, exception_value, traceback)
        finally:
            self._end_run(failed_outcome(exception_value), self._now())

    def _make_step(self, *arguments: Any) -> StepActor:
        if self._hear_only_runs:
            return super()._make_step(*arguments)
        return _ObservedStepActor(self._going, self._tell, self._now, *arguments)

    def _take(self, fact: Fact, now: float) -> list[Effect]:
        if not self._is_going_on(fact, now):
            effects = self._observe_rest(fact, now)
        elif self._hear_only_runs:
            effects = super()._take(fact, now)
        else:
            effects = self._observe(fact, now)
        if self._state.outcome is not None:
            self._end_run(self._state.outcome, now)
        return effects

    # -- the run -------------------------------------------------------------------------------------------------------

    def _is_going_on(self, fact: Fact, now: float) -> bool:
        """Return whether the run has begun and not ended; its first fact begins it."""
        run = self._run
        if run is None and type(fact) is not StoreCall:
            state = self._state
            run = self._run = RunRecord(state.run_id, state.graph.name, state.origin, now)
            if type(fact) is RunStarted:
                run.start_event = fact.event
            self._due = dict.fromkeys(state.invocations, now)
            self._cast.variables.run(self._tell, "run_started", run)
        return run is not None and run.outcome is None

    def _observe_rest(self, fact: Fact, now: float) -> list[Effect]:
        """Take in what comes before the run begins or after its end."""
        state = self._state
        newest_letter = state.dead_letters[-1] if state.dead_letters else None
        effects = state.apply(fact, now)
        if self._run is not None:
            self._tell_letters(self._run, newest_letter)
        return effects

    def _observe(self, fact: Fact, now: float) -> list[Effect]:
        state, run = self._state, self._run
        assert run is not None
        first_new, held, was_idle = state.next_invocation, len(state.held), state.idle_noted
        newest_letter = state.dead_letters[-1] if state.dead_letters else None
        wait = self._find_wait(fact, now) if type(fact) is WaitAsked else None
        effects = state.apply(fact, now)
        if len(state.held) > held:
            self._tell("event_held", run, state.held[-1][0])
        for number in range(first_new, state.next_invocation):
            self._event_routed(run, number, now)
        if wait is not None:
            self._begin_wait(cast("WaitAsked", fact), wait)
        for effect in effects:
            hearer = _HEARERS.get(type(effect))
            if hearer is not None:
                hearer(self, run, fact, effect, now)
        if self._waits and isinstance(fact, Finished | Failed):
            self._withdraw_waits(fact.invocation, now)
        if state.idle_noted and not was_idle:
            self._tell("run_idle", run)
        self._tell_letters(run, newest_letter)
        return effects

    def _end_run(self, outcome: Outcome, now: float) -> None:
        run = self._run
        if run is None or run.outcome is not None:
            return
        for number in list(self._waits):
            self._end_waits(number, "cancelled", now)
        for key in list(self._going):
            self._give_up(key, "cancelled", None, now)
        run.ended_at, run.outcome = now, outcome
        self._tell("run_ended", run)

    def _event_routed(self, run: RunRecord, number: int, now: float) -> None:
        invocation = self._state.invocations.get(number)
        if invocation is not None:
            is_queued = invocation.worker is None
            if is_queued:
                self._due[number] = now
            self._tell("event_routed", run, invocation.event, invocation.spec.name, is_queued)

    def _event_published(self, run: RunRecord, fact: Fact, effect: Publish, now: float) -> None:
        self._tell("event_streamed", run, effect.event)

    def _tell_letters(self, run: RunRecord, newest_before: DeadLetter | None) -> None:
        new: list[DeadLetter] = []
        for letter in reversed(self._state.dead_letters):
            if letter is newest_before:
                break
            new.append(letter)
        for letter in reversed(new):
            self._tell("dead_letter", run, letter)

    # -- attempts ------------------------------------------------------------------------------------------------------

    def _begin_attempt(self, run: RunRecord, fact: Fact, effect: StartInvocation, now: float) -> None:
        invocation = effect.invocation
        number, attempt, event = invocation.number, effect.attempt, invocation.event
        due = min(self._due.pop(number, now), now)
        worker = invocation.worker or 0
        record = AttemptRecord(run, invocation.spec.name, number, attempt, invocation.failures, worker, event, due)
        self._going[number, attempt] = _Going(record)

    def _invocation_cancelled(self, run: RunRecord, fact: Fact, effect: CancelInvocation, now: float) -> None:
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
        going = self._going.pop(key, None)
        if going is not None:
            record = going.record
            record.end, record.error, record.ended_at = end, error, now
            if going.comes_second():
                self._tell("step_ended", record)

    def _timer_set(self, run: RunRecord, fact: Fact, effect: SetTimer, now: float) -> None:
        if effect.key[0] == "retry":
            number = effect.key[1]
            self._due[number] = effect.at
            if type(fact) is not RunResumed:
                step = self._state.invocations[number].spec.name
                self._tell("step_retried", run, step, number, effect.at - now)

    # -- waits ---------------------------------------------------------------------------------------------------------

    def _find_wait(self, fact: WaitAsked, now: float) -> _OpenWait | None:
        """Return the wait that begins or is taken up again, or None where it is none: it has ended before."""
        invocation = self._state.current(fact.invocation, fact.attempt)
        going = self._going.get((fact.invocation, fact.attempt))
        if invocation is None or going is None:
            return None
        known = self._waits.get(fact.invocation, {}).get(fact.key)
        if known is not None:
            return known
        logged = (invocation.waits or {}).get(fact.key)
        if logged is not None and logged.state != "open":
            return None
        return _OpenWait(WaitRecord(going.record, fact.event_type, fact.timeout, now))

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
            fact.variables.run(self._tell, "wait_started", record)

    def _wait_answered(self, run: RunRecord, fact: Fact, effect: Answer, now: float) -> None:
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
        record.end, record.ended_at = end, now
        self._tell("wait_ended", record)


class ObservedDurableSupervisor(ObservedSupervisor, DurableSupervisor):
    """Tells observers what happens to its run, which the journal keeps."""


_HEARERS: dict[type, Callable[[ObservedSupervisor, RunRecord, Fact, Any, float], None]] = {
    StartInvocation: ObservedSupervisor._begin_attempt,
    CancelInvocation: ObservedSupervisor._invocation_cancelled,
    Publish: ObservedSupervisor._event_published,
    SetTimer: ObservedSupervisor._timer_set,
    Answer: ObservedSupervisor._wait_answered,
}


class _ObservedStepActor(StepActor):
    """Starts bodies that tell of their begin and end."""

    def __init__(self, going: GoingAttempts, tell: Tell, now: Callable[[], float], *arguments: Any) -> None:
        super().__init__(*arguments)
        self._going = going
        self._tell = tell
        self._now = now
        self._body_class = _ObservedAsyncBody if self.spec.is_async else _ObservedBody

    def body_begins(self, key: tuple[int, int]) -> None:
        """Tell the begin of an attempt, unless it was given up before."""
        going = self._going.get(key)
        if going is not None:
            record = going.record
            record.started_at = self._now()
            self._tell("step_started", record)
            if going.comes_second():
                self._tell("step_ended", record)

    def body_ends(self, key: tuple[int, int], fact: Finished | Failed | None) -> None:
        """Tell the end of an attempt, unless it was given up before."""
        going = self._going.pop(key, None)
        if going is None:
            return
        record = going.record
        record.ended_at = self._now()
        if type(fact) is Finished:
            record.end, record.output = "completed", fact.event
        elif type(fact) is Failed:
            record.end, record.error = "failed", fact.error
        else:
            record.end = "cancelled"
        if going.comes_second():
            self._tell("step_ended", record)

    def forget(self) -> None:
        """Tell no end that is not ours to tell: this is a forked child, and the run is its parent's."""
        self._going.clear()


class _Observed(_Body):
    """What both kinds of observed bodies do."""

    __slots__ = ()
    _actor: _ObservedStepActor

    def report(self) -> None:
        self._actor.body_ends((self.invocation.number, self.attempt), self.fact)
        super().report()

    def forked(self) -> None:
        super().forked()
        self._actor.forget()

    def wait(self, fact: WaitAsked | ChildAwaited) -> Any:
        if isinstance(fact, WaitAsked):
            fact.variables = contextvars.copy_context()
        return super().wait(fact)

    async def wait_async(self, fact: WaitAsked | ChildAwaited) -> Any:
        if isinstance(fact, WaitAsked):
            fact.variables = contextvars.copy_context()
        return await super().wait_async(fact)


class _ObservedBody(_Observed):
    __slots__ = ()

    def _call(self) -> Event | list[Event] | None:
        current_step.set(self)
        self._actor.body_begins((self.invocation.number, self.attempt))
        return super()._call()


class _ObservedAsyncBody(_Observed, _AsyncBody):
    __slots__ = ()

    async def _main(self) -> None:
        self._actor.body_begins((self.invocation.number, self.attempt))
        await super()._main()

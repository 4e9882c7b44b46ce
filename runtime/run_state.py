"""The rules of a run: one deterministic state machine with no threads, no clock and no I/O.

`RunState.apply(fact, now)` takes what has happened and returns what is to be done. The same facts at the same times
give the same effects. It never copies itself, so that a fact costs the same however large the run has grown.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal, cast

from greenroom.buffers import CollectBuffer
from greenroom.errors import (
    ContextStateError,
    GreenroomError,
    InputAnsweredError,
    InputError,
    RuntimeShutdownError,
    StepCancelled,
    StepPassivated,
    StepTimeoutError,
    WorkflowCancelledByUser,
    WorkflowRuntimeError,
    WorkflowStuckError,
    WorkflowTimeoutError,
)
from greenroom.events import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StepState,
    StepStateChanged,
    StopEvent,
    UnhandledEvent,
    WorkflowCancelledEvent,
    WorkflowFailedEvent,
    WorkflowIdleEvent,
    WorkflowTimedOutEvent,
)
from greenroom.facts import (
    Answer,
    AskPerson,
    BecameQuiet,
    Caller,
    CancelAsked,
    CancelInvocation,
    CollectAsked,
    Crashed,
    DeadLetter,
    DrainAsked,
    DropTimer,
    Effect,
    EventArrived,
    EventSent,
    EventWritten,
    Fact,
    Failed,
    Finish,
    Finished,
    OnceAsked,
    OnceDone,
    Outcome,
    PassivateAsked,
    Publish,
    Responded,
    RunResumed,
    RunStarted,
    SetTimer,
    StartInvocation,
    TimerFired,
    WaitAsked,
    describe_lack,
)
from greenroom.graph import EventKind, Graph
from greenroom.invocation import Invocation
from greenroom.lanes import Lane
from greenroom.retry import RetryInfo, next_delay, retry_seed
from greenroom.state import StateStore, StoreCall
from greenroom.steps import StepSpec
from greenroom.waits import InputBook, OpenInput, Wait, WaitBook

__all__ = ["Note", "RunState", "failed_outcome", "read_note"]

MAX_DEAD_LETTERS = 10_000
MAX_NOTES = 1_000
RUN_TIMER = ("run",)

OnStuck = Literal["fail", "wait"]
Note = tuple[Any, ...]  # offset, how to build the event, and with what


class RunState:
    """All that a run is, between two facts.

    Attributes:
        graph: The workflow's graph.
        run_id: The run's id.
        timeout: Seconds at work that the run may take, or None.
        store: The state that the steps share.
        invocations: Those that wait, run, or are in the delay before a retry, by number.
        dead_letters: The newest events that nobody will take.
        held: Events from outside that no step takes, in order; a wait may claim them.
        inputs: The questions to people.
        waits: The waits that are open.
        parked: How many invocations stand at a wait that nothing has ended.
        published: How many events the stream has: the next offset.
        notes: The newest internal events, not yet built: each with the offset at which it belongs.
        outcome: How the run ended, or None.
    """

    def __init__(
        self,
        graph: Graph,
        run_id: str,
        *,
        timeout: float | None = None,
        on_stuck: OnStuck = "fail",
        store: StateStore | None = None,
    ) -> None:
        self.graph = graph
        self.run_id = run_id
        self.timeout = timeout
        self.on_stuck = on_stuck
        self.store = store if store is not None else StateStore(graph.state_type)
        self.invocations: dict[int, Invocation] = {}
        self.dead_letters: deque[DeadLetter] = deque(maxlen=MAX_DEAD_LETTERS)
        self.held: list[tuple[Event, str | None]] = []
        self.inputs = InputBook()
        self.waits = WaitBook()
        self.parked = 0
        self.published = 0
        self.notes: deque[Note] = deque(maxlen=MAX_NOTES)
        self.outcome: Outcome | None = None
        self._lanes: dict[str, Lane] = {}
        self._buffers: dict[tuple[str, str], CollectBuffer] = {}
        self._delayed: dict[int, tuple[Event, str | None, float]] = {}
        self._next_invocation = 0
        self._next_delayed = 0
        self._next_wait = 0
        self._next_input = 1
        self.origin = run_id  # where the ids of questions come from: they outlive the run's own id
        self._worked = 0.0
        self._at_work_since: float | None = None
        self._idle_noted = False
        self._drain_error: BaseException | None = None
        self._successor: str | None = None

    # -- what may be asked ---------------------------------------------------------------------------------------------

    @property
    def active_steps(self) -> list[str]:
        """The names of the steps that have an invocation running, in alphabetical order."""
        return sorted({inv.spec.name for inv in self.invocations.values() if inv.worker is not None})

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is queued or in flight, so that only the outside or a timer can go on."""
        return len(self.invocations) == self.parked and self.outcome is None

    @property
    def has_unfinished_work(self) -> bool:
        """Whether a run that was put away left something to resume."""
        return bool(self.invocations or self._delayed or self.inputs.open or self.held or self._buffers)

    def check_reopen(self) -> bool:
        """Return whether a run that goes on from this one has unfinished work to resume.

        Raises:
            ContextStateError: If this run has not ended, another went on from it, or somebody edits its state.
        """
        if self.outcome is None:
            raise ContextStateError(f"this context is in use by run '{self.run_id}', which has not ended")
        if self._successor is not None:
            raise ContextStateError(f"this context is in use by run '{self._successor}', which went on from it")
        if self.store.is_contended:
            raise ContextStateError("this context has an edit_state() open; let it end before run(ctx=...)")
        return self.has_unfinished_work

    def reopen(self, run_id: str, timeout: float | None, on_stuck: OnStuck) -> RunState:
        """Return the state of a run that goes on from this one, which has ended, with its store and unfinished work.

        Where nothing is unfinished it begins anew, with its stream at offset 0. This state stays ended, so that what
        bodies of the old run still tell is turned away and cannot pass for a fact of the new one.

        Raises:
            ContextStateError: If this run has not ended, another went on from it, or somebody edits its state.
        """
        unfinished = self.check_reopen()
        self._successor = run_id
        state = RunState(self.graph, run_id, timeout=timeout, on_stuck=on_stuck, store=self.store)
        if unfinished:
            state.published = self.published
            state.dead_letters.extend(self.dead_letters)
            state.invocations, self.invocations = self.invocations, {}
            state.held, self.held = self.held, []
            state.inputs, self.inputs = self.inputs, InputBook()
            state.waits, self.waits = self.waits, WaitBook()
            state._next_wait, state._next_input = self._next_wait, self._next_input
            state.origin = self.origin
            state._buffers, self._buffers = self._buffers, {}
            state._delayed, self._delayed = self._delayed, {}
            state._next_invocation, state._next_delayed = self._next_invocation, self._next_delayed
        return state

    def put_away_as(self, status: str) -> None:
        """Mark a run that was read from a snapshot as ended there: cut off, or as it had ended."""
        error = WorkflowCancelledByUser("the run was put away in a snapshot")
        self.outcome = Outcome("cancelled" if status == "running" else cast("Any", status), StopEvent(), error)

    def shift_clock(self, seconds: float) -> None:
        """Move all times of a run that rests from a clock that stood at 0 to one that stands at `seconds`."""
        for invocation in self.invocations.values():
            if invocation.first_started_at is not None:
                invocation.first_started_at += seconds
            if invocation.retry_at is not None:
                invocation.retry_at += seconds
            for wait in (invocation.waits or {}).values():
                if wait.deadline is not None:
                    wait.deadline += seconds
        for question in self.inputs.open.values():
            question.asked_at += seconds
            if question.expires_at is not None:
                question.expires_at += seconds
        self._delayed = {number: (event, step, due + seconds) for number, (event, step, due) in self._delayed.items()}

    def buffered(self) -> dict[tuple[str, str], list[Event]]:
        """Return the events that wait in each collection, by step and buffer id."""
        return {key: buffer.events for key, buffer in self._buffers.items()}

    # -- the one way in ------------------------------------------------------------------------------------------------

    def apply(self, fact: Fact, now: float) -> list[Effect]:
        """Take a fact in.

        Args:
            fact: What has happened.
            now: When, in seconds of a clock that does not go back.

        Returns:
            What is to be done, in order.
        """
        effects: list[Effect] = []
        if self.outcome is not None:
            self._apply_after_end(fact, effects)
            return effects
        _RULES[type(fact)](self, fact, now, effects)
        if self.timeout is not None and self.outcome is None:
            self._mind_clock(now, effects)
        return effects

    # -- rules, one a fact ---------------------------------------------------------------------------------------------

    def _run_started(self, fact: RunStarted, now: float, effects: list[Effect]) -> None:
        self._deliver(fact.event, None, now, effects)

    def _run_resumed(self, fact: RunResumed, now: float, effects: list[Effect]) -> None:
        for number, (_, _, due) in self._delayed.items():
            effects.append(SetTimer(("delayed", number), due))
        for wait in self.waits.by_number.values():
            if wait.deadline is not None:
                effects.append(SetTimer(("wait", wait.number), wait.deadline))
        for invocation in list(self.invocations.values()):
            if invocation.retry_at is not None and invocation.retry_at > now:
                effects.append(SetTimer(("retry", invocation.number), invocation.retry_at))
            else:
                invocation.retry_at = None
                self._admit(invocation, now, effects)

    def _event_arrived(self, fact: EventArrived, now: float, effects: list[Effect]) -> None:
        event = fact.event
        if not self._deliver(event, fact.step, now, effects):
            self.held.append((event, fact.step))
            self._note_unhandled(event, fact.step)
        effects.append(Answer(fact.asker, None))

    def _event_sent(self, fact: EventSent, now: float, effects: list[Effect]) -> None:
        invocation = self._current(fact.invocation, fact.attempt)
        if invocation is not None:
            if invocation.skips_sends:
                invocation.skips_sends -= 1  # a replay: it was sent before
                return
            invocation.sends += 1
            if fact.delay:
                number, self._next_delayed = self._next_delayed, self._next_delayed + 1
                self._delayed[number] = (fact.event, fact.step, now + fact.delay)
                effects.append(SetTimer(("delayed", number), now + fact.delay))
            else:
                self._deliver_inside(fact.event, fact.step, now, effects)
        else:
            self._bury(fact.event, "it was sent by an attempt that had been given up", fact.step)

    def _event_written(self, fact: EventWritten, now: float, effects: list[Effect]) -> None:
        invocation = self._current(fact.invocation, fact.attempt)
        if invocation is not None:
            if invocation.skips_writes:
                invocation.skips_writes -= 1  # a replay: it was written before
                return
            invocation.writes += 1
            if isinstance(fact.event, InputRequiredEvent):
                self._ask_people(fact.event, invocation.spec.name, None, now, effects)
            else:
                self._publish(fact.event, effects)
        else:
            self._bury(fact.event, "it was written by an attempt that had been given up", None)

    def _collect_asked(self, fact: CollectAsked, now: float, effects: list[Effect]) -> None:
        invocation = self._current(fact.invocation, fact.attempt)
        if invocation is not None:
            effects.append(Answer(fact.asker, self._collect(invocation, fact)))
        else:
            effects.append(Answer(fact.asker, None, _given_up()))

    def _store_called(self, fact: StoreCall, now: float, effects: list[Effect]) -> None:
        if isinstance(fact.owner, Caller) and self._current(*fact.owner) is None:
            effects.append(Answer(fact.asker, None, _given_up()))
        else:
            self.store.call(fact, _answer_into(effects))

    def _finished(self, fact: Finished, now: float, effects: list[Effect]) -> None:
        event = fact.event
        invocation = self.invocations.get(fact.invocation)
        if invocation is None or invocation.attempt != fact.attempt:
            if event is not None:
                self._bury(event, "it was returned by an attempt that had been given up", None)
            return
        del self.invocations[fact.invocation]
        if invocation.waits:
            self._withdraw_waits(invocation, effects)
        if event is None:
            worker = self._leave(invocation, None, effects)
            self._serve_queue(invocation.spec, worker, now, effects)
            return
        event_class = type(event)
        kind = self.graph.kind(event_class)
        worker = self._leave(invocation, event_class.__name__, effects)
        if kind is EventKind.STOP:
            self._end(Outcome("completed", cast("StopEvent", event)), effects)
            return
        self._serve_queue(invocation.spec, worker, now, effects)
        if kind is EventKind.INPUT:
            self._deliver(self._ask_people(event, invocation.spec.name, None, now, effects), None, now, effects)
        else:
            self._deliver_inside(event, None, now, effects)

    def _failed(self, fact: Failed, now: float, effects: list[Effect]) -> None:
        invocation = self.invocations.get(fact.invocation)
        if invocation is None or invocation.attempt != fact.attempt:
            return
        error, failures = fact.error, invocation.failures + 1
        started = invocation.first_started_at
        elapsed = now - started if started is not None else 0.0
        delay: float | None = None
        policy = invocation.spec.options.retry_policy
        if policy is not None and isinstance(error, Exception):
            try:
                seed = retry_seed(self.run_id, invocation.spec.name, failures)
                delay = next_delay(policy, elapsed, failures, error, seed)
            except Exception as policy_error:
                # A policy is the user's code; one that raises fails the run with what it raised.
                policy_error.__context__ = error
                error = policy_error
        worker = self._leave(invocation, None, effects)
        if delay is None:
            del self.invocations[invocation.number]
            self._fail(error, effects, invocation.spec.name, failures, elapsed)
            return
        invocation.attempt += 1
        invocation.failures = failures
        invocation.sends = invocation.writes = 0  # A retry does these again; its waits and collections are answered.
        invocation.retry_info = RetryInfo(
            failures, elapsed, error if isinstance(error, Exception) else None, fact.failed_at
        )
        invocation.retry_at = now + delay
        effects.append(SetTimer(("retry", invocation.number), invocation.retry_at))
        self._serve_queue(invocation.spec, worker, now, effects)

    def _timer_fired(self, fact: TimerFired, now: float, effects: list[Effect]) -> None:
        match fact.key:
            case ("run",):
                self._check_timeout(now, effects)
            case ("retry", number):
                invocation = self.invocations.get(number)
                if invocation is not None:
                    invocation.retry_at = None
                    self._admit(invocation, now, effects, is_retry=True)
            case ("step", number, attempt):
                self._step_timed_out(number, attempt, fact.at, now, effects)
            case ("wait", number):
                wait = self.waits.by_number.get(number)
                if wait is not None:
                    self._end_wait(wait, None, now, effects)
            case ("delayed", number):
                event, step, _ = self._delayed.pop(number)
                self._deliver_inside(event, step, now, effects)

    def _cancel_asked(self, fact: CancelAsked, now: float, effects: list[Effect]) -> None:
        self._end(Outcome("cancelled", WorkflowCancelledEvent(), fact.error), effects)

    def _drain_asked(self, fact: DrainAsked, now: float, effects: list[Effect]) -> None:
        self._drain_error = fact.error
        if self.is_quiet:
            self._end(Outcome("cancelled", WorkflowCancelledEvent(), fact.error), effects)

    def _crashed(self, fact: Crashed, now: float, effects: list[Effect]) -> None:
        self._fail(fact.error, effects)

    def _became_quiet(self, fact: BecameQuiet, now: float, effects: list[Effect]) -> None:
        if not self.is_quiet:
            return
        if self._drain_error is not None:
            self._end(Outcome("cancelled", WorkflowCancelledEvent(), self._drain_error), effects)
            return
        if not self._idle_noted:
            self._idle_noted = True
            self.notes.append((self.published, WorkflowIdleEvent))
        # Asked at each rest: what the run has waited for may have come since, and led nowhere.
        may_go_on = self.graph.asks_people or self.inputs.open or self.waits or self._delayed
        if self.on_stuck == "fail" and not may_go_on:
            self._fail(WorkflowStuckError(self._describe_stuck()), effects)

    # -- events --------------------------------------------------------------------------------------------------------

    def _deliver(
        self, event: Event, step: str | None, now: float, effects: list[Effect], *, closes: bool = True
    ) -> bool:
        """Give an event to the waits that it answers and to the steps that take it; return whether there was one.

        A step that is answered in a wait does not take the same event as its input. A person's answer also `closes` the
        question that it answers, unless that was named and is closed.
        """
        answered: list[Wait] = self.waits.answered_by(event, step) if self.waits else []
        for wait in answered:
            self._end_wait(wait, event, now, effects)
        steps = self.graph.route(type(event)) if step is None else (self.graph.steps[step],)
        if answered:
            if isinstance(event, HumanResponseEvent):
                if closes and answered[0].input_id is None:
                    self._close_question(event, answered[0].step)
                return True
            waited = {wait.step for wait in answered}
            steps = tuple(spec for spec in steps if spec.name not in waited and self.graph.accepts(spec, type(event)))
        elif closes and isinstance(event, HumanResponseEvent):
            self._close_question(event, None)
        for spec in steps:
            self._admit(self._new_invocation(spec, event), now, effects)
        return bool(steps or answered)

    def _new_invocation(self, spec: StepSpec, event: Event) -> Invocation:
        number = self._next_invocation
        self._next_invocation = number + 1
        invocation = self.invocations[number] = Invocation(number, spec, event)
        return invocation

    def _deliver_inside(self, event: Event, step: str | None, now: float, effects: list[Effect]) -> None:
        if not self._deliver(event, step, now, effects):
            self._note_unhandled(event, step)
            self._bury(event, "no step takes it", step)

    def _publish(self, event: Event, effects: list[Effect]) -> None:
        effects.append(Publish(event, self.published))
        self.published += 1

    def _bury(self, event: Event, reason: str, step: str | None) -> None:
        self.dead_letters.append(DeadLetter(event, reason, step))

    def _note_unhandled(self, event: Event, step: str | None) -> None:
        self.notes.append((self.published, _unhandled, type(event), step, self.is_quiet))

    # -- invocations ---------------------------------------------------------------------------------------------------

    def _admit(self, invocation: Invocation, now: float, effects: list[Effect], *, is_retry: bool = False) -> None:
        """Start an invocation if its step has a free worker, else put it in the queue."""
        spec = invocation.spec
        lane = self._lanes.get(spec.name)
        if lane is None:
            lane = self._lanes[spec.name] = Lane(spec)
        worker = lane.take_worker()
        if worker is not None:
            self._start(invocation, worker, now, effects)
            return
        (lane.retries if is_retry else lane.queue).append(invocation)
        self.notes.append(
            (self.published, _state_changed, lane.name, StepState.PREPARING, None, type(invocation.event), None)
        )

    def _start(self, invocation: Invocation, worker: int, now: float, effects: list[Effect]) -> None:
        self._idle_noted = False
        spec = invocation.spec
        invocation.worker = worker
        if invocation.first_started_at is None:
            invocation.first_started_at = now
        self.notes.append(
            (self.published, _state_changed, spec.name, StepState.RUNNING, worker, type(invocation.event), None)
        )
        if invocation.parked_at is not None and self._go_on(invocation, now, effects):
            time_left = invocation.time_left
        else:
            invocation.skips_sends, invocation.skips_writes = invocation.sends, invocation.writes
            invocation.collect_position = 0
            effects.append(StartInvocation(invocation, invocation.attempt))
            time_left = spec.options.timeout
        if time_left is not None:
            invocation.step_deadline = now + time_left
            effects.append(SetTimer(("step", invocation.number, invocation.attempt), invocation.step_deadline))

    def _leave(self, invocation: Invocation, output: str | None, effects: list[Effect]) -> int | None:
        """Take an invocation whose attempt has ended off its worker; return the worker's number, if it had one."""
        self._release_store(invocation, effects)
        if invocation.worker is not None:
            return self._take_worker(invocation, output, effects)
        # It ended while it stood at a wait, as one that waits in several tasks of which another has failed.
        invocation.parked_at = None
        if invocation.ready is None:
            self.parked -= 1
        else:
            invocation.ready = None
            self._lanes[invocation.spec.name].retries.remove(invocation)
        return None

    def _take_worker(self, invocation: Invocation, output: str | None, effects: list[Effect]) -> int:
        worker, invocation.worker = invocation.worker, None
        assert worker is not None
        spec, cls = invocation.spec, type(invocation.event)
        note = (self.published, _state_changed, spec.name, StepState.NOT_RUNNING, worker, cls, output)
        self.notes.append(note)
        if spec.options.timeout is not None:
            effects.append(DropTimer(("step", invocation.number, invocation.attempt)))
        return worker

    def _serve_queue(self, spec: StepSpec, worker: int | None, now: float, effects: list[Effect]) -> None:
        """Give a free worker to the next in the queue."""
        if worker is None:
            return
        lane = self._lanes[spec.name]
        waiting = lane.next_waiting()
        if waiting is not None:
            self._start(waiting, worker, now, effects)
        else:
            heapq.heappush(lane.freed, worker)

    def _release_store(self, invocation: Invocation, effects: list[Effect]) -> None:
        if self.store.is_contended:
            self.store.release(Caller(invocation.number, invocation.attempt), _answer_into(effects))

    def _current(self, number: int, attempt: int) -> Invocation | None:
        """Return the invocation if this attempt at it is the one that counts."""
        invocation = self.invocations.get(number)
        if invocation is None or invocation.attempt != attempt:
            return None
        return invocation if invocation.worker is not None or invocation.parked_at is not None else None

    def _step_timed_out(self, number: int, attempt: int, at: datetime, now: float, effects: list[Effect]) -> None:
        if self._current(number, attempt) is None:
            return
        spec = self.invocations[number].spec
        effects.append(CancelInvocation(spec.name, number, attempt))
        error = StepTimeoutError(f"step '{spec.name}' took longer than its timeout of {spec.options.timeout} seconds")
        self._failed(Failed(number, attempt, error, at), now, effects)

    # -- collections ---------------------------------------------------------------------------------------------------

    def _collect(self, invocation: Invocation, fact: CollectAsked) -> list[Event] | None:
        log = invocation.collects
        if log is None:
            log = invocation.collects = []
        position, invocation.collect_position = invocation.collect_position, invocation.collect_position + 1
        if position < len(log):
            return log[position]  # What an earlier attempt was answered goes to this one.
        buffer_id, expected = fact.buffer_id, fact.expected
        key = (invocation.spec.name, buffer_id)
        buffer = self._buffers.get(key)
        if buffer is None:
            buffer = self._buffers[key] = CollectBuffer()
        if not fact.own:
            batch = buffer.add(fact.event, expected)
        elif invocation.collected is None or buffer_id not in invocation.collected:
            batch = buffer.add(fact.event, expected)
            invocation.collected = (invocation.collected or set()) | {buffer_id}
        else:
            batch = buffer.take_complete(expected)
        if buffer.is_empty:
            del self._buffers[key]
        log.append(batch)
        return batch

    # -- waits ---------------------------------------------------------------------------------------------------------

    def _wait_asked(self, fact: WaitAsked, now: float, effects: list[Effect]) -> None:
        invocation = self._current(fact.invocation, fact.attempt)
        if invocation is None:
            effects.append(Answer(fact.asker, None, _given_up()))
            return
        waits = invocation.waits = invocation.waits if invocation.waits is not None else {}
        wait = waits.get(fact.key)
        if wait is None:
            wait = waits[fact.key] = self._new_wait(invocation, fact, now, effects)
        elif wait.state != "open":
            effects.append(_answer_to_wait(wait, fact.asker))
            return
        elif wait.event_type is None:
            wait.event_type = fact.event_type
            wait.requirements = dict(fact.requirements)
            self.waits.add(wait)
        wait.asker = fact.asker
        for index, (event, step) in enumerate(self.held):
            if wait.matches(event, step):
                del self.held[index]
                self._end_wait(wait, event, now, effects)
                return
        if invocation.worker is not None:
            self._park(invocation, now, effects)

    def _new_wait(self, invocation: Invocation, fact: WaitAsked, now: float, effects: list[Effect]) -> Wait:
        number, self._next_wait = self._next_wait, self._next_wait + 1
        deadline = None if fact.timeout is None else now + fact.timeout
        wait = Wait(
            number, invocation.number, invocation.spec.name, fact.key, fact.event_type, fact.requirements, deadline
        )
        self.waits.add(wait)
        if deadline is not None:
            effects.append(SetTimer(("wait", number), deadline))
        if fact.request is not None:
            if fact.is_question:
                self._ask_people(fact.request, wait.step, wait, now, effects)
            else:
                self._publish(fact.request, effects)
        return wait

    def _park(self, invocation: Invocation, now: float, effects: list[Effect]) -> None:
        """Take the worker of an invocation that stands at a wait."""
        worker = self._take_worker(invocation, None, effects)
        if invocation.step_deadline is not None:
            invocation.time_left = max(0.0, invocation.step_deadline - now)
        invocation.parked_at, invocation.is_live = now, True
        self.parked += 1
        self._serve_queue(invocation.spec, worker, now, effects)
        if invocation.unwinds:
            self._passivate(invocation, effects)

    def _end_wait(self, wait: Wait, event: Event | None, now: float, effects: list[Effect]) -> None:
        """End a wait with an event or, without one, because its time is over."""
        wait.state, wait.answer = ("expired", None) if event is None else ("answered", event)
        self.waits.remove(wait)
        if wait.deadline is not None:
            effects.append(DropTimer(("wait", wait.number)))
        self.inputs.close(wait.input_id, "expired" if event is None else "answered")
        invocation = self.invocations[wait.invocation]
        if invocation.parked_at is None:
            # It runs, as one that waits in several tasks at once, or its next attempt will be answered from the log.
            asker, wait.asker = wait.asker, None
            effects.append(_answer_to_wait(wait, asker))
        elif invocation.ready is None:
            invocation.ready = [wait]
            self.parked -= 1
            self._admit(invocation, now, effects, is_retry=True)
        else:
            invocation.ready.append(wait)

    def _go_on(self, invocation: Invocation, now: float, effects: list[Effect]) -> bool:
        """Let an invocation that was parked go on; return whether its body still stands where it waited."""
        assert invocation.parked_at is not None
        assert invocation.first_started_at is not None
        invocation.first_started_at += now - invocation.parked_at
        invocation.parked_at = None
        ready, invocation.ready = invocation.ready or [], None
        if not invocation.is_live:
            return False
        for wait in ready:
            asker, wait.asker = wait.asker, None
            effects.append(_answer_to_wait(wait, asker))
        return True

    def _passivate_asked(self, fact: PassivateAsked, now: float, effects: list[Effect]) -> None:
        invocation = self._current(fact.invocation, fact.attempt)
        if invocation is None or invocation.ready is not None:
            return
        if invocation.parked_at is None:
            invocation.unwinds = True  # It is on its way to its wait.
            return
        self._passivate(invocation, effects)

    def _passivate(self, invocation: Invocation, effects: list[Effect]) -> None:
        """Unwind a body that waits; another is started when its wait has ended."""
        invocation.unwinds = False
        effects.append(CancelInvocation(invocation.spec.name, invocation.number, invocation.attempt))
        self._release_store(invocation, effects)
        invocation.attempt += 1
        invocation.is_live = False
        for wait in (invocation.waits or {}).values():
            asker, wait.asker = wait.asker, None
            if asker is not None:
                effects.append(Answer(asker, None, StepPassivated("this step waits on without its thread")))

    def _withdraw_waits(self, invocation: Invocation, effects: list[Effect]) -> None:
        """Drop the waits that an invocation leaves behind as it ends."""
        for wait in (invocation.waits or {}).values():
            if wait.state == "open":
                self.waits.remove(wait)
                self.inputs.close(wait.input_id, "withdrawn")
                if wait.deadline is not None:
                    effects.append(DropTimer(("wait", wait.number)))

    def _once_asked(self, fact: OnceAsked, now: float, effects: list[Effect]) -> None:
        invocation = self._current(fact.invocation, fact.attempt)
        if invocation is None:
            effects.append(Answer(fact.asker, None, _given_up()))
            return
        done = invocation.done_once or {}
        effects.append(Answer(fact.asker, (fact.key in done, done.get(fact.key))))

    def _once_done(self, fact: OnceDone, now: float, effects: list[Effect]) -> None:
        invocation = self._current(fact.invocation, fact.attempt)
        if invocation is None:
            effects.append(Answer(fact.asker, None, _given_up()))
            return
        if invocation.done_once is None:
            invocation.done_once = {}
        invocation.done_once[fact.key] = fact.result
        effects.append(Answer(fact.asker, None))

    # -- questions -----------------------------------------------------------------------------------------------------

    def _ask_people(self, request: Event, step: str, wait: Wait | None, now: float, effects: list[Effect]) -> Event:
        """Publish a question under an id of its own, and list it among the open ones; return it as published."""
        input_id, self._next_input = f"{self.origin}:{self._next_input}", self._next_input + 1
        # A copy: the step may hold on to its event, and ask with it again.
        request = request.model_copy(update={"input_id": input_id})
        response = self.graph.response_class if wait is None else cast("type[Event]", wait.event_type)
        expires_at = None if wait is None else wait.deadline
        number = None if wait is None else wait.number
        question = OpenInput(input_id, request, response, step, now, expires_at, number)
        self.inputs.open[input_id] = question
        if wait is not None:
            wait.input_id = input_id
        self._publish(request, effects)
        effects.append(AskPerson(question))
        return request

    def _close_question(self, answer: Event, step: str | None) -> None:
        """Close the question that an answer fits which named none: one of the step that had streamed it, or of any."""
        question = self.inputs.oldest_without_wait(answer, step) if self.inputs.open else None
        if question is not None:
            self.inputs.close(question.input_id, "answered")

    def _responded(self, fact: Responded, now: float, effects: list[Effect]) -> None:
        try:
            question = self.inputs.find(fact.input_id)
        except InputError as error:
            effects.append(Answer(fact.asker, None, error))
            return
        if question.wait is not None:
            self._end_wait(self.waits.by_number[question.wait], fact.event, now, effects)
        else:
            self.inputs.close(question.input_id, "answered")
            if not self._deliver(fact.event, None, now, effects, closes=False):
                self.held.append((fact.event, None))
        effects.append(Answer(fact.asker, None))

    # -- time at work --------------------------------------------------------------------------------------------------

    def _mind_clock(self, now: float, effects: list[Effect]) -> None:
        """Let the run's clock go while there is work, and stand still while there is none."""
        assert self.timeout is not None
        if len(self.invocations) > self.parked:
            if self._at_work_since is None:
                self._at_work_since = now
                effects.append(SetTimer(RUN_TIMER, now + self.timeout - self._worked))
        elif self._at_work_since is not None:
            self._worked += now - self._at_work_since
            self._at_work_since = None
            effects.append(DropTimer(RUN_TIMER))

    def _check_timeout(self, now: float, effects: list[Effect]) -> None:
        if self.timeout is None or self._at_work_since is None:
            return
        active = self.active_steps
        at_work = f"Currently active steps: {', '.join(active)}" if active else "No steps active"
        error = WorkflowTimeoutError(f"Operation timed out after {self.timeout} seconds. {at_work}")
        event = WorkflowTimedOutEvent(timeout=self.timeout, active_steps=active)
        self._end(Outcome("timed_out", event, error), effects)

    # -- the end -------------------------------------------------------------------------------------------------------

    def _fail(
        self,
        error: BaseException,
        effects: list[Effect],
        step: str | None = None,
        attempts: int | None = None,
        elapsed: float | None = None,
    ) -> None:
        self._end(failed_outcome(error, step, attempts, elapsed), effects)

    def _end(self, outcome: Outcome, effects: list[Effect]) -> None:
        self.outcome = outcome
        for invocation in self.invocations.values():
            if invocation.worker is not None:
                effects.append(CancelInvocation(invocation.spec.name, invocation.number, invocation.attempt))
                self.store.release(Caller(invocation.number, invocation.attempt), _answer_into(effects))
            elif invocation.parked_at is not None and invocation.is_live:
                self._unpark(invocation, effects)
        if outcome.status == "cancelled":
            self._put_away()
        else:
            self._clear_work()
        self._publish(outcome.event, effects)
        effects.append(Finish(outcome))

    def _unpark(self, invocation: Invocation, effects: list[Effect]) -> None:
        """Unwind a body that waits when the run ends."""
        effects.append(CancelInvocation(invocation.spec.name, invocation.number, invocation.attempt))
        self.store.release(Caller(invocation.number, invocation.attempt), _answer_into(effects))
        for wait in (invocation.waits or {}).values():
            asker, wait.asker = wait.asker, None
            if asker is not None:
                effects.append(Answer(asker, None, _given_up()))

    def _put_away(self) -> None:
        """Keep all unfinished work, so that the run can be resumed: what ran will run again before what waited."""
        running = [inv for inv in self.invocations.values() if inv.worker is not None]
        retries = [inv for lane in self._lanes.values() for inv in lane.retries]
        queued = {inv.number: inv for lane in self._lanes.values() for inv in lane.queue}
        delayed = [inv for inv in self.invocations.values() if inv.worker is None and inv.number not in queued]
        # A number that is there already keeps its place, so the delayed do not bring the retries in again.
        self.invocations = {inv.number: inv for inv in (*running, *retries, *delayed)} | queued
        for invocation in self.invocations.values():
            # Its body runs from the top again, and the log answers what this attempt has done.
            invocation.attempt += 1
            invocation.worker = invocation.parked_at = invocation.ready = None
            invocation.is_live = False
        self.parked = 0
        self._lanes.clear()

    def _clear_work(self) -> None:
        """Account for every event that the end leaves behind."""
        for invocation in self.invocations.values():
            if invocation.worker is None and invocation.parked_at is None:
                reason = "its retry" if invocation.failures else "the step took it"
                self._bury(invocation.event, f"the run ended before {reason}", invocation.spec.name)
        for (step, _), buffer in self._buffers.items():
            for event in buffer.events:
                self._bury(event, "the run ended before its collection was complete", step)
        for event, target, _ in self._delayed.values():
            self._bury(event, "the run ended before its delay was over", target)
        for event, target in self.held:
            self._bury(event, "the run ended and nothing had waited for it", target)
        self.invocations.clear()
        self._lanes.clear()
        self._buffers.clear()
        self._delayed.clear()
        self.held.clear()
        self.parked = 0
        self.waits = WaitBook()
        for input_id in list(self.inputs.open):
            self.inputs.close(input_id, "withdrawn")

    def _apply_after_end(self, fact: Fact, effects: list[Effect]) -> None:
        """The run is over: its state may still be read and set, all else is turned away by name."""
        if isinstance(fact, RunStarted):
            self._start_late(fact.event)
        elif isinstance(fact, StoreCall) and not isinstance(fact.owner, Caller):
            if self._successor is not None:
                # The store has another writer now.
                in_use = ContextStateError(f"this context has just gone on to run '{self._successor}'; try again")
                effects.append(Answer(fact.asker, None, in_use))
            else:
                self.store.call(fact, _answer_into(effects))
        elif isinstance(fact, Responded):
            over = InputAnsweredError(f"run '{self.run_id}' has ended; question '{fact.input_id}' is no longer asked")
            effects.append(Answer(fact.asker, None, over))
        elif isinstance(fact, StoreCall | CollectAsked | WaitAsked | OnceAsked | OnceDone):
            effects.append(Answer(fact.asker, None, _given_up()))
        elif isinstance(fact, EventArrived):
            self._bury(fact.event, "it came after the run had ended", fact.step)
            effects.append(Answer(fact.asker, None, self._turned_away(fact.event)))
        elif isinstance(fact, EventSent):
            self._bury(fact.event, "it was sent after the run had ended", fact.step)
        elif isinstance(fact, EventWritten):
            self._bury(fact.event, "it was written to the stream after the run had ended", None)
        elif isinstance(fact, Finished) and fact.event is not None and not isinstance(fact.event, StopEvent):
            self._bury(fact.event, "it was returned after the run had ended", None)

    def _turned_away(self, event: Event) -> GreenroomError:
        """Return the error for somebody outside who sends to a run that has ended."""
        assert self.outcome is not None
        name = type(event).__name__
        if isinstance(self.outcome.error, RuntimeShutdownError):
            return RuntimeShutdownError(f"{self.outcome.error}; {name} was not delivered")
        return WorkflowRuntimeError(f"run '{self.run_id}' has ended; {name} was not delivered")

    def _start_late(self, event: Event) -> None:
        """The end has overtaken the start event: if it was a cancel, the event is unfinished work to be resumed."""
        assert self.outcome is not None
        if self.outcome.status == "cancelled" and self._successor is None:
            for spec in self.graph.route(type(event)):
                self._new_invocation(spec, event)
        else:
            self._bury(event, "the run ended before it began", None)

    def _describe_stuck(self) -> str:
        lines = [
            f"run '{self.run_id}' of {self.graph.name} is stuck: nothing is queued, in flight or awaited, and no step"
            " takes an event that only somebody outside can send"
        ]
        for (step, buffer_id), buffer in self._buffers.items():
            lack = (
                f" and lacks {describe_lack(buffer.lacks)}" if buffer.lacks else ", enough, but nothing asked for them"
            )
            lines.append(f"  - the collection '{buffer_id}' of step '{step}' holds {len(buffer.events)}{lack}")
        for event, _ in self.held[-5:]:
            lines.append(f"  - {type(event).__name__} was sent from outside and no step takes it")
        for letter in list(self.dead_letters)[-5:]:
            lines.append(f"  - {type(letter.event).__name__} was not taken: {letter.reason}")
        lines.append("return an event that leads to a stop event, or keep the run with Workflow(on_stuck='wait')")
        return "\n".join(lines)


_RULES: dict[type, Callable[[RunState, Any, float, list[Effect]], None]] = {
    RunStarted: RunState._run_started,
    RunResumed: RunState._run_resumed,
    EventArrived: RunState._event_arrived,
    EventSent: RunState._event_sent,
    EventWritten: RunState._event_written,
    CollectAsked: RunState._collect_asked,
    WaitAsked: RunState._wait_asked,
    OnceAsked: RunState._once_asked,
    OnceDone: RunState._once_done,
    Responded: RunState._responded,
    PassivateAsked: RunState._passivate_asked,
    Crashed: RunState._crashed,
    DrainAsked: RunState._drain_asked,
    StoreCall: RunState._store_called,
    Finished: RunState._finished,
    Failed: RunState._failed,
    TimerFired: RunState._timer_fired,
    CancelAsked: RunState._cancel_asked,
    BecameQuiet: RunState._became_quiet,
}


def failed_outcome(
    error: BaseException, step: str | None = None, attempts: int | None = None, elapsed: float | None = None
) -> Outcome:
    """Return the outcome of a run that failed, in a step or as a whole."""
    event = WorkflowFailedEvent(step_name=step, exception=error, attempts=attempts, elapsed_seconds=elapsed)
    return Outcome("failed", event, error)


def _answer_to_wait(wait: Wait, asker: Any) -> Answer:
    """Answer a wait that has ended; by its end or, in a later attempt, from the log."""
    if wait.state == "answered":
        return Answer(asker, wait.answer)
    name = "an event" if wait.event_type is None else wait.event_type.__name__
    return Answer(asker, None, TimeoutError(f"Timed out waiting for {name}"))


def _given_up() -> StepCancelled:
    return StepCancelled("this attempt was given up: the run has ended, or the step took longer than its timeout")


def _answer_into(effects: list[Effect]) -> Callable[[Any, Any, BaseException | None], None]:
    return lambda asker, value, error: effects.append(Answer(asker, value, error))


def read_note(note: Note) -> Event:
    """Build the internal event that a note stands for."""
    event: Event = note[1](*note[2:])
    return event


def _state_changed(name: str, state: StepState, worker: int | None, event: type[Event], output: str | None) -> Event:
    return StepStateChanged(
        name=name,
        step_state=state,
        worker_id="<enqueued>" if worker is None else str(worker),
        input_event_name=event.__name__,
        output_event_name=output,
    )


def _unhandled(event_class: type[Event], step: str | None, idle: bool) -> Event:
    return UnhandledEvent(
        event_type=event_class.__name__,
        qualified_name=f"{event_class.__module__}.{event_class.__qualname__}",
        step_name=step,
        idle=idle,
    )

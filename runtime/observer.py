"""Observers: what happens to runs, steps, waits and events, told to whoever wants to measure or record it.

Without an observer none of this is called, and the actors are of the classes that know nothing of it
(`greenroom.actors.observed` has the others). What a hook is given are records: the engine writes them, observers read
them and may use them as keys, since each stands for itself alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from greenroom.errors import WorkflowRuntimeError
from greenroom.events import Event
from greenroom.log_fields import log_fields
from greenroom.outcome import DeadLetter, Outcome

__all__ = [
    "AttemptEnd",
    "AttemptRecord",
    "Observer",
    "Observers",
    "RunBeginning",
    "RunLeaving",
    "RunParent",
    "RunRecord",
    "WaitEnd",
    "WaitRecord",
]

logger = logging.getLogger("greenroom.observer")

_OF_RUNS = ("run_started", "run_ended", "run_left")

RunBeginning: TypeAlias = Literal["started", "resumed", "woken", "recovered"]
RunLeaving: TypeAlias = Literal["rested", "given_back", "lost"]
AttemptEnd: TypeAlias = Literal["completed", "failed", "timed_out", "cancelled", "passivated"] | RunLeaving
WaitEnd: TypeAlias = Literal["answered", "expired", "withdrawn", "cancelled"] | RunLeaving


class RunParent(NamedTuple):
    """The step that has begun a run within its own, by `ctx.run(...)`.

    Attributes:
        run: Its run.
        step: Its name.
        invocation: The number of the event's way through the step, over all attempts.
    """

    run: RunRecord
    step: str
    invocation: int


@dataclass(eq=False, slots=True)
class RunRecord:
    """A run, for as long as it is in memory. All times are in seconds of its clock: with a store, since the epoch.

    A durable run that leaves memory and comes back has another record then, perhaps in another process.

    Attributes:
        run_id: Its id.
        workflow: The name of its workflow.
        origin: The id of the run that it goes on from, as after a restore, however often; else its own. That of a child
            whose id begins with its parent's begins with its parent's origin.
        parent: The step that has begun it within a run, or None.
        start_event: The event that began it; None if it goes on with unfinished work.
        started_at: When it began; of one that comes back, when it first did.
        ended_at: When it ended or left memory, or None.
        outcome: How it ended, or None.
        beginning: "started"; "resumed", with unfinished work of another run; "woken", after a rest in its store; or
            "recovered", from a process that has died or given it back.
        left: How it left memory without having ended, or None: "rested" in its store; "given_back" to it by a runtime
            that shuts down; or "lost" to another process, which holds it now.
        carried: A few texts that observers keep with a durable run, by names that begin with their own. What is in it
            when `run_started` returns is kept, and is there again when the run comes back; that of children is not.
    """

    run_id: str
    workflow: str
    origin: str
    started_at: float
    parent: RunParent | None = None
    start_event: Event | None = None
    ended_at: float | None = None
    outcome: Outcome | None = None
    beginning: RunBeginning = "started"
    left: RunLeaving | None = None
    carried: dict[str, str] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class AttemptRecord:
    """One attempt at an invocation: one run of a step's body.

    Attributes:
        run: Its run.
        step: The step's name.
        invocation: The number of the event's way through the step, over all attempts.
        attempt: Counts the attempts at the invocation from 1, those included that go on after a passivation.
        retry_number: How many attempts at it have failed before.
        worker: The number of the worker of the step that it has.
        event: What the step was given.
        due_at: Since when it could have run: when its event came, or its retry was due.
        started_at: When its body began.
        ended_at: When its body ended or was given up, or None.
        end: How it ended, or None. "timed_out" and "cancelled": it was given up, but the body of a `def` step may go on
            for a while. "passivated": it was unwound while it waited; another attempt goes on. "given_back" and "lost":
            its run left memory; another attempt goes on where that comes back.
        output: The event, or the list of events, that it returned, or None.
        error: What it raised, or None.
    """

    run: RunRecord
    step: str
    invocation: int
    attempt: int
    retry_number: int
    worker: int
    event: Event
    due_at: float
    started_at: float = 0.0
    ended_at: float | None = None
    end: AttemptEnd | None = None
    output: Event | list[Event] | None = None
    error: BaseException | None = None

    @property
    def output_name(self) -> str | None:
        """The class of what it returned, such as "Part" or "list[Part]", or None."""
        if isinstance(self.output, list):
            return f"list[{' | '.join(dict.fromkeys(type(event).__name__ for event in self.output))}]"
        return None if self.output is None else type(self.output).__name__


@dataclass(eq=False, slots=True)
class WaitRecord:
    """A step's wait for an event, from the call to when the step goes on, also over passivations.

    Where its run leaves memory it ends as that does, and begins again with another record when the run comes back.

    Attributes:
        attempt: The attempt that began it; of one that begins again, the one that goes on.
        event_type: The class that it waits for.
        timeout: Seconds to wait at most, or None.
        input_id: The question that goes with it, or None.
        started_at: When it began; of one that begins again, when it first did, as far as that is known.
        ended_at: When it ended, or None.
        end: How it ended, or None. "withdrawn": the step ended first. "cancelled": the run did. "rested", "given_back"
            and "lost": the run left memory.
        answer: The event that came, or None.
    """

    attempt: AttemptRecord
    event_type: type[Event]
    timeout: float | None
    started_at: float
    input_id: str | None = None
    ended_at: float | None = None
    end: WaitEnd | None = None
    answer: Event | None = None


class Observer:
    """Base of observers: override the hooks that you want, and give it to `Runtime(observers=[...])`.

    A hook must not block and must not call into the run: most are called in the turn of the run's supervisor, on any
    thread, where the run stands still meanwhile. Hooks of one run come one at a time and in order, but for
    `step_started` and `step_ended`, which come from the threads of the bodies; those of one attempt come in order, and
    where a body begins just as its run ends both may come after that. Hooks of several runs come at once. A child
    run is a run of its own that names its parent; it begins and ends within that. What a hook raises is logged, the
    first time, and harms no run.

    A durable run may leave memory before it ends: `run_left` says so, and all in it that goes on is told to have ended
    as the run has left. When it comes back, here or in another process, `run_started` tells of a new record.

    Example:
        >>> from greenroom import Runtime, StartEvent, StopEvent, Workflow, step
        >>> from greenroom.observer import Observer
        >>> class Hello(Workflow):
        ...     @step
        ...     def hello(self, ev: StartEvent) -> StopEvent:
        ...         return StopEvent(result="hello")
        >>> class Tell(Observer):
        ...     def step_ended(self, attempt):
        ...         print(attempt.step, attempt.end)
        ...     def run_ended(self, run):
        ...         print("the run", run.outcome.status)
        >>> with Runtime(observers=[Tell()]):
        ...     print(Hello().run().result())
        hello completed
        the run completed
        hello
    """

    def run_started(self, run: RunRecord) -> None:
        """A run begins, or comes back. In the supervisor's turn, within the context variables of all its bodies.

        These are a copy of those of whoever called `run()` or, for a child run, of the step that called `ctx.run()`;
        what is set here is seen by every step. Of a durable run that comes back, they are those of whoever has woken or
        recovered it.
        """

    def run_idle(self, run: RunRecord) -> None:
        """A run has come to rest: only the outside or a timer can go on. In the supervisor's turn."""

    def run_ended(self, run: RunRecord) -> None:
        """A run has its outcome, and its store, too; its handler is completed after this. In the supervisor's turn."""

    def run_left(self, run: RunRecord) -> None:
        """A durable run leaves memory and has not ended; `run.left` says how. In the supervisor's turn."""

    def event_routed(self, run: RunRecord, event: Event, step: str, is_queued: bool) -> None:
        """An event has come to a step. In the supervisor's turn.

        Args:
            run: The run.
            event: The event.
            step: The step.
            is_queued: Whether it waits for a worker of the step to be free.
        """

    def event_streamed(self, run: RunRecord, event: Event) -> None:
        """An event goes to the stream. In the supervisor's turn."""

    def event_held(self, run: RunRecord, event: Event) -> None:
        """An event from outside that no step takes is kept until a wait claims it. In the supervisor's turn."""

    def dead_letter(self, run: RunRecord, letter: DeadLetter) -> None:
        """An event will be taken by nobody, perhaps after the end of its run. In the supervisor's turn."""

    def step_started(self, attempt: AttemptRecord) -> None:
        """A body begins. On its thread or in its task, within its context variables: what is set here is seen by it."""

    def step_ended(self, attempt: AttemptRecord) -> None:
        """A body has ended: on its thread. Or it was given up: in the supervisor's turn."""

    def step_retried(self, run: RunRecord, step: str, invocation: int, delay: float) -> None:
        """Another attempt follows one that failed, in `delay` seconds. In the supervisor's turn."""

    def wait_started(self, wait: WaitRecord) -> None:
        """A step waits. In the supervisor's turn, within a copy of the context variables at the step's call."""

    def wait_ended(self, wait: WaitRecord) -> None:
        """A wait has ended, and its step goes on or ends. In the supervisor's turn."""


class Observers:
    """Several observers as one. It never changes; `and_also` makes another.

    Attributes:
        members: The observers.
    """

    def __init__(self, members: Iterable[Observer] = (), failed: set[tuple[int, str]] | None = None) -> None:
        """Take the observers.

        Args:
            members: They hear of everything in this order.
            failed: Which hooks of which observers have raised, shared among sets of the same observers.

        Raises:
            WorkflowRuntimeError: If one is no Observer.
        """
        self.members = tuple(members)
        for observer in self.members:
            if not isinstance(observer, Observer):
                raise WorkflowRuntimeError(f"an observer is an object of a subclass of Observer, not {observer!r}")
        self._failed: set[tuple[int, str]] = failed if failed is not None else set()
        self._hearers: dict[str, list[tuple[Observer, Callable[..., object]]]] = {}
        for hook, nothing in vars(Observer).items():
            if not hook.startswith("_"):
                called = [(observer, getattr(observer, hook)) for observer in self.members]
                self._hearers[hook] = [
                    (o, call) for o, call in called if getattr(call, "__func__", None) is not nothing
                ]

    def __bool__(self) -> bool:
        return bool(self.members)

    @property
    def hear_only_runs(self) -> bool:
        """Whether nobody wants to hear more than that a run begins and ends, as a log at INFO does."""
        return not any(calls for hook, calls in self._hearers.items() if hook not in _OF_RUNS)

    def and_also(self, observer: Observer) -> Observers:
        """Return these and one more."""
        return Observers((*self.members, observer), self._failed)

    def tell(self, hook: str, *arguments: Any) -> None:
        """Call a hook of all who override it."""
        for observer, call in self._hearers[hook]:
            try:
                call(*arguments)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise  # Somebody at the keyboard means the program, not the observer.
                self._log(observer, hook, arguments[0])

    def _log(self, observer: Observer, hook: str, record: RunRecord | AttemptRecord | WaitRecord) -> None:
        failure = (id(observer), hook)
        if failure in self._failed:
            return
        self._failed.add(failure)
        attempt = record.attempt if isinstance(record, WaitRecord) else record
        if isinstance(attempt, AttemptRecord):
            fields = log_fields(attempt.run.run_id, attempt.step, attempt.invocation)
        else:
            fields = log_fields(attempt.run_id)
        logger.exception("%s() of %r failed; runs go on, and this is not logged again", hook, observer, extra=fields)

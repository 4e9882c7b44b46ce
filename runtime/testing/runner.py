"""Runs a workflow to its end in a test, and keeps what it streamed.

`Trial` holds the rules, for the runner that blocks and for the one that awaits (`greenroom.testing.aio`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

from greenroom.errors import InputAnsweredError, InputExpiredError, WorkflowCancelledByUser, WorkflowRuntimeError
from greenroom.events import Event, InputRequiredEvent, InternalDispatchEvent, StartEvent
from greenroom.facts import CancelAsked
from greenroom.steps import describe

if TYPE_CHECKING:
    from typing import Self

    from greenroom.actors.dispatcher import Timer
    from greenroom.context_core import ContextCore
    from greenroom.handler import Handler
    from greenroom.workflow import Workflow

__all__ = ["Answer", "Trial", "WorkflowTestResult", "WorkflowTestRunner"]

DEFAULT_TIMEOUT = 30.0
MAX_LINES = 50
MAX_WIDTH = 160

Answer: TypeAlias = Event | Mapping[str, Any] | Callable[[Any], Event | Mapping[str, Any]]


@dataclass(frozen=True)
class WorkflowTestResult:
    """What a run in a test came to.

    Attributes:
        collected: The events that it streamed, in order, the stop event last.
        event_types: How many there were of each class.
        result: What `handler.result()` gives.
        ctx: The run's context, to look at its store or to run again.
    """

    collected: list[Event]
    event_types: dict[type[Event], int]
    result: Any
    ctx: Any


class WorkflowTestRunner:
    """Runs a workflow to its end, and keeps all that it streamed.

    If the run fails, what a step raised is raised unchanged, with a note that lists what had been streamed.

    Example:
        >>> from greenroom import Context, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent
        >>> from greenroom import Workflow, step
        >>> class Pay(Workflow):
        ...     @step
        ...     def pay(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ...         answer = ctx.ask(InputRequiredEvent(amount=ev.amount))
        ...         return StopEvent(result="paid" if answer.approved else "refused")
        >>> test = WorkflowTestRunner(Pay()).run(
        ...     StartEvent(amount=100),
        ...     answers={InputRequiredEvent: lambda question: {"approved": question.amount < 500}},
        ... )
        >>> test.result, test.event_types[InputRequiredEvent]
        ('paid', 1)
    """

    def __init__(self, workflow: Workflow) -> None:
        """Make a runner.

        Args:
            workflow: The workflow, which may be run any number of times.
        """
        self._workflow = workflow

    def run(
        self,
        start_event: StartEvent | None = None,
        ctx: ContextCore[Any] | None = None,
        expose_internal: bool = True,
        exclude_events: Collection[type[Event]] | None = None,
        *,
        answers: Mapping[type[Any], Answer] | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
    ) -> WorkflowTestResult:
        """Run the workflow, and return when it has ended.

        Args:
            start_event: The start event; by default one without fields, and none where `ctx` resumes a run.
            ctx: The context of an earlier run, to go on with.
            expose_internal: Collect internal events too: `StepStateChanged`, `UnhandledEvent`, `WorkflowIdleEvent`.
            exclude_events: Classes of which no event is collected; their subclasses are.
            answers: What to answer, by the class of the question or a base of it: an event, a dict of its fields, or a
                function that takes the question and returns one of these. A question of no class in it fails the test.
                Without `answers`, somebody else has to answer.
            timeout: Seconds of the runtime's clock that the run may take, time spent waiting included. None: no limit.

        Returns:
            What the run came to. Whatever happens, it has ended then.

        Raises:
            TimeoutError: If the run took too long.
            WorkflowRuntimeError: If a question was asked that `answers` does not answer.
            Exception: What a step raised, unchanged.
        """
        with Trial(self._workflow, start_event, ctx, exclude_events, answers, timeout) as trial:
            trial.answer_earlier()
            for event in trial.handler.stream_events(expose_internal=expose_internal):
                trial.take(event)
            return trial.outcome(trial.handler.result())


class Trial:
    """One run in a test, from its start to its end, which the end of the `with` block sees to.

    Attributes:
        handler: The run's handler.
    """

    def __init__(
        self,
        workflow: Workflow,
        start_event: StartEvent | None,
        ctx: ContextCore[Any] | None,
        excluded: Collection[type[Event]] | None,
        answers: Mapping[type[Any], Answer] | None,
        timeout: float | None,
    ) -> None:
        """Check the arguments; the run begins with the `with` block."""
        if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout <= 0):
            raise WorkflowRuntimeError(f"run(timeout=...) takes seconds greater than 0, or None, not {timeout!r}")
        self._workflow, self._start_event, self._ctx = workflow, start_event, ctx
        self._excluded = frozenset(excluded or ())
        self._answers = _checked_answers(answers)
        self._timeout = timeout
        self._timer: Timer | None = None
        self._seen: set[str] = set()  # the ids of the questions that were answered here
        self._collected: list[Event] = []

    def __enter__(self) -> Self:
        self.handler: Handler = self._workflow.run(ctx=self._ctx, start_event=self._start_event)
        dispatcher = self._dispatcher = self.handler._link.runtime.dispatcher
        if self._timeout is not None:
            late = TimeoutError(f"the run has not ended within {self._timeout:g} seconds")
            due = dispatcher.now() + self._timeout
            self._timer = dispatcher.set_timer(due, self.handler._link.reach(), CancelAsked(late))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._dispatcher.drop_timer(self._timer)
        if error is not None:
            if not self.handler.done():
                self.handler.end(WorkflowCancelledByUser("the test gave the run up"))
            error.add_note(self._describe())

    def answer_earlier(self) -> None:
        """Answer the questions that an earlier run streamed, if this one goes on with its context."""
        if self._ctx is not None and self._answers is not None:
            for question in self.handler.open_questions():
                self._respond(question.input_id, question.request, self._answers)

    def take(self, event: Event) -> None:
        """Keep an event, and answer it if it is a question that is to be answered here."""
        if type(event) not in self._excluded:
            self._collected.append(event)
        if self._answers is not None and not isinstance(event, InternalDispatchEvent) and self._is_question(event):
            self._respond(event.input_id, event, self._answers)

    def _respond(self, input_id: str, question: Event, answers: Mapping[type[Any], Answer]) -> None:
        if input_id in self._seen:
            return
        self._seen.add(input_id)
        answer = next((answers[base] for base in type(question).__mro__ if base in answers), None)
        if answer is None:
            known = ", ".join(cls.__name__ for cls in answers) or "nothing"
            raise WorkflowRuntimeError(
                f"the run asks {question!r}; answers={{...}} has none for {type(question).__name__}, only for {known}"
            )
        if callable(answer) and not isinstance(answer, Event):
            answer = answer(question)
        with suppress(InputAnsweredError, InputExpiredError):  # It may have been given up since it was read.
            self.handler.answer_question(input_id, answer)

    def outcome(self, result: Any) -> WorkflowTestResult:
        """Return what the run came to."""
        counts = dict(Counter(type(event) for event in self._collected))
        return WorkflowTestResult(self._collected, counts, result, self.handler.ctx)

    def _is_question(self, event: Event) -> bool:
        """Return whether the event is a question: `ask` takes events of any class, and gives them an id."""
        input_id = event.get("input_id")
        return isinstance(event, InputRequiredEvent) or (
            isinstance(input_id, str) and self.handler.knows_question(input_id)
        )

    def _describe(self) -> str:
        lines = [_shorten(event) for event in self._collected[-MAX_LINES:]]
        left_out = len(self._collected) - MAX_LINES
        if left_out > 0:
            lines.insert(0, f"({left_out} events before)")
        heading = f"{self.handler!r} had streamed {len(self._collected)} events:"
        return "\n  ".join([heading, *lines])


def _checked_answers(answers: Any) -> Mapping[type[Any], Answer] | None:
    if answers is None:
        return None
    if not isinstance(answers, Mapping):
        raise WorkflowRuntimeError(f"run(answers=...) takes a dict of class and answer, not {describe(answers)}")
    for cls, answer in answers.items():
        if not isinstance(cls, type) or not issubclass(cls, Event):
            raise WorkflowRuntimeError(f"run(answers=...) has classes of events as its keys, not {cls!r}")
        if isinstance(answer, type) or not (isinstance(answer, Event | Mapping) or callable(answer)):
            raise WorkflowRuntimeError(
                f"run(answers=...) answers {cls.__name__} with an event, a dict or a function, not {answer!r}"
            )
    return answers


def _shorten(event: Event) -> str:
    text = repr(event)
    return text if len(text) <= MAX_WIDTH else f"{text[:MAX_WIDTH]}..."

"""Events: what steps take, return, send and stream.

An event is a pydantic model that also keeps keyword arguments which it does not declare.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import PlainSerializer, SerializeAsAny, WithJsonSchema

from greenroom.dict_like import DictLikeModel

__all__ = [
    "Event",
    "HumanResponseEvent",
    "InputRequiredEvent",
    "InternalDispatchEvent",
    "StartEvent",
    "StepFailedEvent",
    "StepState",
    "StepStateChanged",
    "StopEvent",
    "UnhandledEvent",
    "WorkflowCancelledEvent",
    "WorkflowFailedEvent",
    "WorkflowIdleEvent",
    "WorkflowTimedOutEvent",
]

_MISSING: Any = object()


class Event(DictLikeModel):
    """The base of all events. Subclass it and declare fields, or pass any keyword arguments.

    Declared fields are validated as pydantic validates them; all others are kept as they are. Both are read as
    attributes, by `ev[key]` and by `ev.get(key)`. An event is always true.

    Example:
        >>> class Draft(Event):
        ...     text: str
        >>> draft = Draft(text="hello", author="Ada")
        >>> draft.text, draft.author, draft["author"], draft.get("editor", "nobody")
        ('hello', 'Ada', 'Ada', 'nobody')
    """

    # Type checkers are told that undeclared fields can be read, and given to the classes that declare none.
    if TYPE_CHECKING:

        def __init__(self, **fields: Any) -> None: ...

        def __getattr__(self, name: str) -> Any: ...

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if cls.__private_attributes__ and "model_post_init" in cls.__dict__:
            cls.model_post_init = _with_private_keywords(cls.model_post_init)  # type: ignore[assignment]


def _with_private_keywords(initialise: Callable[[Event, Any], None]) -> Callable[[Event, Any], None]:
    """Have private attributes take the keyword arguments of their names, which pydantic counts as undeclared fields."""

    @functools.wraps(initialise)
    def model_post_init(self: Event, context: Any, /) -> None:
        initialise(self, context)
        extra = self.__pydantic_extra__ or {}
        for name in extra.keys() & type(self).__private_attributes__.keys():
            setattr(self, name, extra.pop(name))
            self.__pydantic_fields_set__.discard(name)

    return model_post_init


class StartEvent(Event):
    """Begins a run. `workflow.run(**kwargs)` builds it from its keyword arguments."""

    if TYPE_CHECKING:

        def __init__(self, **fields: Any) -> None: ...


class StopEvent(Event):
    """Ends a run. Its `result` is the result of the run; a subclass is itself the result.

    Example:
        >>> StopEvent(result=3).result
        3
    """

    result: Any = None

    def __init__(self, result: Any = _MISSING, /, **fields: Any) -> None:
        """Make the event; `StopEvent(3)` says `StopEvent(result=3)`."""
        if result is not _MISSING:
            fields["result"] = result
        super().__init__(**fields)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        return [(name, value) for name, value in super().__repr_args__() if name != "result" or value is not None]


class InputRequiredEvent(Event):
    """Asks a person. Returned by a step it is streamed, and the run waits for a `HumanResponseEvent`."""

    if TYPE_CHECKING:

        def __init__(self, **fields: Any) -> None: ...


class HumanResponseEvent(Event):
    """A person's answer, sent into the run from outside."""

    if TYPE_CHECKING:

        def __init__(self, **fields: Any) -> None: ...


def _exception_fields(error: BaseException) -> dict[str, str]:
    cls = type(error)
    return {"exception_type": f"{cls.__module__}.{cls.__qualname__}", "exception_message": str(error)}


# As JSON an exception is its type and message: an event of a stream can be sent to a browser.
_Exception = Annotated[
    BaseException,
    PlainSerializer(_exception_fields, when_used="json"),
    WithJsonSchema({"type": "object", "title": "Exception"}),
]


class StepFailedEvent(Event):
    """A step failed for good. Only a `@catch_error` step takes it.

    Attributes:
        step_name: The step that failed.
        input_event: The event that it was given.
        exception: What it raised last.
        attempts: How often it was tried, 1 or more.
        elapsed_seconds: Seconds from the first try to the last failure.
        failed_at: When it failed last, in UTC.
    """

    step_name: str
    input_event: SerializeAsAny[Event]
    exception: _Exception
    attempts: int
    elapsed_seconds: float
    failed_at: datetime


class NeverEvent(Event):
    """An event that never comes. `ctx.sleep` waits for it, and wakes when its time is over."""


class CollectionReleaseEvent(Event):
    """What a step that takes many events at once was given: `StepFailedEvent.input_event` of one that failed.

    Attributes:
        events: The events, as the step was given them.
    """

    events: list[Event]


class WorkflowFailedEvent(StopEvent):
    """Ends the stream of a run that failed. `handler.result()` raises the exception.

    Attributes:
        step_name: The step that failed, or None where the run failed as a whole.
        exception: What was raised.
        attempts: How often the step was tried, or None.
        elapsed_seconds: Seconds from the step's first try to its last failure, or None.
    """

    step_name: str | None = None
    exception: _Exception
    attempts: int | None = None
    elapsed_seconds: float | None = None


class WorkflowTimedOutEvent(StopEvent):
    """Ends the stream of a run that took too long.

    Attributes:
        timeout: The limit, in seconds at work.
        active_steps: The names of the steps that were at work.
    """

    timeout: float
    active_steps: list[str]


class WorkflowCancelledEvent(StopEvent):
    """Ends the stream of a run that was cancelled."""


class InternalDispatchEvent(Event):
    """An event about the run itself. Streams leave it out unless `expose_internal=True`.

    Subclass it for events of your own that only such readers shall see; written to the stream it has no offset.
    """


class StepState(StrEnum):
    """Where an invocation of a step is."""

    PREPARING = "preparing"
    RUNNING = "running"
    NOT_RUNNING = "not_running"


class StepStateChanged(InternalDispatchEvent):
    """An invocation was queued, started or ended.

    Attributes:
        name: The step.
        step_state: What it is now.
        worker_id: The worker's number from 0, as text, or `<enqueued>` while none is free.
        input_event_name: The class of the event that it was given.
        output_event_name: The class of the event that it returned, or None.
    """

    name: str
    step_state: StepState
    worker_id: str
    input_event_name: str
    output_event_name: str | None = None


class UnhandledEvent(InternalDispatchEvent):
    """An event that no step takes and no wait claimed. It is kept in `handler.dead_letters()` or for a later wait.

    Attributes:
        event_type: The name of its class.
        qualified_name: The class with its module.
        step_name: The step it was addressed to, or None.
        idle: Whether the run had nothing else to do.
    """

    event_type: str
    qualified_name: str
    step_name: str | None = None
    idle: bool


class WorkflowIdleEvent(InternalDispatchEvent):
    """The run has nothing to do until somebody outside sends an event, or a timer fires."""

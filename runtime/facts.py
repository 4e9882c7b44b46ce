"""Facts: what happens to a run. They go into `RunState.apply`; what comes out are effects (`greenroom.effects`).

Both are plain data, the language between the core and the actors. A fact that wants an answer carries an `asker`, which
is opaque to the core and comes back in an `Answer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from greenroom.child_facts import ChildAsked, ChildAwaited, ChildCancelAsked, ForChild
from greenroom.errors import WorkflowCancelledByUser
from greenroom.events import Event
from greenroom.state import StoreCall

if TYPE_CHECKING:
    from greenroom.buffers import Expected
    from greenroom.run_state import RunState

TimerKey: TypeAlias = tuple[Any, ...]


class Caller(NamedTuple):
    """An attempt at an invocation, as the owner of its calls to the store."""

    invocation: int
    attempt: int


class RunStarted:
    """A run begins with its start event."""

    __slots__ = ("event",)

    def __init__(self, event: Event) -> None:
        self.event = event


class RunResumed:
    """A run that was put away goes on."""

    __slots__ = ()


class Recovered:
    """The process that worked on the run has died; this one goes on with it.

    Attributes:
        last: When the last fact was applied, by the run's clock.
        has_rested: Whether it had rested in its store and nobody has died. For observers; the rules do not ask.
    """

    __slots__ = ("has_rested", "last")

    def __init__(self, last: float, has_rested: bool = False) -> None:
        self.last = last
        self.has_rested = has_rested


class Carried:
    """Observers have something kept with the run: texts by name, which mean nothing to the core."""

    __slots__ = ("texts",)

    def __init__(self, texts: dict[str, str]) -> None:
        self.texts = texts


class EventArrived:
    """Somebody outside sent an event, to a step by name or to whom it concerns.

    Attributes:
        dedup_key: Tells the event from others: one with a key that has come before is taken and dropped. None for none.
    """

    __slots__ = ("asker", "dedup_key", "event", "step")

    def __init__(self, event: Event, step: str | None = None, dedup_key: str | None = None) -> None:
        self.event = event
        self.step = step
        self.dedup_key = dedup_key
        self.asker: Any = None


class EventSent:
    """An invocation sent an event, at once or after `delay` seconds."""

    __slots__ = ("attempt", "delay", "event", "invocation", "step")

    def __init__(self, invocation: int, attempt: int, event: Event, step: str | None, delay: float | None) -> None:
        self.invocation = invocation
        self.attempt = attempt
        self.event = event
        self.step = step
        self.delay = delay


class EventWritten:
    """An invocation wrote an event to the stream."""

    __slots__ = ("attempt", "event", "invocation")

    def __init__(self, invocation: int, attempt: int, event: Event) -> None:
        self.invocation = invocation
        self.attempt = attempt
        self.event = event


class CollectAsked:
    """An invocation counts an event in and asks for the batch.

    Attributes:
        own: Whether the event is the one that the invocation was given.
    """

    __slots__ = ("asker", "attempt", "buffer_id", "event", "expected", "invocation", "own")

    def __init__(
        self,
        invocation: int,
        attempt: int,
        event: Event,
        own: bool,
        expected: Expected,
        buffer_id: str,
    ) -> None:
        self.invocation = invocation
        self.attempt = attempt
        self.event = event
        self.own = own
        self.expected = expected
        self.buffer_id = buffer_id
        self.asker: Any = None


class WaitAsked:
    """An invocation waits for an event.

    Attributes:
        key: Tells the waits of one invocation apart.
        timeout: Seconds to wait at most, or None.
        request: An event to publish once the wait is registered, or None.
        is_question: Whether the request is a question to a person, to be listed among the open ones.
        variables: Those of the step at its call, for observers; opaque to the core, and None where there are none.
    """

    __slots__ = (
        "asker",
        "attempt",
        "event_type",
        "invocation",
        "is_question",
        "key",
        "request",
        "requirements",
        "timeout",
        "variables",
    )

    def __init__(
        self,
        invocation: int,
        attempt: int,
        key: str,
        event_type: type[Event],
        requirements: Mapping[str, Any],
        timeout: float | None,
        request: Event | None,
        is_question: bool,
    ) -> None:
        self.invocation = invocation
        self.attempt = attempt
        self.key = key
        self.event_type = event_type
        self.requirements = requirements
        self.timeout = timeout
        self.request = request
        self.is_question = is_question
        self.asker: Any = None
        self.variables: Any = None


class OnceAsked:
    """An invocation asks for the result of something that it does once. Answered with `(is_done, result)`."""

    __slots__ = ("asker", "attempt", "invocation", "key")

    def __init__(self, invocation: int, attempt: int, key: str) -> None:
        self.invocation = invocation
        self.attempt = attempt
        self.key = key
        self.asker: Any = None


class OnceDone:
    """An invocation has done what it does once."""

    __slots__ = ("asker", "attempt", "invocation", "key", "result")

    def __init__(self, invocation: int, attempt: int, key: str, result: Any) -> None:
        self.invocation = invocation
        self.attempt = attempt
        self.key = key
        self.result = result
        self.asker: Any = None


def changes_nothing(fact: Fact) -> bool:
    """Return whether a fact only asks for something, so that nothing can follow from it."""
    asked = fact.fact if isinstance(fact, ForChild) else fact
    return isinstance(asked, OnceAsked | BecameQuiet) or (isinstance(asked, StoreCall) and asked.is_read)


class Responded:
    """A person has answered a question; the answer is valid.

    Attributes:
        token: Names the post that has brought it; None for an answer that was given in this process.
    """

    __slots__ = ("asker", "event", "input_id", "token")

    def __init__(self, input_id: str, event: Event, token: str | None = None) -> None:
        self.input_id = input_id
        self.event = event
        self.token = token
        self.asker: Any = None


class PostRefused:
    """What another process has posted has no place in the run. Nobody here waits to hear that.

    Attributes:
        event: The event.
        reason: Why, in a sentence.
        token: Names the post, for whoever posted it; None for none.
    """

    __slots__ = ("event", "reason", "token")

    def __init__(self, event: Event, reason: str, token: str | None = None) -> None:
        self.event = event
        self.reason = reason
        self.token = token


class PassivateAsked:
    """A body that waits is to be unwound, so that its thread is free."""

    __slots__ = ("attempt", "invocation")

    def __init__(self, invocation: int, attempt: int) -> None:
        self.invocation = invocation
        self.attempt = attempt


class Finished:
    """An attempt at an invocation ended well and returned an event, a list of events, or None."""

    __slots__ = ("attempt", "event", "invocation")

    def __init__(self, invocation: int, attempt: int, event: Event | list[Event] | None) -> None:
        self.invocation = invocation
        self.attempt = attempt
        self.event = event

    @property
    def events(self) -> tuple[Event, ...]:
        """What it returned, one by one."""
        if isinstance(self.event, list):
            return tuple(self.event)
        return () if self.event is None else (self.event,)


UNDECIDED = -1.0  # stands for the seconds to the next attempt while the retry policy has not been asked yet


class Failed:
    """An attempt at an invocation raised.

    Attributes:
        invocation: The number of the invocation.
        attempt: The number of the attempt.
        error: What it raised; or what its retry policy raised, once that was asked.
        failed_at: When that was, in UTC.
        retry_in: Seconds to the next attempt, None if there is none, or UNDECIDED. The run notes here what the policy
            said, so that a replay need not ask it again.
    """

    __slots__ = ("attempt", "error", "failed_at", "invocation", "retry_in")

    def __init__(
        self,
        invocation: int,
        attempt: int,
        error: BaseException,
        failed_at: datetime,
        retry_in: float | None = UNDECIDED,
    ) -> None:
        self.invocation = invocation
        self.attempt = attempt
        self.error = error
        self.failed_at = failed_at
        self.retry_in = retry_in


class TimerFired:
    """A timer that an effect had set is due; `at` is the time of day, in UTC.

    If it was the timeout of a step, the run notes in `retry_in` what followed, as in that of `Failed`.
    """

    __slots__ = ("at", "key", "retry_in")

    def __init__(self, key: TimerKey, at: datetime, retry_in: float | None = UNDECIDED) -> None:
        self.key = key
        self.at = at
        self.retry_in = retry_in


class CancelAsked:
    """The run is to end. `error` is what its result raises."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error or WorkflowCancelledByUser("the run was cancelled by handler.cancel_run()")


class DrainAsked:
    """The run is to end as soon as nothing of it is queued or in flight. `error` is what its result raises then."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Crashed:
    """A part of the engine has failed, and the run with it."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class BecameQuiet:
    """All facts that were told have been applied, and none is on its way from a step."""

    __slots__ = ()


class Inspect(NamedTuple):
    """Asks for something that a function of ours reads off the state. No fact: nothing has happened.

    Attributes:
        read: The function.
        is_told: Whether what it reads may be told outside, so that a durable run has to have committed it.
    """

    read: Callable[[RunState], Any]
    is_told: bool = False


Fact: TypeAlias = (
    RunStarted
    | RunResumed
    | Recovered
    | Carried
    | EventArrived
    | EventSent
    | EventWritten
    | CollectAsked
    | WaitAsked
    | OnceAsked
    | OnceDone
    | ChildAsked
    | ChildAwaited
    | ChildCancelAsked
    | ForChild
    | Responded
    | PostRefused
    | PassivateAsked
    | StoreCall
    | Finished
    | Failed
    | TimerFired
    | CancelAsked
    | DrainAsked
    | Crashed
    | BecameQuiet
)

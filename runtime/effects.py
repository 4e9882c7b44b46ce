"""Effects: what is to be done about a fact. They come out of `RunState.apply`, and the actors carry them out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from greenroom.events import Event
from greenroom.facts import TimerKey
from greenroom.outcome import Outcome

if TYPE_CHECKING:
    from greenroom.invocation import Invocation
    from greenroom.waits import OpenInput


class StartInvocation:
    """Run the body of a step.

    Attributes:
        retry_info: Why it is run again. Of this attempt: a body that is given up may outlive the start of the next.
    """

    __slots__ = ("attempt", "invocation", "retry_info")

    def __init__(self, invocation: Invocation, attempt: int) -> None:
        self.invocation = invocation
        self.attempt = attempt
        self.retry_info = invocation.retry_info


class CancelInvocation:
    """Tell a body that its result is no longer wanted; `error` is the failure that this counts as, or None."""

    __slots__ = ("attempt", "error", "invocation", "step")

    def __init__(self, step: str, invocation: int, attempt: int, error: BaseException | None = None) -> None:
        self.step = step
        self.invocation = invocation
        self.attempt = attempt
        self.error = error


class Publish:
    """Append an event to the stream; `offset` counts from 0 without a gap."""

    __slots__ = ("event", "offset")

    def __init__(self, event: Event, offset: int) -> None:
        self.event = event
        self.offset = offset


class AskPerson:
    """A question has been opened."""

    __slots__ = ("question",)

    def __init__(self, question: OpenInput) -> None:
        self.question = question


class SetTimer:
    """Have `TimerFired(key)` come at `at`, in the clock's seconds. A later one of the same key replaces it."""

    __slots__ = ("at", "key")

    def __init__(self, key: TimerKey, at: float) -> None:
        self.key = key
        self.at = at


class DropTimer:
    """Forget a timer."""

    __slots__ = ("key",)

    def __init__(self, key: TimerKey) -> None:
        self.key = key


class Answer:
    """Answer who asked, with a value or an error."""

    __slots__ = ("asker", "error", "value")

    def __init__(self, asker: Any, value: Any, error: BaseException | None = None) -> None:
        self.asker = asker
        self.value = value
        self.error = error


class Finish:
    """The run has ended."""

    __slots__ = ("outcome",)

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome


class FromChild(NamedTuple):
    """What is to be done for a child, or for a child's child, where it is not the same as for the run itself.

    Attributes:
        path: Names the child, from the outermost on.
        effect: What is to be done.
        cast: What runs the bodies of the child's steps; opaque to the core.
    """

    path: tuple[str, ...]
    effect: StartInvocation | CancelInvocation | Publish | Finish
    cast: Any


Effect: TypeAlias = (
    StartInvocation | CancelInvocation | Publish | AskPerson | SetTimer | DropTimer | Answer | Finish | FromChild
)

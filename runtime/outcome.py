"""What a run came to: how it ended, and the events that nobody took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from greenroom.events import Event, StopEvent

EndStatus: TypeAlias = Literal["completed", "failed", "timed_out", "cancelled"]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that nobody will take any more.

    Attributes:
        event: The event.
        reason: Why, in a sentence.
        step: The step that it was for, or None.
    """

    event: Event
    reason: str
    step: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        status: "completed", "failed", "timed_out" or "cancelled".
        event: The last event of its stream.
        error: What `handler.result()` raises, or None.
    """

    status: EndStatus
    event: StopEvent
    error: BaseException | None = None

    @property
    def has_failed(self) -> bool:
        """Whether the run came to grief: it was neither completed nor cancelled."""
        return self.status in ("failed", "timed_out")

    @property
    def result(self) -> Any:
        """The result of the run: that of a plain StopEvent, or the event itself."""
        return self.event.result if type(self.event) is StopEvent else self.event

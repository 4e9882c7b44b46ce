"""An invocation: one event on its way through one step."""

from __future__ import annotations

from greenroom.events import Event
from greenroom.retry import RetryInfo
from greenroom.steps import StepSpec

__all__ = ["Invocation"]

_FIRST_TRY = RetryInfo(retry_number=0, elapsed_seconds=0.0, last_exception=None, last_failed_at=None)


class Invocation:
    """One event on its way through one step, over all its attempts."""

    __slots__ = (
        "attempt",
        "batches",
        "collected",
        "event",
        "first_started_at",
        "handed",
        "number",
        "retry_info",
        "spec",
        "worker",
    )

    def __init__(self, number: int, spec: StepSpec, event: Event) -> None:
        self.number = number
        self.spec = spec
        self.event = event
        self.attempt = 1
        self.worker: int | None = None
        self.first_started_at: float | None = None
        self.retry_info = _FIRST_TRY
        # What collect_events did: buffers that the event was counted into, batches taken, batches handed out again.
        self.collected: set[str] | None = None
        self.batches: dict[str, list[list[Event]]] | None = None
        self.handed: dict[str, int] | None = None

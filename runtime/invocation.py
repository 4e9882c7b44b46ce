"""An invocation: one event on its way through one step."""

from __future__ import annotations

from typing import Any

from greenroom.events import Event
from greenroom.lineage import Lineage
from greenroom.retry import RetryInfo
from greenroom.steps import StepSpec
from greenroom.waits import Wait

__all__ = ["Invocation"]

_FIRST_TRY = RetryInfo(retry_number=0, elapsed_seconds=0.0, last_exception=None, last_failed_at=None)


class Invocation:
    """One event on its way through one step, over all its attempts.

    An attempt is one run of the step's body. A failed attempt may be followed by another, which does again what it
    sends and streams; an attempt that was unwound while it waited, or cut off by a snapshot, is followed by one that
    replays: what the log below holds is not done again.

    Attributes:
        lineage: What the event carries on from those that led to it, or None.
        attempt: Counts the attempts from 1; facts of an earlier one are turned away.
        failures: How many attempts have failed.
        retry_at: When the delay before its next attempt is over, while it is in one.
        worker: The worker's number while it runs, else None.
        parked_at: Since when it stands at a wait, without a worker, or None.
        is_live: Whether a body stands at the wait; if not, one is started when the answer comes.
        unwinds: Whether its body is to be unwound as soon as it waits, to free its thread.
        ready: Waits that have come to an end and are to be told to the body when a worker is free.
        time_left: Seconds that the step's timeout leaves while it is parked.
        step_deadline: When the step's timeout is over, while it runs.
        sends: How many events it has sent, and `skips_sends` how many of them the replay still has to come by.
        writes: How many events it has streamed, with `skips_writes` likewise.
        collects: What each of its calls of collect_events was answered; `collect_position` counts those of the attempt.
        collected: The buffers that its event was counted into.
        waits: Its waits by key, ended ones included.
        done_once: The results of its `ctx.once` calls by key.
        children: The names of the runs that it has begun within its own.
    """

    __slots__ = (
        "attempt",
        "children",
        "collect_position",
        "collected",
        "collects",
        "done_once",
        "event",
        "failures",
        "first_started_at",
        "is_live",
        "lineage",
        "number",
        "parked_at",
        "ready",
        "retry_at",
        "retry_info",
        "sends",
        "skips_sends",
        "skips_writes",
        "spec",
        "step_deadline",
        "time_left",
        "unwinds",
        "waits",
        "worker",
        "writes",
    )

    def __init__(self, number: int, spec: StepSpec, event: Event, lineage: Lineage | None) -> None:
        self.number = number
        self.spec = spec
        self.event = event
        self.lineage = lineage
        self.attempt = 1
        self.failures = 0
        self.worker: int | None = None
        self.first_started_at: float | None = None
        self.retry_info = _FIRST_TRY
        self.retry_at: float | None = None
        self.parked_at: float | None = None
        self.is_live = self.unwinds = False
        self.ready: list[Wait] | None = None
        self.time_left: float | None = None
        self.step_deadline: float | None = None
        self.sends = self.skips_sends = 0
        self.writes = self.skips_writes = 0
        self.collect_position = 0
        # Made when they are wanted: most invocations need none of them.
        self.collects: list[list[Event] | None] | None = None
        self.collected: set[str] | None = None
        self.waits: dict[str, Wait] | None = None
        self.done_once: dict[str, Any] | None = None
        self.children: list[str] | None = None

    @property
    def is_known_to_wait(self) -> bool:
        """Whether it is known what each of its waits is for, so that it can be answered while no body stands there."""
        return all(wait.event_type is not None for wait in (self.waits or {}).values() if wait.state == "open")

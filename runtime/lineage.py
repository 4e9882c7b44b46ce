"""Lineage: what an event carries on from those that led to it.

Two things follow an event through every step, send, wait, retry and snapshot: how often failures on its way were
recovered from, so that a loop of failure and recovery ends; and the fan-out that it belongs to, so that the list which
gathers it knows when nothing more can come. Most events have neither, and so no lineage.
"""

from __future__ import annotations

from collections.abc import Mapping

from greenroom.events import Event

__all__ = ["FanOut", "Lineage", "recovered"]


class FanOut:
    """The events that a step returned as one list, and all that comes of them.

    Attributes:
        number: Counts the fan-outs of the run.
        producer: The name of the step that returned the list.
        outer: The lineage of the list itself: what is gathered here goes on with it.
        live: How many invocations, delayed events, open questions and inner fan-outs belong to it.
        gathered: What has arrived at each step that takes a list, by the step's name.
        served: The steps that were given their list.
        recoveries: The most that any gathered event had used up of each recovery budget.
    """

    __slots__ = ("gathered", "live", "number", "outer", "producer", "recoveries", "served")

    def __init__(self, number: int, producer: str, outer: Lineage | None) -> None:
        self.number = number
        self.producer = producer
        self.outer = outer
        self.live = 0
        self.gathered: dict[str, list[Event]] = {}
        self.served: set[str] = set()
        self.recoveries: dict[str, int] = dict(outer.recoveries) if outer is not None else {}

    def note_recoveries(self, lineage: Lineage) -> None:
        """Take over what an event that is gathered had used up."""
        for handler, count in lineage.recoveries.items():
            self.recoveries[handler] = max(count, self.recoveries.get(handler, 0))

    def lineage_outside(self) -> Lineage | None:
        """Return the lineage of what is gathered here."""
        fan_out = self.outer.fan_out if self.outer is not None else None
        return Lineage(self.recoveries, fan_out) if self.recoveries or fan_out is not None else None


class Lineage:
    """What an event carries on. Never changed: many events share one.

    Attributes:
        recoveries: How often each `@catch_error` step has recovered on the way here, by its name.
        fan_out: The innermost fan-out that the event belongs to, or None.
    """

    __slots__ = ("fan_out", "recoveries")

    def __init__(self, recoveries: Mapping[str, int], fan_out: FanOut | None) -> None:
        self.recoveries = dict(recoveries)
        self.fan_out = fan_out


def recovered(lineage: Lineage | None, handler: str) -> Lineage:
    """Return the lineage of a failure that a `@catch_error` step is given."""
    if lineage is None:
        return Lineage({handler: 1}, None)
    return Lineage({**lineage.recoveries, handler: lineage.recoveries.get(handler, 0) + 1}, lineage.fan_out)

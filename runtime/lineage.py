"""Lineage: what an event carries on from those that led to it.

Two things follow an event through every step, send, wait, retry and snapshot: how often failures on its way were
recovered from, so that a loop of failure and recovery ends; and the fan-out that it belongs to, so that the list which
gathers it knows when nothing more can come. Most events have neither, and so no lineage.
"""

from __future__ import annotations

from collections.abc import Mapping

from greenroom.events import Event

__all__ = ["FanOut", "Gathered", "Lineage", "Recoveries", "most", "recovered", "recoveries_of", "with_recoveries"]

Recoveries = Mapping[str, int]
"""How often each `@catch_error` step has recovered on the way here, by its name. Never changed: many share one."""

NO_RECOVERIES: Recoveries = {}


class FanOut:
    """The events that a step returned as one list, and all that comes of them.

    Attributes:
        number: Counts the fan-outs of the run.
        producer: The name of the step that returned the list.
        outer: The lineage of the list itself: what is gathered here goes on with it.
        live: How many invocations, delayed events, open questions and inner fan-outs belong to it.
        gathered: What has arrived at each step that takes a list and has not been given it, by the step's name.
        served: The steps that were given their list.
    """

    __slots__ = ("gathered", "live", "number", "outer", "producer", "served")

    def __init__(self, number: int, producer: str, outer: Lineage | None) -> None:
        self.number = number
        self.producer = producer
        self.outer = outer
        self.live = 0
        self.gathered: dict[str, Gathered] = {}
        self.served: set[str] = set()

    def take(self, step: str) -> tuple[list[Event], Lineage | None]:
        """Take out what has arrived at a step, with the lineage that it goes on with."""
        self.served.add(step)
        gathered = self.gathered.pop(step, None)
        if gathered is None:
            return [], self.outer
        return gathered.events, with_recoveries(self.outer, gathered.recoveries)


class Gathered:
    """What has arrived at a step that takes a list.

    Attributes:
        events: The events, in the order they came.
        recoveries: The most that any of them had used up of each recovery budget.
    """

    __slots__ = ("events", "recoveries")

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.recoveries: Recoveries = NO_RECOVERIES


class Lineage:
    """What an event carries on. Never changed: many events share one.

    Attributes:
        recoveries: What was used up of each recovery budget.
        fan_out: The innermost fan-out that the event belongs to, or None.
    """

    __slots__ = ("fan_out", "recoveries")

    def __init__(self, recoveries: Recoveries, fan_out: FanOut | None) -> None:
        self.recoveries = recoveries
        self.fan_out = fan_out


def recoveries_of(lineage: Lineage | None) -> Recoveries:
    """Return what was used up of each recovery budget."""
    return NO_RECOVERIES if lineage is None else lineage.recoveries


def most(one: Recoveries, other: Recoveries) -> Recoveries:
    """Return the most that one of two events had used up of each recovery budget."""
    if not other or one is other:
        return one
    return {name: max(one.get(name, 0), other.get(name, 0)) for name in (*one, *other)}


def with_recoveries(lineage: Lineage | None, recoveries: Recoveries) -> Lineage | None:
    """Return a lineage for what came together: it has used up what any part had."""
    used = recoveries_of(lineage)
    merged = most(used, recoveries)
    return lineage if merged is used else Lineage(merged, None if lineage is None else lineage.fan_out)


def recovered(lineage: Lineage | None, handler: str) -> Lineage:
    """Return the lineage of a failure that a `@catch_error` step is given."""
    used = recoveries_of(lineage)
    return Lineage({**used, handler: used.get(handler, 0) + 1}, None if lineage is None else lineage.fan_out)

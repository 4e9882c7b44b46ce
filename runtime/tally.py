"""How often what has happened in a run: numbers for its drawing, in memory that does not grow with the run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Literal, get_args

from greenroom.graph import Graph

__all__ = ["Deed", "EventKey", "Tally", "event_name"]

Deed = Literal[
    "failed",
    "caught",
    "retried",
    "cut_off",
    "dropped",
    "sent",
    "gathered",
    "asked",
    "answered",
    "awaited",
    "ran",
    "outside",
]
EventKey = type[Any] | str | None
"""A class of event, or `list`; its name, if it was counted before the run was put away; a workflow's name; or none."""


class Tally:
    """The counts of a run.

    One of them is written at every hop: so classes are the keys, not their names, and the dicts are nested, which is
    half the price of a tuple as the key.

    Attributes:
        finished: Invocations that returned, by step, event taken and event returned.
        deeds: All else, by what it is, step and event. "failed", "caught" (by a `@catch_error` step), "retried",
            "cut_off" (by the end of the run) and "dropped" (by the end, before they began) count invocations by the
            event taken; "sent", "gathered" (into a list) and "awaited" count events; "asked" and "answered" count the
            questions of a step's body, "ran" the runs that it began, by their workflow's name; "outside" has no step.
    """

    __slots__ = ("deeds", "finished")

    def __init__(self) -> None:
        self.finished: defaultdict[str, defaultdict[EventKey, defaultdict[EventKey, int]]] = defaultdict(_by_event)
        self.deeds: defaultdict[tuple[Deed, str, EventKey], int] = defaultdict(int)

    def copy(self) -> Tally:
        """Return a tally that goes on from here."""
        tally = Tally()
        for step, taken, returned, count in self.all_finished():
            tally.finished[step][taken][returned] = count
        tally.deeds.update(self.deeds)
        return tally

    def all_finished(self) -> Iterator[tuple[str, EventKey, EventKey, int]]:
        """Return the steps with the events taken and returned, and how often."""
        for step, by_taken in self.finished.items():
            for taken, by_returned in by_taken.items():
                for returned, count in by_returned.items():
                    yield step, taken, returned, count

    def dump(self, graph: Graph) -> list[list[Any]]:
        """Return the tally as plain lists, with the names of the events as the graph has them."""
        # By name: what was read from a dump has names as its keys, and what was counted since has classes.
        counts: defaultdict[tuple[str, str, str | None, str | None], int] = defaultdict(int)
        for step, taken, returned, count in self.all_finished():
            counts["finished", step, event_name(graph, taken), event_name(graph, returned)] += count
        for (deed, step, key), count in self.deeds.items():
            counts[deed, step, event_name(graph, key), None] += count
        return [[*names, count] for names, count in counts.items()]

    @classmethod
    def load(cls, rows: list[Any], graph: Graph) -> Tally:
        """Return the tally of `dump`.

        Raises:
            ValueError: If the rows are not those of a tally.
        """
        tally = cls()
        for what, step, event, returned, count in rows:
            has_names = all(name is None or isinstance(name, str) for name in (event, returned))
            has_step = step == "" if what == "outside" else step in graph.steps
            if not (has_names and has_step) or type(count) is not int or count < 0:
                raise ValueError("the tally holds what is no count")
            if what == "finished":
                tally.finished[step][event][returned] += count
            elif what in get_args(Deed):
                tally.deeds[what, step, event] += count
            else:
                raise ValueError(f"the tally counts {what!r}")
        return tally


def event_name(graph: Graph, key: EventKey) -> str | None:
    """Return the name of an event in the graph; None for a list, whose events are counted one by one."""
    if key is list:
        return None
    return graph.event_id(key) if isinstance(key, type) else key


def _by_event() -> defaultdict[EventKey, defaultdict[EventKey, int]]:
    return defaultdict(_counts)


def _counts() -> defaultdict[EventKey, int]:
    return defaultdict(int)

"""The counts of a run, as they are kept and put away."""

from __future__ import annotations

from typing import Any

import pytest

from greenroom import Event, StartEvent, StopEvent
from greenroom.graph import Graph
from greenroom.tally import Tally
from tests.support.drawn_flows import Draft, Loop


class Redraft(Draft):
    """A subclass that no annotation names."""


class Stranger(Event):
    pass


def graph() -> Graph:
    return Loop()._graph


def test_a_tally_reads_back_what_was_put_away() -> None:
    """Counts come back under the names of the events, and go on from there."""
    tally = Tally()
    tally.finished["write"][StartEvent][Redraft] += 2
    tally.finished["write"][StartEvent][None] += 1
    tally.finished["write"][StartEvent][list] += 1
    tally.deeds["sent", "write", Stranger] += 3
    tally.deeds["outside", "", StopEvent] += 1
    rows = tally.dump(graph())
    assert rows == [
        ["finished", "write", "StartEvent", "Draft", 2],
        ["finished", "write", "StartEvent", None, 2],
        ["sent", "write", "Stranger", None, 3],
        ["outside", "", "StopEvent", None, 1],
    ]
    read = Tally.load(rows, graph())
    assert list(read.all_finished()) == [("write", "StartEvent", "Draft", 2), ("write", "StartEvent", None, 2)]
    assert read.deeds == {("sent", "write", "Stranger"): 3, ("outside", "", "StopEvent"): 1}
    assert Tally.load(read.dump(graph()), graph()).dump(graph()) == read.dump(graph())


def test_a_copy_counts_by_itself() -> None:
    """What is counted after a copy was taken is not in the copy."""
    tally = Tally()
    tally.finished["write"][StartEvent][Draft] += 1
    copy = tally.copy()
    tally.finished["write"][StartEvent][Draft] += 1
    tally.deeds["failed", "write", StartEvent] += 1
    assert list(copy.all_finished()) == [("write", StartEvent, Draft, 1)]
    assert copy.deeds == {}


@pytest.mark.parametrize(
    "row",
    [
        ["finished", "gone", "StartEvent", None, 1],
        ["finished", "write", 3, None, 1],
        ["finished", "write", "StartEvent", ["Draft"], 1],
        ["finished", "write", "StartEvent", None, -1],
        ["finished", "write", "StartEvent", None, True],
        ["failed", ["write"], "StartEvent", None, 1],
        ["outside", "write", "StartEvent", None, 1],
        ["made up", "write", "StartEvent", None, 1],
        ["finished", "write"],
    ],
)
def test_a_damaged_tally_is_refused(row: list[Any]) -> None:
    """A row that is not of a tally of this graph is a fault of the snapshot."""
    with pytest.raises((ValueError, TypeError)):
        Tally.load([row], graph())

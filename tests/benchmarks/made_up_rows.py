"""Rows whose figures are made up, so that the tests of the harness do not depend on timing."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from benchmarks.row import Measure, Row, faster, note_reaches_size, value_at_most


class Made(Row):
    """Ours costs 2 µs a unit, the peer 50 µs."""

    name = "made"
    what = "a made-up thing"
    size = 1000
    quick_size = 10
    target = faster(20)

    def ours(self) -> Measure:
        def measure(size: int) -> float:
            print("what a row prints")
            self.notes["size seen"] = size
            return 2e-6

        return measure

    def peer(self) -> Measure:
        return lambda size: 50e-6


class Missed(Made):
    """Asks for more than there is."""

    name = "missed"
    target = faster(26)


class Alone(Row):
    """Has no peer side."""

    name = "alone"
    what = "memory of ours alone"
    size = 1
    quick_size = 1
    target = value_at_most(16.0, "~0")
    unit = "B"

    def ours(self) -> Measure:
        return lambda size: 8.0


class Growing(Alone):
    """Gives another figure each time: 1, 2, 3 and so on, the first to the warm-up."""

    name = "growing"
    target = note_reaches_size("calls", "called")

    def ours(self) -> Measure:
        calls = iter(range(1, 100))

        def measure(size: int) -> float:
            self.notes["calls"] = next(calls)
            return self.notes["calls"]

        return measure


class Broken(Made):
    """Our side raises."""

    name = "broken"

    def ours(self) -> Measure:
        raise ValueError("no list[E] today")


class Hanging(Made):
    """Our side never returns."""

    name = "hanging"
    timeout = 0.2

    def ours(self) -> Measure:
        return lambda size: float(waits_for_ever())


class HangingAtExit(Made):
    """Our side measures and then leaves a process that ends with an error."""

    name = "bad-exit"

    def ours(self) -> Measure:
        import atexit
        import os

        atexit.register(os._exit, 3)
        return lambda size: 2e-6


class TakingTurns(Made):
    """Each side writes a letter to the file named in the arguments of the test, through its environment."""

    name = "turns"

    def ours(self) -> Measure:
        return lambda size: _sign("o")

    def peer(self) -> Measure:
        return lambda size: _sign("p")


def _sign(letter: str) -> float:
    import os

    with Path(os.environ["TURNS_FILE"]).open("a") as file:
        file.write(letter)
    return 1e-6


def waits_for_ever() -> int:
    """Block without end."""
    threading.Event().wait()
    sys.exit("an event that nobody sets was set")


class Lacking(Made):
    """Needs what no machine has."""

    name = "lacking"

    @classmethod
    def lacking(cls) -> str | None:
        return "no unobtainium"


class OtherPeer(Made):
    """Stands beside another peer than the others."""

    name = "other-peer"
    peer_name = "no-such-distribution-of-ours"

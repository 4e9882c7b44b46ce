"""What a row of the table is: two ways of doing the same work, what is counted, and the target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import ClassVar, Literal, NamedTuple

PEER = "llama-index-workflows"
"""The peer of rows that name no other: the name of its distribution."""

Side = Literal["ours", "peer"]
Measure = Callable[[int], float]
"""Does the row's work once at the given size and returns the cost of one unit of it, in the row's `unit`."""


@dataclass
class Figure:
    """What was measured of one side of a row, a round at a time."""

    samples: list[float] = field(default_factory=list)
    noted: list[dict[str, float]] = field(default_factory=list)
    error: str | None = None

    @property
    def value(self) -> float | None:
        """The median of the rounds, or None when the measurement failed."""
        return median(self.samples) if self.samples and self.error is None else None

    @property
    def notes(self) -> dict[str, float]:
        """What else was seen, by name; the median of the rounds."""
        names = self.noted[0] if self.noted else ()
        return {name: median(notes[name] for notes in self.noted) for name in names}


@dataclass
class Result:
    """A measured row. `peer` is None where there is no peer to measure."""

    row: type[Row]
    size: int
    ours: Figure
    peer: Figure | None

    @property
    def ratio(self) -> float | None:
        """How many times as much the peer needs; None when a side is missing, or when we need nothing."""
        ours, peer = self.ours.value, self.peer.value if self.peer else None
        return None if ours is None or peer is None or ours <= 0 else peer / ours

    @property
    def met(self) -> bool | None:
        """Whether the target is met, or None when that cannot be told."""
        return None if self.ours.value is None else self.row.target.check(self)


class Target(NamedTuple):
    """What a row should reach, in words and as a check of the result."""

    text: str
    check: Callable[[Result], bool | None]


def faster(times: float) -> Target:
    """The peer needs at least `times` as much as we do."""
    return Target(f"≥ {times:g}x faster", lambda result: None if result.ratio is None else result.ratio >= times)


def no_target() -> Target:
    """The figure is for orientation."""
    return Target("-", lambda result: None)


def value_at_most(limit: float, text: str) -> Target:
    """Our figure is at most `limit`, in the row's unit."""
    return Target(text, lambda result: result.ours.value is not None and result.ours.value <= limit)


def note_at_most(note: str, limit: float) -> Target:
    """What our side noted under this name is at most `limit`."""
    return Target(f"{note} ≤ {limit:g}", lambda result: result.ours.notes[note] <= limit)


def note_reaches_size(note: str, text: str) -> Target:
    """What our side noted under this name is at least the size of the row."""
    return Target(text, lambda result: result.ours.notes[note] >= result.size)


class Row(ABC):
    """One row of the table.

    To add one, write a subclass in a module of `benchmarks.rows` and list it in `benchmarks.rows.ROWS`. Each side is
    set up once in a process of its own: `ours` and `peer` import, build and validate what they need and return the
    measurement, which is called once with `quick_size` to warm up and then with `size` as often as it takes.
    A module of rows must be importable without Greenroom and without the peer, so both are imported inside.
    """

    name: ClassVar[str]
    """How `--rows` calls it."""
    what: ClassVar[str]
    """What is measured, for the table."""
    size: ClassVar[int]
    """How much of it a measurement does."""
    quick_size: ClassVar[int]
    """How much of it a warm-up does, and a measurement under `--quick`."""
    target: ClassVar[Target]
    unit: ClassVar[Literal["s", "B"]] = "s"
    """What the figure counts: seconds or bytes."""
    max_rounds: ClassVar[int | None] = None
    """Fewer rounds than asked for, where a round is long or always gives the same."""
    peer_name: ClassVar[str] = PEER
    """The distribution that the peer side needs."""
    timeout: ClassVar[float] = 120.0
    """Seconds after which a measurement is taken to hang."""

    def __init__(self) -> None:
        self.notes: dict[str, float] = {}
        """What else a measurement sees, by name: every measurement sets the same names, the last of a round counts."""

    @abstractmethod
    def ours(self) -> Measure:
        """Set up the work in Greenroom and return its measurement."""

    def peer(self) -> Measure:
        """Set up the same work in the peer and return its measurement. Left out where the peer cannot do it."""
        raise NotImplementedError(f"row {self.name!r} has no peer side")

    @classmethod
    def lacking(cls) -> str | None:
        """What this machine lacks, so that neither side can be measured; None if nothing."""
        return None

    @classmethod
    def has_peer(cls) -> bool:
        """Whether the row has a peer side."""
        return cls.peer is not Row.peer

"""A run within a run, as its parent knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from greenroom.effects import Effect
from greenroom.facts import Fact, Responded, TimerKey
from greenroom.outcome import DeadLetter, Outcome
from greenroom.waits import Wait

if TYPE_CHECKING:
    from greenroom.graph import Graph
    from greenroom.run_state.state import RunState

__all__ = ["Child", "Watch"]


class Watch(Protocol):
    """Sees what happens to one run."""

    def take(self, run: RunState, fact: Fact, now: float) -> list[Effect]:
        """Have the run take a fact in, and return what is to be done."""
        ...

    def saw(self, effects: list[Effect]) -> None:
        """See what has followed for the run from what befell its parent."""

    def passed_on(self, letters: list[DeadLetter]) -> None:
        """Hear what has become, among the dead letters of the run's parent, of those of the run."""


class Child:
    """A run within a run, as its parent knows it.

    Attributes:
        name: Tells it from the other children of the run.
        invocation: The number of the invocation that has begun it.
        run_id: Its own id, for people.
        graph: Its workflow's graph.
        run: Its state; None once it has ended.
        cast: What runs the bodies of its steps, opaque here; None once it has ended, and for one that was put away
            until the step that has begun it comes by its `ctx.run` again.
        outcome: How it ended, or None.
        is_told: Whether its step knows how it ended.
        is_busy: Whether it is at work.
        is_dozing: Whether it is so only in that it waits for retries.
        waits: The waits for its end.
        timers: The timers that are set for it.
        early: The answers of people that came while it was put away.
        watcher: Is answered its status at its end.
        watch: Sees what happens to it, where somebody observes it; else None.
        lifted: How many of its own events, and of those of its children, have been lifted out.
        closed: How many of its questions the parent knows to be closed.
    """

    __slots__ = (
        "cast",
        "closed",
        "early",
        "graph",
        "invocation",
        "is_busy",
        "is_dozing",
        "is_told",
        "lifted",
        "name",
        "outcome",
        "run",
        "run_id",
        "timers",
        "waits",
        "watch",
        "watcher",
    )

    def __init__(self, name: str, invocation: int, run_id: str, graph: Graph) -> None:
        self.name = name
        self.graph = graph
        self.invocation = invocation
        self.run_id = run_id
        self.run: RunState | None = None
        self.cast: Any = None
        self.outcome: Outcome | None = None
        self.is_told = self.is_busy = self.is_dozing = False
        self.waits: list[Wait] = []
        self.timers: set[TimerKey] = set()
        self.early: list[Responded] = []
        self.watcher: Any = None
        self.watch: Watch | None = None
        self.lifted: tuple[int, int] = (0, 0)
        self.closed = 0

    @property
    def is_at_rest(self) -> bool:
        """Whether it was put away, and its step has not come by its `ctx.run` again."""
        return self.run is not None and self.cast is None

    def take(self, fact: Fact, now: float) -> list[Effect]:
        """Have its state take a fact in, before the eyes of whoever watches it."""
        assert self.run is not None
        return self.run.apply(fact, now) if self.watch is None else self.watch.take(self.run, fact, now)

    def put_away(self) -> None:
        """Let go of what is of this life of its alone: it may go on in another."""
        self.cast = self.watcher = None
        self.is_busy = self.is_dozing = self.is_told = False
        self.waits.clear()
        self.timers.clear()

    def aside(self) -> Child:
        """Return it for a run that goes on from that of its parent, to be begun again by its step."""
        child = Child(self.name, self.invocation, self.run_id, self.graph)
        child.run, child.outcome, child.early = self.run, self.outcome, self.early
        return child

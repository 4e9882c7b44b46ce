"""Facts of runs within a run: how a step begins, awaits and cancels one, and how what happens to it reaches it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from greenroom.events import Event

if TYPE_CHECKING:
    from greenroom.facts import Fact
    from greenroom.graph import Graph
    from greenroom.run_state import OnStuck


class ChildAsked:
    """An invocation begins a run within its own, or comes by the call again.

    Attributes:
        name: Tells the children of one run apart; a replay asks under the same name.
        cast: What runs the bodies of the child's steps; opaque to the core.
        watcher: Is answered the child's status as soon as it has ended; opaque to the core.
        watch: Sees what happens to the child, where somebody observes its run; else None.
    """

    __slots__ = (
        "attempt",
        "cast",
        "event",
        "graph",
        "invocation",
        "name",
        "on_stuck",
        "run_id",
        "timeout",
        "watch",
        "watcher",
    )

    def __init__(
        self,
        invocation: int,
        attempt: int,
        name: str,
        run_id: str,
        graph: Graph,
        event: Event,
        timeout: float | None,
        on_stuck: OnStuck,
        cast: Any,
        watcher: Any,
    ) -> None:
        self.invocation = invocation
        self.attempt = attempt
        self.name = name
        self.run_id = run_id
        self.graph = graph
        self.event = event
        self.timeout = timeout
        self.on_stuck: OnStuck = on_stuck
        self.cast = cast
        self.watcher = watcher
        self.watch: Any = None


class ChildAwaited:
    """An invocation waits for the result of a child or, without a name, for the end of all that it has not asked after.

    Attributes:
        nth: Counts the waits of one attempt for the same child.
    """

    __slots__ = ("asker", "attempt", "invocation", "name", "nth", "timeout")

    def __init__(
        self, invocation: int, attempt: int, name: str | None, nth: int = 0, timeout: float | None = None
    ) -> None:
        self.invocation = invocation
        self.attempt = attempt
        self.name = name
        self.nth = nth
        self.timeout = timeout
        self.asker: Any = None


class ChildCancelAsked:
    """An invocation ends one of its children."""

    __slots__ = ("attempt", "invocation", "name")

    def __init__(self, invocation: int, attempt: int, name: str) -> None:
        self.invocation = invocation
        self.attempt = attempt
        self.name = name


class ForChild:
    """A fact of a child, or of a child's child: `path` names them from the outermost on."""

    __slots__ = ("fact", "path")

    def __init__(self, path: tuple[str, ...], fact: Fact) -> None:
        self.path = path
        self.fact = fact

    def inner(self) -> Fact:
        """Return what it is to the outermost child."""
        return ForChild(self.path[1:], self.fact) if len(self.path) > 1 else self.fact  # pyright: ignore[reportReturnType]

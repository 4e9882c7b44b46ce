"""How a step takes many events at once: when a list of them is complete, or one of each kind has come.

A step that returns a list opens a fan-out: its events, and all that comes of them. A step that takes a list gathers
what arrives out of one fan-out; a step that takes several events, one a parameter, joins one of each.
"""

from __future__ import annotations

from dataclasses import dataclass

from greenroom.errors import WorkflowValidationError
from greenroom.events import Event

__all__ = ["All", "Collect", "Gather", "Join", "Take"]


@dataclass(frozen=True, slots=True)
class All:
    """The list is complete when nothing is left of the fan-out that could add to it."""


@dataclass(frozen=True, slots=True)
class Take:
    """The list is complete with its first `n` events, or with fewer when nothing is left that could add to it.

    Attributes:
        n: How many, 1 or more.

    Raises:
        ValueError: If `n` is no integer greater than 0.
    """

    n: int

    def __post_init__(self) -> None:
        if isinstance(self.n, bool) or not isinstance(self.n, int) or self.n < 1:
            raise ValueError(f"Take(n) takes an integer greater than 0, not {self.n!r}")


@dataclass(frozen=True, slots=True)
class Collect:
    """Says in an annotation when a list of events is complete: `Annotated[list[E], Collect(Take(2))]`.

    A bare `list[E]` means `Collect(All())`.

    Attributes:
        cardinality: `All()` or `Take(n)`.

    Raises:
        WorkflowValidationError: If it is neither.

    Example:
        >>> from typing import Annotated
        >>> from greenroom import Event, StartEvent, StopEvent, Workflow, step
        >>> class Quote(Event):
        ...     price: int
        >>> class Cheapest(Workflow):
        ...     @step
        ...     def ask(self, ev: StartEvent) -> list[Quote]:
        ...         return [Quote(price=price) for price in ev.prices]
        ...     @step
        ...     def choose(self, quotes: Annotated[list[Quote], Collect(Take(2))]) -> StopEvent:
        ...         return StopEvent(result=min(quote.price for quote in quotes))
        >>> Cheapest().run(prices=[7, 5, 1]).result()
        5
    """

    cardinality: All | Take = All()

    def __post_init__(self) -> None:
        if not isinstance(self.cardinality, All | Take):
            raise WorkflowValidationError(f"Collect(...) takes All() or Take(n), not {self.cardinality!r}")

    @property
    def limit(self) -> int | None:
        """How many events complete the list, or None for all that come."""
        return self.cardinality.n if isinstance(self.cardinality, Take) else None


@dataclass(frozen=True, slots=True)
class Join:
    """A step that takes several events at once, one a parameter.

    Attributes:
        parameters: The names of the parameters.
        classes: The class of each.
    """

    parameters: tuple[str, ...]
    classes: tuple[type[Event], ...]


Gather = Collect | Join

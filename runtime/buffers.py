"""The buffers behind `ctx.collect_events` and joins: events wait here until a batch is complete."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence

from greenroom.events import Event
from greenroom.lineage import NO_RECOVERIES, Recoveries, most

__all__ = ["BufferKey", "CollectBuffer", "Expected"]

BufferKey = tuple[str, str | int | None]
"""A step and the buffer id that it names; or a step that joins and the number of the fan-out whose events meet there,
None outside of all."""

Expected = Sequence[type[Event]] | Mapping[type[Event], int]


class CollectBuffer:
    """Holds the events of one step and one buffer id.

    Each event counts once. It fills the nearest class, along its MRO, that the batch still lacks; one for which there
    is no room is surplus and waits for the next batch. Adding costs the same however many events wait.

    Attributes:
        recoveries: The most that an event of the last batch had used up of each recovery budget.
    """

    __slots__ = (
        "_arrived",
        "_expected",
        "_filled",
        "_lacking",
        "_needs",
        "_next",
        "_recoveries",
        "_surplus",
        "recoveries",
    )

    def __init__(self) -> None:
        self.recoveries: Recoveries = NO_RECOVERIES
        self._arrived: dict[int, Event] = {}
        self._recoveries: dict[int, Recoveries] = {}  # of those that have used something up
        self._next = 0
        self._expected: Expected | None = None
        self._needs: dict[type[Event], int] = {}
        self._filled: dict[type[Event], list[int]] = {}
        self._surplus: dict[type[Event], deque[int]] = {}
        self._lacking = 0

    @property
    def is_empty(self) -> bool:
        """Whether no event waits."""
        return not self._arrived

    @property
    def events(self) -> list[Event]:
        """The events that wait, in the order they came."""
        return list(self._arrived.values())

    @property
    def lacks(self) -> dict[type[Event], int]:
        """How many events of each class the batch still lacks."""
        return {
            cls: need - len(self._filled[cls]) for cls, need in self._needs.items() if need > len(self._filled[cls])
        }

    @property
    def arrivals(self) -> list[tuple[Event, Recoveries]]:
        """The events that wait, in the order they came, each with what it had used up of each recovery budget."""
        return [(event, self._recoveries.get(number, NO_RECOVERIES)) for number, event in self._arrived.items()]

    def keep(self, event: Event, recoveries: Recoveries = NO_RECOVERIES) -> None:
        """Put in an event before it is known what will be expected, as when a snapshot is read."""
        self._arrived[self._next] = event
        if recoveries:
            self._recoveries[self._next] = recoveries
        self._next += 1
        self._expected = None

    def add(self, event: Event, expected: Expected, recoveries: Recoveries = NO_RECOVERIES) -> list[Event] | None:
        """Count an event in, and take the batch out if it is complete.

        Args:
            event: The event. One that is no instance of an expected class is not kept.
            expected: The classes that make a batch, one for each event, or how many of each class.
            recoveries: What the event had used up of each recovery budget.

        Returns:
            The batch in the order asked, equal classes in the order they came; or None while it is not complete.
        """
        self._plan(expected)
        if any(base in self._needs for base in type(event).__mro__):
            number, self._next = self._next, self._next + 1
            self._arrived[number] = event
            if recoveries:
                self._recoveries[number] = recoveries
            self._place(number, type(event))
        return None if self._lacking else self._take(expected)

    def take_complete(self, expected: Expected) -> list[Event] | None:
        """Take the batch out if the events that wait already complete it."""
        self._plan(expected)
        return None if self._lacking else self._take(expected)

    def _plan(self, expected: Expected) -> None:
        # A copy of ours: the caller may change its own between two calls, and a tuple must be found equal to a list.
        expected = dict(expected) if isinstance(expected, Mapping) else list(expected)
        if expected == self._expected:
            return
        self._expected = expected
        self._needs = dict(expected) if isinstance(expected, Mapping) else dict(Counter(expected))
        self._filled = {cls: [] for cls in self._needs}
        self._surplus = {}
        self._lacking = sum(self._needs.values())
        for number, event in self._arrived.items():
            self._place(number, type(event))

    def _place(self, number: int, event_class: type[Event]) -> None:
        for base in event_class.__mro__:
            need = self._needs.get(base)
            if need is not None:
                filled = self._filled[base]
                if len(filled) < need:
                    filled.append(number)
                    self._lacking -= 1
                    return
        self._surplus.setdefault(event_class, deque()).append(number)

    def _take(self, expected: Expected) -> list[Event]:
        if isinstance(expected, Mapping):
            order = [number for cls in expected for number in self._filled[cls]]
        else:
            queues = {cls: iter(numbers) for cls, numbers in self._filled.items()}
            order = [next(queues[cls]) for cls in expected]
        batch = [self._arrived.pop(number) for number in order]
        self.recoveries = NO_RECOVERIES
        if self._recoveries:
            for number in order:
                self.recoveries = most(self.recoveries, self._recoveries.pop(number, NO_RECOVERIES))
        self._filled = {cls: [] for cls in self._needs}
        self._lacking = sum(self._needs.values())
        self._refill()
        return batch

    def _refill(self) -> None:
        """Move surplus into the new batch, oldest first, until nothing more fits."""
        while True:
            fitting = [
                (queue[0], cls)
                for cls, queue in self._surplus.items()
                if queue and any(len(self._filled[b]) < self._needs[b] for b in cls.__mro__ if b in self._needs)
            ]
            if not fitting:
                return
            number, cls = min(fitting, key=lambda item: item[0])
            self._surplus[cls].popleft()
            self._place(number, cls)

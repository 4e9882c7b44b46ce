"""The bodies that wait on their threads, over all runs of a runtime.

A `def` step that waits for a person stands on an idle thread. Past `max_parked` of them the one that has waited longest
is passivated: its body is unwound, and runs again from its top, answered from its log, when its event comes.

Any thread enters and leaves; the lock protects the order and is held for a few lines, never while anybody is told.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Parkable", "Parking"]


class Parkable(Protocol):
    """A body that waits."""

    def passivate(self) -> None:
        """Have it unwound. Nothing happens if its wait has ended meanwhile."""


class Parking:
    """Keeps the bodies that wait in the order they came, and passivates the oldest when there are too many."""

    def __init__(self, max_parked: int) -> None:
        self._max_parked = max_parked
        self._lock = threading.Lock()
        # A plain dict would look for its first entry past all that have left.
        self._parked: OrderedDict[int, Parkable] = OrderedDict()

    def __len__(self) -> int:
        return len(self._parked)

    @contextmanager
    def parked(self, body: Parkable) -> Iterator[None]:
        """Count a body among those that wait, for the length of the block."""
        oldest: Parkable | None = None
        with self._lock:
            self._parked[id(body)] = body
            if len(self._parked) > self._max_parked:
                _, oldest = self._parked.popitem(last=False)
        if oldest is not None:
            oldest.passivate()
        try:
            yield
        finally:
            with self._lock:
                self._parked.pop(id(body), None)

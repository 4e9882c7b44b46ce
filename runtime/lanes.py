"""The workers of a step: who runs, and who waits for a worker."""

from __future__ import annotations

import heapq
from collections import deque

from greenroom.invocation import Invocation
from greenroom.steps import StepSpec

__all__ = ["Lane"]


class Lane:
    """The workers of one step, and the invocations that wait for one."""

    __slots__ = ("freed", "name", "num_workers", "queue", "retries", "used")

    def __init__(self, spec: StepSpec) -> None:
        self.name = spec.name
        self.num_workers = spec.options.num_workers
        self.queue: deque[Invocation] = deque()
        self.retries: deque[Invocation] = deque()  # Their delay is over: they go before the queue, in order.
        self.freed: list[int] = []
        self.used = 0

    def take_worker(self) -> int | None:
        """Return the smallest free worker's number, or None."""
        if self.freed:
            return heapq.heappop(self.freed)
        if self.used < self.num_workers:
            self.used += 1
            return self.used - 1
        return None

    def next_waiting(self) -> Invocation | None:
        """Take out the invocation that goes next, or None."""
        if self.retries:
            return self.retries.popleft()
        return self.queue.popleft() if self.queue else None

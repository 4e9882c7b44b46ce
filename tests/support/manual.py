"""A dispatcher without threads: the test itself gives the turns, one by one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from greenroom.actors.base import PooledActor
from greenroom.actors.dispatcher import Waitable


class ManualDispatcher:
    """Keeps the actors that are ready until the test runs them, and the messages that nobody will handle."""

    closed = False
    batch = 64

    def __init__(self) -> None:
        self.ready: deque[PooledActor] = deque()
        self.dead_letters: list[Any] = []

    def schedule(self, actor: PooledActor) -> None:
        actor.scheduled = True
        self.ready.append(actor)

    def serve(self, actor: PooledActor, envelope: Any) -> None:
        actor.actor_inbox.put_unannounced(envelope)
        actor.serve_here()

    def wait(self, waitable: Waitable, timeout: float | None = None) -> bool:
        while self.ready and not waitable.is_done():
            self.turn()
        return waitable.is_done()

    def dead_letter(self, actor: PooledActor, message: Any) -> None:
        self.dead_letters.append(message)

    def turn(self) -> None:
        """Give the next actor its turn."""
        self.ready.popleft().run_turn()

    def run_all(self) -> None:
        """Give turns until nobody wants one."""
        while self.ready:
            self.turn()


class HookedDeque(deque[Any]):
    """A deque that runs a hook once, just before or just after the next append: a sender who stalls there."""

    def __init__(self, *, before: Callable[[], object] | None = None, after: Callable[[], object] | None = None):
        super().__init__()
        self._before, self._after = before, after

    def append(self, item: Any) -> None:
        before, self._before = self._before, None
        if before is not None:
            before()
        super().append(item)
        after, self._after = self._after, None
        if after is not None:
            after()


class LyingLock:
    """A lock that runs a hook once, just before or just after it is given back: another thread that comes in there."""

    def __init__(self, lock: Any, *, before: Callable[[], object] | None = None, after: Any = None):
        self._lock, self._before, self._after = lock, before, after

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        return bool(self._lock.acquire(blocking, timeout))

    def release(self) -> None:
        before, self._before = self._before, None
        if before is not None:
            before()
        self._lock.release()
        after, self._after = self._after, None
        if after is not None:
            after()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

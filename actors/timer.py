"""The timer: one heap of deadlines and one thread for the whole runtime.

It is an actor whose inbox is the heap: what is put in comes out when it is due, and it tells each message on. Since
waiting is all that it does, it has a thread of its own, which starts with the first deadline.

The lock protects the heap and `_wake_at`. A deadline is set in about a microsecond: the thread is woken only by one
that is earlier than all others. Dropped deadlines stay in the heap until they are due or make up half of it.
"""

from __future__ import annotations

import heapq
import threading
import time
from typing import Any

import pykka
from pykka._envelope import Envelope

from greenroom.actors.base import Reply
from greenroom.actors.dispatcher import Timer

__all__ = ["DeadlineHeap", "TimerActor"]

_FAR = float("inf")
_COMPACT_FROM = 64


class DeadlineHeap:
    """An inbox that gives out its envelopes in the order of their deadlines, none before it is due."""

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._dropped = 0
        self._changed = threading.Condition(threading.Lock())
        self._wake_at = _FAR
        self._stopped = False

    def put(self, envelope: Envelope[Any], /) -> None:
        """Put in a `Timer`; any other message is a request to stop."""
        message = envelope.message
        with self._changed:
            if isinstance(message, Timer):
                heapq.heappush(self._heap, message)
                if message.at < self._wake_at:
                    self._changed.notify()
            else:
                self._stopped = True
                self._changed.notify()

    def drop(self, timer: Timer) -> None:
        """Forget a timer; one that has been taken out is not touched any more."""
        with self._changed:
            if timer.cancelled:
                return
            timer.cancelled = True
            del timer.ref, timer.message  # It may lie here for long, and must not keep a run alive that has ended.
            self._dropped += 1
            if self._dropped > _COMPACT_FROM and self._dropped * 2 > len(self._heap):
                self._heap = [timer for timer in self._heap if not timer.cancelled]
                heapq.heapify(self._heap)
                self._dropped = 0

    def get(self) -> Envelope[Any]:
        """Wait for the next deadline and take it out; an envelope of None says that the heap was stopped."""
        with self._changed:
            while not self._stopped:
                while self._heap and self._heap[0].cancelled:
                    heapq.heappop(self._heap)
                    self._dropped -= 1
                if not self._heap:
                    self._wake_at = _FAR
                    self._changed.wait()
                    continue
                left = self._heap[0].at - time.monotonic()
                if left <= 0:
                    due = heapq.heappop(self._heap)
                    due.cancelled = True  # It is too late to drop it.
                    return Envelope(due)
                self._wake_at = self._heap[0].at
                self._changed.wait(min(left, threading.TIMEOUT_MAX))
            return Envelope(None)

    def empty(self) -> bool:
        """Return whether no deadline waits."""
        return not self._heap


class TimerActor(pykka.Actor):
    """Tells messages when they are due."""

    actor_inbox: DeadlineHeap  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self) -> None:
        super().__init__()
        self._starting = threading.Lock()  # Protects `_thread`.
        self._thread: threading.Thread | None = None

    @staticmethod
    def _create_actor_inbox() -> DeadlineHeap:
        return DeadlineHeap()

    @staticmethod
    def _create_future() -> Reply:
        return Reply()

    def _start_actor_loop(self) -> None:
        thread = threading.Thread(target=self._tell_on, name="greenroom-timer", daemon=True)
        thread.start()
        self._thread = thread  # Only now: where the system refuses a thread, the next deadline tries again.

    def set(self, timer: Timer) -> None:
        """Have a timer's message told when it is due."""
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._start_actor_loop()
        self.actor_inbox.put(Envelope(timer))

    def end(self, timeout: float) -> None:
        """End the thread; deadlines that wait are forgotten."""
        self.actor_inbox.put(Envelope(None))
        if self._thread is not None:
            self._thread.join(timeout)

    def _tell_on(self) -> None:
        while True:
            timer = self.actor_inbox.get().message
            if timer is None:
                return
            timer.ref.tell_control(timer.message)
            del timer

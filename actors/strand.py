"""Threads that run only while they hold the baton: where the bodies of a seeded runtime stand.

A worker that holds the baton runs a body, or draws what goes on. It gives the baton away when it draws a body that
stands on another thread, and blocks on its own gate until somebody gives it back. So one of these threads runs at a
time, and a chain of steps stays on one of them.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from greenroom.actors.base import here
from greenroom.actors.dispatcher import Body, Waitable
from greenroom.errors import StepCancelled
from greenroom.log_fields import log_fields

if TYPE_CHECKING:
    from greenroom.actors.seeded import SeededDispatcher

__all__ = ["Call", "Strand", "Worker", "closed_gate"]

logger = logging.getLogger("greenroom.actors")


def closed_gate() -> threading.Lock:
    """Return a lock that whoever acquires it waits for somebody to release."""
    gate = threading.Lock()
    gate.acquire()
    return gate


class Strand:
    """A body on its way.

    Attributes:
        dispatcher: Draws when it goes on.
        body: The body.
        worker: The thread that it stands on, once it has begun.
        rank: Drawn whenever it goes on, for the next time.
        until: The virtual time at which its wait is over at the latest, or None.
    """

    open = False  # As a pool's lane: it has no queue of actors.

    def __init__(self, dispatcher: SeededDispatcher, body: Body, rank: float) -> None:
        self.dispatcher = dispatcher
        self.body = body
        self.rank = rank
        self.worker: Worker | None = None
        self.until: float | None = None
        self._waits_for: Waitable | None = None

    def can_run(self, now: float) -> bool:
        """Return whether it waits for nothing, or for what has come."""
        waits_for = self._waits_for
        return waits_for is None or waits_for.is_done() or (self.until is not None and now >= self.until)

    def pause(self, waits_for: Waitable | None = None) -> None:
        """Give the baton away until this strand is drawn again. Called by the body.

        Raises:
            StepCancelled: If the dispatcher has been shut down, so that it never will be.
        """
        assert self.worker is not None
        if not self.dispatcher.closed:
            self._waits_for = waits_for
            self.dispatcher.switch(self.worker, self)
            self._waits_for = None
        if self.dispatcher.closed:
            raise StepCancelled("the seeded runtime was shut down")

    def wait(self, waitable: Waitable, timeout: float | None) -> bool:
        """Pause until something is done, at most for some virtual seconds."""
        self.until = None if timeout is None else self.dispatcher.now() + timeout
        try:
            while not waitable.is_done() and (self.until is None or self.dispatcher.now() < self.until):
                self.pause(waitable)
        finally:
            self.until = None
        return waitable.is_done()


class Worker:
    """A thread of a seeded dispatcher.

    Attributes:
        gate: Released by whoever gives it the baton.
        strand: The body that it is to begin when it gets the baton; None to draw one.
        ended: Whether it is to end when it gets the baton.
    """

    def __init__(self, dispatcher: SeededDispatcher) -> None:
        self.gate = closed_gate()
        self.strand: Strand | None = None
        self.ended = False
        self._dispatcher = dispatcher
        self._thread = threading.Thread(target=self._work, name="greenroom-strand", daemon=True)
        contextvars.Context().run(self._thread.start)

    def join(self, timeout: float) -> None:
        """Wait for the thread to end."""
        self._thread.join(timeout)

    def _work(self) -> None:
        dispatcher = self._dispatcher
        dispatcher.loop.mind_generators()
        self.gate.acquire()
        strand, self.strand = self.strand, None
        while not self.ended:
            if strand is not None:
                self._run_body(strand)
            strand = dispatcher.switch(self, None)

    def _run_body(self, strand: Strand) -> None:
        body = strand.body
        if self._thread.name != body.label:
            self._thread.name = body.label
        strand.worker = self
        here.lane = strand
        try:
            body.run()
        except BaseException:
            logger.exception("a callback failed", extra=log_fields())
        here.lane = None
        self._dispatcher.forget(strand)
        body.report()


class Call:
    """A function that runs as a body: what a test does beside its own thread, or a coroutine in an executor."""

    label = "greenroom-call"

    def __init__(
        self, dispatcher: SeededDispatcher, function: Callable[[], Any], ended: Callable[[Call], None]
    ) -> None:
        self._dispatcher = dispatcher
        self._function = function
        self._ended = ended
        self._value: Any = None
        self.error: BaseException | None = None
        self._done = False

    def run(self) -> None:
        """Call the function."""
        try:
            self._value = self._function()
        except BaseException as error:
            # Raised where the result is asked for.
            self.error = error
        self._done = True

    def report(self) -> None:
        """Tell that it has ended."""
        self._ended(self)

    def is_done(self) -> bool:
        """Return whether it has ended."""
        return self._done

    def block(self, timeout: float | None) -> object:
        """Nobody blocks on it for real: the dispatcher has to run it."""
        return self._done

    def result(self, timeout: float | None = None) -> Any:
        """Run the schedule until it has ended, and return what the function returned or raise what it raised.

        Args:
            timeout: Virtual seconds to wait at most.

        Raises:
            TimeoutError: If it has not ended in time.
        """
        if not self._done and not self._dispatcher.wait(self, timeout):
            raise TimeoutError(f"the call has not ended within {timeout} seconds of virtual time")
        if self.error is not None:
            raise self.error
        return self._value

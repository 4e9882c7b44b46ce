"""A ticker: calls a function again and again, on a thread of the dispatcher, never twice at once.

The attributes belong to the actor's turn. The function may block; what it raises is logged, and it is called again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from greenroom.actors.base import PooledActor
from greenroom.actors.dispatcher import Dispatcher, Timer, Unlimited

__all__ = ["TickNow", "Ticker"]

logger = logging.getLogger("greenroom")


class TickNow(NamedTuple):
    """Asks for a call without waiting for the time."""


class _Due(NamedTuple):
    pass


class _Done(NamedTuple):
    error: Exception | None
    soon: float | None


class Ticker(PooledActor):
    """Calls a function at an interval, counted from the end of one call to the beginning of the next."""

    def __init__(self, dispatcher: Dispatcher, interval: float, function: Callable[[], float | None]) -> None:
        """Make the actor; the first call comes after one interval.

        Args:
            dispatcher: Gives threads and time.
            interval: Seconds between two calls; infinite for calls that are asked for, and no others.
            function: What is called. It may return in how many seconds it wants to be called again, if that is sooner.
        """
        super().__init__(dispatcher)
        self._interval = interval
        self._function = function
        self._calling = False
        self._again = False
        self._failures = 0  # in a row
        self._timer: Timer | None = None
        self._set_timer()

    def on_receive(self, message: Any) -> None:
        """Call, or note that the call has ended."""
        if type(message) is _Done:
            self._calling = False
            self._note_end(message.error)
            if self._again:
                self._again = False
                self._call()
            else:
                self._set_timer(message.soon)
        elif self._calling:
            self._again = True
        else:
            self._call()

    def on_stop(self) -> None:
        """Call no more."""
        if self._timer is not None:
            self.dispatcher.drop_timer(self._timer)

    def _set_timer(self, soon: float | None = None) -> None:
        seconds = self._interval if soon is None else min(soon, self._interval)
        self._timer = self.dispatcher.set_timer(self.dispatcher.now() + seconds, self.actor_ref, _Due())

    def _call(self) -> None:
        self._calling = True
        if self._timer is not None:
            self.dispatcher.drop_timer(self._timer)
            self._timer = None
        function, ref = self._function, self.actor_ref

        def call() -> None:
            error: Exception | None = None
            soon: float | None = None
            try:
                soon = function()
            except Exception as failure:
                error = failure
            finally:
                ref.tell(_Done(error, soon))

        self.dispatcher.execute(Unlimited(call))

    def _note_end(self, error: Exception | None) -> None:
        name = getattr(self._function, "__qualname__", repr(self._function))
        if error is not None:
            self._failures += 1
            # What fails for hours, as a store that is away, is not logged at each call.
            if self._failures in (1, 10) or self._failures % 100 == 0:
                what = "%s failed (%d in a row); it is called again"
                logger.error(what, name, self._failures, exc_info=error, extra=self.log_fields())
        elif self._failures:
            logger.warning("%s succeeds again", name, extra=self.log_fields())
            self._failures = 0

"""What is open in one scope: an invocation, a run, or a workflow on one runtime.

State. The lock of `OpenResources` protects its entries, their order, the count of those who use them, and how far its
end has come. It is held for a few lines, never while code of the user's runs.

Guarantees: what is asked for by many at once is opened once, and the others wait for that. What was opened is closed
once, in reverse order, when its scope has ended and no body uses it any more, each whatever the others raise.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

from greenroom.actors.base import Reply
from greenroom.actors.dispatcher import Dispatcher, Unlimited
from greenroom.actors.resource_work import Work, run_here
from greenroom.log_fields import log_fields
from greenroom.resources import Dependency

__all__ = ["OpenResources", "log_failures", "raise_first"]

logger = logging.getLogger("greenroom")


class _Entry:
    """A resource: one that is being opened, and who waits for it, or one that is open."""

    __slots__ = ("close", "dependency", "is_open", "value", "waiters")

    def __init__(self, dependency: Dependency) -> None:
        self.dependency = dependency
        self.is_open = False
        self.value: Any = None
        self.close: Callable[[BaseException | None], Work[None]] | None = None
        self.waiters: list[Reply] = []


class OpenResources:
    """What is open in one scope: an invocation, a run, or a workflow on one runtime."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        registry: dict[OpenResources, None] | None = None,
        on_end: Callable[[OpenResources], object] | None = None,
    ) -> None:
        """Begin a scope.

        Args:
            dispatcher: Gives threads, and the event loop.
            registry: What the runtime closes at its end. The scope is taken out when it has been closed.
            on_end: Is called when the scope ends, before anything is closed.
        """
        self._dispatcher = dispatcher
        self._registry = registry
        self._on_end = on_end
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._entries: dict[Hashable, _Entry] = {}
        self._opened: list[_Entry] = []
        self._users = 0
        self._held: dict[OpenResources, None] = {}
        self._ended = self._is_closing = self._is_closed = False
        self._waiter: Reply | None = None

    # -- who uses it ---------------------------------------------------------------------------------------------------

    def use(self) -> bool:
        """Note a body that uses it, until `leave`; return False if the scope has ended."""
        with self._lock:
            if self._ended:
                return False
            self._users += 1
            return True

    def hold(self, other: OpenResources) -> None:
        """Use another scope until this one is closed, since what is opened here depends on it.

        Args:
            other: A scope that the caller uses, so that it cannot be closed meanwhile.
        """
        with self._lock:
            if other in self._held:
                return
            self._held[other] = None
        with other._lock:
            other._users += 1

    def leave(self) -> None:
        """Note that a body no longer uses it; close it if that was the last and the scope has ended."""
        if self._is_parents():
            return
        with self._lock:
            self._users -= 1
            closes = self._takes_closing()
        if closes:
            self._dispatcher.execute(Unlimited(self._close_here))

    def end(self, then: Callable[[], object] | None = None) -> bool:
        """End the scope; in a turn, so that it is closed on another thread.

        Args:
            then: Is called when it has been closed.

        Returns:
            Whether there is nothing to wait for, and `then` is not called: nothing is open, or it is in use.
        """
        if not self._end():
            return True
        if not (self._opened or self._held):
            self._note_closed()
            return True
        self._dispatcher.execute(Unlimited(partial(self._close_here, then)))
        return False

    def close(self) -> None:
        """End the scope and close it on this thread, unless it is in use."""
        if self._end():
            raise_first(self._close_all(None))

    def close_in_time(self, seconds: float) -> None:
        """End the scope and see it closed, but wait for bodies and for the event loop no longer than this.

        What fails is logged.
        """
        if self._end():
            log_failures(self._close_all(seconds))
            return
        with self._lock:
            if self._is_closed or self._is_parents() or self._dispatcher.on_loop_thread():
                return
            waiter = self._waiter = Reply()
        self._dispatcher.wait(waiter, seconds)

    def open_values(self) -> list[tuple[Dependency, Any]]:
        """Return what is open."""
        with self._lock:
            return [(entry.dependency, entry.value) for entry in self._opened]

    def _end(self) -> bool:
        """End the scope; return whether the caller is the one to close it."""
        if self._is_parents():
            return False
        with self._lock:
            begins, self._ended = not self._ended, True
            closes = self._takes_closing()
        if begins and self._on_end is not None:
            self._on_end(self)
        return closes

    def _takes_closing(self) -> bool:
        """Return whether it is to be closed now, which one caller is told. The lock is held."""
        if self._is_closing or self._users or not self._ended:
            return False
        self._is_closing = True
        return True

    def _note_closed(self) -> None:
        """Let go of the scopes that this one depends on, and tell whoever waits."""
        with self._lock:
            self._is_closed = True
            held, self._held = self._held, {}
            waiter = self._waiter
        for other in held:
            other.leave()
        if self._registry is not None:
            self._registry.pop(self, None)
        if waiter is not None:
            waiter.set()

    def _close_here(self, then: Callable[[], object] | None = None) -> None:
        log_failures(self._close_all(None))
        if then is not None:
            then()

    def _close_all(self, seconds: float | None) -> list[BaseException]:
        return run_here(self.closing(None), self._dispatcher, seconds)

    def _is_parents(self) -> bool:
        """Whether this is a forked child, so that what is open is its parent's to close."""
        return self._process != os.getpid()

    # -- opening and closing -------------------------------------------------------------------------------------------

    def find(self, dependency: Dependency) -> tuple[_Entry, bool, Reply | None]:
        """Return the entry, whether the caller is to open it, and what to wait for if another is doing that."""
        key = dependency.key
        entry = self._entries.get(key)
        if entry is not None and entry.is_open:
            return entry, False, None
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                entry = self._entries[key] = _Entry(dependency)
                return entry, True, None
            if entry.is_open:
                return entry, False, None
            reply = Reply()
            entry.waiters.append(reply)
            return entry, False, reply

    def opened(self, entry: _Entry, value: Any, close: Callable[[BaseException | None], Work[None]] | None) -> None:
        """Note what was opened, and let those go on who wait for it."""
        with self._lock:
            entry.value, entry.close = value, close
            entry.is_open = True
            self._opened.append(entry)
            waiters, entry.waiters = entry.waiters, []
        for reply in waiters:
            reply.set()

    def failed(self, entry: _Entry, error: BaseException) -> None:
        """Forget what could not be opened. Those who wait get the same error; or try, if it was a cancel."""
        with self._lock:
            self._entries.pop(entry.dependency.key, None)
            waiters, entry.waiters = entry.waiters, []
        for reply in waiters:
            if isinstance(error, Exception):
                reply.set_exception((type(error), error, None))
            else:
                reply.set()

    def closing(self, error: BaseException | None) -> Work[list[BaseException]]:
        """Close everything, the last first, and return what that raised."""
        failures: list[BaseException] = []
        while not self._is_parents():
            with self._lock:
                if not self._opened:
                    break
                entry = self._opened.pop()
            if entry.close is not None:
                try:
                    yield from entry.close(error)
                except BaseException as failure:
                    # The others are closed all the same.
                    failures.append(failure)
        self._note_closed()
        return failures


def log_failures(failures: list[BaseException]) -> None:
    """Log what closing has raised where nobody can be told."""
    for failure in failures:
        logger.error("a resource failed to close", exc_info=failure, extra=log_fields())


def raise_first(failures: list[BaseException]) -> None:
    """Raise the first, if there is one, and log the others."""
    log_failures(failures[1:])
    if failures:
        raise failures[0]

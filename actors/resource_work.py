"""Opening and closing resources, written once for threads and for tasks.

It is written as generators that yield what has to be waited for: `Blocking`, a call of the user's code that may block,
and `Until`, something that happens elsewhere. The body of a `def` step runs them on its own thread (`run_here`); that
of an `async def` step has the former done on a thread of the pool and awaits the latter (`run_on_loop`).
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeAlias, TypeVar

from greenroom.actors.base import Reply
from greenroom.actors.dispatcher import Dispatcher, Unlimited
from greenroom.actors.stream import settle

__all__ = ["Blocking", "Until", "Work", "run_here", "run_on_loop"]

_T = TypeVar("_T")


class Blocking(NamedTuple):
    """Code of the user's to call, which may block. It is not given up halfway."""

    function: Callable[[], Any]
    is_closing: bool


class Until(NamedTuple):
    """Something that happens elsewhere. Waiting for it may be given up unless it is `firm`."""

    reply: Reply
    firm: bool = False


Work: TypeAlias = Generator[Blocking | Until, Any, _T]


def run_here(work: Work[_T], dispatcher: Dispatcher, seconds: float | None = None) -> _T:
    """Do work on the calling thread.

    Args:
        work: The work.
        dispatcher: Where what happens elsewhere does.
        seconds: How long to wait for that at most, all in all; None for as long as it takes.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    value, error = None, None
    while True:
        try:
            wanted = work.send(value) if error is None else work.throw(error)
        except StopIteration as end:
            result: _T = end.value
            return result
        value, error = None, None
        try:
            if isinstance(wanted, Blocking):
                value = wanted.function()
            else:
                # A loop that is asked to close something from its own thread does so when it goes on.
                if not dispatcher.on_loop_thread():
                    dispatcher.wait(wanted.reply, None if deadline is None else max(0.0, deadline - time.monotonic()))
                value = wanted.reply.get(timeout=0) if wanted.reply.done else None
        except BaseException as raised:
            # The work knows what to do with it.
            error = raised


async def run_on_loop(work: Work[_T], dispatcher: Dispatcher) -> _T:
    """Do work from a task of the event loop. A cancel in the middle of what is not given up is raised after it."""
    value: Any = None
    error: BaseException | None = None
    late: asyncio.CancelledError | None = None
    while True:
        try:
            wanted = work.send(value) if error is None else work.throw(error)
        except StopIteration as end:
            if late is not None:
                raise late from None
            result: _T = end.value
            return result
        value, error = None, None
        try:
            if isinstance(wanted, Blocking):
                call = (_Closing if wanted.is_closing else _Call)(wanted.function)
                dispatcher.execute(call)
                late = await _hold(call.reply, dispatcher, call.withdraw) or late
                value = call.reply.get(timeout=0)
            elif wanted.firm:
                late = await _hold(wanted.reply, dispatcher, lambda: False) or late
                value = wanted.reply.get(timeout=0)
            elif late is not None:
                error, late = late, None
            else:
                await _hold(wanted.reply, dispatcher, lambda: True)
                value = wanted.reply.get(timeout=0)
        except BaseException as raised:
            # As above.
            error = raised


async def _hold(reply: Reply, dispatcher: Dispatcher, give_up: Callable[[], bool]) -> asyncio.CancelledError | None:
    """Await a reply. A cancel is raised if it may be given up, and otherwise returned at the end."""
    dispatcher.drive(reply)
    late: asyncio.CancelledError | None = None
    if not reply.done:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # The loop was closed; nobody awaits this any more.
                loop.call_soon_threadsafe(settle, future)

        reply.notify(wake)
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError as cancel:
                if give_up():
                    raise
                late = cancel
    return late


class _Call:
    """A call of the user's code on a thread of the pool, for an `async def` step: a body that counts as one."""

    label = "greenroom-resource"

    def __init__(self, function: Callable[[], Any]) -> None:
        self.reply = Reply()
        self._function = function
        self._begun = threading.Lock()  # Taken by the thread that runs it, or by the task that gives it up.

    def withdraw(self) -> bool:
        """Give it up, unless it has begun; return whether it was."""
        return self._begun.acquire(blocking=False)

    def run(self) -> None:
        if not self._begun.acquire(blocking=False):
            return
        try:
            self.reply.set(self._function())
        except BaseException as error:
            # Raised where it is waited for.
            self.reply.set_exception((type(error), error, None))

    def report(self) -> None:
        """There is nobody else to tell."""


class _Closing(_Call, Unlimited):
    """A call that closes something: it waits for no place, and is made even after the shutdown."""

    def withdraw(self) -> bool:
        """It is never given up."""
        return False

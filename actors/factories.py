"""Calling the factories of resources, and entering and leaving what they make.

What a plain factory makes is entered and left by calls that may block, on whatever thread. An async one lives in a task
of its own on the event loop (`Keeper`), which enters and leaves it, whatever thread or task asks for that. A keeper is
written by its task, and by whoever opens it and, later, closes it: one at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable
from contextvars import Context as Variables
from functools import partial
from typing import Any, NamedTuple

from greenroom.actors.base import Reply
from greenroom.actors.resource_work import Blocking, Until, Work
from greenroom.actors.stream import settle
from greenroom.errors import RuntimeShutdownError
from greenroom.resources import Resource, function_of

__all__ = ["Keeper", "Unentered", "directly", "enter", "is_async", "leaving", "same"]


class Unentered(NamedTuple):
    """What a factory has made that is to be awaited or entered on the event loop."""

    made: Any


def is_async(factory: Callable[..., Any]) -> bool:
    """Return whether a factory is to be called on the event loop."""
    if isinstance(factory, type):
        return hasattr(factory, "__aenter__")
    function = function_of(factory)
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def enter(make: Callable[[], Any], marker: Resource) -> Unentered | tuple[Any, Callable[..., Any] | None]:
    """Call a factory that is a plain function. Return the value and, if it is entered, what leaves it."""
    made = make()
    if inspect.isgenerator(made) and inspect.isgeneratorfunction(function_of(marker.factory)):
        made = contextlib.contextmanager(partial(same, made))()
    if inspect.isawaitable(made) or inspect.isasyncgen(made):
        return Unentered(made)
    if not _is_entered(made):
        return made, None
    if not hasattr(made, "__exit__"):
        return Unentered(made)
    return made.__enter__(), made.__exit__


def _is_entered(made: Any) -> bool:
    """Return whether what a factory made is a context manager. A lock is one as well, but nobody means to hold it."""
    if hasattr(made, "acquire") and hasattr(made, "release"):
        return False
    return (hasattr(made, "__enter__") and hasattr(made, "__exit__")) or (
        hasattr(made, "__aenter__") and hasattr(made, "__aexit__")
    )


def leaving(run: Callable[..., Any], leave: Callable[..., Any], error: BaseException | None) -> Work[None]:
    """Leave what `enter` has entered, with the error that its user ended with."""
    yield Blocking(partial(run, _leave, leave, error), True)


def _leave(leave: Callable[..., Any], error: BaseException | None) -> None:
    if error is None:
        leave(None, None, None)
        return
    try:
        leave(type(error), error, error.__traceback__)
    except BaseException as failure:
        if failure is not error:
            raise


def directly(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function, as `Context.run` does, but in the variables at hand."""
    return function(*args)


def same(made: Any) -> Any:
    """Return what is given, as a factory of what was made already."""
    return made


class Keeper:
    """The task in which an async resource lives: the one that enters it is the one that leaves it.

    Attributes:
        opened: Answered with the value, and whether there is anything to close.
        closed: Answered when it has been closed.
        failure: What closing raised.
    """

    label = "greenroom-resource"

    def __init__(self, make: Callable[[], Any], variables: Variables) -> None:
        self.opened = Reply()
        self.closed = Reply()
        self.failure: BaseException | None = None
        self._make = make
        self._variables = variables
        self._error: BaseException | None = None
        self._cancelled = False
        self._task: asyncio.Task[None] | None = None

    def create_task(self, loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        self._loop = loop
        self._stop = loop.create_future()
        self._task = loop.create_task(self._main(), name=self.label, context=self._variables)
        self._task.add_done_callback(self._ended)
        if self._cancelled:
            self._task.cancel()
        return self._task

    def report(self) -> None:
        """There is nobody to tell."""

    def refuse(self, error: BaseException) -> None:
        self.opened.set_exception((type(error), error, None))
        self.closed.set()

    def cancel(self) -> None:
        """Have the resource let go of, however far it is open."""
        self._cancelled = True
        if self._task is not None:
            with contextlib.suppress(RuntimeError):  # The loop is closed, and the task has gone with it.
                self._loop.call_soon_threadsafe(self._task.cancel)

    def close(self, error: BaseException | None) -> Work[None]:
        """Leave the resource, with the error that its user ended with."""
        self._error = error
        try:
            self._loop.call_soon_threadsafe(settle, self._stop)
        except RuntimeError as closed:  # A loop of the program's, which closed it too early.
            if not self.closed.done:
                raise RuntimeShutdownError("the event loop was closed before the resource could be") from closed
        yield Until(self.closed, firm=True)
        if self.failure is not None:
            raise self.failure

    async def _main(self) -> None:
        try:
            made = self._make()
            if inspect.isasyncgen(made):
                made = contextlib.asynccontextmanager(partial(same, made))()
            elif inspect.isawaitable(made) and not hasattr(made, "__aenter__"):
                made = await made
            if not _is_entered(made):
                self.opened.set((made, False))
                return
            async with contextlib.AsyncExitStack() as stack:
                if hasattr(made, "__aenter__"):
                    value = await stack.enter_async_context(made)
                else:
                    value = stack.enter_context(made)
                self.opened.set((value, True))
                await self._stop
                if self._error is not None:
                    raise self._error
        except BaseException as error:
            # It is raised where the resource was asked for, or where it is closed.
            if not self.opened.done:
                self.opened.set_exception((type(error), error, None))
            elif error is not self._error and not isinstance(error, asyncio.CancelledError):
                self.failure = error

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not self.opened.done:  # It was cancelled before it began.
            error = asyncio.CancelledError()
            self.opened.set_exception((type(error), error, None))
        self.closed.set()

"""One test, every kind of step: `def`, `async def`, and both in turn in one workflow.

A test writes the body of a step once, as `async def`, and decorates it with `@flow.step`. The flavour makes of it a
real `async def` step, or a real `def` step that blocks where the other awaits:

    @flow.step
    async def first(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await flow(ctx.store.set("n", 1))

Test files that use it do without `from __future__ import annotations`, so that the annotations are objects: that of the
context is swapped for the one that the kind of step needs.
"""

import asyncio
import functools
import inspect
import threading
import types
import typing
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import greenroom
from greenroom import aio

__all__ = ["DEADLINE", "FLAVOURS", "Flavour"]

# Seconds after which a wait of a test has failed. Nothing waits for so long where the behaviour holds.
DEADLINE = 20.0
FLAVOURS = ("def", "async def", "mixed")


class Flavour:
    """Makes steps of one kind. "mixed" makes them in turn, the first a `def`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._made = 0

    def step(self, function: Any = None, **options: Any) -> Any:
        """What `@step` is, for a body written as `async def`."""
        return self._decorate(greenroom.step, function, options)

    def catch_error(self, function: Any = None, **options: Any) -> Any:
        """What `@catch_error` is, for a body written as `async def`."""
        return self._decorate(greenroom.catch_error, function, options)

    def _decorate(self, decorator: Any, function: Any, options: dict[str, Any]) -> Any:
        if function is None:
            return functools.partial(self._decorate, decorator, options=options)
        is_async = self.kind == "async def" or (self.kind == "mixed" and self._made % 2 == 1)
        self._made += 1
        made = function if is_async else _as_def(function)
        if is_async:
            made.__annotations__ = {name: _async_context(hint) for name, hint in function.__annotations__.items()}
        return decorator(**options)(made) if options else decorator(made)

    async def __call__(self, answer: Any) -> Any:
        """What a call of a context or a store gives: awaited, or as it is."""
        return await answer if inspect.isawaitable(answer) else answer

    async def until(self, event: threading.Event) -> None:
        """Wait within a step for an event that the test sets: blocking, or without blocking the loop."""
        if not in_async_step():
            assert event.wait(DEADLINE), "the test never set the event"
            return
        assert await asyncio.to_thread(event.wait, DEADLINE), "the test never set the event"

    async def meet(self, barrier: threading.Barrier) -> None:
        """Wait within a step until as many steps as the barrier counts have come."""
        if in_async_step():
            await asyncio.to_thread(barrier.wait, DEADLINE)
        else:
            barrier.wait(DEADLINE)

    @asynccontextmanager
    async def editing(self, context: Any) -> AsyncIterator[Any]:
        """What `ctx.store.edit_state()` is."""
        manager = context.store.edit_state()
        if hasattr(manager, "__aenter__") and isinstance(context, aio.Context):
            async with manager as state:
                yield state
        else:
            with manager as state:
                yield state


def in_async_step() -> bool:
    """Whether the code runs as a task on a loop, not driven by `_as_def`."""
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False


def _as_def(function: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
    """Make a `def` of an `async def` in which nothing really suspends."""

    @functools.wraps(function)
    def body(*args: Any, **kwargs: Any) -> Any:
        coroutine = function(*args, **kwargs)
        try:
            coroutine.send(None)
        except StopIteration as end:
            return end.value
        coroutine.close()
        raise AssertionError("the body of a def step awaited something that suspends; go through the flavour")

    return body


def _async_context(hint: Any) -> Any:
    """Swap `greenroom.Context` for `greenroom.aio.Context` in an annotation."""
    if hint is greenroom.Context:
        return aio.Context
    if typing.get_origin(hint) is greenroom.Context:
        return aio.Context[typing.get_args(hint)[0]]
    if isinstance(hint, types.UnionType):
        return functools.reduce(lambda a, b: a | b, map(_async_context, typing.get_args(hint)))
    return hint

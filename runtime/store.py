"""`ctx.store`: the state that the steps of a run share, as steps and handlers see it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Generic, cast

from typing_extensions import TypeVar

from greenroom.errors import StepCancelled
from greenroom.facts import Caller
from greenroom.ports import HasPort, StepPort
from greenroom.state import UNSET, StoreCall

__all__ = ["AsyncStore", "Store"]

S = TypeVar("S", default=Any)


class Store(Generic[S]):
    """The state of a run, from code that waits by blocking. A path is text such as `user.tags.0`; "" is the whole."""

    __slots__ = ("_context", "_owner")

    def __init__(self, context: HasPort) -> None:
        # Not its port: when the context runs again, a store that somebody kept goes with it.
        self._context = context
        self._owner = _owner(context._step)

    def get(self, path: str, default: Any = UNSET) -> Any:
        """Return what is at a path: the state's own object, to be read, not changed.

        Raises:
            ValueError: If nothing is there and no default was given.
        """
        return self._ask("get", path, default)

    def set(self, path: str, value: Any) -> None:
        """Put a value at a path, making dicts on the way. It waits while somebody edits.

        Raises:
            ValueError: If the path is empty or too deep, or no index of a list on its way.
        """
        self._ask("set", path, value)

    def get_state(self) -> S:
        """Return a shallow copy of the whole state."""
        return cast("S", self._ask("get_state"))

    def set_state(self, state: Any) -> None:
        """Replace the whole state; one of a base class only replaces the fields that it has.

        Raises:
            ValueError: If it is of another class.
        """
        self._ask("set_state", state)

    def clear(self) -> None:
        """Set the state back to its defaults."""
        self._ask("clear")

    @contextmanager
    def edit_state(self) -> Iterator[S]:
        """Edit a copy of the state that takes its place on a normal end of the block; on an exception nothing changes.

        Meanwhile others read the state as it was, and their writes wait. Writing to the store inside the block raises
        RuntimeError, since it would wait for itself.

        Example:
            >>> from greenroom import Context, StartEvent, StopEvent, Workflow, step
            >>> class Add(Workflow):
            ...     @step
            ...     def add(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ...         with ctx.store.edit_state() as state:
            ...             state["total"] = state.get("total", 0) + ev.n
            ...         return StopEvent(result=ctx.store.get("total"))
            >>> Add().run(n=2).result()
            2
        """
        try:
            draft = self._ask("begin_edit")
        except Exception:
            raise
        except BaseException:
            # Interrupted while it waited in line: the turn that may still come must not be given to nobody.
            self._abort_edit()
            raise
        try:
            yield draft
        except BaseException:
            self._abort_edit()
            raise
        self._ask("commit_edit", draft)

    def _abort_edit(self) -> None:
        with suppress(StepCancelled):  # the end of a step drops its edit by itself
            self._ask("abort_edit")

    def _ask(self, method: str, *arguments: Any) -> Any:
        return self._context._port.ask(StoreCall(method, arguments, self._owner))


class AsyncStore(Generic[S]):
    """The state of a run, from code that awaits. The methods are those of `Store`."""

    __slots__ = ("_context", "_owner")

    def __init__(self, context: HasPort) -> None:
        # Not its port: when the context runs again, a store that somebody kept goes with it.
        self._context = context
        self._owner = _owner(context._step)

    async def get(self, path: str, default: Any = UNSET) -> Any:
        """See `Store.get`."""
        return await self._ask("get", path, default)

    async def set(self, path: str, value: Any) -> None:
        """See `Store.set`."""
        await self._ask("set", path, value)

    async def get_state(self) -> S:
        """See `Store.get_state`."""
        return cast("S", await self._ask("get_state"))

    async def set_state(self, state: Any) -> None:
        """See `Store.set_state`."""
        await self._ask("set_state", state)

    async def clear(self) -> None:
        """See `Store.clear`."""
        await self._ask("clear")

    @asynccontextmanager
    async def edit_state(self) -> AsyncIterator[S]:
        """See `Store.edit_state`."""
        try:
            draft = await self._ask("begin_edit")
        except Exception:
            raise
        except BaseException:
            # Interrupted while it waited in line: the turn that may still come must not be given to nobody.
            await self._abort_edit()
            raise
        try:
            yield draft
        except BaseException:
            await self._abort_edit()
            raise
        await self._ask("commit_edit", draft)

    async def _abort_edit(self) -> None:
        with suppress(StepCancelled):  # the end of a step drops its edit by itself
            await self._ask("abort_edit")

    async def _ask(self, method: str, *arguments: Any) -> Any:
        return await self._context._port.ask_async(StoreCall(method, arguments, self._owner))


def _owner(step: StepPort | None) -> Hashable:
    """Return who calls the store: the attempt at an invocation, or the thread or task outside."""
    if step is not None:
        return Caller(step.invocation.number, step.attempt)
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return ("task", id(task)) if task is not None else ("thread", threading.get_ident())

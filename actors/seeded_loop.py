"""The event loop of a seeded dispatcher: virtual time, one callback at a time, no input or output."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import sys
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from greenroom.actors.strand import Call

if TYPE_CHECKING:
    from greenroom.actors.seeded import SeededDispatcher

__all__ = ["SeededLoop"]


class SeededLoop(asyncio.BaseEventLoop):
    """Runs a callback when the dispatcher draws it. It never runs by itself, and has no sockets and no processes.

    Attributes:
        callbacks: Those that wait, in order.
        tasks: Those that have not ended, in the order they were made.
    """

    def __init__(self, dispatcher: SeededDispatcher) -> None:
        super().__init__()
        self._dispatcher = dispatcher
        self.callbacks: deque[asyncio.Handle] = deque()
        self.tasks: dict[asyncio.Task[Any], None] = {}

    def is_running(self) -> bool:
        return asyncio._get_running_loop() is self

    def time(self) -> float:
        return self._dispatcher.now()

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = super().create_task(coro, **options)
        self.tasks[task] = None
        task.add_done_callback(self._forget, context=contextvars.Context())
        return task

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:  # type: ignore[override]
        handle = asyncio.Handle(callback, args, self, context)
        self.callbacks.append(handle)
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._dispatcher.add_deadline(when, handle)
        return handle

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Run a function as `asyncio.to_thread` does, but on the schedule. No executor is used."""
        future = self.create_future()

        def ended(call: Call) -> None:
            if not future.done():
                self.call_soon(_settle, future, call)

        self._dispatcher.execute(Call(self._dispatcher, functools.partial(func, *args), ended))
        return future

    def mind_generators(self) -> None:
        """See to the async generators that nobody finishes on the calling thread, as a loop does while it runs."""
        loop: Any = self  # These are asyncio's own, for loops like this.
        sys.set_asyncgen_hooks(loop._asyncgen_firstiter_hook, loop._asyncgen_finalizer_hook)

    def run_one(self) -> None:
        """Run the callback that has waited longest."""
        handle = self.callbacks.popleft()
        if handle.cancelled():
            return
        asyncio._set_running_loop(self)
        try:
            handle._run()
        finally:
            asyncio._set_running_loop(None)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self.tasks.pop(task, None)


def _settle(future: asyncio.Future[Any], call: Call) -> None:
    if future.done():
        return
    try:
        future.set_result(call.result())
    except BaseException as error:
        # What the function raised belongs to whoever awaits it.
        future.set_exception(error)

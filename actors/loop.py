"""The thread of the event loop, on which the bodies of `async def` steps run.

It starts with the first such body, or is the thread of a loop that the program gave. A body that has just ended runs
the turns that follow from its end on this same thread, so that a chain of async steps never leaves it; but a thread
that is the program's main one runs no turns, since there a KeyboardInterrupt may strike between any two instructions.

`_tasks` is touched on the loop's thread only. `_starting` protects the start.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from greenroom.actors.base import here

if TYPE_CHECKING:
    from greenroom.actors.base import PooledActor
    from greenroom.actors.dispatcher import AsyncBody

__all__ = ["LoopLane", "LoopThread"]


class LoopLane:
    """The queue of actors whose turns follow from a body that has just ended on the loop's thread."""

    __slots__ = ("dispatcher", "open", "queue")

    def __init__(self, dispatcher: Any) -> None:
        self.dispatcher = dispatcher
        self.open = False
        self.queue: deque[PooledActor] = deque()

    def drain(self) -> None:
        """Run the turns that wait, and those that follow from them."""
        while self.queue:
            self.queue.popleft().run_turn()


class LoopThread:
    """Runs async bodies."""

    def __init__(self, dispatcher: Any, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._dispatcher = dispatcher
        self._lane = LoopLane(dispatcher)
        self._is_ours = loop is None
        self._loop = loop
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def is_current(self) -> bool:
        """Return whether the calling thread is the loop's."""
        return self._loop is not None and asyncio._get_running_loop() is self._loop

    def execute(self, body: AsyncBody) -> None:
        """Begin a body; from any thread."""
        if self.is_current():
            self._begin(body)
        else:
            self._running_loop().call_soon_threadsafe(self._begin, body)

    def end(self, timeout: float) -> None:
        """Cancel all bodies and, if the thread is ours, end it."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        loop.call_soon_threadsafe(self._cancel_all)
        if self._is_ours and self._thread is not None and self._thread is not threading.current_thread():
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join(timeout)

    def _begin(self, body: AsyncBody) -> None:
        task = body.create_task(asyncio.get_running_loop())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def report(self, body: AsyncBody) -> None:
        """Report a body's end and run what follows from it. Called by the body, on the loop, as its last act."""
        if threading.current_thread() is threading.main_thread() or here.actor is not None:
            body.report()
            return
        lane = self._lane
        here.lane = lane
        lane.open = True
        try:
            body.report()
            lane.drain()
        finally:
            lane.open = False

    def _cancel_all(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            with self._starting:
                if self._loop is None:
                    loop = asyncio.new_event_loop()
                    self._thread = threading.Thread(target=self._run, args=(loop,), name="greenroom-loop", daemon=True)
                    self._thread.start()
                    self._loop = loop
        return self._loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()

"""The thread of the event loop, on which the bodies of `async def` steps run.

It starts with the first such body, or is the thread of a loop that the program gave. A body that has just ended runs
the turns that follow from its end on this same thread, so that a chain of async steps never leaves it; but a thread
that is the program's main one runs no turns, since there a KeyboardInterrupt may strike between any two instructions.

A body that cannot begin, since the loop was closed or the runtime shut down, is refused: its run is told. The same
goes for one whose task is cancelled before it began. So each body is reported, as long as the runtime lives.

`_tasks` is touched on the loop's thread only. `_starting` protects the start, and `_ended` against it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from greenroom.actors.base import here
from greenroom.errors import RuntimeShutdownError

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
        self._loop = loop
        self._thread: threading.Thread | None = None  # if the loop is ours
        self._starting = threading.Lock()
        self._ended = False
        self._tasks: set[asyncio.Task[None]] = set()

    def is_current(self) -> bool:
        """Return whether the calling thread is the loop's."""
        return self._loop is not None and asyncio._get_running_loop() is self._loop

    def execute(self, body: AsyncBody) -> None:
        """Begin a body; from any thread."""
        if self.is_current():
            self._begin(body)
            return
        try:
            self._running_loop().call_soon_threadsafe(self._begin, body)
        except RuntimeError as error:  # It is closed, or no thread can start.
            body.refuse(_shut_down() if self._ended else error)

    def end(self, timeout: float) -> None:
        """Cancel all bodies and, if the thread is ours, end it."""
        with self._starting:
            self._ended = True
        loop, thread = self._loop, self._thread
        if loop is None:
            return
        with contextlib.suppress(RuntimeError):  # It is closed, so there is nothing left to cancel.
            loop.call_soon_threadsafe(self._cancel_all)
            if thread is not None:
                loop.call_soon_threadsafe(loop.stop)
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _begin(self, body: AsyncBody) -> None:
        if self._ended:
            body.refuse(_shut_down())
            return
        task = body.create_task(asyncio.get_running_loop())
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._forget, body))

    def _forget(self, body: AsyncBody, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():  # before it had begun: one that has begun reports by itself
            body.refuse(asyncio.CancelledError())

    def report(self, body: AsyncBody) -> None:
        """Report a body's end and run what follows from it. Called by the body, on the loop, as its last act."""
        if threading.current_thread() is threading.main_thread() or here.actor is not None:
            body.report()
            return
        lane = self._lane
        outer, here.lane = here.lane, lane
        lane.open = True
        try:
            body.report()
            lane.drain()
        finally:
            lane.open = False
            here.lane = outer

    def _cancel_all(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _settle(self) -> None:
        # Within the loop: outside it `gather` of nothing asks the policy for a loop, which a program may have changed.
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            with self._starting:
                if self._ended:
                    raise RuntimeError("no loop is started after the end")
                if self._loop is None:
                    loop = asyncio.new_event_loop()
                    thread = threading.Thread(target=self._run, args=(loop,), name="greenroom-loop", daemon=True)
                    try:
                        thread.start()
                    except RuntimeError:
                        loop.close()
                        raise
                    self._thread, self._loop = thread, loop
        return self._loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            loop.run_until_complete(self._settle())
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()


def _shut_down() -> RuntimeShutdownError:
    return RuntimeShutdownError("the runtime was shut down before the step could begin")

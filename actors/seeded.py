"""The dispatcher for tests: everything of a run on a schedule drawn from a seed, with a virtual clock.

One thing runs at a time. Whoever waits, as the thread that calls `handler.result()`, drives: it draws what runs next
among the actors that have messages, the bodies that can go on, and the event loop, and lets it do one message, one
stretch of a body up to its next call into the engine, or one callback of the loop. So the same seed gives the same run,
and other seeds give other interleavings. Each step takes up to a millisecond of virtual time; when nothing can run the
clock jumps to the next deadline, so that no test waits for time to pass.

Threads. The body of a `def` step needs a thread to stand on, its strand; but a strand runs only between `resume` and
the next `pause`, while the driver is blocked in `resume`. So all state here is touched by one thread at a time.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import random
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

from pykka._envelope import Envelope

from greenroom.actors.base import here
from greenroom.actors.dispatcher import AsyncBody, Body, Timer, Waitable
from greenroom.errors import DeadlockError, StepCancelled

if TYPE_CHECKING:
    from greenroom.actors.base import PooledActor, Ref

__all__ = ["SeededDispatcher"]

# What comes due: a message for an actor, a callback of the loop, or nothing but the time itself.
_Due: TypeAlias = Timer | asyncio.TimerHandle | None
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_STEP_SECONDS = 0.001


class SeededDispatcher:
    """Runs actors and bodies one at a time, in an order drawn from a seed.

    Attributes:
        trace: What ran, in order.
    """

    batch = 1

    def __init__(self, seed: int) -> None:
        """Make a dispatcher.

        Args:
            seed: Decides the schedule.
        """
        self.closed = False
        self.trace: list[str] = []
        self._random = random.Random(seed)
        self._now = 0.0
        self._actors: list[PooledActor] = []
        self._strands: list[_Strand] = []
        self._spare: list[_Strand] = []
        self._timers: list[tuple[float, int, _Due]] = []
        self._serial = itertools.count()
        self._loop = _SeededLoop(self)
        self._tasks: set[asyncio.Task[None]] = set()
        self._driving = threading.Lock()  # Held by the thread that drives.

    # -- turns and bodies ----------------------------------------------------------------------------------------------

    def schedule(self, actor: PooledActor) -> None:
        if self.closed:
            actor.run_turn()
            return
        actor.scheduled = True
        self._actors.append(actor)
        strand = here.lane
        if isinstance(strand, _Strand) and strand.dispatcher is self:
            strand.pause(None)

    def serve(self, actor: PooledActor, envelope: Envelope[Any]) -> None:
        if self.closed or self.on_loop_thread():
            # A coroutine cannot be paused in a call that it does not await: the actor is served in place.
            actor.put_unannounced(envelope)
            reply: Any = envelope.reply_to
            while not actor.empty() and not reply.done and actor.serve_here():
                continue
        else:
            actor.put(envelope)

    def execute(self, body: Body) -> None:
        if self.closed:
            body.run()
            return
        strand = self._spare.pop() if self._spare else _Strand(self)
        strand.body = body
        self._strands.append(strand)

    def execute_async(self, body: AsyncBody) -> None:
        self._loop.call_soon(self._begin, body)

    def report_async(self, body: AsyncBody) -> None:
        body.report()

    def _begin(self, body: AsyncBody) -> None:
        task = body.create_task(self._loop)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- waiting is driving --------------------------------------------------------------------------------------------

    def wait(self, waitable: Waitable, timeout: float | None = None) -> bool:
        strand = here.lane
        if isinstance(strand, _Strand) and strand.dispatcher is self:
            return strand.wait(waitable, timeout)
        if self.on_loop_thread():
            raise DeadlockError("the event loop of a seeded runtime cannot block: await instead")
        return self._drive(waitable.is_done, timeout)

    def drive(self, waitable: Waitable) -> None:
        if here.lane is None and not self.on_loop_thread() and not self.closed:
            self._drive(waitable.is_done, None)

    def run_until_idle(self) -> None:
        """Run all that can run without the clock having to jump."""
        with self._driving:
            while self._step():
                continue

    def advance(self, seconds: float) -> None:
        """Let virtual time pass, and run all that comes due in it."""
        self._drive(lambda: False, seconds)

    def _drive(self, is_done: Callable[[], bool], timeout: float | None) -> bool:
        deadline = None if timeout is None else self._now + timeout
        with self._driving:
            while not is_done():
                if deadline is not None and self._now >= deadline:
                    return False
                if self._step():
                    continue
                due = self._next_deadline()
                if due is None and deadline is None:
                    raise DeadlockError(
                        "nothing is left to run, no timer is set, and what is waited for has not come; the last steps"
                        f" were: {', '.join(self.trace[-10:])}"
                    )
                self._now = max(self._now, min(at for at in (due, deadline) if at is not None))
        return True

    def _step(self) -> bool:
        """Run one thing; return whether there was one."""
        self._fire_timers()
        strands = [strand for strand in self._strands if strand.can_run()]
        choices = len(self._actors) + len(strands) + (1 if self._loop.callbacks else 0)
        if not choices:
            return False
        self._now += self._random.random() * _STEP_SECONDS
        chosen = self._random.randrange(choices)
        if chosen < len(self._actors):
            actor = self._actors.pop(chosen)
            self.trace.append(type(actor).__name__)
            actor.run_turn()
        elif chosen - len(self._actors) < len(strands):
            strand = strands[chosen - len(self._actors)]
            self.trace.append(strand.label)
            strand.resume()
            if strand.body is None:
                self._strands.remove(strand)
                self._spare.append(strand)
        else:
            self.trace.append("loop")
            self._loop.run_one()
        return True

    # -- time ----------------------------------------------------------------------------------------------------------

    def now(self) -> float:
        return self._now

    def wall_time(self) -> datetime:
        return _EPOCH + timedelta(seconds=self._now)

    def set_timer(self, at: float, ref: Ref, message: Any) -> Timer:
        timer = Timer(at, ref, message)
        self.add_deadline(at, timer)
        return timer

    def drop_timer(self, timer: Timer) -> None:
        timer.cancelled = True

    def add_deadline(self, at: float, what: _Due) -> None:
        """Have a timer fire, a handle of the loop run, or just the clock stop, at a virtual time."""
        heapq.heappush(self._timers, (at, next(self._serial), what))

    def _next_deadline(self) -> float | None:
        while self._timers and _is_dropped(self._timers[0][2]):
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def _fire_timers(self) -> None:
        while (due := self._next_deadline()) is not None and due <= self._now:
            what = heapq.heappop(self._timers)[2]
            if isinstance(what, Timer):
                what.ref.tell_control(what.message)
            elif what is not None:
                self._loop.callbacks.append(what)

    # -- the rest of the seam ------------------------------------------------------------------------------------------

    def on_loop_thread(self) -> bool:
        return asyncio._get_running_loop() is self._loop

    def dead_letter(self, actor: PooledActor, message: Any) -> None:
        self.trace.append(f"dead letter of {type(actor).__name__}: {type(message).__name__}")

    def shutdown(self, timeout: float) -> None:
        self.closed = True
        for task in list(self._tasks):
            task.cancel()
        while self._loop.callbacks:
            self._loop.run_one()
        for strand in (*self._strands, *self._spare):
            strand.end(timeout)
        self._strands.clear()
        self._spare.clear()
        for actor in self._actors:
            actor.run_turn()
        self._actors.clear()
        self._loop.close()


class _Strand:
    """A thread for bodies that runs only while the driver lets it."""

    def __init__(self, dispatcher: SeededDispatcher) -> None:
        self.dispatcher = dispatcher
        self.body: Body | None = None
        self._waits_for: Waitable | None = None
        self._until: float | None = None
        self._go = threading.Semaphore(0)
        self._back = threading.Semaphore(0)
        self._thread: threading.Thread | None = None

    @property
    def label(self) -> str:
        """The step whose body it runs."""
        return "" if self.body is None else self.body.label

    def can_run(self) -> bool:
        """Return whether it waits for nothing, or for what has come."""
        timed_out = self._until is not None and self.dispatcher.now() >= self._until
        return self._waits_for is None or self._waits_for.is_done() or timed_out

    def resume(self) -> None:
        """Let it run up to its next pause. Called by the driver."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="greenroom-strand", daemon=True)
            contextvars.Context().run(self._thread.start)
        self._go.release()
        self._back.acquire()

    def pause(self, waits_for: Waitable | None) -> None:
        """Give control back until the driver draws this strand again. Called by the body."""
        if self.dispatcher.closed:
            return
        self._waits_for = waits_for
        self._back.release()
        self._go.acquire()
        self._waits_for = None
        if self.dispatcher.closed:
            raise StepCancelled("the seeded runtime was shut down")

    def wait(self, waitable: Waitable, timeout: float | None) -> bool:
        """Pause until something is done, at most for some virtual seconds."""
        if timeout is not None:
            self._until = self.dispatcher.now() + timeout
            self.dispatcher.add_deadline(self._until, None)
        while not waitable.is_done() and (self._until is None or self.dispatcher.now() < self._until):
            self.pause(waitable)
        self._until = None
        return waitable.is_done()

    def end(self, timeout: float) -> None:
        """Unwind the body that is paused, and end the thread."""
        if self._thread is not None:
            self._go.release()
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self.dispatcher.closed:
            self._go.acquire()
            if self.body is None or self.dispatcher.closed:
                return
            here.lane = self
            try:
                self.body.run()
            finally:
                here.lane = None
                body, self.body = self.body, None
                body.report()
                del body
                self._back.release()


class _SeededLoop(asyncio.SelectorEventLoop):
    """An event loop that keeps virtual time and runs one callback when it is told to."""

    def __init__(self, dispatcher: SeededDispatcher) -> None:
        super().__init__()
        self._dispatcher = dispatcher
        self.callbacks: deque[asyncio.Handle] = deque()

    def time(self) -> float:
        return self._dispatcher.now()

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

    def run_one(self) -> None:
        """Run the callback that has waited longest."""
        handle = self.callbacks.popleft()
        if handle.cancelled():
            return
        outer = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            handle._run()
        finally:
            asyncio._set_running_loop(outer)


def _is_dropped(what: _Due) -> bool:
    if what is None:
        return False
    return what.cancelled if isinstance(what, Timer) else what.cancelled()

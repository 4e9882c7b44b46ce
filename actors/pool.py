"""The dispatcher that programs run on: a small elastic pool of threads.

Threads. A worker runs turns of actors, which never block, and bodies of steps, which may. While it runs a body it is of
no use to actors; so before it enters one it makes sure that another worker is awake or stands by, and starts one if
need be. With that rule kept by the workers, a thread outside only has to put an actor into the inlet, a single C call
that no KeyboardInterrupt can tear apart. A worker keeps the actors that it schedules itself in its own lane, so that
a chain of steps stays on one thread and wakes nobody: waking a thread costs more than a hop.

The main thread never runs a turn, since a KeyboardInterrupt may strike there between any two instructions. After the
end it may have to: when the workers have gone, whoever sends does on his own thread what follows from it.

State. `_lock` protects the counters `_awake`, `_idle`, `_running`, `_waking` and `_threads`; it is held for a few lines
and never while a turn, a body or a callback runs. `_starting` protects the start of a worker from outside, `_started`.
`_bodies` and `_unlimited` are deques, appended to by any thread.
- `_awake`: workers that are about to look for work. `_idle`: those that wait at the inlet.
- `_running`: limited bodies that run and do not wait within the engine. `_waking`: a WAKE token is on its way.
- `_started`: a worker exists, and none was refused by the system since; else whoever sends from outside tries again.

Guarantees: no limited body begins while `max_threads` of them run; an actor that has been scheduled gets a turn however
many bodies block; a body waits only while the limit is reached. A body that has waited within the engine goes on at
once, even if others have taken its place: were it held back, one that holds a lock of the user's could wait for ever
for a place that is taken by those who want the lock.

The end. Whoever sends puts into the inlet, then looks at `closed`; `shutdown` sets `closed`, and at last looks into the
inlet. So one of the two runs the turn, or a worker does that has not left yet.
"""

from __future__ import annotations

import contextvars
import logging
import queue
import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pykka._envelope import Envelope

from greenroom.actors.base import here
from greenroom.actors.dispatcher import AsyncBody, Body, Timer, Unlimited, Waitable
from greenroom.actors.loop import LoopThread
from greenroom.actors.timer import TimerActor
from greenroom.log_fields import log_fields

if TYPE_CHECKING:
    import asyncio

    from greenroom.actors.base import PooledActor, Ref

__all__ = ["PoolDispatcher"]

IDLE_SECONDS = 10.0
RETRY_SECONDS = 0.1
SIGNAL_SECONDS = 0.2
_WAKE: Any = object()
_EXIT: Any = object()  # The dispatcher has been shut down. Whoever takes it out puts it back.
_LEAVE: Any = object()
logger = logging.getLogger("greenroom.actors")


class _Lane:
    """What a worker keeps to itself. `open` is False while it runs a body: then nobody would serve the queue."""

    __slots__ = ("dispatcher", "in_limited_body", "open", "queue")

    def __init__(self, dispatcher: PoolDispatcher) -> None:
        self.dispatcher = dispatcher
        self.open = True
        self.in_limited_body = False
        self.queue: deque[PooledActor] = deque()


class PoolDispatcher:
    """Multiplexes actors and bodies over threads that it starts when they are needed and keeps for reuse."""

    batch = 64

    def __init__(self, max_threads: int, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Make a dispatcher; no thread starts before the first message.

        Args:
            max_threads: How many bodies may run at once.
            loop: An event loop of the program's for async bodies; None for one of our own.
        """
        self.closed = False
        self._max_threads = max_threads
        self._inlet: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._bodies: deque[Body] = deque()
        self._unlimited: deque[Body] = deque()
        self._lock = threading.Lock()
        self._starting = threading.Lock()
        self._awake = self._idle = self._running = 0
        self._waking = False
        self._started = False
        self._threads: set[threading.Thread] = set()
        self._names = 0
        self._timer = TimerActor()
        self._loop = LoopThread(self, loop)
        self._main = threading.main_thread().ident

    # -- turns ---------------------------------------------------------------------------------------------------------

    def schedule(self, actor: PooledActor) -> None:
        lane = here.lane
        if lane is not None and lane.open and lane.dispatcher is self:
            actor.scheduled = True
            lane.queue.append(actor)
            return
        # On the main thread an interrupt could come between the flag and the put, and the flag would stay for ever.
        if threading.get_ident() != self._main:
            actor.scheduled = True
        self._inlet.put(actor)
        if self.closed:
            self._finish_up()
        elif not self._started:
            self._start()

    def serve(self, actor: PooledActor, envelope: Envelope[Any]) -> None:
        actor.put_unannounced(envelope)
        if threading.get_ident() == self._main:
            self.schedule(actor)
            return
        self._serve_here(actor)
        if self.closed:
            self._finish_up()

    def _serve_here(self, actor: PooledActor) -> None:
        """Run the actor's turn, and those that follow from it, if no other thread is at it.

        Another thread that has the turn looks at the mailbox again after giving it back.
        """
        lane = here.lane
        if type(lane) is not _Lane or lane.open or lane.dispatcher is not self:
            actor.serve_here()
            return
        # Within a body: its worker runs turns for a moment, as it does between bodies.
        lane.open = True
        actor.serve_here()
        while lane.queue:
            lane.queue.popleft().run_turn()
        lane.open = False
        if self._bodies or self._unlimited:
            self._wake_for_bodies()

    def _wake_for_bodies(self) -> None:
        """See to it that somebody looks for bodies."""
        # Looked at without the lock, to be looked at again with it. Whoever goes to sleep looks for bodies once more.
        if not self._awake and not self._waking:
            with self._lock:
                wake = self._wants_waking()
            if wake:
                self._inlet.put(_WAKE)

    # -- bodies --------------------------------------------------------------------------------------------------------

    def execute(self, body: Body) -> None:
        (self._unlimited if isinstance(body, Unlimited) else self._bodies).append(body)
        lane = here.lane
        if type(lane) is _Lane and lane.open and lane.dispatcher is self:
            return  # This very worker looks for bodies next.
        self._wake_for_bodies()
        if self.closed:
            self._finish_up()
        elif not self._started:
            self._start()

    def execute_async(self, body: AsyncBody) -> None:
        self._loop.execute(body)

    def report_async(self, body: AsyncBody) -> None:
        """Report an async body's end, from its own task."""
        self._loop.report(body)

    # -- waiting -------------------------------------------------------------------------------------------------------

    def wait(self, waitable: Waitable, timeout: float | None = None) -> bool:
        if waitable.is_done():
            return True
        lane = here.lane
        if type(lane) is _Lane and lane.in_limited_body:
            # The place that the body has is in the pool that runs it, whichever pool the run is in that it waits for.
            lane.dispatcher._wait_in_body(waitable, timeout)
            return waitable.is_done()
        while not (self._started or self.closed or self._start() or waitable.is_done()):
            # The system refuses the first thread: without one, nothing would ever come.
            pause = RETRY_SECONDS if timeout is None else min(timeout, RETRY_SECONDS)
            waitable.block(pause)
            if timeout is not None and (timeout := timeout - pause) <= 0:
                return waitable.is_done()
        if threading.get_ident() == self._main:
            self._wait_on_main(waitable, timeout)
        else:
            waitable.block(timeout)
        return waitable.is_done()

    def _wait_on_main(self, waitable: Waitable, timeout: float | None) -> None:
        """Block the main thread in slices.

        A signal that comes just before it blocks, or to another thread, does not wake it: Python would run the signal's
        handler only when the wait is over. So Ctrl-C takes a slice at most.
        """
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        while not waitable.is_done() and (left := deadline - time.monotonic()) > 0:
            waitable.block(min(left, SIGNAL_SECONDS))

    def _wait_in_body(self, waitable: Waitable, timeout: float | None) -> None:
        """Block a body of this pool, which leaves its place to another meanwhile.

        So bodies that wait for each other's runs cannot use the threads up.
        """
        with self._lock:
            self._running -= 1
        self._wake_for_bodies()
        try:
            waitable.block(timeout)
        finally:
            with self._lock:
                self._running += 1

    def drive(self, waitable: Waitable) -> None:
        """The workers do it."""

    def checkpoint(self) -> None:
        """Bodies run side by side."""

    # -- time ----------------------------------------------------------------------------------------------------------

    def now(self) -> float:
        return time.monotonic()

    def wall_time(self) -> datetime:
        return datetime.now(UTC)

    def set_timer(self, at: float, ref: Ref, message: Any) -> Timer:
        timer = Timer(at, ref, message)
        self._timer.set(timer)
        return timer

    def drop_timer(self, timer: Timer) -> None:
        self._timer.actor_inbox.drop(timer)

    # -- the rest of the seam ------------------------------------------------------------------------------------------

    def on_loop_thread(self) -> bool:
        return self._loop.is_current()

    def dead_letter(self, actor: PooledActor, message: Any) -> None:
        logger.debug(
            "%s had stopped before it could handle %s", actor, type(message).__name__, extra=actor.log_fields()
        )

    def thread_count(self) -> int:
        return len(self._threads)

    def shutdown(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        self.closed = True
        self._timer.end(timeout)
        self._loop.end(max(0.0, deadline - time.monotonic()))
        self._inlet.put(_EXIT)
        while True:
            with self._lock:
                threads = [t for t in self._threads if t.is_alive() and t is not threading.current_thread()]
            left = deadline - time.monotonic()
            if not threads or left <= 0:
                break
            threads[0].join(left)  # One that was at work may have started another, so look again.
        self._finish_up()

    def _finish_up(self) -> None:
        """Run what is left of turns and callbacks on the calling thread: after the end there may be nobody else."""
        if here.actor is not None:
            return  # Within a turn that `serve` has begun on this thread: it comes here after the turn.
        outer, lane = here.lane, _Lane(self)
        here.lane = lane
        try:
            while True:
                if lane.queue:
                    lane.queue.popleft().run_turn()
                    continue
                try:
                    item = self._inlet.get_nowait()
                    if item is not _EXIT and item is not _WAKE:
                        item.run_turn()
                except queue.Empty:
                    try:
                        callback = self._unlimited.popleft()
                    except IndexError:
                        return
                    lane.open = False
                    try:
                        callback.run()
                    except Exception:
                        logger.exception("a callback failed", extra=log_fields())
                    lane.open = True
                    callback.report()
        finally:
            here.lane = outer
            for actor in lane.queue:
                self._inlet.put(actor)
            self._inlet.put(_EXIT)

    # -- workers -------------------------------------------------------------------------------------------------------

    def _start(self) -> bool:
        """Start a worker from outside; return whether there is one.

        An interrupt on the main thread leaves nothing half done: the worker counts itself, and a second one is no harm.
        """
        with self._starting:
            if not self._started:
                self._started = self._spawn(counted=False)
            return self._started

    def _spawn(self, *, counted: bool) -> bool:
        """Start a worker, which the caller may have counted as awake; return whether the system let it start."""
        with self._lock:
            self._names += 1
            name = f"greenroom-worker-{self._names}"
            thread = threading.Thread(target=self._work, name=name, args=(name, counted), daemon=True)
            self._threads.add(thread)
        try:
            # An empty context: from Python 3.14 on, a thread may inherit that of whoever starts it.
            contextvars.Context().run(thread.start)
        except RuntimeError as error:
            self._started = False
            with self._lock:
                self._threads.discard(thread)
                if counted:
                    self._awake -= 1
            # From Python 3.12 on an interpreter that ends starts no threads; that is no news to anybody.
            if "interpreter shutdown" not in str(error):
                logger.warning("no further thread can be started; steps wait for one that is busy", extra=log_fields())
            return False
        return True

    def _work(self, name: str, counted: bool) -> None:
        lane = here.lane = _Lane(self)
        turns, inlet = lane.queue, self._inlet
        thread = threading.current_thread()
        if not counted:
            with self._lock:
                self._awake += 1
        try:
            while True:
                if turns:
                    turns.popleft().run_turn()
                    continue
                if not inlet.empty():
                    try:
                        item = inlet.get_nowait()
                    except queue.Empty:
                        continue
                elif (self._bodies or self._unlimited) and (body := self._take_body(lane)) is not None:
                    self._run_bodies(body, lane, thread)
                    del body
                    continue
                else:
                    thread.name = name  # while it ran bodies, it bore the name of the last
                    item = self._stand_by()
                if item is _LEAVE:
                    return
                if item is _EXIT:
                    inlet.put(_EXIT)
                    if self._unlimited and (body := self._take_body(lane)) is not None:
                        self._run_bodies(body, lane, thread)
                        del body
                        continue
                    with self._lock:
                        self._awake -= 1
                    return
                if item is _WAKE:
                    with self._lock:
                        self._waking = False
                elif item is not None:
                    item.run_turn()
                del item
        finally:
            with self._lock:
                self._threads.discard(thread)

    def _stand_by(self) -> Any:
        """Wait at the inlet; return what came, None to look again, or LEAVE: then this worker counts no more."""
        with self._lock:
            # First no longer awake, then the look for bodies: whoever brings one does it without the lock, in the
            # opposite order, so that one of the two sees the other.
            self._awake -= 1
            if self._can_take_body():
                self._awake += 1
                return None
            self._idle += 1
        while True:
            try:
                item = self._inlet.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                item = None
            with self._lock:
                if item is None and (self._idle + self._awake < 2 or self._waking):
                    continue  # The last one stays.
                self._idle -= 1
                if item is None:
                    return _LEAVE
                self._awake += 1
            return item

    def _take_body(self, lane: _Lane) -> Body | None:
        with self._lock:
            if not self._can_take_body():
                return None
            try:
                limited = not self._unlimited
                body = (self._bodies if limited else self._unlimited).popleft()
            except IndexError:
                return None  # A worker that goes from body to body takes them without the lock, and was quicker.
            if limited:
                self._running += 1
                lane.in_limited_body = True
            self._awake -= 1
            spawn = wake = False
            if self._awake == 0:
                if self._idle == 0:
                    spawn = True
                    self._awake += 1
                else:
                    wake = self._wants_waking()
        if wake:
            self._inlet.put(_WAKE)
        if spawn:
            self._spawn(counted=True)
        return body

    def _run_bodies(self, body: Body | None, lane: _Lane, thread: threading.Thread) -> None:
        """Run a body, the turns that follow from its end, the body that follows from those, and so on.

        All the while this worker keeps its place among those that are in bodies: a chain of steps takes no lock.
        """
        turns = lane.queue
        while body is not None:
            if thread.name != body.label:
                thread.name = body.label
            lane.open = False
            try:
                body.run()
            except BaseException:
                logger.exception("a callback failed", extra=log_fields())
            lane.open = True
            body.report()
            while turns:
                turns.popleft().run_turn()
            body = self._next_body(lane) if self._inlet.empty() else None
        with self._lock:
            self._awake += 1
            self._leave_place(lane)

    def _next_body(self, lane: _Lane) -> Body | None:
        """Take the body that follows from the end of one, if there is a place for it."""
        body: Body
        try:
            if self._unlimited:
                body = self._unlimited.popleft()
                with self._lock:
                    self._leave_place(lane)
            elif lane.in_limited_body:
                if self._running > self._max_threads:
                    return None  # Bodies that had waited fill more.
                body = self._bodies.popleft()
            else:
                with self._lock:
                    if self._running >= self._max_threads:
                        return None
                    body = self._bodies.popleft()
                    self._running += 1
                    lane.in_limited_body = True
        except IndexError:
            return None  # None is there, or another worker was quicker.
        if self._bodies or self._unlimited:
            self._wake_for_bodies()
        return body

    def _leave_place(self, lane: _Lane) -> None:
        """Give up the place among limited bodies, if it has one. The lock is held."""
        if lane.in_limited_body:
            self._running -= 1
            lane.in_limited_body = False

    def _can_take_body(self) -> bool:
        """Whether a body waits that may run now. The lock is held."""
        return bool(self._unlimited) or (bool(self._bodies) and self._running < self._max_threads)

    def _wants_waking(self) -> bool:
        """Whether a body could run but nobody is awake to take it; if so, the caller sends WAKE. The lock is held."""
        if self._awake == 0 and not self._waking and self._can_take_body():
            self._waking = True
            return True
        return False

"""The dispatcher for tests: everything of a run on a schedule drawn from a seed, with a virtual clock.

One thing runs at a time: an actor handles one message, a body runs up to its next call into the engine, or the event
loop runs one callback. Each has a rank that is drawn from the seed, and the lowest goes next. So the same seed gives
the same run, and other seeds give other interleavings. On half of the seeds all ranks are drawn again at each step,
which finds what takes turns; on the others each keeps its rank until it has run, which finds what comes in late by many
steps. Each takes up to a millisecond of
virtual time; when nothing can run the clock jumps to the next deadline, so that no test waits for time to pass.

Threads. Nothing runs but while somebody outside waits, as the thread that calls `handler.result()`: a visitor. It
starts a worker (see `greenroom.actors.strand`) and blocks; an interrupt strikes it there, where it does no harm. Only
the worker that holds the baton draws and touches the state here, except for what any thread may do: schedule an actor,
come as a visitor, or leave by an interrupt, each a single operation on a list. The baton is a lock that is held while
there are visitors: who comes enters `_visitors` first and tries the baton then; the worker that saw no more of them
lets go first and looks again then.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import logging
import math
import random
import threading
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

from pykka._envelope import Envelope

from greenroom.actors.base import here
from greenroom.actors.dispatcher import AsyncBody, Body, Timer, Unlimited, Waitable
from greenroom.actors.seeded_loop import SeededLoop
from greenroom.actors.strand import Call, Strand, Worker, closed_gate
from greenroom.errors import DeadlockError
from greenroom.log_fields import log_fields
from greenroom.ports import current_step

if TYPE_CHECKING:
    from greenroom.actors.base import PooledActor, Ref

__all__ = ["SeededDispatcher"]

# What comes due: a message for an actor, or a callback of the loop.
_Due: TypeAlias = Timer | asyncio.TimerHandle
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_STEP_SECONDS = 0.001
logger = logging.getLogger("greenroom.actors")


class _Visitor:
    """A thread outside that waits: until something is done, until a time, or until all that is due has run."""

    def __init__(self, is_done: Callable[[], bool] | None, deadline: float | None) -> None:
        self.is_done = is_done
        self.deadline = deadline
        self.gate = closed_gate()
        self.error: DeadlockError | None = None

    def is_over(self, now: float, idle: bool) -> bool:
        late = self.deadline is not None and now >= self.deadline
        if self.is_done is None:
            return idle and (late or self.deadline is None)
        return late or self.is_done()


class SeededDispatcher:
    """Runs actors and bodies one at a time, in an order drawn from a seed.

    Attributes:
        trace: What ran, in order.
        loop: The event loop.
    """

    batch = 1

    def __init__(self, seed: int, begins: float = 0.0) -> None:
        """Make a dispatcher.

        Args:
            seed: Decides the schedule.
            begins: The virtual time at which it begins, in seconds.
        """
        self.closed = False
        self.trace: list[str] = []
        self.loop = SeededLoop(self)
        self._random = random.Random(seed).random
        self._redraws = self._random() < 0.5
        self._now = begins
        self._actors: dict[PooledActor, float] = {}  # With their ranks.
        self._loop_rank = 0.0
        self._strands: list[Strand] = []
        self._timers: list[tuple[float, int, _Due]] = []
        self._serial = itertools.count()
        self._baton = threading.Lock()
        self._visitors: list[_Visitor] = []
        self._idle: list[Worker] = []
        self._stopping = False  # Whether whoever holds the baton is to let go of it.
        self._draining = threading.Lock()  # Held by the thread that gives the turns after the shutdown.

    # -- turns and bodies ----------------------------------------------------------------------------------------------

    def schedule(self, actor: PooledActor) -> None:
        # `actor.scheduled` stays False: so every message comes by here, and a body pauses at each.
        if actor not in self._actors:
            self._actors[actor] = self._random()
        if self.closed:
            self._drain()
        else:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Let others go on, if a body calls."""
        strand = here.lane
        if type(strand) is Strand and strand.dispatcher is self and not self.closed:
            strand.pause()

    def serve(self, actor: PooledActor, envelope: Envelope[Any]) -> None:
        actor.put(envelope)

    def execute(self, body: Body) -> None:
        if self.closed and isinstance(body, Unlimited):
            _call_back(body)
        else:
            self._strands.append(Strand(self, body, self._random()))

    def forget(self, strand: Strand) -> None:
        """Take out a strand whose body has ended."""
        self._strands.remove(strand)

    def execute_async(self, body: AsyncBody) -> None:
        self.loop.call_soon(body.create_task, self.loop)

    def report_async(self, body: AsyncBody) -> None:
        body.report()

    def call(self, function: Callable[[], Any]) -> Call:
        """Have a function run as a body."""
        call = Call(self, function, _nobody_to_tell)
        self.execute(call)
        return call

    # -- waiting -------------------------------------------------------------------------------------------------------

    def wait(self, waitable: Waitable, timeout: float | None = None) -> bool:
        if waitable.is_done():
            return True
        strand = here.lane
        if type(strand) is Strand and strand.dispatcher is self:
            return strand.wait(waitable, timeout)
        if self.closed:
            waitable.block(timeout)
        elif self.on_loop_thread():
            self._serve_loop(waitable)
        elif timeout is None or timeout > 0:
            self._visit(waitable.is_done, timeout)
        return waitable.is_done()

    def drive(self, waitable: Waitable) -> None:
        if not self.on_loop_thread() and not self.closed:
            self.wait(waitable)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the loop and return its result."""
        try:
            self._refuse_inside()
        except DeadlockError:
            coroutine.close()
            raise
        task = self.loop.create_task(coroutine)
        self._visit(task.done, None)
        return task.result()

    def run_until_idle(self) -> None:
        """Run all that can run without the clock having to jump."""
        self._visit(None, None)

    def advance(self, seconds: float) -> None:
        """Let virtual time pass, and run all that comes due in it."""
        self._visit(None, seconds)

    def _visit(self, is_done: Callable[[], bool] | None, timeout: float | None) -> None:
        """Block while others run, until it is done; at most `timeout` virtual seconds."""
        self._refuse_inside()
        if self.closed:
            return
        visitor = _Visitor(is_done, None if timeout is None else self._now + timeout)
        self._visitors.append(visitor)
        try:
            if self._baton.acquire(blocking=False):
                self._employ(None)
            visitor.gate.acquire()
        except BaseException:
            self._let_go(visitor)
            raise
        if visitor.error is not None:
            raise visitor.error

    def _refuse_inside(self) -> None:
        """Raise where waiting would stop what is waited for."""
        strand = here.lane
        if self.on_loop_thread() or (type(strand) is Strand and strand.dispatcher is self):
            raise DeadlockError(
                "only the test itself can run the schedule: within a step or a coroutine, wait or await"
            )
        supervisor = getattr(current_step.get(None), "supervisor", None)
        if supervisor is not None and supervisor.actor.dispatcher is self and strand is None:
            raise DeadlockError(
                "on a seeded runtime a step cannot wait for the engine on a thread that it started itself; use"
                " asyncio.to_thread, or test this on a real Runtime"
            )

    def _serve_loop(self, waitable: Waitable) -> None:
        """Run the actors that a coroutine needs which blocks in a call that it does not await."""
        while not waitable.is_done() and self._actors:
            self._run_actor(min(self._actors, key=self._actors.__getitem__))
        if not waitable.is_done():
            raise DeadlockError("the event loop of a seeded runtime cannot block: await instead")

    # -- the baton -----------------------------------------------------------------------------------------------------

    def switch(self, worker: Worker, paused: Strand | None) -> Strand | None:
        """Draw until a body goes on. Called by the worker that holds the baton, which holds it again at the return.

        Args:
            worker: The calling thread.
            paused: The strand that stands on it, or None if it is free.

        Returns:
            `paused` when it is drawn; for a free worker, a strand to begin, or None when it is to end.
        """
        lane, here.lane = here.lane, None
        # A body that runs a loop of its own: callbacks of ours must not run within that.
        drawing = asyncio._get_running_loop() is None
        if not drawing:
            self._employ(None)
            worker.gate.acquire()
        while drawing:
            strand = None if worker.ended else self._next()
            if strand is paused and paused is not None:
                break
            if paused is None:
                if worker.ended or (strand is not None and strand.worker is None):
                    return strand
                self._idle.append(worker)
            if strand is None:
                self._baton.release()
                if self._visitors and not self._stopping and self._baton.acquire(blocking=False):
                    if paused is None:
                        self._idle.remove(worker)
                    continue
            elif strand.worker is None:
                self._employ(strand)
            else:
                strand.worker.gate.release()
            worker.gate.acquire()
            if paused is not None:
                break
            strand, worker.strand = worker.strand, None
            if strand is not None:
                return strand
        here.lane = lane
        return paused

    def _employ(self, strand: Strand | None) -> None:
        """Give the baton to a free worker, to begin a body or to draw one."""
        worker = self._idle.pop() if self._idle else Worker(self)
        worker.strand = strand
        worker.gate.release()

    def _let_go(self, visitor: _Visitor) -> None:
        with contextlib.suppress(ValueError):  # An interrupt and the end of the wait may meet.
            self._visitors.remove(visitor)
            visitor.gate.release()

    # -- drawing -------------------------------------------------------------------------------------------------------

    def _next(self) -> Strand | None:
        """Run actors and callbacks until a body is drawn, and return its strand; None to let go of the baton.

        That is done when nobody waits any more, and whenever a visitor has been let go: its thread runs at once, makes
        work for others and may be back before this one looks again, which would go on with what it saw before.
        """
        while True:
            if self._let_go_if_over(idle=False) or not self._visitors or self._stopping:
                return None
            self._fire_timers()
            chosen: PooledActor | Strand | None = None
            lowest = 1.0
            if self._redraws:
                self._redraw()
            for actor, rank in self._actors.items():
                if rank < lowest:
                    chosen, lowest = actor, rank
            for strand in self._strands:
                if strand.rank < lowest and strand.can_run(self._now):
                    chosen, lowest = strand, strand.rank
            if self.loop.callbacks and self._loop_rank < lowest:
                self._tick()
                self._loop_rank = self._random()
                self.trace.append("loop")
                self.loop.run_one()
            elif chosen is None:
                if not self._pass_time():
                    return None
            elif isinstance(chosen, Strand):
                self._tick()
                chosen.rank = self._random()
                self.trace.append(chosen.body.label)
                return chosen
            else:
                self._tick()
                self._run_actor(chosen)

    def _redraw(self) -> None:
        draw = self._random
        for actor in self._actors:
            self._actors[actor] = draw()
        for strand in self._strands:
            strand.rank = draw()
        self._loop_rank = draw()

    def _tick(self) -> None:
        self._now += self._random() * _STEP_SECONDS

    def _run_actor(self, actor: PooledActor) -> None:
        del self._actors[actor]
        self.trace.append(type(actor).__name__)
        actor.run_turn()

    def _let_go_if_over(self, idle: bool) -> bool:
        """Let those go whose wait is over; return whether there was one."""
        over = [visitor for visitor in self._visitors.copy() if visitor.is_over(self._now, idle)]
        for visitor in over:
            self._let_go(visitor)
        return bool(over)

    def _pass_time(self) -> bool:
        """Nothing can run: let those go who wait for that, or the clock jump to what is next; return whether it did."""
        if self._let_go_if_over(idle=True):
            return False
        visitors = self._visitors.copy()
        if not visitors:
            return False
        times = [strand.until for strand in self._strands] + [visitor.deadline for visitor in visitors]
        due = min((at for at in (*times, self._next_deadline()) if at is not None), default=math.inf)
        if due < math.inf:
            self._now = max(self._now, due)
            return True
        visitors[0].error = DeadlockError(
            "nothing is left to run, no timer is set, and what is waited for has not come; in a test, what others are"
            " to do meanwhile goes into runtime.spawn(...), and a coroutine into runtime.run(...). The last steps"
            f" were: {', '.join(self.trace[-10:])}"
        )
        self._let_go(visitors[0])
        return False

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
        """Have a timer fire, or a handle of the loop run, at a virtual time."""
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
            else:
                self.loop.callbacks.append(what)

    # -- the rest of the seam ------------------------------------------------------------------------------------------

    def on_loop_thread(self) -> bool:
        return asyncio._get_running_loop() is self.loop

    def dead_letter(self, actor: PooledActor, message: Any) -> None:
        self.trace.append(f"dead letter of {type(actor).__name__}: {type(message).__name__}")

    def thread_count(self) -> int:
        return len(self._idle) + sum(strand.worker is not None for strand in list(self._strands))

    def shutdown(self, timeout: float) -> None:
        # A body that blocks for real keeps the baton: it is left behind, as on a pool.
        self._stopping = True
        self._baton.acquire(timeout=timeout)
        self.closed = True
        self._drain()
        self._end_tasks(timeout)
        workers, self._idle = self._idle, []
        for strand in self._strands.copy():
            if strand.worker is not None:
                workers.append(strand.worker)
            elif isinstance(strand.body, Unlimited):
                _call_back(strand.body)
        for worker in workers:
            worker.ended = True
            worker.gate.release()
            worker.join(timeout)
        self._drain()
        for visitor in self._visitors.copy():
            self._let_go(visitor)
        self.loop.close()

    def _end_tasks(self, seconds: float) -> None:
        """Cancel all tasks, and give them some virtual time to end."""
        for task in list(self.loop.tasks):
            task.cancel()
        if self.loop.callbacks or self.loop.tasks:
            self.loop.create_task(self.loop.shutdown_asyncgens())
        until = self._now + seconds
        while self.loop.tasks or self.loop.callbacks:
            if self.loop.callbacks:
                self.loop.run_one()
            elif (due := self._next_deadline()) is not None and due < until:
                self._now = max(self._now, due)
                self._fire_timers()
            else:
                return

    def _drain(self) -> None:
        """Give turns until nobody wants one. Not from within a turn: mailboxes may be longer than stacks are deep."""
        while self._actors and self._draining.acquire(blocking=False):
            try:
                while self._actors:
                    actor = next(iter(self._actors))
                    del self._actors[actor]
                    actor.run_turn()
            finally:
                self._draining.release()


def _call_back(body: Unlimited) -> None:
    try:
        body.run()
    except BaseException:
        logger.exception("a callback failed", extra=log_fields())
    body.report()


def _nobody_to_tell(call: Call) -> None:
    """A call that a test made is asked for its result."""


def _is_dropped(what: _Due) -> bool:
    return what.cancelled if isinstance(what, Timer) else what.cancelled()

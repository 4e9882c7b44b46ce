"""The timer: deadlines come in order, never early, and cost nothing once they are dropped."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import pytest
from pykka._envelope import Envelope

from greenroom import Event, Runtime, StartEvent, StopEvent, Workflow, step
from greenroom.actors.base import PooledActor
from greenroom.actors.dispatcher import Timer
from greenroom.actors.pool import PoolDispatcher
from greenroom.actors.timer import DeadlineHeap, TimerActor
from tests.support.manual import ManualDispatcher
from tests.support.waiting import wait_until

SOON = 10.0


class Sink(PooledActor):
    """Keeps what it is told, and when."""

    def __init__(self, dispatcher):
        super().__init__(dispatcher)
        self.seen = []
        self.times = []

    def on_receive(self, message):
        self.times.append(time.monotonic())
        self.seen.append(message)


@pytest.fixture
def sink():
    return Sink.start(ManualDispatcher()).actor


@pytest.fixture
def pool():
    pool = PoolDispatcher(2)
    yield pool
    pool.shutdown(SOON)


def put(heap, *timers):
    for timer in timers:
        heap.put(Envelope(timer))


# -- the heap ----------------------------------------------------------------------------------------------------------


def test_deadlines_come_out_in_order(sink):
    """Whatever the order in which they were put in."""
    heap = DeadlineHeap()
    ref = sink.actor_ref
    timers = [Timer(-float(number * 7 % 20), ref, number) for number in range(20)]
    put(heap, *timers)
    out = [heap.get().message for _ in timers]
    assert out == sorted(timers, key=lambda timer: timer.at)
    assert heap.empty()


def test_equal_deadlines_come_out_in_the_order_in_which_they_were_made(sink):
    """A coarse clock gives many deadlines of the same instant: what was sent first comes first."""
    heap = DeadlineHeap()
    put(heap, *(Timer(-1.0, sink.actor_ref, number) for number in range(100)))
    assert [heap.get().message.message for _ in range(100)] == list(range(100))


def test_a_dropped_deadline_never_comes_out(sink):
    """Dropped before it is due, it is passed over."""
    heap = DeadlineHeap()
    timers = [Timer(-10.0 + number, sink.actor_ref, number) for number in range(5)]
    put(heap, *timers)
    for number in (0, 3):
        heap.drop(timers[number])
    assert [heap.get().message.message for _ in range(3)] == [1, 2, 4]
    assert heap.empty()


def test_dropping_twice_or_too_late_changes_nothing(sink):
    """A timer that was dropped, or has come out, may be dropped again; the message that is told stays whole."""
    heap = DeadlineHeap()
    late, twice, last = (Timer(at, sink.actor_ref, at) for at in (-3.0, -2.0, -1.0))
    put(heap, late, twice, last)
    assert heap.get().message is late
    for timer in (late, late, twice, twice):
        heap.drop(timer)
    assert heap._dropped == 1
    assert (late.ref, late.message) == (sink.actor_ref, -3.0)
    assert heap.get().message is last
    assert heap._dropped == 0


@pytest.mark.parametrize("live", [0, 10, 500])
def test_the_heap_is_never_mostly_dropped_deadlines(sink, live):
    """Setting and dropping for ever does not grow it."""
    heap = DeadlineHeap()
    far = time.monotonic() + 3600
    put(heap, *(Timer(far, sink.actor_ref, "live") for _ in range(live)))
    for _ in range(3000):
        timer = Timer(far + 1, sink.actor_ref, "dropped")
        put(heap, timer)
        heap.drop(timer)
    assert len(heap._heap) <= max(2 * live, 64) + 66
    assert sum(not timer.cancelled for timer in heap._heap) == live
    assert heap._dropped == len(heap._heap) - live


def test_a_dropped_deadline_keeps_nothing_alive():
    """It may lie in the heap for an hour, but neither its message nor its actor does."""
    heap = DeadlineHeap()
    actor = Sink.start(ManualDispatcher()).actor
    message = Event()
    gone = weakref.ref(actor), weakref.ref(message)
    timer = Timer(time.monotonic() + 3600, actor.actor_ref, message)
    put(heap, timer)
    heap.drop(timer)
    del actor, message
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


# -- the thread --------------------------------------------------------------------------------------------------------


def test_deadlines_fire_in_order_and_never_early(pool):
    """Set out of order, each message comes at its time or later."""
    ref = Sink.start(pool)
    begin = time.monotonic()
    delays = [0.05, 0.01, 0.03, 0.02, 0.04]
    for delay in delays:
        pool.set_timer(begin + delay, ref, delay)
    assert wait_until(lambda: len(ref.actor.seen) == 5)
    assert ref.actor.seen == sorted(delays)
    for delay, at in zip(ref.actor.seen, ref.actor.times, strict=True):
        assert at >= begin + delay


def test_an_earlier_deadline_wakes_the_thread(pool):
    """While it waits for one an hour away, one that is due soon comes first."""
    ref = Sink.start(pool)
    pool.set_timer(time.monotonic() + 3600, ref, "far")
    assert wait_until(lambda: pool._timer.actor_inbox._wake_at < float("inf"))
    pool.set_timer(time.monotonic() + 0.01, ref, "near")
    assert wait_until(lambda: ref.actor.seen == ["near"])


def test_a_later_deadline_does_not_wake_the_thread(pool, monkeypatch):
    """To set one that is not the earliest costs no wake-up."""
    ref = Sink.start(pool)
    pool.set_timer(time.monotonic() + 1800, ref, "first")
    heap = pool._timer.actor_inbox
    assert wait_until(lambda: heap._wake_at < float("inf"))
    notified = []
    monkeypatch.setattr(heap._changed, "notify", lambda: notified.append(1))
    for _ in range(10):
        pool.set_timer(time.monotonic() + 3600, ref, "later")
    assert notified == []
    monkeypatch.undo()


def test_deadlines_in_the_past_fire_at_once(pool):
    """Also when the thread waits for another."""
    ref = Sink.start(pool)
    pool.set_timer(time.monotonic() + 3600, ref, "far")
    pool.set_timer(time.monotonic() - 1, ref, "past")
    assert wait_until(lambda: ref.actor.seen == ["past"])


def test_an_endless_deadline_never_fires_and_harms_nothing(pool):
    """Infinity is a time like others."""
    ref = Sink.start(pool)
    endless = pool.set_timer(float("inf"), ref, "never")
    pool.set_timer(time.monotonic() + 0.01, ref, "near")
    assert wait_until(lambda: ref.actor.seen == ["near"])
    pool.drop_timer(endless)


def test_many_threads_set_and_drop_at_once(pool):
    """Every deadline that was not dropped fires once; a dropped one never does, unless it was due."""
    ref = Sink.start(pool)
    kept = []

    def work(number):
        for serial in range(200):
            at = time.monotonic() + 0.001 * (serial % 10)
            pool.set_timer(at, ref, (number, serial))
            pool.drop_timer(pool.set_timer(time.monotonic() + 3600, ref, "dropped"))
            kept.append((number, serial))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    assert wait_until(lambda: len(ref.actor.seen) >= len(kept))
    assert sorted(ref.actor.seen) == sorted(kept)


# -- the end -----------------------------------------------------------------------------------------------------------


def test_the_end_forgets_deadlines_and_ends_the_thread(sink):
    """`end` does not wait for those that are far away; what is set later starts no thread that stays."""
    timer = TimerActor()
    timer.set(Timer(time.monotonic() + 3600, sink.actor_ref, "far"))
    thread = timer._thread
    assert thread.is_alive()
    timer.end(SOON)
    assert not thread.is_alive()
    timer.set(Timer(time.monotonic(), sink.actor_ref, "late"))
    assert sink.empty()


def test_a_timer_that_never_began_has_no_thread_to_end(sink):
    """Nor does one that is first used after its end keep one."""
    timer = TimerActor()
    timer.end(SOON)
    assert timer._thread is None
    timer.set(Timer(time.monotonic(), sink.actor_ref, "late"))
    assert wait_until(lambda: not timer._thread.is_alive())


def test_a_finished_run_is_freed_though_its_deadline_is_far_away():
    """A run with a long timeout leaves nothing behind when it ends."""

    class Quick(Workflow):
        @step
        def quick(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    with Runtime(max_threads=2):
        gone = []
        for _ in range(5):
            handler = Quick(timeout=3600).run()
            handler.result(SOON)
            gone += [weakref.ref(handler), weakref.ref(handler.supervisor.actor)]
            del handler

        def freed():
            gc.collect()
            return all(ref() is None for ref in gone)

        assert wait_until(freed)

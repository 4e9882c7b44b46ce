"""The stream: every reader sees the same sequence, however it reads, and leaves nothing behind when it goes."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

from greenroom import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    Runtime,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    step,
)
from greenroom.actors.stream import MoreAsked, Published, StreamActor, StreamLog, Subscription
from tests.support.manual import ManualDispatcher

SOON = 10.0


class Tick(Event):
    n: int


class Ticking(Workflow):
    """Writes `count` events to the stream, `burst` at a time; after each burst but the last it waits for the gate."""

    def __init__(self, gate=None, burst=10**9):
        super().__init__()
        self.gate, self.burst = gate, burst

    @step
    def tick(self, ctx: Context, ev: StartEvent) -> StopEvent:
        for n in range(ev.count):
            if n and n % self.burst == 0 and self.gate is not None:
                assert self.gate.acquire(timeout=60)
            ctx.write_event_to_stream(Tick(n=n))
        return StopEvent(result=ev.count)


class Asking(Workflow):
    """Asks somebody, and so waits with a silent stream."""

    @step
    def ask(self, ev: StartEvent) -> InputRequiredEvent:
        return InputRequiredEvent()

    @step
    def end(self, ev: HumanResponseEvent) -> StopEvent:
        return StopEvent(result="answered")


def whole(events, count):
    return [event.n for event in events[:-1]] == list(range(count)) and type(events[-1]) is StopEvent


async def read_async(stream):
    return [event async for event in stream]


# -- many readers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("readers", [1, 5, 30])
def test_readers_of_all_kinds_see_the_same_sequence(readers):
    """Many at once, in threads and on loops, fast and slow, early and late: the same objects in the same order."""
    count, burst = 200, 20
    gate = threading.Semaphore(0)
    seen = {}
    failures = []

    def read(number):
        try:
            stream = handler.stream_events(after=-1)
            if number % 3 == 2:
                seen[number] = asyncio.run(read_async(stream))
                return
            events = []
            for event in stream:
                events.append(event)
                if number % 3 == 1 and len(events) % burst == 0:
                    gate.release()  # A slow reader, for which the run waits.
            seen[number] = events
        except BaseException as error:
            failures.append(error)

    with Runtime(max_threads=4):
        handler = Ticking(gate, burst).run(count=count)
        threads = [threading.Thread(target=read, args=(number,)) for number in range(readers)]
        for thread in threads[: readers // 2 + 1]:
            thread.start()
        for _ in range(count // burst):
            gate.release()
        assert handler.result(SOON) == count
        for thread in threads[readers // 2 + 1 :]:
            thread.start()
        for thread in threads:
            thread.join(SOON)
        assert failures == []
        assert len(seen) == readers
        expected = list(handler.stream_events(after=-1))
        assert whole(expected, count)
        for events in seen.values():
            assert len(events) == len(expected)
            assert all(one is other for one, other in zip(events, expected, strict=True))


@pytest.mark.parametrize("after", [-1, 0, 5, 9, 10, 1000])
def test_a_subscription_begins_after_its_offset(after):
    """Of the offsets 0 to 10, one reads those above `after`, before and after the end alike."""
    gate = threading.Semaphore(0)
    with Runtime(max_threads=2):
        handler = Ticking(gate, 5).run(count=10)
        early = handler.stream_events(after=after)
        read = []
        reader = threading.Thread(target=lambda: read.extend(early))
        reader.start()
        gate.release()
        handler.result(SOON)
        reader.join(SOON)
        late = list(handler.stream_events(after=after))
        assert read == late
        everything = list(handler.stream_events(after=-1))
        assert len(everything) == 11
        assert late == everything[after + 1 :]


def test_a_reader_that_breaks_off_goes_on_where_it_was():
    """The handler's own reading has one place, whichever loop or thread reads on; other readers have theirs."""
    with Runtime(max_threads=2):
        handler = Ticking().run(count=10)
        for event in handler.stream_events():
            if event.n == 3:
                break

        async def some():
            async for event in handler.stream_events():
                if event.n == 6:
                    return

        asyncio.run(some())
        assert [event.n for event in list(handler.stream_events())[:-1]] == [7, 8, 9]
        assert list(handler.stream_events()) == []
        assert whole(list(handler.stream_events(after=-1)), 10)


def test_a_reader_attached_after_the_end_misses_nothing():
    """Also of a run that was cancelled, and also twice."""
    with Runtime(max_threads=2):
        gate = threading.Semaphore(0)
        handler = Ticking(gate, 3).run(count=10)
        early = handler.stream_events(after=-1)
        first = [next(early) for _ in range(3)]
        handler.cancel_run(SOON)
        with pytest.raises(WorkflowCancelledByUser):
            handler.result(SOON)
        for _ in range(2):
            events = list(handler.stream_events(after=-1))
            assert events[:3] == first
            assert type(events[-1]).__name__ == "WorkflowCancelledEvent"
            assert len(events) == 4
        gate.release()  # The body that was cancelled finds out by writing.


def test_readers_that_wait_are_woken_by_each_event_and_by_the_end():
    """A thread and a task that wait for more see an event as soon as it is written."""
    gate = threading.Semaphore(0)
    with Runtime(max_threads=2):
        handler = Ticking(gate, 1).run(count=5)
        stream = handler.stream_events(after=-1)

        async def read():
            subscription = handler.stream_events(after=-1)
            for n in range(5):
                # Nothing but this event has been written: each waits for the other reader's gate.
                assert (await asyncio.wait_for(anext(subscription), SOON)).n == n
                assert next(stream).n == n
                gate.release()
            return await asyncio.wait_for(anext(subscription), SOON)

        assert type(asyncio.run(read())) is StopEvent
        assert type(next(stream)) is StopEvent
        with pytest.raises(StopIteration):
            next(stream)


# -- readers that go ---------------------------------------------------------------------------------------------------


def test_a_reader_that_gives_up_again_and_again_leaves_nothing_behind():
    """As one that sends a sign of life every few seconds while it waits: a silent stream does not collect its waits."""
    with Runtime(max_threads=2):
        handler = Asking().run()
        stream = handler._stream.actor

        async def poll():
            subscription = handler.stream_events()
            assert isinstance(await anext(subscription), InputRequiredEvent)
            for _ in range(500):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(anext(subscription), 0.0001)
            for _ in range(500):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(anext(handler.stream_events()), 0.0001)

        asyncio.run(poll())
        assert len(stream._waiting) < 200
        handler.send_event(HumanResponseEvent())
        assert [type(event) for event in handler.stream_events()] == [StopEvent]


def test_a_result_that_is_awaited_again_and_again_leaves_nothing_behind():
    """Each await with a timeout takes its callback back."""
    with Runtime(max_threads=2):
        handler = Asking().run()

        async def poll():
            for _ in range(300):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(_result(handler), 0.0001)

        asyncio.run(poll())
        gc.collect()
        assert not handler._awaiting
        assert not handler._done_callbacks
        handler.send_event(HumanResponseEvent())
        assert handler.result(SOON) == "answered"


async def _result(handler):
    return await handler


def test_a_reader_whose_loop_has_closed_harms_nobody():
    """It waited when its loop went; the next event is for the others."""
    with Runtime(max_threads=2):
        handler = Asking().run()
        assert isinstance(next(handler.stream_events(after=-1)), InputRequiredEvent)
        stream = handler.stream_events(after=0)

        async def give_up():
            task = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            return task

        loop = asyncio.new_event_loop()
        task = loop.run_until_complete(give_up())
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.close()
        other = handler.stream_events(after=0)
        handler.send_event(HumanResponseEvent())
        assert [type(event) for event in other] == [StopEvent]


def test_a_reader_that_nobody_holds_is_kept_while_it_waits():
    """A task that was started and forgotten reads on, though nothing but its wait for the next event keeps it alive."""

    async def main():
        seen = []
        over = asyncio.Event()

        async def read():
            async for event in handler.stream_events(after=-1):
                seen.append(type(event))
            over.set()

        def start():
            task = asyncio.ensure_future(read())
            return weakref.ref(task)

        handler = Asking().run()
        task = start()
        while not seen or handler._stream.actor._waiting == []:
            await asyncio.sleep(0.001)
        for _ in range(3):
            gc.collect()
            await asyncio.sleep(0)
        assert task() is not None
        handler.send_event(HumanResponseEvent())
        await asyncio.wait_for(over.wait(), SOON)
        return seen

    with Runtime(max_threads=2):
        assert asyncio.run(main()) == [InputRequiredEvent, StopEvent]


def test_a_subscription_that_is_dropped_is_freed():
    """Readers are held by those who read, and by nobody else."""
    with Runtime(max_threads=2):
        handler = Asking().run()
        subscription = handler.stream_events(after=-1)
        next(subscription)
        gone = weakref.ref(subscription)
        del subscription
        gc.collect()
        assert gone() is None
        handler.cancel_run(SOON)


# -- the actor ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def stream():
    log = StreamLog()
    manual = ManualDispatcher()
    return manual, log, StreamActor.start(manual, log)


def test_who_asks_for_more_is_answered_when_there_is_more(stream):
    """At once if there is, else once a turn has appended; and by the end."""
    manual, log, ref = stream
    waiting = ref.ask(MoreAsked(0, -1), block=False)
    assert not waiting.done
    ref.tell(Published([], [], [Tick(n=0)], False))
    manual.run_all()
    assert waiting.done
    assert ref.ask(MoreAsked(0, -1), block=False).done
    second = ref.ask(MoreAsked(1, -1), block=False)
    assert not second.done
    ref.tell(Published([], [], [], True))
    manual.run_all()
    assert second.done
    assert ref.ask(MoreAsked(1, -1), block=False).done
    assert log.ended


def test_readers_of_a_stream_whose_actor_failed_or_stopped_end(stream):
    """They neither hang nor spin."""
    for how in ("stop", "fail"):
        log = StreamLog()
        manual = ManualDispatcher()
        ref = StreamActor.start(manual, log)
        waiting = ref.ask(MoreAsked(0, -1), block=False)
        if how == "stop":
            ref.stop()
        else:
            ref.tell("not a message of its")
            manual.run_all()
        assert waiting.done
        assert list(Subscription(log, ref, manual, after=-1, expose_internal=False)) == []


def test_offsets_of_a_stream_that_goes_on_begin_where_it_was():
    """A run that was resumed counts on, and `after` is in the same count."""
    log = StreamLog(first_offset=5)
    manual = ManualDispatcher()
    ref = StreamActor.start(manual, log)
    ref.tell(Published([], [], [Tick(n=n) for n in range(5, 8)], True))
    manual.run_all()
    moved = []
    place = Subscription(
        log, ref, manual, after=-1, expose_internal=False, moved=lambda offset, *_: moved.append(offset)
    )
    assert [event.n for event in place] == [5, 6, 7]
    assert moved == [5, 6, 7]
    assert [event.n for event in Subscription(log, ref, manual, after=6, expose_internal=False)] == [7]

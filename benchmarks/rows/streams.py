"""What it costs to write an event to the stream of a run and to read it there.

A step writes n events while every reader reads to the end. The figure is the time from the first write to the end of
the last reader, divided by the events read, which is n for each reader. Our step is `def` and each reader a thread that
was started before the clock was; the peer's step and its reader are coroutines on one loop. The peer lets one reader
read a stream, so what 50 readers of ours pay for an event is held against what its one does.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from time import perf_counter

from benchmarks.row import Measure, Row, faster


class Stream1(Row):
    """One reader on each side."""

    name = "stream-1"
    what = "stream event, write to read, 1 reader"
    size = 5000
    quick_size = 100
    target = faster(2)
    readers = 1

    def ours(self) -> Measure:
        from greenroom import Context, Event, Handler, StartEvent, StopEvent, Workflow, step

        class Begin(StartEvent):
            events: int

        class Progress(Event):
            number: int

        class Writer(Workflow):
            began = 0.0
            all_ready = Barrier(1)

            @step
            def write(self, ctx: Context, ev: Begin) -> StopEvent:
                self.all_ready.wait()
                self.began = perf_counter()
                for number in range(ev.events):
                    ctx.write_event_to_stream(Progress(number=number))
                return StopEvent()

        workflow = Writer(timeout=None)

        def read(handler: Handler, all_ready: Barrier) -> int:
            stream = handler.stream_events(after=-1)
            all_ready.wait()
            return sum(1 for _ in stream)

        def measure(events: int) -> float:
            all_ready = workflow.all_ready = Barrier(self.readers + 1)
            with ThreadPoolExecutor(self.readers) as pool:
                handler = workflow.run(events=events)
                reading = [pool.submit(read, handler, all_ready) for _ in range(self.readers)]
                counts = [reader.result() for reader in reading]
                seconds = perf_counter() - workflow.began
            handler.result()
            for count in counts:
                _check(count, events)
            return seconds / (events * self.readers)

        return measure

    def peer(self) -> Measure:
        from workflows import Context, Workflow, step
        from workflows.events import Event, StartEvent, StopEvent

        class Begin(StartEvent):
            events: int

        class Progress(Event):
            number: int

        class Writer(Workflow):
            began = 0.0

            @step
            async def write(self, ctx: Context, ev: Begin) -> StopEvent:
                self.began = perf_counter()
                for number in range(ev.events):
                    ctx.write_event_to_stream(Progress(number=number))
                return StopEvent()

        workflow = Writer(timeout=None)
        workflow.validate()

        async def stream(events: int) -> float:
            handler = workflow.run(events=events)
            count = 0
            async for _ in handler.stream_events():
                count += 1
            seconds = perf_counter() - workflow.began
            await handler
            _check(count, events)
            return seconds / events

        return lambda events: asyncio.run(stream(events))


class Stream50(Stream1):
    """50 readers on our side, each with a thread of its own; one on the peer's."""

    name = "stream-50"
    what = "stream event, write to read, 50 readers (the peer: 1)"
    size = 1000
    readers = 50


def _check(count: int, events: int) -> None:
    if count != events + 1:  # the StopEvent is the last of the stream
        raise ValueError(f"read {count} events instead of {events} and the StopEvent")

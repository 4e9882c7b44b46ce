"""What waiting costs: to put a run away that waits, to park and go on, and to run beside somebody who is parked.

Snapshot: one run goes round a step so many times, then a step waits. The figure is the time of one snapshot taken from
outside then: `ctx.snapshot()` here, `ctx.to_dict()` there, which is all that the peer has. `growth` is what ten times
the steps do to ours, measured in the same process.

Park and resume: a `def` step waits in a loop. Each time it first sends an event to another step, which answers with
`ctx.send_event`; so the figure holds, beside the wait, one invocation of that step, which is a hop, and the two threads
that take turns, since a body that waits keeps its thread while a chain of hops stays on one. `hops` is the figure over
a hop of `def` steps, measured just before in the same process. `outside_hops` is a wait that the main thread answers
with `handler.send_event`, from that call to the line after the wait, over the same hop. `bare_hops` is what the machine
alone asks for the two changes of threads: the round trip of two bare threads that release each other's lock and do
nothing else, taken in the same process right after, over the same hop.

Streaming past: a step writes events while another stands at a wait. `ratio` is the cost of an event with it over the
cost without, the two measured in turn. The cost is the CPU time of the process and not the time that passes: how the
writer's thread and the reader's happen to meet changes the latter by a factor of two or more, with or without the wait.
"""

import asyncio
import gc
from contextlib import suppress
from statistics import median
from threading import Lock, Semaphore, Thread
from time import perf_counter, process_time

from benchmarks.row import Measure, Row, Target, note_at_most
from benchmarks.rows.hops import def_chain

GROWTH = 10


class SnapshotAfterLoop(Row):
    """A run that waits after a long loop."""

    name = "snapshot"
    what = "snapshot after a 2,000-step loop"
    size = 2000
    quick_size = 50
    target = Target(
        "≥ 50x faster, growth ≤ 1.5",
        lambda result: None if result.ratio is None else result.ratio >= 50 and result.ours.notes["growth"] <= 1.5,
    )
    max_rounds = 3

    def ours(self) -> Measure:
        from greenroom import (
            Context,
            Event,
            Handler,
            HumanResponseEvent,
            Runtime,
            StartEvent,
            StopEvent,
            Workflow,
            step,
        )

        class Begin(StartEvent):
            left: int

        class Hop(Event):
            left: int

        class Done(Event):
            pass

        class Loop(Workflow):
            parked = Semaphore(0)

            @step
            def hop(self, ev: Begin | Hop) -> Hop | Done:
                return Hop(left=ev.left - 1) if ev.left else Done()

            @step
            def wait(self, ctx: Context, ev: Done) -> StopEvent:
                ctx.ask(HumanResponseEvent())
                return StopEvent()

        workflow = Loop(timeout=None)
        runtime = Runtime()
        runtime.on_input(lambda question: workflow.parked.release())
        workflow = Loop(timeout=None, runtime=runtime)

        def parked(hops: int) -> Handler:
            handler = workflow.run(left=hops)
            workflow.parked.acquire()
            return handler

        def snapshot_of(handler: Handler) -> float:
            times = []
            for _ in range(50):
                began = perf_counter()
                handler.ctx.snapshot()
                times.append(perf_counter() - began)
            return median(times)

        def measure(hops: int) -> float:
            short, long = parked(hops), parked(GROWTH * hops)
            seconds = snapshot_of(short)
            self.notes["growth"] = snapshot_of(long) / seconds
            short.cancel_run()
            long.cancel_run()
            return seconds

        return measure

    def peer(self) -> Measure:
        from workflows import Context, Workflow, step
        from workflows.events import Event, HumanResponseEvent, StartEvent, StopEvent

        class Begin(StartEvent):
            left: int

        class Hop(Event):
            left: int

        class Done(Event):
            pass

        class Parked(Event):
            pass

        class Loop(Workflow):
            @step
            async def hop(self, ev: Begin | Hop) -> Hop | Done:
                return Hop(left=ev.left - 1) if ev.left else Done()

            @step
            async def wait(self, ctx: Context, ev: Done) -> StopEvent:
                await ctx.wait_for_event(HumanResponseEvent, waiter_event=Parked())
                return StopEvent()

        workflow = Loop(timeout=None)
        workflow.validate()

        async def snapshot(hops: int) -> float:
            handler = workflow.run(left=hops)
            async for event in handler.stream_events():
                if isinstance(event, Parked):
                    break
            times = []
            for _ in range(3):
                began = perf_counter()
                handler.ctx.to_dict()
                times.append(perf_counter() - began)
            await handler.cancel_run()
            return median(times)

        return lambda hops: asyncio.run(snapshot(hops))


class ParkAndResume(Row):
    """One wait of a `def` step, answered from inside the run."""

    name = "park"
    what = "park and resume of one wait, `def` step, answered inside the run"
    size = 500
    quick_size = 20
    target = note_at_most("hops", 3)

    def ours(self) -> Measure:
        from greenroom import Context, Event, HumanResponseEvent, StartEvent, StopEvent, Workflow, step

        class Begin(StartEvent):
            left: int

        class Hop(Event):
            left: int

        class Answer(Event):
            pass

        class Inside(Workflow):
            @step
            def wait(self, ctx: Context, ev: Begin) -> Hop | StopEvent:
                left = ev.left
                while left:
                    # `answer` may be quicker than our wait: then nobody takes the answer, and it is asked for again.
                    ctx.send_event(Hop(left=left))
                    with suppress(TimeoutError):
                        ctx.wait_for_event(Answer, timeout=5.0)
                        left -= 1
                return StopEvent()

            @step(skip_graph_checks=["dead_end"])
            def answer(self, ctx: Context, ev: Hop) -> None:
                ctx.send_event(Answer())

        class Outside(Workflow):
            resumed = Semaphore(0)

            @step
            def wait(self, ctx: Context, ev: Begin) -> StopEvent:
                for _ in range(ev.left):
                    ctx.wait_for_event(HumanResponseEvent, timeout=None)
                    self.resumed.release()
                return StopEvent()

        chain, inside, outside = def_chain()(timeout=None), Inside(timeout=None), Outside(timeout=None)

        def measure(waits: int) -> float:
            began = perf_counter()
            chain.run(left=waits).result()
            hop = (perf_counter() - began) / waits
            began = perf_counter()
            inside.run(left=waits).result()
            seconds = (perf_counter() - began) / waits
            handler = outside.run(left=waits)
            began = perf_counter()
            for _ in range(waits):
                handler.send_event(HumanResponseEvent())
                outside.resumed.acquire()
            answered = (perf_counter() - began) / waits
            handler.result()
            bare = round_trip(waits)
            self.notes |= {"hops": seconds / hop, "outside_hops": answered / hop, "bare_hops": bare / hop}
            return seconds

        return measure


def round_trip(times: int) -> float:
    """Return the seconds that two bare threads take to hand a token to and fro."""
    mine, others = Lock(), Lock()
    mine.acquire()
    others.acquire()

    def hand_back() -> None:
        for _ in range(times):
            others.acquire()
            mine.release()

    thread = Thread(target=hand_back)
    thread.start()
    began = perf_counter()
    for _ in range(times):
        others.release()
        mine.acquire()
    seconds = (perf_counter() - began) / times
    thread.join()
    return seconds


class StreamPastParked(Row):
    """Events written by one step while another is parked."""

    name = "stream-past"
    what = "CPU of a stream event, written past a parked invocation"
    size = 10_000
    quick_size = 100
    target = note_at_most("ratio", 1.2)

    def ours(self) -> Measure:
        from greenroom import Context, Event, HumanResponseEvent, StartEvent, StopEvent, Workflow, step

        class Begin(StartEvent):
            events: int
            parks: bool

        class Write(Event):
            events: int

        class Progress(Event):
            number: int

        class Writer(Workflow):
            @step
            def begin(self, ctx: Context, ev: Begin) -> Write | None:
                ctx.send_event(Write(events=ev.events))
                if ev.parks:
                    ctx.wait_for_event(HumanResponseEvent, timeout=None)
                return None

            @step
            def write(self, ctx: Context, ev: Write) -> StopEvent:
                began = process_time()
                for number in range(ev.events):
                    ctx.write_event_to_stream(Progress(number=number))
                return StopEvent(result=began)

        workflow = Writer(timeout=None)

        def write(events: int, parks: bool) -> float:
            gc.collect()
            handler = workflow.run(events=events, parks=parks)
            count = sum(1 for _ in handler.stream_events())
            seconds = process_time() - handler.result()
            if count != events + 1:
                raise ValueError(f"read {count} events instead of {events} and the StopEvent")
            return float(seconds) / events

        def measure(events: int) -> float:
            pairs = [(write(events, parks=False), write(events, parks=True)) for _ in range(5)]
            seconds = median(past for _, past in pairs)
            self.notes["ratio"] = seconds / median(alone for alone, _ in pairs)
            return seconds

        return measure

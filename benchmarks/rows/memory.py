"""What a step of a long loop leaves behind in memory.

One run goes round a step that takes its own event. After a tenth of the hops and again at the end, garbage is
collected and what `tracemalloc` counts is read, from inside the step and while the run is alive and its handler held;
nobody reads the stream. The figure is the difference divided by the hops between: the slope, so that what a run costs
once is not in it. `tracemalloc` and not the resident size, since it is exact to the byte and does not depend on the
allocator; memory that C libraries take from elsewhere is not seen. It always gives about the same, so one round is
enough.
Our step is `def`, the peer's `async def`.
"""

import asyncio
import gc
import tracemalloc

from benchmarks.row import Measure, Row, value_at_most


class RetainedMemory(Row):
    """From 2,000 to 20,000 hops."""

    name = "memory"
    what = "retained memory, a step of a 2,000 to 20,000-step loop"
    size = 20_000
    quick_size = 200
    # Less than the smallest Python object: nothing at all is kept a step; what is left is noise of the whole run.
    target = value_at_most(16.0, "~0 (≤ 16 B)")
    unit = "B"
    max_rounds = 1
    timeout = 300.0

    def ours(self) -> Measure:
        from greenroom import Event, StartEvent, StopEvent, Workflow, step

        class Begin(StartEvent):
            at: int
            end: int

        class Hop(Event):
            at: int
            end: int

        class Loop(Workflow):
            slope = Slope(0)

            @step
            def hop(self, ev: Begin | Hop) -> Hop | StopEvent:
                self.slope.look(ev.at)
                return Hop(at=ev.at + 1, end=ev.end) if ev.at < ev.end else StopEvent()

        workflow = Loop(timeout=None)

        def measure(hops: int) -> float:
            with Slope(hops) as slope:
                workflow.slope = slope
                workflow.run(at=0, end=hops).result()
            return slope.bytes_a_hop

        return measure

    def peer(self) -> Measure:
        from workflows import Workflow, step
        from workflows.events import Event, StartEvent, StopEvent

        class Begin(StartEvent):
            at: int
            end: int

        class Hop(Event):
            at: int
            end: int

        class Loop(Workflow):
            slope = Slope(0)

            @step
            async def hop(self, ev: Begin | Hop) -> Hop | StopEvent:
                self.slope.look(ev.at)
                return Hop(at=ev.at + 1, end=ev.end) if ev.at < ev.end else StopEvent()

        workflow = Loop(timeout=None)
        workflow.validate()

        async def loop(hops: int) -> float:
            with Slope(hops) as slope:
                workflow.slope = slope
                await workflow.run(at=0, end=hops)
            return slope.bytes_a_hop

        return lambda hops: asyncio.run(loop(hops))


class Slope:
    """Reads the traced memory after a tenth of the hops and at the last one."""

    def __init__(self, hops: int) -> None:
        self._hops = hops
        self._readings: dict[int, int] = {}

    def __enter__(self) -> "Slope":
        tracemalloc.start()
        return self

    def __exit__(self, *error: object) -> None:
        tracemalloc.stop()

    def look(self, hop: int) -> None:
        """Take a reading if this is a hop to take one at."""
        if hop in (self._hops // 10, self._hops):
            gc.collect()
            self._readings[hop] = tracemalloc.get_traced_memory()[0]

    @property
    def bytes_a_hop(self) -> float:
        """What each hop between the two readings has left behind."""
        first, last = self._hops // 10, self._hops
        return (self._readings[last] - self._readings[first]) / (last - first)

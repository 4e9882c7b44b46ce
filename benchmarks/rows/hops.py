"""What it costs to go from one step to the next.

One run goes round a step that takes its own event, so many times, and ends. The figure is the time from `run()` to the
result, divided by the hops: the one start and the one stop of the run are in it on both sides. A `def` step is a
function on a thread in both engines, an `async def` step a coroutine on an event loop.
"""

# Annotations stay objects here, so that the classes inside the functions need no resolving by either engine.
import asyncio
from time import perf_counter
from typing import Any

from benchmarks.row import Measure, Row, faster


def def_chain() -> type[Any]:
    """Return our workflow of one `def` step that takes its own event, `left` times."""
    from greenroom import Event, StartEvent, StopEvent, Workflow, step

    class Begin(StartEvent):
        left: int

    class Hop(Event):
        left: int

    class Chain(Workflow):
        @step
        def hop(self, ev: Begin | Hop) -> Hop | StopEvent:
            return Hop(left=ev.left - 1) if ev.left else StopEvent()

    return Chain


class DefHop(Row):
    """A chain of `def` steps."""

    name = "def-hop"
    what = "one step hop, `def` step, chain of 1,000"
    size = 1000
    quick_size = 50
    target = faster(20)

    def ours(self) -> Measure:
        workflow = def_chain()(timeout=None)

        def measure(hops: int) -> float:
            began = perf_counter()
            workflow.run(left=hops).result()
            return (perf_counter() - began) / hops

        return measure

    def peer(self) -> Measure:
        from workflows import Workflow, step
        from workflows.events import Event, StartEvent, StopEvent

        class Begin(StartEvent):
            left: int

        class Hop(Event):
            left: int

        class Chain(Workflow):
            @step
            def hop(self, ev: Begin | Hop) -> Hop | StopEvent:
                return Hop(left=ev.left - 1) if ev.left else StopEvent()

        workflow = Chain(timeout=None)
        workflow.validate()

        async def chain(hops: int) -> float:
            began = perf_counter()
            await workflow.run(left=hops)
            return (perf_counter() - began) / hops

        return lambda hops: asyncio.run(chain(hops))


class AsyncHop(Row):
    """A chain of `async def` steps, started from synchronous code on our side."""

    name = "async-hop"
    what = "one step hop, `async def` step, chain of 1,000"
    size = 1000
    quick_size = 50
    target = faster(8)

    def ours(self) -> Measure:
        from greenroom import Event, StartEvent, StopEvent, Workflow, step

        class Begin(StartEvent):
            left: int

        class Hop(Event):
            left: int

        class Chain(Workflow):
            @step
            async def hop(self, ev: Begin | Hop) -> Hop | StopEvent:
                return Hop(left=ev.left - 1) if ev.left else StopEvent()

        workflow = Chain(timeout=None)

        def measure(hops: int) -> float:
            began = perf_counter()
            workflow.run(left=hops).result()
            return (perf_counter() - began) / hops

        return measure

    def peer(self) -> Measure:
        from workflows import Workflow, step
        from workflows.events import Event, StartEvent, StopEvent

        class Begin(StartEvent):
            left: int

        class Hop(Event):
            left: int

        class Chain(Workflow):
            @step
            async def hop(self, ev: Begin | Hop) -> Hop | StopEvent:
                return Hop(left=ev.left - 1) if ev.left else StopEvent()

        workflow = Chain(timeout=None)
        workflow.validate()

        async def chain(hops: int) -> float:
            began = perf_counter()
            await workflow.run(left=hops)
            return (perf_counter() - began) / hops

        return lambda hops: asyncio.run(chain(hops))

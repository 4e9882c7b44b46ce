"""What it costs to send out n items, work on each and collect them again.

Three steps: the first sends n events, the second turns each into a result, the third collects all n results. The
figure is the time from `run()` to the result, divided by n; an item is two hops and a collect. Every step has the
default number of workers (4 in both engines). The peer takes what to expect as a list of n classes, we as a count by
class. Our steps are `def`; the peer's are `async def`, since its `def` steps cannot send events.
"""

import asyncio
from statistics import median
from time import perf_counter
from typing import ClassVar

from benchmarks.row import Measure, Row, faster, note_at_most


class FanOut100(Row):
    """Beside the peer, at 100."""

    name = "fan-out-100"
    what = "fan-out and collect, an item, n = 100"
    size = 100
    quick_size = 10
    target = faster(30)

    def ours(self) -> Measure:
        from greenroom import Context, Event, StartEvent, StopEvent, Workflow, step

        class Begin(StartEvent):
            count: int

        class Item(Event):
            number: int
            of: int

        class Done(Event):
            number: int
            of: int

        class FanOut(Workflow):
            @step
            def send(self, ctx: Context, ev: Begin) -> Item | None:
                for number in range(ev.count):
                    ctx.send_event(Item(number=number, of=ev.count))
                return None

            @step
            def work(self, ev: Item) -> Done:
                return Done(number=ev.number, of=ev.of)

            @step
            def gather(self, ctx: Context, ev: Done) -> StopEvent | None:
                done = ctx.collect_events(ev, {Done: ev.of})
                return None if done is None else StopEvent(result=len(done))

        workflow = FanOut(timeout=None)

        def measure(items: int) -> float:
            began = perf_counter()
            collected = workflow.run(count=items).result()
            seconds = (perf_counter() - began) / items
            _check(collected, items)
            return seconds

        return measure

    def peer(self) -> Measure:
        from workflows import Context, Workflow, step
        from workflows.events import Event, StartEvent, StopEvent

        class Begin(StartEvent):
            count: int

        class Item(Event):
            number: int
            of: int

        class Done(Event):
            number: int
            of: int

        class FanOut(Workflow):
            @step
            async def send(self, ctx: Context, ev: Begin) -> Item | None:
                for number in range(ev.count):
                    ctx.send_event(Item(number=number, of=ev.count))
                return None

            @step
            async def work(self, ev: Item) -> Done:
                return Done(number=ev.number, of=ev.of)

            @step
            async def gather(self, ctx: Context, ev: Done) -> StopEvent | None:
                done = ctx.collect_events(ev, [Done] * ev.of)
                return None if done is None else StopEvent(result=len(done))

        workflow = FanOut(timeout=None)
        workflow.validate()

        async def fan_out(items: int) -> float:
            began = perf_counter()
            collected = await workflow.run(count=items)
            seconds = (perf_counter() - began) / items
            _check(collected, items)
            return seconds

        return lambda items: asyncio.run(fan_out(items))


class FanOut1000(FanOut100):
    """Beside the peer, at 1,000, where the peer has begun to grow with the square."""

    name = "fan-out-1000"
    what = "fan-out and collect, an item, n = 1,000"
    size = 1000


class ListFanOut100(Row):
    """By type: the first step returns a list, the third takes one. The peer's steps are `def` here as well."""

    name = "list-fan-out-100"
    what = "fan-out and collect by `list[E]`, an item, n = 100"
    size = 100
    quick_size = 10
    target = faster(30)

    def ours(self) -> Measure:
        from greenroom import Event, StartEvent, StopEvent, Workflow, step

        class Begin(StartEvent):
            count: int

        class Item(Event):
            number: int

        class Done(Event):
            number: int

        class FanOut(Workflow):
            @step
            def send(self, ev: Begin) -> list[Item]:
                return [Item(number=number) for number in range(ev.count)]

            @step
            def work(self, ev: Item) -> Done:
                return Done(number=ev.number)

            @step
            def gather(self, done: list[Done]) -> StopEvent:
                return StopEvent(result=len(done))

        workflow = FanOut(timeout=None)

        def measure(items: int) -> float:
            began = perf_counter()
            collected = workflow.run(count=items).result()
            seconds = (perf_counter() - began) / items
            _check(collected, items)
            return seconds

        return measure

    def peer(self) -> Measure:
        from workflows import Workflow, step
        from workflows.events import Event, StartEvent, StopEvent

        class Begin(StartEvent):
            count: int

        class Item(Event):
            number: int

        class Done(Event):
            number: int

        class FanOut(Workflow):
            @step
            def send(self, ev: Begin) -> list[Item]:
                return [Item(number=number) for number in range(ev.count)]

            @step
            def work(self, ev: Item) -> Done:
                return Done(number=ev.number)

            @step
            def gather(self, done: list[Done]) -> StopEvent:
                return StopEvent(result=len(done))

        workflow = FanOut(timeout=None)
        workflow.validate()

        async def fan_out(items: int) -> float:
            began = perf_counter()
            collected = await workflow.run(count=items)
            seconds = (perf_counter() - began) / items
            _check(collected, items)
            return seconds

        return lambda items: asyncio.run(fan_out(items))


class FanOut10000(Row):
    """Ours alone, at 10,000: an item must not cost more than it does among 100. The peer would take minutes."""

    name = "fan-out-10000"
    what = "fan-out and collect, an item, n = 10,000"
    size = 10_000
    quick_size = 1000
    target = note_at_most("times the cost at 100", 1.5)

    among_100: ClassVar[type[Row]] = FanOut100

    def ours(self) -> Measure:
        fan_out = self.among_100().ours()

        def measure(items: int) -> float:
            among_100 = median(fan_out(100) for _ in range(20))
            among_many = fan_out(items)
            self.notes["times the cost at 100"] = among_many / among_100
            return among_many

        return measure


class ListFanOut10000(FanOut10000):
    """The same by type."""

    name = "list-fan-out-10000"
    what = "fan-out and collect by `list[E]`, an item, n = 10,000"
    among_100 = ListFanOut100


def _check(collected: object, items: int) -> None:
    if collected != items:
        raise ValueError(f"collected {collected} of {items} items")

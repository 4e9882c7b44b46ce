"""Many at once: chapters are graded side by side, by collecting events and by lists, and a failure is caught."""

import asyncio
from typing import Annotated

from workflows import Context, Workflow, catch_error, step
from workflows.collect import Collect, Take
from workflows.events import Event, StartEvent, StepFailedEvent, StopEvent


class Chapter(Event):
    n: int


class Graded(Event):
    n: int
    mark: int


class Marks(Workflow):
    @step
    async def split(self, ctx: Context, ev: StartEvent) -> Chapter | None:
        for n in range(ev.chapters):
            ctx.send_event(Chapter(n=n))

    @step(num_workers=3)
    async def grade(self, ev: Chapter) -> Graded:
        await asyncio.sleep(0.001 * (5 - ev.n))
        return Graded(n=ev.n, mark=ev.n % 3)

    @step
    async def join(self, ctx: Context, ev: Graded) -> StopEvent | None:
        graded = ctx.collect_events(ev, [Graded] * 5)
        if graded is None:
            return None
        return StopEvent(result=sorted((g.n, g.mark) for g in graded))


class Lists(Workflow):
    @step
    async def split(self, ev: StartEvent) -> list[Chapter]:
        return [Chapter(n=n) for n in range(ev.chapters)]

    @step(num_workers=8)
    async def grade(self, ev: Chapter) -> Graded:
        if ev.n == 3:
            raise ValueError("unreadable")
        return Graded(n=ev.n, mark=ev.n % 3)

    @catch_error(for_steps=["grade"])
    async def unreadable(self, ev: StepFailedEvent) -> Graded:
        return Graded(n=ev.input_event.n, mark=-1)

    @step
    async def join(self, graded: list[Graded]) -> StopEvent:
        return StopEvent(result=sorted((g.n, g.mark) for g in graded))


class First(Workflow):
    @step
    async def split(self, ev: StartEvent) -> list[Chapter]:
        return [Chapter(n=n) for n in range(ev.chapters)]

    @step(num_workers=1)
    async def grade(self, ev: Chapter) -> Graded:
        return Graded(n=ev.n, mark=1)

    @step
    async def join(self, graded: Annotated[list[Graded], Collect(Take(2))]) -> StopEvent:
        return StopEvent(result=[g.n for g in graded])


async def main():
    for workflow in (Marks, Lists, First):
        print(await workflow(timeout=10).run(chapters=5))


asyncio.run(main())

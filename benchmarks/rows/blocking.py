"""How many steps can block at once.

A step sends n events to a step with 200 workers, whose `def` body sleeps for 50 ms in the calling thread, as a
blocking client library would; a third step collects. The figure is the time from `run()` to the result, divided by n:
250 µs if all 200 sleep side by side and the engine costs nothing. Each body counts itself in and out, and the most that
were in at once is noted.

The peer runs `def` steps on the default executor of the event loop. That is what users get, so that is what the row
compares with; a user who knows may put an executor of 200 threads in its place, and what that gives is noted too.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from time import perf_counter, sleep

from benchmarks.row import Measure, Row, note_reaches_size

WORKERS = 200
BODY_SECONDS = 0.05
ASLEEP = "most bodies asleep at once"


class Sleepers:
    """Counts the bodies that are asleep."""

    def __init__(self) -> None:
        self._lock = Lock()  # protects both counts
        self._now = 0
        self.most = 0

    def sleep(self) -> None:
        """Block the calling thread as long as a body does."""
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        sleep(BODY_SECONDS)
        with self._lock:
            self._now -= 1


class SideBySide(Row):
    """200 bodies that block."""

    name = "blocking"
    what = "blocking `def` steps side by side, a 50 ms body of 200"
    size = WORKERS
    quick_size = 20
    target = note_reaches_size(ASLEEP, "all asleep at once")

    def ours(self) -> Measure:
        from greenroom import Context, Event, StartEvent, StopEvent, Workflow, step

        class Begin(StartEvent):
            jobs: int

        class Job(Event):
            of: int

        class Done(Event):
            of: int

        class Jobs(Workflow):
            sleepers = Sleepers()

            @step
            def send(self, ctx: Context, ev: Begin) -> Job | None:
                for _ in range(ev.jobs):
                    ctx.send_event(Job(of=ev.jobs))
                return None

            @step(num_workers=WORKERS)
            def block(self, ev: Job) -> Done:
                self.sleepers.sleep()
                return Done(of=ev.of)

            @step
            def gather(self, ctx: Context, ev: Done) -> StopEvent | None:
                return None if ctx.collect_events(ev, {Done: ev.of}) is None else StopEvent()

        workflow = Jobs(timeout=None)

        def measure(jobs: int) -> float:
            workflow.sleepers = Sleepers()
            began = perf_counter()
            workflow.run(jobs=jobs).result()
            seconds = perf_counter() - began
            self.notes[ASLEEP] = workflow.sleepers.most
            return seconds / jobs

        return measure

    def peer(self) -> Measure:
        from workflows import Context, Workflow, step
        from workflows.events import Event, StartEvent, StopEvent

        class Begin(StartEvent):
            jobs: int

        class Job(Event):
            of: int

        class Done(Event):
            of: int

        class Jobs(Workflow):
            sleepers = Sleepers()

            @step
            async def send(self, ctx: Context, ev: Begin) -> Job | None:
                for _ in range(ev.jobs):
                    ctx.send_event(Job(of=ev.jobs))
                return None

            @step(num_workers=WORKERS)
            def block(self, ev: Job) -> Done:
                self.sleepers.sleep()
                return Done(of=ev.of)

            @step
            async def gather(self, ctx: Context, ev: Done) -> StopEvent | None:
                return None if ctx.collect_events(ev, [Done] * ev.of) is None else StopEvent()

        workflow = Jobs(timeout=None)
        workflow.validate()

        async def run(jobs: int, executor: ThreadPoolExecutor | None) -> float:
            if executor is not None:
                asyncio.get_running_loop().set_default_executor(executor)
            workflow.sleepers = Sleepers()
            began = perf_counter()
            await workflow.run(jobs=jobs)
            return (perf_counter() - began) / jobs

        def measure(jobs: int) -> float:
            with ThreadPoolExecutor(WORKERS) as executor:
                by_hand = asyncio.run(run(jobs, executor))
            self.notes["µs with an executor of 200 threads"] = by_hand * 1e6
            seconds = asyncio.run(run(jobs, None))
            self.notes[ASLEEP] = workflow.sleepers.most
            return seconds

        return measure

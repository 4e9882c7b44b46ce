"""What a whole run costs, when it has but one step.

The runs go one after the other, each waited for before the next. The figure is the time of all, divided by the runs.
Each side uses the step that is its quicker: ours a `def` step waited for with `result()`, the peer's an `async def`
step awaited on a loop that already runs.
"""

import asyncio
from time import perf_counter

from benchmarks.row import Measure, Row, faster


class OneStepRun(Row):
    """Runs of one step, one after the other."""

    name = "run"
    what = "a whole one-step run, run to result"
    size = 300
    quick_size = 20
    target = faster(10)

    def ours(self) -> Measure:
        from greenroom import StartEvent, StopEvent, Workflow, step

        class Begin(StartEvent):
            number: int

        class One(Workflow):
            @step
            def only(self, ev: Begin) -> StopEvent:
                return StopEvent(result=ev.number)

        workflow = One(timeout=None)

        def measure(runs: int) -> float:
            began = perf_counter()
            for number in range(runs):
                workflow.run(number=number).result()
            return (perf_counter() - began) / runs

        return measure

    def peer(self) -> Measure:
        from workflows import Workflow, step
        from workflows.events import StartEvent, StopEvent

        class Begin(StartEvent):
            number: int

        class One(Workflow):
            @step
            async def only(self, ev: Begin) -> StopEvent:
                return StopEvent(result=ev.number)

        workflow = One(timeout=None)
        workflow.validate()

        async def sequence(runs: int) -> float:
            began = perf_counter()
            for number in range(runs):
                await workflow.run(number=number)
            return (perf_counter() - began) / runs

        return lambda runs: asyncio.run(sequence(runs))

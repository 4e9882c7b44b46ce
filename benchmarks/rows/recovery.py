"""Runs that have left memory: how quickly they come back.

`recover`: a process is killed while so many runs are in the middle, each with one step done and one begun. Another
takes a copy of its file, recovers them all, and works them off. The figure is the time from the making of the runtime
until the last has ended, divided by the runs; the notes say what of it `recover()` took, and how many runs a second
that is.

`answer-at-rest`: runs that wait for a person, each at rest in the store, so that nothing of them is in memory. They are
answered one after the other. The figure is the median of the time from `respond()` to the step's line after the
question: the run is read, its body begun anew and replayed up to there, and the answer committed.
"""

# Annotations stay objects here, so that the classes inside the functions need no resolving.
import asyncio
import atexit
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import quantiles
from time import perf_counter, sleep
from typing import Any

from benchmarks.folders import temporary_folder
from benchmarks.row import Measure, Row, no_target

PROGRAM = """
import sys
from benchmarks.rows.recovery import begin_runs
begin_runs(sys.argv[1], int(sys.argv[2]))
"""


def two_steps(second: Callable[[], Awaitable[object]]) -> type[Any]:
    """Return a workflow of two steps, the second of which awaits what a function returns."""
    from greenroom import Event, StartEvent, StopEvent, Workflow, step

    class Middle(Event):
        number: int

    class TwoSteps(Workflow):
        @step
        def first(self, ev: StartEvent) -> Middle:
            return Middle(number=ev.number)

        @step
        async def second(self, ev: Middle) -> StopEvent:
            await second()
            return StopEvent(result=ev.number)

    return TwoSteps


def begin_runs(path: str, count: int) -> None:
    """Begin so many runs, say so when each is in its second step, and wait to be killed."""
    from greenroom import Runtime
    from greenroom.stores import SQLiteStore

    begun = threading.Semaphore(0)

    async def stand() -> None:
        begun.release()  # What the first step returned is committed, or this one would not have begun.
        await asyncio.get_running_loop().create_future()

    workflow = two_steps(stand)(timeout=None, runtime=Runtime(store=SQLiteStore(path), idle_timeout=None))
    for number in range(count):
        workflow.run(number=number)
    for _ in range(count):
        begun.acquire()
    print("begun", flush=True)
    threading.Event().wait()


async def go_on() -> None:
    """Let the second step end at once."""


class Recover(Row):
    """Takes over the runs of a process that was killed."""

    name = "recover"
    what = "recovery of 10,000 unfinished runs, a run"
    size = 10_000
    quick_size = 100
    max_rounds = 3
    target = no_target()

    def ours(self) -> Measure:
        from greenroom import Runtime
        from greenroom.stores import SQLiteStore

        left: dict[int, Path] = {}
        folder = temporary_folder()
        workflow = two_steps(go_on)

        def measure(count: int) -> float:
            if count not in left:
                left[count] = self.left_behind(folder / f"{count}.db", count)
            copy = folder / "copy.db"
            for ending in ("", "-wal"):
                shutil.copyfile(f"{left[count]}{ending}", f"{copy}{ending}")
            store = SQLiteStore(copy)
            began = perf_counter()
            with Runtime(store=store) as runtime:
                runtime.recover([workflow(timeout=None)])
                recovered = perf_counter() - began
                while store.runs(status="running", limit=1):  # in `runtime.runs` are those that were taken so far
                    sleep(0.005)
                ended = perf_counter() - began
                assert len(store.runs(status="completed", limit=count)) == count
            self.notes["recover() seconds"] = recovered
            self.notes["runs a second"] = count / recovered
            return ended / count

        return measure

    @staticmethod
    def left_behind(path: Path, count: int) -> Path:
        """Have a process begin so many runs in this file, and kill it."""
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(path), str(count)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            said = process.stdout.readline()
            os.kill(process.pid, signal.SIGKILL)
        assert said == "begun\n"
        return path


class AnswerAtRest(Row):
    """Answers questions of runs that are at rest in the store."""

    name = "answer-at-rest"
    what = "answer to a run at rest in the store, to the line after the question"
    size = 200
    quick_size = 10
    max_rounds = 5
    target = no_target()

    def ours(self) -> Measure:
        from greenroom import Context, InputRequiredEvent, Runtime, StartEvent, StopEvent, Workflow, step
        from greenroom.stores import SQLiteStore

        resumed_at, resumed = [0.0], threading.Semaphore(0)

        class Approve(Workflow):
            @step
            def approve(self, ctx: Context, ev: StartEvent) -> StopEvent:
                answer = ctx.ask(InputRequiredEvent(prefix="Approve?"))
                resumed_at[0] = perf_counter()
                resumed.release()
                return StopEvent(result=answer.response)

        folder = temporary_folder()
        runtime = Runtime(store=SQLiteStore(folder / "runs.db"), idle_timeout=0.05)
        atexit.register(runtime.shutdown)
        workflow = Approve(timeout=None, runtime=runtime)

        def measure(count: int) -> float:
            for _ in range(count):
                workflow.run()
            while runtime.runs:  # Not pending_inputs(): who looks into a run keeps it awake.
                sleep(0.01)
            questions, seconds = runtime.pending_inputs(), []
            assert len(questions) == count
            for question in questions:
                began = perf_counter()
                runtime.respond(question.input_id, {"response": "yes"})
                resumed.acquire()
                seconds.append(resumed_at[0] - began)
            while runtime.runs:
                sleep(0.01)
            cuts = quantiles(seconds, n=100, method="inclusive")
            self.notes["p99 µs"] = cuts[98] * 1e6
            return cuts[49]

        return measure

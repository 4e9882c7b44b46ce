"""Many runs at once in one process, each waiting for a person: `python -m benchmarks.parked --help`.

It is a command of its own and no row of the table, since the peer keeps such runs in memory too but has no `def` step
that waits, and since it takes minutes and gigabytes at full size.

Every run has one `def` step that asks a question and stands at it. What is measured, in this order:
- Starting: the time from the first `run()` until the last question is open, and in tenths of the runs, so that a cost
  that grows with the runs shows.
- Memory: the resident size of the process (RSS, from /proc, so Linux only) before and after, divided by the runs. The
  handlers, a list of them and the questions in the runtime's hands are in it; garbage is collected before each reading.
- Threads: how many the process has then.
- Answering: `handler.respond` of randomly chosen runs, one after the other: from the call until the step's line after
  the question, on the step's thread. Beyond `--max-parked` runs a body is first started anew and replayed up to its
  question, and that is in the figure; so is the way across two threads.
- `Runtime.respond` likewise, which has to find the run by the question's id.
- Ending: what leaving the runtime takes with all the others still parked.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import quantiles
from threading import Semaphore
from time import perf_counter
from typing import Any

from benchmarks.arguments import at_least


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print one figure a line; return 0."""
    options = _parse(argv)
    figures = measure(options.runs, options.answers, options.max_parked, options.objects)
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name}: {value}")
    return 0


def measure(runs: int, answers: int, max_parked: int, objects: bool) -> dict[str, Any]:
    """Park so many runs, answer some, and return the figures by name.

    Args:
        runs: How many runs.
        answers: How many of them are answered in each of the two ways.
        max_parked: How many may stand on their threads.
        objects: Also count the objects that a run keeps alive, by class.
    """
    from greenroom import Context, InputRequiredEvent, Runtime, StartEvent, StopEvent, Workflow, step

    parked, resumed_at = Semaphore(0), [0.0]
    resumed = Semaphore(0)

    class Approve(Workflow):
        @step
        def approve(self, ctx: Context, ev: StartEvent) -> StopEvent:
            answer = ctx.ask(InputRequiredEvent(prefix="Approve?"))
            resumed_at[0] = perf_counter()
            resumed.release()
            return StopEvent(result=answer.response)

    figures: dict[str, Any] = {"runs": runs, "max_parked": max_parked}
    with Runtime(max_parked=max_parked) as runtime:
        runtime.on_input(lambda question: parked.release())
        workflow = Approve(timeout=None)
        handler = workflow.run()
        _await_parked(parked, 1)
        handler.respond(handler.pending_inputs()[0].input_id, {"response": "warm"})
        handler.result()
        resumed.acquire()

        memory, counted = _resident(), _count_objects() if objects else Counter()
        tenths, handlers = [], []
        began = perf_counter()
        for part in range(10):
            size = runs * (part + 1) // 10 - len(handlers)
            part_began = perf_counter()
            handlers += [workflow.run() for _ in range(size)]
            _await_parked(parked, size)
            tenths.append(round((perf_counter() - part_began) / max(1, size) * 1e6, 1))
        figures["start_seconds"] = round(perf_counter() - began, 2)
        figures["start_us_a_run_by_tenth"] = tenths
        questions = [handler.pending_inputs()[0].input_id for handler in handlers]
        _await_threads(max_parked)
        figures["threads"] = threading.active_count()
        figures["kib_a_run"] = round((_resident() - memory) / runs / 1024, 2)
        if objects:
            more = _count_objects() - counted
            figures["objects_a_run"] = {name: round(n / runs, 2) for name, n in more.most_common(30)}

        chosen = random.Random(7).sample(range(runs), min(runs, 2 * answers))
        half = len(chosen) // 2

        def ask(index: int, respond: Callable[[str, Any], None]) -> float:
            asked = perf_counter()
            respond(questions[index], {"response": "yes"})
            resumed.acquire()
            taken = resumed_at[0] - asked
            handlers[index].result()
            return taken

        figures |= _percentiles("answer", [ask(index, handlers[index].respond) for index in chosen[:half]])
        figures |= _percentiles("runtime_answer", [ask(index, runtime.respond) for index in chosen[half:]])
        ending = perf_counter()
    figures["end_seconds"] = round(perf_counter() - ending, 2)
    return figures


def _await_parked(parked: Semaphore, count: int) -> None:
    for _ in range(count):
        if not parked.acquire(timeout=60.0):
            raise TimeoutError(f"fewer than {count} questions were asked within a minute of the last")


def _await_threads(max_parked: int) -> None:
    """Wait until the bodies that were unwound have let go of their threads and idle threads have left."""
    # What is measured is the rest state; workers leave after ten idle seconds.
    deadline, least = perf_counter() + 15.0, max_parked + 4
    while threading.active_count() > least and perf_counter() < deadline:
        threading.Event().wait(0.1)


def _resident() -> int:
    """Return the resident size of this process in bytes."""
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status names no VmRSS; this needs Linux")


def _count_objects() -> Counter[str]:
    gc.collect()
    return Counter(type(thing).__qualname__ for thing in gc.get_objects())


def _percentiles(name: str, seconds: list[float]) -> dict[str, float]:
    """Return the median and the 99th percentile in microseconds."""
    cuts = quantiles(seconds, n=100, method="inclusive") if len(seconds) > 1 else seconds * 99
    return {f"{name}_p50_us": round(cuts[49] * 1e6, 1), f"{name}_p99_us": round(cuts[98] * 1e6, 1)}


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.parked",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=at_least(1), default=100_000, help="how many runs are parked [100000]")
    parser.add_argument("--answers", type=at_least(1), default=1000, help="how many are answered, each way [1000]")
    parser.add_argument("--max-parked", type=int, default=1000, help="how many stand on their threads [1000]")
    parser.add_argument("--objects", action="store_true", help="also print the tracked objects a run, by class")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())

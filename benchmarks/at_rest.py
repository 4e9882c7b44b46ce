"""Many runs at rest in one SQLite file, each waiting for a person: `python -m benchmarks.at_rest --help`.

It is a command of its own and no row of the table, since it takes minutes at full size. One process begins the runs,
has each ask its question and puts it to rest, so that nothing of it stays in memory; then it ends. A fresh process
opens the file. Printed are, in this order:
- Beginning: the time until the last run is at rest, a run, with `--at-once` of them in memory at a time.
- The file: its size, divided by the runs.
- A fresh process: the time and the resident memory (RSS, from /proc, so Linux only) that it takes to open the file and
  recover the workflow, over the same process with an empty file; it then knows the runs and wakes them when something
  wants them.
- Answering: `Runtime.respond` of randomly chosen runs, one after the other: from the call until the step's line after
  the question.
- The time to list all questions.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import quantiles
from threading import Semaphore
from time import perf_counter, sleep
from typing import Any

from benchmarks.arguments import at_least


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print one figure a line; return 0."""
    options = _parse(argv)
    with tempfile.TemporaryDirectory(prefix="greenroom-bench-") as folder:
        path = Path(options.file or Path(folder) / "runs.db")
        figures = {"runs": options.runs}
        figures |= _in_a_process("begin", path, options.runs, options.at_once)
        figures["file_bytes_a_run"] = round(path.stat().st_size / options.runs)
        empty = _in_a_process("know", Path(folder) / "empty.db", 0, 0)
        known = _in_a_process("know", path, options.answers, 0)
        figures |= {name: known[name] for name in known if name != "rss_mib"}
        figures["rss_mib_fresh"] = known["rss_mib"]
        figures["rss_mib_with_an_empty_file"] = empty["rss_mib"]
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name}: {value}")
    return 0


def _in_a_process(part: str, path: Path, count: int, at_once: int) -> dict[str, Any]:
    command = [sys.executable, "-c", "import sys; from benchmarks.at_rest import work; work(*sys.argv[1:])"]
    done = subprocess.run([*command, part, str(path), str(count), str(at_once)], stdout=subprocess.PIPE, check=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def work(part: str, path: str, count: str, at_once: str) -> None:
    """Do one part in this process, and print its figures as JSON."""
    print(json.dumps(begin(path, int(count), int(at_once)) if part == "begin" else know(path, int(count))))


def make_workflow(resumed: Semaphore, resumed_at: list[float]) -> type[Any]:
    """Return a workflow that asks a question, and says when it is answered."""
    from greenroom import InputRequiredEvent, StartEvent, StopEvent, Workflow, step
    from greenroom.aio import Context

    class Approve(Workflow):
        @step
        async def approve(self, ctx: Context, ev: StartEvent) -> StopEvent:
            answer = await ctx.ask(InputRequiredEvent(prefix="Approve?"))
            resumed_at[0] = perf_counter()
            resumed.release()
            return StopEvent(result=answer.response)

    return Approve


def begin(path: str, runs: int, at_once: int) -> dict[str, Any]:
    """Begin runs and have them go to rest, so many in memory at once."""
    from greenroom import Runtime
    from greenroom.stores import SQLiteStore

    began = perf_counter()
    with Runtime(store=SQLiteStore(path), idle_timeout=0.0) as runtime:
        workflow = make_workflow(Semaphore(), [0.0])(timeout=None)
        for _ in range(runs):
            workflow.run()
            while len(runtime.runs) >= at_once:
                sleep(0.001)
        while runtime.runs:
            sleep(0.001)
        seconds = perf_counter() - began
    return {"begin_seconds": round(seconds, 1), "begin_us_a_run": round(seconds / runs * 1e6)}


def know(path: str, answers: int) -> dict[str, Any]:
    """Open the file, recover the workflow, list the questions and answer some."""
    from benchmarks.parked import _resident
    from greenroom import Runtime
    from greenroom.stores import SQLiteStore

    resumed, resumed_at = Semaphore(0), [0.0]
    workflow = make_workflow(resumed, resumed_at)(timeout=None)
    began = perf_counter()
    with Runtime(store=SQLiteStore(path)) as runtime:
        runtime.recover([workflow])
        figures: dict[str, Any] = {"open_and_recover_ms": round((perf_counter() - began) * 1e3, 1)}
        gc.collect()
        figures["rss_mib"] = round(_resident() / 2**20, 1)
        if answers:
            began = perf_counter()
            questions = [question.input_id for question in runtime.pending_inputs()]
            figures["list_questions_seconds"] = round(perf_counter() - began, 2)
            seconds = []
            for input_id in random.Random(7).sample(questions, min(answers, len(questions))):
                asked = perf_counter()
                runtime.respond(input_id, {"response": "yes"})
                resumed.acquire()
                seconds.append(resumed_at[0] - asked)
            cuts = quantiles(seconds, n=100, method="inclusive")
            figures |= {"answer_p50_us": round(cuts[49] * 1e6), "answer_p99_us": round(cuts[98] * 1e6)}
    return figures


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.at_rest",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=at_least(2), default=100_000, help="how many runs are at rest [100000]")
    parser.add_argument("--answers", type=at_least(2), default=1000, help="how many are answered [1000]")
    parser.add_argument("--at-once", type=at_least(2), default=500, help="how many are in memory at once [500]")
    parser.add_argument("--file", type=Path, help="keep the file here [a temporary one]")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())

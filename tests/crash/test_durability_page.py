"""docs/durability.md says what is run again for each moment of a kill. Each row of its table is tried with SIGKILL."""

from __future__ import annotations

import multiprocessing
import signal
from collections import Counter
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import NamedTuple

import pytest

from greenroom import Handler, Workflow
from tests.support import killed_flows as flows

PAGE = Path(__file__).resolve().parents[2] / "docs" / "durability.md"
SECONDS = 30


class Case(NamedTuple):
    """One way to be killed.

    Attributes:
        flow: The workflow.
        place: Where the first process dies.
        first: What the first process notes, in words; `?` after what it may not have come to.
        second: What the second process notes.
        act: What is done from outside.
    """

    flow: type[Workflow]
    place: str
    first: str
    second: str
    act: Callable[[Workflow], Handler] = flows.begin


# By the first cell of their row.
CASES: dict[str, list[Case]] = {
    "before `run()` has returned": [
        Case(flows.Order, "before RunStarted", "", "pay; charge; mail; ship; = receipt"),
        Case(flows.Order, "after RunStarted", "", "pay; charge; mail; ship; = receipt"),
    ],
    "after `run()` has returned, before a step": [
        Case(flows.InLine, "run() has returned", "pay 0", "pay 0; ship; pay 1; ship; = 1", flows.begin_in_line),
    ],
    "in the body of a step": [
        Case(flows.Order, "before once", "pay", "pay; charge; mail; ship; = receipt"),
        Case(flows.Order, "after mail", "pay; charge; mail", "pay; mail; ship; = receipt"),
        Case(flows.Order, "ship", "pay; charge; mail; ship", "ship; = receipt"),
        Case(
            flows.Sends,
            "sent",
            "send 1; send 2; mark; take 1?; take 2?",
            "send 1; send 2; take 1?; take 2?; take 3; = [1, 2, 3]",
        ),
        Case(flows.Sends, "collected", "send 1; send 2; mark; take 1; take 2; take 3", "take 3; = [1, 2, 3]"),
        Case(flows.FansOut, "work 1", "begin; work 0; work 1", "work 1; work 2; gather; = [0, 1, 2]"),
        Case(flows.FansOut, "gather", "begin; work 0; work 1; work 2; gather", "gather; = [0, 1, 2]"),
        Case(flows.Fails, "mend", "work; mend", "mend; = no"),
    ],
    "after a body has returned, before that is committed": [
        Case(flows.Order, "before Finished", "pay; charge; mail", "pay; mail; ship; = receipt"),
    ],
    "after that is committed": [
        Case(flows.Order, "after Finished", "pay; charge; mail", "ship; = receipt"),
    ],
    "in a function that `ctx.once` calls, or after its effect, before its result is recorded": [
        Case(flows.Order, "in once", "pay", "pay; charge; mail; ship; = receipt"),
        Case(flows.Order, "after the effect", "pay; charge", "pay; charge; mail; ship; = receipt"),
        Case(flows.Order, "before OnceDone", "pay; charge", "pay; charge; mail; ship; = receipt"),
    ],
    "after `ctx.once` has returned": [
        Case(flows.Order, "after OnceDone", "pay; charge", "pay; mail; ship; = receipt"),
        Case(flows.Order, "after once", "pay; charge", "pay; mail; ship; = receipt"),
    ],
    "after a body has set the shared state": [
        Case(flows.Counts, "counted", "total was 0", "total was 1; = [2, 1]"),
    ],
    "in an attempt that would have failed": [
        Case(flows.Retries, "in an attempt", "attempt 0; attempt 1", "attempt 1; attempt 2; = 2"),
    ],
    "in the delay before a retry": [
        Case(flows.Retries, "after Failed", "attempt 0", "attempt 1; attempt 2; = 2"),
    ],
    "while a step waits (`wait_for_event`, `ask`, `sleep`)": [
        Case(flows.Waits, "asked", "wait", "wait; answered 7; slept; = 7", flows.answer),
        Case(
            flows.Waits,
            "before TimerFired",
            "wait; answered 7",
            "wait; answered 7; slept; = 7",
            flows.answer,
        ),
    ],
    "while an event of `ctx.send_event(delay=...)` is on its way": [
        Case(flows.Later, "after Finished", "begin", "take; = 1"),
    ],
    "while a step waits for a run within it (`ctx.run`)": [
        Case(flows.Outer, "second", "outer; first; second", "outer; second; result; = 1"),
        Case(flows.Outer, "child has ended", "outer; first; second; result", "outer; result; = 1"),
    ],
    'while a resource is open (`scope="run"`)': [
        Case(flows.Opens, "opened", "open", "open; one; two; close; = connection"),
        Case(flows.Opens, "two", "open; one; two", "open; two; close; = connection"),
    ],
    "before `handler.send_event` or `respond` has returned": [
        Case(flows.Hears, "before EventArrived", "", "= [1, 2]", flows.send),
        Case(flows.Hears, "after EventArrived", "", "= [1, 2]", flows.send),
        Case(flows.Waits, "before Responded", "wait", "wait; answered 7; slept; = 7", flows.answer),
        Case(flows.Waits, "after Responded", "wait", "wait; answered 7; slept; = 7", flows.answer),
    ],
    "after they have returned": [
        Case(flows.Hears, "send_event() has returned 1", "", "= [1, 2]", flows.send),
        Case(flows.Hears, "send_event() has returned 2", "", "= [1, 2]", flows.send),
        Case(
            flows.Waits,
            "respond() has returned",
            "wait; answered 7?",
            "wait; answered 7; slept; = 7",
            flows.answer,
        ),
    ],
    "before `cancel_run` has ended the run": [
        Case(flows.Waits, "before CancelAsked", "wait", "wait; answered 7; slept; = 7", flows.cancel),
    ],
    "after it has": [
        Case(flows.Waits, "cancel_run() has returned", "wait", "= WorkflowCancelledByUser", flows.cancel),
    ],
    "when the last step has returned, before the end is committed": [
        Case(flows.Order, "before the end", "pay; charge; mail; ship", "ship; = receipt"),
    ],
    "after `result()` could return": [
        Case(flows.Order, "after the end", "pay; charge; mail; ship", "= receipt"),
        Case(flows.Order, "result() has returned", "pay; charge; mail; ship; = receipt", "= receipt"),
    ],
    "while a run goes to rest, is woken, or is given back": [
        Case(flows.Waits, "before rest", "wait", "wait; answered 7; slept; = 7", flows.answer),
        Case(flows.Waits, "at rest", "wait", "wait; answered 7; slept; = 7", flows.answer),
    ],
}
# What takes longer than a lease is tried in test_kill.py.
ELSEWHERE = (
    "suspended (SIGSTOP, a paused machine) between the question of `ctx.once` and the effect, for longer than the lease"
)


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.ForkServerContext:
    """Processes that have imported all they need, and begin in some milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.killed_flows"])
    forkserver.ensure_running()
    return context


def lives(
    processes: multiprocessing.context.ForkServerContext, folder: Path, case: Case, place: str | None
) -> list[str]:
    """Have a process live the case; return what it has noted."""
    notes = folder / "notes"
    notes.write_text("")
    process = processes.Process(target=flows.live, args=(str(folder), case.flow, case.act, place), daemon=True)
    process.start()
    process.join(SECONDS)
    code = process.exitcode
    process.kill()
    process.join()
    process.close()
    assert code == (0 if place is None else -signal.SIGKILL)
    return notes.read_text().splitlines()


def is_said(noted: list[str], words: str) -> bool:
    """Return whether what was noted is what a case says, in whichever order its steps came by."""
    said = words.split("; ") if words else []
    rest, may = Counter(noted), Counter(word.removesuffix("?") for word in said if word.endswith("?"))
    rest.subtract(word for word in said if not word.endswith("?"))
    return all(0 <= count <= may[word] for word, count in rest.items())


def test_each_row_of_the_page_is_tried() -> None:
    """A row that is added or put in other words needs a case in those words."""
    table = PAGE.read_text().partition("| the process is killed |")[2].partition("\n\n")[0]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()[2:]]
    assert sorted(rows) == sorted([*CASES, ELSEWHERE])


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=f"{row}: {case.place}") for row, cases in CASES.items() for case in cases]
)
def test_what_is_run_again_is_what_the_page_says(
    processes: multiprocessing.context.ForkServerContext, tmp_path: Path, case: Case
) -> None:
    """One process is killed there, the next one recovers the run: both do what is said, and nothing else."""
    first = lives(processes, tmp_path, case, case.place)
    second = lives(processes, tmp_path, case, None)
    assert is_said(first, case.first), first
    assert is_said(second, case.second), second

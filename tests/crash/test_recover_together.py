"""Processes that recover at once what a process has left that was killed: each run goes on in one of them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from greenroom.codec import decode
from greenroom.inbox import post_answer
from greenroom.named import registry_of
from greenroom.stores import SQLiteStore
from tests.support.recover_process import Answer, Asks

ROOT = Path(__file__).resolve().parent.parent.parent
RUNS = 200
PATIENCE = 60.0


@contextmanager
def process(*words: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.support.recover_process", *map(str, words)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


def line(started: subprocess.Popen[str]) -> str:
    assert started.stdout is not None
    return started.stdout.readline().strip()


def say(started: subprocess.Popen[str]) -> None:
    assert started.stdin is not None
    started.stdin.write("go\n")
    started.stdin.flush()


@pytest.mark.timeout(3 * PATIENCE)
def test_runs_of_a_killed_process_that_two_recover_at_once_go_on_once_each(tmp_path: Path) -> None:
    """None is taken twice, none is left, nothing that was done once is done again, and all of them end."""
    path, notes = tmp_path / "runs.db", tmp_path / "notes"
    with process("begin", path, RUNS, notes) as begun:
        assert line(begun) == "begun"
        begun.kill()
        begun.wait()
    names = [f"run-{n}" for n in range(RUNS)]
    store = SQLiteStore(path)
    store.open()
    with process("recover", path) as one, process("recover", path) as other:
        assert line(one) == line(other) == "ready"
        for started in (one, other):
            say(started)
        taken = [set(line(started).split()) for started in (one, other)]
        assert not taken[0] & taken[1]
        deadline = time.monotonic() + PATIENCE
        while left := store.orphans([Asks().workflow_name]):  # what the calls left to each other, each looks for
            assert time.monotonic() < deadline, f"{len(left)} runs were left"
        rows = [row for name in names if (row := store.row(name)) is not None]
        assert [row.fence for row in rows] == [2] * RUNS  # each has changed hands once
        for mine in taken:
            assert len({row.owner for row in rows if row.run_id in mine}) <= 1
        registry = registry_of(Asks())
        for question in store.inputs():
            assert post_answer(store, question.run_id, question.input_id, Answer(n=1000), registry)
        while left := store.runs(status="running", limit=RUNS):
            assert time.monotonic() < deadline, f"{len(left)} runs have not ended"
        results = [decode(data, registry)[0].result for name in names if (data := store.result(name)) is not None]
        assert results == [1000 + n for n in range(RUNS)]
    assert sorted(map(int, notes.read_text().split())) == list(range(RUNS))
    store.close()

"""Durable runs whose process is killed, again and again, with SIGKILL.

A child works through a few runs (tests/support/crash_child.py) and reports each effect as it happens. It is killed just
before a commit, just after one of which nobody was told, at an effect, or at any moment; another recovers the runs, and
so on until they have ended. The guarantee, in the words of docs/durability.md: every run ends, with its result; what
was acknowledged is taken, held or a dead letter, once; what `ctx.once` has recorded is not done again, and what it has
not recorded is done again only if the process died between the effect and its record; the stream has no gap.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.ledger import Ledger, PostgresLedger, SQLiteLedger
from tests.support.postgres import PostgresServer
from tests.support.story import PATIENCE, Fault, Story

STORIES = int(os.environ.get("GREENROOM_SOAK", "1"))


MakeLedger = Callable[[], Ledger]


@pytest.fixture
def make_ledger(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> MakeLedger:
    """Makes a store of a story's own, each time."""
    names = itertools.count()
    if kind == "sqlite":
        return lambda: SQLiteLedger(tmp_path / f"runs-{next(names)}.db")
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return lambda: PostgresLedger(server.conninfo, f"{tmp_path.name}-{next(names)}")


FAULTS: dict[str, Callable[[int, random.Random], tuple[Fault, float | None]]] = {
    "before a commit": lambda n, _: ({"at": "before", "every": n}, None),
    "after a commit": lambda n, _: ({"at": "after", "every": n}, None),
    "within a commit": lambda n, draw: ({"at": "within", "every": n, "delay": draw.uniform(0.0, 0.003)}, None),
    "at an effect": lambda n, _: ({"effect": n % 4 + 1}, None),
    "at any moment": lambda n, draw: ({}, draw.uniform(0.0, 0.03 + 0.01 * n)),
}
MODES: dict[str, dict[str, Any]] = {
    "sync": {"durability": "sync"},
    "async": {"durability": "async", "flush_interval": 0.005},
    "resting": {"durability": "sync", "idle_timeout": 0.0},
    "unparked": {"durability": "sync", "max_parked": 0},
}


# All of them for PostgreSQL only by `make soak`.
CASES = [("sqlite", fault, mode) for fault in FAULTS for mode in MODES]
if STORIES == 1:
    CASES += [("postgres", fault, mode) for fault, mode in zip(FAULTS, [*MODES, "sync"], strict=True)]
else:
    CASES += [("postgres", fault, mode) for fault in FAULTS for mode in MODES]


@pytest.mark.timeout(120 + 30 * STORIES)
@pytest.mark.parametrize(("kind", "fault", "mode"), CASES)
def test_runs_whose_process_is_killed_again_and_again_end_as_they_should(
    zygote: socket.socket, make_ledger: MakeLedger, fault: str, mode: str
) -> None:
    """Whenever it is killed, and however the runs are kept."""
    kills = 0
    for seed in range(STORIES):
        story = Story(make_ledger(), MODES[mode], seed)
        for life in range(1, 1000):
            if story.live(zygote, *FAULTS[fault](life + seed, story.random)):
                break
        story.check()
        kills += story.kills
    assert kills >= STORIES
    print(f"{kills} kills")


def suspend(pid: int, ledger: Ledger) -> None:
    """Stop a process, outside of any transaction: in one, all others could only wait for it."""
    while True:
        os.kill(pid, signal.SIGSTOP)
        threads = Path(f"/proc/{pid}/task")
        while any(one.read_text().rpartition(")")[2].split()[0] != "T" for one in threads.glob("*/stat")):
            pass
        if not ledger.in_transaction():
            return
        os.kill(pid, signal.SIGCONT)
        while ledger.in_transaction():  # Stopped again at once, it would get nowhere.
            time.sleep(0.001)


def wait_for_orphans(ledger: Ledger) -> None:
    """Wait until the lease of all that are suspended is over."""
    deadline = time.monotonic() + PATIENCE
    while ledger.has_leases():
        assert time.monotonic() < deadline


@pytest.mark.timeout(120 + 30 * STORIES)
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="whether a process is stopped is read from /proc")
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_processes_that_are_suspended_past_their_lease_do_nothing_again(
    zygote: socket.socket, make_ledger: MakeLedger, mode: str
) -> None:
    """Each is taken over by the next, and goes on later: it is told that it has lost its runs, and writes nothing."""
    for seed in range(STORIES):
        story = Story(make_ledger(), {**MODES[mode], "lease": 0.3}, seed)
        children: list[tuple[int, socket.socket]] = []
        try:
            for _ in range(3):
                pid, ours = story.begin(zygote, {})
                children.append((pid, ours))
                while ours not in story.ready:
                    story.follow_all([ours], 0.01)
                if story.follow_all([ours], story.random.uniform(0.0, 0.04)):
                    break
                suspend(pid, story.ledger)
                story.stopped.add(ours)
                story.follow_all([ours], 0.0)  # what it had told before
                story.suspended |= {text for one, text in story.intended if one is ours}
                story.unrecorded = story.effects - story.recorded()
                wait_for_orphans(story.ledger)
            # The last has a lease that it does not lose on a busy machine: nobody takes the runs over from it, to whom
            # they were lost before. It takes all that is left to itself; one that goes on before that has its runs
            # still, and may do things.
            children.append(story.begin(zygote, {}, lease=60.0))
            while children[-1][1] not in story.ready:
                story.follow_all([children[-1][1]], 0.01)
            story.resumed |= {ours for _, ours in children[:-1]}
            for pid, _ in children[:-1]:
                os.kill(pid, signal.SIGCONT)
            assert story.follow_all([ours for _, ours in children], PATIENCE), "a process did not say what became of it"
        finally:
            for pid, ours in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                ours.close()
        story.check()

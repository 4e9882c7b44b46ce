"""Durable runs whose PostgreSQL server crashes, and comes back, while they are at work.

The children of tests/crash/test_kill.py, and the same guarantee: runs wait for the server and go on. It is crashed, as
by `pg_ctl restart -m immediate`, just before a commit, in the middle of one and just after it; alone, or with the
process.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.support.ledger import PostgresLedger
from tests.support.postgres import PostgresServer, missing
from tests.support.story import Fault, Story

STORIES = int(os.environ.get("GREENROOM_SOAK", "1"))
CRASHES = 3  # of the server in one story

FAULTS: dict[str, Callable[[int, random.Random], Fault]] = {
    "before a commit": lambda n, _: {"at": "before", "every": n},
    "after a commit": lambda n, _: {"at": "after", "every": n},
    "within a commit": lambda n, draw: {"at": "within", "every": n, "delay": draw.uniform(0.0, 0.003)},
}
MODES: dict[str, tuple[dict[str, Any], float]] = {
    "sync": ({"durability": "sync"}, 30.0),
    "async": ({"durability": "async", "flush_interval": 0.005}, 30.0),
    # Its calls fail while the server is gone; what the program did not ask for is tried again by the runtime.
    "impatient": ({"durability": "sync", "idle_timeout": 0.0}, 0.0),
}


# All of them only by `make soak`.
CASES = list(zip(FAULTS, MODES, strict=True) if STORIES == 1 else product(FAULTS, MODES))


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One that the children may crash."""
    if lacking := missing():
        pytest.skip(lacking)
    made = PostgresServer()
    yield made
    made.close()


@pytest.mark.timeout(120 + 30 * STORIES)
@pytest.mark.parametrize(("fault", "mode"), CASES)
@pytest.mark.parametrize("alone", [True, False], ids=["the server", "both"])
def test_runs_whose_server_crashes_under_load_wait_for_it_and_go_on(
    zygote: socket.socket, server: PostgresServer, tmp_path: Path, alone: bool, fault: str, mode: str
) -> None:
    """Nothing is lost or done twice, whether their process lives on or dies as well."""
    options, patience = MODES[mode]
    crashes = 0
    for seed in range(STORIES):
        story = Story(PostgresLedger(server.conninfo, f"{tmp_path.name}-{seed}", patience), options, seed)
        strike = {"server": str(server.pid_file), "times": CRASHES, "alone": alone}
        with server.revived() as starts:
            for life in range(1 if alone else CRASHES + 1):
                death = FAULTS[fault](5 + (seed + life) % 9, story.random) if alone or life < CRASHES else {}
                if story.live(zygote, {**death, **strike}, None):
                    break
        assert bool(story.kills) is not alone, "a child has died, and nobody killed it"
        assert starts
        crashes += len(starts)
    print(f"{crashes} crashes of the server")

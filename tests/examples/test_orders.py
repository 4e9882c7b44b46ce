"""The orders example: a web process, workers and a script on one store, of which some are killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from tests.support.waiting import wait_until

SECONDS = 30


class Processes:
    """Starts the example's processes, all on one store."""

    def __init__(self, store: Path) -> None:
        self._command = [sys.executable, "-m", "examples.orders", "--store", str(store)]
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str) -> tuple[subprocess.Popen[str], str]:
        """Start one; return it, and the first line that it prints."""
        process = subprocess.Popen([*self._command, *arguments], stdout=subprocess.PIPE, text=True)
        self._started.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    def end(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    processes = Processes(tmp_path / "orders.db")
    yield processes
    processes.end()


def request(url: str, fields: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    """GET, or POST fields; return the code and the body."""
    data = None if fields is None else json.dumps(fields).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=SECONDS) as reply:
            return reply.status, json.load(reply)
    except HTTPError as reply:
        with reply:
            return reply.code, json.load(reply)


def test_an_order_is_begun_here_worked_on_there_and_answered_over_the_web(processes: Processes) -> None:
    """A script leaves it, a worker takes it, the web process answers it; the worker is killed in between."""
    _, address = processes.start("web")
    first, said = processes.start("worker")
    assert said == "at work"
    script, said = processes.start("begin", "a", "5")
    assert said == "begun: a"
    assert script.wait(SECONDS) == 0

    assert wait_until(lambda: request(f"{address}/orders/a")[1].get("status") == "waits", SECONDS)
    assert request(f"{address}/orders/a")[1]["questions"] == [{"input_id": "a:1", "message": "Ship 5 reserved?"}]
    code, reply = request(f"{address}/answers/a:1", {"approved": "maybe"})
    assert code == 409
    assert "does not fit Approval" in reply["error"]
    first.send_signal(signal.SIGKILL)
    assert request(f"{address}/answers/a:1", {"approved": True}) == (202, {"answered": "a:1"})
    assert wait_until(lambda: request(f"{address}/orders/a")[1].get("status") == "completed", SECONDS)
    assert request(f"{address}/orders/a") == (200, {"status": "completed", "result": "5 reserved, shipped"})
    assert request(f"{address}/answers/a:1", {"approved": True})[0] == 409


def test_an_order_of_a_web_process_that_is_killed_goes_on_in_a_worker(processes: Processes) -> None:
    """A request that is sent twice begins one run, and another web process finds it."""
    first, address = processes.start("web")
    for _ in range(2):
        assert request(f"{address}/orders/b", {"amount": 7}) == (202, {"order": "b"})
    assert request(f"{address}/orders/c", {"amount": "many"})[0] == 400
    assert request(f"{address}/orders/c")[0] == 404
    first.send_signal(signal.SIGKILL)
    processes.start("worker")
    _, address = processes.start("web")
    assert request(f"{address}/orders/b", {"amount": 7}) == (202, {"order": "b"})
    assert wait_until(lambda: request(f"{address}/orders/b")[1].get("status") == "waits", SECONDS)
    assert request(f"{address}/answers/b:1", {"approved": False}) == (202, {"answered": "b:1"})
    assert wait_until(lambda: request(f"{address}/orders/b")[1].get("result") == "refused", SECONDS)


def test_a_worker_that_is_told_to_end_gives_its_runs_back(processes: Processes) -> None:
    """SIGTERM ends it in order, and another takes over without waiting for a lease."""
    worker, _ = processes.start("worker")
    processes.start("begin", "a", "5")
    _, address = processes.start("web")
    assert wait_until(lambda: request(f"{address}/orders/a")[1].get("status") == "waits", SECONDS)
    worker.terminate()
    assert worker.wait(SECONDS) == 130
    assert request(f"{address}/answers/a:1", {"approved": True}) == (202, {"answered": "a:1"})
    assert wait_until(lambda: request(f"{address}/orders/a")[1].get("status") == "completed", SECONDS)

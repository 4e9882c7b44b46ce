"""Durable runs whose store, disk or clock fails: they wait and go on, or say what is wrong; nothing is lost."""

from __future__ import annotations

import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from greenroom import Runtime, RuntimeShutdownError, WorkflowRuntimeError
from greenroom.actors.pool import PoolDispatcher
from greenroom.errors import StoreError, StoreUnavailableError
from greenroom.stores import MemoryStore, RunStore, SQLiteStore
from greenroom.stores.sqlite_connections import Connections
from tests.crash.test_races import Asks, Poke, counts, until
from tests.support.flavours import DEADLINE


class Fails:
    """A store whose calls fail now and then, before or after they have done what they were asked for."""

    def __init__(self, store: RunStore, names: set[str], seed: int, rate: float = 0.5) -> None:
        self._store = store
        self._names = names
        self._random = random.Random(seed)
        self.rate = rate
        self.failures = 0
        self.hangs = threading.Event()
        self.go_on = threading.Event()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name not in self._names:
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.hangs.is_set():
                self.go_on.wait()
            draw = self._random.random()
            if draw < self.rate / 2:
                self.failures += 1
                raise StoreUnavailableError("the store is gone, and has done nothing")
            result = method(*args, **kwargs)
            if draw < self.rate:
                self.failures += 1
                raise StoreUnavailableError("the store is gone, and has done it")
            return result

        return call


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the keeper look and the journal try again often."""
    monkeypatch.setattr("greenroom.keeper.POLL_SECONDS", 0.01)
    monkeypatch.setattr("greenroom.actors.journal.RETRY_SECONDS", 0.001)
    monkeypatch.setattr("greenroom.actors.journal.MAX_RETRY_SECONDS", 0.01)


def try_again(function: Callable[[], Any]) -> Any:
    """Call until the store does not fail, as a program would."""
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            return function()
        except StoreError:
            assert time.monotonic() < deadline


CALLS = ["commit", "acquire", "load", "inbox", "due", "orphans", "renew", "held", "row"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", [*CALLS, "all"])
@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_call_of_the_store_fails_nothing_is_lost(
    name: str, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Before or after it was done: it is tried again, and the runs end as they should."""
    caplog.set_level(logging.CRITICAL)
    names = set(CALLS) if name == "all" else {name}
    store = MemoryStore()
    first: Any = Fails(store, names, seed)
    first.rate = 0.0
    with Runtime(store=first, idle_timeout=0.0, lease=0.3) as runtime:
        handler = counts().run(run_id="one", wanted=12)
        first.rate = 0.5
        for n in range(6):
            try_again(lambda n=n: handler.send_event(Poke(n=n), dedup_key=str(n)))
        assert runtime.keeper is not None
        store.resign(runtime.keeper.lease.owner)  # as after a long pause
        for n in range(6, 10):
            try_again(lambda n=n: _send(runtime, n))
        first.rate = 0.0
    second: Any = Fails(store, names, seed + 10, rate=0.0)
    with Runtime(store=second, idle_timeout=0.0, lease=0.3) as runtime:
        second.rate = 0.5
        try_again(lambda: runtime.recover([counts()]))
        for n in range(8, 12):
            try_again(lambda n=n: _send(runtime, n))
        second.rate = 0.0
        again = runtime.get("one")
        assert again is not None
        assert again.result(DEADLINE) == list(range(12))


def _send(runtime: Runtime, n: int) -> None:
    handler = runtime.get("one")
    assert handler is not None
    try:
        handler.send_event(Poke(n=n), dedup_key=str(n))
    except WorkflowRuntimeError:
        # It has counted them all: this one had been taken, though the store could not say so.
        assert handler.result(DEADLINE) == list(range(12))


@pytest.mark.usefixtures("quick")
def test_a_run_of_which_was_said_that_it_does_not_begin_does_not() -> None:
    """Though the store had made it before it failed; unless it is asked for again, by its id."""
    store = MemoryStore()
    failing: Any = Fails(store, {"commit"}, 1, rate=0.0)
    with Runtime(store=failing) as runtime:
        workflow = counts()
        for name in ("dropped", "wanted"):
            failing.rate = 2.0
            failing._random.random = lambda: 1.5  # it is done, and nobody is told
            with pytest.raises(StoreUnavailableError):
                workflow.run(run_id=name, wanted=1)
            failing.rate = 0.0
            failing._random = random.Random(1)
            if name == "wanted":
                handler = workflow.run(run_id=name, wanted=1)
                handler.send_event(Poke(n=1))
        assert runtime.keeper is not None
        until(lambda: not runtime.keeper.takeover._unmade)  # type: ignore[union-attr]
        assert store.row("dropped") is None
        assert handler.result(DEADLINE) == [1]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("draw", [0.5, 1.5], ids=["not done", "done"])
@pytest.mark.parametrize("name", ["row", "delete"])
def test_a_run_that_could_not_be_taken_back_begins_when_it_is_asked_for_again(name: str, draw: float) -> None:
    """Whether the store had done what it failed to do, or had not."""
    failing: Any = Fails(MemoryStore(), {"commit"}, 1, rate=0.0)
    with Runtime(store=failing):
        workflow = counts()
        failing.rate, failing._random.random = 2.0, lambda: 1.5
        with pytest.raises(StoreUnavailableError):
            workflow.run(run_id="one", wanted=1)
        failing._random.random = lambda: draw
        failing._names, failing.failures = {name}, 0
        until(lambda: failing.failures)
        failing.rate = 0.0
        handler = workflow.run(run_id="one", wanted=1)
        handler.send_event(Poke(n=1))
        assert handler.result(DEADLINE) == [1]


def begin_until_it_fails() -> None:
    """Begin runs: what is free within the file is used up first."""
    while True:
        counts().run(wanted=1, text="x" * 100_000)


def open_anew(store: SQLiteStore) -> None:
    """Have the store close its connections, when nobody uses them, as before a fork."""
    assert store._connections is not None
    store._connections.before_fork()
    store._connections.after_fork(in_child=False)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("pragma", ["max_page_count = 1", "query_only = 1"])
def test_a_full_disk_and_a_file_that_may_not_be_written_delay_the_runs(
    pragma: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until there is room, or leave, again. Whoever begins a run is told at once."""
    connect = Connections._connect
    broken = threading.Event()

    def limited(self: Connections) -> sqlite3.Connection:
        connection = connect(self)
        if broken.is_set():
            connection.execute(f"PRAGMA {pragma}")
        return connection

    monkeypatch.setattr(Connections, "_connect", limited)
    store = SQLiteStore(tmp_path / "runs.db")
    with Runtime(store=store) as runtime:
        handler = counts().run(run_id="one", wanted=3)
        handler.send_event(Poke(n=0))
        broken.set()
        open_anew(store)
        sending = [threading.Thread(target=handler.send_event, args=(Poke(n=n, text="x" * 100_000),)) for n in (1, 2)]
        for thread in sending:
            thread.start()
        with pytest.raises(StoreError, match=r"room|written to"):
            begin_until_it_fails()
        assert not handler.done()
        broken.clear()
        open_anew(store)
        assert handler.result(DEADLINE) == [0, 1, 2]
        for thread in sending:
            thread.join(DEADLINE)
        for run in list(runtime.runs.values()):
            run.cancel_run()


@pytest.mark.usefixtures("quick")
def test_a_file_that_another_process_keeps_locked_delays_the_runs(tmp_path: Path) -> None:
    """For as long as it does."""
    path = tmp_path / "runs.db"
    with Runtime(store=SQLiteStore(path, busy_timeout=0.01), lease=0.2) as runtime:
        handler = counts().run(run_id="one", wanted=2)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            sending = threading.Thread(target=handler.send_event, args=(Poke(n=1),))
            sending.start()
            with pytest.raises(StoreError, match="locked"):
                counts().run(wanted=1)
            assert runtime.keeper is not None
            until(lambda: not runtime.keeper.holds_lease())  # type: ignore[union-attr]
            assert sending.is_alive()
            other.execute("COMMIT")
        sending.join(DEADLINE)
        handler.send_event(Poke(n=2))
        assert handler.result(DEADLINE) == [1, 2]


@pytest.mark.parametrize("what", ["journal", "snapshots"])
def test_a_damaged_run_is_set_aside_and_the_others_go_on(what: str, tmp_path: Path) -> None:
    """With the reason, in whichever order they come."""
    path = tmp_path / "runs.db"
    with Runtime(store=SQLiteStore(path)) as runtime:
        flow = counts()
        for name in ("before", "damaged", "after"):
            flow.run(run_id=name, wanted=2).send_event(Poke(n=1))
        runtime.shutdown(0.0)
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"UPDATE {what} SET data = zeroblob(20) WHERE run = (SELECT id FROM runs WHERE run_id = 'damaged')")
        db.commit()
    store = SQLiteStore(path)
    with Runtime(store=store) as runtime:
        runtime.recover([counts()])
        for name in ("before", "after"):
            handler = runtime.get(name)
            assert handler is not None
            handler.send_event(Poke(n=2))
            assert handler.result(DEADLINE) == [1, 2]
        # One that only waits is read when something wants it.
        with pytest.raises(WorkflowRuntimeError, match=r"set.aside"):
            runtime.get("damaged")
        row = store.row("damaged")
        assert row is not None
        assert (row.status, bool(row.reason)) == ("set_aside", True), row


class Shift:
    """A wall clock that can be set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        wall_time = PoolDispatcher.wall_time
        monkeypatch.setattr(
            PoolDispatcher, "wall_time", lambda dispatcher: wall_time(dispatcher) + timedelta(seconds=self.seconds)
        )

    def __call__(self) -> float:
        return time.time() + self.seconds


@pytest.fixture
def shift(monkeypatch: pytest.MonkeyPatch) -> Shift:
    return Shift(monkeypatch)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_set_between_and_within_processes_loses_nothing(
    hours: int, shift: Shift, tmp_path: Path
) -> None:
    """Runs go on in the process that has them, and in the next one."""
    path = tmp_path / "runs.db"
    with Runtime(store=SQLiteStore(path, clock=shift), lease=0.3, idle_timeout=0.0) as runtime:
        handler = counts().run(run_id="one", wanted=3)
        handler.send_event(Poke(n=0))
        shift.seconds = hours * 3600.0
        handler.send_event(Poke(n=1))
        assert runtime.keeper is not None
        runtime.keeper.lease.renew()
        assert not handler.done()
    shift.seconds = 0.0
    with Runtime(store=SQLiteStore(path, clock=shift), lease=0.3) as runtime:
        runtime.recover([counts()])
        shift.seconds = hours * 3600.0
        again = runtime.get("one")
        assert again is not None
        again.send_event(Poke(n=2))
        assert again.result(DEADLINE) == [0, 1, 2]


@pytest.mark.parametrize("timeout", [0.0, 0.2])
@pytest.mark.parametrize("name", ["commit", "renew", "resign"])
def test_a_shutdown_with_a_store_that_hangs_ends_in_time(
    name: str, timeout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for a run is told that it was not ended, whatever the store does."""
    monkeypatch.setattr("greenroom.runtime.JOIN_SECONDS", 1.0)
    store: Any = Fails(MemoryStore(), {name}, 1, rate=0.0)
    runtime = Runtime(store=store, lease=0.2)
    handler = Asks(runtime=runtime).run(run_id="one")
    until(handler.pending_inputs)
    idle = counts(runtime=runtime).run(run_id="two", wanted=2)
    store.hangs.set()
    refused: list[Exception] = []

    def send() -> None:
        try:
            idle.send_event(Poke(n=1))
        except RuntimeShutdownError as error:
            refused.append(error)

    sending = threading.Thread(target=send)
    if name == "commit":
        sending.start()
        until(lambda: runtime.keeper is not None and idle.supervisor.actor._held)  # type: ignore[union-attr]
    begun = time.monotonic()
    runtime.shutdown(timeout)
    assert time.monotonic() - begun < DEADLINE / 2
    for one in (handler, idle):
        with pytest.raises(RuntimeShutdownError):
            one.result(0)
    if name == "commit":
        sending.join(DEADLINE)
        assert len(refused) == 1
    store.go_on.set()


def test_a_runtime_that_cannot_give_up_its_lease_closes_its_store(tmp_path: Path) -> None:
    """As on a full disk: no connection is left open, and the lease ends by itself."""
    inner = SQLiteStore(tmp_path / "runs.db")
    store: Any = Fails(inner, {"resign"}, 1, rate=0.0)
    with Runtime(store=store):
        store.rate, store._random.random = 2.0, lambda: 0.5
    assert store.failures == 1
    with pytest.raises(StoreError, match=r"open\(\)"):
        inner.row("one")

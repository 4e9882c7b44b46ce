"""Durable runs that another process takes over: all at once, on a full disk, after a clock was set.

And stores that another process has left half made, or half migrated.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from greenroom import Context, Runtime, StartEvent, StopEvent, Workflow, step
from greenroom.errors import LeaseLostError, StoreFullError, StoreVersionError
from greenroom.stores import MemoryStore, RunStore, SQLiteStore, postgres, postgres_schema, sqlite_schema
from tests.crash.test_faults import Shift
from tests.crash.test_races import Asks, Poke, counts, until
from tests.support.flavours import DEADLINE
from tests.support.postgres import PostgresServer
from tests.support.store_process import store_of

__all__ = ["shift"]


@pytest.fixture
def shift(monkeypatch: pytest.MonkeyPatch) -> Shift:
    return Shift(monkeypatch)


@pytest.fixture(params=["sqlite", "postgres"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], RunStore]:
    """Returns the same store each time, as another process would open it."""
    if request.param == "sqlite":
        return lambda: store_of("sqlite", str(tmp_path / "runs.db"))
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return lambda: store_of("postgres", f"{server.conninfo}|{tmp_path.name}")


class Forked:
    """A forked process at work on a function, which may hand its parent something to read.

    Args:
        work: Is handed a function that tells the parent a value, as JSON has it, and one that waits for its word.
    """

    def __init__(self, work: Callable[[Callable[[Any], None], Callable[[], None]], None]) -> None:
        (told, tells), (hears, says) = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                work(lambda value: _write(tells, value), lambda: os.read(hears, 1) and None)
                status = 0
            finally:
                os._exit(status)
        os.close(tells)
        os.close(hears)
        self._told, self._says = os.fdopen(told), says

    def go(self) -> None:
        """Say the word."""
        os.write(self._says, b"!")

    def read(self) -> Any:
        """Return what the process tells next."""
        return json.loads(self._told.readline())

    def end(self, signum: int = 0) -> int:
        """Wait for its end, which a signal may bring about; return how it ended."""
        if signum:
            os.kill(self.pid, signum)
        _, status = os.waitpid(self.pid, 0)
        self._told.close()
        os.close(self._says)
        return status


def _write(descriptor: int, value: Any) -> None:
    data = json.dumps(value).encode() + b"\n"
    while data:
        data = data[os.write(descriptor, data) :]


def test_each_of_many_orphans_goes_on_in_one_of_the_processes_that_recover_them(
    make_store: Callable[[], RunStore],
) -> None:
    """Two that call `recover` at the same moment share them, and none is lost or at work in both."""
    names = [f"run-{number}" for number in range(200)]

    def begin(tell: Callable[[Any], None], wait: Callable[[], None]) -> None:
        with Runtime(store=make_store()) as runtime:
            flow = counts(runtime=runtime)
            for name in names:
                flow.run(run_id=name, wanted=1)
            tell(True)
            wait()

    def recover(tell: Callable[[Any], None], wait: Callable[[], None]) -> None:
        with Runtime(store=make_store()) as runtime:
            tell(True)
            wait()
            handlers = runtime.recover([counts(runtime=runtime)])
            tell([handler.run_id for handler in handlers])
            wait()
            for handler in handlers:
                handler.send_event(Poke(n=1))
            tell([handler.result(DEADLINE) for handler in handlers])

    first = Forked(begin)
    assert first.read() is True
    assert first.end(signal.SIGKILL) == signal.SIGKILL
    heirs = [Forked(recover), Forked(recover)]
    for heir in heirs:
        assert heir.read() is True
    for heir in heirs:
        heir.go()
    taken = [heir.read() for heir in heirs]
    assert sorted([*taken[0], *taken[1]]) == sorted(names)
    for heir in heirs:
        heir.go()
    for heir, mine in zip(heirs, taken, strict=True):
        assert heir.read() == [[1]] * len(mine)
        assert heir.end() == 0
    with closing(make_store()) as store:
        store.open()
        for name in names:
            row = store.row(name)
            assert row is not None
            assert (row.status, row.fence) == ("completed", 2)
            assert [offset for offset, _ in store.events(name)] == list(range(row.next_offset))


def test_a_disk_that_is_full_when_runs_are_recovered_keeps_them_for_later(tmp_path: Path) -> None:
    """The error says so; when there is room, they are recovered as if it had never been."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small disk to fill cannot be mounted: {mounted.stderr.strip()}")
    try:

        def begin(tell: Callable[[Any], None], wait: Callable[[], None]) -> None:
            with Runtime(store=SQLiteStore(disk / "runs.db")) as runtime:
                for number in range(5):
                    counts(runtime=runtime).run(run_id=f"run-{number}", wanted=2).send_event(Poke(n=1))
                tell(True)
                wait()

        first = Forked(begin)
        assert first.read() is True
        first.end(signal.SIGKILL)
        with Runtime(store=SQLiteStore(disk / "runs.db")) as runtime:
            ballast = disk / "ballast"
            fill_disk(ballast)
            with pytest.raises(StoreFullError, match="Make room"):
                runtime.recover([counts()])
            ballast.unlink()
            runtime.recover([counts()])
            for number in range(5):
                handler = runtime.get(f"run-{number}")
                assert handler is not None
                handler.send_event(Poke(n=2))
                assert handler.result(DEADLINE) == [1, 2]
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def fill_disk(ballast: Path) -> None:
    """Write to a file until its disk has no room for a byte more."""
    with open(ballast, "wb", buffering=0) as file:
        for size in (65536, 1):
            with suppress(OSError):
                while True:
                    file.write(b"x" * size)


class Sleeps(Workflow):
    """Sleeps for as long as it is told."""

    @step
    def sleep(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.sleep(ev.seconds)
        return StopEvent(result="awake")


@pytest.mark.parametrize("hours", [-1, 1])
@pytest.mark.parametrize("idle_timeout", [None, 0.0])
def test_a_sleep_lasts_as_long_though_the_clock_is_set_meanwhile(
    hours: int, idle_timeout: float | None, shift: Shift, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the process that has the run, at work or at rest; and other runs sleep on."""
    monkeypatch.setattr("greenroom.keeper.POLL_SECONDS", 0.01)
    store = SQLiteStore(tmp_path / "runs.db", clock=shift)
    with Runtime(store=store, idle_timeout=idle_timeout, max_parked=0):
        long = Sleeps().run(run_id="long", seconds=1800)
        short = Sleeps().run(run_id="short", seconds=0.2)
        if idle_timeout is not None:
            until(lambda: short.supervisor is None or short.done())
        shift.seconds = hours * 3600.0
        assert short.result(DEADLINE) == "awake"
        assert not long.done()


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_sleep_ends_at_its_time_by_the_clock_of_the_next_process(hours: int, shift: Shift, tmp_path: Path) -> None:
    """At once if the clock was set forward past it between the two, later by as much if it was set back."""
    path = tmp_path / "runs.db"
    with Runtime(store=SQLiteStore(path, clock=shift)):
        handler = Sleeps().run(run_id="one", seconds=1800)
        until(handler.is_at_rest)
    shift.seconds = hours * 3600.0
    store = SQLiteStore(path, clock=shift)
    with Runtime(store=store) as runtime:
        runtime.recover([Sleeps])
        handler_now = runtime.get("one")
        assert handler_now is not None
        if hours > 0:
            assert handler_now.result(DEADLINE) == "awake"
            return
        assert not handler_now.done()
    store.open()
    row = store.row("one")
    store.close()
    assert row is not None
    assert row.wake_at is not None
    assert row.wake_at - shift() == pytest.approx(3600 + 1800, abs=60)


def test_a_question_that_was_never_committed_is_not_told_by_whoever_lost_the_run() -> None:
    """Neither while the store is to say whose the run is, nor after that."""
    reached, go_on = threading.Event(), threading.Event()
    store = MemoryStore()

    class Late:
        """Commits the question only when another has the run."""

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def commit(self, commits: list[Any]) -> Any:
            if any(commit.opened for commit in commits):
                reached.set()
                assert go_on.wait(DEADLINE)
            return store.commit(commits)

    late: Any = Late()
    with Runtime(store=late, lease=600.0) as runtime, ThreadPoolExecutor(1) as pool:
        handler = Asks().run(run_id="one")
        assert reached.wait(DEADLINE)
        asking = pool.submit(runtime.pending_inputs)
        assert runtime.keeper is not None
        store.resign(runtime.keeper.lease.owner)
        assert store.acquire(["one"], "other")
        go_on.set()
        assert asking.result(DEADLINE) == []
        with pytest.raises(LeaseLostError):
            handler.result(DEADLINE)
        assert handler.pending_inputs() == []
        assert store.inputs() == []


MORE = "CREATE TABLE {0}more (x INTEGER); CREATE INDEX more_x ON {0}more (x); UPDATE {0}runs SET reason = 'migrated'"


class _Counted(sqlite3.Connection):
    """Dies at a statement."""

    left = 0

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        _Counted.left -= 1
        if _Counted.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().execute(*arguments)


def open_and_die_at(statement: int, store: RunStore, is_migration: bool) -> None:
    """Open a store as a process that dies at a statement, or as one that knows one version more."""
    patch = pytest.MonkeyPatch()
    if isinstance(store, SQLiteStore):
        connect = sqlite3.connect
        _Counted.left = statement
        patch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, **options, factory=_Counted))
        schema: Any = sqlite_schema
        more = MORE.format("")
    else:
        execute, left = psycopg.Connection.execute, itertools.count(statement - 1, -1)

        def counted(*args: Any, **options: Any) -> Any:
            if next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return execute(*args, **options)

        patch.setattr(psycopg.Connection, "execute", counted)
        schema, more = postgres_schema, MORE.format("~")
        patch.setattr(postgres, "VERSION", 2)
    if is_migration:
        patch.setattr(schema, "_MIGRATIONS", (*schema._MIGRATIONS, more))
        patch.setattr(schema, "VERSION", 2)
    store.open()


@pytest.mark.parametrize("is_migration", [False, True], ids=["made", "migrated"])
def test_a_process_that_is_killed_while_a_store_is_made_or_migrated_leaves_it_as_it_was(
    is_migration: bool, tmp_path: Path, make_store: Callable[[], RunStore]
) -> None:
    """At every statement: the next one finds the store whole, of the old version or of the new one."""
    if is_migration:
        with closing(make_store()) as store:
            store.open()
            store.create("r", "W", "me")
    for statement in itertools.count(1):
        child = Forked(lambda tell, wait, n=statement: open_and_die_at(n, make_store(), is_migration))  # type: ignore[misc]
        status = child.end()
        with closing(make_store()) as store:
            if status == 0:
                break
            assert status == signal.SIGKILL
            store.open()
            if is_migration:
                row = store.row("r")
                assert row is not None
                assert row.reason is None
            else:
                assert store.create(f"r-{statement}", "W", "me") == 1
                assert len(store.runs()) == 1
                store.close()
                _remove(store, tmp_path)
    assert statement > 6
    if is_migration:
        with closing(make_store()) as store, pytest.raises(StoreVersionError, match="newer Greenroom"):
            store.open()


def _remove(store: RunStore, folder: Path) -> None:
    """Have the next process find no store."""
    if isinstance(store, SQLiteStore):
        for file in folder.iterdir():
            file.unlink()
        return
    assert isinstance(store, postgres.PostgresStore)
    with store._connections.connect() as connection:
        connection.execute(f'DROP SCHEMA "{store._schema}" CASCADE'.encode())

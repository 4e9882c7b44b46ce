"""Several processes on one store, and processes that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from greenroom.stores import Commit, Loaded, NewRun, RunStore
from tests.support import store_process
from tests.support.postgres import PostgresServer


@pytest.fixture(params=["sqlite", "postgres"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def where(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    if kind == "sqlite":
        return str(tmp_path / "runs.db")
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return f"{server.conninfo}|{tmp_path.name}"


@pytest.fixture
def store(kind: str, where: str) -> Iterator[RunStore]:
    made = store_process.store_of(kind, where)
    made.open()
    yield made
    made.close()


@contextmanager
def processes(task: str, kind: str, where: str, owners: list[str]) -> Iterator[list[subprocess.Popen[str]]]:
    """Start processes, and see to it that none of them outlives the test."""
    started = [store_process.start(task, kind, where, owner) for owner in owners]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    text = process.stdout.readline()
    assert text, f"the process ended with {process.wait()}"
    return text.strip()


def last_line(process: subprocess.Popen[str], so_far: int) -> int:
    """The last number that a process has printed until its end. A line that the kill has torn does not count."""
    assert process.stdout is not None
    whole = [text for text in process.stdout.read().splitlines(keepends=True) if text.endswith("\n")]
    return int(whole[-1]) if whole else so_far


def go(started: list[subprocess.Popen[str]]) -> None:
    """Wait until all are ready, then let them go at once."""
    for process in started:
        assert line(process) == "ready"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def assert_whole(store: RunStore, owner: str, acknowledged: int) -> None:
    """What was acknowledged is there, at most one group more, and that one whole."""
    runs = store.load([f"{owner}-{i}" for i in range(store_process.RUNS)])
    assert len(runs) == store_process.RUNS
    ends = set()
    for i, run in enumerate(runs.values()):
        assert isinstance(run, Loaded)
        assert run.row.next_seq in (acknowledged + 1, acknowledged + 2)
        assert run.row.next_seq == run.row.next_offset
        ends.add(run.row.next_seq)
        first = run.snapshot[0] if run.snapshot else 0
        wanted = [(seq, store_process.record(owner, i, seq)) for seq in range(run.row.next_seq)]
        assert run.records == wanted[first:]
        assert store.events(run.row.run_id, limit=100_000) == wanted
        assert run.row.bytes == sum(len(data) for _, data in run.records)
    assert len(ends) == 1
    # Each post was taken by the commit that followed it, or is still there.
    (end,) = ends
    left = [entry.payload for i in range(store_process.RUNS) for entry in store.inbox(run_id=f"{owner}-{i}")]
    assert left in ([], [b"%d" % end])


def test_a_killed_writer_leaves_all_that_was_acknowledged(store: RunStore, kind: str, where: str) -> None:
    """After `kill -9` in the middle of commits everything acknowledged is there, nothing is half there, and the runs
    can be taken over and written to.
    """
    for attempt in range(4):
        owner = f"victim{attempt}"
        with processes("write", kind, where, [owner]) as (process,):
            for _ in range(3 + 23 * attempt):
                acknowledged = int(line(process))
            os.kill(process.pid, signal.SIGKILL)
            acknowledged = last_line(process, acknowledged)
        assert_whole(store, owner, acknowledged)
        store.resign(owner)
        store.renew("heir", 1000)
        orphans = [row.run_id for row in store.orphans(["W"])]
        assert sorted(orphans) == [f"{owner}-{i}" for i in range(store_process.RUNS)]
        fences = store.acquire(orphans, "heir")
        for run in store.load(orphans).values():
            assert isinstance(run, Loaded)
            end = Commit(run.row.run_id, fences[run.row.run_id], records=[(run.row.next_seq, b"")], status="completed")
            assert store.commit([end]) == [None]


def test_processes_write_at_once(store: RunStore, kind: str, where: str) -> None:
    """Processes that write to one store at the same time do not lose or mix anything."""
    owners = ["a", "b", "c"]
    with processes("write", kind, where, owners) as started:
        acknowledged = [max(int(line(process)) for _ in range(40)) for process in started]
        for i, process in enumerate(started):
            process.kill()
            acknowledged[i] = last_line(process, acknowledged[i])
    for owner, number in zip(owners, acknowledged, strict=True):
        assert_whole(store, owner, number)


def test_of_many_processes_one_gets_each_run(store: RunStore, kind: str, where: str) -> None:
    """Each run that many processes make or take over at the same time is got by exactly one."""
    for i in range(40):
        free = Commit(f"free-{i}", 1, new=NewRun("W", "dead"), release=True)
        assert store.commit([free, Commit(f"orphan-{i}", 1, new=NewRun("W", "dead"))]) == [None, None]
    owners = ["a", "b", "c"]
    with processes("acquire", kind, where, owners) as started:
        go(started)
        got = [process.communicate()[0].split() for process in started]
    names = [f"{what}-{i}" for what in ("new", "free", "orphan") for i in range(40)]
    assert sorted(name for mine in got for name in mine) == sorted(names)
    for owner, mine in zip(owners, got, strict=True):
        assert sorted(store.held(owner)) == sorted(mine)


def test_a_post_of_another_process_is_heard(store: RunStore, kind: str, where: str) -> None:
    """A watcher hears of what another process has posted, and then finds it."""
    store.create("r", "W", "me")
    heard = threading.Event()
    stop = store.watch(heard.set)
    with processes("post", kind, where, ["poster"]) as started:
        go(started)
        assert line(started[0]) == "posted"
        while not (entries := store.inbox(run_id="r")):
            heard.clear()
            assert heard.wait(20)
        assert heard.wait(20)
    stop()
    assert [entry.payload for entry in entries] == [b"poster"]


def test_processes_open_a_new_store_at_once(kind: str, where: str) -> None:
    """Any number of processes may make the store at the same time."""
    owners = ["a", "b", "c"]
    with processes("only_open", kind, where, owners) as started:
        go(started)
        for process in started:
            assert line(process) == "made"
    store = store_process.store_of(kind, where)
    store.open()
    assert sorted(row.run_id for row in store.runs()) == owners
    store.close()


def test_two_stores_of_one_process_and_another_process_that_comes_and_goes(
    store: RunStore, kind: str, where: str
) -> None:
    """What is committed through the one is there for all, though the other was opened and closed meanwhile."""
    assert store.create("r", "W", "me") == 1
    second = store_process.store_of(kind, where)
    second.open()
    with processes("only_open", kind, where, ["passer"]) as started:
        go(started)
        assert started[0].communicate()[0].split() == ["made"]
    assert store.commit([Commit("r", 1, records=[(0, b"x")])]) == [None]
    with processes("only_open", kind, where, ["witness"]) as started:
        go(started)
        assert started[0].communicate()[0].split() == ["made"]
    for one in (store, second):
        found = one.row("r")
        assert found is not None
        assert found.next_seq == 1
    second.close()
    assert len(store.runs()) == 3


def test_a_store_survives_a_fork(store: RunStore) -> None:
    """Parent and child go on with an open store after a fork that comes in the middle of commits and reads."""
    store.create("r", "W", "me")
    stop = threading.Event()
    seq = 0
    failures: list[BaseException] = []

    def work() -> None:
        nonlocal seq
        try:
            while not stop.is_set():
                assert store.commit([Commit("r", 1, records=[(seq, b"x")])]) == [None]
                seq += 1
        except BaseException as failure:
            failures.append(failure)

    def read() -> None:
        try:
            while not stop.is_set():
                assert isinstance(store.load(["r"])["r"], Loaded)
        except BaseException as failure:
            failures.append(failure)

    heard = store.watch(lambda: None)
    threads = [threading.Thread(target=work), threading.Thread(target=read), threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    for i in range(5):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                assert store.create(f"child-{i}", "W", "child") == 1
                assert store.commit([Commit(f"child-{i}", 1, records=[(0, b"c")])]) == [None]
                assert isinstance(store.load(["r"])["r"], Loaded)
                store.close()
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
    stop.set()
    for thread in threads:
        thread.join()
    heard()
    assert not failures
    run = store.load(["r"])["r"]
    assert isinstance(run, Loaded)
    assert run.row.next_seq == seq == len(run.records)
    assert len(store.runs()) == 6

"""What can happen to a file: a full disk, a lock, damage, another version, and statements that take too long."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from greenroom.errors import (
    StaleOwnerError,
    StoreBusyError,
    StoreDamagedError,
    StoreError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
    StoreVersionError,
)
from greenroom.stores import Commit, InputRow, Loaded, NewRun, SQLiteStore
from greenroom.stores import sqlite_commit as commit_module
from greenroom.stores import sqlite_connections as connections_module
from greenroom.stores.rows import FIRST_FENCE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStore]:
    made = SQLiteStore(path, busy_timeout=0.05)
    made.open()
    made.renew("me", 1000)
    yield made
    made.close()


def commit(store: SQLiteStore, run_id: str, fence: int, seq: int, data: bytes) -> None:
    assert store.commit([Commit(run_id, fence, records=[(seq, data)], events=[(seq, data)])]) == [None]


def assert_records(store: SQLiteStore, run_id: str, count: int) -> None:
    run = store.load([run_id])[run_id]
    assert isinstance(run, Loaded)
    assert run.row.next_seq == run.row.next_offset == len(run.records) == len(store.events(run_id)) == count


def test_a_file_for_its_owner_only(store: SQLiteStore, path: Path) -> None:
    """The file and those that SQLite keeps beside it can be read by their owner only."""
    store.create("r", "W", "me")
    modes = {name: stat.S_IMODE(os.stat(f"{path}{name}").st_mode) for name in ("", "-wal", "-shm")}
    assert modes == {"": 0o600, "-wal": 0o600, "-shm": 0o600}


@pytest.mark.parametrize("where", [":memory:", "", "file:x.db"])
def test_not_a_file(where: str) -> None:
    """What is no file is refused when the store is made."""
    with pytest.raises(ValueError, match="a store is a file"):
        SQLiteStore(where)


def test_an_unknown_mode() -> None:
    """Another value of `synchronous` is refused."""
    with pytest.raises(ValueError, match="'off'"):
        SQLiteStore("x.db", synchronous="off")  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "10", None, True])
def test_times_that_are_none(seconds: Any) -> None:
    """What is no time is refused when the store is made, not when somebody waits for a lock."""
    for name in ("busy_timeout", "poll_interval"):
        with pytest.raises(ValueError, match=f"{name} is a number of seconds"):
            SQLiteStore("x.db", **{name: seconds})


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """A store in a folder that does not exist is refused by the folder's name."""
    with pytest.raises(StoreError, match="nowhere"):
        SQLiteStore(tmp_path / "nowhere" / "runs.db").open()


def test_a_store_that_is_not_open(path: Path) -> None:
    """A store that is not open says so, and makes no file."""
    store = SQLiteStore(path)
    with pytest.raises(StoreError, match=r"open\(\)"):
        store.create("r", "W", "me")
    with pytest.raises(StoreError, match=r"open\(\)"):
        store.row("r")
    assert not path.exists()


def test_full_sync_keeps_runs_as_well(path: Path) -> None:
    """`synchronous="full"` is a store like the other."""
    store = SQLiteStore(path, synchronous="full")
    store.open()
    assert store.create("r", "W", "me") == 1
    commit(store, "r", 1, 0, b"x")
    assert_records(store, "r", 1)
    store.close()


# Other versions


def test_a_newer_schema_is_refused(store: SQLiteStore, path: Path) -> None:
    """A file that a newer Greenroom has migrated is refused, on opening and by those that have it open."""
    store.create("r", "W", "me")
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 1000")
    other.close()
    with pytest.raises(StoreVersionError, match=r"1000.*[Uu]pgrade"):
        store.commit([Commit("r", 1, records=[(0, b"x")])])
    with pytest.raises(StoreVersionError, match=r"1000.*[Uu]pgrade"):
        store.post("r", "event", b"x")
    store.close()
    before = path.read_bytes()
    with pytest.raises(StoreVersionError, match=r"1000.*[Uu]pgrade"):
        SQLiteStore(path).open()
    assert path.read_bytes() == before


def test_a_file_of_another_program_is_refused(path: Path) -> None:
    """A database that is not ours is refused and not touched."""
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE runs (x)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(StoreVersionError, match="another program"):
        SQLiteStore(path).open()
    assert path.read_bytes() == before


def test_no_database_at_all(path: Path) -> None:
    """A file that is no SQLite database is refused and not touched."""
    path.write_bytes(b"Dear diary, " * 1000)
    with pytest.raises(StoreDamagedError, match="no SQLite database"):
        SQLiteStore(path).open()
    assert path.read_bytes() == b"Dear diary, " * 1000


# The world around it


def test_a_locked_database(store: SQLiteStore, path: Path) -> None:
    """While another process keeps the file locked, a commit ends with an error in time, and goes through after that."""
    store.create("r", "W", "me")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusyError, match="locked"):
        commit(store, "r", 1, 0, b"x")
    assert_records(store, "r", 0)
    other.execute("ROLLBACK")
    other.close()
    commit(store, "r", 1, 0, b"x")
    assert_records(store, "r", 1)


def test_a_commit_waits_for_a_lock(path: Path) -> None:
    """A lock that is held for less than `busy_timeout` is waited for."""
    store = SQLiteStore(path, busy_timeout=30)
    store.open()
    store.create("r", "W", "me")
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    worker = threading.Thread(target=commit, args=(store, "r", 1, 0, b"x"))
    worker.start()
    assert_records(store, "r", 0)
    other.execute("ROLLBACK")
    other.close()
    worker.join()
    assert_records(store, "r", 1)
    store.close()


def test_a_full_disk(tmp_path: Path) -> None:
    """On a full disk a commit fails as a whole and says so; when there is room again, it goes through."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small disk to fill cannot be mounted: {mounted.stderr.strip()}")
    store = SQLiteStore(disk / "runs.db")
    try:
        store.open()
        store.create("r", "W", "me")
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * 512 * 1024)
        done = 0
        with pytest.raises(StoreFullError, match="Make room"):  # noqa: PT012 - which of them fails is not known
            while True:
                commit(store, "r", 1, done, os.urandom(20_000))
                done += 1
        assert done > 5
        assert_records(store, "r", done)
        with pytest.raises(StoreFullError):
            commit(store, "r", 1, done, os.urandom(200_000))
        ballast.unlink()
        commit(store, "r", 1, done, os.urandom(20_000))
        assert_records(store, "r", done + 1)
    finally:
        store.close()
        subprocess.run(["umount", disk], check=True)


def test_a_file_that_may_not_be_written() -> None:
    """A file without the right to write is refused on opening; one that loses it while open refuses commits."""
    if os.getuid() != 0:
        pytest.skip("only root can become a user who may not write here")
    # Not in `tmp_path`: the folders above that are closed to others.
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o755)
        store = SQLiteStore(folder / "runs.db")
        store.open()
        store.create("r", "W", "me")
        (folder / "runs.db").chmod(0o644)
        # In a process of its own, for there is no way back to root.
        program = (
            "import os, sys\n"
            "from greenroom.stores import SQLiteStore\n"
            "os.setgid(65534); os.setuid(65534)\n"
            "try: SQLiteStore(sys.argv[1]).open()\n"
            "except Exception as error: print(type(error).__name__, error)\n"
        )
        command = [sys.executable, "-c", program, str(folder / "runs.db")]
        refused = subprocess.run(command, capture_output=True, text=True)
        assert refused.stdout.startswith("StoreReadOnlyError"), refused
        assert "may not be written" in refused.stdout
        store.close()


def test_a_disk_that_becomes_read_only(tmp_path: Path) -> None:
    """When the disk turns read-only, commits fail and say so; when it is writable again, they go through."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a disk of its own cannot be mounted: {mounted.stderr.strip()}")
    store = SQLiteStore(disk / "runs.db")
    try:
        store.open()
        store.create("r", "W", "me")
        commit(store, "r", 1, 0, b"x")
        store.close()
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(StoreReadOnlyError, match="may not be written"):
            store.open()
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        store.open()
        commit(store, "r", 1, 1, b"x")
        assert_records(store, "r", 2)
    finally:
        store.close()
        subprocess.run(["umount", disk], check=True)


def test_a_damaged_page(path: Path) -> None:
    """Garbage over pages of the file is told as damage, never as data; runs that it does not touch can be loaded."""
    store = SQLiteStore(path)
    store.open()
    for i in range(200):
        name = f"r{i}"
        new = Commit(name, 1, new=NewRun("W", "me"), records=[(seq, f"{name}:{seq}".encode() * 20) for seq in range(5)])
        assert store.commit([new]) == [None]
    names = [f"r{i}" for i in range(200)]
    whole = store.load(names)
    store.close()
    with sqlite3.connect(path) as other:
        (size,) = other.execute("PRAGMA page_size").fetchone()
        (root,) = other.execute("SELECT rootpage FROM sqlite_master WHERE name = 'journal'").fetchone()
    other.close()
    content = bytearray(path.read_bytes())
    # A leaf of the journal: the page that holds the records of a run in the middle.
    page = content.index(b"r100:2r100:2") // size
    assert page != root - 1
    content[page * size : (page + 1) * size] = bytes(range(256)) * (size // 256)
    path.write_bytes(content)
    store.open()
    found = store.load(names)
    damaged = {name for name, run in found.items() if isinstance(run, StoreDamagedError)}
    assert "r100" in damaged
    assert len(damaged) < 20
    assert set(found) == set(names)
    for name in set(names) - damaged:
        assert found[name] == whole[name]
    # Such a run can be set aside, and the others go on.
    assert store.commit([Commit("r100", 1, status="set_aside", reason="damaged"), Commit("r1", 1, records=[(5, b"x")])])
    assert [row.run_id for row in store.runs(status="set_aside")] == ["r100"]
    store.close()


def test_a_store_that_another_process_makes_meanwhile_is_no_foreign_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What tells a file of ours from one of another program is read in one moment."""
    made: list[SQLiteStore] = []

    class Interrupted(sqlite3.Connection):
        def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
            if "sqlite_master" in sql and not made:
                monkeypatch.undo()
                made.append(SQLiteStore(path, busy_timeout=0.01))
                with suppress(StoreBusyError):
                    made[0].open()
            return super().execute(sql, parameters)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **kwargs: connect(*args, factory=Interrupted, **kwargs))
    store = SQLiteStore(path)
    store.open()
    assert made
    assert store.create("r", "W", "me") == FIRST_FENCE
    store.close()
    made[0].close()


@pytest.mark.parametrize("table", ["journal", "snapshots"])
def test_a_flipped_bit(store: SQLiteStore, path: Path, table: str) -> None:
    """SQLite does not notice a changed byte within a value, a store does."""
    store.create("r", "W", "me")
    store.create("s", "W", "me")
    records = [(0, b"first"), (1, b"second"), (2, b"third")]
    assert store.commit([Commit("r", 1, records=records, snapshot=(1, b"state"))]) == [None]
    with sqlite3.connect(path) as other:
        other.execute(f"UPDATE {table} SET data = CAST(replace(data, 's', 't') AS BLOB)")
    other.close()
    found = store.load(["r", "s"])
    assert isinstance(found["r"], StoreDamagedError)
    assert "'r'" in str(found["r"])
    assert isinstance(found["s"], Loaded)


def test_a_record_that_is_gone(store: SQLiteStore, path: Path) -> None:
    """A run whose journal lacks a record is damaged."""
    store.create("r", "W", "me")
    for seq in range(3):
        commit(store, "r", 1, seq, b"x")
    with sqlite3.connect(path) as other:
        other.execute("DELETE FROM journal WHERE seq = 1")
    other.close()
    found = store.load(["r"])["r"]
    assert isinstance(found, StoreDamagedError)
    assert "missing" in str(found)


def test_a_file_that_was_replaced(store: SQLiteStore, path: Path) -> None:
    """When the file is deleted under an open store, the next heartbeat says so instead of writing into nothing."""
    path.rename(path.with_suffix(".moved"))
    with pytest.raises(StoreUnavailableError, match=r"runs\.db"):
        store.renew("me", 1000)
    SQLiteStore(path).open()
    with pytest.raises(StoreUnavailableError, match="replaced"):
        store.renew("me", 1000)


def test_an_interrupted_transaction_leaves_nothing(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A KeyboardInterrupt in the middle of a commit leaves nothing of it, and the store works on."""
    store.create("r", "W", "me")

    class Interrupting(list[tuple[int, bytes]]):
        def __iter__(self):  # type: ignore[no-untyped-def]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.commit(
            [Commit("s", 1, new=NewRun("W", "me")), Commit("r", 1, events=Interrupting([(0, b"x"), (1, b"y")]))]
        )
    assert store.row("s") is None
    commit(store, "r", 1, 0, b"x")
    assert_records(store, "r", 1)


@pytest.mark.parametrize("wrong", ["text", 3.5, object()])
def test_records_that_are_not_bytes(store: SQLiteStore, wrong: object) -> None:
    """A record of another type than bytes fails the call, and leaves nothing behind."""
    store.create("r", "W", "me")
    with pytest.raises((TypeError, StoreError)):
        store.commit([Commit("r", 1, records=[(0, wrong)])])  # type: ignore[list-item]
    assert_records(store, "r", 0)
    commit(store, "r", 1, 0, b"x")
    assert_records(store, "r", 1)


# Size and speed


def test_the_wal_file_is_bounded(store: SQLiteStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that stands still lets the WAL file grow; once it goes on, the file is cut back by later commits."""
    monkeypatch.setattr(connections_module, "_WAL_LIMIT", 64 * 1024)
    monkeypatch.setattr(connections_module, "_LOOK_EVERY", 4)
    store.create("r", "W", "me")
    wal = Path(f"{path}-wal")
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM runs").fetchone()
    for seq in range(100):
        commit(store, "r", 1, seq, bytes(10_000))
    grown = wal.stat().st_size
    assert grown > 1_000_000
    reader.close()
    for seq in range(100, 110):
        commit(store, "r", 1, seq, bytes(10_000))
    assert wal.stat().st_size < grown / 4
    assert_records(store, "r", 110)


def test_no_statement_reads_a_whole_table(store: SQLiteStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every statement that the store uses finds its rows through an index."""
    seen: set[str] = set()
    connect = sqlite3.connect

    def traced(*arguments: object, **options: object) -> sqlite3.Connection:
        connection = connect(*arguments, **options)  # type: ignore[call-overload]
        connection.set_trace_callback(seen.add)
        return connection  # type: ignore[no-any-return]

    store.close()
    monkeypatch.setattr(sqlite3, "connect", traced)
    store.open()
    store.renew("me", 1000)
    question = InputRow("q", "r", "step", b"", "Answer", "{}", 1.0)
    store.commit([Commit("r", 1, new=NewRun("W", "me"), records=[(i, b"x") for i in range(9)], opened=[question])])
    store.commit(
        [Commit("r", 1, records=[(9, b"x")], events=[(0, b"e")], snapshot=(5, b"s"), closed=[("q", "expired")])]
    )
    store.post("r", "event", b"x", dedup_key="k")
    entries = store.inbox(owner="me")
    store.inbox(run_id="r")
    store.commit([Commit("r", 1, taken=[entry.id for entry in entries], release=True, wake_at=1.0)])
    store.due(["W", "V"], 2.0)
    store.acquire(["r"], "me")
    store.held("me")
    store.resign("me")
    store.orphans(["W", "V"])
    store.load(["r"])
    store.row("r")
    store.events("r")
    store.inputs()
    store.inputs("r", after=1)
    store.input("q")
    for workflow in (None, "W"):
        for status in (None, "running"):
            for after in (None, "r"):
                store.runs(workflow, status, after=after, newest_first=after is None)  # type: ignore[arg-type]
    store.commit([Commit("r", 2, status="set_aside", result=b"x")])
    store.put_back("r")
    store.acquire(["r"], "me")
    store.commit([Commit("r", 4, status="completed", result=b"x")])
    store.result("r")
    store.sweep(0.0, 1e12)
    store.sweep(1e12, 1e12)
    store.create("s", "W", "nobody")
    store.delete("s")
    monkeypatch.undo()
    statements = [text for text in seen if text.startswith(("SELECT", "UPDATE", "DELETE", "INSERT", "WITH"))]
    assert len(statements) > 50
    connection = sqlite3.connect(path)
    whole = []
    for statement in statements:
        for *_, plan in connection.execute(f"EXPLAIN QUERY PLAN {statement}"):
            # `owners` has a row a process; the other scans are of what the statement itself has made.
            small = ("chain", "wanted", "owners", "o", "sqlite_sequence", "CONSTANT", "sqlite_master")
            scanned = plan.startswith("SCAN") and plan.split()[1] not in small and "INDEX" not in plan
            # A page of all runs is read in their order; a sort is of what one run, or one question id, has.
            scanned = scanned and "ORDER BY r.id" not in statement
            few = "r.run_id = 'r'" in statement or "run_id = 'r')" in statement or "input_id = 'q'" in statement
            if scanned or ("TEMP B-TREE FOR ORDER BY" in plan and not few):
                whole.append((plan, statement))
    connection.close()
    assert whole == []


def test_a_takeover_in_another_process_is_seen_by_a_writer_that_remembers(path: Path) -> None:
    """A writer that has read a run's head once looks again as soon as anybody else has written to the file."""
    now = [0.0]
    writer, other = (SQLiteStore(path, clock=lambda: now[0]) for _ in range(2))
    for store, owner in ((writer, "me"), (other, "other")):
        store.open()
        store.renew(owner, 10)
    fence = writer.create("r", "W", "me")
    assert fence is not None
    commit(writer, "r", fence, 0, b"mine")
    now[0] = 11.0
    other.renew("other", 10)
    assert other.acquire(["r"], "other") == {"r": fence + 1}
    commit(other, "r", fence + 1, 1, b"of the other")
    (refused,) = writer.commit([Commit("r", fence, records=[(1, b"too late")])])
    assert isinstance(refused, StaleOwnerError)
    assert_records(other, "r", 2)
    for store in (writer, other):
        store.close()


def test_what_was_rolled_back_is_not_remembered(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a transaction that failed at its end, the same commit goes through, by the numbers of the file."""
    fence = store.create("r", "W", "me")
    assert fence is not None
    commit(store, "r", fence, 0, b"zero")

    def full(self: object) -> None:
        write(self)  # type: ignore[arg-type]
        raise sqlite3.OperationalError("database or disk is full")

    write = commit_module._Group.write
    monkeypatch.setattr(commit_module._Group, "write", full)
    with pytest.raises(StoreError):
        store.commit([Commit("r", fence, records=[(1, b"one")], events=[(1, b"one")])])
    monkeypatch.undo()
    assert_records(store, "r", 1)
    commit(store, "r", fence, 1, b"one")
    assert_records(store, "r", 2)


def test_heads_are_remembered_for_few_runs_and_not_for_those_that_rest(
    store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many runs there are, the writer keeps a bounded number of heads, and none of a run that rests."""
    monkeypatch.setattr(commit_module, "_MAX_HEADS", 10)
    for number in range(50):
        store.commit([Commit(f"r{number}", FIRST_FENCE, new=NewRun("W", "me"))])
        assert len(store._known.heads) <= 11
    store.commit([Commit("r49", FIRST_FENCE, release=True)])
    assert "r49" not in store._known.heads

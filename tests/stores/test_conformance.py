"""What every store does, in one suite over all of them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from greenroom.errors import (
    JournalGapError,
    RunEndedError,
    RunExistsError,
    StaleOwnerError,
    StoreError,
    UnknownRunError,
)
from greenroom.stores import (
    Commit,
    InputRow,
    Loaded,
    MemoryStore,
    NewRun,
    PostgresStore,
    RunStore,
    SQLiteStore,
)
from tests.support.postgres import PostgresServer
from tests.support.stores import Lease

_schemas = itertools.count()

ME, OTHER = "me", "other"


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def lease(kind: str) -> Lease:
    return Lease(kind)


@pytest.fixture
def store(kind: str, lease: Lease, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RunStore]:
    """An open store; "me" and "other" have leases that do not end by themselves."""
    made: RunStore
    if kind == "memory":
        made = MemoryStore(clock=lease.clock)
    elif kind == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        made = PostgresStore(server.conninfo, schema=f"test-{next(_schemas)}")
    else:
        made = SQLiteStore(tmp_path / "runs.db", clock=lease.clock, poll_interval=0.01)
    made.open()
    made.renew(ME, 1000)
    made.renew(OTHER, 1000)
    yield made
    made.close()


def make(store: RunStore, run_id: str = "r", workflow: str = "W", owner: str = ME) -> int:
    fence = store.create(run_id, workflow, owner)
    assert fence is not None
    return fence


def ok(store: RunStore, *commits: Commit) -> None:
    assert store.commit(commits) == [None] * len(commits)


def refused(store: RunStore, commit: Commit) -> StoreError:
    (outcome,) = store.commit([commit])
    assert outcome is not None
    return outcome


def loaded(store: RunStore, run_id: str = "r") -> Loaded:
    found = store.load([run_id])[run_id]
    assert isinstance(found, Loaded)
    return found


def records(*numbers: int) -> list[tuple[int, bytes]]:
    return [(number, b"record %d" % number) for number in numbers]


def question(input_id: str, run_id: str = "r") -> InputRow:
    return InputRow(input_id, run_id, "approve", b"request", "Answer", "{}", 5.0, 9.0)


# Runs and commits


def test_a_new_run_is_there_with_its_row(store: RunStore) -> None:
    """`create` makes a run that its owner holds, with an empty journal."""
    fence = make(store)
    row = store.row("r")
    assert row is not None
    assert (row.run_id, row.workflow, row.status, row.owner, row.fence) == ("r", "W", "running", ME, fence)
    assert (row.next_seq, row.next_offset, row.bytes, row.wake_at, row.reason) == (0, 0, 0, None, None)
    assert row.lease_until is not None
    assert row.created_at == row.updated_at
    assert loaded(store) == Loaded(row, None, [])
    assert store.result("r") is None


def test_a_run_is_made_once(store: RunStore) -> None:
    """A second `create` with the run id of another gives None, and changes nothing."""
    make(store)
    before = store.row("r")
    assert store.create("r", "X", OTHER) is None
    assert store.row("r") == before


def test_unknown_runs_are_told(store: RunStore) -> None:
    """What reads an unknown run finds nothing; what writes to it is refused by name."""
    assert store.row("x") is None
    assert store.load(["x"]) == {}
    assert store.result("x") is None
    assert store.events("x") == []
    assert store.acquire(["x"], ME) == {}
    assert not store.delete("x")
    assert not store.put_back("x")
    assert isinstance(refused(store, Commit("x", 1, records=records(0))), UnknownRunError)
    with pytest.raises(UnknownRunError, match="'x'"):
        store.post("x", "event", b"")
    with pytest.raises(UnknownRunError, match="'x'"):
        store.runs(after="x")


def test_records_and_events_come_back(store: RunStore) -> None:
    """What was committed is loaded as it was, in order, whatever the bytes are."""
    fence = make(store)
    big = bytes(range(256)) * 4096
    ok(store, Commit("r", fence, records=[(0, b""), (1, b"\0a")], events=[(0, b"e0")]))
    ok(store, Commit("r", fence, records=[(2, big)], events=[(1, b""), (2, big)]))
    found = loaded(store)
    assert found.records == [(0, b""), (1, b"\0a"), (2, big)]
    assert (found.row.next_seq, found.row.next_offset, found.row.bytes) == (3, 3, 2 + len(big))
    assert store.events("r") == [(0, b"e0"), (1, b""), (2, big)]
    assert store.events("r", after=0) == [(1, b""), (2, big)]
    assert store.events("r", after=0, limit=1) == [(1, b"")]
    assert store.events("r", after=2) == []


def test_the_stream_of_a_run_may_begin_later(store: RunStore) -> None:
    """As that of a run which goes on from another one, whose offsets it continues."""
    first = Commit("r", 1, new=NewRun("W", ME, next_offset=5), events=[(5, b"five")])
    ok(store, first)
    ok(store, first)
    ok(store, Commit("r", 1, events=[(6, b"six"), (7, b"seven")]))
    assert isinstance(refused(store, Commit("r", 1, events=[(9, b"")])), JournalGapError)
    whole = [(5, b"five"), (6, b"six"), (7, b"seven")]
    assert store.events("r") == store.events("r", after=4) == whole
    assert store.events("r", after=5, limit=1) == whole[1:2]
    assert store.events("r", after=7) == []
    assert loaded(store).row.next_offset == 8
    ok(store, Commit("s", 1, new=NewRun("W", ME, next_offset=3)))
    assert store.events("s") == []
    assert loaded(store, "s").row.next_offset == 3


def test_a_run_can_be_made_by_its_first_commit(store: RunStore) -> None:
    """`Commit.new` makes the run together with its first records, and even its end."""
    ok(store, Commit("r", 1, new=NewRun("W", ME), records=records(0), events=[(0, b"e")]))
    ok(store, Commit("s", 1, new=NewRun("W", ME), records=records(0), status="completed", result=b"42"))
    assert loaded(store).records == records(0)
    assert store.result("s") == b"42"
    row = store.row("s")
    assert row is not None
    assert (row.status, row.owner) == ("completed", None)
    assert isinstance(refused(store, Commit("r", 1, new=NewRun("W", ME), records=records(0))), RunExistsError)


def test_a_commit_makes_all_or_nothing(store: RunStore) -> None:
    """A commit that is refused for one of its parts leaves none of the others, not even the run that it makes."""
    fence = make(store)
    bad = Commit("r", fence, records=records(0), events=[(1, b"gap")], status="completed", opened=[question("q")])
    assert isinstance(refused(store, bad), JournalGapError)
    assert isinstance(refused(store, Commit("s", 1, new=NewRun("W", ME), records=records(1))), JournalGapError)
    row = store.row("r")
    assert row is not None
    assert (row.next_seq, row.next_offset, row.status) == (0, 0, "running")
    assert store.inputs() == []
    assert store.row("s") is None


@pytest.mark.parametrize("numbers", [(3,), (2, 4), (3, 2), (2, 2)])
def test_a_gap_is_refused(store: RunStore, numbers: tuple[int, ...]) -> None:
    """Records that do not continue at the journal's end without a gap are refused, and the error names the numbers."""
    fence = make(store)
    ok(store, Commit("r", fence, records=records(0, 1)))
    error = refused(store, Commit("r", fence, records=records(*numbers)))
    assert isinstance(error, JournalGapError)
    assert "record 2" in str(error)
    assert str(numbers[-1]) in str(error)
    assert loaded(store).records == records(0, 1)


def test_one_transaction_for_many_runs(store: RunStore) -> None:
    """Each commit of a group stands for itself: what is refused does not hold up the others."""
    fences = {f"r{i}": make(store, f"r{i}") for i in range(5)}
    commits = [Commit(run_id, fence, records=records(0)) for run_id, fence in fences.items()]
    commits[2].fence += 1
    commits[3].records = records(7)
    outcomes = store.commit(commits)
    assert [type(outcome) for outcome in outcomes] == [
        type(None),
        type(None),
        StaleOwnerError,
        JournalGapError,
        type(None),
    ]
    found = store.load(list(fences))
    assert [len(one.records) for one in found.values() if isinstance(one, Loaded)] == [1, 1, 0, 0, 1]


def test_several_commits_of_one_run_in_a_group(store: RunStore) -> None:
    """A group may hold many commits of one run, which are done in their order."""
    commits = [Commit("r", 1, new=NewRun("W", ME), records=records(0))]
    commits += [Commit("r", 1, records=records(i), events=[(i - 1, b"e")]) for i in range(1, 20)]
    commits[10].snapshot = (8, b"state")
    commits[12].snapshot = (13, b"newer")
    commits.append(Commit("r", 1, records=records(20), status="failed", reason="no"))
    ok(store, *commits)
    found = loaded(store)
    assert found.snapshot == (13, b"newer")
    assert found.records == records(*range(13, 21))
    assert found.row.bytes == sum(len(data) for _, data in found.records)
    assert (found.row.status, found.row.reason, found.row.next_offset) == ("failed", "no", 19)
    assert isinstance(refused(store, Commit("r", 1, records=records(21))), StaleOwnerError)


def test_an_empty_group_is_nothing(store: RunStore) -> None:
    """No commits give no outcomes."""
    assert store.commit([]) == []


def test_the_same_commit_again_is_done_once(store: RunStore) -> None:
    """A commit whose fate was not known may be given again: it reports success and changes nothing."""
    store_before = [
        Commit("r", 1, new=NewRun("W", ME), records=records(0, 1), events=[(0, b"e")], opened=[question("q")]),
        Commit("r", 1, records=records(2), snapshot=(2, b"state"), closed=[("q", "answered")]),
        Commit("r", 1, records=records(3), release=True, wake_at=7.0),
    ]
    for commit in store_before:
        ok(store, commit)
        before = (loaded(store).records, loaded(store).snapshot, store.events("r"), store.input("q"))
        ok(store, commit)
        assert (loaded(store).records, loaded(store).snapshot, store.events("r"), store.input("q")) == before
    (fence,) = store.acquire(["r"], ME).values()
    end = Commit("r", fence, records=records(4), status="completed", result=b"result")
    ok(store, end)
    row = store.row("r")
    ok(store, end)
    assert store.row("r") == row
    assert store.result("r") == b"result"


def test_a_commit_that_contains_an_older_one(store: RunStore) -> None:
    """Records that are there already are not written again, those after them are."""
    fence = make(store)
    ok(store, Commit("r", fence, records=records(0, 1), events=[(0, b"e")]))
    ok(store, Commit("r", fence, records=records(0, 1, 2), events=[(0, b"e"), (1, b"f")]))
    assert loaded(store).records == records(0, 1, 2)
    assert store.events("r") == [(0, b"e"), (1, b"f")]


# Snapshots


def test_a_snapshot_drops_the_records_before_it(store: RunStore) -> None:
    """After a snapshot, the run is loaded from it and the records that it does not contain."""
    fence = make(store)
    ok(store, Commit("r", fence, records=records(0, 1, 2, 3)))
    ok(store, Commit("r", fence, snapshot=(3, b"state of 3")))
    found = loaded(store)
    assert (found.snapshot, found.records) == ((3, b"state of 3"), records(3))
    assert found.row.bytes == len(b"record 3")
    ok(store, Commit("r", fence, records=records(4), snapshot=(5, b"state of 5")))
    found = loaded(store)
    assert (found.snapshot, found.records, found.row.bytes, found.row.next_seq) == ((5, b"state of 5"), [], 0, 5)
    ok(store, Commit("r", fence, records=records(5, 6)))
    assert loaded(store).records == records(5, 6)


def test_a_snapshot_among_the_records_of_its_commit(store: RunStore) -> None:
    """A snapshot may contain records of its own commit; the others are kept."""
    fence = make(store)
    ok(store, Commit("r", fence, records=records(0, 1)))
    ok(store, Commit("r", fence, records=records(2, 3, 4), snapshot=(3, b"state")))
    found = loaded(store)
    assert (found.snapshot, found.records) == ((3, b"state"), records(3, 4))
    assert found.row.bytes == 2 * len(b"record 3")


def test_a_snapshot_of_the_future_is_refused(store: RunStore) -> None:
    """A snapshot that claims records which the journal does not have is refused."""
    fence = make(store)
    assert isinstance(refused(store, Commit("r", fence, records=records(0), snapshot=(2, b""))), JournalGapError)


def test_an_older_snapshot_is_passed_over(store: RunStore) -> None:
    """A snapshot older than the one that is there does not replace it."""
    fence = make(store)
    ok(store, Commit("r", fence, records=records(0, 1, 2), snapshot=(3, b"new")))
    ok(store, Commit("r", fence, snapshot=(1, b"old")))
    assert loaded(store).snapshot == (3, b"new")


def test_runs_do_not_mix(store: RunStore) -> None:
    """Snapshots, records and deletes of one run leave those of others alone, however they were interleaved."""
    fences = {f"r{i}": make(store, f"r{i}") for i in range(4)}
    for seq in range(30):
        ok(
            store,
            *(
                Commit(
                    run_id,
                    fence,
                    records=[(seq, f"{run_id}:{seq}".encode())],
                    snapshot=(seq - 2, b"s") if run_id == "r1" and seq % 5 == 4 else None,
                )
                for run_id, fence in fences.items()
            ),
        )
        if seq == 15:
            ok(store, Commit("r2", fences.pop("r2"), release=True))
            assert store.delete("r2")
    assert "r2" not in store.load(["r2"])
    for run_id in ("r0", "r3"):
        assert loaded(store, run_id).records == [(seq, f"{run_id}:{seq}".encode()) for seq in range(30)]
    assert loaded(store, "r1").records == [(seq, f"r1:{seq}".encode()) for seq in range(27, 30)]


# Owners


def test_a_stale_owner_is_refused(store: RunStore, lease: Lease) -> None:
    """After a takeover the former owner's commits are refused, though it never noticed that its lease was over."""
    fence = make(store)
    ok(store, Commit("r", fence, records=records(0)))
    lease.end(store, ME)
    (newer,) = store.acquire(["r"], OTHER).values()
    assert newer > fence
    error = refused(store, Commit("r", fence, records=records(1), status="completed"))
    assert isinstance(error, StaleOwnerError)
    assert "'r'" in str(error)
    ok(store, Commit("r", newer, records=[(1, b"of the new owner")]))
    assert loaded(store).records == [*records(0), (1, b"of the new owner")]


def test_a_held_run_is_not_taken(store: RunStore, lease: Lease) -> None:
    """Nobody takes a run whose owner has a lease; once it is over, one does."""
    fence = make(store)
    assert store.acquire(["r"], OTHER) == {}
    assert store.orphans(["W"]) == []
    lease.end(store, ME)
    assert [row.run_id for row in store.orphans(["W"])] == ["r"]
    assert store.acquire(["r"], OTHER) == {"r": fence + 1}
    assert store.acquire(["r"], ME) == {}
    assert store.orphans(["W"]) == []
    assert store.held(OTHER) == {"r": fence + 1}
    assert store.held(ME) == {}


def test_a_lease_that_nobody_took_goes_on(store: RunStore, lease: Lease) -> None:
    """An owner that slept through its lease may go on where nobody has taken over, and is told that it slept."""
    fence = make(store)
    make(store, "s")
    assert store.renew(ME, 1000)
    lease.end(store, ME)
    store.acquire(["s"], OTHER)
    assert not store.renew(ME, 1000)
    assert store.held(ME) == {"r": fence}
    assert store.renew(ME, 1000)
    ok(store, Commit("r", fence, records=records(0)))


def test_an_owner_that_resigns_leaves_orphans(store: RunStore) -> None:
    """What an owner holds when it resigns can be taken over at once."""
    make(store)
    store.resign(ME)
    assert [row.run_id for row in store.orphans(["W", "V"])] == ["r"]
    assert store.orphans(["V"]) == []
    assert "r" in store.acquire(["r"], OTHER)


def test_a_run_is_acquired_again_by_its_owner(store: RunStore) -> None:
    """An owner that acquires a run which it holds gets a new fence, and the former one is stale."""
    fence = make(store)
    assert store.acquire(["r"], ME) == {"r": fence + 1}
    assert isinstance(refused(store, Commit("r", fence, records=records(0))), StaleOwnerError)


def test_many_runs_are_acquired_at_once(store: RunStore, lease: Lease) -> None:
    """One call takes over all that can be taken, and leaves out the rest."""
    for name in ("a", "b", "c"):
        make(store, name)
    make(store, "theirs", owner=OTHER)
    ok(store, Commit("c", 1, status="cancelled"))
    lease.end(store, ME)
    assert store.acquire(["a", "theirs", "b", "unknown", "c"], "third") == {"a": 2, "b": 2}


def test_one_of_many_creates(store: RunStore) -> None:
    """Of many threads that create the same run at once, one does."""
    start = threading.Barrier(8)

    def create(i: int) -> int | None:
        start.wait()
        return store.create("r", "W", f"owner {i}")

    with ThreadPoolExecutor(8) as pool:
        fences = list(pool.map(create, range(8)))
    assert sorted(fence is None for fence in fences) == [False] + [True] * 7


def test_one_of_many_acquires(store: RunStore) -> None:
    """Of many owners that take over the same runs at once, each run gets one."""
    names = [f"r{i}" for i in range(20)]
    ok(store, *(Commit(name, 1, new=NewRun("W", ME), release=True) for name in names))
    for i in range(8):
        store.renew(f"owner {i}", 1000)
    start = threading.Barrier(8)

    def acquire(i: int) -> dict[str, int]:
        start.wait()
        mine: dict[str, int] = {}
        for name in names:
            mine |= store.acquire([name], f"owner {i}")
        return mine

    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(acquire, range(8)))
    assert sorted(name for mine in taken for name in mine) == sorted(names)
    for i, mine in enumerate(taken):
        assert store.held(f"owner {i}") == mine


def test_threads_commit_at_once(store: RunStore) -> None:
    """Threads that commit for their runs at the same time lose nothing."""

    def work(i: int) -> None:
        fence = make(store, f"r{i}")
        for seq in range(20):
            ok(store, Commit(f"r{i}", fence, records=records(seq), events=[(seq, b"%d" % i)]))
            assert len(loaded(store, f"r{i}").records) == seq + 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    for i in range(8):
        assert loaded(store, f"r{i}").records == records(*range(20))
        assert store.events(f"r{i}") == [(seq, b"%d" % i) for seq in range(20)]


# Ends and rest


@pytest.mark.parametrize("status", ["completed", "failed", "timed_out", "cancelled"])
def test_a_run_ends(store: RunStore, status: str) -> None:
    """An ended run has its result and reason, is held by nobody, and takes no further commits and no posts."""
    fence = make(store)
    ok(store, Commit("r", fence, opened=[question("q")]))
    ok(store, Commit("r", fence, status=status, result=b"bytes", reason="because"))  # type: ignore[arg-type]
    row = store.row("r")
    assert row is not None
    assert (row.status, row.owner, row.lease_until, row.reason, row.wake_at) == (status, None, None, "because", None)
    assert store.result("r") == b"bytes"
    assert isinstance(refused(store, Commit("r", fence, records=records(0))), StaleOwnerError)
    assert store.acquire(["r"], ME) == {}
    with pytest.raises(RunEndedError, match=status):
        store.post("r", "event", b"")
    asked = store.input("q")
    assert asked is not None
    assert asked.closed == "withdrawn"


def test_a_run_at_rest_is_due_at_its_time(store: RunStore) -> None:
    """A released run is held by nobody, is no orphan, and is due when its timer is."""
    for name, wake_at in (("late", 50.0), ("soon", 20.0), ("never", None)):
        ok(store, Commit(name, 1, new=NewRun("W", ME), release=True, wake_at=wake_at))
    ok(store, Commit("foreign", 1, new=NewRun("X", ME), release=True, wake_at=1.0))
    assert store.due(["W"], 19.9) == []
    assert [row.run_id for row in store.due(["W"], 20.0)] == ["soon"]
    assert [row.run_id for row in store.due(["W"], 99.0)] == ["soon", "late"]
    assert [row.run_id for row in store.due(["W", "X"], 99.0, limit=2)] == ["foreign", "soon"]
    assert store.orphans(["W"]) == []
    row = store.row("late")
    assert row is not None
    assert (row.status, row.owner, row.wake_at) == ("running", None, 50.0)
    assert isinstance(refused(store, Commit("late", 1, records=records(0))), StaleOwnerError)
    assert store.acquire(["soon"], OTHER) == {"soon": 2}
    assert [row.run_id for row in store.due(["W"], 99.0)] == ["late"]


def test_a_run_is_set_aside_and_put_back(store: RunStore) -> None:
    """A run that is set aside keeps its reason and what comes for it; put back, it is due and has a new fence."""
    fence = make(store)
    ok(store, Commit("r", fence, records=records(0), opened=[question("q")]))
    ok(store, Commit("r", fence, status="set_aside", reason="its class is gone"))
    row = store.row("r")
    assert row is not None
    assert (row.status, row.owner, row.reason) == ("set_aside", None, "its class is gone")
    assert store.acquire(["r"], OTHER) == {}
    assert store.due(["W"], 1e12) == store.orphans(["W"]) == []
    assert store.post("r", "event", b"kept")
    assert store.due(["W"], 1e12) == []
    assert [asked.input_id for asked in store.inputs()] == ["q"]
    assert store.sweep(1e12, 1e12) == 0
    assert store.put_back("r")
    assert not store.put_back("r")
    assert [row.run_id for row in store.due(["W"], 0.0)] == ["r"]
    (newer,) = store.acquire(["r"], OTHER).values()
    assert newer > fence
    assert [entry.payload for entry in store.inbox(owner=OTHER)] == [b"kept"]
    assert loaded(store).records == records(0)
    assert isinstance(refused(store, Commit("r", fence, status="set_aside")), StaleOwnerError)


# Listing


def test_runs_are_listed_in_pages(store: RunStore, lease: Lease) -> None:
    """Runs are listed in the order in which they were made, either way, filtered, a page at a time."""
    for i in range(10):
        make(store, f"r{i}", workflow="even" if i % 2 == 0 else "odd")
        if i in (2, 3, 4):
            ok(store, Commit(f"r{i}", 1, status="completed" if i != 4 else "failed"))

    def names(**options: object) -> str:
        return "".join(row.run_id[1:] for row in store.runs(**options))  # type: ignore[arg-type]

    assert names() == "9876543210"
    assert names(newest_first=False) == "0123456789"
    assert names(limit=3) == "987"
    assert names(limit=3, after="r7") == "654"
    assert names(newest_first=False, limit=3, after="r7") == "89"
    assert names(workflow="even") == "86420"
    assert names(workflow="even", limit=2, after="r6") == "42"
    assert names(workflow="even", newest_first=False, limit=3) == "024"
    assert names(status="completed") == "32"
    assert names(status="running", limit=2, after="r5") == "10"
    assert names(status="completed", workflow="odd") == "3"
    assert names(workflow="none") == ""
    assert names(limit=0) == ""


def test_retention(store: RunStore, lease: Lease) -> None:
    """A sweep takes the journal and then all of runs that ended long ago, and leaves every other run alone."""
    for name in ("old", "middle", "unfinished"):
        ok(store, Commit(name, 1, new=NewRun("W", ME), records=records(0, 1), events=[(0, b"e")], snapshot=(1, b"s")))
    times = []
    for name in ("old", "middle"):
        ok(store, Commit(name, 1, status="completed", result=b"42"))
        row = store.row(name)
        assert row is not None
        times.append(row.updated_at)
        lease.pass_time()
    assert store.sweep(times[0], times[0]) == 0
    assert loaded(store, "old").records == records(1)
    assert store.sweep(times[0] + 1e-6, times[1] + 1e-6) == 1
    assert store.row("old") is None
    assert store.result("old") is None
    assert store.events("old") == []
    middle = loaded(store, "middle")
    assert (middle.snapshot, middle.records, middle.row.bytes, middle.row.next_seq) == (None, [], 0, 2)
    assert store.result("middle") == b"42"
    assert store.events("middle") == [(0, b"e")]
    assert loaded(store, "unfinished").snapshot == (1, b"s")
    assert store.sweep(1e12, 1e12) == 1
    assert [row.run_id for row in store.runs()] == ["unfinished"]


def test_delete(store: RunStore) -> None:
    """All of a run goes, its id can be used again; a run that a live owner holds stays."""
    fence = make(store)
    ok(store, Commit("r", fence, records=records(0), events=[(0, b"e")], opened=[question("q")]))
    store.post("r", "event", b"", dedup_key="k")
    assert not store.delete("r")
    assert not store.delete("r", owner=OTHER)
    ok(store, Commit("r", fence, release=True))
    assert not store.delete("r", owner=ME)
    assert store.delete("r")
    assert store.row("r") is None
    assert store.inputs() == []
    assert store.input("q") is None
    assert store.inbox(run_id="r") == []
    make(store)
    assert loaded(store).records == []
    assert store.post("r", "event", b"", dedup_key="k")
    assert store.delete("r", owner=ME)
    assert store.row("r") is None


# Questions


def as_asked(*rows: InputRow | None) -> list[InputRow]:
    """Questions as a run has asked them, without what the store adds."""
    return [replace(row, workflow="", number=0) for row in rows if row is not None]


def test_questions_are_listed_while_they_are_open(store: RunStore) -> None:
    """An opened question is listed until it is closed, and tells how it was closed after that."""
    fence = make(store)
    make(store, "s")
    ok(store, Commit("r", fence, opened=[question("q1"), question("q2")]))
    ok(store, Commit("s", 1, opened=[question("q3", "s")]))
    assert as_asked(*store.inputs()) == [question("q1"), question("q2"), question("q3", "s")]
    assert as_asked(*store.inputs("r")) == [question("q1"), question("q2")]
    assert as_asked(*store.inputs(limit=1)) == [question("q1")]
    assert store.inputs("unknown") == []
    ok(store, Commit("r", fence, closed=[("q1", "answered")]))
    ok(store, Commit("r", fence, closed=[("q1", "expired"), ("q3", "expired"), ("unknown", "expired")]))
    assert as_asked(*store.inputs()) == [question("q2"), question("q3", "s")]
    closed = store.input("q1")
    assert closed is not None
    assert (closed.closed, closed.request) == ("answered", b"request")
    assert store.input("unknown") is None


def test_questions_are_listed_in_pages_with_their_workflow(store: RunStore) -> None:
    """Whatever their ids are, and whatever is closed or deleted between two pages, none is left out or told twice."""
    for run_id, workflow in (("r", "W"), ("s", "V"), ("t", "W")):
        make(store, run_id, workflow)
    for run_id in ("r", "s", "t"):  # three runs that went on from one snapshot ask under the same ids
        ok(store, Commit(run_id, 1, opened=[question(f"q{n}", run_id) for n in range(4)]))

    def pages(run_id: str | None = None) -> Iterator[list[InputRow]]:
        after = 0
        while page := store.inputs(run_id, after=after, limit=3):
            yield page
            after = page[-1].number

    everything = [(row.run_id, row.workflow, row.input_id) for page in pages() for row in page]
    workflows = {"r": "W", "s": "V", "t": "W"}
    assert everything == [(run_id, name, f"q{n}") for run_id, name in workflows.items() for n in range(4)]
    assert [row.input_id for page in pages("s") for row in page] == ["q0", "q1", "q2", "q3"]
    found = store.input("q2")
    assert found is not None
    assert (found.run_id, found.workflow) == ("t", "W")
    seen = []
    for page in pages():
        seen += [(row.run_id, row.input_id) for row in page]
        if len(seen) == 3:
            ok(store, Commit("r", 1, closed=[("q2", "answered")]), Commit("s", 1, status="completed"))
            assert store.delete("s")
    assert seen == [("r", f"q{n}") for n in range(4)] + [("t", f"q{n}") for n in range(4)]


def test_two_runs_may_have_questions_of_one_id(store: RunStore) -> None:
    """Two runs that go on from one snapshot ask under one id: the open one is found."""
    make(store)
    make(store, "s")
    ok(store, Commit("r", 1, opened=[question("q")]), Commit("s", 1, opened=[question("q", "s")]))
    assert as_asked(store.input("q")) == [question("q", "s")]
    ok(store, Commit("s", 1, closed=[("q", "answered")]))
    assert as_asked(store.input("q")) == [question("q")]


# Inbox


def test_the_inbox_keeps_the_order(store: RunStore) -> None:
    """Entries come in the order of arrival, for the runs of an owner or for one, until a commit takes them."""
    fence = make(store)
    make(store, "s")
    make(store, "theirs", owner=OTHER)
    assert store.post("r", "event", b"1", dedup_key="k1")
    assert store.post("s", "cancel", b"2")
    assert store.post("theirs", "event", b"3")
    assert store.post("r", "answer", b"4")
    entries = store.inbox(owner=ME)
    assert [(e.run_id, e.kind, e.payload, e.dedup_key) for e in entries] == [
        ("r", "event", b"1", "k1"),
        ("s", "cancel", b"2", None),
        ("r", "answer", b"4", None),
    ]
    assert [e.id for e in entries] == sorted(e.id for e in entries)
    assert [e.payload for e in store.inbox(run_id="r")] == [b"1", b"4"]
    assert [e.payload for e in store.inbox(owner=OTHER)] == [b"3"]
    assert [e.payload for e in store.inbox(owner=ME, limit=2)] == [b"1", b"2"]
    commit = Commit("r", fence, records=records(0), taken=[entries[0].id, entries[1].id])
    ok(store, commit)
    assert [e.payload for e in store.inbox(owner=ME)] == [b"2", b"4"]
    assert store.inbox(owner="nobody") == []
    with pytest.raises(ValueError, match="either owner or run_id"):
        store.inbox()


def test_a_refused_commit_takes_nothing(store: RunStore) -> None:
    """An entry leaves the inbox with the records that contain it, or not at all."""
    fence = make(store)
    store.post("r", "event", b"1")
    (entry,) = store.inbox(run_id="r")
    refused(store, Commit("r", fence + 1, records=records(0), taken=[entry.id]))
    refused(store, Commit("r", fence, records=records(5), taken=[entry.id]))
    assert store.inbox(run_id="r") == [entry]


def test_a_key_is_posted_once(store: RunStore) -> None:
    """What bears a key that was posted for the run before is not posted again, taken or not; other runs have theirs."""
    fence = make(store)
    make(store, "s")
    assert store.post("r", "event", b"1", dedup_key="k")
    assert not store.post("r", "event", b"2", dedup_key="k")
    (entry,) = store.inbox(run_id="r")
    ok(store, Commit("r", fence, records=records(0), taken=[entry.id]))
    assert not store.post("r", "event", b"3", dedup_key="k")
    assert store.post("s", "event", b"4", dedup_key="k")
    assert store.inbox(run_id="r") == []


def test_ids_are_not_used_again(store: RunStore) -> None:
    """An entry that was taken leaves its id to nobody."""
    fence = make(store)
    store.post("r", "event", b"1")
    (first,) = store.inbox(run_id="r")
    ok(store, Commit("r", fence, taken=[first.id]))
    store.post("r", "event", b"2")
    (second,) = store.inbox(run_id="r")
    assert second.id > first.id


def test_a_post_wakes_a_run_at_rest(store: RunStore) -> None:
    """A run at rest is due once something is posted for it, also when that came just before it was released."""
    ok(store, Commit("r", 1, new=NewRun("W", ME), release=True, wake_at=1e12))
    assert store.due(["W"], 0.0) == []
    store.post("r", "event", b"1")
    assert [row.run_id for row in store.due(["W"], 0.0)] == ["r"]
    (fence,) = store.acquire(["r"], ME).values()
    assert store.due(["W"], 0.0) == []
    ok(store, Commit("r", fence, release=True, wake_at=1e12))
    assert [row.run_id for row in store.due(["W"], 0.0)] == ["r"]
    (fence,) = store.acquire(["r"], ME).values()
    (entry,) = store.inbox(owner=ME)
    ok(store, Commit("r", fence, taken=[entry.id], release=True, wake_at=1e12))
    assert store.due(["W"], 0.0) == []


def test_what_an_ended_run_did_not_take(store: RunStore) -> None:
    """What is left in the inbox when a run ends stays there to be seen, but is no work for anybody."""
    fence = make(store)
    store.post("r", "event", b"late")
    ok(store, Commit("r", fence, status="completed"))
    assert [e.payload for e in store.inbox(run_id="r")] == [b"late"]
    assert store.inbox(owner=ME) == []
    assert store.due(["W"], 1e12) == []


def test_posts_of_many_threads(store: RunStore) -> None:
    """Of posts with one key from many threads at once one is kept; those without a key are all kept, in order."""
    make(store)

    def post(i: int) -> bool:
        store.post("r", "event", b"%d" % i)
        return store.post("r", "event", b"keyed", dedup_key="k")

    with ThreadPoolExecutor(8) as pool:
        kept = list(pool.map(post, range(24)))
    assert kept.count(True) == 1
    entries = store.inbox(run_id="r")
    assert sorted(e.payload for e in entries) == sorted([b"keyed"] + [b"%d" % i for i in range(24)])
    assert [e.id for e in entries] == sorted({e.id for e in entries})


def test_watchers_hear_of_posts(store: RunStore) -> None:
    """Each watcher is called after a post, until it stops; one that raises keeps nobody else from hearing."""
    make(store)
    heard, also = threading.Event(), threading.Event()

    def fails() -> None:
        raise ValueError("a faulty watcher")

    with ExitStack() as stops:
        for callback in (fails, heard.set, also.set):
            stops.callback(store.watch(callback))
        store.post("r", "event", b"1")
        assert heard.wait(20)
        assert also.wait(20)
    heard.clear()
    store.post("r", "event", b"2")
    assert not heard.is_set()


# Opening


def test_open_and_close_again(store: RunStore) -> None:
    """A store that is open may be opened again, and one that was closed as well; what it keeps stays."""
    make(store)
    store.open()
    assert store.row("r") is not None
    store.close()
    store.close()
    store.open()
    assert store.row("r") is not None


def test_closed_while_in_use(store: RunStore) -> None:
    """Threads that use a store while it is closed get their answer or an error, and leave nothing behind."""
    fence = make(store)
    outcomes: list[object] = []
    start = threading.Barrier(5)

    def work(i: int) -> None:
        start.wait()
        for seq in range(50):
            try:
                outcomes.append(store.load(["r"]) if i % 2 else store.commit([Commit("r", fence, taken=[seq])]))
            except StoreError as error:
                outcomes.append(error)

    with ThreadPoolExecutor(4) as pool:
        for i in range(4):
            pool.submit(work, i)
        start.wait()
        store.close()
    assert len(outcomes) == 200
    store.open()
    assert store.row("r") is not None

"""What can happen between a process and its database: restarts, lost answers, deadlocks, other versions, forks."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from greenroom.errors import StaleOwnerError, StoreError, StoreReadOnlyError, StoreUnavailableError, StoreVersionError
from greenroom.stores import Commit, InputRow, Loaded, NewRun, PostgresStore
from greenroom.stores import postgres_commit as commit_module
from greenroom.stores.postgres_connections import Connections
from tests.support import postgres
from tests.support.postgres import PostgresServer


@pytest.fixture
def schema(request: pytest.FixtureRequest) -> str:
    return f'{request.node.name[:40]} "quoted"'


@pytest.fixture
def store(postgres_server: PostgresServer, schema: str) -> Iterator[PostgresStore]:
    made = PostgresStore(postgres_server.conninfo, schema=schema)
    made.open()
    made.renew("me", 1000)
    yield made
    made.close()


@pytest.fixture
def lost_answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Once called, the next transaction is committed, but its answer does not arrive."""
    transact = Connections.transact
    lose = False

    def losing(self: Connections, work: Callable[[Any, bool], Any]) -> Any:
        def lossy(connection: Any, again: bool) -> Any:
            nonlocal lose
            answer = work(connection, again)
            if lose:
                lose = False
                raise psycopg.OperationalError("the connection is lost")
            return answer

        return transact(self, lossy)

    monkeypatch.setattr(Connections, "transact", losing)

    def arm() -> None:
        nonlocal lose
        lose = True

    return arm


def end_of(store: PostgresStore, run_id: str) -> int:
    run = store.load([run_id])[run_id]
    assert isinstance(run, Loaded)
    assert run.row.next_seq == run.row.next_offset == len(run.records)
    return run.row.next_seq


def test_nothing_is_done_twice_when_an_answer_is_lost(store: PostgresStore, lost_answers: Callable[[], None]) -> None:
    """A call whose transaction was committed, but whose answer was lost, does its work once and answers rightly."""
    lost_answers()
    assert store.create("r", "W", "me") == 1
    assert store.create("r", "W", "me") is None
    lost_answers()
    assert store.commit([Commit("r", 1, records=[(0, b"x")], events=[(0, b"x")])]) == [None]
    assert end_of(store, "r") == 1
    lost_answers()
    assert store.post("r", "event", b"1")
    lost_answers()
    assert store.post("r", "event", b"2", dedup_key="k")
    assert not store.post("r", "event", b"3", dedup_key="k")
    assert [entry.payload for entry in store.inbox(run_id="r")] == [b"1", b"2"]
    lost_answers()
    (fence,) = store.acquire(["r"], "me").values()
    question = InputRow("q", "r", "step", b"", "Answer", "{}", 1.0)
    lost_answers()
    assert store.commit([Commit("r", fence, opened=[question], status="set_aside", reason="x")]) == [None]
    lost_answers()
    assert store.put_back("r")
    (fence,) = store.acquire(["r"], "me").values()
    lost_answers()
    assert store.commit([Commit("r", fence, records=[(1, b"y")], events=[(1, b"y")], status="completed")]) == [None]
    assert end_of(store, "r") == 2
    lost_answers()
    assert store.delete("r")
    assert store.row("r") is None
    # Nobody knows what the lost try had found.
    lost_answers()
    assert not store.renew("me", 1000)
    assert store.renew("me", 1000)


def test_an_answer_lost_while_the_entry_is_taken(
    store: PostgresStore, lost_answers: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A post whose answer was lost is not done again, though its entry was taken in the meantime."""
    store.create("r", "W", "me")

    def take(seconds: float) -> None:
        (entry,) = store.inbox(run_id="r")
        assert store.commit([Commit("r", 1, records=[(0, b"1")], events=[(0, b"1")], taken=[entry.id])]) == [None]

    monkeypatch.setattr("greenroom.stores.postgres_connections.time.sleep", take)
    lost_answers()
    assert store.post("r", "event", b"1")
    assert store.inbox(run_id="r") == []


def test_keys_of_posts_are_forgotten_only_if_they_are_ours(store: PostgresStore, schema: str) -> None:
    """A sweep forgets posts without a key after a while; a key that a user has given stays with its run."""
    store.create("r", "W", "me")
    store.post("r", "event", b"1")
    store.post("r", "event", b"2", dedup_key="k")
    store.sweep(0.0, 0.0)
    table = psycopg.sql.Identifier(schema, "posts")
    with store._connections.connect() as connection:
        assert len(connection.execute(psycopg.sql.SQL("SELECT key FROM {}").format(table)).fetchall()) == 2
        connection.execute(psycopg.sql.SQL("UPDATE {} SET forget_at = 1 WHERE forget_at IS NOT NULL").format(table))
        store.sweep(0.0, 0.0)
        assert connection.execute(psycopg.sql.SQL("SELECT key FROM {}").format(table)).fetchall() == [("uk",)]
    assert not store.post("r", "event", b"3", dedup_key="k")


def test_groups_that_cross(store: PostgresStore) -> None:
    """Groups that hold the same runs in opposite orders, and take over and post as well, all go through."""
    names = [f"r{i}" for i in range(12)]
    assert store.commit([Commit(name, 1, new=NewRun("W", "me")) for name in names]) == [None] * 12
    failures: list[BaseException] = []

    def work(i: int) -> None:
        order = names if i % 2 else names[::-1]
        try:
            for seq in range(10):
                store.commit([Commit(name, 1, taken=[seq]) for name in order])
                store.commit([Commit(f"{i}-{seq}-{name}", 1, new=NewRun("W", "me")) for name in order])
                store.post(order[0], "event", b"")
                store.acquire(order, "nobody")
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(store.runs(limit=1000)) == 12 + 4 * 10 * 12


@pytest.mark.timeout(120)
def test_a_server_that_is_restarted_under_load() -> None:
    """While the server crashes and comes back, calls wait; no commit is lost or done twice, and watchers hear again."""
    if lacking := postgres.missing():
        pytest.skip(lacking)
    server = PostgresServer()
    store = PostgresStore(server.conninfo, patience=60)
    try:
        store.open()
        store.renew("me", 1000)
        stop = threading.Event()
        ends: dict[str, int] = {}
        failures: list[BaseException] = []
        heard = threading.Event()
        unwatch = store.watch(heard.set)
        under_way = [threading.Event() for _ in range(4)]

        def work(i: int) -> None:
            name = f"r{i}"
            try:
                assert store.create(name, "W", "me") == 1
                while not stop.is_set():
                    item = [(ends.get(name, 0), b"x")]
                    assert store.commit([Commit(name, 1, records=item, events=item)]) == [None]
                    assert store.post(name, "event", b"%d" % ends.get(name, 0))
                    ends[name] = ends.get(name, 0) + 1
                    under_way[i].set()
            except BaseException as failure:
                failures.append(failure)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for mode in ("immediate", "fast"):
            for event in under_way:
                event.clear()
                assert event.wait(60) or failures
            server.restart(mode)
        heard.clear()
        for event in under_way:
            event.clear()
            assert event.wait(60) or failures
        stop.set()
        for thread in threads:
            thread.join()
        assert not failures
        for name, end in ends.items():
            assert end_of(store, name) == end > 1
            posted = [entry.payload for entry in store.inbox(run_id=name, limit=100_000)]
            assert posted == [b"%d" % number for number in range(end)]
        assert heard.wait(30)
        unwatch()
    finally:
        store.close()
        server.close()


@pytest.mark.timeout(120)
def test_a_server_that_stays_away() -> None:
    """When the server does not come back in time, calls say so; once it is back, the store works again."""
    if lacking := postgres.missing():
        pytest.skip(lacking)
    server = PostgresServer()
    store = PostgresStore(server.conninfo, patience=0.3)
    try:
        store.open()
        assert store.create("r", "W", "me") == 1
        item = Commit("r", 1, records=[(0, b"x")], events=[(0, b"x")])
        server.stop()
        with pytest.raises(StoreUnavailableError, match="cannot be reached"):
            store.commit([item])
        with pytest.raises(StoreUnavailableError, match="cannot be reached"):
            PostgresStore(server.conninfo).open()
        server.start()
        patient = PostgresStore(server.conninfo)
        patient.open()
        assert patient.commit([item]) == [None]
        assert end_of(patient, "r") == 1
        patient.close()
    finally:
        store.close()
        server.close()


def test_a_server_that_is_not_there() -> None:
    """A store whose server cannot be reached says so at once."""
    store = PostgresStore("host=/nowhere dbname=x")
    with pytest.raises(StoreUnavailableError, match="conninfo"):
        store.open()
    with pytest.raises(StoreError, match=r"open\(\)"):
        store.watch(lambda: None)


def test_a_newer_schema_is_refused(store: PostgresStore, postgres_server: PostgresServer, schema: str) -> None:
    """A schema that a newer Greenroom has migrated is refused, on opening and by those that have it open."""
    store.create("r", "W", "me")
    with store._connections.connect() as connection:
        connection.execute(
            psycopg.sql.SQL("UPDATE {} SET version = 1000").format(psycopg.sql.Identifier(schema, "meta"))
        )
    for call in (
        lambda: store.commit([Commit("r", 1, records=[(0, b"x")])]),
        lambda: store.post("r", "event", b"x"),
        lambda: store.acquire(["r"], "me"),
        PostgresStore(postgres_server.conninfo, schema=schema).open,
    ):
        with pytest.raises(StoreVersionError, match=r"1000.*[Uu]pgrade"):
            call()
    row = store.row("r")
    assert row is not None
    assert (row.next_seq, row.fence) == (0, 1)


def test_a_schema_of_another_program_is_refused(postgres_server: PostgresServer) -> None:
    """A schema with tables that are not ours is refused."""
    with psycopg.connect(postgres_server.conninfo) as connection:
        connection.execute("CREATE SCHEMA theirs")
        connection.execute("CREATE TABLE theirs.runs (x int)")
    with pytest.raises(StoreVersionError, match="another program"):
        PostgresStore(postgres_server.conninfo, schema="theirs").open()
    with psycopg.connect(postgres_server.conninfo) as connection:
        assert connection.execute("SELECT to_regclass('theirs.meta')").fetchone() == (None,)


def test_a_role_without_the_rights(store: PostgresStore, postgres_server: PostgresServer, schema: str) -> None:
    """A role that may read but not write can list runs; its commits say what is missing."""
    store.create("r", "W", "me")
    identifier = psycopg.sql.Identifier(schema)
    with store._connections.connect() as connection:
        connection.execute("CREATE ROLE reader LOGIN")
        connection.execute(psycopg.sql.SQL("GRANT USAGE ON SCHEMA {} TO reader").format(identifier))
        connection.execute(psycopg.sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA {} TO reader").format(identifier))
    reader = PostgresStore(f"{postgres_server.conninfo} user=reader", schema=schema)
    reader.open()
    assert [row.run_id for row in reader.runs()] == ["r"]
    with pytest.raises(StoreReadOnlyError, match="rights"):
        reader.commit([Commit("r", 1, records=[(0, b"x")])])
    reader.close()


def test_a_schema_that_is_gone(store: PostgresStore, schema: str) -> None:
    """When somebody drops the schema, calls say that the store is gone."""
    with store._connections.connect() as connection:
        connection.execute(psycopg.sql.SQL("DROP SCHEMA {} CASCADE").format(psycopg.sql.Identifier(schema)))
    with pytest.raises(StoreError, match=r"open\(\)"):
        store.commit([Commit("r", 1)])


def test_the_watching_thread_ends(store: PostgresStore) -> None:
    """The thread that listens ends with the last watcher, and another begins with the next."""
    for _ in range(3):
        heard = threading.Event()
        stops = [store.watch(heard.set), store.watch(heard.set)]
        assert heard.wait(30)
        for stop in stops:
            stop()
            stop()
        assert not [thread for thread in threading.enumerate() if thread.name == "greenroom-store-watch"]


def test_psycopg_is_an_extra() -> None:
    """Without psycopg the other stores work, and asking for this one says what to install."""
    program = (
        "import sys; sys.modules['psycopg'] = None\n"
        "import greenroom.stores\n"
        "try: greenroom.stores.PostgresStore\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'greenroom[postgres]'" in done.stdout


def test_commits_that_only_add_are_one_statement(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group of them is sent at once; one that cannot be done is refused as ever, and the others are done."""
    store.create("a", "W", "me")
    store.create("b", "W", "me")
    long_ways: list[object] = []
    make_runs = commit_module._make_runs
    monkeypatch.setattr(commit_module, "_make_runs", lambda *all: long_ways.append(all) or make_runs(*all))
    group = [
        Commit("a", 1, records=[(0, b"x"), (1, b"y")], events=[(0, b"x")]),
        Commit("b", 1, events=[(0, b"z")]),
    ]
    assert store.commit(group) == [None, None]
    assert long_ways == []
    none, refused = store.commit([Commit("a", 1, records=[(2, b"z")]), Commit("b", 0, events=[(1, b"z")])])
    assert none is None
    assert isinstance(refused, StaleOwnerError)
    assert store.commit(group) == [None, None]  # It was done before, and is not done twice.
    assert len(long_ways) == 2
    rows = {row.run_id: (row.next_seq, row.next_offset, row.bytes) for row in store.runs()}
    assert rows == {"a": (3, 1, 3), "b": (0, 1, 0)}
    assert [number for number, _ in store.events("b")] == [0]

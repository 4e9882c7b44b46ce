"""What a durable hop costs: a step whose result is in the store before the next step begins. Beside DBOS.

The work is the same on both sides: a run goes through so many steps that take a number and return one less. `one`: one
run, and nothing beside it. `many`: 100 runs at once. The figure is the time of all, divided by the hops; the starts and
the ends of the runs are in it on both sides.

Both sides promise the same, but in the rows "as each comes". SQLite: its WAL, with `synchronous=NORMAL` (a commit
survives `kill -9`) or `FULL` (a power failure as well) on both sides. DBOS as it comes has the rollback journal,
which takes more than twice the time of a WAL, so it is given an engine of its own with the WAL (its documented option
`system_database_engine`). As each comes: what a user has who gives both sides a file and no option, so that DBOS also
survives a power failure. PostgreSQL: each side a server of its own as `initdb` sets it up, with `fsync` and
`synchronous_commit` on, over a socket. DBOS runs `def` workflows, which are quicker than its `async def` ones, one of
them on the thread that calls it, 100 on four threads (`max_executor_threads`), which is quicker than as many as it
would take; and it logs errors only.

`async` rows are ours in the mode that commits every 50 ms (`Runtime(durability="async")`). DBOS has no such mode, so
they stand beside what its steps always do.
"""

# Annotations stay objects here, so that the classes inside the functions need no resolving.
import atexit
from time import perf_counter
from typing import Any, ClassVar, Literal

from benchmarks.folders import temporary_folder
from benchmarks.row import Measure, Row, Target, faster, no_target
from benchmarks.rows.hops import def_chain
from tests.support.postgres import PostgresServer, missing

RUNS = 100


class DurableHop(Row):
    """A chain of `def` steps, committed to SQLite."""

    name = "durable-one"
    what = "durable hop, one run, SQLite"
    size = 500
    quick_size = 20
    target = faster(20)
    peer_name = "dbos"
    runs: ClassVar[int] = 1
    """How many runs share the hops."""
    synchronous: ClassVar[Literal["normal", "full"]] = "normal"
    durability: ClassVar[Literal["sync", "async"]] = "sync"

    def ours(self) -> Measure:
        from greenroom import Runtime

        runtime = Runtime(store=self.our_store(), durability=self.durability)
        atexit.register(runtime.shutdown)
        workflow = def_chain()(timeout=None, runtime=runtime)

        def measure(hops: int) -> float:
            began = perf_counter()
            handlers = [workflow.run(left=hops // self.runs) for _ in range(self.runs)]
            for handler in handlers:
                handler.result()
            return (perf_counter() - began) / hops

        return measure

    def our_store(self) -> Any:
        from greenroom.stores import SQLiteStore

        return SQLiteStore(temporary_folder() / "runs.db", synchronous=self.synchronous)

    def peer(self) -> Measure:
        from dbos import DBOS

        config = {"name": "benchmark", "log_level": "ERROR", **self.peer_database()}
        DBOS(config=config | ({"max_executor_threads": 4} if self.runs > 1 else {}))

        @DBOS.step()
        def hop(left: int) -> int:
            return left - 1

        @DBOS.workflow()
        def chain(left: int) -> int:
            while left:
                left = hop(left)
            return left

        DBOS.launch()
        atexit.register(DBOS.destroy)

        def measure(hops: int) -> float:
            began = perf_counter()
            if self.runs == 1:
                chain(hops)
            else:
                handles = [DBOS.start_workflow(chain, hops // self.runs) for _ in range(self.runs)]
                for handle in handles:
                    handle.get_result()
            return (perf_counter() - began) / hops

        return measure

    def peer_database(self) -> dict[str, Any]:
        import sqlalchemy

        url = f"sqlite:///{temporary_folder()}/dbos.db"
        engine = sqlalchemy.create_engine(url, pool_size=20, max_overflow=0)

        @sqlalchemy.event.listens_for(engine, "connect")
        def set_up(connection: Any, record: object) -> None:
            # The first three as DBOS sets them on an engine that it makes itself.
            connection.isolation_level = "IMMEDIATE"
            connection.execute("PRAGMA busy_timeout = 30000")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {self.synchronous}")

        return {"system_database_url": url, "system_database_engine": engine}


class DurableHops(DurableHop):
    """100 chains at once."""

    name = "durable-many"
    what = f"durable hop, {RUNS} runs at once, SQLite"
    size = 20 * RUNS
    quick_size = 2 * RUNS
    runs = RUNS


class _AsItComes(DurableHop):
    target: ClassVar[Target] = no_target()

    def peer_database(self) -> dict[str, Any]:
        return {"system_database_url": f"sqlite:///{temporary_folder()}/dbos.db"}


class DurableHopAsItComes(_AsItComes):
    """A chain, each side without options."""

    name = "durable-default-one"
    what = "durable hop, one run, SQLite, as each comes"


class DurableHopsAsItComes(_AsItComes, DurableHops):
    """100 chains at once, each side without options."""

    name = "durable-default-many"
    what = f"durable hop, {RUNS} runs at once, SQLite, as each comes"


class DurableHopFull(DurableHop):
    """A chain, each hop on the disk."""

    name = "durable-full-one"
    what = "durable hop, one run, SQLite, synchronous=full"
    target: ClassVar[Target] = no_target()
    synchronous = "full"


class DurableHopsFull(DurableHops):
    """100 chains at once, each hop on the disk."""

    name = "durable-full-many"
    what = f"durable hop, {RUNS} runs at once, SQLite, synchronous=full"
    target: ClassVar[Target] = no_target()
    synchronous = "full"


class AsyncDurableHop(DurableHop):
    """A chain, committed every 50 ms."""

    name = "durable-async-one"
    what = 'durable hop, one run, SQLite, durability="async"'
    durability = "async"


class AsyncDurableHops(DurableHops):
    """100 chains at once, committed every 50 ms."""

    name = "durable-async-many"
    what = f'durable hop, {RUNS} runs at once, SQLite, durability="async"'
    durability = "async"


class _Postgres(DurableHop):
    target: ClassVar[Target] = faster(5)

    @classmethod
    def lacking(cls) -> str | None:
        return missing()

    def our_store(self) -> Any:
        from greenroom.stores import PostgresStore

        return PostgresStore(self._server().conninfo)

    def peer_database(self) -> dict[str, Any]:
        import psycopg

        server = self._server()
        with psycopg.connect(server.conninfo, autocommit=True) as connection:
            connection.execute("CREATE DATABASE dbos")
        host = server.conninfo.split()[0].removeprefix("host=")
        return {"system_database_url": f"postgresql://greenroom@/dbos?host={host}"}

    @staticmethod
    def _server() -> PostgresServer:
        server = PostgresServer(fsync=True)
        atexit.register(server.close)
        return server


class PostgresHop(_Postgres):
    """A chain of `def` steps, committed to PostgreSQL."""

    name = "durable-postgres-one"
    what = "durable hop, one run, PostgreSQL"


class PostgresHops(_Postgres, DurableHops):
    """100 chains at once, committed to PostgreSQL."""

    name = "durable-postgres-many"
    what = f"durable hop, {RUNS} runs at once, PostgreSQL"

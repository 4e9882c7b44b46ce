"""Durable runs on a store with a fault that does not pass: the runs that it strikes end here, with a clear error."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from greenroom import Runtime, Workflow
from greenroom.errors import StoreDamagedError, StoreError, StoreVersionError
from greenroom.stores import Commit, MemoryStore, RunStore, SQLiteStore
from tests.crash.test_races import Asks, counts, until
from tests.support.flavours import DEADLINE

FAULTS = [
    TypeError("a bug in the store"),
    ValueError("another one"),
    StoreDamagedError("the file is damaged"),
    StoreVersionError("a newer Greenroom has written it"),
    StoreError("the store was closed while it was in use"),
]


class Buggy:
    """A store whose commits raise for some runs, while it is told so; it counts its commits, and may hold them up."""

    def __init__(self, store: RunStore, fault: Exception) -> None:
        self._store = store
        self._fault = fault
        self.struck: set[str] = set()
        self.calls = 0
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.gathered: list[set[str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def commit(self, commits: Sequence[Commit]) -> Any:
        self.gathered.append({commit.run_id for commit in commits})
        self.may_go_on.wait(DEADLINE)
        self.calls += 1
        if any(commit.run_id in self.struck for commit in commits):
            raise self._fault
        return self._store.commit(commits)


@pytest.fixture(params=["memory", "sqlite"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], RunStore]:
    if request.param == "memory":
        return MemoryStore
    return lambda: SQLiteStore(tmp_path / "runs.db")


def answer(handler: Any, n: int) -> None:
    until(handler.pending_inputs)
    handler.respond(handler.pending_inputs()[0].input_id, {"n": n})


@pytest.mark.parametrize("durability", ["sync", "async"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_a_fault_of_the_store_ends_the_runs_that_it_strikes_and_no_other(
    fault: Exception, durability: Any, make_store: Callable[[], RunStore], caplog: pytest.LogCaptureFixture
) -> None:
    """Though they share the transaction; the error names the fault, and the run goes on once that is mended."""
    store = Buggy(make_store(), fault)
    with Runtime(store=store, durability=durability) as runtime:  # type: ignore[arg-type]
        struck, other, third = (Asks().run(run_id=name) for name in ("struck", "other", "third"))
        for handler in (struck, other, third):
            until(handler.pending_inputs)
        store.may_go_on.clear()
        store.gathered.clear()
        threads = [threading.Thread(target=answer, args=(third, 3))]
        threads[0].start()
        until(lambda: store.gathered)  # and what comes now is gathered for the next transaction
        refused: list[Exception] = []

        def answer_the_struck() -> None:
            try:
                answer(struck, 1)
            except StoreError as error:
                refused.append(error)

        threads += [threading.Thread(target=answer_the_struck), threading.Thread(target=answer, args=(other, 2))]
        for thread in threads[1:]:
            thread.start()
        journal = runtime.keeper.journal.actor  # type: ignore[union-attr]
        until(lambda: {asked.commit.run_id for asked in journal._waiting} >= {"struck", "other"})
        store.struck = {"struck"}
        with caplog.at_level(logging.CRITICAL):
            store.may_go_on.set()
            with pytest.raises(StoreError, match="run 'struck' is given up in this process") as raised:
                struck.result(DEADLINE)
        for thread in threads:
            thread.join(DEADLINE)
        assert any({"struck", "other"} <= group for group in store.gathered)
        assert raised.value.__cause__ is fault
        assert str(refused) == str([raised.value])
        assert repr(fault) in str(raised.value)
        for handler, first in ((other, 2), (third, 3)):
            answer(handler, 10)
            assert handler.result(DEADLINE) == first + 10
        assert store.calls < 20  # it does not spin
        store.struck = set()
        again = runtime.get("struck")
        assert again is not None
        for n in (4, 5):
            answer(again, n)
        assert again.result(DEADLINE) == 9


def test_a_store_that_answers_other_than_it_was_asked_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """And nothing hangs."""

    class Forgets(MemoryStore):
        is_forgetful = False

        def commit(self, commits: Sequence[Commit]) -> list[StoreError | None]:
            done = super().commit(commits)
            return [] if self.is_forgetful else done

    store = Forgets()
    with caplog.at_level(logging.CRITICAL), Runtime(store=store):
        handler = Asks().run(run_id="one")
        until(handler.pending_inputs)
        store.is_forgetful = True
        with pytest.raises(StoreError, match="given up in this process"):
            answer(handler, 1)
        with pytest.raises(StoreError, match="given up in this process"):
            handler.result(DEADLINE)
        store.is_forgetful = False


def test_a_fault_at_the_rest_of_a_run_ends_its_handler(caplog: pytest.LogCaptureFixture) -> None:
    """And at a shutdown, which does not wait for the store for ever."""
    store = Buggy(MemoryStore(), TypeError("a bug"))
    flows: list[Workflow] = [Asks(), counts()]
    with caplog.at_level(logging.CRITICAL):
        with Runtime(store=store, idle_timeout=0.05) as runtime:  # type: ignore[arg-type]
            resting = flows[0].run(run_id="rests")
            store.struck = {"rests"}
            with pytest.raises(StoreError, match="'rests' is given up"):
                resting.result(DEADLINE)
            assert "rests" not in runtime.runs
        with Runtime(store=store) as runtime:  # type: ignore[arg-type]
            flows[1].run(run_id="given back", wanted=1)
            store.struck = {"given back"}
        store.struck = set()
        with Runtime(store=store) as runtime:  # type: ignore[arg-type]
            runtime.recover([Asks, counts()])
            for name in ("rests", "given back"):
                handler = runtime.get(name)
                assert handler is not None
                handler.cancel_run()

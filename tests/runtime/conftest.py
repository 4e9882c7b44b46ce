"""Fixtures of the tests of the public API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from greenroom.stores import MemoryStore, RunStore, SQLiteStore
from tests.support.flavours import FLAVOURS, Flavour
from tests.support.telemetry import Telemetry


@pytest.fixture(params=FLAVOURS)
def flow(request: pytest.FixtureRequest) -> Flavour:
    """Each kind of step, one after the other."""
    return Flavour(request.param)


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    """Telemetry in memory; at the end no span may be open."""
    telemetry = Telemetry()
    yield telemetry
    telemetry.check()


@pytest.fixture(params=["memory", "sqlite"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], RunStore]]:
    """Returns the same store each time, as another process would open it; all are closed after the test."""
    memory, made = MemoryStore(), list[RunStore]()

    def make() -> RunStore:
        made.append(memory if request.param == "memory" else SQLiteStore(tmp_path / "runs.db", poll_interval=0.01))
        return made[-1]

    yield make
    for store in made:
        store.close()


@pytest.fixture(params=["sync", "async"])
def durability(request: pytest.FixtureRequest) -> Any:
    """Each way of committing."""
    return request.param

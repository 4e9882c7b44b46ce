"""Fixtures of the tests of the public API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

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


@pytest.fixture(params=["sync", "async"])
def durability(request: pytest.FixtureRequest) -> Any:
    """Each way of committing."""
    return request.param

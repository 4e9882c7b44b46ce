"""Stores to test: one fixture for each kind, and one over all of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import postgres


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.PostgresServer]:
    """A server for all tests that do not stop it."""
    if lacking := postgres.missing():
        pytest.skip(lacking)
    server = postgres.PostgresServer()
    yield server
    server.close()

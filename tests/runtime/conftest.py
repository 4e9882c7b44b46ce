"""Fixtures of the tests of the public API."""

from __future__ import annotations

import pytest

from tests.support.flavours import FLAVOURS, Flavour


@pytest.fixture(params=FLAVOURS)
def flow(request: pytest.FixtureRequest) -> Flavour:
    """Each kind of step, one after the other."""
    return Flavour(request.param)

"""The ticker: it goes on whatever happens, and says so without filling the log."""

from __future__ import annotations

import logging
import threading

import pytest

from greenroom.actors.pool import PoolDispatcher
from greenroom.actors.ticker import Ticker


def test_failures_in_a_row_are_logged_a_few_times_and_the_end_of_them_once(caplog: pytest.LogCaptureFixture) -> None:
    """The first failure, the tenth and every hundredth, and then that it works again."""
    calls, over = 0, threading.Event()

    def fail_for_a_while() -> None:
        nonlocal calls
        calls += 1
        if calls <= 250:
            raise OSError("away")
        if calls > 260:
            over.set()

    dispatcher = PoolDispatcher(2)
    with caplog.at_level(logging.WARNING, "greenroom"):
        ticker = Ticker.start(dispatcher, 0.0, fail_for_a_while)
        assert over.wait(20)
        ticker.stop()
    dispatcher.shutdown(10.0)
    said = [record.getMessage().partition("fail_for_a_while ")[2] for record in caplog.records]
    failed = [f"failed ({count} in a row); it is called again" for count in (1, 10, 100, 200)]
    assert said == [*failed, "succeeds again"]

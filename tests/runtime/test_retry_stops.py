"""Stops: when to give up."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import greenroom.retry
from greenroom.retry import (
    stop_after_attempt,
    stop_after_delay,
    stop_all,
    stop_any,
    stop_before_delay,
    stop_never,
)

MINUTE = timedelta(minutes=1)


def stop_if_sleepy(attempts: int, elapsed_time: float, /, *, upcoming_sleep: float = 0.0) -> bool:
    return upcoming_sleep > 1


@pytest.mark.parametrize(
    ("stop", "attempts", "elapsed", "sleep", "expected"),
    [
        (stop_never(), 10**9, 1e9, 1e9, False),
        (stop_after_attempt(3), 2, 1e9, 1e9, False),
        (stop_after_attempt(3), 3, 0.0, 0.0, True),
        (stop_after_attempt(3), 4, 0.0, 0.0, True),
        (stop_after_delay(10), 99, 9.9, 5.0, False),
        (stop_after_delay(10), 1, 10.0, 0.0, True),
        (stop_after_delay(MINUTE), 1, 59.9, 0.0, False),
        (stop_after_delay(MINUTE), 1, 60.0, 0.0, True),
        (stop_after_delay(math.inf), 1, 1e300, 0.0, False),
        (stop_before_delay(10), 99, 5.0, 4.9, False),
        (stop_before_delay(10), 1, 5.0, 5.0, True),
        (stop_before_delay(MINUTE), 1, 0.0, 60.0, True),
        (stop_any(), 99, 99.0, 99.0, False),
        (stop_all(), 1, 0.0, 0.0, True),
        (stop_any(stop_never(), stop_before_delay(10)), 1, 5.0, 5.0, True),
        (stop_all(stop_if_sleepy, stop_before_delay(10)), 1, 5.0, 5.0, True),
        (stop_never() | stop_if_sleepy, 1, 0.0, 2.0, True),
        (stop_if_sleepy | stop_never(), 1, 0.0, 0.0, False),
        (stop_after_attempt(1) & stop_if_sleepy, 1, 0.0, 2.0, True),
        (stop_if_sleepy & stop_after_attempt(1), 1, 0.0, 0.0, False),
    ],
)
def test_a_stop_answers_for_attempts_and_times(
    stop: Any, attempts: int, elapsed: float, sleep: float, expected: bool
) -> None:
    """Each stop gives up at its bound, not before it; groups pass the upcoming sleep on."""
    assert stop(attempts, elapsed, upcoming_sleep=sleep) is expected


def test_the_upcoming_sleep_may_be_left_out() -> None:
    """A stop can be asked with attempts and elapsed time alone."""
    assert stop_before_delay(10)(1, 10.0)
    assert not (stop_before_delay(10) | stop_after_attempt(2))(1, 9.0)


@given(st.booleans(), st.booleans(), st.booleans())
def test_stops_combine_like_booleans(a: bool, b: bool, c: bool) -> None:
    """`|`, `&`, stop_any and stop_all have the truth tables of or and and, also in one expression."""
    x, y, z = (stop_after_attempt(1) if value else stop_never() for value in (a, b, c))
    assert (x | y)(1, 0.0) is (a or b)
    assert (x & y)(1, 0.0) is (a and b)
    assert (x | (y & z))(1, 0.0) is (a or (b and c))
    assert ((x | y) & z)(1, 0.0) is ((a or b) and c)
    assert stop_any(x, y, z)(1, 0.0) is any((a, b, c))
    assert stop_all(x, y, z)(1, 0.0) is all((a, b, c))


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("stop_after_attempt(0)", ValueError, "max_attempt_number must be at least 1, got 0"),
        ("stop_after_attempt(2.5)", TypeError, "max_attempt_number must be an int, got 2.5"),
        ("stop_after_attempt(True)", TypeError, "max_attempt_number must be an int, got True"),
        ("stop_after_delay(-1)", ValueError, "stop_after_delay: max_delay must be"),
        ('stop_before_delay("1")', TypeError, "stop_before_delay: max_delay must be"),
        ("stop_any(3)", TypeError, r"stop_any: argument 1 must be callable, got 3; .*stop_after_attempt\(3\)"),
        ("stop_never() & stop_never", TypeError, "stop_all: argument 2 is the class stop_never"),
        ("stop_never() | 3", TypeError, "unsupported operand"),
        ("3 & stop_never()", TypeError, "unsupported operand"),
    ],
)
def test_a_bad_argument_is_refused_at_construction(source: str, error: type[Exception], message: str) -> None:
    """What could not work later is refused at once, with the part, the argument and the value named."""
    with pytest.raises(error, match=message):
        eval(
            source, {**vars(greenroom.retry), **globals()}
        )  # as text, because a type checker refuses nearly all of them

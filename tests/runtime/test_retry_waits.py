"""Waits: how long to wait before the next attempt."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import greenroom.retry
from greenroom.retry import (
    wait_chain,
    wait_combine,
    wait_exponential,
    wait_exponential_jitter,
    wait_fixed,
    wait_full_jitter,
    wait_incrementing,
    wait_none,
    wait_random,
    wait_random_exponential,
)

attempt_numbers = st.integers(0, 5_000)
seeds = st.integers(0, 2**32 - 1)
lengths = st.floats(0, 1e9)
bases = st.floats(0, 100)


def always_two(attempts: int, /, *, seed: int | None = None) -> float:
    return 2.0


@pytest.mark.parametrize(
    ("wait", "expected"),
    [
        (wait_none(), [0, 0, 0, 0]),
        (wait_fixed(5), [5, 5, 5, 5]),
        (wait_exponential(), [1, 2, 4, 8]),
        (wait_exponential(multiplier=0.5, exp_base=3, max=5, min=1), [1, 1.5, 4.5, 5]),
        (wait_exponential(multiplier=0), [0, 0, 0, 0]),
        (wait_exponential(exp_base=0.5), [1, 0.5, 0.25, 0.125]),
        (wait_incrementing(), [0, 100, 200, 300]),
        (wait_incrementing(start=1, increment=2, max=4), [1, 3, 4, 4]),
        (wait_incrementing(start=2, increment=-1), [2, 1, 0, 0]),
        (wait_exponential_jitter(jitter=0, max=3), [1, 2, 3, 3]),
        (wait_random(2, 2), [2, 2, 2, 2]),
        (wait_random_exponential(min=1, max=1), [1, 1, 1, 1]),
        (wait_chain(wait_fixed(1), wait_fixed(2), wait_exponential()), [1, 2, 4, 8]),
        (wait_chain(wait_fixed(1), wait_fixed(2)), [1, 2, 2, 2]),
        (wait_combine(), [0, 0, 0, 0]),
        (wait_combine(wait_fixed(1), wait_exponential(), always_two), [4, 5, 7, 11]),
        (wait_fixed(1) + wait_exponential(), [2, 3, 5, 9]),
        (wait_fixed(1) + always_two, [3, 3, 3, 3]),
        (always_two + wait_fixed(1), [3, 3, 3, 3]),
        (sum([wait_fixed(1), wait_fixed(2), wait_exponential()]), [4, 5, 7, 11]),
    ],
)
def test_a_wait_gives_its_delays_in_order(wait: Any, expected: list[float]) -> None:
    """The delays before the first four retries are those that the formula of the wait gives."""
    assert [wait(n) for n in range(4)] == pytest.approx(expected)


MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("with_timedelta", "with_number"),
    [
        (wait_fixed(MINUTE), wait_fixed(60)),
        (wait_exponential(50, max=MINUTE), wait_exponential(50, max=60)),
        (wait_exponential(min=MINUTE, max=2 * MINUTE), wait_exponential(min=60, max=120)),
        (wait_incrementing(MINUTE, MINUTE, 2 * MINUTE), wait_incrementing(60, 60, 120)),
        (wait_random(MINUTE, 2 * MINUTE), wait_random(60, 120)),
        (
            wait_exponential_jitter(MINUTE, 2, 3 * MINUTE, MINUTE),
            wait_exponential_jitter(initial=60, exp_base=2, max=180, jitter=60),
        ),
        (wait_random_exponential(90, max=2 * MINUTE, min=MINUTE), wait_full_jitter(90, max=120, min=60)),
    ],
)
def test_a_timedelta_means_its_seconds(with_timedelta: Any, with_number: Any) -> None:
    """A wait built of timedeltas gives the same delays as one built of the same numbers of seconds."""
    assert [with_timedelta(n, seed=3) for n in range(4)] == [with_number(n, seed=3) for n in range(4)]


@given(attempt_numbers, st.tuples(lengths, lengths).map(sorted), lengths, bases)
def test_an_exponential_wait_stays_within_its_bounds(
    n: int, bounds: list[float], multiplier: float, exp_base: float
) -> None:
    """Whatever the retry number, beyond the range of floats too, the delay is between min and max."""
    low, high = bounds
    assert low <= wait_exponential(multiplier, exp_base, high, low)(n) <= high
    assert low <= wait_random_exponential(multiplier, exp_base, high, low)(n, seed=n) <= high


def test_a_multiplier_of_zero_means_no_wait_at_any_retry() -> None:
    """Zero times a power is zero, also where the power is beyond the range of floats."""
    assert wait_exponential(multiplier=0)(5_000) == 0.0


def test_the_operands_of_a_sum_keep_their_order() -> None:
    """`+` with a plain function on either side is the sum of both, in the order written."""
    assert always_two + wait_fixed(1) == wait_combine(always_two, wait_fixed(1))
    assert wait_fixed(1) + always_two == wait_combine(wait_fixed(1), always_two)


@given(attempt_numbers, lengths, st.floats(1, 100))
def test_an_exponential_wait_never_falls_from_one_retry_to_the_next(n: int, multiplier: float, exp_base: float) -> None:
    """With a base of 1 or more, each delay is at least as long as the one before it."""
    wait = wait_exponential(multiplier, exp_base)
    assert wait(n) <= wait(n + 1)


@given(attempt_numbers, st.tuples(lengths, lengths).map(sorted), lengths, bases, lengths, seeds)
def test_a_higher_cap_never_shortens_a_delay(
    n: int, caps: list[float], first: float, exp_base: float, jitter: float, seed: int
) -> None:
    """With everything else alike, a wait with the higher max waits at least as long."""
    low, high = caps
    assert wait_exponential(first, exp_base, low)(n) <= wait_exponential(first, exp_base, high)(n)
    assert wait_incrementing(first, jitter, low)(n) <= wait_incrementing(first, jitter, high)(n)
    lower = wait_exponential_jitter(first, exp_base, low, jitter)(n, seed=seed)
    assert lower <= wait_exponential_jitter(first, exp_base, high, jitter)(n, seed=seed)


@given(attempt_numbers, st.floats(-1e9, 1e9), st.floats(-1e9, 1e9), lengths)
def test_an_incrementing_wait_is_never_negative_nor_above_its_cap(
    n: int, start: float, step: float, cap: float
) -> None:
    """Start and increment may be negative, the delay never is, and the cap holds."""
    assert 0 <= wait_incrementing(start, step, cap)(n) <= cap


@given(attempt_numbers, st.tuples(lengths, lengths).map(sorted), seeds)
def test_a_random_wait_stays_within_its_bounds(n: int, bounds: list[float], seed: int) -> None:
    """The drawn delay is between min and max, both included."""
    low, high = bounds
    assert low <= wait_random(low, high)(n, seed=seed) <= high


@given(attempt_numbers, lengths, bases, lengths, lengths, seeds)
def test_jitter_is_added_to_the_exponential_delay_and_the_sum_is_capped(
    n: int, initial: float, exp_base: float, cap: float, jitter: float, seed: int
) -> None:
    """The delay is between the exponential one and that plus the jitter, and never above max."""
    base = wait_exponential(initial, exp_base, cap)(n)
    delay = wait_exponential_jitter(initial, exp_base, cap, jitter)(n, seed=seed)
    assert base <= delay <= min(base + jitter, cap)


random_waits = st.sampled_from(
    [
        wait_random(0, 10),
        wait_random_exponential(),
        wait_exponential_jitter(),
        wait_chain(wait_random(0, 10), wait_random(5, 10)),
        wait_fixed(1) + wait_random(0, 10) + wait_random(0, 10),
    ]
)


@given(random_waits, st.integers(0, 10), seeds)
def test_one_seed_gives_one_delay(wait: Any, n: int, seed: int) -> None:
    """With a seed the delay depends on nothing else, and the global source of randomness is left alone."""
    before = random.getstate()
    first = wait(n, seed=seed)
    assert random.getstate() == before
    random.random()
    assert wait(n, seed=seed) == first


@given(random_waits, st.integers(0, 4))
def test_different_seeds_spread_the_delays(wait: Any, n: int) -> None:
    """Fifty seeds give close to fifty different delays: that is what jitter is for."""
    assert len({wait(n, seed=seed) for seed in range(50)}) > 45


@given(random_waits, st.integers(0, 4), seeds)
def test_without_a_seed_a_wait_draws_from_the_global_source(wait: Any, n: int, seed: int) -> None:
    """Without a seed, delays come from the `random` module, so `random.seed` repeats them."""
    state = random.getstate()
    try:
        random.seed(seed)
        first, second = wait(n), wait(n)
        random.seed(seed)
        assert (wait(n), wait(n)) == (first, second)
        assert first != second
    finally:
        random.setstate(state)


@given(seeds)
def test_the_parts_of_a_sum_draw_independently(seed: int) -> None:
    """Two equal random waits in one sum do not draw the same number from the one seed."""
    part = wait_random(0, 1)
    drawn: list[float] = []

    def spy(attempts: int, /, *, seed: int | None = None) -> float:
        drawn.append(part(attempts, seed=seed))
        return drawn[-1]

    total = wait_combine(spy, wait_combine(spy, spy))(0, seed=seed)
    assert total == pytest.approx(sum(drawn))
    assert len(set(drawn)) == 3


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ('wait_fixed("5")', TypeError, "wait_fixed: wait must be a number of seconds or a timedelta, got '5'"),
        ("wait_fixed(True)", TypeError, "wait_fixed: wait must be .* got True"),
        ("wait_fixed(-1)", ValueError, "wait_fixed: wait must be finite and 0 or more, got -1"),
        ("wait_fixed(timedelta(seconds=-1))", ValueError, r"wait_fixed: wait must be .* got -1\.0"),
        ('wait_fixed(float("nan"))', ValueError, "got nan"),
        ('wait_fixed(float("inf"))', ValueError, "got inf"),
        ("wait_fixed(10**400)", ValueError, "wait_fixed: wait must be"),
        ("wait_exponential(multiplier=-1)", ValueError, "wait_exponential: multiplier must be"),
        ("wait_exponential(multiplier=MINUTE)", TypeError, "multiplier must be a number, got .*timedelta"),
        ('wait_exponential(exp_base=float("inf"))', ValueError, "wait_exponential: exp_base must be"),
        ("wait_exponential(max=1, min=2)", ValueError, "wait_exponential: min=2 is above max=1"),
        ("wait_full_jitter(max=-1)", ValueError, "wait_random_exponential: max must be"),
        ("wait_exponential_jitter(jitter=-1)", ValueError, "wait_exponential_jitter: jitter must be"),
        ('wait_exponential_jitter(exp_base="2")', TypeError, "wait_exponential_jitter: exp_base must be"),
        ("wait_exponential_jitter(max=None)", TypeError, "wait_exponential_jitter: max must be"),
        ('wait_incrementing(start=float("nan"))', ValueError, "wait_incrementing: start must be"),
        ("wait_incrementing(increment=None)", TypeError, "wait_incrementing: increment must be"),
        ("wait_incrementing(max=-1)", ValueError, "wait_incrementing: max must be"),
        ("wait_random(min=2)", ValueError, r"wait_random: min=2 is above max=1\.0"),
        ('wait_random(max=float("inf"))', ValueError, "wait_random: max must be"),
        ("wait_chain()", ValueError, "wait_chain: give at least one wait"),
        ("wait_chain(wait_fixed(1), 5)", TypeError, "wait_chain: argument 2 must be callable, got 5"),
        ("wait_combine(wait_none)", TypeError, "wait_combine: argument 1 is the class wait_none"),
        ("wait_fixed(1) + 2", TypeError, "unsupported operand"),
        ("2 + wait_fixed(1)", TypeError, "unsupported operand"),
    ],
)
def test_a_bad_argument_is_refused_at_construction(source: str, error: type[Exception], message: str) -> None:
    """What could not work later is refused at once, with the part, the argument and the value named."""
    with pytest.raises(error, match=message):
        eval(
            source, {**vars(greenroom.retry), **globals()}
        )  # as text, because a type checker refuses nearly all of them

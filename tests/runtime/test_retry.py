"""Policies: what becomes of a step that failed, and how the engine asks."""

from __future__ import annotations

import hashlib
import inspect
import math
import pickle
import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import greenroom.retry
from greenroom.retry import (
    RetryInfo,
    RetryPolicy,
    next_delay,
    retry_always,
    retry_any,
    retry_if_exception,
    retry_if_exception_cause_type,
    retry_if_exception_message,
    retry_if_exception_type,
    retry_if_not_exception_message,
    retry_if_not_exception_type,
    retry_never,
    retry_policy,
    retry_seed,
    retry_unless_exception_type,
    stop_after_attempt,
    stop_after_delay,
    stop_before_delay,
    stop_never,
    wait_chain,
    wait_exponential,
    wait_exponential_jitter,
    wait_fixed,
    wait_full_jitter,
    wait_incrementing,
    wait_none,
    wait_random,
    wait_random_exponential,
)

seeds = st.integers(0, 2**32 - 1)
MINUTE = timedelta(minutes=1)


def is_busy(error: BaseException) -> bool:
    return "busy" in str(error)


def always_two(attempts: int, /, *, seed: int | None = None) -> float:
    return 2.0


def test_without_arguments_a_policy_makes_three_attempts_five_seconds_apart() -> None:
    """The default policy retries any exception twice, each time after 5 seconds."""
    assert [retry_policy().next(0.0, failures, ValueError()) for failures in (1, 2, 3)] == [5.0, 5.0, None]


def test_the_nth_failure_is_followed_by_the_nth_delay() -> None:
    """The first configured delay comes after the first failure; none is skipped."""
    policy = retry_policy(wait=wait_chain(wait_fixed(1), wait_fixed(2), wait_fixed(3)), stop=stop_never())
    assert [policy.next(0.0, failures, ValueError()) for failures in (1, 2, 3, 4)] == [1.0, 2.0, 3.0, 3.0]
    assert policy.next(0.0, 0, ValueError()) == 1.0


def test_an_error_that_the_condition_refuses_ends_the_retries() -> None:
    """The condition decides before the wait and the stop."""
    policy = retry_policy(retry=retry_if_exception_type(OSError))
    assert policy.next(0.0, 1, TimeoutError()) == 5.0
    assert policy.next(0.0, 1, ValueError()) is None


def test_the_stop_sees_the_delay_that_comes_next() -> None:
    """A policy gives up when its next delay would pass the deadline, not after it."""
    policy = retry_policy(wait=wait_exponential(), stop=stop_before_delay(10))
    assert policy.next(5.0, 3, ValueError()) == 4.0
    assert policy.next(5.0, 4, ValueError()) is None


def test_elapsed_time_reaches_the_stop() -> None:
    """A policy gives up once the time since the first attempt reaches its bound."""
    policy = retry_policy(stop=stop_after_delay(10))
    assert policy.next(9.0, 50, ValueError()) == 5.0
    assert policy.next(10.0, 1, ValueError()) is None


@given(st.integers(1, 20), seeds)
def test_a_policy_hands_its_seed_to_the_wait(failures: int, seed: int) -> None:
    """The same seed gives the same decision, the one that the wait makes of it."""
    wait = wait_random(0, 100)
    policy = retry_policy(wait=wait, stop=stop_never())
    assert policy.next(0.0, failures, ValueError(), seed=seed) == wait(failures - 1, seed=seed)


ALL_PARTS: list[Any] = [
    retry_always(),
    retry_never(),
    retry_if_exception(is_busy),
    retry_if_exception_type((OSError, KeyError)),
    retry_if_not_exception_type(OSError),
    retry_if_exception_cause_type(OSError),
    retry_if_exception_message("busy"),
    retry_if_not_exception_message(match=re.compile("busy")),
    retry_never() | is_busy & retry_always(),
    wait_none(),
    wait_fixed(MINUTE),
    wait_exponential(max=30),
    wait_random_exponential(min=1),
    wait_exponential_jitter(jitter=3),
    wait_incrementing(start=4),
    wait_random(1, 2),
    wait_chain(wait_fixed(1), always_two),
    wait_fixed(1) + wait_random(0, 1),
    stop_never(),
    stop_after_attempt(4),
    stop_after_delay(30),
    stop_before_delay(MINUTE),
    stop_after_attempt(4) | stop_after_delay(30) & stop_never(),
    retry_policy(),
    retry_policy(retry_if_exception_type(OSError) | is_busy, wait_random(1, 2), stop_after_delay(9)),
]


@pytest.mark.parametrize("part", ALL_PARTS, ids=lambda part: type(part).__name__)
def test_every_part_is_a_value(part: Any) -> None:
    """Policies and their parts survive pickling, compare by value, hash, and cannot be changed."""
    copy = pickle.loads(pickle.dumps(part))
    assert copy == part
    assert hash(copy) == hash(part)
    field = next(iter(vars(part)), "any")
    with pytest.raises(FrozenInstanceError):
        setattr(part, field, 1)


@pytest.mark.parametrize(
    ("part", "text"),
    [
        (retry_any(retry_always(), retry_never()), "retry_any(retry_always(), retry_never())"),
        (
            wait_fixed(1) + wait_random(0, max=2),
            "wait_combine(wait_fixed(wait=1), wait_random(min=0, max=2))",
        ),
        (
            retry_policy(retry=retry_if_exception_message(match="busy"), stop=stop_never()),
            "retry_policy(retry=retry_if_exception_message(message=None, match='busy'), "
            "wait=wait_fixed(wait=5), stop=stop_never())",
        ),
    ],
)
def test_the_repr_is_the_source_of_the_part(part: Any, text: str) -> None:
    """The repr shows every parameter and, evaluated, gives an equal part."""
    assert repr(part) == text
    assert eval(text, vars(greenroom.retry)) == part


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (
            "retry_policy(retry=TimeoutError)",
            TypeError,
            "retry is the class TimeoutError; .*retry_if_exception_type",
        ),
        ("retry_policy(wait=5)", TypeError, r"retry_policy: wait must be callable, got 5; .* wait_fixed\(5\)"),
        ("retry_policy(stop=3)", TypeError, r"retry_policy: stop must be callable, got 3; .*after_attempt\(3\)"),
        ("retry_policy(stop=stop_never)", TypeError, "retry_policy: stop is the class stop_never"),
    ],
)
def test_a_bad_argument_is_refused_at_construction(source: str, error: type[Exception], message: str) -> None:
    """What could not work later is refused at once, with the part, the argument and the value named."""
    with pytest.raises(error, match=message):
        eval(
            source, {**vars(greenroom.retry), **globals()}
        )  # as text, because a type checker refuses nearly all of them


class Seedless:
    def next(self, elapsed_time: float, attempts: int, error: Exception) -> float | None:
        return elapsed_time + attempts


class TakesAnything:
    def next(self, *args: Any, **kwargs: Any) -> float | None:
        return float(kwargs["seed"])


def test_a_policy_of_the_users_own_needs_only_the_method_next() -> None:
    """Any object with `next` is a policy; the seed is passed only where it is accepted."""
    error = ValueError()
    seedless: Any = Seedless()
    attribute: Any = SimpleNamespace(next=lambda elapsed, attempts, error: 7)
    assert next_delay(seedless, 2.0, 1, error, seed=9) == 3.0
    assert next_delay(TakesAnything(), 0.0, 1, error, seed=9) == 9.0
    assert next_delay(attribute, 0.0, 1, error, seed=9) == 7.0
    assert all(isinstance(policy, RetryPolicy) for policy in (retry_policy(), seedless, attribute))
    assert not isinstance(object(), RetryPolicy)


@given(st.integers(1, 20), seeds)
def test_the_engine_gets_the_decision_of_the_policy(failures: int, seed: int) -> None:
    """next_delay passes elapsed time, attempts, error and seed on, and returns what the policy says."""
    policy = retry_policy(
        retry=retry_if_exception_type(OSError),
        wait=wait_random(0, 9),
        stop=stop_after_attempt(5) | stop_after_delay(60),
    )
    for elapsed, error in ((1.0, OSError()), (60.0, OSError()), (1.0, ValueError())):
        assert next_delay(policy, elapsed, failures, error, seed) == policy.next(elapsed, failures, error, seed=seed)


def test_a_policy_class_is_inspected_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signature is looked at on the first failure of a policy class, not on every one."""

    class Policy:
        def next(
            self, elapsed_time: float, attempts: int, error: Exception, *, seed: int | None = None
        ) -> float | None:
            return 1.0

    inspected: list[object] = []
    signature = inspect.signature

    def spy(function: Callable[..., object]) -> inspect.Signature:
        inspected.append(function)
        return signature(function)

    monkeypatch.setattr(inspect, "signature", spy)
    for _ in range(3):
        assert next_delay(Policy(), 0.0, 1, ValueError(), seed=1) == 1.0
    assert inspected == [Policy.next]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("5", r"retry policy .*next\(\) returned '5' after failure 2; return a finite number of seconds"),
        (True, "returned True"),
        (timedelta(seconds=5), "returned datetime.timedelta"),
        (-0.5, r"returned -0.5 after failure 2; return a finite number of seconds, 0 or more, or None"),
        (math.nan, "returned nan"),
        (math.inf, "returned inf"),
        (10**400, "return a finite number of seconds"),
    ],
)
def test_a_policy_that_returns_nonsense_is_named(result: Any, message: str) -> None:
    """A result that is neither None nor a finite number of 0 or more is refused."""
    policy: Any = SimpleNamespace(next=lambda elapsed, attempts, error: result)
    with pytest.raises(ValueError, match=message):
        next_delay(policy, 0.0, 2, ValueError(), seed=1)


def test_an_error_in_the_policy_is_passed_on() -> None:
    """What the policy itself raises reaches the caller unchanged."""
    broken = ZeroDivisionError("mine")

    def explode(error: BaseException) -> bool:
        raise broken

    with pytest.raises(ZeroDivisionError) as caught:
        next_delay(retry_policy(retry=explode), 0.0, 1, ValueError(), seed=1)
    assert caught.value is broken


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
def test_the_seed_is_the_first_32_bits_of_the_digest(run_id: str, step: str) -> None:
    """The seed depends on run, step and failures, and on nothing else."""
    expected = int(hashlib.sha256(f"{run_id}:{step}:2".encode()).hexdigest()[:8], 16)
    assert retry_seed(run_id, step, 2) == expected
    assert len({retry_seed(run_id, step, failures) for failures in range(5)}) > 1


def test_retry_info_is_a_frozen_record() -> None:
    """RetryInfo holds what a step may know of its earlier attempts, and cannot be changed."""
    error, when = ValueError(), datetime(2026, 1, 2, tzinfo=UTC)
    info = RetryInfo(retry_number=1, elapsed_seconds=2.5, last_exception=error, last_failed_at=when)
    assert (info.retry_number, info.elapsed_seconds, info.last_exception, info.last_failed_at) == (1, 2.5, error, when)
    with pytest.raises(FrozenInstanceError):
        info.retry_number = 2  # type: ignore[misc]


def test_aliases_are_the_same_class() -> None:
    """The second names are names only."""
    assert retry_unless_exception_type is retry_if_not_exception_type
    assert wait_full_jitter is wait_random_exponential


def test_the_package_exports_what_it_lists() -> None:
    """Every name of `__all__` exists, and the list is sorted and without repetition."""
    names = greenroom.retry.__all__
    assert list(names) == sorted(set(names))
    assert all(hasattr(greenroom.retry, name) for name in names)

"""Policies: what becomes of a step that failed, asked once a failure."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

from greenroom.retry._parts import LARGEST, check_callable
from greenroom.retry.conditions import RetryCondition
from greenroom.retry.stops import StopCondition, stop_after_attempt
from greenroom.retry.waits import WaitStrategy, wait_fixed


@runtime_checkable
class RetryPolicy(Protocol):
    """What a step takes as `retry_policy`: any object with this method."""

    def next(self, elapsed_time: float, attempts: int, error: Exception, *, seed: int | None = None) -> float | None:
        """Decide what follows a failure.

        Args:
            elapsed_time: Seconds from the beginning of the first attempt to this failure.
            attempts: How often the step has failed so far, 1 at the first failure.
            error: What the step raised this time.
            seed: The only source of randomness to use, so that a replay decides alike. A policy without randomness
                may leave this parameter out.

        Returns:
            Seconds to wait before the next attempt (0 or more), or None to give up.
        """


@dataclass(frozen=True)
class retry_policy:
    """A retry policy made of a condition, a wait and a stop.

    Args:
        retry: Which errors to retry; None retries every `Exception`.
        wait: How long to wait. The Nth failure is followed by the Nth delay.
        stop: When to give up. It sees the delay that would come next.

    Raises:
        TypeError: An argument is of the wrong kind, such as a bare number or a class.

    Example:
        >>> from greenroom.retry import retry_if_exception_type, wait_exponential
        >>> policy = retry_policy(retry_if_exception_type(TimeoutError), wait_exponential(), stop_after_attempt(4))
        >>> [policy.next(0.0, failures, TimeoutError()) for failures in (1, 2, 3, 4)]
        [1.0, 2.0, 4.0, None]
        >>> policy.next(0.0, 1, ValueError()) is None
        True
    """

    retry: RetryCondition | None = None
    wait: WaitStrategy = field(default=wait_fixed(5))
    stop: StopCondition = field(default=stop_after_attempt(3))

    def __post_init__(self) -> None:
        if self.retry is not None:
            check_callable("retry_policy: retry", self.retry, "retry_if_exception_type(TimeoutError)")
        check_callable("retry_policy: wait", self.wait, "wait_fixed(5)")
        check_callable("retry_policy: stop", self.stop, "stop_after_attempt(3)")

    def next(self, elapsed_time: float, attempts: int, error: Exception, *, seed: int | None = None) -> float | None:
        """Decide what follows a failure; see `RetryPolicy.next`."""
        if self.retry is not None and not self.retry(error):
            return None
        # Failures count from 1, waits from 0; a caller that passes 0 gets the first delay, not the last of a chain.
        delay = self.wait(max(attempts - 1, 0), seed=seed)
        return None if self.stop(attempts, elapsed_time, upcoming_sleep=delay) else delay


@dataclass(frozen=True)
class RetryInfo:
    """What a running step may know of its earlier attempts.

    Attributes:
        retry_number: 0 in the first attempt, 1 in the first retry, and so on.
        elapsed_seconds: Seconds since the first attempt began.
        last_exception: What the attempt before this one raised; None in the first attempt.
        last_failed_at: When that was, with a time zone; None in the first attempt.

    Example:
        >>> RetryInfo(retry_number=0, elapsed_seconds=0.0, last_exception=None, last_failed_at=None).retry_number
        0
    """

    retry_number: int
    elapsed_seconds: float
    last_exception: Exception | None
    last_failed_at: datetime | None


def retry_seed(run_id: str, step: str, failures: int) -> int:
    """Return the seed of one retry decision: the same in a replay, another for each run, step and failure.

    Args:
        run_id: The run.
        step: The name of the step that failed.
        failures: How often it has failed so far.

    Returns:
        An int of 32 bits: the first of the SHA-256 of `run_id:step:failures`.

    Example:
        >>> retry_seed("run-1", "fetch", 1)
        3535846089
    """
    digest = hashlib.sha256(f"{run_id}:{step}:{failures}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def next_delay(policy: RetryPolicy, elapsed: float, attempts: int, error: Exception, seed: int | None) -> float | None:
    """Ask a policy, of the user's making perhaps, what follows a failure.

    Args:
        policy: The policy of the step that failed.
        elapsed: Seconds from the beginning of the first attempt to this failure.
        attempts: How often the step has failed so far, 1 at the first failure.
        error: What the step raised this time.
        seed: Passed on if the policy's `next` has a parameter of that name.

    Returns:
        Seconds to wait before the next attempt, or None to give up.

    Raises:
        ValueError: The policy returned something else than None or a finite number, 0 or more.
        Exception: Whatever the policy itself raised.

    Example:
        >>> next_delay(retry_policy(wait=wait_fixed(2)), 0.0, 1, TimeoutError(), seed=7)
        2.0
    """
    method = policy.next
    seeded: dict[str, Any] = {"seed": seed} if _takes_seed(getattr(method, "__func__", method)) else {}
    delay = method(elapsed, attempts, error, **seeded)
    if delay is None:
        return None
    if isinstance(delay, bool) or not isinstance(delay, int | float) or not 0 <= delay <= LARGEST:  # NaN is refused too
        raise ValueError(
            f"retry policy {policy!r}: next() returned {delay!r} after failure {attempts}; "
            "return a finite number of seconds, 0 or more, or None to give up"
        )
    return float(delay)


@lru_cache(maxsize=256)
def _takes_seed(function: Callable[..., Any]) -> bool:
    # Asked of the function, not of the bound method: inspecting is slow, and all policies of one class share it.
    parameters = inspect.signature(function).parameters
    return "seed" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())

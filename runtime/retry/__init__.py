"""Retry policies: when a step that failed runs again.

A policy is made of a condition (which errors), a wait (how long) and a stop (when to give up). Conditions and stops
combine with `|` and `&`, waits with `+`. Lengths of time are seconds or timedeltas throughout.

Example:
    >>> policy = retry_policy(
    ...     retry=retry_if_exception_type((TimeoutError, ConnectionError)) | retry_if_exception_message(match="busy"),
    ...     wait=wait_exponential(max=30) + wait_random(0, 1),
    ...     stop=stop_after_attempt(5) | stop_before_delay(120),
    ... )
    >>> 1.0 <= policy.next(0.0, 1, OSError("busy"), seed=7) <= 2.0
    True
"""

from greenroom.retry.conditions import (
    RetryCondition,
    retry_all,
    retry_always,
    retry_any,
    retry_if_exception,
    retry_if_exception_cause_type,
    retry_if_exception_message,
    retry_if_exception_type,
    retry_if_not_exception_message,
    retry_if_not_exception_type,
    retry_never,
    retry_unless_exception_type,
)
from greenroom.retry.policy import RetryInfo, RetryPolicy, next_delay, retry_policy, retry_seed
from greenroom.retry.stops import (
    StopCondition,
    stop_after_attempt,
    stop_after_delay,
    stop_all,
    stop_any,
    stop_before_delay,
    stop_never,
)
from greenroom.retry.waits import (
    WaitStrategy,
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

__all__ = [
    "RetryCondition",
    "RetryInfo",
    "RetryPolicy",
    "StopCondition",
    "WaitStrategy",
    "next_delay",
    "retry_all",
    "retry_always",
    "retry_any",
    "retry_if_exception",
    "retry_if_exception_cause_type",
    "retry_if_exception_message",
    "retry_if_exception_type",
    "retry_if_not_exception_message",
    "retry_if_not_exception_type",
    "retry_never",
    "retry_policy",
    "retry_seed",
    "retry_unless_exception_type",
    "stop_after_attempt",
    "stop_after_delay",
    "stop_all",
    "stop_any",
    "stop_before_delay",
    "stop_never",
    "wait_chain",
    "wait_combine",
    "wait_exponential",
    "wait_exponential_jitter",
    "wait_fixed",
    "wait_full_jitter",
    "wait_incrementing",
    "wait_none",
    "wait_random",
    "wait_random_exponential",
]

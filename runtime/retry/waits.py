"""Waits: how long to wait before the next attempt, in seconds.

A wait is any callable `wait(attempts, *, seed=None)`, where `attempts` is 0 before the first retry, 1 before the
second and so on. Those of this module also add up with `+` and `sum()`. The random ones draw from `seed` alone when
one is given, so the same seed gives the same delay.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

from greenroom.retry._parts import Group, Seconds, check_numbers, check_order, check_seconds, to_seconds


class WaitStrategy(Protocol):
    """Gives the seconds to wait before retry number `attempts`, counted from 0."""

    def __call__(self, attempts: int, /, *, seed: int | None = None) -> float: ...


class _Wait(ABC):
    """Gives a wait its operator."""

    @abstractmethod
    def __call__(self, attempts: int, *, seed: int | None = None) -> float: ...

    def __add__(self, other: WaitStrategy) -> wait_combine:
        return wait_combine(self, other) if callable(other) else NotImplemented

    def __radd__(self, other: WaitStrategy | int) -> _Wait:
        if callable(other):
            return wait_combine(other, self)
        return self if other == 0 else NotImplemented  # sum() starts from 0


class _WaitGroup(Group[WaitStrategy], _Wait):
    _example = "wait_fixed(5)"


def _exponential(first: float, base: float, attempts: int, cap: float) -> float:
    """Return first * base**attempts, at most `cap`, also where the power is beyond the range of a float."""
    try:
        return min(first * float(base) ** attempts, cap)
    except OverflowError:
        return cap if first else 0.0


def _uniform(low: float, high: float, seed: int | None) -> float:
    return random.uniform(low, high) if seed is None else random.Random(seed).uniform(low, high)


@dataclass(frozen=True)
class wait_fixed(_Wait):
    """Wait the same time before each retry.

    Args:
        wait: Seconds, or a timedelta.

    Raises:
        TypeError: `wait` is neither a number nor a timedelta.
        ValueError: `wait` is negative or not finite.

    Example:
        >>> wait_fixed(5)(0)
        5.0
    """

    wait: Seconds

    def __post_init__(self) -> None:
        check_seconds(self, "wait")

    def __call__(self, attempts: int, *, seed: int | None = None) -> float:
        return to_seconds(self.wait)


@dataclass(frozen=True)
class wait_none(_Wait):
    """Do not wait.

    Example:
        >>> wait_none()(0)
        0.0
    """

    def __call__(self, attempts: int, *, seed: int | None = None) -> float:
        return 0.0


@dataclass(frozen=True)
class wait_exponential(_Wait):
    """Wait `multiplier * exp_base**n` seconds before retry n (from 0), kept within `min` and `max`.

    Args:
        multiplier: Seconds before the first retry.
        exp_base: The factor from one delay to the next.
        max: Upper bound, in seconds or as a timedelta; may be infinite.
        min: Lower bound, in seconds or as a timedelta.

    Raises:
        TypeError: An argument is neither a number nor, where it is a bound, a timedelta.
        ValueError: An argument is negative or not finite, or `min` is above `max`.

    Example:
        >>> [wait_exponential(max=5)(n) for n in range(4)]
        [1.0, 2.0, 4.0, 5.0]
    """

    multiplier: float = 1.0
    exp_base: float = 2.0
    max: Seconds = 60.0
    min: Seconds = 0.0

    def __post_init__(self) -> None:
        check_numbers(self, "multiplier", "exp_base")
        check_seconds(self, "max", infinite=True)
        check_seconds(self, "min")
        check_order(self, self.min, self.max)

    def __call__(self, attempts: int, *, seed: int | None = None) -> float:
        delay = _exponential(self.multiplier, self.exp_base, attempts, to_seconds(self.max))
        return max(delay, to_seconds(self.min))


@dataclass(frozen=True)
class wait_random_exponential(wait_exponential):
    """Wait a random time between `min` and what `wait_exponential` would wait. Also named `wait_full_jitter`.

    Takes the arguments of `wait_exponential` and raises the same errors.

    Example:
        >>> 0.0 <= wait_random_exponential(max=5)(1, seed=7) <= 2.0
        True
    """

    def __call__(self, attempts: int, *, seed: int | None = None) -> float:
        return _uniform(to_seconds(self.min), super().__call__(attempts), seed)


wait_full_jitter = wait_random_exponential


@dataclass(frozen=True)
class wait_exponential_jitter(_Wait):
    """Wait `initial * exp_base**n` seconds plus a random time up to `jitter`, in all at most `max`.

    Args:
        initial: Delay before the first retry, in seconds or as a timedelta.
        exp_base: The factor from one delay to the next.
        max: Upper bound of the whole, in seconds or as a timedelta; may be infinite.
        jitter: Upper bound of the random part, in seconds or as a timedelta.

    Raises:
        TypeError: An argument is neither a number nor, where it is a length of time, a timedelta.
        ValueError: An argument is negative or not finite.

    Example:
        >>> 4.0 <= wait_exponential_jitter(jitter=0.5)(2, seed=7) <= 4.5
        True
    """

    initial: Seconds = 1.0
    exp_base: float = 2.0
    max: Seconds = 60.0
    jitter: Seconds = 1.0

    def __post_init__(self) -> None:
        check_seconds(self, "initial", "jitter")
        check_numbers(self, "exp_base")
        check_seconds(self, "max", infinite=True)

    def __call__(self, attempts: int, *, seed: int | None = None) -> float:
        cap = to_seconds(self.max)
        delay = _exponential(to_seconds(self.initial), self.exp_base, attempts, cap)
        return min(delay + _uniform(0.0, to_seconds(self.jitter), seed), cap)


@dataclass(frozen=True)
class wait_incrementing(_Wait):
    """Wait `start + n * increment` seconds before retry n (from 0), never less than 0 or more than `max`.

    Args:
        start: Delay before the first retry, in seconds or as a timedelta.
        increment: What each further retry adds; negative to wait less each time.
        max: Upper bound, in seconds or as a timedelta; may be infinite.

    Raises:
        TypeError: An argument is neither a number nor a timedelta.
        ValueError: `start` or `increment` is not finite, or `max` is negative.

    Example:
        >>> [wait_incrementing(start=1, increment=2, max=4)(n) for n in range(3)]
        [1.0, 3.0, 4.0]
    """

    start: Seconds = 0.0
    increment: Seconds = 100.0
    max: Seconds = math.inf

    def __post_init__(self) -> None:
        check_seconds(self, "start", "increment", negative=True)
        check_seconds(self, "max", infinite=True)

    def __call__(self, attempts: int, *, seed: int | None = None) -> float:
        delay = to_seconds(self.start) + to_seconds(self.increment) * attempts
        return max(0.0, min(delay, to_seconds(self.max)))


@dataclass(frozen=True)
class wait_random(_Wait):
    """Wait a random time between `min` and `max`.

    Args:
        min: Lower bound, in seconds or as a timedelta.
        max: Upper bound, in seconds or as a timedelta.

    Raises:
        TypeError: An argument is neither a number nor a timedelta.
        ValueError: An argument is negative or not finite, or `min` is above `max`.

    Example:
        >>> wait_random(1, 2)(0, seed=7) == wait_random(1, 2)(0, seed=7)
        True
    """

    min: Seconds = 0.0
    max: Seconds = 1.0

    def __post_init__(self) -> None:
        check_seconds(self, "min", "max")
        check_order(self, self.min, self.max)

    def __call__(self, attempts: int, *, seed: int | None = None) -> float:
        return _uniform(to_seconds(self.min), to_seconds(self.max), seed)


class wait_chain(_WaitGroup):
    """Take the first wait before the first retry, the second before the second, and the last for all others.

    Raises:
        TypeError: An argument is not a wait.
        ValueError: No wait was given.

    Example:
        >>> [wait_chain(wait_fixed(1), wait_fixed(5))(n) for n in range(3)]
        [1.0, 5.0, 5.0]
    """

    def __init__(self, *strategies: WaitStrategy) -> None:
        if not strategies:
            raise ValueError("wait_chain: give at least one wait, such as wait_fixed(5)")
        super().__init__(*strategies)

    def __call__(self, attempts: int, *, seed: int | None = None) -> float:
        return self.parts[min(attempts, len(self.parts) - 1)](attempts, seed=seed)


class wait_combine(_WaitGroup):
    """Wait the sum of the given waits; the operator `+`. Without waits: 0 seconds.

    Raises:
        TypeError: An argument is not a wait.

    Example:
        >>> (wait_fixed(1) + wait_incrementing(increment=2))(3)
        7.0
    """

    def __call__(self, attempts: int, *, seed: int | None = None) -> float:
        # Each part draws from a seed of its own: from one seed, two random parts would always draw alike.
        source = random.Random(seed)
        seeds = [None if seed is None else source.getrandbits(32) for _ in self.parts]
        return sum((wait(attempts, seed=own) for wait, own in zip(self.parts, seeds, strict=True)), 0.0)

"""Stops: when to give up.

A stop is any callable `stop(attempts, elapsed_time, *, upcoming_sleep=0.0)` that says whether to give up. `attempts`
is the number of failures so far, the times are seconds. Those of this module also combine with `|` and `&`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

from greenroom.retry._parts import Group, Seconds, check_seconds, to_seconds


class StopCondition(Protocol):
    """Says whether to give up after `attempts` failures and `elapsed_time` seconds."""

    def __call__(self, attempts: int, elapsed_time: float, /, *, upcoming_sleep: float = 0.0) -> bool: ...


class _Stop(ABC):
    """Gives a stop its operators."""

    @abstractmethod
    def __call__(self, attempts: int, elapsed_time: float, *, upcoming_sleep: float = 0.0) -> bool: ...

    def __or__(self, other: StopCondition) -> stop_any:
        return stop_any(self, other) if callable(other) else NotImplemented

    def __ror__(self, other: StopCondition) -> stop_any:
        return stop_any(other, self) if callable(other) else NotImplemented

    def __and__(self, other: StopCondition) -> stop_all:
        return stop_all(self, other) if callable(other) else NotImplemented

    def __rand__(self, other: StopCondition) -> stop_all:
        return stop_all(other, self) if callable(other) else NotImplemented


class _StopGroup(Group[StopCondition], _Stop):
    _example = "stop_after_attempt(3)"


@dataclass(frozen=True)
class stop_never(_Stop):
    """Never give up.

    Example:
        >>> stop_never()(1_000, 3600.0)
        False
    """

    def __call__(self, attempts: int, elapsed_time: float, *, upcoming_sleep: float = 0.0) -> bool:
        return False


@dataclass(frozen=True)
class stop_after_attempt(_Stop):
    """Give up after the given number of attempts, the first one included.

    Args:
        max_attempt_number: How often the step may run in all; 1 means no retry.

    Raises:
        TypeError: `max_attempt_number` is not an int.
        ValueError: `max_attempt_number` is less than 1.

    Example:
        >>> stop = stop_after_attempt(3)
        >>> stop(2, 0.0), stop(3, 0.0)
        (False, True)
    """

    max_attempt_number: int

    def __post_init__(self) -> None:
        number = self.max_attempt_number
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"stop_after_attempt: max_attempt_number must be an int, got {number!r}")
        if number < 1:
            raise ValueError(f"stop_after_attempt: max_attempt_number must be at least 1, got {number}")

    def __call__(self, attempts: int, elapsed_time: float, *, upcoming_sleep: float = 0.0) -> bool:
        return attempts >= self.max_attempt_number


@dataclass(frozen=True)
class stop_after_delay(_Stop):
    """Give up once the given time has passed since the first attempt began.

    Args:
        max_delay: Seconds, or a timedelta; may be infinite.

    Raises:
        TypeError: `max_delay` is neither a number nor a timedelta.
        ValueError: `max_delay` is negative.

    Example:
        >>> stop_after_delay(30)(1, 30.0)
        True
    """

    max_delay: Seconds

    def __post_init__(self) -> None:
        check_seconds(self, "max_delay", infinite=True)

    def __call__(self, attempts: int, elapsed_time: float, *, upcoming_sleep: float = 0.0) -> bool:
        return elapsed_time >= to_seconds(self.max_delay)


@dataclass(frozen=True)
class stop_before_delay(_Stop):
    """Give up if the next retry would begin when the given time has passed since the first attempt began.

    Args:
        max_delay: Seconds, or a timedelta; may be infinite.

    Raises:
        TypeError: `max_delay` is neither a number nor a timedelta.
        ValueError: `max_delay` is negative.

    Example:
        >>> stop_before_delay(30)(1, 20.0, upcoming_sleep=10.0)
        True
    """

    max_delay: Seconds

    def __post_init__(self) -> None:
        check_seconds(self, "max_delay", infinite=True)

    def __call__(self, attempts: int, elapsed_time: float, *, upcoming_sleep: float = 0.0) -> bool:
        return elapsed_time + upcoming_sleep >= to_seconds(self.max_delay)


class stop_any(_StopGroup):
    """Give up if at least one of the stops says so; the operator `|`. Without stops: never.

    Raises:
        TypeError: An argument is not a stop.

    Example:
        >>> (stop_after_attempt(5) | stop_after_delay(30))(5, 1.0)
        True
    """

    def __call__(self, attempts: int, elapsed_time: float, *, upcoming_sleep: float = 0.0) -> bool:
        return any(stop(attempts, elapsed_time, upcoming_sleep=upcoming_sleep) for stop in self.parts)


class stop_all(_StopGroup):
    """Give up if all of the stops say so; the operator `&`. Without stops: at once.

    Raises:
        TypeError: An argument is not a stop.

    Example:
        >>> (stop_after_attempt(5) & stop_after_delay(30))(5, 1.0)
        False
    """

    def __call__(self, attempts: int, elapsed_time: float, *, upcoming_sleep: float = 0.0) -> bool:
        return all(stop(attempts, elapsed_time, upcoming_sleep=upcoming_sleep) for stop in self.parts)

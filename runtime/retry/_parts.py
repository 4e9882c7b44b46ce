"""What conditions, waits and stops share: checks of their arguments, and groups of them."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar, Generic, TypeVar

Seconds = float | timedelta
"""A length of time: seconds as a number, or a timedelta."""

LARGEST = sys.float_info.max

PartT = TypeVar("PartT", bound=Callable[..., Any])


def to_seconds(value: Seconds) -> float:
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


def check_numbers(owner: object, *names: str) -> None:
    """Raise unless each named attribute of `owner` is a finite number, 0 or more."""
    for name in names:
        _check(owner, name, getattr(owner, name), "a number")


def check_seconds(owner: object, *names: str, infinite: bool = False, negative: bool = False) -> None:
    """Raise unless each named attribute of `owner` is a length of time; infinite or negative only if allowed."""
    for name in names:
        value = getattr(owner, name)
        if isinstance(value, timedelta):
            value = value.total_seconds()
        _check(owner, name, value, "a number of seconds or a timedelta", infinite, negative)


def check_order(owner: object, low: Seconds, high: Seconds) -> None:
    """Raise unless `low`, the argument `min` of `owner`, is at most `high`, its argument `max`."""
    if to_seconds(low) > to_seconds(high):
        raise ValueError(f"{type(owner).__name__}: min={low!r} is above max={high!r}")


def check_callable(place: str, value: object, example: str) -> None:
    """Raise unless `value` is a plain callable: not a class, not a coroutine function.

    A class is callable too, but calling it builds an object, which is true whatever the error was.
    """
    if isinstance(value, type):
        raise TypeError(f"{place} is the class {value.__name__}; pass an instance such as {example}")
    if not callable(value):
        raise TypeError(f"{place} must be callable, got {value!r}; pass something like {example}")
    if inspect.iscoroutinefunction(value):
        raise TypeError(f"{place} is the coroutine function {value!r}; it must be a plain one")


def _check(owner: object, name: str, value: object, kind: str, infinite: bool = False, negative: bool = False) -> None:
    place = f"{type(owner).__name__}: {name}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{place} must be {kind}, got {value!r}")
    lowest = -LARGEST if negative else 0.0
    highest = math.inf if infinite else LARGEST
    if not lowest <= value <= highest:  # false for NaN as well
        wanted = ["finite"] * (not infinite) + ["0 or more"] * (not negative)
        raise ValueError(f"{place} must be {' and '.join(wanted)}, got {value!r}")


@dataclass(frozen=True, init=False, repr=False)
class Group(Generic[PartT]):
    """Several parts of one kind, taken as positional arguments."""

    parts: tuple[PartT, ...]
    _example: ClassVar[str]  # a part of the right kind, as source text, for error messages

    def __init__(self, *parts: PartT) -> None:
        for number, part in enumerate(parts, 1):
            check_callable(f"{type(self).__name__}: argument {number}", part, self._example)
        object.__setattr__(self, "parts", parts)  # the way to set a field of a frozen dataclass

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.parts))})"

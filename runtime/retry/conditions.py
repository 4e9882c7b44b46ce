"""Conditions: which errors are worth another attempt.

A condition is any callable that takes the error and says whether to retry. Those of this module also combine with
`|` (either says yes) and `&` (both say yes).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from greenroom.retry._parts import Group, check_callable

ExceptionTypes = type[BaseException] | tuple[type[BaseException], ...]


class RetryCondition(Protocol):
    """Says whether an error is worth another attempt."""

    def __call__(self, error: BaseException, /) -> bool: ...


class _Condition(ABC):
    """Gives a condition its operators."""

    @abstractmethod
    def __call__(self, error: BaseException) -> bool: ...

    def __or__(self, other: RetryCondition) -> retry_any:
        return retry_any(self, other) if callable(other) else NotImplemented

    def __ror__(self, other: RetryCondition) -> retry_any:
        return retry_any(other, self) if callable(other) else NotImplemented

    def __and__(self, other: RetryCondition) -> retry_all:
        return retry_all(self, other) if callable(other) else NotImplemented

    def __rand__(self, other: RetryCondition) -> retry_all:
        return retry_all(other, self) if callable(other) else NotImplemented


class _ConditionGroup(Group[RetryCondition], _Condition):
    _example = "retry_if_exception_type(TimeoutError)"


@dataclass(frozen=True)
class retry_always(_Condition):
    """Retry every error.

    Example:
        >>> retry_always()(ValueError())
        True
    """

    def __call__(self, error: BaseException) -> bool:
        return True


@dataclass(frozen=True)
class retry_never(_Condition):
    """Retry no error.

    Example:
        >>> retry_never()(ValueError())
        False
    """

    def __call__(self, error: BaseException) -> bool:
        return False


@dataclass(frozen=True)
class retry_if_exception(_Condition):
    """Retry the errors that a function of yours says yes to.

    Args:
        predicate: A plain function that takes the error and returns whether to retry. Policies are pickled only if
            their functions can be, so prefer a module-level function to a lambda.

    Raises:
        TypeError: `predicate` is not callable, is a class, or is a coroutine function.

    Example:
        >>> retry_if_exception(lambda error: "busy" in str(error))(OSError("disk busy"))
        True
    """

    predicate: Callable[[BaseException], bool]

    def __post_init__(self) -> None:
        check_callable("retry_if_exception: predicate", self.predicate, "a function of the error")

    def __call__(self, error: BaseException) -> bool:
        return bool(self.predicate(error))


@dataclass(frozen=True)
class _ByType(_Condition):
    exception_types: ExceptionTypes = Exception

    def __post_init__(self) -> None:
        types = self.exception_types if isinstance(self.exception_types, tuple) else (self.exception_types,)
        for item in types:
            if not (isinstance(item, type) and issubclass(item, BaseException)):
                name = type(self).__name__
                raise TypeError(f"{name}: exception_types must be an exception class or a tuple of them, got {item!r}")


@dataclass(frozen=True)
class retry_if_exception_type(_ByType):
    """Retry errors of the given classes.

    Args:
        exception_types: An exception class or a tuple of them; subclasses count.

    Raises:
        TypeError: Something else was given.

    Example:
        >>> transient = retry_if_exception_type((TimeoutError, ConnectionError))
        >>> transient(ConnectionResetError()), transient(ValueError())
        (True, False)
    """

    def __call__(self, error: BaseException) -> bool:
        return isinstance(error, self.exception_types)


@dataclass(frozen=True)
class retry_if_not_exception_type(_ByType):
    """Retry all errors but those of the given classes. Also named `retry_unless_exception_type`.

    Args:
        exception_types: An exception class or a tuple of them; subclasses count.

    Raises:
        TypeError: Something else was given.

    Example:
        >>> retry_if_not_exception_type(PermissionError)(TimeoutError())
        True
    """

    def __call__(self, error: BaseException) -> bool:
        return not isinstance(error, self.exception_types)


retry_unless_exception_type = retry_if_not_exception_type


@dataclass(frozen=True)
class retry_if_exception_cause_type(_ByType):
    """Retry errors that were raised `from` an error of the given classes, directly or further back.

    Follows `__cause__` only, not the implicit `__context__`; the error itself does not count.

    Args:
        exception_types: An exception class or a tuple of them; subclasses count.

    Raises:
        TypeError: Something else was given.

    Example:
        >>> error = RuntimeError("no answer")
        >>> error.__cause__ = TimeoutError()
        >>> retry_if_exception_cause_type(TimeoutError)(error)
        True
    """

    def __call__(self, error: BaseException) -> bool:
        seen = {id(error)}  # a chain of causes may be a ring
        cause = error.__cause__
        while cause is not None and id(cause) not in seen:
            if isinstance(cause, self.exception_types):
                return True
            seen.add(id(cause))
            cause = cause.__cause__
        return False


@dataclass(frozen=True)
class retry_if_exception_message(_Condition):
    r"""Retry errors by their message, `str(error)`. Give exactly one of the two arguments.

    Args:
        message: The whole message.
        match: A regular expression (text or compiled) to be found anywhere in the message.

    Raises:
        TypeError: Neither or both were given, or one has the wrong type.
        ValueError: `match` is not a valid regular expression.

    Example:
        >>> retry_if_exception_message(match=r"HTTP 5\d\d")(OSError("got HTTP 503"))
        True
    """

    message: str | None = None
    match: str | re.Pattern[str] | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__
        if (self.message is None) == (self.match is None):
            raise TypeError(f"{name}: give either message or match, and not both")
        if self.message is not None and not isinstance(self.message, str):
            raise TypeError(f"{name}: message must be a str, got {self.message!r}")
        if self.match is not None:
            text = self.match.pattern if isinstance(self.match, re.Pattern) else self.match
            if not isinstance(text, str):
                raise TypeError(f"{name}: match must be a regular expression for str, got {self.match!r}")
            try:
                re.compile(self.match)
            except re.error as error:
                raise ValueError(f"{name}: match={text!r} is not a regular expression: {error}") from error

    def __call__(self, error: BaseException) -> bool:
        if self.match is None:
            return str(error) == self.message
        return re.search(self.match, str(error)) is not None


@dataclass(frozen=True)
class retry_if_not_exception_message(retry_if_exception_message):
    """Retry all errors but those with a certain message; takes what `retry_if_exception_message` takes.

    Example:
        >>> retry_if_not_exception_message(match="invalid key")(OSError("invalid key: k1"))
        False
    """

    def __call__(self, error: BaseException) -> bool:
        return not super().__call__(error)


class retry_any(_ConditionGroup):
    """Retry if at least one of the conditions says yes; the operator `|`. Without conditions: never.

    Raises:
        TypeError: An argument is not a condition.

    Example:
        >>> either = retry_if_exception_type(TimeoutError) | retry_if_exception_message("busy")
        >>> either(TimeoutError()), either(OSError("busy")), either(OSError("gone"))
        (True, True, False)
    """

    def __call__(self, error: BaseException) -> bool:
        return any(condition(error) for condition in self.parts)


class retry_all(_ConditionGroup):
    """Retry if all of the conditions say yes; the operator `&`. Without conditions: always.

    Raises:
        TypeError: An argument is not a condition.

    Example:
        >>> both = retry_if_exception_type(OSError) & retry_if_not_exception_type(PermissionError)
        >>> both(TimeoutError()), both(PermissionError())
        (True, False)
    """

    def __call__(self, error: BaseException) -> bool:
        return all(condition(error) for condition in self.parts)

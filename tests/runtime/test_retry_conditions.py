"""Conditions: which errors are worth another attempt."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import greenroom.retry
from greenroom.retry import (
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
)


def is_busy(error: BaseException) -> bool:
    return "busy" in str(error)


async def never_awaited(error: BaseException) -> bool:
    return False


@pytest.mark.parametrize(
    ("condition", "error", "expected"),
    [
        (retry_always(), ValueError(), True),
        (retry_never(), ValueError(), False),
        (retry_if_exception(is_busy), OSError("busy"), True),
        (retry_if_exception(is_busy), OSError("gone"), False),
        (retry_if_exception_type(), ValueError(), True),
        (retry_if_exception_type(), KeyboardInterrupt(), False),
        (retry_if_exception_type(OSError), TimeoutError(), True),
        (retry_if_exception_type((KeyError, OSError)), ConnectionResetError(), True),
        (retry_if_exception_type((KeyError, OSError)), ValueError(), False),
        (retry_if_not_exception_type(OSError), TimeoutError(), False),
        (retry_if_not_exception_type((KeyError, OSError)), ValueError(), True),
        (retry_if_exception_message("busy"), OSError("busy"), True),
        (retry_if_exception_message("busy"), OSError("very busy"), False),
        (retry_if_exception_message(""), OSError(), True),
        (retry_if_exception_message(match="bus"), OSError("very busy"), True),
        (retry_if_exception_message(match="^bus"), OSError("very busy"), False),
        (retry_if_exception_message(match=re.compile("BUS", re.IGNORECASE)), OSError("very busy"), True),
        (retry_if_not_exception_message("busy"), OSError("busy"), False),
        (retry_if_not_exception_message("busy"), OSError("very busy"), True),
        (retry_if_not_exception_message(match="bus"), OSError("very busy"), False),
        (retry_any(), ValueError(), False),
        (retry_all(), ValueError(), True),
    ],
)
def test_a_condition_answers_for_an_error(
    condition: Callable[[BaseException], bool], error: BaseException, expected: bool
) -> None:
    """Each condition says yes or no to an error as its name and arguments say."""
    assert condition(error) is expected


def chained(*errors: BaseException) -> BaseException:
    """Link errors so that each was raised from the next; return the first."""
    for error, cause in pairwise(errors):
        error.__cause__ = cause
    return errors[0]


def test_a_cause_is_found_anywhere_in_the_chain_of_explicit_causes() -> None:
    """The condition on causes follows `raise ... from ...` to its end."""
    condition = retry_if_exception_cause_type((KeyError, TimeoutError))
    assert condition(chained(RuntimeError(), TimeoutError()))
    assert condition(chained(RuntimeError(), OSError(), ValueError(), TimeoutError()))
    assert not condition(chained(RuntimeError(), OSError(), ValueError()))


def test_neither_the_error_itself_nor_its_implicit_context_is_a_cause() -> None:
    """The condition on causes looks at explicit causes only."""
    error = RuntimeError()
    error.__context__ = TimeoutError()
    assert not retry_if_exception_cause_type(TimeoutError)(error)
    assert not retry_if_exception_cause_type(TimeoutError)(TimeoutError())


def test_a_ring_of_causes_is_walked_once() -> None:
    """Errors that are each other's cause do not make the condition loop for ever."""
    first, second = RuntimeError(), OSError()
    first.__cause__, second.__cause__ = second, first
    assert not retry_if_exception_cause_type(TimeoutError)(first)
    assert retry_if_exception_cause_type(OSError)(first)
    assert not retry_if_exception_cause_type(RuntimeError)(first)


@given(st.booleans(), st.booleans(), st.booleans())
def test_conditions_combine_like_booleans(a: bool, b: bool, c: bool) -> None:
    """`|`, `&`, retry_any and retry_all have the truth tables of or and and, also in one expression."""
    x, y, z = (retry_always() if value else retry_never() for value in (a, b, c))
    error = ValueError()
    assert (x | y)(error) is (a or b)
    assert (x & y)(error) is (a and b)
    assert (x | (y & z))(error) is (a or (b and c))
    assert ((x | y) & z)(error) is ((a or b) and c)
    assert retry_any(x, y, z)(error) is any((a, b, c))
    assert retry_all(x, y, z)(error) is all((a, b, c))


def test_plain_functions_combine_with_conditions_on_either_side() -> None:
    """A function of the user's may be the left or the right operand of `|` and `&`."""
    for condition in (retry_never() | is_busy, is_busy | retry_never(), retry_always() & is_busy):
        assert condition(OSError("busy"))
        assert not condition(OSError("gone"))
    assert (is_busy & retry_always()) == retry_all(is_busy, retry_always())


def test_the_second_condition_is_not_asked_when_the_first_decides() -> None:
    """Groups of conditions stop at the first answer that decides, from left to right."""

    def explode(error: BaseException) -> bool:
        raise AssertionError("asked")

    assert (retry_always() | explode)(ValueError())
    assert not (retry_never() & explode)(ValueError())


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("retry_if_exception(5)", TypeError, "retry_if_exception: predicate must be callable, got 5"),
        ("retry_if_exception(ValueError)", TypeError, "predicate is the class ValueError"),
        ("retry_if_exception(never_awaited)", TypeError, "is the coroutine function .*never_awaited"),
        ('retry_if_exception_type("OSError")', TypeError, "exception_types must be .* got 'OSError'"),
        ("retry_if_exception_type([OSError])", TypeError, "an exception class or a tuple of them, got .<class"),
        ("retry_if_not_exception_type((OSError, int))", TypeError, "got <class 'int'>"),
        ("retry_if_exception_cause_type(OSError())", TypeError, r"got OSError\(\)"),
        ("retry_if_exception_message()", TypeError, "either message or match, and not both"),
        ('retry_if_exception_message("a", "b")', TypeError, "either message or match, and not both"),
        ("retry_if_exception_message(5)", TypeError, "message must be a str, got 5"),
        ("retry_if_exception_message(match=5)", TypeError, "match must be a regular expression for str"),
        ('retry_if_exception_message(match=re.compile(b"a"))', TypeError, "regular expression for str"),
        ('retry_if_not_exception_message(match="(")', ValueError, "^retry_if_not.*is not a regular expression"),
        (
            "retry_any(OSError)",
            TypeError,
            "retry_any: argument 1 is the class OSError; .*retry_if_exception_type",
        ),
        ("retry_always() & retry_never", TypeError, "retry_all: argument 2 is the class retry_never"),
        ("OSError | retry_always()", TypeError, "retry_any: argument 1 is the class OSError"),
        ("retry_always() | 5", TypeError, "unsupported operand"),
        ("5 & retry_always()", TypeError, "unsupported operand"),
    ],
)
def test_a_bad_argument_is_refused_at_construction(source: str, error: type[Exception], message: str) -> None:
    """What could not work later is refused at once, with the part, the argument and the value named."""
    with pytest.raises(error, match=message):
        eval(
            source, {**vars(greenroom.retry), **globals()}
        )  # as text, because a type checker refuses nearly all of them

"""Collections: what makes a batch, in which order, and what waits for the next."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.buffers import CollectBuffer
from greenroom.events import Event


class Base(Event):
    n: int = 0


class Left(Base):
    pass


class LowerLeft(Left):
    pass


class Right(Base):
    pass


CLASSES: list[type[Base]] = [Base, Left, LowerLeft, Right]


def fill(buffer: CollectBuffer, events: Sequence[Event], expected: object) -> list[list[Event] | None]:
    return [buffer.add(event, expected) for event in events]  # type: ignore[arg-type]


def test_a_batch_comes_in_the_order_asked_and_equal_classes_in_the_order_they_came() -> None:
    """The order of arrival decides only within a class."""
    buffer = CollectBuffer()
    events = [Left(n=1), Right(n=2), Left(n=3)]
    assert fill(buffer, events, [Left, Right, Left]) == [None, None, [events[0], events[1], events[2]]]
    assert fill(buffer, events, [Right, Left, Left])[-1] == [events[1], events[0], events[2]]


def test_a_mapping_counts_classes_and_orders_the_batch_by_its_keys() -> None:
    """`{class: count}` is the short form for many."""
    buffer = CollectBuffer()
    events = [Left(n=1), Right(n=2), Left(n=3)]
    assert fill(buffer, events, {Right: 1, Left: 2})[-1] == [events[1], events[0], events[2]]


def test_expecting_nothing_is_complete_at_once_and_keeps_nothing() -> None:
    """The event is not put in."""
    buffer = CollectBuffer()
    assert buffer.add(Left(), []) == []
    assert buffer.take_complete([]) == []
    assert buffer.is_empty


def test_an_event_of_no_expected_class_is_not_kept() -> None:
    """It neither fills nor waits."""
    buffer = CollectBuffer()
    assert buffer.add(Right(), [Left, Left]) is None
    assert buffer.is_empty


def test_surplus_waits_for_the_next_batch() -> None:
    """Nothing that was counted in is lost."""
    buffer = CollectBuffer()
    events = [Left(n=n) for n in range(4)]
    assert fill(buffer, [*events[:3], Right(n=9)], [Left, Right]) == [None, None, None, [events[0], Right(n=9)]]
    assert buffer.events == events[1:3]
    assert buffer.add(Right(n=8), [Left, Right]) == [events[1], Right(n=8)]
    assert buffer.lacks == {Right: 1}


def test_an_event_fills_the_nearest_class_that_lacks_one() -> None:
    """A subclass counts for its base once its own class is full."""
    buffer = CollectBuffer()
    lower = [LowerLeft(n=1), LowerLeft(n=2), LowerLeft(n=3)]
    assert fill(buffer, lower, [Base, Left, LowerLeft])[-1] == [lower[2], lower[1], lower[0]]


def test_a_base_class_does_not_count_for_its_subclass() -> None:
    """The event is an instance of what is asked for."""
    buffer = CollectBuffer()
    assert buffer.add(Base(n=1), [Left]) is None
    assert buffer.is_empty


def test_surplus_of_a_subclass_fills_the_next_batch_oldest_first() -> None:
    """Between classes that fit alike, the older event goes first."""
    buffer = CollectBuffer()
    for event in (Right(n=0), Left(n=1), LowerLeft(n=2)):
        buffer.add(event, {Base: 1, Event: 9})
    buffer = CollectBuffer()
    events = [Base(n=0), LowerLeft(n=1), Left(n=2), Base(n=3)]
    for event in events:
        buffer.keep(event)
    assert buffer.take_complete({Base: 2}) == events[:2]
    assert buffer.take_complete({Base: 2}) == events[2:]


def test_lacks_counts_what_is_missing() -> None:
    """It is what the message of a stuck run says."""
    buffer = CollectBuffer()
    fill(buffer, [Left(), Right()], {Left: 3, Right: 1})
    assert buffer.lacks == {Left: 2}


def test_another_expectation_counts_what_is_there_anew() -> None:
    """The events stay; only what makes a batch changes."""
    buffer = CollectBuffer()
    fill(buffer, [Left(n=1), Left(n=2)], {Left: 3})
    assert buffer.add(Left(n=3), {Left: 1}) == [Left(n=1)]
    assert buffer.take_complete([Left, Left]) == [Left(n=2), Left(n=3)]
    assert buffer.take_complete([Left]) is None


def test_the_order_of_a_batch_is_that_of_the_call_that_completes_it() -> None:
    """Two mappings that are equal may have their keys in another order."""
    buffer = CollectBuffer()
    assert buffer.add(Left(n=1), {Left: 1, Right: 1}) is None
    assert buffer.add(Right(n=2), {Right: 1, Left: 1}) == [Right(n=2), Left(n=1)]


def test_surplus_of_an_earlier_expectation_is_not_handed_again() -> None:
    """Counting anew forgets what was surplus before."""
    buffer = CollectBuffer()
    fill(buffer, [Left(n=1), Left(n=2)], [Left, Right])
    assert buffer.take_complete([Left, Left]) == [Left(n=1), Left(n=2)]
    assert buffer.add(Left(n=3), [Left, Left]) is None
    assert buffer.lacks == {Left: 1}


def test_a_mapping_that_its_owner_changes_is_taken_as_it_is_at_each_call() -> None:
    """The collection keeps a copy of what was expected, not the caller's own object."""
    buffer = CollectBuffer()
    expected = {Left: 3}
    fill(buffer, [Left(n=1)], expected)
    expected[Left] = 2
    assert buffer.add(Left(n=2), expected) == [Left(n=1), Left(n=2)]


@pytest.mark.parametrize("kind", [list, tuple, lambda classes: {Left: len(classes)}])
def test_counting_an_event_in_does_not_look_at_those_that_wait(kind: type) -> None:
    """What is expected is planned once, however it is written, so that n events cost O(n)."""
    planned = 0

    class Counting(CollectBuffer):
        def _place(self, number: int, event_class: type[Event]) -> None:
            nonlocal planned
            planned += 1
            super()._place(number, event_class)

    buffer = Counting()
    for _ in range(100):
        buffer.add(Left(), kind([Left] * 100))
    assert planned == 100


def test_kept_events_count_once_it_is_known_what_is_expected() -> None:
    """As when a snapshot is read."""
    buffer = CollectBuffer()
    buffer.keep(Left(n=1))
    assert buffer.events == [Left(n=1)]
    assert buffer.lacks == {}
    assert buffer.add(Left(n=2), [Left, Left]) == [Left(n=1), Left(n=2)]
    buffer.add(Left(n=3), [Left, Left])
    buffer.keep(Left(n=4))
    assert buffer.take_complete([Left, Left]) == [Left(n=3), Left(n=4)]


def naive_batch(waiting: list[Base], expected: Sequence[type[Event]]) -> list[Base] | None:
    """Place all that waits from scratch: each in the first free place of its nearest class."""
    places: list[Base | None] = [None] * len(expected)
    for event in waiting:
        for base in type(event).__mro__:
            free = [i for i, cls in enumerate(expected) if cls is base and places[i] is None]
            if free:
                places[free[0]] = event
                break
    return None if None in places else [event for event in places if event is not None]


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(CLASSES), st.lists(st.sampled_from(CLASSES), min_size=1, max_size=4), st.booleans()),
        max_size=25,
    )
)
def test_a_collection_agrees_with_one_that_counts_everything_from_scratch(
    steps: list[tuple[type[Base], list[type[Base]], bool]],
) -> None:
    """With changing expectations, as lists or mappings: same batches, same rest, each event handed once."""
    buffer = CollectBuffer()
    waiting: list[Base] = []
    handed: list[int] = []
    for n, (cls, expected, as_mapping) in enumerate(steps):
        if as_mapping:
            expected = sorted(expected, key=CLASSES.index)
        event = cls(n=n)
        if any(base in expected for base in cls.__mro__):
            waiting.append(event)
        batch = naive_batch(waiting, expected)
        asked = {c: expected.count(c) for c in expected} if as_mapping else expected
        assert buffer.add(event, asked) == batch
        for taken in batch or []:
            waiting.remove(taken)
            handed.append(taken.n)
        assert buffer.events == waiting
    assert len(set(handed)) == len(handed)

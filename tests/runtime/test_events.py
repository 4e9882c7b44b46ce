"""Events: fields that are declared and fields that are not."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ConfigDict, PrivateAttr, ValidationError

from greenroom.events import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    InternalDispatchEvent,
    StartEvent,
    StepFailedEvent,
    StepStateChanged,
    StopEvent,
    UnhandledEvent,
    WorkflowCancelledEvent,
    WorkflowFailedEvent,
    WorkflowIdleEvent,
    WorkflowTimedOutEvent,
)


class Draft(Event):
    text: str
    words: int = 0


def test_declared_fields_are_validated_and_others_kept_as_they_are() -> None:
    """Both are attributes."""
    marker = object()
    draft = Draft(text="hello", words="3", author=marker)  # type: ignore[arg-type]
    assert (draft.text, draft.words) == ("hello", 3)
    assert draft.author is marker  # type: ignore[attr-defined]
    with pytest.raises(ValidationError):
        Draft(words=1)  # type: ignore[call-arg]


def test_a_missing_field_is_an_attribute_error() -> None:
    """As with any object."""
    with pytest.raises(AttributeError):
        Draft(text="x").author  # type: ignore[attr-defined]  # noqa: B018


def test_an_event_reads_like_a_mapping_over_all_its_fields() -> None:
    """Declared fields come first, in both access and iteration."""
    draft = Draft(text="hello", author="Ada")  # type: ignore[call-arg]
    assert (draft["text"], draft["author"]) == ("hello", "Ada")
    assert draft.keys() == list(draft) == ["text", "words", "author"]
    assert draft.values() == ["hello", 0, "Ada"]
    assert draft.items() == [("text", "hello"), ("words", 0), ("author", "Ada")]
    assert draft.to_dict() == dict(draft.items())
    assert len(draft) == 3
    assert "words" in draft
    assert "author" in draft
    assert "editor" not in draft
    assert draft.get("words", 7) == 0
    assert draft.get("editor") is None
    assert draft.get("editor", "nobody") == "nobody"
    with pytest.raises(KeyError):
        draft["editor"]


def test_to_dict_is_a_new_dict_of_the_event_s_own_objects() -> None:
    """Changing the dict does not change the event."""
    tags = ["a"]
    event = Event(tags=tags)
    found = event.to_dict()
    assert found["tags"] is tags
    found["more"] = 1
    assert "more" not in event


def test_fields_are_set_by_attribute_and_by_key() -> None:
    """Undeclared ones may be new."""
    draft = Draft(text="a")
    draft["text"] = "b"
    draft["author"] = "Ada"
    draft.editor = "Eve"  # type: ignore[attr-defined]
    assert draft.to_dict() == {"text": "b", "words": 0, "author": "Ada", "editor": "Eve"}


@pytest.mark.parametrize("name", ["items", "keys", "values", "get", "copy", "to_dict", "model_dump"])
def test_a_field_may_have_the_name_of_a_method(name: str) -> None:
    """It is read by key; the method stays what it is."""
    given: Any = Event(**{name: 1})
    assert given[name] == 1
    put: Any = Event()
    put[name] = 2
    assert (put[name], put.to_dict(), put.keys()) == (2, {name: 2}, [name])
    assert callable(getattr(put, name))


def test_an_event_that_forbids_other_fields_refuses_them_by_key_as_well() -> None:
    """A model's own rules hold."""

    class Closed(Event, extra="forbid"):
        text: str = ""

    with pytest.raises(ValueError, match="other"):
        Closed()["other"] = 1
    assert Closed().get("other") is None


def test_a_declared_field_may_hide_a_method_without_breaking_the_others() -> None:
    """Pydantic warns of the name; to_dict works all the same."""
    with pytest.warns(UserWarning, match="shadows"):

        class Order(Event):
            items: list[str]  # type: ignore[assignment]

    assert Order(items=["tea"]).to_dict() == {"items": ["tea"]}


def test_an_event_is_always_true_and_equal_by_class_and_fields() -> None:
    """Undeclared fields count, and a subclass is another class."""

    class Other(Draft):
        pass

    assert Event()
    assert Event(a=1) == Event(a=1)
    assert Event(a=1) != Event(a=2)
    assert Event(a=1) != Event()
    assert Draft(text="x") != Other(text="x")
    with pytest.raises(TypeError, match="unhashable"):
        hash(Event())


def test_positional_arguments_are_refused() -> None:
    """Fields have names."""
    with pytest.raises(TypeError):
        Event("x")  # type: ignore[call-arg]


def test_private_attributes_are_no_fields() -> None:
    """They are not listed and not dumped."""

    class Cached(Event):
        _cache: int = PrivateAttr(7)

    event = Cached(n=1)
    assert event._cache == 7
    assert event.to_dict() == {"n": 1}
    assert event.model_dump() == {"n": 1}


def test_a_private_attribute_may_be_given_by_keyword() -> None:
    """It is no undeclared field then; also where a class adds to those of its base, or sees to its own beginning."""

    class Cached(Event):
        n: int = 0
        _cache: int = PrivateAttr(7)

    class More(Cached):
        _more: list[int] = PrivateAttr(default_factory=list)
        _seen: Any = None

        def model_post_init(self, context: Any, /) -> None:
            self._seen = (self._cache, self._more)

    class Most(More):
        pass

    event = Cached(n=1, _cache=3, other=4)
    assert (event._cache, event.to_dict(), event.model_dump()) == (3, {"n": 1, "other": 4}, {"n": 1, "other": 4})
    assert Cached.model_validate({"_cache": 3})._cache == 3
    assert Cached(_cache=3) == Cached.model_validate({"_cache": 3})
    assert Cached(_other=1)["_other"] == 1
    for cls in (More, Most):
        more = cls(_cache=1, _more=[2])
        assert (more._cache, more._more, more.to_dict(), more.model_fields_set) == (1, [2], {"n": 0}, set())
        assert cls()._seen == (7, [])

    class Strict(Cached):
        model_config = ConfigDict(extra="forbid")

    assert Strict()._cache == 7
    with pytest.raises(ValidationError):
        Strict(_cache=1)


def test_dump_and_copy_keep_undeclared_fields() -> None:
    """A copy is its own event."""
    draft = Draft(text="a", author="Ada")  # type: ignore[call-arg]
    assert Draft(**draft.model_dump()) == draft
    copied = draft.model_copy()
    copied["author"] = "Eve"
    assert draft["author"] == "Ada"


def test_a_stop_event_has_a_result_and_any_other_fields() -> None:
    """None by default; nothing is dropped when it is dumped."""
    assert StopEvent().result is None
    stop = StopEvent(result=3, note="x")  # type: ignore[call-arg]
    assert stop.model_dump() == {"result": 3, "note": "x"}
    assert stop["result"] == 3


def test_the_result_of_a_stop_event_may_be_given_without_its_name() -> None:
    """Of that alone, as there is nothing else to mean."""

    class Report(StopEvent):
        result: int
        pages: int = 0

    assert StopEvent([1]) == StopEvent(result=[1])
    assert (StopEvent().result, StopEvent(None).result) == (None, None)
    assert Report(3, pages=2) == Report(result=3, pages=2)  # type: ignore[misc, call-arg]
    assert Report.model_validate({"result": "3"}) == Report(result=3)
    with pytest.raises(ValidationError):
        Report(pages=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        StopEvent(1, 2)  # type: ignore[call-arg]


def test_a_stop_event_without_a_result_does_not_show_one() -> None:
    """As those of one's own."""

    class Report(StopEvent):
        pages: int

    assert repr(StopEvent(result=3)) == "StopEvent(result=3)"
    assert repr(StopEvent()) == "StopEvent()"
    assert repr(Report(pages=2)) == "Report(pages=2)"


def test_events_that_tell_of_an_exception_can_be_sent_as_json() -> None:
    """The exception as its type and message; the event that the step was given with its own fields."""
    failed = WorkflowFailedEvent(step_name="a", exception=ValueError("x"))
    assert json.loads(failed.model_dump_json())["exception"] == {
        "exception_type": "builtins.ValueError",
        "exception_message": "x",
    }
    assert failed.model_dump()["exception"] is failed.exception
    step_failed = StepFailedEvent(
        step_name="a",
        input_event=Draft(text="b"),
        exception=KeyError(1),
        attempts=1,
        elapsed_seconds=0.5,
        failed_at=datetime(2020, 1, 1, tzinfo=UTC),
    )
    assert json.loads(step_failed.model_dump_json())["input_event"] == {"text": "b", "words": 0}
    assert {"exception"} <= StepFailedEvent.model_json_schema()["properties"].keys()


def test_the_family_of_events() -> None:
    """What ends a run is a StopEvent, what is about the run an InternalDispatchEvent."""
    assert all(
        issubclass(cls, StopEvent) for cls in (WorkflowFailedEvent, WorkflowTimedOutEvent, WorkflowCancelledEvent)
    )
    assert all(issubclass(cls, InternalDispatchEvent) for cls in (StepStateChanged, UnhandledEvent, WorkflowIdleEvent))
    assert not any(issubclass(cls, StopEvent) for cls in (StartEvent, InputRequiredEvent, HumanResponseEvent))

"""The state of a run: paths, edits, and the line of those who write."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from types import MappingProxyType
from typing import Any

import pytest
from pydantic import BaseModel, Field, PrivateAttr, ValidationError

from greenroom.errors import StepCancelled, WorkflowRuntimeError
from greenroom.state import MAX_DEPTH, UNSET, DictState, StateStore, StoreCall


class User(BaseModel):
    name: str = "Ada"
    tags: list[str] = []


class State(BaseModel):
    count: int = 0
    user: User = Field(default_factory=User)


class MoreState(State):
    extra: str = "default"


class Caller:
    """Calls a store and keeps the answers, so that who waits in line can be told from who was served."""

    def __init__(self, state_type: type[BaseModel] | None = None, state: BaseModel | None = None) -> None:
        self.store = StateStore(state_type, state)
        self.answers: dict[int, list[tuple[Any, BaseException | None]]] = {}
        self._number = 0

    def ask(self, method: str, *arguments: Any, owner: Hashable = "me") -> int:
        self._number += 1
        self.store.call(StoreCall(method, arguments, owner, self._number), self._answer)
        return self._number

    def __call__(self, method: str, *arguments: Any, owner: Hashable = "me") -> Any:
        ((value, error),) = self.answers[self.ask(method, *arguments, owner=owner)]
        if error is not None:
            raise error
        return value

    def get(self, path: str, default: Any = UNSET) -> Any:
        return self("get", path, default)

    def release(self, owner: Hashable) -> None:
        self.store.release(owner, self._answer)

    def _answer(self, asker: Any, value: Any, error: BaseException | None) -> None:
        self.answers.setdefault(asker, []).append((value, error))


# -- DictState ---------------------------------------------------------------------------------------------------------


def test_a_dict_state_is_read_by_attribute_key_and_get() -> None:
    """Any keys, any values."""
    state = DictState(a=1)
    state["b"] = 2
    state.c = 3
    assert (state["a"], state.b, state.get("c"), state.get("d", 4)) == (1, 2, 3, 4)
    assert "a" in state
    del state["a"]
    assert "a" not in state
    with pytest.raises(KeyError):
        state["a"]


def test_a_dict_state_reads_like_a_mapping() -> None:
    """As an event does; and it is true though it is empty."""
    state = DictState(a=1, keys=2)
    assert (list(state), len(state), "keys" in state) == (["a", "keys"], 2, True)
    assert DictState(a=1).keys() == ["a"]
    assert DictState(a=1).items() == [("a", 1)]
    assert DictState(a=1).values() == [1]
    assert state.to_dict() == {"a": 1, "keys": 2}
    assert DictState()


def test_a_dict_state_takes_keys_that_are_names_of_methods() -> None:
    """They are values like any others."""
    store = Caller()
    for name in ("items", "get", "copy", "model_dump"):
        store("set", name, 1)
        assert store.get(name) == 1


def test_a_model_that_extends_dict_state_has_declared_and_other_fields() -> None:
    """Both are reached by path and by key."""

    class Mixed(DictState):
        count: int = 0

    store = Caller(Mixed)
    store("set", "count", 2)
    store("set", "other", 3)
    state = store("get_state")
    assert (store.get("count"), state.count, state["count"], state.get("count")) == (2, 2, 2, 2)
    assert "count" in state
    assert state.model_dump() == {"count": 2, "other": 3}
    with pytest.raises(TypeError, match="count"):
        del state["count"]


# -- paths -------------------------------------------------------------------------------------------------------------


def test_a_path_goes_through_dicts_lists_models_and_attributes() -> None:
    """Reading gives the state's own object."""
    user = User(tags=["a", "b"])
    store = Caller()
    store("set", "user", user)
    store("set", "rows", [{"n": 1}, MappingProxyType({"n": 2})])
    assert store.get("user") is user
    assert store.get("user.tags.1") == "b"
    assert store.get("rows.0.n") == 1
    assert store.get("rows.1.n") == 2
    assert store.get("") is store.store.state


@pytest.mark.parametrize("path", ["nope", "user.nope", "user.tags.7", "user.tags.-1", "user.tags.x", "user.tags.²"])
def test_a_path_to_nothing_gives_the_default_or_an_error(path: str) -> None:
    """A default of None is a default."""
    store = Caller(State)
    assert store.get(path, None) is None
    with pytest.raises(ValueError, match=f"Path '{path}' not found in state"):
        store.get(path)


def test_setting_makes_dicts_on_the_way() -> None:
    """A missing container is a dict."""
    store = Caller()
    store("set", "a.b.c", 1)
    assert store.get("a") == {"b": {"c": 1}}


def test_setting_in_a_list_replaces_or_appends() -> None:
    """An index is at most the length."""
    store = Caller()
    store("set", "rows", [1, 2])
    store("set", "rows.0", 5)
    store("set", "rows.2", 7)
    assert store.get("rows") == [5, 2, 7]
    for index in ("9", "x", "-1", "²"):
        with pytest.raises(ValueError, match="no index of a list of 3"):
            store("set", f"rows.{index}", 0)


def test_setting_changes_nothing_that_was_read_before() -> None:
    """Only the containers along the path are copied; all others are shared."""
    store = Caller()
    store("set", "a.b", {"n": 1})
    store("set", "a.c", [1])
    before, view, other = store.get("a"), store("get_state"), store.get("a.c")
    store("set", "a.b.n", 2)
    assert before == {"b": {"n": 1}, "c": [1]}
    assert view["a"] is before
    assert store.get("a.c") is other


def test_setting_in_a_model_validates_as_the_model_does() -> None:
    """And a model's unknown field is refused."""

    class Strict(BaseModel, validate_assignment=True):
        n: int = 0

    store = Caller(Strict)
    with pytest.raises(ValidationError):
        store("set", "n", "many")
    with pytest.raises(ValueError, match="nope"):
        store("set", "nope", 1)
    assert store("get_state") == Strict(n=0)


@pytest.mark.parametrize("value", ["text", (1, 2), 5])
def test_setting_through_what_cannot_hold_it_is_refused(value: Any) -> None:
    """Nothing changes."""
    store = Caller()
    store("set", "a", value)
    with pytest.raises(AttributeError):
        store("set", "a.0", 1)
    assert store.get("a") == value


def test_wrong_paths_are_refused() -> None:
    """Empty, too deep, or no text."""
    store = Caller()
    with pytest.raises(ValueError, match="set_state"):
        store("set", "", 1)
    with pytest.raises(ValueError, match=f"{MAX_DEPTH} segments"):
        store("set", ".".join("a" * (MAX_DEPTH + 1)), 1)
    with pytest.raises(TypeError, match="text"):
        store("get", 5, None)
    store("set", ".".join("a" * MAX_DEPTH), 1)
    assert store.get(".".join("a" * MAX_DEPTH)) == 1


# -- the whole ---------------------------------------------------------------------------------------------------------


def test_get_state_is_a_shallow_copy() -> None:
    """Its fields can be set without effect; what they hold is the state's own."""
    store = Caller(State)
    state = store("get_state")
    state.count = 5
    assert store.get("count") == 0
    assert state.user is store.get("user")


def test_set_state_takes_a_copy() -> None:
    """What the caller does to his object afterwards does not reach the state."""
    store = Caller(State)
    mine = State(count=1)
    store("set_state", mine)
    mine.count = 2
    assert store.get("count") == 1


def test_set_state_of_the_class_replaces_and_of_a_base_merges() -> None:
    """A base brings only the fields that it has."""
    store = Caller(MoreState)
    store("set_state", MoreState(count=1, extra="mine"))
    store("set_state", State(count=2))
    assert store("get_state") == MoreState(count=2, extra="mine")
    store("set_state", MoreState(count=3))
    assert store("get_state") == MoreState(count=3, extra="default")


def test_set_state_of_a_subclass_makes_it_the_class_of_the_state() -> None:
    """From then on its base merges, and clear() gives its defaults."""
    store = Caller(State)
    store("set_state", MoreState(count=1, extra="mine"))
    store("set_state", State(count=2))
    assert store("get_state") == MoreState(count=2, extra="mine")
    store("clear")
    assert store("get_state") == MoreState()


def test_set_state_of_a_base_brings_its_undeclared_fields() -> None:
    """None is lost."""

    class Mixed(DictState):
        count: int = 0

    store = Caller(Mixed)
    store("set", "old", 1)
    store("set_state", DictState(new=2, items=3))
    assert store("get_state") == Mixed(old=1, new=2, items=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("wrong", [User(), {"count": 1}, None])
def test_set_state_of_another_class_is_refused(wrong: Any) -> None:
    """The message names both."""
    store = Caller(State)
    with pytest.raises(ValueError, match=f"must be of type State or of a base of it, not {type(wrong).__name__}"):
        store("set_state", wrong)


def test_clear_sets_the_defaults() -> None:
    """Fresh ones, not those of the first time."""
    store = Caller(State)
    store("set", "user.name", "Eve")
    store("clear")
    assert store("get_state") == State()


def test_a_model_without_defaults_is_refused_when_the_state_is_first_wanted() -> None:
    """The message names the field; a state that is given needs no defaults until it is cleared."""

    class Needy(BaseModel):
        n: int

    with pytest.raises(
        WorkflowRuntimeError, match=r"(?s)Needy cannot be made without arguments.*default.*\bn\b"
    ) as caught:
        _ = StateStore(Needy).state
    assert caught.value.__cause__ is not None
    store = Caller(Needy, Needy(n=1))
    with pytest.raises(WorkflowRuntimeError, match="Needy"):
        store("clear")
    assert store.get("n") == 1


# -- editing -----------------------------------------------------------------------------------------------------------


def test_an_edit_shows_when_it_is_committed() -> None:
    """Until then everybody reads the state as it was, at any depth."""
    store = Caller(State)
    draft = store("begin_edit")
    draft.count = 1
    draft.user.tags.append("x")
    assert store("get_state", owner="other") == State()
    assert store.get("user.tags") == []
    store("commit_edit", draft)
    assert store("get_state") == State(count=1, user=User(tags=["x"]))


def test_an_edit_that_is_aborted_changes_nothing() -> None:
    """And lets the next one in."""
    store = Caller()
    store("set", "rows", [1])
    draft = store("begin_edit")
    draft["rows"].append(2)
    store("abort_edit")
    assert store.get("rows") == [1]
    assert store("begin_edit", owner="other")["rows"] == [1]


def test_what_is_done_to_the_draft_after_the_commit_does_not_reach_the_state() -> None:
    """The block is over."""
    store = Caller(State)
    draft = store("begin_edit")
    store("commit_edit", draft)
    draft.count = 9
    assert store.get("count") == 0


def test_writes_wait_for_the_end_of_an_edit_in_order_and_reads_do_not() -> None:
    """No change is lost."""
    store = Caller()
    draft = store("begin_edit", owner="editor")
    first = store.ask("set", "n", 1, owner="a")
    second = store.ask("begin_edit", owner="b")
    third = store.ask("set", "n", 3, owner="c")
    assert store.get("n", None) is None
    assert not {first, second, third} & set(store.answers)
    draft["n"] = 0
    store("commit_edit", draft, owner="editor")
    assert store.answers[first] == [(None, None)]
    ((seen, _),) = store.answers[second]
    assert seen["n"] == 1
    assert third not in store.answers
    seen["n"] = 2
    store("commit_edit", seen, owner="b")
    assert store.answers[third] == [(None, None)]
    assert store.get("n") == 3


@pytest.mark.parametrize(
    ("method", "arguments"), [("set", ("n", 1)), ("set_state", (DictState(),)), ("clear", ()), ("begin_edit", ())]
)
def test_a_write_inside_the_caller_s_own_edit_is_refused(method: str, arguments: tuple[Any, ...]) -> None:
    """It would wait for itself."""
    store = Caller()
    store("begin_edit")
    name = "edit_state" if method == "begin_edit" else method
    with pytest.raises(RuntimeError, match=rf"store\.{name}\(\) inside edit_state\(\)"):
        store(method, *arguments)


def test_the_end_of_a_caller_drops_its_edit_and_its_place_in_line() -> None:
    """Those behind it are served."""
    store = Caller()
    draft = store("begin_edit", owner="gone")
    theirs = store.ask("set", "n", 1, owner="also gone")
    behind = store.ask("set", "n", 2, owner="stays")
    store.release("also gone")
    ((_, error),) = store.answers[theirs]
    assert isinstance(error, StepCancelled)
    assert behind not in store.answers
    store.release("gone")
    assert store.answers[behind] == [(None, None)]
    assert store.get("n") == 2
    with pytest.raises(RuntimeError, match="no longer open"):
        store("commit_edit", draft, owner="gone")
    assert not store.store.is_contended


def test_an_edit_of_another_caller_cannot_be_committed_or_aborted() -> None:
    """Only its owner ends it."""
    store = Caller()
    store("begin_edit", owner="a")
    with pytest.raises(RuntimeError, match="no longer open"):
        store("commit_edit", DictState(), owner="b")
    store("abort_edit", owner="b")
    assert store.store.is_contended


def test_what_a_waiting_write_raises_is_its_own_and_the_line_goes_on() -> None:
    """An error of one caller concerns nobody else."""
    store = Caller(State)
    store("begin_edit", owner="editor")
    wrong = store.ask("set", "nope", 1, owner="a")
    right = store.ask("set", "count", 1, owner="b")
    store("abort_edit", owner="editor")
    assert isinstance(store.answers[wrong][0][1], ValueError)
    assert store.answers[right] == [(None, None)]


def test_an_edit_shares_what_cannot_be_copied_and_copies_the_rest() -> None:
    """A lock or a client lives in the state beside data."""
    lock = threading.Lock()
    store = Caller()
    store("set", "tools", {"lock": lock, "rows": [[1]]})
    store("set", "list", [lock, [1]])
    draft = store("begin_edit")
    assert draft["tools"]["lock"] is lock
    assert draft["list"][0] is lock
    draft["tools"]["rows"][0].append(2)
    draft["list"][1].append(2)
    store("abort_edit")
    assert store.get("tools.rows") == [[1]]
    assert store.get("list.1") == [1]


def test_an_edit_keeps_two_names_of_one_object_one() -> None:
    """As copy.deepcopy does."""
    rows = [1]
    store = Caller()
    store("set", "a", rows)
    store("set", "b", rows)
    draft = store("begin_edit")
    assert draft["a"] is draft["b"] is not rows


def test_an_edit_shares_fields_that_are_excluded() -> None:
    """`Field(exclude=True)` marks what is no data."""

    class WithClient(BaseModel, arbitrary_types_allowed=True):
        client: list[int] = Field(default_factory=list, exclude=True)
        rows: list[int] = []

    store = Caller(WithClient)
    draft = store("begin_edit")
    assert draft.client is store.get("client")
    assert draft.rows is not store.get("rows")


def test_an_edit_works_on_models_with_frozen_validated_and_private_fields() -> None:
    """Copying is no assignment: it runs no validator, and private attributes are copied as well."""

    class Careful(BaseModel, validate_assignment=True):
        id: str = Field("x", frozen=True)
        n: int = 0
        _cache: list[int] = PrivateAttr(default_factory=list)

    store = Caller(Careful)
    draft = store("begin_edit")
    assert draft.model_fields_set == set()
    draft.n = 1
    draft._cache.append(1)
    assert store("get_state")._cache == []
    store("commit_edit", draft)
    assert store("get_state").n == 1
    assert store("get_state")._cache == [1]

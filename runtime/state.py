"""The state of a run that steps share: `ctx.store`, without threads.

The run's supervisor owns it and is the only one to call it. Reading is never held up. While one caller edits, the
writes of all others wait in line, so that no change is lost.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from greenroom.dict_like import DictLikeModel
from greenroom.errors import StepCancelled, WorkflowRuntimeError

__all__ = ["UNSET", "DictState", "StateStore", "StoreCall"]

MAX_DEPTH = 1000
UNSET: Any = object()


class DictState(DictLikeModel):
    """The state of a run whose steps name no model: any keys, any values. A subclass may declare fields as well.

    Example:
        >>> state = DictState(count=1)
        >>> state.count, state["count"], state.get("missing", 0)
        (1, 1, 0)
    """

    def __setitem__(self, key: str, value: Any) -> None:
        if key in type(self).model_fields:
            setattr(self, key, value)
        else:
            self._values()[key] = value

    def __delitem__(self, key: str) -> None:
        if key in type(self).model_fields:
            raise TypeError(f"the field '{key}' is declared by {type(self).__name__}: set it to another value instead")
        del self._values()[key]

    def _values(self) -> dict[str, Any]:
        if self.__pydantic_extra__ is None:
            object.__setattr__(self, "__pydantic_extra__", {})
        values = self.__pydantic_extra__
        assert values is not None
        return values


@dataclass(slots=True, eq=False)
class StoreCall:
    """One call of the store.

    Attributes:
        method: "get", "set", "get_state", "set_state", "clear", "begin_edit", "commit_edit" or "abort_edit".
        arguments: Its arguments.
        owner: Who calls: an attempt at an invocation, or a key of a caller outside. Edits do not nest within one owner.
        asker: Where the answer goes; opaque here.
    """

    method: str
    arguments: tuple[Any, ...]
    owner: Hashable
    asker: Any = None

    @property
    def is_read(self) -> bool:
        """Whether it changes nothing."""
        return self.method in ("get", "get_state")


class StateStore:
    """Holds the state, and the line of those who wait to write.

    `call` answers through `answer(asker, value, error)`, at once or, for a write during somebody's edit, when the edit
    ends.
    """

    __slots__ = ("_editor", "_state", "_state_type", "_waiting")

    def __init__(self, state_type: type[BaseModel] | None, state: BaseModel | None = None) -> None:
        """Hold a state, or make one of its type when it is first wanted."""
        self._state_type: type[BaseModel] = state_type or DictState
        self._state = state
        self._editor: Hashable = None
        self._waiting: list[StoreCall] = []  # A short line; every run has one, and a deque takes ten times the memory.

    @property
    def state(self) -> BaseModel:
        """The whole state."""
        if self._state is None:
            self._state = _make_default(self._state_type)
        return self._state

    @state.setter
    def state(self, state: BaseModel) -> None:
        self._state = state

    @property
    def is_contended(self) -> bool:
        """Whether somebody edits, so that an owner's end may concern the store."""
        return self._editor is not None

    def call(self, call: StoreCall, answer: Callable[[Any, Any, BaseException | None], None]) -> None:
        """Do what is asked, or put it in line."""
        if call.method == "abort_edit":
            self.release(call.owner, answer)
            answer(call.asker, None, None)
        elif call.method in _NEVER_WAIT or self._editor is None:
            self._do(call, answer)
        elif self._editor == call.owner:
            error = RuntimeError(
                f"store.{'edit_state' if call.method == 'begin_edit' else call.method}() inside edit_state() of the"
                " same caller would wait for itself; change the state that edit_state() gave"
            )
            answer(call.asker, None, error)
        else:
            self._waiting.append(call)
            return
        self._serve_waiting(answer)

    def release(self, owner: Hashable, answer: Callable[[Any, Any, BaseException | None], None]) -> None:
        """Drop an owner's edit and take its writes out of the line, as when it has ended."""
        for call in [call for call in self._waiting if call.owner == owner]:
            self._waiting.remove(call)
            answer(call.asker, None, StepCancelled(f"store.{call.method}() was given up: its caller has ended"))
        if self._editor == owner and owner is not None:
            self._editor = None
            self._serve_waiting(answer)

    @property
    def editor(self) -> Hashable:
        """Who edits, or None."""
        return self._editor

    @property
    def line(self) -> list[StoreCall]:
        """The writes that wait for the edit to end."""
        return list(self._waiting)

    def resume_edit(self, editor: Hashable, line: list[StoreCall]) -> None:
        """Go on with an edit and the line behind it, as they stood in a checkpoint."""
        self._editor = editor
        self._waiting = line

    def release_all(self) -> None:
        """Drop the edit and the line, as when the process of those who wait has died."""
        self._editor = None
        self._waiting.clear()

    def _serve_waiting(self, answer: Callable[[Any, Any, BaseException | None], None]) -> None:
        while self._waiting and self._editor is None:
            self._do(self._waiting.pop(0), answer)

    def _do(self, call: StoreCall, answer: Callable[[Any, Any, BaseException | None], None]) -> None:
        try:
            value = getattr(self, f"_{call.method}")(*call.arguments, owner=call.owner)
        except Exception as error:
            # The state's own validators and properties run here: what they raise belongs to the caller.
            answer(call.asker, None, error)
        else:
            answer(call.asker, value, None)

    def _get(self, path: str, default: Any, *, owner: Hashable) -> Any:
        value: Any = self.state
        for segment in _segments(path):
            value = _read(value, segment)
            if value is UNSET:
                if default is UNSET:
                    raise ValueError(f"Path '{path}' not found in state; give get() a default, or set it first")
                return default
        return value

    def _set(self, path: str, value: Any, *, owner: Hashable) -> None:
        segments = _segments(path)
        if not segments:
            raise ValueError("store.set() needs a path; use set_state() to replace the whole state")
        # Only the containers along the path are copied, so that a reader's earlier view does not change under it.
        root = self.state.model_copy()
        target: Any = root
        for segment in segments[:-1]:
            child = _read(target, segment)
            child = {} if child is UNSET else _copied(child)
            _write(target, segment, child, path)
            target = child
        _write(target, segments[-1], value, path)
        self.state = root

    def _get_state(self, *, owner: Hashable) -> BaseModel:
        return self.state.model_copy()

    def _set_state(self, state: BaseModel, *, owner: Hashable) -> None:
        current = type(self.state)
        if isinstance(state, current):
            self.state = state.model_copy()
        elif isinstance(state, BaseModel) and issubclass(current, type(state)):
            merged = self.state.model_copy()
            for name in type(state).model_fields:
                setattr(merged, name, getattr(state, name))
            for name, value in (state.__pydantic_extra__ or {}).items():
                _write(merged, name, value, name)
            self.state = merged
        else:
            raise ValueError(f"state must be of type {current.__name__} or of a base of it, not {type(state).__name__}")

    def _clear(self, *, owner: Hashable) -> None:
        self.state = _make_default(type(self.state))

    def _begin_edit(self, *, owner: Hashable) -> BaseModel:
        draft = _deep_copied(self.state)
        self._editor = owner
        return draft

    def _commit_edit(self, draft: BaseModel, *, owner: Hashable) -> None:
        if self._editor != owner:
            raise RuntimeError("this edit_state() is no longer open; its caller had ended")
        self._editor = None
        self.state = draft.model_copy()  # The caller may still hold the draft.


_NEVER_WAIT = frozenset({"get", "get_state", "commit_edit"})


def _make_default(state_type: type[BaseModel]) -> BaseModel:
    try:
        return state_type()
    except ValueError as error:
        raise WorkflowRuntimeError(
            f"the state {state_type.__name__} cannot be made without arguments; give each of its fields a default:"
            f" {error}"
        ) from error


def _segments(path: str) -> list[str]:
    if not isinstance(path, str):
        raise TypeError(f"a path is text such as 'user.name', not {type(path).__name__}")
    segments = path.split(".") if path else []
    if len(segments) > MAX_DEPTH:
        raise ValueError(f"a path may have {MAX_DEPTH} segments; this one has {len(segments)}")
    return segments


def _read(container: Any, segment: str) -> Any:
    if isinstance(container, DictState | Mapping):
        return container.get(segment, UNSET)
    if isinstance(container, Sequence) and not isinstance(container, str | bytes):
        return container[int(segment)] if segment.isdecimal() and int(segment) < len(container) else UNSET
    return getattr(container, segment, UNSET)


def _write(container: Any, segment: str, value: Any, path: str) -> None:
    if isinstance(container, MutableMapping | DictState):
        container[segment] = value
    elif isinstance(container, list):
        if not segment.isdecimal() or int(segment) > len(container):
            raise ValueError(f"'{segment}' in path '{path}' is no index of a list of {len(container)}")
        container[int(segment) : int(segment) + 1] = [value]
    else:
        setattr(container, segment, value)


def _copied(container: Any) -> Any:
    return copy.copy(container) if isinstance(container, MutableMapping | list | BaseModel) else container


def _deep_copied(state: BaseModel) -> BaseModel:
    """Copy the state for an edit; what cannot be copied, such as a client or a lock, is shared."""
    memo: dict[int, Any] = {}
    draft = state.model_copy()
    fields = type(state).model_fields
    # Into the copy's own dicts, not by setattr: a copy is no assignment, which validators and frozen fields would mind.
    for values in (vars(draft), draft.__pydantic_extra__ or {}, draft.__pydantic_private__ or {}):
        for name, value in values.items():
            if name not in fields or not fields[name].exclude:
                values[name] = _deep(value, memo)
    return draft


def _deep(value: Any, memo: dict[int, Any]) -> Any:
    try:
        return copy.deepcopy(value, memo)
    except Exception:
        # copy.deepcopy raises whatever the object's own hooks raise; such an object is shared by reference.
        if isinstance(value, dict):
            return {key: _deep(item, memo) for key, item in value.items()}
        if isinstance(value, list):
            return [_deep(item, memo) for item in value]
        return value

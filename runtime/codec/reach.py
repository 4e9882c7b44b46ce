"""Which classes a set of annotations can lead to."""

import dataclasses
import inspect
import sys
import typing
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel

from greenroom.codec.records import recipe_for


def reachable_classes(*annotations: Any) -> set[type[Any]]:
    """Return the classes that values of these annotations may be made of, as far as the annotations say.

    Follows unions, containers, `Annotated`, `NewType`, type aliases, `Literal` enum members, bounds of type variables,
    and the fields of pydantic models, dataclasses, named tuples and typed dicts. Does not follow subclasses: the
    set is closed on purpose. A string annotation that cannot be resolved (a name imported under `TYPE_CHECKING`) leads
    nowhere; register its class by hand.

    Args:
        annotations: Classes and type hints, forward references resolved.

    Returns:
        Every model, dataclass, named tuple, enum and exception class found, ready for `TypeRegistry.child`.

    Example:
        >>> from enum import Enum
        >>> from typing import NamedTuple
        >>> class Colour(Enum):
        ...     RED = 1
        >>> class Paint(NamedTuple):
        ...     colour: Colour
        >>> sorted(cls.__name__ for cls in reachable_classes(dict[str, list[Paint] | None]))
        ['Colour', 'Paint']
    """
    found: set[type[Any]] = set()
    seen: dict[int, Any] = {}  # by id, because annotations need not be hashable; the values keep the ids theirs
    todo = list(annotations)
    while todo:
        hint = todo.pop()
        if id(hint) in seen:
            continue
        seen[id(hint)] = hint
        if _is_class(hint) and (issubclass(hint, (Enum, BaseException)) or recipe_for(hint) is not None):
            found.add(hint)
        todo.extend(_next(hint))
    return found


def _is_class(hint: Any) -> bool:
    return isinstance(hint, type) and get_origin(hint) is None  # `list[int]` is an instance of `type` as well


def _next(hint: Any) -> Iterable[Any]:
    if _is_class(hint):
        return _field_hints(hint)
    if isinstance(hint, TypeVar):
        return (hint.__bound__, *hint.__constraints__)
    origin = get_origin(hint)
    if origin is typing.Literal:
        return map(type, get_args(hint))
    if origin is typing.Annotated:
        return (hint.__origin__,)
    if origin is not None:
        return (origin, *get_args(hint))
    # `NewType` and, from Python 3.12, `type Alias = ...`.
    return [getattr(hint, name) for name in ("__supertype__", "__value__") if hasattr(hint, name)]


def _field_hints(cls: Any) -> Iterator[Any]:
    if issubclass(cls, BaseModel):
        yield from (field.annotation for field in cls.model_fields.values())  # resolved, type variables filled in
        names = set(cls.__private_attributes__)
    elif dataclasses.is_dataclass(cls):
        names = {field.name for field in dataclasses.fields(cls)}
    elif issubclass(cls, tuple) or typing.is_typeddict(cls):
        names = set(getattr(cls, "_fields", ())) | getattr(cls, "__annotations__", {}).keys()
    else:
        return
    for base in cls.__mro__:  # pyright: ignore[reportAttributeAccessIssue]  # is_dataclass narrows to an instance
        module = sys.modules.get(base.__module__)  # None for a class of code that was only executed
        scope = {} if module is None else vars(module)
        for name, raw in inspect.get_annotations(base).items():
            if name in names:
                yield _resolved(raw, scope, dict(vars(base)))


def _resolved(raw: Any, globalns: dict[str, Any], localns: dict[str, Any]) -> Any:
    def carrier() -> None: ...

    carrier.__annotations__ = {"hint": raw}
    try:
        return typing.get_type_hints(carrier, globalns, localns, include_extras=True)["hint"]
    except NameError:
        return None

"""The closed set of classes that decoding may build. A lookup never imports anything."""

import builtins
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, NamedTuple, TypeVar, overload

from msgpack import ExtType

from greenroom import errors
from greenroom.codec import wire
from greenroom.codec.records import Recipe, recipe_for
from greenroom.errors import ContextSerdeError

_C = TypeVar("_C", bound=type[Any])


def default_name(cls: type[Any]) -> str:
    """Return `module:qualname`, the name under which a class is written unless it was registered under another."""
    return f"{cls.__module__}:{cls.__qualname__}"


# Those of Python and of Greenroom belong to every registry.
_EXCEPTIONS = {
    default_name(cls): cls
    for cls in (*vars(builtins).values(), *vars(errors).values())
    if isinstance(cls, type) and issubclass(cls, BaseException)
}


class Entry(NamedTuple):
    """What is known of a registered class.

    Attributes:
        name: The name under which it is written.
        recipe: How its instances are taken apart, or None for exceptions and enums.
        tag: What leads an instance that is a record.
    """

    name: str
    recipe: Recipe | None
    tag: ExtType


class TypeRegistry:
    """A closed set of classes: pydantic models, dataclasses, named tuples, enums and exceptions.

    Args:
        classes: Classes to register at once, under their default names.
        parent: A registry whose classes, those registered later included, belong to this one as well.

    Raises:
        ContextSerdeError: As `register` does.

    Example:
        >>> import dataclasses
        >>> from greenroom.codec import decode, encode
        >>> registry = TypeRegistry()
        >>> @registry.register(name="shop:Order")
        ... @dataclasses.dataclass
        ... class Order:
        ...     total: int
        >>> decode(encode(Order(total=3), registry), registry)
        Order(total=3)
    """

    def __init__(self, classes: Iterable[type[Any]] = (), *, parent: "TypeRegistry | None" = None) -> None:
        self._parent = parent
        self._classes: dict[str, type[Any]] = {}
        self._entries: dict[type[Any], Entry] = {}
        self._former: dict[str, type[Any]] = {}
        self._renamed: dict[str, type[Any]] = {}  # by their default names, which no document has them under
        for cls in classes:
            self.register(cls)

    @overload
    def register(self, cls: _C, *, name: str | None = None, formerly: str | Iterable[str] = ()) -> _C: ...
    @overload
    def register(self, *, name: str | None = None, formerly: str | Iterable[str] = ()) -> Callable[[_C], _C]: ...
    def register(self, cls: Any = None, *, name: str | None = None, formerly: str | Iterable[str] = ()) -> Any:
        """Add a class. Also a decorator, with and without arguments.

        Args:
            cls: The class.
            name: Its name in documents; `module:qualname` if None. Give one to a class that may move.
            formerly: The names that it had in documents before, one or several: it is read under them as well.

        Returns:
            The class.

        Raises:
            ContextSerdeError: If it is not a kind of class that can be built from data, if another class has one of
                the names, or if it is registered under another name.
        """
        if cls is None:
            return lambda cls: self.register(cls, name=name, formerly=formerly)
        self._add(cls, name)
        for former in (formerly,) if isinstance(formerly, str) else tuple(formerly):
            self._add_former(cls, former)
        return cls

    def _add(self, cls: Any, name: str | None) -> None:
        if not isinstance(cls, type):
            raise ContextSerdeError(f"Only a class can be registered, and {cls!r} is none.")
        known = self.name_of(cls)
        if known is not None and name in (None, known):
            return
        name = default_name(cls) if name is None else name
        if known is not None:
            raise ContextSerdeError(f"{cls!r} is already registered as {known!r}; one class has one name.")
        if (other := self._named(name)) is not None and other is not cls:
            raise ContextSerdeError(
                f"The name {name!r} belongs to {other!r}, and cannot mean {cls!r} too. "
                f"Register one of them under another name: register_type(cls, name=...)."
            )
        recipe = None if issubclass(cls, (Enum, BaseException)) else recipe_for(cls)
        if recipe is None and not issubclass(cls, (Enum, BaseException)):
            raise ContextSerdeError(
                f"{cls!r} cannot be registered: it is not a pydantic model, dataclass, named tuple, enum or exception. "
                f"Make it a dataclass."
            )
        self._entries[cls] = Entry(name, recipe, wire.tag(wire.RECORD, name))
        self._classes[name] = cls
        if name != default_name(cls):
            self._renamed[default_name(cls)] = cls

    def _add_former(self, cls: type[Any], name: Any) -> None:
        if not isinstance(name, str) or not all(name.partition(":")):
            raise ContextSerdeError(f"A former name is one as 'shop.orders:Order', module and class, not {name!r}.")
        other = self._named(name)
        if other is not None and other is not cls:
            raise ContextSerdeError(
                f"{name!r} cannot be a former name of {cls!r}: it is the name of {other!r}, which is registered too."
            )
        self._former[name] = cls

    def child(self, classes: Iterable[type[Any]] = ()) -> "TypeRegistry":
        """Return a registry of these classes and all of this one's. This one is not changed.

        Raises:
            ContextSerdeError: As `register` does.
        """
        return TypeRegistry(classes, parent=self)

    @property
    def registered(self) -> int:
        """How many classes were registered in this very registry; it only grows."""
        return len(self._entries)

    def get(self, name: str) -> type[Any] | None:
        """Return the class that has or had that name, or None. Python's and Greenroom's exceptions are always there."""
        return self._named(name) or self._default_named(name) or _EXCEPTIONS.get(name)

    def _named(self, name: str) -> type[Any] | None:
        cls = self._classes.get(name) or self._former.get(name)
        return self._parent._named(name) if cls is None and self._parent is not None else cls

    def _default_named(self, name: str) -> type[Any] | None:
        cls = self._renamed.get(name)
        return self._parent._default_named(name) if cls is None and self._parent is not None else cls

    def name_of(self, cls: type[Any]) -> str | None:
        """Return the name under which a class is written, or None if it is not registered."""
        entry = self.entry_of(cls)
        return entry.name if entry else None

    def recipe_of(self, cls: type[Any]) -> Recipe | None:
        """Return how instances of a registered record class are taken apart, or None for any other class."""
        entry = self.entry_of(cls)
        return entry.recipe if entry else None

    def entry_of(self, cls: type[Any]) -> Entry | None:
        """Return what is known of a class, or None if it is not registered."""
        entry = self._entries.get(cls)
        return self._parent.entry_of(cls) if entry is None and self._parent is not None else entry

    def __contains__(self, cls: object) -> bool:
        return isinstance(cls, type) and self.entry_of(cls) is not None


global_registry = TypeRegistry()


@overload
def register_type(cls: _C, *, name: str | None = None, formerly: str | Iterable[str] = ()) -> _C: ...
@overload
def register_type(*, name: str | None = None, formerly: str | Iterable[str] = ()) -> Callable[[_C], _C]: ...
def register_type(cls: Any = None, *, name: str | None = None, formerly: str | Iterable[str] = ()) -> Any:
    """Let snapshots of every workflow in this process hold and build instances of a class. Also a decorator.

    A workflow's annotations already give it the classes they reach; register what is only ever put into state,
    subclasses where the annotation names their base, and classes that were renamed or moved.

    Args:
        cls: A pydantic model, dataclass, named tuple, enum or exception class.
        name: Its name in snapshots; `module:qualname` if None. Give one to a class that may move.
        formerly: The names that it had in snapshots before, as `"old.module:OldName"`, one or several: what was stored
            under them is read as this class.

    Returns:
        The class.

    Raises:
        ContextSerdeError: As `TypeRegistry.register` does.

    Example:
        >>> import dataclasses
        >>> @register_type(formerly="crm.people:Client")
        ... @dataclasses.dataclass
        ... class Customer:
        ...     name: str
        >>> Customer in global_registry
        True
        >>> global_registry.get("crm.people:Client") is Customer
        True
    """
    if cls is None:
        return global_registry.register(name=name, formerly=formerly)
    return global_registry.register(cls, name=name, formerly=formerly)

"""The closed set of classes that decoding may build. A lookup never imports anything."""

import builtins
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, TypeVar, overload

from greenroom.codec.records import Recipe, recipe_for
from greenroom.errors import ContextSerdeError

_C = TypeVar("_C", bound=type[Any])

_BUILTIN_EXCEPTIONS = {
    f"builtins:{cls.__qualname__}": cls
    for cls in vars(builtins).values()
    if isinstance(cls, type) and issubclass(cls, BaseException)
}


def default_name(cls: type[Any]) -> str:
    """Return `module:qualname`, the name under which a class is written unless it was registered under another."""
    return f"{cls.__module__}:{cls.__qualname__}"


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
        self._entries: dict[type[Any], tuple[str, Recipe | None]] = {}
        for cls in classes:
            self.register(cls)

    @overload
    def register(self, cls: _C, *, name: str | None = None) -> _C: ...
    @overload
    def register(self, *, name: str | None = None) -> Callable[[_C], _C]: ...
    def register(self, cls: Any = None, *, name: str | None = None) -> Any:
        """Add a class. Also a decorator, with and without arguments.

        Args:
            cls: The class.
            name: Its name in documents; `module:qualname` if None. Give one to a class that may move.

        Returns:
            The class.

        Raises:
            ContextSerdeError: If it is not a kind of class that can be built from data, if another class has the name,
                or if it is registered under another name.
        """
        if cls is None:
            return lambda cls: self.register(cls, name=name)
        if not isinstance(cls, type):
            raise ContextSerdeError(f"Only a class can be registered, and {cls!r} is none.")
        name = default_name(cls) if name is None else name
        known = self.name_of(cls)
        if known == name:
            return cls
        if known is not None:
            raise ContextSerdeError(f"{cls!r} is already registered as {known!r}; one class has one name.")
        if (other := self.get(name)) is not None and other is not cls:
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
        self._entries[cls] = (name, recipe)
        self._classes[name] = cls
        return cls

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
        """Return the class of that name, or None. Exceptions of Python's own are always there."""
        cls = self._classes.get(name)
        if cls is None and self._parent is not None:
            return self._parent.get(name)
        return cls if cls is not None else _BUILTIN_EXCEPTIONS.get(name)

    def name_of(self, cls: type[Any]) -> str | None:
        """Return the name under which a class is written, or None if it is not registered."""
        entry = self._entry(cls)
        return entry[0] if entry else None

    def recipe_of(self, cls: type[Any]) -> Recipe | None:
        """Return how instances of a registered record class are taken apart, or None for any other class."""
        entry = self._entry(cls)
        return entry[1] if entry else None

    def _entry(self, cls: type[Any]) -> tuple[str, Recipe | None] | None:
        entry = self._entries.get(cls)
        return self._parent._entry(cls) if entry is None and self._parent is not None else entry

    def __contains__(self, cls: object) -> bool:
        return isinstance(cls, type) and self._entry(cls) is not None


global_registry = TypeRegistry()


@overload
def register_type(cls: _C, *, name: str | None = None) -> _C: ...
@overload
def register_type(*, name: str | None = None) -> Callable[[_C], _C]: ...
def register_type(cls: Any = None, *, name: str | None = None) -> Any:
    """Let snapshots of every workflow in this process hold and build instances of a class. Also a decorator.

    A workflow's annotations already give it the classes they reach; register what is only ever put into state, and
    subclasses where the annotation names their base.

    Args:
        cls: A pydantic model, dataclass, named tuple, enum or exception class.
        name: Its name in snapshots; `module:qualname` if None. Give one to a class that may move.

    Returns:
        The class.

    Raises:
        ContextSerdeError: As `TypeRegistry.register` does.

    Example:
        >>> import dataclasses
        >>> @register_type
        ... @dataclasses.dataclass
        ... class Customer:
        ...     name: str
        >>> Customer in global_registry
        True
    """
    return global_registry.register(cls, name=name) if cls is not None else global_registry.register(name=name)

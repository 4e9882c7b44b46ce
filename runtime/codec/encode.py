"""Encoding: msgpack's packer in C, called back for everything that is not plain."""

import gc
from collections.abc import Callable, Iterable
from enum import Enum, Flag
from itertools import compress
from typing import Any

from msgpack import ExtType, Packer, Timestamp

from greenroom.codec import exceptions, wire
from greenroom.codec.records import Recipe, recipe_for
from greenroom.codec.registry import TypeRegistry
from greenroom.codec.scalars import BY_TYPE
from greenroom.errors import ContextSerdeError

PLAIN = frozenset({type(None), bool, int, float, str, bytes})
_CONTAINERS = frozenset({dict, list})
# The packer takes these for its own, but they would not come back as what they were.
_TRAPS = frozenset({bytearray, memoryview, ExtType, Timestamp})
_SORTABLE = ({str}, {int}, {bytes})


class _Hidden:
    """Keeps a value of a trap type from the packer, so that it asks `Encoder.explode` instead."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value


class Encoder:
    """Packs one value.

    The packer goes depth first and calls back for what is not plain; the answer of `explode` is packed in its place.
    It packs the types in `_TRAPS` without asking. Looking for them in Python would cost a call a value, so `pack` looks
    afterwards, level by level in C, and only where it finds one does it pack again with them hidden.
    """

    def __init__(self, registry: TypeRegistry) -> None:
        self._registry = registry
        self._records: dict[type, tuple[ExtType, Recipe]] = {}
        self._insides: list[object] = []  # containers inside of exploded values, to look for traps in
        self._once: dict[int, tuple[object, Any]] = {}  # by id, with the object that keeps the id its own
        self._text_errors: str | None = None
        self._hide = False

    def pack(self, value: object) -> bytes:
        """Return the bytes of a value. Any exception says that it has none; `paths.refusal` finds out where."""
        data = self._pack(value)
        if _hold_traps([[value], *self._insides]):
            self._hide = True
            self._once.clear()
            data = self._pack(value)
        if len(data) > wire.MAX_DEPTH:  # a level takes a byte at least
            wire.check_structure(data)
        return data

    def explode(self, value: Any) -> object:
        """Return what a value that is not plain is packed as: an extension, or a map that one leads.

        Raises:
            ContextSerdeError: If a document cannot hold it. The message is for a path to stand in front of.
        """
        cls = type(value)
        if (record := self._records.get(cls) or self._record_of(cls)) is not None:
            tag, recipe = record
            meta, fields = recipe.take(value)
            self._insides += (meta, fields)
            return {tag: meta, **fields}
        if (scalar := BY_TYPE.get(cls)) is not None:
            return wire.tag(scalar.code, scalar.to_text(value))
        if (holder := _HOLDERS.get(cls)) is not None:
            code, contents_of = holder
            contents = contents_of(self, value)
            self._insides.append(contents)
            return {wire.tag(code): contents}
        name = self._registry.name_of(cls)
        if name is not None and isinstance(value, Enum):
            return wire.tag(wire.ENUM, f"{name}\n{_member(value)}")
        if isinstance(value, type):
            return wire.tag(wire.CLASS, self._name_of(value))
        if isinstance(value, BaseException):
            name, known = exceptions.take(value, self._registry, self._encodable)
            self._insides.append(known)
            return {wire.tag(wire.EXCEPTION, name): None, **known}
        raise ContextSerdeError(_reason(cls))

    def _record_of(self, cls: type[Any]) -> tuple[ExtType, Recipe] | None:
        """Return how instances of a class begin and are taken apart, or None if they are no records."""
        entry = self._registry.entry_of(cls)
        if entry is None or entry.recipe is None:
            return None
        record = self._records[cls] = entry.tag, entry.recipe
        return record

    def _name_of(self, cls: type[Any]) -> str:
        """Return the name of a class that is itself a value."""
        name = self._registry.name_of(cls)
        if name is None:
            raise ContextSerdeError(
                f"the class {_qualified(cls)} is not registered; name it in an annotation of the workflow, or decorate "
                f"it with register_type"
            )
        return name

    def in_order(self, members: Iterable[Any]) -> list[Any]:
        """Return the members of a set in an order that depends on nothing but what they are."""
        if set(map(type, members)) in _SORTABLE:
            return sorted(members)
        return list(self._remembered(members, lambda: sorted(members, key=self._pack)))

    def _pack(self, value: object) -> bytes:
        if self._hide:
            value = _hidden(value)
        text_errors = self._text_errors
        try:
            packer = Packer(default=self._default, strict_types=True, unicode_errors=text_errors)
            return bytes(packer.pack(value))
        except UnicodeEncodeError:
            if text_errors is not None:
                raise
            # Lone surrogates, as in file names that are not UTF-8. Not from the start: it packs text at half the speed.
            self._text_errors = "surrogatepass"
            packer = Packer(default=self._default, strict_types=True, unicode_errors=self._text_errors)
            return bytes(packer.pack(value))

    def _default(self, value: Any) -> object:
        if type(value) is _Hidden:
            value = value.value
        packable = self.explode(value)
        if self._hide and type(packable) is dict:
            return {key: _hidden(item) for key, item in packable.items()}
        return packable

    def _encodable(self, error: BaseException, parts: object) -> bool:
        def attempt() -> bool:
            try:
                self._pack(parts)
            except (ContextSerdeError, ValueError, RecursionError):  # ValueError: the packer's limit of depth
                return False
            return True

        return bool(self._remembered(error, attempt))

    def _remembered(self, value: object, compute: Callable[[], Any]) -> Any:
        # Both users pack what is inside of the value, and it is packed again afterwards. Without the memory that would
        # double the work for every one of them inside of another.
        if id(value) not in self._once:
            self._once[id(value)] = value, compute()
        return self._once[id(value)][1]


_HOLDERS: dict[type, tuple[int, Callable[[Encoder, Any], object]]] = {
    tuple: (wire.TUPLE, lambda _, value: list(value)),
    set: (wire.SET, Encoder.in_order),
    frozenset: (wire.FROZENSET, Encoder.in_order),
    bytearray: (wire.BYTEARRAY, lambda _, value: bytes(value)),
    complex: (wire.COMPLEX, lambda _, value: [value.real, value.imag]),
}


def _member(value: Enum) -> str:
    if type(value).__members__.get(value.name) is value:
        return value.name
    if isinstance(value, Flag):
        return f"#{value.value:x}"
    raise ContextSerdeError(f"{value!r} is not a member by name of {type(value).__qualname__}; use one that is")


def _hold_traps(level: list[Any]) -> bool:
    while level:
        inside = gc.get_referents(*level)  # of a dict: its keys and its values
        kinds = set(map(type, inside))
        if not _TRAPS.isdisjoint(kinds):
            return True
        if _CONTAINERS.isdisjoint(kinds):
            return False
        level = list(compress(inside, map(_CONTAINERS.__contains__, map(type, inside))))
    return False


def _hidden(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        return {_hidden(key): _hidden(item) for key, item in value.items()}
    if kind is list:
        return [_hidden(item) for item in value]
    return _Hidden(value) if kind in _TRAPS else value


def _qualified(cls: type[Any]) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _reason(cls: type[Any]) -> str:
    name = _qualified(cls)
    if issubclass(cls, Enum) or recipe_for(cls) is not None:
        return f"{name} is not registered; name it in an annotation of the workflow, or decorate it with register_type"
    for kind in (*PLAIN, *_CONTAINERS, *_HOLDERS, *BY_TYPE):
        if issubclass(cls, kind) and cls is not kind:
            return f"{name} is a subclass of {kind.__qualname__}, which would be lost; convert it to that"
    return (
        f"{name} is not a kind of value that a snapshot can hold; keep it out (a resource, or made where it is used), "
        f"or keep what it is made from in a class decorated with register_type"
    )

"""Decoding: msgpack's parser in C, which hands over every extension and every map."""

from collections import Counter
from collections.abc import Callable
from enum import Flag
from typing import Any

import msgpack

from greenroom.codec import exceptions, wire
from greenroom.codec.registry import TypeRegistry
from greenroom.codec.scalars import BY_CODE
from greenroom.errors import ContextSerdeError


class _Tag:
    """The extension that leads a map: what is to be made of the rest. Never part of a decoded value."""

    __slots__ = ("code", "text")

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        self.text = text


class Decoder:
    """Builds one value. The parser calls `_extension` and `_map` from the innermost outwards, so nothing recurses."""

    def __init__(self, registry: TypeRegistry) -> None:
        self._registry = registry
        self._open = 0  # tags seen less tags used: one that leads no map would be left over in the value

    def unpack(self, data: bytes) -> object:
        """Return the value of a document.

        Raises:
            Exception: Of any class, if it is not one.
        """
        wire.check_structure(data)
        value = msgpack.unpackb(
            data,
            ext_hook=self._extension,
            object_pairs_hook=self._map,
            strict_map_key=False,
            unicode_errors="surrogatepass",
            timestamp=3,  # not written here; msgpack's own extension, read as an aware datetime
        )
        if self._open:
            raise ContextSerdeError("The document has a tag that leads no map.")
        return value

    def _extension(self, code: int, data: bytes) -> object:
        text = str(data, "utf-8", "surrogatepass")
        if (scalar := BY_CODE.get(code)) is not None:
            return scalar.read(text)
        if code == wire.ENUM:
            return self._enum(text)
        if code == wire.CLASS:
            return self._class(text)
        if code not in wire.NAMES or (code in wire.HOLDERS and text):
            raise ContextSerdeError(f"The document has an extension of the unknown code {code}.")
        self._open += 1
        return _Tag(code, text)

    def _map(self, pairs: list[tuple[Any, Any]]) -> object:
        if pairs and type(pairs[0][0]) is _Tag:
            self._open -= 1
            return self._tagged(pairs[0][0], pairs[0][1], pairs[1:])
        return _mapping(pairs)

    def _tagged(self, tag: _Tag, meta: Any, rest: list[tuple[Any, Any]]) -> object:
        if (holder := _HOLDERS.get(tag.code)) is not None:
            kind, build = holder
            if rest or type(meta) is not kind:
                raise ContextSerdeError(f"The document has a malformed {wire.NAMES[tag.code]}.")
            return build(meta)
        fields = _mapping(rest)
        if not all(isinstance(name, str) for name in fields):
            raise ContextSerdeError(f"A field of {tag.text[:200]!r} has a name that is not text.")
        if tag.code == wire.EXCEPTION and meta is None:
            return exceptions.make(tag.text, fields, self._registry)
        recipe = self._registry.recipe_of(self._class(tag.text))
        if recipe is None:
            raise ContextSerdeError(f"The document has a record of {tag.text!r}, which is not a record class.")
        return recipe.make(meta, fields)

    def _enum(self, text: str) -> object:
        name, _, member = text.partition("\n")
        cls = self._class(name)
        found = getattr(cls, "__members__", {}).get(member)
        if found is None and issubclass(cls, Flag) and member.startswith("#"):
            found = cls(int(member[1:], 16))
        if found is None:
            raise ContextSerdeError(f"The enum {name!r} has no member {member[:80]!r}.").about(name[:200], member[:80])
        return found

    def _class(self, name: str) -> type[Any]:
        cls = self._registry.get(name)
        if cls is None:
            raise ContextSerdeError(
                f"The document names the class {name[:200]!r}, which this program has not registered, so it is not "
                f"built. If it is yours, name it in an annotation of the workflow, or decorate it with register_type; "
                f"if it was renamed or moved, with register_type(formerly={name[:200]!r})."
            ).about(name[:200])
        return cls


def _bytearray(data: bytes) -> bytearray:
    return bytearray(data)


def _complex(parts: list[Any]) -> complex:
    real, imaginary = parts
    if type(real) is not float or type(imaginary) is not float:
        raise ContextSerdeError("The document has a complex number of parts that are not floats.")
    return complex(real, imaginary)


def _set(members: list[Any]) -> set[Any]:
    _refuse_collisions(members)
    built = set(members)
    if len(built) != len(members):
        raise ContextSerdeError("The document has a set with one member twice.")
    return built


_HOLDERS: dict[int, tuple[type, Callable[[Any], object]]] = {
    wire.TUPLE: (list, tuple),
    wire.SET: (list, _set),
    wire.FROZENSET: (list, lambda members: frozenset(_set(members))),
    wire.BYTEARRAY: (bytes, _bytearray),
    wire.COMPLEX: (list, _complex),
}


def _mapping(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    if len(pairs) > wire.MAX_COLLISIONS:  # looked at here as well, to spare every small map the list
        _refuse_collisions([key for key, _ in pairs])
    built = dict(pairs)
    if len(built) != len(pairs):
        raise ContextSerdeError("The document has a map with one key twice.")
    return built


def _refuse_collisions(keys: list[Any]) -> None:
    # Hashes of text are salted; those of numbers are not, and building from n keys of one hash takes n * n comparisons.
    if len(keys) <= wire.MAX_COLLISIONS or set(map(type, keys)) == {str}:
        return
    if max(Counter(map(hash, keys)).values()) > wire.MAX_COLLISIONS:
        raise ContextSerdeError(f"The document has more than {wire.MAX_COLLISIONS} keys of the same hash.")

"""The same document as JSON-able values: a transcription of the bytes, one to one, that builds no class either way.

What JSON has stays itself. Everything else is an object with a key that starts with `$`: `{"$decimal": "1.50"}`,
`{"$tuple": [1, 2]}`, `{"$record": "app:Order", "fields": {"total": 3}}`. A dict with a key that is not text, or that
starts with `$`, is `{"$map": [[key, value], ...]}`.
"""

import base64
import math
import struct
from collections.abc import Callable
from typing import Any

import msgpack
from msgpack import ExtType

from greenroom.codec import wire
from greenroom.errors import ContextSerdeError

_CODES = {f"${name}": code for code, name in wire.NAMES.items()}
_LED = wire.HOLDERS | wire.OBJECTS


def to_json(data: bytes) -> Any:
    """Transcribe a document that the encoder made. The parser calls from the innermost outwards: nothing recurses."""
    parsed = msgpack.unpackb(
        data,
        list_hook=lambda items: [_leaf(item) for item in items],
        object_pairs_hook=_map,
        strict_map_key=False,
        unicode_errors="surrogatepass",
    )
    return _leaf(parsed)


def _leaf(value: Any) -> Any:
    kind = type(value)
    if kind is str:
        return _text(value)
    if kind is float and not math.isfinite(value):
        return {"$float": struct.pack(">d", value).hex()}
    if kind is bytes:
        return {"$bytes": base64.b64encode(value).decode()}
    if kind is ExtType:
        return {f"${wire.NAMES[value.code]}": _text(value.data.decode("utf-8", "surrogatepass"))}
    return value


def _text(text: str) -> Any:
    try:
        text.encode()
    except UnicodeEncodeError:
        # JSON would join two lone surrogates into one character.
        return {"$text": text.encode("utf-8", "surrogatepass").hex()}
    return text


def _map(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    if pairs and type(tag := pairs[0][0]) is ExtType and tag.code in _LED:
        (_, meta), *rest = pairs
        if tag.code in wire.HOLDERS:
            return {f"${wire.NAMES[tag.code]}": _leaf(meta)}
        made = {**_leaf(tag), "fields": _map(rest)}
        return made if meta is None else {**made, "meta": meta}
    leaves = [(_leaf(key), _leaf(item)) for key, item in pairs]
    if all(type(key) is str and not key.startswith("$") for key, _ in leaves):
        return dict(leaves)
    return {"$map": [list(pair) for pair in leaves]}


def from_json(value: Any) -> bytes:
    """Transcribe JSON-able values back.

    Raises:
        Exception: Of any class, if `to_json` cannot have made them.
    """
    writer = _Writer()
    writer.write(value, 0)
    return bytes(writer.packer.bytes())


class _Writer:
    def __init__(self) -> None:
        self.packer = msgpack.Packer(strict_types=True, unicode_errors="surrogatepass", autoreset=False)

    def write(self, value: Any, depth: int) -> None:
        if depth > wire.MAX_DEPTH:
            raise ContextSerdeError(f"The document is nested more than {wire.MAX_DEPTH} levels deep.")
        if type(value) is list:
            self.packer.pack_array_header(len(value))
            for item in value:
                self.write(item, depth + 1)
        elif type(value) is not dict:
            if type(value) not in (type(None), bool, int, float, str):
                raise ContextSerdeError(f"JSON has no value of type {type(value).__qualname__}.")
            self.packer.pack(value)
        else:
            self._write_dict(value, depth)

    def _write_dict(self, value: dict[str, Any], depth: int) -> None:
        tag = next((key for key in value if key.startswith("$")), None)
        if tag is None or tag == "$map":
            pairs = _pairs(value)
            self.packer.pack_map_header(len(pairs))
            self._write_pairs(pairs, depth + 1)
        elif (code := _CODES.get(tag)) in wire.OBJECTS:
            pairs = _pairs(value["fields"])
            self.packer.pack_map_header(1 + len(pairs))
            self._write_extension(code, value[tag])
            self.write(value.get("meta"), depth + 1)
            self._write_pairs(pairs, depth + 1)
            _expect(value, {tag, "fields", "meta"})
        else:
            _expect(value, {tag})
            if code in wire.HOLDERS:
                self.packer.pack_map_header(1)
                self._write_extension(code, "")
                self.write(value[tag], depth + 1)
            elif code is not None:
                self._write_extension(code, value[tag])
            elif tag in _READ:
                self.packer.pack(_READ[tag](value[tag]))
            else:
                raise ContextSerdeError(f"The document has the unknown tag {tag[:80]!r}.")

    def _write_pairs(self, pairs: list[Any], depth: int) -> None:
        for key, item in pairs:
            self.write(key, depth)
            self.write(item, depth)

    def _write_extension(self, code: int, text: Any) -> None:
        if type(text) is dict:
            _expect(text, {"$text"})
            text = _READ["$text"](text["$text"])
        self.packer.pack_ext_type(code, text.encode("utf-8", "surrogatepass"))


_READ: dict[str, Callable[[str], object]] = {
    "$float": lambda text: struct.unpack(">d", bytes.fromhex(text))[0],
    "$bytes": lambda text: base64.b64decode(text, validate=True),
    "$text": lambda text: bytes.fromhex(text).decode("utf-8", "surrogatepass"),
}


def _pairs(value: dict[str, Any]) -> list[Any]:
    if "$map" not in value:
        return list(value.items())
    _expect(value, {"$map"})
    return list(value["$map"])


def _expect(value: dict[str, Any], keys: set[str]) -> None:
    if not value.keys() <= keys:
        raise ContextSerdeError(f"The document has keys beside a tag: {sorted(value.keys() - keys)}"[:200])

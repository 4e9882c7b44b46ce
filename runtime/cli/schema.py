"""What a JSON schema has against a value: as far as the schemas of event classes go, which pydantic writes.

It stands in for the class of an answer where that is not at hand. What it lets through, the class may still refuse.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

__all__ = ["schema_faults"]

_TYPES: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: (
        (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())
    ),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}
_FORMATS: dict[str, TypeAdapter[Any]] = {
    "date": TypeAdapter(date),
    "date-time": TypeAdapter(datetime),
    "time": TypeAdapter(time),
    "duration": TypeAdapter(timedelta),
    "uuid": TypeAdapter(UUID),
}
_LIMITS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "minimum": (lambda value, limit: value >= limit, "should be at least {}"),
    "maximum": (lambda value, limit: value <= limit, "should be at most {}"),
    "exclusiveMinimum": (lambda value, limit: value > limit, "should be greater than {}"),
    "exclusiveMaximum": (lambda value, limit: value < limit, "should be less than {}"),
    "multipleOf": (lambda value, limit: value % limit == 0, "should be a multiple of {}"),
    "minLength": (lambda value, limit: len(value) >= limit, "should have at least {} characters"),
    "maxLength": (lambda value, limit: len(value) <= limit, "should have at most {} characters"),
    "minItems": (lambda value, limit: len(value) >= limit, "should have at least {} items"),
    "maxItems": (lambda value, limit: len(value) <= limit, "should have at most {} items"),
}
_LIMITED: dict[str, tuple[str, ...]] = {
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "string": ("minLength", "maxLength"),
    "array": ("minItems", "maxItems"),
}


def schema_faults(schema: Mapping[str, Any], value: Any) -> list[tuple[str, str]]:
    """Return what a schema has against a value: where, as `address.zip`, and what.

    Args:
        schema: The schema, with its `$defs`.
        value: A JSON value.

    Example:
        >>> schema = {"properties": {"n": {"type": "integer"}, "on": {"format": "date"}}, "required": ["n"]}
        >>> schema_faults(schema, {"on": "tomorrow"})
        [('n', 'field required'), ('on', 'should be a date')]
        >>> schema_faults(schema, {"n": 1, "on": "2026-01-31"})
        []
    """
    return list(_faults(schema, value, "", schema.get("$defs", {})))


def _faults(schema: Any, value: Any, path: str, definitions: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if not isinstance(schema, Mapping):
        return
    if "$ref" in schema:
        yield from _faults(definitions.get(str(schema["$ref"]).rpartition("/")[2]), value, path, definitions)
    for part in schema.get("allOf", ()):
        yield from _faults(part, value, path, definitions)
    branches = schema.get("anyOf") or schema.get("oneOf") or ()
    tried = [list(_faults(branch, value, path, definitions)) for branch in branches]
    if tried and all(tried):
        # Of several branches the one that gets furthest says most.
        yield from max(tried, key=lambda found: max(len(place) for place, _ in found))
        return
    wanted = schema.get("type")
    names = wanted if isinstance(wanted, list) else [wanted] if wanted is not None else []
    if names and not any(_TYPES.get(name, _anything)(value) for name in names):
        yield path, f"should be {' or '.join(_article(name) for name in names)}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield path, f"should be one of {', '.join(map(repr, schema['enum']))}"
    if "const" in schema and value != schema["const"]:
        yield path, f"should be {schema['const']!r}"
    yield from _limit_faults(schema, value, path)
    if isinstance(value, dict):
        yield from _object_faults(schema, value, path, definitions)
    if isinstance(value, list):
        first = schema.get("prefixItems", [])
        for index, item in enumerate(value):
            item_schema = first[index] if index < len(first) else schema.get("items")
            yield from _faults(item_schema, item, _join(path, str(index)), definitions)


def _limit_faults(schema: Mapping[str, Any], value: Any, path: str) -> Iterator[tuple[str, str]]:
    for kind, limits in _LIMITED.items():
        if _TYPES[kind](value):
            for name in limits:
                fits, message = _LIMITS[name]
                if name in schema and not fits(value, schema[name]):
                    yield path, message.format(schema[name])
    if isinstance(value, str):
        if "pattern" in schema and not _matches(schema["pattern"], value):
            yield path, f"should match {schema['pattern']}"
        adapter = _FORMATS.get(schema.get("format", ""))
        if adapter is not None:
            try:
                adapter.validate_python(value)
            except ValidationError:
                yield path, f"should be {_article(schema['format'])}"


def _object_faults(
    schema: Mapping[str, Any], value: dict[str, Any], path: str, definitions: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    for name in schema.get("required", ()):
        if name not in value:
            yield _join(path, name), "field required"
    properties, more = schema.get("properties", {}), schema.get("additionalProperties", True)
    for name, item in value.items():
        if name in properties:
            yield from _faults(properties[name], item, _join(path, name), definitions)
        elif more is False:
            yield _join(path, name), "there is no such field"
        else:
            yield from _faults(more, item, _join(path, name), definitions)


def _anything(value: Any) -> bool:
    return True


def _matches(pattern: str, text: str) -> bool:
    try:
        return re.search(pattern, text) is not None
    except re.error:  # of another dialect
        return True


def _article(name: str) -> str:
    return f"an {name}" if name[0] in "aeio" else name if name == "null" else f"a {name}"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name

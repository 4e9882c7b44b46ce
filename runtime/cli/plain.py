"""Stored values as words, without the classes they are of: read from the form that `codec.transcribe` gives them."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

__all__ = ["class_of", "in_words", "moment", "since", "span"]

_OBJECTS = ("$record", "$exception")


def in_words(value: Any) -> str:
    """Return a transcribed value as Python would nearly write it.

    Example:
        >>> in_words({"$record": "shop:Order", "fields": {"total": {"$decimal": "1.50"}, "tags": {"$tuple": ["a"]}}})
        "Order(total=1.50, tags=('a',))"
        >>> in_words({"$exception": "builtins:ValueError", "fields": {"message": "no", "args": []}})
        "ValueError('no')"
    """
    if isinstance(value, list):
        return f"[{', '.join(map(in_words, value))}]"
    if not isinstance(value, dict):
        return repr(value)
    tag = next((key for key in value if key.startswith("$")), None)
    if tag is None:
        return "{" + ", ".join(f"{key!r}: {in_words(item)}" for key, item in value.items()) + "}"
    if tag in _OBJECTS:
        fields = value.get("fields", {})
        name = class_of(value)
        if tag == "$exception":
            return f"{name}({fields.get('message')!r})"
        return f"{name}({', '.join(f'{key}={in_words(item)}' for key, item in _items(fields))})"
    content = value[tag]
    if tag == "$map":
        return "{" + ", ".join(f"{in_words(key)}: {in_words(item)}" for key, item in content) + "}"
    if tag == "$tuple":
        return f"({', '.join(map(in_words, content))}{',' if len(content) == 1 else ''})"
    if tag in ("$set", "$frozenset"):
        return "{" + ", ".join(map(in_words, content)) + "}"
    if tag == "$enum" and isinstance(content, str):
        name, _, member = content.partition("\n")
        return f"{_short(name)}.{member}"
    return content if isinstance(content, str) else json.dumps(content)


def class_of(value: Any) -> str | None:
    """Return the name of the class of a transcribed instance, without its module; None for anything else."""
    tag = next((tag for tag in _OBJECTS if isinstance(value, dict) and tag in value), None)
    return None if tag is None else _short(value[tag])


def span(seconds: float) -> str:
    """Return a length of time in its two largest units at most.

    Example:
        >>> span(42), span(90), span(7200), span(90000), span(864000)
        ('42s', '1m 30s', '2h', '1d 1h', '10d')
    """
    rest = max(0, round(seconds))
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        parts.append((count, unit))
    first = next((index for index, (count, _) in enumerate(parts) if count), 3)
    shown = parts[first : first + (1 if parts[first][0] >= 10 else 2)]
    return " ".join(f"{count}{unit}" for count, unit in shown if count) or "0s"


def since(at: float) -> str:
    """Return how long ago, or in how long, a moment is."""
    seconds = time.time() - at
    return f"{span(seconds)} ago" if seconds >= 0 else f"in {span(-seconds)}"


def moment(at: float) -> str:
    """Return a moment as date and time of day, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _items(fields: Any) -> list[tuple[str, Any]]:
    if "$map" in fields:  # a field whose name begins with $
        return [(str(key), item) for key, item in fields["$map"]]
    return list(fields.items())


def _short(name: Any) -> str:
    return str(name).rpartition(":")[2].rpartition(".")[2]

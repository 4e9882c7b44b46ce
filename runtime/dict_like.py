"""What events and the plain state have in common: pydantic models that keep any key, and read like a mapping."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict

__all__ = ["DictLikeModel"]


class DictLikeModel(BaseModel):
    """A model that keeps keyword arguments which it does not declare; all fields are read as those of a mapping.

    Example:
        >>> class Point(DictLikeModel):
        ...     x: int
        >>> point = Point(x=1, label="start")
        >>> point["x"], point.label, point.get("y", 0), point.keys(), point.to_dict()
        (1, 'start', 0, ['x', 'label'], {'x': 1, 'label': 'start'})
    """

    model_config = ConfigDict(extra="allow", arbitrary_types_allowed=True, protected_namespaces=())

    def __getitem__(self, key: str) -> Any:
        if key in type(self).model_fields:
            return getattr(self, key)
        return (self.__pydantic_extra__ or {})[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if key in type(self).model_fields or self.__pydantic_extra__ is None:
            setattr(self, key, value)
        else:
            self.__pydantic_extra__[key] = value  # Not by setattr, which a key such as "items" would lead astray.

    def __contains__(self, key: object) -> bool:
        return key in type(self).model_fields or key in (self.__pydantic_extra__ or {})

    def __iter__(self) -> Iterator[str]:  # type: ignore[override]  # an event reads like a mapping: over its keys
        yield from type(self).model_fields
        yield from self.__pydantic_extra__ or {}

    def __len__(self) -> int:
        return len(type(self).model_fields) + len(self.__pydantic_extra__ or {})

    def __bool__(self) -> bool:
        return True

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of `key`, declared or not, or `default` where there is none."""
        try:
            return self[key]
        except KeyError:
            return default

    def keys(self) -> list[str]:
        """Return the names of all fields, the declared ones first."""
        return list(self)

    def values(self) -> list[Any]:
        """Return the values of all fields, in the order of `keys`."""
        return [self[key] for key in self]

    def items(self) -> list[tuple[str, Any]]:
        """Return pairs of name and value, in the order of `keys`."""
        return [(key, self[key]) for key in self]

    def to_dict(self) -> dict[str, Any]:
        """Return a new dict of all fields; values are the event's own objects, not copies."""
        return {key: self[key] for key in self}

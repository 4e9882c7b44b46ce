"""Records: instances of the program's own classes, as a map of field names to values.

A record is put together the way `copy` and `pickle` do it, from its stored fields, never by its constructor or its
validators. They are the program's code: they may have effects, and run on a value that went through them before they
may change it (hash a password twice), so the copy would not equal the original. What hostile bytes can do with that is
choose the values of fields, which whoever writes a snapshot can do anyway; the values are themselves built from the
closed set of kinds, and no code of the program runs but the upcasters that its classes declare.

A class that has changed since an instance was stored says in `__upcast__` how to come from the stored fields to those
that it has now:

    class Order(Event):
        cents: int

        @classmethod
        def __upcast__(cls, fields):
            if "price" in fields:  # until version 2
                fields["cents"] = round(fields.pop("price") * 100)
            return fields

It is given the fields of every instance that is read, of today's as well, and returns those of the class as it is.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import cached_property
from types import BuiltinFunctionType, WrapperDescriptorType
from typing import Any, cast

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from greenroom.errors import ContextSerdeError


def native_base(cls: type[Any]) -> type[Any]:
    """Return the nearest base of a class that makes its instances in C; `object` for a class of plain layout."""

    def in_c(base: type[Any]) -> bool:
        own = vars(base)
        return isinstance(own.get("__new__"), BuiltinFunctionType) or isinstance(
            own.get("__init__"), WrapperDescriptorType
        )

    return next(filter(in_c, cls.__mro__))


class Recipe(ABC):
    """How instances of one class are taken apart and put together."""

    def __init__(self, cls: type[Any]) -> None:
        self.cls = cls
        self._upcast = _find_upcast(cls)

    @abstractmethod
    def take(self, value: Any) -> tuple[object, dict[str, object]]:
        """Return what else there is to know (None if nothing) and the fields, in an order that the class sets."""

    @abstractmethod
    def build(self, meta: Any, fields: dict[str, Any]) -> object:
        """Build an instance from what `take` returned. Fields that the class has gained since get their defaults."""

    def make(self, meta: Any, fields: dict[str, Any]) -> object:
        """Build an instance from what `take` of this class, or of an older version of it, returned.

        Raises:
            ContextSerdeError: If the fields are not those of the class, or its upcaster fails.
        """
        return self.build(meta, fields if self._upcast is None else self._upcasted(fields))

    def _upcasted(self, fields: dict[str, Any]) -> dict[str, Any]:
        assert self._upcast is not None
        name = self.cls.__qualname__
        names = list(fields)
        try:
            upcasted = self._upcast(fields)
        except Exception as error:
            field = error.args[0] if isinstance(error, KeyError) and error.args else None
            raise ContextSerdeError(
                f"{name}.__upcast__ raised {type(error).__name__}: {error} for the stored fields"
                f" {', '.join(names)[:200]}"
            ).about(name, field if isinstance(field, str) else None) from error
        if type(upcasted) is not dict or not all(type(key) is str for key in upcasted):
            raise ContextSerdeError(
                f"{name}.__upcast__ must return a dict of fields; it returned {type(upcasted).__name__} for the stored"
                f" fields {', '.join(names)[:200]}"
            ).about(name)
        return upcasted

    def _unknown(self, names: Iterable[object]) -> ContextSerdeError:
        unknown = sorted(map(str, names))
        listed = ", ".join(unknown)[:200]
        fix = "" if self._upcast is None else " Its __upcast__ has to take it out."
        return ContextSerdeError(f"{self.cls.__qualname__} has no field named {listed}.{fix}").about(
            self.cls.__qualname__, unknown[0] if unknown else None
        )

    def _missing(self, name: str) -> ContextSerdeError:
        fix = "" if self._upcast is None else ", and its __upcast__ does not give"
        return ContextSerdeError(
            f"{self.cls.__qualname__} needs its field {name}, which the document does not have{fix}."
        ).about(self.cls.__qualname__, name)


class ModelRecipe(Recipe):
    """Pydantic models: declared and extra fields, private attributes, and which fields were set."""

    cls: type[BaseModel]

    def __init__(self, cls: type[BaseModel]) -> None:
        super().__init__(cls)
        self._names = tuple(cls.model_fields)
        self._extra = cls.model_config.get("extra") == "allow"

    def take(self, value: BaseModel) -> tuple[object, dict[str, object]]:
        """Return the fields, extra ones last; the private attributes and the fields left unset are the rest."""
        fields = value.__dict__
        if tuple(fields) != self._names:
            # Another order, or `cached_property` values, which are computed again.
            try:
                fields = {name: fields[name] for name in self._names}
            except KeyError as error:
                raise ContextSerdeError(
                    f"{self.cls.__qualname__} has no value for its field {error.args[0]}; set it, or give it a default"
                ) from None
        if value.__pydantic_extra__:
            fields = fields | value.__pydantic_extra__
        fields_set, private = value.__pydantic_fields_set__, value.__pydantic_private__
        meta: dict[str, object] = {}
        if len(fields_set) != len(fields):
            meta["unset"] = sorted(name for name in fields if name not in fields_set)
        if private:
            meta["private"] = dict(sorted(private.items()))
        return meta or None, fields  # pyright: ignore[reportReturnType]  # it takes a __dict__ for a mappingproxy

    def build(self, meta: Any, fields: dict[str, Any]) -> BaseModel:
        """Build the model."""
        meta = {} if meta is None else meta
        unset, stored = set(meta.get("unset", ())), meta.get("private", {})
        declared: dict[str, Any] = {}
        for name in self._names:
            if name in fields:
                declared[name] = fields.pop(name)
                continue
            field = self.cls.model_fields[name]
            if field.is_required():
                raise self._missing(name)
            declared[name] = field.get_default(call_default_factory=True, validated_data=declared)
            unset.add(name)
        if fields and not self._extra:
            raise self._unknown(fields)
        names = {*declared, *fields}
        if self._upcast is not None:
            unset &= names
        elif not unset <= names:
            raise self._unknown(unset - names)
        instance = object.__new__(self.cls)
        BaseModel.__setstate__(
            instance,
            {
                "__dict__": declared,
                "__pydantic_extra__": fields if self._extra else None,
                "__pydantic_fields_set__": names - unset,
                "__pydantic_private__": self._private(stored),
            },
        )
        return instance

    def _private(self, stored: dict[str, object]) -> dict[str, object] | None:
        attributes = self.cls.__private_attributes__
        if not stored.keys() <= attributes.keys():
            raise self._unknown(stored.keys() - attributes.keys())
        if not attributes:
            return None
        defaults = {name: item.get_default() for name, item in attributes.items() if name not in stored}
        return stored | {name: value for name, value in defaults.items() if value is not PydanticUndefined}


class DataclassRecipe(Recipe):
    """Dataclasses, with slots, frozen or not, fields out of the constructor included; `InitVar`s are not stored."""

    def __init__(self, cls: type[Any]) -> None:
        super().__init__(cls)
        self._names = tuple(field.name for field in dataclasses.fields(cls))

    def take(self, value: Any) -> tuple[object, dict[str, object]]:
        """Return the fields that have a value."""
        stray = getattr(value, "__dict__", {}).keys() - set(self._names)
        for name in sorted(stray):
            if not isinstance(getattr(self.cls, name, None), cached_property):
                raise ContextSerdeError(
                    f"{self.cls.__qualname__} has the attribute {name}, which is not a field; "
                    f"declare it with field(init=False), or do not set it"
                )
        return None, {name: getattr(value, name) for name in self._names if hasattr(value, name)}

    def build(self, meta: Any, fields: dict[str, Any]) -> object:
        """Build the instance, without `__init__` and `__post_init__`."""
        instance = object.__new__(self.cls)
        for field in dataclasses.fields(self.cls):
            if field.name in fields:
                value = fields.pop(field.name)
            elif field.default is not dataclasses.MISSING:
                value = field.default
            elif field.default_factory is not dataclasses.MISSING:
                value = field.default_factory()
            elif field.init:
                raise self._missing(field.name)
            else:
                continue
            object.__setattr__(instance, field.name, value)
        if fields or meta is not None:
            raise self._unknown(fields)
        return instance


class NamedTupleRecipe(Recipe):
    """Named tuples, of `typing.NamedTuple` and of `collections.namedtuple`."""

    def take(self, value: Any) -> tuple[object, dict[str, object]]:
        """Return the items by name."""
        if getattr(value, "__dict__", None):
            raise ContextSerdeError(f"{self.cls.__qualname__} has attributes beside its items; make them items")
        return None, dict(zip(self.cls._fields, value, strict=True))

    def build(self, meta: Any, fields: dict[str, Any]) -> object:
        """Build the tuple."""
        items = []
        for name in self.cls._fields:
            if name in fields:
                items.append(fields.pop(name))
            elif name in self.cls._field_defaults:
                items.append(self.cls._field_defaults[name])
            else:
                raise self._missing(name)
        if fields or meta is not None:
            raise self._unknown(fields)
        return tuple.__new__(self.cls, items)


def _find_upcast(cls: type[Any]) -> Callable[[dict[str, Any]], Any] | None:
    """Return the upcaster of a class, bound to it, or None if it has none."""
    upcast = getattr(cls, "__upcast__", None)
    if upcast is None:
        return None
    if not callable(upcast) or getattr(upcast, "__self__", None) is not cls:
        raise ContextSerdeError(
            f"{cls.__qualname__}.__upcast__ must be a classmethod that takes the stored fields and returns those of"
            " today: @classmethod def __upcast__(cls, fields)"
        ).about(cls.__qualname__)
    return cast("Callable[[dict[str, Any]], Any]", upcast)


def recipe_for(cls: type[Any]) -> Recipe | None:
    """Return the recipe of a class, or None if it is not a model, dataclass or named tuple of plain layout.

    Raises:
        ContextSerdeError: If its `__upcast__` is no classmethod.
    """
    if issubclass(cls, tuple):
        return NamedTupleRecipe(cls) if hasattr(cls, "_fields") and hasattr(cls, "_field_defaults") else None
    # A class on top of `dict`, `deque` and the like holds more than its fields, and cannot be made without that base.
    if native_base(cls) is not object:
        return None
    if issubclass(cls, BaseModel):
        return ModelRecipe(cls)
    return DataclassRecipe(cls) if dataclasses.is_dataclass(cls) else None

"""Classes, values and comparison for the tests and the fuzz target of the codec."""

from __future__ import annotations

import dataclasses
import enum
import math
import uuid
from datetime import timedelta, timezone
from decimal import Decimal
from functools import cached_property
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Any, Generic, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import pydantic
from hypothesis import strategies as st

from greenroom.codec import TypeRegistry
from greenroom.events import Event

T = TypeVar("T")


class Colour(enum.Enum):
    RED = 1
    BLUE = (1, "b")
    ALSO_RED = 1


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(enum.StrEnum):
    YES = "yes"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Bits(enum.IntFlag):
    ONE = 1


class Point(NamedTuple):
    x: Any
    y: Any = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    left: Any
    right: Any = None


@dataclasses.dataclass
class Order:
    lines: list[Any]
    seed: dataclasses.InitVar[int] = 0
    total: Any = dataclasses.field(init=False)

    def __post_init__(self, seed: int) -> None:
        self.total = seed

    @cached_property
    def count(self) -> int:
        return len(self.lines)


class Model(pydantic.BaseModel):
    name: str
    value: Any = None
    _note: Any = pydantic.PrivateAttr(default="n")

    @pydantic.field_validator("name")
    @classmethod
    def _mark(cls, name: str) -> str:
        return f"<{name}>"  # not idempotent: shows if it runs again


class Box(pydantic.BaseModel, Generic[T]):
    item: T


class Root(pydantic.RootModel[list[Any]]):
    pass


class Note(Event):
    text: str = "t"
    value: Any = None


class AppError(Exception):
    def __init__(self, code: int, *, hint: Any) -> None:
        super().__init__(f"code {code}")
        self.code = code
        self.hint = hint


CLASSES = (Colour, Level, Word, Rights, Bits, Point, Pair, Order, Model, Box[int], Root, Note, AppError)
REGISTRY = TypeRegistry(CLASSES)


def model(name: str, value: Any, note: Any, by_default: bool) -> Model:
    made = Model(name=name) if by_default else Model(name=name, value=value)
    made._note = note
    return made


def order(lines: list[Any], total: Any) -> Order:
    made = Order(lines)
    made.total = total
    return made


_text = st.text(st.characters(), max_size=8)  # lone surrogates included
_names = st.text(min_size=1, max_size=6).filter(lambda name: not name.startswith("_") and name not in Note.model_fields)
_offsets = st.timedeltas(-timedelta(hours=23), timedelta(hours=23))
_zones = st.one_of(
    st.none(),
    st.builds(ZoneInfo, st.timezone_keys(allow_prefix=False)),
    st.builds(timezone, _offsets),
    st.builds(timezone, _offsets, st.text(max_size=3)),
)
_enums = st.sampled_from([*Colour, *Level, *Word, *Rights, Rights(0), Rights.READ | Rights.WRITE, Bits(0), Bits(6)])
_paths = st.text(st.characters(exclude_characters="\x00"), max_size=8)
_scalars: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-300, 300),
    st.integers(),
    st.integers(2**62, 2**66) | st.integers(-(2**66), -(2**62)),
    st.floats(),
    _text,
    st.binary(max_size=8),
    _enums,
    st.datetimes(timezones=_zones) | st.times(timezones=_zones),
    st.builds(lambda moment: moment.replace(fold=1), st.datetimes(timezones=_zones)),
    st.dates(),
    st.timedeltas(),
    st.decimals(allow_nan=False) | st.just(Decimal("1E+999999")) | st.just(Decimal("-0.00")),
    st.uuids() | st.just(uuid.UUID(int=0)),
    st.builds(PurePosixPath, _paths) | st.builds(PureWindowsPath, _paths),
    st.complex_numbers(),
    st.sampled_from([Point, Pair, Colour, Note]),
)
_keys = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.frozensets(inner, max_size=3),
        st.builds(Point, inner, inner),
        st.builds(Pair, inner, inner),
    ),
    max_leaves=4,
)


def _around(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(_keys, inner, max_size=4),
        st.dictionaries(_text, inner, max_size=4),
        st.sets(_keys, max_size=4),
        st.builds(Point, inner, inner),
        st.builds(Pair, inner, inner),
        st.builds(order, st.lists(inner, max_size=2), inner),
        st.builds(model, _text, inner, inner, st.booleans()),
        st.builds(Root, st.lists(inner, max_size=2)),
        st.builds(lambda value, extra: Note(value=value, **extra), inner, st.dictionaries(_names, inner, max_size=3)),
    )


values = st.recursive(
    _scalars | st.sampled_from([Decimal("sNaN1"), Decimal("NaN"), bytearray(b"x"), Box[int](item=1)]),
    _around,
    max_leaves=12,
)
"""Values of every kind that the codec takes, exceptions aside."""


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal and of equal classes all the way down; NaN is itself, 0.0 is not -0.0."""
    if type(left) is not type(right):
        return False
    match left:
        case type():
            return left is right
        case float():
            return left.hex() == right.hex()
        case complex():
            return same(left.real, right.real) and same(left.imag, right.imag)
        case Decimal():
            return str(left) == str(right)
        case str() | bytes() | int() | enum.Enum() | PurePath() | bytearray() | None:
            return bool(left == right)
        case list() | tuple():
            return len(left) == len(right) and all(map(same, left, right))
        case set() | frozenset():
            rest = list(right)
            for item in left:
                found = next((index for index, other in enumerate(rest) if same(item, other)), None)
                if found is None:
                    return False
                del rest[found]
            return not rest
        case dict():
            return same(list(left.items()), list(right.items()))
        case pydantic.BaseModel():
            return same(_state(left), _state(right))
        case _ if dataclasses.is_dataclass(left):
            return all(same(getattr(left, f.name), getattr(right, f.name)) for f in dataclasses.fields(left))
        case _ if hasattr(left, "tzinfo"):
            same_zone = type(left.tzinfo) is type(right.tzinfo) and repr(left.tzinfo) == repr(right.tzinfo)
            return same_zone and left.fold == right.fold and left.replace(tzinfo=None) == right.replace(tzinfo=None)
        case _:
            return bool(left == right)


def _state(value: pydantic.BaseModel) -> list[Any]:
    return [
        value.__dict__,
        value.__pydantic_extra__,
        value.__pydantic_private__,
        value.__pydantic_fields_set__,
    ]


assert not same(0.0, -0.0)
assert same([math.nan], [math.nan])

"""Fuzz the decoder: any bytes decode or raise ContextSerdeError, and what decodes stands for itself.

Run it with atheris, bounded: `python fuzz/codec.py -runs=200000 -max_len=512 -timeout=10 -rss_limit_mb=1024`.
"""

import dataclasses
import enum
import sys
import tempfile
import uuid
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import atheris

with atheris.instrument_imports(include=["greenroom.codec"]):
    from greenroom.codec import TypeRegistry, decode, encode, from_jsonable, to_jsonable
from greenroom.errors import ContextSerdeError
from greenroom.events import Event


class Rights(enum.Flag):
    """A class to build."""

    READ = 1
    WRITE = 2


class Point(NamedTuple):
    """A class to build."""

    x: Any
    y: Any = 0


@dataclasses.dataclass
class Order:
    """A class to build."""

    lines: Any
    total: Any = 0


class Note(Event):
    """A class to build."""

    text: str = ""


REGISTRY = TypeRegistry()
# Short names, so that mutations find them.
for name, cls in {"f": Rights, "p": Point, "o": Order, "n": Note}.items():
    REGISTRY.register(cls, name=name)

SEEDS = [
    [None, True, -1, 1.5, "a", b"b", {"k": [1]}],
    [2**70, 1j, bytearray(b"c"), uuid.UUID(int=7), PurePosixPath("a"), Decimal("1.5")],
    [datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=ZoneInfo("Europe/Paris"), fold=1)],
    [date(2020, 1, 1), time(1, 2, 3, 4), timedelta(1, 2, 3)],
    (1, {2}, frozenset({(3,), 4}), set()),
    {Rights.READ: 1, Rights.READ | Rights.WRITE: 2, 1: Point(1), (1, 2): Order([1])},
    Note(text="t", extra={"a": 1}),
    [Note(), Point(x=Order({1: 2}))],
    [ValueError("x"), OSError(2, "no", "f"), ImportError("m", name="n")],
    ExceptionGroup("g", [KeyError("k")]),
]


def one_input(data: bytes) -> None:
    """Decode one input."""
    try:
        value = decode(data, REGISTRY)
        again = encode(value, REGISTRY)
    except ContextSerdeError:
        return
    if encode(decode(again, REGISTRY), REGISTRY) != again:
        raise AssertionError(f"{data!r} decodes to a value that does not come back")
    if encode(from_jsonable(to_jsonable(value, REGISTRY), REGISTRY), REGISTRY) != again:
        raise AssertionError(f"{data!r} decodes to a value whose JSON form differs")


def main() -> None:
    """Start from documents of every kind and fuzz until the limit of the command line."""
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(SEEDS):
            document = encode(seed, REGISTRY)
            one_input(document)
            (Path(corpus) / str(number)).write_bytes(document)
        atheris.Setup([*sys.argv, corpus], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()

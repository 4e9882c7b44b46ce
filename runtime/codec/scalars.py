"""Scalars beyond msgpack's own: each kind is written as text, and read only if writing it again gives the same text."""

import zoneinfo
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import cache
from pathlib import PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from pydantic_core import TzInfo

from greenroom.codec import wire
from greenroom.errors import ContextSerdeError

_MICROSECOND = timedelta(microseconds=1)
_PATHS = {cls.__name__: cls for cls in (PurePosixPath, PureWindowsPath, PosixPath, WindowsPath)}
_Clock = TypeVar("_Clock", datetime, time)


class Scalar(NamedTuple):
    """One kind of scalar: its extension code, how it is written and how it is read."""

    code: int
    to_text: Callable[[Any], str]
    from_text: Callable[[str], object]

    def read(self, text: str) -> object:
        """Build the value from its text.

        Raises:
            ContextSerdeError: If the text is not exactly what `to_text` writes for some value.
        """
        value = self.from_text(text)
        if self.to_text(value) != text:
            raise ContextSerdeError(f"{text[:80]!r} is not how a {wire.NAMES[self.code]} is written.")
        return value


@cache
def _zone_keys() -> frozenset[str]:
    # A closed list: ZoneInfo(key) would look for any relative path, and import a data package named by the key.
    return frozenset(zoneinfo.available_timezones())


def _zone_to_text(zone: tzinfo) -> str:
    if type(zone) is TzInfo:  # pydantic's own fixed offset, on what it parsed from text
        zone = timezone(zone.utcoffset(None) or timedelta())
    if type(zone) is timezone:
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]
        return " ".join([format(offset // _MICROSECOND, "+d"), *name])
    if type(zone) is zoneinfo.ZoneInfo and zone.key in _zone_keys():
        return zone.key
    raise ContextSerdeError(
        f"the time zone {zone!r} is neither a datetime.timezone nor a ZoneInfo with a key of the tz database; use one"
    )


def _zone_from_text(text: str) -> tzinfo:
    if text[:1] in ("+", "-"):
        offset, space, name = text.partition(" ")
        delta = int(offset) * _MICROSECOND
        return timezone(delta, name) if space else timezone(delta)
    if text not in _zone_keys():
        raise ContextSerdeError(f"The time zone {text[:80]!r} is not in this machine's tz database.")
    return zoneinfo.ZoneInfo(text)


def _clock_to_text(value: datetime | time) -> str:
    text = value.replace(tzinfo=None).isoformat() + "#1" * value.fold
    return text if value.tzinfo is None else f"{text}@{_zone_to_text(value.tzinfo)}"


def _clock_from_text(cls: type[_Clock], text: str) -> _Clock:
    head, at, zone = text.partition("@")
    clock, fold, _ = head.partition("#")
    return cls.fromisoformat(clock).replace(fold=1 if fold else 0, tzinfo=_zone_from_text(zone) if at else None)


def _timedelta_from_text(text: str) -> timedelta:
    days, seconds, microseconds = text.split(",")
    return timedelta(int(days), int(seconds), int(microseconds))


def _path_from_text(text: str) -> PurePath:
    name, _, path = text.partition(":")
    return _PATHS[name](path)


_PATH = Scalar(wire.PATH, lambda path: f"{type(path).__name__}:{path}", _path_from_text)

# Hexadecimal, because reading a long decimal number takes time with the square of its length.
BY_TYPE: dict[type, Scalar] = {
    int: Scalar(wire.INT, hex, lambda text: int(text, 16)),
    datetime: Scalar(wire.DATETIME, _clock_to_text, lambda text: _clock_from_text(datetime, text)),
    date: Scalar(wire.DATE, date.isoformat, date.fromisoformat),
    time: Scalar(wire.TIME, _clock_to_text, lambda text: _clock_from_text(time, text)),
    timedelta: Scalar(wire.TIMEDELTA, lambda d: f"{d.days},{d.seconds},{d.microseconds}", _timedelta_from_text),
    Decimal: Scalar(wire.DECIMAL, str, Decimal),
    UUID: Scalar(wire.UUID, lambda value: value.hex, lambda text: UUID(hex=text)),
    **dict.fromkeys(_PATHS.values(), _PATH),
}
BY_CODE: dict[int, Scalar] = {scalar.code: scalar for scalar in BY_TYPE.values()}

"""The codec against bytes that it did not write: a value or ContextSerdeError, in bounded time and memory."""

from __future__ import annotations

import sys
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgpack import ExtType

from greenroom.codec import MAX_DEPTH, decode, encode, from_jsonable, wire
from greenroom.errors import ContextSerdeError
from tests.support.codec_values import CLASSES, REGISTRY, Model, Note, Order, Point, values

_NAMES = [REGISTRY.name_of(cls) for cls in CLASSES]


def refused(data: bytes, match: str | None = None) -> None:
    with pytest.raises(ContextSerdeError, match=match):
        decode(data, REGISTRY)


def reads_or_refuses(data: bytes) -> None:
    """Decode; what comes out encodes to a document that stands for itself."""
    try:
        value = decode(data, REGISTRY)
        again = encode(value, REGISTRY)
    except ContextSerdeError:
        return
    assert encode(decode(again, REGISTRY), REGISTRY) == again


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    """No byte string raises anything but ContextSerdeError."""
    reads_or_refuses(data)


@settings(max_examples=300, deadline=None)
@given(values, st.data())
def test_damaged_documents_decode_or_are_refused(value: Any, data: st.DataObject) -> None:
    """Flipped bits, and bytes put in, taken out or repeated, raise nothing but ContextSerdeError."""
    damaged = bytearray(encode(value, REGISTRY))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged)))
        match data.draw(st.sampled_from("fidr")):
            case "f" if at < len(damaged):
                damaged[at] ^= 1 << data.draw(st.integers(0, 7))
            case "i":
                damaged[at:at] = data.draw(st.binary(min_size=1, max_size=3))
            case "d":
                del damaged[at : at + data.draw(st.integers(1, 3))]
            case _:
                damaged[at:at] = damaged[at : at + data.draw(st.integers(1, 20))]
    reads_or_refuses(bytes(damaged))


@settings(max_examples=100, deadline=None)
@given(values, st.data())
def test_documents_that_are_cut_short_or_go_on_are_refused(value: Any, data: st.DataObject) -> None:
    """No strict prefix of a document is one, and nothing may follow it."""
    whole = encode(value, REGISTRY)
    refused(whole[: data.draw(st.integers(0, len(whole) - 1))], "cut short")
    refused(whole + b"\xc0", "goes on for 1 bytes")


_texts = st.sampled_from(
    ["", "1", "0x1", "-0x10000000000000000", "1,2,3", "NaN", "sNaN", "1E+99", "2020-01-01", "01:00:00", "00", "0" * 32]
    + [
        "2020-01-01T00:00:00@UTC",
        "2020-01-01T00:00:00#1@+1",
        "PosixPath:a",
        "WindowsPath:a",
        "os:b",
        "a\nRED",
        "builtins:OSError",
    ]
    + [f"{name}{end}" for name in _NAMES for end in ("", "\nRED", "\n#7", "\n#-1", "\n#0x0")]
)
_tags = st.builds(ExtType, st.sampled_from([*wire.NAMES, 100]), (_texts | st.text(max_size=5)).map(str.encode))
_wire = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.binary(max_size=3) | _texts | _tags,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(max_size=3) | st.integers(-(2**63), 2**64 - 1) | _tags, inner, max_size=3),
        st.builds(lambda tag, meta: {tag: meta}, _tags, inner),
        st.builds(
            lambda tag, meta, fields: {tag: meta, **fields},
            _tags,
            st.none() | st.fixed_dictionaries({}, optional={"unset": inner, "private": inner}) | inner,
            st.dictionaries(
                st.sampled_from(["x", "y", "text", "value", "name", "item", "lines", "message", "args", "attributes"])
                | st.sampled_from(["notes", "cause", "root", "left", "right", "total", "extra"]),
                inner,
                max_size=4,
            ),
        ),
    ),
    max_leaves=10,
)


@settings(max_examples=200, deadline=None)
@given(_wire)
def test_well_formed_nonsense_decodes_or_is_refused(tree: Any) -> None:
    """Tags in any place, with any text, around anything, raise nothing but ContextSerdeError."""
    reads_or_refuses(msgpack.packb(tree))


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _texts,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from([f"${name}" for name in [*wire.NAMES.values(), "map", "text", "float", "bytes", "no"]])
            | st.sampled_from(["fields", "meta", "a", "$record", "$exception"]),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(_json | st.sampled_from([b"", (), {1: 2}, object(), {"a": 2**70}, "\ud800"]))
def test_any_json_decodes_or_is_refused(tree: Any) -> None:
    """No JSON-able value, nor what is none, raises anything but ContextSerdeError."""
    try:
        from_jsonable(tree, REGISTRY)
    except ContextSerdeError:
        return


def tag(code: int, text: str = "") -> ExtType:
    return ExtType(code, text.encode())


RECORD = f"{Point.__module__}:"


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({tag(wire.RECORD, "os:system"): None}, "names the class 'os:system'"),
        (tag(wire.ENUM, "antigravity:Mode\nA"), "names the class 'antigravity:Mode'"),
        ({tag(wire.RECORD, RECORD + "Colour"): None}, "not a record class"),
        ({tag(wire.RECORD, RECORD + "AppError"): None}, "not a record class"),
        (tag(wire.ENUM, RECORD + "Point\n_fields"), "has no member"),
        (tag(wire.ENUM, RECORD + "Colour\n#1"), "has no member"),
        ({tag(wire.RECORD, RECORD + "Point"): None, "y": 1}, "needs its field x"),
        ({tag(wire.RECORD, RECORD + "Point"): None, "x": 1, "z": 1}, "no field named z"),
        ({tag(wire.RECORD, RECORD + "Point"): [], "x": 1}, "no field named"),
        ({tag(wire.RECORD, RECORD + "Order"): None, "lines": 1, "__class__": 1}, "no field named __class__"),
        ({tag(wire.RECORD, RECORD + "Model"): None, "name": 1, "extra": 1}, "no field named extra"),
        ({tag(wire.RECORD, RECORD + "Model"): {"unset": ["nope"]}, "name": 1}, "no field named nope"),
        ({tag(wire.RECORD, RECORD + "Model"): {"private": {"_x": 1}}, "name": 1}, "no field named _x"),
        ({tag(wire.RECORD, RECORD + "Model"): None, 1: 2}, "name that is not text"),
        ([tag(wire.TUPLE)], "a tag that leads no map"),
        ({"a": tag(wire.RECORD, RECORD + "Point")}, "a tag that leads no map"),
        ({tag(wire.TUPLE): [tag(wire.SET)]}, "a tag that leads no map"),
        ({tag(wire.TUPLE): [], "more": 1}, "malformed tuple"),
        ({tag(wire.SET): {}}, "malformed set"),
        ({tag(wire.SET): [1, 1]}, "one member twice"),
        ({tag(wire.SET): [[1]]}, "unhashable"),
        ({tag(wire.COMPLEX): [1, 2]}, "not floats"),
        (tag(99), "unknown code 99"),
        (tag(wire.TUPLE, "x"), "unknown code"),
        (tag(wire.UUID, "00"), "UUID"),
        (tag(wire.INT, "0x_1"), "is not how a int is written"),
        (tag(wire.DECIMAL, " 1"), "is not how a decimal is written"),
        (tag(wire.DATETIME, "2020-01-01"), "is not how a datetime is written"),
        (tag(wire.DATETIME, "2020-01-01T00:00:00@../../etc/passwd"), "not in this machine's tz database"),
        (tag(wire.DATETIME, "2020-01-01T00:00:00@/etc/localtime"), "not in this machine's tz database"),
        (tag(wire.DATETIME, "2020-01-01T00:00:00@+99999999999999"), "cannot be read"),
        (tag(wire.TIMEDELTA, "9999999999,0,0"), "cannot be read"),
        (tag(wire.PATH, "Popen:x"), "cannot be read"),
        ({tag(wire.EXCEPTION, "builtins:OSError"): None, "message": 1}, "malformed"),
        ({tag(wire.EXCEPTION, "builtins:OSError"): None, "message": "", "cause": 1}, "malformed"),
    ],
)
def test_hostile_documents_are_refused_by_name(tree: Any, message: str) -> None:
    """Each lie has its own message, which names what was refused."""
    refused(msgpack.packb(tree), message)


def test_a_key_twice_is_refused() -> None:
    """Two keys of one map that are equal cannot both be in a dict."""
    refused(b"\x82\x01\xc0\x01\xc0", "one key twice")
    refused(b"\x82\x01\xc0\xc3\xc0", "one key twice")


def test_only_exceptions_are_ever_called_exceptions() -> None:
    """A name of a builtin that is no exception class gives an UnreconstructedException."""
    for name in ("builtins:eval", "builtins:print", RECORD + "Point", "os:system"):
        document = {tag(wire.EXCEPTION, name): None, "message": "m", "args": ["1"]}
        assert str(decode(msgpack.packb(document), REGISTRY)) == f"{name}: m"


def test_decoding_imports_nothing() -> None:
    """Names of classes and zones are looked up, never imported."""
    before = set(sys.modules)
    refused(msgpack.packb({tag(wire.RECORD, "antigravity:x"): None}))
    refused(msgpack.packb(tag(wire.DATETIME, "2020-01-01T00:00:00@antigravity/x")))
    assert decode(msgpack.packb({tag(wire.EXCEPTION, "antigravity:x"): None, "message": ""}), REGISTRY)
    assert set(sys.modules) == before


def test_decoding_runs_no_code_of_the_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither constructors nor validators are called."""

    def bomb(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("ran")

    data = encode([Model(name="a"), Note(a=1), Order([])], REGISTRY)
    for cls in (Model, Note, Order):
        for name in ("__init__", "__new__", "__post_init__", "model_post_init", "__setattr__"):
            monkeypatch.setattr(cls, name, bomb, raising=False)
    assert [type(item) for item in decode(data, REGISTRY)] == [Model, Note, Order]


def test_the_stack_of_the_parser_is_as_long_as_we_think() -> None:
    """The limit of depth is exact: `wire` fills msgpack's stack up to it."""
    for wrapper in (b"\x91", b"\x81\xc0"):
        assert decode(wrapper * MAX_DEPTH + b"\xc0", REGISTRY)
        refused(wrapper * (MAX_DEPTH + 1) + b"\xc0", "nested more than 200 levels")
    for deep in (b"\x91" * 10**6, b"\x91" * 10**6 + b"\xc0", b"\x81" * 10**6):
        refused(deep, "nested more than 200 levels")


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd\x7f\xff\xff\xff",
        b"\xdf\x7f\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\xdd\x00\x01\x00\x00" * 190 + b"\xc0" * 100_000,
        b"\x91" * 100 + b"\xdb\xff\xff\xff\xff" + b"x" * 100_000,
    ],
    ids=["array", "map", "bin", "ext", "nested arrays", "str"],
)
def test_lengths_that_lie_take_no_memory(data: bytes) -> None:
    """A header that announces more than there is costs nothing."""
    tracemalloc.start()
    try:
        refused(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3_000_000


def test_memory_is_in_proportion_to_the_input() -> None:
    """The densest documents take a bounded number of bytes for every byte of input."""
    for unit in (b"\x80", b"\x90", msgpack.packb({tag(wire.SET): []}), msgpack.packb({tag(wire.TUPLE): [[]]})):
        data = b"\xdd" + (20_000).to_bytes(4, "big") + unit * 20_000
        tracemalloc.start()
        try:
            decode(data, REGISTRY)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 100 * len(data) + 3_000_000


@pytest.mark.parametrize("kind", ["set", "map"])
def test_keys_that_collide_are_refused(kind: str) -> None:
    """Numbers of one hash, which make a dict or set take quadratic time, are refused beyond a thousand."""
    modulus = sys.hash_info.modulus
    keys = [tag(wire.INT, hex(modulus * factor)) for factor in range(2**10, 2**10 + wire.MAX_COLLISIONS + 1)]

    def document(keys: list[ExtType]) -> bytes:
        if kind == "map":
            return bytes(msgpack.packb(dict.fromkeys(keys)))
        return bytes(msgpack.packb({tag(wire.SET): keys}))

    refused(document(keys), "of the same hash")
    assert len(decode(document(keys[1:]), REGISTRY)) == wire.MAX_COLLISIONS


def test_long_texts_take_linear_time() -> None:
    """Numbers of a million digits, of any kind, are read or refused without quadratic work."""
    digits = "1" * 1_000_000
    for code, text in (
        (wire.INT, "0x" + digits),
        (wire.INT, digits),
        (wire.DECIMAL, digits),
        (wire.DECIMAL, "1E" + digits),
        (wire.TIMEDELTA, digits + ",0,0"),
        (wire.UUID, digits),
        (wire.DATETIME, digits),
        (wire.DATETIME, "2020-01-01T00:00:00@+" + digits),
    ):
        reads_or_refuses(msgpack.packb(tag(code, text)))

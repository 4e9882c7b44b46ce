"""The bytes of a document: msgpack, a table of extension codes, and the check that comes before any decoding.

`None`, `bool`, `int` of 64 bits, `float`, `str`, `bytes`, `list` and `dict` are plain msgpack, so that its C packer and
unpacker do the work without a Python call a value. Everything else is one of three forms, each led by an extension
whose payload is UTF-8 text:

- a scalar is the extension itself: `ext(DECIMAL, "1.50")`;
- a holder is a map of one pair: `{ext(TUPLE, ""): [1, 2]}`;
- an object is a map whose first key names its class: `{ext(RECORD, "app:Order"): meta, "total": 3}`.

User values never contain extensions (the encoder refuses them), so a tag cannot be forged from inside a value.
"""

from msgpack import ExtType, Unpacker, exceptions

from greenroom.errors import ContextSerdeError

MAX_DEPTH = 200
"""Levels of msgpack containers in a document. A dict, list or record takes one, a tuple or a set two.

What else there is to know of a model (private attributes, fields left unset) lies up to two levels below it.
"""

MAX_COLLISIONS = 1000
"""Keys of one hash value in one dict or set. Honest data has a handful; hostile data can make any number of them."""

# Codes are part of the format: never give one a new meaning.
INT, ENUM, DATETIME, DATE, TIME, TIMEDELTA, DECIMAL, UUID, PATH, CLASS = range(1, 11)
TUPLE, SET, FROZENSET, BYTEARRAY, COMPLEX = range(32, 37)
RECORD, EXCEPTION = range(64, 66)

NAMES = {
    INT: "int",
    ENUM: "enum",
    DATETIME: "datetime",
    DATE: "date",
    TIME: "time",
    TIMEDELTA: "timedelta",
    DECIMAL: "decimal",
    UUID: "uuid",
    PATH: "path",
    CLASS: "class",
    TUPLE: "tuple",
    SET: "set",
    FROZENSET: "frozenset",
    BYTEARRAY: "bytearray",
    COMPLEX: "complex",
    RECORD: "record",
    EXCEPTION: "exception",
}
HOLDERS = frozenset({TUPLE, SET, FROZENSET, BYTEARRAY, COMPLEX})
OBJECTS = frozenset({RECORD, EXCEPTION})

# msgpack's C parser has a fixed stack of this many containers (a test holds the number). One-item arrays put in front
# of a document use up all of it but MAX_DEPTH. The pure-Python parser has Python's recursion limit instead.
_STACK = 1024
_FILL = b"\x91" * (_STACK - MAX_DEPTH) if Unpacker.__module__ == "msgpack._cmsgpack" else b""


def tag(code: int, text: str = "") -> ExtType:
    """Return the extension that leads a value of a kind, or is it."""
    return ExtType(code, text.encode("utf-8", "surrogatepass"))


def check_structure(data: bytes) -> None:
    """Refuse bytes that are not exactly one complete, not too deep msgpack value. Builds nothing, in one pass in C.

    After this, every length that a header announces is backed by bytes that are there, so decoding takes memory in
    proportion to the input. Without it, a thousand nested headers that each announce a million items take gigabytes.

    Args:
        data: The document.

    Raises:
        ContextSerdeError: If the bytes are cut short, go on after the value, nest too deeply or are not msgpack.
    """
    parser = Unpacker(max_buffer_size=len(_FILL) + len(data) + 1)
    parser.feed(_FILL)
    parser.feed(data)
    try:
        parser.skip()
    except exceptions.OutOfData:
        raise ContextSerdeError(f"The document is cut short: {len(data)} bytes do not hold one whole value.") from None
    except (exceptions.StackError, RecursionError):
        raise ContextSerdeError(f"The document is nested more than {MAX_DEPTH} levels deep.") from None
    except ValueError as error:
        raise ContextSerdeError(f"The document is not msgpack: {error or type(error).__name__}.") from error
    extra = len(_FILL) + len(data) - parser.tell()
    if extra:
        raise ContextSerdeError(f"The document goes on for {extra} bytes after its end.")

"""The codec: Python values as bytes and back, for snapshots.

Accepted are `None`, `bool`, `int`, `float`, `complex`, `str`, `bytes`, `bytearray`, `list`, `tuple`, `set`,
`frozenset`, `dict` with keys of any accepted kind, `datetime`, `date`, `time`, `timedelta`, `Decimal`, `UUID`, paths,
exceptions; instances of registered pydantic models, dataclasses, named tuples and enums; and registered classes
themselves. A value comes back equal and of the same class, or is refused when it is encoded, with its path. Subclasses
of the kinds above (`OrderedDict`) are refused.

Documents have value semantics: an object that is in two places comes back as two, and a cycle is refused.

They are deterministic: equal values of equal classes give equal bytes. Sets are written in an order of their own. Dicts
and undeclared fields keep the order in which they were filled, which Python shows, so dicts that differ only in that
are equal and have different bytes.

Decoding builds only what the registry holds, calls no constructor, validator or import, and raises `ContextSerdeError`
for any bytes that it does not read, in time and memory bounded by their length. The one thing of the program that it
calls is `__upcast__`, by which a class says how its older shapes become the present one.
"""

from typing import Any

from greenroom.codec.decode import Decoder
from greenroom.codec.encode import Encoder
from greenroom.codec.exceptions import UnreconstructedException
from greenroom.codec.jsonable import from_json, to_json
from greenroom.codec.paths import refusal
from greenroom.codec.reach import reachable_classes
from greenroom.codec.registry import TypeRegistry, global_registry, register_type
from greenroom.codec.wire import MAX_DEPTH, check_structure
from greenroom.errors import ContextSerdeError

__all__ = [
    "MAX_DEPTH",
    "TypeRegistry",
    "UnreconstructedException",
    "decode",
    "encode",
    "from_jsonable",
    "global_registry",
    "reachable_classes",
    "register_type",
    "to_jsonable",
    "transcribe",
]


def encode(value: object, registry: TypeRegistry, *, root: str = "value") -> bytes:
    """Return a value as bytes.

    Args:
        value: The value. Nothing may change it meanwhile.
        registry: The classes whose instances it may contain.
        root: What to call the value in the path of an error.

    Returns:
        One msgpack value.

    Raises:
        ContextSerdeError: If it contains something that cannot be encoded; the message starts with its path.

    Example:
        >>> decode(encode({(1, 2): {"a", "b"}}, global_registry), global_registry) == {(1, 2): {"a", "b"}}
        True
        >>> encode({"user": {"conn": object()}}, global_registry, root="state")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        greenroom.errors.ContextSerdeError: state.user.conn: object is not a kind of value that ...
    """
    try:
        return Encoder(registry).pack(value)
    except MemoryError:
        raise
    except Exception as error:
        raise refusal(value, registry, root, error) from error


def decode(data: bytes, registry: TypeRegistry) -> Any:
    r"""Return the value of bytes that `encode` made.

    Args:
        data: The document; it need not be trusted.
        registry: The classes that may be built.

    Returns:
        The value.

    Raises:
        ContextSerdeError: If the bytes are damaged, hostile or of another format, or name a class that is not
            registered.

    Example:
        >>> decode(b"\x93\x01\x02\x03", global_registry)
        [1, 2, 3]
    """
    try:
        return Decoder(registry).unpack(data)
    except (ContextSerdeError, MemoryError):
        raise
    except Exception as error:
        raise ContextSerdeError(f"The document cannot be read: {type(error).__name__}: {error}"[:300]) from error


def to_jsonable(value: object, registry: TypeRegistry, *, root: str = "value") -> Any:
    """Return the document of a value as what `json.dumps` takes. Arguments and errors are those of `encode`.

    Example:
        >>> to_jsonable({"price": (1, b"x")}, global_registry)
        {'price': {'$tuple': [1, {'$bytes': 'eA=='}]}}
    """
    return to_json(encode(value, registry, root=root))


def transcribe(data: bytes) -> Any:
    """Return what `to_jsonable` gives for a document, without its classes: nothing is built or looked up.

    Args:
        data: The document; it need not be trusted.

    Raises:
        ContextSerdeError: If the bytes are damaged or of another format.

    Example:
        >>> transcribe(encode([1, (2, 3)], global_registry))
        [1, {'$tuple': [2, 3]}]
    """
    try:
        check_structure(data)
        return to_json(data)
    except (ContextSerdeError, MemoryError):
        raise
    except Exception as error:
        raise ContextSerdeError(f"The document cannot be read: {type(error).__name__}: {error}"[:300]) from error


def from_jsonable(document: Any, registry: TypeRegistry) -> Any:
    """Return the value of what `to_jsonable` made, also after `json.dumps` and `json.loads`.

    Args:
        document: The JSON-able values; they need not be trusted.
        registry: The classes that may be built.

    Returns:
        The value.

    Raises:
        ContextSerdeError: As `decode` does.

    Example:
        >>> from_jsonable({"$tuple": [1, 2]}, global_registry)
        (1, 2)
    """
    try:
        data = from_json(document)
    except (ContextSerdeError, MemoryError):
        raise
    except Exception as error:
        raise ContextSerdeError(f"The document cannot be read: {type(error).__name__}: {error}"[:300]) from error
    return decode(data, registry)

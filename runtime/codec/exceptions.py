"""Exceptions: class, arguments, attributes, message, notes and cause. Never a traceback, which would pin its frames."""

import types
from collections.abc import Callable
from typing import Any

from greenroom.codec.records import native_base
from greenroom.codec.registry import TypeRegistry, default_name
from greenroom.errors import ContextSerdeError, GreenroomError


class UnreconstructedException(GreenroomError):
    """Stands for an exception from a snapshot whose class is not registered, or that could not be put together.

    Register the class with `register_type` to get it back as itself. Where that was done and this still appears, its
    arguments or attributes are of no kind that a snapshot can hold.

    Args:
        original_type: The class as `module:qualname`.
        message: What `str()` of the original gave.
    """

    def __init__(self, original_type: str, message: str) -> None:
        super().__init__(original_type, message)
        self.original_type = original_type
        self.message = message

    def __str__(self) -> str:
        return f"{self.original_type}: {self.message}"


def take(
    error: BaseException, registry: TypeRegistry, encodable: Callable[[BaseException, object], bool]
) -> tuple[str, dict[str, object]]:
    """Return the name of an exception's class and what there is to know about it."""
    cls = type(error)
    notes = list(getattr(error, "__notes__", ()))
    if isinstance(error, UnreconstructedException):
        name, message, rebuild = error.original_type, error.message, None
    else:
        name = registry.name_of(cls) or default_name(cls)
        message = _message(error)
        # Python's own base knows which of its fields are not in `args`, like the file name of an OSError.
        reduce: Any = native_base(cls).__reduce__
        _, args, *state = reduce(error)
        attributes = {key: value for key, value in (state[0] if state else {}).items() if key != "__notes__"}
        rebuild = [list(args), attributes]
    fields: dict[str, object] = {"message": message}
    if rebuild is not None and encodable(error, rebuild):
        fields["args"], fields["attributes"] = rebuild
    if notes:
        fields["notes"] = notes
    if error.__cause__ is not None:
        fields["cause"] = error.__cause__
    return name, fields


def make(name: str, fields: dict[str, Any], registry: TypeRegistry) -> BaseException:
    """Put an exception together without calling any Python code of its class."""
    message, notes, cause = fields.pop("message", None), fields.pop("notes", []), fields.pop("cause", None)
    args, attributes = fields.pop("args", None), fields.pop("attributes", {})
    sound = isinstance(message, str) and isinstance(notes, list) and all(isinstance(note, str) for note in notes)
    sound = sound and isinstance(args, list | None) and isinstance(attributes, dict) and not fields
    if not sound or not isinstance(cause, BaseException | None):
        raise ContextSerdeError(f"What the document says of the exception {name[:200]!r} is malformed.")
    cls = registry.get(name)
    error = None
    if args is not None and cls is not None and issubclass(cls, BaseException):
        error = _rebuilt(cls, args, attributes)
    if error is None:
        error = UnreconstructedException(name, message)
    for note in notes:
        BaseException.add_note(error, note)
    if cause is not None:
        object.__setattr__(error, "__cause__", cause)
    return error


def _rebuilt(cls: type[BaseException], args: list[Any], attributes: dict[str, Any]) -> BaseException | None:
    native = native_base(cls)
    try:
        error: BaseException = native.__new__(cls, *args)
        native.__init__(error, *args)
    except (TypeError, ValueError):
        return None  # not what this Python's class takes
    for name, value in attributes.items():
        member = getattr(native, name, None)
        if isinstance(member, types.MemberDescriptorType):
            member.__set__(error, value)
        else:
            error.__dict__[name] = value
    return error


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as failure:
        return f"<its str() raised {type(failure).__name__}>"

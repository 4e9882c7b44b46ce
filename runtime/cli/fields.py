"""The fields of an answer, as a person is asked for them: read from the JSON schema of its class."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema

from greenroom.cli.source import json_or_text
from greenroom.events import Event

__all__ = ["AnswerField", "answer_fields", "faults_of", "fields_of_schema"]

_YES_NO = {"y": True, "yes": True, "true": True, "n": False, "no": False, "false": False}
_JSON_KINDS = {"integer", "number", "JSON"}


@dataclass(frozen=True, slots=True)
class AnswerField:
    """A field of an answer.

    Attributes:
        name: Its name.
        label: What to ask: its description, or its name.
        kind: "text", "yes/no", "choice", the format of another text such as "date", or what JSON is expected.
        choices: What may be chosen, where `kind` is "choice".
        default: What Enter alone stands for, in words; None where the field has no default.
        is_secret: Whether to hide what is typed.
    """

    name: str
    label: str
    kind: str
    choices: tuple[Any, ...] = ()
    default: str | None = None
    is_secret: bool = False

    @property
    def hint(self) -> str:
        """What may be typed, and what Enter alone means; may be empty."""
        kinds = {"text": "", "yes/no": "(y/n)", "choice": f"({' / '.join(map(_text_of, self.choices))})"}
        default = "" if self.default is None else f"[{self.default}]"
        return " ".join(filter(None, [kinds.get(self.kind, f"({self.kind})"), default]))

    def read(self, text: str) -> Any:
        """Return the value that a typed text stands for. Whether the field takes it, its class decides.

        Raises:
            ValueError: If it is none of the choices; the message says which there are.
        """
        if self.kind == "text":
            return text
        word = text.strip()
        if self.kind == "yes/no":
            if word.lower() not in _YES_NO:
                raise ValueError("answer y or n")
            return _YES_NO[word.lower()]
        if self.kind == "choice":
            exact = [choice for choice in self.choices if _text_of(choice) == word]
            found = exact or [choice for choice in self.choices if _text_of(choice).lower() == word.lower()]
            if len(found) != 1:
                raise ValueError(f"choose one of: {', '.join(map(_text_of, self.choices))}")
            return found[0]
        return json_or_text(word) if self.kind.split()[0] in _JSON_KINDS or " or " in self.kind else word


def answer_fields(response: type[Event]) -> list[AnswerField]:
    """Return the fields to ask for. A class that declares none is answered by the one field `response`.

    Example:
        >>> from greenroom.events import HumanResponseEvent
        >>> class Approval(HumanResponseEvent):
        ...     amount: int
        ...     urgent: bool = False
        >>> [(field.label, field.hint) for field in answer_fields(Approval)]
        [('amount', '(integer)'), ('urgent', '(y/n) [n]')]
        >>> [field.name for field in answer_fields(HumanResponseEvent)]
        ['response']
    """
    try:
        schema = response.model_json_schema()
    except PydanticInvalidForJsonSchema:  # a type that JSON does not know: its validators decide what a text stands for
        schema = {"properties": {name: {} for name in response.model_fields}, "required": list(response.model_fields)}
    return fields_of_schema(schema)


def fields_of_schema(schema: Mapping[str, Any]) -> list[AnswerField]:
    """Return the fields to ask for, from the JSON schema of the class of an answer."""
    required = set(schema.get("required", ()))
    fields = [
        _field(name, _resolved(entry, schema.get("$defs", {})), name in required)
        for name, entry in schema.get("properties", {}).items()
        if name != "input_id"  # that of the question
    ]
    return fields or [AnswerField("response", "response", "text")]


def faults_of(error: ValidationError, name: str | None = None) -> list[str]:
    """Return what is wrong with an answer, without repeating what was typed.

    Args:
        error: What validation raised.
        name: The field to tell about; None tells about all, and about the answer as a whole.
    """
    found = []
    for fault in error.errors(include_input=False, include_url=False):
        place = fault["loc"]
        if name is None:
            found.append(f"{'.'.join(map(str, place))}: {fault['msg']}" if place else fault["msg"])
        elif place and place[0] == name:
            found.append(fault["msg"])
    return found


def _field(name: str, entry: dict[str, Any], is_required: bool) -> AnswerField:
    is_secret = bool(entry.get("secret")) or entry.get("format") == "password"
    if "enum" in entry or "const" in entry:
        kind, choices = "choice", tuple(entry.get("enum", (entry.get("const"),)))
    else:
        kind, choices = _kind_of(entry), ()
    default = None if is_required else _default_of(entry, kind, is_secret)
    return AnswerField(name, entry.get("description") or name, kind, choices, default, is_secret)


def _default_of(entry: dict[str, Any], kind: str, is_secret: bool) -> str:
    if is_secret or "default" not in entry:  # not for show, or made by the class
        return "Enter: default"
    default = entry["default"]
    if default is None or default == "":
        return "Enter: none"
    return ("y" if default else "n") if kind == "yes/no" else _text_of(default)


def _kind_of(entry: dict[str, Any]) -> str:
    kind = entry.get("type")
    if kind == "boolean":
        return "yes/no"
    if kind == "string":
        return "text" if "format" not in entry or entry["format"] == "password" else str(entry["format"])
    if kind in ("array", "object"):
        return f"JSON {kind}"
    if isinstance(kind, str):
        return kind
    kinds = [_kind_of(branch) for branch in entry.get("anyOf", ())]
    return " or ".join(dict.fromkeys(kinds)) if kinds else "JSON or text"


def _resolved(entry: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return a property with its references looked up, and without the `null` that merely makes it optional."""
    reference = entry.get("$ref")
    if reference is not None:
        entry = definitions.get(reference.rpartition("/")[2], {}) | {k: v for k, v in entry.items() if k != "$ref"}
    branches = [_resolved(branch, definitions) for branch in entry.get("anyOf", ()) if branch.get("type") != "null"]
    if len(branches) == 1 and "default" in entry:
        return branches[0] | {k: v for k, v in entry.items() if k != "anyOf"}
    return entry if not branches else entry | {"anyOf": branches}


def _text_of(choice: Any) -> str:
    return choice if isinstance(choice, str) else json.dumps(choice)

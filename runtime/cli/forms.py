"""Forms: what an answer consists of, and whether it fits, by its class or by the JSON schema of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pydantic import ValidationError

from greenroom.cli.faults import CommandError
from greenroom.cli.fields import AnswerField, answer_fields, faults_of, fields_of_schema
from greenroom.cli.schema import schema_faults
from greenroom.cli.source import json_or_text
from greenroom.events import Event

__all__ = ["ClassForm", "Form", "SchemaForm", "fill_in"]


class Form(Protocol):
    """What an answer consists of."""

    name: str
    fields: list[AnswerField]

    def faults(self, values: Mapping[str, Any], field: str | None = None) -> list[str]:
        """Return what is wrong with values, or with one field of them."""
        ...


class ClassForm:
    """The form of an answer whose class is at hand.

    Args:
        response: The class.
    """

    def __init__(self, response: type[Event]) -> None:
        self.name = response.__name__
        self.fields = answer_fields(response)
        self._response = response

    def faults(self, values: Mapping[str, Any], field: str | None = None) -> list[str]:
        try:
            self._response.model_validate(dict(values))
        except ValidationError as error:
            return faults_of(error, field)
        return []

    def make(self, values: Mapping[str, Any]) -> Event:
        """Return the answer. The values fit."""
        return self._response.model_validate(dict(values))


class SchemaForm:
    """The form of an answer of which there is only the JSON schema.

    Args:
        name: The name of its class.
        schema: The schema.
    """

    def __init__(self, name: str, schema: Mapping[str, Any]) -> None:
        self.name = name
        self.fields = fields_of_schema(schema)
        # It is the question that names its id.
        required = [name for name in schema.get("required", ()) if name != "input_id"]
        self._schema = {**schema, "required": required}

    def faults(self, values: Mapping[str, Any], field: str | None = None) -> list[str]:
        found = schema_faults(self._schema, dict(values))
        if field is None:
            return [f"{place}: {problem}" if place else problem for place, problem in found]
        return [problem for place, problem in found if place.partition(".")[0] == field]


def fill_in(form: Form, pairs: Sequence[str]) -> dict[str, Any]:
    """Return the values of `key=value` pairs, each as JSON or, where the field does not take that, as text.

    Raises:
        CommandError: If a pair is malformed or given twice, or the values do not fit.

    Example:
        >>> schema = {"properties": {"zip": {"type": "string"}, "amount": {"type": "integer"}}, "required": ["zip"]}
        >>> fill_in(SchemaForm("Order", schema), ["zip=12345", "amount=3"])
        {'zip': '12345', 'amount': 3}
    """
    values: dict[str, Any] = {}
    texts: dict[str, str] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.isidentifier():
            raise CommandError(f"'{pair}' is not key=value, such as approved=true or note='well done'")
        if key in values:
            raise CommandError(f"'{key}' is given twice")
        values[key], texts[key] = json_or_text(text), text
    for key, text in texts.items():
        if form.faults(values, key) and not form.faults({**values, key: text}, key):
            values[key] = text
    faults = form.faults(values)
    if faults:
        listed = "; ".join(faults)
        wanted = ", ".join(f"{field.name}{f' {field.hint}' if field.hint else ''}" for field in form.fields)
        raise CommandError(f"this does not answer the question: {listed}. {form.name} takes: {wanted}")
    return values

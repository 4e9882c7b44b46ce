"""Asking a person one question: its prompts, and the answer that fits."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from greenroom.cli.fields import AnswerField, answer_fields, faults_of
from greenroom.cli.keyboard import Keyboard
from greenroom.cli.screen import Screen
from greenroom.events import Event
from greenroom.inputs import PendingInput

__all__ = ["ask_person"]

# The fields of a request that hold its words, the first that is there.
_MESSAGES = ("prefix", "prompt", "message")


def ask_person(question: PendingInput, screen: Screen, keyboard: Keyboard, is_open: Callable[[], bool]) -> Event:
    """Ask until the answer fits.

    Args:
        question: The question.
        screen: Where to ask.
        keyboard: Where the answer is typed.
        is_open: Tells whether the question is still open.

    Returns:
        The answer, an event of the question's response class.

    Raises:
        NoLongerAsked: If the question was closed meanwhile.
        EOFError: If the person ends the input.
    """
    request = question.request.to_dict()
    request.pop("input_id", None)
    key = next((key for key in _MESSAGES if isinstance(request.get(key), str)), None)
    message = request.pop(key) if key is not None else None
    fields = answer_fields(question.response)
    keyboard.forget_typed()
    if message is not None and not request and [field.label for field in fields] == ["response"]:
        # The message is itself the prompt, as in `input("Enter a number: ")`.
        fields = [replace(fields[0], label=message)]
    else:
        screen.question(message or type(question.request).__name__, request)
    values: dict[str, Any] = {}
    while True:
        for field in fields:
            _ask_field(question.response, field, values, screen, keyboard, is_open)
        try:
            return question.response.model_validate(values)
        except ValidationError as error:
            # Each field fits by itself, but not all of them together.
            for fault in faults_of(error):
                screen.complaint(fault)
            values.clear()


def _ask_field(
    response: type[Event],
    field: AnswerField,
    values: dict[str, Any],
    screen: Screen,
    keyboard: Keyboard,
    is_open: Callable[[], bool],
) -> None:
    """Ask for one field until it fits, and enter it among the values; a default that is accepted stays out."""
    while True:
        with keyboard.hidden() if field.is_secret else nullcontext():
            screen.prompt(field.label, field.hint)
            typed = keyboard.read_line(is_open)
        if not typed and field.default is not None:
            return
        try:
            value = field.read(typed)
        except ValueError as error:
            screen.complaint(str(error))
            continue
        faults = _faults(response, field.name, {**values, field.name: value})
        if not faults:
            values[field.name] = value
            return
        for fault in faults:
            screen.complaint(fault)


def _faults(response: type[Event], name: str, values: dict[str, Any]) -> list[str]:
    """Return what the class has against a field. What is missing beside it is not asked yet."""
    try:
        response.model_validate(values)
    except ValidationError as error:
        return faults_of(error, name)
    return []

"""Asking a person one question: its prompts, and the values that fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from greenroom.cli.fields import AnswerField
from greenroom.cli.forms import Form
from greenroom.cli.keyboard import Keyboard
from greenroom.cli.screen import Screen

__all__ = ["ask_person"]

# The fields of a request that hold its words, the first that is there.
_MESSAGES = ("prefix", "prompt", "message")


def ask_person(
    title: str,
    request: Mapping[str, Any],
    form: Form,
    screen: Screen,
    keyboard: Keyboard,
    is_open: Callable[[], bool],
) -> dict[str, Any]:
    """Ask until the answer fits.

    Args:
        title: What to call the question if it has no words of its own.
        request: The fields of the event that asks.
        form: What the answer consists of.
        screen: Where to ask.
        keyboard: Where the answer is typed.
        is_open: Tells whether the question is still open.

    Returns:
        The values of the answer.

    Raises:
        NoLongerAsked: If the question was closed meanwhile.
        EOFError: If the person ends the input.
    """
    shown = {key: value for key, value in request.items() if key != "input_id"}
    key = next((key for key in _MESSAGES if isinstance(shown.get(key), str)), None)
    message = shown.pop(key) if key is not None else None
    fields = form.fields
    keyboard.forget_typed()
    if message is not None and not shown and [field.label for field in fields] == ["response"]:
        # The message is itself the prompt, as in `input("Enter a number: ")`.
        fields = [replace(fields[0], label=message)]
    else:
        screen.question(message or title, shown)
    values: dict[str, Any] = {}
    while True:
        for field in fields:
            _ask_field(form, field, values, screen, keyboard, is_open)
        faults = form.faults(values)
        if not faults:
            return values
        # Each field fits by itself, but not all of them together.
        for fault in faults:
            screen.complaint(fault)
        values.clear()


def _ask_field(
    form: Form,
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
        # What is missing beside it is not asked yet.
        faults = form.faults({**values, field.name: value}, field.name)
        if not faults:
            values[field.name] = value
            return
        for fault in faults:
            screen.complaint(fault)

"""From the words of the command line to a workflow and its start event."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from greenroom.cli.faults import CommandError
from greenroom.errors import WorkflowValidationError
from greenroom.events import StartEvent
from greenroom.workflow import Workflow

__all__ = ["find_workflow", "json_or_text", "load_workflow", "make_start_event"]


def load_workflow(reference: str) -> Workflow:
    """Import a workflow, and make it if it is a class. Modules are looked for in the current directory first.

    Args:
        reference: `module:name`; the name is that of a Workflow class, which is made without arguments, or of an
            object of one.

    Raises:
        CommandError: If there is no such module or name, the import fails, or it is no workflow that can be made.
    """
    found = find_workflow(reference)
    return found if isinstance(found, Workflow) else _make(found, reference)


def find_workflow(reference: str) -> type[Workflow] | Workflow:
    """Import a workflow class or an object of one. Modules are looked for in the current directory first.

    Args:
        reference: `module:name`.

    Raises:
        CommandError: If there is no such module or name, the import fails, or it is no workflow.
    """
    module_name, colon, name = reference.partition(":")
    if not (module_name and colon and name) or "/" in module_name or module_name.endswith(".py"):
        raise CommandError(
            f"'{reference}' is not module:Workflow; name the module as `import` does, such as shop.orders:OrderWorkflow"
        )
    found: Any = _import(module_name)
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError:
        raise CommandError(f"module '{module_name}' has no '{name}'{_offer(sys.modules[module_name])}") from None
    if isinstance(found, type) and issubclass(found, Workflow) and found is not Workflow:
        return found
    if isinstance(found, Workflow):
        return found
    what = f"the class {found.__name__}" if isinstance(found, type) else f"an instance of {type(found).__name__}"
    raise CommandError(f"'{reference}' is no Workflow, but {what}{_offer(sys.modules[module_name])}")


def _import(name: str) -> ModuleType:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise CommandError(
                f"there is no module '{error.name}': looked in {here} and among the installed packages"
            ) from error
        raise CommandError(f"cannot import '{name}': {error}") from error
    except (Exception, SystemExit) as error:
        raise CommandError(f"cannot import '{name}': {type(error).__name__}: {error}") from error


def _make(cls: type[Workflow], reference: str) -> Workflow:
    try:
        return cls()
    except WorkflowValidationError as error:
        raise CommandError(str(error)) from error
    except Exception as error:
        raise CommandError(
            f"cannot make {cls.__name__}() without arguments: {type(error).__name__}: {error}. Make the object in the"
            f" module and name that: {reference.partition(':')[0]}:workflow"
        ) from error


def _offer(module: ModuleType) -> str:
    """Name the workflows of a module."""
    names = [
        name
        for name, value in vars(module).items()
        if isinstance(value, Workflow)
        or (isinstance(value, type) and issubclass(value, Workflow) and value.__module__ == module.__name__)
    ]
    return f"; its workflows: {', '.join(names)}" if names else "; it has no workflows"


def json_or_text(text: str) -> Any:
    """Return what a text means as JSON, or else the text.

    Example:
        >>> json_or_text("42"), json_or_text("[1, 2]"), json_or_text("hello"), json_or_text("NaN")
        (42, [1, 2], 'hello', 'NaN')
    """

    def refuse(name: str) -> Any:
        raise ValueError(name)

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return text


def make_start_event(cls: type[StartEvent], pairs: Sequence[str]) -> StartEvent:
    """Make the start event of a run.

    Args:
        cls: Its class.
        pairs: `key=value`, the value as JSON or as text. A declared field that does not take the JSON value is tried
            with the text, so that `zip=12345` fits a field that is a `str`.

    Raises:
        CommandError: If a pair is malformed or given twice, or the fields do not make the event.

    Example:
        >>> from greenroom.events import StartEvent
        >>> class Order(StartEvent):
        ...     zip: str
        ...     amount: int
        >>> make_start_event(Order, ["zip=12345", "amount=3", "note=none"])
        Order(zip='12345', amount=3, note='none')
    """
    texts: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise CommandError(f"'{pair}' is not key=value, such as topic=cats or limit=10")
        if key in texts:
            raise CommandError(f"'{key}' is given twice")
        texts[key] = value
    values = {key: json_or_text(text) for key, text in texts.items()}
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        refused = {fault["loc"][0] for fault in error.errors() if fault["loc"]}
    values |= {key: text for key, text in texts.items() if key in refused}
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc'])) or cls.__name__}: {fault['msg']}" for fault in error.errors()]
        raise CommandError(
            f"cannot begin with these fields of {cls.__name__}: {'; '.join(faults)}. Give them as key=value"
        ) from error

"""Finding the steps of a workflow class, and reading its graph off them.

A class's own free steps, added to it by `@step(workflow=...)`, are in its `_free_steps`.
"""

from __future__ import annotations

import inspect
from typing import Any, cast

from greenroom.errors import WorkflowValidationError
from greenroom.graph import Graph
from greenroom.signature import read_step
from greenroom.steps import step_options

__all__ = ["add_free_step", "find_steps", "read_graph"]

_times_added = 0  # How often a class was given another free step. What was read before may be out of date.


def add_free_step(cls: type[Any], function: Any) -> None:
    """Add a free function to the steps of a class.

    Raises:
        WorkflowValidationError: If it is not decorated, or the class has a step of that name.
    """
    global _times_added
    if step_options(function) is None:
        raise WorkflowValidationError(f"{function!r} is not a step; decorate it with @step(workflow={cls.__name__})")
    if function.__name__ in find_steps(cls):
        raise WorkflowValidationError(
            f"{cls.__name__} already has a step '{function.__name__}'; give this one another name"
        )
    cls._free_steps[function.__name__] = function
    _times_added += 1


def find_steps(cls: type) -> dict[str, tuple[Any, bool]]:
    """Return the step functions of a workflow class by name, and whether each is a method."""
    found: dict[str, tuple[Any, bool]] = {}
    for base in reversed(cls.__mro__):
        for name, attribute in vars(base).items():
            if step_options(attribute) is not None:
                found[name] = (attribute, True)
            else:
                found.pop(name, None)  # A step that is overridden by something else is no step any more.
        for name, function in vars(base).get("_free_steps", {}).items():
            found[name] = (function, False)
    return found


def _find_functions(cls: type, root: type) -> list[Any]:
    """Return all functions of a workflow class, steps and helpers, those of the root left out."""
    methods = [
        attribute
        for base in cls.__mro__
        if base not in root.__mro__
        for attribute in vars(base).values()
        if inspect.isfunction(attribute)
    ]
    return methods + [function for function, in_workflow in find_steps(cls).values() if not in_workflow]


def _unbound_steps(cls: type) -> list[tuple[str, str]]:
    """Return the steps that are static or class methods, by name, with what they are."""
    attributes = {name: attribute for base in reversed(cls.__mro__) for name, attribute in vars(base).items()}
    return [
        (name, type(attribute).__name__)
        for name, attribute in attributes.items()
        if isinstance(attribute, staticmethod | classmethod) and step_options(attribute.__func__) is not None
    ]


def read_graph(cls: type[Any], root: type) -> Graph:
    """Return a class's graph. It is read once for each set of steps.

    Args:
        cls: The class.
        root: The class that all workflows derive from, whose own methods are no part of the graph.

    Raises:
        WorkflowConfigurationError: If there is not exactly one kind of start event and one kind of stop event.
        WorkflowValidationError: If the signature of a step is wrong. All faults are in the message.
    """
    version, graph = cls.__dict__.get("_read_graph", (None, None))
    if graph is None or version != _times_added:
        specs, faults = (
            [],
            [
                f"step '{name}' is a {kind}; make it a method, or a free function with @step(workflow={cls.__name__})"
                for name, kind in _unbound_steps(cls)
            ],
        )
        for function, in_workflow in find_steps(cls).values():
            try:
                specs.append(read_step(function, in_workflow=in_workflow, owner=cls))
            except WorkflowValidationError as error:
                faults += str(error).splitlines()
        if faults:
            raise WorkflowValidationError(f"{cls.__name__} cannot work:\n" + "\n".join(f"  - {f}" for f in faults))
        graph = Graph(
            cls.__name__, specs, _find_functions(cls, root), inspect.cleandoc(cls.__doc__) if cls.__doc__ else None
        )
        cls._read_graph = (_times_added, graph)
    return cast("Graph", graph)

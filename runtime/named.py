"""What a workflow names: the classes that a snapshot of it may build, and the workflows that its steps may run.

Code names a class by its name or through a closure. A workflow is also named by an attribute of the workflow object.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import Any, TypeGuard

from pydantic import BaseModel

from greenroom.codec import TypeRegistry, global_registry, reachable_classes
from greenroom.errors import WorkflowValidationError
from greenroom.events import (
    CollectionReleaseEvent,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    NeverEvent,
    StartEvent,
    StepFailedEvent,
    StopEvent,
    WorkflowCancelledEvent,
    WorkflowFailedEvent,
    WorkflowTimedOutEvent,
)
from greenroom.graph import Graph, GraphOwner
from greenroom.state import DictState

__all__ = ["graph_of", "graphs_named_by", "graphs_named_in", "names_in", "registry_for", "registry_of"]

_DATA = (BaseModel, Enum, BaseException)


def registry_for(*graphs: Graph) -> TypeRegistry:
    """Return the classes that a snapshot of these workflows may build: what their annotations and code name."""
    named: list[Any] = [StartEvent, StopEvent, InputRequiredEvent, HumanResponseEvent, Event, DictState]
    named += [CollectionReleaseEvent, NeverEvent, StepFailedEvent]
    named += [WorkflowCancelledEvent, WorkflowFailedEvent, WorkflowTimedOutEvent]
    for graph in graphs:
        named += graph.events
        if graph.state_type is not None:
            named.append(graph.state_type)
        for function in graph.functions:
            named += _classes_in(function)
    # What code names may change while it runs, as in a notebook, and so may what is registered. Both are quickly seen,
    # while to follow the annotations takes longer than to write a small snapshot.
    key = (tuple(named), global_registry.registered)
    kept = graphs[0].snapshot_registry
    if kept is None or kept[0] != key:
        classes = [cls for cls in reachable_classes(*named) if cls not in global_registry]
        kept = graphs[0].snapshot_registry = (key, global_registry.child(classes))
    registry: TypeRegistry = kept[1]
    return registry


def registry_of(workflow: Any) -> TypeRegistry:
    """Return the classes that a snapshot of a workflow, and of those that its steps may run, may build."""
    return registry_for(*graphs_named_by(workflow))


def graphs_named_by(workflow: Any) -> list[Graph]:
    """Return the graphs of the workflows that a workflow's steps may run, and that theirs may run, as far as it shows.

    Args:
        workflow: A workflow. Those that its attributes hold are looked into as well, also in lists and dicts.
    """
    found: dict[int, Graph] = {}
    pending: list[Any] = [workflow]
    while pending:
        value = pending.pop()
        graph = graph_of(value)
        if graph is None:
            continue
        if not _is_class(value):
            pending += _flattened(vars(value).values())
        if id(graph) not in found:
            found[id(graph)] = graph
            for function in graph.functions:
                pending += _in_calls(function)
    return list(found.values())


def graphs_named_in(function: types.FunctionType) -> list[Graph]:
    """Return the graphs of the workflows that the code of a step or of a helper names.

    So too that of the functions of its package that it calls.
    """
    return [graph for value in _in_calls(function) if (graph := graph_of(value)) is not None]


def graph_of(value: Any) -> Graph | None:
    """Return the graph of a workflow, or of a class of workflows; None of anything else.

    No code of the value runs: a proxy, as web frameworks have them, may raise whatever is asked of it.
    """
    if not _is_class(value):
        return vars(value).get("_graph") if issubclass(type(value), GraphOwner) else None
    if not issubclass(value, GraphOwner):
        return None
    try:
        return value._class_graph()
    except WorkflowValidationError:
        return None  # A base without steps of its own; nothing can run it.


def _is_class(value: Any) -> TypeGuard[type[Any]]:
    return issubclass(type(value), type)  # isinstance asks the value itself as well


def _flattened(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if issubclass(type(value), Mapping):
            yield from value.values()
        elif issubclass(type(value), list | tuple | set | frozenset):
            yield from value
        else:
            yield value


def _classes_in(function: types.FunctionType) -> Iterator[type[Any]]:
    """Return the classes of data that a function's code names, and that of the functions of its package it calls."""
    for value in _in_calls(function):
        if _is_class(value) and (issubclass(value, _DATA) or dataclasses.is_dataclass(value)):
            yield value


def _in_calls(function: types.FunctionType) -> Iterator[Any]:
    """Return what a function's code names, and that of the functions of its package it calls."""
    package = _package(function)
    seen, todo = {function}, [function]
    while todo:
        for value in _values_named_in(todo.pop()):
            yield value
            if type(value) is types.FunctionType and value not in seen and _package(value) == package:
                seen.add(value)
                todo.append(value)


def _values_named_in(function: types.FunctionType) -> Iterator[Any]:
    """Return what a function's code names among its module's globals, in modules that it names, and in its closure."""
    names = set(names_in(function.__code__))
    for name in names & function.__globals__.keys():
        value = function.__globals__[name]
        yield value
        if type(value) is types.ModuleType:
            there = vars(value)
            yield from (there[attribute] for attribute in names & there.keys())
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:
            continue  # The closure's variable has no value yet.


def _package(function: types.FunctionType) -> str:
    return (function.__module__ or "").partition(".")[0]


def names_in(code: types.CodeType) -> Iterator[str]:
    """Return the names of globals, attributes and methods in some code, and in the functions within it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from names_in(constant)

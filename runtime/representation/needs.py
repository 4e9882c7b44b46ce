"""What steps need besides events: resources, configurations, and the workflows that they run."""

from __future__ import annotations

import ast
import inspect
import types
import typing
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from greenroom.graph import Graph
from greenroom.named import graph_of, graphs_named_in, names_in
from greenroom.representation.body import parse, value_of
from greenroom.representation.nodes import (
    WorkflowChildNode,
    WorkflowGraphEdge,
    WorkflowResourceConfigNode,
    WorkflowResourceNode,
)
from greenroom.resources import Dependency, Resource
from greenroom.steps import step_options

__all__ = ["ChildNodes", "ResourceNodes", "schema_of"]


class ResourceNodes:
    """The resources of a workflow: one node for each factory and scope, or for each part of a file.

    Attributes:
        nodes: By what tells resources apart.
        edges: From steps and factories to what they take.
    """

    def __init__(self) -> None:
        self.nodes: dict[Hashable, WorkflowResourceNode | WorkflowResourceConfigNode] = {}
        self.edges: list[WorkflowGraphEdge] = []
        self._ids: dict[str, int] = {}

    def add(self, taker: str, dependencies: Iterable[Dependency]) -> None:
        """Add what a step or a factory takes, and what that takes."""
        todo = [(taker, dependency) for dependency in dependencies]
        for source, dependency in todo:
            key = _key(dependency)
            is_new = key not in self.nodes
            if is_new:
                self.nodes[key] = self._make(dependency)
            target = self.nodes[key].id
            edge = WorkflowGraphEdge(source=source, target=target, kind="uses", label=dependency.parameter)
            if edge not in self.edges:
                self.edges.append(edge)
            if is_new:
                todo += [(target, inner) for inner in dependency.dependencies]

    def _make(self, dependency: Dependency) -> WorkflowResourceNode | WorkflowResourceConfigNode:
        marker = dependency.marker
        kind = _type_name(dependency.annotation)
        if isinstance(marker, Resource):
            return WorkflowResourceNode(
                id=self._id(f"resource:{marker.name}"),
                label=kind or marker.name,
                description=inspect.getdoc(marker.factory) if inspect.isroutine(marker.factory) else None,
                type_name=kind,
                getter_name=marker.name,
                scope=marker.scope,
            )
        return WorkflowResourceConfigNode(
            id=self._id(f"resource_config:{marker.name}"),
            label=marker.label or kind or marker.name,
            description=marker.description,
            type_name=kind,
            config_file=marker.config_file,
            path_selector=marker.path_selector,
            config_schema=schema_of(dependency.annotation),
        )

    def _id(self, name: str) -> str:
        """Return an id: two lambdas have one name."""
        self._ids[name] = count = self._ids.get(name, 0) + 1
        return name if count == 1 else f"{name}#{count}"


class ChildNodes:
    """The workflows that steps run, and those that these run: one node for each.

    Attributes:
        nodes: By the identity of the graph.
        edges: From steps and workflows to the workflows that they run.
    """

    def __init__(self) -> None:
        self.nodes: dict[int, WorkflowChildNode] = {}
        self.edges: list[WorkflowGraphEdge] = []
        self._ids: dict[str, int] = {}

    def add(self, step: str, function: Any, functions: Iterable[Any]) -> None:
        """Add the workflows that a step runs, and that theirs run."""
        todo = [(step, graph) for graph in _run_by(function, tuple(functions))]
        for source, graph in todo:
            is_new = id(graph) not in self.nodes
            if is_new:
                self.nodes[id(graph)] = self._make(graph)
            target = self.nodes[id(graph)].id
            self.edges.append(WorkflowGraphEdge(source=source, target=target, kind="runs"))
            if is_new:
                inner = {id(g): g for one in _steps_in(graph) for g in _run_by(one, graph.functions)}
                todo += [(target, child) for child in inner.values()]

    def _make(self, graph: Graph) -> WorkflowChildNode:
        self._ids[graph.name] = count = self._ids.get(graph.name, 0) + 1
        return WorkflowChildNode(
            id=f"workflow:{graph.name}" if count == 1 else f"workflow:{graph.name}#{count}",
            label=graph.name,
            description=graph.description,
            steps=[spec.signature() for spec in graph.steps.values()],
        )


def _steps_in(graph: Graph) -> list[Any]:
    return [function for function in graph.functions if step_options(function) is not None]


def _run_by(function: Any, functions: tuple[Any, ...]) -> list[Graph]:
    """Return the workflows that a step names, and the methods that it calls, or that `__init__` put where it reads."""
    methods = {method.__name__: method for method in reversed(functions) if step_options(method) is None}
    kept = _kept_by_init(functions)
    found: dict[int, Graph] = {}
    todo = [function] if isinstance(function, types.FunctionType) else []
    for code in todo:
        names = set(names_in(inspect.unwrap(code).__code__))
        graphs = graphs_named_in(code) + [graph for name in names for graph in kept.get(name, ())]
        found.update((id(graph), graph) for graph in graphs)
        todo += [methods[name] for name in names if name in methods and methods[name] not in todo]
    return sorted(found.values(), key=lambda graph: graph.name)


def _kept_by_init(functions: Iterable[Any]) -> Mapping[str, list[Graph]]:
    """Return the workflows that the constructors put into attributes, by the attribute's name."""
    kept: dict[str, list[Graph]] = {}
    for function in functions:
        tree = parse(function) if function.__name__ == "__init__" else None
        if tree is None:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                named = [value_of(function, part.id) for part in ast.walk(node.value) if isinstance(part, ast.Name)]
                graphs = [graph for value in named if (graph := graph_of(value)) is not None]
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    if isinstance(target, ast.Attribute):
                        kept.setdefault(target.attr, []).extend(graphs)
    return kept


def _key(dependency: Dependency) -> Hashable:
    marker = dependency.marker
    if isinstance(marker, Resource):
        return dependency.key, marker.scope
    return marker.config_file, marker.path_selector, _type_name(dependency.annotation)


def _type_name(annotation: Any) -> str | None:
    return None if annotation is None else _written(annotation)


def _written(hint: Any) -> str:
    """Return a type as it is written, without modules and metadata."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _written(parts[0])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(_written, parts))
    if hint is types.NoneType:
        return "None"
    name = getattr(origin or hint, "__name__", None) or str(hint)
    is_generic = origin is not None and all(isinstance(part, type | types.GenericAlias) for part in parts)
    return f"{name}[{', '.join(map(_written, parts))}]" if is_generic else name


def schema_of(annotation: Any) -> dict[str, Any] | None:
    """Return the JSON schema of a type, or None if JSON cannot show it."""
    try:
        return TypeAdapter(annotation).json_schema()
    except PydanticUserError:
        return None

"""The fingerprint of a graph: what its steps take and return, and how it differs from that of another time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from greenroom.codec import TypeRegistry, global_registry
from greenroom.codec.registry import default_name
from greenroom.collect import Collect, Join
from greenroom.errors import ContextSerdeError
from greenroom.events import Event
from greenroom.graph import Graph
from greenroom.steps import StepSpec

__all__ = ["check_graph", "find_graphs", "graph_differences", "graphs_told", "stored_name", "taken_down"]


_CLASS_NAME = re.compile(r"[^\s\[\]]+:[^\s\[\]]+")


def taken_down(graph: Graph) -> dict[str, Any]:
    """Return what is to be known of a graph to see later whether it has changed: what its steps take and return."""
    return {
        name: [
            _taken(spec),
            sorted(map(stored_name, spec.returns)) + _listed(spec.returns_lists_of),
        ]
        for name, spec in graph.steps.items()
    }


def _taken(spec: StepSpec) -> list[str]:
    if isinstance(spec.gather, Collect):
        return _listed(spec.accepts)
    if isinstance(spec.gather, Join):
        return [" and ".join(map(stored_name, spec.gather.classes))]
    return sorted(map(stored_name, spec.accepts))


def _listed(classes: tuple[type[Event], ...]) -> list[str]:
    return [f"list[{name}]" for name in sorted(map(stored_name, classes))]


def stored_name(cls: type[Any]) -> str:
    """Return the name under which a class is stored."""
    return global_registry.name_of(cls) or default_name(cls)


def graph_differences(graph: Graph, then: Any, registry: TypeRegistry) -> list[str]:
    """Return how the graph differs from what was taken down of it, a sentence each.

    Raises:
        ContextSerdeError: If that does not say what the steps were.
    """
    now = taken_down(graph)
    if then == now:
        return []
    try:
        return list(_differences(_renamed(then, registry), now))
    except (TypeError, ValueError, AttributeError) as error:
        raise ContextSerdeError(f"the snapshot of {graph.name} names no steps: {error}") from error


def check_graph(then: Any, graph: Graph, registry: TypeRegistry) -> None:
    """Raise ContextSerdeError, with the differences, if a graph is another than that of then."""
    differences = graph_differences(graph, then, registry)
    if differences:
        listed = "\n".join(f"  - {line}" for line in differences)
        raise ContextSerdeError(f"{graph.name} has changed since the snapshot was taken:\n{listed}")


def _renamed(then: dict[str, Any], registry: TypeRegistry) -> dict[str, Any]:
    """Return the steps as they were, with the names that their classes have now."""

    def name_now(match: re.Match[str]) -> str:
        cls = registry.get(match[0])
        return match[0] if cls is None else stored_name(cls)

    def listed_now(listed: str) -> str:
        return _CLASS_NAME.sub(name_now, listed)

    return {step: [sorted(map(listed_now, names)) for names in lists] for step, lists in then.items()}


def _differences(then: Any, now: dict[str, Any]) -> Iterator[str]:
    for step in sorted({*then, *now}):
        if step not in now:
            yield f"step '{step}' is gone"
        elif step not in then:
            yield f"step '{step}' is new"
        elif then[step] != [sorted(names) for names in now[step]]:
            for verb, old, new in zip(("accepts", "returns"), then[step], now[step], strict=False):
                if old != sorted(new):
                    yield f"step '{step}' {verb} {', '.join(new) or 'nothing'}; it was {', '.join(old) or 'nothing'}"


def find_graphs(document: Any, named: Sequence[Graph], outer: Graph, registry: TypeRegistry) -> list[Graph]:
    """Return the graphs of the runs within that of a snapshot, in the order in which its head tells of them.

    Raises:
        ContextSerdeError: If one of them is not named, or has changed since the snapshot was taken.
    """
    return [_find_graph(name, then, named, outer, registry) for name, then in graphs_told(document)]


def _find_graph(name: Any, then: Any, named: Sequence[Graph], outer: Graph, registry: TypeRegistry) -> Graph:
    graphs = [graph for graph in named if graph.name == name]
    if not graphs:
        raise ContextSerdeError(
            f"the snapshot of {outer.name} holds a run of {name}, which the code of {outer.name} does not name: name it"
            " in the code of a step, or keep it in an attribute of the workflow"
        )
    for graph in graphs:
        if taken_down(graph) == then:
            return graph
    check_graph(then, graphs[0], registry)
    return graphs[0]


def graphs_told(document: Any) -> list[Any]:
    """Return the names of the graphs that a head tells of within its run, each with what it was."""
    pairs = document.get("within") if isinstance(document, dict) else None
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise ContextSerdeError("the snapshot does not tell of which workflows the runs within it are")
    return pairs

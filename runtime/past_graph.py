"""The graph of a workflow as it was when a checkpoint was taken.

The journal tells what happened, not what followed from it: events go to the steps that took them then, and workers are
given out as there were then. So the journal of an unfinished run is replayed with the graph that it was written with,
made of what the checkpoint says of it; the runs within it with theirs. Step functions are not part of it, nor are retry
policies, which are code.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from greenroom.codec import TypeRegistry
from greenroom.collect import All, Collect, Gather, Join, Take
from greenroom.errors import ContextSerdeError, WorkflowValidationError
from greenroom.events import Event, StartEvent, StopEvent
from greenroom.fingerprint import graph_differences
from greenroom.graph import Graph
from greenroom.steps import DEFAULT_WORKERS, Catch, StepOptions, StepSpec

__all__ = ["PastGraphs", "dump_steps", "past_graph", "present_graph"]


def dump_steps(graph: Graph) -> dict[str, list[Any]]:
    """Return what replaying needs to know of the steps beside what they accept and return, where it is not usual."""
    listed = {spec.name: _dump_step(spec) for spec in graph.steps.values()}
    return {name: item for name, item in listed.items() if item != _USUAL}


_USUAL: list[Any] = [DEFAULT_WORKERS, False, None, None]


def _dump_step(spec: StepSpec) -> list[Any]:
    gather: Any = None
    if isinstance(spec.gather, Join):
        gather = [f"{cls.__module__}:{cls.__qualname__}" for cls in spec.gather.classes]
    elif isinstance(spec.gather, Collect):
        gather = spec.gather.limit or 0
    catches = spec.options.catches
    caught = None if catches is None else [catches.for_steps and list(catches.for_steps), catches.max_recoveries]
    return [spec.options.num_workers, spec.options.accept_event_subclasses, gather, caught]


def past_graph(graph: Graph, then: Any, steps: Any, registry: TypeRegistry) -> Graph:
    """Return the graph as it was: the one that is given, if it is the same.

    Args:
        graph: The graph as it is.
        then: What the steps accepted and returned, from the head of the checkpoint.
        steps: What `dump_steps` returned then.
        registry: The classes that may be named.

    Raises:
        ContextSerdeError: If the graph of then cannot be made of what there is now.
        TypeError, ValueError, AttributeError: If it is not told as it is told.
    """
    if not graph_differences(graph, then, registry) and steps == dump_steps(graph):
        return graph
    classes = _Classes(registry)
    try:
        return _PastGraph(
            graph, [_past_step(graph, name, then[name], steps.get(name, _USUAL), classes) for name in then]
        )
    except WorkflowValidationError as error:
        gone = f"; classes that are gone: {', '.join(sorted(classes.gone))}" if classes.gone else ""
        raise ContextSerdeError(f"the graph of {graph.name} cannot be made as it was: {error}{gone}") from error


def present_graph(graph: Graph) -> Graph:
    """Return the graph as it is now of one that is, or was."""
    return graph.now if isinstance(graph, _PastGraph) else graph


class PastGraphs:
    """Finds the graphs of runs within a run as they were. One that was found before is the same object again.

    Args:
        named: The graphs of the workflows that runs within the run may be of, as they are.
        registry: The classes that may be named.
    """

    def __init__(self, named: Sequence[Graph], registry: TypeRegistry) -> None:
        self._named = named
        self._registry = registry
        self._made: dict[str, Graph] = {}

    def find(self, name: Any, then: Any, steps: Any) -> Graph:
        """Return the graph of a name as it was: one of those that are given, if one is the same.

        Args:
            name: The name of its workflow.
            then: What the steps accepted and returned.
            steps: What `dump_steps` returned then.

        Raises:
            ContextSerdeError: If no graph has this name, or the graph of then cannot be made of what there is now.
            TypeError, ValueError, AttributeError: If it is not told as it is told.
        """
        graphs = [graph for graph in self._named if graph.name == name]
        if not graphs:
            raise ContextSerdeError(
                f"there is a run of {name} within the run, which the workflow's code does not name: name it in the code"
                " of a step, or keep it in an attribute of the workflow"
            )
        key = json.dumps([name, then, steps], sort_keys=True)
        made = self._made.get(key)
        if made is None:
            alike = (graph for graph in graphs if past_graph(graph, then, steps, self._registry) is graph)
            made = self._made[key] = next(alike, None) or past_graph(graphs[0], then, steps, self._registry)
        return made


class _PastGraph(Graph):
    """A graph whose ends need not be there any more: no run begins in it."""

    def __init__(self, graph: Graph, steps: list[StepSpec]) -> None:
        self.now = graph
        self._ends = graph.start_event_class, graph.stop_event_class
        super().__init__(graph.name, steps, graph.functions, graph.description)

    def _find_ends(self) -> tuple[type[StartEvent], type[StopEvent]]:
        return self._ends


class _Classes:
    """Finds classes by name. One that is gone has a stand-in, of which there are no instances."""

    def __init__(self, registry: TypeRegistry) -> None:
        self._registry = registry
        self.gone: dict[str, type[Event]] = {}

    def find(self, name: str) -> type[Event]:
        cls = self._registry.get(name)
        if cls is not None and issubclass(cls, Event):
            return cls
        return self.gone.setdefault(name, type(name.rpartition(":")[2], (Event,), {}))


def _past_step(graph: Graph, name: str, lists: Any, item: Any, classes: _Classes) -> StepSpec:
    accepts, returns = ([str(each) for each in each_list] for each_list in lists)
    workers, subclasses, gather, caught = item
    spec = graph.steps.get(name) or _gone_step(name)
    catches = None if caught is None else Catch(None if caught[0] is None else tuple(caught[0]), int(caught[1]))
    return dataclasses.replace(
        spec,
        accepts=tuple(classes.find(name) for each in accepts for name in _bare(each).split(" and ")),
        returns=tuple(classes.find(each) for each in returns if each == _bare(each)),
        returns_lists_of=tuple(classes.find(_bare(each)) for each in returns if each != _bare(each)),
        gather=_read_gather(gather, spec, classes),
        options=dataclasses.replace(
            spec.options, num_workers=int(workers), accept_event_subclasses=bool(subclasses), catches=catches
        ),
    )


def _gone_step(name: str) -> StepSpec:
    options = StepOptions(DEFAULT_WORKERS, None, None, frozenset(), False, _NO_NAMES)
    return StepSpec(name, False, "ev", None, (), (), True, None, options, True)


_NO_NAMES: Mapping[str, Any] = {}


def _read_gather(gather: Any, spec: StepSpec, classes: _Classes) -> Gather | None:
    if gather is None:
        return None
    if isinstance(gather, list):
        parameters = spec.gather.parameters if isinstance(spec.gather, Join) else ()
        return Join(parameters, tuple(classes.find(str(name)) for name in gather))
    return Collect(Take(gather) if gather else All())


def _bare(name: str) -> str:
    return name.removeprefix("list[").removesuffix("]") if name.startswith("list[") else name

"""From what the engine knows of a workflow to the graph that users see."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Literal

from greenroom.events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StepFailedEvent, StopEvent
from greenroom.graph import Graph
from greenroom.representation.body import BodyFacts, function_of, read_body
from greenroom.representation.graph import WorkflowGraph
from greenroom.representation.needs import ChildNodes, ResourceNodes, schema_of
from greenroom.representation.nodes import (
    EdgeKind,
    WorkflowEventNode,
    WorkflowExternalNode,
    WorkflowGraphEdge,
    WorkflowGraphNode,
    WorkflowStepNode,
)
from greenroom.steps import StepSpec

__all__ = ["PERSON", "SENDER", "build_graph", "mark_loops"]

PERSON = "external_step"  # who is asked; for questions asked in the body of a step: `external_step.<step>`
SENDER = "external_sender"


def build_graph(graph: Graph) -> WorkflowGraph:
    """Return the graph of a workflow, for users to read and to draw.

    Args:
        graph: What the engine knows.
    """
    return _Builder(graph).build()


class _Builder:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._bodies = {spec.name: read_body(spec, graph.functions) for spec in graph.steps.values()}
        self._nodes: dict[str, WorkflowGraphNode] = {}
        self._edges: dict[tuple[str, str], WorkflowGraphEdge] = {}
        self._classes: dict[str, type[Event]] = {}
        self._made: set[str] = set()
        # A step may bear the name.
        self._person = PERSON + "_" * (PERSON in graph.steps)
        self._sender = SENDER + "_" * (SENDER in graph.steps)

    def build(self) -> WorkflowGraph:
        graph = self._graph
        for spec in graph.steps.values():
            self._nodes[spec.name] = self._step_node(spec, self._bodies[spec.name])
        for cls in graph.events:
            self._add_class(cls)
        for name, body in self._bodies.items():
            self._link_step(graph.steps[name], body)
        for event_id, cls in self._classes.items():
            for spec in graph.route(cls):
                self._link(event_id, spec.name, "accepts")
        self._link_outside()
        for event_id, cls in self._classes.items():
            self._nodes[event_id] = self._event_node(event_id, cls)
        self._link_needs()
        edges = sorted(self._edges.values(), key=lambda edge: (edge.source, edge.target))
        order = _flow_order(self._nodes, edges, [graph.event_id(graph.start_event_class), *self._nodes])
        nodes = [self._nodes[node_id] for node_id in order]
        edges.sort(key=lambda edge: (order[edge.source], order[edge.target]))
        mark_loops(nodes, edges)
        return WorkflowGraph(
            name=graph.name,
            nodes=nodes,
            edges=edges,
            description=_docstring(graph.description),
            faults=graph.find_faults(),
        )

    # -- edges ---------------------------------------------------------------------------------------------------------

    def _link(self, source: str, target: str, kind: EdgeKind, many: bool = False) -> None:
        self._edges.setdefault((source, target), WorkflowGraphEdge(source=source, target=target, kind=kind, many=many))

    def _add_class(self, cls: type[Event]) -> str:
        event_id = self._graph.event_id(cls)
        self._classes.setdefault(event_id, cls)
        return event_id

    def _link_step(self, spec: StepSpec, body: BodyFacts) -> None:
        for cls in spec.emits:
            event_id = self._graph.event_id(cls)
            self._link(spec.name, event_id, "returns", body.sends.get(cls, False) or cls in spec.returns_lists_of)
            self._made.add(event_id)
        for cls, many in body.sends.items():
            event_id = self._add_class(cls)
            self._link(spec.name, event_id, "sends", many)
            self._made.add(event_id)
        for cls in body.awaits:
            self._link(self._add_class(cls), spec.name, "awaits")
        if body.questions:
            person = self._add_person(f"{PERSON}.{spec.name}", body.questions, body.answers)
            self._link(spec.name, person, "asks")
            self._link(person, spec.name, "answers")
        # The failures of steps that a handler names; lines from every step would hide all others.
        handler = self._graph.handlers.get(spec.name)
        if handler is not None and handler.options.catches is not None and handler.options.catches.for_steps:
            self._link(spec.name, self._graph.event_id(StepFailedEvent), "fails")

    def _add_person(self, node_id: str, questions: Iterable[type[Event]], answers: Iterable[type[Event]]) -> str:
        self._nodes[node_id] = WorkflowExternalNode(
            id=node_id,
            label="a person",
            questions=[cls.__name__ for cls in questions],
            answers=[cls.__name__ for cls in answers],
        )
        return node_id

    def _link_outside(self) -> None:
        """Link the events that no step makes, and the questions that are not answered where they are asked."""
        questions = {e: c for e, c in self._classes.items() if e in self._made and issubclass(c, InputRequiredEvent)}
        unmade = {e: c for e, c in self._classes.items() if e not in self._made}
        answers = {e: c for e, c in unmade.items() if issubclass(c, HumanResponseEvent)}
        if questions or answers:
            self._add_person(self._person, questions.values(), answers.values())
            for event_id in questions:
                self._link(event_id, self._person, "asks")
            for event_id in answers:
                self._link(self._person, event_id, "answers")
        for event_id, cls in unmade.items():
            if issubclass(cls, StartEvent | StepFailedEvent | StopEvent | HumanResponseEvent):
                continue
            bases = [base for base in self._made if issubclass(cls, self._classes[base])]
            for base in bases:
                self._link(base, event_id, "extends")
            if not bases:
                self._nodes.setdefault(
                    self._sender, WorkflowExternalNode(id=self._sender, label="somebody outside", role="sender")
                )
                self._link(self._sender, event_id, "sends")

    def _link_needs(self) -> None:
        """Link the resources that steps take, and the workflows that they run."""
        resources, children = ResourceNodes(), ChildNodes()
        for spec in self._graph.steps.values():
            resources.add(spec.name, spec.dependencies)
            children.add(spec.name, function_of(spec, self._graph.functions), self._graph.functions)
        for node in (*resources.nodes.values(), *children.nodes.values()):
            self._nodes[node.id] = node
        for edge in (*resources.edges, *children.edges):
            self._edges.setdefault((edge.source, edge.target), edge)

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def _step_node(self, spec: StepSpec, body: BodyFacts) -> WorkflowStepNode:
        asks = bool(body.questions) or any(issubclass(cls, InputRequiredEvent) for cls in (*spec.emits, *body.sends))
        function = function_of(spec, self._graph.functions)
        policy, catches = spec.options.retry_policy, spec.options.catches
        caught = [name for name, handler in self._graph.handlers.items() if handler is spec]
        return WorkflowStepNode(
            id=spec.name,
            label=spec.name,
            description=_docstring(inspect.getdoc(function)),
            signature=spec.signature(),
            is_async=spec.is_async,
            num_workers=spec.options.num_workers,
            retry_policy=None if policy is None else repr(policy),
            timeout=spec.options.timeout,
            asks_people=asks,
            fans_out=body.fans_out or bool(spec.returns_lists_of),
            collects=body.collects or spec.gather is not None,
            catches=None if catches is None else sorted(caught),
        )

    def _event_node(self, event_id: str, cls: type[Event]) -> WorkflowEventNode:
        makers = {edge.source for edge in self._edges.values() if edge.target == event_id}
        return WorkflowEventNode(
            id=event_id,
            label=cls.__name__,
            description=_docstring(inspect.cleandoc(cls.__doc__)) if cls.__doc__ else None,
            event_type=cls.__name__,
            event_types=[base.__name__ for base in cls.__mro__ if issubclass(base, Event)],
            event_schema=schema_of(cls),
            produced_by=[name for name in self._graph.steps if name in makers],
            role=_role(cls),
        )


def _docstring(text: str | None) -> str | None:
    """Return a docstring without halves of surrogate pairs, which no JSON can hold."""
    return None if text is None else text.encode(errors="replace").decode()


def _role(cls: type[Event]) -> Literal["start", "stop", "question", "answer", "plain"]:
    if issubclass(cls, StartEvent):
        return "start"
    if issubclass(cls, StopEvent):
        return "stop"
    if issubclass(cls, InputRequiredEvent):
        return "question"
    return "answer" if issubclass(cls, HumanResponseEvent) else "plain"


def _flow_order(nodes: Iterable[str], edges: Iterable[WorkflowGraphEdge], entries: Iterable[str]) -> dict[str, int]:
    """Return the place of each node when the graph is walked breadth first from the entries, one after the other."""
    followers: dict[str, list[str]] = {node_id: [] for node_id in nodes}
    for edge in edges:
        followers[edge.source].append(edge.target)
    order: dict[str, int] = {}
    for entry in entries:
        queue = [] if entry in order else [entry]
        order.setdefault(entry, len(order))
        for node_id in queue:
            for follower in followers[node_id]:
                if follower not in order:
                    order[follower] = len(order)
                    queue.append(follower)
    return order


def mark_loops(nodes: Iterable[WorkflowGraphNode], edges: Iterable[WorkflowGraphEdge]) -> None:
    """Mark the edges that lead back to where a walk through the graph has come from.

    A step that waits in its body for what it caused goes on where it stands; that is no loop.
    """
    leaving: dict[str, list[WorkflowGraphEdge]] = {node.id: [] for node in nodes}
    for edge in edges:
        if edge.kind != "awaits" and (edge.source, edge.kind) != (f"{PERSON}.{edge.target}", "answers"):
            leaving[edge.source].append(edge)
    left: set[str] = set()
    entered: set[str] = set()
    for start in leaving:
        way = [start] if start not in entered else []
        entered.update(way)
        rest = [iter(leaving[node_id]) for node_id in way]
        while way:
            following = next(rest[-1], None)
            if following is None:
                left.add(way.pop())
                rest.pop()
            elif following.target in entered:
                following.is_loop = following.target not in left
            else:
                entered.add(following.target)
                way.append(following.target)
                rest.append(iter(leaving[following.target]))

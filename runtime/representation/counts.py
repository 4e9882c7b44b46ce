"""What a run has done, put on the graph of its workflow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from greenroom.graph import Graph
from greenroom.representation.build import build_graph, mark_loops
from greenroom.representation.graph import WorkflowGraph
from greenroom.representation.nodes import (
    EdgeKind,
    StepCounts,
    WorkflowChildNode,
    WorkflowEventNode,
    WorkflowExternalNode,
    WorkflowGraphEdge,
    WorkflowStepNode,
)
from greenroom.run_state import RunState
from greenroom.tally import event_name

__all__ = ["RunCounts", "add_counts", "count"]


@dataclass(slots=True)
class RunCounts:
    """The counts of a run, by the names that the graph has.

    Attributes:
        run_id: The run.
        status: How it stands.
        steps: The counts of each step that was reached.
        taken: How many events each step took, by event and step.
        made: How many it returned or sent, by step and event.
        awaited: How many it waited for in its body, by event and step.
        asked: How many questions its body asked.
        answered: How many of these were answered.
        ran: How many runs its body began, by step and the name of their workflow.
        outside: How many events came from outside, by event.
    """

    run_id: str
    status: str
    steps: dict[str, StepCounts] = field(default_factory=dict)
    taken: Counter[tuple[str, str]] = field(default_factory=Counter)
    made: Counter[tuple[str, str]] = field(default_factory=Counter)
    awaited: Counter[tuple[str, str]] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    ran: Counter[tuple[str, str]] = field(default_factory=Counter)
    outside: Counter[str] = field(default_factory=Counter)


def count(state: RunState) -> RunCounts:
    """Return the counts of a run. Its cost grows with what is going on, not with what has been."""
    graph = state.graph
    counts = RunCounts(state.run_id, "running" if state.outcome is None else state.outcome.status)
    counts.steps = {name: StepCounts() for name in graph.steps}
    for step, taken, returned, number in state.tally.all_finished():
        counts.steps[step].finished += number
        counts.steps[step].started += number
        counts.taken[event_name(graph, taken) or "", step] += number
        made = event_name(graph, returned)
        if made is not None:
            counts.made[step, made] += number
    for (deed, step, key), number in state.tally.deeds.items():
        name = event_name(graph, key) or ""
        if deed == "sent":
            counts.made[step, name] += number
        elif deed == "gathered":
            counts.taken[name, step] += number
        elif deed == "awaited":
            counts.awaited[name, step] += number
        elif deed == "outside":
            counts.outside[name] += number
        elif deed == "asked":
            counts.asked[step] += number
        elif deed == "answered":
            counts.answered[step] += number
        elif deed == "ran":
            counts.ran[step, name] += number
        elif deed == "retried":
            counts.steps[step].retried += number
        else:
            counts.taken[name, step] += number
            counts.steps[step].failed += number * (deed in ("failed", "caught"))
            counts.steps[step].caught += number * (deed == "caught")
            counts.steps[step].cut_off += number * (deed == "cut_off")
            counts.steps[step].started += number * (deed != "dropped")
    for invocation in state.invocations.values():
        at = counts.steps[invocation.spec.name]
        counts.taken[graph.event_id(type(invocation.event)), invocation.spec.name] += 1
        at.started += invocation.first_started_at is not None
        if invocation.worker is not None:
            at.running += 1
        elif any(wait.state == "open" for wait in (invocation.waits or {}).values()):
            at.waiting += 1
        else:
            at.queued += 1
    return counts


def add_counts(graph: Graph, counts: RunCounts) -> WorkflowGraph:
    """Return the graph of a workflow with the counts of a run.

    Args:
        graph: What the engine knows of the workflow.
        counts: What `count` returned.
    """
    drawn = build_graph(graph)
    for node in drawn.nodes:
        if isinstance(node, WorkflowStepNode):
            node.counts = counts.steps[node.id]
    _add_unforeseen(drawn, counts)
    kinds = {node.id: type(node) for node in drawn.nodes}
    questions: Counter[str] = Counter()
    for (_, event), number in counts.made.items():
        questions[event] += number
    for edge in drawn.edges:
        is_outside = kinds[edge.source] is WorkflowExternalNode
        if edge.kind == "accepts":
            edge.count = counts.taken[edge.source, edge.target]
        elif edge.kind == "awaits":
            edge.count = counts.awaited[edge.source, edge.target]
        elif edge.kind == "asks":
            is_in_body = kinds[edge.source] is WorkflowStepNode
            edge.count = counts.asked[edge.source] if is_in_body else questions[edge.source]
        elif edge.kind == "answers" and kinds[edge.target] is WorkflowStepNode:
            edge.count = counts.answered[edge.target]
        elif edge.kind == "fails":
            edge.count = counts.steps[edge.source].caught
        elif is_outside:
            edge.count = counts.outside[edge.target]
        elif edge.kind in ("returns", "sends"):
            edge.count = counts.made[edge.source, edge.target]
    _count_runs(drawn, counts)
    _leave_out_of_reach(drawn)
    return drawn.model_copy(update={"run_id": counts.run_id, "status": counts.status})


def _count_runs(drawn: WorkflowGraph, counts: RunCounts) -> None:
    """Say how many runs each step has begun of a workflow, unless another one of the same name stands beside it."""
    children = {node.id: node.label for node in drawn.nodes if isinstance(node, WorkflowChildNode)}
    alike = Counter(children.values())
    for edge in drawn.edges:
        name = children.get(edge.target, "")
        if edge.source not in children and alike[name] == 1:
            edge.count = counts.ran[edge.source, name]


def _leave_out_of_reach(drawn: WorkflowGraph) -> None:
    """Say of what only steps need that were not reached that it was not needed; how often it was is not counted."""
    needs = [edge for edge in drawn.edges if edge.kind in ("uses", "runs")]
    todo = [n.id for n in drawn.nodes if isinstance(n, WorkflowStepNode) and n.counts is not None and n.counts.started]
    reached = set(todo)
    for source in todo:
        further = {edge.target for edge in needs if edge.source == source and edge.count != 0} - reached
        reached |= further
        todo += sorted(further)
    for edge in needs:
        if edge.source not in reached:
            edge.count = 0


def _add_unforeseen(drawn: WorkflowGraph, counts: RunCounts) -> None:
    """Add the ways that events went though neither annotations nor code had told of them."""
    foreseen = len(drawn.edges)
    known = {(edge.source, edge.target) for edge in drawn.edges}
    order = {node.id: place for place, node in enumerate(drawn.nodes)}
    events = {node.id for node in drawn.nodes if isinstance(node, WorkflowEventNode)}
    happened: dict[EdgeKind, Iterable[tuple[str, str]]] = {
        "sends": counts.made,
        "accepts": counts.taken,
        "awaits": counts.awaited,
    }
    for kind, ways in happened.items():
        for source, target in ways:
            if (source, target) not in known and (target if kind == "sends" else source) in events:
                known.add((source, target))
                drawn.edges.append(WorkflowGraphEdge(source=source, target=target, kind=kind))
    if len(drawn.edges) > foreseen:
        drawn.edges.sort(key=lambda edge: (order[edge.source], order[edge.target]))
        for edge in drawn.edges:
            edge.is_loop = False
        mark_loops(drawn.nodes, drawn.edges)

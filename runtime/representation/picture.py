"""What a drawing shows, whatever draws it: boxes with their texts, and lines between them.

All decisions on wording are made here, once; Mermaid, DOT and SVG only put them into their own form.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from greenroom.representation.nodes import (
    GraphData,
    StepCounts,
    WorkflowChildNode,
    WorkflowEventNode,
    WorkflowExternalNode,
    WorkflowGraphEdge,
    WorkflowGraphNode,
    WorkflowResourceConfigNode,
    WorkflowResourceNode,
    WorkflowStepNode,
)
from greenroom.steps import DEFAULT_WORKERS

__all__ = ["Box", "BoxKind", "Line", "Picture", "make_picture"]

BoxKind = Literal["step", "event", "start", "stop", "outside", "resource", "workflow", "other"]
Tone = Literal["plain", "failed", "busy", "unreached"]

# What no text file should hold: control characters but tab and line feed, and halves of surrogate pairs.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Box:
    """A node.

    Attributes:
        id: The node's id.
        kind: What it is drawn as.
        tone: How it fared in the run.
        title: Its name, cut if it is too long.
        notes: Lines in small letters below the name.
        details: What is told of it when it is pointed at: headings and texts.
    """

    id: str
    kind: BoxKind
    tone: Tone
    title: str
    notes: tuple[str, ...]
    details: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Line:
    """An edge.

    Attributes:
        source: The id of the node where it begins.
        target: The id of the node where it ends.
        label: A text beside it, or "".
        is_loop: Whether it leads back.
        is_both_ways: Whether something comes back along it: an answer.
        is_dashed: Whether it is not in the annotations.
        is_unused: Whether nothing went along it in the run.
    """

    source: str
    target: str
    label: str
    is_loop: bool
    is_both_ways: bool
    is_dashed: bool
    is_unused: bool


@dataclass(frozen=True, slots=True)
class Picture:
    """A graph as it is drawn.

    Attributes:
        title: The name of the workflow.
        status: What is told of the run, or "".
        description: The docstring of the workflow, or "".
        faults: What building the workflow would refuse.
        boxes: The nodes, in the order in which a run may reach them.
        lines: The edges.
    """

    title: str
    status: str
    description: str
    faults: tuple[str, ...]
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]


def make_picture(graph: GraphData, max_label_length: int | None) -> Picture:
    """Return what a drawing of a graph shows.

    Args:
        graph: The graph.
        max_label_length: Cut longer names to so many characters, 1 or more; None cuts none.

    Raises:
        ValueError: If the length is not 1 or more.
    """
    if max_label_length is not None and max_label_length < 1:
        raise ValueError(f"max_label_length must be 1 or more, or None, not {max_label_length!r}")
    limit = max_label_length if max_label_length is not None else 10**9
    answered = {(edge.target, edge.source) for edge in graph.edges if edge.kind == "answers"}
    asked = {(edge.source, edge.target) for edge in graph.edges if edge.kind == "asks"} & answered
    used = {end for edge in graph.edges if edge.count != 0 for end in (edge.source, edge.target)}
    unused = {node.id for node in graph.nodes} - used if graph.run_id is not None else set()
    steps = {node.id for node in graph.nodes if node.node_type == "step"}
    return Picture(
        title=_clean(graph.name),
        status=_clean(f"run {graph.run_id}: {graph.status}") if graph.run_id is not None else "",
        description=_clean(graph.description or ""),
        faults=tuple(map(_clean, graph.faults)),
        boxes=tuple(_make_box(node, limit, is_unused=node.id in unused) for node in graph.nodes),
        lines=tuple(
            _make_line(
                edge,
                limit,
                is_both_ways=(edge.source, edge.target) in asked,
                is_dashed=edge.kind in ("awaits", "extends", "fails", "runs")
                or (edge.kind == "sends" and edge.source in steps),
            )
            for edge in graph.edges
            if (edge.target, edge.source) not in asked
        ),
    )


def _make_line(edge: WorkflowGraphEdge, limit: int, *, is_both_ways: bool, is_dashed: bool) -> Line:
    label = edge.label or ""
    words = [label if len(label) <= limit else f"{label[: limit - 1]}*"] if label else []
    if edge.kind == "fails":
        words.append("fails")
    if edge.many:
        words.append("many")
    if edge.count:
        words.append(f"{edge.count}×")  # noqa: RUF001 the sign for "times"
    return Line(
        source=_clean(edge.source),
        target=_clean(edge.target),
        label=_clean(" ".join(words)),
        is_loop=edge.is_loop,
        is_both_ways=is_both_ways,
        is_dashed=is_dashed,
        is_unused=edge.count == 0,
    )


def _make_box(node: WorkflowGraphNode, limit: int, *, is_unused: bool) -> Box:
    kind: BoxKind = "other"
    tone: Tone = "unreached" if is_unused else "plain"
    notes: list[str] = []
    details = [("", node.label)]
    if isinstance(node, WorkflowStepNode):
        kind = "step"
        notes += _step_notes(node)
        details.append(("signature", node.signature))
        if node.catches is not None:
            details.append(("catches the failures of", "\n".join(node.catches)))
        details += _step_options(node)
        if node.counts is not None:
            notes += _told(node.counts)
            tone = _tone(node.counts)
            details.append(("in this run", _all_counts(node.counts)))
    elif isinstance(node, WorkflowEventNode):
        kind = node.role if node.role in ("start", "stop") else "event"
        details.append(("event", f"class {node.event_type}({', '.join(node.event_types[1:2])})"))
        details += _fields(node.event_schema)
    elif isinstance(node, WorkflowExternalNode):
        kind = "outside"
        if node.questions:
            notes.append(_cut(f"asked: {', '.join(node.questions)}", limit))
            details.append(("is asked", "\n".join(node.questions)))
        if node.answers:
            notes.append(_cut(f"answers: {', '.join(node.answers)}", limit))
            details.append(("answers", "\n".join(node.answers)))
    elif isinstance(node, WorkflowResourceNode):
        kind = "resource"
        notes.append(_cut(f"{node.getter_name}, one a{'n' * (node.scope == 'invocation')} {node.scope}", limit))
        details += [("type", node.type_name or ""), ("made by", node.getter_name or ""), ("kept for", node.scope)]
    elif isinstance(node, WorkflowResourceConfigNode):
        kind = "resource"
        part = f", {node.path_selector}" if node.path_selector else ""
        notes.append(_cut(f"{node.config_file}{part}", limit))
        details += [("type", node.type_name or ""), ("file", node.config_file or "")]
        if node.path_selector:
            details.append(("part of it", node.path_selector))
        details += _fields(node.config_schema)
    elif isinstance(node, WorkflowChildNode):
        kind = "workflow"
        notes.append("a workflow of 1 step" if len(node.steps) == 1 else f"a workflow of {len(node.steps)} steps")
        details.append(("its steps", "\n".join(node.steps)))
    if node.description:
        details.append(("", node.description))
    return Box(
        id=_clean(node.id),
        kind=kind,
        tone=tone,
        title=_clean(node.truncated_label(limit)),
        notes=tuple(map(_clean, notes)),
        details=tuple((heading, _clean(text)) for heading, text in details),
    )


def _fields(schema: dict[str, Any] | None) -> list[tuple[str, str]]:
    fields = (schema or {}).get("properties", {})
    return [("fields", "\n".join(f"{name}: {_type_of(told)}" for name, told in fields.items()))] if fields else []


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit + 10 else f"{text[: limit + 9]}*"


def _step_notes(node: WorkflowStepNode) -> list[str]:
    """Return what the box of a step says below its name: what it is, then what it does."""
    options = ["async"] if node.is_async else []
    if node.num_workers != (DEFAULT_WORKERS if node.catches is None else 1):
        options.append("1 worker" if node.num_workers == 1 else f"{node.num_workers} workers")
    if node.retry_policy is not None:
        options.append("retries")
    if node.timeout is not None:
        options.append(f"timeout {node.timeout:g} s")
    deeds = ["asks a person"] if node.asks_people else []
    if node.fans_out:
        deeds.append("fans out")
    if node.collects:
        deeds.append("collects")
    if node.catches is not None:
        deeds.append(f"catches {_some(node.catches)}")
    return [" · ".join(words) for words in (options, deeds) if words]


def _some(names: list[str]) -> str:
    return ", ".join(names) if len(names) < 3 else f"{len(names)} steps"


def _step_options(node: WorkflowStepNode) -> list[tuple[str, str]]:
    options = [("workers", str(node.num_workers))]
    if node.timeout is not None:
        options.append(("timeout", f"{node.timeout:g} seconds"))
    if node.retry_policy is not None:
        options.append(("retry policy", node.retry_policy))
    return options


def _told(counts: StepCounts) -> list[str]:
    """Return how a step has fared: what has ended, then what goes on."""
    if not counts.started and not counts.queued:
        return ["not reached"]
    ended = {
        "done": counts.finished,
        "failed": counts.failed - counts.caught,
        "caught": counts.caught,
        "retried": counts.retried,
        "cut off": counts.cut_off,
    }
    now = {"running": counts.running, "waiting": counts.waiting, "queued": counts.queued}
    lines = [" · ".join(f"{count} {word}" for word, count in words.items() if count) for words in (ended, now)]
    return [line for line in lines if line]


def _all_counts(counts: StepCounts) -> str:
    return "\n".join(f"{name.replace('_', ' ')}: {count}" for name, count in counts.model_dump().items())


def _tone(counts: StepCounts) -> Tone:
    if counts.failed:
        return "failed"
    if counts.running or counts.waiting or counts.queued:
        return "busy"
    return "plain" if counts.started else "unreached"


def _type_of(schema: object) -> str:
    """Return a short name for the type of a field."""
    told = schema if isinstance(schema, dict) else {}
    if "$ref" in told:
        return str(told["$ref"]).rpartition("/")[2]
    if "anyOf" in told:
        return " | ".join(dict.fromkeys(map(_type_of, told["anyOf"])))
    if "enum" in told:
        return " | ".join(map(repr, told["enum"]))
    if told.get("type") == "array":
        return f"list[{_type_of(told.get('items'))}]"
    return str(told.get("type", "any"))


def _clean(text: str) -> str:
    return _UNPRINTABLE.sub("\ufffd", text)

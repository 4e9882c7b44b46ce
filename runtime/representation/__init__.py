"""The graph of a workflow, as data and as a drawing.

`MyWorkflow.graph()` is the graph of a workflow, `handler.graph()` the same with what a run did. The functions here have
the names that users of LlamaIndex Workflows know, and write files.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Protocol

from greenroom.representation.graph import WorkflowGraph
from greenroom.representation.nodes import (
    StepCounts,
    WorkflowChildNode,
    WorkflowEventNode,
    WorkflowExternalNode,
    WorkflowGenericNode,
    WorkflowGraphEdge,
    WorkflowGraphNode,
    WorkflowNodeBase,
    WorkflowResourceConfigNode,
    WorkflowResourceNode,
    WorkflowStepNode,
)

__all__ = [
    "StepCounts",
    "WorkflowChildNode",
    "WorkflowEventNode",
    "WorkflowExternalNode",
    "WorkflowGenericNode",
    "WorkflowGraph",
    "WorkflowGraphEdge",
    "WorkflowGraphNode",
    "WorkflowNodeBase",
    "WorkflowResourceConfigNode",
    "WorkflowResourceNode",
    "WorkflowStepNode",
    "draw_all_possible_flows",
    "draw_all_possible_flows_mermaid",
    "draw_most_recent_execution",
    "draw_most_recent_execution_mermaid",
    "get_workflow_representation",
]


class HasGraph(Protocol):
    """A workflow class, an object of one, or a handler."""

    def graph(self) -> WorkflowGraph:
        """Return the graph."""
        ...


def get_workflow_representation(workflow: HasGraph) -> WorkflowGraph:
    """Return the graph of a workflow: the same as `workflow.graph()`.

    Args:
        workflow: A workflow class or an object of one.

    Example:
        >>> from greenroom import StartEvent, StopEvent, Workflow, step
        >>> class Greet(Workflow):
        ...     @step
        ...     def greet(self, ev: StartEvent) -> StopEvent:
        ...         return StopEvent(result="Hello")
        >>> get_workflow_representation(Greet).filter_by_node_type("event").nodes[0].label
        'greet'
    """
    return workflow.graph()


def draw_all_possible_flows(
    workflow: HasGraph,
    filename: str | PathLike[str] = "workflow_all_flows.html",
    max_label_length: int | None = None,
    include_child_workflows: bool = True,
) -> None:
    """Write a page that shows a workflow: one file, which opens without a network.

    Args:
        workflow: A workflow class or an object of one.
        filename: The file to write.
        max_label_length: Cut longer names to so many characters; None cuts none.
        include_child_workflows: Whether to show the workflows that its steps run.

    Raises:
        OSError: If the file cannot be written.
    """
    _write(filename, _graph_of(workflow, include_child_workflows).to_html(max_label_length))


def draw_all_possible_flows_mermaid(
    workflow: HasGraph,
    filename: str | PathLike[str] | None = "workflow_all_flows.mermaid",
    max_label_length: int | None = None,
    include_child_workflows: bool = True,
) -> str:
    """Write a workflow as a Mermaid flowchart, and return its text.

    Args:
        workflow: A workflow class or an object of one.
        filename: The file to write; None or "" writes none.
        max_label_length: Cut longer names to so many characters; None cuts none.
        include_child_workflows: Whether to show the workflows that its steps run.

    Raises:
        OSError: If the file cannot be written.

    Example:
        >>> from greenroom import StartEvent, StopEvent, Workflow, step
        >>> class Greet(Workflow):
        ...     @step
        ...     def greet(self, ev: StartEvent) -> StopEvent:
        ...         return StopEvent(result="Hello")
        >>> for line in draw_all_possible_flows_mermaid(Greet, filename=None).splitlines()[:6]:
        ...     print(line)
        flowchart TD
            n0(["StartEvent"])
            n1["greet"]
            n2(["StopEvent"])
            n0 --> n1
            n1 --> n2
    """
    text = _graph_of(workflow, include_child_workflows).to_mermaid(max_label_length)
    if filename:
        _write(filename, text)
    return text


def draw_most_recent_execution(
    handler: HasGraph,
    filename: str | PathLike[str] = "workflow_recent_execution.html",
    max_label_length: int | None = None,
) -> None:
    """Write a page that shows what a run did, up to now if it goes on.

    Args:
        handler: The handler of the run.
        filename: The file to write.
        max_label_length: Cut longer names to so many characters; None cuts none.

    Raises:
        OSError: If the file cannot be written.
    """
    _write(filename, handler.graph().to_html(max_label_length))


def draw_most_recent_execution_mermaid(
    handler: HasGraph,
    filename: str | PathLike[str] | None = "workflow_recent_execution.mermaid",
    max_label_length: int | None = None,
) -> str:
    """Write what a run did as a Mermaid flowchart, and return its text.

    Args:
        handler: The handler of the run.
        filename: The file to write; None or "" writes none.
        max_label_length: Cut longer names to so many characters; None cuts none.

    Raises:
        OSError: If the file cannot be written.
    """
    text = handler.graph().to_mermaid(max_label_length)
    if filename:
        _write(filename, text)
    return text


def _graph_of(workflow: HasGraph, include_child_workflows: bool) -> WorkflowGraph:
    graph = workflow.graph()
    return graph if include_child_workflows else graph.filter_by_node_type("workflow")


def _write(filename: str | PathLike[str], text: str) -> None:
    Path(filename).write_text(text, encoding="utf-8")

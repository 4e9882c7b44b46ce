"""The graph of a workflow: data that can be stored, filtered and drawn."""

from __future__ import annotations

from collections.abc import Iterator

from greenroom.representation.dot import draw_dot
from greenroom.representation.mermaid import draw_mermaid
from greenroom.representation.nodes import GraphData, WorkflowGraphEdge
from greenroom.representation.page import draw_frame, draw_page
from greenroom.representation.picture import Picture, make_picture
from greenroom.representation.svg import draw_svg

__all__ = ["WorkflowGraph"]


class WorkflowGraph(GraphData):
    """The steps, events and people of a workflow, and the ways between them.

    It is plain data, the same at each call: `model_dump()` gives JSON-able values, `model_validate()` reads them. In a
    notebook it shows itself.

    Attributes:
        name: The name of the workflow class.
        nodes: The nodes, in the order in which a run may reach them.
        edges: The edges, in the order of the nodes where they begin.
        description: The docstring of the class, or None.
        faults: What building the workflow would refuse.
        run_id: The run that the counts are of, or None.
        status: How that run stands, such as "running" or "completed", or None.

    Example:
        >>> from greenroom import StartEvent, StopEvent, Workflow, step
        >>> class Greet(Workflow):
        ...     @step
        ...     def greet(self, ev: StartEvent) -> StopEvent:
        ...         return StopEvent(result=f"Hello {ev.name}")
        >>> graph = Greet.graph()
        >>> [(edge.source, edge.target) for edge in graph.edges]
        [('StartEvent', 'greet'), ('greet', 'StopEvent')]
        >>> print(graph.to_mermaid().splitlines()[0])
        flowchart TD
    """

    def __repr__(self) -> str:
        kinds: dict[str, int] = {}
        for node in self.nodes:
            kinds[node.node_type] = kinds.get(node.node_type, 0) + 1
        told = ", ".join(f"{count} {kind}{'s' * (count > 1)}" for kind, count in kinds.items())
        return f"<{type(self).__name__} of {self.name}: {told}>"

    def filter_by_node_type(self, *node_types: str) -> WorkflowGraph:
        """Return the graph without the nodes of some types; what they joined is joined directly.

        The label of a new edge is that of the first node that was left out on the way. Of several ways between the same
        two nodes one is kept. A way on which a step only waits for its own answer makes no edge.

        Args:
            *node_types: Such as "event", "external" or "step".

        Example:
            >>> from greenroom import Event, StartEvent, StopEvent, Workflow, step
            >>> class Middle(Event):
            ...     pass
            >>> class Two(Workflow):
            ...     @step
            ...     def one(self, ev: StartEvent) -> Middle:
            ...         return Middle()
            ...     @step
            ...     def two(self, ev: Middle) -> StopEvent:
            ...         return StopEvent()
            >>> [(edge.source, edge.label, edge.target) for edge in Two.graph().filter_by_node_type("event").edges]
            [('one', 'Middle', 'two')]
        """
        kept = [node for node in self.nodes if node.node_type not in node_types]
        gone = {node.id: node.label for node in self.nodes if node.node_type in node_types}
        leaving: dict[str, list[WorkflowGraphEdge]] = {}
        for edge in self.edges:
            leaving.setdefault(edge.source, []).append(edge)

        edges: dict[tuple[str, str], WorkflowGraphEdge] = {}
        for node in kept:
            for way in _ways(node.id, leaving, gone):
                edges.setdefault((node.id, way[-1].target), _joined(way, gone))
        return self.model_copy(update={"nodes": kept, "edges": list(edges.values())})

    # -- drawings ------------------------------------------------------------------------------------------------------

    def to_mermaid(self, max_label_length: int | None = None) -> str:
        """Return a Mermaid flowchart, which GitHub and many editors show.

        Args:
            max_label_length: Cut longer names to so many characters; None cuts none.
        """
        return draw_mermaid(self._picture(max_label_length))

    def to_graphviz(self, max_label_length: int | None = None) -> str:
        """Return the graph in the DOT language of Graphviz.

        Args:
            max_label_length: Cut longer names to so many characters; None cuts none.
        """
        return draw_dot(self._picture(max_label_length))

    def to_svg(self, max_label_length: int | None = 40) -> str:
        """Return a picture that stands alone, light or dark as the reader's system is.

        Args:
            max_label_length: Cut longer names to so many characters; None cuts none.
        """
        return draw_svg(self._picture(max_label_length))

    def to_html(self, max_label_length: int | None = 40) -> str:
        """Return a page that stands alone and loads nothing: open it in a browser, with or without a network.

        Args:
            max_label_length: Cut longer names to so many characters; None cuts none. The page tells the whole name of
                what is pointed at.
        """
        return draw_page(self._picture(max_label_length))

    def _repr_html_(self) -> str:
        return draw_frame(self._picture(40))

    def _repr_svg_(self) -> str:
        return self.to_svg()

    def _picture(self, max_label_length: int | None) -> Picture:
        return make_picture(self, max_label_length)


def _ways(
    start: str, leaving: dict[str, list[WorkflowGraphEdge]], gone: dict[str, str]
) -> Iterator[tuple[WorkflowGraphEdge, ...]]:
    """Return the ways from a node that is kept to the next that are, through nodes that are gone, each of them once."""
    todo: list[tuple[WorkflowGraphEdge, ...]] = [(edge,) for edge in reversed(leaving.get(start, []))]
    seen: set[str] = set()
    while todo:
        way = todo.pop()
        last = way[-1]
        if last.target not in gone:
            if len(way) == 1 or last.target != start or last.kind not in ("answers", "awaits"):
                yield way
        elif last.target not in seen:
            seen.add(last.target)
            todo += [(*way, edge) for edge in reversed(leaving.get(last.target, []))]


def _joined(way: tuple[WorkflowGraphEdge, ...], gone: dict[str, str]) -> WorkflowGraphEdge:
    first, last = way[0], way[-1]
    if len(way) == 1:
        return first
    return WorkflowGraphEdge(
        source=first.source,
        target=last.target,
        label=gone[first.target],
        kind="follows",
        many=any(edge.many for edge in way),
        is_loop=any(edge.is_loop for edge in way),
    )

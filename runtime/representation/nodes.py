"""The graph of a workflow as data: its nodes and edges."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

__all__ = [
    "GraphData",
    "StepCounts",
    "WorkflowChildNode",
    "WorkflowEventNode",
    "WorkflowExternalNode",
    "WorkflowGenericNode",
    "WorkflowGraphEdge",
    "WorkflowGraphNode",
    "WorkflowNodeBase",
    "WorkflowResourceConfigNode",
    "WorkflowResourceNode",
    "WorkflowStepNode",
]


class WorkflowNodeBase(BaseModel):
    """What all nodes have.

    Attributes:
        id: Names the node within its graph.
        label: The text to show.
        description: The docstring of what the node stands for, or None.
    """

    id: str
    label: str
    description: str | None = None

    def truncated_label(self, max_length: int) -> str:
        """Return the label in at most `max_length` characters; one that was cut ends in `*`.

        Example:
            >>> WorkflowExternalNode(id="x", label="a person").truncated_label(4)
            'a p*'
        """
        return self.label if len(self.label) <= max_length else f"{self.label[: max(max_length - 1, 0)]}*"


class StepCounts(BaseModel):
    """What a run has done at one step.

    Attributes:
        started: Invocations whose body has begun; one that was tried again counts once.
        finished: Those that returned.
        failed: Those that raised, and were not tried again.
        caught: Those of the failed whose error a `@catch_error` step took.
        retried: Attempts that failed and were followed by another.
        running: Those at work now.
        waiting: Those that stand at a wait for an event or a person now.
        queued: Those that wait for a worker, for a retry, or for the run to be resumed.
        cut_off: Those that the end of the run overtook.
    """

    started: int = 0
    finished: int = 0
    failed: int = 0
    caught: int = 0
    retried: int = 0
    running: int = 0
    waiting: int = 0
    queued: int = 0
    cut_off: int = 0


class WorkflowStepNode(WorkflowNodeBase):
    """A step.

    Attributes:
        signature: Its name, and what it takes and returns, as in the source.
        is_async: Whether it is an `async def`.
        num_workers: How many invocations may be in flight at once.
        retry_policy: The policy's repr, or None.
        timeout: Seconds that an invocation may take, or None.
        asks_people: Whether it may ask a person.
        fans_out: Whether one invocation may send or return several events.
        collects: Whether it takes several events at once, or gathers them with `ctx.collect_events`.
        catches: The names of the steps whose failures it takes; None for a step that is no `@catch_error` step.
        counts: What a run has done there; None in the graph of a workflow.
    """

    node_type: Literal["step"] = "step"
    signature: str = ""
    is_async: bool = False
    num_workers: int = 1
    retry_policy: str | None = None
    timeout: float | None = None
    asks_people: bool = False
    fans_out: bool = False
    collects: bool = False
    catches: list[str] | None = None
    counts: StepCounts | None = None


class WorkflowEventNode(WorkflowNodeBase):
    """A class of event.

    Attributes:
        event_type: The name of the class.
        event_types: The names of the class and of its bases up to `Event`, nearest first.
        event_schema: The JSON schema of its fields; None where a field has none.
        produced_by: The names of the steps that may make it.
        role: Whether it begins the run, ends it, asks a person, answers for one, or none of these.
    """

    node_type: Literal["event"] = "event"
    event_type: str
    event_types: list[str]
    event_schema: dict[str, Any] | None = None
    produced_by: list[str] = Field(default_factory=list)
    role: Literal["start", "stop", "question", "answer", "plain"] = "plain"

    def is_subclass_of(self, *type_names: str) -> bool:
        """Return whether the class, or one of its bases, has one of these names."""
        return any(name in self.event_types for name in type_names)


class WorkflowExternalNode(WorkflowNodeBase):
    """Somebody outside: a person who is asked, or whoever sends the events that no step makes.

    Attributes:
        role: "person" or "sender".
        questions: The names of the events that ask.
        answers: The names of the events that come back.
    """

    node_type: Literal["external"] = "external"
    role: Literal["person", "sender"] = "person"
    questions: list[str] = Field(default_factory=list)
    answers: list[str] = Field(default_factory=list)


class WorkflowResourceNode(WorkflowNodeBase):
    """What a factory makes for the steps, or for other resources, that take it.

    Attributes:
        type_name: The type that the annotation names.
        getter_name: The factory's name.
        scope: What one is kept for.
    """

    node_type: Literal["resource"] = "resource"
    type_name: str | None = None
    getter_name: str | None = None
    scope: Literal["invocation", "run", "workflow"] = "workflow"


class WorkflowResourceConfigNode(WorkflowNodeBase):
    """What a configuration file says. The file is not read for the drawing.

    Attributes:
        type_name: The type that the annotation names.
        config_file: The path of the file, as the marker says.
        path_selector: What part of it is meant, or None.
        config_schema: The JSON schema of the type; None if it has none.
    """

    node_type: Literal["resource_config"] = "resource_config"
    type_name: str | None = None
    config_file: str | None = None
    path_selector: str | None = None
    config_schema: dict[str, Any] | None = None


class WorkflowChildNode(WorkflowNodeBase):
    """Another workflow, which a step runs.

    Attributes:
        steps: The signatures of its steps.
    """

    node_type: Literal["workflow"] = "workflow"
    steps: list[str] = Field(default_factory=list)


class WorkflowGenericNode(WorkflowNodeBase):
    """A node of any other kind.

    Attributes:
        node_type: The name of the kind.
    """

    node_type: str


# The last takes whatever node_type the others do not, so the order matters when a dump is read again.
WorkflowGraphNode = (
    WorkflowStepNode
    | WorkflowEventNode
    | WorkflowExternalNode
    | WorkflowResourceNode
    | WorkflowResourceConfigNode
    | WorkflowChildNode
    | WorkflowGenericNode
)

EdgeKind = Literal[
    "returns", "sends", "accepts", "awaits", "asks", "answers", "extends", "fails", "uses", "runs", "follows"
]


class WorkflowGraphEdge(BaseModel):
    """An arrow between two nodes.

    Attributes:
        source: The id of the node where it begins.
        target: The id of the node where it ends.
        label: A text to show, or None.
        kind: A step "returns" an event as annotated, or "sends" it with `ctx.send_event` only; it "accepts" an event
            as its input, or "awaits" it in its body; somebody outside is asked ("asks"), "answers" or "sends"; an
            event is the base of another that a step takes ("extends"); a step whose failure is caught "fails"; a step
            or a factory "uses" a resource, by the name of the label; a step, or a workflow that it runs, "runs" another
            workflow; "follows" stands for a way through nodes left out.
        many: Whether one invocation may send several events along it.
        is_loop: Whether it closes a cycle: it leads back to what comes before.
        count: How many events went along it in a run, or how many runs were begun; None where no run is told of, or it
            cannot be known.
    """

    source: str
    target: str
    label: str | None = None
    kind: EdgeKind = "follows"
    many: bool = False
    is_loop: bool = False
    count: int | None = None


class GraphData(BaseModel):
    """A graph without its drawings; see `WorkflowGraph`."""

    name: str
    nodes: list[Annotated[WorkflowGraphNode, Field(union_mode="left_to_right")]]
    edges: list[WorkflowGraphEdge]
    description: str | None = None
    faults: list[str] = Field(default_factory=list)
    run_id: str | None = None
    status: str | None = None

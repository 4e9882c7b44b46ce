"""The graph of a workflow as data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from pydantic import ConfigDict, Field

from greenroom import Context, Event, StartEvent, StopEvent, Workflow, WorkflowConfigurationError, step
from greenroom.representation import (
    WorkflowEventNode,
    WorkflowExternalNode,
    WorkflowGenericNode,
    WorkflowGraph,
    WorkflowStepNode,
    get_workflow_representation,
)
from greenroom.resources import Resource
from tests.support import drawn_flows as flows

ALL = [flows.Linear, flows.Loop, flows.Fan, flows.ListFan, flows.People, flows.Caught, flows.Fails, flows.Faulty]
ALL += [flows.Needs, flows.Parent]


def edges(graph: WorkflowGraph, *kinds: str) -> list[tuple[str, str]]:
    return [(edge.source, edge.target) for edge in graph.edges if not kinds or edge.kind in kinds]


def node(graph: WorkflowGraph, node_id: str) -> Any:
    return next(node for node in graph.nodes if node.id == node_id)


def test_nodes_and_edges_come_in_the_order_of_the_flow() -> None:
    """A class is drawn without an object: steps and events in the order in which a run may reach them."""
    graph = flows.Linear.graph()
    assert [node.id for node in graph.nodes] == ["StartEvent", "write", "Draft", "publish", "StopEvent"]
    assert edges(graph) == [
        ("StartEvent", "write"),
        ("write", "Draft"),
        ("Draft", "publish"),
        ("publish", "StopEvent"),
    ]
    assert (graph.name, graph.description, graph.faults) == ("Linear", "Writes and publishes.", [])


def test_a_step_tells_its_options() -> None:
    """What a step was decorated with, and how it is written, are facts of its node."""
    graph = flows.Linear.graph()
    write, publish = node(graph, "write"), node(graph, "publish")
    assert (write.timeout, write.num_workers, write.is_async, write.retry_policy) == (5, 4, False, None)
    assert (publish.timeout, publish.num_workers, publish.is_async) == (None, 1, True)
    assert "stop_after_attempt" in publish.retry_policy
    assert publish.signature == "async def publish(ev: Draft) -> StopEvent"
    assert write.description.startswith("Write it down.")


def test_an_event_tells_its_class() -> None:
    """An event node has the class's bases, fields, makers and role."""
    graph = flows.Linear.graph()
    draft = node(graph, "Draft")
    assert (draft.event_type, draft.event_types, draft.produced_by) == ("Draft", ["Draft", "Event"], ["write"])
    assert list(draft.event_schema["properties"]) == ["text", "round"]
    assert draft.is_subclass_of("Event")
    assert not draft.is_subclass_of("StopEvent")
    assert [node(graph, name).role for name in ("StartEvent", "Draft", "StopEvent")] == ["start", "plain", "stop"]


def test_what_closes_a_cycle_is_a_loop() -> None:
    """The one edge that leads back is marked, and no other."""
    loops = [(edge.source, edge.target) for edge in flows.Loop.graph().edges if edge.is_loop]
    assert loops == [("Feedback", "write")]
    assert not [edge for flow in (flows.Linear, flows.Fan, flows.People) for edge in flow.graph().edges if edge.is_loop]


@pytest.mark.parametrize("flow", [flows.Fan, flows.ListFan])
def test_fan_out_and_collection_are_marked(flow: type[Workflow]) -> None:
    """A step that sends in a loop fans out as one that returns a list does; so with collecting."""
    graph = flow.graph()
    assert [edge.many for edge in graph.edges if edge.source == "split"] == [True]
    assert [node(graph, name).fans_out for name in ("split", "work", "join")] == [True, False, False]
    assert [node(graph, name).collects for name in ("split", "work", "join")] == [False, False, True]


def test_people_stand_between_question_and_answer() -> None:
    """A question that one step returns and an answer that another takes are joined by a person."""
    graph = flows.People.graph()
    person = node(graph, "external_step")
    assert (person.role, person.questions, person.answers) == ("person", ["Question"], ["Answer"])
    assert edges(graph, "asks")[0] == ("Question", "external_step")
    assert ("external_step", "Answer") in edges(graph, "answers")


def test_a_question_in_a_body_is_read_from_the_code() -> None:
    """A step that asks in place, through a helper and with a variable, has a person at its side."""
    graph = flows.People.graph()
    person = node(graph, "external_step.approve")
    assert (person.questions, person.answers) == (["Question"], ["Approval"])
    assert ("approve", "external_step.approve") in edges(graph, "asks")
    assert ("external_step.approve", "approve") in edges(graph, "answers")
    assert [n.id for n in graph.nodes if isinstance(n, WorkflowStepNode) and n.asks_people] == ["greet", "approve"]


def test_an_event_that_only_the_outside_sends_has_a_sender() -> None:
    """What a body waits for and no step makes comes from somebody outside."""
    graph = flows.People.graph()
    assert edges(graph, "awaits") == [("Delivered", "approve")]
    assert ("external_sender", "Delivered") in edges(graph, "sends")
    assert node(graph, "external_sender").role == "sender"


def test_caught_failures_lead_to_their_handler() -> None:
    """A handler knows whom it catches, and a step that it names leads to it."""
    graph = flows.Caught.graph()
    assert node(graph, "mend").catches == ["fetch"]
    assert node(graph, "fetch").catches is None
    assert edges(graph, "fails") == [("fetch", "StepFailedEvent")]


def test_resources_hang_on_the_steps_that_take_them() -> None:
    """One node for each factory and file, shared by all who take it, and what a factory takes hangs on the factory."""
    graph = flows.Needs.graph()
    assert [(edge.source, edge.label, edge.target) for edge in graph.edges if edge.kind == "uses"] == [
        ("read", "db", "resource:connect"),
        ("resource:connect", "settings", "resource_config:settings"),
        ("write", "database", "resource:connect"),
        ("write", "number", "resource:<lambda>#2"),
        ("never", "number", "resource:<lambda>"),
    ]
    database = node(graph, "resource:connect")
    assert (database.node_type, database.label, database.type_name) == ("resource", "Database", "Database")
    assert (database.getter_name, database.scope) == ("connect", "run")
    assert database.description == "Connect to what the settings say."
    settings = node(graph, "resource_config:settings")
    assert (settings.node_type, settings.label, settings.type_name) == ("resource_config", "settings", "Settings")
    assert (settings.config_file, settings.path_selector) == ("app.toml", "db")
    assert list(settings.config_schema["properties"]) == ["database", "size"]
    assert node(graph, "resource:<lambda>").scope == "invocation"
    assert not graph.filter_by_node_type("resource", "resource_config").to_mermaid().count("connect")


@pytest.mark.parametrize(
    ("hint", "name"),
    [
        (Annotated[flows.Database, Field(description="it")], "Database"),
        (flows.Database | None, "Database | None"),
        (dict[str, list[flows.Database]], "dict[str, list[Database]]"),
        (Callable[[int], str], "Callable"),
        (Any, "Any"),
    ],
)
def test_the_type_of_a_resource_is_told_as_it_is_written(hint: Any, name: str) -> None:
    """Without modules and metadata."""

    class Takes(Workflow):
        @step
        def one(self, ev: StartEvent, it: Annotated[hint, Resource(flows.Database)]) -> StopEvent:
            return StopEvent()

    assert node(Takes.graph(), "resource:Database").type_name == name


def test_workflows_that_steps_run_hang_on_them() -> None:
    """Named by a step, by a method that it calls or by the constructor; and so with those that these run."""
    graph = flows.Parent.graph()
    assert edges(graph, "runs") == [
        ("one", "workflow:Child"),
        ("workflow:Child", "workflow:Grandchild"),
        ("two", "workflow:Linear"),
        ("four", "workflow:Grandchild"),
    ]
    child = node(graph, "workflow:Child")
    assert (child.node_type, child.label, child.description) == ("workflow", "Child", "Runs another.")
    assert child.steps == ["def first(ctx: Context, ev: StartEvent) -> Draft", "def second(ev: Draft) -> StopEvent"]


class Proxy:
    """What web frameworks have for the request of the moment: outside of one it answers nothing."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("outside of a request")


REQUEST = Proxy()


def test_a_proxy_that_a_step_names_is_not_asked_for_anything() -> None:
    """Neither by a drawing, nor when a snapshot is taken and read."""

    class View(Workflow):
        @step
        def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            REQUEST.help(ctx)
            return StopEvent(result=REQUEST(ctx))

    assert len(View.graph().nodes) == 3
    workflow = View()
    handler = workflow.run()
    with pytest.raises(RuntimeError, match="outside of a request"):
        handler.result(timeout=30)
    Context.restore(workflow, handler.ctx.snapshot())


def test_a_workflow_in_an_attribute_that_is_local_is_found() -> None:
    """Also where another of the constructor's names has no value yet."""

    class Helper(Workflow):
        @step
        def one(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    class Main(Workflow):
        def __init__(self) -> None:
            super().__init__()
            self.helper = Helper()
            self.later = later

        @step
        def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=(ctx.run(self.helper).result(), self.later))

    assert edges(Main.graph(), "runs") == [("one", "workflow:Helper")]
    later = 1


def test_a_workflow_that_runs_itself_is_a_loop() -> None:
    """As one that walks a tree does."""

    class Tree(Workflow):
        @step
        def walk(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=ctx.run(Tree()).result())

    graph = Tree.graph()
    assert edges(graph, "runs") == [("walk", "workflow:Tree"), ("workflow:Tree", "workflow:Tree")]
    assert [edge.is_loop for edge in graph.edges if edge.kind == "runs"] == [False, True]


def test_a_faulty_workflow_is_drawn_with_its_faults() -> None:
    """What building the workflow would refuse is listed, and the graph is there all the same."""
    graph = flows.Faulty.graph()
    assert len(graph.faults) == 1
    assert "Good" in graph.faults[0]
    assert edges(graph) == [("StartEvent", "one"), ("one", "Good"), ("one", "StopEvent")]


def test_a_workflow_without_an_end_has_no_graph() -> None:
    """Where there is nothing to begin or end with, the error is that of building it."""

    class Endless(Workflow):
        @step
        def one(self, ev: StartEvent) -> None:
            pass

    with pytest.raises(WorkflowConfigurationError, match="StopEvent"):
        Endless.graph()


def test_a_subclass_that_no_step_makes_hangs_on_its_base() -> None:
    """A step that takes a subclass of what another declares to return is linked through the two classes."""

    class Base(Event):
        pass

    class Special(Base):
        pass

    class Special2(Base):
        pass

    class Narrow(Workflow):
        @step
        def make(self, ev: StartEvent) -> Base:
            return Special()

        @step
        def take(self, ev: Special | Special2) -> StopEvent:
            return StopEvent()

    assert edges(Narrow.graph(), "extends") == [("Base", "Special"), ("Base", "Special2")]


def test_events_of_the_same_name_are_two_nodes() -> None:
    """Classes of one name, or named as a step, are told apart by their module."""

    class Twin(Event):
        pass

    def other() -> type[Event]:
        class Twin(Event):
            pass

        return Twin

    Other = other()

    class Twins(Workflow):
        @step
        def one(self, ev: StartEvent) -> Twin:
            return Twin()

        @step
        def two(self, ev: Twin) -> Other:  # type: ignore[valid-type]
            return Other()

        @step
        def StopEvent(self, ev: Other) -> StopEvent:  # type: ignore[valid-type]
            raise AssertionError

    graph = Twins.graph()
    assert len({n.id for n in graph.nodes}) == len(graph.nodes) == 7
    assert [n.label for n in graph.nodes if isinstance(n, WorkflowEventNode)] == [
        "StartEvent",
        "Twin",
        "Twin",
        "StopEvent",
    ]


def test_sends_on_alternative_ways_are_no_fan_out() -> None:
    """A step that sends one event or another, and never both, does not fan out; one that sends two does."""

    class Either(Workflow):
        @step
        def pick(self, ctx: Context, ev: StartEvent) -> flows.Good | flows.Job | None:
            if ev.good:
                ctx.send_event(flows.Good())
                return None
            ctx.send_event(flows.Job(n=1))
            return None

        @step
        def both(self, ctx: Context, ev: flows.Good) -> flows.Job | StopEvent:
            ctx.send_event(flows.Job(n=1))
            ctx.send_event(flows.Job(n=2))
            return StopEvent()

        @step
        def handed_on(self, ctx: Context, ev: flows.Job) -> StopEvent | flows.Good:
            list(map(ctx.send_event, [flows.Good()]))
            return StopEvent()

    graph = Either.graph()
    assert [node(graph, name).fans_out for name in ("pick", "both", "handed_on")] == [False, True, True]


def test_a_body_without_source_is_drawn_from_its_annotations() -> None:
    """Code that has no file is no error: what only its body tells is not known."""
    names: dict[str, Any] = {}
    exec(
        "from greenroom import Context, StartEvent, StopEvent, Workflow, step\n"
        "class Typed(Workflow):\n"
        "    @step\n"
        "    def one(self, ctx: Context, ev: StartEvent) -> StopEvent:\n"
        "        return ctx.ask(StopEvent())\n",
        names,
    )
    assert edges(names["Typed"].graph()) == [("StartEvent", "one"), ("one", "StopEvent")]


def test_an_event_without_a_json_schema_is_drawn() -> None:
    """A field that JSON cannot show leaves the schema out, not the node."""

    class Odd(StartEvent):
        call: type(lambda: None)  # type: ignore[valid-type]
        model_config = ConfigDict(arbitrary_types_allowed=True)

    class Takes(Workflow):
        @step
        def one(self, ev: Odd) -> StopEvent:
            return StopEvent()

    assert node(Takes.graph(), "Odd").event_schema is None


@pytest.mark.parametrize("flow", ALL)
def test_the_graph_is_data(flow: type[Workflow]) -> None:
    """A dump is JSON-able and reads back as the same graph, and two calls give the same."""
    graph = flow.graph()
    assert WorkflowGraph.model_validate_json(graph.model_dump_json()) == graph
    assert WorkflowGraph.model_validate(graph.model_dump()) == graph == get_workflow_representation(flow)


def test_other_kinds_of_nodes_are_kept() -> None:
    """A node of a kind that this version does not know is read, filtered and drawn."""
    graph = flows.Linear.graph()
    tool = WorkflowGenericNode(id="tool", label="search", node_type="tool")
    more = WorkflowGraph.model_validate(graph.model_copy(update={"nodes": [*graph.nodes, tool]}).model_dump())
    assert isinstance(more.nodes[-1], WorkflowGenericNode)
    assert "search" in more.to_svg()
    assert len(more.filter_by_node_type("tool").nodes) == len(graph.nodes)


def test_filtering_joins_what_is_left() -> None:
    """Without events the steps are joined directly; the label is that of the first node on the way that is gone."""
    graph = flows.Loop.graph().filter_by_node_type("event")
    assert [(e.source, e.label, e.target, e.is_loop) for e in graph.edges] == [
        ("write", "Draft", "judge", False),
        ("judge", "Feedback", "write", True),
        ("judge", "Good", "publish", False),
    ]


def test_filtering_several_types_goes_through_all_of_them() -> None:
    """A way over events and a person becomes one edge; a step's question in place becomes none."""
    graph = flows.People.graph().filter_by_node_type("event", "external")
    assert [(e.source, e.label, e.target) for e in graph.edges] == [
        ("greet", "Question", "hear"),
        ("hear", "Draft", "approve"),
    ]
    bridge = flows.People.graph().filter_by_node_type("external")
    assert ("Question", "a person", "Answer") in [(e.source, e.label, e.target) for e in bridge.edges]
    assert not [n for n in bridge.nodes if isinstance(n, WorkflowExternalNode)]


def test_a_label_is_cut_with_a_star() -> None:
    """Long names are cut to the length asked for; a length of 0 is refused."""
    assert node(flows.Linear.graph(), "publish").truncated_label(4) == "pub*"
    assert "pub*" in flows.Linear.graph().to_mermaid(max_label_length=4)
    assert "Draft -> pub" not in flows.Linear.graph().to_mermaid(max_label_length=4)
    with pytest.raises(ValueError, match="max_label_length must be 1 or more"):
        flows.Linear.graph().to_svg(max_label_length=0)

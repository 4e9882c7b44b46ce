"""The graph: routes, and whether a workflow can work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from greenroom.errors import WorkflowConfigurationError, WorkflowValidationError
from greenroom.events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StepFailedEvent, StopEvent
from greenroom.graph import Graph, check_names
from greenroom.steps import StepSpec
from tests.support.core import make_spec


class A(Event):
    pass


class LowerA(A):
    pass


class B(Event):
    pass


class Both(LowerA, B):
    pass


class Question(InputRequiredEvent):
    pass


class Answer(HumanResponseEvent):
    pass


class Begin(StartEvent):
    pass


class Done(StopEvent):
    pass


def graph(*specs: StepSpec) -> Graph:
    return Graph("Flow", specs)


def faults(build: Callable[[], object]) -> list[str]:
    """Return the lines of the one error that says all."""
    with pytest.raises(WorkflowValidationError) as caught:
        build()
    title, *lines = str(caught.value).splitlines()
    assert title == "Flow cannot work:"
    return [line.removeprefix("  - ") for line in lines]


def names(specs: tuple[StepSpec, ...]) -> list[str]:
    return [spec.name for spec in specs]


# -- what it says ------------------------------------------------------------------------------------------------------


def test_a_graph_tells_its_ends_events_and_steps() -> None:
    """Steps are in alphabetical order, and events listed once."""
    flow = graph(make_spec("b", A, returns=[Done]), make_spec("a", Begin, returns=[A]))
    assert list(flow.steps) == ["a", "b"]
    assert (flow.start_event_class, flow.stop_event_class) == (Begin, Done)
    assert flow.events == [A, Begin, Done]
    assert not flow.asks_people
    assert flow.state_type is None


def test_a_graph_that_takes_answers_asks_people() -> None:
    """So that a run at rest is not taken to be stuck."""
    assert graph(make_spec("a", StartEvent, returns=[Question]), make_spec("b", Answer)).asks_people


def test_the_state_is_the_most_derived_of_those_that_steps_name() -> None:
    """Two of which neither extends the other are refused."""

    class State(BaseModel):
        pass

    class More(State):
        pass

    class Other(BaseModel):
        pass

    steps = [make_spec(name, StartEvent, state_type=state) for name, state in (("a", State), ("b", More), ("c", None))]
    assert graph(*steps).state_type is More
    assert graph(*steps[::-1]).state_type is More
    with pytest.raises(WorkflowValidationError, match=r"State|More.*Other"):
        graph(*steps, make_spec("d", StartEvent, state_type=Other))


# -- routes ------------------------------------------------------------------------------------------------------------


def test_a_route_is_to_all_steps_of_the_nearest_class() -> None:
    """The rule of functools.singledispatch, with several takers."""
    flow = graph(make_spec("start", StartEvent), make_spec("c", A), make_spec("a", A), make_spec("b", LowerA))
    assert names(flow.route(A)) == ["a", "c"]
    assert names(flow.route(LowerA)) == ["b"]
    assert names(flow.route(Both)) == ["b"]
    assert names(flow.route(B)) == []


def test_a_catch_all_step_sees_every_event_but_the_end() -> None:
    """A stop event ends the run; no step is given it."""
    flow = graph(make_spec("start", StartEvent), make_spec("all", Event))
    assert names(flow.route(B)) == ["all"]
    assert names(flow.route(Question)) == ["all"]
    assert names(flow.route(Done)) == []


def test_a_step_that_accepts_subclasses_sees_what_others_take_too() -> None:
    """Beside the steps of the nearest class, and nothing of what it does not accept; the end is nobody's."""
    flow = graph(
        make_spec("start", StartEvent),
        make_spec("lower", LowerA),
        make_spec("upper", A),
        make_spec("watch", A, accept_event_subclasses=True),
        make_spec("all", Event, accept_event_subclasses=True),
    )
    assert names(flow.route(LowerA)) == ["all", "lower", "watch"]
    assert names(flow.route(A)) == ["all", "upper", "watch"]
    assert names(flow.route(Both)) == ["all", "lower", "watch"]
    assert names(flow.route(B)) == ["all"]
    assert names(flow.route(StartEvent)) == ["all", "start"]
    assert names(flow.route(Done)) == []


def test_a_step_that_names_two_classes_takes_an_event_once() -> None:
    """Though both are its bases."""
    flow = graph(make_spec("start", StartEvent), make_spec("two", LowerA, B))
    assert names(flow.route(Both)) == ["two"]


def test_addressing_a_step_wrongly_is_told_with_what_would_be_right() -> None:
    """Unknown steps and classes that it does not take."""
    flow = graph(make_spec("start", StartEvent), make_spec("work", A, B))
    assert flow.check_target("work", LowerA) is None
    assert flow.check_target("nope", A) == "step 'nope' does not exist in Flow; its steps are start, work"
    assert flow.check_target("work", Question) == "step 'work' of Flow does not accept Question; it accepts A | B"


# -- ends --------------------------------------------------------------------------------------------------------------


def test_a_graph_without_steps_is_refused() -> None:
    """With that as the only fault."""
    assert faults(graph) == ["it has no steps; decorate its methods with @step"]


def test_missing_ends_are_told_together() -> None:
    """As a WorkflowConfigurationError."""
    lines = faults(lambda: graph(make_spec("a", A, returns=[B])))
    assert [line.split(";")[0] for line in lines] == ["no step takes a StartEvent", "no step returns a StopEvent"]
    with pytest.raises(WorkflowConfigurationError):
        graph(make_spec("a", A))


def test_several_kinds_of_ends_are_told_by_name() -> None:
    """A run begins and ends with one kind."""
    lines = faults(lambda: graph(make_spec("a", StartEvent, Begin, returns=[StopEvent, Done])))
    assert lines == [
        "steps take 2 kinds of start event, Begin, StartEvent; a run begins with one kind",
        "steps return 2 kinds of stop event, Done, StopEvent; a run ends with one kind",
    ]


# -- checks ------------------------------------------------------------------------------------------------------------


def test_a_sound_graph_passes() -> None:
    """Loops, branches, people and failures included."""
    graph(
        make_spec("start", StartEvent, returns=[A, Question]),
        make_spec("loop", A, returns=[A, B]),
        make_spec("hear", Answer, returns=[B]),
        make_spec("end", B, returns=[StopEvent]),
        make_spec("mend", StepFailedEvent, returns=[A]),
    ).validate()


def test_all_faults_of_connection_are_told_in_one_message() -> None:
    """Stop events taken, events never made, events never taken."""
    flow = graph(make_spec("a", StartEvent, StopEvent, returns=[A, StopEvent]), make_spec("b", B, returns=[StopEvent]))
    assert faults(flow.validate) == [
        "step 'a' cannot accept StopEvent: a stop event ends the run, no step sees it",
        "events that are consumed but never produced: B; name them in the return annotation of the step that returns"
        " or sends them",
        "[terminal_event] events that are produced but never consumed: A; add a step that takes them, or take them out"
        " of the return annotation",
    ]


def test_a_step_that_a_base_class_is_returned_to_may_take_a_subclass() -> None:
    """An annotation of a base says that a subclass may come, and a subclass is taken where its base is."""
    graph(make_spec("a", StartEvent, returns=[A]), make_spec("b", LowerA)).validate()
    graph(make_spec("a", StartEvent, returns=[LowerA]), make_spec("b", A)).validate()


@pytest.mark.parametrize("event", [Question, Answer, StepFailedEvent])
def test_an_event_of_people_or_failures_need_not_be_made_by_a_step(event: type[Event]) -> None:
    """It comes from outside, or from the engine."""
    flow = graph(make_spec("a", StartEvent), make_spec("b", event, skip_graph_checks=["reachability"]))
    flow.validate()


def test_steps_that_nothing_leads_to_are_told() -> None:
    """Also where they lead to each other."""
    flow = graph(
        make_spec("a", StartEvent),
        make_spec("x", A, returns=[B, StopEvent]),
        make_spec("y", B, returns=[A]),
    )
    assert faults(flow.validate) == ["[reachability] no event leads to steps 'x', 'y'; check the events they take"]
    flow.validate(skip=["reachability"])


def test_steps_that_lead_nowhere_are_told() -> None:
    """A loop without a way out, and a step whose event is only noted; one that returns no event is none."""
    flow = graph(
        make_spec("a", StartEvent, returns=[A, StopEvent]),
        make_spec("loop", A, returns=[A]),
        make_spec("note", Answer, returns=[]),
        make_spec("log", A, returns=[]),
        make_spec("tell", A, returns=[B]),
        make_spec("listen", B, returns=[]),
    )
    (line,) = faults(flow.validate)
    assert line.startswith("[dead_end] steps 'loop', 'tell' can never lead to a stop event")
    flow.validate(skip=["dead_end"])


def test_a_check_is_skipped_for_a_step_that_says_so() -> None:
    """Others are still checked."""
    skip: Any = ["dead_end"]
    flow = graph(
        make_spec("a", StartEvent, returns=[A, B, StopEvent]),
        make_spec("loop", A, returns=[A], skip_graph_checks=skip),
        make_spec("other", B, returns=[B]),
    )
    (line,) = faults(flow.validate)
    assert "'other'" in line
    assert "'loop'" not in line
    lonely = graph(make_spec("a", StartEvent), make_spec("b", Question, skip_graph_checks=["reachability"]))
    lonely.validate()


def test_skipping_terminal_event_allows_events_that_only_the_stream_sees() -> None:
    """They become dead letters when they come."""
    flow = graph(make_spec("a", StartEvent, returns=[A, StopEvent]))
    assert faults(flow.validate)
    flow.validate(skip=["terminal_event"])


def test_unknown_names_of_checks_are_refused() -> None:
    """With those that are known."""
    assert check_names(None) == frozenset()
    assert check_names(["dead_end"]) == {"dead_end"}
    with pytest.raises(WorkflowValidationError, match=r"\['dead'\]; known are \['reachability', 'terminal_event'"):
        check_names(["dead"])


def test_events_are_listed_in_an_order_that_does_not_depend_on_the_process() -> None:
    """Classes of one name come by their module."""
    first = type("Twin", (Event,), {"__module__": "a"})
    second = type("Twin", (Event,), {"__module__": "b"})
    for returned in ([first, second], [second, first]):
        flow = graph(make_spec("s", StartEvent, returns=[*returned, StopEvent]), make_spec("t", first, second))
        assert [cls.__module__ for cls in flow.events if cls.__name__ == "Twin"] == ["a", "b"]


def test_a_catch_all_step_is_not_reached_by_the_end() -> None:
    """A stop event goes to no step, so it leads nowhere."""
    flow = graph(make_spec("start", StartEvent), make_spec("all", Event))
    assert faults(flow.validate) == ["[reachability] no event leads to step 'all'; check the events they take"]

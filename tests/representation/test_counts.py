"""What a run did, on the graph of its workflow."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from greenroom import Context, Event, Handler, InputRequiredEvent, StartEvent, StopEvent, Workflow, aio, step
from greenroom.representation import StepCounts, WorkflowGraph, WorkflowStepNode
from greenroom.representation.picture import make_picture
from greenroom.retry import retry_policy, stop_after_attempt, wait_fixed
from tests.support import drawn_flows as flows
from tests.support.drawn_flows import Child


def counts(graph: WorkflowGraph) -> dict[str, dict[str, int]]:
    """The counts of the steps that are not 0."""
    return {
        node.id: {name: count for name, count in node.counts.model_dump().items() if count}
        for node in graph.nodes
        if isinstance(node, WorkflowStepNode) and node.counts is not None
    }


def ways(graph: WorkflowGraph) -> dict[tuple[str, str], int | None]:
    return {(edge.source, edge.target): edge.count for edge in graph.edges}


def ended(handler: Handler) -> WorkflowGraph:
    handler.exception(timeout=30)
    return handler.graph()


def reach(handler: Handler, event_class: type[Event]) -> Any:
    return next(event for event in handler.stream_events() if isinstance(event, event_class))


def test_a_loop_counts_its_rounds() -> None:
    """Each step and each edge of a loop counts how often it was gone through."""
    graph = ended(flows.Loop().run())
    assert graph.status == "completed"
    assert counts(graph) == {
        "write": {"started": 3, "finished": 3},
        "judge": {"started": 3, "finished": 3},
        "publish": {"started": 1, "finished": 1},
    }
    assert ways(graph) == {
        ("StartEvent", "write"): 1,
        ("write", "Draft"): 3,
        ("Draft", "judge"): 3,
        ("judge", "Feedback"): 2,
        ("judge", "Good"): 1,
        ("Feedback", "write"): 2,
        ("Good", "publish"): 1,
        ("publish", "StopEvent"): 1,
    }


@pytest.mark.parametrize(("flow", "joins"), [(flows.Fan, 3), (flows.ListFan, 1)])
def test_a_fan_out_counts_its_events(flow: type[Workflow], joins: int) -> None:
    """What is sent in a loop and what is returned in a list counts event by event, in and out."""
    graph = ended(flow().run())
    assert counts(graph)["join"] == {"started": joins, "finished": joins}
    chain = ["split", "Job", "work", "Result", "join"]
    assert [ways(graph)[way] for way in pairwise(chain)] == [3, 3, 3, 3]


def test_failures_and_retries_are_counted() -> None:
    """A step that failed twice has one retry and one failure, and what comes after it was not reached."""
    graph = ended(flows.Fails().run())
    assert graph.status == "failed"
    assert counts(graph) == {
        "one": {"started": 1, "finished": 1},
        "two": {"started": 1, "failed": 1, "retried": 1},
        "three": {},
    }
    assert ways(graph)["two", "Good"] == 0
    svg = graph.to_svg()
    assert 'class="gr-box gr-step gr-failed"' in svg
    assert 'class="gr-box gr-step gr-unreached"' in svg
    assert "not reached" in svg


def test_a_caught_failure_is_counted_as_such() -> None:
    """A failure that a @catch_error step took counts as failed and caught, and goes along its edge."""
    graph = ended(flows.Caught().run())
    assert counts(graph) == {
        "fetch": {"started": 1, "failed": 1, "caught": 1},
        "mend": {"started": 1, "finished": 1},
    }
    assert ways(graph)["fetch", "StepFailedEvent"] == ways(graph)["StepFailedEvent", "mend"] == 1


def test_a_run_that_waits_for_people_shows_where() -> None:
    """A step that stands at its question is waiting; questions and answers are counted on both kinds of ways."""
    handler = flows.People().run()
    reach(handler, flows.Question)
    assert counts(handler.graph())["greet"] == {"started": 1, "finished": 1}
    handler.send_event(flows.Answer(response="yes"))
    reach(handler, flows.Question)
    graph = handler.graph()
    assert (graph.status, counts(graph)["approve"]) == ("running", {"started": 1, "waiting": 1})
    way = ways(graph)
    assert (way["Question", "external_step"], way["external_step", "Answer"], way["Answer", "hear"]) == (1, 1, 1)
    assert (way["approve", "external_step.approve"], way["external_step.approve", "approve"]) == (1, 0)
    handler.respond(handler.pending_inputs()[0].input_id, {"response": "yes"})
    handler.send_event(flows.Delivered())
    way = ways(ended(handler))
    assert (way["external_step.approve", "approve"], way["external_sender", "Delivered"]) == (1, 1)
    assert way["Delivered", "approve"] == 1


@pytest.mark.parametrize("as_json", [False, True])
def test_a_restored_run_goes_on_counting(as_json: bool) -> None:
    """The counts are in the snapshot, and what was done before it counts once."""
    workflow = flows.People()
    first = workflow.run()
    reach(first, flows.Question)
    first.send_event(flows.Answer(response="yes"))
    reach(first, flows.Question)
    if as_json:
        restored: Context[Any] = Context.from_dict(workflow, first.ctx.to_dict())
    else:
        restored = Context.restore(workflow, first.ctx.snapshot())
    first.cancel_run()
    handler = workflow.run(ctx=restored)
    handler.respond(handler.pending_inputs()[0].input_id, {"response": "yes"})
    handler.send_event(flows.Delivered())
    graph = ended(handler)
    assert counts(graph) == {name: {"started": 1, "finished": 1} for name in ("greet", "hear", "approve")}
    assert ways(graph)["hear", "Draft"] == ways(graph)["Draft", "approve"] == 1


def test_a_cancelled_run_keeps_its_work_and_the_next_counts_on() -> None:
    """What a cancel cut off shows as still to be done, and a run that resumes it takes the counts over."""
    workflow = flows.People()
    first = workflow.run()
    reach(first, flows.Question)
    first.send_event(flows.Answer(response="yes"))
    reach(first, flows.Question)
    first.cancel_run()
    assert counts(ended(first))["approve"] == {"started": 1, "waiting": 1}
    second = workflow.run(ctx=first.ctx)
    second.respond(second.pending_inputs()[0].input_id, {"response": "yes"})
    second.send_event(flows.Delivered())
    assert counts(ended(second))["greet"] == {"started": 1, "finished": 1}
    assert counts(ended(second))["approve"] == {"started": 1, "finished": 1}


def test_what_the_end_overtakes_is_cut_off() -> None:
    """An invocation that waits when another step ends the run is cut off, and not lost from the count."""

    class Race(Workflow):
        @step
        def wait(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.ask(flows.Question())
            return StopEvent()

        @step
        def end(self, ev: flows.Answer) -> StopEvent:
            return StopEvent()

    handler = Race().run()
    reach(handler, flows.Question)
    handler.send_event(flows.Answer(), step="end")
    graph = ended(handler)
    assert counts(graph) == {"wait": {"started": 1, "cut_off": 1}, "end": {"started": 1, "finished": 1}}
    assert "1 cut off" in graph.to_svg()


def test_an_event_that_nothing_foretold_has_a_way() -> None:
    """What a step sends by way of a variable, undeclared, is drawn once it has happened."""

    class Sneaky(Workflow):
        @step
        def one(self, ctx: Context, ev: StartEvent) -> flows.Good:
            for event in (flows.Job(n=1), flows.Job(n=2)):
                ctx.send_event(event)
            return flows.Good()

        @step
        def two(self, ev: flows.Good) -> flows.Job:
            return flows.Job(n=3)

        @step
        def three(self, ctx: Context, ev: flows.Job) -> StopEvent | None:
            return StopEvent() if ctx.collect_events(ev, {flows.Job: 3}) else None

    assert ("one", "Job") not in ways(Sneaky.graph())
    assert ways(ended(Sneaky().run()))["one", "Job"] == 2


def test_the_graph_of_a_workflow_has_no_counts() -> None:
    """Counts belong to a run: the graph of the class has none."""
    graph = flows.Loop.graph()
    assert counts(graph) == {}
    assert (graph.run_id, set(ways(graph).values())) == (None, {None})
    assert StepCounts().model_dump() == dict.fromkeys(StepCounts.model_fields, 0)


def test_what_only_steps_need_that_were_not_reached_is_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resource and a workflow that no step came to use have a count of 0; of those used only runs are counted."""
    (tmp_path / "app.toml").write_text('[db]\ndatabase = "x"\n')
    monkeypatch.chdir(tmp_path)
    unused = {}
    for flow in (flows.Needs, flows.Parent):
        handler = flow().run()
        handler.result(timeout=30)
        counted = {(e.source, e.target): e.count for e in handler.graph().edges if e.kind in ("uses", "runs")}
        unused[flow] = [way for way, count in counted.items() if count == 0]
        assert None in counted.values()
    assert unused == {
        flows.Needs: [("never", "resource:<lambda>")],
        flows.Parent: [("two", "workflow:Linear"), ("four", "workflow:Grandchild")],
    }
    never = next(n for n in make_picture(handler.graph(), None).boxes if n.id == "workflow:Grandchild")
    assert never.tone == "plain"  # another workflow, which was run, runs it as well


class Squares(Workflow):
    """Runs a workflow for each number, and again where a first attempt has failed."""

    @step
    def begin(self, ctx: Context, ev: StartEvent) -> flows.Draft | None:
        for n in range(3):
            ctx.send_event(flows.Draft(text=str(n)))
        return None

    @step(num_workers=3, retry_policy=retry_policy(wait=wait_fixed(0.0), stop=stop_after_attempt(2)))
    async def square(self, ctx: aio.Context, ev: flows.Draft) -> flows.Good:
        await ctx.run(Child(), n=1)
        if ctx.retry_info().retry_number == 0 and ev.text == "2":
            raise ValueError("once")
        return flows.Good()

    @step
    def end(self, ctx: Context, ev: flows.Good) -> StopEvent | None:
        return ctx.collect_events(ev, {flows.Good: 3}) and StopEvent(result=ctx.ask(InputRequiredEvent()).response)


def test_an_edge_to_another_workflow_counts_the_runs_of_it() -> None:
    """Those that a step began; of what they run in turn nothing is known. A restored run goes on counting."""
    workflow = Squares()
    handler = workflow.run()
    reach(handler, InputRequiredEvent)
    before = ways(handler.graph())
    data = handler.ctx.snapshot()
    handler.cancel_run()
    again = workflow.run(ctx=Context.restore(workflow, data))
    (question,) = again.pending_inputs()
    again.respond(question.input_id, {"response": "yes"})
    after = ways(ended(again))
    for seen in (before, after):
        assert seen["square", "workflow:Child"] == 3
        assert seen["workflow:Child", "workflow:Grandchild"] is None
    assert "3\u00d7" in again.graph().to_svg()

"""OpenTelemetry: the spans of runs, steps and waits, whose children they are, and the metrics."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import StatusCode

import greenroom.otel
from greenroom import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    Runtime,
    StartEvent,
    StopEvent,
    Workflow,
    aio,
    step,
)
from greenroom.retry import retry_policy, stop_after_attempt, wait_fixed
from greenroom.testing import SeededRuntime
from tests.support.flavours import DEADLINE, Flavour
from tests.support.telemetry import Telemetry


class Part(Event):
    n: int


class Answer(HumanResponseEvent):
    n: int


@pytest.fixture(params=["threads", "seeded"])
def make_runtime(request: pytest.FixtureRequest) -> Callable[..., Runtime]:
    """Makes a runtime of either kind."""
    if request.param == "seeded":
        return lambda observer: SeededRuntime(5, observers=[observer])
    return lambda observer: Runtime(observers=[observer])


def test_steps_are_children_of_their_run_and_that_of_the_caller(
    flow: Flavour, telemetry: Telemetry, make_runtime: Callable[..., Runtime]
) -> None:
    """The run's span hangs under the one that was current at run(), each step's under the run's, all with their ids."""

    def helper() -> None:
        with telemetry.tracer.start_as_current_span("query"):
            pass

    class Chain(Workflow):
        @flow.step
        async def first(self, ctx: Context, ev: StartEvent) -> Part:
            helper()
            return Part(n=1)

        @flow.step
        async def second(self, ctx: Context, ev: Part) -> StopEvent:
            return StopEvent(result=ev.n)

    with make_runtime(telemetry.observer), telemetry.tracer.start_as_current_span("request"):
        handler = Chain().run(run_id="r")
        assert handler.result(DEADLINE) == 1
        # All spans of the run have ended when its result is there.
        assert [span.name for span in telemetry.spans()] == ["query", "step first", "step second", "run Chain"]
        assert trace.get_current_span().name == "request"  # type: ignore[attr-defined]
    parents = {span.name: telemetry.parent_of(span) for span in telemetry.spans()}
    assert parents == {
        "request": None,
        "run Chain": "request",
        "step first": "run Chain",
        "step second": "run Chain",
        "query": "step first",
    }
    assert dict(telemetry.span("step first").attributes or {}) == {
        "greenroom.run_id": "r",
        "greenroom.workflow": "Chain",
        "greenroom.step": "first",
        "greenroom.invocation": 0,
        "greenroom.attempt": 1,
        "greenroom.retry_number": 0,
        "greenroom.worker": 0,
        "greenroom.input_event": "StartEvent",
        "greenroom.output_event": "Part",
        "greenroom.outcome": "completed",
    }
    assert dict(telemetry.span("run Chain").attributes or {}) == {
        "greenroom.run_id": "r",
        "greenroom.workflow": "Chain",
        "greenroom.beginning": "started",
        "greenroom.start_event": "StartEvent",
        "greenroom.output_event": "StopEvent",
        "greenroom.outcome": "completed",
    }
    assert telemetry.span("run Chain").status.status_code is StatusCode.UNSET


def test_contents_of_events_are_not_recorded(flow: Flavour, telemetry: Telemetry) -> None:
    """Spans name the classes of events, and tell nothing of what is in them."""

    class Chain(Workflow):
        @flow.step
        async def first(self, ev: StartEvent) -> Part:
            return Part(n=ev.secret)

        @flow.step
        async def second(self, ev: Part) -> StopEvent:
            return StopEvent(result=ev.n)

    with Runtime(observers=[telemetry.observer]):
        assert Chain().run(secret=8675309).result(DEADLINE) == 8675309
    told = [span.to_json() for span in telemetry.spans()]
    assert len(told) == 3
    assert any("Part" in text for text in told)
    assert not any("8675309" in text for text in told)


def test_steps_side_by_side_each_have_their_own_span(
    flow: Flavour, telemetry: Telemetry, make_runtime: Callable[..., Runtime]
) -> None:
    """Spans that steps open while others run are children of their own step's span."""

    class Fan(Workflow):
        @flow.step
        async def fan(self, ctx: Context, ev: StartEvent) -> Part | None:
            for n in range(20):
                ctx.send_event(Part(n=n))
            return None

        @flow.step(num_workers=5)
        async def work(self, ctx: Context, ev: Part) -> StopEvent | None:
            with telemetry.tracer.start_as_current_span("query", attributes={"n": ev.n}):
                done = ctx.collect_events(ev, {Part: 20})
            return StopEvent() if done else None

    with make_runtime(telemetry.observer):
        Fan().run().result(DEADLINE)
    steps = {span.context.span_id: span for span in telemetry.spans("step work")}  # type: ignore[union-attr]
    queries = telemetry.spans("query")
    assert len(steps) == len(queries) == 20
    assert len({query.parent.span_id for query in queries if query.parent}) == 20
    assert all(query.parent and query.parent.span_id in steps for query in queries)
    counted = telemetry.values("greenroom.step.attempts", "step", "outcome")
    assert counted["fan", "completed"] == 1
    assert counted["work", "completed"] + counted.get(("work", "cancelled"), 0) == 20


def test_two_runs_at_once_keep_their_spans_apart(flow: Flavour, telemetry: Telemetry) -> None:
    """Each step's span has the trace of its own run, and the run's id."""

    class Meet(Workflow):
        meeting = threading.Barrier(2)

        @step
        def one(self, ctx: Context, ev: StartEvent) -> Part:
            self.meeting.wait(DEADLINE)
            return Part(n=1)

        @flow.step
        async def two(self, ctx: Context, ev: Part) -> StopEvent:
            return StopEvent()

    with Runtime(observers=[telemetry.observer]):
        for handler in [Meet().run(run_id=name) for name in "ab"]:
            handler.result(DEADLINE)
    runs = {span.context.trace_id: span for span in telemetry.spans("run")}  # type: ignore[union-attr]
    assert len(runs) == 2
    for span in telemetry.spans("step"):
        run = runs[span.context.trace_id]  # type: ignore[union-attr]
        assert span.attributes["greenroom.run_id"] == run.attributes["greenroom.run_id"]  # type: ignore[index]
    assert telemetry.values("greenroom.runs", "outcome") == {("completed",): 2}


def test_a_failure_is_recorded_on_step_and_run(flow: Flavour, telemetry: Telemetry) -> None:
    """The spans of a failed attempt and its run have the error's status and exception; a retry is counted."""

    class Fails(Workflow):
        @flow.step(retry_policy=retry_policy(stop=stop_after_attempt(2), wait=wait_fixed(3)))
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            raise ValueError(f"attempt {ctx.retry_info().retry_number}")

    with SeededRuntime(2, observers=[telemetry.observer]):
        assert str(Fails().run().exception()) == "attempt 1"
    first, second = telemetry.spans("step")
    run = telemetry.span("run Fails")
    for span, message in ((first, "attempt 0"), (second, "attempt 1"), (run, "attempt 1")):
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description == f"ValueError: {message}"
        assert span.attributes["greenroom.outcome"] == "failed"  # type: ignore[index]
        assert span.attributes["error.type"] == "ValueError"  # type: ignore[index]
        (exception,) = [event for event in span.events if event.name == "exception"]
        assert exception.attributes["exception.message"] == message  # type: ignore[index]
        assert "in one" in str(exception.attributes["exception.stacktrace"])  # type: ignore[index]
    assert second.attributes["greenroom.retry_number"] == 1  # type: ignore[index]
    (retry,) = [event for event in run.events if event.name == "greenroom.retry"]
    assert retry.attributes["greenroom.retry_delay"] == pytest.approx(3)  # type: ignore[index]
    assert telemetry.values("greenroom.step.retries", "step") == {("one",): 1}
    assert telemetry.values("greenroom.step.attempts", "step", "outcome") == {("one", "failed"): 2}
    assert telemetry.values("greenroom.runs", "outcome") == {("failed",): 1}
    (waited,) = telemetry.points("greenroom.mailbox.wait_time")
    assert waited.count == 2
    assert waited.sum < 1  # The delay before the retry is no time in a mailbox.


def test_a_timeout_ends_the_spans(telemetry: Telemetry) -> None:
    """The span of a step that took too long says so, and so does that of its run."""

    class Slow(Workflow):
        @step(timeout=2)
        async def one(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(10)
            return StopEvent()

    with SeededRuntime(2, observers=[telemetry.observer]):
        assert type(Slow().run().exception()).__name__ == "StepTimeoutError"
        assert type(Slow(timeout=1).run().exception()).__name__ == "WorkflowTimeoutError"
    outcomes = [span.attributes["greenroom.outcome"] for span in telemetry.spans()]  # type: ignore[index]
    assert outcomes == ["timed_out", "failed", "cancelled", "timed_out"]
    codes = [span.status.status_code for span in telemetry.spans()]
    assert codes == [StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET, StatusCode.ERROR]
    assert telemetry.spans()[0].attributes["error.type"] == "greenroom.errors.StepTimeoutError"  # type: ignore[index]


def test_a_wait_is_a_child_of_where_it_was_called(
    flow: Flavour, telemetry: Telemetry, make_runtime: Callable[..., Runtime]
) -> None:
    """The wait's span hangs under the span that was current at the call; after it that one is still current."""

    class Ask(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            with telemetry.tracer.start_as_current_span("talk"):
                answer: Answer = await flow(ctx.ask(InputRequiredEvent(), Answer, timeout=60))
                with telemetry.tracer.start_as_current_span("after"):
                    pass
            with telemetry.tracer.start_as_current_span("last"):
                pass
            return StopEvent(result=answer.n)

    with make_runtime(telemetry.observer):
        handler = Ask().run()
        question = next(iter(handler.stream_events()))
        assert [point.value for point in telemetry.points("greenroom.active_waits")] == [1]
        assert [point.value for point in telemetry.points("greenroom.active_runs")] == [1]
        handler.respond(question.input_id, {"n": 3})
        assert handler.result(DEADLINE) == 3
    wait = telemetry.span("wait Answer")
    parents = [telemetry.parent_of(telemetry.span(name)) for name in ("wait Answer", "after", "talk", "last")]
    assert parents == ["talk", "talk", "step one", "step one"]
    attributes = dict(wait.attributes or {})
    assert attributes["greenroom.input_id"] == question.input_id
    assert attributes["greenroom.timeout"] == 60
    assert attributes["greenroom.event"] == attributes["greenroom.output_event"] == "Answer"
    assert attributes["greenroom.outcome"] == "answered"
    assert attributes["greenroom.step"] == "one"
    (point,) = telemetry.points("greenroom.wait.duration")
    assert (point.count, point.attributes["greenroom.outcome"]) == (1, "answered")


def test_a_passivated_step_has_two_spans_and_its_wait_one(telemetry: Telemetry) -> None:
    """The span of the unwound attempt says passivated, the next attempt has its own; the wait's goes on until then."""

    class Ask(Workflow):
        @step
        def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=ctx.ask(InputRequiredEvent(), Answer).n)

    with SeededRuntime(4, observers=[telemetry.observer]) as runtime:
        runtime.parking._max_parked = 0
        handler = Ask().run()
        runtime.run_until_idle()
        assert [span.attributes["greenroom.outcome"] for span in telemetry.spans()] == ["passivated"]  # type: ignore[index]
        assert [point.value for point in telemetry.points("greenroom.active_waits")] == [1]
        handler.send_event(Answer(n=3))
        assert handler.result() == 3
    outcomes = {(span.name, span.attributes["greenroom.outcome"]) for span in telemetry.spans()}  # type: ignore[index]
    assert outcomes == {
        ("step one", "passivated"),
        ("step one", "completed"),
        ("wait Answer", "answered"),
        ("run Ask", "completed"),
    }


def test_no_span_is_open_when_the_runtime_has_shut_down(flow: Flavour, telemetry: Telemetry) -> None:
    """Runs that wait or are cut off in the middle of a step end their spans as cancelled."""
    began = threading.Event()

    class Rests(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent | None:
            if ev.get("works"):
                began.set()
                while not ctx.cancelled:
                    await asyncio.sleep(0)
            else:
                await flow(ctx.wait_for_event(Answer))
            return None

    kinds = [None] if flow.kind != "async def" else [None, True]
    with Runtime(observers=[telemetry.observer]) as runtime:
        for works in kinds:
            handler = Rests().run(works=works)
            if works:
                assert began.wait(DEADLINE)
            else:
                while not telemetry.points("greenroom.active_waits"):
                    runtime.dispatcher.wait(handler, 0.001)
        runtime.shutdown(timeout=0.0)
    assert not telemetry.observer._spans
    assert {span.attributes["greenroom.outcome"] for span in telemetry.spans()} == {"cancelled"}  # type: ignore[index]
    assert {span.name for span in telemetry.spans()} >= {"run Rests", "step one", "wait Answer"}


def test_a_run_within_a_step_is_a_child_of_the_step(telemetry: Telemetry) -> None:
    """A run that a step begins belongs to the trace of the step."""

    class Inner(Workflow):
        @step
        async def one(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    class Outer(Workflow):
        @step
        def one(self, ev: StartEvent) -> StopEvent:
            Inner().run().result(DEADLINE)
            return StopEvent()

    with Runtime(observers=[telemetry.observer]):
        Outer().run().result(DEADLINE)
    assert telemetry.parent_of(telemetry.span("run Inner")) == "step one"


class Inner(Workflow):
    """Asks a person in one step, and has its own work in another."""

    @step
    def ask(self, ctx: Context, ev: StartEvent) -> Part:
        return Part(n=ctx.ask(InputRequiredEvent(), Answer).n)

    @step
    async def double(self, ctx: aio.Context, ev: Part) -> StopEvent:
        return StopEvent(result=2 * ev.n)


def answer(handler: Any) -> None:
    """Answer the one question of a run."""
    (question,) = handler.pending_inputs()
    handler.respond(question.input_id, Answer(n=4))


@pytest.mark.parametrize("max_parked", [0, 1000])
def test_a_child_run_is_a_child_of_the_step_that_began_it(flow: Flavour, telemetry: Telemetry, max_parked: int) -> None:
    """The child's run hangs under the attempt that called ctx.run, its steps under it, also when it was unwound."""

    class Outer(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            with telemetry.tracer.start_as_current_span("mine"):
                child = ctx.run(Inner())
            return StopEvent(result=await flow(child.result()))

    with SeededRuntime(3, observers=[telemetry.observer]) as runtime:
        runtime.parking._max_parked = max_parked
        handler = Outer().run(run_id="r")
        runtime.run_until_idle()
        answer(handler)
        assert handler.result() == 8
    run = telemetry.span("run Inner")
    assert telemetry.parent_of(run) == "mine"
    first = min(telemetry.spans("step one"), key=lambda span: span.attributes["greenroom.attempt"])  # type: ignore
    mine = min(telemetry.spans("mine"), key=lambda span: span.start_time or 0)
    assert mine.parent.span_id == first.context.span_id  # type: ignore[union-attr]
    assert run.parent.span_id == mine.context.span_id  # type: ignore[union-attr]
    assert {telemetry.parent_of(span) for name in ("ask", "double") for span in telemetry.spans(f"step {name}")} == {
        "run Inner"
    }
    assert telemetry.parent_of(telemetry.span("wait Answer")) == "step ask"
    attributes = dict(run.attributes or {})
    assert {name: attributes[f"greenroom.{name}"] for name in ("run_id", "parent_run_id", "parent_step")} == {
        "run_id": "r/Inner.0.0",
        "parent_run_id": "r",
        "parent_step": "one",
    }
    assert attributes["greenroom.parent_invocation"] == 0
    assert telemetry.values("greenroom.runs", "workflow") == {("Outer",): 1, ("Inner",): 1}
    assert (
        telemetry.values("greenroom.step.attempts", "workflow", "step", "outcome")["Inner", "double", "completed"] == 1
    )


def test_spans_of_children_follow_a_run_that_was_restored(telemetry: Telemetry) -> None:
    """In a run that goes on from a snapshot the child hangs under the attempt that comes by its ctx.run again."""

    class Outer(Workflow):
        @step
        def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=ctx.run(Inner()).result())

    with SeededRuntime(3, observers=[telemetry.observer]) as runtime:
        handler = Outer().run(run_id="first")
        runtime.run_until_idle()
        data = handler.ctx.snapshot()
        handler.cancel_run()
        workflow = Outer()
        again = workflow.run(ctx=Context.restore(workflow, data), run_id="second")
        runtime.run_until_idle()
        answer(again)
        assert again.result() == 8
    by_run = {(span.attributes["greenroom.run_id"], span.name): span for span in telemetry.spans()}  # type: ignore[index]
    for run_id in ("first", "second"):
        child, attempt = by_run[f"{run_id}/Inner.0.0", "run Inner"], by_run[run_id, "step one"]
        assert child.parent.span_id == attempt.context.span_id  # type: ignore[union-attr]
        assert child.context.trace_id == by_run[run_id, "run Outer"].context.trace_id  # type: ignore[union-attr]
    resumed = by_run["second/Inner.0.0", "run Inner"].attributes or {}
    assert (resumed["greenroom.beginning"], resumed["greenroom.origin_run_id"]) == ("resumed", "first/Inner.0.0")


def test_children_side_by_side_on_threads_keep_their_spans_apart(flow: Flavour, telemetry: Telemetry) -> None:
    """Spans that steps of children open hang under the step of their own child, at any depth."""

    class Nest(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            with telemetry.tracer.start_as_current_span(f"work {ev.name}"):
                await asyncio.sleep(0) if flow.kind == "async def" else None
            if ev.depth:
                names = [f"{ev.name}.{n}" for n in range(3)]
                for child in [ctx.run(self, run_id=name, name=name, depth=ev.depth - 1) for name in names]:
                    await flow(child.result())
            return StopEvent()

    with Runtime(observers=[telemetry.observer]):
        Nest().run(depth=2, run_id="r", name="r").result(DEADLINE)
    spans = {span.context.span_id: span for span in telemetry.spans()}  # type: ignore[union-attr]
    assert len(spans) == 3 * 13
    for span in telemetry.spans("work "):
        assert span.parent is not None
        attributes = spans[span.parent.span_id].attributes or {}
        assert span.name == f"work {attributes['greenroom.run_id']}"
    for span in telemetry.spans("run "):
        attributes = span.attributes or {}
        if "greenroom.parent_run_id" in attributes:
            assert span.parent is not None
            around = spans[span.parent.span_id]
            assert (around.attributes or {})["greenroom.run_id"] == attributes["greenroom.parent_run_id"]
            assert around.name == "step one"


def test_spans_follow_into_tasks_and_threads_of_a_step(telemetry: Telemetry) -> None:
    """What a step starts with gather or to_thread is within its span."""

    def blocking() -> None:
        with telemetry.tracer.start_as_current_span("in thread"):
            pass

    async def task() -> None:
        with telemetry.tracer.start_as_current_span("in task"):
            await asyncio.sleep(0)

    class Spreads(Workflow):
        @step
        async def one(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
            await asyncio.gather(task(), task(), asyncio.to_thread(blocking))
            return StopEvent()

    with Runtime(observers=[telemetry.observer]):
        Spreads().run().result(DEADLINE)
    assert {telemetry.parent_of(span) for span in telemetry.spans("in")} == {"step one"}
    assert len(telemetry.spans("in")) == 3


def test_metrics_count_and_measure(telemetry: Telemetry) -> None:
    """Durations are in the virtual seconds of the clock; dead letters, threads and runs are counted."""

    class Measured(Workflow):
        @step
        async def one(self, ctx: aio.Context, ev: StartEvent) -> Part:
            ctx.send_event(Answer(n=1))
            await asyncio.sleep(20)
            return Part(n=1)

        @step
        def two(self, ctx: Context, ev: Part) -> StopEvent:
            assert [point.value > 0 for point in telemetry.points("greenroom.pool.threads")] == [True]
            return StopEvent()

    with SeededRuntime(1, observers=[telemetry.observer]):
        handler = Measured(disable_validation=True).run()
        handler.result()
    one, two = sorted(telemetry.points("greenroom.step.duration"), key=lambda point: point.attributes["greenroom.step"])
    assert one.sum == pytest.approx(20, abs=0.1)
    assert two.sum < 0.1
    (run,) = telemetry.points("greenroom.run.duration")
    assert run.sum == pytest.approx(20, abs=0.1)
    assert run.attributes == {"greenroom.workflow": "Measured", "greenroom.outcome": "completed"}
    assert telemetry.values("greenroom.dead_letters", "event") == {("Answer",): 1}
    assert [event.name for event in telemetry.span("run Measured").events] == ["greenroom.dead_letter"]
    assert [point.value for point in telemetry.points("greenroom.pool.threads")] == [0]


def test_an_event_that_waits_for_a_worker_counts_as_waiting(telemetry: Telemetry) -> None:
    """The time in the mailbox is that from an event's coming to the begin of its body."""

    class Single(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> Part | None:
            for n in range(3):
                ctx.send_event(Part(n=n))
            return None

        @step(num_workers=1)
        async def work(self, ctx: aio.Context, ev: Part) -> StopEvent | None:
            await asyncio.sleep(10)
            return StopEvent() if ctx.collect_events(ev, {Part: 3}) else None

    with SeededRuntime(1, observers=[telemetry.observer]):
        Single().run().result()
    (point,) = [p for p in telemetry.points("greenroom.mailbox.wait_time") if p.attributes["greenroom.step"] == "work"]
    assert point.count == 3
    assert point.sum == pytest.approx(30, abs=0.2)  # 0 + 10 + 20


def test_it_is_switched_on_and_off_in_one_line(telemetry: Telemetry) -> None:
    """instrument() sees the runs that begin after it, also twice in a row; uninstrument() those after it no more."""

    class Hello(Workflow):
        @step
        def hello(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    try:
        for _ in range(2):
            greenroom.otel.instrument(tracer_provider=telemetry.tracers, meter_provider=telemetry.meters)
        Hello().run().result(DEADLINE)
        assert [span.name for span in telemetry.spans()] == ["step hello", "run Hello"]
        assert telemetry.points("greenroom.pool.threads")[0].value > 0
    finally:
        greenroom.otel.uninstrument()
        greenroom.otel.uninstrument()
    Hello().run().result(DEADLINE)
    assert len(telemetry.spans()) == 2
    assert telemetry.points("greenroom.pool.threads")[0].value == 0


def test_an_error_that_cannot_be_shown_leaves_no_span_open(
    telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    """A span ends even where the error's own text raises; the run fails with the error all the same."""

    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    class Fails(Workflow):
        @step
        def one(self, ev: StartEvent) -> StopEvent:
            raise Unspeakable

    with Runtime(observers=[telemetry.observer]):
        assert type(Fails().run().exception(DEADLINE)) is Unspeakable
    assert [span.name for span in telemetry.spans()] == ["step one", "run Fails"]


def test_without_opentelemetry_the_import_says_what_to_install() -> None:
    """Where the API is not installed, importing greenroom works and greenroom.otel names the extra."""
    program = (
        "import sys; sys.modules['opentelemetry'] = None; import greenroom\n"
        "try: import greenroom.otel\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "greenroom.otel needs OpenTelemetry: pip install 'greenroom[otel]'"

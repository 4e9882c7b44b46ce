"""The defects of peers that people have met, D3 to D27: each has a test here or, where its name says so, elsewhere."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Annotated, Any

import pytest

from greenroom import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    aio,
    step,
)
from greenroom.resources import Resource, Scope
from greenroom.retry import retry_policy, stop_after_attempt, wait_fixed, wait_none
from greenroom.testing import SeededRuntime, explore


class Item(Event):
    n: int


class Done(Event):
    n: int


def test_d3_a_wait_does_not_give_the_retry_budget_back() -> None:
    """With three attempts the body fails three times, wait or no wait."""
    numbers: list[int] = []

    class Spends(Workflow):
        @step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(3)))
        def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            numbers.append(ctx.retry_info().retry_number)
            if numbers[-1] == 1:
                ctx.wait_for_event(HumanResponseEvent)
            raise ValueError(numbers[-1])

    with SeededRuntime(1) as runtime:
        handler = Spends().run()
        runtime.run_until_idle()
        handler.send_event(HumanResponseEvent())
        with pytest.raises(ValueError, match="2"):
            handler.result()
    assert numbers == [0, 1, 2]


class Twice(Workflow):
    """Asks twice in one step."""

    @step
    async def ask(self, ctx: aio.Context, ev: StartEvent) -> Done:
        first = await ctx.wait_for_event(HumanResponseEvent)
        second = await ctx.wait_for_event(HumanResponseEvent)
        ctx.write_event_to_stream(Item(n=first.n))
        return Done(n=first.n * 10 + second.n)

    @step
    def end(self, ev: Done) -> StopEvent:
        return StopEvent(result=ev.n)


def test_d5_d6_two_answers_in_a_row_complete_one_step_once() -> None:
    """Each wait takes its own answer, back to back or well spaced, and one event comes out."""

    def test(runtime: SeededRuntime) -> None:
        handler = Twice().run()
        if runtime.seed % 2:
            runtime.run_until_idle()
        handler.send_event(HumanResponseEvent(n=1))
        if runtime.seed % 3:
            runtime.run_until_idle()
        handler.send_event(HumanResponseEvent(n=2))
        assert handler.result() == 12
        assert [type(event) for event in handler.stream_events(after=-1)] == [Item, StopEvent]

    explore(test, range(30))


def test_d7_a_snapshot_keeps_what_is_left_of_a_wait() -> None:
    """The timeout of a wait fires after a restore, when it would have."""

    class Late(Workflow):
        @step
        def wait(self, ctx: Context, ev: StartEvent) -> StopEvent:
            try:
                ctx.wait_for_event(HumanResponseEvent, timeout=30)
            except TimeoutError:
                return StopEvent(result="too late")
            return StopEvent(result="in time")

    workflow = Late()
    with SeededRuntime(1) as runtime:
        handler = workflow.run()
        runtime.advance(20)
        data = handler.ctx.snapshot()
    with SeededRuntime(2) as runtime:
        assert workflow.run(ctx=Context.restore(workflow, data)).result() == "too late"
        assert 9 < runtime.now() < 11


@pytest.mark.parametrize("max_parked", [0, 1000])
def test_d8_except_exception_does_not_swallow_a_wait(max_parked: int) -> None:
    """Neither parked in place nor unwound to free its thread does a wait look like an error."""

    class Careful(Workflow):
        @step
        def wait(self, ctx: Context, ev: StartEvent) -> StopEvent:
            try:
                answer = ctx.wait_for_event(HumanResponseEvent)
            except Exception:
                return StopEvent(result="swallowed")
            return StopEvent(result=answer.response)

    with SeededRuntime(1) as runtime:
        runtime.parking._max_parked = max_parked
        handler = Careful().run()
        runtime.run_until_idle()
        handler.send_event(HumanResponseEvent(response="yes"))
        assert handler.result() == "yes"


@pytest.mark.parametrize("scope", ["run", "workflow"])
def test_d13_parallel_steps_and_runs_may_resolve_one_resource(scope: Scope) -> None:
    """Those that come while it is being made wait for it; nobody sees a circle where there is none."""

    def test(runtime: SeededRuntime) -> None:
        made: list[object] = []

        async def slow() -> object:
            await asyncio.sleep(1)
            made.append(object())
            return made[-1]

        class Parallel(Workflow):
            @step
            def start(self, ctx: Context, ev: StartEvent) -> Item | None:
                for n in range(3):
                    ctx.send_event(Item(n=n))
                return None

            @step(num_workers=3)
            async def one(self, ev: Item, it: Annotated[object, Resource(slow, scope=scope)]) -> Done:
                return Done(n=id(it))

            @step
            def end(
                self, ctx: Context, ev: Done, it: Annotated[object, Resource(slow, scope=scope)]
            ) -> StopEvent | None:
                assert ev.n == id(it)
                return StopEvent() if ctx.collect_events(ev, {Done: 3}) else None

        workflow = Parallel()
        for handler in [workflow.run(), workflow.run()]:
            handler.result()
        assert len(made) == (1 if scope == "workflow" else 2)

    explore(test, range(10))


@pytest.mark.parametrize("scope", ["invocation", "run", "workflow"])
def test_d14_factories_of_one_name_make_resources_of_their_own(scope: Scope) -> None:
    """Two lambdas, and two functions that one function has made, are told apart."""

    def maker(text: str) -> Callable[[], str]:
        def make() -> str:
            return text

        return make

    class Uses(Workflow):
        @step
        def work(
            self,
            ev: StartEvent,
            a: Annotated[str, Resource(lambda: "a", scope=scope)],
            b: Annotated[str, Resource(lambda: "b", scope=scope)],
            c: Annotated[str, Resource(maker("c"), scope=scope)],
            d: Annotated[str, Resource(maker("d"), scope=scope)],
        ) -> StopEvent:
            return StopEvent(result=a + b + c + d)

    assert Uses().run().result() == "abcd"


def test_d16_a_stop_event_keeps_undeclared_fields() -> None:
    """Through its own dump, and through the stop event that a run gives."""

    class Ends(Workflow):
        @step
        def end(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=1, cost=2)

    with SeededRuntime(1):
        handler = Ends().run()
        handler.result()
        event = handler.get_stop_event()
        assert event is not None
        copy = StopEvent.model_validate(json.loads(json.dumps(event.model_dump())))
        assert (copy.result, copy.cost) == (1, 2)


def test_d17_the_timeout_of_a_run_does_not_count_earlier_runs() -> None:
    """Nor those before a snapshot, nor a run that timed out."""

    class Slow(Workflow):
        @step
        async def work(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(ev.seconds)
            return StopEvent(result=ev.seconds)

    workflow = Slow(timeout=7)
    with SeededRuntime(1):
        ctx = Context(workflow)
        for seconds in (3, 3, 3, 9, 3):
            ctx = Context.restore(workflow, ctx.snapshot()) if seconds == 9 else ctx
            handler = workflow.run(ctx=ctx, seconds=seconds)
            if seconds == 9:
                with pytest.raises(TimeoutError):
                    handler.result()
            else:
                assert handler.result() == seconds


def test_d19_a_snapshot_in_a_retry_delay_keeps_the_work() -> None:
    """The retry comes after what is left of the delay."""

    class Fails(Workflow):
        @step(retry_policy=retry_policy(wait=wait_fixed(30), stop=stop_after_attempt(2)))
        def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            if ctx.retry_info().retry_number == 0:
                raise ValueError
            return StopEvent(result="retried")

    workflow = Fails()
    with SeededRuntime(1) as runtime:
        handler = workflow.run()
        runtime.advance(20)
        data = handler.ctx.snapshot()
    with SeededRuntime(2) as runtime:
        assert workflow.run(ctx=Context.restore(workflow, data)).result() == "retried"
        assert 9 < runtime.now() < 11


class Ordered(Workflow):
    """Works on its items one at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[int] = []

    @step
    def begin(self, ctx: Context, ev: StartEvent) -> Item | None:
        for n in range(4):
            ctx.send_event(Item(n=n))
        return None

    @step(num_workers=1)
    async def work(self, ctx: aio.Context, ev: Item) -> Done:
        self.begun.append(ev.n)
        await asyncio.sleep(10)
        return Done(n=ev.n)

    @step
    def end(self, ctx: Context, ev: Done) -> StopEvent | None:
        done = ctx.collect_events(ev, {Done: 4})
        return done and StopEvent(result=[event.n for event in done])


@pytest.mark.parametrize("live", [True, False])
def test_d25_d26_a_resumed_run_does_its_work_again_in_order(live: bool) -> None:
    """The same from the live context as from its snapshot: what was at work first, then what waited, each once."""
    workflow = Ordered()
    with SeededRuntime(1) as runtime:
        handler = workflow.run()
        runtime.advance(15)
        handler.cancel_run()
        with pytest.raises(WorkflowCancelledByUser):
            handler.result()
        ctx = handler.ctx if live else Context.from_dict(workflow, handler.ctx.to_dict())
        workflow.begun.clear()
        assert workflow.run(ctx=ctx).result() == [0, 1, 2, 3]
        assert workflow.begun == [1, 2, 3]


def test_d27_the_stream_of_a_cancelled_run_ends() -> None:
    """A reader that is there when the run is cancelled, and one that comes later."""
    with SeededRuntime(1) as runtime:
        handler = Ordered().run()
        runtime.advance(5)
        handler.cancel_run()
        assert [type(event).__name__ for event in handler.stream_events()] == ["WorkflowCancelledEvent"]
        assert len(list(handler.stream_events(after=-1))) == 1


class Ask(InputRequiredEvent):
    command: str


class Tools(Workflow):
    """Two tools ask before they run, as agents do: each from a step of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.entered: list[str] = []
        self.ran: list[str] = []

    @step
    def begin(self, ctx: Context, ev: StartEvent) -> Item | None:
        ctx.send_event(Item(n=0, command="ls"))
        ctx.send_event(Item(n=1, command="rm -rf /"))
        return None

    @step
    def tool(self, ctx: Context, ev: Item) -> Done:
        self.entered.append(ev.command)
        ctx.write_event_to_stream(Item(n=ev.n))
        try:
            answer: Any = ctx.ask(Ask(command=ev.command))
        except Exception:
            raise AssertionError("the wait was swallowed") from None
        if answer.response == "yes":
            self.ran.append(ev.command)
        return Done(n=ev.n)

    @step
    def end(self, ctx: Context, ev: Done) -> StopEvent | None:
        done = ctx.collect_events(ev, {Done: 2})
        return done and StopEvent()


def test_finding_1_one_answer_releases_one_question() -> None:
    """The answer to the harmless command does not run the other, on any schedule."""

    def test(runtime: SeededRuntime) -> None:
        workflow = Tools()
        handler = workflow.run()
        runtime.run_until_idle()
        questions = {question.request.command: question.input_id for question in handler.pending_inputs()}
        handler.respond(questions["ls"], {"response": "yes"})
        runtime.run_until_idle()
        assert workflow.ran == ["ls"]
        assert [question.input_id for question in handler.pending_inputs()] == [questions["rm -rf /"]]
        handler.respond(questions["rm -rf /"], {"response": "no"})
        handler.result()
        assert workflow.ran == ["ls"]

    explore(test, range(30))


def test_finding_2_a_tool_that_waits_is_not_run_again_from_its_top() -> None:
    """Its effects before the question, and what it streamed, happen once."""
    with SeededRuntime(1) as runtime:
        workflow = Tools()
        handler = workflow.run()
        runtime.run_until_idle()
        for question in handler.pending_inputs():
            handler.respond(question.input_id, {"response": "yes"})
        handler.result()
        assert sorted(workflow.entered) == ["ls", "rm -rf /"]
        assert [type(event) for event in handler.stream_events(after=-1)].count(Item) == 2


class Streams(Workflow):
    """Streams two questions, and takes the answers in a step or waits for them."""

    @step
    def begin(self, ctx: Context, ev: StartEvent) -> StopEvent | InputRequiredEvent | None:
        ctx.write_event_to_stream(Ask(command="first"))
        ctx.write_event_to_stream(Ask(command="second"))
        if not ev.waits:
            return None
        answers = [ctx.wait_for_event(HumanResponseEvent) for _ in range(3)]
        return StopEvent(result=[answer.response for answer in answers])

    @step
    def end(self, ctx: Context, ev: HumanResponseEvent) -> StopEvent | None:
        return StopEvent(result=ev.response) if ev.response == "end" else None


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("responds", [True, False])
def test_an_answer_closes_one_streamed_question(waits: bool, responds: bool) -> None:
    """Whether it names the question or not, and whether a step takes it or a wait."""
    with SeededRuntime(1) as runtime:
        handler = Streams().run(waits=waits)
        runtime.run_until_idle()
        first, second = handler.pending_inputs()
        if responds:
            handler.respond(first.input_id, {"response": "a"})
        else:
            handler.send_event(HumanResponseEvent(response="a"))
        runtime.run_until_idle()
        assert [question.input_id for question in handler.pending_inputs()] == [second.input_id]
        handler.send_event(HumanResponseEvent(response="b"))
        runtime.run_until_idle()
        assert handler.pending_inputs() == []
        handler.send_event(HumanResponseEvent(response="end"))
        assert handler.result() == (["a", "b", "end"] if waits else "end")

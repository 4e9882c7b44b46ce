"""The defects of peers that people have met, D1 to D27: each has a test that bears its number, most of them here."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
    WorkflowRuntimeError,
    WorkflowTimeoutError,
    aio,
    step,
)
from greenroom.effects import StartInvocation
from greenroom.facts import CollectAsked, EventSent, Finished, RunStarted
from greenroom.resources import Resource, Scope
from greenroom.retry import retry_policy, stop_after_attempt, stop_after_delay, wait_fixed, wait_none
from greenroom.testing import SeededRuntime, explore
from tests.support.core import Play, make_spec


class Item(Event):
    n: int


class Done(Event):
    n: int


class Batches(Workflow):
    """Counts items in batches of two, with the default of four workers and an await before the count."""

    def __init__(self, items: int) -> None:
        super().__init__()
        self.items = items
        self.entered: list[int] = []
        self.batches: list[list[int]] = []

    @step
    def begin(self, ctx: Context, ev: StartEvent) -> Item | None:
        for n in range(self.items):
            ctx.send_event(Item(n=n))
        return None

    @step
    async def join(self, ctx: aio.Context, ev: Item) -> Done | None:
        self.entered.append(ev.n)
        await asyncio.sleep(0.01 * (ev.n % 3))
        batch = ctx.collect_events(ev, [Item, Item])
        if batch is None:
            return None
        self.batches.append([item.n for item in batch])
        return Done(n=len(batch))

    @step
    def end(self, ctx: Context, ev: Done) -> StopEvent | None:
        done = ctx.collect_events(ev, {Done: self.items // 2})
        return done and StopEvent()


def test_d1_a_collecting_step_runs_its_body_once_an_event() -> None:
    """On any schedule: no body is run again because another came between."""

    def test(runtime: SeededRuntime) -> None:
        workflow = Batches(4)
        workflow.run().result()
        assert sorted(workflow.entered) == [0, 1, 2, 3]

    explore(test, range(50))


def test_d2_batches_neither_overlap_nor_lose_an_event() -> None:
    """On any schedule each of six events is in one of three batches."""

    def test(runtime: SeededRuntime) -> None:
        workflow = Batches(6)
        workflow.run().result()
        assert [len(batch) for batch in workflow.batches] == [2, 2, 2]
        assert sorted(n for batch in workflow.batches for n in batch) == list(range(6))

    explore(test, range(50))


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


def test_d9_def_steps_can_call_everything_that_async_steps_can() -> None:
    """Sending, streaming, collecting, waiting, asking and the store, without an event loop."""

    class Calls(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> Item | None:
            with pytest.raises(RuntimeError, match="no running event loop"):
                asyncio.get_running_loop()
            ctx.send_event(Item(n=1))
            ctx.send_event(Item(n=2), delay=0.01)
            ctx.write_event_to_stream(Item(n=3))
            return None

        @step
        def end(self, ctx: Context, ev: Item) -> StopEvent | None:
            batch = ctx.collect_events(ev, [Item, Item])
            if batch is None:
                return None
            ctx.store.set("n", sum(item.n for item in batch))
            with ctx.store.edit_state() as state:
                state["n"] += ctx.once("one", lambda: 1)
            answer = ctx.wait_for_event(HumanResponseEvent, waiter_event=InputRequiredEvent())
            return StopEvent(result=ctx.store.get("n") + answer.n + ctx.ask(InputRequiredEvent()).n)

    handler = Calls().run()
    for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            handler.respond(event.input_id, {"n": 10})
    assert handler.result(20) == 24
    assert [type(event) for event in handler.stream_events(after=-1)] == [
        Item,
        InputRequiredEvent,
        InputRequiredEvent,
        StopEvent,
    ]


def test_d10_any_thread_may_run_send_and_wait_without_a_loop() -> None:
    """Each call is made on a thread of its own, and the result is waited for on all of them."""

    class Answers(Workflow):
        @step
        async def begin(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=(await ctx.wait_for_event(HumanResponseEvent)).n)

    with ThreadPoolExecutor(4) as pool:
        handler = pool.submit(Answers().run).result(20)
        results = [pool.submit(handler.result, 20) for _ in range(3)]
        pool.submit(handler.send_event, HumanResponseEvent(n=7)).result(20)
        assert [result.result(20) for result in results] == [7, 7, 7]


def test_d11_a_step_that_blocks_its_loop_does_not_hold_up_the_timeout() -> None:
    """Nor another run."""
    go = threading.Event()

    class Blocks(Workflow):
        @step
        async def block(self, ev: StartEvent) -> StopEvent:
            assert go.wait(20)
            return StopEvent()

    class Quick(Workflow):
        @step
        def quick(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result="quick")

    try:
        handler = Blocks(timeout=0.05).run()
        assert Quick().run().result(20) == "quick"
        with pytest.raises(WorkflowTimeoutError):
            handler.result(20)
    finally:
        go.set()


@pytest.mark.parametrize("is_async", [True, False])
def test_d12_a_step_that_raises_cancelled_error_fails_its_run(is_async: bool) -> None:
    """At once; it does not hang until the timeout."""

    class RaisesAsync(Workflow):
        @step
        async def fail(self, ev: StartEvent) -> StopEvent:
            raise asyncio.CancelledError("by itself")

    class Raises(Workflow):
        @step
        def fail(self, ev: StartEvent) -> StopEvent:
            raise asyncio.CancelledError("by itself")

    with SeededRuntime(1) as runtime:
        handler = (RaisesAsync if is_async else Raises)(timeout=60).run()
        # It comes wrapped: a CancelledError from result() would look as if somebody had cancelled the caller.
        with pytest.raises(Exception, match="CancelledError"):
            handler.result()
        assert handler.status == "failed"
        assert runtime.now() < 1


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


def calls_for(items: int) -> int:
    """Count the calls that the core makes for a fan-out to so many items that are collected again."""
    play = Play(
        make_spec("begin", StartEvent, returns=[Item]),
        make_spec("work", Item, returns=[Done]),
        make_spec("join", Done, returns=[StopEvent]),
    )
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    def apply(fact: Any) -> list[Any]:
        sys.setprofile(count)
        try:
            return play.state.apply(fact, 0.0)
        finally:
            sys.setprofile(None)

    def ends_of(effects: list[Any]) -> list[Any]:
        return [effect for effect in effects if isinstance(effect, StartInvocation)]

    (begin,) = ends_of(apply(RunStarted(StartEvent())))
    at_work = deque[Any]()
    for n in range(items):
        at_work += ends_of(apply(EventSent(begin.invocation.number, begin.attempt, Item(n=n), None, None)))
    at_work += ends_of(apply(Finished(begin.invocation.number, begin.attempt, None)))
    while at_work:
        start = at_work.popleft()
        number, attempt, event = start.invocation.number, start.attempt, start.invocation.event
        result: Event | None = Done(n=event.n)
        if start.invocation.spec.name == "join":
            (answer,) = apply(CollectAsked(number, attempt, event, True, {Done: items}, "default"))
            result = None if answer.value is None else StopEvent(result=len(answer.value))
        at_work += ends_of(apply(Finished(number, attempt, result)))
    assert play.state.outcome is not None
    assert play.state.outcome.result == items
    return calls


def test_d18_a_fan_out_costs_the_same_for_each_item_however_many_there_are() -> None:
    """Counted in calls, which do not depend on the machine: quadratic cost would be tenfold here."""
    assert calls_for(2000) / 2000 < 1.2 * calls_for(200) / 200


def test_d20_the_elapsed_time_of_a_retry_is_that_since_the_first_attempt() -> None:
    """So stop_after_delay counts seconds of the step, not since some other beginning."""
    seen: list[float] = []

    class Slow(Workflow):
        @step(retry_policy=retry_policy(wait=wait_fixed(10), stop=stop_after_delay(25)))
        async def fail(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
            seen.append(ctx.retry_info().elapsed_seconds)
            await asyncio.sleep(2)
            raise ValueError("again")

    with SeededRuntime(1) as runtime:
        runtime.advance(1000)
        handler = Slow().run()
        with pytest.raises(ValueError, match="again"):
            handler.result()
    assert [round(seconds) for seconds in seen] == [0, 2, 14]


def test_d21_a_start_event_of_the_wrong_class_is_refused_by_run() -> None:
    """At once, with both classes in the message."""

    class Begin(StartEvent):
        pass

    class Begins(Workflow):
        @step
        def begin(self, ev: Begin) -> StopEvent:
            return StopEvent()

    with pytest.raises(WorkflowRuntimeError, match=r"begins with Begin; .*StartEvent"):
        Begins().run(start_event=StartEvent())


@pytest.mark.parametrize("call", ["send_event", "write_event_to_stream"])
def test_d22_a_stop_event_that_is_sent_is_refused_where_it_is_sent(call: str) -> None:
    """With what to do instead; neither does the run hang, nor its stream end before it."""

    class Sends(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            getattr(ctx, call)(StopEvent())
            return StopEvent(result="went on")

    with SeededRuntime(1), pytest.raises(WorkflowRuntimeError, match="return"):
        Sends().run().result()


def test_d23_a_property_of_a_workflow_is_not_evaluated_by_the_engine() -> None:
    """Neither when it is built, nor when it runs."""

    class Costly(Workflow):
        @property
        def trap(self) -> int:
            raise AssertionError("evaluated")

        @step
        def begin(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=1)

    with SeededRuntime(1):
        assert Costly().run().result() == 1


def test_d24_free_steps_are_inherited() -> None:
    """By subclasses of the workflow that they were added to, and theirs."""

    class Base(Workflow):
        @step
        def begin(self, ev: StartEvent) -> Item:
            return Item(n=ev.n)

    class Middle(Base):
        pass

    class Lower(Middle):
        pass

    @step(workflow=Base)
    def end(ev: Item) -> StopEvent:
        return StopEvent(result=ev.n)

    with SeededRuntime(1):
        assert [flow().run(n=3).result() for flow in (Base, Middle, Lower)] == [3, 3, 3]


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

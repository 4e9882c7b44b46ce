"""What users of LlamaIndex Workflows know, where no other test of this folder is about it.

docs/from-llamaindex.md goes through all that there is, with the test for each.
"""

import asyncio
import gc
import importlib
import json
import weakref
from typing import Any

import pytest
from pydantic import BaseModel

import greenroom
from greenroom import (
    Context,
    ContextStateError,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    Runtime,
    StartEvent,
    StepFailedEvent,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowConfigurationError,
    WorkflowFailedEvent,
    WorkflowRuntimeError,
    WorkflowStuckError,
    WorkflowTimeoutError,
    WorkflowValidationError,
    aio,
    catch_error,
    step,
)
from greenroom.events import CollectionReleaseEvent, InternalDispatchEvent
from greenroom.retry import retry_policy, stop_after_attempt, wait_none
from greenroom.testing import SeededRuntime
from tests.support.flavours import DEADLINE, Flavour
from tests.support.waiting import wait_until


class Item(Event):
    n: int = 0


class Other(Event):
    pass


class Joined(Event):
    n: int


class Begin(StartEvent):
    topic: str


class Report(StopEvent):
    pages: int


# -- 1.1 names ---------------------------------------------------------------------------------------------------------

# The peer's module, ours, and what users import from it.
MODULES = {
    ("workflows", "greenroom.aio"): "Context Workflow catch_error step",
    ("workflows.collect", "greenroom.collect"): "All Collect Take",
    ("workflows.decorators", "greenroom.aio"): "catch_error step",
    ("workflows.events", "greenroom.events"): (
        "CollectionReleaseEvent Event HumanResponseEvent InputRequiredEvent InternalDispatchEvent StartEvent"
        " StepFailedEvent StepState StepStateChanged StopEvent UnhandledEvent WorkflowCancelledEvent"
        " WorkflowFailedEvent WorkflowIdleEvent WorkflowTimedOutEvent"
    ),
    ("workflows.errors", "greenroom.errors"): (
        "ContextSerdeError ContextStateError WorkflowCancelledByUser WorkflowConfigurationError WorkflowRuntimeError"
        " WorkflowTimeoutError WorkflowValidationError"
    ),
    ("workflows.retry_policy", "greenroom.retry"): (
        "RetryCondition RetryInfo RetryPolicy StopCondition WaitStrategy retry_all retry_always retry_any"
        " retry_if_exception retry_if_exception_cause_type retry_if_exception_message retry_if_exception_type"
        " retry_if_not_exception_message retry_if_not_exception_type retry_never retry_policy"
        " retry_unless_exception_type stop_after_attempt stop_after_delay stop_all stop_any stop_before_delay"
        " stop_never wait_chain wait_combine wait_exponential wait_exponential_jitter wait_fixed wait_full_jitter"
        " wait_incrementing wait_none wait_random wait_random_exponential"
    ),
    ("workflows.context.state_store", "greenroom.aio"): "DictState",
    ("workflows.testing", "greenroom.testing.aio"): "WorkflowTestRunner",
    ("workflows.testing.runner", "greenroom.testing.aio"): "WorkflowTestResult",
    ("workflows.resource", "greenroom.resources"): "Resource ResourceConfig ResourceManager",
    ("workflows.representation", "greenroom.representation"): (
        "WorkflowEventNode WorkflowExternalNode WorkflowGenericNode WorkflowGraph WorkflowGraphEdge WorkflowNodeBase"
        " WorkflowResourceConfigNode WorkflowResourceNode WorkflowStepNode get_workflow_representation"
    ),
    ("llama_index.utils.workflow", "greenroom.representation"): (
        "draw_all_possible_flows draw_all_possible_flows_mermaid draw_most_recent_execution"
        " draw_most_recent_execution_mermaid"
    ),
}


@pytest.mark.parametrize("modules", MODULES, ids=lambda modules: modules[0])
def test_what_users_import_has_the_same_name(modules: tuple[str, str]) -> None:
    """In the module that the migration page names for it."""
    ours = importlib.import_module(modules[1])
    assert [name for name in MODULES[modules].split() if not hasattr(ours, name)] == []


# What the migration page says is not there, and why.
ABSENT = {
    "greenroom.events": "IdleReleasedEvent",
    "greenroom.errors": "WorkflowDone WorkflowStepDoesNotExistError",
    "greenroom.retry": "ConstantDelayRetryPolicy ExponentialBackoffRetryPolicy",
    "greenroom.context": "JsonSerializer PickleSerializer",
    "greenroom.runtime": "BasicRuntime ExternalRunAdapter InternalRunAdapter",
    "greenroom.representation": "draw_agent_with_tools draw_agent_workflow",
}


@pytest.mark.parametrize("module", ABSENT)
def test_what_is_not_there_is_not_there(module: str) -> None:
    """So that the page cannot say so of what has come since."""
    ours = importlib.import_module(module)
    assert [name for name in ABSENT[module].split() if hasattr(ours, name)] == []


def test_one_import_line_is_enough_for_code_that_awaits() -> None:
    """greenroom.aio has every name that greenroom has; four of them are awaited there, the rest are the same."""
    assert aio.__all__ == greenroom.__all__
    differ = {name for name in aio.__all__ if getattr(aio, name) is not getattr(greenroom, name)}
    assert differ == {"ChildRun", "Context", "Handler", "Workflow"}


# -- 1.2 construction --------------------------------------------------------------------------------------------------


def test_disable_validation_skips_the_checks_of_the_graph_only() -> None:
    """Not those of signatures, nor that for one start and one stop event."""

    class Island(Workflow):
        @step
        def one(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=1)

        @step
        def two(self, ev: Item) -> StopEvent:
            return StopEvent()

    class Endless(Workflow):
        @step
        def one(self, ev: StartEvent) -> None:
            return None

    with pytest.raises(WorkflowValidationError, match="never produced: Item"):
        Island()
    assert Island(disable_validation=True).run().result(DEADLINE) == 1
    with pytest.raises(WorkflowConfigurationError, match="no step returns a StopEvent"):
        Endless(disable_validation=True)


def test_checks_of_the_graph_can_be_skipped_for_a_workflow() -> None:
    """By name; a name that is none is refused."""

    class Loops(Workflow):
        @step
        def one(self, ev: StartEvent) -> StopEvent | Item:
            return StopEvent(result=1)

        @step
        def two(self, ev: Item) -> Item:
            return ev

    with pytest.raises(WorkflowValidationError, match=r"\[dead_end\] step 'two'"):
        Loops()
    assert Loops(skip_graph_checks={"dead_end"}).run().result(DEADLINE) == 1
    with pytest.raises(WorkflowValidationError, match="unknown graph check names"):
        Loops(skip_graph_checks={"deadend"})


class Writes(Workflow):
    """A workflow of its own start and stop events, which asks nobody."""

    @step
    def write(self, ev: Begin) -> Item | None:
        return Item(n=len(ev.topic))

    @step
    def end(self, ev: Item) -> Report:
        return Report(pages=ev.n)


def test_a_workflow_tells_what_it_is() -> None:
    """Its classes of events, its name, its runtime, and whether it asks people."""
    workflow = Writes()
    assert workflow.start_event_class is Begin
    assert workflow.stop_event_class is Report
    assert set(workflow.events) == {Begin, Item, Report}
    assert workflow.workflow_name == f"{Writes.__module__}.Writes"
    assert Writes(workflow_name="writer").workflow_name == "writer"
    assert workflow.validate() is False
    with Runtime() as runtime:
        assert Writes().runtime is runtime
    with Runtime() as another:
        assert Writes(runtime=another).runtime is another
        assert workflow.runtime is another

    class Asks(Workflow):
        @step
        def ask(self, ev: StartEvent) -> InputRequiredEvent:
            return InputRequiredEvent()

        @step
        def end(self, ev: HumanResponseEvent) -> StopEvent:
            return StopEvent()

    assert Asks().validate() is True


def test_a_workflow_that_nobody_holds_is_freed_after_its_run(flow: Flavour) -> None:
    """The engine keeps neither the object nor what it holds."""

    class Holds(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=1)

    workflow = Holds()
    gone = weakref.ref(workflow)
    assert workflow.run().result(DEADLINE) == 1
    del workflow

    def is_gone() -> bool:
        gc.collect()
        return gone() is None

    assert wait_until(is_gone)


# -- 1.3 run -----------------------------------------------------------------------------------------------------------


def test_the_context_that_is_given_is_the_handlers(flow: Flavour) -> None:
    """The same object, whose store goes from run to run; and two runs of it at once are refused."""

    class Counts(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await flow(ctx.store.set("n", await flow(ctx.store.get("n", 0)) + 1))
            return StopEvent(result=await flow(ctx.store.get("n")))

    workflow = Counts()
    with SeededRuntime(1):
        ctx = Context(workflow)
        ctx.store.set("n", 10)
        first = workflow.run(ctx=ctx)
        assert first.ctx is ctx
        with pytest.raises(ContextStateError):
            workflow.run(ctx=ctx)
        assert first.result() == 11
        assert workflow.run(ctx=ctx).result() == 12
        assert ctx.store.get("n") == 12


def test_start_arguments_and_a_start_event_together_are_refused() -> None:
    """They would be ignored; a start event that is none is refused as well."""
    with pytest.raises(WorkflowRuntimeError, match="not both: put topic into the start event"):
        Writes().run(start_event=Begin(topic="a"), topic="b")
    with pytest.raises(WorkflowRuntimeError, match="begins with Begin"):
        Writes().run(start_event="a")  # type: ignore[arg-type]


def test_any_event_loop_may_run_and_await(flow: Flavour) -> None:
    """run() is no coroutine and needs no loop; within one its handler is awaited."""

    class Ends(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=ev.n)

    async def main() -> list[int]:
        return await asyncio.gather(*(Ends().run(n=n) for n in range(5)))

    outside = Ends().run(n=5)
    assert asyncio.run(main()) == [0, 1, 2, 3, 4]
    assert outside.result(DEADLINE) == 5


# -- 1.5 events --------------------------------------------------------------------------------------------------------


class Hidden(InternalDispatchEvent):
    n: int


def test_internal_events_of_ones_own_reach_those_alone_who_ask_for_them(flow: Flavour) -> None:
    """A step may write its own; they take no offset from the others."""

    class Tells(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            for n in range(3):
                ctx.write_event_to_stream(Hidden(n=n))
                ctx.write_event_to_stream(Item(n=n))
            return StopEvent()

    with SeededRuntime(1):
        handler = Tells().run()
        assert [type(event) for event in handler.stream_events()] == [Item, Item, Item, StopEvent]
        assert [event.n for event in handler.stream_events(after=1) if isinstance(event, Item)] == [2]
        shown = handler.stream_events(after=-1, expose_internal=True)
        assert [event.n for event in shown if isinstance(event, Item | Hidden)] == [0, 0, 1, 1, 2, 2]


def test_a_question_that_a_step_returns_is_streamed_and_given_to_the_steps_that_take_it(flow: Flavour) -> None:
    """And the person's answer to those that take that."""

    class Asks(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> InputRequiredEvent:
            return InputRequiredEvent(prefix="Name?")

        @flow.step
        async def note(self, ctx: Context, ev: InputRequiredEvent) -> None:
            await flow(ctx.store.set("asked", ev.prefix))

        @flow.step
        async def end(self, ctx: Context, ev: HumanResponseEvent) -> StopEvent:
            return StopEvent(result=[await flow(ctx.store.get("asked")), ev.response])

    with SeededRuntime(1) as runtime:
        handler = Asks().run()
        runtime.run_until_idle()
        assert [question.request.prefix for question in handler.pending_inputs()] == ["Name?"]
        handler.send_event(HumanResponseEvent(response="Ada"))
        assert handler.result() == ["Name?", "Ada"]
        assert [type(event) for event in handler.stream_events()] == [InputRequiredEvent, StopEvent]


# -- 1.6 routing -------------------------------------------------------------------------------------------------------


def test_a_wait_goes_before_its_own_step_and_not_before_others(flow: Flavour) -> None:
    """The step that waits for an event is not given it as its input; another step that takes it is."""
    seen: list[tuple[str, int]] = []

    class Waits(Workflow):
        @flow.step
        async def begin(self, ev: StartEvent) -> Item | None:
            return Item(n=1)

        @flow.step
        async def waits(self, ctx: Context, ev: Item) -> StopEvent:
            seen.append(("waits", ev.n))
            answer = await flow(ctx.wait_for_event(Item))
            last = await flow(ctx.wait_for_event(Other))
            return StopEvent(result=[answer.n, last.n])

        @flow.step
        async def other(self, ev: Item) -> None:
            seen.append(("other", ev.n))

    with SeededRuntime(1) as runtime:
        handler = Waits().run()
        runtime.run_until_idle()
        handler.send_event(Item(n=2))
        runtime.run_until_idle()
        handler.send_event(Other(n=3))
        assert handler.result() == [2, 3]
    assert sorted(seen) == [("other", 1), ("other", 2), ("waits", 1)]


def test_a_start_event_that_is_sent_runs_the_first_step_again(flow: Flavour) -> None:
    """As any other event."""

    class Again(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent | None:
            if ev.n:
                ctx.send_event(StartEvent(n=ev.n - 1))
                return None
            return StopEvent(result="began again")

    assert Again().run(n=2).result(DEADLINE) == "began again"


# -- 1.9 waits ---------------------------------------------------------------------------------------------------------


def test_requirements_select_among_events_by_fields_declared_or_not(flow: Flavour) -> None:
    """Others are left for whoever takes them; here nobody does, so they are held and claimed by a later wait."""

    class Picks(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            second = await flow(ctx.wait_for_event(Item, requirements={"n": 2, "user": "ada"}))
            first = await flow(ctx.wait_for_event(Item))
            return StopEvent(result=[second.n, first.n])

    with SeededRuntime(1) as runtime:
        handler = Picks().run()
        runtime.run_until_idle()
        handler.send_event(Item(n=1, user="ada"))
        handler.send_event(Item(n=2, user="eve"))
        handler.send_event(Item(n=2, user="ada"))
        assert handler.result() == [2, 1]


def test_a_waiters_event_is_streamed_once_and_its_timeout_can_be_caught(flow: Flavour) -> None:
    """The TimeoutError is an ordinary exception, and the step goes on."""

    class Gives(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            try:
                await flow(ctx.wait_for_event(Item, waiter_event=Other(text="ready"), waiter_id="a", timeout=5))
            except TimeoutError as error:
                return StopEvent(result=str(error))
            return StopEvent()

    with SeededRuntime(1) as runtime:
        handler = Gives().run()
        assert "Item" in handler.result()
        assert [type(event) for event in handler.stream_events()] == [Other, StopEvent]
        assert 5 <= runtime.now() < 6


def test_an_answer_that_comes_before_its_wait_is_kept_for_it(flow: Flavour) -> None:
    """Nothing is lost by answering early."""

    class Late(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> Item:
            return Item()

        @flow.step
        async def two(self, ctx: Context, ev: Item) -> StopEvent:
            answer = await flow(ctx.wait_for_event(HumanResponseEvent))
            return StopEvent(result=answer.response)

    with SeededRuntime(1):
        handler = Late().run()
        handler.send_event(HumanResponseEvent(response="early"))
        assert handler.result() == "early"


# -- 1.10, 1.11 sending and the handler --------------------------------------------------------------------------------


def test_none_is_not_streamed_and_what_is_sent_after_the_end_is_refused(flow: Flavour) -> None:
    """The caller is told that the event will not be delivered."""

    class Ends(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent | Item:
            ctx.write_event_to_stream(None)
            return StopEvent()

        @flow.step
        async def two(self, ev: Item) -> StopEvent:
            return StopEvent()

    handler = Ends().run()
    handler.result(DEADLINE)
    assert [type(event) for event in handler.stream_events()] == [StopEvent]
    with pytest.raises(WorkflowRuntimeError, match="has ended; Item was not delivered"):
        handler.send_event(event=Item())
    with pytest.raises(WorkflowRuntimeError, match="has ended; Item was not delivered"):
        handler.ctx.send_event(message=Item())


class Outcomes(aio.Workflow):
    """Ends as it is told."""

    @step
    async def one(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
        if ev.how == "fail":
            raise ValueError("on purpose")
        if ev.how != "stop":
            await asyncio.sleep(60)
        return StopEvent(result=ev.how)


@pytest.mark.parametrize(
    ("how", "status", "last", "error"),
    [
        ("stop", "completed", "StopEvent", None),
        ("fail", "failed", "WorkflowFailedEvent", ValueError),
        ("time out", "timed_out", "WorkflowTimedOutEvent", WorkflowTimeoutError),
        ("cancel", "cancelled", "WorkflowCancelledEvent", WorkflowCancelledByUser),
    ],
)
def test_the_awaited_handler_has_every_name_and_tells_each_outcome(
    how: str, status: str, last: str, error: type[Exception] | None
) -> None:
    """The stream's last event is what get_stop_event gives; awaiting gives the result or raises; again and again."""

    async def main() -> None:
        handler = Outcomes(timeout=5).run(how=how, run_id=f"run to {how}")
        assert (handler.is_done(), handler.done(), handler.get_stop_event()) == (False, False, None)
        assert f"run to {how}" in str(handler)
        assert "Outcomes" in str(handler)
        if how == "cancel":
            await asyncio.sleep(1)
            assert await handler.ctx.running_steps() == ["one"]
            assert handler.ctx.is_running
            await handler.cancel_run()
            await handler.cancel_run()
        streamed = [event async for event in handler.stream_events()]
        assert [type(event).__name__ for event in streamed] == [last]
        assert [event async for event in handler.stream_events()] == []
        assert [event async for event in handler.stream_events(after=-1)] == streamed
        for _ in range(2):
            if error is None:
                assert await handler == how
                assert await handler.stop_event_result() is streamed[0]
            else:
                with pytest.raises(error):
                    await handler
                with pytest.raises(error):
                    await handler.stop_event_result()
        assert handler.get_stop_event() is streamed[0]
        assert (handler.is_done(), handler.status, handler.ctx.is_running) == (True, status, False)
        assert await handler.ctx.running_steps() == []

    with SeededRuntime(1) as runtime:
        runtime.run(main())


@pytest.mark.parametrize(("how", "resumes"), [("stop", False), ("fail", False), ("time out", False), ("cancel", True)])
def test_what_a_snapshot_is_good_for_after_each_outcome(how: str, resumes: bool) -> None:
    """After a cancel it goes on with the work that was left; else it begins anew, with its state."""
    workflow = Outcomes(timeout=5)
    with SeededRuntime(1) as runtime:
        handler = workflow.run(how=how)
        runtime.run(handler.ctx.store.set("kept", 7))
        if how == "cancel":
            runtime.advance(1)
            runtime.run(handler.cancel_run())
        handler.exception()
        document = json.loads(json.dumps(handler.ctx.to_dict()))
        ctx = aio.Context.from_dict(workflow, document)
        if resumes:
            with pytest.raises(ContextStateError, match="unfinished work"):
                workflow.run(ctx=ctx, how="stop")
            resumed = workflow.run(ctx=ctx)
            assert resumed.exception().__class__ is WorkflowTimeoutError  # it sleeps again
        else:
            assert workflow.run(ctx=ctx, how="stop").result() == "stop"
        assert runtime.run(ctx.store.get("kept")) == 7


# -- 1.12 the context --------------------------------------------------------------------------------------------------


class Tally(BaseModel):
    n: int = 0


def test_a_typed_context_before_within_and_after_the_run() -> None:
    """Context[State] in a step, its store before the run and afterwards."""

    class Adds(Workflow):
        @step
        def one(self, ctx: Context[Tally], ev: StartEvent) -> StopEvent:
            assert Context.get_step_context() is ctx
            assert ctx.is_running
            with ctx.store.edit_state() as state:
                state.n += ev.n
            return StopEvent(result=ctx.store.get_state().n)

    workflow = Adds()
    with SeededRuntime(1):
        ctx = Context(workflow)
        assert not ctx.is_running
        ctx.store.set_state(Tally(n=5))
        handler = workflow.run(ctx=ctx, n=2)
        assert handler.result() == 7
        assert handler.ctx.store.get_state() == Tally(n=7)
        handler.ctx.store.clear()
        assert handler.ctx.store.get("n") == 0


# -- 1.15 retries ------------------------------------------------------------------------------------------------------


def test_what_a_step_returns_wrongly_is_tried_again_as_any_failure(flow: Flavour) -> None:
    """The policy sees the WorkflowRuntimeError."""
    returned: list[Any] = [3, Other(), StopEvent(result="at last")]

    class Learns(Workflow):
        @flow.step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(3)))
        async def one(self, ev: StartEvent) -> StopEvent:
            return returned.pop(0)

    assert Learns().run().result(DEADLINE) == "at last"


def test_a_policy_of_ones_own_that_raises_fails_the_run_with_its_error(flow: Flavour) -> None:
    """Not with that of the step, which is its context."""

    class Broken:
        def next(self, elapsed_time: float, attempts: int, error: Exception) -> float | None:
            raise LookupError("in the policy")

    class Fails(Workflow):
        @flow.step(retry_policy=Broken())
        async def one(self, ev: StartEvent) -> StopEvent:
            raise ValueError("in the step")

    handler = Fails().run()
    with pytest.raises(LookupError, match="in the policy") as caught:
        handler.result(DEADLINE)
    assert isinstance(caught.value.__context__, ValueError)
    last = handler.get_stop_event()
    assert isinstance(last, WorkflowFailedEvent)
    assert (last.step_name, last.attempts) == ("one", 1)


# -- 1.16 the store ----------------------------------------------------------------------------------------------------


def test_the_awaited_store_has_every_method() -> None:
    """From a step, and from the handler's context."""

    class Uses(aio.Workflow):
        @step
        async def one(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
            await ctx.store.set("user.tags", ["a"])
            await ctx.store.set("user.items", 1)
            async with ctx.store.edit_state() as state:
                state["count"] = 1
            with pytest.raises(ValueError, match="nowhere"):
                await ctx.store.get("nowhere")
            return StopEvent(result=[await ctx.store.get("user.tags.0"), await ctx.store.get("nowhere", default=2)])

    async def main() -> None:
        handler = Uses().run()
        assert await handler == ["a", 2]
        state = await handler.ctx.store.get_state()
        assert (state.count, state["user"]) == (1, {"tags": ["a"], "items": 1})
        await handler.ctx.store.clear()
        assert await handler.ctx.store.get("count", default=None) is None

    with SeededRuntime(1) as runtime:
        runtime.run(main())


# -- 1.8, 1.18 lists and failures --------------------------------------------------------------------------------------


def test_none_in_the_place_of_a_list_gathers_nothing(flow: Flavour) -> None:
    """An empty list would be gathered as one."""
    gathered: list[int] = []

    class Maybe(Workflow):
        @flow.step
        async def split(self, ctx: Context, ev: StartEvent) -> list[Item] | Other | None:
            ctx.send_event(Other(), delay=1)
            return None

        @flow.step
        async def work(self, ev: Item) -> Report:
            return Report(pages=0)

        @flow.step
        async def join(self, items: list[Item]) -> Report:
            gathered.append(len(items))
            return Report(pages=1)

        @flow.step
        async def end(self, ev: Other) -> Report:
            return Report(pages=2)

    with SeededRuntime(1):
        assert Maybe().run().result().pages == 2
    assert gathered == []


def test_none_where_the_list_was_needed_is_told_at_once(flow: Flavour) -> None:
    """Nothing can come any more: the run does not wait for its timeout."""

    class Needed(Workflow):
        @flow.step
        async def split(self, ev: StartEvent) -> list[Item] | None:
            return None

        @flow.step
        async def join(self, items: list[Item]) -> Report:
            return Report(pages=len(items))

    with pytest.raises(WorkflowStuckError):
        Needed().run().result(DEADLINE)


def test_what_was_gathered_is_joined_with_an_event_that_was_sent(flow: Flavour) -> None:
    """Both belong to no list then."""

    class Both(Workflow):
        @flow.step
        async def split(self, ctx: Context, ev: StartEvent) -> list[Item] | Other:
            ctx.send_event(Other())
            return [Item(n=n) for n in (1, 2)]

        @flow.step
        async def gather(self, items: list[Item]) -> Joined:
            return Joined(n=len(items))

        @flow.step
        async def join(self, joined: Joined, other: Other) -> Report:
            return Report(pages=joined.n)

    assert Both().run().result(DEADLINE).pages == 2


def test_a_failed_join_is_caught_with_its_events(flow: Flavour) -> None:
    """All of them, in a CollectionReleaseEvent, as those of a list."""

    class Fails(Workflow):
        @flow.step
        async def both(self, ctx: Context, ev: StartEvent) -> Item | Other | None:
            ctx.send_event(Item(n=1))
            ctx.send_event(Other())
            return None

        @flow.step
        async def join(self, item: Item, other: Other) -> Report:
            raise ValueError("no")

        @flow.catch_error
        async def mend(self, ev: StepFailedEvent) -> Report:
            assert isinstance(ev.input_event, CollectionReleaseEvent)
            return Report(pages=len(ev.input_event.events))

    assert Fails().run().result(DEADLINE).pages == 2


def test_each_list_is_gathered_by_itself_though_two_steps_return_one(flow: Flavour) -> None:
    """The gathering step is given both, one after the other, not one of all."""

    class Two(Workflow):
        @flow.step
        async def left(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in (1, 2)]

        @flow.step
        async def right(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in (10, 20, 30)]

        @flow.step
        async def join(self, items: list[Item]) -> Other:
            return Other(numbers=sorted(item.n for item in items))

        @flow.step
        async def end(self, ctx: Context, ev: Other) -> StopEvent | None:
            both = await flow(ctx.collect_events(ev, [Other, Other]))
            return both and StopEvent(result=sorted(other.numbers for other in both))

    with SeededRuntime(1):
        assert Two().run().result() == [[1, 2], [10, 20, 30]]


def test_a_list_that_can_never_be_complete_fails_its_run(flow: Flavour) -> None:
    """A member that waits for what nobody can send any more does not keep the run until its timeout."""

    class Stuck(Workflow):
        @flow.step
        async def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(3)]

        @flow.step
        async def work(self, ctx: Context, ev: Item) -> Other | None:
            four = await flow(ctx.collect_events(ev, {Item: 4}))
            return Other() if four else None

        @flow.step
        async def join(self, others: list[Other]) -> StopEvent | None:
            return StopEvent(result=len(others)) if others else None

    with SeededRuntime(1) as runtime:
        handler = Stuck(timeout=60).run()
        with pytest.raises(WorkflowStuckError, match="work"):
            handler.result()
        assert runtime.now() < 1


def test_a_failure_that_was_caught_is_not_on_the_stream(flow: Flavour) -> None:
    """Nor is the run's status that of a failure."""

    class Catches(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            raise ValueError("on purpose")

        @catch_error
        def caught(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent(result=str(ev.exception))

    with SeededRuntime(1):
        handler = Catches().run()
        assert handler.result() == "on purpose"
        assert handler.status == "completed"
        assert [type(event) for event in handler.stream_events()] == [StopEvent]


# -- 1.17 snapshots ----------------------------------------------------------------------------------------------------


class Loops(Workflow):
    """Goes round as often as it is told, and then waits."""

    @step
    def begin(self, ev: StartEvent) -> Item:
        return Item(n=ev.rounds)

    @step
    def go_round(self, ctx: Context, ev: Item) -> Item | StopEvent:
        if ev.n > 0:
            ctx.write_event_to_stream(Other())
            return Item(n=ev.n - 1)
        ctx.wait_for_event(HumanResponseEvent)
        return StopEvent()


def test_a_snapshot_does_not_grow_with_what_has_been() -> None:
    """After a thousand rounds it is as large as after ten, but for the digits of its counters."""
    sizes = []
    for rounds in (10, 1000):
        with SeededRuntime(1) as runtime:
            handler = Loops().run(rounds=rounds)
            runtime.run_until_idle()
            sizes.append(len(handler.ctx.snapshot()))
            handler.cancel_run()
            assert isinstance(handler.exception(), WorkflowCancelledByUser)
    assert sizes[1] - sizes[0] < 40

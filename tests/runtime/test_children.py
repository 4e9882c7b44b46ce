"""Runs within a run: how they begin, end, fail and ask, and what their parent's end, clock and snapshot do to them."""

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Annotated, Any

import pytest

from greenroom import (
    ChildRun,
    Context,
    ContextSerdeError,
    ContextStateError,
    DeadlockError,
    Event,
    HumanResponseEvent,
    InputAnsweredError,
    InputRequiredEvent,
    Runtime,
    StartEvent,
    StepStateChanged,
    StopEvent,
    UnknownInputError,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowRuntimeError,
    WorkflowStuckError,
    WorkflowTimeoutError,
    aio,
    step,
)
from greenroom.resources import Resource
from greenroom.retry import retry_policy, stop_after_attempt, wait_fixed
from greenroom.testing import SeededRuntime, explore
from tests.support.flavours import DEADLINE, FLAVOURS, Flavour


@pytest.fixture(params=FLAVOURS)
def flow(request: pytest.FixtureRequest) -> Flavour:
    return Flavour(request.param)


class Tick(Event):
    n: int


class Next(Event):
    n: int = 0


class Ask(InputRequiredEvent):
    n: int


class Answer(HumanResponseEvent):
    n: int


class Square(Workflow):
    """Squares a number, and says so in the stream."""

    @step
    def square(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(Tick(n=ev.n))
        return StopEvent(result=ev.n * ev.n)


class AsyncSquare(Workflow):
    """The same, with an `async def` step."""

    @step
    async def square(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(Tick(n=ev.n))
        await asyncio.sleep(0)
        return StopEvent(result=ev.n * ev.n)


class Failing(Workflow):
    """Raises what it is given."""

    @step
    def fail(self, ev: StartEvent) -> StopEvent:
        raise ev.error


class Asking(Workflow):
    """Asks a person."""

    @step
    def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=ctx.ask(Ask(n=ev.n), Answer).n)


class Patient(Workflow):
    """Works until it is told that nobody wants its result any more."""

    def __init__(self, began: threading.Event, told: threading.Event, **options: Any) -> None:
        super().__init__(**options)
        self.began, self.told = began, told

    @step
    def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
        self.began.set()
        while not ctx.cancelled:
            self.told.wait(0.001)
        self.told.set()
        return StopEvent(result="too late")


class AsyncPatient(Patient):
    """The same in an `async def` step, which is cancelled where it awaits."""

    @step
    async def work(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.told.set()
        return StopEvent(result="too late")


# -- beginning and ending ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("child", [Square, AsyncSquare])
def test_a_step_runs_another_workflow_and_gets_its_result(flow: Flavour, child: type[Workflow]) -> None:
    """In one line, from steps of either kind, of steps of either kind."""

    class Parent(Workflow):
        @flow.step
        async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await flow(ctx.run(child(), n=ev.n).result()))

    assert Parent().run(n=7).result(DEADLINE) == 49


def test_an_async_step_awaits_the_child_itself() -> None:
    """`await ctx.run(...)` is the result."""

    class Parent(aio.Workflow):
        @step
        async def begin(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
            first, second = await asyncio.gather(ctx.run(Square(), n=2).result(), ctx.run(AsyncSquare(), n=3).result())
            return StopEvent(result=(first, second, await ctx.run(Square(), n=4)))

    assert Parent().run().result(DEADLINE) == (4, 9, 16)


def test_children_run_side_by_side(flow: Flavour) -> None:
    """Those that are begun before a result is asked for are at work at once."""
    barrier = threading.Barrier(3)

    class Meeting(Workflow):
        @flow.step
        async def meet(self, ev: StartEvent) -> StopEvent:
            await flow.meet(barrier)
            return StopEvent(result=ev.n)

    class Parent(Workflow):
        @flow.step
        async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            runs = [ctx.run(Meeting(), n=n) for n in range(3)]
            return StopEvent(result=[await flow(run.result()) for run in runs])

    assert Parent().run().result(DEADLINE) == [0, 1, 2]


def test_a_child_has_its_own_id_status_and_state(flow: Flavour) -> None:
    """Its store is not its parent's, and its id begins with its parent's unless it was given one."""

    class Counting(Workflow):
        @flow.step
        async def count(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await flow(ctx.store.set("n", 5))
            return StopEvent(result=None)

    class Parent(Workflow):
        @flow.step
        async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await flow(ctx.store.set("n", 1))
            run, named = ctx.run(Counting()), ctx.run(Counting(), run_id="audit")
            await flow(run.result())
            await flow(named.result())
            return StopEvent(result=(run.run_id, named.run_id, run.status, await flow(ctx.store.get("n"))))

    assert Parent().run(run_id="p").result(DEADLINE) == ("p/Counting.0.0", "audit", "completed", 1)


def test_a_start_event_may_be_given_and_the_stop_event_is_the_result(flow: Flavour) -> None:
    """Like those of `workflow.run`."""

    class Begin(StartEvent):
        n: int

    class Over(StopEvent):
        n: int

    class Typed(Workflow):
        @flow.step
        async def work(self, ev: Begin) -> Over:
            return Over(n=ev.n + 1)

    class Parent(Workflow):
        @flow.step
        async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            over = await flow(ctx.run(Typed(), Begin(n=1)).result())
            return StopEvent(result=(type(over), over.n))

    assert Parent().run().result(DEADLINE) == (Over, 2)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda ctx: ctx.run(Square), ContextStateError, "not the class Square"),
        (lambda ctx: ctx.run("Square"), ContextStateError, "takes the workflow object"),
        (lambda ctx: ctx.run(Square(), Next()), WorkflowRuntimeError, "begins with StartEvent"),
        (lambda ctx: ctx.run(Square(), run_id=""), WorkflowRuntimeError, "not empty"),
        (lambda ctx: ctx.run(Square(), n=1).result(timeout=-1), WorkflowRuntimeError, "0 or more"),
    ],
)
def test_a_wrong_call_fails_where_it_stands(call: Any, error: type[Exception], words: str) -> None:
    """A class for an object, an event of another class, an empty id, a negative time."""

    class Parent(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            call(ctx)
            return StopEvent(result="no error")

    with pytest.raises(error, match=words):
        Parent().run().result(DEADLINE)


def test_a_run_is_begun_within_a_step_only() -> None:
    """Outside there is `workflow.run`."""
    handler = Square().run(n=1)
    with pytest.raises(ContextStateError, match="only within a step"):
        handler.ctx.run(Square(), n=1)
    handler.result(DEADLINE)


def test_runs_within_runs_end_at_a_depth_with_a_clear_error() -> None:
    """A workflow that runs itself without an end does not take the process with it."""

    class Endless(Workflow):
        @step
        def again(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=ctx.run(Endless()).result())

    with pytest.raises(WorkflowRuntimeError, match="101 runs deep, and 100 is the most"):
        Endless().run().result(DEADLINE)


# -- failing -----------------------------------------------------------------------------------------------------------


def test_a_failure_of_a_child_is_raised_where_its_result_is_asked_for(flow: Flavour) -> None:
    """Unchanged, and an ordinary exception there."""
    failure = LookupError("gone")

    class Parent(Workflow):
        @flow.step
        async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            run = ctx.run(Failing(), error=failure)
            try:
                await flow(run.result())
            except LookupError as error:
                return StopEvent(result=(error is failure, run.status))
            return StopEvent(result="no error")

    assert Parent().run().result(DEADLINE) == (True, "failed")


def test_a_failure_that_nobody_asked_after_fails_the_step(flow: Flavour) -> None:
    """The step comes to its end when its children have; one that failed in silence is raised there."""

    class Parent(Workflow):
        @flow.step
        async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.run(Failing(), error=LookupError("gone"))
            return StopEvent(result="done")

    with pytest.raises(LookupError, match="gone"):
        Parent().run().result(DEADLINE)


def test_a_step_ends_when_its_children_have_ended(flow: Flavour) -> None:
    """What it returns is delivered then."""
    done: list[int] = []
    gate = threading.Event()

    class Slow(Workflow):
        @flow.step
        async def work(self, ev: StartEvent) -> StopEvent:
            await flow.until(gate)
            done.append(ev.n)
            return StopEvent()

    class Parent(Workflow):
        @flow.step
        async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            for n in range(3):
                ctx.run(Slow(), n=n)
            gate.set()
            return StopEvent(result="done")

    assert Parent().run().result(DEADLINE) == "done"
    assert sorted(done) == [0, 1, 2]


def test_the_first_failure_ends_a_step_that_waits_at_its_end() -> None:
    """It does not wait for a child that asks a person meanwhile; that one is ended, and its question withdrawn."""

    class Parent(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.run(Asking(), n=1)
            ctx.run(Failing(), error=LookupError("gone"))
            return StopEvent(result="done")

    handler = Parent().run()
    with pytest.raises(LookupError):
        handler.result(DEADLINE)
    assert handler.pending_inputs() == []


def test_a_retry_is_given_the_results_again_and_begins_anew_what_failed(flow: Flavour) -> None:
    """What completed ran once; what had failed runs once an attempt."""
    ran: list[str] = []

    class Work(Workflow):
        @flow.step
        async def work(self, ev: StartEvent) -> StopEvent:
            ran.append(ev.name)
            if ev.name == "bad" and ran.count("bad") < 3:
                raise LookupError("not yet")
            return StopEvent(result=ev.name)

    class Parent(Workflow):
        @flow.step(retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(5)))
        async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            good = await flow(ctx.run(Work(), name="good").result())
            bad = await flow(ctx.run(Work(), name="bad").result())
            return StopEvent(result=(good, bad, ctx.retry_info().retry_number))

    assert Parent().run().result(DEADLINE) == ("good", "bad", 2)
    assert sorted(ran) == ["bad", "bad", "bad", "good"]


def test_a_child_that_still_runs_when_its_step_fails_is_found_by_the_retry() -> None:
    """It is not begun a second time."""
    began: list[int] = []
    failed = threading.Event()

    class Slow(Workflow):
        @step
        def work(self, ev: StartEvent) -> StopEvent:
            began.append(1)
            assert failed.wait(DEADLINE)
            return StopEvent(result="slow")

    class Parent(Workflow):
        @step(retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(2)))
        def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            run = ctx.run(Slow())
            if ctx.retry_info().retry_number == 0:
                raise LookupError("once")
            failed.set()
            return StopEvent(result=run.result())

    assert Parent().run().result(DEADLINE) == "slow"
    assert began == [1]


def test_a_result_may_be_waited_for_with_a_timeout(flow: Flavour) -> None:
    """The child goes on; asked again it gives its result."""

    class Parent(Workflow):
        @flow.step
        async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            run = ctx.run(Asking(), n=1)
            try:
                await flow(run.result(timeout=1))
            except TimeoutError as error:
                message = str(error)
            return StopEvent(result=(message, await flow(run.result())))

    with SeededRuntime(1) as runtime:
        handler = Parent().run()
        runtime.advance(5)
        handler.respond(handler.pending_inputs()[0].input_id, {"n": 3})
        message, answer = handler.result()
    assert "has not ended in time" in message
    assert answer == 3


def test_a_child_that_can_never_end_is_stuck_and_tells_its_parent(flow: Flavour) -> None:
    """Its own WorkflowStuckError, though its parent waits for it."""

    class Lost(Workflow):
        @flow.step
        async def begin(self, ev: StartEvent) -> Next | None:
            return None

        @flow.step
        async def end(self, ev: Next) -> StopEvent:
            return StopEvent()

    class Parent(Workflow):
        @flow.step
        async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            try:
                await flow(ctx.run(Lost()).result())
            except WorkflowStuckError as error:
                return StopEvent(result=str(error))
            return StopEvent()

    assert "/Lost.0.0' of Lost is stuck" in Parent().run().result(DEADLINE)


# -- cancelling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("child", [Patient, AsyncPatient])
def test_d15_cancelling_the_parent_cancels_its_children(flow: Flavour, child: type[Patient]) -> None:
    """D15: the body of the child is told, and does not run to its end."""
    began, told = threading.Event(), threading.Event()

    class Parent(Workflow):
        @flow.step
        async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await flow(ctx.run(child(began, told)).result()))

    handler = Parent().run()
    assert began.wait(DEADLINE)
    handler.cancel_run()
    assert told.wait(DEADLINE)
    with pytest.raises(WorkflowCancelledByUser):
        handler.result(DEADLINE)


@pytest.mark.parametrize("child", [Patient, AsyncPatient])
def test_d15_the_timeout_of_the_parent_counts_the_work_of_its_children_and_ends_them(
    flow: Flavour, child: type[Patient]
) -> None:
    """D15: while the parent's step waits for a child that is at work, the parent's clock goes on."""
    began, told = threading.Event(), threading.Event()

    class Parent(Workflow):
        @flow.step
        async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await flow(ctx.run(child(began, told)).result()))

    with pytest.raises(WorkflowTimeoutError, match=f"Currently active steps: {child.__name__}.work"):
        Parent(timeout=0.6).run().result(DEADLINE)
    assert told.wait(DEADLINE)


def test_the_parents_clock_stands_still_while_a_child_waits_for_a_person() -> None:
    """Nothing is at work then, neither here nor there."""

    class Parent(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=ctx.run(Asking(), n=1).result())

    with SeededRuntime(3) as runtime:
        handler = Parent(timeout=5).run()
        runtime.advance(1000)
        handler.respond(handler.pending_inputs()[0].input_id, {"n": 2})
        assert handler.result() == 2


def test_a_child_has_a_timeout_of_its_own(flow: Flavour) -> None:
    """It is raised where its result is asked for; the parent goes on."""
    began, told = threading.Event(), threading.Event()

    class Parent(Workflow):
        @flow.step
        async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            run = ctx.run(Patient(began, told, timeout=0.1))
            try:
                await flow(run.result())
            except WorkflowTimeoutError:
                return StopEvent(result=run.status)
            return StopEvent()

    assert Parent().run().result(DEADLINE) == "timed_out"
    assert told.wait(DEADLINE)


def test_a_step_cancels_a_child(flow: Flavour) -> None:
    """Its body is told; its result raises, and it does not count as a failure that nobody asked after."""
    began, told = threading.Event(), threading.Event()

    class Parent(Workflow):
        @flow.step
        async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            run, other = ctx.run(Patient(began, told)), ctx.run(Asking(), n=1)
            await flow.until(began)
            run.cancel()
            other.cancel()
            try:
                await flow(run.result())
            except WorkflowCancelledByUser:
                return StopEvent(result=run.status)
            return StopEvent()

    assert Parent().run().result(DEADLINE) == "cancelled"
    assert told.wait(DEADLINE)


def test_a_stop_event_of_another_step_ends_the_children() -> None:
    """What they leave is among the parent's dead letters, with the run named."""
    began, told, sent = threading.Event(), threading.Event(), threading.Event()

    class Leaving(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> Next | None:
            ctx.send_event(Next(n=5), delay=1000)
            sent.set()
            return None

        @step
        def end(self, ev: Next) -> StopEvent:
            return StopEvent()

    class Parent(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> Tick | None:
            ctx.run(Leaving())
            ctx.run(Patient(began, told))
            ctx.send_event(Tick(n=1))
            return None

        @step
        def end(self, ev: Tick) -> StopEvent:
            assert began.wait(DEADLINE)
            assert sent.wait(DEADLINE)
            return StopEvent(result="over")

    handler = Parent().run(run_id="p")
    assert handler.result(DEADLINE) == "over"
    assert [letter.reason for letter in handler.dead_letters()] == [
        "in run 'p/Leaving.0.0': the run ended before its delay was over"
    ]
    assert told.wait(DEADLINE)


# -- questions ---------------------------------------------------------------------------------------------------------


class AskingTwice(Workflow):
    """Asks itself, and so does its child."""

    @step
    def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
        run = ctx.run(Asking(), n=2)
        own = ctx.ask(Ask(n=1), Answer)
        return StopEvent(result=(own.n, run.result()))


class Grandparent(Workflow):
    """Is two runs above the one that asks."""

    @step
    def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=ctx.run(AskingTwice()).result())


@pytest.mark.parametrize("parent", [AskingTwice, Grandparent])
def test_the_questions_of_children_are_the_parents(parent: type[Workflow]) -> None:
    """Listed, told to `on_input`, and answered by their ids, which are all different."""
    heard: list[str] = []
    both = threading.Event()

    def hear(question: Any) -> None:
        heard.append(question.input_id)
        if len(heard) == 2:
            both.set()

    with Runtime() as runtime:
        runtime.on_input(hear)
        handler = parent().run()
        assert both.wait(DEADLINE)
        open_inputs = {question.request.n: question.input_id for question in handler.pending_inputs()}
        assert sorted(open_inputs) == [1, 2]
        assert set(heard) == set(open_inputs.values())
        assert {question.run_id for question in runtime.pending_inputs()} == {handler.run_id}
        handler.respond(open_inputs[2], {"n": 20})
        with pytest.raises(InputAnsweredError):
            handler.respond(open_inputs[2], {"n": 21})
        runtime.respond(open_inputs[1], {"n": 10})
        assert handler.result(DEADLINE) == (10, 20)
        with pytest.raises(InputAnsweredError):
            handler.respond(open_inputs[2], {"n": 22})
        with pytest.raises(UnknownInputError):
            runtime.respond(open_inputs[2] + "9", {"n": 22})


def test_an_answer_that_names_its_question_reaches_a_child() -> None:
    """`send_event` is for the parent, but an answer goes to whom it names."""

    class Parent(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=ctx.run(Asking(), n=1).result())

    with SeededRuntime(1) as runtime:
        handler = Parent().run()
        runtime.run_until_idle()
        handler.send_event(Answer(n=1))
        (question,) = handler.pending_inputs()
        handler.send_event(Answer(n=2, input_id=question.input_id))
        assert handler.result() == 2


# -- the stream --------------------------------------------------------------------------------------------------------


class Streaming(Workflow):
    """Streams before, between and after its children."""

    @step
    def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(Tick(n=100))
        ctx.run(Square(), n=1).result()
        ctx.write_event_to_stream(Tick(n=200))
        ctx.run(AsyncSquare(), n=2).result()
        return StopEvent(result=None)


def numbers(stream: Any) -> list[tuple[str, int]]:
    """The numbers in a stream, each with whose it is."""
    return [(stream.run_id, event.n if isinstance(event, Tick) else -1) for event in stream]


def test_the_stream_shows_what_children_publish_when_it_is_asked_to() -> None:
    """In its place and with whose it is, to late readers as well; without being asked there is nothing of it."""
    handler = Streaming().run(run_id="p")
    handler.result(DEADLINE)
    whole = [
        ("p", 100),
        ("p/Square.0.0", 1),
        ("p/Square.0.0", -1),
        ("p", 200),
        ("p/AsyncSquare.0.0", 2),
        ("p/AsyncSquare.0.0", -1),
        ("p", -1),
    ]
    assert numbers(handler.stream_events(after=-1, include_children=True)) == whole
    assert numbers(handler.stream_events(after=0, include_children=True)) == whole[1:]
    assert numbers(handler.stream_events(after=1, include_children=True)) == whole[4:]
    assert numbers(handler.stream_events(after=-1)) == [("p", 100), ("p", 200), ("p", -1)]


def test_a_reader_of_children_continues_after_a_break() -> None:
    """Nothing twice, nothing lost, wherever it stopped; the same `async for`."""
    handler = Streaming().run(run_id="p")
    handler.result(DEADLINE)
    whole = numbers(handler.stream_events(after=-1, include_children=True))
    pieces = []
    for _ in whole:
        stream = handler.stream_events(include_children=True)
        event = next(stream)
        pieces.append((stream.run_id, event.n if isinstance(event, Tick) else -1))
    assert pieces == whole
    assert numbers(handler.stream_events(include_children=True)) == []

    async def read() -> list[tuple[str, int]]:
        stream = handler.stream_events(after=-1, include_children=True)
        return [(stream.run_id, event.n if isinstance(event, Tick) else -1) async for event in stream]

    assert asyncio.run(read()) == whole


def test_internal_events_of_children_come_with_both_words_only() -> None:
    """Between what the children publish, where they belong."""
    handler = Streaming().run(run_id="p")
    handler.result(DEADLINE)
    own = [
        event.name for event in handler.stream_events(-1, expose_internal=True) if isinstance(event, StepStateChanged)
    ]
    assert own == ["begin"] * len(own)
    stream = handler.stream_events(-1, expose_internal=True, include_children=True)
    told = [
        (event.name, event.step_state.value) if isinstance(event, StepStateChanged) else event.get("n")
        for event in stream
        if stream.run_id == "p/Square.0.0"
    ]
    assert told == [("square", "running"), 1, ("square", "not_running"), None]


def test_a_reader_that_waits_is_woken_by_a_child() -> None:
    """Live, not only afterwards."""
    gate = threading.Event()

    class Gated(Workflow):
        @step
        def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.write_event_to_stream(Tick(n=1))
            assert gate.wait(DEADLINE)
            return StopEvent()

    class Parent(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.run(Gated()).result()
            return StopEvent()

    handler = Parent().run()
    stream = handler.stream_events(include_children=True)
    assert isinstance(next(stream), Tick)
    gate.set()
    assert [type(event) for event in stream] == [StopEvent, StopEvent]


# -- put away and gone on with -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["bytes", "dict", "live"])
@pytest.mark.parametrize("parent", [AskingTwice, Grandparent])
def test_a_snapshot_of_the_parent_holds_its_children(how: str, parent: type[Workflow]) -> None:
    """Their questions are open under the same ids at once, and may be answered before their step has run again."""
    with SeededRuntime(1) as runtime:
        handler = parent().run()
        runtime.run_until_idle()
        asked = {question.request.n: question.input_id for question in handler.pending_inputs()}
        data, document = handler.ctx.snapshot(), handler.ctx.to_dict()
        handler.cancel_run()
        live = handler.ctx
    with SeededRuntime(2) as runtime:
        workflow = parent()
        if how == "bytes":
            context = Context.restore(workflow, data)
        elif how == "dict":
            context = Context.from_dict(workflow, document)
        else:
            context = live
        handler = workflow.run(ctx=context)
        assert {question.request.n: question.input_id for question in handler.pending_inputs()} == asked
        handler.respond(asked[2], {"n": 20})
        with pytest.raises(InputAnsweredError):
            handler.respond(asked[2], {"n": 21})
        again = handler.ctx.snapshot()
        handler.respond(asked[1], {"n": 10})
        assert handler.result() == (10, 20)
    with SeededRuntime(3):
        workflow = parent()
        handler = workflow.run(ctx=Context.restore(workflow, again))
        handler.respond(asked[1], {"n": 11})
        assert handler.result() == (11, 20)


def make_parent(child: Any, named: bool) -> Workflow:
    """Return a workflow that runs another, named by its code or held by an attribute."""
    if named:

        class Parent(Workflow):
            @step
            def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
                return StopEvent(result=ctx.run(child()).result())
    else:

        class Parent(Workflow):  # type: ignore[no-redef]
            def __init__(self, children: dict[str, Workflow]) -> None:
                super().__init__()
                self.children = children

            @step
            def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
                return StopEvent(result=ctx.run(self.children["one"]).result())

    return Parent() if named else Parent({"one": child()})  # type: ignore[call-arg]


def make_child(*, changed: bool) -> type[Workflow]:
    if changed:

        class Waiting(Workflow):
            @step
            def ask(self, ctx: Context, ev: StartEvent) -> Next:
                return Next(n=ctx.ask(Ask(n=1), Answer).n)

            @step
            def end(self, ev: Next) -> StopEvent:
                return StopEvent(result=ev.n)
    else:

        class Waiting(Workflow):  # type: ignore[no-redef]
            @step
            def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
                return StopEvent(result=ctx.ask(Ask(n=1), Answer).n)

    return Waiting


@pytest.mark.parametrize("named", [True, False])
def test_a_child_is_found_again_by_its_name_in_the_code_or_in_an_attribute(named: bool) -> None:
    """Nothing has to be registered for either."""
    child = make_child(changed=False)
    with SeededRuntime(1) as runtime:
        handler = make_parent(child, named).run()
        runtime.run_until_idle()
        data = handler.ctx.snapshot()
    with SeededRuntime(2):
        workflow = make_parent(child, named)
        handler = workflow.run(ctx=Context.restore(workflow, data))
        handler.respond(handler.pending_inputs()[0].input_id, {"n": 4})
        assert handler.result() == 4


def test_a_child_whose_workflow_has_changed_or_is_not_named_is_refused_at_once() -> None:
    """With the list of differences, or with what to do."""
    with SeededRuntime(1) as runtime:
        handler = make_parent(make_child(changed=False), named=True).run()
        runtime.run_until_idle()
        data = handler.ctx.snapshot()
    with pytest.raises(ContextSerdeError, match=r"Waiting has changed since.*\n(.*\n)*.*step 'end' is new"):
        Context.restore(make_parent(make_child(changed=True), named=True), data)
    with pytest.raises(ContextSerdeError, match="holds a run of Waiting, which the code of Parent does not name"):
        Context.restore(make_parent(Square, named=True), data)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda document: document["children"].append(document["children"][0]),
        lambda document: document["children"].clear(),
        lambda document: document["children"].reverse(),
        lambda document: document.pop("within"),
        lambda document: document["within"].clear(),
        lambda document: document["children"][0].update(path=[]),
        lambda document: document["children"][0].update(graph=9),
        lambda document: document["children"][0].update(invocation=9),
        lambda document: document["children"][0].update(run=None),
        lambda document: document["children"][0].update(outcome=["completed", None, None]),
        lambda document: document["children"][0].update(outcome=["failed", None, None]),
        lambda document: document["children"][0]["run"].update(origin="elsewhere"),
        lambda document: document["invocations"][0]["waits"][0].update(runs=["nobody"]),
    ],
)
def test_a_snapshot_whose_children_are_not_whole_is_refused(spoil: Any) -> None:
    """As a whole, and before anything of it runs."""
    with SeededRuntime(1) as runtime:
        handler = Grandparent().run()
        runtime.run_until_idle()
        document = handler.ctx.to_dict()
    spoil(document)
    with pytest.raises(ContextSerdeError):
        Context.from_dict(Grandparent(), document)


# -- beside the rest of the engine -------------------------------------------------------------------------------------


def test_a_step_that_waits_for_a_child_is_passivated_and_goes_on() -> None:
    """Its thread is freed, and its body runs again from its top with the same child."""
    ran: list[str] = []

    class Parent(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ran.append("parent")
            try:
                return StopEvent(result=ctx.run(Asking(), n=1).result())
            except Exception:
                return StopEvent(result="swallowed")

    with Runtime(max_parked=0):
        handler = Parent().run()
        stream = handler.stream_events(include_children=True)
        question = next(event for event in stream if isinstance(event, Ask))
        handler.respond(question.input_id, {"n": 6})
        assert handler.result(DEADLINE) == 6
    assert len(ran) > 1


def test_a_worker_is_free_while_its_step_waits_for_a_child() -> None:
    """One worker serves many invocations that all wait for their children."""
    barrier = threading.Barrier(5)

    class Meeting(Workflow):
        @step
        def meet(self, ev: StartEvent) -> StopEvent:
            barrier.wait(DEADLINE)
            return StopEvent(result=ev.n)

    class Parent(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> Tick | None:
            for n in range(5):
                ctx.send_event(Tick(n=n))
            return None

        @step(num_workers=1)
        def work(self, ctx: Context, ev: Tick) -> Next:
            return Next(n=ctx.run(Meeting(), n=ev.n).result())

        @step
        def join(self, ctx: Context, ev: Next) -> StopEvent | None:
            done = ctx.collect_events(ev, {Next: 5})
            return done and StopEvent(result=sorted(event.n for event in done))

    assert Parent().run().result(DEADLINE) == [0, 1, 2, 3, 4]


def test_many_children_at_once(flow: Flavour) -> None:
    """A thousand of them, with one thread of bodies to run on."""

    class Parent(Workflow):
        @flow.step
        async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            runs = [ctx.run(Square(), n=n) for n in range(1000)]
            return StopEvent(result=sum([await flow(run.result()) for run in runs]))

    with Runtime(max_threads=1):
        assert Parent().run().result(DEADLINE) == sum(n * n for n in range(1000))


def test_a_child_has_resources_of_its_own_and_they_are_closed_at_its_end(flow: Flavour) -> None:
    """Those of the scope of a run are the child's, not its parent's."""
    seen: list[str] = []
    closed = threading.Event()

    def connection() -> Iterator[str]:
        seen.append("open")
        yield "connection"
        seen.append("closed")
        closed.set()

    class Inner(Workflow):
        @flow.step
        async def work(self, ev: StartEvent, name: Annotated[str, Resource(connection, scope="run")]) -> StopEvent:
            return StopEvent(result=name)

    class Parent(Workflow):
        @flow.step
        async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            name = await flow(ctx.run(Inner()).result())
            await flow.until(closed)
            return StopEvent(result=name)

    with Runtime():
        assert Parent().run().result(DEADLINE) == "connection"
    assert seen == ["open", "closed"]


def test_a_parent_that_is_verbose_runs_its_children_as_any(capsys: pytest.CaptureFixture[str]) -> None:
    """What its own steps do is told."""

    class Parent(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=ctx.run(Square(), n=2).result())

    with Runtime():
        assert Parent(verbose=True).run().result(DEADLINE) == 4
    assert "[begin:0] complete with StopEvent" in capsys.readouterr().out


def test_a_tree_a_hundred_deep_is_put_away_and_goes_on() -> None:
    """Neither the document nor the stack grows too deep."""
    with SeededRuntime(1) as runtime:
        handler = Deep().run(n=99)
        runtime.run_until_idle()
        data, document = handler.ctx.snapshot(), json.dumps(handler.ctx.to_dict())
    for take in (lambda: Context.restore(Deep(), data), lambda: Context.from_dict(Deep(), json.loads(document))):
        with SeededRuntime(2):
            handler = Deep().run(ctx=take())
            (question,) = handler.pending_inputs()
            handler.respond(question.input_id, {"n": 8})
            assert handler.result() == 8


class Deep(Workflow):
    """Runs itself, and asks at the bottom."""

    @step
    def down(self, ctx: Context, ev: StartEvent) -> StopEvent:
        if ev.n:
            return StopEvent(result=ctx.run(Deep(), n=ev.n - 1).result())
        return StopEvent(result=ctx.ask(Ask(n=1), Answer).n)


def test_shutting_the_runtime_down_waits_for_children_at_work() -> None:
    """The run counts as at work while a child is."""
    began, gate = threading.Event(), threading.Event()

    class Slow(Workflow):
        @step
        def work(self, ev: StartEvent) -> StopEvent:
            began.set()
            assert gate.wait(DEADLINE)
            return StopEvent(result="whole")

    class Parent(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=ctx.run(Slow()).result())

    with Runtime() as runtime:
        handler = Parent().run()
        assert began.wait(DEADLINE)
        assert list(runtime.runs) == [handler.run_id]
        threading.Timer(0.05, gate.set).start()
    assert handler.result(0) == "whole"


def test_a_child_cannot_wait_for_the_run_around_it() -> None:
    """That would be for ever, and is refused."""
    handlers: list[Any] = []
    ready = threading.Event()

    class Inner(Workflow):
        @step
        def work(self, ev: StartEvent) -> StopEvent:
            assert ready.wait(DEADLINE)
            return StopEvent(result=handlers[0].result())

    class Parent(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=ctx.run(Inner()).result())

    handlers.append(Parent().run())
    ready.set()
    with pytest.raises(DeadlockError):
        handlers[0].result(DEADLINE)


@pytest.mark.parametrize("named", [True, False])
def test_blocking_the_loop_that_a_child_needs_is_refused(named: bool) -> None:
    """The parent has no `async def` step of its own, but the workflow that it runs has."""
    inner = make_parent(AsyncEnd, named)

    class Blocking(Workflow):
        @step
        async def block(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=inner.run().result())

    with pytest.raises(DeadlockError, match="would block the event loop"):
        Blocking().run().result(DEADLINE)


class AsyncEnd(Workflow):
    """Ends, on the loop."""

    @step
    async def end(self, ev: StartEvent) -> StopEvent:
        return StopEvent()


def test_the_child_of_a_step_that_has_ended_is_out_of_reach() -> None:
    """A child run that was kept beyond its step says so."""
    kept: list[ChildRun] = []

    class Parent(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            kept.append(ctx.run(Square(), n=1))
            return StopEvent()

    Parent().run().result(DEADLINE)
    with pytest.raises(ContextStateError, match="step 'begin' has ended"):
        kept[0].result()


def test_on_every_schedule_the_same_comes_out() -> None:
    """Children side by side, with retries, questions and a grandchild, on a hundred schedules."""

    class Inner(Workflow):
        @step(retry_policy=retry_policy(wait=wait_fixed(1), stop=stop_after_attempt(2)))
        async def work(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
            if ctx.retry_info().retry_number == 0:
                raise LookupError("once")
            return StopEvent(result=await ctx.run(Square(), n=ev.n))

    class Parent(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            runs: list[Any] = [ctx.run(Inner(), n=n) for n in (2, 3)]
            runs.append(ctx.run(Asking(), n=5))
            ctx.run(Square(), n=9)
            return StopEvent(result=[run.result() for run in runs])

    def test(runtime: SeededRuntime) -> None:
        handler = Parent().run()
        runtime.run_until_idle()
        (question,) = handler.pending_inputs()
        handler.respond(question.input_id, {"n": 7})
        assert handler.result() == [4, 9, 7]
        published = [event.get("n") for event in handler.stream_events(include_children=True)]
        assert sorted(n for n in published if n is not None) == [2, 3, 5, 9]

    explore(test)

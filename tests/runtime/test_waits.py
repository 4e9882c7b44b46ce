"""Waits and questions: `wait_for_event`, `ask`, `once`, `pending_inputs` and `respond`, and what becomes of threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from greenroom import (
    Context,
    ContextSerdeError,
    Event,
    Handler,
    HumanResponseEvent,
    InputAnsweredError,
    InputExpiredError,
    InputRequiredEvent,
    InvalidResponseError,
    Runtime,
    StartEvent,
    StopEvent,
    UnknownInputError,
    Workflow,
    WorkflowCancelledByUser,
    aio,
    step,
)
from greenroom.retry import retry_policy, stop_after_attempt, wait_none
from greenroom.testing import SeededRuntime, explore


class Ask(InputRequiredEvent):
    n: int = 0


class Approval(HumanResponseEvent):
    approved: bool


class Ping(Event):
    n: int


class Done(Event):
    n: int


def questions(handler: Any, count: int) -> list[Any]:
    """The first questions of a run's stream."""
    found: list[Any] = []
    stream: Iterator[Event] = handler.stream_events(after=-1)
    while len(found) < count:
        event = next(stream)
        if isinstance(event, InputRequiredEvent):
            found.append(event)
    return found


class Twice(Workflow):
    """Asks twice in one step, in a `def`."""

    def __init__(self, **kw: Any) -> None:
        super().__init__(**kw)
        self.entered = 0

    @step
    def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        self.entered += 1
        first = ctx.wait_for_event(HumanResponseEvent, waiter_event=Ask(n=1))
        second = ctx.wait_for_event(HumanResponseEvent, waiter_event=Ask(n=2))
        return StopEvent(result=(first.response, second.response))


class TwiceAsync(Workflow):
    """Asks twice in one step, in an `async def`."""

    def __init__(self, **kw: Any) -> None:
        super().__init__(**kw)
        self.entered = 0

    @step
    async def ask(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
        self.entered += 1
        first = await ctx.wait_for_event(HumanResponseEvent, waiter_event=Ask(n=1))
        second = await ctx.wait_for_event(HumanResponseEvent, waiter_event=Ask(n=2))
        return StopEvent(result=(first.response, second.response))


@pytest.mark.parametrize("flow", [Twice, TwiceAsync])
def test_two_waits_in_one_step_take_two_answers_and_the_body_runs_once(flow: type[Any]) -> None:
    """Back-to-back answers are kept in order; nothing is replayed (D5, D6)."""
    workflow = flow()
    handler = workflow.run()
    handler.send_event(HumanResponseEvent(response="1"))
    handler.send_event(HumanResponseEvent(response="2"))
    assert handler.result(timeout=20) == ("1", "2")
    assert workflow.entered == 1
    assert [event.n for event in handler.stream_events(after=-1) if isinstance(event, Ask)] == [1, 2]


@pytest.mark.parametrize("flow", [Twice, TwiceAsync])
def test_each_question_is_answered_by_its_own_id(flow: type[Any]) -> None:
    """An answer to the second question does not answer the first."""
    handler = flow().run()
    (first,) = questions(handler, 1)
    assert [asked.input_id for asked in handler.pending_inputs()] == [first.input_id]
    handler.respond(first.input_id, {"response": "a"})
    second = questions(handler, 2)[1]
    with pytest.raises(InputAnsweredError):
        handler.respond(first.input_id, {"response": "again"})
    handler.respond(second.input_id, HumanResponseEvent(response="b"))
    assert handler.result(timeout=20) == ("a", "b")
    assert handler.pending_inputs() == []


def test_a_wrong_answer_leaves_the_question_open() -> None:
    """Unknown, invalid and answered are errors of their own, and the schema tells what fits."""

    class Pay(Workflow):
        @step
        def pay(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=ctx.ask(Ask(n=3), Approval).approved)

    handler = Pay().run()
    (asked,) = questions(handler, 1)
    (pending,) = handler.pending_inputs()
    assert (pending.input_id, pending.step, pending.response, pending.expires_at) == (
        asked.input_id,
        "pay",
        Approval,
        None,
    )
    assert pending.schema["properties"]["approved"]["type"] == "boolean"
    with pytest.raises(UnknownInputError):
        handler.respond("nothing", {"approved": True})
    for wrong in ({"approved": "perhaps"}, {}, HumanResponseEvent(approved=True), 7):
        with pytest.raises(InvalidResponseError):
            handler.respond(asked.input_id, wrong)  # type: ignore[arg-type]
    assert len(handler.pending_inputs()) == 1
    handler.respond(asked.input_id, {"approved": True})
    assert handler.result(timeout=20) is True


def test_a_question_expires() -> None:
    """The wait raises TimeoutError, which can be caught, and a late answer is told apart."""

    class Late(Workflow):
        @step
        def ask(self, ctx: Context, ev: StartEvent) -> StopEvent | InputRequiredEvent:
            try:
                ctx.ask(Ask(), Approval, timeout=60)
            except TimeoutError as error:
                ctx.store.set("why", str(error))
            return ctx.ask(Ask(), Approval) and StopEvent(result=ctx.store.get("why"))

    with SeededRuntime(1) as runtime:
        handler = Late().run()
        first, second = questions(handler, 2)
        assert runtime.now() >= 60
        with pytest.raises(InputExpiredError):
            handler.respond(first.input_id, {"approved": True})
        handler.respond(second.input_id, {"approved": True})
        assert handler.result() == "Timed out waiting for Approval"


def test_a_person_answers_one_wait_and_an_event_all_that_match() -> None:
    """One HumanResponseEvent, the oldest wait; any other event, every wait whose requirements it meets."""

    class Many(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> Ping | None:
            for n in range(4):
                ctx.send_event(Ping(n=n))
            return None

        @step
        def wait(self, ctx: Context, ev: Ping) -> Done:
            if ev.n < 2:
                ctx.wait_for_event(HumanResponseEvent, requirements={"who": "Ada"}, waiter_event=Ask(n=ev.n))
            else:
                ctx.wait_for_event(Event, requirements={"go": True})
            return Done(n=ev.n)

        @step
        def join(self, ctx: Context, ev: Done) -> StopEvent | None:
            ctx.write_event_to_stream(ev)
            done = ctx.collect_events(ev, {Done: 4})
            return done and StopEvent(result=[event.n for event in done])

    def test(runtime: SeededRuntime) -> None:
        handler = Many().run()
        runtime.run_until_idle()
        order = [event.n for event in questions(handler, 2)]
        handler.send_event(HumanResponseEvent(who="Eve"))
        handler.send_event(HumanResponseEvent(who="Ada"))
        runtime.run_until_idle()
        handler.send_event(HumanResponseEvent(go=True, who="Eve"))
        runtime.run_until_idle()
        handler.send_event(HumanResponseEvent(who="Ada"))
        runtime.run_until_idle()
        handler.send_event(Ping(n=9, go=True))
        runtime.run_until_idle()
        result = handler.result()
        assert sorted(result) == [0, 1, 2, 3]
        assert result.index(order[0]) < result.index(order[1])

    explore(test, range(40))


def test_a_wait_frees_its_worker_and_takes_it_again() -> None:
    """Other events of the step go on meanwhile, and at no time do more than num_workers run."""
    running = threading.Semaphore(0)
    at_once: list[int] = []

    class Narrow(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> Ping | None:
            for n in range(5):
                ctx.send_event(Ping(n=n))
            return None

        @step(num_workers=1)
        def work(self, ctx: Context, ev: Ping) -> Done:
            if ev.n < 3:
                ctx.wait_for_event(HumanResponseEvent)
            at_once.append(1)
            assert sum(at_once) == 1
            at_once.append(-1)
            return Done(n=ev.n)

        @step
        def join(self, ctx: Context, ev: Done) -> StopEvent | None:
            running.release()
            done = ctx.collect_events(ev, {Done: 5})
            return done and StopEvent(result=len(done))

    handler = Narrow().run()
    for _ in range(2):
        assert running.acquire(timeout=20)
    for _ in range(3):
        handler.send_event(HumanResponseEvent())
    assert handler.result(timeout=20) == 5


@pytest.mark.parametrize("flow", ["def", "async def"])
def test_a_retry_after_a_wait_is_not_asked_again(flow: str) -> None:
    """Its answer, its batch and what it did once are those of the attempt that failed (D3)."""
    effects: list[str] = []
    policy = retry_policy(wait=wait_none(), stop=stop_after_attempt(3))

    class Sync(Workflow):
        @step(retry_policy=policy)
        def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            answer = ctx.ask(Ask(), Approval)
            ctx.once("charge", effects.append, "charged")
            if ctx.retry_info().retry_number < 2:
                raise ValueError
            return StopEvent(result=(answer.approved, ctx.retry_info().retry_number))

    class Async(Workflow):
        @step(retry_policy=policy)
        async def work(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
            answer = await ctx.ask(Ask(), Approval)
            await ctx.once("charge", effects.append, "charged")
            if ctx.retry_info().retry_number < 2:
                raise ValueError
            return StopEvent(result=(answer.approved, ctx.retry_info().retry_number))

    handler = (Sync if flow == "def" else Async)().run()
    (asked,) = questions(handler, 1)
    handler.respond(asked.input_id, {"approved": True})
    assert handler.result(timeout=20) == (True, 2)
    assert effects == ["charged"]


def test_except_exception_cannot_swallow_a_cancel_while_it_waits() -> None:
    """Cancelling releases the thread at once, through `except Exception` (D8)."""
    left = threading.Event()

    class Stubborn(Workflow):
        @step
        def wait(self, ctx: Context, ev: StartEvent) -> StopEvent:
            try:
                while True:
                    try:
                        ctx.wait_for_event(HumanResponseEvent, waiter_event=Ask())
                    except Exception:
                        raise AssertionError("the wait was swallowed") from None
            finally:
                left.set()

    handler = Stubborn().run()
    questions(handler, 1)
    handler.cancel_run()
    assert left.wait(20)
    with pytest.raises(WorkflowCancelledByUser):
        handler.result()


def test_deadlines_stand_still_while_a_person_thinks() -> None:
    """Neither the run's timeout nor the step's counts the time of a wait."""

    class Slow(Workflow):
        @step(timeout=10)
        async def ask(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(4)
            await ctx.wait_for_event(HumanResponseEvent, timeout=None)
            await asyncio.sleep(4)
            return StopEvent(result="in time")

    with SeededRuntime(3) as runtime:
        handler = Slow(timeout=9).run()
        runtime.advance(3600)
        handler.send_event(HumanResponseEvent())
        assert handler.result() == "in time"


def test_a_wait_within_gather_and_a_failing_task() -> None:
    """A task that fails beside one that waits ends the attempt, and its wait with it."""

    class Both(Workflow):
        @step
        async def work(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
            async def fail() -> None:
                await asyncio.sleep(1)
                raise ValueError("beside")

            await asyncio.gather(ctx.ask(Ask(), Approval), fail())
            return StopEvent()

    with SeededRuntime(2):
        handler = Both().run()
        with pytest.raises(ValueError, match="beside"):
            handler.result()
        assert handler.pending_inputs() == []


class Parked(Workflow):
    """Does something before its question, once, and something that is sent and streamed."""

    def __init__(self, **kw: Any) -> None:
        super().__init__(**kw)
        self.entered = 0
        self.charged = 0

    def charge(self) -> int:
        self.charged += 1
        return self.charged

    @step
    def ask(self, ctx: Context, ev: StartEvent) -> Done | Ping:
        self.entered += 1
        ctx.write_event_to_stream(Ping(n=1))
        ctx.send_event(Ping(n=2))
        receipt = ctx.once("charge", self.charge)
        answer = ctx.ask(Ask(), Approval)
        ctx.send_event(Ping(n=3))
        return Done(n=receipt if answer.approved else 0)

    @step(num_workers=1)  # so that what comes first is counted in first
    def join(self, ctx: Context, ev: Done | Ping) -> StopEvent | None:
        got = ctx.collect_events(ev, {Ping: 2, Done: 1})
        return got and StopEvent(result=[event.n for event in got])


def test_past_max_parked_the_oldest_is_unwound_and_goes_on_from_its_log() -> None:
    """It runs again from its top, and does nothing again that it had done."""
    with Runtime(max_parked=1):
        workflow = Parked()
        handlers = [workflow.run() for _ in range(5)]
        asked = [questions(handler, 1)[0] for handler in handlers]
        for handler, question in zip(handlers, asked, strict=True):
            handler.respond(question.input_id, {"approved": True})
        results = [handler.result(timeout=20) for handler in handlers]
        assert sorted(results) == [[2, 3, n] for n in range(1, 6)]
        assert workflow.charged == 5
        assert workflow.entered > 5
        for handler in handlers:
            streamed = [type(event).__name__ for event in handler.stream_events(after=-1)]
            assert streamed == ["Ping", "Ask", "StopEvent"]


def test_no_thread_is_held_with_max_parked_0() -> None:
    """On every schedule the outcome is that of a run that held its thread."""

    def test(runtime: SeededRuntime) -> None:
        runtime.parking._max_parked = 0
        workflow = Parked()
        handler = workflow.run()
        (asked,) = questions(handler, 1)
        runtime.run_until_idle()
        handler.respond(asked.input_id, {"approved": True})
        assert handler.result() == [2, 3, 1]
        assert workflow.charged == 1
        assert workflow.entered == 2

    explore(test, range(60))


def test_the_runtime_lists_and_answers_the_questions_of_all_its_runs() -> None:
    """And tells of each as it is asked."""
    told: list[str] = []
    heard = threading.Semaphore(0)
    with Runtime() as runtime:
        runtime.on_input(lambda question: (told.append(question.input_id), heard.release()))
        handlers = [Twice().run() for _ in range(3)]
        for _ in range(3):
            assert heard.acquire(timeout=20)
        assert {question.run_id for question in runtime.pending_inputs()} == {handler.run_id for handler in handlers}
        assert len(set(told)) == 3
        for _ in range(2):
            for question in runtime.pending_inputs():
                runtime.respond(question.input_id, {"response": question.request.n})
            if not all(handler.done() for handler in handlers):
                for handler in handlers:
                    questions(handler, 2)
        assert [handler.result(timeout=20) for handler in handlers] == [(1, 2)] * 3
        with pytest.raises(UnknownInputError):
            runtime.respond(told[0] + "x", {})


def test_the_runtime_answers_the_run_that_asked_even_where_two_go_on_from_one_snapshot() -> None:
    """A question is found by its id; where one of two restored runs has ended, the other is still found."""
    with Runtime() as runtime:
        workflow = Parked()
        handler = workflow.run()
        (asked,) = questions(handler, 1)
        data = handler.ctx.snapshot()
        handler.cancel_run()
        first, second = (workflow.run(ctx=Context.restore(workflow, data)) for _ in range(2))
        runtime.respond(asked.input_id, {"approved": True})
        second.result(timeout=20)
        assert first.status == "running"
        runtime.respond(asked.input_id, {"approved": True})
        first.result(timeout=20)
        assert not runtime.resumed
        with pytest.raises(UnknownInputError):
            runtime.respond(asked.input_id, {"approved": True})


def test_the_runtime_answers_the_run_that_still_asks() -> None:
    """Of runs that went on from one snapshot, one has been answered and works on: the next answer goes to the other."""
    with Runtime() as runtime:
        workflow = Twice()
        handler = workflow.run()
        (asked,) = questions(handler, 1)
        data = handler.ctx.snapshot()
        handler.cancel_run()
        both = [workflow.run(ctx=Context.restore(workflow, data)) for _ in range(2)]
        for _ in both:
            runtime.respond(asked.input_id, {"response": 1})
        seconds = [questions(handler, 1)[0] for handler in both]
        with pytest.raises(InputAnsweredError):
            runtime.respond(asked.input_id, {"response": 1})
        for question in seconds:
            runtime.respond(question.input_id, {"response": 2})
        assert [handler.result(timeout=20) for handler in both] == [(1, 2), (1, 2)]


def test_an_unknown_question_troubles_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime tells from the id which run can have asked, however many there are."""
    with Runtime() as runtime:
        handler = Parked().run()
        (asked,) = questions(handler, 1)
        with monkeypatch.context() as patch:
            patch.setattr(Handler, "knows_question", lambda *_: pytest.fail("a run was asked"))
            for unknown in ("", "x", "x:1", f"{asked.input_id}:1"):
                with pytest.raises(UnknownInputError):
                    runtime.respond(unknown, {})
        runtime.respond(asked.input_id, {"approved": True})
        handler.result(timeout=20)


def test_a_snapshot_whose_graph_is_no_graph_is_refused() -> None:
    """A damaged graph is a ContextSerdeError like any other damage."""
    workflow = Parked()
    for damaged in ({"ask": 1}, {"join": [None, [3]]}, {1: []}):
        document = Context(workflow).to_dict() | {"graph": damaged}
        with pytest.raises(ContextSerdeError):
            Context.from_dict(workflow, document)

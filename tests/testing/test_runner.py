"""The test runner: what it collects, what it answers, and what it says when a run does not come to its end."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from greenroom import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    Runtime,
    StartEvent,
    StepStateChanged,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowFailedEvent,
    WorkflowRuntimeError,
    aio,
    step,
)
from greenroom.testing import SeededRuntime, WorkflowTestResult, WorkflowTestRunner
from greenroom.testing.aio import WorkflowTestRunner as AsyncRunner


class Note(Event):
    n: int


class Sure(InputRequiredEvent):
    amount: int = 0


class Verdict(HumanResponseEvent):
    yes: bool


class Count(Workflow):
    """Streams as many notes as it is told to, and counts its runs."""

    @step
    def begin(self, ctx: Context, ev: StartEvent) -> Note:
        for n in range(ev.get("notes", 0)):
            ctx.write_event_to_stream(Note(n=n))
        return Note(n=-1)

    @step
    async def end(self, ctx: aio.Context, ev: Note) -> StopEvent:
        runs = await ctx.store.get("runs", 0) + 1
        await ctx.store.set("runs", runs)
        return StopEvent(result=runs)


class Fails(Workflow):
    """Streams and then raises."""

    @step
    def fail(self, ctx: Context, ev: StartEvent) -> StopEvent:
        for n in range(ev.get("notes", 1)):
            ctx.write_event_to_stream(Note(n=n, text="x" * 1000))
        raise ValueError("on purpose")


class Asks(Workflow):
    """Asks in an async step, by an event of no particular class, and by an event that a step returns."""

    @step
    async def begin(self, ctx: aio.Context, ev: StartEvent) -> Sure:
        answer = await ctx.ask(Note(n=1), Verdict)
        return Sure(amount=10 if answer.yes else 0)

    @step
    def end(self, ev: Verdict) -> StopEvent:
        return StopEvent(result=ev.yes)


class Waits(Workflow):
    """Asks, for a minute or for ever."""

    @step
    def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        try:
            return StopEvent(result=ctx.ask(Sure(amount=ev.amount), Verdict, timeout=ev.get("seconds")).yes)
        except TimeoutError:
            return StopEvent(result="nobody")


@pytest.fixture(params=["blocks", "awaits", "seeded", "seeded awaits"])
def run(request: pytest.FixtureRequest) -> Any:
    """Runs a workflow with either runner, on threads or on a schedule."""

    def run(workflow: Workflow, *args: Any, **options: Any) -> WorkflowTestResult:
        match request.param:
            case "blocks":
                return WorkflowTestRunner(workflow).run(*args, **options)
            case "awaits":
                return asyncio.run(AsyncRunner(workflow).run(*args, **options))
            case "seeded":
                with SeededRuntime(1):
                    return WorkflowTestRunner(workflow).run(*args, **options)
        with SeededRuntime(1) as runtime:
            result: WorkflowTestResult = runtime.run(AsyncRunner(workflow).run(*args, **options))
            return result

    return run


def test_everything_that_was_streamed_is_collected_and_counted(run: Any) -> None:
    """Internal events too, unless they are not wanted."""
    test = run(Count(), StartEvent(notes=3))
    assert test.result == 1
    assert [event for event in test.collected if type(event) is Note] == [Note(n=n) for n in range(3)]
    assert test.event_types[Note] == 3
    assert test.event_types[StepStateChanged] >= 4
    assert type(test.collected[-1]) is StopEvent
    assert sum(test.event_types.values()) == len(test.collected)
    assert set(run(Count(), StartEvent(notes=3), expose_internal=False).event_types) == {Note, StopEvent}


def test_excluded_classes_are_left_out(run: Any) -> None:
    """Of exactly these classes, not of their subclasses."""
    test = run(Count(), StartEvent(notes=3), exclude_events=[StepStateChanged, Event, Note])
    assert StepStateChanged not in test.event_types
    assert Note not in test.event_types
    assert StopEvent in test.event_types


def test_a_run_may_begin_without_a_start_event_and_go_on_with_a_context() -> None:
    """The state of the first run is there in the second, and in the result."""
    runner = WorkflowTestRunner(Count())
    first = runner.run()
    second = runner.run(ctx=first.ctx)
    assert (first.result, second.result) == (1, 2)
    assert second.ctx.store.get("runs") == 2


def test_questions_are_answered_by_their_class(run: Any) -> None:
    """An event, a dict, or a function of the question; of its own class or of a base."""
    test = run(
        Asks(), answers={Note: {"yes": True}, InputRequiredEvent: lambda question: Verdict(yes=question.amount > 5)}
    )
    assert test.result is True
    assert (test.event_types[Note], test.event_types[Sure]) == (1, 1)
    assert run(Asks(), answers={Note: Verdict(yes=False), Sure: lambda q: {"yes": q.amount > 5}}).result is False


def test_the_nearest_class_answers(run: Any) -> None:
    """As events are routed."""
    assert run(Waits(), StartEvent(amount=1), answers={Event: {"yes": False}, Sure: {"yes": True}}).result is True


def test_a_question_that_nothing_answers_fails_at_once(run: Any) -> None:
    """The message names it and what there is; the run is ended."""
    with pytest.raises(WorkflowRuntimeError, match=r"asks Sure\(amount=7.*none for Sure, only for Note"):
        run(Waits(), StartEvent(amount=7), answers={Note: {"yes": True}}, timeout=None)
    with pytest.raises(WorkflowRuntimeError, match="only for nothing"):
        run(Waits(), StartEvent(amount=7), answers={}, timeout=None)


def test_without_answers_somebody_else_may_answer() -> None:
    """As another thread of the test."""
    answered = threading.Event()
    with Runtime() as runtime:

        def answer(question: Any) -> None:
            runtime.respond(question.input_id, {"yes": True})
            answered.set()

        runtime.on_input(answer)
        assert WorkflowTestRunner(Waits()).run(StartEvent(amount=1)).result is True
        assert answered.wait(20)


def test_a_wrong_answer_is_told_and_the_run_is_ended(run: Any) -> None:
    """It does not fit the response class."""
    with pytest.raises(Exception, match="does not fit Verdict") as caught:
        run(Waits(), StartEvent(amount=1), answers={Sure: {"yes": "perhaps"}})
    assert "Sure(amount=1" in caught.value.__notes__[0]


def test_a_question_that_is_given_up_before_it_is_answered_does_no_harm() -> None:
    """The answer comes when it has expired."""
    with SeededRuntime(1) as runtime:

        def late(question: Any) -> dict[str, bool]:
            runtime.advance(120)
            return {"yes": True}

        test = WorkflowTestRunner(Waits()).run(StartEvent(amount=1, seconds=60), answers={Sure: late}, timeout=600)
        assert test.result == "nobody"


def test_what_a_step_raises_comes_out_unchanged_with_the_stream(run: Any) -> None:
    """As a note, with long events cut short and the oldest of many left out."""
    with pytest.raises(ValueError, match="on purpose") as caught:
        run(Fails(), StartEvent(notes=100), expose_internal=False)
    (note,) = caught.value.__notes__
    lines = note.splitlines()
    assert "had streamed 101 events" in lines[0]
    assert "51 events before" in lines[1]
    assert len(lines) == 52
    assert WorkflowFailedEvent.__name__ in lines[-1]
    assert max(map(len, lines)) < 200


def test_a_run_that_takes_too_long_is_ended_and_tells_what_it_had_streamed(run: Any) -> None:
    """In the time of the runtime's clock."""
    kept: list[Any] = []

    class Kept(Waits):
        def run(self, *args: Any, **kwargs: Any) -> Any:
            kept.append(super().run(*args, **kwargs))
            return kept[-1]

    with pytest.raises(TimeoutError, match=r"not ended within 0\.05 seconds") as caught:
        run(Kept(), StartEvent(amount=7), timeout=0.05)
    assert "Sure(amount=7" in caught.value.__notes__[0]
    assert kept[0].done()


def test_a_test_that_is_given_up_leaves_no_run() -> None:
    """As by an exception in an answer, or by the cancellation of the task that awaits."""
    kept: list[Any] = []

    class Kept(Waits):
        def run(self, *args: Any, **kwargs: Any) -> Any:
            kept.append(super().run(*args, **kwargs))
            return kept[-1]

    def broken(question: Any) -> Any:
        raise KeyError("in the answer")

    with pytest.raises(KeyError, match="in the answer"):
        WorkflowTestRunner(Kept()).run(StartEvent(amount=1), answers={Sure: broken})

    async def give_up() -> None:
        await asyncio.wait_for(AsyncRunner(Kept()).run(StartEvent(amount=1)), 0.05)

    with pytest.raises(TimeoutError):
        asyncio.run(give_up())
    for handler in kept:
        with pytest.raises(WorkflowCancelledByUser, match="gave the run up"):
            handler.result(20)


def test_a_resumed_run_is_given_no_start_event() -> None:
    """A context with unfinished work goes on."""
    workflow = Waits()
    with SeededRuntime(1) as runtime:
        handler = workflow.run(amount=3)
        runtime.run_until_idle()
        restored = Context.restore(workflow, handler.ctx.snapshot())
        handler.cancel_run()
        test = WorkflowTestRunner(workflow).run(ctx=restored, answers={Sure: {"yes": True}})
        with pytest.raises(WorkflowCancelledByUser):
            handler.result()
    assert test.result is True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 0}, "greater than 0"),
        ({"timeout": True}, "greater than 0"),
        ({"timeout": "10"}, "greater than 0"),
        ({"answers": [Sure]}, "a dict of class and answer"),
        ({"answers": {"Sure": {}}}, "classes of events"),
        ({"answers": {Sure: "yes"}}, "an event, a dict or a function"),
        ({"answers": {Sure: Verdict}}, "an event, a dict or a function"),
        ({"start_event": Note(n=1)}, "begins with StartEvent"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    """Before anything runs."""
    with pytest.raises(WorkflowRuntimeError, match=message):
        WorkflowTestRunner(Count()).run(**options)


def test_a_workflow_of_either_kind_is_run_by_either_runner() -> None:
    """Also the one whose handlers' methods are awaited."""

    class Awaited(aio.Workflow):
        @step
        async def ask(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=(await ctx.ask(Sure(), Verdict)).yes)

    answers = {Sure: Verdict(yes=True)}
    assert WorkflowTestRunner(Awaited()).run(answers=answers).result is True
    assert asyncio.run(AsyncRunner(Awaited()).run(answers=answers)).result is True

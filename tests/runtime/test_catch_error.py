"""`@catch_error`: steps that are given the failures of others."""

from itertools import islice
from typing import Any

import pytest

from greenroom import (
    CollectionReleaseEvent,
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StepFailedEvent,
    StopEvent,
    Workflow,
    WorkflowValidationError,
    catch_error,
    step,
)
from greenroom.retry import retry_policy, stop_after_attempt, wait_none
from tests.support.flavours import DEADLINE, FLAVOURS, Flavour


@pytest.fixture(params=FLAVOURS)
def flow(request: pytest.FixtureRequest) -> Flavour:
    return Flavour(request.param)


class Task(Event):
    n: int


class Done(Event):
    n: int


class Part(Event):
    n: int


class Fine(Event):
    n: int


class Round(Event):
    pass


def test_a_failure_goes_to_the_step_that_catches_it_after_all_retries() -> None:
    """With the error itself, the event that the step was given, and how often it was tried."""
    seen: list[StepFailedEvent] = []

    class Recovers(Workflow):
        @step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(3)))
        def work(self, ev: StartEvent) -> StopEvent:
            raise ValueError("no")

        @catch_error
        def mend(self, ev: StepFailedEvent) -> StopEvent:
            seen.append(ev)
            return StopEvent(result="mended")

    handler = Recovers().run(n=1)
    assert handler.result(DEADLINE) == "mended"
    assert [type(event).__name__ for event in handler.stream_events()] == ["StopEvent"]
    assert seen[0].step_name == "work"
    assert seen[0].attempts == 3
    assert seen[0].input_event.n == 1
    assert isinstance(seen[0].exception, ValueError)


def test_a_named_step_s_failures_go_to_whoever_names_it() -> None:
    """All others to the one that names none; its own failures fail the run."""

    class Scoped(Workflow):
        @step
        def begin(self, ev: StartEvent) -> Task:
            if ev.where == "begin":
                raise ValueError("begin")
            return Task(n=1)

        @step
        def work(self, ev: Task) -> StopEvent:
            raise ValueError("work")

        @catch_error(for_steps=["work"])
        async def mend_work(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent(result=f"mend_work {ev.exception}")

        @catch_error
        def mend(self, ev: StepFailedEvent) -> StopEvent:
            raise KeyError("in the handler")

    assert Scoped().run(where="work").result(DEADLINE) == "mend_work work"
    with pytest.raises(KeyError, match="in the handler"):
        Scoped().run(where="begin").result(DEADLINE)


@pytest.mark.parametrize("budget", [1, 3])
def test_a_lineage_recovers_as_often_as_it_may(flow: Flavour, budget: int) -> None:
    """A loop of failure and recovery ends: through what is returned, sent, waited for and retried."""
    mended: list[int] = []

    class Loops(Workflow):
        @flow.step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(2)))
        async def work(self, ctx: Context, ev: StartEvent | Task) -> StopEvent:
            raise ValueError("again")

        @catch_error(max_recoveries=budget)
        def mend(self, ctx: Context, ev: StepFailedEvent) -> Task | None:
            mended.append(1)
            if len(mended) % 2:
                return Task(n=1)
            ctx.send_event(Task(n=2), delay=0.001 if len(mended) % 3 else None)
            return None

    with pytest.raises(ValueError, match="again"):
        Loops().run().result(DEADLINE)
    assert len(mended) == budget


def test_d4_a_wait_does_not_give_the_recovery_budget_back() -> None:
    """The failing step waits for a person each time before it fails."""
    mended: list[int] = []

    class Waits(Workflow):
        @step
        def work(self, ctx: Context, ev: StartEvent | Task) -> StopEvent:
            ctx.wait_for_event(HumanResponseEvent)
            raise ValueError("again")

        @catch_error(max_recoveries=1)
        def mend(self, ev: StepFailedEvent) -> Task:
            mended.append(1)
            return Task(n=1)

    handler = Waits().run()
    handler.send_event(HumanResponseEvent())
    handler.send_event(HumanResponseEvent())
    with pytest.raises(ValueError, match="again"):
        handler.result(DEADLINE)
    assert mended == [1]


def test_the_budget_survives_a_snapshot() -> None:
    """Taken while the recovered event waits."""
    mended: list[int] = []

    class Waits(Workflow):
        @step
        def work(self, ctx: Context, ev: StartEvent | Task) -> StopEvent:
            if isinstance(ev, Task):
                ctx.wait_for_event(HumanResponseEvent)
            raise ValueError("again")

        @catch_error(max_recoveries=1)
        def mend(self, ev: StepFailedEvent) -> Task:
            mended.append(1)
            return Task(n=1)

    workflow = Waits()
    handler = workflow.run()
    while not handler._link.ask(__import__("greenroom.facts", fromlist=["Inspect"]).Inspect(lambda s: s.parked)):
        pass
    saved = handler.ctx.snapshot()
    handler.cancel_run()
    resumed = workflow.run(ctx=Context.restore(workflow, saved))
    resumed.send_event(HumanResponseEvent())
    with pytest.raises(ValueError, match="again"):
        resumed.result(DEADLINE)
    assert mended == [1]


def test_two_lineages_have_a_budget_each() -> None:
    """One that has used its up does not take another's."""
    mended: list[int] = []

    class Two(Workflow):
        @step
        def begin(self, ev: StartEvent) -> list[Task]:
            return [Task(n=n) for n in range(3)]

        @step
        def work(self, ev: Task) -> Done:
            raise ValueError(ev.n)

        @catch_error(max_recoveries=1)
        def mend(self, ev: StepFailedEvent) -> Done:
            mended.append(ev.input_event.n)
            return Done(n=ev.input_event.n)

        @step
        def add(self, done: list[Done]) -> StopEvent:
            return StopEvent(result=sorted(ev.n for ev in done))

    assert Two().run().result(DEADLINE) == [0, 1, 2]
    assert sorted(mended) == [0, 1, 2]


def test_a_failed_gathering_step_is_told_with_its_list_and_none_ends_the_branch() -> None:
    """The input is a CollectionReleaseEvent; a handler that returns None lets the branch end."""

    class Gathers(Workflow):
        @step
        def begin(self, ev: StartEvent) -> list[Task]:
            return [Task(n=n) for n in range(3)]

        @step
        def odd(self, ev: Task) -> Done:
            if ev.n == 1:
                raise ValueError(ev.n)
            return Done(n=ev.n)

        @step
        def add(self, done: list[Done]) -> StopEvent:
            raise RuntimeError("cannot add")

        @catch_error(for_steps=["odd"])
        def drop(self, ev: StepFailedEvent) -> None: ...

        @catch_error(for_steps=["add"])
        def mend(self, ev: StepFailedEvent) -> StopEvent:
            assert isinstance(ev.input_event, CollectionReleaseEvent)
            return StopEvent(result=sorted(done.n for done in ev.input_event.events))

    assert Gathers().run().result(DEADLINE) == [0, 2]


def test_timeouts_and_cancels_are_not_caught_and_a_step_s_own_timeout_is() -> None:
    """The run's end is the run's; a step that took too long has failed."""
    import threading

    hold = threading.Event()

    class Slow(Workflow):
        @step(timeout=0.01)
        def work(self, ev: StartEvent) -> StopEvent:
            hold.wait(DEADLINE)
            return StopEvent()

        @catch_error
        def mend(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent(result=type(ev.exception).__name__)

    try:
        assert Slow().run().result(DEADLINE) == "StepTimeoutError"
    finally:
        hold.set()


def test_faults_of_handlers_are_told_when_the_workflow_is_built() -> None:
    """What it takes, whom it names, how often."""

    def build(**handlers: Any) -> None:
        class Begin(Workflow):
            @step
            def begin(self, ev: StartEvent) -> StopEvent:
                return StopEvent()

        type("Built", (Begin,), handlers)()

    def takes(hint: Any) -> Any:
        def mend(self: Any, ev: Any) -> None: ...

        mend.__annotations__["ev"] = hint
        mend.__qualname__ = "Begin.mend"
        return mend

    def handler(**options: Any) -> Any:
        return catch_error(**options)(takes(StepFailedEvent))

    for handlers, message in [
        ({"mend": catch_error(takes(StepFailedEvent | StartEvent))}, "must accept StepFailedEvent and nothing else"),
        ({"mend": step(takes(StepFailedEvent))}, "decorate it with @catch_error instead of @step"),
        ({"mend": handler(for_steps=["nobody"])}, "names step 'nobody', which does not exist"),
        ({"mend": handler(), "twin": handler()}, "all take the failures of every step"),
        ({"mend": handler(for_steps=["twin"]), "twin": handler()}, "names 'twin', which is one as well"),
        (
            {"mend": handler(for_steps=["begin"]), "twin": handler(for_steps=["begin"])},
            "'mend' and 'twin' both name it",
        ),
    ]:
        for name, function in handlers.items():
            function.__name__ = name
        with pytest.raises(WorkflowValidationError, match=message):
            build(**handlers)
    mend = takes(StepFailedEvent)
    with pytest.raises(WorkflowValidationError, match="max_recoveries must be an integer greater than 0"):
        catch_error(max_recoveries=0)(mend)
    with pytest.raises(WorkflowValidationError, match="for_steps must be a list"):
        catch_error(for_steps="begin")(mend)  # type: ignore[call-overload]


def test_what_a_handler_returns_takes_the_place_of_what_failed_in_the_list(flow: Flavour) -> None:
    """One that returns a list opens an inner one; None leaves the member out."""

    class Mends(Workflow):
        @flow.step
        async def begin(self, ev: StartEvent) -> list[Task]:
            return [Task(n=n) for n in range(3)]

        @flow.step
        async def work(self, ev: Task) -> Done:
            raise ValueError(ev.n)

        @flow.catch_error
        async def mend(self, ev: StepFailedEvent) -> list[Part] | Done | None:
            number = ev.input_event.n
            return [Part(n=4), Part(n=5)] if number == 2 else Done(n=number) if number else None

        @flow.step
        async def put_together(self, parts: list[Part]) -> Done:
            return Done(n=sum(part.n for part in parts))

        @flow.step
        async def add(self, done: list[Done]) -> StopEvent:
            return StopEvent(result=sorted(ev.n for ev in done))

    assert Mends().run().result(DEADLINE) == [1, 9]


@pytest.mark.parametrize("gathers", ["list", "join", "collect"])
def test_a_budget_is_not_given_back_where_events_come_together(flow: Flavour, gathers: str) -> None:
    """What comes of several events has used up the most that any of them had; whichever came last."""
    rounds: list[int] = []
    mended: list[int] = []

    class Base(Workflow):
        @flow.step
        async def work(self, ev: Task) -> Done:
            raise ValueError("again")

        @flow.step(num_workers=1)
        async def well(self, ctx: Context, ev: Part) -> Fine:
            return Fine(n=len(rounds))

        @flow.catch_error(max_recoveries=2)
        async def mend(self, ev: StepFailedEvent) -> Done:
            mended.append(1)
            return Done(n=0)

    def again() -> Round | StopEvent:
        rounds.append(1)
        return Round() if len(rounds) < 6 else StopEvent(result="without end")

    class Lists(Base):
        @flow.step
        async def begin(self, ev: StartEvent | Round) -> list[Task | Part]:
            return [Task(n=1), Part(n=1)]

        @flow.step
        async def together(self, all: list[Done | Fine]) -> Round | StopEvent:
            return again()

    class Sends(Base):
        @flow.step
        async def begin(self, ctx: Context, ev: StartEvent | Round) -> Task | Part | None:
            ctx.send_event(Task(n=1))
            ctx.send_event(Part(n=1), delay=0.001)
            return None

    class Joins(Sends):
        @flow.step
        async def together(self, done: Done, part: Fine) -> Round | StopEvent:
            return again()

    class Collects(Sends):
        @flow.step
        async def together(self, ctx: Context, ev: Done | Fine) -> Round | StopEvent | None:
            return again() if await flow(ctx.collect_events(ev, [Done, Fine])) else None

    workflow = {"list": Lists, "join": Joins, "collect": Collects}[gathers]
    with pytest.raises(ValueError, match="again"):
        workflow().run().result(DEADLINE)
    assert len(mended) == 2


def test_a_handler_may_wait_and_is_given_the_failure_again_after_a_snapshot(flow: Flavour) -> None:
    """The failure, with its exception and the list that was gathered, is part of the snapshot."""

    class Asks(Workflow):
        @flow.step
        async def begin(self, ev: StartEvent) -> list[Task]:
            return [Task(n=n) for n in range(3)]

        @flow.step
        async def add(self, tasks: list[Task]) -> StopEvent:
            raise ValueError("cannot add")

        @flow.catch_error
        async def mend(self, ctx: Context, ev: StepFailedEvent) -> StopEvent:
            answer = await flow(ctx.ask(InputRequiredEvent(prefix=str(ev.exception)), HumanResponseEvent))
            return StopEvent(result=[task.n + answer.n for task in ev.input_event.events])

    workflow = Asks()
    for as_json in (False, True):
        handler = workflow.run()
        (question,) = islice(handler.stream_events(), 1)
        assert question.prefix == "cannot add"
        saved: Any = handler.ctx.to_dict() if as_json else handler.ctx.snapshot()
        handler.cancel_run()
        context = Context.from_dict(workflow, saved) if as_json else Context.restore(workflow, saved)
        resumed = workflow.run(ctx=context)
        resumed.respond(question.input_id, {"n": 10})
        assert resumed.result(DEADLINE) == [10, 11, 12]


def test_a_failed_step_s_input_is_tried_again_before_it_is_caught(flow: Flavour) -> None:
    """A gathering step's retries are given the same list; the failure that is caught tells how many there were."""
    lists: list[list[int]] = []

    class Retries(Workflow):
        @flow.step
        async def begin(self, ev: StartEvent) -> list[Task]:
            return [Task(n=n) for n in range(2)]

        @flow.step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(3)))
        async def add(self, tasks: list[Task]) -> StopEvent:
            lists.append([task.n for task in tasks])
            tasks.clear()
            raise ValueError("no")

        @flow.catch_error(for_steps=["add"])
        async def mend(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent(result=(ev.attempts, [task.n for task in ev.input_event.events]))

    assert Retries().run().result(DEADLINE) == (3, [0, 1])
    assert lists == [[0, 1]] * 3


def test_a_wrong_return_is_caught_and_a_base_exception_is_not(flow: Flavour) -> None:
    """What a step returns without having declared it is a failure of that step."""

    class Wrong(Workflow):
        @flow.step
        async def work(self, ev: StartEvent) -> StopEvent:
            if ev.how == "exit":
                raise SystemExit(3)
            return "not an event"

        @flow.catch_error
        async def mend(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent(result=type(ev.exception).__name__)

    assert Wrong().run(how="wrong").result(DEADLINE) == "WorkflowRuntimeError"
    with pytest.raises(SystemExit):
        Wrong().run(how="exit").result(DEADLINE)


def test_a_handler_s_own_failure_fails_the_run_even_where_another_takes_all(flow: Flavour) -> None:
    """Handlers do not catch each other, nor themselves."""

    class Fails(Workflow):
        @flow.step
        async def work(self, ev: StartEvent) -> StopEvent:
            raise ValueError("work")

        @flow.catch_error(for_steps=["work"])
        async def mend(self, ev: StepFailedEvent) -> StopEvent:
            raise KeyError("mend")

        @flow.catch_error
        async def mend_all(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent(result="mended")

    handler = Fails().run()
    with pytest.raises(KeyError, match="mend"):
        handler.result(DEADLINE)
    (last,) = handler.stream_events()
    assert (type(last).__name__, last.step_name) == ("WorkflowFailedEvent", "mend")

"""`@catch_error`: steps that are given the failures of others."""

from typing import Any

import pytest

from greenroom import (
    CollectionReleaseEvent,
    Context,
    Event,
    HumanResponseEvent,
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

"""Observers hear of all that happens to a run, in order, each begin and each end once, and harm nothing."""

import asyncio
import logging
import threading
from collections import Counter
from contextvars import ContextVar
from typing import Any

import pytest

from greenroom import (
    Context,
    DeadlockError,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    Runtime,
    StartEvent,
    StepFailedEvent,
    StepTimeoutError,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowRuntimeError,
    aio,
    catch_error,
    step,
)
from greenroom.facts import Crashed, Finished
from greenroom.observer import AttemptRecord, Observer, RunRecord, WaitRecord
from greenroom.retry import retry_policy, stop_after_attempt, wait_fixed, wait_none
from greenroom.run_state import RunState
from greenroom.runtime import add_observer, remove_observer
from greenroom.testing import SeededRuntime, explore
from tests.support.flavours import DEADLINE, Flavour
from tests.support.hearing import Log, run_of
from tests.support.waiting import wait_until


class Part(Event):
    n: int


class Answer(HumanResponseEvent):
    n: int


class Done(Event):
    n: int


def chain(flow: Flavour) -> Workflow:
    """Two steps, one after the other."""

    class Chain(Workflow):
        @flow.step
        async def first(self, ctx: Context, ev: StartEvent) -> Part:
            ctx.write_event_to_stream(Part(n=0))
            return Part(n=1)

        @flow.step
        async def second(self, ctx: Context, ev: Part) -> StopEvent:
            return StopEvent(result=ev.n)

    return Chain()


def test_a_run_is_told_from_begin_to_end(flow: Flavour) -> None:
    """The hooks of a chain of two steps come in order, and the run's end is the last of them."""
    log = Log()
    with Runtime(observers=[log]):
        handler = chain(flow).run(run_id="r")
        assert handler.result(DEADLINE) == 1
    bodies = [line for line in log.lines if line.startswith(("first", "second"))]
    assert bodies == ["first 1", "first 1 completed", "second 1", "second 1 completed"]
    # The others come from the supervisor's turn: a body may have ended before what it sent is taken in.
    assert [line for line in log.lines if line not in bodies] == [
        "run",
        "StartEvent to first",
        "stream Part",
        "Part to second",
        "stream StopEvent",
        "run completed",
    ]
    assert log.lines.index("Part to second") < log.lines.index("second 1")
    assert log.lines[-1] == "run completed"
    first, second = log.attempts
    assert (log.runs[0].run_id, log.runs[0].origin, type(log.runs[0].start_event)) == ("r", "r", StartEvent)
    assert (first.invocation, second.invocation, first.retry_number) == (0, 1, 0)
    assert isinstance(first.event, StartEvent)
    assert isinstance(first.output, Part)
    assert first.due_at <= first.started_at <= first.ended_at <= second.ended_at <= log.runs[0].ended_at  # type: ignore[operator]
    assert not log.open
    assert not log.faults


def test_an_error_and_its_retry_are_told(flow: Flavour) -> None:
    """A failed attempt comes with what it raised, the retry with its delay, and the next attempt counts on."""

    class Twice(Workflow):
        @flow.step(retry_policy=retry_policy(stop=stop_after_attempt(2), wait=wait_fixed(3)))
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            if ctx.retry_info().retry_number == 0:
                raise ValueError("once")
            return StopEvent()

    log = Log()
    with SeededRuntime(1, observers=[log]):
        Twice().run().result()
    assert log.lines[2:6] == ["one 1", "one 1 failed", "one again in 3", "one 2"]
    failed, again = log.attempts
    assert str(failed.error) == "once"
    assert again.retry_number == 1
    assert again.due_at - (failed.ended_at or 0) == pytest.approx(3, abs=0.1)
    assert not log.faults


def test_a_step_that_takes_too_long_ends_at_its_timeout(flow: Flavour) -> None:
    """The attempt ends as timed out when it is given up, with the error, and the retry begins; its body may go on."""
    release = threading.Event()

    class Slow(Workflow):
        # Attempts enough: on a busy machine one that only returns may be late as well.
        @flow.step(timeout=0.05, retry_policy=retry_policy(stop=stop_after_attempt(100), wait=wait_none()))
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            if ctx.retry_info().retry_number == 0:
                await flow.until(release)
            return StopEvent()

    log = Log()
    with Runtime(observers=[log]):
        Slow().run().result(DEADLINE)
        assert log.lines[2:6] == ["one 1", "one 1 timed_out", "one again in 0", "one 2"]
        release.set()
    *late, last = [attempt.error for attempt in log.attempts]
    assert {type(error) for error in late} == {StepTimeoutError}
    assert last is None
    assert not log.open
    assert not log.faults


def test_a_body_that_outlives_its_run_has_ended_for_the_observer() -> None:
    """When the run ends, attempts that cannot be stopped are told as cancelled before the run's own end."""
    release, began = threading.Event(), threading.Event()

    class Race(Workflow):
        @step
        def stuck(self, ev: StartEvent) -> StopEvent | None:
            began.set()
            release.wait(DEADLINE)
            return None

        @step
        def quick(self, ev: StartEvent) -> StopEvent:
            assert began.wait(DEADLINE)
            return StopEvent()

    log = Log()
    with Runtime(observers=[log]):
        Race().run().result(DEADLINE)
        assert log.lines[-3:] == ["stuck 1 cancelled", "stream StopEvent", "run completed"]
        release.set()
    assert log.lines[-1] == "run completed"
    assert not log.open
    assert not log.faults


def test_a_wait_is_told_from_call_to_answer(flow: Flavour) -> None:
    """A wait begins with its question's id and ends with its answer, within one attempt."""

    class Ask(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            answer: Answer = await flow(ctx.ask(InputRequiredEvent(), Answer, timeout=60))
            return StopEvent(result=answer.n)

    log = Log()
    with Runtime(observers=[log]):
        handler = Ask().run()
        question = next(iter(handler.stream_events()))
        handler.respond(question.input_id, {"n": 5})
        assert handler.result(DEADLINE) == 5
    (wait,) = log.waits
    assert (wait.input_id, wait.timeout, wait.end, wait.answer.n) == (question.input_id, 60, "answered", 5)  # type: ignore[union-attr]
    assert wait.attempt is log.attempts[0]
    assert [line for line in log.lines if line != "idle"] == [
        "run",
        "StartEvent to one",
        "one 1",
        "wait Answer",
        "stream InputRequiredEvent",
        "wait Answer answered",
        "one 1 completed",
        "stream StopEvent",
        "run completed",
    ]
    assert not log.faults


def test_a_passivated_step_is_two_attempts_and_one_wait() -> None:
    """The body that is unwound ends as passivated; its wait goes on until the answer, and is not told anew."""

    class Ask(Workflow):
        @step
        def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=ctx.ask(InputRequiredEvent(), Answer).n)

    log = Log()
    with Runtime(max_parked=0, observers=[log]):
        handler = Ask().run()
        question = next(iter(handler.stream_events()))
        handler.respond(question.input_id, {"n": 5})
        assert handler.result(DEADLINE) == 5
    assert [attempt.end for attempt in log.attempts] in (["passivated", "completed"], ["completed"])
    assert [(wait.end, wait.attempt.attempt) for wait in log.waits] == [("answered", 1)]
    assert not log.open
    assert not log.faults


def test_waits_end_in_each_way(flow: Flavour) -> None:
    """A wait ends as expired when its time is over, and as cancelled when the run is."""

    class Patient(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            try:
                await flow(ctx.wait_for_event(Part, timeout=5))
            except TimeoutError:
                await flow(ctx.wait_for_event(Answer, timeout=None))
            return StopEvent()

    log = Log()
    with SeededRuntime(3, observers=[log]) as runtime:
        handler = Patient().run()
        runtime.advance(6)
        handler.cancel_run()
        assert isinstance(handler.exception(), WorkflowCancelledByUser)
    assert [(wait.event_type, wait.end) for wait in log.waits] == [(Part, "expired"), (Answer, "cancelled")]
    assert [attempt.end for attempt in log.attempts] == ["cancelled"]
    assert not log.open
    assert not log.faults


def test_a_wait_that_its_step_leaves_behind_is_withdrawn() -> None:
    """A step that returns while a task of it waits has that wait told as withdrawn, before the next step begins."""

    class Impatient(Workflow):
        @step
        async def one(self, ctx: aio.Context, ev: StartEvent) -> Part:
            task = asyncio.create_task(ctx.wait_for_event(Answer))
            await asyncio.sleep(1)
            task.cancel()
            return Part(n=1)

        @step
        async def two(self, ev: Part) -> StopEvent:
            return StopEvent()

    log = Log()
    with SeededRuntime(1, observers=[log]):
        Impatient().run().result()
    assert [wait.end for wait in log.waits] == ["withdrawn"]
    assert log.lines.index("wait Answer withdrawn") < log.lines.index("two 1")
    assert not log.faults


def test_each_event_is_accounted_for() -> None:
    """Events that are queued, held for a wait or taken by nobody are told as such."""

    class Lost(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> None:
            for n in range(3):
                ctx.send_event(Part(n=n))

        @step(num_workers=1)
        def one(self, ctx: Context, ev: Part) -> Answer | StopEvent | None:
            return StopEvent() if ev.n == 2 else None

    log = Log()
    with Runtime(observers=[log]):
        handler = Lost(disable_validation=True, on_stuck="wait").run()
        handler.result(DEADLINE)
        with pytest.raises(WorkflowRuntimeError):
            handler.send_event(Answer(n=1))
    assert Counter(log.lines)["Part to one"] + Counter(log.lines)["Part to one, queued"] == 3
    assert log.lines[-1] == "dead Answer"
    assert not log.faults


def test_an_event_for_a_later_wait_is_held() -> None:
    """An answer that comes before its wait is told as held; then it ends the wait at once."""
    go = threading.Event()

    class Late(Workflow):
        @step
        def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            assert go.wait(DEADLINE)
            return StopEvent(result=ctx.wait_for_event(Answer).n)

    log = Log()
    with Runtime(observers=[log]):
        handler = Late().run()
        handler.send_event(Answer(n=3))
        go.set()
        assert handler.result(DEADLINE) == 3
    assert "held Answer" in log.lines
    assert [wait.end for wait in log.waits] == ["answered"]
    assert not log.faults


def test_lists_and_caught_failures_are_told() -> None:
    """A list that a step returns is its output, the step that gathers it has one event, and so has a catching step."""

    class Gathers(Workflow):
        @step
        def fan(self, ev: StartEvent) -> list[Part]:
            return [Part(n=n) for n in range(3)]

        @step
        def work(self, ev: Part) -> Done:
            if ev.n == 1:
                raise ValueError("caught")
            return Done(n=ev.n)

        @catch_error(for_steps=["work"])
        def mend(self, ev: StepFailedEvent) -> Done:
            return Done(n=-1)

        @step
        def gather(self, parts: list[Done]) -> StopEvent:
            return StopEvent(result=sorted(part.n for part in parts))

    log = Log()
    with Runtime(observers=[log]):
        assert Gathers().run().result(DEADLINE) == [-1, 0, 2]
    assert log.attempts[0].output_name == "list[Part]"
    ends = Counter((attempt.step, attempt.end) for attempt in log.attempts)
    assert ends == {
        ("fan", "completed"): 1,
        ("work", "completed"): 2,
        ("work", "failed"): 1,
        ("mend", "completed"): 1,
        ("gather", "completed"): 1,
    }
    assert not log.faults
    assert not log.open


# -- every interleaving ------------------------------------------------------------------------------------------------


class Storm(Workflow):
    """Fans out to steps of both kinds that wait, fail, time out and collect."""

    @step
    def begin(self, ctx: Context, ev: StartEvent) -> Part | None:
        for n in range(4):
            ctx.send_event(Part(n=n))

    @step(num_workers=2, retry_policy=retry_policy(stop=stop_after_attempt(3), wait=wait_none()))
    def work(self, ctx: Context, ev: Part) -> Done | None:
        if ev.n == 1 and ctx.retry_info().retry_number < 2:
            raise ValueError(ev.n)
        answer = ctx.wait_for_event(Answer, waiter_id=str(ev.n), requirements={"n": ev.n}, timeout=5)
        return Done(n=answer.n)

    @step(
        num_workers=2,
        retry_policy=retry_policy(stop=stop_after_attempt(2), wait=wait_fixed(1)),
        timeout=3,
        skip_graph_checks=["dead_end"],
    )
    async def sleepy(self, ctx: aio.Context, ev: Part) -> None:
        first = ctx.retry_info().retry_number == 0
        await asyncio.sleep(10 if ev.n == 2 and first else 1)

    @step
    async def gather(self, ctx: aio.Context, ev: Done) -> StopEvent | None:
        return ctx.collect_events(ev, {Done: 4}) and StopEvent(result="done")


@pytest.mark.parametrize("max_parked", [0, 1000])
@pytest.mark.parametrize("cancelled", [False, True])
def test_every_begin_has_its_end_on_any_schedule(max_parked: int, cancelled: bool) -> None:
    """Whatever the order, each run, attempt and wait begins once and ends once, none outlives its run."""
    ends: Counter[str] = Counter()

    def check(runtime: SeededRuntime) -> None:
        runtime.parking._max_parked = max_parked
        log = Log()
        add_observer(log)
        try:
            handler = Storm().run()
            runtime.advance(0.002 if cancelled else 0.5)
            if cancelled:
                handler.cancel_run()
            else:
                for n in range(4):
                    handler.send_event(Answer(n=n))
                assert handler.result() == "done"
            assert handler.done()
        finally:
            remove_observer(log)
        assert not log.faults
        assert not log.open
        assert log.lines[0] == "run"
        ends.update(str(attempt.end) for attempt in log.attempts)
        ends.update(str(wait.end) for wait in log.waits)

    explore(check, range(150))
    assert ends["cancelled" if cancelled else "failed"]
    assert ends["answered"] or cancelled
    assert ends["passivated"] or max_parked


def test_every_begin_has_its_end_on_threads() -> None:
    """As above, on real threads: many runs at once, of which half are cancelled in the middle."""
    log = Log()
    with Runtime(observers=[log], max_parked=5):
        handlers = [Storm().run() for _ in range(40)]
        for index, handler in enumerate(handlers):
            for n in range(4):
                if index % 2:
                    handler.cancel_run()
                elif not handler.done():
                    handler.send_event(Answer(n=n))
        for handler in handlers[::2]:
            assert handler.result(DEADLINE) == "done"
    assert not log.faults
    assert not log.open
    assert len(log.runs) == 40


# -- who is told -------------------------------------------------------------------------------------------------------


def test_an_observer_that_raises_harms_nothing_and_is_logged_once(
    flow: Flavour, caplog: pytest.LogCaptureFixture
) -> None:
    """Runs go on as if it were not there, those after it are told, and each of its hooks is logged the first time."""

    class Broken(Observer):
        def run_started(self, run: RunRecord) -> None:
            raise ValueError("run_started")

        def step_started(self, attempt: AttemptRecord) -> None:
            raise SystemExit("step_started")

        def step_ended(self, attempt: AttemptRecord) -> None:
            raise ValueError("step_ended")

        def run_ended(self, run: RunRecord) -> None:
            raise ValueError("run_ended")

    log = Log()
    with Runtime(observers=[Broken(), log]):
        for _ in range(3):
            assert chain(flow).run().result(DEADLINE) == 1
    assert log.lines.count("run completed") == 3
    records = [record for record in caplog.records if record.name == "greenroom.observer"]
    raised = Counter(str(record.exc_info[1]) for record in records if record.exc_info)
    assert raised == {"run_started": 1, "step_started": 1, "step_ended": 1, "run_ended": 1}
    assert all(record.levelno == logging.ERROR for record in records)


variable: ContextVar[str] = ContextVar("variable", default="")


def test_what_the_hooks_set_is_seen_by_the_bodies(flow: Flavour) -> None:
    """Variables set at a run's begin reach all its steps, those of a step's begin its body alone, none the caller."""
    seen: list[str] = []

    class Sets(Observer):
        def run_started(self, run: RunRecord) -> None:
            variable.set(f"{variable.get()}/run")

        def step_started(self, attempt: AttemptRecord) -> None:
            variable.set(f"{variable.get()}/{attempt.step}")

        def wait_started(self, wait: WaitRecord) -> None:
            seen.append(f"{variable.get()}/wait")
            variable.set("lost")

    class Two(Workflow):
        @flow.step
        async def first(self, ctx: Context, ev: StartEvent) -> Part:
            await flow(ctx.wait_for_event(Answer))
            seen.append(variable.get())
            return Part(n=1)

        @flow.step
        async def second(self, ctx: Context, ev: Part) -> StopEvent:
            seen.append(variable.get())
            return StopEvent()

    with Runtime(observers=[Sets()]):
        token = variable.set("caller")
        handler = Two().run()
        handler.send_event(Answer(n=1))
        handler.result(DEADLINE)
        assert variable.get() == "caller"
        variable.reset(token)
    assert seen == ["caller/run/first/wait", "caller/run/first", "caller/run/second"]


def test_observers_of_the_process_see_runtimes_that_have_none() -> None:
    """Added ones see the default runtime and others made before; a runtime with observers of its own keeps to those."""
    log, own = Log(), Log()
    before = Runtime()
    with before, Runtime(observers=[own]) as other, Runtime(observers=[]) as none:
        add_observer(log)
        add_observer(log)
        try:
            for runtime in (before, other, none):
                workflow = chain(Flavour("def"))
                workflow._runtime = runtime
                workflow.run(run_id="in a runtime").result(DEADLINE)
        finally:
            remove_observer(log)
    assert [run.run_id for run in log.runs] == ["in a runtime"]
    assert [run.run_id for run in own.runs] == ["in a runtime"]
    chain(Flavour("def")).run().result(DEADLINE)
    assert len(log.runs) == 1


@pytest.mark.parametrize("wrong", [[print], [Observer], [None]])
def test_what_is_no_observer_is_refused(wrong: Any) -> None:
    """A runtime takes objects of Observer alone, and says so when it is made."""
    with pytest.raises(WorkflowRuntimeError, match="an observer is an object of a subclass of Observer"):
        Runtime(observers=wrong)
    with pytest.raises(WorkflowRuntimeError, match="an observer is an object of a subclass of Observer"):
        add_observer(wrong[0])


def test_a_run_that_goes_on_names_its_origin() -> None:
    """A run that resumes another has no start event, the first one's id as origin, and its wait is told anew."""

    class Ask(Workflow):
        @step
        def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=ctx.ask(InputRequiredEvent(), Answer).n)

    log = Log()
    with SeededRuntime(1, observers=[log]) as runtime:
        handler = Ask().run(run_id="first")
        runtime.run_until_idle()
        data = handler.ctx.snapshot()
        handler.cancel_run()
        workflow = Ask()
        again = workflow.run(ctx=Context.restore(workflow, data), run_id="second")
        runtime.run_until_idle()
        again.send_event(Answer(n=4))
        assert again.result() == 4
    first, second = log.runs
    assert (first.run_id, first.origin) == ("first", "first")
    assert (second.run_id, second.origin, second.start_event) == ("second", "first", None)
    assert [wait.end for wait in log.waits if run_of(wait) is second] == ["answered"]
    assert not log.faults
    assert not log.open


def test_a_wait_that_outlives_a_failed_attempt_is_one_wait() -> None:
    """A wait of a task of an attempt that fails goes on in the retry, which is answered; it begins and ends once."""

    class Twice(Workflow):
        @step(retry_policy=retry_policy(stop=stop_after_attempt(2), wait=wait_none()))
        async def one(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
            wait = asyncio.create_task(ctx.wait_for_event(Answer))
            await asyncio.sleep(1)
            if ctx.retry_info().retry_number == 0:
                wait.cancel()
                raise ValueError("with a wait open")
            return StopEvent(result=(await wait).n)

    log = Log()
    with SeededRuntime(1, observers=[log]) as runtime:
        handler = Twice().run()
        runtime.advance(1.5)
        handler.send_event(Answer(n=7))
        assert handler.result() == 7
    assert [attempt.end for attempt in log.attempts] == ["failed", "completed"]
    assert [(wait.end, wait.attempt.attempt) for wait in log.waits] == [("answered", 1)]
    assert not log.faults
    assert not log.open


@pytest.mark.parametrize("fatal", [False, True])
def test_a_failure_of_the_engine_ends_what_was_observed(
    fatal: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If the core itself fails, once or for good, what had begun is told to have ended."""
    apply = RunState.apply

    def fail(self: RunState, fact: Any, now: float) -> Any:
        if type(fact) is Finished or (fatal and type(fact) is Crashed):
            raise AssertionError("a bug of ours")
        return apply(self, fact, now)

    monkeypatch.setattr(RunState, "apply", fail)
    log = Log()
    with Runtime(observers=[log]):
        error = chain(Flavour("def")).run().exception(DEADLINE)
        wait_until(lambda: not log.open)
    assert isinstance(error, WorkflowRuntimeError)
    assert log.lines[-1] == "run failed"
    assert not log.open
    assert not log.faults
    assert caplog.records[0].name == "greenroom.actors"


def test_hooks_that_call_into_the_run_do_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    """A hook that cancels its own run ends it in order; one that asks in a turn is refused, which is logged."""
    handlers: list[Any] = []
    ready = threading.Event()

    class Meddles(Observer):
        def step_started(self, attempt: AttemptRecord) -> None:
            assert ready.wait(DEADLINE)
            handlers[0].cancel_run()

        def event_streamed(self, run: RunRecord, event: Event) -> None:
            handlers[0].ctx.store.get("x", None)

    log = Log()
    with Runtime(observers=[Meddles(), log]):
        handlers.append(chain(Flavour("def")).run())
        ready.set()
        assert isinstance(handlers[0].exception(DEADLINE), WorkflowCancelledByUser)
    assert not log.open
    assert not log.faults
    (record,) = [record for record in caplog.records if record.name == "greenroom.observer"]
    assert record.exc_info
    assert record.exc_info[0] is DeadlockError


def test_tracebacks_show_the_step_first() -> None:
    """The traceback of what a step raises begins in the step, as it does without observers."""

    class Fails(Workflow):
        @step
        def one(self, ev: StartEvent) -> StopEvent:
            raise ValueError("here")

    with Runtime(observers=[Log()]):
        error = Fails().run().exception(DEADLINE)
    assert error is not None
    assert error.__traceback__ is not None
    assert error.__traceback__.tb_frame.f_code.co_name == "one"

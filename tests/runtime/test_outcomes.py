"""How runs end: the result, the stream's last event, the status, and the exception as it was raised."""

import asyncio
import threading
import traceback
from collections.abc import Callable

import pytest

from greenroom import (
    Context,
    Event,
    Handler,
    InputRequiredEvent,
    StartEvent,
    StepCancelled,
    StepTimeoutError,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowCancelledEvent,
    WorkflowFailedEvent,
    WorkflowRuntimeError,
    WorkflowStuckError,
    WorkflowTimedOutEvent,
    WorkflowTimeoutError,
    aio,
    step,
)
from tests.support.flavours import DEADLINE, Flavour
from tests.support.waiting import wait_until


class Part(Event):
    n: int = 0


class Other(Event):
    pass


class Custom(StopEvent):
    score: int


class Boom(Exception):
    """An error whose arguments cannot be guessed: it must come through as the object that was raised."""

    def __init__(self, first: int, *, second: int) -> None:
        super().__init__(f"boom {first} {second}")


async def awaited(handler: Handler) -> object:
    return await handler


def outcome_of(handler: Handler) -> tuple[object, BaseException | None]:
    """Look at a run's end in every way there is, check that all agree, and return result and error."""
    error = handler.exception(DEADLINE)
    result = None
    if error is None:
        result = handler.result(DEADLINE)
        assert asyncio.run(awaited(handler)) is result
        assert handler.stop_event_result(DEADLINE) is handler.get_stop_event()
    else:
        for ask in (lambda: handler.result(DEADLINE), lambda: asyncio.run(awaited(handler)), handler.stop_event_result):
            with pytest.raises(type(error)) as raised:
                ask()
            assert raised.value is error
    assert handler.done()
    assert not handler.running()
    assert not handler.cancelled()
    assert not handler.ctx.is_running
    assert handler.ctx.running_steps() == []
    events = list(handler.stream_events())
    assert events[-1] is handler.get_stop_event()
    assert not any(isinstance(event, StopEvent) for event in events[:-1])
    return result, error


# -- the table ---------------------------------------------------------------------------------------------------------


def test_a_stop_event_completes_the_run(flow: Flavour) -> None:
    """A StopEvent: its result, and it is the stream's last event."""

    class Ends(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result={"a": [1]}, note="kept")

    handler = Ends().run()
    assert outcome_of(handler) == ({"a": [1]}, None)
    assert handler.status == "completed"
    assert handler.get_stop_event().note == "kept"


def test_a_custom_stop_event_completes_the_run(flow: Flavour) -> None:
    """A subclass of StopEvent: it is itself the result and the stream's last event."""

    class Ends(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> Custom:
            return Custom(score=4)

    handler = Ends().run()
    result, error = outcome_of(handler)
    assert result is handler.get_stop_event()
    assert error is None
    assert result.score == 4


def test_an_exception_fails_the_run_unchanged(flow: Flavour) -> None:
    """What a step raises is raised by result() and await as the same object; the stream says where."""
    boom = Boom(1, second=2)

    class Fails(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> Part:
            ctx.write_event_to_stream(Other())
            return Part()

        @flow.step
        async def two(self, ev: Part) -> StopEvent:
            raise boom

    handler = Fails().run()
    _, error = outcome_of(handler)
    assert error is boom
    assert handler.status == "failed"
    written, last = handler.stream_events(after=-1)
    assert isinstance(written, Other)
    assert isinstance(last, WorkflowFailedEvent)
    assert (last.step_name, last.exception, last.attempts) == ("two", boom, 1)
    assert last.elapsed_seconds >= 0


def test_a_timeout_ends_the_run(flow: Flavour) -> None:
    """Too long at work: WorkflowTimeoutError, which is a TimeoutError, and the stream names the steps at work."""
    never = threading.Event()

    class Slow(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            await flow.until(never)
            return StopEvent()

    handler = Slow(timeout=0.05).run()
    _, error = outcome_of(handler)
    never.set()
    assert isinstance(error, WorkflowTimeoutError)
    assert isinstance(error, TimeoutError)
    assert handler.status == "timed_out"
    (last,) = handler.stream_events(after=-1)
    assert isinstance(last, WorkflowTimedOutEvent)
    assert (last.timeout, last.active_steps) == (0.05, ["one"])


def test_cancel_run_ends_the_run(flow: Flavour) -> None:
    """cancel_run(): WorkflowCancelledByUser, the stream's last event says so, and to cancel again does nothing."""
    at_work, never = threading.Event(), threading.Event()

    class Slow(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            at_work.set()
            await flow.until(never)
            return StopEvent()

    handler = Slow().run()
    assert at_work.wait(DEADLINE)
    handler.cancel_run()
    handler.cancel_run()
    _, error = outcome_of(handler)
    handler.cancel_run()
    never.set()
    assert isinstance(error, WorkflowCancelledByUser)
    assert handler.status == "cancelled"
    assert [type(event) for event in handler.stream_events(after=-1)] == [WorkflowCancelledEvent]


def test_cancel_run_after_the_end_changes_nothing(flow: Flavour) -> None:
    """A run that has its result keeps it."""

    class Ends(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=1)

    handler = Ends().run()
    assert handler.result(DEADLINE) == 1
    handler.cancel_run()
    assert outcome_of(handler) == (1, None)
    assert handler.status == "completed"


def test_a_step_that_takes_too_long_fails_the_run(flow: Flavour) -> None:
    """@step(timeout=...): StepTimeoutError names the step and the limit, and the body is told that it is cancelled."""
    told = threading.Event()

    class Slow(Workflow):
        @flow.step(timeout=0.05)
        async def dawdle(self, ctx: Context, ev: StartEvent) -> StopEvent:
            try:
                await flow.until(told) if flow.kind == "async def" else wait_until(lambda: ctx.cancelled, DEADLINE)
            finally:
                told.set()
            return StopEvent()

    handler = Slow().run()
    _, error = outcome_of(handler)
    assert isinstance(error, StepTimeoutError)
    assert str(error) == "step 'dawdle' took longer than its timeout of 0.05 seconds"
    assert told.wait(DEADLINE)
    assert handler.status == "failed"


def test_a_run_that_is_stuck_fails_and_names_the_buffers(flow: Flavour) -> None:
    """A stuck run: WorkflowStuckError says what each collection holds and lacks, and what nobody took."""

    class Lacks(Workflow):
        @flow.step
        async def split(self, ctx: Context, ev: StartEvent) -> Part | Other | None:
            ctx.send_event(Part(n=1))
            ctx.send_event(Part(n=2))
            return None

        @flow.step
        async def join(self, ctx: Context, ev: Part | Other) -> StopEvent | None:
            batch = await flow(ctx.collect_events(ev, [Part, Other, Part, Part], buffer_id="all of it"))
            return batch and StopEvent()

    handler = Lacks().run()
    _, error = outcome_of(handler)
    assert isinstance(error, WorkflowStuckError)
    assert "collection 'all of it' of step 'join' holds 2 and lacks 1 x Part, 1 x Other" in str(error)
    assert sorted((letter.event.n, letter.step) for letter in handler.dead_letters()) == [(1, "join"), (2, "join")]
    assert handler.status == "failed"


def test_a_stuck_run_names_the_events_that_nobody_took(flow: Flavour) -> None:
    """Events without a taker, sent from within or from outside, are in the message of WorkflowStuckError."""
    proceed = threading.Event()

    class Lost(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent | None:
            await flow.until(proceed)
            ctx.send_event(Other())
            return None

    handler = Lost().run()
    handler.send_event(Part())
    proceed.set()
    _, error = outcome_of(handler)
    assert "Other was not taken: no step takes it" in str(error)
    assert "Part was sent from outside and no step takes it" in str(error)
    assert sorted(type(letter.event).__name__ for letter in handler.dead_letters()) == ["Other", "Part"]


# -- exceptions --------------------------------------------------------------------------------------------------------


def raise_deep(depth: int) -> None:
    if depth:
        raise_deep(depth - 1)
    raise Boom(depth, second=0)  # the line that the traceback names


class Deep(Workflow):
    @step
    def one(self, ev: StartEvent) -> StopEvent:
        raise_deep(3)
        return StopEvent()


class AsyncDeep(Workflow):
    @step
    async def one(self, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(0)
        raise_deep(3)
        return StopEvent()


@pytest.mark.parametrize("workflow", [Deep, AsyncDeep])
def test_the_traceback_names_the_users_lines_and_does_not_grow(workflow: type[Workflow]) -> None:
    """The traceback leads to the line that raised, and stays the same however often the result is asked for."""
    handler = workflow().run()
    lengths, texts = set(), set()

    def ask(how: Callable[[], object]) -> None:
        with pytest.raises(Boom) as raised:
            how()
        frames = traceback.extract_tb(raised.value.__traceback__)
        lengths.add(len(frames))
        texts.add(frames[-1].line)
        assert [frame.name for frame in frames][-4:] == ["raise_deep"] * 4
        assert "one" in [frame.name for frame in frames]

    for _ in range(50):
        ask(lambda: handler.result(DEADLINE))
    assert len(lengths) == 1
    for _ in range(20):
        ask(lambda: asyncio.run(awaited(handler)))
    assert max(lengths) < 25
    assert texts == {"raise Boom(depth, second=0)  # the line that the traceback names"}


def test_the_traceback_does_not_grow_when_many_threads_ask() -> None:
    """Threads that ask at once each get the same exception; none sees the frames of all the others pile up."""
    handler = Deep().run()
    handler.exception(DEADLINE)
    lengths: list[int] = []

    def ask() -> None:
        for _ in range(50):
            try:
                handler.result(DEADLINE)
            except Boom as error:
                lengths.append(len(traceback.extract_tb(error.__traceback__)))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lengths) == 200
    assert max(lengths) < 25


def test_an_exception_that_is_stored_does_not_keep_the_steps_values_alive(flow: Flavour) -> None:
    """What was in a failed step's variables is freed, although the exception is kept."""
    import gc
    import weakref

    class Big:
        pass

    seen: list[weakref.ref[Big]] = []

    class Fails(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            big = Big()
            seen.append(weakref.ref(big))
            raise ValueError("no")

    handler = Fails().run()
    assert isinstance(handler.exception(DEADLINE), ValueError)
    assert wait_until(lambda: gc.collect() is not None and seen[0]() is None)


def test_the_cause_of_an_exception_is_kept(flow: Flavour) -> None:
    """raise ... from ... comes through with its cause."""

    class Fails(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            try:
                {}["missing"]
            except KeyError as missing:
                raise ValueError("no") from missing
            return StopEvent()

    error = Fails().run().exception(DEADLINE)
    assert isinstance(error, ValueError)
    assert isinstance(error.__cause__, KeyError)


class Signal(BaseException):
    """A signal of a user's own."""


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), Signal("stop")])
def test_a_base_exception_in_a_step_fails_its_run_alone(flow: Flavour, error: BaseException) -> None:
    """Whatever a step raises fails the run with that very object; the engine goes on."""

    class Fails(Workflow):
        @flow.step
        async def zero(self, ev: StartEvent) -> Part:
            return Part()

        @flow.step
        async def one(self, ev: Part) -> StopEvent:
            raise error

    handler = Fails().run()
    assert handler.exception(DEADLINE) is error
    with pytest.raises(type(error)):
        handler.result(DEADLINE)
    assert handler.status == "failed"
    assert isinstance(list(handler.stream_events())[-1], WorkflowFailedEvent)

    class Works(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result="still here")

    assert Works().run().result(DEADLINE) == "still here"


def test_an_exception_group_comes_through(flow: Flavour) -> None:
    """An ExceptionGroup is an exception like any other."""

    class Fails(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            raise ExceptionGroup("several", [ValueError("a"), TypeError("b")])

    with pytest.raises(ExceptionGroup) as raised:
        Fails().run().result(DEADLINE)
    assert raised.group_contains(ValueError)


def test_a_step_that_raises_cancelled_error_itself_fails_the_run(flow: Flavour) -> None:
    """asyncio.CancelledError that nobody asked for is a failure of the step, never a hang (D12)."""

    class Fails(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            raise asyncio.CancelledError("mine")

    _, error = outcome_of(Fails().run())
    assert isinstance(error, WorkflowRuntimeError)
    assert "step 'one' raised CancelledError, though nobody had cancelled it" in str(error)
    assert isinstance(error.__cause__, asyncio.CancelledError)


def test_a_task_of_the_users_that_was_cancelled_fails_the_run() -> None:
    """A step that awaits a task which somebody cancelled fails, as it would anywhere; it does not hang (D12)."""

    class Fails(Workflow):
        @step
        async def one(self, ev: StartEvent) -> StopEvent:
            task = asyncio.create_task(asyncio.sleep(3600))
            await asyncio.sleep(0)
            task.cancel()
            await task
            return StopEvent()

    with pytest.raises(WorkflowRuntimeError, match="step 'one' raised CancelledError"):
        Fails().run().result(DEADLINE)


def test_a_step_that_raises_step_cancelled_itself_fails_the_run(flow: Flavour) -> None:
    """StepCancelled that nobody asked for is a failure of the step."""

    class Fails(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            raise StepCancelled("mine")

    with pytest.raises(WorkflowRuntimeError, match="step 'one' raised StepCancelled, though nobody had cancelled it"):
        Fails().run().result(DEADLINE)


# -- what cancelled steps see ------------------------------------------------------------------------------------------


def test_a_def_step_sees_that_it_is_cancelled() -> None:
    """ctx.cancelled turns true, check_cancelled() unwinds the step, and its context does nothing any more."""
    at_work, seen = threading.Event(), []
    done = threading.Event()

    class Polite(Workflow):
        @step
        def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.check_cancelled()
            assert not ctx.cancelled
            at_work.set()
            assert wait_until(lambda: ctx.cancelled, DEADLINE)
            for call in (
                ctx.check_cancelled,
                lambda: ctx.send_event(Part()),
                lambda: ctx.write_event_to_stream(Part()),
                lambda: ctx.store.set("a", 1),
                lambda: ctx.store.get("a", None),
                lambda: ctx.collect_events(ev, [StartEvent]),
            ):
                try:
                    call()
                    seen.append("went through")
                except StepCancelled:
                    seen.append("cancelled")
            done.set()
            try:
                ctx.check_cancelled()
            except Exception:
                seen.append("swallowed")
            return StopEvent(result="too late")

    handler = Polite().run()
    assert at_work.wait(DEADLINE)
    handler.cancel_run()
    assert done.wait(DEADLINE)
    assert seen == ["cancelled"] * 6
    assert handler.status == "cancelled"
    assert handler.ctx.store.get("a", None) is None


def test_an_async_step_is_cancelled_where_it_awaits() -> None:
    """The task of an async step is cancelled, so that its cleanup runs."""
    at_work, cleaned = threading.Event(), threading.Event()

    class Polite(Workflow):
        @step
        async def one(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
            at_work.set()
            try:
                await asyncio.sleep(3600)
            finally:
                assert ctx.cancelled
                cleaned.set()
            return StopEvent()

    handler = Polite().run()
    assert at_work.wait(DEADLINE)
    handler.cancel_run()
    assert cleaned.wait(DEADLINE)
    assert handler.status == "cancelled"


def test_the_first_stop_event_wins(flow: Flavour) -> None:
    """When a step ends the run the others are cancelled, and nothing that they still do is seen."""
    release, at_work = threading.Event(), threading.Barrier(2)
    wrote: list[str] = []

    class Race(Workflow):
        @flow.step
        async def split(self, ctx: Context, ev: StartEvent) -> Part | Other:
            ctx.send_event(Other())
            return Part()

        @flow.step
        async def quick(self, ev: Part) -> StopEvent:
            await flow.meet(at_work)
            return StopEvent(result="quick")

        @flow.step
        async def slow(self, ctx: Context, ev: Other) -> StopEvent:
            await flow.meet(at_work)
            await flow.until(release)
            try:
                ctx.write_event_to_stream(Part(n=99))
                wrote.append("written")
            except StepCancelled:
                wrote.append("cancelled")
            return StopEvent(result="slow")

    handler = Race().run()
    assert handler.result(DEADLINE) == "quick"
    release.set()
    assert [type(event) for event in handler.stream_events()] == [StopEvent]
    assert handler.result() == "quick"


def test_what_the_end_leaves_behind_is_a_dead_letter(flow: Flavour) -> None:
    """Events that were queued, collected or delayed when the run ended are listed, each with the reason."""
    both, release = threading.Barrier(2), threading.Event()

    class Leaves(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent | Part | Other:
            ctx.send_event(Part(n=1))
            ctx.send_event(Part(n=2))
            ctx.send_event(Other(), delay=3600)
            await flow.meet(both)
            return StopEvent()

        @flow.step(num_workers=1)
        async def two(self, ctx: Context, ev: Part) -> StopEvent | None:
            await flow(ctx.collect_events(ev, [Part, Part, Part]))
            await flow.meet(both)
            await flow.until(release)
            return None

        @flow.step
        async def three(self, ev: Other) -> StopEvent:
            return StopEvent()

    handler = Leaves().run()
    handler.result(DEADLINE)
    letters = {(type(letter.event).__name__, letter.event.get("n"), letter.reason) for letter in handler.dead_letters()}
    assert letters == {
        ("Part", 1, "the run ended before its collection was complete"),
        ("Part", 2, "the run ended before the step took it"),
        ("Other", None, "the run ended before its delay was over"),
    }
    release.set()


def test_an_open_question_does_not_make_a_run_fail(flow: Flavour) -> None:
    """A run that has asked a person is at rest, not stuck."""

    class Asks(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> InputRequiredEvent | StopEvent:
            return InputRequiredEvent(prefix="?")

    handler = Asks().run()
    stream = handler.stream_events(expose_internal=True)
    while type(next(stream)).__name__ != "WorkflowIdleEvent":
        pass
    assert handler.status == "running"
    handler.cancel_run()


def test_the_status_says_how_the_run_is_doing(flow: Flavour) -> None:
    """status and get_stop_event() while the run goes on, and the repr that shows them."""
    proceed = threading.Event()

    class Wait(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            await flow.until(proceed)
            return StopEvent()

    handler = Wait().run(run_id="r1")
    assert handler.status == "running"
    assert handler.get_stop_event() is None
    assert handler.ctx.is_running
    assert wait_until(lambda: handler.ctx.running_steps() == ["one"])
    assert repr(handler) == "<Handler of run 'r1' of Wait: running>"
    proceed.set()
    handler.result(DEADLINE)
    assert repr(handler) == "<Handler of run 'r1' of Wait: completed>"

"""The handler: a future in every way, streams for any number of readers, from any thread and any event loop."""

import asyncio
import concurrent.futures
import contextlib
import gc
import threading
from typing import Any

import pytest

from greenroom import (
    Context,
    Event,
    Handler,
    HumanResponseEvent,
    InputRequiredEvent,
    Runtime,
    StartEvent,
    StepStateChanged,
    StopEvent,
    UnhandledEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowIdleEvent,
    aio,
    step,
)
from tests.support.flavours import DEADLINE, Flavour
from tests.support.waiting import wait_until


class Tick(Event):
    n: int


class Next(Event):
    n: int


class Square(Workflow):
    @step
    def one(self, ev: StartEvent) -> Next:
        return Next(n=ev.n)

    @step
    async def two(self, ev: Next) -> StopEvent:
        if ev.n < 0:
            raise ValueError(ev.n)
        return StopEvent(result=ev.n**2)


class Gate:
    """A workflow whose run waits until it is opened."""

    def __init__(self, flow: Flavour) -> None:
        opened = self.opened = threading.Event()

        class Gated(Workflow):
            @flow.step
            async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
                await flow.until(opened)
                if ev.get("fail"):
                    raise ValueError("no")
                return StopEvent(result=ev.get("n"))

        self.workflow = Gated()


def ticker(flow: Flavour, count: int) -> type[Workflow]:
    """Return a workflow that writes ticks to its stream from two steps in turn."""

    class Ticker(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent | Next) -> Next | StopEvent:
            n = ev.get("n", 0)
            ctx.write_event_to_stream(Tick(n=n))
            return StopEvent(result="end") if n == count - 1 else Next(n=n + 1)

    return Ticker


def numbers(events: list[Event]) -> list[int]:
    """The ticks' numbers; the last event must be the stop event, and the only one."""
    assert isinstance(events[-1], StopEvent)
    assert all(isinstance(event, Tick) for event in events[:-1])
    return [event.n for event in events[:-1]]


# -- a concurrent.futures.Future ---------------------------------------------------------------------------------------


def test_wait_and_as_completed_take_handlers() -> None:
    """concurrent.futures.wait and as_completed work on handlers, mixed with other futures."""
    handlers = [Square().run(n=n) for n in range(10)]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        other = pool.submit(lambda: "other")
        done, not_done = concurrent.futures.wait([*handlers, other], timeout=DEADLINE)
    assert not not_done
    assert done == {*handlers, other}
    assert sorted(h.result() for h in concurrent.futures.as_completed(handlers)) == [n**2 for n in range(10)]


def test_wait_for_the_first(flow: Flavour) -> None:
    """wait(return_when=FIRST_COMPLETED) and FIRST_EXCEPTION return when one run has ended, or failed."""
    slow, quick = Gate(flow), Square().run(n=-1)
    waiting = slow.workflow.run(n=1)
    for when in (concurrent.futures.FIRST_COMPLETED, concurrent.futures.FIRST_EXCEPTION):
        done, not_done = concurrent.futures.wait([waiting, quick], DEADLINE, when)
        assert (done, not_done) == ({quick}, {waiting})
    slow.opened.set()
    assert waiting.result(DEADLINE) == 1


def test_wrap_future_gives_an_asyncio_future(flow: Flavour) -> None:
    """asyncio.wrap_future(handler) resolves with the result, and to cancel it does not touch the run."""
    gate = Gate(flow)

    async def main() -> object:
        first, second = gate.workflow.run(n=1), gate.workflow.run(n=2)
        given_up = asyncio.wrap_future(first)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        gate.opened.set()
        return await asyncio.gather(asyncio.wrap_future(second), first)

    assert asyncio.run(main()) == [2, 1]


def test_cancel_does_nothing(flow: Flavour) -> None:
    """cancel() returns False, as on any future that runs: cancel_run() is the way."""
    gate = Gate(flow)
    handler = gate.workflow.run(n=1)
    assert handler.cancel() is False
    assert not handler.cancelled()
    assert handler.running()
    gate.opened.set()
    assert handler.result(DEADLINE) == 1
    assert handler.cancel() is False


def test_a_timeout_of_result_leaves_the_run_alone(flow: Flavour) -> None:
    """result(timeout) and exception(timeout) raise TimeoutError, which says that the run goes on, and it does."""
    gate = Gate(flow)
    handler = gate.workflow.run(run_id="r", n=1)
    for ask in (handler.result, handler.exception, handler.stop_event_result):
        for seconds in (0, 0.01, -1):
            with pytest.raises(TimeoutError, match=f"run 'r' has not ended within {seconds} seconds; it goes on"):
                ask(seconds)
            with pytest.raises(TimeoutError):
                ask(timeout=seconds)
    gate.opened.set()
    assert handler.result(timeout=DEADLINE) == 1
    assert handler.exception(timeout=DEADLINE) is None


def test_done_callbacks_are_called_once_each(flow: Flavour) -> None:
    """Callbacks added before and after the end, from several threads, are each called once with the handler."""
    gate = Gate(flow)
    handler, called, lock = gate.workflow.run(n=1), [], threading.Lock()

    def note(given: Handler) -> None:
        with lock:
            called.append((given, given.result(0)))

    threads = [threading.Thread(target=handler.add_done_callback, args=(note,)) for _ in range(8)]
    for thread in threads[:4]:
        thread.start()
        thread.join()
    gate.opened.set()
    for thread in threads[4:]:
        thread.start()
    for thread in threads[4:]:
        thread.join()
    handler.result(DEADLINE)
    handler.add_done_callback(note)
    assert wait_until(lambda: len(called) == 9)
    assert called == [(handler, 1)] * 9


def test_a_callback_that_blocks_holds_up_nobody(flow: Flavour) -> None:
    """However many callbacks block, runs go on and end, even with one thread for bodies."""
    release = threading.Event()
    with Runtime(max_threads=1):
        gate = Gate(flow)
        blocked = [gate.workflow.run(n=n) for n in range(10)]
        for handler in blocked:
            handler.add_done_callback(lambda _: release.wait(DEADLINE))
        gate.opened.set()
        assert [handler.result(DEADLINE) for handler in blocked] == list(range(10))
        assert Square().run(n=3).result(DEADLINE) == 9
        release.set()


def test_a_callback_that_raises_is_logged_and_harms_nobody(flow: Flavour, caplog: pytest.LogCaptureFixture) -> None:
    """What a callback raises is logged; the other callbacks are called and the result stays."""
    gate, called = Gate(flow), threading.Event()
    handler = gate.workflow.run(n=1)

    def fail(_: Handler) -> None:
        raise ZeroDivisionError("in a callback")

    handler.add_done_callback(fail)
    handler.add_done_callback(lambda _: called.set())
    gate.opened.set()
    assert handler.result(DEADLINE) == 1
    assert called.wait(DEADLINE)
    handler.add_done_callback(fail)
    assert wait_until(lambda: sum("in a callback" in str(r.exc_info) for r in caplog.records) == 2)


def test_a_callback_may_use_its_handler_and_start_runs(flow: Flavour) -> None:
    """A callback may block on other runs, and read result, stream and store of its own."""
    gate, seen = Gate(flow), concurrent.futures.Future()

    def use(handler: Handler) -> None:
        values = (handler.result(), Square().run(n=4).result(DEADLINE), len(list(handler.stream_events())))
        seen.set_result((*values, handler.ctx.store.get("x", "none")))

    gate.workflow.run(n=1).add_done_callback(use)
    gate.opened.set()
    assert seen.result(DEADLINE) == (1, 16, 1, "none")


def test_many_threads_may_wait_for_one_run(flow: Flavour) -> None:
    """Any number of threads may block on one handler, and all get the result."""
    gate, results = Gate(flow), []
    handler = gate.workflow.run(n=7)
    threads = [threading.Thread(target=lambda: results.append(handler.result(DEADLINE))) for _ in range(20)]
    for thread in threads:
        thread.start()
    gate.opened.set()
    for thread in threads:
        thread.join()
    assert results == [7] * 20


def test_a_dropped_handler_does_not_end_its_run(flow: Flavour) -> None:
    """The run goes on when nobody holds the handler or the workflow, and its callbacks are called."""
    gate, ended = Gate(flow), threading.Event()
    gate.workflow.run().add_done_callback(lambda _: ended.set())
    gate.workflow = None  # type: ignore[assignment]
    gc.collect()
    gate.opened.set()
    assert ended.wait(DEADLINE)


def test_an_ended_run_is_freed() -> None:
    """When the handler of an ended run is dropped, nothing of the run stays in memory."""
    import weakref

    handler = Square().run(n=2)
    handler.result(DEADLINE)
    list(handler.stream_events())
    seen = weakref.ref(handler), weakref.ref(handler.get_stop_event())
    del handler
    assert wait_until(lambda: gc.collect() is not None and all(ref() is None for ref in seen))


# -- await -------------------------------------------------------------------------------------------------------------


def test_a_cancelled_await_never_cancels_the_run(flow: Flavour) -> None:
    """Cancelling a task that awaits a handler, or a timeout around it, leaves the run alone."""
    gate = Gate(flow)

    async def main() -> object:
        handler = gate.workflow.run(n=5)

        async def wait() -> object:
            return await handler

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(handler, 0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await handler
        assert handler.status == "running"
        gate.opened.set()
        return await handler, await handler

    assert asyncio.run(main()) == (5, 5)


def test_a_run_may_be_awaited_on_several_loops_at_once(flow: Flavour) -> None:
    """Loops in several threads may await one handler; one that is closed meanwhile disturbs nobody."""
    gate = Gate(flow)
    handler, results = gate.workflow.run(n=6), []

    async def wait() -> None:
        results.append(await handler)

    async def give_up() -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(handler, 0.01)

    asyncio.run(give_up())
    abandoned = asyncio.new_event_loop()
    task = abandoned.create_task(wait())
    abandoned.run_until_complete(asyncio.sleep(0))
    task.cancel()
    abandoned.run_until_complete(asyncio.gather(task, return_exceptions=True))
    abandoned.close()
    threads = [threading.Thread(target=asyncio.run, args=(wait(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    gate.opened.set()
    for thread in threads:
        thread.join()
    assert results == [6] * 4
    asyncio.run(wait())


def test_awaits_do_not_block_the_loop() -> None:
    """While a def step blocks for a run that is awaited, other tasks of the loop go on."""
    release = threading.Event()

    class Blocks(aio.Workflow):
        @step
        def one(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=release.wait(DEADLINE))

    async def main() -> object:
        handler = Blocks().run()
        for _ in range(10):
            await asyncio.sleep(0)
        release.set()
        return await handler

    assert asyncio.run(main()) is True


def test_the_async_handlers_methods_are_awaited(flow: Flavour) -> None:
    """greenroom.aio: cancel_run, send_event, stop_event_result and the store of handler.ctx are awaited."""

    class Ask(aio.Workflow):
        @flow.step
        async def ask(self, ctx: Context, ev: StartEvent) -> InputRequiredEvent:
            await flow(ctx.store.set("asked", ev.n))
            return InputRequiredEvent()

        @flow.step
        async def answer(self, ev: HumanResponseEvent) -> StopEvent:
            return StopEvent(result=ev.response)

    async def main() -> None:
        first, second = Ask().run(n=1), Ask().run(n=2)
        async for event in first.stream_events():
            if isinstance(event, InputRequiredEvent):
                assert await first.ctx.store.get("asked") == 1
                await first.send_event(HumanResponseEvent(response="yes"))
        assert (await first.stop_event_result()).result == "yes"
        await second.cancel_run()
        assert second.status == "cancelled"
        with pytest.raises(WorkflowCancelledByUser):
            await second
        with pytest.raises(WorkflowCancelledByUser):
            await second.stop_event_result()

    asyncio.run(main())


def test_the_programs_own_loop_runs_async_steps() -> None:
    """Runtime(loop=...) runs async steps as tasks of that loop, so that they may share its objects."""

    class Where(aio.Workflow):
        @step
        async def one(self, ctx: aio.Context, ev: StartEvent) -> Next:
            await ctx.store.set("loop", asyncio.get_running_loop())
            return Next(n=1)

        @step
        def two(self, ctx: Context, ev: Next) -> StopEvent:
            return StopEvent(result=(ctx.store.get("loop"), threading.current_thread()))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with Runtime(loop=loop):
            for _ in range(20):
                seen, thread = await Where().run()
                assert seen is loop
                assert thread is not threading.main_thread()

    asyncio.run(main())


# -- streams -----------------------------------------------------------------------------------------------------------


def test_a_stream_gives_everything_in_order(flow: Flavour) -> None:
    """Everything written is read in order, live or after the end, and the stop event is the last."""
    handler = ticker(flow, 200)().run()
    assert numbers(list(handler.stream_events())) == list(range(200))
    assert numbers(list(handler.stream_events(after=-1))) == list(range(200))
    assert handler.result(DEADLINE) == "end"


def test_a_stream_is_read_with_async_for(flow: Flavour) -> None:
    """The same object works in `async for`, on any loop."""

    async def read(handler: Handler) -> list[Event]:
        return [event async for event in handler.stream_events(after=-1)]

    handler = ticker(flow, 100)().run()
    assert numbers(asyncio.run(read(handler))) == list(range(100))
    assert numbers(asyncio.run(read(handler))) == list(range(100))


def test_a_stream_continues_after_a_break(flow: Flavour) -> None:
    """stream_events() without an offset goes on where the handler's last reading stopped, `for` or `async for`."""
    handler, seen = ticker(flow, 30)().run(), []

    async def some(count: int) -> None:
        async for event in handler.stream_events():
            seen.append(event)
            if len(seen) % count == 0:
                break

    for event in handler.stream_events():
        seen.append(event)
        if len(seen) == 5:
            break
    asyncio.run(some(10))
    assert len(seen) == 10
    seen += handler.stream_events()
    assert numbers(seen) == list(range(30))
    assert list(handler.stream_events()) == []


def test_a_break_between_internal_events_loses_and_repeats_none() -> None:
    """With expose_internal a reading that was broken off goes on where it stopped, too."""

    class Ticks(Workflow):
        @step
        def one(self, ctx: Context, ev: StartEvent | Next) -> Next | StopEvent:
            n = ev.get("n", 0)
            ctx.write_event_to_stream(Tick(n=n))
            return StopEvent() if n == 4 else Next(n=n + 1)

    handler = Ticks().run()
    handler.result(DEADLINE)
    whole = [repr(event) for event in handler.stream_events(after=-1, expose_internal=True)]
    pieces = []
    while len(pieces) < len(whole):
        for event in handler.stream_events(expose_internal=True):
            pieces.append(repr(event))
            break
    assert pieces == whole
    assert list(handler.stream_events(expose_internal=True)) == []


def test_any_number_of_readers_see_the_same(flow: Flavour) -> None:
    """Subscriptions with after= are independent: threads and loops that read at once all see everything once."""
    handler, results = ticker(flow, 300)().run(), []

    async def read_async() -> None:
        results.append(numbers([event async for event in handler.stream_events(after=-1)]))

    def read() -> None:
        results.append(numbers(list(handler.stream_events(after=-1))))

    threads = [threading.Thread(target=read) for _ in range(6)]
    threads += [threading.Thread(target=lambda: asyncio.run(read_async())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [list(range(300))] * 10


def test_after_says_where_to_begin(flow: Flavour) -> None:
    """after=n begins behind offset n; past the end there is nothing, and it does not wait once the run has ended."""
    handler = ticker(flow, 10)().run()
    handler.result(DEADLINE)
    for after in range(-1, 11):
        events = list(handler.stream_events(after=after))
        assert [event.n for event in events if isinstance(event, Tick)] == list(range(after + 1, 10))
        assert len(events) == 10 - after
    assert list(handler.stream_events(after=11)) == []
    # None of these moved the handler's own place.
    assert numbers(list(handler.stream_events())) == list(range(10))


def test_readers_that_attach_at_any_moment_miss_nothing(flow: Flavour) -> None:
    """A reader that comes while the run is under way sees it from the start, without gaps."""
    handler, results, stop = ticker(flow, 400)().run(), [], threading.Event()

    def attach() -> None:
        while not stop.is_set():
            results.append(numbers(list(handler.stream_events(after=-1))))

    threads = [threading.Thread(target=attach) for _ in range(4)]
    for thread in threads:
        thread.start()
    handler.result(DEADLINE)
    assert wait_until(lambda: len(results) >= 4)
    stop.set()
    for thread in threads:
        thread.join()
    assert all(result == list(range(400)) for result in results)


def test_an_abandoned_reader_disturbs_nobody(flow: Flavour) -> None:
    """An `async for` that is cancelled while it waits leaves the stream whole for the others."""
    gate = Gate(flow)

    async def main() -> list[Event]:
        handler = gate.workflow.run()

        async def read() -> list[Event]:
            return [event async for event in handler.stream_events(after=-1)]

        given_up = asyncio.create_task(read())
        for _ in range(5):
            await asyncio.sleep(0)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        gate.opened.set()
        return await read()

    assert [type(event) for event in asyncio.run(main())] == [StopEvent]


# -- internal events ---------------------------------------------------------------------------------------------------


def test_internal_events_say_what_the_workers_do(flow: Flavour) -> None:
    """expose_internal: StepStateChanged gives the worker's number, or `<enqueued>` while none is free."""
    both, opened = threading.Barrier(3), threading.Event()

    class Fan(Workflow):
        @flow.step
        async def split(self, ctx: Context, ev: StartEvent) -> Next | None:
            for n in range(3):
                ctx.send_event(Next(n=n))
            return None

        @flow.step(num_workers=2)
        async def work(self, ctx: Context, ev: Next) -> Tick | None:
            if ev.n < 2:
                await flow.meet(both)
            return Tick(n=ev.n)

        @flow.step
        async def join(self, ctx: Context, ev: Tick) -> StopEvent | None:
            return (await flow(ctx.collect_events(ev, [Tick] * 3))) and StopEvent()

    handler = Fan().run()
    reader = handler.stream_events(expose_internal=True)
    seen: list[Any] = []
    while not any(getattr(event, "worker_id", "") == "<enqueued>" for event in seen):
        seen.append(next(reader))
    threading.Thread(target=both.wait, args=(DEADLINE,)).start()
    seen += reader
    work = [event for event in seen if isinstance(event, StepStateChanged) and event.name == "work"]
    assert [(e.step_state.value, e.worker_id, e.input_event_name) for e in work[:2]] == [
        ("running", "0", "Next"),
        ("running", "1", "Next"),
    ]
    assert [(e.step_state.value, e.worker_id) for e in work[2:3]] == [("preparing", "<enqueued>")]
    assert {e.worker_id for e in work[3:]} <= {"0", "1"}
    assert sorted(e.step_state.value for e in work) == ["not_running"] * 3 + ["preparing"] + ["running"] * 3
    assert {e.output_event_name for e in work if e.step_state.value == "not_running"} == {"Tick"}
    assert [e.output_event_name for e in seen if getattr(e, "name", "") == "split"] == [None, None]
    assert isinstance(seen[-1], StopEvent)
    opened.set()


def test_internal_events_stand_where_they_happened() -> None:
    """Each internal event comes between the events that were published before and after it."""

    class Ticks(Workflow):
        @step(num_workers=1)
        def one(self, ctx: Context, ev: StartEvent | Next) -> Next | StopEvent:
            n = ev.get("n", 0)
            ctx.write_event_to_stream(Tick(n=n))
            return StopEvent() if n == 50 else Next(n=n + 1)

    def line(event: Event) -> str:
        return event.step_state.value if isinstance(event, StepStateChanged) else type(event).__name__

    expected = ["running", "Tick", "not_running"] * 51 + ["StopEvent"]
    for _ in range(20):
        assert [line(event) for event in Ticks().run().stream_events(expose_internal=True)] == expected


def test_internal_events_can_be_read_after_the_end() -> None:
    """A reader that asks for internal events when the run has ended finds them in their places."""
    for _ in range(100):
        handler = Square().run(n=2)
        handler.result(DEADLINE)
        kinds = [type(event).__name__ for event in handler.stream_events(after=-1, expose_internal=True)]
        assert kinds == ["StepStateChanged"] * 4 + ["StopEvent"]


def test_internal_events_are_hidden_unless_asked_for(flow: Flavour) -> None:
    """A plain reader sees no internal event, also while another reader does."""
    handler = ticker(flow, 20)().run()
    exposed = list(handler.stream_events(after=-1, expose_internal=True))
    assert numbers(list(handler.stream_events(after=-1))) == list(range(20))
    assert any(isinstance(event, StepStateChanged) for event in exposed)
    assert numbers([event for event in exposed if not isinstance(event, StepStateChanged)]) == list(range(20))


def test_an_event_that_nobody_takes_is_told_and_kept(flow: Flavour) -> None:
    """UnhandledEvent names the event's class; the event itself is in dead_letters()."""

    class Lost(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent | Next:
            ctx.send_event(Tick(n=1))
            return Next(n=1)

        @flow.step
        async def two(self, ev: Next) -> StopEvent:
            return StopEvent()

    handler = Lost().run()
    told = [e for e in handler.stream_events(expose_internal=True) if isinstance(e, UnhandledEvent)]
    assert [(e.event_type, e.qualified_name, e.step_name, e.idle) for e in told] == [
        ("Tick", f"{Tick.__module__}.Tick", None, False)
    ]
    assert [(letter.event, letter.reason) for letter in handler.dead_letters()] == [(Tick(n=1), "no step takes it")]


def test_an_event_from_outside_that_nobody_takes_is_told_and_held(flow: Flavour) -> None:
    """One sent from outside while the run rests says that the run was idle, and is a dead letter only at the end."""

    class Ask(Workflow):
        @flow.step
        async def ask(self, ev: StartEvent) -> InputRequiredEvent:
            return InputRequiredEvent()

        @flow.step
        async def answer(self, ev: HumanResponseEvent) -> StopEvent:
            return StopEvent()

    handler = Ask().run()
    stream = handler.stream_events(expose_internal=True)
    while not isinstance(next(stream), WorkflowIdleEvent):
        pass
    handler.send_event(Tick(n=3))
    told = next(stream)
    assert isinstance(told, UnhandledEvent)
    assert told.idle
    assert handler.dead_letters() == []
    handler.send_event(HumanResponseEvent())
    handler.result(DEADLINE)
    (letter,) = handler.dead_letters()
    assert (letter.event, letter.reason) == (Tick(n=3), "the run ended and nothing had waited for it")
    assert not any(isinstance(event, WorkflowIdleEvent) for event in stream)


def test_a_run_says_each_time_that_it_comes_to_rest(flow: Flavour) -> None:
    """WorkflowIdleEvent comes once each time a run has nothing more to do, and not at its end."""

    class Ask(Workflow):
        @flow.step
        async def ask(self, ev: StartEvent) -> InputRequiredEvent:
            return InputRequiredEvent()

        @flow.step
        async def answer(self, ev: HumanResponseEvent) -> StopEvent | None:
            return StopEvent() if ev.n == 2 else None

    handler, kinds = Ask().run(), []
    stream = handler.stream_events(expose_internal=True)
    for n in range(3):
        for event in stream:
            kinds.append(type(event))
            if isinstance(event, WorkflowIdleEvent):
                break
        handler.send_event(HumanResponseEvent(n=n))
    kinds += map(type, stream)
    assert kinds.count(WorkflowIdleEvent) == 3
    assert kinds[-1] is StopEvent


def test_a_stream_event_reaches_its_reader_while_the_step_goes_on(flow: Flavour) -> None:
    """What a step writes can be read before the step ends."""
    proceed = threading.Event()

    class Writes(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.write_event_to_stream(Tick(n=1))
            await flow.until(proceed)
            return StopEvent()

    handler = Writes().run()
    assert next(iter(handler.stream_events())) == Tick(n=1)
    assert not handler.done()
    proceed.set()
    handler.result(DEADLINE)


def test_an_error_that_nobody_has_asked_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A failed run whose handler is dropped unasked is not silent; one whose error was seen is."""

    class Fails(Workflow):
        @step
        def fail(self, ev: StartEvent) -> StopEvent:
            raise ValueError(f"lost {ev.n}")

    with Runtime() as runtime:
        Fails().run(n=1)
        seen = Fails().run(n=2)
        assert isinstance(seen.exception(timeout=20), ValueError)
        assert wait_until(lambda: not runtime.runs)
    del seen
    gc.collect()
    (record,) = [record for record in caplog.records if "nobody has asked" in record.message]
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "lost 1"

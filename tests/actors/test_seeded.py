"""The seeded dispatcher: repeatable schedules, all interleavings, virtual time, and an end that leaves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
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
    StopEvent,
    Workflow,
    aio,
    step,
)
from greenroom.actors.seeded import SeededDispatcher
from greenroom.errors import (
    DeadlockError,
    RuntimeShutdownError,
    StepCancelled,
    WorkflowCancelledByUser,
    WorkflowRuntimeError,
    WorkflowTimeoutError,
)
from greenroom.retry import retry_policy, stop_after_attempt, wait_fixed
from greenroom.testing import SeededRuntime, explore
from tests.support.waiting import wait_until

DAY = 86_400.0
# Real seconds within which days of virtual time have passed; a wait that was real would take thousands of times longer.
AT_ONCE = 20.0


class Item(Event):
    n: int


class Ask(InputRequiredEvent):
    pass


class Answer(HumanResponseEvent):
    n: int = 0


class FanOut(Workflow):
    """Three items go through three workers, `def` bodies and the store."""

    @step
    def split(self, ctx: Context, ev: StartEvent) -> Item | None:
        for n in range(3):
            ctx.send_event(Item(n=n))
        return None

    @step(num_workers=3)
    def work(self, ctx: Context, ev: Item) -> StopEvent | None:
        order = ctx.store.get("order", "")
        ctx.store.set("order", order + str(ev.n))
        done = ctx.collect_events(ev, {Item: 3})
        return StopEvent(result=(ctx.store.get("order"), [item.n for item in done])) if done else None


class AsyncFanOut(aio.Workflow):
    """The same with `async def` bodies."""

    @step
    async def split(self, ctx: aio.Context, ev: StartEvent) -> Item | None:
        for n in range(3):
            ctx.send_event(Item(n=n))
        return None

    @step(num_workers=3)
    async def work(self, ctx: aio.Context, ev: Item) -> StopEvent | None:
        order = await ctx.store.get("order", "")
        await ctx.store.set("order", order + str(ev.n))
        done = await asyncio.sleep(0, ctx.collect_events(ev, {Item: 3}))
        return StopEvent(result=(await ctx.store.get("order"), [item.n for item in done])) if done else None


class Questioner(Workflow):
    """Asks, and ends with the answer."""

    @step
    def ask(self, ev: StartEvent) -> Ask:
        return Ask()

    @step
    def end(self, ev: Answer) -> StopEvent:
        return StopEvent(result=ev.n)


class Sleeper(aio.Workflow):
    """Sleeps for as long as the start event says."""

    @step
    async def sleep(self, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(ev.seconds)
        return StopEvent(result=ev.seconds)


def play(seed: int, workflow: type[Workflow]) -> tuple[Any, list[str], float, list[str]]:
    with SeededRuntime(seed) as runtime:
        handler = workflow().run()
        result = handler.result()
        stream = [repr(event) for event in handler.stream_events()]
        return result, runtime.trace, runtime.now(), stream


@contextlib.contextmanager
def failing_test(seed: int) -> Iterator[SeededRuntime]:
    """A test that fails with whatever its block has left in flight."""
    runtime = SeededRuntime(seed)
    try:
        with runtime:
            yield runtime
            raise ZeroDivisionError
    except ZeroDivisionError:
        return


# -- the schedule ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workflow", [FanOut, AsyncFanOut])
def test_the_same_seed_gives_the_same_run(workflow: type[Workflow]) -> None:
    """Result, trace, virtual time and stream are functions of the seed."""
    for seed in range(20):
        assert play(seed, workflow) == play(seed, workflow)


@pytest.mark.parametrize("workflow", [FanOut, AsyncFanOut])
def test_other_seeds_give_other_runs(workflow: type[Workflow]) -> None:
    """Hardly two seeds share a schedule."""
    traces = {tuple(play(seed, workflow)[1]) for seed in range(30)}
    assert len(traces) > 25


@pytest.mark.parametrize("workflow", [FanOut, AsyncFanOut])
def test_a_lost_update_is_found(workflow: type[Workflow]) -> None:
    """A step that reads and then sets is seen to lose updates: all interleavings of two calls into the engine occur."""
    orders = {play(seed, workflow)[0][0] for seed in range(200)}
    assert any(len(order) == 3 for order in orders)
    assert any(len(order) == 1 for order in orders)


def test_all_orders_of_a_small_case_are_found() -> None:
    """Two bodies that note three stretches each are seen in all 20 orders that keep each body's own."""

    class Two(Workflow):
        notes: list[str]

        @step
        def split(self, ctx: Context, ev: StartEvent) -> Item | None:
            ctx.send_event(Item(n=0))
            ctx.send_event(Item(n=1))
            return None

        @step(num_workers=2)
        def note(self, ctx: Context, ev: Item) -> StopEvent | None:
            name = "ab"[ev.n]
            self.notes.append(name)
            ctx.write_event_to_stream(Item(n=ev.n))
            self.notes.append(name)
            ctx.write_event_to_stream(Item(n=ev.n))
            self.notes.append(name)
            return StopEvent() if ctx.collect_events(ev, {Item: 2}) else None

    seen = set()
    for seed in range(1500):
        with SeededRuntime(seed):
            workflow = Two()
            workflow.notes = []
            workflow.run().result()
            seen.add("".join(workflow.notes))
    assert seen == {"".join(p) for p in itertools.permutations("aaabbb")}


def test_what_a_step_may_not_rely_on_is_seen_in_every_order() -> None:
    """The items of a fan-out over workers arrive in all six orders."""

    class Race(Workflow):
        @step
        def split(self, ctx: Context, ev: StartEvent) -> Item | None:
            for n in range(3):
                ctx.send_event(Item(n=n))
            return None

        @step(num_workers=3)
        def work(self, ctx: Context, ev: Item) -> StopEvent | None:
            done = ctx.collect_events(ev, {Item: 3})
            return StopEvent(result="".join(str(item.n) for item in done)) if done else None

    seen = {play(seed, Race)[0] for seed in range(600)}
    assert seen == {"".join(order) for order in itertools.permutations("012")}


def test_retry_info_bears_the_virtual_time_of_day() -> None:
    """When the last attempt failed is told by the virtual clock, and so is the same for the same seed."""

    class Fails(Workflow):
        @step(retry_policy=retry_policy(wait=wait_fixed(60), stop=stop_after_attempt(2)))
        def fail(self, ctx: Context, ev: StartEvent) -> StopEvent:
            info = ctx.retry_info()
            if info.retry_number == 0:
                raise ValueError("the first time")
            return StopEvent(result=info.last_failed_at)

    assert play(3, Fails)[0] == play(3, Fails)[0]
    assert play(3, Fails)[0].year == 2000


def test_a_polling_step_lets_the_others_go_on() -> None:
    """A loop that looks at `ctx.cancelled` sees the run's timeout, since to look is a call into the engine."""

    class Polls(Workflow):
        rounds = 0

        @step
        def poll(self, ctx: Context, ev: StartEvent) -> StopEvent:
            while not ctx.cancelled and self.rounds < 100_000:
                self.rounds += 1
            ctx.check_cancelled()
            return StopEvent(result="never cancelled")

    with SeededRuntime(1):
        workflow = Polls(timeout=1)
        with pytest.raises(WorkflowTimeoutError):
            workflow.run().result()
    assert workflow.rounds < 100_000


# -- virtual time ------------------------------------------------------------------------------------------------------


def test_time_is_virtual() -> None:
    """Sleeps, retry delays, delayed sends, and timeouts of runs, steps and waits last days and take no time."""

    class Slow(Workflow):
        @step
        def start(self, ctx: Context, ev: StartEvent) -> Item | None:
            ctx.send_event(Item(n=1), delay=DAY)
            return None

        @step(retry_policy=retry_policy(wait=wait_fixed(DAY), stop=stop_after_attempt(3)))
        async def fail(self, ctx: aio.Context, ev: Item) -> StopEvent:
            if ctx.retry_info().retry_number < 2:
                raise ValueError("again")
            await asyncio.sleep(DAY)
            return StopEvent(result="four days later")

    class TooSlow(aio.Workflow):
        @step(timeout=DAY)
        async def sleep(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(2 * DAY)
            return StopEvent()

    before = time.monotonic()
    with SeededRuntime(1) as runtime:
        assert Slow().run().result() == "four days later"
        assert 4 * DAY <= runtime.now() < 4 * DAY + 1
        with pytest.raises(TimeoutError, match="longer than its timeout"):
            TooSlow().run().result()
        with pytest.raises(WorkflowTimeoutError, match="timed out after"):
            Sleeper(timeout=DAY).run(seconds=2 * DAY).result()
        assert 6 * DAY <= runtime.now() < 6 * DAY + 1
        handler = Sleeper().run(seconds=2 * DAY)
        with pytest.raises(TimeoutError, match="it goes on"):
            handler.result(timeout=DAY)
        assert 7 * DAY <= runtime.now() < 7 * DAY + 1
        assert handler.result() == 2 * DAY
    assert time.monotonic() - before < AT_ONCE


def test_cancelling_takes_no_more_than_its_virtual_timeout() -> None:
    """`cancel_run(timeout)` returns when the run has ended, long before the timeout."""
    with SeededRuntime(1) as runtime:
        handler = Questioner().run()
        handler.cancel_run(timeout=DAY)
        assert runtime.now() < 1
        with pytest.raises(WorkflowCancelledByUser):
            handler.result()


def test_a_wait_that_was_answered_leaves_no_deadline() -> None:
    """The clock does not run to the deadlines of waits that are over."""

    class Outer(Workflow):
        @step
        def wait(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=Sleeper().run(seconds=1).result(timeout=DAY))

    with SeededRuntime(1) as runtime:
        Outer().run().result()
        asks = Questioner().run()
        with pytest.raises(DeadlockError):
            asks.result()
        assert runtime.now() < 2


def test_advance_runs_what_comes_due_and_what_follows_from_it() -> None:
    """What is due within the time has run to its end when `advance` returns, and nothing later has."""
    for seed in range(30):
        with SeededRuntime(seed) as runtime:
            short, long = Sleeper().run(seconds=10), Sleeper().run(seconds=11)
            runtime.run_until_idle()
            runtime.advance(10)
            assert (short.status, long.status) == ("completed", "running")
            assert 10 <= runtime.now() < 10.2
            runtime.advance(1)
            assert long.status == "completed"


def test_run_until_idle_does_not_pass_time() -> None:
    """It runs what can run, and leaves what waits for the clock."""
    with SeededRuntime(1) as runtime:
        handler = Sleeper().run(seconds=1)
        assert runtime.trace == []
        runtime.run_until_idle()
        assert handler.status == "running"
        assert 0 < runtime.now() < 1
        before = len(runtime.trace)
        runtime.run_until_idle()
        assert len(runtime.trace) == before
        assert handler.result() == 1


def test_a_wait_that_begins_while_another_ends_is_no_deadlock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's thread may be quicker than the one that let it go."""
    with SeededRuntime(1) as runtime:
        dispatcher = runtime._dispatcher
        let_go = dispatcher._let_go

        def let_go_slowly(visitor: object) -> None:
            let_go(visitor)  # type: ignore[arg-type]
            wait_until(lambda: dispatcher._visitors, timeout=0.2)

        monkeypatch.setattr(dispatcher, "_let_go", let_go_slowly)
        handler = Sleeper().run(seconds=1)
        runtime.run_until_idle()
        runtime.run_until_idle()
        assert handler.running_steps() == ["sleep"]
        runtime.advance(2)
        assert handler.status == "completed"


def test_an_unending_sleep_is_no_timer() -> None:
    """A coroutine that sleeps for ever does not make the clock run to infinity."""
    with SeededRuntime(1) as runtime:
        handler = Sleeper().run(seconds=float("inf"))
        with pytest.raises(DeadlockError):
            handler.result()
        assert runtime.now() < 1
        runtime.run(handler.cancel_run())


# -- nothing left to run -----------------------------------------------------------------------------------------------


def test_waiting_for_what_cannot_come_raises_with_the_last_steps() -> None:
    """DeadlockError names the last steps of the schedule; the run can still be helped on."""
    with SeededRuntime(1) as runtime:
        handler = Questioner().run()
        with pytest.raises(DeadlockError, match=r"nothing is left to run(?s:.*)run-1/ask"):
            handler.result()
        with pytest.raises(DeadlockError, match="nothing is left"):
            runtime.run(_wait_for_nothing())
        handler.send_event(Answer(n=3))
        assert handler.result() == 3


async def _wait_for_nothing() -> None:
    await asyncio.Event().wait()


def test_the_schedule_is_not_run_from_within() -> None:
    """A step that calls `advance`, `run` or `run_until_idle` is told so, instead of waiting for itself."""

    class Within(aio.Workflow):
        @step
        async def first(self, ev: StartEvent) -> Item:
            with pytest.raises(DeadlockError, match="only the test"):
                ev.runtime.advance(1)
            return Item(n=1, runtime=ev.runtime)

        @step
        def second(self, ev: Item) -> StopEvent:
            for act in (ev.runtime.run_until_idle, lambda: ev.runtime.run(_wait_for_nothing())):
                with pytest.raises(DeadlockError, match="only the test"):
                    act()
            return StopEvent(result="refused")

    with SeededRuntime(1) as runtime:
        assert Within().run(runtime=runtime).result() == "refused"


def test_a_thread_of_a_step_that_calls_into_the_engine_is_refused() -> None:
    """A step that blocks on a thread of its own, which waits for the engine, would hang: the thread is told."""

    class Threads(Workflow):
        @step
        def start(self, ctx: Context, ev: StartEvent) -> StopEvent:
            errors: list[BaseException] = []

            def ask() -> None:
                try:
                    ctx.store.get("x", 0)
                except DeadlockError as error:
                    errors.append(error)

            import contextvars

            thread = threading.Thread(target=contextvars.copy_context().run, args=(ask,))
            thread.start()
            thread.join()
            return StopEvent(result=errors)

    with SeededRuntime(1):
        [error] = Threads().run().result()
    assert "asyncio.to_thread" in str(error)


# -- the end -----------------------------------------------------------------------------------------------------------


class Unwinds(Workflow):
    """One step stops the run while the other's body is paused."""

    unwound: list[str]

    @step
    def split(self, ctx: Context, ev: StartEvent) -> Item | None:
        for n in range(3):
            ctx.send_event(Item(n=n))
        return None

    @step(num_workers=3)
    def work(self, ctx: Context, ev: Item) -> StopEvent:
        try:
            ctx.store.set("n", ev.n)
            ctx.store.set("n", ev.n)
        except StepCancelled:
            self.unwound.append("cancelled")
            raise
        finally:
            with contextlib.suppress(StepCancelled):
                ctx.store.set("n", 0)
        return StopEvent()


def test_shutdown_unwinds_bodies_that_are_paused() -> None:
    """Their `finally` blocks run, their threads end, and nothing waits for real."""
    before, threads = time.monotonic(), threading.active_count()
    unwound = 0
    for seed in range(100):
        with SeededRuntime(seed):
            workflow = Unwinds()
            workflow.unwound = []
            workflow.run().result()
        unwound += len(workflow.unwound)
        assert threading.active_count() == threads
    assert unwound > 0
    assert time.monotonic() - before < AT_ONCE


def test_shutdown_in_the_middle_of_a_run_ends_it() -> None:
    """A test that fails leaves runs in flight: they end with RuntimeShutdownError, and so do their threads."""
    threads = threading.active_count()
    for seed, workflow in itertools.product(range(40), (FanOut, AsyncFanOut, Unwinds, Sleeper)):
        with failing_test(seed) as runtime:
            made = workflow()
            made.unwound = []
            handler: Handler = made.run(seconds=1)
            for _ in range(seed % 7):
                runtime.spawn(runtime.now).result()
            if handler.done():
                handler = made.run(seconds=1)
        with pytest.raises(RuntimeShutdownError):
            handler.result()
        assert threading.active_count() == threads


def test_shutdown_awaits_the_clean_up_of_coroutines() -> None:
    """Cancelled coroutines may await the engine and the clock in their `finally` blocks."""
    cleaned: list[str] = []

    class Cleans(aio.Workflow):
        @step
        async def sleep(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
            try:
                await asyncio.sleep(DAY)
            finally:
                with contextlib.suppress(StepCancelled):
                    await ctx.store.set("x", 1)
                await asyncio.sleep(0.1)
                cleaned.append("clean")
            return StopEvent()

    with failing_test(1) as runtime:
        Cleans().run()
        runtime.run_until_idle()
    assert cleaned == ["clean"]


def test_a_body_that_swallows_its_unwinding_ends() -> None:
    """After the shutdown every further wait is refused at once; a stubborn body does not spin."""
    refused: list[str] = []

    class Stubborn(Workflow):
        @step
        def wait(self, ev: StartEvent) -> StopEvent:
            handler = Questioner().run()
            for _ in range(3):
                try:
                    handler.result()
                except (StepCancelled, RuntimeShutdownError) as error:
                    refused.append(type(error).__name__)
            return StopEvent()

    with failing_test(1) as runtime:
        Stubborn().run()
        runtime.run_until_idle()
    assert len(refused) == 3


def test_shutdown_empties_long_mailboxes() -> None:
    """Thousands of messages that wait at the shutdown are handled one after the other, not one within the other."""

    class Floods(Workflow):
        @step
        def flood(self, ctx: Context, ev: StartEvent) -> Item | None:
            for n in range(3000):
                ctx.send_event(Item(n=n))
            return None

        @step
        def take(self, ev: Item) -> StopEvent | None:
            return None

    with failing_test(1) as runtime:
        handler = Floods(on_stuck="wait").run()
        runtime.run_until_idle()
        for n in range(3000):
            handler.supervisor.tell(Answer(n=n))
    assert handler.status == "cancelled"


def test_done_callbacks_are_called() -> None:
    """Each is called once, also when the block ends right after the result, and one that raises harms no other."""
    for seed in range(50):
        called: list[Handler] = []
        with SeededRuntime(seed):
            handler = FanOut().run()
            handler.add_done_callback(_raise)
            handler.add_done_callback(called.append)
            handler.result()
        assert called == [handler]


def _raise(_: object) -> None:
    raise ValueError("a callback of the user's")


def test_a_callback_that_raised_leaves_its_thread_usable() -> None:
    """The body that comes next runs on the same thread."""
    with SeededRuntime(1) as runtime:
        handler = Questioner().run()
        handler.add_done_callback(_raise)
        handler.send_event(Answer(n=1))
        runtime.run_until_idle()
        assert FanOut().run().result()[1]


def test_threads_are_reused() -> None:
    """A chain of steps stands on one thread, whatever is drawn."""

    class Chain(Workflow):
        @step
        def begin(self, ev: StartEvent) -> Item:
            return Item(n=0, threads={threading.get_ident()})

        @step
        def go_on(self, ev: Item) -> Item | StopEvent:
            threads = ev.threads | {threading.get_ident()}
            return StopEvent(result=threads) if ev.n == 20 else Item(n=ev.n + 1, threads=threads)

    for seed in range(20):
        assert len(play(seed, Chain)[0]) == 1


def test_the_shutdown_timeout_is_virtual() -> None:
    """Runs at work have so many seconds of the virtual clock, over all that they begin."""

    class Begins(aio.Workflow):
        @step
        async def begin(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(6)
            ev.begun.append(Sleeper(runtime=runtime).run(seconds=6))
            return StopEvent()

    begun: list[Handler] = []
    runtime = SeededRuntime(1)
    outer = Begins(runtime=runtime).run(begun=begun)
    runtime.shutdown(timeout=10)
    assert outer.status == "completed"
    with pytest.raises(RuntimeShutdownError):
        begun[0].result()
    assert 10 <= runtime.now() < 10.1


# -- nested, beside, and between ---------------------------------------------------------------------------------------


def test_a_step_may_wait_for_another_run() -> None:
    """`def` and `async def` steps run workflows and wait for them, and so does an asyncio.run() inside a `def` step."""

    class Nests(aio.Workflow):
        @step
        def first(self, ev: StartEvent) -> Item:
            return Item(n=len(FanOut().run().result()[1]))

        @step
        async def second(self, ev: Item) -> StopEvent:
            inner = await AsyncFanOut().run()

            def blocking() -> int:
                async def within() -> Any:
                    return await Sleeper().run(seconds=5)

                return asyncio.run(within())  # type: ignore[no-any-return]

            return StopEvent(result=(ev.n, len(inner[1]), await asyncio.to_thread(blocking)))

    for seed in range(30):
        with SeededRuntime(seed):
            assert Nests().run().result() == (3, 3, 5)


def test_runs_go_on_side_by_side() -> None:
    """Results come in whatever order they are asked for, and each is its own."""
    for seed in range(20):
        with SeededRuntime(seed):
            handlers = [Sleeper().run(seconds=n) for n in range(5)]
            assert [handler.result() for handler in reversed(handlers)] == [4, 3, 2, 1, 0]


def test_async_test_code_awaits_handlers_on_a_loop_of_its_own() -> None:
    """Within asyncio.run() an `await` drives the schedule."""

    async def main() -> list[Any]:
        handler = AsyncFanOut().run()
        await handler
        asks = Questioner().run()
        async for event in asks.stream_events():
            if isinstance(event, Ask):
                await asyncio.to_thread(asks.send_event, Answer(n=7))
        return [type(event).__name__ async for event in handler.stream_events()] + [await asks]

    for seed in range(10):
        with SeededRuntime(seed):
            assert asyncio.run(main()) == ["StopEvent", 7]


def test_async_test_code_runs_on_the_seeded_loop() -> None:
    """`runtime.run` has tasks, virtual sleeps, timeouts, threads and handlers of its own on the schedule."""

    async def main() -> list[Any]:
        asks = Questioner().run()

        async def answer() -> None:
            async for event in asks.stream_events():
                if isinstance(event, Ask):
                    await asyncio.sleep(DAY)
                    await asyncio.to_thread(asks.send_event, Answer(n=7))

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asks), 60)
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        return await asyncio.gather(asks, answer())

    before = time.monotonic()
    traces = []
    for seed in (1, 2, 1):
        with SeededRuntime(seed) as runtime:
            assert runtime.run(main()) == [7, None]
            traces.append(runtime.trace)
    assert traces[0] == traces[2] != traces[1]
    assert time.monotonic() - before < AT_ONCE


def test_spawned_functions_are_on_the_schedule() -> None:
    """What runs beside the test is drawn from the seed as well: each seed its order, all orders over the seeds."""

    class TakesThree(Workflow):
        @step
        def start(self, ev: StartEvent) -> Ask:
            return Ask()

        @step
        def take(self, ctx: Context, ev: Answer) -> StopEvent | None:
            done = ctx.collect_events(ev, {Answer: 3})
            return StopEvent(result="".join(str(answer.n) for answer in done)) if done else None

    def race(seed: int) -> str:
        with SeededRuntime(seed) as runtime:
            handler = TakesThree().run()
            for n in range(3):
                runtime.spawn(handler.send_event, Answer(n=n))
            return str(handler.result())

    found = [race(seed) for seed in range(100)]
    assert set(found) == {"".join(order) for order in itertools.permutations("012")}
    assert found == [race(seed) for seed in range(100)]


def test_a_spawned_function_that_fails_fails_the_test() -> None:
    """The end of the block waits for what was spawned, and raises what it raised."""
    with pytest.raises(ZeroDivisionError), SeededRuntime(1) as runtime:
        runtime.spawn(lambda: 1 // 0)
    with pytest.raises(DeadlockError), SeededRuntime(1) as runtime:
        runtime.spawn(Questioner(runtime=runtime).run().result)
    with SeededRuntime(1) as runtime:
        call = runtime.spawn(Sleeper().run(seconds=60).result)
        with pytest.raises(TimeoutError, match="virtual"):
            call.result(timeout=1)
        assert call.result() == 60


def test_several_threads_may_wait_at_once() -> None:
    """Each thread gets what it waits for, whichever of them came first."""
    for seed in range(20):
        with SeededRuntime(seed) as runtime:
            handlers = [FanOut().run() for _ in range(3)]
            threads = [threading.Thread(target=handler.result) for handler in handlers]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert all(handler.done() for handler in handlers)
            assert runtime.trace


def test_a_step_may_use_a_run_of_another_runtime() -> None:
    """Steps on a seeded runtime may wait for a run on real threads, and the other way round."""

    class Crosses(Workflow):
        @step
        def cross(self, ev: StartEvent) -> StopEvent:
            handler = Questioner(runtime=ev.other).run()
            handler.send_event(Answer(n=4))
            return StopEvent(result=handler.result())

    with Runtime() as real, SeededRuntime(1) as seeded:
        assert Crosses(runtime=seeded).run(other=real).result() == 4
        assert Crosses(runtime=real).run(other=seeded).result() == 4
        with SeededRuntime(2) as second:
            assert Crosses(runtime=second).run(other=seeded).result() == 4


def test_an_interrupted_wait_leaves_the_runtime_usable() -> None:
    """An exception that strikes the waiting thread, as Ctrl-C or a time limit, ends its wait and nothing else."""
    import _thread

    class Interrupts(Workflow):
        @step
        def interrupt(self, ev: StartEvent) -> StopEvent:
            _thread.interrupt_main()
            time.sleep(0.05)  # an uninterruptible call, during which the main thread is struck
            return StopEvent(result="done")

    with SeededRuntime(1):
        handler = Interrupts().run()
        with pytest.raises(KeyboardInterrupt):
            handler.result()
        assert handler.result() == "done"


def test_steps_see_the_variables_of_whoever_ran_them_and_bear_their_names() -> None:
    """As on real threads: a thread is named for its step."""

    class Names(Workflow):
        @step
        def name(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=threading.current_thread().name)

    assert play(1, Names)[0] == "run-1/name"


# -- explore -----------------------------------------------------------------------------------------------------------


def test_a_failure_names_its_seed() -> None:
    """`explore` stops at the first seed that fails, and that seed alone fails again."""

    def finds(runtime: SeededRuntime) -> None:
        order = FanOut().run().result()[0]
        assert len(order) == 3, order

    with pytest.raises(AssertionError) as caught:
        explore(finds, seeds=range(1000))
    [note] = caught.value.__notes__
    seed = int(note.split("seed=")[1].rstrip(")"))
    with pytest.raises(AssertionError) as again, SeededRuntime(seed) as runtime:
        finds(runtime)
    assert str(again.value) == str(caught.value)
    for earlier in range(seed):
        with SeededRuntime(earlier) as runtime:
            finds(runtime)


def test_explore_takes_an_async_test() -> None:
    """An `async def` is run on the seeded loop, and its failure is found."""
    orders: set[str] = set()

    async def collects(runtime: SeededRuntime) -> None:
        orders.add((await AsyncFanOut().run())[0])

    async def fails(runtime: SeededRuntime) -> None:
        await asyncio.sleep(DAY)
        raise ZeroDivisionError

    explore(collects, seeds=range(50))
    assert len(orders) > 3
    with pytest.raises(ZeroDivisionError) as caught:
        explore(fails, seeds=[5])
    assert "seed 5" in caught.value.__notes__[0]


def test_explore_without_seeds_is_refused() -> None:
    """A used-up iterator of seeds would test nothing."""
    with pytest.raises(WorkflowRuntimeError, match="no seeds"):
        explore(lambda runtime: None, seeds=iter(()))


def test_a_failing_schedule_says_so_in_pytest(pytester: pytest.Pytester) -> None:
    """The seed is part of what pytest prints."""
    pytester.makepyfile(
        """
        from greenroom.testing import explore

        def test_it():
            def fails(runtime):
                assert runtime.seed != 3
            explore(fails)
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*on the schedule of seed 3; repeat it with SeededRuntime(seed=3)*"])


def test_whoever_waits_may_be_back_before_the_schedule_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """How quick the test's own thread is changes nothing: what it makes while it is let go is on the schedule."""

    class Asks(Workflow):
        @step
        def ask(self, ctx: Context, ev: StartEvent) -> Item | None:
            ctx.ask(Ask(), Answer)
            return Item(n=1)

        @step
        async def end(self, ev: Item) -> StopEvent:
            await asyncio.sleep(DAY)
            return StopEvent()

    def play(seed: int) -> list[str]:
        with SeededRuntime(seed) as runtime:
            handler = Asks().run()
            runtime.run_until_idle()
            (question,) = handler.pending_inputs()
            handler.respond(question.input_id, {"n": 1})
            runtime.run_until_idle()
            handler.result()
            other = Asks().run()
            runtime.run_until_idle()
            other.cancel_run()
        return runtime.trace

    quick = [play(seed) for seed in range(20)]
    let_go = SeededDispatcher._let_go

    def slow_to_look_again(dispatcher: SeededDispatcher, visitor: Any) -> None:
        let_go(dispatcher, visitor)
        while not (dispatcher._visitors or dispatcher._stopping):
            threading.Event().wait(0.0001)  # until the other thread is back, or has shut the runtime down

    monkeypatch.setattr(SeededDispatcher, "_let_go", slow_to_look_again)
    assert [play(seed) for seed in range(20)] == quick

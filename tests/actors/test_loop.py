"""The loop's thread: async steps stay on it, and nothing of the engine depends on it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading

import pytest

from greenroom import DeadlockError, Event, Runtime, StartEvent, StopEvent, Workflow, WorkflowTimeoutError, aio, step
from greenroom.actors.base import here
from greenroom.actors.loop import LoopThread
from greenroom.actors.pool import PoolDispatcher
from greenroom.errors import RuntimeShutdownError
from tests.support.waiting import wait_until

SOON = 10.0


class Next(Event):
    """On to the next step."""


class Chain(Workflow):
    """A loop of async steps; the result is the set of threads that ran them."""

    @step
    async def begin(self, ev: StartEvent) -> Next:
        return Next(left=ev.length, threads={threading.current_thread().name})

    @step
    async def go_on(self, ev: Next) -> Next | StopEvent:
        threads = ev.threads | {threading.current_thread().name}
        if ev.left == 0:
            return StopEvent(result=threads)
        return Next(left=ev.left - 1, threads=threads)


class Quick(Workflow):
    """One `def` step."""

    @step
    def quick(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result="done")


class QuickAsync(aio.Workflow):
    """One `async def` step, and one that reads the store."""

    @step
    async def quick(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
        await ctx.store.set("x", 1)
        return StopEvent(result=await ctx.store.get("x"))


@contextlib.contextmanager
def loop_in_a_thread():
    """A loop of the test's own, on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="the test's loop")
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(SOON)
        loop.close()


# -- where things run --------------------------------------------------------------------------------------------------


def test_a_chain_of_async_steps_stays_on_the_loops_thread(monkeypatch):
    """The steps run there, and so do the turns between them: the pool's inlet is not needed on the way."""
    with Runtime(max_threads=2) as runtime:
        turns = []
        original = LoopThread.report

        def report(self, body):
            original(self, body)
            turns.append(threading.current_thread().name)
            assert here.lane is None

        monkeypatch.setattr(LoopThread, "report", report)
        assert Chain().run(length=50).result(SOON) == {"greenroom-loop"}
        assert wait_until(lambda: len(turns) == 52)
        assert set(turns) == {"greenroom-loop"}
        assert runtime.dispatcher._names <= 3


def test_no_loop_thread_exists_without_an_async_step():
    """A program of `def` steps never starts a loop."""
    with Runtime(max_threads=2) as runtime:
        assert Quick().run().result(SOON) == "done"
        assert runtime.dispatcher._loop._thread is None
        assert runtime.dispatcher._loop._loop is None


@pytest.mark.parametrize("kind", ["a thread's", "ours"])
def test_a_blocked_async_body_stops_neither_timeouts_nor_def_steps_nor_other_waits(kind):
    """An async step that blocks its loop is bad manners, and stops async steps only."""
    let_go, blocked = threading.Event(), threading.Event()

    class Rude(Workflow):
        @step
        async def rude(self, ev: StartEvent) -> StopEvent:
            blocked.set()
            assert let_go.wait(60)
            return StopEvent(result="rude")

    with contextlib.ExitStack() as stack:
        loop = stack.enter_context(loop_in_a_thread()) if kind == "a thread's" else None
        stack.enter_context(Runtime(max_threads=2, loop=loop))
        rude = Rude().run()
        assert blocked.wait(SOON)
        with pytest.raises(WorkflowTimeoutError):
            Chain(timeout=0.05).run(length=1).result(SOON)
        assert Quick().run().result(SOON) == "done"
        limited = Rude(timeout=0.05).run()
        with pytest.raises(WorkflowTimeoutError):
            limited.result(SOON)
        rude.ctx.store.set("x", 1)
        assert rude.ctx.store.get("x") == 1
        let_go.set()
        assert rude.result(SOON) == "rude"
        assert Chain().run(length=2).result(SOON)


def test_a_timeout_fires_while_its_own_async_body_blocks_the_loop():
    """The run that blocks the loop times out as well; what it returns later is ignored."""
    let_go, blocked = threading.Event(), threading.Event()

    class Rude(Workflow):
        @step
        async def rude(self, ev: StartEvent) -> StopEvent:
            blocked.set()
            assert let_go.wait(60)
            return StopEvent(result="rude")

    with Runtime(max_threads=2):
        handler = Rude(timeout=0.05).run()
        assert blocked.wait(SOON)
        with pytest.raises(WorkflowTimeoutError):
            handler.result(SOON)
        let_go.set()
        assert [type(event).__name__ for event in handler.stream_events()] == ["WorkflowTimedOutEvent"]


# -- a loop of the program's -------------------------------------------------------------------------------------------


def test_async_steps_run_on_the_loop_that_was_given():
    """`Runtime(loop=...)` on a thread of the program's: the chain stays there, and the loop outlives the runtime."""
    with loop_in_a_thread() as loop:
        with Runtime(max_threads=2, loop=loop):
            assert Chain().run(length=10).result(SOON) == {"the test's loop"}
        assert loop.is_running()
        with Runtime(max_threads=2, loop=loop):
            assert Chain().run(length=3).result(SOON) == {"the test's loop"}


def test_async_steps_run_on_the_main_threads_loop():
    """There no turns run, and it works all the same, with results and streams awaited."""

    async def main():
        runtime = Runtime(max_threads=2, loop=asyncio.get_running_loop())
        with runtime:
            assert await Chain().run(length=10) == {"MainThread"}
            assert await QuickAsync().run() == 1
            handlers = [QuickAsync().run() for _ in range(20)]
            assert await asyncio.gather(*handlers) == [1] * 20
            names = [type(event).__name__ async for event in Chain().run(length=2).stream_events()]
            assert names == ["StopEvent"]
            handler = Chain().run(length=1)
            with pytest.raises(DeadlockError, match="await"):
                handler.result()
            await handler
        return runtime

    runtime = asyncio.run(main())
    assert wait_until(lambda: not runtime.dispatcher._threads)


def test_a_runtime_on_the_loop_may_be_used_before_the_loop_runs():
    """Runs that begin early wait for the loop."""
    loop = asyncio.new_event_loop()
    try:
        with Runtime(max_threads=2, loop=loop):
            handler = Chain().run(length=2)

            async def finish():
                return await handler

            assert loop.run_until_complete(finish()) == {"MainThread"}
    finally:
        loop.close()


def test_a_run_whose_loop_was_closed_fails_and_says_so():
    """It neither hangs nor blames the engine."""
    loop = asyncio.new_event_loop()
    loop.close()
    with Runtime(max_threads=2, loop=loop), pytest.raises(RuntimeError, match="closed"):
        Chain().run(length=1).result(SOON)


def test_a_task_that_is_cancelled_before_it_began_fails_its_run():
    """As when `asyncio.run` ends and cancels all tasks of its loop: the run is told, and nobody waits for ever."""
    loop = asyncio.new_event_loop()
    try:
        with Runtime(max_threads=2, loop=loop) as runtime:
            handler = Chain().run(length=1)

            original = runtime.dispatcher._loop._begin

            def begin(body):
                original(body)
                for task in list(runtime.dispatcher._loop._tasks):
                    task.cancel()

            runtime.dispatcher._loop._begin = begin

            async def wait():
                await handler

            with pytest.raises(Exception, match="CancelledError"):
                loop.run_until_complete(asyncio.wait_for(wait(), SOON))
    finally:
        loop.close()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in Python 3.12")
def test_a_loop_with_eager_tasks_runs_async_steps():
    """There the first stretch of a step runs within the call that begins it."""

    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        with Runtime(max_threads=2, loop=asyncio.get_running_loop()):
            assert await Chain().run(length=200) == {"MainThread"}
            assert await QuickAsync().run() == 1

    asyncio.run(main())


def test_a_runtime_inside_a_step_of_another_leaves_its_worker_as_it_was():
    """A `def` step that runs a loop, with a runtime of its own on it, ends like any other."""

    class Outer(Workflow):
        @step
        def outer(self, ev: StartEvent) -> StopEvent:
            async def main():
                with Runtime(max_threads=1, loop=asyncio.get_running_loop()):
                    return await Chain().run(length=5)

            lane = here.lane
            result = asyncio.run(main())
            assert here.lane is lane
            return StopEvent(result=result)

    with Runtime(max_threads=1) as runtime:
        for _ in range(3):
            assert len(Outer().run(run_id="outer").result(SOON)) == 1
        assert wait_until(lambda: runtime.dispatcher._running == 0)


# -- cancelling --------------------------------------------------------------------------------------------------------


def test_a_cancelled_run_cancels_its_async_body():
    """The coroutine is cancelled where it awaits, and cleans up."""
    cleaned, begun = threading.Event(), threading.Event()

    class Waits(Workflow):
        @step
        async def waits(self, ev: StartEvent) -> StopEvent:
            begun.set()
            try:
                await asyncio.sleep(3600)
            finally:
                cleaned.set()
            return StopEvent()

    with Runtime(max_threads=2) as runtime:
        handler = Waits().run()
        assert begun.wait(SOON)
        handler.cancel_run(SOON)
        assert handler.status == "cancelled"
        assert cleaned.wait(SOON)
        assert wait_until(lambda: not runtime.dispatcher._loop._tasks)


def test_async_bodies_are_cancelled_as_soon_as_they_begin():
    """Runs cancelled at every moment of their first async step end, and leave no task behind."""
    with Runtime(max_threads=2) as runtime:
        for _ in range(100):
            handler = Chain().run(length=10**6)
            handler.cancel_run(SOON)
            assert handler.done()
        assert wait_until(lambda: not runtime.dispatcher._loop._tasks)


# -- start and end -----------------------------------------------------------------------------------------------------


class AsyncProbe:
    """An async body that notes what becomes of it."""

    label = "a probe"

    def __init__(self):
        self.reports = []
        self.reported = threading.Event()
        self.dispatcher = None

    def create_task(self, loop):
        return loop.create_task(self._main(), name=self.label)

    async def _main(self):
        self.dispatcher.report_async(self)

    def report(self):
        self.reports.append(None)
        self.reported.set()

    def refuse(self, error):
        self.reports.append(error)
        self.reported.set()


def probe(pool):
    body = AsyncProbe()
    body.dispatcher = pool
    return body


def test_a_body_that_comes_after_the_end_is_refused_and_starts_no_thread():
    """Whether the loop ever ran or not."""
    for used in (False, True):
        pool = PoolDispatcher(1)
        if used:
            first = probe(pool)
            pool.execute_async(first)
            assert first.reported.wait(SOON)
        pool.shutdown(SOON)
        late = probe(pool)
        pool.execute_async(late)
        assert late.reported.wait(SOON)
        assert isinstance(late.reports[0], RuntimeShutdownError)
        assert used or pool._loop._thread is None


def test_bodies_race_the_end_and_none_is_reported_twice():
    """Bodies that come from several threads during a shutdown are run, refused or dropped; no loop thread survives."""
    for _ in range(40):
        pool = PoolDispatcher(1)
        barrier = threading.Barrier(4)
        bodies = []

        def send(pool=pool, barrier=barrier, bodies=bodies):
            barrier.wait(SOON)
            for _ in range(20):
                body = probe(pool)
                bodies.append(body)
                pool.execute_async(body)

        threads = [threading.Thread(target=send) for _ in range(3)]
        for thread in threads:
            thread.start()
        barrier.wait(SOON)
        pool.shutdown(SOON)
        for thread in threads:
            thread.join(SOON)
        assert all(len(body.reports) <= 1 for body in bodies)
        assert pool._loop._thread is None or not pool._loop._thread.is_alive()


def test_two_ends_at_once_are_one():
    """A second `end`, also on a loop that has closed meanwhile, raises nothing."""
    for _ in range(20):
        pool = PoolDispatcher(1)
        body = probe(pool)
        pool.execute_async(body)
        assert body.reported.wait(SOON)
        other = threading.Thread(target=pool._loop.end, args=(SOON,))
        other.start()
        pool._loop.end(SOON)
        other.join(SOON)
        pool.shutdown(SOON)
        assert not pool._loop._thread.is_alive()


def test_an_async_step_may_shut_its_runtime_down():
    """From the loop's own thread: the loop ends once the step has given way."""
    runtime = Runtime(max_threads=2)

    class Ends(Workflow):
        @step
        async def ends(self, ev: StartEvent) -> StopEvent:
            runtime.shutdown(timeout=0.0)
            return StopEvent(result="too late")

    handler = Ends(runtime=runtime).run()
    with pytest.raises(RuntimeShutdownError):
        handler.result(SOON)
    assert wait_until(lambda: not runtime.dispatcher._loop._thread.is_alive())
    assert wait_until(lambda: not runtime.dispatcher._threads)


def test_the_loop_ends_though_the_program_has_changed_the_event_loop_policy() -> None:
    """As some test tools and servers do while the loop's thread is there."""
    with Runtime() as runtime:
        assert QuickAsync().run().result(SOON) == 1
        policy = asyncio.get_event_loop_policy()
        asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())
        try:
            runtime.shutdown()
        finally:
            asyncio.set_event_loop_policy(policy)

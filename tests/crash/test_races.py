"""Durable runs that rest, wake, end and change hands while many threads and processes want something of them."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from greenroom import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    Runtime,
    RuntimeShutdownError,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowRuntimeError,
    aio,
    step,
)
from greenroom.inbox import post_event
from greenroom.named import registry_for
from greenroom.observer import Observer
from greenroom.retry import retry_policy, stop_after_attempt, wait_fixed
from greenroom.stores import RunStore, SQLiteStore
from tests.support.flavours import DEADLINE


class Ask(InputRequiredEvent):
    n: int


class Answer(HumanResponseEvent):
    n: int


class Poke(Event):
    n: int


class Tick(Event):
    n: int


class Counts(Workflow):
    """Counts pokes from outside up to a number, and streams each."""

    @step(num_workers=1)
    def take(self, ctx: Context, ev: StartEvent | Poke) -> StopEvent | None:
        with ctx.store.edit_state() as state:
            # A body that is cut off before its end runs again: an edit that may be made twice.
            if isinstance(ev, StartEvent):
                state["wanted"] = ev.wanted
            else:
                ctx.write_event_to_stream(Tick(n=ev.n))
                state["seen"] = sorted({*state.get("seen", []), ev.n})
            seen = state.get("seen", [])
            is_done = len(seen) == state.get("wanted")
        return StopEvent(result=seen) if is_done else None


class Asks(Workflow):
    """Asks twice."""

    @step
    async def ask(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
        first = await ctx.ask(Ask(n=1), Answer)
        second = await ctx.ask(Ask(n=2), Answer)
        return StopEvent(result=first.n + second.n)


def counts(**options: Any) -> Counts:
    return Counts(disable_validation=True, on_stuck="wait", **options)


def until(condition: Callable[[], Any]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        threading.Event().wait(0.002)


def at_rest(handler: Any) -> bool:
    return handler.supervisor is None


def test_events_from_many_threads_wake_a_run_and_none_is_lost(make_store: Callable[[], RunStore]) -> None:
    """While it goes to rest after each of them; whoever waits for the result and reads the stream gets both."""
    with Runtime(store=make_store(), idle_timeout=0.0), ThreadPoolExecutor(8) as pool:
        handler = counts().run(run_id="one", wanted=64)
        stream = pool.submit(lambda: list(handler.stream_events(after=-1)))
        result = pool.submit(handler.result, DEADLINE)
        list(pool.map(lambda n: handler.send_event(Poke(n=n), dedup_key=str(n)), [*range(64), *range(8)]))
        assert result.result(DEADLINE) == list(range(64))
        events = stream.result(DEADLINE)
        assert Counter(event.n for event in events[:-1]) == Counter(range(64))
        assert type(events[-1]) is StopEvent


def test_many_threads_that_wake_a_run_at_once_wake_one(make_store: Callable[[], RunStore]) -> None:
    """And all of them get its handler."""
    with Runtime(store=make_store(), idle_timeout=0.0) as runtime, ThreadPoolExecutor(8) as pool:
        for number in range(10):
            name = f"run-{number}"
            handler = Asks().run(run_id=name)
            until(lambda handler=handler: at_rest(handler))
            assert runtime.keeper is not None
            handlers = list(pool.map(lambda _, name=name: runtime.keeper.wake(name), range(8)))
            assert {id(one) for one in handlers} == {id(handler)}
            for n in (1, 2):
                until(handler.pending_inputs)
                handler.respond(handler.pending_inputs()[0].input_id, {"n": n})
            assert handler.result(DEADLINE) == 3


def test_a_cancel_reaches_a_run_that_rests_or_is_about_to(make_store: Callable[[], RunStore]) -> None:
    """From this process, at any moment of its rest."""
    store = make_store()
    with Runtime(store=store, idle_timeout=0.0):
        for number in range(20):
            handler = Asks().run(run_id=f"run-{number}")
            if number % 2:
                until(lambda handler=handler: at_rest(handler))
            handler.cancel_run()
            with pytest.raises(WorkflowCancelledByUser):
                handler.result(DEADLINE)
            row = store.row(handler.run_id)
            assert row is not None
            assert row.status == "cancelled"


def test_a_shutdown_ends_the_handlers_of_runs_at_rest_and_of_those_about_to_rest(
    make_store: Callable[[], RunStore],
) -> None:
    """Whoever waits for a result is told; the runs go on later."""
    for number in range(8):
        with ThreadPoolExecutor(2) as pool:
            with Runtime(store=make_store(), idle_timeout=0.0) as runtime:
                handler = Asks(runtime=runtime).run(run_id=f"run-{number}")
                waiting = pool.submit(handler.result, DEADLINE)
                reading = pool.submit(lambda handler=handler: list(handler.stream_events(after=-1)))
                if number % 2:
                    until(lambda handler=handler: at_rest(handler))
            with pytest.raises(RuntimeShutdownError):
                waiting.result(DEADLINE)
            assert [type(event).__name__ for event in reading.result(DEADLINE)][-1] == "WorkflowCancelledEvent"
    with Runtime(store=make_store()) as runtime:
        runtime.recover([Asks])
        for number in range(8):
            handler = runtime.get(f"run-{number}")  # type: ignore[assignment]
            for n in (1, 2):
                until(handler.pending_inputs)
                handler.respond(handler.pending_inputs()[0].input_id, {"n": n})
            assert handler.result(DEADLINE) == 3


def test_a_run_that_goes_on_in_another_process_keeps_its_readers_here(tmp_path: Path) -> None:
    """They get what it streamed there, in order, and its result; also when it comes back in between."""
    path = tmp_path / "runs.db"
    with (
        Runtime(store=SQLiteStore(path, poll_interval=0.01), idle_timeout=0.0) as here,
        Runtime(store=SQLiteStore(path, poll_interval=0.01), idle_timeout=0.0) as there,
        ThreadPoolExecutor(2) as pool,
    ):
        ours = counts(runtime=here).run(run_id="one", wanted=5)
        theirs_flow = counts(runtime=there)
        reading = pool.submit(lambda: list(ours.stream_events(after=-1)))
        waiting = pool.submit(ours.result, DEADLINE)
        there.recover([theirs_flow])
        for n, runtime in enumerate([here, there, here, there, there]):
            deadline = time.monotonic() + DEADLINE
            while True:
                try:
                    handler = runtime.get("one")
                    assert handler is not None
                    handler.send_event(Poke(n=n), dedup_key=str(n))
                    break
                except WorkflowRuntimeError:
                    assert time.monotonic() < deadline  # The other has it still.
        assert waiting.result(DEADLINE) == [0, 1, 2, 3, 4]
        events = reading.result(DEADLINE)
        assert [event.n for event in events[:-1]] == [0, 1, 2, 3, 4]
        assert type(events[-1]) is StopEvent


def test_one_run_id_asked_for_by_many_threads_of_two_processes_is_one_run(tmp_path: Path) -> None:
    """Those of the process that has it get its handler; the others are told who has it."""
    path, begun = tmp_path / "runs.db", []

    class Once(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.once("begin", begun.append, ev.n)
            return StopEvent(result=ctx.ask(Ask(n=1), Answer).n)

    with (
        Runtime(store=SQLiteStore(path)) as here,
        Runtime(store=SQLiteStore(path)) as there,
        ThreadPoolExecutor(8) as pool,
    ):
        flows = [Once(runtime=here), Once(runtime=there)]

        def run(n: int) -> Any:
            try:
                return flows[n % 2].run(run_id="one", n=n)
            except WorkflowRuntimeError as error:
                return str(error)

        got = list(pool.map(run, range(16)))
        handlers = {id(one): one for one in got if not isinstance(one, str)}
        assert len(handlers) == 1
        assert all("held by" in one for one in got if isinstance(one, str))
        (handler,) = handlers.values()
        until(handler.pending_inputs)
        handler.respond(handler.pending_inputs()[0].input_id, {"n": 7})
        assert handler.result(DEADLINE) == 7
    assert len(begun) == 1


def test_runs_with_a_limit_rest_and_wake_without_waiting_for_themselves(make_store: Callable[[], RunStore]) -> None:
    """They keep their place while they rest, and give it back at their end."""
    with Runtime(store=make_store(), idle_timeout=0.0):
        flow = Asks(num_concurrent_runs=1)
        first, second = flow.run(run_id="first"), flow.run(run_id="second")
        for handler in (first, second):
            for n in (1, 2):
                until(handler.pending_inputs)
                until(lambda handler=handler: at_rest(handler))
                assert first.done() or not second.pending_inputs()
                handler.respond(handler.pending_inputs()[0].input_id, {"n": n})
            assert handler.result(DEADLINE) == 3


def test_runs_in_line_survive_a_shutdown_and_an_event_sent_to_them(make_store: Callable[[], RunStore]) -> None:
    """One that never began begins later, once; what was posted for it meanwhile is not lost."""
    runtime = Runtime(store=make_store())
    flow = counts(num_concurrent_runs=1, runtime=runtime)
    flow.run(run_id="first", wanted=1)
    flow.run(run_id="second", wanted=1)
    poster = make_store()
    poster.open()
    for name in ("second", "first"):
        post_event(poster, name, Poke(n=1), registry_for(flow._graph), "key")
    runtime.shutdown(0.0)
    with Runtime(store=make_store()) as again:
        again.recover([counts(num_concurrent_runs=1)])
        for name in ("first", "second"):
            handler = again.get(name)
            assert handler is not None
            assert handler.result(DEADLINE) == [1]
    poster.close()


def test_a_key_counts_once_whichever_way_the_event_comes(make_store: Callable[[], RunStore]) -> None:
    """Posted to the store, sent to the handler, or both."""
    poster = make_store()
    poster.open()
    with Runtime(store=make_store(), idle_timeout=0.0):
        handler = counts().run(run_id="one", wanted=3)
        registry = registry_for(handler._link.graph)
        assert post_event(poster, "one", Poke(n=1), registry, "a")
        assert not post_event(poster, "one", Poke(n=1), registry, "a")
        handler.send_event(Poke(n=1), dedup_key="a")
        handler.send_event(Poke(n=2), dedup_key="b")
        post_event(poster, "one", Poke(n=2), registry, "b")
        until(lambda: not poster.inbox(run_id="one"))
        handler.send_event(Poke(n=3), dedup_key="c")
        assert handler.result(DEADLINE) == [1, 2, 3]
    poster.close()


def test_a_retry_delay_is_rested_through(make_store: Callable[[], RunStore]) -> None:
    """The run leaves memory meanwhile, and the attempt begins at its time."""
    attempts: list[int] = []

    class Retries(Workflow):
        @step(retry_policy=retry_policy(wait=wait_fixed(0.2), stop=stop_after_attempt(3)))
        def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            attempts.append(ctx.retry_info().retry_number)
            if len(attempts) < 3:
                raise ValueError(len(attempts))
            return StopEvent(result=attempts)

    with Runtime(store=make_store(), idle_timeout=0.0):
        handler = Retries().run(run_id="one")
        until(lambda: attempts == [0] and at_rest(handler))
        assert handler.result(DEADLINE) == [0, 1, 2]


def test_a_shutdown_does_not_wait_for_a_retry_delay(make_store: Callable[[], RunStore]) -> None:
    """The run is given back, to be woken at the time of the retry."""
    failed = threading.Event()

    class Retries(Workflow):
        @step(retry_policy=retry_policy(wait=wait_fixed(3600), stop=stop_after_attempt(3)))
        def work(self, ev: StartEvent) -> StopEvent:
            failed.set()
            raise ValueError

    store = make_store()
    with Runtime(store=store):
        handler = Retries().run(run_id="one")
        assert failed.wait(DEADLINE)
    with pytest.raises(RuntimeShutdownError):
        handler.result(0)
    store = make_store()
    store.open()
    row = store.row("one")
    assert row is not None
    assert row.owner is None
    assert row.wake_at is not None
    assert row.wake_at > time.time() + 3000
    store.close()


def test_a_read_in_the_shadow_of_a_commit_is_answered(make_store: Callable[[], RunStore]) -> None:
    """Two steps at work, of which one has just ended: the other asks for something that needs no record."""

    class Two(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> None:
            for n in range(2):
                ctx.send_event(Poke(n=n))

        @step(num_workers=2)
        def work(self, ctx: Context, ev: Poke) -> StopEvent | None:
            if ev.n == 0:
                ctx.write_event_to_stream(Tick(n=0))
                return None
            for _ in range(100):
                ctx.store.get("n", None)
            return StopEvent(result=ctx.once("once", lambda: 1))

    with Runtime(store=make_store()):
        for _ in range(20):
            assert Two(disable_validation=True).run().result(DEADLINE) == 1


def test_a_handler_that_nobody_holds_tells_its_callbacks(make_store: Callable[[], RunStore]) -> None:
    """Though the run has been at rest."""
    told: list[Any] = []
    with Runtime(store=make_store(), idle_timeout=0.0) as runtime:
        handler = Asks().run(run_id="one")
        handler.add_done_callback(lambda ended: told.append(ended.result()))
        until(lambda handler=handler: at_rest(handler))
        del handler
        gc.collect()
        for n in (1, 2):
            until(runtime.pending_inputs)
            runtime.respond(runtime.pending_inputs()[0].input_id, {"n": n})
        until(lambda: told == [3])


def test_a_fork_while_durable_runs_are_at_work_harms_neither_side(tmp_path: Path) -> None:
    """The child may use the store itself; the runs are the parent's."""
    path = tmp_path / "runs.db"
    with Runtime(store=SQLiteStore(path), idle_timeout=0.0), ThreadPoolExecutor(2) as pool:
        handler = counts().run(run_id="one", wanted=40)
        sending = pool.submit(lambda: [handler.send_event(Poke(n=n)) for n in range(40)])
        children = []
        for number in range(3):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    store = SQLiteStore(path)
                    with Runtime(store=store) as runtime:
                        other = counts(runtime=runtime).run(run_id=f"child-{number}", wanted=1)
                        other.send_event(Poke(n=1))
                        status = 0 if other.result(DEADLINE) == [1] else 2
                finally:
                    os._exit(status)
            children.append(pid)
        assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
        sending.result(DEADLINE)
        assert handler.result(DEADLINE) == list(range(40))


def test_observers_hear_of_durable_runs_that_rest(make_store: Callable[[], RunStore]) -> None:
    """Of their beginning and of their end, once."""
    heard: list[str] = []

    class Listens(Observer):
        def run_ended(self, run: Any) -> None:
            heard.append(run.run_id)

    with Runtime(store=make_store(), idle_timeout=0.0, max_parked=0, observers=[Listens()]):
        handler = Asks().run(run_id="one")
        for n in (1, 2):
            until(handler.pending_inputs)
            until(lambda: at_rest(handler))
            handler.respond(handler.pending_inputs()[0].input_id, {"n": n})
        assert handler.result(DEADLINE) == 3
        until(lambda: heard)
    assert heard == ["one"]

"""When resources are opened and closed: by every kind of factory, in every kind of step, however a scope ends."""

import asyncio
import contextlib
import contextvars
import gc
import logging
import os
import sqlite3
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import pytest

from greenroom import (
    Context,
    Event,
    HumanResponseEvent,
    Runtime,
    RuntimeShutdownError,
    StartEvent,
    StepFailedEvent,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowTimeoutError,
    aio,
    catch_error,
    step,
)
from greenroom.resources import Resource, Scope
from greenroom.retry import retry_policy, stop_after_attempt, wait_none
from greenroom.stores import MemoryStore
from greenroom.testing import SeededRuntime, explore
from tests.support.flavours import DEADLINE, Flavour
from tests.support.waiting import wait_until

SCOPES: tuple[Scope, ...] = ("invocation", "run", "workflow")


class Item(Event):
    n: int = 0


class Log(list[str]):
    """What happened, in order, and factories of every kind that write it."""

    def factory(self, kind: str, name: str = "it") -> Callable[..., Any]:
        def opened() -> str:
            self.append(f"open {name}")
            return name

        def closed() -> None:
            self.append(f"close {name}")

        def function() -> str:
            return opened()

        async def async_function() -> str:
            await asyncio.sleep(0)
            return opened()

        def generator() -> Iterator[str]:
            try:
                yield opened()
            finally:
                closed()

        async def async_generator() -> AsyncIterator[str]:
            await asyncio.sleep(0)
            try:
                yield opened()
            finally:
                await asyncio.sleep(0)
                closed()

        class Manager:
            def __enter__(self) -> str:
                return opened()

            def __exit__(self, *error: object) -> None:
                closed()

        class AsyncManager:
            async def __aenter__(self) -> str:
                await asyncio.sleep(0)
                return opened()

            async def __aexit__(self, *error: object) -> None:
                await asyncio.sleep(0)
                closed()

        async def async_to_manager() -> Manager:
            return Manager()

        async def async_to_async_manager() -> AsyncManager:
            return AsyncManager()

        kinds: dict[str, Callable[..., Any]] = {
            "function": function,
            "async function": async_function,
            "generator": generator,
            "async generator": async_generator,
            "@contextmanager": contextlib.contextmanager(generator),
            "@asynccontextmanager": contextlib.asynccontextmanager(async_generator),
            "returns a manager": lambda: Manager(),
            "returns an async manager": lambda: AsyncManager(),
            "a class": Manager,
            "an async class": AsyncManager,
            "async, returns a manager": async_to_manager,
            "async, returns an async manager": async_to_async_manager,
            "a plain call of an async function": lambda: async_function(),
        }
        return kinds[kind]


CLOSING = (
    "generator",
    "async generator",
    "@contextmanager",
    "@asynccontextmanager",
    "returns a manager",
    "returns an async manager",
    "a class",
    "an async class",
    "async, returns a manager",
    "async, returns an async manager",
)
PLAIN = ("function", "async function", "a plain call of an async function")


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.mark.parametrize("kind", CLOSING + PLAIN)
def test_every_kind_of_factory_serves_every_kind_of_step(flow: Flavour, log: Log, kind: str) -> None:
    """The step is given what the factory returns or yields, and it is closed when the attempt has ended."""
    factory = log.factory(kind)

    class Uses(Workflow):
        @flow.step
        async def first(self, ev: StartEvent, it: Annotated[str, Resource(factory, cache=False)]) -> Item:
            log.append(f"first {it}")
            return Item()

        @flow.step
        async def second(self, it: Annotated[str, Resource(factory, cache=False)], ev: Item) -> StopEvent:
            log.append(f"second {it}")
            return StopEvent(result=it)

    assert Uses().run().result(DEADLINE) == "it"
    closed = ["close it"] if kind in CLOSING else []
    assert log == ["open it", "first it", *closed, "open it", "second it", *closed]


@pytest.mark.parametrize("kind", CLOSING)
@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("invocation", ["open it", "close it"] * 4),
        ("run", ["open it", "close it"] * 2),
        ("workflow", ["open it", "close it"]),
    ],
)
def test_scopes(flow: Flavour, log: Log, kind: str, scope: Scope, expected: list[str]) -> None:
    """A resource is opened once for each attempt, run or workflow, and closed with it."""
    factory = log.factory(kind)

    class Uses(Workflow):
        @flow.step
        async def first(self, ev: StartEvent, it: Annotated[str, Resource(factory, scope=scope)]) -> Item:
            return Item()

        @flow.step
        async def second(self, ev: Item, it: Annotated[str, Resource(factory, scope=scope)]) -> StopEvent:
            return StopEvent()

    with Uses() as workflow:
        workflow.run().result(DEADLINE)
        assert log == expected[: {"invocation": 4, "run": 2, "workflow": 1}[scope]]
        workflow.run().result(DEADLINE)
    assert log == expected


def test_nested_resources_are_shared_within_their_scope_and_closed_in_reverse(flow: Flavour, log: Log) -> None:
    """One graph of dependencies has each resource once; a dependent is closed before what it depends on."""
    base = log.factory("async generator", "base")

    def left(base: Annotated[str, Resource(base, cache=False)]) -> Iterator[str]:
        log.append("open left")
        yield f"left({base})"
        log.append("close left")

    async def right(base: Annotated[str, Resource(base, cache=False)]) -> AsyncIterator[str]:
        log.append("open right")
        yield f"right({base})"
        log.append("close right")

    class Uses(Workflow):
        @flow.step
        async def work(
            self,
            one: Annotated[str, Resource(left, cache=False)],
            ev: StartEvent,
            two: Annotated[str, Resource(right, cache=False)],
        ) -> StopEvent:
            return StopEvent(result=f"{one} {two}")

    assert Uses().run().result(DEADLINE) == "left(base) right(base)"
    assert log == ["open base", "open left", "open right", "close right", "close left", "close base"]


@pytest.mark.parametrize("kind", ["generator", "async generator"])
def test_a_failing_step_closes_and_its_retry_opens_anew(flow: Flavour, log: Log, kind: str) -> None:
    """Each attempt has a resource of its own, and the run's is kept over them."""
    factory, of_run = log.factory(kind), log.factory(kind, "of run")

    class Fails(Workflow):
        @flow.step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(2)))
        async def work(
            self,
            ev: StartEvent,
            it: Annotated[str, Resource(factory, cache=False)],
            run: Annotated[str, Resource(of_run, scope="run")],
        ) -> StopEvent:
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Fails().run().result(DEADLINE)
    assert log == ["open it", "open of run", "close it", "open it", "close it", "close of run"]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_resource_of_an_invocation_sees_how_the_step_failed(flow: Flavour, is_async: bool) -> None:
    """The error comes out of the `yield`, so that a transaction can be rolled back; it stays the step's error."""
    seen: list[BaseException] = []

    def transaction() -> Iterator[str]:
        try:
            yield "begun"
        except ValueError as error:
            seen.append(error)  # and not raised again: that saves no step

    async def async_transaction() -> AsyncIterator[str]:
        try:
            yield "begun"
        except ValueError as error:
            seen.append(error)
            raise

    factory = async_transaction if is_async else transaction

    class Fails(Workflow):
        @flow.step
        async def work(self, ev: StartEvent, it: Annotated[str, Resource(factory, cache=False)]) -> StopEvent:
            raise ValueError("no")

    error = Fails().run().exception(DEADLINE)
    assert seen == [error]


@pytest.mark.parametrize("kind", ["generator", "async generator"])
def test_a_factory_that_fails_is_a_failure_of_the_step(flow: Flavour, log: Log, kind: str) -> None:
    """Its error is the step's, the retry policy applies, nothing of it is kept, and what was open is closed."""
    outer = log.factory(kind, "outer")
    calls: list[int] = []

    def flaky(outer: Annotated[str, Resource(outer, cache=False)]) -> str:
        calls.append(1)
        if len(calls) < 3:
            raise ConnectionError(len(calls))
        return "at last"

    class Uses(Workflow):
        @flow.step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(2)))
        async def work(self, ev: StartEvent, it: Annotated[str, Resource(flaky, scope="invocation")]) -> StopEvent:
            return StopEvent(result=it)

    workflow = Uses()
    with pytest.raises(ConnectionError, match="2"):
        workflow.run().result(DEADLINE)
    assert log == ["open outer", "close outer"] * 2
    assert workflow.run().result(DEADLINE) == "at last"


@pytest.mark.parametrize("is_async", [False, True])
def test_a_failure_to_close_fails_a_step_that_was_good(flow: Flavour, is_async: bool) -> None:
    """As with a `with` block: the step is not done before its resources are closed, and the retry policy applies."""
    calls: list[str] = []

    def ends_badly() -> Iterator[str]:
        yield "it"
        calls.append("close")
        if len(calls) < 2:
            raise OSError("disk full")

    async def async_ends_badly() -> AsyncIterator[str]:
        yield "it"
        calls.append("close")
        if len(calls) < 2:
            raise OSError("disk full")

    factory = async_ends_badly if is_async else ends_badly

    class Uses(Workflow):
        @flow.step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(1)))
        async def work(self, ev: StartEvent, it: Annotated[str, Resource(factory, cache=False)]) -> StopEvent:
            return StopEvent(result="good")

    workflow = Uses()
    with pytest.raises(OSError, match="disk full"):
        workflow.run().result(DEADLINE)
    assert workflow.run().result(DEADLINE) == "good"


def test_a_failure_to_close_does_not_hide_that_of_the_step(
    flow: Flavour, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    """The step's own error is raised; the other is logged; the other resources are closed all the same."""
    good = log.factory("generator")

    def ends_badly() -> Iterator[str]:
        try:
            yield "it"
        finally:
            raise OSError("disk full")

    class Uses(Workflow):
        @flow.step
        async def work(
            self,
            ev: StartEvent,
            one: Annotated[str, Resource(good, cache=False)],
            two: Annotated[str, Resource(ends_badly, cache=False)],
        ) -> StopEvent:
            raise ValueError("mine")

    with caplog.at_level(logging.ERROR), pytest.raises(ValueError, match="mine"):
        Uses().run().result(DEADLINE)
    assert log == ["open it", "close it"]
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["disk full"]


def test_a_run_is_not_failed_by_what_its_scope_raises_when_it_closes(
    flow: Flavour, caplog: pytest.LogCaptureFixture
) -> None:
    """The run has ended by then: its result stands, and the error is logged."""

    def ends_badly() -> Iterator[str]:
        yield "it"
        raise OSError("disk full")

    class Uses(Workflow):
        @flow.step
        async def work(self, ev: StartEvent, it: Annotated[str, Resource(ends_badly, scope="run")]) -> StopEvent:
            return StopEvent(result=it)

    with caplog.at_level(logging.ERROR):
        assert Uses().run().result(DEADLINE) == "it"
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["disk full"]


def test_closing_a_workflow_raises_what_its_resources_raise(log: Log) -> None:
    """As a `with` block does; the others are closed all the same."""
    good = log.factory("async generator")

    def ends_badly() -> Iterator[str]:
        yield "it"
        raise OSError("disk full")

    class Uses(Workflow):
        @step
        def work(
            self, ev: StartEvent, one: Annotated[str, Resource(good)], two: Annotated[str, Resource(ends_badly)]
        ) -> StopEvent:
            return StopEvent(result=two)

    workflow = Uses()
    workflow.run().result(DEADLINE)
    with pytest.raises(OSError, match="disk full"):
        workflow.close()
    assert log == ["open it", "close it"]
    workflow.close()


@pytest.mark.parametrize("kind", ["generator", "async generator"])
def test_a_cancelled_run_closes_what_it_had_open(flow: Flavour, log: Log, kind: str) -> None:
    """A step in flight is let go first: what it uses is not closed under it."""
    factory, own = log.factory(kind, "of run"), log.factory(kind, "own")
    working, go_on = threading.Event(), threading.Event()

    class Works(Workflow):
        @flow.step
        async def work(
            self,
            ev: StartEvent,
            it: Annotated[str, Resource(factory, scope="run")],
            mine: Annotated[str, Resource(own, cache=False)],
        ) -> StopEvent:
            working.set()
            try:
                await flow.until(go_on)
            finally:
                log.append("ended")
            return StopEvent()

    handler = Works().run()
    assert working.wait(DEADLINE)
    handler.cancel_run()
    with pytest.raises(WorkflowCancelledByUser):
        handler.result(DEADLINE)
    go_on.set()
    assert wait_until(lambda: len(log) == 5, DEADLINE)
    assert log == ["open of run", "open own", "ended", "close own", "close of run"]


@pytest.mark.parametrize("kind", ["generator", "async generator"])
def test_a_run_that_times_out_closes_what_it_had_open(flow: Flavour, log: Log, kind: str) -> None:
    """The result does not wait for a body that is abandoned."""
    factory = log.factory(kind)
    go_on = threading.Event()

    class Slow(Workflow):
        @flow.step
        async def work(self, ev: StartEvent, it: Annotated[str, Resource(factory, scope="run")]) -> StopEvent:
            await flow.until(go_on)
            return StopEvent()

    with pytest.raises(WorkflowTimeoutError):
        Slow(timeout=0.05).run().result(DEADLINE)
    go_on.set()
    assert wait_until(lambda: log == ["open it", "close it"], DEADLINE)


@pytest.mark.parametrize("kind", ["generator", "async generator"])
def test_a_passivated_step_closes_its_own_and_opens_it_anew(log: Log, kind: str) -> None:
    """Unwound while it waits, it lets go of its resource; the run keeps its own."""
    own, of_run = log.factory(kind, "own"), log.factory(kind, "of run")

    class Asks(Workflow):
        @step
        def ask(
            self,
            ctx: Context,
            ev: StartEvent,
            it: Annotated[str, Resource(own, cache=False)],
            run: Annotated[str, Resource(of_run, scope="run")],
        ) -> StopEvent:
            answer = ctx.wait_for_event(HumanResponseEvent)
            return StopEvent(result=answer.text)

    with Runtime(max_parked=0):
        handler = Asks().run()
        assert wait_until(lambda: "close own" in log, DEADLINE)
        handler.send_event(HumanResponseEvent(text="yes"))
        assert handler.result(DEADLINE) == "yes"
    assert log == ["open own", "open of run", "close own", "open own", "close own", "close of run"]


def test_a_restored_run_opens_its_resources_anew(flow: Flavour, log: Log) -> None:
    """A snapshot holds none: what it cannot hold is no hindrance, and the next process makes its own."""

    def connect() -> Iterator[sqlite3.Connection]:
        log.append("open")
        with contextlib.closing(sqlite3.connect(":memory:", check_same_thread=False)) as connection:
            yield connection
        log.append("close")

    class Asks(Workflow):
        @flow.step
        async def ask(
            self, ctx: Context, ev: StartEvent, db: Annotated[sqlite3.Connection, Resource(connect, scope="run")]
        ) -> StopEvent:
            answer = await flow(ctx.wait_for_event(HumanResponseEvent))
            return StopEvent(result=db.execute("select ?", (answer.text,)).fetchone()[0])

    workflow = Asks()
    with SeededRuntime(1) as runtime:
        handler = workflow.run()
        runtime.run_until_idle()
        data = handler.ctx.snapshot()
        assert b"sqlite" not in data
    assert log == ["open", "close"]
    with SeededRuntime(2):
        handler = workflow.run(ctx=Context.restore(workflow, data))
        handler.send_event(HumanResponseEvent(text="yes"))
        assert handler.result() == "yes"
    assert log == ["open", "close"] * 2


@pytest.mark.parametrize("scope", ["run", "workflow"])
@pytest.mark.parametrize("is_async", [False, True])
def test_what_many_ask_for_at_once_is_opened_once(flow: Flavour, scope: Scope, is_async: bool) -> None:
    """On every schedule the others wait for the one that opens it, and all are given the same object."""

    def test(runtime: SeededRuntime) -> None:
        opened: list[object] = []

        def slow() -> object:
            opened.append(object())
            return opened[-1]

        async def async_slow() -> object:
            await asyncio.sleep(1)
            return slow()

        def nested(inner: Annotated[object, Resource(async_slow if is_async else slow, scope=scope)]) -> object:
            return inner

        class Many(Workflow):
            @flow.step
            async def start(self, ctx: Context, ev: StartEvent) -> Item | None:
                for n in range(4):
                    ctx.send_event(Item(n=n))
                return None

            @flow.step(num_workers=4)
            async def one(
                self, ctx: Context, ev: Item, it: Annotated[object, Resource(nested, scope=scope)]
            ) -> StopEvent | None:
                assert it is opened[-1]
                got = await flow(ctx.collect_events(ev, {Item: 4}))
                return StopEvent() if got else None

        workflow = Many()
        handlers = [workflow.run(), workflow.run()] if scope == "workflow" else [workflow.run()]
        for handler in handlers:
            handler.result()
        assert len(opened) == 1

    explore(test, range(12))


def test_those_who_wait_get_the_error_of_the_one_that_opens(flow: Flavour) -> None:
    """They do not try one after the other, which would take as many times as long; each step may retry."""
    calls: list[int] = []

    async def fails() -> str:
        await asyncio.sleep(1)
        calls.append(1)
        raise ConnectionError("nobody there")

    class Many(Workflow):
        @flow.step
        async def one(self, ev: StartEvent, it: Annotated[str, Resource(fails)]) -> StopEvent:
            return StopEvent()

    workflow = Many()
    with SeededRuntime(1):
        handlers = [workflow.run() for _ in range(5)]
        for handler in handlers:
            with pytest.raises(ConnectionError, match="nobody there"):
                handler.result()
        assert len(calls) == 1
        with pytest.raises(ConnectionError):
            workflow.run().result()
        assert len(calls) == 2


def test_those_who_wait_open_it_themselves_if_the_one_that_opens_is_cancelled() -> None:
    """The cancel of one run is no error of another's."""
    calls: list[int] = []

    async def slow() -> AsyncIterator[str]:
        calls.append(1)
        await asyncio.sleep(10)
        yield "it"

    class Uses(aio.Workflow):
        @step
        async def work(self, ev: StartEvent, it: Annotated[str, Resource(slow)]) -> StopEvent:
            return StopEvent(result=it)

    async def test(runtime: SeededRuntime) -> None:
        calls.clear()
        workflow = Uses()
        first = workflow.run()
        while not calls:
            await asyncio.sleep(1)
        second = workflow.run()
        await asyncio.sleep(1)
        await first.cancel_run()
        assert await second == "it"
        assert len(calls) == 2

    explore(test, range(10))


def test_a_run_that_is_cancelled_while_it_opens_leaves_nothing_open(flow: Flavour) -> None:
    """On every schedule, whatever has been opened is closed."""

    def test(runtime: SeededRuntime) -> None:
        open_now: list[str] = []

        def sync_one() -> Iterator[None]:
            open_now.append("sync")
            try:
                yield
            finally:
                open_now.remove("sync")

        async def async_one(one: Annotated[None, Resource(sync_one, scope="run")]) -> AsyncIterator[None]:
            await asyncio.sleep(0.001)
            open_now.append("async")
            try:
                yield
            finally:
                await asyncio.sleep(0.001)
                open_now.remove("async")

        class Uses(Workflow):
            @flow.step
            async def work(
                self,
                ctx: Context,
                ev: StartEvent,
                one: Annotated[None, Resource(async_one, scope="run")],
                two: Annotated[None, Resource(async_one, cache=False)],
                three: Annotated[None, Resource(sync_one, cache=False)],
            ) -> StopEvent:
                await flow(ctx.wait_for_event(HumanResponseEvent))
                return StopEvent()

        handler = Uses().run()
        runtime.advance(runtime.seed * 0.001)
        handler.cancel_run()
        runtime.run_until_idle()
        runtime.advance(10)
        assert open_now == []

    explore(test, range(40))


def test_a_factory_that_blocks_does_not_hold_up_the_event_loop() -> None:
    """A plain factory of an async step runs on a thread of the pool, and so does what closes it."""
    threads: list[str] = []
    inside, go_on = threading.Event(), threading.Event()

    def blocking() -> Iterator[str]:
        threads.append(threading.current_thread().name)
        inside.set()
        assert go_on.wait(DEADLINE)
        yield "it"
        threads.append(threading.current_thread().name)

    class Uses(Workflow):
        @step
        async def slow(self, ev: StartEvent, it: Annotated[str, Resource(blocking, cache=False)]) -> StopEvent:
            threads.append(threading.current_thread().name)
            return StopEvent(result=it)

    class Quick(Workflow):
        @step
        async def quick(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result="quick")

    handler = Uses().run()
    assert inside.wait(DEADLINE)
    assert Quick().run().result(DEADLINE) == "quick"
    go_on.set()
    assert handler.result(DEADLINE) == "it"
    assert threads[1] == "greenroom-loop"
    assert "greenroom-loop" not in (threads[0], threads[2])


def test_a_plain_factory_of_a_def_step_runs_in_its_thread_with_its_variables() -> None:
    """So a factory may set a variable, or open what belongs to a thread, and the step finds it."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    def sets() -> Iterator[str]:
        found = variable.get()
        token = variable.set("by the factory")
        yield f"{found} {threading.get_ident()}"
        variable.reset(token)

    class Uses(Workflow):
        @step
        def work(self, ev: StartEvent, it: Annotated[str, Resource(sets, cache=False)]) -> StopEvent:
            assert it == f"by the caller {threading.get_ident()}"
            return StopEvent(result=variable.get())

    token = variable.set("by the caller")
    try:
        assert Uses().run().result(DEADLINE) == "by the factory"
    finally:
        variable.reset(token)


@pytest.mark.parametrize("scope", SCOPES)
def test_factories_see_the_variables_of_the_caller(flow: Flavour, scope: Scope) -> None:
    """Whichever thread or task calls them, and when they are left as well."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    seen: list[str] = []

    def sync_one() -> Iterator[str]:
        token = variable.set(variable.get() + "!")
        yield variable.get()
        seen.append(variable.get())
        variable.reset(token)

    async def async_one() -> AsyncIterator[str]:
        token = variable.set(variable.get() + "?")
        yield variable.get()
        seen.append(variable.get())
        variable.reset(token)

    class Uses(Workflow):
        @flow.step
        async def work(
            self,
            ev: StartEvent,
            two: Annotated[str, Resource(async_one, scope=scope)],
            one: Annotated[str, Resource(sync_one, scope=scope)],
        ) -> StopEvent:
            return StopEvent(result=[one, two])

    token = variable.set("caller")
    try:
        with Uses() as workflow:
            assert workflow.run().result(DEADLINE) == ["caller!", "caller?"]
    finally:
        variable.reset(token)
    assert seen == ["caller!", "caller?"]


@pytest.mark.parametrize("scope", SCOPES)
def test_an_async_resource_is_entered_and_left_by_one_task(flow: Flavour, scope: Scope) -> None:
    """As task groups and cancel scopes demand."""
    tasks: list[Any] = []

    async def group() -> AsyncIterator[str]:
        async with asyncio.TaskGroup() as tasks_of_mine, asyncio.timeout(DEADLINE):
            waiting = tasks_of_mine.create_task(asyncio.sleep(DEADLINE))
            tasks.append(asyncio.current_task())
            yield "it"
            tasks.append(asyncio.current_task())
            waiting.cancel()

    class Uses(Workflow):
        @flow.step
        async def work(self, ev: StartEvent, it: Annotated[str, Resource(group, scope=scope)]) -> StopEvent:
            return StopEvent(result=it)

    with Uses() as workflow:
        assert workflow.run().result(DEADLINE) == "it"
    assert tasks[0] is tasks[1]


@pytest.mark.parametrize("fails", [False, True])
def test_the_result_comes_when_the_run_has_closed_what_it_opened(flow: Flavour, fails: bool) -> None:
    """Whoever has the result may look at what the resources left, as at a file that is written."""
    closing, go_on = threading.Event(), threading.Event()

    def slow() -> Iterator[str]:
        yield "it"
        closing.set()
        assert go_on.wait(DEADLINE)

    class Uses(Workflow):
        @flow.step
        async def work(self, ev: StartEvent, it: Annotated[str, Resource(slow, scope="run")]) -> StopEvent:
            if fails:
                raise ValueError("no")
            return StopEvent(result=it)

    handler = Uses().run()
    assert closing.wait(DEADLINE)
    assert not handler.done()
    go_on.set()
    assert isinstance(handler.exception(DEADLINE), ValueError if fails else type(None))


@pytest.mark.parametrize("kind", ["generator", "async generator"])
def test_a_workflow_that_nobody_holds_is_closed(flow: Flavour, log: Log, kind: str) -> None:
    """One that is made for a single run, as in a web view, leaves nothing open."""
    factory = log.factory(kind)

    class Uses(Workflow):
        @flow.step
        async def work(self, ev: StartEvent, it: Annotated[str, Resource(factory)]) -> StopEvent:
            return StopEvent(result=it)

    assert Uses().run().result(DEADLINE) == "it"

    def is_closed() -> bool:
        gc.collect()
        return log == ["open it", "close it"]

    assert wait_until(is_closed, DEADLINE)


@pytest.mark.parametrize("kind", ["generator", "async generator"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_end_of_the_runtime_closes_what_workflows_have_open(
    flow: Flavour, log: Log, kind: str, fails: bool
) -> None:
    """And another runtime opens its own: what belongs to an event loop stays with it."""
    factory = log.factory(kind)

    class Uses(Workflow):
        @flow.step
        async def work(self, ev: StartEvent, it: Annotated[str, Resource(factory)]) -> StopEvent:
            return StopEvent(result=it)

    workflow = Uses()
    with contextlib.suppress(KeyError), Runtime():
        workflow.run().result(DEADLINE)
        if fails:
            raise KeyError
    assert log == ["open it", "close it"]
    with Runtime():
        workflow.run().result(DEADLINE)
        workflow.run().result(DEADLINE)
        assert log == ["open it", "close it", "open it"]
    assert log == ["open it", "close it"] * 2


def test_a_seeded_runtime_closes_what_workflows_have_open(flow: Flavour, log: Log) -> None:
    """At its end, as any runtime."""

    async def slow() -> AsyncIterator[str]:
        log.append("open")
        yield "it"
        await asyncio.sleep(1)
        log.append("close")

    class Uses(Workflow):
        @flow.step
        async def work(self, ev: StartEvent, it: Annotated[str, Resource(slow)]) -> StopEvent:
            return StopEvent(result=it)

    workflow = Uses()
    with SeededRuntime(1):
        workflow.run().result()
    assert log == ["open", "close"]


@pytest.mark.parametrize("kind", ["generator", "async generator"])
def test_closing_a_workflow_waits_for_the_steps_that_use_it(flow: Flavour, log: Log, kind: str) -> None:
    """What a step at work uses is closed when that has ended, and not under it; others open their own meanwhile."""
    factory = log.factory(kind)
    working, go_on = threading.Event(), threading.Event()

    class Uses(Workflow):
        @flow.step
        async def work(self, ev: StartEvent, it: Annotated[str, Resource(factory)]) -> StopEvent:
            if ev.get("waits"):
                working.set()
                await flow.until(go_on)
                log.append("ended")
            return StopEvent(result=it)

    workflow = Uses()
    handler = workflow.run(waits=True)
    assert working.wait(DEADLINE)
    workflow.close()
    assert log == ["open it"]
    workflow.run().result(DEADLINE)
    workflow.close()
    assert log == ["open it", "open it", "close it"]
    go_on.set()
    handler.result(DEADLINE)
    assert wait_until(lambda: log == ["open it", "open it", "close it", "ended", "close it"], DEADLINE)


def test_an_async_program_closes_a_workflow() -> None:
    """`async with` on a workflow of `greenroom.aio`, also where its steps run on the program's own loop."""
    log = Log()
    factory = log.factory("async generator")

    class Uses(aio.Workflow):
        @step
        async def work(self, ev: StartEvent, it: Annotated[str, Resource(factory)]) -> StopEvent:
            return StopEvent(result=it)

    async def main(runtime: Runtime) -> None:
        async with Uses(runtime=runtime) as workflow:
            assert await workflow.run() == "it"
            assert log == ["open it"]
        assert log == ["open it", "close it"]

    async def on_own_loop() -> None:
        runtime = Runtime(loop=asyncio.get_running_loop())
        await main(runtime)
        runtime.shutdown(timeout=1.0)

    with Runtime() as runtime:
        asyncio.run(main(runtime))
    log.clear()
    asyncio.run(on_own_loop())


def test_a_lock_is_handed_over_and_not_held(flow: Flavour) -> None:
    """It is a context manager, but what steps want is the lock; and what a factory yields is never entered."""
    entered: list[str] = []

    class Client:
        def __enter__(self) -> str:
            entered.append("entered")
            return "inner"

        def __exit__(self, *error: object) -> None:
            """Nothing to do."""

    def client() -> Iterator[Client]:
        yield Client()

    class Uses(Workflow):
        @flow.step
        async def work(
            self,
            ev: StartEvent,
            lock: Annotated[Any, Resource(threading.Lock)],
            it: Annotated[Client, Resource(client)],
        ) -> StopEvent:
            assert isinstance(it, Client)
            return StopEvent(result=lock.locked())

    assert Uses().run().result(DEADLINE) is False
    assert not entered


def test_a_context_manager_that_is_open_already_is_yielded(flow: Flavour) -> None:
    """Returned, it is entered a second time, and says so itself; returned unopened, it is opened and closed."""
    told: list[str] = []

    class Client:
        async def __aenter__(self) -> "Client":
            if told[-1:] == ["opened"]:
                raise RuntimeError("cannot be opened twice")
            told.append("opened")
            return self

        async def __aexit__(self, *error: object) -> None:
            told.append("closed")

    async def returned() -> Client:
        return await Client().__aenter__()

    async def yielded() -> AsyncIterator[Client]:
        async with Client() as client:
            yield client

    async def unopened() -> Client:
        return Client()

    def result_with(factory: Callable[..., Any]) -> Any:
        class Uses(Workflow):
            @flow.step
            async def work(self, ev: StartEvent, it: Annotated[Client, Resource(factory, scope="run")]) -> StopEvent:
                return StopEvent(result=isinstance(it, Client))

        return Uses().run().result(DEADLINE)

    for factory in (yielded, unopened):
        assert result_with(factory) is True
    assert told == ["opened", "closed"] * 2
    with pytest.raises(RuntimeError, match="cannot be opened twice"):
        result_with(returned)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_opens_its_own_and_leaves_its_parents_alone(log: Log) -> None:
    """A connection of the parent's is not used or closed in the child."""

    def connect() -> Iterator[int]:
        log.append(f"open in {os.getpid()}")
        yield os.getpid()
        log.append(f"close in {os.getpid()}")

    class Uses(Workflow):
        @step
        def work(self, ev: StartEvent, it: Annotated[int, Resource(connect)]) -> StopEvent:
            return StopEvent(result=it)

    parent = os.getpid()
    with Uses() as workflow:
        assert workflow.run().result(DEADLINE) == parent
        child = os.fork()
        if child == 0:
            code = 1
            try:
                workflow.close()  # It closes nothing: what is open is the parent's.
                own = workflow.run().result(DEADLINE) == os.getpid()
                workflow.close()
                mine = [f"open in {parent}", f"open in {os.getpid()}", f"close in {os.getpid()}"]
                code = 0 if own and log == mine else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert log == [f"open in {parent}", f"close in {parent}"]


def test_a_step_that_forgets_its_resources_lets_them_go() -> None:
    """Nothing of an invocation is kept alive by what is shared."""

    class Payload:
        pass

    seen: list[Any] = []

    async def shared() -> AsyncIterator[str]:
        yield "it"

    class Uses(Workflow):
        @step
        async def work(self, ev: StartEvent, it: Annotated[str, Resource(shared)]) -> StopEvent:
            seen.append(weakref.ref(ev.payload))
            return StopEvent()

    with Uses() as workflow:
        workflow.run(payload=Payload()).result(DEADLINE)

        def is_gone() -> bool:
            gc.collect()
            return seen[0]() is None

        assert wait_until(is_gone, DEADLINE)


def test_the_traceback_of_a_step_shows_no_frame_of_ours(flow: Flavour, log: Log) -> None:
    """It begins with the user's own line, for an error of the step and of a factory alike."""
    factory = log.factory("async generator")

    def fails(it: Annotated[str, Resource(factory, cache=False)]) -> str:
        raise ValueError("factory")

    class Uses(Workflow):
        @flow.step
        async def work(self, ev: StartEvent, it: Annotated[str, Resource(factory, cache=False)]) -> Item:
            if ev.get("fails"):
                raise ValueError("step")
            return Item()

        @flow.step
        async def second(self, ev: Item, it: Annotated[str, Resource(fails, cache=False)]) -> StopEvent:
            return StopEvent()

    for options in {"fails": True}, {}:
        error = Uses().run(**options).exception(DEADLINE)
        assert isinstance(error, ValueError)
        trace = error.__traceback__
        names = []
        while trace is not None:
            names.append(trace.tb_frame.f_code.co_filename)
            trace = trace.tb_next
        assert not [name for name in names if name.endswith(("actors/step.py", "actors/resources.py"))]


def test_resources_after_the_shutdown_are_refused(log: Log) -> None:
    """A body that is left over from an ended runtime opens nothing that nobody would close."""
    factory = log.factory("generator")
    in_first, go_on = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def first() -> str:
        in_first.set()
        assert go_on.wait(DEADLINE)
        return "first"

    def second(it: Annotated[str, Resource(factory)]) -> str:
        return it

    class Uses(Workflow):
        @step
        def work(
            self,
            ev: StartEvent,
            one: Annotated[str, Resource(first, scope="invocation")],
            two: Annotated[str, Resource(second, scope="invocation")],
        ) -> StopEvent:
            errors.append(AssertionError("it ran"))
            return StopEvent()

    runtime = Runtime()
    handler = Uses(runtime=runtime).run()
    assert in_first.wait(DEADLINE)
    runtime.shutdown(timeout=0)
    with pytest.raises(RuntimeShutdownError):
        handler.result(DEADLINE)
    go_on.set()
    assert wait_until(lambda: not [t for t in threading.enumerate() if t.name.endswith("/work")], DEADLINE)
    assert log == []
    assert errors == []


def test_what_a_run_depends_on_stays_open_as_long_as_the_run(flow: Flavour, log: Log) -> None:
    """Closing the workflow between two steps of a run does not close what the run's own resource stands on."""
    pool = log.factory("async generator", "pool")
    between, go_on = threading.Event(), threading.Event()

    def session(pool: Annotated[str, Resource(pool)]) -> Iterator[str]:
        log.append("open session")
        yield f"session of {pool}"
        log.append("close session")

    class Uses(Workflow):
        @flow.step
        async def first(self, ev: StartEvent, it: Annotated[str, Resource(session, scope="run")]) -> Item:
            return Item()

        @flow.step
        async def wait(self, ev: Item) -> HumanResponseEvent:
            between.set()
            await flow.until(go_on)
            return HumanResponseEvent()

        @flow.step
        async def last(self, ev: HumanResponseEvent, it: Annotated[str, Resource(session, scope="run")]) -> StopEvent:
            return StopEvent(result=it)

    workflow = Uses()
    handler = workflow.run()
    assert between.wait(DEADLINE)
    workflow.close()
    assert log == ["open pool", "open session"]
    go_on.set()
    assert handler.result(DEADLINE) == "session of pool"
    assert wait_until(lambda: log == ["open pool", "open session", "close session", "close pool"], DEADLINE)


def test_the_end_of_a_runtime_waits_for_what_is_being_closed(log: Log) -> None:
    """Another thread may be at it; the event loop does not end under it."""
    closing, go_on = threading.Event(), threading.Event()

    async def slow() -> AsyncIterator[str]:
        yield "it"
        closing.set()
        await asyncio.to_thread(go_on.wait, DEADLINE)
        log.append("closed")

    class Uses(Workflow):
        @step
        def work(self, ev: StartEvent, it: Annotated[str, Resource(slow)]) -> StopEvent:
            return StopEvent(result=it)

    with Runtime():
        workflow = Uses()
        workflow.run().result(DEADLINE)
        closer = threading.Thread(target=workflow.close)
        closer.start()
        assert closing.wait(DEADLINE)
        releaser = threading.Timer(0.05, go_on.set)
        releaser.start()
    assert log == ["closed"]
    closer.join(DEADLINE)
    releaser.join(DEADLINE)


def test_a_single_thread_is_enough(log: Log) -> None:
    """A body that waits for what another opens leaves its place to the factory."""
    inside, go_on = threading.Event(), threading.Event()

    def base() -> str:
        log.append("base")
        return "base"

    async def slow(base: Annotated[str, Resource(base)]) -> str:
        inside.set()
        await asyncio.to_thread(go_on.wait, DEADLINE)
        return base

    def dependent(slow: Annotated[str, Resource(slow)], base: Annotated[str, Resource(base)]) -> str:
        return f"{slow} {base}"

    class Async(Workflow):
        @step
        async def work(self, ev: StartEvent, it: Annotated[str, Resource(dependent)]) -> StopEvent:
            return StopEvent(result=it)

    class Blocking(Workflow):
        @step
        def work(self, ev: StartEvent, it: Annotated[str, Resource(dependent)]) -> StopEvent:
            return StopEvent(result=it)

    with Runtime(max_threads=1):
        first = Async()
        second = Blocking(resource_manager=first.resource_manager)
        handlers = [first.run()]
        assert inside.wait(DEADLINE)
        handlers += [second.run() for _ in range(3)]
        assert wait_until(lambda: all(handler.ctx.running_steps() for handler in handlers), DEADLINE)
        go_on.set()
        assert [handler.result(DEADLINE) for handler in handlers] == ["base base"] * 4
    assert log == ["base"]


def test_steps_that_take_many_events_or_failures_have_resources(flow: Flavour, log: Log) -> None:
    """A step of a list, and one that catches errors, as any other."""
    factory = log.factory("generator")

    class Many(Workflow):
        @flow.step
        async def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=1), Item(n=2)]

        @flow.step
        async def join(self, items: list[Item], it: Annotated[str, Resource(factory, cache=False)]) -> StopEvent:
            raise ValueError(f"{it} {sum(item.n for item in items)}")

        @catch_error
        def caught(self, ev: StepFailedEvent, it: Annotated[str, Resource(factory, cache=False)]) -> StopEvent:
            return StopEvent(result=f"caught with {it}: {ev.exception}")

    assert Many().run().result(DEADLINE) == "caught with it: it 3"
    assert log == ["open it", "close it"] * 2


@pytest.mark.parametrize("kind", ["generator", "async generator"])
def test_a_run_that_rests_in_a_store_closes_what_it_had_open(flow: Flavour, log: Log, kind: str) -> None:
    """It leaves memory, and its resources with it; it opens others when it is woken."""
    of_run, own = log.factory(kind, "of run"), log.factory(kind, "own")

    class Asks(Workflow):
        @flow.step
        async def ask(
            self,
            ctx: Context,
            ev: StartEvent,
            run: Annotated[str, Resource(of_run, scope="run")],
            it: Annotated[str, Resource(own, cache=False)],
        ) -> StopEvent:
            answer = await flow(ctx.wait_for_event(HumanResponseEvent))
            return StopEvent(result=answer.text)

    once = ["open of run", "open own", "close own", "close of run"]
    with Runtime(store=MemoryStore(), idle_timeout=0.0):
        handler = Asks().run()
        assert wait_until(lambda: log == once, DEADLINE)
        handler.send_event(HumanResponseEvent(text="yes"))
        assert handler.result(DEADLINE) == "yes"
    assert log == once * 2

"""Runs that a store keeps: they outlive their process, are found by their id, and are done by one process at a time."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from greenroom import (
    Context,
    Event,
    Handler,
    HumanResponseEvent,
    InputRequiredEvent,
    Runtime,
    RuntimeShutdownError,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowRuntimeError,
    aio,
    step,
)
from greenroom.codec import UnreconstructedException
from greenroom.errors import (
    ContextSerdeError,
    InputAnsweredError,
    InvalidResponseError,
    LeaseLostError,
    RunHeldError,
    StoreError,
    StoreUnavailableError,
    WorkflowCancelledByUser,
)
from greenroom.inbox import post_answer, post_fields
from greenroom.named import registry_of
from greenroom.retry import retry_if_exception_type, retry_policy, stop_after_attempt, wait_fixed
from greenroom.stores import Commit, MemoryStore, RunStore, SQLiteStore
from tests.support import durable_flows
from tests.support.flavours import DEADLINE


class Ask(InputRequiredEvent):
    n: int


class Answer(HumanResponseEvent):
    n: int


class Item(Event):
    n: int


class Tick(Event):
    n: int


effects: list[str] = []


@pytest.fixture(autouse=True)
def no_effects() -> Iterator[None]:
    effects.clear()
    yield
    effects.clear()


def effect(text: str) -> str:
    effects.append(text)
    return text


class Approval(Workflow):
    """Does something once, asks, and streams."""

    @step
    def begin(self, ctx: Context, ev: StartEvent) -> Item:
        ctx.once("begin", effect, "begin")
        ctx.write_event_to_stream(Tick(n=1))
        ctx.store.set("n", 41)
        return Item(n=ev.n)

    @step
    async def ask(self, ctx: aio.Context, ev: Item) -> StopEvent:
        answer = await ctx.ask(Ask(n=ev.n), Answer)
        return StopEvent(result=(ev.n + answer.n, await ctx.store.get("n")))


def asked(handler: Handler) -> str:
    """Wait for a run's question, and return its id."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        pending = handler.pending_inputs()
        if pending:
            return pending[0].input_id
        handler.exception(0) if handler.done() else None
    raise AssertionError("nothing was asked")


def test_a_run_ends_as_without_a_store(make_store: Callable[[], RunStore], durability: Any) -> None:
    """With the same result, stream and status; its row says so."""
    store = make_store()
    with Runtime(store=store, durability=durability):
        handler = Approval().run(run_id="one", n=1)
        handler.respond(asked(handler), {"n": 2})
        assert handler.result(DEADLINE) == (3, 41)
        assert [type(event).__name__ for event in handler.stream_events()] == ["Tick", "Ask", "StopEvent"]
        row = store.row("one")
        assert row is not None
        assert row.status == "completed"


def test_a_run_that_begins_while_the_runtime_ends_is_told_so() -> None:
    """Not that the store was closed under it, which is none of its caller's business."""

    class Closing(MemoryStore):
        def commit(self, commits: Sequence[Commit]) -> list[StoreError | None]:
            if any(commit.new is not None for commit in commits):
                runtime.shutdown(0.0)
                raise StoreError("closed")
            return super().commit(commits)

    runtime = Runtime(store=Closing())
    with pytest.raises(RuntimeShutdownError):
        durable_flows.Reviews(runtime=runtime).run(text="x")


def test_a_run_is_given_back_at_shutdown_and_goes_on_in_another_process(
    make_store: Callable[[], RunStore], durability: Any
) -> None:
    """Whoever waits here is told so; nothing of it is lost, and nothing that was done once is done again."""
    with Runtime(store=make_store(), durability=durability):
        first = Approval().run(run_id="one", n=1)
        question = asked(first)
    with pytest.raises(RuntimeShutdownError):
        first.result(DEADLINE)
    with Runtime(store=make_store(), durability=durability) as runtime:
        runtime.recover([Approval])
        handler = runtime.get("one")
        assert handler is not None
        assert [pending.input_id for pending in runtime.pending_inputs()] == [question]
        handler.respond(question, Answer(n=5))
        assert handler.result(DEADLINE) == (6, 41)
        assert [type(event).__name__ for event in handler.stream_events(after=-1)] == ["Tick", "Ask", "StopEvent"]
        assert [type(event).__name__ for event in handler.stream_events(after=0)] == ["Ask", "StopEvent"]
    assert effects == ["begin"]
    with Runtime(store=make_store()) as runtime:
        runtime.recover([Approval()])
        ended = runtime.get("one")
        assert ended is not None
        assert ended.result(DEADLINE) == (6, 41)
        assert ended.status == "completed"
        assert [type(event).__name__ for event in ended.stream_events(after=-1)] == ["Tick", "Ask", "StopEvent"]


def test_the_same_id_is_the_same_run(make_store: Callable[[], RunStore]) -> None:
    """While it goes on, from many threads at once, and after its end in another process."""
    with Runtime(store=make_store()) as runtime:
        handlers: list[Handler] = []
        threads = [
            threading.Thread(target=lambda: handlers.append(Approval(runtime=runtime).run(run_id="one", n=1)))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({id(handler) for handler in handlers}) == 1
        handlers[0].respond(asked(handlers[0]), {"n": 2})
        assert handlers[0].result(DEADLINE) == (3, 41)
        assert Approval().run(run_id="one", n=99).result(DEADLINE) == (3, 41)

        class Other(Workflow):
            @step
            def begin(self, ev: StartEvent) -> StopEvent:
                return StopEvent()

        with pytest.raises(WorkflowRuntimeError, match="is of"):
            Other().run(run_id="one")
    assert effects == ["begin"]
    with Runtime(store=make_store()):
        assert Approval().run(run_id="one", n=99).result(DEADLINE) == (3, 41)


def test_a_run_that_idles_leaves_memory_and_comes_back_for_an_answer(make_store: Callable[[], RunStore]) -> None:
    """Its handler stays good, and what it waits for finds it."""
    with Runtime(store=make_store(), idle_timeout=0.0) as runtime:
        handler = Approval().run(run_id="one", n=1)
        until(lambda: "one" not in runtime.runs and handler.supervisor is None)
        question = handler.pending_inputs()[0].input_id
        until(lambda: handler.supervisor is None)
        handler.respond(question, {"n": 3})
        assert handler.result(DEADLINE) == (4, 41)
        assert [type(event).__name__ for event in handler.stream_events()] == ["Tick", "Ask", "StopEvent"]
    assert effects == ["begin"]


def test_a_run_at_rest_is_woken_by_its_timer(make_store: Callable[[], RunStore]) -> None:
    """A wait's timeout, and an event that was sent with a delay."""

    class Sleeps(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> None:
            ctx.send_event(Item(n=1), delay=0.6)

        @step
        def wake(self, ctx: Context, ev: Item) -> StopEvent:
            try:
                ctx.wait_for_event(Answer, timeout=0.6)
            except TimeoutError:
                return StopEvent(result="late")
            return StopEvent()

    with Runtime(store=make_store(), idle_timeout=0.0) as runtime:
        handler = Sleeps(skip_graph_checks=["reachability", "dead_end"], disable_validation=True).run(run_id="one")
        until(lambda: handler.supervisor is None)
        assert handler.result(DEADLINE) == "late"
        assert runtime.get("one") is not None


def test_a_sleep_outlives_the_process(make_store: Callable[[], RunStore], durability: Any) -> None:
    """It ends at its time, in def and async steps, whether the run is at rest or at work then."""

    class Sleeps(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> Item:
            ctx.once("before", effect, "before")
            ctx.sleep(0.4)
            ctx.once("between", effect, "between")
            return Item(n=1)

        @step
        async def go_on(self, ctx: aio.Context, ev: Item) -> StopEvent:
            await ctx.sleep(until=datetime.now(UTC) + timedelta(seconds=0.4))
            return StopEvent(result="rested")

    with Runtime(store=make_store(), durability=durability, idle_timeout=0.0):
        handler = Sleeps().run(run_id="one")
        until(lambda: effects and handler.supervisor is None)
    with Runtime(store=make_store(), durability=durability) as runtime:
        runtime.recover([Sleeps])
        again = runtime.get("one")
        assert again is not None
        assert again.result(DEADLINE) == "rested"
    assert effects == ["before", "between"]


def test_what_cannot_be_written_is_refused_when_it_is_emitted(make_store: Callable[[], RunStore]) -> None:
    """With its path; the run fails as by any other error of the step."""

    class Sends(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            if ev.how == "send":
                ctx.send_event(Item(n=1, conn=threading.Lock()))
            if ev.how == "store":
                ctx.store.set("conn", threading.Lock())
            if ev.how == "once":
                ctx.once("key", threading.Lock)
            return StopEvent(result=threading.Lock())

        @step
        def take(self, ev: Item) -> StopEvent:
            return StopEvent()

    with Runtime(store=make_store()):
        for how in ("send", "store", "once", "return"):
            with pytest.raises(ContextSerdeError, match="lock is not"):
                Sends(disable_validation=True).run(how=how).result(DEADLINE)
        with pytest.raises(ContextSerdeError, match=r"event\.conn: _thread\.lock"):
            Approval().run(n=1, conn=threading.Lock())


def test_a_retry_delay_outlives_the_process(make_store: Callable[[], RunStore]) -> None:
    """The attempt that failed is counted, and the next begins when its time has come."""
    numbers: list[int] = []

    class Retries(Workflow):
        @step(retry_policy=retry_policy(wait=wait_fixed(0.3), stop=stop_after_attempt(3)))
        def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            numbers.append(ctx.retry_info().retry_number)
            if len(numbers) < 3:
                raise ValueError(len(numbers))
            return StopEvent(result=numbers)

    runtime = Runtime(store=make_store())
    with runtime:
        Retries().run(run_id="one")
        until(lambda: len(numbers) == 1)
        runtime.shutdown(timeout=0.0)
    with Runtime(store=make_store()) as again:
        again.recover([Retries])
        handler = again.get("one")
        assert handler is not None
        assert handler.result(DEADLINE) == [0, 1, 2]


class Refused(Exception):
    """An error of the user's own, that the code of a step names."""


@pytest.mark.parametrize("error", [Refused("no"), json.JSONDecodeError("no", "{", 1)], ids=["own", "of a library"])
def test_a_retry_that_was_granted_is_not_taken_back(make_store: Callable[[], RunStore], error: Exception) -> None:
    """What a policy said of a failure is in the journal: it is not asked again when the process has died."""
    numbers: list[int] = []

    class Retries(Workflow):
        @step(
            retry_policy=retry_policy(
                retry=retry_if_exception_type((Refused, json.JSONDecodeError)),
                wait=wait_fixed(0.3),
                stop=stop_after_attempt(3),
            )
        )
        def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            numbers.append(ctx.retry_info().retry_number)
            if len(numbers) < 3:
                raise error
            return StopEvent(result=numbers)

    runtime = Runtime(store=make_store())
    with runtime:
        Retries().run(run_id="one")
        until(lambda: len(numbers) == 1)
        runtime.shutdown(timeout=0.0)
    with Runtime(store=make_store()) as again:
        again.recover([Retries])
        handler = again.get("one")
        assert handler is not None
        assert handler.result(DEADLINE) == [0, 1, 2]


def test_a_result_that_is_an_error_is_of_its_class_again(make_store: Callable[[], RunStore]) -> None:
    """Greenroom's errors, Python's, and those that the code names; of others their class and message are told."""

    class Fails(Workflow):
        @step
        def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            match ev.how:
                case "own":
                    raise Refused("no")
                case "python":
                    raise ValueError("no")
                case "library":
                    json.loads("{")
                case "timeout":
                    ctx.wait_for_event(Answer, timeout=0)
                case "wrong":
                    return None  # type: ignore[return-value]
                case _:
                    ctx.wait_for_event(Answer)
            raise AssertionError

    with Runtime(store=make_store()) as runtime:
        handlers = {how: Fails().run(run_id=how, how=how) for how in ("own", "python", "library", "timeout", "wrong")}
        handlers["cancelled"] = Fails().run(run_id="cancelled", how="cancelled")
        handlers["cancelled"].cancel_run()
        before = {how: handler.exception(DEADLINE) for how, handler in handlers.items()}
    with Runtime(store=make_store()) as runtime:
        runtime.recover([Fails])
        after = {how: handler.exception(DEADLINE) for how in before if (handler := runtime.get(how)) is not None}
    stands_for = after.pop("library")
    assert isinstance(stands_for, UnreconstructedException)
    assert str(stands_for) == f"json.decoder:JSONDecodeError: {before.pop('library')}"
    assert {how: repr(error) for how, error in after.items()} == {how: repr(error) for how, error in before.items()}
    assert {how: type(error) for how, error in after.items()} == {how: type(error) for how, error in before.items()}


def test_two_runtimes_may_share_a_store(make_store: Callable[[], RunStore]) -> None:
    """The store is closed after the last of them, and opened again for the next."""
    store = make_store()
    first, second = Runtime(store=store), Runtime(store=store)
    first.shutdown()
    with second:
        handler = Approval().run(run_id="one", n=1)
        handler.respond(asked(handler), {"n": 2})
        assert handler.result(DEADLINE) == (3, 41)
    with Runtime(store=store):
        assert Approval().run(run_id="one").result(DEADLINE) == (3, 41)


@pytest.mark.parametrize("store", ["runs.db", Path("runs.db"), SQLiteStore, MemoryStore, 5])
def test_what_is_no_store_is_refused(store: Any) -> None:
    """A path is none, nor is the class of a store."""
    with pytest.raises(WorkflowRuntimeError, match=r"Runtime\(store=...\) takes a store, such as SQLiteStore"):
        Runtime(store=store)


class Needs(Workflow):
    """A workflow that is made with something."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    @step
    def tell(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=self.what)


class Forgets(Needs):
    """A workflow that is not made as it must be."""

    def __init__(self) -> None:
        pass


@pytest.mark.parametrize(
    ("workflows", "message"),
    [
        (Needs, "takes a list of workflows"),
        (Needs("a"), "takes a list of workflows"),
        ([Needs], r"makes Needs\(\) without arguments, and that failed: .* 'what'. Give it an object"),
        ([Forgets], r"Forgets.__init__ must call super\(\).__init__\(\)"),
        ([Needs("a"), Needs("b")], "two workflows of the name .*Needs"),
        (["Needs"], "takes workflows and classes of them, not 'Needs'"),
        ([dict], "takes workflows and classes of them, not <class 'dict'>"),
    ],
)
def test_what_cannot_be_recovered_is_told(workflows: Any, message: str) -> None:
    """recover() itself raises, and says what to give it."""
    with Runtime(store=MemoryStore()) as runtime, pytest.raises(WorkflowRuntimeError, match=message):
        runtime.recover(workflows)


def test_a_cancelled_run_stays_cancelled(make_store: Callable[[], RunStore]) -> None:
    """Somebody's wish, unlike a shutdown, is kept."""
    with Runtime(store=make_store()) as runtime:
        handler = Approval().run(run_id="one", n=1)
        asked(handler)
        handler.cancel_run()
    with Runtime(store=make_store()) as runtime:
        assert runtime.recover([Approval]) == []
        ended = runtime.get("one")
        assert ended is not None
        assert ended.status == "cancelled"


def test_an_event_with_a_key_counts_once(make_store: Callable[[], RunStore]) -> None:
    """Also when it is sent again in another process."""

    class Counts(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> None: ...

        @step
        def take(self, ctx: Context, ev: Answer) -> StopEvent | None:
            got = ctx.collect_events(ev, [Answer, Answer])
            return StopEvent(result=[event.n for event in got]) if got else None

    workflow = Counts(disable_validation=True)
    with Runtime(store=make_store()):
        handler = workflow.run(run_id="one")
        handler.send_event(Answer(n=1), dedup_key="a")
        handler.send_event(Answer(n=1), dedup_key="a")
    with Runtime(store=make_store()) as runtime:
        runtime.recover([workflow])
        again = runtime.get("one")
        assert again is not None
        again.send_event(Answer(n=1), dedup_key="a")
        again.send_event(Answer(n=2), dedup_key="b")
        assert again.result(DEADLINE) == [1, 2]


class Breaks:
    """A store whose commits fail while it is told so."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self.broken = threading.Event()
        self.tried = threading.Semaphore(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def commit(self, commits: list[Commit]) -> Any:
        self.tried.release()
        if self.broken.is_set():
            raise StoreUnavailableError("the store is gone")
        return self._store.commit(commits)


def test_a_store_that_fails_for_a_while_delays_and_loses_nothing(make_store: Callable[[], RunStore]) -> None:
    """Nothing that follows from what is not committed is done meanwhile."""
    store = Breaks(make_store())
    with Runtime(store=store):  # type: ignore[arg-type]
        handler = Approval().run(run_id="one", n=1)
        question = asked(handler)
        store.broken.set()
        answering = threading.Thread(target=lambda: handler.respond(question, {"n": 2}))
        answering.start()
        for _ in range(3):
            assert store.tried.acquire(timeout=DEADLINE)
        assert answering.is_alive()
        assert not handler.done()
        with pytest.raises(StoreError):
            Approval().run(run_id="two", n=1)
        store.broken.clear()
        assert handler.result(DEADLINE) == (3, 41)
        answering.join(DEADLINE)


def test_a_stale_owner_s_writes_are_refused(make_store: Callable[[], RunStore]) -> None:
    """Whoever lost the run is told so, and the other goes on."""
    store = make_store()
    with Runtime(store=store, lease=600) as first:  # so that it does not renew while the test looks
        handler = Approval(runtime=first).run(run_id="one", n=1)
        question = asked(handler)
        assert first.keeper is not None
        store.resign(first.keeper.lease.owner)  # as if it had shown no sign of life
        with Runtime(store=make_store()) as second:
            (taken,) = second.recover([Approval])
            with pytest.raises(LeaseLostError):
                handler.respond(question, {"n": 9})
            with pytest.raises(LeaseLostError):
                handler.result(DEADLINE)
            taken.respond(question, {"n": 2})
            assert taken.result(DEADLINE) == (3, 41)


def test_a_run_whose_code_has_changed_is_set_aside_and_stops_no_other(make_store: Callable[[], RunStore]) -> None:
    """With the differences as the reason."""

    def versions(changed: bool) -> type[Workflow]:
        class Flow(Workflow):
            if changed:

                @step
                def start(self, ctx: Context, ev: StartEvent) -> StopEvent:
                    return StopEvent(result=ctx.ask(Ask(n=1), Answer).n)

            else:

                @step
                def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
                    return StopEvent(result=ctx.ask(Ask(n=1), Answer).n)

        return Flow

    old, new = versions(False)(workflow_name="flow"), versions(True)(workflow_name="flow")
    store = make_store()
    with Runtime(store=store):
        asked(old.run(run_id="changed"))
        asked(Approval().run(run_id="same", n=1))
    store = make_store()
    with Runtime(store=store) as runtime:
        runtime.recover([new, Approval()])
        with pytest.raises(WorkflowRuntimeError, match="cannot go on here: it is set_aside"):
            runtime.get("changed")
        row = store.row("changed")
        assert row is not None
        assert "invocation 0: step 'begin' is gone, and has StartEvent in hand" in str(row.reason)
        same = runtime.get("same")
        assert same is not None
        same.respond(asked(same), {"n": 1})
        assert same.result(DEADLINE) == (2, 41)
        with pytest.raises(WorkflowRuntimeError, match="was set aside"):
            runtime.get("changed")


def test_awaiting_works_as_well(make_store: Callable[[], RunStore]) -> None:
    """From an event loop of the user's."""

    async def main() -> Any:
        with Runtime(store=make_store(), idle_timeout=0.0):
            handler = Approval().run(run_id="one", n=1)
            while not handler.pending_inputs():
                await asyncio.sleep(0)
            handler.respond(handler.pending_inputs()[0].input_id, {"n": 2})
            return await handler

    assert asyncio.run(main()) == (3, 41)


def until(condition: Callable[[], Any]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        threading.Event().wait(0.002)


class Asks(Workflow):
    """Is run by others, and asks."""

    @step
    def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.once(f"ask {ev.n}", effect, f"ask {ev.n}")
        return StopEvent(result=ctx.ask(Ask(n=ev.n), Answer).n)


class Between(Workflow):
    """Is run by others, runs another, and has to try twice."""

    @step(retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(2)))
    async def run_it(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
        answer = await ctx.run(Asks(), n=ev.n)
        if ctx.retry_info().retry_number == 0:
            raise ValueError("once")
        return StopEvent(result=answer)


class Family(Workflow):
    """Has two children and a grandchild."""

    @step
    def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
        runs: list[Any] = [ctx.run(Asks(), n=1), ctx.run(Between(), n=2)]
        ctx.once("begin", effect, "begin")
        return StopEvent(result=[run.result() for run in runs])


def both_asked(handler: Handler) -> dict[int, str]:
    """Wait for both questions, and return their ids."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        pending = {question.request.n: question.input_id for question in handler.pending_inputs()}
        if len(pending) == 2:
            return pending
    raise AssertionError("not both questions were asked")


@pytest.mark.parametrize("checkpoint_bytes", [0, 1 << 30])
def test_children_outlive_the_process_with_their_parent(
    make_store: Callable[[], RunStore], durability: Any, checkpoint_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their questions keep their ids, what they did once is not done again, and an answer is never lost.

    Whether they are found in the journal or in checkpoints that were taken while they were at work.
    """
    monkeypatch.setattr("greenroom.actors.durable.CHECKPOINT_BYTES", checkpoint_bytes)
    with Runtime(store=make_store(), durability=durability, idle_timeout=0.0):
        questions = both_asked(Family().run(run_id="one"))
    with Runtime(store=make_store(), durability=durability) as runtime:
        runtime.recover([Family])
        handler = runtime.get("one")
        assert handler is not None
        assert {question.request.n: question.input_id for question in handler.pending_inputs()} == questions
        handler.respond(questions[2], {"n": 20})
    store = make_store()
    with Runtime(store=store, durability=durability) as runtime:
        runtime.recover([Family])
        handler = runtime.get("one")
        assert handler is not None
        assert [question.input_id for question in handler.pending_inputs()] == [questions[1]]
        assert [row.input_id for row in store.inputs()] == [questions[1]]
        handler.respond(questions[1], {"n": 10})
        assert handler.result(DEADLINE) == [10, 20]
        assert list(store.inputs()) == []
    assert sorted(effects) == ["ask 1", "ask 2", "begin"]


def test_an_answer_to_a_child_may_be_posted_by_another_process(make_store: Callable[[], RunStore]) -> None:
    """Its class is one that the parent's own code does not name."""
    with Runtime(store=make_store()):
        handler = Family().run(run_id="one")
        questions = both_asked(handler)
        other = make_store()
        other.open()
        for n, input_id in questions.items():
            post_answer(other, "one", input_id, Answer(n=10 * n), registry_of(Family()))
        assert handler.result(DEADLINE) == [10, 20]
    other.close()


def test_a_coroutine_of_a_child_collects_without_holding_its_loop_up_for_a_commit() -> None:
    """The loop goes on while the store does not commit."""
    held, at_collect, ticked = threading.Event(), threading.Event(), threading.Event()

    class Inner(Workflow):
        @step
        async def begin(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
            asyncio.get_running_loop().call_later(0.01, ticked.set)
            held.set()
            ctx.write_event_to_stream(Tick(n=1))
            batch = ctx.collect_events(Item(n=1), [Item])
            at_collect.set()
            return StopEvent(result=len(batch or ()))

    class Outer(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=ctx.run(Inner()).result())

    class Waits(Breaks):
        """Lets nothing be committed from the collection on, until the loop has gone on."""

        def commit(self, commits: list[Commit]) -> Any:
            if held.is_set() and not ticked.wait(DEADLINE):
                raise AssertionError("the loop stood still for a commit")
            return super().commit(commits)

    with Runtime(store=Waits(MemoryStore())):  # type: ignore[arg-type]
        assert Outer().run(run_id="one").result(DEADLINE) == 1
    assert at_collect.is_set()


# -- runs that another process has -------------------------------------------------------------------------------------


class Talk(Workflow):
    """Asks, and then waits for two ticks."""

    @step
    def talk(self, ctx: Context, ev: StartEvent) -> StopEvent:
        got = ctx.ask(Ask(n=1), Answer).n
        return StopEvent(result=[got, ctx.wait_for_event(Tick).n, ctx.wait_for_event(Tick).n])


@pytest.fixture
def two_runtimes(make_store: Callable[[], RunStore]) -> Iterator[tuple[Runtime, Runtime]]:
    """Two processes on one store, as far as the store can tell."""
    with Runtime(store=make_store()) as owner, Runtime(store=make_store()) as other:
        yield owner, other


def test_a_run_of_another_process_is_answered_and_sent_to(two_runtimes: tuple[Runtime, Runtime]) -> None:
    """What is for it goes into its inbox: the answer is checked first and taken once, an event once a dedup key."""
    owner, other = two_runtimes
    handler = Talk(runtime=owner).run(run_id="one")
    input_id = asked(handler)
    other.recover([Talk(runtime=other)])
    with pytest.raises(RunHeldError, match="'one' is held by another Runtime of this process: respond"):
        other.get("one")
    with pytest.raises(RunHeldError):
        Talk(runtime=other).run(run_id="one")
    assert [question.input_id for question in other.pending_inputs()] == [input_id]
    with pytest.raises(InvalidResponseError):
        other.respond(input_id, {"n": "many"})
    with pytest.raises(WorkflowRuntimeError, match="would not end the run"):
        other.send_event("one", StopEvent())
    with pytest.raises(WorkflowRuntimeError, match="takes a text, not 5"):
        other.send_event("one", Tick(n=9), dedup_key=5)  # type: ignore[arg-type]
    other.respond(input_id, {"n": 5})
    with pytest.raises(InputAnsweredError):
        other.respond(input_id, Answer(n=6))
    for n, key in ((7, "a"), (7, "a"), (8, "b")):
        other.send_event("one", Tick(n=n), dedup_key=key)
    assert handler.result(DEADLINE) == [5, 7, 8]
    until(lambda: owner.keeper is not None and owner.keeper.store.row("one").status == "completed")  # type: ignore[union-attr]
    ended = other.get("one")
    assert ended is not None
    assert ended.result(DEADLINE) == [5, 7, 8]


def test_a_run_of_another_process_is_cancelled(two_runtimes: tuple[Runtime, Runtime]) -> None:
    """The wish goes into its inbox."""
    owner, other = two_runtimes
    handler = Talk(runtime=owner).run(run_id="one")
    asked(handler)
    other.recover([Talk(runtime=other)])
    other.cancel_run("one")
    with pytest.raises(WorkflowCancelledByUser):
        handler.result(DEADLINE)


def test_a_run_that_is_here_is_sent_to_and_cancelled_by_its_id(make_store: Callable[[], RunStore]) -> None:
    """With a store and without; a run that there is not is told."""
    for runtime in (Runtime(store=make_store()), Runtime()):
        with runtime:
            handler = Talk().run(run_id="here")
            runtime.respond(asked(handler), {"n": 1})
            runtime.send_event("here", Tick(n=2))
            runtime.cancel_run("here")
            with pytest.raises(WorkflowCancelledByUser):
                handler.result(DEADLINE)
            with pytest.raises(WorkflowRuntimeError, match="there is no run 'gone'"):
                runtime.send_event("gone", Tick(n=2))
            with pytest.raises(WorkflowRuntimeError, match="there is no run 'gone'"):
                runtime.cancel_run("gone")


def test_an_answer_that_was_posted_too_late_is_a_dead_letter(make_store: Callable[[], RunStore]) -> None:
    """It was acknowledged, so it is accounted for: also when the run is read back from its journal."""
    store = make_store()
    with Runtime(store=store):
        handler = Talk().run(run_id="one")
        input_id = asked(handler)
        question = store.input(input_id)
        assert question is not None
        for n in (1, 2):
            post_fields(store, question, {"n": n})
        until(lambda: not store.inbox(run_id="one"))
        (letter,) = handler.dead_letters()
        assert (letter.event.n, letter.reason) == (2, f"question '{input_id}' has been answered")
    with Runtime(store=make_store()) as runtime:
        runtime.recover([Talk])
        again = runtime.get("one")
        assert again is not None
        assert [str(letter) for letter in again.dead_letters()] == [str(letter)]


def test_an_id_of_a_run_of_another_workflow_is_taken(make_store: Callable[[], RunStore]) -> None:
    """Whether that workflow is known here or not, and whether the run goes on or has ended."""
    for life in range(2):
        with Runtime(store=make_store()):
            for run_id in ("goes on", "has ended"):
                if life == 0:
                    handler = Talk().run(run_id=run_id)
                    if run_id == "has ended":
                        handler.cancel_run()
                with pytest.raises(
                    WorkflowRuntimeError, match=r"there already, and is of .*\.Talk, not of .*\.Approval"
                ):
                    Approval().run(run_id=run_id)


def test_an_answer_to_a_run_that_has_ended_says_that_it_was_answered(make_store: Callable[[], RunStore]) -> None:
    """Also in a process that came later: whoever is not sure sends it again, and learns that it counts."""
    with Runtime(store=make_store()):
        handler = Approval().run(run_id="one", n=1)
        input_id = asked(handler)
        handler.respond(input_id, {"n": 2})
        handler.result(DEADLINE)
    with Runtime(store=make_store()) as runtime:
        again = Approval().run(run_id="one")
        for respond in (again.respond, runtime.respond):
            with pytest.raises(InputAnsweredError, match="is no longer asked: it was answered"):
                respond(input_id, {"n": 2})
        with pytest.raises(WorkflowRuntimeError, match="'one' cannot go on here: it has ended as completed"):
            again.send_event(Tick(n=1))


def test_an_awaited_answer_to_a_run_that_has_ended_says_that_it_was_answered(
    make_store: Callable[[], RunStore],
) -> None:
    """The same for code that awaits."""

    class Asks(aio.Workflow):
        @step
        async def ask(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=(await ctx.ask(Ask(n=1), Answer)).n)

    async def answer() -> None:
        handler = Asks().run(run_id="one")
        async for event in handler.stream_events(after=-1):
            if isinstance(event, Ask):
                await handler.respond("one:1", {"n": 2})
        assert await handler == 2

    with Runtime(store=make_store()):
        asyncio.run(answer())
    with Runtime(store=make_store()), pytest.raises(InputAnsweredError):
        asyncio.run(answer())


def test_what_code_names_by_its_module_is_known(make_store: Callable[[], RunStore]) -> None:
    """A workflow that a step runs, and an error that it raises, as `billing.Invoice` and `errors.Refused`."""

    class Reviewed(Workflow):
        @step
        def review(self, ctx: Context, ev: StartEvent) -> StopEvent:
            said = ctx.run(durable_flows.Reviews()).result()
            raise json.JSONDecodeError(said, "", 0)

    with Runtime(store=make_store()):
        input_id = asked(Reviewed().run(run_id="one"))
    for _ in range(2):
        with Runtime(store=make_store()) as runtime:
            runtime.recover([Reviewed])
            handler = runtime.get("one")
            assert handler is not None
            if not handler.done():
                handler.respond(input_id, {"ok": True, "due": "2026-01-31"})
            with pytest.raises(json.JSONDecodeError, match=r"31\.01\.2026"):
                handler.result(DEADLINE)

"""What a step does with its context, from def and async steps, and from the helpers that they call."""

import asyncio
import threading
from typing import Any

import pytest
from pydantic import BaseModel, Field

from greenroom import Context, ContextStateError, Event, StartEvent, StopEvent, Workflow, aio, step
from greenroom.retry import retry_policy, stop_after_attempt, wait_fixed
from tests.support.flavours import DEADLINE, Flavour


class Item(Event):
    n: int = 0


class Special(Item):
    pass


class Query(Event):
    text: str = ""


class Done(Event):
    value: Any = None


# -- send_event --------------------------------------------------------------------------------------------------------


def test_events_are_delivered_in_the_order_sent_and_before_the_returned_one(flow: Flavour) -> None:
    """What a step sends comes first and in order, then what it returns."""
    seen: list[int] = []

    class Ordered(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> Item:
            for n in range(50):
                ctx.send_event(Item(n=n))
            return Item(n=50)

        @flow.step(num_workers=1)
        async def two(self, ev: Item) -> StopEvent | None:
            seen.append(ev.n)
            return StopEvent() if ev.n == 50 else None

    Ordered().run().result(DEADLINE)
    assert seen == list(range(51))


def test_an_event_goes_to_every_step_of_its_nearest_class(flow: Flavour) -> None:
    """Every step that accepts the class takes it; where none does, those that accept its nearest base."""
    lock, seen = threading.Lock(), []

    class Routes(Workflow):
        @flow.step
        async def begin(self, ctx: Context, ev: StartEvent) -> Item | Special | Query | None:
            ctx.send_event(Item())
            ctx.send_event(Special())
            ctx.send_event(Query())
            return None

        async def note(self, name: str, ctx: Any, ev: Event) -> StopEvent | None:
            with lock:
                seen.append((name, type(ev).__name__))
                return StopEvent() if len(seen) == 4 else None

        @flow.step
        async def items(self, ctx: Context, ev: Item) -> StopEvent | None:
            return await self.note("items", ctx, ev)

        @flow.step
        async def items_too(self, ctx: Context, ev: Item) -> StopEvent | None:
            return await self.note("items_too", ctx, ev)

        @flow.step
        async def queries(self, ctx: Context, ev: Event) -> StopEvent | None:
            return await self.note("all others", ctx, ev)

    class More(Routes):
        @flow.step
        async def special(self, ctx: Context, ev: Special) -> StopEvent | None:
            return await self.note("special", ctx, ev)

    More().run().result(DEADLINE)
    expected = [("items", "Item"), ("items_too", "Item"), ("special", "Special"), ("all others", "Query")]
    assert sorted(seen) == sorted(expected)


def test_a_step_may_watch_the_events_of_others(flow: Flavour) -> None:
    """accept_event_subclasses=True gives a step what others take as their own, each event once."""
    seen: list[str] = []

    class Watched(Workflow):
        @flow.step
        async def begin(self, ctx: Context, ev: StartEvent) -> Special | None:
            ctx.send_event(Special())
            return None

        @flow.step
        async def special(self, ev: Special) -> Done:
            return Done()

        @flow.step
        async def done(self, ev: Done) -> None:
            pass

        @flow.step(accept_event_subclasses=True, num_workers=1)
        async def watch(self, ev: Event) -> StopEvent | None:
            seen.append(type(ev).__name__)
            return StopEvent() if isinstance(ev, Done) else None

    Watched().run().result(DEADLINE)
    assert seen == ["StartEvent", "Special", "Done"]


def test_step_addresses_one_step(flow: Flavour) -> None:
    """send_event(step=...) reaches that step alone, also with an event of a subclass."""
    seen: list[str] = []

    class Addressed(Workflow):
        @flow.step
        async def begin(self, ctx: Context, ev: StartEvent) -> Item | None:
            ctx.send_event(Special(n=1), step="second")
            return None

        @flow.step
        async def first(self, ev: Item) -> StopEvent:
            seen.append("first")
            return StopEvent(result="first")

        @flow.step
        async def second(self, ev: Item) -> StopEvent:
            seen.append("second")
            return StopEvent(result="second")

    assert Addressed().run().result(DEADLINE) == "second"
    assert seen == ["second"]


def test_the_handler_addresses_one_step_too(flow: Flavour) -> None:
    """handler.send_event(step=...) does the same from outside."""

    class Addressed(Workflow):
        @flow.step
        async def begin(self, ev: StartEvent) -> Item | None:
            return None

        @flow.step
        async def first(self, ev: Item) -> StopEvent:
            return StopEvent(result="first")

        @flow.step
        async def second(self, ev: Item) -> StopEvent:
            return StopEvent(result="second")

    handler = Addressed(on_stuck="wait").run()
    handler.send_event(Item(), step="second")
    assert handler.result(DEADLINE) == "second"


def test_delay_holds_an_event_back(flow: Flavour) -> None:
    """send_event(delay=...) delivers later than what is sent without, in the order of the delays; the run waits."""
    seen: list[int] = []

    class Delayed(Workflow):
        @flow.step
        async def begin(self, ctx: Context, ev: StartEvent) -> Item | None:
            ctx.send_event(Item(n=3), delay=0.06)
            ctx.send_event(Item(n=2), delay=0.02)
            ctx.send_event(Item(n=0), delay=0)
            ctx.send_event(Item(n=1))
            return None

        @flow.step(num_workers=1)
        async def note(self, ev: Item) -> StopEvent | None:
            seen.append(ev.n)
            return StopEvent() if ev.n == 3 else None

    Delayed().run().result(DEADLINE)
    assert seen == [0, 1, 2, 3]


def test_any_thread_may_send_from_outside(flow: Flavour) -> None:
    """Many threads send into one run at once; every event arrives exactly once (D10)."""

    class Collects(Workflow):
        @flow.step
        async def begin(self, ev: StartEvent) -> Item | None:
            return None

        @flow.step
        async def join(self, ctx: Context, ev: Item) -> StopEvent | None:
            batch = await flow(ctx.collect_events(ev, {Item: 200}))
            return batch and StopEvent(result=sorted(item.n for item in batch))

    handler = Collects(on_stuck="wait").run()

    def send(base: int) -> None:
        for n in range(50):
            (handler.send_event if n % 2 else handler.ctx.send_event)(Item(n=base + n))

    threads = [threading.Thread(target=send, args=(base,)) for base in (0, 50, 100, 150)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert handler.result(DEADLINE) == list(range(200))


def test_what_a_failed_attempt_sent_stays_sent(flow: Flavour) -> None:
    """Sends and stream writes of an attempt that fails afterwards are not taken back."""

    class Retries(Workflow):
        @flow.step(retry_policy=retry_policy(stop=stop_after_attempt(2), wait=wait_fixed(0)))
        async def one(self, ctx: Context, ev: StartEvent) -> Item | Done:
            ctx.send_event(Item(n=ctx.retry_info().retry_number))
            ctx.write_event_to_stream(Query(text=str(ctx.retry_info().retry_number)))
            if ctx.retry_info().retry_number == 0:
                raise ValueError("once")
            return Done()

        @flow.step
        async def join(self, ctx: Context, ev: Item | Done) -> StopEvent | None:
            batch = await flow(ctx.collect_events(ev, [Item, Item, Done]))
            return batch and StopEvent(result=sorted(item.n for item in batch[:2]))

    handler = Retries().run()
    assert handler.result(DEADLINE) == [0, 1]
    assert [event.text for event in handler.stream_events() if isinstance(event, Query)] == ["0", "1"]


# -- the stream --------------------------------------------------------------------------------------------------------


def test_written_events_reach_readers_and_no_step(flow: Flavour) -> None:
    """write_event_to_stream publishes in order, before what follows from the step's end; None is ignored."""

    class Writes(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> Item:
            ctx.write_event_to_stream(Item(n=1))
            ctx.write_event_to_stream(None)
            ctx.write_event_to_stream(Query(text="a"))
            return Item(n=2)

        @flow.step
        async def two(self, ctx: Context, ev: Item) -> StopEvent:
            ctx.write_event_to_stream(ev)
            return StopEvent(result=ev.n)

    handler = Writes().run()
    assert handler.result(DEADLINE) == 2
    assert list(handler.stream_events()) == [Item(n=1), Query(text="a"), Item(n=2), StopEvent(result=2)]


# -- collect_events ----------------------------------------------------------------------------------------------------


def collecting(flow: Flavour, events: list[Event], expected: Any, batches: int, workers: int = 4) -> Any:
    """Run a workflow that sends events to a collecting step; return its batches, and how often each event was seen."""
    executions: list[Event] = []
    lock = threading.Lock()

    class Collects(Workflow):
        @flow.step
        async def split(self, ctx: Context, ev: StartEvent) -> Item | Special | Query | None:
            for event in events:
                ctx.send_event(event)
            return None

        @flow.step(num_workers=workers)
        async def join(self, ctx: Context, ev: Item | Special | Query) -> Done | None:
            with lock:
                executions.append(ev)
            if flow.kind == "async def":
                await asyncio.sleep(0)
            batch = await flow(ctx.collect_events(ev, expected))
            return None if batch is None else Done(value=batch)

        @flow.step(num_workers=1)
        async def gather(self, ctx: Context, ev: Done) -> StopEvent | None:
            all_batches = await flow(ctx.collect_events(ev, {Done: batches}))
            return all_batches and StopEvent(result=[done.value for done in all_batches])

    result = Collects().run().result(DEADLINE)
    assert len(executions) == len(events)
    return result


def test_the_body_of_a_collecting_step_runs_once_an_event(flow: Flavour) -> None:
    """With many workers each event is worked on once, and the batch is handed out once (D1)."""
    (batch,) = collecting(flow, [Item(n=n) for n in range(40)], [Item] * 40, batches=1, workers=16)
    assert sorted(item.n for item in batch) == list(range(40))


def test_batches_neither_overlap_nor_lose_events(flow: Flavour) -> None:
    """Events beyond a batch wait for the next one: each is in exactly one batch (D2)."""
    batches = collecting(flow, [Item(n=n) for n in range(60)], [Item, Item], batches=30, workers=8)
    assert all(len(batch) == 2 for batch in batches)
    assert sorted(item.n for batch in batches for item in batch) == list(range(60))


def test_a_batch_comes_in_the_order_asked(flow: Flavour) -> None:
    """The order of `expected` holds; equal classes come in the order they arrived."""
    events = [Item(n=1), Query(text="a"), Item(n=2), Item(n=3)]
    (batch,) = collecting(flow, events, [Item, Query, Item, Item], batches=1, workers=1)
    assert batch == [Item(n=1), Query(text="a"), Item(n=2), Item(n=3)]
    (batch,) = collecting(flow, events, [Query, Item, Item, Item], batches=1, workers=1)
    assert batch == [Query(text="a"), Item(n=1), Item(n=2), Item(n=3)]


def test_counts_stand_for_long_lists(flow: Flavour) -> None:
    """{class: count} is the list with each class so often, in the order of the dict."""
    events = [Item(n=1), Query(text="a"), Item(n=2), Query(text="b")]
    (batch,) = collecting(flow, events, {Query: 2, Item: 2}, batches=1, workers=1)
    assert batch == [Query(text="a"), Query(text="b"), Item(n=1), Item(n=2)]


def test_subclasses_count_for_their_base(flow: Flavour) -> None:
    """An event fills the nearest class that the batch lacks, along its bases."""
    events = [Special(n=1), Item(n=2), Special(n=3)]
    (batch,) = collecting(flow, events, [Item, Special, Item], batches=1, workers=1)
    assert batch[1] == Special(n=1)
    assert [item.n for item in batch] == [2, 1, 3]


def test_surplus_of_one_class_waits_for_the_next_batch(flow: Flavour) -> None:
    """A, A, A then B, B, B with [A, B] makes three batches, each A in the order it came."""
    events = [Item(n=1), Item(n=2), Item(n=3), Query(text="a"), Query(text="b"), Query(text="c")]
    batches = collecting(flow, events, [Item, Query], batches=3, workers=1)
    assert [(item.n, query.text) for item, query in batches] == [(1, "a"), (2, "b"), (3, "c")]


def test_an_empty_expectation_is_complete(flow: Flavour) -> None:
    """collect_events(ev, []) is the empty list at once."""

    class Empty(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            none, also = await flow(ctx.collect_events(ev, [])), await flow(ctx.collect_events(ev, {}))
            return StopEvent(result=(none, also))

    assert Empty().run().result(DEADLINE) == ([], [])


def test_buffers_are_told_apart_by_id_and_by_step(flow: Flavour) -> None:
    """Each step has its own buffers, and each buffer id is one of them."""

    class Buffers(Workflow):
        @flow.step
        async def split(self, ctx: Context, ev: StartEvent) -> Item | None:
            for n in range(6):
                ctx.send_event(Item(n=n))
            return None

        @flow.step
        async def parity(self, ctx: Context, ev: Item) -> Done | None:
            batch = await flow(ctx.collect_events(ev, [Item] * 3, buffer_id="odd" if ev.n % 2 else "even"))
            return batch and Done(value=sorted(item.n for item in batch))

        @flow.step
        async def everything(self, ctx: Context, ev: Item) -> Done | None:
            batch = await flow(ctx.collect_events(ev, {Item: 6}))
            return batch and Done(value=sorted(item.n for item in batch))

        @flow.step
        async def gather(self, ctx: Context, ev: Done) -> StopEvent | None:
            batch = await flow(ctx.collect_events(ev, [Done] * 3))
            return batch and StopEvent(result=sorted(done.value for done in batch))

    assert Buffers().run().result(DEADLINE) == [[0, 1, 2, 3, 4, 5], [0, 2, 4], [1, 3, 5]]


def test_a_retry_is_handed_the_same_batch(flow: Flavour) -> None:
    """A batch given to an attempt that fails is given to its retry, and to nobody else."""
    tries: list[list[int]] = []

    class Retries(Workflow):
        @flow.step
        async def split(self, ctx: Context, ev: StartEvent) -> Item | None:
            for n in range(4):
                ctx.send_event(Item(n=n))
            return None

        @flow.step(num_workers=1, retry_policy=retry_policy(stop=stop_after_attempt(3), wait=wait_fixed(0)))
        async def join(self, ctx: Context, ev: Item) -> Done | None:
            batch = await flow(ctx.collect_events(ev, [Item, Item]))
            if batch is None:
                return None
            tries.append([item.n for item in batch])
            if ctx.retry_info().retry_number < 2:
                raise ValueError("again")
            return Done(value=batch)

        @flow.step
        async def gather(self, ctx: Context, ev: Done) -> StopEvent | None:
            return (await flow(ctx.collect_events(ev, [Done, Done]))) and StopEvent()

    Retries().run().result(DEADLINE)
    assert sorted(tries) == sorted([[0, 1]] * 3 + [[2, 3]] * 3)


def test_a_failed_attempt_does_not_count_its_event_twice(flow: Flavour) -> None:
    """An attempt that collected and then failed has counted its event in; the retry does not count it again."""

    class Retries(Workflow):
        @flow.step
        async def split(self, ctx: Context, ev: StartEvent) -> Item | None:
            for n in range(3):
                ctx.send_event(Item(n=n))
            return None

        @flow.step(retry_policy=retry_policy(stop=stop_after_attempt(2), wait=wait_fixed(0)))
        async def join(self, ctx: Context, ev: Item) -> StopEvent | None:
            batch = await flow(ctx.collect_events(ev, [Item] * 3))
            if ctx.retry_info().retry_number == 0:
                raise ValueError("once each")
            return batch and StopEvent(result=sorted(item.n for item in batch))

    assert Retries().run().result(DEADLINE) == [0, 1, 2]


# -- the store ---------------------------------------------------------------------------------------------------------


class State(BaseModel):
    count: int = 0
    tags: list[str] = Field(default_factory=list)
    owner: dict[str, Any] = Field(default_factory=dict)


def test_the_store_has_every_method(flow: Flavour) -> None:
    """get, set, get_state, set_state, edit_state and clear, with paths into dicts, lists and models."""

    class Uses(Workflow):
        @flow.step
        async def one(self, ctx: Context[State], ev: StartEvent) -> Item:
            store = ctx.store
            await flow(store.set("count", 2))
            await flow(store.set("tags", ["a"]))
            await flow(store.set("owner.name.first", "Ada"))
            assert await flow(store.get("owner.name.first")) == "Ada"
            assert await flow(store.get("tags.0")) == "a"
            assert await flow(store.get("owner.missing", None)) is None
            with pytest.raises(ValueError, match=r"Path 'owner\.missing' not found in state"):
                await flow(store.get("owner.missing"))
            assert (await flow(store.get(""))).count == 2
            state = await flow(store.get_state())
            assert isinstance(state, State)
            state.count = 99
            assert await flow(store.get("count")) == 2
            await flow(store.set_state(State(count=5)))
            async with flow.editing(ctx) as draft:
                draft.count += 1
                draft.tags.append("b")
            return Item()

        @flow.step
        async def two(self, ctx: Context[State], ev: Item) -> StopEvent:
            state = await flow(ctx.store.get_state())
            await flow(ctx.store.clear())
            return StopEvent(result=(state.count, state.tags, await flow(ctx.store.get("count"))))

    handler = Uses().run()
    assert handler.result(DEADLINE) == (6, ["b"], 0)
    assert handler.ctx.store.get_state() == State()


def test_no_update_is_lost_however_many_workers_edit(flow: Flavour) -> None:
    """edit_state() of many workers, and of threads outside, is one after the other: every increment counts."""

    class Counts(Workflow):
        @flow.step
        async def split(self, ctx: Context, ev: StartEvent) -> Item | None:
            for n in range(60):
                ctx.send_event(Item(n=n))
            return None

        @flow.step(num_workers=16)
        async def count(self, ctx: Context, ev: Item) -> Done:
            async with flow.editing(ctx) as state:
                value = state.get("count", 0)
                if flow.kind == "async def":
                    await asyncio.sleep(0)
                state["count"] = value + 1
            return Done()

        @flow.step
        async def join(self, ctx: Context, ev: Done) -> StopEvent | None:
            return (await flow(ctx.collect_events(ev, {Done: 60}))) and StopEvent()

    handler = Counts().run()

    def edit() -> None:
        for _ in range(20):
            with handler.ctx.store.edit_state() as state:
                state["count"] = state.get("count", 0) + 1

    threads = [threading.Thread(target=edit) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handler.result(DEADLINE)
    assert handler.ctx.store.get("count") == 120


def test_an_edit_that_fails_changes_nothing(flow: Flavour) -> None:
    """An exception inside edit_state() drops the draft, lets the next writer in, and comes through."""

    class Fails(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await flow(ctx.store.set("a", [1]))
            try:
                async with flow.editing(ctx) as state:
                    state["a"].append(2)
                    raise ZeroDivisionError
            except ZeroDivisionError:
                await flow(ctx.store.set("came through", True))
            await flow(ctx.store.set("b", 1))
            return StopEvent(result=(await flow(ctx.store.get("a")), await flow(ctx.store.get("came through"))))

    assert Fails().run().result(DEADLINE) == ([1], True)


def test_nested_edits_raise_instead_of_waiting_for_themselves(flow: Flavour) -> None:
    """Writing inside one's own edit_state() raises at once; reading shows the state as it was."""

    class Nests(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await flow(ctx.store.set("a", 1))
            async with flow.editing(ctx) as state:
                state["a"] = 2
                assert await flow(ctx.store.get("a")) == 1
                with pytest.raises(RuntimeError, match=r"store.set\(\) inside edit_state\(\) of the same caller"):
                    await flow(ctx.store.set("a", 3))
                with pytest.raises(RuntimeError, match=r"store.edit_state\(\) inside edit_state\(\)"):
                    async with flow.editing(ctx):
                        pass
            return StopEvent(result=await flow(ctx.store.get("a")))

    assert Nests().run().result(DEADLINE) == 2


def test_an_edit_of_a_step_that_is_given_up_lets_the_others_in(flow: Flavour) -> None:
    """A step that exceeds its timeout inside edit_state() does not block the store for the others."""
    release = threading.Event()

    class Stalls(Workflow):
        @flow.step(timeout=0.05, retry_policy=retry_policy(stop=stop_after_attempt(2), wait=wait_fixed(0)))
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            async with flow.editing(ctx) as state:
                state["by"] = ctx.retry_info().retry_number
                if ctx.retry_info().retry_number == 0:
                    await flow.until(release)
            return StopEvent(result=await flow(ctx.store.get("by")))

    handler = Stalls().run()
    assert handler.result(DEADLINE) == 1
    release.set()
    assert handler.ctx.store.get("by") == 1


def test_the_handlers_context_reads_and_writes_the_same_state(flow: Flavour) -> None:
    """handler.ctx.store works while the run goes on and after its end."""
    proceed = threading.Event()

    class Waits(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await flow.until(proceed)
            return StopEvent(result=await flow(ctx.store.get("from outside")))

    handler = Waits().run()
    handler.ctx.store.set("from outside", 3)
    proceed.set()
    assert handler.result(DEADLINE) == 3
    handler.ctx.store.set("later", 4)
    assert handler.ctx.store.get_state().later == 4


# -- helpers -----------------------------------------------------------------------------------------------------------


def deep_helper(ev: Event) -> None:
    """A helper that is not given a context."""
    ctx = Context.get_step_context()
    ctx.write_event_to_stream(Query(text="from the helper"))
    ctx.send_event(Item(n=1))


def test_helpers_find_the_context_of_their_step(flow: Flavour) -> None:
    """Context.get_step_context() gives helpers the very context of the step, also in tasks and to_thread."""

    class Helps(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> Item | None:
            assert Context.get_step_context() is ctx
            deep_helper(ev)
            return None

        @flow.step
        async def two(self, ev: Item) -> StopEvent:
            ctx = Context.get_step_context()
            await flow(ctx.store.set("n", ev.n))
            return StopEvent(result=await flow(ctx.store.get("n")))

    handler = Helps().run()
    assert handler.result(DEADLINE) == 1
    assert next(iter(handler.stream_events())) == Query(text="from the helper")
    with pytest.raises(ContextStateError):
        Context.get_step_context()


def test_tasks_and_threads_of_an_async_step_find_its_context() -> None:
    """Tasks that an async step starts, and asyncio.to_thread, have its context too."""

    class Starts(Workflow):
        @step
        async def one(self, ctx: aio.Context, ev: StartEvent) -> Item | None:
            async def task() -> bool:
                return aio.Context.get_step_context() is ctx

            assert await asyncio.create_task(task())
            assert await asyncio.gather(task(), task()) == [True, True]
            await asyncio.to_thread(deep_helper, ev)
            return None

        @step
        def two(self, ev: Item) -> StopEvent:
            return StopEvent(result=ev.n)

    assert Starts().run().result(DEADLINE) == 1


def test_runs_side_by_side_keep_their_contexts_apart(flow: Flavour) -> None:
    """However many runs and workers there are, each helper gets the context of its own step."""

    class Own(Workflow):
        @flow.step
        async def split(self, ctx: Context, ev: StartEvent) -> Item | None:
            for n in range(10):
                ctx.send_event(Item(n=n, run=ev.run))
            return None

        @flow.step
        async def note(self, ctx: Context, ev: Item) -> Done:
            found = Context.get_step_context()
            async with flow.editing(found) as state:
                state[f"item {ev.n}"] = ev.run
            return Done()

        @flow.step
        async def join(self, ctx: Context, ev: Done) -> StopEvent | None:
            if await flow(ctx.collect_events(ev, {Done: 10})) is None:
                return None
            state = await flow(ctx.store.get_state())
            return StopEvent(result={state[f"item {n}"] for n in range(10)})

    workflow = Own()
    handlers = [workflow.run(run=run) for run in range(10)]
    assert [handler.result(DEADLINE) for handler in handlers] == [{run} for run in range(10)]


# -- retry_info --------------------------------------------------------------------------------------------------------


def test_retry_info_tells_the_attempt_and_the_last_failure(flow: Flavour) -> None:
    """retry_info(): the attempt's number from 0, the live exception, and when it was raised."""
    infos: list[Any] = []
    error = ValueError("again")

    class Retries(Workflow):
        @flow.step(retry_policy=retry_policy(stop=stop_after_attempt(3), wait=wait_fixed(0)))
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            infos.append(ctx.retry_info())
            if len(infos) < 3:
                raise error
            return StopEvent()

    Retries().run().result(DEADLINE)
    assert [info.retry_number for info in infos] == [0, 1, 2]
    assert [info.last_exception for info in infos] == [None, error, error]
    assert infos[0].last_failed_at is None
    assert infos[1].last_failed_at <= infos[2].last_failed_at
    assert infos[1].last_failed_at.tzinfo is not None
    assert 0 == infos[0].elapsed_seconds <= infos[1].elapsed_seconds <= infos[2].elapsed_seconds < DEADLINE


def test_retry_info_of_an_attempt_that_was_given_up_stays_its_own() -> None:
    """A body that outlives its timeout is not told of the attempt that has begun meanwhile."""
    entered, begun_again, told = threading.Event(), threading.Event(), threading.Event()
    seen: list[tuple[int, int]] = []

    class Slow(Workflow):
        @step(timeout=0.01, retry_policy=retry_policy(stop=stop_after_attempt(100), wait=wait_fixed(0)))
        def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            if not entered.is_set():
                entered.set()
                assert begun_again.wait(DEADLINE)
                seen.append((ctx._step.attempt, ctx.retry_info().retry_number))
                told.set()
            begun_again.set()
            return StopEvent()

    Slow().run().result(DEADLINE)
    assert told.wait(DEADLINE)
    ((attempt, retry_number),) = seen
    assert retry_number == attempt - 1

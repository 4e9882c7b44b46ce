"""Durable runs with runs within them: a tree leaves memory as one, and is brought back as one."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

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
    WorkflowCancelledByUser,
    aio,
    step,
)
from greenroom.inbox import post_answer, post_event
from greenroom.named import registry_of
from greenroom.resources import Resource
from greenroom.retry import retry_policy, stop_after_attempt, wait_fixed
from greenroom.stores import RunStore, SQLiteStore
from tests.support.flavours import DEADLINE, Flavour
from tests.support.waiting import wait_until


class Ask(InputRequiredEvent):
    n: int


class Answer(HumanResponseEvent):
    n: int


class Tick(Event):
    n: int


class Poke(Event):
    n: int


def told(stream: Any) -> list[tuple[str, str]]:
    """What a stream tells, to its end: whose each event is, and its class, with the step where it tells of one."""
    return [(stream.run_id, f"{type(event).__name__} {event.get('name', '')}".strip()) for event in stream]


begun: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def none_begun() -> Iterator[None]:
    begun.clear()
    yield
    begun.clear()


def note(text: str) -> str:
    begun[text] += 1
    return text


def until(condition: Callable[[], Any]) -> None:
    """Wait for a condition."""
    assert wait_until(condition, DEADLINE), "it never came to be"


def at_rest(handler: Any) -> bool:
    return handler.supervisor is None


def questions(handler: Handler, count: int) -> dict[int, str]:
    """Wait for as many questions, and return their ids by what they ask."""
    found: dict[int, str] = {}

    def all_asked() -> bool:
        found.update({question.request.n: question.input_id for question in handler.pending_inputs()})
        return len(found) == count

    until(all_asked)
    return found


def family(flow: Flavour, **options: Any) -> Workflow:
    """A run with a child and a grandchild that ask, in steps of a kind; nobody waits for the child's own question."""

    class Asks(Workflow):
        @flow.step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            note(f"body {ev.n}")
            await flow(ctx.once("once", lambda: note(f"once {ev.n}")))
            ctx.write_event_to_stream(Tick(n=ev.n))
            answer = await flow(ctx.ask(Ask(n=ev.n), Answer))
            return StopEvent(result=answer.n)

    class Middle(Workflow):
        @flow.step
        async def run_it(self, ctx: Context, ev: StartEvent) -> StopEvent:
            note("body middle")
            run = ctx.run(Asks(), run_id="named", n=2)
            ctx.write_event_to_stream(Tick(n=200))
            return StopEvent(result=await flow(run.result()))

    class Family(Workflow):
        @flow.step
        async def begin(self, ctx: Context, ev: StartEvent) -> Poke:
            note("body begin")
            ctx.run(Asks(), n=1)  # awaited by nobody: the step ends when it does
            run = ctx.run(Middle(), n=2)
            ctx.write_event_to_stream(Tick(n=100))
            await flow(ctx.once("once", lambda: note("once begin")))
            return Poke(n=await flow(run.result()))

        @flow.step
        async def end(self, ev: Poke) -> StopEvent:
            return StopEvent(result=ev.n)

    return Family(**options)


def test_a_tree_of_runs_leaves_memory_when_all_of_it_only_waits(
    make_store: Callable[[], RunStore], flow: Flavour
) -> None:
    """No body is left of any of its runs; each answer brings it back, and nothing that was done once is done again."""
    with Runtime(store=make_store(), idle_timeout=0.0) as runtime:
        handler = family(flow).run(run_id="one")
        asked = questions(handler, 2)
        until(lambda: at_rest(handler))
        assert "one" not in runtime.runs
        until(lambda: not len(runtime.parking))
        handler.respond(asked[2], {"n": 20})
        until(lambda: at_rest(handler))
        assert not handler.done()
        assert [question.input_id for question in runtime.pending_inputs()] == [asked[1]]
        until(lambda: at_rest(handler))
        runtime.respond(asked[1], {"n": 10})
        assert handler.result(DEADLINE) == 20
        assert [event.get("n") for event in handler.stream_events()] == [100, None]
    assert {text: count for text, count in begun.items() if text.startswith("once")} == {
        "once begin": 1,
        "once 1": 1,
        "once 2": 1,
    }


def test_what_only_waits_in_a_child_is_not_begun_again(make_store: Callable[[], RunStore], flow: Flavour) -> None:
    """An answer begins the bodies around the child that it is for, and in that child the one that waits for it."""
    with Runtime(store=make_store(), idle_timeout=0.0):
        handler = family(flow).run(run_id="one")
        asked = questions(handler, 2)
        until(lambda: at_rest(handler))
        before = dict(begun)
        handler.respond(asked[2], {"n": 20})
        until(lambda: begun["body 2"] == before["body 2"] + 1)
        until(lambda: at_rest(handler))
        assert begun["body 1"] == before["body 1"] == 1
        handler.respond(asked[1], {"n": 10})
        assert handler.result(DEADLINE) == 20
    assert begun["body 1"] == 2


def test_another_process_may_answer_a_child_of_a_run_at_rest(make_store: Callable[[], RunStore]) -> None:
    """Into its inbox; whoever waits for the result here gets it. An event for the run wakes it as well."""
    with Runtime(store=make_store(), idle_timeout=0.0):
        workflow = family(Flavour("mixed"))
        handler = workflow.run(run_id="one")
        asked = questions(handler, 2)
        until(lambda: at_rest(handler))
        other = make_store()
        other.open()
        post_event(other, "one", Tick(n=5), registry_of(workflow), dedup_key="tick")
        until(lambda: not other.inbox(run_id="one"))
        until(lambda: at_rest(handler))
        for n, input_id in asked.items():
            post_answer(other, "one", input_id, Answer(n=10 * n), registry_of(workflow))
        assert handler.result(DEADLINE) == 20
        assert [letter.event for letter in handler.dead_letters()] == [Tick(n=5)]


def test_a_tree_at_rest_can_be_cancelled(make_store: Callable[[], RunStore], flow: Flavour) -> None:
    """Its questions are withdrawn."""
    store = make_store()
    with Runtime(store=store, idle_timeout=0.0):
        handler = family(flow).run(run_id="one")
        questions(handler, 2)
        until(lambda: at_rest(handler))
        assert len(store.inputs()) == 2
        handler.cancel_run()
        with pytest.raises(WorkflowCancelledByUser):
            handler.result(DEADLINE)
        assert store.inputs() == []


def sleeping(flow: Flavour, seconds: float, **options: Any) -> Workflow:
    """A run whose grandchild sleeps, and whose child has a timeout."""

    class Sleeps(Workflow):
        @flow.step
        async def sleep(self, ctx: Context, ev: StartEvent) -> StopEvent:
            note("asleep")
            await flow(ctx.sleep(seconds))
            return StopEvent(result="rested")

    class Middle(Workflow):
        @flow.step
        async def run_it(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await flow(ctx.run(Sleeps()).result()))

    class Outer(Workflow):
        @flow.step
        async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await flow(ctx.run(Middle(**options)).result()))

    return Outer()


def test_a_tree_at_rest_is_woken_by_the_first_timer_of_any_of_its_runs(
    make_store: Callable[[], RunStore], flow: Flavour
) -> None:
    """And does not wait long for it: the store knows when it is due."""
    store = make_store()
    with Runtime(store=store, idle_timeout=0.0):
        handler = sleeping(flow, 0.3, timeout=1000).run(run_id="one")
        until(lambda: at_rest(handler))
        assert handler.result(DEADLINE) == "rested"
    assert begun["asleep"] == 2


def test_a_drain_gives_a_tree_back_as_soon_as_it_only_waits(make_store: Callable[[], RunStore], flow: Flavour) -> None:
    """Long before its own time is over; the store knows when the tree is due, and whoever recovers it goes on."""
    store = make_store()
    runtime = Runtime(store=store)
    with runtime:
        handler = sleeping(flow, 3600.0).run(run_id="one")
        questioned = family(flow).run(run_id="two")
        asked = questions(questioned, 2)
        until(lambda: begun["asleep"])
        runtime.shutdown(timeout=1e9)
    store.open()
    rows = {run_id: store.row(run_id) for run_id in ("one", "two")}
    assert all(row is not None and row.owner is None for row in rows.values())
    assert rows["one"].wake_at > rows["one"].updated_at + 3000
    assert rows["two"].wake_at is None
    assert handler.done()
    with Runtime(store=make_store()) as again:
        again.recover([family(flow)])
        handler = again.get("two")
        for n, input_id in asked.items():
            handler.respond(input_id, {"n": 10 * n})
        assert handler.result(DEADLINE) == 20


def failing(flow: Flavour, seconds: float) -> Workflow:
    """A run whose child fails, and waits before it tries again."""

    class Fails(Workflow):
        @flow.step(retry_policy=retry_policy(wait=wait_fixed(seconds), stop=stop_after_attempt(2)))
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            number = ctx.retry_info().retry_number
            note(f"attempt {number}")
            if number == 0:
                raise ValueError("once")
            return StopEvent(result=number)

    class Outer(Workflow):
        @flow.step
        async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await flow(ctx.run(Fails()).result()))

    return Outer()


def test_the_delay_before_a_retry_in_a_child_is_a_rest_as_well(
    make_store: Callable[[], RunStore], flow: Flavour
) -> None:
    """The attempt that failed is counted, and the next begins at its time."""
    with Runtime(store=make_store(), idle_timeout=0.0):
        handler = failing(flow, 0.3).run(run_id="one")
        until(lambda: at_rest(handler))
        assert handler.result(DEADLINE) == 1
    assert begun == {"attempt 0": 1, "attempt 1": 1}


def test_a_drain_does_not_wait_for_a_retry_in_a_child(make_store: Callable[[], RunStore], flow: Flavour) -> None:
    """However long its delay is."""
    store = make_store()
    runtime = Runtime(store=store)
    with runtime:
        handler = failing(flow, 1e6).run(run_id="one")
        until(lambda: begun["attempt 0"])
        runtime.shutdown(timeout=1e9)
    assert handler.done()
    store.open()
    row = store.row("one")
    assert row is not None
    assert row.wake_at is not None
    assert row.wake_at > row.updated_at + 9e5


def test_resources_of_children_are_closed_for_a_rest_and_opened_again(make_store: Callable[[], RunStore]) -> None:
    """Those of the scope of a run, of each run of the tree."""
    seen: list[str] = []

    def connection() -> Iterator[str]:
        seen.append("open")
        yield "connection"
        seen.append("closed")

    class Inner(Workflow):
        @step
        def ask(
            self, ctx: Context, ev: StartEvent, name: Annotated[str, Resource(connection, scope="run")]
        ) -> StopEvent:
            return StopEvent(result=(name, ctx.ask(Ask(n=1), Answer).n))

    class Outer(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=ctx.run(Inner()).result())

    with Runtime(store=make_store(), idle_timeout=0.0):
        handler = Outer().run(run_id="one")
        asked = questions(handler, 1)
        until(lambda: at_rest(handler))
        until(lambda: len(seen) % 2 == 0 and seen)
        assert seen == ["open", "closed"] * (len(seen) // 2)
        handler.respond(asked[1], {"n": 3})
        assert handler.result(DEADLINE) == ("connection", 3)
        until(lambda: seen == ["open", "closed"] * (len(seen) // 2))


def test_a_child_that_was_cut_off_in_an_edit_of_its_state_goes_on(
    make_store: Callable[[], RunStore], flow: Flavour
) -> None:
    """The edit is dropped with the body, in a child as in the run itself."""
    inside, go_on = threading.Event(), threading.Event()

    class Inner(Workflow):
        @flow.step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            async with flow.editing(ctx) as state:
                state["n"] = state.get("n", 0) + 1
                inside.set()
                await flow.until(go_on)
            return StopEvent(result=await flow(ctx.store.get("n")))

    class Outer(Workflow):
        @flow.step
        async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await flow(ctx.run(Inner()).result()))

    runtime = Runtime(store=make_store())
    with runtime:
        Outer().run(run_id="one")
        assert inside.wait(DEADLINE)
        runtime.shutdown(timeout=0.0)
        go_on.set()
    with Runtime(store=make_store()) as again:
        again.recover([Outer])
        handler = again.get("one")
        assert handler is not None
        assert handler.result(DEADLINE) == 1


def test_a_reader_has_what_children_stream_while_its_process_has_the_run(make_store: Callable[[], RunStore]) -> None:
    """Over rests too, in its place among the run's own events; after a restart only what is streamed from then on."""
    with Runtime(store=make_store(), idle_timeout=0.0):
        handler = family(Flavour("def")).run(run_id="one")
        asked = questions(handler, 2)
        until(lambda: at_rest(handler))
        handler.respond(asked[2], {"n": 20})
        until(lambda: begun["body 2"] == 2)
        until(lambda: at_rest(handler))
    names = {"one": "own", "named": "named", "one/Asks.0.0": "first", "one/Middle.0.0": "middle"}
    first = [(names[run_id], event) for run_id, event in told(handler.stream_events(include_children=True))]
    assert Counter(first) == {
        ("own", "Tick"): 1,
        ("own", "WorkflowCancelledEvent"): 1,
        ("first", "Tick"): 1,
        ("first", "Ask"): 1,
        ("named", "Tick"): 1,
        ("named", "Ask"): 1,
        ("named", "StopEvent"): 1,
        ("middle", "Tick"): 1,
        ("middle", "StopEvent"): 1,
    }
    with Runtime(store=make_store()) as again:
        again.recover([family(Flavour("def"))])
        handler = again.get("one")
        assert handler is not None
        stream = handler.stream_events(after=-1, include_children=True)
        handler.respond(asked[1], {"n": 10})
        assert handler.result(DEADLINE) == 20
        second = [(names[run_id], event) for run_id, event in told(stream)]
        assert second == [("own", "Tick"), ("first", "StopEvent"), ("own", "StopEvent")]
        assert [event.get("n") for event in handler.stream_events(after=-1)] == [100, None]


def test_internal_events_of_a_run_that_was_brought_back_stand_in_their_places(
    make_store: Callable[[], RunStore],
) -> None:
    """Though children have published before, in another process, what nobody can read here."""
    with Runtime(store=make_store()):
        asked = questions(family(Flavour("def")).run(run_id="one"), 2)
    with Runtime(store=make_store()) as again:
        again.recover([family(Flavour("def"))])
        handler = again.get("one")
        assert handler is not None
        stream = handler.stream_events(after=-1, expose_internal=True, include_children=True)
        assert next(iter(stream)) == Tick(n=100)
        for n, input_id in asked.items():
            handler.respond(input_id, {"n": 10 * n})
        events = told(stream)
    ended = [number for number, (_, event) in enumerate(events) if event == "StopEvent"]
    assert [events[number][0] for number in ended][-1] == "one"
    assert ("one", "StepStateChanged end") in events[: ended[-1]]
    assert ("named", "StepStateChanged ask") in events[: events.index(("named", "StopEvent"))]


class Deep(Workflow):
    """Runs itself, and asks at the bottom."""

    @step
    def descend(self, ctx: Context, ev: StartEvent) -> StopEvent:
        if not ev.n:
            return StopEvent(result=ctx.ask(Ask(n=0), Answer).n)
        return StopEvent(result=ctx.run(Deep(), n=ev.n - 1).result() + 1)


def test_a_tree_a_hundred_deep_rests_and_goes_on(make_store: Callable[[], RunStore]) -> None:
    """Its checkpoint nests no deeper than any."""
    with Runtime(store=make_store(), idle_timeout=0.0):
        handler = Deep().run(run_id="one", n=100)
        asked = questions(handler, 1)
        until(lambda: at_rest(handler))
        handler.respond(asked[0], {"n": 1})
        assert handler.result(DEADLINE) == 101


class Asks(Workflow):
    """Asks twice, in steps of both kinds."""

    @step
    def first(self, ctx: Context, ev: StartEvent) -> Poke:
        return Poke(n=ctx.ask(Ask(n=ev.n), Answer).n)

    @step
    async def second(self, ctx: aio.Context, ev: Poke) -> StopEvent:
        return StopEvent(result=ev.n + (await ctx.ask(Ask(n=ev.n), Answer)).n)


class Many(Workflow):
    """Runs many others at once."""

    @step
    def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
        runs = [ctx.run(Asks(), n=n) for n in range(ev.n)]
        return StopEvent(result=[run.result() for run in runs])


def test_many_threads_answer_the_runs_of_a_tree_that_rests_in_between(make_store: Callable[[], RunStore]) -> None:
    """No answer is lost, and none is taken twice, whether the tree is at work, at rest, or on its way there."""
    with Runtime(store=make_store(), idle_timeout=0.0) as runtime, ThreadPoolExecutor(6) as pool:
        handler = Many().run(run_id="one", n=12)
        result = pool.submit(handler.result, DEADLINE)
        answered: set[str] = set()
        while not handler.done():
            open_now = [question for question in runtime.pending_inputs() if question.input_id not in answered]
            answers = [
                pool.submit(runtime.respond, question.input_id, {"n": question.request.n}) for question in open_now
            ]
            for question, answer in zip(open_now, answers, strict=True):
                answer.result(DEADLINE)
                answered.add(question.input_id)
        assert result.result(DEADLINE) == [2 * n for n in range(12)]
    assert len(answered) == 24


def test_a_tree_goes_back_and_forth_between_two_processes(tmp_path: Path) -> None:
    """Each takes it from its rest for an answer, and whoever waits for the result gets it."""
    path = tmp_path / "runs.db"
    with (
        Runtime(store=SQLiteStore(path, poll_interval=0.01), idle_timeout=0.0) as here,
        Runtime(store=SQLiteStore(path, poll_interval=0.01), idle_timeout=0.0) as there,
    ):
        handler = Many(runtime=here).run(run_id="one", n=3)
        there.recover([Many(runtime=there)])
        answered: set[str] = set()
        for number in range(6):
            runtime = there if number % 2 else here

            def answer(runtime: Runtime = runtime) -> bool:
                # One that was answered for the other is listed until that has read it.
                for question in runtime.pending_inputs():
                    if question.input_id not in answered:
                        runtime.respond(question.input_id, {"n": question.request.n})
                        answered.add(question.input_id)
                        return True
                return False

            until(answer)
        assert handler.result(DEADLINE) == [0, 2, 4]

"""A run that is cut at any message and goes on elsewhere ends as the run that was never cut.

A workflow runs once on a schedule drawn from a seed, and after every fact that its supervisor takes in a snapshot is
put by. Each of them is then restored in a fresh runtime and goes on to the end. The workflows are made so that their
outcome, and what they stream and do once, do not depend on the schedule.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenroom import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StepFailedEvent,
    StopEvent,
    Workflow,
    aio,
    catch_error,
    step,
)
from greenroom.child_facts import ForChild
from greenroom.document import graphs_within, take_document
from greenroom.facts import OnceDone
from greenroom.named import registry_for
from greenroom.retry import retry_policy, stop_after_attempt, wait_fixed
from greenroom.run_state import RunState
from greenroom.snapshot import dump_snapshot
from greenroom.testing import SeededRuntime

ROUNDS = 1000  # More rounds of questions than any workflow here has.


class Ask(InputRequiredEvent):
    n: int


class Answer(HumanResponseEvent):
    n: int


class Item(Event):
    n: int


class Seen(Event):
    n: int


class Taken(Event):
    n: int


class Row(Event):
    n: int


class Done(Event):
    n: int
    text: str


class Tick(Event):
    n: int


@dataclass
class Cut:
    """A moment of the run that is not cut: what was put away there, and how far it had come."""

    data: bytes
    published: int
    recorded: list[str]


@dataclass
class Story:
    """What there is to see of a run, whatever its schedule."""

    result: Any = None
    stream: list[str] = field(default_factory=list)
    input_ids: list[str] = field(default_factory=list)


def tell(event: Event) -> str:
    """An event without the id of its question, which depends on the order of questions."""
    return f"{type(event).__name__} {sorted(item for item in event.model_dump().items() if item[0] != 'input_id')}"


def live(handler: Any, after: int) -> Story:
    """Answer the questions of a run in the order they were asked, up to its end."""
    for _ in range(ROUNDS):
        pending = handler.pending_inputs()
        if handler.done():
            break
        if pending:
            question = pending[0]
            handler.respond(question.input_id, {"n": question.request.n * 10})
        else:
            handler._link.runtime.run_until_idle()
            if not handler.done() and not handler.pending_inputs():
                handler._link.runtime.advance(1)
    story = Story(handler.result())
    for event in handler.stream_events(after=after):
        story.stream.append(tell(event))
        if isinstance(event, InputRequiredEvent):
            story.input_ids.append(event.input_id)
    return story


@contextmanager
def cuts_noted(cuts: list[Cut]) -> Iterator[None]:
    """Put the run away after every fact."""
    recorded: list[str] = []
    apply = RunState.apply

    def watched(state: RunState, fact: Any, now: float) -> Any:
        effects = apply(state, fact, now)
        if state.outcome is None and not state.depth:
            told = fact.fact if isinstance(fact, ForChild) else fact
            if isinstance(told, OnceDone):
                recorded.append(told.result)
            document = take_document(state, now)
            data = dump_snapshot(document, registry_for(state.graph, *graphs_within(state)))
            cuts.append(Cut(data, state.published, list(recorded)))
        return effects

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunState, "apply", watched)
        yield


def check_every_cut(make: Callable[[list[str]], Workflow], seed: int, max_parked: int = 1000) -> int:
    """Run a workflow uncut, then from each of its cuts; return how many there were.

    Args:
        make: Makes the workflow. It notes its effects in the list that it is given.
        seed: Decides the schedules.
        max_parked: How many bodies may wait on their threads.
    """
    cuts: list[Cut] = []
    effects: list[str] = []
    with SeededRuntime(seed) as runtime, cuts_noted(cuts):
        runtime.parking._max_parked = max_parked
        handler = make(effects).run()
        whole = live(handler, -1)
    assert len(set(whole.input_ids)) == len(whole.input_ids)
    expected = Counter(effects)
    assert max(expected.values(), default=1) == 1, "an effect was done twice, though nothing was cut"
    for number, cut in enumerate(cuts):
        more: list[str] = []
        workflow = make(more)
        try:
            with SeededRuntime(seed + number + 1) as runtime:
                runtime.parking._max_parked = max_parked
                rest = live(workflow.run(ctx=Context.restore(workflow, cut.data)), cut.published - 1)
            assert rest.result == whole.result
            assert Counter(whole.stream[: cut.published] + rest.stream) == Counter(whole.stream)
            asked_before = whole.input_ids[: sum(text.startswith("Ask") for text in whole.stream[: cut.published])]
            assert len({*asked_before, *rest.input_ids}) == len(whole.input_ids)
            assert Counter(cut.recorded + more) == expected
        except BaseException as error:
            error.add_note(f"cut after fact {number + 1} of {len(cuts)} on the schedule of seed {seed}")
            raise
    return len(cuts)


# -- a handful of workflows --------------------------------------------------------------------------------------------


class Noting(Workflow):
    """Notes in a list what its steps do once."""

    def __init__(self, effects: list[str]) -> None:
        super().__init__()
        self.effects = effects

    def effect(self, text: str) -> str:
        self.effects.append(text)
        return text


class Approvals(Noting):
    """Several workers ask in place, do something once before and after, and stream."""

    @step
    def begin(self, ctx: Context, ev: StartEvent) -> Item | None:
        for n in range(3):
            ctx.write_event_to_stream(Tick(n=n))
            ctx.send_event(Item(n=n))
        return None

    @step(num_workers=2)
    def work(self, ctx: Context, ev: Item) -> Done:
        before = ctx.once("before", self.effect, f"before {ev.n}")
        first = ctx.ask(Ask(n=ev.n), Answer)
        ctx.write_event_to_stream(Tick(n=first.n + 100))
        second = ctx.ask(Ask(n=ev.n + 50), Answer)
        after = ctx.once("after", self.effect, f"after {ev.n}")
        return Done(n=first.n + second.n, text=f"{before}, {after}")

    @step
    async def join(self, ctx: aio.Context, ev: Done) -> StopEvent | None:
        done = ctx.collect_events(ev, {Done: 3})
        if done is None:
            return None
        total = await ctx.once("total", self.effect, f"total {sum(event.n for event in done)}")
        return StopEvent(result=(total, sorted(event.text for event in done)))


class Coroutines(Noting):
    """Coroutines that wait for each other's events and for time, with one worker a step."""

    async def later(self, text: str) -> str:
        await asyncio.sleep(1)
        self.effects.append(text)
        return text

    @step
    async def begin(self, ctx: aio.Context, ev: StartEvent) -> Item | Tick | None:
        for n in range(3):
            ctx.send_event(Item(n=n), delay=float(n))
        await ctx.once("begin", self.later, "begin")
        ctx.send_event(Tick(n=7))
        return None

    @step(num_workers=1)
    async def work(self, ctx: aio.Context, ev: Item) -> Seen:
        try:
            await ctx.wait_for_event(Answer, timeout=5)
        except TimeoutError:
            ctx.write_event_to_stream(Tick(n=ev.n))
        await ctx.once("work", self.later, f"work {ev.n}")
        return Seen(n=ev.n)

    @step
    def seen(self, ctx: Context, ev: Seen | Tick) -> StopEvent | None:
        got = ctx.collect_events(ev, [Tick, Seen, Seen, Seen])
        if got is None:
            return None
        answer = ctx.wait_for_event(Answer, waiter_event=Ask(n=4))
        return StopEvent(result=(got[0].n, sorted(event.n for event in got[1:]), answer.n))


class Retries(Noting):
    """Fails before and after a question, and in each attempt after something done once."""

    @step
    def begin(self, ctx: Context, ev: StartEvent) -> Item | None:
        ctx.send_event(Item(n=1))
        ctx.send_event(Item(n=2))
        return None

    @step(num_workers=1, retry_policy=retry_policy(wait=wait_fixed(2), stop=stop_after_attempt(3)))
    def work(self, ctx: Context, ev: Item) -> Done:
        number = ctx.retry_info().retry_number
        if number == 0:
            ctx.once("first", self.effect, f"first {ev.n}")
            raise ValueError("before the question")
        answer = ctx.ask(Ask(n=ev.n), Answer)
        ctx.once("second", self.effect, f"second {ev.n}")
        if number == 1:
            raise ValueError("after the question")
        return Done(n=answer.n, text=f"attempt {number}")

    @step
    async def join(self, ctx: aio.Context, ev: Done) -> StopEvent | None:
        done = ctx.collect_events(ev, [Done, Done])
        return done and StopEvent(result=sorted((event.n, event.text) for event in done))


class Stages(Noting):
    """A step asks by what it returns, another by what it streams, and steps take the answers."""

    @step
    def begin(self, ctx: Context, ev: StartEvent) -> Ask:
        ctx.store.set("answers", [])
        return Ask(n=1)

    @step
    async def take(self, ctx: aio.Context, ev: Answer) -> StopEvent | None:
        await ctx.once("take", self.effect, f"take {ev.n}")
        if ev.n < 40:
            ctx.write_event_to_stream(Ask(n=ev.n // 10 + 1))
            return None
        return StopEvent(result=ev.n)


class Lists(Noting):
    """Lists within a list, a join, a member that asks, one that is recovered from, and a handler that asks."""

    @step
    def rows(self, ev: StartEvent) -> list[Item]:
        return [Item(n=n) for n in range(3)]

    @step(num_workers=2)
    def cells(self, ctx: Context, ev: Item) -> list[Tick | Ask]:
        ctx.once("cells", self.effect, f"cells {ev.n}")
        return [Tick(n=ev.n), Ask(n=ev.n)] if ev.n else []

    @step(num_workers=1)
    async def tick(self, ctx: aio.Context, ev: Tick) -> Seen:
        if ev.n == 2:
            raise ValueError(ev.n)
        return Seen(n=ev.n)

    @catch_error(for_steps=["tick"])
    def mend(self, ctx: Context, ev: StepFailedEvent) -> Seen:
        ctx.once("mend", self.effect, "mend")
        ctx.write_event_to_stream(Tick(n=99))
        return Seen(n=100)

    @step
    def take(self, ev: Answer) -> Taken:
        return Taken(n=ev.n)

    @step
    async def pair(self, seen: Seen, taken: Taken) -> Done:
        return Done(n=seen.n + taken.n, text="pair")

    @step
    def row(self, ctx: Context, done: list[Done]) -> Row:
        ctx.send_event(Row(n=1000), delay=2.0)
        return Row(n=sum(event.n for event in done))

    @step
    async def end(self, ctx: aio.Context, rows: list[Row]) -> StopEvent:
        await ctx.once("end", self.effect, "end")
        return StopEvent(result=sorted(row.n for row in rows))


class Grandchild(Noting):
    """Asks, in an `async def` step."""

    @step
    async def ask(self, ctx: aio.Context, ev: Item) -> Done:
        answer = await ctx.ask(Ask(n=ev.n), Answer)
        await ctx.once("asked", self.effect, f"asked {ev.n}")
        return Done(n=answer.n, text="asked")

    @step
    def begin(self, ev: StartEvent) -> Item:
        return Item(n=ev.n)

    @step
    def end(self, ev: Done) -> StopEvent:
        return StopEvent(result=ev.n)


class Child(Noting):
    """Has a child of its own, fails once, waits for time, and collects."""

    @step
    def begin(self, ctx: Context, ev: StartEvent) -> Item | None:
        ctx.store.set("n", ev.n)
        for n in range(2):
            ctx.send_event(Item(n=n), delay=float(n))
        return None

    @step(retry_policy=retry_policy(wait=wait_fixed(2), stop=stop_after_attempt(3)))
    def work(self, ctx: Context, ev: Item) -> Done:
        run = ctx.run(Grandchild(self.effects), n=ctx.store.get("n") + ev.n)
        ctx.once("work", self.effect, f"work {ctx.store.get('n')} {ev.n}")
        n = run.result()
        if ctx.retry_info().retry_number == 0:
            raise ValueError("once")
        return Done(n=n, text="")

    @step
    def join(self, ctx: Context, ev: Done) -> StopEvent | None:
        done = ctx.collect_events(ev, [Done, Done])
        return done and StopEvent(result=sorted(event.n for event in done))


class Failing(Workflow):
    """Fails."""

    @step
    def fail(self, ev: StartEvent) -> StopEvent:
        raise ValueError("always")


class Family(Noting):
    """Has children side by side, one that nobody asks after, and one that fails."""

    @step
    def begin(self, ctx: Context, ev: StartEvent) -> Seen:
        runs = [ctx.run(Child(self.effects), n=10)]
        ctx.run(Grandchild(self.effects), n=30)
        ctx.write_event_to_stream(Tick(n=1))
        results = [run.result() for run in runs]
        ctx.once("begin", self.effect, f"begin {results}")
        return Seen(n=sum(map(sum, results)))

    @step
    async def end(self, ctx: aio.Context, ev: Seen) -> StopEvent:
        try:
            await ctx.run(Failing())
        except ValueError as error:
            message = str(error)
        answer = await ctx.ask(Ask(n=40), Answer)
        return StopEvent(result=(ev.n, answer.n, message))


class Leaf(Workflow):
    """Sleeps, asks, fails once, collects and streams: a run three deep, in steps of both kinds."""

    def __init__(self, effects: list[str]) -> None:
        super().__init__()
        self.effects = effects

    def effect(self, text: str) -> str:
        self.effects.append(text)
        return text

    @step
    def begin(self, ctx: Context, ev: StartEvent) -> Item | None:
        ctx.once("begin", self.effect, f"leaf {ev.n}")
        ctx.write_event_to_stream(Tick(n=ev.n))
        ctx.send_event(Item(n=ev.n))
        ctx.sleep(3.0)
        ctx.send_event(Item(n=-1), delay=2.0)
        return None

    @step(retry_policy=retry_policy(wait=wait_fixed(5), stop=stop_after_attempt(3)))
    async def work(self, ctx: aio.Context, ev: Item) -> Done:
        if ev.n < 0:
            return Done(n=0, text="late")
        answer = await ctx.ask(Ask(n=ev.n), Answer)
        if ctx.retry_info().retry_number == 0:
            raise ValueError("once")
        await ctx.once("asked", self.effect, f"leaf asked {ev.n}")
        return Done(n=answer.n, text="asked")

    @step
    def end(self, ctx: Context, ev: Done) -> StopEvent | None:
        done = ctx.collect_events(ev, [Done, Done])
        return done and StopEvent(result=sum(event.n for event in done))


class Branch(Workflow):
    """Runs two leaves side by side, one under a name of its own, and awaits both at once."""

    def __init__(self, effects: list[str], **options: Any) -> None:
        super().__init__(**options)
        self.effects = effects

    async def effect(self, text: str) -> str:
        self.effects.append(text)
        return text

    @step
    async def begin(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
        runs = [ctx.run(Leaf(self.effects), run_id=f"leaf {ev.n}", n=ev.n), ctx.run(Leaf(self.effects), n=ev.n + 1)]
        await ctx.once("begin", self.effect, f"branch {ev.n}")
        results = await asyncio.gather(*(run.result() for run in runs))
        await ctx.once("end", self.effect, f"branch {ev.n} {results}")
        return StopEvent(result=results)


class Tree(Workflow):
    """Three runs deep: waits for a branch that has a timeout, for nobody, and with a timeout of its own."""

    def __init__(self, effects: list[str]) -> None:
        super().__init__()
        self.effects = effects

    def effect(self, text: str) -> str:
        self.effects.append(text)
        return text

    @step
    def begin(self, ctx: Context, ev: StartEvent) -> Seen:
        ctx.write_event_to_stream(Tick(n=1))
        branch = ctx.run(Branch(self.effects, timeout=1000), n=10)
        ctx.run(Leaf(self.effects), n=30)
        ctx.once("begin", self.effect, "tree")
        results = branch.result()
        ctx.write_event_to_stream(Tick(n=2))
        return Seen(n=sum(results))

    @step
    async def end(self, ctx: aio.Context, ev: Seen) -> StopEvent:
        leaf = ctx.run(Leaf(self.effects), n=50)
        try:
            await leaf.result(timeout=1)
        except TimeoutError:
            await ctx.once("late", self.late)
        return StopEvent(result=(ev.n, await leaf))

    async def late(self) -> str:
        return self.effect("late")


@pytest.mark.parametrize("make", [Approvals, Coroutines, Family, Lists, Retries, Stages, Tree])
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("max_parked", [0, 1000])
def test_a_cut_run_ends_as_the_one_that_was_not_cut(
    make: Callable[[list[str]], Workflow], seed: int, max_parked: int
) -> None:
    """After every message: the same outcome, the same stream, and every effect once; with threads held and freed."""
    assert check_every_cut(make, seed, max_parked) > 10


# -- random workflows --------------------------------------------------------------------------------------------------

# What a body does, in order: a word and how often, or for which number.
ACTIONS = ("once", "ask", "stream", "send", "sleep", "wait", "fail")
bodies = st.lists(st.sampled_from(ACTIONS), max_size=5)


def random_workflow(
    plans: list[list[str]], workers: int, is_async: bool, by_list: bool, effects: list[str]
) -> Workflow:
    """Return a workflow with an item for each plan; an item does what its plan says, one action after the other.

    The items are sent and their results collected or, `by_list`, returned as a list and gathered as one.
    """
    policy = retry_policy(wait=wait_fixed(3), stop=stop_after_attempt(9))
    sends = sum(plan.count("send") for plan in plans)

    def effect(text: str) -> str:
        effects.append(text)
        return text

    def failures_before(plan: list[str], position: int) -> int:
        return plan[:position].count("fail")

    class Random(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> Item | Seen | None:
            for n in range(len(plans)):
                ctx.send_event(Item(n=n))
            return None

        @step
        def join(self, ctx: Context, ev: Done | Seen) -> StopEvent | None:
            expected: dict[type[Event], int] = {Done: len(plans)}
            if sends:
                expected[Seen] = sends
            got = ctx.collect_events(ev, expected)
            if got is None:
                return None
            return StopEvent(result=(sorted(tell(event) for event in got), len(got)))

    class Listed(Workflow):
        @step
        def begin(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(len(plans))]

        @step
        def join(self, got: list[Done | Seen]) -> StopEvent:
            return StopEvent(result=(sorted(tell(event) for event in got), len(got)))

    base: Any = Listed if by_list else Random

    class Blocking(base):  # type: ignore[misc]
        @step(num_workers=workers, retry_policy=policy)
        def work(self, ctx: Context, ev: Item) -> Done | Seen:
            plan, said = plans[ev.n], []
            for position, action in enumerate(plan):
                # What is sent and streamed is done again by a retry: here only by the attempt that comes through.
                number, mark = ctx.retry_info().retry_number, ev.n * 10 + position
                if action == "once":
                    said.append(ctx.once(str(position), effect, f"once {mark}"))
                elif action == "ask":
                    said.append(str(ctx.ask(Ask(n=mark), Answer).n))
                elif action == "stream" and number == plan.count("fail"):
                    ctx.write_event_to_stream(Tick(n=mark))
                elif action == "send" and number == plan.count("fail"):
                    ctx.send_event(Seen(n=mark), delay=float(position % 2))
                elif action in ("sleep", "wait"):
                    try:
                        ctx.wait_for_event(Tick, timeout=position)
                    except TimeoutError:
                        said.append("nothing came")
                elif action == "fail" and number == failures_before(plan, position):
                    raise ValueError(mark)
            return Done(n=ev.n, text=", ".join(said))

    class Awaiting(base):  # type: ignore[misc]
        @step(num_workers=workers, retry_policy=policy)
        async def work(self, ctx: aio.Context, ev: Item) -> Done | Seen:
            plan, said = plans[ev.n], []
            for position, action in enumerate(plan):
                number, mark = ctx.retry_info().retry_number, ev.n * 10 + position
                if action == "once":
                    said.append(await ctx.once(str(position), effect, f"once {mark}"))
                elif action == "ask":
                    said.append(str((await ctx.ask(Ask(n=mark), Answer)).n))
                elif action == "stream" and number == plan.count("fail"):
                    ctx.write_event_to_stream(Tick(n=mark))
                elif action == "send" and number == plan.count("fail"):
                    ctx.send_event(Seen(n=mark), delay=float(position % 2))
                elif action == "sleep":
                    await asyncio.sleep(position)
                elif action == "wait":
                    try:
                        await ctx.wait_for_event(Tick, timeout=position)
                    except TimeoutError:
                        said.append("nothing came")
                elif action == "fail" and number == failures_before(plan, position):
                    raise ValueError(mark)
            return Done(n=ev.n, text=", ".join(said))

    return Awaiting() if is_async else Blocking()


@settings(max_examples=40, deadline=None)
@given(
    plans=st.lists(bodies, min_size=1, max_size=3),
    workers=st.integers(1, 3),
    is_async=st.booleans(),
    by_list=st.booleans(),
    seed=st.integers(0, 1 << 20),
)
def test_a_random_workflow_cut_anywhere_ends_as_it_would(
    plans: list[list[str]], workers: int, is_async: bool, by_list: bool, seed: int
) -> None:
    """Waits, questions, sends at once and later, streams, retries and effects, in `def` and `async def` steps."""
    check_every_cut(partial(random_workflow, plans, workers, is_async, by_list), seed)

"""Unfinished runs when the code has changed: what goes on, what is set aside, and what a check tells beforehand."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
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
    StepFailedEvent,
    StopEvent,
    Workflow,
    WorkflowRuntimeError,
    aio,
    catch_error,
    step,
)
from greenroom.codec import TypeRegistry, encode
from greenroom.deploy import Fault, Report, check
from greenroom.inbox import post_cancel, post_event, post_fields
from greenroom.named import registry_for
from greenroom.retry import retry_policy, stop_after_attempt, wait_fixed
from greenroom.stores import Commit, MemoryStore, RunStore
from tests.support.flavours import DEADLINE


class Ask(InputRequiredEvent):
    n: int


class Answer(HumanResponseEvent):
    n: int


class Item(Event):
    n: int


class Other(Event):
    n: int


class Made(Event):
    n: int


def asked(handler: Handler) -> str:
    """Wait for a run's question, and return its id."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        pending = handler.pending_inputs()
        if pending:
            return pending[0].input_id
        handler.exception(0) if handler.done() else None
    raise AssertionError("nothing was asked")


class Base(Workflow):
    """Makes an item, then asks."""

    @step
    def begin(self, ev: StartEvent) -> Item:
        return Item(n=ev.n)

    @step
    def ask(self, ctx: Context, ev: Item) -> StopEvent:
        ctx.store.set("n", ev.n)
        return StopEvent(result=ev.n + ctx.ask(Ask(n=ev.n), Answer).n)


def leave_asking(store: RunStore, workflow: Workflow, **fields: Any) -> str:
    """Begin the run "one", leave it in the store when it asks, and return its question's id."""
    with Runtime(store=store):
        return asked(workflow.run(run_id="one", **fields))


def flow(cls: type[Workflow]) -> Workflow:
    return cls(workflow_name="flow", disable_validation=True)


def begun(store: RunStore, cls: type[Workflow], **fields: Any) -> str:
    return leave_asking(store, flow(cls), **fields)


def found(store: RunStore, cls: type[Workflow]) -> Report:
    report = check(store, [flow(cls)])
    store.close()
    return report


def faults(store: RunStore, cls: type[Workflow]) -> list[Fault]:
    """What a check tells of the run "one", which it leaves as it is."""
    store.open()
    before = store.row("one")
    report = found(store, cls)
    store.open()
    assert store.row("one") == before
    store.close()
    assert report.checked == 1
    return [fault for run in report.broken for fault in run.faults]


def end(store: RunStore, cls: type[Workflow], answer: Any) -> Any:
    """Go on with the run "one" by other code, twice to see that what it left can be read, and return its result."""
    for _ in range(2):
        with Runtime(store=store) as runtime:
            runtime.recover([flow(cls)])
            handler = runtime.get("one")
            assert handler is not None
            question = asked(handler)
    with Runtime(store=store) as runtime:
        runtime.recover([flow(cls)])
        handler = runtime.get("one")
        assert handler is not None
        handler.respond(question, answer)
        return handler.result(DEADLINE)


# -- differences that do no harm ---------------------------------------------------------------------------------------


class MoreSteps(Base):
    """A new step takes an event that the run has had, and the workers are other ones."""

    @step(num_workers=1)
    def ask(self, ctx: Context, ev: Item) -> StopEvent:
        return StopEvent(result=ev.n + ctx.ask(Ask(n=ev.n), Answer).n)

    @step
    def audit(self, ev: Item) -> None: ...

    @step
    def note(self, ev: Answer) -> Other | None: ...

    @step
    def other(self, ev: Other) -> StopEvent: ...


class FewerSteps(Workflow):
    """A step that has done its work is gone, with the event that it was given."""

    @step
    def ask(self, ctx: Context, ev: Item | StartEvent) -> StopEvent:
        return StopEvent(result=ev.n + ctx.ask(Ask(n=ev.n), Answer).n)


@pytest.mark.parametrize("now", [MoreSteps, FewerSteps])
def test_a_run_goes_on_where_nothing_unfinished_stands_on_the_difference(
    make_store: Callable[[], RunStore], now: type[Workflow]
) -> None:
    """What the journal tells goes where it went; a check finds nothing."""
    begun(make_store(), Base, n=1)
    assert faults(make_store(), now) == []
    assert end(make_store(), now, {"n": 2}) == 3


class Wide(Workflow):
    """Fails, is caught, fans out, gathers, joins and collects; the question stands behind all of it."""

    @step(num_workers=2)
    def begin(self, ev: StartEvent) -> list[Item]:
        return [Item(n=n) for n in range(5)]

    @step
    def make(self, ev: Item) -> Made:
        if ev.n == 3:
            raise ValueError(ev.n)
        return Made(n=ev.n)

    @catch_error(for_steps=["make"])
    def mend(self, ctx: Context, ev: StepFailedEvent) -> Made:
        return Made(n=0)

    @step
    def gather(self, made: list[Made]) -> Other:
        return Other(n=sum(each.n for each in made))

    @step
    def ask(self, ctx: Context, ev: Other) -> StopEvent:
        return StopEvent(result=ev.n + ctx.ask(Ask(n=ev.n), Answer).n)


class Narrow(Workflow):
    """Only the last step is left."""

    @step
    def begin(self, ev: StartEvent) -> Other:
        return Other(n=len(repr((Item, Made))))

    @step
    def ask(self, ctx: Context, ev: Other) -> StopEvent:
        return StopEvent(result=ev.n + ctx.ask(Ask(n=ev.n), Answer).n)


def test_what_gathered_and_caught_may_go_when_it_is_done(make_store: Callable[[], RunStore]) -> None:
    """A run is replayed with its fan-outs, joins, workers and recoveries as they were."""
    begun(make_store(), Wide)
    assert faults(make_store(), Narrow) == []
    assert end(make_store(), Narrow, {"n": 2}) == 0 + 1 + 2 + 0 + 4 + 2


# -- differences that break --------------------------------------------------------------------------------------------


class Gone(Workflow):
    """The step that asks has another name."""

    @step
    def begin(self, ev: StartEvent) -> Item:
        return Item(n=ev.n)

    @step
    def inquire(self, ctx: Context, ev: Item) -> StopEvent:
        return StopEvent(result=ctx.ask(Ask(n=ev.n), Answer))


class Takes(Workflow):
    """The step that asks takes another event."""

    @step
    def begin(self, ev: StartEvent) -> Item | Other: ...

    @step
    def ask(self, ctx: Context, ev: Other) -> StopEvent:
        return StopEvent(result=ctx.ask(Ask(n=ev.n), Answer))

    @step
    def rest(self, ev: Item) -> StopEvent: ...


@pytest.mark.parametrize(
    ("now", "problem"),
    [
        (Gone, "step 'ask' is gone, and has Item in hand"),
        (Takes, "step 'ask' has Item in hand, which it does not take any more: it is"),
    ],
)
def test_a_run_that_stands_on_the_difference_is_set_aside(
    make_store: Callable[[], RunStore], now: type[Workflow], problem: str
) -> None:
    """The check says so beforehand, by step and event; when the code is mended the run goes on."""
    begun(make_store(), Base, n=1)
    (fault,) = faults(make_store(), now)
    assert (fault.place, fault.step, fault.event, fault.field) == ("invocation 1", "ask", "Item", None)
    assert fault.problem.startswith(problem)
    with Runtime(store=make_store()) as runtime:
        assert runtime.recover([flow(now)]) == []
        with pytest.raises(WorkflowRuntimeError, match="cannot go on here: it is set_aside"):
            runtime.get("one")
    report = found(make_store(), now)
    assert [(run.run_id, run.workflow, run.status) for run in report.broken] == [("one", "flow", "set_aside")]
    assert found(make_store(), Base).broken == ()
    store = make_store()
    store.open()
    assert store.put_back("one")
    store.close()
    assert end(make_store(), Base, {"n": 2}) == 3


class Queues(Workflow):
    """Leaves behind a collection, a delayed event, an open fan-out and a question that no wait goes with."""

    @step
    def begin(self, ctx: Context, ev: StartEvent) -> list[Item]:
        ctx.send_event(Other(n=1), delay=1000)
        ctx.send_event(Other(n=2), step="late", delay=1000)
        return [Item(n=1), Item(n=2)]

    @step
    def make(self, ctx: Context, ev: Item) -> Made | Ask | None:
        if ev.n == 1:
            ctx.collect_events(ev, [Item, Item])
            return Made(n=1)
        return Ask(n=1)

    @step
    def gather(self, made: list[Made]) -> StopEvent:
        return StopEvent()

    @step
    def late(self, ev: Other) -> StopEvent:
        return StopEvent()

    @step
    def take(self, ev: Answer) -> StopEvent:
        return StopEvent()


class Bare(Workflow):
    """Has nothing of that any more, but knows the classes."""

    @step
    def begin(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=[Item, Other, Made, Ask, Answer])


def test_all_that_is_unfinished_is_looked_at(make_store: Callable[[], RunStore]) -> None:
    """Collections, delayed events, open fan-outs and questions, each named."""
    begun(make_store(), Queues)
    told = faults(make_store(), Bare)
    assert [(fault.place, fault.step, fault.event) for fault in told] == [
        ("a collection", "make", "Item"),
        ("a delayed event", None, "Other"),
        ("a delayed event", "late", "Other"),
        ("question 'one:1'", "make", "Answer"),
        ("an open fan-out", "gather", None),
        ("an open fan-out", "begin", None),
    ]
    assert told[2].problem.startswith("step 'late' does not exist in Bare")
    assert told[5].problem == "its list was gathered by gather, and no step would gather it now"
    assert faults(make_store(), Queues) == []


@pytest.mark.parametrize("fails_by", ["error", "timeout"])
def test_failures_of_the_past_keep_what_their_policy_said(make_store: Callable[[], RunStore], fails_by: str) -> None:
    """A policy that would give up by now does not undo the attempt that it had granted."""

    def version(attempts: int) -> type[Workflow]:
        class Retries(Workflow):
            @step(
                retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(attempts)),
                timeout=0.05 if fails_by == "timeout" else None,
            )
            async def begin(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
                if ctx.retry_info().retry_number == 0:
                    if fails_by == "timeout":
                        await asyncio.Event().wait()
                    raise ValueError("once")
                return StopEvent(result=(await ctx.ask(Ask(n=1), Answer)).n)

            @catch_error
            def caught(self, ctx: Context, ev: StepFailedEvent) -> StopEvent:
                return StopEvent(result=repr(ev.exception))

        return Retries

    begun(make_store(), version(3))
    assert faults(make_store(), version(1)) == []
    assert end(make_store(), version(1), {"n": 5}) == 5


# -- classes and fields ------------------------------------------------------------------------------------------------


def asks(item: type[Event]) -> type[Workflow]:
    """The workflow, with another class in the place of Item."""

    class Flow(Workflow):
        @step
        def begin(self, ev: StartEvent) -> item:  # type: ignore[valid-type]
            return item(n=ev.n)

        @step
        def ask(self, ctx: Context, ev: item) -> StopEvent:  # type: ignore[valid-type]
            ctx.write_event_to_stream(ev)
            return StopEvent(result=(ev, ctx.ask(Ask(n=1), Answer).n))

    return Flow


def shaped(**annotations: Any) -> type[Event]:
    """A class of the name of Item with these fields."""
    return type("Item", (Event,), {"__annotations__": annotations, "__module__": __name__, "__qualname__": "Item"})


def test_fields_that_do_not_fit_are_found_everywhere(make_store: Callable[[], RunStore]) -> None:
    """By journal record, step, class and field: what is missing, and what has another type."""
    begun(make_store(), asks(Item), n=1)
    missing = faults(make_store(), asks(shaped(n=int, name=str)))
    assert {(fault.event, fault.field) for fault in missing} == {("Item", "name")}
    assert missing[0].place.startswith("journal record")
    assert (missing[0].step, missing[-1].place) == ("begin", "stream offset 0")
    typed = faults(make_store(), asks(shaped(n=str)))
    assert typed == [Fault("invocation 1", "Item.n does not fit: Input should be a valid string", "ask", "Item", "n")]
    assert faults(make_store(), asks(shaped(n=int | None))) == []


def test_a_class_that_is_gone_is_found(make_store: Callable[[], RunStore]) -> None:
    """With its name, at each place."""
    begun(make_store(), asks(Item), n=1)
    told = faults(make_store(), asks(Other))
    assert {fault.event for fault in told} == {f"{__name__}:Item"}
    assert {fault.place.split()[0] for fault in told} == {"journal", "stream"}
    assert "register_type(formerly=" in told[0].problem


def test_faults_of_a_checkpoint_are_all_found(make_store: Callable[[], RunStore]) -> None:
    """Not only the first value that cannot be built."""

    class Big(Event):
        n: int

    big = asks(Big)
    with Runtime(store=make_store()):
        handler = big(workflow_name="flow").run(run_id="one", n=1)
        asked(handler)
        for _ in range(70):
            handler.ctx.store.set("padding", "x" * 1000)  # until the journal is compacted
    store = make_store()
    store.open()
    loaded = store.load(["one"])["one"]
    assert loaded.snapshot is not None  # type: ignore[union-attr]
    assert loaded.snapshot[0] > 0  # type: ignore[union-attr]
    told = faults(store, asks(Item))
    assert ("invocation 1", "ask") in {(fault.place, fault.step) for fault in told}
    assert found(store, big).broken == ()


class Named(Event):
    """What became of Item."""

    first: str
    number: int

    @classmethod
    def __upcast__(cls, fields: dict[str, Any]) -> dict[str, Any]:
        return {"first": "Ada", "number": fields["n"]} if "n" in fields else fields


def test_upcasters_and_former_names_work_for_durable_runs(
    make_store: Callable[[], RunStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In checkpoints, journal, stream and inbox; the run ends with the class as it is now."""
    now = asks(Named)
    begun(make_store(), asks(Item), n=7)
    store = make_store()
    store.open()
    post_event(store, "one", Item(n=8), registry_for(flow(asks(Item))._graph))
    store.close()
    registry = TypeRegistry()
    registry.register(Named, formerly=f"{__name__}:Item")
    monkeypatch.setattr("greenroom.named.global_registry", registry)
    assert faults(make_store(), now) == []
    event, answer = end(make_store(), now, {"n": 2})
    assert (event, answer) == (Named(first="Ada", number=7), 2)
    with Runtime(store=make_store()) as runtime:
        runtime.recover([flow(now)])
        ended = runtime.get("one")
        assert ended is not None
        streamed = list(ended.stream_events(after=-1))
        assert [type(event).__name__ for event in streamed] == ["Named", "Ask", "Named", "Ask", "StopEvent"]
        assert streamed[2] == Named(first="Ada", number=8)


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_what_waits_in_the_inbox_is_looked_at(make_store: Callable[[], RunStore]) -> None:
    """Events to a step that is gone, answers of a class that is gone."""
    question = begun(make_store(), Base, n=1)
    store = make_store()
    store.open()
    registry = registry_for(Base(workflow_name="flow")._graph)
    store.post("one", "event", encode([Item(n=1), "begin", None], registry))
    row = store.input(question)
    assert row is not None
    post_fields(store, dataclasses.replace(row, response="gone:Answer"), {"n": 1})
    post_fields(store, row, {"n": "many"})
    post_cancel(store, "one")
    told = faults(store, FewerSteps)
    assert [fault.problem.splitlines()[0].partition(";")[0] for fault in told] == [
        "step 'begin' does not exist in FewerSteps",
        f"question '{question}' is answered with gone:Answer, a class that the workflow does not name any more: if it"
        " was renamed or moved, register it with greenroom.codec.register_type(..., formerly=...)",
        f"the answer to question '{question}' does not fit: 1 validation error for Answer",
    ]


def test_runs_of_other_workflows_are_counted(make_store: Callable[[], RunStore]) -> None:
    """So that a deploy script sees what it has forgotten to give; progress is told."""
    begun(make_store(), Base, n=1)
    seen: list[tuple[int, int]] = []
    store = make_store()
    report = check(store, [Bare(workflow_name="bare")], on_progress=lambda *done: seen.append(done))
    assert (report.checked, report.broken, dict(report.others), seen) == (0, (), {"flow": 1}, [])
    report = check(store, [Base(workflow_name="flow")], on_progress=lambda *done: seen.append(done))
    assert (report.checked, seen) == (1, [(1, 1)])
    with pytest.raises(WorkflowRuntimeError, match="check\\(\\) takes workflows"):
        check(store, [int])  # type: ignore[list-item]
    store.close()


def test_damaged_bytes_are_told_and_stop_nothing() -> None:
    """A checkpoint, a record and a stream event that are no documents."""
    store = MemoryStore()
    store.open()
    begun(store, Base, n=1)
    store.open()
    fence = store.acquire(["one"], "me")["one"]
    row = store.row("one")
    assert row is not None
    store.commit(
        [Commit("one", fence, records=[(row.next_seq, b"junk")], events=[(row.next_offset, b"\xc1")], release=True)]
    )
    places = [fault.place for fault in faults(store, Base)]
    assert places == [f"journal record {row.next_seq}", f"stream offset {row.next_offset}"]
    store.open()
    fence = store.acquire(["one"], "me")["one"]
    store.commit([Commit("one", fence, snapshot=(row.next_seq + 1, b"junk"), release=True)])
    assert [fault.place for fault in faults(store, Base)] == ["the checkpoint", f"stream offset {row.next_offset}"]


def test_a_step_that_has_mended_something_may_go(make_store: Callable[[], RunStore]) -> None:
    """What it had used up of its budget goes with it, from what is in hand, in a collection and in a fan-out."""

    def version(mends: bool) -> type[Workflow]:
        class Mended(Workflow):
            @step
            def begin(self, ev: StartEvent) -> list[Item]:
                return [Item(n=n) for n in range(3)]

            @step
            def make(self, ctx: Context, ev: Item) -> Made:
                if ev.n < 2:
                    raise ValueError(ev.n)
                return Made(n=ctx.ask(Ask(n=ev.n), Answer).n)

            if mends:

                @catch_error(for_steps=["make"])
                def mend(self, ctx: Context, ev: StepFailedEvent) -> Made | Other:
                    return Made(n=10) if ev.input_event.n else Other(n=1)

            @step
            def collect(self, ctx: Context, ev: Other) -> Made | None:
                ctx.collect_events(ev, [Other, Other])
                return None

            @step
            def gather(self, made: list[Made]) -> StopEvent:
                return StopEvent(result=sorted(each.n for each in made))

        return Mended

    begun(make_store(), version(True))
    assert faults(make_store(), version(False)) == []
    assert end(make_store(), version(False), {"n": 3}) == [3, 10]


def test_fewer_workers_than_are_at_work_do_no_harm(make_store: Callable[[], RunStore]) -> None:
    """What four workers had begun is replayed with four, and goes on with one."""

    def version(workers: int) -> type[Workflow]:
        class Many(Workflow):
            @step
            def begin(self, ev: StartEvent) -> list[Item]:
                return [Item(n=n) for n in range(4)]

            @step(num_workers=workers)
            def ask(self, ctx: Context, ev: Item) -> Made:
                ctx.once(f"once {ev.n}", str, ev.n)
                return Made(n=ctx.ask(Ask(n=ev.n), Answer).n)

            @step
            def gather(self, made: list[Made]) -> StopEvent:
                return StopEvent(result=sorted(each.n for each in made))

        return Many

    with Runtime(store=make_store()):
        handler = flow(version(4)).run(run_id="one")
        until_asked(handler, 4)
    assert faults(make_store(), version(1)) == []
    for _ in range(2):
        with Runtime(store=make_store()) as runtime:
            runtime.recover([flow(version(1))])
            again = runtime.get("one")
            assert again is not None
            until_asked(again, 4)
    with Runtime(store=make_store()) as runtime:
        runtime.recover([flow(version(1))])
        again = runtime.get("one")
        assert again is not None
        for question in again.pending_inputs():
            again.respond(question.input_id, {"n": question.request.n})
        assert again.result(DEADLINE) == [0, 1, 2, 3]


def until_asked(handler: Handler, count: int) -> None:
    """Wait until a run asks so many questions."""
    deadline = time.monotonic() + DEADLINE
    while len(handler.pending_inputs()) < count:
        assert time.monotonic() < deadline

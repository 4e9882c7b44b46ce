"""Workflows that note what they do, in processes that die at a place. See `tests.crash.test_durability_page`.

A place is reached by name. Beside those in the bodies below there are `before KIND` and `after KIND` of the commit that
takes a fact of that kind to the journal first, as `before Finished`; and `at rest`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

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
    catch_error,
    step,
)
from greenroom.errors import InputAnsweredError, StoreError
from greenroom.journal import describe_record
from greenroom.resources import Resource
from greenroom.retry import retry_policy, stop_after_attempt, wait_fixed
from greenroom.stores import ENDED, Commit, SQLiteStore

RESTS = ("before rest", "at rest")

notes: Path
dies_at: str | None


def note(text: str) -> str:
    """Do something that can be seen outside, and stays."""
    with notes.open("a") as file:
        file.write(text + "\n")
    return text


def reach(place: str) -> None:
    """Die here, if it is the place."""
    if place == dies_at:
        os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()


class Paid(Event):
    receipt: str


class Item(Event):
    n: int


class Done(Event):
    n: int


class Ask(InputRequiredEvent):
    pass


class Answer(HumanResponseEvent):
    n: int


class Order(Workflow):
    """Two steps; the first does something once, and something that is not in `once`."""

    @step
    def pay(self, ctx: Context, ev: StartEvent) -> Paid:
        note("pay")
        reach("before once")
        receipt = ctx.once("charge", self.charge)
        reach("after once")
        note("mail")
        reach("after mail")
        return Paid(receipt=receipt)

    @step
    def ship(self, ev: Paid) -> StopEvent:
        note("ship")
        reach("ship")
        return StopEvent(result=ev.receipt)

    def charge(self) -> str:
        reach("in once")
        note("charge")
        reach("after the effect")
        return "receipt"


class InLine(Order):
    """One run at a time: the second waits for its turn."""

    def __init__(self) -> None:
        super().__init__(num_concurrent_runs=1)

    @step
    def pay(self, ctx: Context, ev: StartEvent) -> Paid:
        note(f"pay {ev.n}")
        if ev.n == 0:
            ctx.ask(Ask(), Answer)
        return Paid(receipt=str(ev.n))


class Sends(Workflow):
    """Sends and streams before something that waits for a commit, and after."""

    @step
    def begin(self, ctx: Context, ev: StartEvent) -> Item:
        for n in (1, 2):
            note(f"send {n}")
            ctx.send_event(Item(n=n))
            ctx.write_event_to_stream(Item(n=n))
        ctx.once("mark", note, "mark")
        reach("sent")
        return Item(n=3)

    @step(num_workers=1)
    def take(self, ctx: Context, ev: Item) -> StopEvent | None:
        note(f"take {ev.n}")
        got = ctx.collect_events(ev, {Item: 3})
        if got is None:
            return None
        reach("collected")
        return StopEvent(result=sorted(item.n for item in got))


class Counts(Workflow):
    """Reads the shared state, and sets it."""

    @step
    def count(self, ctx: Context, ev: StartEvent) -> StopEvent:
        total = ctx.store.get("total", 0)
        note(f"total was {total}")
        ctx.store.set("total", total + 1)
        seen = ctx.once("seen", ctx.store.get, "seen", 0)
        ctx.store.set("seen", seen + 1)
        reach("counted")
        return StopEvent(result=[ctx.store.get("total"), ctx.store.get("seen")])


class Retries(Workflow):
    """Fails twice."""

    @step(retry_policy=retry_policy(wait=wait_fixed(0.2), stop=stop_after_attempt(3)))
    def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
        number = ctx.retry_info().retry_number
        note(f"attempt {number}")
        if number == 1:
            reach("in an attempt")
        if number < 2:
            raise ValueError(number)
        return StopEvent(result=number)


class Waits(Workflow):
    """Asks, and then sleeps."""

    @step
    def wait(self, ctx: Context, ev: StartEvent) -> StopEvent:
        note("wait")
        n = ctx.ask(Ask(), Answer).n
        note(f"answered {n}")
        ctx.sleep(0.2)
        note("slept")
        return StopEvent(result=n)


class Hears(Workflow):
    """Waits for two events from outside."""

    @step
    def hear(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=[ctx.wait_for_event(Item).n, ctx.wait_for_event(Item).n])


class FansOut(Workflow):
    """A list of items, of which one is taken at a time."""

    @step
    def begin(self, ev: StartEvent) -> list[Item]:
        note("begin")
        return [Item(n=n) for n in range(3)]

    @step(num_workers=1)
    def work(self, ev: Item) -> Done:
        note(f"work {ev.n}")
        reach(f"work {ev.n}")
        return Done(n=ev.n)

    @step
    def gather(self, done: list[Done]) -> StopEvent:
        note("gather")
        reach("gather")
        return StopEvent(result=[event.n for event in done])


class Fails(Workflow):
    """Another step takes what has failed for good."""

    @step
    def work(self, ev: StartEvent) -> StopEvent:
        note("work")
        raise ValueError("no")

    @catch_error
    def mend(self, ev: StepFailedEvent) -> StopEvent:
        note("mend")
        reach("mend")
        return StopEvent(result=str(ev.exception))


class Inner(Workflow):
    @step
    def first(self, ev: StartEvent) -> Item:
        note("first")
        return Item(n=1)

    @step
    def second(self, ev: Item) -> StopEvent:
        note("second")
        reach("second")
        return StopEvent(result=ev.n)


class Outer(Workflow):
    """Runs another workflow."""

    @step
    def outer(self, ctx: Context, ev: StartEvent) -> StopEvent:
        note("outer")
        result = ctx.run(Inner()).result()
        note("result")
        reach("child has ended")
        return StopEvent(result=result)


def connect() -> Iterator[str]:
    note("open")
    reach("opened")
    yield "connection"
    note("close")


class Opens(Workflow):
    """Two steps share what is open."""

    @step
    def one(self, ev: StartEvent, connection: Annotated[str, Resource(connect, scope="run")]) -> Item:
        note("one")
        return Item(n=1)

    @step
    def two(self, ev: Item, connection: Annotated[str, Resource(connect, scope="run")]) -> StopEvent:
        note("two")
        reach("two")
        return StopEvent(result=connection)


class Later(Workflow):
    """Sends an event for later."""

    @step
    def begin(self, ctx: Context, ev: StartEvent) -> Item | None:
        note("begin")
        ctx.send_event(Item(n=1), delay=0.2)
        return None

    @step
    def take(self, ev: Item) -> StopEvent:
        note("take")
        return StopEvent(result=ev.n)


class Fatal:
    """A store whose process dies before or after the commit that takes the first fact of a kind to the journal."""

    def __init__(self, path: Path) -> None:
        self._store = SQLiteStore(path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def commit(self, commits: Sequence[Commit]) -> list[StoreError | None]:
        kinds = [describe_record(record)[1] for commit in commits for _, record in commit.records]
        kinds += ["the end" for commit in commits if commit.status in ENDED]
        for kind in kinds:
            reach(f"before {kind}")
        if any(commit.release for commit in commits):
            reach("before rest")
        refused = self._store.commit(commits)
        for kind in kinds:
            reach(f"after {kind}")
        if any(commit.release for commit in commits):
            reach("at rest")
        return refused


# -- what is done from outside: each begins the run, or finds it, and returns its handler ------------------------------


def begin(workflow: Workflow) -> Handler:
    """Only begin it."""
    handler = workflow.run(run_id="run")
    reach("run() has returned")
    return handler


def begin_in_line(workflow: Workflow) -> Handler:
    """Begin it behind another one, whose end it waits for."""
    first = workflow.run(run_id="first", n=0)
    wait_for_question(first)
    handler = workflow.run(run_id="run", n=1)
    reach("run() has returned")
    first.respond("first:1", {"n": 0})
    return handler


def wait_for_question(handler: Handler) -> None:
    """Wait until the run has asked."""
    next(event for event in handler.stream_events(after=-1) if isinstance(event, InputRequiredEvent))


def answer(workflow: Workflow) -> Handler:
    """Answer its question, unless that was done."""
    handler = workflow.run(run_id="run")
    wait_for_question(handler)
    reach("asked")
    if dies_at in RESTS:
        signal.pause()
    with suppress(InputAnsweredError):
        handler.respond("run:1", {"n": 7})
    reach("respond() has returned")
    return handler


def send(workflow: Workflow) -> Handler:
    """Send it two events. A sender that does not know whether it has sends again."""
    handler = workflow.run(run_id="run")
    for n in (1, 2):
        try:
            handler.send_event(Item(n=n), dedup_key=str(n))
        except WorkflowRuntimeError:
            if dies_at is not None or not handler.done():
                raise  # Else it had what it needed, and has ended.
        reach(f"send_event() has returned {n}")
    return handler


def cancel(workflow: Workflow) -> Handler:
    """End it while it waits; in the second process answer it instead, if it has not ended."""
    handler = workflow.run(run_id="run")
    wait_for_question(handler)
    if dies_at is not None:
        handler.cancel_run()
        reach("cancel_run() has returned")
    elif not handler.done():
        handler.respond("run:1", {"n": 7})
    return handler


def live(folder: str, flow: type[Workflow], act: Callable[[Workflow], Handler], place: str | None) -> None:
    """Live until the run has ended, and note its result; or until the place is reached."""
    global notes, dies_at
    notes, dies_at = Path(folder) / "notes", place
    store: Any = Fatal(Path(folder) / "runs.db")
    with Runtime(store=store, idle_timeout=0.05 if place in RESTS else 300.0) as runtime:
        workflow = flow()
        runtime.recover([workflow])
        handler = act(workflow)
        error = handler.exception()
        note(f"= {handler.result() if error is None else type(error).__name__}")
        reach("result() has returned")

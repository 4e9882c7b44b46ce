"""Log records bear the run, step and invocation that they were made in; the engine's own tell the life of a run."""

import asyncio
import logging
import logging.handlers
import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from greenroom import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    Runtime,
    StartEvent,
    StopEvent,
    Workflow,
    aio,
    step,
)
from greenroom.logging import RunFilter, add_run_fields
from greenroom.retry import retry_policy, stop_after_attempt, wait_none
from greenroom.testing import SeededRuntime
from tests.support.flavours import DEADLINE, Flavour

library = logging.getLogger("some.library")


class Part(Event):
    n: int


class Answer(HumanResponseEvent):
    n: int


class Kept(logging.Handler):
    """Keeps its records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def kept() -> Iterator[Kept]:
    """A handler of the root logger with the filter."""
    handler = Kept()
    handler.addFilter(RunFilter())
    root = logging.getLogger()
    root.addHandler(handler)
    yield handler
    root.removeHandler(handler)


def fields(record: Any) -> tuple[Any, Any, Any]:
    """The three attributes of a record."""
    return record.run_id, record.step, record.invocation


def test_records_of_any_logger_bear_run_step_and_invocation(flow: Flavour, kept: Kept) -> None:
    """What a step, its helpers and libraries log has the three, also after a wait; outside they are empty."""

    def helper(n: int) -> None:
        library.warning("helper %d", n)

    class Chain(Workflow):
        @flow.step
        async def first(self, ctx: Context, ev: StartEvent) -> Part:
            helper(1)
            await flow(ctx.wait_for_event(Answer))
            helper(2)
            return Part(n=1)

        @flow.step
        async def second(self, ctx: Context, ev: Part) -> StopEvent:
            helper(3)
            return StopEvent()

    with Runtime():
        handler = Chain().run(run_id="r")
        handler.send_event(Answer(n=1))
        handler.result(DEADLINE)
    library.warning("outside")
    found = [(record.getMessage(), fields(record)) for record in kept.records]
    assert found == [
        ("helper 1", ("r", "first", 0)),
        ("helper 2", ("r", "first", 0)),
        ("helper 3", ("r", "second", 1)),
        ("outside", ("", "", "")),
    ]


def test_tasks_and_threads_of_a_step_bear_them_too(kept: Kept) -> None:
    """Records made in a gather or in asyncio.to_thread are those of the step."""

    class Spreads(Workflow):
        @step
        async def one(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
            async def task() -> None:
                library.warning("task")

            await asyncio.gather(task(), asyncio.to_thread(library.warning, "thread"))
            return StopEvent()

    with Runtime():
        Spreads().run(run_id="r").result(DEADLINE)
    assert {(record.getMessage(), fields(record)) for record in kept.records} == {
        ("task", ("r", "one", 0)),
        ("thread", ("r", "one", 0)),
    }


def test_two_runs_at_once_are_told_apart(flow: Flavour, kept: Kept) -> None:
    """Records of runs that go on side by side have each its own run's id."""
    meeting = threading.Barrier(2)

    class Meets(Workflow):
        @step
        def one(self, ctx: Context, ev: StartEvent) -> Part:
            meeting.wait(DEADLINE)
            library.warning("%s", ev.name)
            return Part(n=1)

        @flow.step
        async def two(self, ctx: Context, ev: Part) -> StopEvent:
            library.warning("%s", ctx._port.run_id)
            return StopEvent()

    with Runtime():
        for handler in [Meets().run(run_id=name, name=name) for name in "ab"]:
            handler.result(DEADLINE)
    assert len(kept.records) == 4
    assert all(record.getMessage() == record.run_id for record in kept.records)  # type: ignore[attr-defined]


def test_what_a_record_has_is_left_alone(kept: Kept) -> None:
    """An attribute that the program's own `extra` gives stays."""

    class Names(Workflow):
        @step
        def one(self, ev: StartEvent) -> StopEvent:
            library.warning("mine", extra={"run_id": "mine"})
            return StopEvent()

    Names().run(run_id="r").result(DEADLINE)
    assert [fields(record) for record in kept.records] == [("mine", "one", 0)]


def test_a_queue_handler_carries_them(kept: Kept) -> None:
    """With the filter on a QueueHandler, records that are written elsewhere have what they were made in."""
    records: queue.SimpleQueue[Any] = queue.SimpleQueue()
    sends = logging.handlers.QueueHandler(records)
    library.addHandler(sends)
    add_run_fields(library)
    library.propagate = False

    class Names(Workflow):
        @step
        def one(self, ev: StartEvent) -> StopEvent:
            library.warning("queued")
            return StopEvent()

    try:
        Names().run(run_id="r").result(DEADLINE)
    finally:
        library.removeHandler(sends)
        library.propagate = True
    assert fields(records.get(timeout=DEADLINE)) == ("r", "one", 0)


def test_the_life_of_a_run_is_logged_at_info(flow: Flavour, caplog: pytest.LogCaptureFixture) -> None:
    """At INFO greenroom.run has a record for a run's begin and one for its end, which bear its id."""

    class Hello(Workflow):
        @flow.step
        async def hello(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent()

    with caplog.at_level(logging.INFO, logger="greenroom.run"), Runtime():
        Hello().run(run_id="r").result(DEADLINE)
    began, ended = [record for record in caplog.records if record.name == "greenroom.run"]
    assert began.getMessage() == "run 'r' of Hello began"
    assert ended.getMessage().startswith("run 'r' of Hello: completed after 0.")
    assert fields(began) == fields(ended) == ("r", "", "")


def test_debug_tells_all_that_happens(flow: Flavour, caplog: pytest.LogCaptureFixture, kept: Kept) -> None:
    """At DEBUG there is a record for all that observers hear of, with run, step and invocation."""

    class Busy(Workflow):
        @flow.step(retry_policy=retry_policy(stop=stop_after_attempt(2), wait=wait_none()))
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            if ctx.retry_info().retry_number == 0:
                raise ValueError("once")
            ctx.write_event_to_stream(Part(n=1))
            ctx.send_event(Part(n=2))
            await flow(ctx.wait_for_event(Answer))
            return StopEvent()

    with caplog.at_level(logging.DEBUG, logger="greenroom.run"), SeededRuntime(1) as runtime:
        handler = Busy(disable_validation=True).run(run_id="r")
        runtime.run_until_idle()
        handler.send_event(Answer(n=1))
        handler.result()
    messages = [record.getMessage().partition(" after")[0] for record in kept.records]
    assert messages == [
        "run 'r' of Busy began",
        "StartEvent goes to step 'one'",
        "step 'one' begins attempt 1 at StartEvent",
        "step 'one': failed",
        "step 'one' is tried again in 0.000000 s",
        "step 'one' begins attempt 2 at StartEvent",
        "Part goes to the stream",
        "Part is a dead letter: no step takes it",
        "step 'one' waits for Answer",
        "run 'r' has come to rest",
        "step 'one': its wait for Answer is over: answered",
        "step 'one': completed",
        "StopEvent goes to the stream",
        "run 'r' of Busy: completed",
    ]
    assert all(record.run_id == "r" for record in kept.records)  # type: ignore[attr-defined]
    assert all(fields(record) == ("r", "one", 0) for record in kept.records if "begins" in record.getMessage())


def test_the_engine_formats_nothing_while_the_level_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the level above INFO no record is made on the way of a message."""
    made: list[str] = []
    make = logging.Logger.makeRecord

    def note(self: logging.Logger, *args: Any, **kwargs: Any) -> logging.LogRecord:
        made.append(self.name)
        return make(self, *args, **kwargs)

    monkeypatch.setattr(logging.Logger, "makeRecord", note)

    class Hello(Workflow):
        @step
        def hello(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    with Runtime():
        Hello().run().result(DEADLINE)
    assert not made


def test_an_error_that_nobody_saw_names_its_run(kept: Kept) -> None:
    """The engine's own records bear the attributes also where no filter is."""
    kept.filters.clear()

    class Fails(Workflow):
        @step
        def one(self, ev: StartEvent) -> StopEvent:
            raise ValueError("unseen")

    with Runtime():
        Fails().run(run_id="r")
    assert [fields(record) for record in kept.records] == [("r", "", "")]


def test_a_failing_callback_has_no_run(kept: Kept) -> None:
    """Records that belong to no run have the attributes empty, so that a format may name them."""
    kept.filters.clear()

    gate = threading.Event()

    class Waits(Workflow):
        @step
        def hello(self, ev: StartEvent) -> StopEvent:
            assert gate.wait(DEADLINE)
            return StopEvent()

    def fail(_: Any) -> None:
        raise ValueError("in a callback")

    with Runtime():
        handler = Waits().run()
        handler.add_done_callback(fail)
        gate.set()
        handler.result(DEADLINE)
    assert [fields(record) for record in kept.records] == [("", "", "")]


def test_records_of_children_bear_their_own_run(flow: Flavour, kept: Kept) -> None:
    """What a child's steps log bears the child's run, step and invocation; what the step around it logs, its own."""

    class Inner(Workflow):
        @flow.step
        async def begin(self, ctx: Context, ev: StartEvent) -> Part:
            library.warning("begin")
            await flow(ctx.ask(InputRequiredEvent(), Answer))
            library.warning("answered")
            return Part(n=1)

        @flow.step
        async def end(self, ctx: Context, ev: Part) -> StopEvent:
            library.warning("end")
            return StopEvent()

    class Outer(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            child = ctx.run(Inner())
            library.warning("before")
            await flow(child.result())
            library.warning("after")
            return StopEvent()

    with SeededRuntime(1) as runtime:
        handler = Outer().run(run_id="r")
        runtime.run_until_idle()
        (question,) = handler.pending_inputs()
        handler.respond(question.input_id, Answer(n=1))
        handler.result()
    child = "r/Inner.0.0"
    assert {record.getMessage(): fields(record) for record in kept.records if record.name == library.name} == {
        "before": ("r", "one", 0),
        "begin": (child, "begin", 0),
        "answered": (child, "begin", 0),
        "end": (child, "end", 1),
        "after": ("r", "one", 0),
    }


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
def test_the_life_of_children_is_logged(caplog: pytest.LogCaptureFixture, level: int) -> None:
    """Begin and end of a child are logged at INFO with its run id and the step that began it, the rest at DEBUG."""

    class Inner(Workflow):
        @step
        def one(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    class Outer(Workflow):
        @step
        async def total(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await ctx.run(Inner()))

    with caplog.at_level(level, logger="greenroom.run"), SeededRuntime(1):
        Outer().run(run_id="r").result()
    records = [r for r in caplog.records if r.name == "greenroom.run" and fields(r)[0] == "r/Inner.0.0"]
    at_info = [r.getMessage().partition(" after ")[0] for r in records if r.levelno == logging.INFO]
    assert at_info == [
        "run 'r/Inner.0.0' of Inner began in step 'total' of run 'r'",
        "run 'r/Inner.0.0' of Inner: completed",
    ]
    assert any("step 'one' begins" in r.getMessage() for r in records) == (level == logging.DEBUG)

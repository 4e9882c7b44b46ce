"""Snapshots: a run is put away at any moment and goes on in another runtime; what is damaged or foreign is refused."""

from __future__ import annotations

import asyncio
import builtins
import json
import socket
import zlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from greenroom import (
    Context,
    Event,
    HumanResponseEvent,
    InputAnsweredError,
    InputExpiredError,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    aio,
    step,
)
from greenroom.codec import TypeRegistry, register_type
from greenroom.errors import ContextSerdeError, ContextStateError
from greenroom.named import registry_for
from greenroom.retry import retry_policy, stop_after_attempt, wait_fixed
from greenroom.testing import SeededRuntime

SOON = 0.5  # Virtual seconds that the steps of a schedule may take on top of a delay.


class Ask(InputRequiredEvent):
    n: int = 0


class Approval(HumanResponseEvent):
    approved: bool


class Part(Event):
    n: int


class Go(Event):
    pass


def as_bytes(workflow: Workflow, ctx: Context) -> Context:
    """Put a run away as bytes and take it out again."""
    return Context.restore(workflow, ctx.snapshot())


def as_dict(workflow: Workflow, ctx: Context) -> Context:
    """Put a run away as JSON text and take it out again."""
    return Context.from_dict(workflow, json.loads(json.dumps(ctx.to_dict())))


def again_and_again(workflow: Workflow, ctx: Context) -> Context:
    """Put away what was put away and never ran in between."""
    return as_bytes(workflow, as_dict(workflow, as_bytes(workflow, ctx)))


@pytest.fixture(params=[as_bytes, as_dict, again_and_again])
def trip(request: pytest.FixtureRequest) -> Callable[[Workflow, Context], Context]:
    """Each way to put a run away."""
    return request.param  # type: ignore[no-any-return]


Trip = Callable[[Workflow, Context], Context]


# -- every kind of moment ----------------------------------------------------------------------------------------------


class Total(BaseModel):
    total: int = 0
    seen: set[str] = set()


class Adds(Workflow):
    """Adds to a typed state, and nothing else."""

    @step
    def add(self, ctx: Context[Total], ev: StartEvent) -> StopEvent:
        with ctx.store.edit_state() as state:
            state.total += ev.n
            state.seen.add(str(ev.n))
        return StopEvent(result=ctx.store.get("total"))


def test_before_the_run_the_store_is_kept(trip: Trip) -> None:
    """A context that was filled by hand begins a run with what it holds, and takes start arguments."""
    workflow = Adds()
    ctx = Context(workflow)
    ctx.store.set("total", 40)
    with SeededRuntime(1):
        assert workflow.run(ctx=trip(workflow, ctx), n=2).result() == 42


def test_after_the_end_the_store_is_kept_and_the_stream_begins_anew(trip: Trip) -> None:
    """Nothing is unfinished, so the next run takes start arguments and counts its events from 0."""
    workflow = Adds()
    with SeededRuntime(1):
        handler = workflow.run(n=40)
        assert handler.result() == 40
    with SeededRuntime(2):
        handler = workflow.run(ctx=trip(workflow, handler.ctx), n=2)
        assert handler.result() == 42
        assert handler.ctx.store.get("seen") == {"40", "2"}
        assert len(list(handler.stream_events(after=-1))) == 1


class Sleeps(Workflow):
    """Streams, sends, does something once, and sleeps long; one item an invocation, two at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.entered: list[int] = []
        self.charged: list[int] = []

    @step
    def begin(self, ctx: Context, ev: StartEvent) -> Part | None:
        for n in range(4):
            ctx.send_event(Part(n=n))
        return None

    @step(num_workers=2)
    async def work(self, ctx: aio.Context, ev: Part) -> Go:
        self.entered.append(ev.n)
        ctx.write_event_to_stream(Part(n=ev.n))
        await ctx.once("charge", self.charged.append, ev.n)
        await asyncio.sleep(100)
        return Go(n=ev.n)

    @step
    def join(self, ctx: Context, ev: Go) -> StopEvent | None:
        done = ctx.collect_events(ev, {Go: 4})
        return done and StopEvent(result=sorted(event.n for event in done))


def test_bodies_in_flight_run_again_and_do_nothing_again(trip: Trip) -> None:
    """Those that ran come first; what they streamed and did once is not done again; offsets go on."""
    workflow = Sleeps()
    with SeededRuntime(1) as runtime:
        handler = workflow.run()
        runtime.advance(50)
        restored = trip(workflow, handler.ctx)
        entered, charged = list(workflow.entered), list(workflow.charged)
        assert len(entered) == len(charged) == 2
    workflow.entered.clear()  # The end of the runtime let the bodies go on for a while.
    workflow.charged.clear()
    with SeededRuntime(2):
        handler = workflow.run(ctx=restored)
        assert handler.result() == [0, 1, 2, 3]
        assert sorted(workflow.entered) == [0, 1, 2, 3]
        assert sorted(workflow.entered[:2]) == sorted(entered)
        assert sorted(charged + workflow.charged) == [0, 1, 2, 3]
        rest = list(handler.stream_events(after=1))
        assert [type(event) for event in rest] == [Part, Part, StopEvent]
        assert list(handler.stream_events(after=2)) == rest[1:]


class Waits(Workflow):
    """Waits for an event with a timeout, and tells which came."""

    @step
    def wait(self, ctx: Context, ev: StartEvent) -> StopEvent:
        try:
            got = ctx.wait_for_event(Go, requirements={"n": 7}, timeout=100)
        except TimeoutError:
            return StopEvent(result="too late")
        return StopEvent(result=got.n)


def test_a_wait_keeps_what_is_left_of_its_timeout(trip: Trip) -> None:
    """Sixty of a hundred seconds have gone by; forty are left in the new runtime."""
    workflow = Waits()
    with SeededRuntime(1) as runtime:
        handler = workflow.run()
        runtime.advance(60)
        restored = trip(workflow, handler.ctx)
    with SeededRuntime(2) as runtime:
        runtime.advance(1000)
        begun = runtime.now()
        assert workflow.run(ctx=restored).result() == "too late"
        assert 40 - SOON < runtime.now() - begun < 40 + SOON


def test_a_wait_keeps_its_requirements(trip: Trip) -> None:
    """An event that comes before the body has come to its wait again is judged by what it asked for then."""
    workflow = Waits()
    with SeededRuntime(1) as runtime:
        handler = workflow.run()
        runtime.run_until_idle()
        restored = trip(workflow, handler.ctx)
    with SeededRuntime(2) as runtime:
        handler = workflow.run(ctx=restored)
        handler.send_event(Go(n=6))
        handler.send_event(Go(n=7))
        assert handler.result() == 7
        assert runtime.now() < SOON


class Fails(Workflow):
    """Fails twice, with a long delay before each retry."""

    @step(retry_policy=retry_policy(wait=wait_fixed(100), stop=stop_after_attempt(3)))
    def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
        info = ctx.retry_info()
        if info.retry_number < 2:
            raise ValueError(f"failure {info.retry_number}")
        return StopEvent(result=(info.retry_number, repr(info.last_exception), info.elapsed_seconds))


def test_a_retry_keeps_its_count_and_what_is_left_of_its_delay(trip: Trip) -> None:
    """Thirty seconds are left of the first delay; the budget and the elapsed time go on (D19)."""
    workflow = Fails()
    with SeededRuntime(1) as runtime:
        handler = workflow.run()
        runtime.advance(70)
        restored = trip(workflow, handler.ctx)
    with SeededRuntime(2) as runtime:
        number, error, elapsed = workflow.run(ctx=restored).result()
        assert (number, error) == (2, "ValueError('failure 1')")
        assert 130 - SOON < runtime.now() < 130 + SOON
        assert 100 - SOON < elapsed < 100 + SOON


class Asks(Workflow):
    """Asks twice: through a step that takes the answer, and in place."""

    @step
    def ask(self, ev: StartEvent) -> Ask:
        return Ask(n=1)

    @step
    def go_on(self, ctx: Context, ev: HumanResponseEvent) -> StopEvent:
        second = ctx.ask(Ask(n=2), Approval, timeout=500)
        return StopEvent(result=(ev.response, second.approved))


def test_after_a_break_the_stream_and_the_questions_go_on(trip: Trip) -> None:
    """A question keeps its id, its age and its response class; the stream goes on behind what was read."""
    workflow = Asks()
    with SeededRuntime(1):
        handler = workflow.run()
        event = next(iter(handler.stream_events()))
        restored = trip(workflow, handler.ctx)
    with SeededRuntime(2) as runtime:
        handler = workflow.run(ctx=restored)
        (pending,) = handler.pending_inputs()
        assert (pending.input_id, pending.request, pending.response) == (event.input_id, event, HumanResponseEvent)
        handler.respond(event.input_id, {"response": "yes"})
        second = next(iter(handler.stream_events()))
        assert (second.n, second.input_id != event.input_id) == (2, True)
        runtime.advance(200)
        restored = trip(workflow, handler.ctx)
    with SeededRuntime(3) as runtime:
        handler = workflow.run(ctx=restored)
        (pending,) = handler.pending_inputs()
        assert (pending.input_id, pending.response) == (second.input_id, Approval)
        assert pending.expires_at is not None
        left = pending.expires_at - runtime._dispatcher.wall_time()
        assert abs(left - timedelta(seconds=300)) < timedelta(seconds=SOON)
        assert abs(pending.expires_at - pending.asked_at - timedelta(seconds=500)) < timedelta(seconds=SOON)
        with pytest.raises(InputAnsweredError):
            handler.respond(event.input_id, {"response": "again"})
        handler.respond(second.input_id, {"approved": True})
        assert handler.result() == ("yes", True)
        assert [type(event) for event in handler.stream_events(after=1)] == [StopEvent]


def test_a_question_expires_after_what_is_left_of_its_time(trip: Trip) -> None:
    """An answer that comes later is told that the question was given up."""
    workflow = Asks()
    with SeededRuntime(1) as runtime:
        handler = workflow.run()
        handler.send_event(HumanResponseEvent(response="early"))
        runtime.advance(200)
        ids = [question.input_id for question in handler.pending_inputs() if question.request.n == 2]
        restored = trip(workflow, handler.ctx)
    with SeededRuntime(2) as runtime:
        handler = workflow.run(ctx=restored)
        with pytest.raises(TimeoutError):
            handler.result()
        assert 300 - SOON < runtime.now() < 300 + SOON
    assert len(ids) == 1


def test_after_a_cancel_the_run_goes_on(trip: Trip) -> None:
    """A snapshot of a cancelled run resumes it, as its live context would."""
    workflow = Asks()
    with SeededRuntime(1):
        handler = workflow.run()
        event = next(iter(handler.stream_events()))
        handler.cancel_run()
        with pytest.raises(WorkflowCancelledByUser):
            handler.result()
        restored = trip(workflow, handler.ctx)
    with SeededRuntime(2):
        handler = workflow.run(ctx=restored)
        assert [question.input_id for question in handler.pending_inputs()] == [event.input_id]


class Gathers(Workflow):
    """Collects, holds, and sends with a delay."""

    @step
    def begin(self, ctx: Context, ev: StartEvent) -> Part | None:
        ctx.send_event(Part(n=1))
        ctx.send_event(Part(n=2))
        ctx.send_event(Part(n=3), delay=100)
        return None

    @step
    def gather(self, ctx: Context, ev: Part) -> StopEvent | None:
        parts = ctx.collect_events(ev, {Part: 3})
        if parts is None:
            return None
        late = ctx.wait_for_event(Go)
        return StopEvent(result=(sorted(part.n for part in parts), late.n))


def test_collections_held_events_and_delayed_sends_are_kept(trip: Trip) -> None:
    """Two of three parts are buffered, the third is on its way, and an early answer is held."""
    workflow = Gathers()
    with SeededRuntime(1) as runtime:
        handler = workflow.run()
        runtime.advance(60)
        handler.send_event(Go(n=9))
        restored = trip(workflow, handler.ctx)
    with SeededRuntime(2) as runtime:
        handler = workflow.run(ctx=restored)
        assert handler.result() == ([1, 2, 3], 9)
        assert 40 - SOON < runtime.now() < 40 + SOON


def test_start_arguments_are_refused_where_work_is_unfinished(trip: Trip) -> None:
    """They would be lost: the context resumes instead, and still can after the refusal."""
    workflow = Gathers()
    with SeededRuntime(1) as runtime:
        handler = workflow.run()
        runtime.advance(60)
        restored = trip(workflow, handler.ctx)
        with pytest.raises(ContextStateError, match="unfinished work"):
            workflow.run(ctx=restored, topic="x")
        with pytest.raises(ContextStateError, match="unfinished work"):
            workflow.run(ctx=restored, start_event=StartEvent())
        with pytest.raises(ContextStateError, match="in use"):
            workflow.run(ctx=handler.ctx)
    with SeededRuntime(2):
        handler = workflow.run(ctx=restored)
        handler.send_event(Go(n=9))
        assert handler.result() == ([1, 2, 3], 9)


def test_equal_moments_give_equal_bytes() -> None:
    """Nothing of the process, such as an address or the time of day, is in a snapshot."""

    def take() -> bytes:
        with SeededRuntime(5) as runtime:
            handler = Gathers().run()
            runtime.advance(60)
            return handler.ctx.snapshot()

    assert take() == take()


class Logs(Workflow):
    """Adds to each of its logs after a wait."""

    @step
    def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
        for n in range(2):
            ctx.once(f"do {n}", str, n)
            ctx.collect_events(ev, {Go: 1}, buffer_id=str(n))
            ctx.wait_for_event(Go)
        return StopEvent(result="done")


# -- refusals ----------------------------------------------------------------------------------------------------------


def put_away() -> tuple[Workflow, Context]:
    """A run with something of every kind, at rest."""
    workflow = Asks()
    with SeededRuntime(1) as runtime:
        handler = workflow.run(text="x")
        handler.send_event(HumanResponseEvent(response="early"))
        runtime.run_until_idle()
        return workflow, as_bytes(workflow, handler.ctx)


def test_a_snapshot_of_another_workflow_is_refused() -> None:
    """The message names both."""
    _, ctx = put_away()
    with pytest.raises(ContextSerdeError, match=r"Asks.*not of.*Gathers"):
        Context.restore(Gathers(), ctx.snapshot())
    with pytest.raises(ContextSerdeError, match=r"Asks.*not of.*Gathers"):
        Context.from_dict(Gathers(), ctx.to_dict())


def test_a_changed_graph_is_refused_with_the_differences() -> None:
    """Steps that came and went, and what a step accepts and returns now and then."""

    def version(number: int) -> Workflow:
        if number == 1:

            class Changing(Workflow):
                @step
                def begin(self, ev: StartEvent) -> Part:
                    return Part(n=1)

                @step
                def end(self, ev: Part) -> StopEvent:
                    return StopEvent()

            return Changing()

        class Changing(Workflow):  # type: ignore[no-redef]
            @step
            def begin(self, ev: StartEvent) -> Part | Go:
                return Part(n=1)

            @step
            def finish(self, ev: Part | Go) -> StopEvent:
                return StopEvent()

        return Changing()

    data = Context(version(1)).snapshot()
    with pytest.raises(ContextSerdeError) as caught:
        Context.restore(version(2), data)
    message = str(caught.value)
    assert "step 'end' is gone" in message
    assert "step 'finish' is new" in message
    assert "step 'begin' returns" in message
    assert "Go" in message


def test_a_newer_format_is_refused_by_name() -> None:
    """In both forms; so is a format that there cannot be."""
    workflow, ctx = put_away()
    outer = msgpack.unpackb(ctx.snapshot())
    as_json = ctx.to_dict()
    newer = [(99, "newer"), (0, "no format"), (True, "no format"), ("1", "no format"), (None, "no format")]
    for version, reason in newer:
        with pytest.raises(ContextSerdeError, match=reason):
            Context.restore(workflow, msgpack.packb({**outer, "greenroom": version}))
        with pytest.raises(ContextSerdeError, match=reason):
            Context.from_dict(workflow, {**as_json, "format": version})


def test_every_truncation_and_every_flipped_bit_is_refused() -> None:
    """The checksum sees what the structure does not."""
    workflow, ctx = put_away()
    data = ctx.snapshot()
    for length in range(len(data)):
        with pytest.raises(ContextSerdeError):
            Context.restore(workflow, data[:length])
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        with pytest.raises(ContextSerdeError):
            Context.restore(workflow, bytes(damaged))
    with pytest.raises(ContextSerdeError):
        Context.restore(workflow, data + b"\x00")
    with pytest.raises(ContextSerdeError, match="bytes"):
        Context.restore(workflow, "text")  # type: ignore[arg-type]


_WORKFLOW, _CTX = put_away()
_DICT = _CTX.to_dict()
_OUTER = msgpack.unpackb(_CTX.snapshot())
_CRC = zlib.crc32(_OUTER["head"])


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    """Neither noise nor noise under a right checksum does anything but raise ContextSerdeError."""
    with pytest.raises(ContextSerdeError):
        Context.restore(_WORKFLOW, data)
    with pytest.raises(ContextSerdeError):
        Context.restore(_WORKFLOW, msgpack.packb({**_OUTER, "crc32": zlib.crc32(data, _CRC), "document": data}))


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += _paths(item, (*path, key))
    return found


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -1, float("inf"), float("nan"), 1e308])
    | st.floats()
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=600)
@given(st.sampled_from(_paths(_DICT)), _JSON)
def test_a_forged_document_is_refused_or_runs(path: tuple[Any, ...], value: Any) -> None:
    """One value swapped for another raises ContextSerdeError, or gives a run that the engine itself can carry."""
    forged = json.loads(json.dumps(_DICT))
    target = forged
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    try:
        ctx = Context.from_dict(_WORKFLOW, forged)
    except ContextSerdeError:
        return
    with SeededRuntime(1) as runtime:
        try:
            handler = _WORKFLOW.run(ctx=ctx)
        except ContextStateError:
            return
        runtime.run_until_idle()
        for question in handler.pending_inputs():
            answer = {"response": "x"} if question.response is HumanResponseEvent else {"approved": True}
            try:
                handler.respond(question.input_id, answer)
            except InputExpiredError:
                continue
        runtime.run_until_idle()
        handler.cancel_run()
        assert "engine itself failed" not in str(handler.exception())


class Stranger(BaseModel):
    """A class that no step names."""

    n: int


def test_a_class_that_the_code_does_not_name_is_neither_written_nor_built() -> None:
    """It is refused by its path when it is put away, and by its name when it is read."""
    workflow = Asks()
    ctx = Context(workflow)
    ctx.store.set("user", {"name": Stranger(n=1)})
    with pytest.raises(ContextSerdeError, match=r"state.*user.*name.*Stranger"):
        ctx.snapshot()
    with pytest.raises(ContextSerdeError, match=r"state.*user.*name.*Stranger"):
        ctx.to_dict()
    _, ctx = put_away()
    for name in ("tests.runtime.test_snapshot:Stranger", "os:system", "subprocess:Popen"):
        text = json.dumps(ctx.to_dict()).replace("tests.runtime.test_snapshot:Approval", name)
        with pytest.raises(ContextSerdeError, match=name.split(":")[1]):
            Context.from_dict(workflow, json.loads(text))


def test_a_value_that_cannot_be_encoded_is_refused_with_its_path() -> None:
    """The run is unharmed, and can be put away once the value is gone."""
    workflow = Asks()
    with SeededRuntime(1) as runtime, socket.socket() as connection:
        handler = workflow.run()
        runtime.run_until_idle()
        handler.ctx.store.set("user.conn", connection)
        for put in (handler.ctx.snapshot, handler.ctx.to_dict):
            with pytest.raises(ContextSerdeError, match=r"^run\.state.*user.*conn.*socket"):
                put()
        handler.ctx.store.set("user.conn", None)
        assert as_bytes(workflow, handler.ctx).store.get("user.conn") is None


def test_a_step_cannot_put_its_own_run_away() -> None:
    """The error says where a snapshot is taken from."""

    class Inside(Workflow):
        @step
        def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.snapshot()
            return StopEvent()

    with SeededRuntime(1), pytest.raises(ContextStateError, match=r"handler\.ctx"):
        Inside().run().result()


def test_reading_imports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even for a class name that is in the document."""
    workflow, ctx = put_away()
    data, as_json = ctx.snapshot(), ctx.to_dict()
    forged = json.loads(json.dumps(as_json).replace("tests.runtime.test_snapshot:Approval", "this:Approval"))
    imported: list[str] = []
    real = builtins.__import__

    def watch(name: str, *args: Any, **kwargs: Any) -> Any:
        imported.append(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", watch)
    Context.restore(workflow, data)
    Context.from_dict(workflow, as_json)
    with pytest.raises(ContextSerdeError):
        Context.from_dict(workflow, forged)
    monkeypatch.undo()
    assert imported == []


class Renames(Workflow):
    @step
    def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=ctx.ask(Ask(n=1), Approval).approved)


def test_a_class_that_a_workflow_names_may_be_registered_under_a_name_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Events, answers and the graph are then written under that name, also by a workflow that was put away before."""
    shared = TypeRegistry()
    for module in ("greenroom.named", "greenroom.fingerprint", "greenroom.codec.registry"):
        monkeypatch.setattr(f"{module}.global_registry", shared)
    workflow = Renames()
    with SeededRuntime(1) as runtime:
        handler = workflow.run()
        runtime.run_until_idle()
        assert b"test_snapshot:Ask" in handler.ctx.snapshot()
        register_type(Ask, name="stable:Ask")
        register_type(Approval, name="stable:Approval")
        data = handler.ctx.snapshot()
        assert b"stable:Ask" in data
        assert b"stable:Approval" in data
        assert b"test_snapshot:A" not in data
    with SeededRuntime(2) as runtime:
        handler = workflow.run(ctx=Context.restore(workflow, data))
        runtime.run_until_idle()
        (question,) = handler.pending_inputs()
        handler.respond(question.input_id, {"approved": True})
        assert handler.result() is True


def test_the_classes_of_a_snapshot_are_looked_for_once_until_there_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is registered later, or defined later under a name that a step uses, may be built from then on."""
    monkeypatch.setattr("greenroom.fingerprint.global_registry", TypeRegistry())
    monkeypatch.setattr("greenroom.codec.registry.global_registry", TypeRegistry())
    namespace: dict[str, Any] = {"__name__": "notebook"}
    exec("def step_body():\n    return Later()\n", namespace)
    graph = Renames()._graph
    monkeypatch.setattr(graph, "functions", (*graph.functions, namespace["step_body"]))
    first = registry_for(graph)
    assert registry_for(graph) is first
    later = namespace["Later"] = type("Later", (Event,), {"__module__": "notebook"})
    assert later not in first
    assert later in registry_for(graph)
    again = namespace["Later"] = type("Later", (Event,), {"__module__": "notebook"})
    assert again in registry_for(graph)


_LIBRARY = """
from greenroom import HumanResponseEvent, InputRequiredEvent

class Question(InputRequiredEvent):
    text: str

def confirm(ctx, text):
    return ctx.ask(Question(text=text)).response
"""


def test_a_class_that_only_another_package_names_must_be_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool from a library asks with an event of the library's: refused by name, and taken once it is registered."""
    shared = TypeRegistry()
    for module in ("greenroom.named", "greenroom.fingerprint", "greenroom.codec.registry"):
        monkeypatch.setattr(f"{module}.global_registry", shared)
    library: dict[str, Any] = {"__name__": "library"}
    exec(_LIBRARY, library)
    confirm = library["confirm"]

    class Uses(Workflow):
        @step
        def use(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=confirm(ctx, "sure?"))

    workflow = Uses()
    with SeededRuntime(1) as runtime:
        handler = workflow.run()
        runtime.run_until_idle()
        with pytest.raises(ContextSerdeError, match=r"library\.Question is not registered; .*register_type"):
            handler.ctx.snapshot()
        register_type(library["Question"])
        data = handler.ctx.snapshot()
    with SeededRuntime(2) as runtime:
        handler = workflow.run(ctx=Context.restore(workflow, data))
        runtime.run_until_idle()
        (question,) = handler.pending_inputs()
        assert question.request.text == "sure?"
        handler.respond(question.input_id, {"response": "yes"})
        assert handler.result() == "yes"

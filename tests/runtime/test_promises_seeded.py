"""Random workflows on the real actors, on thousands of schedules, against the promises of the engine.

Each seed draws a workflow, what its steps do, who sends from outside, when it is cancelled, and the schedule. The steps
note what they did in a `Book`; when the runtime has ended, the promises are checked against the book: each says in a
few lines what must hold. A failing seed is named, and `GREENROOM_SEED=n` runs it alone. `GREENROOM_SEEDS=100000`
searches that many seeds.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
from collections import Counter, defaultdict
from collections.abc import Generator
from typing import Any

import pytest

from greenroom import Context, Event, Handler, StartEvent, StopEvent, Workflow, aio, step
from greenroom.actors.supervisor import Inspect
from greenroom.errors import StepCancelled, WorkflowRuntimeError
from greenroom.events import StepState, StepStateChanged
from greenroom.retry import retry_policy, stop_after_attempt, wait_fixed
from greenroom.testing import SeededRuntime, explore

SEEDS = int(os.environ.get("GREENROOM_SEEDS", "2000"))
ONLY = os.environ.get("GREENROOM_SEED")
# How many kinds of workflow there are: which steps are async, their workers, retries and timeouts.
KINDS = 40
# How many events a run may make, so that it comes to an end.
BUDGET = 30


class A(Event):
    uid: str


class LowerA(A):
    pass


class B(Event):
    uid: str


class Part(Event):
    uid: str


class OtherPart(Event):
    uid: str


class Nobodys(Event):
    uid: str


TAKEN_BY: dict[type[Event], list[str]] = {
    A: ["left", "right"],
    LowerA: ["left", "right"],
    B: ["work"],
    Part: ["join"],
    OtherPart: ["join"],
    Nobodys: [],
}
CLASSES = list(TAKEN_BY)
EXPECTED: dict[str, Any] = {
    "list": [Part, OtherPart, Part],
    "dict": {Part: 2},
    "one": [Part],
    "both": {OtherPart: 1, Part: 1},
}
TERMINAL = {
    "completed": "StopEvent",
    "failed": "WorkflowFailedEvent",
    "timed_out": "WorkflowTimedOutEvent",
    "cancelled": "WorkflowCancelledEvent",
}


class _Never:
    """What never comes, to wait for some virtual time."""

    def is_done(self) -> bool:
        return False

    def block(self, timeout: float | None) -> None:
        raise AssertionError("the seeded runtime blocks for real")


# -- the workflows -----------------------------------------------------------------------------------------------------


def make_step(name: str, takes: Any, is_async: bool, options: dict[str, Any]) -> Any:
    if is_async:

        async def body(self: Any, ctx: Any, ev: Any) -> Any:
            return await self.book.play_async(name, ctx, ev)
    else:

        def body(self: Any, ctx: Any, ev: Any) -> Any:
            return self.book.play(name, ctx, ev)

    body.__name__ = name
    body.__qualname__ = f"Kind.{name}"
    returns = functools.reduce(lambda a, b: a | b, CLASSES) | StopEvent | None
    body.__annotations__ = {"ctx": aio.Context if is_async else Context, "ev": takes, "return": returns}
    return step(**options)(body)


@functools.cache
def workflow_class(kind: int) -> Any:
    draw = random.Random(kind)
    steps = {}
    for name, takes in (("begin", StartEvent), ("left", A), ("right", A), ("work", B), ("join", Part | OtherPart)):
        options: dict[str, Any] = {"num_workers": draw.choice([1, 1, 2, 4])}
        if draw.random() < 0.6:
            options["retry_policy"] = retry_policy(wait=wait_fixed(draw.choice([0, 0.004])), stop=stop_after_attempt(4))
            if draw.random() < 0.5:
                options["timeout"] = draw.choice([0.003, 0.01, 0.05])
        steps[name] = make_step(name, takes, draw.random() < 0.5, options)
    return type(f"Kind{kind}", (Workflow,), steps)


# -- what the steps do, and the book of it -----------------------------------------------------------------------------


class Attempt:
    """One attempt at a step, as its body saw it."""

    def __init__(self, key: tuple[str, str, int], number: int, ctx: Any) -> None:
        self.key = key  # the event's uid, the step, the attempt
        self.number = number  # of the invocation, which counts the deliveries
        self.ctx = ctx
        self.sent: list[str] = []  # at once, in order; what it returned comes last
        self.written: list[str] = []


class Book:
    """What happened in one run."""

    def __init__(self, seed: int, workers: dict[str, int]) -> None:
        self.seed = seed
        self.workers = workers
        self.made = 0
        self.faults: list[str] = []  # what a step saw that must not be; raised in it, it would be a failure as any
        self.events: dict[str, tuple[type[Event], str | None]] = {}  # that were surely sent, with their targets
        self.refused: set[str] = set()  # from outside, with an error
        self.attempts: list[Attempt] = []
        self.in_flight: dict[str, list[Attempt]] = defaultdict(list)
        self.edits: list[str] = []
        self.perhaps_edited: set[str] = set()
        self.counted: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.batches: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(dict)
        self.unsure: set[tuple[str, str]] = set()  # collections whose answer somebody did not get
        self.perhaps_counted: Counter[str] = Counter()

    def make(self, uid: str, draw: random.Random) -> tuple[Event, str | None]:
        self.made += 1
        cls = draw.choices(CLASSES, [3, 1, 3, 6, 3, 1])[0]
        target = draw.choice(TAKEN_BY[cls]) if TAKEN_BY[cls] and draw.random() < 0.3 else None
        return cls(uid=uid), target

    def script(self, name: str, ctx: Any, ev: Any) -> Generator[tuple[Any, ...], Any, Event | None]:
        """What a body does. What it yields, the body waits for."""
        port = ctx._step
        uid = getattr(ev, "uid", "start")
        attempt = Attempt((uid, name, port.attempt), port.invocation.number, ctx)
        self.attempts.append(attempt)
        self.in_flight[name].append(attempt)
        try:
            at_work = sum(not other.ctx._step.cancelled for other in self.in_flight[name])
            if at_work > self.workers[name]:
                self.faults.append(f"{at_work} bodies of {name} are at work")
            draw = random.Random(f"{self.seed} {attempt.key}")
            batch = None
            if name == "join":
                buffer = random.Random(f"{self.seed} {uid}").choice(list(EXPECTED))  # the same for each attempt
                batch = yield ("collect", buffer)
            for n in range(draw.choice([0, 1, 2, 4]) if name != "begin" else 4):
                action = draw.random()
                new = f"{uid}/{name}{port.attempt}.{n}"
                if action < 0.4 and self.made < BUDGET:
                    event, target = self.make(new, draw)
                    delay = draw.choice([None, None, None, 0.005])
                    ctx.send_event(event, target, delay=delay)
                    self.events[new] = (type(event), target)
                    if delay is None:
                        attempt.sent.append(new)
                elif action < 0.6:
                    ctx.write_event_to_stream(B(uid=new))
                    attempt.written.append(new)
                elif action < 0.8:
                    yield ("edit", new)
                elif action < 0.9:
                    yield ("sleep", draw.choice([0, 0.002, 0.02]))
                else:
                    yield ("get",)
            if draw.random() < 0.15:
                raise ValueError(new if name == "begin" else uid)
            if name != "begin" and draw.random() < 0.05 + 0.3 * (batch is not None):
                return StopEvent(result=uid)
            if draw.random() < 0.5 and self.made < BUDGET:
                new = f"{uid}/{name}{port.attempt}.end"
                event, _ = self.make(new, draw)
                self.events[new] = (type(event), None)
                attempt.sent.append(new)
                return event
            return None
        finally:
            self.in_flight[name].remove(attempt)

    def play(self, name: str, ctx: Context, ev: Event) -> Any:
        script, answer = self.script(name, ctx, ev), None
        while True:
            try:
                action = script.send(answer)
            except StopIteration as end:
                return end.value
            answer = None
            try:
                if action[0] == "edit":
                    self.perhaps_edited.add(action[1])
                    with ctx.store.edit_state() as state:
                        before = state.get("edits", [])
                        ctx.check_cancelled()  # Others may come in here.
                        state["edits"] = [*before, action[1]]
                    self.edits.append(action[1])
                elif action[0] == "get":
                    ctx.store.get("edits", None)
                elif action[0] == "collect":
                    answer = self.collect(ctx, ev, action[1])
            except BaseException as error:
                if not isinstance(error, StepCancelled | asyncio.CancelledError):
                    self.faults.append(f"{action} raised {error!r}")
                script.throw(error)

    async def play_async(self, name: str, ctx: aio.Context, ev: Event) -> Any:
        script, answer = self.script(name, ctx, ev), None
        while True:
            try:
                action = script.send(answer)
            except StopIteration as end:
                return end.value
            answer = None
            try:
                if action[0] == "edit":
                    self.perhaps_edited.add(action[1])
                    async with ctx.store.edit_state() as state:
                        before = state.get("edits", [])
                        await asyncio.sleep(0.002)
                        state["edits"] = [*before, action[1]]
                    self.edits.append(action[1])
                elif action[0] == "get":
                    await ctx.store.get("edits", None)
                elif action[0] == "sleep":
                    await asyncio.sleep(action[1])
                elif action[0] == "collect":
                    answer = self.collect(ctx, ev, action[1])
            except BaseException as error:
                if not isinstance(error, StepCancelled | asyncio.CancelledError):
                    self.faults.append(f"{action} raised {error!r}")
                script.throw(error)

    def collect(self, ctx: Any, ev: Any, buffer: str) -> Any:
        key = ("join", buffer)
        try:
            batch = ctx.collect_events(ev, EXPECTED[buffer], buffer)
        except BaseException:
            self.unsure.add(key)
            self.perhaps_counted[ev.uid] += 1
            raise
        if type(ev) in EXPECTED[buffer] and ev.uid not in self.counted[key]:
            self.counted[key].append(ev.uid)
        if batch is not None:
            uids = [event.uid for event in batch]
            if self.batches[key].setdefault(ev.uid, uids) != uids:
                self.faults.append("a retry was handed another batch")
            if not has_shape(batch, EXPECTED[buffer]):
                self.faults.append(f"{EXPECTED[buffer]} was collected as {batch}")
        elif ev.uid in self.batches[key]:
            self.faults.append("a retry was not handed its batch")
        return batch


def has_shape(batch: list[Event], expected: Any) -> bool:
    """Whether a batch has the classes that were asked for, in the order asked."""
    asked = [cls for cls, n in expected.items() for _ in range(n)] if isinstance(expected, dict) else expected
    return [type(event) for event in batch] == asked


# -- one run -----------------------------------------------------------------------------------------------------------


class Played:
    """One run of a seed, played to its end, and what could be seen of it."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(seed)
        made = workflow_class(draw.randrange(KINDS))
        workflow = made(timeout=draw.choice([None, None, None, 0.02, 0.1]), disable_validation=True)
        workers = {name: spec.options.num_workers for name, spec in workflow._graph.steps.items()}
        self.book = workflow.book = Book(seed, workers)
        self.streams: list[list[Event]] = []
        self.called_back: list[Handler] = []
        with SeededRuntime(seed) as runtime:
            self.handler = workflow.run()
            self.handler.add_done_callback(self.called_back.append)
            for name in "xy"[: draw.choice([0, 1, 2])]:
                runtime.spawn(self._send, runtime, name, draw.randrange(1_000_000))
            for _ in range(2):
                runtime.spawn(self._read, draw.random() < 0.5)
            if draw.random() < 0.3:
                runtime.spawn(self._cancel, runtime, draw.random() * 0.05)
            self.error = self.handler.exception()
            runtime.run_until_idle()
            self.trace = runtime.trace
        self.streams.append(list(self.handler.stream_events(after=-1)))

    def _send(self, runtime: SeededRuntime, name: str, number: int) -> None:
        draw = random.Random(number)
        for n in range(draw.choice([1, 3])):
            runtime.dispatcher.wait(_Never(), draw.choice([0.0005, 0.005, 0.03]))
            uid = f"{name}.{n}"
            event, target = self.book.make(uid, draw)
            try:
                self.handler.send_event(event, target)
            except WorkflowRuntimeError:
                if not self.handler.done():
                    self.book.faults.append("an event was refused though the run goes on")
                self.book.refused.add(uid)
            self.book.events[uid] = (type(event), target)

    def _read(self, in_two: bool) -> None:
        seen: list[Event] = []
        self.streams.append(seen)
        for event in self.handler.stream_events(after=-1):
            seen.append(event)
            if in_two and len(seen) == 2:
                break
        else:
            return
        seen.extend(self.handler.stream_events(after=1))

    def _cancel(self, runtime: SeededRuntime, after: float) -> None:
        runtime.dispatcher.wait(_Never(), after)
        self.handler.cancel_run()
        assert self.handler.done(), "cancel_run returned before the run had ended"


# -- the promises ------------------------------------------------------------------------------------------------------


def check_one_outcome(played: Played) -> None:
    """There is one outcome, told once, and all that shows it agrees."""
    handler = played.handler
    assert played.called_back == [handler]
    assert type(handler.get_stop_event()).__name__ == TERMINAL[handler.status]
    assert handler.exception() is played.error
    assert (played.error is None) == (handler.status == "completed")


def check_what_the_steps_saw(played: Played) -> None:
    """No more bodies at work than workers, no batch but the own, no call refused without need."""
    assert not played.book.faults


def check_nothing_in_flight(played: Played) -> None:
    """When the runtime has ended no body is at work."""
    assert not any(played.book.in_flight.values())


def check_stream(played: Played) -> None:
    """All readers see the same events, each once, the terminal one last; what was written is there or a dead letter."""
    stream = played.streams[-1]
    for other in played.streams:
        assert [id(event) for event in other] == [id(event) for event in stream]
    assert stream[-1] is played.handler.get_stop_event()
    assert [type(event) for event in stream[:-1]] == [B] * (len(stream) - 1)
    for after in range(-1, len(stream)):
        assert list(played.handler.stream_events(after=after)) == stream[after + 1 :]
    shown = [event.uid for event in stream[:-1]]
    place = {uid: n for n, uid in enumerate(shown)}
    assert len(place) == len(shown), "an event was published twice"
    buried = Counter(letter.event.uid for letter in played.handler.dead_letters() if "written" in letter.reason)
    for attempt in played.book.attempts:
        assert all((uid in place) + buried[uid] == 1 for uid in attempt.written), "a written event is lost or doubled"
        places = [place[uid] for uid in attempt.written if uid in place]
        assert places == sorted(places), "events of one step were published out of order"


def check_attempts(played: Played) -> None:
    """No attempt is made twice, none is skipped, and none at an event for which the step was not asked."""
    attempts = defaultdict(list)
    for attempt in played.book.attempts:
        uid, name, number = attempt.key
        attempts[uid, name].append(number)
        if uid in played.book.events:
            cls, target = played.book.events[uid]
            assert name in ([target] if target else TAKEN_BY[cls])
    for key, numbers in attempts.items():
        # One that was cancelled before its body began leaves a gap: it had timed out.
        assert numbers == sorted(set(numbers)), f"{key} was attempted as {numbers}"


def check_events(played: Played) -> None:
    """Every event came to everyone entitled, or is kept, or is a dead letter: exactly one of these."""
    book, handler = played.book, played.handler
    letters: dict[str, list[Any]] = defaultdict(list)
    for letter in handler.dead_letters():
        if "collection" not in letter.reason and "its retry" not in letter.reason and "written" not in letter.reason:
            letters[getattr(letter.event, "uid", "stop")].append(letter)
    kept = handler._link.ask(
        Inspect(
            lambda state: (
                Counter((getattr(inv.event, "uid", "start"), inv.spec.name) for inv in state.invocations.values()),
                Counter(event.uid for event, _ in state.held) + Counter(e.uid for e, *_ in state.delayed.values()),
            )
        )
    )
    begun = {attempt.key[:2] for attempt in book.attempts}
    never_began: Counter[tuple[str, str]] = Counter()
    for uid, (cls, target) in book.events.items():
        entitled = [target] if target else TAKEN_BY[cls]
        whole = [letter for letter in letters[uid] if "the step took it" not in letter.reason]
        assert len(whole) + kept[1][uid] <= 1, f"{uid} is accounted for twice"
        if whole or kept[1][uid]:
            assert not any((uid, name) in begun for name in entitled), f"{uid} was delivered and given up"
            assert len(letters[uid]) == len(whole)
            continue
        assert uid not in book.refused, f"{uid} was refused and is no dead letter"
        assert entitled, f"{uid}, which nobody takes, is lost"
        for name in entitled:
            buried = sum(letter.step == name for letter in letters[uid])
            if (uid, name) in begun:
                assert not buried, f"{uid} was taken by {name} and buried"
                assert kept[0][uid, name] <= 1
            elif not buried + kept[0][uid, name]:
                never_began[name, cls.__name__] += 1
            else:
                assert buried + kept[0][uid, name] == 1, f"{uid} is accounted for twice at {name}"
    check_never_began(played, never_began)


def check_never_began(played: Played, never_began: Counter[tuple[str, str]]) -> None:
    """What neither ran nor is accounted for was on a worker when the run ended: the internal stream has it so."""
    started: Counter[tuple[str, str]] = Counter()
    for event in played.handler.stream_events(after=-1, expose_internal=True):
        if isinstance(event, StepStateChanged) and event.step_state is StepState.RUNNING:
            started[event.name, event.input_event_name] += 1
    for attempt in played.book.attempts:
        uid, name, _ = attempt.key
        if uid in played.book.events:
            started[name, played.book.events[uid][0].__name__] -= 1
    for key, count in never_began.items():
        assert played.handler.status != "cancelled", f"the cancelled run kept {key} nowhere"
        assert started[key] >= count, f"{key} is lost"


def check_order(played: Played) -> None:
    """What a step sends is delivered in order, and before what it returns."""
    delivered: dict[str, list[int]] = defaultdict(list)
    for attempt in played.book.attempts:
        delivered[attempt.key[0]].append(attempt.number)
    for attempt in played.book.attempts:
        last = -1
        for uid in attempt.sent:
            if uid in delivered:
                assert min(delivered[uid]) > last, f"{uid} overtook what was sent before it"
                last = max(delivered[uid])


def check_queues(played: Played) -> None:
    """A step with one worker takes events in the order in which they were delivered."""
    book = played.book
    for name, workers in book.workers.items():
        numbers = [attempt.number for attempt in book.attempts if attempt.key[1] == name and attempt.key[2] == 1]
        assert workers > 1 or numbers == sorted(numbers), f"{name} took {numbers}"


def check_collections(played: Played) -> None:
    """Each event that was counted in is in one batch, or waits, or is a dead letter."""
    waiting = played.handler._link.ask(Inspect(lambda state: state.buffered()))
    letters = Counter(letter.event.uid for letter in played.handler.dead_letters() if "collection" in letter.reason)
    book = played.book
    least: Counter[str] = Counter()
    most = book.perhaps_counted.copy()
    for key in set(book.counted) | set(book.batches):
        in_batches = Counter(uid for batch in book.batches[key].values() for uid in batch)
        assert not in_batches or max(in_batches.values()) == 1, "an event is in two batches"
        left = Counter(event.uid for event in waiting.get(key, ()))
        for uid in book.counted[key]:
            places = in_batches[uid] + left[uid]
            assert places <= 1, f"{uid} was counted twice"
            most[uid] += 1 - places
            if key not in book.unsure:
                least[uid] += 1 - places
    for uid in least | letters:
        assert least[uid] <= letters[uid] <= most[uid], f"{uid} was counted in, and is lost or doubled"


def check_edits(played: Played) -> None:
    """Every edit that was committed is in the state, once; none that was not begun."""
    edits = played.handler.ctx.store.get("edits", [])
    assert len(set(edits)) == len(edits)
    assert set(played.book.edits) <= set(edits) <= played.book.perhaps_edited


PROMISES = [
    check_one_outcome,
    check_what_the_steps_saw,
    check_nothing_in_flight,
    check_stream,
    check_attempts,
    check_events,
    check_order,
    check_queues,
    check_collections,
    check_edits,
]


def check_seed(seed: int) -> Played:
    played = Played(seed)
    for promise in PROMISES:
        promise(played)
    return played


@pytest.mark.timeout(max(60, SEEDS // 20))
def test_the_promises_hold_on_every_schedule() -> None:
    """Whatever the workflow and the schedule: nothing is lost, doubled, overtaken or left behind."""
    statuses: Counter[str] = Counter()
    happened: Counter[str] = Counter()
    for seed in range(SEEDS) if ONLY is None else [int(ONLY)]:
        try:
            played = check_seed(seed)
        except BaseException as error:
            error.add_note(f"repeat it with GREENROOM_SEED={seed}")
            raise
        statuses[played.handler.status] += 1
        book = played.book
        happened["retries"] += any(attempt.key[2] > 1 for attempt in book.attempts)
        happened["batches"] += any(book.batches.values())
        happened["edits"] += len(book.edits) > 1
        happened["refused"] += bool(book.refused)
        happened["dead letters"] += bool(played.handler.dead_letters())
        happened["streamed"] += len(played.streams[-1]) > 1
    if ONLY is None:
        # The search is worth little if hardly any run gets anywhere.
        assert set(statuses) == set(TERMINAL)
        assert min(statuses.values()) > SEEDS // 100, statuses
        assert min(happened.values()) > SEEDS // 100, happened


def test_a_seed_repeats() -> None:
    """The same seed gives the same schedule and the same book."""
    for seed in range(50):
        first, second = Played(seed), Played(seed)
        assert first.trace == second.trace
        assert [attempt.key for attempt in first.book.attempts] == [attempt.key for attempt in second.book.attempts]


def test_explore_and_the_promises_agree_on_the_seed() -> None:
    """A run within `explore` has the schedule that its seed has by itself."""
    traces = []

    def play(runtime: SeededRuntime) -> None:
        book = Book(runtime.seed, dict.fromkeys(["begin", "left", "right", "work", "join"], 4))
        workflow = workflow_class(0)(disable_validation=True)
        workflow.book = book
        workflow.run().exception()
        traces.append(runtime.trace)

    explore(play, seeds=[3, 4, 3])
    assert traces[0] == traces[2] != traces[1]

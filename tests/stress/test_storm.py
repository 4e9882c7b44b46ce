"""Storms: many runs on real threads, disturbed in every way at once; afterwards everything must be accounted for.

A storm is drawn from a seed: what each step does, which runs are cancelled or time out, who sends and who reads. The
seed is in the failure; the threads are real, so it repeats the plan and not the interleaving.

GREENROOM_STORM_SECONDS sets how long all storms take together (default: 12).
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import os
import random
import sys
import threading
import time
from typing import Any

import pytest

from greenroom import (
    Context,
    Event,
    HumanResponseEvent,
    Runtime,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowRuntimeError,
    WorkflowTimeoutError,
    step,
)
from greenroom import aio as greenroom_aio
from greenroom.actors.supervisor import Inspect
from greenroom.effects import StartInvocation
from greenroom.errors import RuntimeShutdownError
from greenroom.retry import retry_policy, stop_after_attempt, wait_fixed
from greenroom.run_state import RunState
from tests.support.waiting import wait_until

SECONDS = float(os.environ.get("GREENROOM_STORM_SECONDS", "12"))
INTERVALS = [1e-6, 1e-5, 1e-4, 1e-3, 5e-3]
PATIENCE = 30.0

numbers = itertools.count()


class Numbered(Event):
    """An event that can be told from all others."""

    id: int


class Work(Numbered):
    """To be done by a `def` step."""


class AsyncWork(Numbered):
    """To be done by an `async def` step."""


class Done(Numbered):
    """Counted in."""


class Tick(Numbered):
    """Written to the stream."""


class Extra(HumanResponseEvent):
    """Sent from outside."""

    id: int


class Injected(Exception):
    """What steps of a storm raise."""


class Ledger:
    """What happened to the numbered events of one run. Appended to by many threads, read when all is over."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.written: list[int] = []
        self.begun: list[tuple[int, str, int]] = []  # by a body: event, step, attempt
        self.delivered: list[tuple[int, str, int]] = []  # by the rules


class Nested(Workflow):
    """Waits for runs of its own."""

    @step
    def nest(self, ev: StartEvent) -> StopEvent:
        if ev.depth == 0:
            return StopEvent()
        return StopEvent(result=Nested(runtime=ev.runtime).run(depth=ev.depth - 1, runtime=ev.runtime).result())


class Stormy(Workflow):
    """Sends a number of events to steps that do as a seed says, and collects what they return."""

    @step
    def begin(self, ctx: Context, ev: StartEvent) -> Work | AsyncWork | None:
        for serial in range(ev.size):
            cls = Work if serial % 3 else AsyncWork
            fields = {"seed": ev.seed + serial, "ledger": ev.ledger, "size": ev.size, "runtime": ev.runtime}
            event = cls(id=next(numbers), **fields)
            ctx.send_event(event)  # It raises if the run has ended: then the event was not sent.
            ev.ledger.sent.append(event.id)

    @step(num_workers=4, timeout=0.2, retry_policy=retry_policy(stop=stop_after_attempt(3), wait=wait_fixed(0.001)))
    def work(self, ctx: Context, ev: Work) -> Done:
        attempt = ctx._step.attempt
        ev.ledger.begun.append((ev.id, "work", attempt))
        chance = random.Random(ev.seed * 7 + attempt)
        act = chance.random()
        if act < 0.1:
            raise Injected
        if act < 0.3:
            time.sleep(chance.random() * 0.003)
        elif act < 0.5:
            write_tick(ctx, ev.ledger)
        elif act < 0.6:
            with ctx.store.edit_state() as state:
                state["edits"] = state.get("edits", 0) + 1
        elif act < 0.65:
            while not ctx.cancelled and chance.random() < 0.99:
                time.sleep(0.0005)
        elif act < 0.66:
            raise SystemExit("a body may raise what it likes")
        elif act < 0.7:
            Nested(runtime=ev.runtime).run(depth=2, runtime=ev.runtime).result()
        return done_with(ev)

    @step(num_workers=8)
    async def work_async(self, ctx: greenroom_aio.Context, ev: AsyncWork) -> Done:
        ev.ledger.begun.append((ev.id, "work_async", 1))
        chance = random.Random(ev.seed * 11)
        act = chance.random()
        if act < 0.03:
            raise Injected
        if act < 0.4:
            await asyncio.sleep(chance.random() * 0.003)
        elif act < 0.6:
            await ctx.store.set(f"key{ev.seed % 3}", ev.id)
            write_tick(ctx, ev.ledger)
        return done_with(ev)

    @step(num_workers=2)
    def gather(self, ctx: Context, ev: Done) -> StopEvent | None:
        ev.ledger.begun.append((ev.id, "gather", 1))
        done = ctx.collect_events(ev, {Done: ev.size})
        return None if done is None else StopEvent(result=len(done))

    @step
    def extra(self, ctx: Context, ev: Extra) -> None:
        ev.ledger.begun.append((ev.id, "extra", 1))
        write_tick(ctx, ev.ledger)


def write_tick(ctx: Any, ledger: Ledger) -> None:
    tick = Tick(id=next(numbers))
    ctx.write_event_to_stream(tick)
    ledger.written.append(tick.id)


def done_with(ev: Any) -> Done:
    done = Done(id=next(numbers), ledger=ev.ledger, size=ev.size)
    ev.ledger.sent.append(done.id)
    return done


@pytest.fixture
def switching(request):
    """Set the interval at which the interpreter switches threads."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(request.param)
    yield request.param
    sys.setswitchinterval(before)


@pytest.fixture
def recorded(monkeypatch):
    """Have the rules note which events they give to which steps."""
    original = RunState.apply

    def apply(self, fact, now):
        effects = original(self, fact, now)
        for effect in effects:
            if type(effect) is StartInvocation:
                event = effect.invocation.event
                if isinstance(event, Numbered | Extra):
                    event.ledger.delivered.append((event.id, effect.invocation.spec.name, effect.attempt))
        return effects

    monkeypatch.setattr(RunState, "apply", apply)


class Storm:
    """One storm: its runs, those who disturb them, and what is checked afterwards."""

    def __init__(self, seed: int, runtime: Runtime) -> None:
        self.chance = random.Random(seed)
        self.runtime = runtime
        self.runs: list[tuple[Any, Ledger]] = []
        self.called: list[str] = []
        self.streams: dict[str, list[list[Event]]] = collections.defaultdict(list)
        self.failures: list[BaseException] = []
        self.workflows = [
            Stormy(runtime=runtime),
            Stormy(runtime=runtime, num_concurrent_runs=2),
            Stormy(runtime=runtime, timeout=0.03),
        ]
        self.over = threading.Event()

    def blow(self) -> None:
        """Begin all runs from several threads, disturb them from others, and wait for all."""
        starters = self.threads(self.start, self.start, self.start)
        disturbers = self.threads(
            self.cancel, self.send, self.send, self.read, self.read, self.read_async, self.ask, self.ask
        )
        self.join(starters)
        for handler, _ in self.runs:
            handler.exception(PATIENCE)
        self.over.set()
        self.join(disturbers)
        if self.failures:
            raise self.failures[0]

    def threads(self, *works: Any) -> list[threading.Thread]:
        threads = [
            threading.Thread(
                target=self.guarded, args=(work, self.chance.randrange(10**9)), name=work.__name__, daemon=True
            )
            for work in works
        ]
        for thread in threads:
            thread.start()
        return threads

    def join(self, threads: list[threading.Thread]) -> None:
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), f"the thread '{thread.name}' of the storm hangs"

    def guarded(self, work: Any, seed: int) -> None:
        try:
            work(random.Random(seed))
        except BaseException as error:
            self.failures.append(error)

    # -- those who disturb ---------------------------------------------------------------------------------------------

    def start(self, chance: random.Random) -> None:
        for _ in range(6):
            ledger = Ledger()
            handler = chance.choice(self.workflows).run(
                size=chance.randrange(1, 12), seed=chance.randrange(10**6), ledger=ledger, runtime=self.runtime
            )
            handler.add_done_callback(lambda done: self.called.append(done.run_id))
            self.runs.append((handler, ledger))

    def cancel(self, chance: random.Random) -> None:
        while not self.over.is_set():
            if self.runs and chance.random() < 0.3:
                handler, _ = chance.choice(self.runs)
                handler.cancel_run(timeout=PATIENCE)
                assert handler.done()
            self.over.wait(chance.random() * 0.01)

    def send(self, chance: random.Random) -> None:
        while not self.over.is_set():
            if self.runs:
                handler, ledger = chance.choice(self.runs)
                event = Extra(id=next(numbers), ledger=ledger)
                try:
                    handler.send_event(event)
                except WorkflowRuntimeError as error:
                    # It is the run that has ended, and the event is with the dead letters.
                    if "has ended" not in str(error):
                        raise
                ledger.sent.append(event.id)
            self.over.wait(chance.random() * 0.002)

    def read(self, chance: random.Random) -> None:
        while not self.over.is_set():
            if self.runs:
                handler, _ = chance.choice(self.runs)
                self.streams[handler.run_id].append(list(handler.stream_events(after=-1)))
            self.over.wait(chance.random() * 0.002)

    def read_async(self, chance: random.Random) -> None:
        async def read() -> None:
            while not self.over.is_set():
                if self.runs:
                    handler, _ = chance.choice(self.runs)
                    events: list[Event] = []
                    try:
                        async with asyncio.timeout(chance.random() * 0.05):
                            async for event in handler.stream_events(after=-1):
                                events.append(event)
                            self.streams[handler.run_id].append(events)
                            await handler
                    except (TimeoutError, Injected, SystemExit, WorkflowCancelledByUser, RuntimeShutdownError):
                        continue  # The run has raised, or this reader had no patience.
                await asyncio.sleep(chance.random() * 0.002)

        asyncio.run(read())

    def ask(self, chance: random.Random) -> None:
        while not self.over.is_set():
            if self.runs:
                handler, _ = chance.choice(self.runs)
                handler.ctx.store.get("edits", 0)
                handler.ctx.running_steps()
                handler.ctx.store.set("asked", handler.run_id)
            self.over.wait(chance.random() * 0.002)

    # -- afterwards ----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Every run has one outcome, every event is accounted for, and the engine is at rest."""
        for handler, _ in self.runs:
            self.check_outcome(handler)
            self.check_stream(handler)
        assert wait_until(lambda: len(self.called) >= len(self.runs), PATIENCE)
        assert sorted(self.called) == sorted(handler.run_id for handler, _ in self.runs)
        self.check_rest()
        # Only now has every body reported, so that what it returned or sent too late is with the dead letters.
        for handler, ledger in self.runs:
            self.check_events(handler, ledger)

    def check_outcome(self, handler: Any) -> None:
        expected: dict[str, Any] = {
            "completed": type(None),
            "cancelled": WorkflowCancelledByUser,
            "timed_out": WorkflowTimeoutError,
            "failed": (Injected, SystemExit, WorkflowTimeoutError),
        }
        error = handler.exception(0)
        assert isinstance(error, expected[handler.status]), (handler.status, error)

    def check_stream(self, handler: Any) -> None:
        last = {
            "completed": "StopEvent",
            "cancelled": "WorkflowCancelledEvent",
            "timed_out": "WorkflowTimedOutEvent",
            "failed": "WorkflowFailedEvent",
        }
        events = list(handler.stream_events(after=-1))
        assert type(events[-1]).__name__ == last[handler.status]
        assert all(type(event) is Tick for event in events[:-1])
        assert len({event.id for event in events[:-1]}) == len(events) - 1
        assert handler._link.ask(Inspect(lambda state: state.published)) == len(events)
        for seen in self.streams[handler.run_id]:
            assert [id(event) for event in seen] == [id(event) for event in events]

    def check_events(self, handler: Any, ledger: Ledger) -> None:
        dead = [letter.event.get("id") for letter in handler.dead_letters()]
        kept = handler._link.ask(Inspect(kept_ids))
        delivered = {number for number, _, _ in ledger.delivered}
        lost = set(ledger.sent) - delivered - set(dead) - set(kept)
        assert not lost, f"lost without a word: {lost}"
        # What is kept may be in a buffer and with the invocation that counted it in: the invocation knows.
        for seen in (ledger.delivered, ledger.begun, dead):
            twice = [key for key, count in collections.Counter(seen).items() if count > 1]
            assert not twice, f"accounted for twice: {twice}"
        assert set(ledger.begun) <= set(ledger.delivered)
        in_stream = {event.id for event in handler.stream_events(after=-1) if isinstance(event, Tick)}
        assert set(ledger.written) <= in_stream | set(dead)
        assert not in_stream & set(dead)

    def check_rest(self) -> None:
        pool: Any = self.runtime.dispatcher
        root: Any = self.runtime.root.actor
        assert wait_until(lambda: not self.runtime.runs, PATIENCE)
        assert wait_until(lambda: not root._groups and not root._going and not root._lines, PATIENCE)
        assert wait_until(lambda: pool._running == 0 and pool._awake == 0 and not pool._waking, PATIENCE)
        assert wait_until(lambda: not pool._bodies and not pool._unlimited and not pool._loop._tasks, PATIENCE)
        assert wait_until(lambda: pool._idle == len(pool._threads) >= 1, PATIENCE)
        assert all(timer.cancelled for timer in list(pool._timer.actor_inbox._heap))
        for handler, _ in self.runs:
            assert not handler._awaiting
            assert not handler.supervisor.actor._timers
            assert not handler.supervisor.actor._steps


def kept_ids(state: RunState) -> list[Any]:
    """The numbers of the events that an ended run keeps, to be resumed."""
    events = [invocation.event for invocation in state.invocations.values()]
    events += [event for buffer in state.buffered().values() for event in buffer]
    events += [event for event, *_ in state.held]
    return [event.get("id") for event in events]


@pytest.mark.timeout(120 + 2 * SECONDS)
@pytest.mark.parametrize("switching", INTERVALS, indirect=True, ids=str)
def test_a_storm_leaves_everything_accounted_for(switching, recorded):
    """Runs that block, raise, retry, time out and are cancelled at any moment, with senders and readers all around."""
    until = time.monotonic() + SECONDS / len(INTERVALS)
    for seed in itertools.count(random.randrange(10**6)):
        try:
            with Runtime(max_threads=random.Random(seed).choice([1, 2, 8, 64])) as runtime:
                storm = Storm(seed, runtime)
                storm.blow()
                storm.check()
            assert not runtime.dispatcher._threads
        except BaseException as error:
            error.add_note(f"in the storm of seed {seed}, switching threads every {switching} seconds")
            raise
        if time.monotonic() > until:
            break


@pytest.mark.timeout(120 + 2 * SECONDS)
@pytest.mark.parametrize("limit", [0.0, 0.02, None])
def test_a_shutdown_in_the_middle_of_a_storm_ends_everything(limit, recorded):
    """However long it may take: all runs end, callers get an answer, callbacks run once, and all threads go."""
    for seed in range(4):
        runtime = Runtime(max_threads=4)
        storm = Storm(seed, runtime)
        starters = storm.threads(storm.start, storm.start)
        assert wait_until(lambda storm=storm: len(storm.runs) > 2)
        disturbers = storm.threads(storm.read, storm.send, storm.ask, storm.read_async)
        runtime.shutdown(timeout=limit)
        storm.join(starters)
        for handler, _ in storm.runs:
            handler.exception(PATIENCE)
        storm.over.set()
        storm.join(disturbers)
        assert all(isinstance(failure, RuntimeShutdownError) for failure in storm.failures), storm.failures
        assert not runtime.runs
        assert wait_until(lambda runtime=runtime: not runtime.dispatcher._threads, PATIENCE)
        assert wait_until(lambda storm=storm: len(storm.called) >= len(storm.runs))
        assert sorted(storm.called) == sorted(handler.run_id for handler, _ in storm.runs)

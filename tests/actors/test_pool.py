"""The pool: a body that blocks starves nobody, threads are bounded and reused, and nothing is lost at start or end."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections import deque
from contextlib import contextmanager

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
    WorkflowTimeoutError,
    step,
)
from greenroom import aio as greenroom_aio
from greenroom.actors import pool as pool_module
from greenroom.actors.base import PooledActor, Reply, here
from greenroom.actors.dispatcher import Unlimited
from greenroom.actors.pool import PoolDispatcher
from tests.support.waiting import wait_until

SOON = 10.0


class Echo(PooledActor):
    """Notes what it is told and answers with what it is asked. A callable is called."""

    def __init__(self, dispatcher):
        super().__init__(dispatcher)
        self.seen = []

    def on_receive(self, message):
        self.seen.append(message)
        return message() if callable(message) else message


class Body:
    """A body that runs a function and says when it has been reported."""

    def __init__(self, function=lambda: None, label="a body"):
        self.label = label
        self.function = function
        self.reported = threading.Event()

    def run(self):
        self.function()

    def report(self):
        self.reported.set()


class Sleepers:
    """Bodies that begin and then sleep until they are let go."""

    def __init__(self):
        self.let_go = threading.Event()
        self.begun = threading.Semaphore(0)
        self._lock = threading.Lock()
        self.at_once = self.most = 0

    def sleep(self):
        with self._lock:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        self.begun.release()
        assert self.let_go.wait(60)
        with self._lock:
            self.at_once -= 1

    def wait_for(self, count):
        for _ in range(count):
            assert self.begun.acquire(timeout=SOON)


@pytest.fixture
def sleepers():
    sleepers = Sleepers()
    yield sleepers
    sleepers.let_go.set()


@contextmanager
def running(max_threads, cls=PoolDispatcher):
    pool = cls(max_threads)
    try:
        yield pool
    finally:
        pool.shutdown(SOON)


def at_rest(pool):
    """Whether the counters say what is true of a pool with nothing to do."""

    def resting():
        alive = sum(thread.is_alive() for thread in list(pool._threads))
        return pool._running == 0 and pool._awake == 0 and pool._idle == alive

    return wait_until(resting) and not pool._bodies and not pool._unlimited


class Hold(Event):
    """Sent many times, to a step that blocks."""


class Held(Event):
    """A body has been let go."""


def holding(count, workers, sleepers):
    """A workflow with `count` invocations that sleep, up to `workers` at once; the result is how many there were."""

    class Holding(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> Hold | None:
            for _ in range(count):
                ctx.send_event(Hold())

        @step(num_workers=workers)
        def hold(self, ev: Hold) -> Held:
            sleepers.sleep()
            return Held()

        @step
        def end(self, ctx: Context, ev: Held) -> StopEvent | None:
            held = ctx.collect_events(ev, {Held: count})
            return None if held is None else StopEvent(result=len(held))

    return Holding()


class Add(Workflow):
    """Does a little of everything that needs an answer."""

    @step
    def add(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.store.set("sum", ev.a + ev.b)
        return StopEvent(result=ctx.store.get("sum"))


class Slow(Workflow):
    """Waits for an answer that never comes."""

    @step
    def ask(self, ev: StartEvent) -> InputRequiredEvent:
        return InputRequiredEvent()

    @step
    def end(self, ev: HumanResponseEvent) -> StopEvent:
        return StopEvent(result="answered")


# -- never starved -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asleep", [1, 2, 5, 32])
def test_the_rest_answers_while_bodies_sleep(asleep, sleepers):
    """With up to all but one of the threads asleep, other runs, asks, streams and timers go on."""
    with Runtime(max_threads=asleep + 1) as runtime:
        held = holding(asleep, asleep, sleepers).run()
        sleepers.wait_for(asleep)
        for serial in range(5):
            assert Add().run(a=serial, b=1).result(SOON) == serial + 1
        held.ctx.store.set("asked", "from outside")
        assert held.ctx.store.get("asked") == "from outside"
        assert held.ctx.running_steps() == ["hold"]
        waiting = Slow().run()
        assert isinstance(next(waiting.stream_events()), InputRequiredEvent)
        waiting.send_event(HumanResponseEvent())
        assert waiting.result(SOON) == "answered"
        sleepers.let_go.set()
        assert held.result(SOON) == asleep
        assert at_rest(runtime.dispatcher)


@pytest.mark.parametrize("max_threads", [1, 2, 8])
def test_the_engine_answers_when_every_body_is_asleep(max_threads, sleepers):
    """With all threads for bodies asleep, events are routed, streams read, timeouts fire and runs are cancelled."""
    with Runtime(max_threads=max_threads) as runtime:
        held = holding(max_threads, max_threads, sleepers).run()
        sleepers.wait_for(max_threads)

        late = threading.Event()

        class Late(Workflow):
            @step
            def late(self, ev: StartEvent) -> StopEvent:
                late.set()
                return StopEvent()

        with pytest.raises(WorkflowTimeoutError):
            Late(timeout=0.05).run().result(SOON)  # Its body waits for a thread, and its timeout fires all the same.
        queued = Late().run()
        held.ctx.store.set("x", 1)
        assert held.ctx.store.get("x") == 1
        queued.cancel_run(timeout=SOON)
        assert queued.status == "cancelled"
        assert [type(event).__name__ for event in queued.stream_events()] == ["WorkflowCancelledEvent"]
        called = threading.Event()
        other = Late().run()
        other.add_done_callback(lambda _: called.set())
        other.cancel_run(timeout=SOON)
        assert called.wait(SOON)  # A callback waits for no place either.
        assert not late.is_set()
        sleepers.let_go.set()
        assert held.result(SOON) == max_threads
        assert at_rest(runtime.dispatcher)


@pytest.mark.parametrize("max_threads", [1, 2, 7])
def test_no_more_bodies_than_max_threads_are_at_work_and_no_fewer(max_threads, sleepers):
    """Of many bodies that sleep, exactly `max_threads` begin; each that ends lets exactly one begin."""
    with running(max_threads) as pool:
        bodies = [Body(sleepers.sleep) for _ in range(3 * max_threads)]
        for body in bodies:
            pool.execute(body)
        sleepers.wait_for(max_threads)
        _, ref = echo(pool)
        for _ in range(20):
            assert ref.ask("still there", timeout=SOON) == "still there"
        assert pool._running == max_threads
        assert sleepers.most == max_threads
        sleepers.let_go.set()
        for body in bodies:
            assert body.reported.wait(SOON)
        assert sleepers.most == max_threads
        assert at_rest(pool)


def echo(pool):
    ref = Echo.start(pool)
    return ref.actor, ref


class Nested(Workflow):
    """Runs itself, `depth` deep, and waits for each."""

    @step
    def nest(self, ev: StartEvent) -> StopEvent:
        if ev.depth == 0:
            return StopEvent(result=0)
        return StopEvent(result=1 + Nested().run(depth=ev.depth - 1).result())


@pytest.mark.parametrize("max_threads", [1, 2])
def test_bodies_that_wait_for_child_runs_do_not_use_the_threads_up(max_threads):
    """Runs nested deeper than there are threads end."""
    with Runtime(max_threads=max_threads) as runtime:
        handlers = [Nested().run(depth=5) for _ in range(4)]
        assert [handler.result(2 * SOON) for handler in handlers] == [5] * 4
        assert at_rest(runtime.dispatcher)


def test_bodies_that_read_a_childs_stream_do_not_use_the_threads_up():
    """To wait for a stream frees the place as well."""

    class Reader(Workflow):
        @step
        def read(self, ev: StartEvent) -> StopEvent:
            if ev.depth == 0:
                return StopEvent(result=0)
            return StopEvent(result=1 + list(Reader().run(depth=ev.depth - 1).stream_events())[-1].result)

    with Runtime(max_threads=1) as runtime:
        assert Reader().run(depth=5).result(SOON) == 5
        assert at_rest(runtime.dispatcher)


def test_a_body_that_has_waited_goes_on_though_its_place_is_taken(sleepers):
    """It may hold a lock that those in its place want: holding it back could block all of them for ever."""
    lock = threading.Lock()
    child_begun = threading.Event()
    let_child_end = threading.Event()

    class Child(Workflow):
        @step
        def child(self, ev: StartEvent) -> StopEvent:
            child_begun.set()
            assert let_child_end.wait(SOON)
            return StopEvent(result="child")

    class Parent(Workflow):
        @step
        def parent(self, ev: StartEvent) -> StopEvent:
            with lock:
                return StopEvent(result=Child().run().result())

    class Wants(Workflow):
        @step
        def wants(self, ev: StartEvent) -> StopEvent:
            sleepers.begun.release()
            with lock:
                return StopEvent(result="got it")

    with Runtime(max_threads=2) as runtime:
        parent = Parent().run()
        assert child_begun.wait(SOON)
        others = [Wants().run() for _ in range(3)]
        sleepers.wait_for(1)  # One took the place that the parent left; the child has the other.
        let_child_end.set()
        assert parent.result(SOON) == "child"
        assert [other.result(SOON) for other in others] == ["got it"] * 3
        assert at_rest(runtime.dispatcher)


def test_callbacks_that_block_take_no_place_from_bodies(sleepers):
    """Done-callbacks count towards no limit, and neither block each other nor the steps."""
    with Runtime(max_threads=1):
        for _ in range(3):
            held = Slow().run()
            held.add_done_callback(lambda _: sleepers.sleep())
            held.cancel_run(SOON)
        sleepers.wait_for(3)
        assert Add().run(a=1, b=2).result(SOON) == 3
        sleepers.let_go.set()


# -- threads -----------------------------------------------------------------------------------------------------------


def test_threads_are_reused_and_not_churned():
    """A long row of runs, one after the other, uses the same few threads."""
    with Runtime(max_threads=8) as runtime:
        for serial in range(200):
            assert Add().run(a=serial, b=1).result(SOON) == serial + 1
        assert runtime.dispatcher._names <= 4


def test_as_many_threads_exist_as_bodies_sleep_and_one_more_for_the_rest(sleepers):
    """Bodies that sleep each keep a thread, and one stands by; no more are started."""
    with running(16) as pool:
        for _ in range(10):
            pool.execute(Body(sleepers.sleep))
        sleepers.wait_for(10)
        _, ref = echo(pool)
        for _ in range(50):
            ref.ask("x", timeout=SOON)
        assert len(pool._threads) == 11
        sleepers.let_go.set()
        assert at_rest(pool)


def test_idle_workers_end_but_the_last_stays(monkeypatch, sleepers):
    """After IDLE_SECONDS without work all but one end, and the one still serves."""
    monkeypatch.setattr(pool_module, "IDLE_SECONDS", 0.02)
    with running(8) as pool:
        for _ in range(8):
            pool.execute(Body(sleepers.sleep))
        sleepers.wait_for(8)
        sleepers.let_go.set()
        assert wait_until(lambda: len(pool._threads) == 1)
        _, ref = echo(pool)
        assert ref.ask("x", timeout=SOON) == "x"
        assert at_rest(pool)
        assert len(pool._threads) == 1


def test_the_last_free_worker_stays_while_the_others_sleep(monkeypatch, sleepers):
    """A worker that stands by for sleeping bodies does not end, however long it idles."""
    monkeypatch.setattr(pool_module, "IDLE_SECONDS", 0.01)
    with running(2) as pool:
        for _ in range(2):
            pool.execute(Body(sleepers.sleep))
        sleepers.wait_for(2)
        _, ref = echo(pool)
        for _ in range(5):
            assert not wait_until(lambda: len(pool._threads) < 3, timeout=0.03)
            assert ref.ask("x", timeout=SOON) == "x"
        sleepers.let_go.set()


class StallsLeaving(PoolDispatcher):
    """A pool whose idle workers stall just after they have decided to leave."""

    def __init__(self, max_threads):
        super().__init__(max_threads)
        self.leaving = threading.Event()
        self.let_leave = threading.Event()

    def _stand_by(self):
        item = super()._stand_by()
        if item is pool_module._LEAVE:
            self.leaving.set()
            assert self.let_leave.wait(60)
        return item


def test_a_worker_that_is_about_to_leave_is_not_counted_on(monkeypatch, sleepers):
    """While an idle worker is on its way out, a body that blocks the other one still finds a third to stand by."""
    monkeypatch.setattr(pool_module, "IDLE_SECONDS", 0.02)
    with running(4, StallsLeaving) as pool:
        try:
            first = threading.Event()
            blocked = threading.Event()

            def block():
                blocked.set()
                assert first.wait(60)

            pool.execute(Body(block))  # Two workers: one in a body, one that stands by.
            assert blocked.wait(SOON)
            _, ref = echo(pool)
            assert ref.ask("x", timeout=SOON) == "x"
            first.set()
            assert pool.leaving.wait(SOON)
            pool.execute(Body(sleepers.sleep))
            sleepers.wait_for(1)
            told = threading.Event()
            ref.tell(told.set)
            assert told.wait(SOON)
            assert wait_until(lambda: pool._awake + pool._idle == 1)
        finally:
            pool.let_leave.set()
        sleepers.let_go.set()
        assert at_rest(pool)


def test_workers_come_and_go_under_load_without_losing_count(monkeypatch):
    """With idle workers ending all the time, every body runs and the counters stay true."""
    monkeypatch.setattr(pool_module, "IDLE_SECONDS", 0.001)
    with running(4) as pool:
        for _ in range(150):
            bodies = [Body(lambda: time.sleep(0.0005)) for _ in range(6)]
            for body in bodies:
                pool.execute(body)
            for body in bodies:
                assert body.reported.wait(SOON)
        monkeypatch.setattr(pool_module, "IDLE_SECONDS", 10.0)
        assert wait_until(lambda: pool._awake == 0 and pool._idle == len(pool._threads) >= 1)


# -- threads that cannot start -----------------------------------------------------------------------------------------


class Refusing:
    """Makes the next `count` starts of threads fail, as a system does that is out of threads."""

    def __init__(self, monkeypatch, count, error=None):
        self.left, self.refused = count, 0
        self.error = error or RuntimeError("can't start new thread")
        original = threading.Thread.start

        def start(thread):
            if self.left > 0 and thread.name.startswith("greenroom"):
                self.left -= 1
                self.refused += 1
                raise self.error
            original(thread)

        monkeypatch.setattr(threading.Thread, "start", start)


@pytest.mark.parametrize("refusals", [1, 3, 8])
def test_a_run_goes_on_when_the_first_threads_cannot_start(monkeypatch, refusals, caplog):
    """The start is tried again by whoever waits, until the system gives a thread."""
    refusing = Refusing(monkeypatch, refusals)
    monkeypatch.setattr(pool_module, "RETRY_SECONDS", 0.01)
    with Runtime(max_threads=2):
        assert Add().run(a=1, b=2).result(SOON) == 3
    assert refusing.refused == refusals
    assert "no further thread can be started" in caplog.text


def test_a_wait_keeps_its_timeout_when_no_thread_can_start(monkeypatch):
    """`result(timeout=...)` raises TimeoutError in time, and nothing is lost."""
    monkeypatch.setattr(pool_module, "RETRY_SECONDS", 0.01)
    with Runtime(max_threads=2):
        refusing = Refusing(monkeypatch, 10**6)
        handler = Add().run(a=1, b=2)
        with pytest.raises(TimeoutError):
            handler.result(0.05)
        refusing.left = 0
        assert handler.result(SOON) == 3


def test_a_spare_worker_that_cannot_start_is_tried_again_from_outside(monkeypatch, sleepers):
    """With the only worker asleep in a body, the next thing sent starts the worker that was refused before."""
    with running(4) as pool:
        actor, ref = echo(pool)
        ref.ask("warm", timeout=SOON)
        assert wait_until(lambda: pool._idle == 1)
        refusing = Refusing(monkeypatch, 1)
        pool.execute(Body(sleepers.sleep))
        sleepers.wait_for(1)
        assert wait_until(lambda: refusing.refused == 1)
        ref.tell("x")
        assert wait_until(lambda: actor.seen == ["warm", "x"])
        sleepers.let_go.set()
        assert at_rest(pool)


def test_an_interrupt_at_the_first_start_breaks_nothing(monkeypatch):
    """A KeyboardInterrupt out of Thread.start, as Ctrl-C on the main thread raises it, leaves a pool that works."""
    Refusing(monkeypatch, 1, KeyboardInterrupt())
    with Runtime(max_threads=2) as runtime:
        with pytest.raises(KeyboardInterrupt):
            Add().run(a=1, b=2)
        assert Add().run(a=2, b=2).result(SOON) == 4
        assert wait_until(lambda: not runtime.runs)
        assert at_rest(runtime.dispatcher)


@pytest.mark.parametrize("what", ["greenroom-timer", "greenroom-loop"])
def test_a_timer_or_loop_thread_that_cannot_start_fails_only_the_run_that_wanted_it(monkeypatch, what):
    """The run is told; the next one gets its thread."""
    original = threading.Thread.start
    left = [1]

    def start(thread):
        if thread.name == what and left[0]:
            left[0] -= 1
            raise RuntimeError("can't start new thread")
        original(thread)

    monkeypatch.setattr(threading.Thread, "start", start)

    class Sleepy(Workflow):
        @step
        async def sleepy(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result="awake")

    with Runtime(max_threads=2):
        with pytest.raises(Exception, match="can't start new thread"):
            Sleepy(timeout=60).run().result(SOON)
        assert Sleepy(timeout=60).run().result(SOON) == "awake"


# -- shutdown ----------------------------------------------------------------------------------------------------------


def test_a_shutdown_with_bodies_asleep_returns_within_its_limit_and_their_threads_end_later(sleepers):
    """Bodies cannot be stopped; the shutdown does not wait for them, and each thread ends with its body."""
    with Runtime(max_threads=4) as runtime:
        held = holding(3, 3, sleepers).run()
        sleepers.wait_for(3)
        runtime.shutdown(timeout=0.01)
        with pytest.raises(Exception, match="shut down"):
            held.result(SOON)
        threads = set(runtime.dispatcher._threads)
        assert len(threads) >= 3
        sleepers.let_go.set()
        assert wait_until(lambda: not any(thread.is_alive() for thread in threads))
        assert not runtime.dispatcher._threads


def test_after_the_shutdown_turns_run_on_the_thread_that_sends():
    """Tells, control messages, asks and stops of a closed dispatcher are served where they are made."""
    with running(2) as pool:
        actor, ref = echo(pool)
        _, other = echo(pool)
        ref.ask("warm", timeout=SOON)
        pool.shutdown(SOON)
        on = []
        ref.tell(lambda: on.append(threading.current_thread()))
        assert on == [threading.current_thread()]
        ref.tell_control("control")
        assert ref.ask("ask", timeout=SOON) == "ask"
        ref.tell(lambda: other.tell(lambda: actor.seen.append("there and back")))
        assert actor.seen[-1] == "there and back"
        assert ref.stop(timeout=SOON) is True
        assert not pool._threads


@pytest.mark.parametrize("thread", ["main", "another"])
def test_a_long_chain_after_the_shutdown_does_not_recurse(thread):
    """Two thousand actors, each of which tells the next, take no stack for it."""

    def chain():
        refs = [Echo.start(pool) for _ in range(2000)]

        def pass_on(number):
            if number < len(refs):
                refs[number].tell(lambda: pass_on(number + 1))

        pass_on(0)
        assert all(len(ref.actor.seen) == 1 for ref in refs)

    with running(2) as pool:
        pool.shutdown(SOON)
        if thread == "main":
            chain()
        else:
            failures = []

            def guarded():
                try:
                    chain()
                except BaseException as error:
                    failures.append(error)

            worker = threading.Thread(target=guarded)
            worker.start()
            worker.join(SOON)
            assert failures == []


class HookedQueue:
    """An inlet in front of which a sender stalls once."""

    def __init__(self, queue, before):
        self._queue, self._before = queue, before

    def put(self, item):
        before, self._before = self._before, None
        if before is not None:
            before()
        self._queue.put(item)

    def __getattr__(self, name):
        return getattr(self._queue, name)


@pytest.mark.parametrize("started", [True, False])
@pytest.mark.parametrize("how", ["tell", "ask", "callback"])
@pytest.mark.parametrize("main", [True, False])
def test_a_sender_who_stalls_while_the_pool_shuts_down_is_served(started, how, main):
    """What comes into the inlet after the shutdown has looked there runs on the sender's thread, and leaks none."""
    with running(2) as pool:
        actor, ref = echo(pool)
        if started:
            ref.ask("warm", timeout=SOON)
            assert wait_until(lambda: pool._idle == len(pool._threads))
        pool._inlet = HookedQueue(pool._inlet, lambda: pool.shutdown(SOON))
        called = threading.Event()
        answers = []

        def send():
            if how == "tell":
                ref.tell("late")
            elif how == "ask":
                answers.append(ref.ask("late", timeout=SOON))
            else:
                pool.execute(Unlimited(called.set))

        if main:
            send()
        else:
            sender = threading.Thread(target=send)
            sender.start()
            sender.join(SOON)
        if how == "callback":
            assert called.wait(SOON)
        else:
            assert actor.seen[-1] == "late"
        pool.shutdown(SOON)
        assert not pool._threads
        ref.tell("later still")
        assert how == "callback" or actor.seen[-1] == "later still"


def test_senders_race_a_shutdown_and_nothing_is_lost():
    """Tells from several threads during a shutdown are all handled, in order, by somebody."""
    for _ in range(40):
        pool = PoolDispatcher(4)
        actors = [echo(pool) for _ in range(3)]
        barrier = threading.Barrier(4)

        def send(ref, barrier=barrier):
            barrier.wait(SOON)
            for serial in range(100):
                ref.tell(serial)

        threads = [threading.Thread(target=send, args=(ref,)) for _, ref in actors]
        for thread in threads:
            thread.start()
        barrier.wait(SOON)
        pool.shutdown(SOON)
        for thread in threads:
            thread.join(SOON)
        assert wait_until(lambda actors=actors: all(actor.seen == list(range(100)) for actor, _ in actors))
        assert wait_until(lambda pool=pool: not pool._threads)


def test_callbacks_of_runs_that_have_ended_run_before_the_runtime_has_gone():
    """Leaving `with Runtime()` right after the result loses no done-callback."""
    for _ in range(50):
        called = []
        with Runtime(max_threads=2):
            handler = Add().run(a=1, b=2)
            handler.add_done_callback(called.append)
        assert called == [handler]


def test_callbacks_of_runs_that_the_shutdown_ends_run_outside_of_turns(sleepers):
    """A callback may ask the run for something even when the runtime has gone."""
    answers = []
    with Runtime(max_threads=2) as runtime:
        held = holding(1, 1, sleepers).run()
        sleepers.wait_for(1)
        held.add_done_callback(lambda h: answers.append((here.actor, h.ctx.store.get("x", "default"))))
        runtime.shutdown(timeout=0.0)
        assert wait_until(lambda: answers)
        sleepers.let_go.set()
    assert answers == [(None, "default")]


def test_a_callback_that_raises_harms_nobody(caplog):
    """It is logged, and the pool goes on."""
    with Runtime(max_threads=1) as runtime:
        for error in (ValueError("mine"), SystemExit(3)):
            handler = Slow().run()

            def fail(_, error=error):
                raise error

            handler.add_done_callback(fail)
            handler.cancel_run(SOON)
        assert Add().run(a=1, b=2).result(SOON) == 3
        assert at_rest(runtime.dispatcher)
    assert caplog.text.count("a callback failed") == 2


def test_two_shutdowns_at_once_end_the_same_pool():
    """Both return, and no thread is left."""
    for _ in range(20):
        pool = PoolDispatcher(4)
        _, ref = echo(pool)
        ref.ask("warm", timeout=SOON)
        other = threading.Thread(target=pool.shutdown, args=(SOON,))
        other.start()
        pool.shutdown(SOON)
        other.join(SOON)
        assert not pool._threads
        assert ref.ask("later", timeout=SOON) == "later"


def test_a_pool_that_never_started_shuts_down_without_a_thread():
    """No thread exists before the first message, and none is started to end it."""
    before = threading.active_count()
    with running(4) as pool:
        assert threading.active_count() == before
    assert threading.active_count() == before
    assert pool._names == 0


# -- names and context variables ---------------------------------------------------------------------------------------


def test_a_thread_says_which_run_and_step_it_is_busy_with():
    """While a body runs its thread bears the names of run and step, and afterwards its own."""

    class Named(Workflow):
        @step
        def who(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=threading.current_thread())

    with Runtime(max_threads=2):
        names = []

        class AlsoNamed(Workflow):
            @step
            def who(self, ev: StartEvent) -> StopEvent:
                names.append(threading.current_thread().name)
                return StopEvent(result=threading.current_thread())

        thread = AlsoNamed().run(run_id="run-7").result(SOON)
        assert names == ["run-7/who"]
        assert wait_until(lambda: thread.name.startswith("greenroom-worker-"))


who = contextvars.ContextVar("who", default="nobody")


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_step_sees_the_variables_of_whoever_called_run(kind):
    """Each run sees those of its caller; what a step sets is seen by nobody else, in this run or another."""

    class Sync(Workflow):
        @step
        def first(self, ev: StartEvent) -> Hold:
            seen = who.get()
            who.set("a step")
            return Hold(seen=seen)

        @step
        def second(self, ev: Hold) -> StopEvent:
            return StopEvent(result=(ev.seen, who.get()))

    class Async(greenroom_aio.Workflow):
        @step
        async def first(self, ev: StartEvent) -> Hold:
            seen = who.get()
            who.set("a step")
            return Hold(seen=seen)

        @step
        async def second(self, ev: Hold) -> StopEvent:
            return StopEvent(result=(ev.seen, who.get()))

    cls = Sync if kind == "def" else Async
    with Runtime(max_threads=1):
        for name in ("Ada", "Grace"):
            context = contextvars.copy_context()
            context.run(who.set, name)
            handler = context.run(cls().run)
            who.set("changed since")
            assert handler.result(SOON) == (name, name)
        assert who.get() == "changed since"
        who.set("nobody")
        assert cls().run().result(SOON) == ("nobody", "nobody")


def test_what_a_callback_sets_is_not_seen_by_the_next():
    """Callbacks share threads, not context variables."""
    seen = []

    def note(_):
        seen.append(who.get())
        who.set("a callback")

    with Runtime(max_threads=1):
        for _ in range(3):
            handler = Slow().run()
            handler.add_done_callback(note)
            handler.cancel_run(SOON)
            assert wait_until(handler.done)
    assert seen == ["nobody"] * 3


def test_dead_letters_of_actors_are_logged(caplog):
    """The pool notes at debug level what no actor will handle."""
    caplog.set_level(logging.DEBUG, "greenroom.actors")
    with running(1) as pool:
        _, ref = echo(pool)
        ref.stop(timeout=SOON)
        ref.tell("too late")
    assert "had stopped before it could handle str" in caplog.text


# -- the place of a body that has ended --------------------------------------------------------------------------------


def test_a_callback_does_not_wait_behind_the_next_body(sleepers):
    """A worker that goes from one body to the next leaves the callbacks in between to somebody else."""
    called = threading.Event()
    first = threading.Event()

    class First(Workflow):
        @step
        def first(self, ev: StartEvent) -> StopEvent:
            assert first.wait(SOON)
            return StopEvent()

    with Runtime(max_threads=1) as runtime:
        handler = First().run()
        handler.add_done_callback(lambda _: called.set())
        assert wait_until(lambda: runtime.dispatcher._running == 1)
        following = Body(sleepers.sleep)
        runtime.dispatcher.execute(following)
        first.set()
        sleepers.wait_for(1)
        assert called.wait(SOON)
        sleepers.let_go.set()
        assert following.reported.wait(SOON)


def test_more_bodies_than_max_threads_shrink_back_to_the_limit(sleepers):
    """After bodies that had waited have filled more places than there are, none begins until enough have ended."""
    with running(1) as pool:
        replies = [Reply(), Reply()]
        ends = [threading.Event(), threading.Event()]

        def wait_and_work(number):
            pool.wait(replies[number])
            assert ends[number].wait(SOON)

        waiting = [Body(lambda number=number: wait_and_work(number)) for number in range(2)]
        for body in waiting:
            pool.execute(body)
        third = Body(sleepers.sleep)
        pool.execute(third)
        sleepers.wait_for(1)  # The first two wait within the engine, so the third has the only place.
        for reply in replies:
            reply.set()
        assert wait_until(lambda: pool._running == 3)
        backlog = [Body(sleepers.sleep) for _ in range(2)]
        for body in backlog:
            pool.execute(body)
        for number, end in enumerate(ends):
            end.set()
            assert waiting[number].reported.wait(SOON)
            assert wait_until(lambda number=number: pool._running == 2 - number)
            assert sleepers.most == 1
        sleepers.let_go.set()
        for body in (third, *backlog):
            assert body.reported.wait(SOON)
        assert sleepers.most == 1
        assert at_rest(pool)


class Overrated(deque):
    """Says once that it holds something, though another thread has just taken it."""

    lies = 1

    def __bool__(self):
        if not len(self) and self.lies:
            self.lies -= 1
            return True
        return len(self) > 0


@pytest.mark.parametrize("which", ["_bodies", "_unlimited"])
def test_a_worker_outlives_a_body_that_another_takes_from_under_it(which):
    """A worker that goes from body to body takes them without the lock: who looked before may find nothing."""
    with running(2) as pool:
        queue = Overrated()
        queue.lies = 3
        setattr(pool, which, queue)
        _, ref = echo(pool)
        assert ref.ask("x", timeout=SOON) == "x"
        assert wait_until(lambda: not queue.lies)
        body = Body()
        pool.execute(body)
        assert body.reported.wait(SOON)
        assert at_rest(pool)
        assert pool._names <= 2


def test_a_body_that_comes_just_as_the_last_worker_goes_to_sleep_is_run(monkeypatch):
    """Whoever brings a body looks for a worker that is awake; one that goes to sleep meanwhile does not miss it."""
    with running(4) as pool:
        late, coming, brought = Body(), threading.Event(), threading.Event()
        look = pool._can_take_body

        def bring():
            pool.execute(late)
            brought.set()

        def look_just_before_it_comes():
            found = look()
            if not found and not coming.is_set():
                coming.set()
                threading.Thread(target=bring).start()
                assert wait_until(lambda: pool._bodies, SOON)
                # Over at once where the bringer saw a worker awake; else he waits for the lock that is held here.
                brought.wait(0.1)
            return found

        monkeypatch.setattr(pool, "_can_take_body", look_just_before_it_comes)
        # A turn wakes the worker, which then looks for bodies and goes to sleep.
        Echo.start(pool).tell("wake up")
        assert coming.wait(SOON)
        assert late.reported.wait(SOON)


def test_what_follows_a_body_runs_on_its_thread_and_gives_its_place_away(sleepers):
    """An unlimited body that follows from a limited one needs no other thread, and takes no place of `max_threads`."""
    threads = []
    gate, begun = threading.Event(), threading.Event()

    def commit():
        threads.append(threading.current_thread())
        begun.set()
        assert gate.wait(SOON)

    class Committing(Body):
        def report(self):
            pool.execute(Unlimited(commit))

    with running(1) as pool:
        pool.execute(Committing(lambda: threads.append(threading.current_thread())))
        assert begun.wait(SOON)
        assert threads[0] is threads[1]
        other = Body()
        pool.execute(other)
        assert other.reported.wait(SOON)
        gate.set()
        assert at_rest(pool)

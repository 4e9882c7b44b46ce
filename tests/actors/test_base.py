"""What is open in Pykka's actors and closed in ours."""

from __future__ import annotations

import gc
import sys
import threading
import weakref

import pykka
import pytest

from greenroom.actors.base import PooledActor, Ref, Reply, Terminated, here
from greenroom.actors.pool import PoolDispatcher
from greenroom.errors import DeadlockError, StepCancelled
from tests.support.manual import HookedDeque, LyingLock, ManualDispatcher
from tests.support.waiting import wait_until

ANSWERED = 10.0


class LettersPool(PoolDispatcher):
    """A pool that keeps its dead letters."""

    def __init__(self, max_threads: int = 8) -> None:
        super().__init__(max_threads)
        self.letters = []

    def dead_letter(self, actor, message):
        self.letters.append(message)


@pytest.fixture
def pool():
    pool = LettersPool()
    yield pool
    pool.shutdown(5.0)


@pytest.fixture
def manual():
    return ManualDispatcher()


class Recorder(PooledActor):
    """Notes all that happens to it. A callable message is called, and what it returns is the answer."""

    def __init__(self, dispatcher):
        super().__init__(dispatcher)
        self.seen = []
        self.ended = []

    def on_receive(self, message):
        self.seen.append(message)
        return message() if callable(message) else message

    def on_stop(self):
        self.ended.append("stop")

    def on_failure(self, exception_type, exception_value, traceback):
        self.ended.append(exception_value)


def made(dispatcher, cls=Recorder):
    ref = cls.start(dispatcher)
    return ref.actor, ref


def in_thread(function):
    """Run a function on another thread and wait for it."""
    thread = threading.Thread(target=function)
    thread.start()
    thread.join(ANSWERED)
    assert not thread.is_alive()


@pytest.fixture
def switchy():
    """Make the interpreter switch threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


# -- ask against stop --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lane", ["user", "control"])
def test_a_sender_that_stalls_before_it_appends_gets_its_answer(manual, lane):
    """An ask that is appended after the actor has drained its mailbox is rejected by the sender itself."""
    actor, ref = made(manual)
    if lane == "user":
        actor.user = HookedDeque(before=lambda: ref.stop())
        reply = ref.ask("late", block=False)
        with pytest.raises(pykka.ActorDeadError):
            reply.get(timeout=0)
    else:
        ref.stop(block=False)
        hooked = HookedDeque(before=manual.run_all)
        hooked.extend(actor.control)
        actor.control = hooked
        assert ref.stop(timeout=ANSWERED) is False
    assert actor.seen == []


def test_a_sender_that_stalls_after_it_appended_gets_its_answer(manual):
    """An ask that is appended before the actor drains, and looks at the flag after, is answered once."""
    actor, ref = made(manual)
    actor.user = HookedDeque(after=lambda: ref.stop())
    reply = ref.ask("late", block=False)
    with pytest.raises(pykka.ActorDeadError):
        reply.get(timeout=0)
    assert actor.seen == []


def test_a_message_that_comes_in_while_the_actor_ends_is_not_handled(manual):
    """What is appended after the mailbox was drained, within the same turn, goes to the dead letters."""
    actor, ref = made(manual)
    _, watcher = made(manual)
    # A sender who has appended and not yet looked at the flag: the actor's own turn sees the envelope first.
    watcher.tell_control = lambda _: actor.user.append(pykka._envelope.Envelope("too late"))
    actor.watch(watcher)
    ref.tell(lambda: actor.stop())
    manual.run_all()
    assert actor.ended == ["stop"]
    assert "too late" not in actor.seen
    assert manual.dead_letters == ["too late"]


def test_a_turn_of_an_actor_that_has_ended_handles_nothing(manual):
    """A turn that was due when the actor ended rejects what it finds."""
    actor, ref = made(manual)
    ref.stop()
    actor.user.append(pykka._envelope.Envelope("too late"))
    actor.run_turn()
    assert actor.seen == []
    assert manual.dead_letters == ["too late"]


@pytest.mark.parametrize("interval", [1e-6, 1e-4, 5e-3])
def test_no_ask_stays_without_an_answer_when_senders_race_stoppers(pool, interval):
    """Many senders hammer `ask` and `tell` while others stop: asks end, tells are handled or dead letters."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(interval)
    try:
        for _ in range(40):
            race_asks_against_stops(pool, senders=3, stoppers=2)
    finally:
        sys.setswitchinterval(before)


def race_asks_against_stops(pool, senders, stoppers):
    actor, ref = made(pool)
    pool.letters.clear()
    barrier = threading.Barrier(senders + stoppers)
    replies, stopped, told = [], [], [0] * senders

    def send(number):
        barrier.wait(ANSWERED)
        for serial in range(10_000):
            reply = ref.ask(("ask", number, serial), block=False)
            replies.append(reply)
            ref.tell(("tell", number, serial))
            told[number] += 1
            if not ref.is_alive() and serial > 5:
                return

    def stop():
        barrier.wait(ANSWERED)
        stopped.append(ref.stop(timeout=ANSWERED))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(senders)]
    threads += [threading.Thread(target=stop) for _ in range(stoppers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * ANSWERED)
    assert not any(thread.is_alive() for thread in threads)
    assert sorted(stopped) == [False] * (stoppers - 1) + [True]
    for reply in replies:
        assert reply.block(ANSWERED)
    answered = [reply for reply in replies if reply._error is None]
    assert all(isinstance(reply._error, pykka.ActorDeadError) for reply in replies if reply not in answered)
    asks = [message for message in actor.seen if message[0] == "ask"]
    tells = [message for message in actor.seen if message[0] == "tell"]
    assert len(asks) == len(answered)
    # Rejected tells may still be on their way to the letters on the sender's thread, but all senders have ended.
    assert len(tells) + len(pool.letters) == sum(told)
    for number in range(senders):
        serials = [serial for _, sender, serial in tells if sender == number]
        assert serials == list(range(len(serials)))  # in order, and without a gap before the end


def test_many_stops_at_once_are_all_answered(pool, switchy):
    """One of many concurrent stops says that the actor was alive, and all are answered."""
    for _ in range(60):
        _, ref = made(pool)
        replies = [ref.stop(block=False) for _ in range(2)]
        stopped = []

        def stop(ref=ref, stopped=stopped):
            stopped.append(ref.stop(timeout=ANSWERED))

        threads = [threading.Thread(target=stop) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(ANSWERED)
        assert all(reply.block(ANSWERED) for reply in replies)
        alive = sum(reply._error is None for reply in replies) + sum(stopped)
        assert alive == 1
        assert len(stopped) == 3


# -- failures ----------------------------------------------------------------------------------------------------------


class Unwinding(BaseException):
    """A signal like those of programs that unwind by BaseException."""


FATAL = [SystemExit(3), KeyboardInterrupt(), StepCancelled("x"), Unwinding()]


@pytest.fixture
def neighbour(pool):
    """Another actor of the same pool, which must outlive what the test does; and so must all workers."""
    _, ref = made(pool)
    ref.ask("warm", timeout=ANSWERED)
    yield ref
    for _ in range(3):
        assert ref.ask("still there", timeout=ANSWERED) == "still there"
    assert pool._awake + pool._idle >= 1


def raiser(error):
    def raise_it():
        raise error

    return raise_it


def ended(actor):
    """Wait until an actor has ended and its mailbox is closed."""
    return wait_until(lambda: actor.closed)


@pytest.mark.parametrize("error", FATAL, ids=repr)
def test_a_base_exception_on_a_tell_ends_that_actor_alone(pool, neighbour, error, caplog):
    """The actor ends with on_failure; its workers and neighbours go on."""
    actor, ref = made(pool)
    ref.tell(raiser(error))
    assert ended(actor)
    assert wait_until(lambda: actor.ended == [error])
    assert "failed and has stopped" in caplog.text


@pytest.mark.parametrize("error", FATAL, ids=repr)
def test_a_base_exception_on_an_ask_reaches_the_asker_and_ends_that_actor_alone(pool, neighbour, error):
    """The asker gets the very exception, and later askers ActorDeadError."""
    actor, ref = made(pool)
    with pytest.raises(type(error)):
        ref.ask(raiser(error), timeout=ANSWERED)
    assert ended(actor)
    with pytest.raises(pykka.ActorDeadError):
        ref.ask("later", timeout=ANSWERED)


@pytest.mark.parametrize("error", FATAL, ids=repr)
def test_a_base_exception_after_an_answer_ends_that_actor_alone(pool, neighbour, error):
    """An on_ask that answers and then raises ends its actor; the answer stands."""

    class AnswersFirst(Recorder):
        def on_ask(self, message, reply):
            reply.set("answered")
            raise error

    actor, ref = made(pool, AnswersFirst)
    assert ref.ask("x", timeout=ANSWERED) == "answered"
    assert ended(actor)


def test_an_answer_stands_when_the_handler_raises_after_it(manual):
    """The first answer is the answer: a later one changes neither value nor error."""

    class AnswersFirst(Recorder):
        def on_ask(self, message, reply):
            reply.set("answered")
            raise ValueError("after the answer")

    _, ref = made(manual, AnswersFirst)
    reply = ref.ask("x", block=False)
    assert reply.get(timeout=0) == "answered"
    assert ref.is_alive()


@pytest.mark.parametrize("error", [*FATAL, ValueError("x")], ids=repr)
def test_an_exception_at_the_end_of_a_turn_ends_that_actor_alone(pool, neighbour, error):
    """on_turn_end may raise what it likes."""

    class FailsAtTurnEnd(Recorder):
        def on_turn_end(self):
            raise error

    actor, ref = made(pool, FailsAtTurnEnd)
    assert ref.ask("x", timeout=ANSWERED) == "x"
    assert ended(actor)
    assert wait_until(lambda: actor.ended == [error])


@pytest.mark.parametrize("error", [*FATAL, ValueError("x")], ids=repr)
def test_an_exception_while_stopping_harms_nobody(pool, neighbour, error, caplog):
    """on_stop may raise what it likes: it is logged, the stopper is answered, the mailbox closes, watchers are told."""

    class FailsAtStop(Recorder):
        def on_stop(self):
            raise error

    actor, ref = made(pool, FailsAtStop)
    watching, watcher = made(pool)
    actor.watch(watcher)
    assert ref.stop(timeout=ANSWERED) is True
    assert not ref.is_alive()
    with pytest.raises(pykka.ActorDeadError):
        ref.ask("later", timeout=ANSWERED)
    assert wait_until(lambda: watching.seen == [Terminated(ref, None)])
    assert "failed while it stopped" in caplog.text


@pytest.mark.parametrize("how", ["tell", "ask", "turn end"])
@pytest.mark.parametrize("error", [*FATAL, ValueError("x")], ids=repr)
def test_an_exception_in_on_failure_harms_nobody(pool, neighbour, error, how):
    """on_failure may raise what it likes: askers are answered and watchers told the first reason."""

    class FailsTwice(Recorder):
        fails_at_turn_end = False

        def on_failure(self, *_):
            raise error

        def on_turn_end(self):
            if how == "turn end" and self.seen:
                raise first

    first = Unwinding("first")
    actor, ref = made(pool, FailsTwice)
    watching, watcher = made(pool)
    actor.watch(watcher)
    if how == "ask":
        with pytest.raises(Unwinding):
            ref.ask(raiser(first), timeout=ANSWERED)
    else:
        ref.tell(raiser(first) if how == "tell" else "x")
    assert wait_until(lambda: watching.seen == [Terminated(ref, first)])
    with pytest.raises(pykka.ActorDeadError):
        ref.ask("later", timeout=ANSWERED)


def test_turns_that_wait_in_a_lane_outlive_a_failing_actor_ahead_of_them(pool):
    """An actor that fails in every hook takes no scheduled neighbour with it, though they share a worker."""

    class FailsTwice(Recorder):
        def on_failure(self, *_):
            raise Unwinding

    for _ in range(30):
        others = [made(pool) for _ in range(5)]
        _, victim = made(pool, FailsTwice)
        _, first = made(pool)

        def spread(victim=victim, others=others):
            victim.tell(raiser(Unwinding()))
            for _, ref in others:
                ref.tell("hello")

        first.tell(spread)  # A worker runs it, so all that it tells waits in that worker's own lane.
        assert wait_until(lambda others=others: all(actor.seen == ["hello"] for actor, _ in others))


def test_an_exception_in_an_ask_leaves_the_actor_alive(manual):
    """An Exception goes to the asker alone, as in Pykka."""
    actor, ref = made(manual)
    with pytest.raises(ValueError, match="mine"):
        ref.ask(raiser(ValueError("mine")))
    assert ref.ask("next") == "next"
    assert actor.ended == []


# -- what a stopped actor leaves ---------------------------------------------------------------------------------------


def test_queued_messages_of_a_stopped_actor_are_accounted_for(manual):
    """Queued tells go to the dead letters in order, queued asks get ActorDeadError, and nothing is handled."""
    actor, ref = made(manual)
    ref.tell("one")
    replies = []
    here.actor = actor  # As within a turn, so that asks are queued and not served.
    try:
        replies = [ref.ask(number, block=False) for number in range(3)]
    finally:
        here.actor = None
    ref.tell("two")
    ref.stop()
    assert actor.seen == []
    assert manual.dead_letters == ["one", "two"]
    for reply in replies:
        with pytest.raises(pykka.ActorDeadError, match="stopped before handling"):
            reply.get(timeout=0)


def test_queued_messages_of_a_failed_actor_are_accounted_for(manual):
    """What waits behind the message that fails is rejected as well."""
    actor, ref = made(manual)
    ref.tell(raiser(ValueError("x")))
    ref.tell("one")
    manual.run_all()
    assert len(actor.seen) == 1
    assert manual.dead_letters == ["one"]


def test_tells_to_an_actor_that_has_ended_reach_the_dead_letters(manual):
    """A tell never raises and never vanishes."""
    _, ref = made(manual)
    ref.stop()
    ref.tell("one")
    ref.tell_control("two")
    assert manual.dead_letters == ["one", "two"]


def test_a_second_stop_says_that_the_actor_was_dead(manual):
    """Stopping twice is no error."""
    actor, ref = made(manual)
    assert ref.stop() is True
    assert ref.stop() is False
    assert actor.ended == ["stop"]


# -- stop from inside --------------------------------------------------------------------------------------------------


def test_an_actor_stops_itself(manual):
    """`self.stop()` ends the actor after the message at hand; what waits is rejected."""
    actor, ref = made(manual)
    ref.tell(lambda: actor.stop())
    ref.tell("later")
    manual.run_all()
    assert actor.ended == ["stop"]
    assert manual.dead_letters == ["later"]


@pytest.mark.parametrize("target", ["itself", "another"])
def test_a_blocking_stop_within_a_turn_is_refused(manual, target):
    """A turn never blocks, not even on a stop; the actor that was to be stopped lives."""
    _, ref = made(manual)
    _, other = made(manual)
    victim = ref if target == "itself" else other
    with pytest.raises(DeadlockError, match="stop"):
        ref.ask(lambda: victim.stop(timeout=0.1))
    assert victim.is_alive()
    ref.ask(lambda: victim.stop(block=False))
    manual.run_all()
    assert not victim.is_alive()


def test_a_blocking_ask_within_a_turn_is_refused(manual):
    """An actor that blocks on an ask gets DeadlockError; one that does not block gets a Reply."""
    _, ref = made(manual)
    _, other = made(manual)
    with pytest.raises(DeadlockError, match=r"tell\(\)"):
        ref.ask(lambda: other.ask("x"))
    with pytest.raises(DeadlockError):
        ref.ask(lambda: ref.ask("to itself"))
    reply = ref.ask(lambda: other.ask("x", block=False))
    manual.run_all()
    assert reply.get(timeout=0) == "x"
    assert here.actor is None


# -- watching ----------------------------------------------------------------------------------------------------------


def test_watchers_hear_of_a_stop_and_of_a_failure(manual):
    """Terminated comes once to each watcher, with the reason."""
    watching, watcher = made(manual)
    stopped, stopped_ref = made(manual)
    failed, failed_ref = made(manual)
    stopped.watch(watcher)
    failed.watch(watcher)
    error = ValueError("x")
    stopped_ref.stop()
    failed_ref.tell(raiser(error))
    manual.run_all()
    assert watching.seen == [Terminated(stopped_ref, None), Terminated(failed_ref, error)]


def test_a_watcher_of_an_actor_that_has_ended_hears_of_it_at_once(manual):
    """Watching too late is not too late."""
    watching, watcher = made(manual)
    failed, failed_ref = made(manual)
    error = ValueError("x")
    failed_ref.tell(raiser(error))
    manual.run_all()
    failed.watch(watcher)
    manual.run_all()
    assert watching.seen == [Terminated(failed_ref, error)]


def test_a_watcher_that_comes_while_the_actor_ends_hears_of_it_once(manual):
    """A watcher who stalls between entering its name and looking at the flag is told exactly once."""
    watching, watcher = made(manual)
    actor, ref = made(manual)
    actor._watchers = HookedDeque(after=lambda: ref.stop())
    actor.watch(watcher)
    manual.run_all()
    assert watching.seen == [Terminated(ref, None)]


def test_watching_races_an_end(pool, switchy):
    """Whoever watches while another thread stops the actor hears of the end exactly once."""
    for _ in range(100):
        actor, ref = made(pool)
        watching, watcher = made(pool)
        barrier = threading.Barrier(2)

        def watch(barrier=barrier, actor=actor, watcher=watcher):
            barrier.wait(ANSWERED)
            actor.watch(watcher)

        thread = threading.Thread(target=watch)
        thread.start()
        barrier.wait(ANSWERED)
        ref.stop(timeout=ANSWERED)
        thread.join(ANSWERED)
        assert wait_until(lambda watching=watching: watching.seen)
        assert watching.seen == [Terminated(ref, None)]


# -- lanes and turns ---------------------------------------------------------------------------------------------------


def test_the_control_lane_goes_ahead_of_the_user_lane(manual):
    """Control messages are handled before user messages that came earlier, each lane in its own order."""
    actor, ref = made(manual)
    for message in ("a", "b"):
        ref.tell(message)
    for message in ("1", "2"):
        ref.tell_control(message)
    manual.run_all()
    assert actor.seen == ["1", "2", "a", "b"]


def test_a_control_message_waits_for_no_more_than_the_message_at_hand(manual):
    """One that comes during a turn is next."""
    actor, ref = made(manual)
    ref.tell(lambda: ref.tell_control("urgent"))
    ref.tell("later")
    manual.run_all()
    assert actor.seen[1:] == ["urgent", "later"]


def test_a_stop_goes_ahead_of_a_long_backlog(manual):
    """A thousand queued messages do not delay a stop."""
    actor, ref = made(manual)
    for number in range(1000):
        ref.tell(number)
    ref.stop()
    assert actor.seen == []
    assert len(manual.dead_letters) == 1000


def test_a_turn_is_bounded_and_the_rest_comes_in_later_turns(manual):
    """An actor with a backlog gives way after a batch, and handles all of it in order."""
    actor, ref = made(manual)
    other, other_ref = made(manual)
    for number in range(3 * manual.batch):
        ref.tell(number)
    other_ref.tell("in between")
    manual.turn()
    assert actor.seen == list(range(manual.batch))
    manual.turn()
    assert other.seen == ["in between"]
    manual.run_all()
    assert actor.seen == list(range(3 * manual.batch))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("how", ["tell", "ask"])
def test_a_message_that_comes_as_the_turn_lock_is_given_back_is_handled(manual, when, how):
    """Just before the lock is free a server finds it taken, just after it is free nobody has the turn: none is lost."""
    actor, ref = made(manual)
    replies = []

    def come_in():
        send = ref.tell if how == "tell" else lambda message: replies.append(ref.ask(message, block=False))
        in_thread(lambda: send("late"))

    actor._turn = LyingLock(actor._turn, **{when: come_in})
    ref.tell("early")
    manual.run_all()
    assert actor.seen == ["early", "late"]
    assert all(reply.done for reply in replies)


def test_turns_never_overlap_and_senders_keep_their_order(pool, switchy):
    """Tells and asks from many threads are handled one at a time, each sender's in order, none lost or doubled."""

    class Exclusive(Recorder):
        inside = False
        overlapped = False

        def on_receive(self, message):
            self.overlapped = self.overlapped or self.inside
            self.inside = True
            super().on_receive(message)
            self.inside = False
            return message

    actor, ref = made(pool, Exclusive)
    count, senders = 300, 4

    def send(number):
        for serial in range(count):
            if serial % 3 == number % 3:
                assert ref.ask((number, serial), timeout=ANSWERED) == (number, serial)
            else:
                ref.tell((number, serial))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(senders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(4 * ANSWERED)
    assert wait_until(lambda: len(actor.seen) >= count * senders)
    for number in range(senders):
        assert [serial for sender, serial in actor.seen if sender == number] == list(range(count))
    assert not actor.overlapped


# -- memory ------------------------------------------------------------------------------------------------------------


class Payload:
    """Something that can be referred to weakly."""


@pytest.mark.parametrize("how", ["tell", "ask", "failing ask", "failing tell", "dead"])
def test_nothing_of_the_last_message_stays_alive(pool, how):
    """An idle actor, an idle worker and an actor that has ended hold no message and no answer."""

    class Forgetful(PooledActor):
        def on_receive(self, message):
            if how.startswith("failing"):
                raise ValueError("x")
            return message

    actor, ref = made(pool, Forgetful)
    payload = Payload()
    gone = weakref.ref(payload)
    if how == "dead":
        ref.stop(timeout=ANSWERED)
    if how in ("tell", "failing tell", "dead"):
        ref.tell(payload)
    elif how == "ask":
        assert ref.ask(payload, timeout=ANSWERED) is payload
    else:
        reply = ref.ask(payload, block=False)
        assert reply.block(ANSWERED)
        del reply
    assert wait_until(lambda: actor.empty())
    del payload
    if how == "dead":
        pool.letters.clear()

    def collected():
        gc.collect()
        return gone() is None

    assert wait_until(collected)


def test_the_reason_of_a_failure_holds_no_message(manual, caplog):
    """Watchers and the ended actor keep the error, but not the frames of the handler that raised it."""
    watching, watcher = made(manual)
    actor, ref = made(manual, PooledActor)
    actor.on_receive = lambda message: 1 / message.zero
    actor.watch(watcher)
    payload = Payload()
    payload.zero = 0
    gone = weakref.ref(payload)
    ref.tell(payload)
    del payload
    manual.run_all()
    caplog.clear()  # The record holds the error, and so would the test's log.
    gc.collect()
    assert isinstance(watching.seen[0].reason, ZeroDivisionError)
    assert gone() is None


# -- replies -----------------------------------------------------------------------------------------------------------


def test_a_reply_keeps_its_first_answer():
    """Neither a second value nor a later error replaces it, and the callback is told once."""
    told = []
    reply = Reply()
    reply.notify(lambda: told.append(1))
    reply.set(1)
    reply.set(2)
    reply.set_exception((ValueError, ValueError("x"), None))
    assert reply.get() == 1
    assert told == [1]


def test_a_reply_that_was_waited_for_may_be_answered_twice():
    """A second answer after somebody was woken raises nothing."""
    reply = Reply()
    assert reply.block(0.0) is False
    reply.set(1)
    reply.set(2)
    assert reply.block() is True
    assert reply.get() == 1


def test_a_reply_without_an_answer_raises_timeout_error():
    """`get` waits no longer than it was told."""
    with pytest.raises(TimeoutError):
        Reply().get(timeout=0)


@pytest.mark.parametrize("how", ["block", "notify"])
def test_a_reply_always_reaches_whoever_waits(how, switchy):
    """However the answer and the wait interleave, the waiter wakes, and a callback is called exactly once."""
    for serial in range(300):
        reply = Reply()
        called = []
        barrier = threading.Barrier(2)

        def answer(reply=reply, barrier=barrier, serial=serial):
            barrier.wait(ANSWERED)
            reply.set(serial)

        thread = threading.Thread(target=answer)
        thread.start()
        barrier.wait(ANSWERED)
        if how == "block":
            assert reply.block(ANSWERED)
        else:
            reply.notify(lambda called=called: called.append(1))
        thread.join(ANSWERED)
        assert reply.get(timeout=0) == serial
        if how == "notify":
            assert called == [1]


@pytest.mark.parametrize("moment", ["before the gate", "after the gate"])
def test_an_answer_that_comes_while_the_waiter_sets_up_is_seen(moment):
    """The waiter makes its gate, then looks again; whoever answers sets the flag, then looks for the gate."""

    class Slow(Reply):
        def __setattr__(self, name, value):
            answers = name == "_gate" and value is not None and not self.done
            if answers and moment == "before the gate":
                self.set("answer")
            super().__setattr__(name, value)
            if answers and moment == "after the gate":
                self.set("answer")

    reply = Slow()
    assert reply.block(ANSWERED)
    assert reply.get(timeout=0) == "answer"


def test_a_ref_outlives_its_actors_end():
    """Asking or telling a stopped actor through an old ref neither raises nor hangs."""
    manual = ManualDispatcher()
    ref = Recorder.start(manual)
    ref.stop()
    assert isinstance(ref, Ref)
    with pytest.raises(pykka.ActorDeadError):
        ref.ask("x")

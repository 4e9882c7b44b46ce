"""The base of all our actors, on Pykka's seam for implementors of actor types.

An actor's turn runs on whichever thread takes its turn lock: a thread of the dispatcher, or a thread that asks and
finds the actor idle. So an actor's own attributes are touched by one thread at a time and need no locks. A turn
handles a bounded batch of messages and never blocks; blocking on an `ask` inside a turn raises.

Guarantees, each where Pykka 4.5 has none:
- An ask is always answered: by the actor, or with ActorDeadError if it stops first (see `greenroom.actors.mailbox`).
- A BaseException in a handler ends this actor alone; the asker gets it.
- A tell that is never handled goes to the dispatcher's dead letters.
- Nothing of the last message stays alive after it was handled.
- Whoever watches an actor hears of its end, at once if it had already ended.

`scheduled` is a hint that the actor is in a dispatcher's queue. Races on it cost a spare turn, never a lost one: it is
cleared before the mailbox is emptied, and the mailbox is looked at again after the turn lock is given back.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pykka
from pykka._envelope import Envelope
from pykka.messages import _ActorStop

from greenroom.actors.mailbox import Mailbox
from greenroom.errors import DeadlockError
from greenroom.log_fields import log_fields

if TYPE_CHECKING:
    from types import TracebackType

    from greenroom.actors.dispatcher import Dispatcher

__all__ = ["PooledActor", "Ref", "Reply", "Terminated", "here"]

logger = logging.getLogger("greenroom.actors")


class _Here(threading.local):
    """What this thread is doing for us: the actor whose turn it runs, and its lane if it belongs to a dispatcher."""

    actor: PooledActor | None = None
    lane: Any = None


here = _Here()


class Terminated(NamedTuple):
    """Tells a watcher that an actor has ended; `reason` is None for a normal stop."""

    ref: Ref
    reason: BaseException | None


class Reply(pykka.Future[Any]):
    """The answer to one ask: the first that is given. One thread may block on it, or one callback be told.

    `_gate` is made by the thread that waits, then `done` is looked at again; whoever answers sets `done` and then looks
    for the gate. So one of them sees the other.
    """

    # Defaults on the class, so that a reply costs nothing to make.
    _value: Any = None
    _error: BaseException | None = None
    _gate: threading.Lock | None = None
    _callback: Callable[[], None] | None = None
    done = False

    def __init__(self) -> None:
        """Make a reply without Pykka's hooks, for which we have no use."""

    def set(self, value: Any = None) -> None:
        """Answer with a value."""
        if not self.done:
            self._value = value
            self._settle()

    def set_exception(self, exc_info: Any = None) -> None:
        """Answer with an error, given as `sys.exc_info()` gives it."""
        if not self.done:
            self._error = exc_info[1]
            self._settle()

    def _settle(self) -> None:
        self.done = True
        gate, callback = self._gate, self._callback
        if gate is not None:
            gate.release()
        if callback is not None:
            callback()

    def is_done(self) -> bool:
        """Return whether there is an answer."""
        return self.done

    def block(self, timeout: float | None = None) -> bool:
        """Block until there is an answer, at most `timeout` seconds; return whether there is one."""
        gate = threading.Lock()
        gate.acquire()
        self._gate = gate
        if self.done:
            return True
        gate.acquire(timeout=-1 if timeout is None else max(0.0, timeout))
        return self.done

    def notify(self, callback: Callable[[], None]) -> None:
        """Call back from the thread that answers; at once, from this one, if there is an answer already."""
        called = threading.Lock()  # Taken by the first of the two threads that may see the answer.

        def once() -> None:
            if called.acquire(blocking=False):
                callback()

        self._callback = once
        if self.done:
            once()

    def get(self, *, timeout: float | None = None) -> Any:
        """Return the answer or raise its error; TimeoutError if there is none in time."""
        if not self.done and not self.block(timeout):
            raise TimeoutError("no answer came in time")
        if self._error is not None:
            raise self._error
        return self._value


class Ref(pykka.ActorRef["PooledActor"]):
    """The address of one of our actors, which it keeps alive. Two refs of one actor are equal.

    `tell` never raises: what a dead actor is told goes to the dead letters.
    """

    def __init__(self, actor: PooledActor) -> None:
        # Not super().__init__(): it copies what the properties below read off the actor.
        self.actor = actor

    @property
    def actor_class(self) -> type[PooledActor]:  # type: ignore[override]
        """The actor's class."""
        return type(self.actor)

    @property
    def actor_urn(self) -> str:  # type: ignore[override]
        """The actor's name, unique in the process."""
        return self.actor.actor_urn

    @property
    def actor_inbox(self) -> PooledActor:  # type: ignore[override]
        """The actor itself, which is its own mailbox."""
        return self.actor

    @property
    def actor_stopped(self) -> Any:  # type: ignore[override]
        """Whether the actor has stopped, behind the methods of a threading.Event."""
        return self.actor.actor_stopped

    @property
    def _actor_weakref(self) -> Callable[[], PooledActor]:  # type: ignore[override]
        return lambda: self.actor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and other.actor is self.actor

    def __hash__(self) -> int:
        return hash(id(self.actor))

    def tell(self, message: Any) -> None:
        """Send a message."""
        self.actor.put(message)

    def tell_control(self, message: Any) -> None:
        """Send a message on the control lane, ahead of those that wait."""
        self.actor.put_control(message)

    def ask(self, message: Any, *, block: bool = True, timeout: float | None = None) -> Any:
        """Send a message and wait for the answer; with `block=False` return the `Reply`.

        An idle actor is served by the calling thread where the dispatcher allows it.

        Raises:
            DeadlockError: If an actor blocks on an ask.
        """
        actor, reply = self.actor, Reply()
        if here.actor is None:
            actor.dispatcher.serve(actor, Envelope(message, reply_to=reply))
        elif block:
            raise DeadlockError(f"{here.actor} blocks on an ask: use tell(), or ask(block=False) and a callback")
        else:
            actor.put(Envelope(message, reply_to=reply))
        return self._answer(reply, timeout) if block else reply

    def stop(self, *, block: bool = True, timeout: float | None = None) -> Any:
        """Stop the actor: it handles nothing more, and all that waits is rejected. Return whether it was alive.

        Raises:
            DeadlockError: If an actor blocks on a stop.
        """
        if block and here.actor is not None:
            raise DeadlockError(f"{here.actor} blocks on the stop of {self}: use stop(block=False)")
        reply = Reply()
        self.actor.put_control(Envelope(_ActorStop(), reply_to=reply))
        if not block:
            return reply
        try:
            self._answer(reply, timeout)
        except pykka.ActorDeadError:
            return False
        return True

    def _answer(self, reply: Reply, timeout: float | None) -> Any:
        if not reply.done:
            self.actor.dispatcher.wait(reply, timeout)
        return reply.get(timeout=0)


class _StoppedFlag:
    """Reads `closed` as Pykka reads the Event of its actors. Nobody waits on it, and an Event costs a microsecond."""

    __slots__ = ("_mailbox",)

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    def is_set(self) -> bool:
        return self._mailbox.closed

    def set(self) -> None:
        self._mailbox.close()


class PooledActor(Mailbox, pykka.Actor):
    """An actor without a thread of its own."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        # Not pykka's __init__: a uuid4 and an Event an actor would cost more than a short run.
        Mailbox.__init__(self)
        self.dispatcher = dispatcher
        self._ended = False
        self._batch = dispatcher.batch
        self._turn = threading.Lock()  # Held by the thread that runs this actor's turn.
        self._watchers: list[Ref] = []  # Seldom more than one; a deque takes ten times the memory.
        self._reason: BaseException | None = None

    @property
    def actor_urn(self) -> str:  # type: ignore[override]
        """The actor's name, unique among those that live in the process."""
        return f"urn:greenroom:{id(self):x}"

    @property
    def actor_inbox(self) -> PooledActor:  # type: ignore[override]
        """The actor itself."""
        return self

    @property
    def actor_stopped(self) -> Any:  # type: ignore[override]
        """Whether the actor has stopped, behind the methods of a threading.Event."""
        return _StoppedFlag(self)

    @property
    def actor_ref(self) -> Ref:
        """The actor's address."""
        return Ref(self)

    def announce(self) -> None:
        """Have the dispatcher give the actor a turn."""
        self.dispatcher.schedule(self)

    def on_rejected(self, message: Any) -> None:
        """Hand a message that came too late to the dead letters."""
        self.dispatcher.dead_letter(self, message)

    @classmethod
    def start(cls, *args: Any, **kwargs: Any) -> Ref:
        """Make an actor and return its address.

        It is not entered in Pykka's registry, where leaving costs O(actors); its runtime knows it.
        """
        actor = cls(*args, **kwargs)
        actor._start_actor_loop()
        return actor.actor_ref

    @staticmethod
    def _create_actor_inbox() -> Any:
        raise TypeError("an actor of ours is its own inbox")

    @staticmethod
    def _create_future() -> Reply:
        return Reply()

    def _start_actor_loop(self) -> None:
        """There is no loop to start: the first message schedules the first turn."""

    def stop(self) -> None:
        """Have this actor stopped after the message at hand."""
        # Pykka's own would tell it a message on the user lane, which `on_receive` would be given.
        self.actor_ref.stop(block=False)

    def watch(self, watcher: Ref) -> None:
        """Have `watcher` told `Terminated` when this actor ends, or now if it has. Any thread may call."""
        self._watchers.append(watcher)
        if self.closed:
            self._tell_watchers()

    # -- the turn ------------------------------------------------------------------------------------------------------

    def run_turn(self) -> None:
        """Handle a batch of messages, unless another thread is doing so."""
        self.scheduled = False
        if self._turn.acquire(blocking=False):
            self._run_turn()

    def serve_here(self) -> bool:
        """Handle what waits on the calling thread if the actor is idle; return whether it was."""
        if not self._turn.acquire(blocking=False):
            return False
        self._run_turn()
        return True

    def _run_turn(self) -> None:
        control, user = self.control, self.user
        outer, here.actor = here.actor, self
        item: Any = None
        try:
            for _ in range(0 if self.closed else self._batch):
                if control:
                    item = control.popleft()
                elif user:
                    item = user.popleft()
                else:
                    break
                if type(item) is Envelope:
                    self._handle(item)
                    if self.closed:
                        break  # What comes in from now on is rejected, not handled.
                else:
                    self.on_receive(item)
            item = None  # or the last message would live until this frame ends
            if not self.closed:
                self.on_turn_end()
        except BaseException as error:
            # A handler must not be able to end the thread, nor any actor but its own.
            self._fail(error)
        finally:
            item = None
            here.actor = outer
            self._turn.release()
        if control or user:
            if self.closed:
                self.reject_all()
            elif not self.scheduled:
                self.dispatcher.schedule(self)

    def _handle(self, envelope: Envelope[Any]) -> None:
        message, reply = envelope.message, cast("Reply", envelope.reply_to)
        if reply is None:
            self.on_receive(message)
            return
        try:
            if isinstance(message, _ActorStop):
                self._end(None)
                reply.set(None)
            else:
                self.on_ask(message, reply)
        except BaseException as error:
            reply.set_exception((type(error), error, None))
            if not isinstance(error, Exception):
                raise

    def _fail(self, error: BaseException) -> None:
        logger.error("%s failed and has stopped", self, exc_info=error, extra=self.log_fields())
        # Watchers keep the error: its frames keep their line numbers and let go of everything else they hold.
        traceback.clear_frames(error.__traceback__)
        self._end(error)

    def _end(self, reason: BaseException | None) -> None:
        if self._ended:
            return
        self._ended = True
        self._reason = reason
        try:
            if reason is None:
                self.on_stop()
            else:
                self.on_failure(type(reason), reason, reason.__traceback__)
        except BaseException:
            # One that left the turn would end the worker, and with it the actors that wait in its lane.
            logger.exception("%s failed while it stopped", self, extra=self.log_fields())
        self.close()
        self._tell_watchers()

    def _tell_watchers(self) -> None:
        # Whoever watches enters the watcher, then looks at `closed`; the end sets `closed`, then looks at the watchers.
        while True:
            try:
                watcher = self._watchers.pop()
            except IndexError:
                return
            watcher.tell_control(Terminated(self.actor_ref, self._reason))

    # -- what actors override ------------------------------------------------------------------------------------------

    def log_fields(self) -> dict[str, Any]:
        """Return whose run and step a log record about this actor belongs to."""
        return log_fields()

    def on_ask(self, message: Any, reply: Reply) -> None:
        """Answer a message. By default with what `on_receive` returns; an actor may keep `reply` and answer later."""
        reply.set(self.on_receive(message))

    def on_turn_end(self) -> None:
        """Run after the batch of a turn."""

    def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Run when a handler has raised, before the mailbox closes."""

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

import itertools
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pykka
from pykka._envelope import Envelope
from pykka.messages import _ActorStop

from greenroom.actors.mailbox import Mailbox
from greenroom.errors import DeadlockError

if TYPE_CHECKING:
    from types import TracebackType

    from greenroom.actors.dispatcher import Dispatcher

__all__ = ["BATCH", "PooledActor", "Ref", "Reply", "Terminated", "here"]

BATCH = 64
logger = logging.getLogger("greenroom.actors")
_numbers = itertools.count(1)


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
    """The answer to one ask. One thread may block on it, or one callback be told.

    `_gate` is made by the thread that waits, then `done` is looked at again; whoever answers sets `done` and then looks
    for the gate. So one of them sees the other.
    """

    def __init__(self) -> None:
        # Not super().__init__(): it makes hooks that we have no use for.
        self._value: Any = None
        self._error: BaseException | None = None
        self._gate: threading.Lock | None = None
        self._callback: Callable[[], None] | None = None
        self.done = False

    def set(self, value: Any = None) -> None:
        """Answer with a value."""
        self._value = value
        self._settle()

    def set_exception(self, exc_info: Any = None) -> None:
        """Answer with an error, given as `sys.exc_info()` gives it."""
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
    """The address of one of our actors. `tell` never raises: what a dead actor is told goes to the dead letters."""

    def tell(self, message: Any) -> None:
        """Send a message."""
        self.actor_inbox.put(Envelope(message))

    def tell_control(self, message: Any) -> None:
        """Send a message on the control lane, ahead of those that wait."""
        cast("Mailbox", self.actor_inbox).put_control(Envelope(message))

    def ask(self, message: Any, *, block: bool = True, timeout: float | None = None) -> Any:
        """Send a message and wait for the answer; with `block=False` return the `Reply`.

        An idle actor is served by the calling thread where the dispatcher allows it.

        Raises:
            DeadlockError: If an actor blocks on an ask.
        """
        actor = self._actor_weakref()
        reply = Reply()
        envelope = Envelope(message, reply_to=reply)
        if actor is None or (block and here.actor is not None):
            if actor is not None:
                raise DeadlockError(f"{here.actor} blocks on an ask: use tell(), or ask(block=False) and a callback")
            error = pykka.ActorDeadError(f"{self} not found")
            reply.set_exception((type(error), error, None))
        elif block or here.actor is None:
            actor.dispatcher.serve(actor, envelope)
        else:
            self.actor_inbox.put(envelope)
        if not block:
            return reply
        if not reply.done and actor is not None:
            actor.dispatcher.wait(reply, timeout)
        return reply.get(timeout=0)

    def stop(self, *, block: bool = True, timeout: float | None = None) -> Any:
        """Stop the actor: it handles nothing more, and all that waits is rejected. Return whether it was alive."""
        reply = Reply()
        cast("Mailbox", self.actor_inbox).put_control(Envelope(_ActorStop(), reply_to=reply))
        actor = self._actor_weakref()
        if not block:
            return reply
        if not reply.done and actor is not None:
            actor.dispatcher.wait(reply, timeout)
        try:
            reply.get(timeout=0)
        except pykka.ActorDeadError:
            return False
        return True


class _Stopped:
    """Stands in for the threading.Event of Pykka's actors: nobody waits on it, and an Event costs a microsecond."""

    __slots__ = ("_set",)

    def __init__(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True


class PooledActor(pykka.Actor):
    """An actor without a thread of its own."""

    actor_inbox: Mailbox
    actor_stopped: Any
    _actor_ref: Ref

    def __init__(self, dispatcher: Dispatcher) -> None:
        # Not super().__init__(): a uuid4 and an Event an actor would cost more than a short run.
        self.dispatcher = dispatcher
        self.scheduled = False
        self.actor_urn = f"urn:greenroom:{next(_numbers)}"
        self.actor_inbox = Mailbox(self)
        self.actor_stopped = _Stopped()
        self._actor_ref = Ref(self)
        self._turn = threading.Lock()  # Held by the thread that runs this actor's turn.
        self._watchers: list[Ref] = []

    @property
    def actor_ref(self) -> Ref:
        """The actor's address."""
        return self._actor_ref

    @classmethod
    def start(cls, *args: Any, **kwargs: Any) -> Ref:
        """Make an actor and return its address.

        It is not entered in Pykka's registry, where leaving costs O(actors); its runtime knows it.
        """
        actor = cls(*args, **kwargs)
        actor._start_actor_loop()
        return actor._actor_ref

    @staticmethod
    def _create_actor_inbox() -> Any:
        raise TypeError("a mailbox of ours knows its actor; PooledActor.__init__ makes it")

    @staticmethod
    def _create_future() -> Reply:
        return Reply()

    def _start_actor_loop(self) -> None:
        """There is no loop to start: the first message schedules the first turn."""

    def watch(self, watcher: Ref) -> None:
        """Have `watcher` told `Terminated` when this actor ends. Called by whoever starts it, before others know it."""
        self._watchers.append(watcher)

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
        inbox = self.actor_inbox
        outer, here.actor = here.actor, self
        try:
            for _ in range(BATCH):
                try:
                    envelope = inbox.get()
                except IndexError:
                    break
                self._handle(envelope)
                del envelope
            if not self.actor_stopped.is_set():
                self._guard(self.on_turn_end)
        finally:
            here.actor = outer
            self._turn.release()
        if not inbox.empty():
            if self.actor_stopped.is_set():
                inbox.reject_all()
            elif not self.scheduled:
                self.dispatcher.schedule(self)

    def _handle(self, envelope: Envelope[Any]) -> None:
        message, reply = envelope.message, envelope.reply_to
        try:
            if reply is None:
                self.on_receive(message)
            elif isinstance(message, _ActorStop):
                self._end(None)
                reply.set(None)
            else:
                self.on_ask(message, cast("Reply", reply))
        except Exception as error:
            if reply is None:
                self._fail(error)
            else:
                reply.set_exception((type(error), error, None))
        except BaseException as error:
            # A handler must not be able to end the thread, nor any actor but its own.
            if reply is not None:
                reply.set_exception((type(error), error, None))
            self._fail(error)

    def _guard(self, hook: Callable[[], None]) -> None:
        try:
            hook()
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        logger.error("%s failed and has stopped", self, exc_info=error)
        self._end(error)

    def _end(self, reason: BaseException | None) -> None:
        if self.actor_stopped.is_set():
            return
        self.actor_stopped.set()
        try:
            if reason is None:
                self.on_stop()
            else:
                self.on_failure(type(reason), reason, reason.__traceback__)
        except Exception:
            logger.exception("%s failed while it stopped", self)
        finally:
            self.actor_inbox.close()
            for watcher in self._watchers:
                watcher.tell_control(Terminated(self._actor_ref, reason))

    # -- what actors override ------------------------------------------------------------------------------------------

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

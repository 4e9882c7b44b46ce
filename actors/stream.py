"""The stream of a run: published events with gap-free offsets, read by any number of subscribers.

`StreamLog` is written by the stream actor's turn alone and read by any thread. It only grows, and it is written in this
order: internal events, events of children, events, the end. A reader looks in the opposite order, so what it
sees is always whole.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from greenroom.actors.base import PooledActor, Ref, Reply
from greenroom.actors.dispatcher import Dispatcher
from greenroom.events import Event
from greenroom.run_state import Note, of_child, read_note

__all__ = ["ChildEvent", "MoreAsked", "Published", "StreamActor", "StreamLog", "Subscription", "await_reply", "settle"]


_SWEEP_FROM = 64


class ChildEvent(NamedTuple):
    """An event that a child has published, with the offset of the run's own event that comes after it."""

    offset: int
    run_id: str
    event: Event


class Published(NamedTuple):
    """What a turn of the supervisor published.

    Attributes:
        before: How many events of children came before those, by the count of the notes: more than the log has had
            where the run was at work in another process.
    """

    notes: list[Note]
    of_children: list[ChildEvent]
    events: list[Event]
    ended: bool
    before: int = 0


class MoreAsked(NamedTuple):
    """A reader has read this much and asks to be answered when there is more, or an end. -1: it does not read those."""

    events: int
    notes: int
    of_children: int = -1


class StreamLog:
    """The events of a run.

    Attributes:
        first_offset: The offset of the first event in `events`.
        events: The events, in order.
        of_children: The events of the run's children, in order.
        notes: The internal events, not yet built, with how many events, and events of children, came before each.
        ended: Whether there will be no more.
    """

    __slots__ = ("ended", "events", "first_offset", "notes", "of_children")

    def __init__(self, first_offset: int = 0) -> None:
        self.first_offset = first_offset
        self.events: list[Event] = []
        self.notes: list[Note] = []
        self.of_children: list[ChildEvent] = []
        self.ended = False


class StreamActor(PooledActor):
    """Appends to the log and wakes the readers that wait for more.

    A reader that gives up, as one that waits with a timeout again and again, answers its reply itself; such replies are
    swept out before they make up most of the list.
    """

    def __init__(self, dispatcher: Dispatcher, log: StreamLog) -> None:
        super().__init__(dispatcher)
        self._log = log
        self._waiting: list[Reply] = []
        self._sweep_at = _SWEEP_FROM
        self._grown = False

    def on_receive(self, message: Published) -> None:
        """Append what was published."""
        log, notes = self._log, message.notes
        missing = message.before - len(log.of_children)
        if missing:
            notes = [((own, of_children - missing), *told) for (own, of_children), *told in notes]
        log.notes.extend(notes)
        log.of_children.extend(message.of_children)
        log.events.extend(message.events)
        if message.ended:
            log.ended = True
        self._grown = True

    def on_ask(self, message: Any, reply: Reply) -> None:
        """Answer a reader now if there is more than it has read, else when there is; any other ask at once."""
        log = self._log
        if (
            type(message) is not MoreAsked
            or log.ended
            or len(log.events) > message.events
            or (message.notes >= 0 and len(log.notes) > message.notes)
            or (message.of_children >= 0 and len(log.of_children) > message.of_children)
        ):
            reply.set(None)
        else:
            self._waiting.append(reply)
            if len(self._waiting) > self._sweep_at:
                self._waiting = [waiting for waiting in self._waiting if not waiting.done]
                self._sweep_at = max(_SWEEP_FROM, 2 * len(self._waiting))

    def on_turn_end(self) -> None:
        """Wake all that wait, once a turn."""
        if self._grown:
            self._grown = False
            self._wake_all()

    def on_stop(self) -> None:
        """End the stream, so that no reader waits for ever."""
        self._log.ended = True
        self._wake_all()

    def on_failure(self, exception_type: Any, exception_value: Any, traceback: Any) -> None:
        """End the stream, so that no reader waits for ever."""
        self.on_stop()

    def _wake_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        for reply in waiting:
            reply.set(None)


class Subscription:
    """One reader's place in a stream. Iterate it with `for` or `async for`, from one thread or task at a time.

    Attributes:
        run_id: The id of the child that published the event which was read last; None for the run itself.
    """

    def __init__(
        self,
        log: StreamLog,
        stream: Ref,
        dispatcher: Dispatcher,
        *,
        after: int,
        expose_internal: bool,
        earlier: Sequence[Event] = (),
        include_children: bool = False,
        notes_read: int = 0,
        of_children_read: int = 0,
        moved: Callable[[int, int, int], None] | None = None,
        refuse: Callable[[], None] | None = None,
        refuse_async: Callable[[], None] | None = None,
    ) -> None:
        """Open a place.

        Args:
            log: The run's log.
            stream: The stream actor.
            dispatcher: Where to wait.
            after: The offset after which to begin; -1 for the start.
            expose_internal: Whether to read internal events as well.
            earlier: The events after that offset which come before the log's first one.
            include_children: Whether to read events of children as well.
            notes_read: How many internal events were read before.
            of_children_read: How many events of children were read before.
            moved: Told, with each event, the offset of the last one and how many internal ones and events of children
                were read (-1: not any).
            refuse: Raises if the calling thread must not block.
            refuse_async: Raises if the calling task must not wait.
        """
        self._log = log
        self._stream = stream
        self._earlier = deque(earlier)
        self._dispatcher = dispatcher
        self._next = self._start = max(0, after + 1 - log.first_offset)
        self._next_note = notes_read if expose_internal else -1
        # Read also where only internal events are wanted, which have their places among them.
        self._next_of_child = of_children_read if include_children or expose_internal else -1
        self._include_children = include_children
        self.run_id: str | None = None
        self._moved = moved
        self._refuse = refuse
        self._refuse_async = refuse_async

    def __iter__(self) -> Subscription:
        return self

    def __next__(self) -> Event:
        while True:
            event, ended = self._read()
            if event is not None:
                return event
            if ended:
                raise StopIteration
            if self._refuse is not None:
                self._refuse()
            self._dispatcher.wait(self._ask_more())

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event:
        while True:
            event, ended = self._read()
            if event is not None:
                return event
            if ended:
                raise StopAsyncIteration
            if self._refuse_async is not None:
                self._refuse_async()
            await await_reply(self._ask_more(), self._dispatcher)

    def _read(self) -> tuple[Event | None, bool]:
        log = self._log
        if self._earlier:
            if self._moved is not None:
                self._moved(log.first_offset - len(self._earlier), -1, -1)
            return self._earlier.popleft(), False
        ended = log.ended  # looked at first: once it is set, nothing more is appended
        available = len(log.events)
        if self._next_of_child >= 0:
            aside = self._read_aside()
            if aside is not None:
                return aside, ended
        following = self._next
        if following < available:
            self._next = following + 1
            self.run_id = None
            self._tell_moved()
            return log.events[following], ended
        return None, ended

    def _read_aside(self) -> Event | None:
        """Read what comes before the next of the run's own events: internal events, and events of children."""
        log = self._log
        following = self._next + log.first_offset
        while True:
            if 0 <= self._next_note < len(log.notes):
                note = log.notes[self._next_note]
                if note[0][0] <= following and note[0][1] <= self._next_of_child:
                    self._next_note += 1
                    self.run_id = note[2] if note[1] is of_child else None
                    if note[0][0] >= self._start + log.first_offset and (self.run_id is None or self._include_children):
                        self._tell_moved()
                        return read_note(note)
                    continue
            if self._next_of_child < len(log.of_children):
                offset, run_id, event = log.of_children[self._next_of_child]
                if offset <= following:
                    self._next_of_child += 1
                    if offset >= self._start + log.first_offset and self._include_children:
                        self.run_id = run_id
                        self._tell_moved()
                        return event
                    continue
            return None

    def _tell_moved(self) -> None:
        if self._moved is not None:
            of_children = self._next_of_child if self._include_children else -1
            self._moved(self._next - 1 + self._log.first_offset, self._next_note, of_children)

    def _ask_more(self) -> Reply:
        reply: Reply = self._stream.ask(MoreAsked(self._next, self._next_note, self._next_of_child), block=False)
        return reply


async def await_reply(reply: Reply, dispatcher: Dispatcher) -> Any:
    """Await an answer on whatever loop is running. Cancelling the await cancels nothing else."""
    dispatcher.drive(reply)
    if not reply.done:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(settle, future)
            except RuntimeError:
                return  # The loop was closed; nobody awaits this any more.

        reply.notify(wake)
        try:
            await future
        finally:
            reply.set()  # If the await was given up: whoever holds the reply sees that nobody wants it any more.
    return reply.get(timeout=0)


def settle(future: asyncio.Future[None]) -> None:
    """Complete a future that may have been cancelled. Called on its loop."""
    if not future.done():
        future.set_result(None)

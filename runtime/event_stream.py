"""Reading a run's stream: what `handler.stream_events()` returns."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from greenroom.actors.stream import Subscription
from greenroom.actors.supervisor import ExposeInternal
from greenroom.events import Event

if TYPE_CHECKING:
    from greenroom.handler import Handler

__all__ = ["EventStream"]


class EventStream:
    """The events of a run, one after the other. Iterate it with `for` or with `async for`."""

    def __init__(self, handler: Handler, after: int | None, expose_internal: bool, include_children: bool) -> None:
        self._handler = handler
        self._after = after
        self._expose_internal = expose_internal
        self._include_children = include_children
        self._place: Subscription | None = None

    @property
    def run_id(self) -> str:
        """The id of the run that published the event which was read last: this one, or one of its children."""
        child = None if self._place is None else self._place.run_id
        return self._handler.run_id if child is None else child

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        if self._place is None:
            self._place = self._open()
            if self._expose_internal:
                self._handler._link.ask(ExposeInternal())
        return next(self._place)

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        if self._place is None:
            self._place = self._open()
            if self._expose_internal:
                await self._handler._link.ask_async(ExposeInternal())
        return await anext(self._place)

    def _open(self) -> Subscription:
        handler = self._handler
        handler._link.runtime.check_process()
        continues = self._after is None
        after = handler._position if self._after is None else self._after
        return Subscription(
            handler._log,
            handler._stream,
            handler._link.runtime.dispatcher,
            after=after,
            earlier=handler.earlier_events(after),
            expose_internal=self._expose_internal,
            include_children=self._include_children,
            notes_read=handler._notes_read if continues else 0,
            of_children_read=handler._of_children_read if continues else 0,
            moved=self._move if continues else None,
            refuse=lambda: handler._refuse_to_block("iterating the stream"),
            refuse_async=lambda: handler._refuse_within_own_step("iterating the stream"),
        )

    def _move(self, offset: int, notes_read: int, of_children_read: int) -> None:
        self._handler._position = offset
        if notes_read >= 0:
            self._handler._notes_read = notes_read
        if of_children_read >= 0:
            self._handler._of_children_read = of_children_read

"""The mailbox of an actor: two lanes, and a door that closes without losing anybody.

Any thread may put. Only the thread that has the actor's turn takes. Both lanes are deques, whose `append` and `popleft`
are atomic, so there is no lock on the way of a message.

A message that was told lies bare in its lane; one that was asked is in an envelope, which carries the reply.

Guarantee: every envelope is either taken or rejected, never both and never neither. Whoever puts appends first and
looks at `closed` then; whoever closes sets `closed` first and drains then. Whichever comes second sees the other, and
`popleft` gives each envelope to one of them.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from pykka import ActorDeadError
from pykka._envelope import Envelope

if TYPE_CHECKING:
    from greenroom.actors.base import PooledActor

__all__ = ["Mailbox"]


class Mailbox:
    """Holds the envelopes of one actor, those of the control lane ahead of the others."""

    __slots__ = ("_actor", "closed", "control", "user")

    def __init__(self, actor: PooledActor) -> None:
        self._actor = actor
        self.control: deque[Any] = deque()
        self.user: deque[Any] = deque()
        self.closed = False

    def put(self, item: Any, /) -> None:
        """Append a message, bare or in an envelope, and see to it that the actor gets a turn."""
        self.user.append(item)
        if self.closed:
            self.reject_all()
        elif not self._actor.scheduled:
            self._actor.dispatcher.schedule(self._actor)

    def put_control(self, item: Any) -> None:
        """Append to the control lane: stop, cancel, timer, terminated."""
        self.control.append(item)
        if self.closed:
            self.reject_all()
        elif not self._actor.scheduled:
            self._actor.dispatcher.schedule(self._actor)

    def put_unannounced(self, item: Any) -> None:
        """Append for an actor whose turn the caller is about to take."""
        self.user.append(item)
        if self.closed:
            self.reject_all()

    def get(self) -> Any:
        """Take what is next; raise IndexError if there is nothing."""
        return self.control.popleft() if self.control else self.user.popleft()

    def empty(self) -> bool:
        """Return whether nothing waits."""
        return not self.user and not self.control

    def close(self) -> None:
        """Take no more, and reject all that waits."""
        self.closed = True
        self.reject_all()

    def reject_all(self) -> None:
        """Answer every ask that waits with ActorDeadError, and hand every tell to the dead letters."""
        while True:
            try:
                item = self.get()
            except IndexError:
                return
            message, reply = (item.message, item.reply_to) if type(item) is Envelope else (item, None)
            if reply is not None:
                error = ActorDeadError(f"{self._actor.actor_ref} stopped before handling the message")
                reply.set_exception((type(error), error, None))
            else:
                self._actor.dispatcher.dead_letter(self._actor, message)

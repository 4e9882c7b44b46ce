"""The mailbox of an actor: two lanes, and a door that closes without losing anybody.

Any thread may put. Only the thread that has the actor's turn takes. Both lanes are deques, whose `append` and `popleft`
are atomic, so there is no lock on the way of a message.

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

    __slots__ = ("_actor", "_control", "_user", "closed")

    def __init__(self, actor: PooledActor) -> None:
        self._actor = actor
        self._control: deque[Envelope[Any]] = deque()
        self._user: deque[Envelope[Any]] = deque()
        self.closed = False

    def put(self, envelope: Envelope[Any], /) -> None:
        """Append an envelope and see to it that the actor gets a turn."""
        self._user.append(envelope)
        self._announce()

    def put_control(self, envelope: Envelope[Any]) -> None:
        """Append an envelope to the control lane: stop, cancel, timer, terminated."""
        self._control.append(envelope)
        self._announce()

    def put_unannounced(self, envelope: Envelope[Any]) -> None:
        """Append an envelope for an actor whose turn the caller is about to take."""
        self._user.append(envelope)
        if self.closed:
            self.reject_all()

    def get(self) -> Envelope[Any]:
        """Take the next envelope; raise IndexError if there is none."""
        return self._control.popleft() if self._control else self._user.popleft()

    def empty(self) -> bool:
        """Return whether no envelope waits."""
        return not self._user and not self._control

    def close(self) -> None:
        """Take no more, and reject all that waits."""
        self.closed = True
        self.reject_all()

    def reject_all(self) -> None:
        """Answer every ask that waits with ActorDeadError, and hand every tell to the dead letters."""
        while True:
            try:
                envelope = self.get()
            except IndexError:
                return
            if envelope.reply_to is not None:
                error = ActorDeadError(f"{self._actor.actor_ref} stopped before handling the message")
                envelope.reply_to.set_exception((type(error), error, None))
            else:
                self._actor.dispatcher.dead_letter(self._actor, envelope.message)

    def _announce(self) -> None:
        if self.closed:
            self.reject_all()
        elif not self._actor.scheduled:
            self._actor.dispatcher.schedule(self._actor)

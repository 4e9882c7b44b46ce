"""The mailbox of an actor: two lanes, and a door that closes without losing anybody.

Any thread may put. Only the thread that has the actor's turn takes. Both lanes are deques, whose `append` and `popleft`
are atomic, so there is no lock on the way of a message. A message that was told lies bare in its lane; one that was
asked is in an envelope, which carries the reply. An actor is its own mailbox, by inheritance: it saves each message a
step, and each actor a cycle for the garbage collector.

Guarantee: all that is put is either taken or rejected, never both and never neither. Whoever puts appends first and
looks at `closed` then; whoever closes sets `closed` first and drains then. Whichever comes second sees the other, and
`popleft` gives each item to one of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import Any

from pykka import ActorDeadError
from pykka._envelope import Envelope

__all__ = ["Mailbox"]


class Mailbox(ABC):
    """Holds what was sent to an actor, the control lane ahead of the other.

    Attributes:
        control: Stop, cancel, timer, terminated.
        user: Everything else.
        closed: Whether all that is put is rejected.
        scheduled: A hint that what is put will be taken soon anyhow.
    """

    def __init__(self) -> None:
        self.control: deque[Any] = deque()
        self.user: deque[Any] = deque()
        self.closed = False
        self.scheduled = False

    @abstractmethod
    def announce(self) -> None:
        """See to it that what was put is taken soon."""

    @abstractmethod
    def on_rejected(self, message: Any) -> None:
        """Note a told message that will never be handled."""

    def put(self, item: Any, /) -> None:
        """Append a message, bare or in an envelope."""
        self.user.append(item)
        if self.closed:
            self.reject_all()
        elif not self.scheduled:
            self.announce()

    def put_control(self, item: Any) -> None:
        """Append to the control lane."""
        self.control.append(item)
        if self.closed:
            self.reject_all()
        elif not self.scheduled:
            self.announce()

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
        """Answer every ask that waits with ActorDeadError, and hand every tell to `on_rejected`."""
        while True:
            try:
                item = self.get()
            except IndexError:
                return
            if type(item) is not Envelope or item.reply_to is None:
                self.on_rejected(item.message if type(item) is Envelope else item)
            else:
                error = ActorDeadError(f"{self} stopped before handling the message")
                item.reply_to.set_exception((type(error), error, None))

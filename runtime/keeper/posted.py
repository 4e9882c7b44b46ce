"""What other processes have posted, on its way to the supervisors of the runs that it is for.

`_handing` protects which entries each supervisor was handed (`DurableSupervisor.handed`), and what is told to it
meanwhile, so that the order of arrival is kept. It is never held while the store or code of the user's is called.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from greenroom.actors.durable import DurableSupervisor, FromInbox
from greenroom.inbox import read_entry
from greenroom.log_fields import log_fields
from greenroom.named import registry_of
from greenroom.stores import InboxEntry

if TYPE_CHECKING:
    from greenroom.handler import Handler

__all__ = ["Posted"]

logger = logging.getLogger("greenroom.durable")


class Posted:
    """Hands on each inbox entry once to each supervisor."""

    def __init__(self) -> None:
        self._handing = threading.Lock()

    def hand_on(self, entry: InboxEntry, handler: Handler) -> None:
        """Hand an entry to the supervisor of its run, unless it has it."""
        supervisor = handler.supervisor
        if supervisor is None:
            return  # It rests, and is due.
        actor = supervisor.actor
        assert isinstance(actor, DurableSupervisor)
        fact, unread = None, None
        if entry.id not in actor.handed:  # looked at again below: to read it may call the user's code
            try:
                fact = read_entry(entry, registry_of(handler._link.workflow))
            except Exception as error:  # of the store's bytes, or of the user's code
                unread = error
        with self._handing:
            if entry.id in actor.handed:
                return
            actor.handed.add(entry.id)
            if fact is not None:
                supervisor.tell(FromInbox(fact, entry.id))
        if unread is not None:
            what = "what was posted for run '%s' cannot be read, and stays in its inbox: %s"
            logger.error(what, entry.run_id, unread, extra=log_fields(entry.run_id))

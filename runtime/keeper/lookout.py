"""The look around that is taken again and again, for what nobody in this process tells.

The ticker sees to it that no two looks are taken at once, so what a look leaves to the next needs no lock. Only
`recover` works beside it, which adds to `_recovering`, a single operation, and takes runs, which `Takeover` orders.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from greenroom.errors import StoreError
from greenroom.keeper.at_rest import AtRest
from greenroom.keeper.lease import Lease
from greenroom.keeper.posted import Posted
from greenroom.keeper.takeover import Takeover
from greenroom.stores import RunStore

if TYPE_CHECKING:
    from greenroom.handler import Handler
    from greenroom.workflow import Workflow

__all__ = ["Lookout"]

PAGE = 500
REST_ROUND = 100
SWEEP_SECONDS = 60.0


class Lookout:
    """Hands on what was posted, wakes what is due, takes over what the dead have left, and sweeps.

    Attributes:
        wakes_others: Whether runs that came to rest in other processes are woken here.
        is_ending: Whether the store may be closed under a look.
    """

    def __init__(
        self,
        store: RunStore,
        lease: Lease,
        workflows: Mapping[str, Workflow],
        runs: Mapping[str, Handler],
        takeover: Takeover,
        at_rest: AtRest,
        posted: Posted,
        now: Callable[[], float],
        retention: float | None,
        poll: float,
    ) -> None:
        """Make it.

        Args:
            store: Where the runs are.
            lease: Under which they are held.
            workflows: The workflows that are known, by name.
            runs: The handlers of the runs at work, by run id.
            takeover: Brings runs to work.
            at_rest: The handlers of runs that came to rest here.
            posted: Hands on what was posted.
            now: The clock of durable runs.
            retention: Seconds for which the results of runs that have ended are kept, or None for ever.
            poll: Seconds between two looks.
        """
        self.wakes_others = True
        self.is_ending = False
        self._store = store
        self._lease = lease
        self._workflows = workflows
        self._runs = runs
        self._takeover = takeover
        self._at_rest = at_rest
        self._posted = posted
        self._now = now
        self._retention = retention
        self._poll = poll
        self._recovering: set[str] = set()  # the workflows whose orphans are ours to take
        self._last_sweep = float("-inf")

    def recover(self, workflows: Collection[str]) -> list[Handler]:
        """Take the orphans of these workflows, now and with each look from now on; return the handlers of those now.

        Raises:
            RuntimeShutdownError: If the runtime is being shut down.
            StoreError: If the store failed.
        """
        self._lease.end_those_of_the_dead()
        handlers = self._take_orphans(workflows)
        # Only now, or a look would take some of them first, and they be missing here.
        self._recovering |= set(workflows)
        return handlers

    def look(self) -> float | None:
        """Look around.

        Returns:
            In how many seconds the next run is due that rests, if that is before the next look.

        Raises:
            StoreError: If the store failed: what was not done is done by the next look.
        """
        try:
            return self._look_around()
        except StoreError:
            if not self.is_ending:  # The store may be closed under a look that began before.
                raise
            return None

    def _look_around(self) -> float | None:
        self._takeover.make_sure()
        for entry in self._store.inbox(owner=self._lease.owner):
            handler = self._runs.get(entry.run_id)
            if handler is not None:
                self._posted.hand_on(entry, handler)
        now = self._now()
        due = [row.run_id for row in self._store.due(list(self._workflows), now)]
        self._takeover.acquire(due if self.wakes_others else [run_id for run_id in due if run_id in self._at_rest])
        if self._recovering:
            self._lease.end_those_of_the_dead()
            self._take_orphans(self._recovering)
        self._at_rest.look_after(REST_ROUND, self._takeover.drop_at_rest)
        self._sweep()
        for row in self._store.due(list(self._workflows), now + self._poll, len(due) + 1):
            if row.wake_at is not None and row.run_id not in due:  # One that was due before is another's to wake.
                return max(0.0, row.wake_at - self._now())
        return None

    def _take_orphans(self, workflows: Collection[str]) -> list[Handler]:
        handlers: list[Handler] = []
        while True:
            rows = self._store.orphans(list(workflows), PAGE)
            taken = self._takeover.acquire([row.run_id for row in rows])
            handlers += taken
            if len(rows) < PAGE or not taken:
                return handlers

    def _sweep(self) -> None:
        now = self._now()
        if now - self._last_sweep >= SWEEP_SECONDS:
            self._last_sweep = now
            # The journal of a run that has ended is of no more use; what it came to is kept, if need be for ever.
            self._store.sweep(0.0 if self._retention is None else now - self._retention, now)

"""The lease under which a runtime holds its runs: it is prolonged as long as the process lives.

`_renewing` protects `_until` and `_ended`, and is held while the store is called: of two that prolong it at once, the
later must be the one that ends later.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from greenroom.actors.durable import LeaseDoubted
from greenroom.actors.root import Run
from greenroom.owners import is_dead, owner_name
from greenroom.stores import RunStore

__all__ = ["Lease"]


class Lease:
    """The lease of one runtime, and what it knows of those of others.

    Attributes:
        owner: The name under which this runtime holds runs; no other ever has it.
    """

    def __init__(self, store: RunStore, seconds: float, now: Callable[[], float], runs: Mapping[str, Run]) -> None:
        """Take the lease.

        Args:
            store: Where the runs are.
            seconds: For how long the runs of a process that has died stay its own.
            now: The dispatcher's clock.
            runs: The runs at work here: they are told when the lease had run out.

        Raises:
            StoreError: If the store failed.
        """
        self.owner = owner_name()
        self._store = store
        self._seconds = seconds
        self._now = now
        self._runs = runs
        self._renewing = threading.Lock()
        self._until = float("-inf")
        self._ended = False
        self.renew()

    def renew(self) -> None:
        """Prolong the lease.

        Raises:
            StoreError: If the store failed.
        """
        with self._renewing:
            if self._ended:
                return
            begun = self._now()
            in_time = self._store.renew(self.owner, self._seconds)
            # Somebody may have taken our runs and swept our name away, which the store then knows nothing of.
            if not in_time or begun >= self._until:
                held = self._store.held(self.owner)
                for run_id, run in list(self._runs.items()):
                    supervisor = run.supervisor
                    if run_id not in held and supervisor is not None:
                        supervisor.tell_control(LeaseDoubted())
            self._until = begun + self._seconds

    def goes_on(self) -> bool:
        """Return whether the lease goes on for certain, so that no other process can have a run of ours."""
        return self._now() < self._until

    def end(self) -> None:
        """End the lease at once, for good.

        Raises:
            StoreError: If the store failed.
        """
        with self._renewing:
            self._ended = True
            self._store.resign(self.owner)

    # -- of others -----------------------------------------------------------------------------------------------------

    def is_alive(self, owner: str) -> bool:
        """Return whether an owner may still be at work. The lease of one that is not is over then."""
        if is_dead(owner):
            self._store.resign(owner)
        return owner in self._store.owners()

    def end_those_of_the_dead(self) -> None:
        """End the leases of processes of this machine that are gone, so that nobody need wait for them."""
        for owner in self._store.owners():
            if owner != self.owner and is_dead(owner):
                self._store.resign(owner)

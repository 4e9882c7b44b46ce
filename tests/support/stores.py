"""Helpers for tests of stores."""

from __future__ import annotations

import time

from greenroom.stores import RunStore


class Lease:
    """Lets leases end without waiting, whatever clock a store uses."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._ahead = 0.0

    def clock(self) -> float:
        return time.time() + self._ahead

    def end(self, store: RunStore, owner: str) -> None:
        """Let the lease of an owner be over, as if it had not renewed it in time."""
        store.renew(owner, -1.0)

    def pass_time(self) -> None:
        """Let some time pass by the store's clock."""
        self._ahead += 1.0

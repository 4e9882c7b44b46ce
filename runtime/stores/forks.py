"""Stores and `os.fork`: each store is brought to rest before a fork, and told in parent and child when it is over.

The thread that forks calls it all. `before_fork` waits for other threads, for as long as a transaction takes.
Processes that are not forks of this one (`subprocess`) do not come here.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

__all__ = ["ForkAware", "at_fork"]


class ForkAware(Protocol):
    """Something that a fork must not tear apart."""

    def before_fork(self) -> None:
        """Come to rest, and stay there."""

    def after_fork(self, *, in_child: bool) -> None:
        """Go on."""


_aware: weakref.WeakSet[ForkAware] = weakref.WeakSet()
_at_rest: list[ForkAware] = []
# One fork at a time: it protects `_at_rest`, from before the fork until after it.
_one_fork = threading.Lock()


def at_fork(store: ForkAware) -> None:
    """Have a store told of forks for as long as it lives."""
    _aware.add(store)


def _before() -> None:
    _one_fork.acquire()
    for store in list(_aware):
        store.before_fork()
        _at_rest.append(store)


def _after(*, in_child: bool) -> None:
    while _at_rest:
        _at_rest.pop().after_fork(in_child=in_child)
    _one_fork.release()


os.register_at_fork(
    before=_before, after_in_parent=lambda: _after(in_child=False), after_in_child=lambda: _after(in_child=True)
)

"""One store object and several runtimes of a process: it is opened for the first and closed after the last.

Any thread may call. `_lock` protects `_uses`; each store has a lock of its own, which is held while it opens or closes.
"""

from __future__ import annotations

import os
import threading
import weakref

from greenroom.stores.protocol import RunStore

__all__ = ["close_shared", "open_shared"]


class _Use:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0


_uses: weakref.WeakKeyDictionary[RunStore, _Use] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def open_shared(store: RunStore) -> None:
    """Open a store for one more user.

    Raises:
        StoreError: If it cannot be opened.
    """
    use = _use_of(store)
    with use.lock:
        store.open()
        use.count += 1


def close_shared(store: RunStore) -> None:
    """Take note that one user is done with a store, and close it if that was the last."""
    use = _use_of(store)
    with use.lock:
        use.count -= 1
        if use.count <= 0:
            use.count = 0
            store.close()


def _use_of(store: RunStore) -> _Use:
    with _lock:
        use = _uses.get(store)
        if use is None:
            use = _uses[store] = _Use()
        return use


def _after_fork_in_child() -> None:
    global _lock
    # The users are runtimes of the parent, which the child has none of; another thread may have held the locks.
    _lock = threading.Lock()
    _uses.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)

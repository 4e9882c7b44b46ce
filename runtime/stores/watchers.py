"""Those who want to hear of new inbox entries, and the thread that listens for other processes.

`notify` is called by whichever thread has posted, and by the listening thread. The lock protects the callbacks and the
thread; it is not held while a callback runs. The thread lives while there is a watcher.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from greenroom.log_fields import log_fields

__all__ = ["Listener", "Watchers"]

_logger = logging.getLogger("greenroom.stores")


class Listener:
    """What a listening thread is given: when to end, and whom to tell."""

    def __init__(self, notify: Callable[[], None]) -> None:
        self.notify = notify
        self.ended = threading.Event()
        self.wake: Callable[[], None] = lambda: None  # ends a wait of the thread that does not look at `ended`


class Watchers:
    """Callbacks, and a thread that runs `listen` while there are any.

    Args:
        listen: Calls `notify` when another process may have posted, and returns once `ended` is set. None: no other
            process can post.
    """

    def __init__(self, listen: Callable[[Listener], None] | None = None) -> None:
        self._listen = listen
        self._lock = threading.Lock()
        self._callbacks: dict[object, Callable[[], None]] = {}
        self._listener: Listener | None = None
        self._thread: threading.Thread | None = None

    def add(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Add a callback; the returned function takes it away. With the last one the thread ends."""
        key = object()
        with self._lock:
            self._callbacks[key] = callback
            if self._listen is not None and self._thread is None:
                self._listener = Listener(self.notify)
                self._thread = threading.Thread(
                    target=self._listen, args=(self._listener,), name="greenroom-store-watch", daemon=True
                )
                self._thread.start()
        return lambda: self._remove(key)

    def notify(self) -> None:
        """Call every callback. One that raises is logged: the entry is committed, and others want to hear of it."""
        for callback in list(self._callbacks.values()):
            try:
                callback()
            except Exception:
                _logger.exception("A watcher of a store's inbox raised.", extra=log_fields())

    def _remove(self, key: object) -> None:
        with self._lock:
            if self._callbacks.pop(key, None) is None or self._callbacks:
                return
            thread, self._thread = self._thread, None
            listener, self._listener = self._listener, None
        if thread is not None and listener is not None:
            listener.ended.set()
            listener.wake()
            if thread is not threading.current_thread():
                thread.join()

    def clear(self) -> None:
        """Take all callbacks away."""
        for key in list(self._callbacks):
            self._remove(key)

    def forget(self) -> None:
        """In a forked child: callbacks and thread are the parent's."""
        self._lock = threading.Lock()
        self._callbacks = {}
        self._thread = self._listener = None

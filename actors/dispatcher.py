"""The seam between actors and threads.

A dispatcher gives turns to actors and threads to the bodies of steps, keeps the clock, and is where the engine blocks.
`greenroom.actors.pool` is the one that programs run on; `greenroom.actors.seeded` runs everything of a test on a
schedule drawn from a seed.
"""

from __future__ import annotations

import contextvars
import itertools
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from pykka._envelope import Envelope

if TYPE_CHECKING:
    import asyncio

    from greenroom.actors.base import PooledActor, Ref

__all__ = ["AsyncBody", "Body", "Dispatcher", "Timer", "Unlimited", "Waitable"]


class Body(Protocol):
    """Code of the user's that may block: the body of a `def` step."""

    label: str

    def run(self) -> None:
        """Run it. Never raises."""

    def report(self) -> None:
        """Tell the supervisor how it ended."""


class AsyncBody(Protocol):
    """The body of an `async def` step."""

    label: str

    def create_task(self, loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        """Begin it on a loop, from the loop's own thread. The task never raises."""
        ...

    def report(self) -> None:
        """Tell the supervisor how it ended."""

    def refuse(self, error: BaseException) -> None:
        """Report that it could not begin."""


class Waitable(Protocol):
    """Something to block on: a reply, or a handler."""

    def is_done(self) -> bool:
        """Return whether there is nothing to wait for any more."""
        ...

    def block(self, timeout: float | None) -> object:
        """Block until it is done, at most `timeout` seconds."""
        ...


class Unlimited:
    """A body that counts towards no limit: callbacks of the user's that must not wait for a thread to be free."""

    label = "greenroom-callback"

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function

    def run(self) -> None:
        """Call the function, with context variables of its own: the thread serves others after it."""
        contextvars.Context().run(self._function)

    def report(self) -> None:
        """There is nobody to tell."""


_timer_numbers = itertools.count()


class Timer:
    """One deadline: a message for an actor. Of equal deadlines the one that was made first comes first."""

    __slots__ = ("at", "cancelled", "message", "number", "ref")

    def __init__(self, at: float, ref: Ref, message: Any) -> None:
        self.at = at
        self.ref = ref
        self.message = message
        self.number = next(_timer_numbers)
        self.cancelled = False

    def __lt__(self, other: Timer) -> bool:
        return (self.at, self.number) < (other.at, other.number)


class Dispatcher(Protocol):
    """Gives turns, threads and time. Every method may be called from any thread."""

    closed: bool
    batch: int  # how many messages an actor may handle in one turn

    def schedule(self, actor: PooledActor) -> None:
        """Give the actor a turn soon."""

    def serve(self, actor: PooledActor, envelope: Envelope[Any]) -> None:
        """Deliver an envelope and, where that is safe, let the calling thread run the actor's turn."""

    def execute(self, body: Body) -> None:
        """Run a body that may block."""

    def execute_async(self, body: AsyncBody) -> None:
        """Run a body on the event loop."""

    def report_async(self, body: AsyncBody) -> None:
        """Report an async body's end, from its own task, as its last act."""

    def wait(self, waitable: Waitable, timeout: float | None = None) -> bool:
        """Block the calling thread until it is done, at most `timeout` seconds; return whether it is."""
        ...

    def drive(self, waitable: Waitable) -> None:
        """Do the work that leads to it, where no thread of the dispatcher does; called before it is awaited."""

    def checkpoint(self) -> None:
        """Let others go on where bodies are given turns; called by a body that looks whether it is still wanted."""

    def now(self) -> float:
        """Return the time, in seconds of a clock that does not go back."""
        ...

    def wall_time(self) -> datetime:
        """Return the time of day, in UTC."""
        ...

    def set_timer(self, at: float, ref: Ref, message: Any) -> Timer:
        """Have an actor told a message, on its control lane, at a time of `now()`."""
        ...

    def drop_timer(self, timer: Timer) -> None:
        """Forget a timer."""

    def on_loop_thread(self) -> bool:
        """Return whether the calling thread is the one that async bodies need."""
        ...

    def thread_count(self) -> int:
        """Return how many threads it has for actors and bodies."""
        ...

    def dead_letter(self, actor: PooledActor, message: Any) -> None:
        """Note a message that an actor will never handle."""

    def shutdown(self, timeout: float) -> None:
        """End the threads that can be ended, waiting at most `timeout` seconds for them."""

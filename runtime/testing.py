"""Tools for testing workflows: a runtime whose schedule is drawn from a seed, with a virtual clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from greenroom.actors.seeded import SeededDispatcher
from greenroom.runtime import Runtime

__all__ = ["SeededRuntime", "explore"]


class SeededRuntime(Runtime):
    """A runtime on which everything happens one at a time, in an order drawn from a seed.

    Nothing runs until the test waits, as in `handler.result()`, `handler.send_event(...)` or a stream; the thread that
    waits drives. The same seed gives the same run, so that a failure repeats. Time is virtual: timeouts, retry delays
    and `asyncio.sleep` take none, while `time.sleep` and real I/O in a step take what they take.

    Example:
        >>> import asyncio
        >>> from greenroom import StartEvent, StopEvent, Workflow, step
        >>> class Patient(Workflow):
        ...     @step
        ...     async def wait(self, ev: StartEvent) -> StopEvent:
        ...         await asyncio.sleep(3600)
        ...         return StopEvent(result="an hour later")
        >>> with SeededRuntime(seed=7) as runtime:
        ...     print(Patient().run().result())
        an hour later
    """

    _dispatcher: SeededDispatcher

    def __init__(self, seed: int) -> None:
        """Make a runtime.

        Args:
            seed: Decides the schedule.
        """
        self.seed = seed
        self._dispatcher = SeededDispatcher(seed)
        self._runs_begun = 0
        self._begin(self._dispatcher)

    @property
    def trace(self) -> list[str]:
        """What has run so far, in order: the names of actors and steps."""
        return list(self._dispatcher.trace)

    def now(self) -> float:
        """Return the virtual time, in seconds from 0."""
        return self._dispatcher.now()

    def run_until_idle(self) -> None:
        """Run all that can run without waiting for a timer."""
        self._dispatcher.run_until_idle()

    def advance(self, seconds: float) -> None:
        """Let virtual time pass, and run all that comes due in it."""
        self._dispatcher.advance(seconds)

    def new_run_id(self) -> str:
        """Return an id that is the same for the same seed."""
        self._runs_begun += 1
        return f"run-{self._runs_begun}"


def explore(test: Callable[[SeededRuntime], object], seeds: Iterable[int] = range(100)) -> None:
    """Run a test on many schedules.

    Args:
        test: Takes the runtime and raises if something is wrong. It is called within `with runtime:`.
        seeds: A schedule is drawn from each.

    Raises:
        BaseException: What the test raised, with a note that names the seed.

    Example:
        >>> from greenroom import StartEvent, StopEvent, Workflow, step
        >>> class Hello(Workflow):
        ...     @step
        ...     def hello(self, ev: StartEvent) -> StopEvent:
        ...         return StopEvent(result="hello")
        >>> def says_hello(runtime):
        ...     assert Hello().run().result() == "hello"
        >>> explore(says_hello, seeds=range(10))
    """
    for seed in seeds:
        runtime = SeededRuntime(seed)
        try:
            with runtime:
                test(runtime)
        except BaseException as error:
            error.add_note(f"on the schedule of seed {seed}; repeat it with SeededRuntime(seed={seed})")
            raise

"""A runtime for tests, whose schedule is drawn from a seed, with a virtual clock.

What it cannot do: `time.sleep` and real input or output take real time and hold everything up, and a thread that a step
starts by itself cannot call into the engine.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
import itertools
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any

from greenroom.actors.seeded import SeededDispatcher
from greenroom.actors.strand import Call
from greenroom.errors import WorkflowRuntimeError
from greenroom.observer import Observer
from greenroom.runtime import Runtime

__all__ = ["SeededRuntime", "explore"]


class SeededRuntime(Runtime):
    """A runtime on which everything happens one at a time, in an order drawn from a seed.

    Nothing runs until the test waits, as in `handler.result()`, `handler.send_event(...)` or a stream. The same seed
    gives the same run, so that a failure repeats. Time is virtual: timeouts, retry delays and `asyncio.sleep` take
    none, while `time.sleep` and real I/O in a step take what they take. Where nothing is left to run and no timer is
    set, the wait raises `DeadlockError` with the last steps.

    What a test does meanwhile, as sending events while another part of it reads the stream, goes into `spawn`, and
    async test code into `run`: so it is on the schedule as well. What a thread of the test's own does is not.

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

    def __init__(self, seed: int, *, observers: Iterable[Observer] | None = None) -> None:
        """Make a runtime.

        Args:
            seed: Decides the schedule.
            observers: As for `Runtime`.
        """
        self.seed = seed
        self._dispatcher = SeededDispatcher(seed)
        self._run_numbers = itertools.count(1)
        self._spawned: list[Call] = []
        self._begin(self._dispatcher, observers=observers)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.join_spawned()
        except BaseException as failure:
            super().__exit__(type(failure), failure, failure.__traceback__)
            raise
        super().__exit__(kind, error, traceback)

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
        """Let virtual time pass, and run all that comes due in it and what follows from that.

        Args:
            seconds: How much time passes. What runs takes up to a millisecond each, so that it may be a little more.

        Example:
            >>> from greenroom import Context, Event, StartEvent, StopEvent, Workflow, step
            >>> class Tick(Event):
            ...     pass
            >>> class Clock(Workflow):
            ...     @step
            ...     def start(self, ctx: Context, ev: StartEvent) -> Tick | None:
            ...         ctx.send_event(Tick(), delay=60)
            ...         return None
            ...     @step
            ...     def stop(self, ev: Tick) -> StopEvent:
            ...         return StopEvent(result="tick")
            >>> with SeededRuntime(seed=1) as runtime:
            ...     handler = Clock().run()
            ...     runtime.advance(59)
            ...     print(handler.status)
            ...     runtime.advance(2)
            ...     print(handler.status)
            running
            completed
        """
        self._dispatcher.advance(seconds)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run async test code on the runtime's own loop, in virtual time, and return its result.

        Args:
            coroutine: It may make tasks, sleep, and await handlers and streams.

        Raises:
            DeadlockError: If it awaits what never comes.

        Example:
            >>> import asyncio
            >>> from greenroom.aio import StartEvent, StopEvent, Workflow, step
            >>> class Nap(Workflow):
            ...     @step
            ...     async def nap(self, ev: StartEvent) -> StopEvent:
            ...         await asyncio.sleep(ev.seconds)
            ...         return StopEvent(result=ev.seconds)
            >>> async def both():
            ...     return await asyncio.gather(Nap().run(seconds=60), Nap().run(seconds=3600))
            >>> with SeededRuntime(seed=1) as runtime:
            ...     runtime.run(both())
            [60, 3600]
        """
        return self._dispatcher.run(coroutine)

    def spawn(self, function: Callable[..., Any], *args: Any) -> Call:
        """Have a function run beside the test, on the schedule: what else would take a thread.

        Args:
            function: It may call and block on the engine as the test itself may.
            *args: Its arguments.

        Returns:
            The call: `result()` runs the schedule until the function has ended. At the latest the end of the `with`
            block waits for it, and raises what it raised.

        Example:
            >>> from greenroom import HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Workflow, step
            >>> class Ask(Workflow):
            ...     @step
            ...     def ask(self, ev: StartEvent) -> InputRequiredEvent:
            ...         return InputRequiredEvent(text="Your name?")
            ...     @step
            ...     def greet(self, ev: HumanResponseEvent) -> StopEvent:
            ...         return StopEvent(result=f"Hello, {ev.name}")
            >>> with SeededRuntime(seed=1) as runtime:
            ...     handler = Ask().run()
            ...     answer = runtime.spawn(handler.send_event, HumanResponseEvent(name="Ada"))
            ...     print(handler.result())
            Hello, Ada
        """
        variables = contextvars.copy_context()
        call = self._dispatcher.call(functools.partial(variables.run, function, *args))
        self._spawned.append(call)
        return call

    def join_spawned(self) -> None:
        """Run the schedule until all that was spawned has ended; raise what it raised."""
        for call in self._spawned:
            call.result()

    def new_run_id(self) -> str:
        """Return an id that is the same for the same seed."""
        return f"run-{next(self._run_numbers)}"


def explore(test: Callable[[SeededRuntime], object], seeds: Iterable[int] = range(100)) -> None:
    """Run a test on many schedules.

    Args:
        test: Takes the runtime and raises if something is wrong. It is called within `with runtime:`; an `async def`
            is run by `runtime.run`.
        seeds: A schedule is drawn from each.

    Raises:
        BaseException: What the test raised, with a note that names the seed.
        WorkflowRuntimeError: If there are no seeds, so that nothing was tested.

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
    seed = None
    for seed in seeds:
        try:
            with SeededRuntime(seed) as runtime:
                outcome = test(runtime)
                if inspect.iscoroutine(outcome):
                    runtime.run(outcome)
        except BaseException as error:
            error.add_note(f"on the schedule of seed {seed}; repeat it with SeededRuntime(seed={seed})")
            raise
    if seed is None:
        raise WorkflowRuntimeError("explore(seeds=...) was given no seeds, so it tested nothing")

"""A runtime for tests, whose schedule is drawn from a seed, with a virtual clock.

What it cannot do: `time.sleep` and real input or output take real time and hold everything up, and a thread that a step
starts by itself cannot call into the engine.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
import math
import weakref
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, Literal, NamedTuple

from greenroom.actors.seeded import SeededDispatcher
from greenroom.actors.strand import Call
from greenroom.errors import WorkflowRuntimeError
from greenroom.keeper import Durability, RunKeeper
from greenroom.observer import Observer
from greenroom.runtime import Runtime, check_durability
from greenroom.stores import RunStore

__all__ = ["SeededRuntime", "explore"]

FLUSH_INTERVAL = 0.05


class _Past(NamedTuple):
    """What a seeded runtime leaves to the next one on its store.

    Attributes:
        ended: The virtual time at which it ended.
        run_number: The number of the next run.
    """

    ended: float
    run_number: int


_pasts: weakref.WeakKeyDictionary[RunStore, _Past] = weakref.WeakKeyDictionary()


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

        With a store, runs are durable. What one process leaves at the end of its block, another one goes on with:

        >>> from greenroom import Context, InputRequiredEvent
        >>> from greenroom.stores import MemoryStore
        >>> class Approve(Workflow):
        ...     @step
        ...     def approve(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ...         ctx.once("mail", print, "mail sent")
        ...         ctx.sleep(3600)
        ...         return StopEvent(result=ctx.ask(InputRequiredEvent()).response)
        >>> store = MemoryStore()
        >>> with SeededRuntime(seed=1, store=store) as runtime:
        ...     handler = Approve().run(run_id="order-7")
        ...     runtime.advance(60)
        mail sent
        >>> with SeededRuntime(seed=2, store=store) as runtime:
        ...     recovered = runtime.recover([Approve])
        ...     runtime.advance(3600)
        ...     runtime.respond(runtime.pending_inputs()[0].input_id, {"response": "approved"})
        ...     print(runtime.get("order-7").result())
        approved
    """

    _dispatcher: SeededDispatcher

    def __init__(
        self,
        seed: int,
        *,
        observers: Iterable[Observer] | None = None,
        store: RunStore | None = None,
        durability: Literal["sync", "async"] = "sync",
        idle_timeout: float | None = 300.0,
    ) -> None:
        """Make a runtime.

        Args:
            seed: Decides the schedule.
            observers: As for `Runtime`.
            store: Keeps the runs, as for `Runtime`. Time and the numbers of run ids go on where the last seeded runtime
                on the same store object has left off. A `MemoryStore` gives the same run for the same seed; what other
                processes do to a file is on no schedule.
            durability: As for `Runtime`.
            idle_timeout: As for `Runtime`, in virtual seconds.

        Raises:
            WorkflowRuntimeError: If an option for the store is wrong.
            StoreError: If the store cannot be opened.
        """
        kept = Durability(durability == "sync", FLUSH_INTERVAL, idle_timeout, math.inf, None, poll=math.inf)
        check_durability(durability, kept)
        self.seed = seed
        self._store = store
        past = _Past(0.0, 1) if store is None else _pasts.get(store, _Past(0.0, 1))
        self._dispatcher = SeededDispatcher(seed, past.ended)
        self._run_number = past.run_number
        self._spawned: list[Call] = []
        self._begin(self._dispatcher, observers=observers)
        self.keeper = None if store is None else RunKeeper(self, store, kept)  # pyright: ignore[reportArgumentType]

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

    def shutdown(self, timeout: float | None = None) -> None:
        """End the runtime; see `Runtime.shutdown`. With `timeout=0`, runs stop where their last commits are."""
        super().shutdown(timeout)
        if self._store is not None:
            _pasts[self._store] = _Past(self._dispatcher.now(), self._run_number)

    @property
    def trace(self) -> list[str]:
        """What has run so far, in order: the names of actors and steps."""
        return list(self._dispatcher.trace)

    def now(self) -> float:
        """Return the virtual time, in seconds from 0, or from when the first runtime on the same store began."""
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
        number, self._run_number = self._run_number, self._run_number + 1
        return f"run-{number}"


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

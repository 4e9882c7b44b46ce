"""The runtime: the threads and actors that runs share, from the first run to an orderly end.

A process has a default runtime, made on first use. `_default_lock` protects which one it is. `runs` is a dict of which
only single operations are used, from any thread.
"""

from __future__ import annotations

import atexit
import itertools
import os
import secrets
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar, Token
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from greenroom.actors.base import here
from greenroom.actors.dispatcher import Unlimited
from greenroom.actors.open_resources import OpenResources
from greenroom.actors.parking import Parking
from greenroom.actors.pool import PoolDispatcher
from greenroom.actors.root import Drain, RootSupervisor
from greenroom.errors import (
    DeadlockError,
    RunHeldError,
    RuntimeForkedError,
    RuntimeShutdownError,
    UnknownInputError,
    WorkflowRuntimeError,
)
from greenroom.graph import GraphOwner
from greenroom.keeper import Durability, RunKeeper
from greenroom.observer import Observer, Observers
from greenroom.ports import StepPort, current_step

if TYPE_CHECKING:
    import asyncio

    from greenroom.actors.dispatcher import Dispatcher
    from greenroom.events import Event
    from greenroom.handler import Handler
    from greenroom.inputs import PendingInput
    from greenroom.stores import RunStore

__all__ = [
    "Runtime",
    "add_observer",
    "check_durability",
    "current_runtime",
    "default_runtime",
    "living_runtimes",
    "remove_observer",
    "shutdown_default_runtime",
]

DEFAULT_MAX_THREADS = 256
DEFAULT_MAX_PARKED = 1000
EXIT_SECONDS = 1.0
JOIN_SECONDS = 5.0

_current: ContextVar[Runtime | None] = ContextVar("greenroom_runtime", default=None)
_default: Runtime | None = None
_default_lock = threading.Lock()
_living: weakref.WeakSet[Runtime] = weakref.WeakSet()
_living_lock = threading.Lock()  # Protects `_living`, which must not grow while somebody goes through it.
# Those of the runtimes that were given none. Each change makes a new object, under `_default_lock`.
_observers = Observers()


class Runtime:
    """Gives threads, an event loop and a clock to runs, and ends them in order.

    Within `with Runtime(...):` it is the one that workflows run on, unless they were built with another. No thread
    exists before the first run. Leaving the block waits until no run has anything queued or in flight; runs that rest,
    as those that wait for a person, are ended then with `RuntimeShutdownError`. Leaving it by an exception ends all.

    Attributes:
        dispatcher: The threads and the clock.
        runs: The handlers of the runs that have not ended, by run id.
        resumed: Those of them that went on from another run, whose id the ids of their questions bear, by that id.
        open_resources: What is open for workflows, to be closed at the end.
        draining: Whether it is being shut down, so that no run may begin.
        keeper: Keeps the runs in the store, or None where there is no store.

    Example:
        >>> from greenroom import Runtime, StartEvent, StopEvent, Workflow, step
        >>> class Hello(Workflow):
        ...     @step
        ...     def hello(self, ev: StartEvent) -> StopEvent:
        ...         return StopEvent(result="hello")
        >>> with Runtime(max_threads=8):
        ...     print(Hello().run().result())
        hello
    """

    keeper: RunKeeper | None = None

    def __init__(
        self,
        *,
        max_threads: int = DEFAULT_MAX_THREADS,
        max_parked: int = DEFAULT_MAX_PARKED,
        loop: asyncio.AbstractEventLoop | None = None,
        observers: Iterable[Observer] | None = None,
        store: RunStore | None = None,
        durability: Literal["sync", "async"] = "sync",
        flush_interval: float = 0.05,
        idle_timeout: float | None = 300.0,
        lease: float = 15.0,
        retention: float | None = 30 * 86_400.0,
    ) -> None:
        """Make a runtime.

        Args:
            max_threads: How many bodies of `def` steps may be at work at once, over all runs; 1 or more. One that waits
                within Greenroom, as for another run's result, does not count.
            max_parked: How many `def` steps may stand on their threads while they wait, over all runs; 0 or more. Past
                that those that have waited longest are unwound, and run again from their top when their event comes,
                with all that they did before answered from a log.
            loop: The event loop for `async def` steps, to be run by the program; None for a thread of the runtime's
                own.
            observers: Are told what happens to its runs; None for those that `add_observer` has named.
            store: Keeps the runs, so that they survive the process; see docs/durability.md. None: they live in memory.
            durability: With a store: "sync", nothing follows from a fact before it is committed; or "async", it is
                committed within `flush_interval`, and a crash may lose and repeat what came after.
            flush_interval: Seconds, 0 or more, for which "async" gathers what it commits.
            idle_timeout: Seconds after which a run that only waits leaves memory, until something wants it; None never.
            lease: Seconds after which another process may take over the runs of one that shows no sign of life.
            retention: Seconds for which runs that have ended are kept with their results and streams; None keeps them
                for ever. Their journals are dropped soon, whatever it is.

        Raises:
            WorkflowRuntimeError: If `max_threads` is no integer above 0, `max_parked` none of 0 or more, `loop` no
                event loop, one of the observers no `Observer`, or `store` or an option for it is wrong.
            StoreError: If the store cannot be opened.
        """
        if isinstance(max_threads, bool) or not isinstance(max_threads, int) or max_threads < 1:
            raise WorkflowRuntimeError(f"Runtime(max_threads=...) takes an integer, 1 or more, not {max_threads!r}")
        if isinstance(max_parked, bool) or not isinstance(max_parked, int) or max_parked < 0:
            raise WorkflowRuntimeError(f"Runtime(max_parked=...) takes an integer, 0 or more, not {max_parked!r}")
        if loop is not None and not hasattr(loop, "call_soon_threadsafe"):
            raise WorkflowRuntimeError(f"Runtime(loop=...) takes an asyncio event loop, not {loop!r}")
        if store is not None and (isinstance(store, type) or not hasattr(store, "commit")):
            raise WorkflowRuntimeError(
                f"Runtime(store=...) takes a store, such as SQLiteStore('runs.db') of greenroom.stores, not {store!r}"
            )
        kept = Durability(durability == "sync", flush_interval, idle_timeout, lease, retention)
        check_durability(durability, kept)
        self._begin(PoolDispatcher(max_threads, loop), max_parked, observers)
        self.keeper = None if store is None else RunKeeper(self, store, kept)  # pyright: ignore[reportArgumentType]

    def _begin(
        self,
        dispatcher: Dispatcher,
        max_parked: int = DEFAULT_MAX_PARKED,
        observers: Iterable[Observer] | None = None,
    ) -> None:
        self._own_observers = None if observers is None else Observers(observers)
        self.dispatcher = dispatcher
        self.parking = Parking(max_parked)
        self._on_input: list[Callable[[PendingInput], object]] = []
        self.runs: dict[str, Handler] = {}
        self.open_resources: dict[OpenResources, None] = {}
        self.resumed: dict[str, tuple[Handler, ...]] = {}
        # Protects `resumed`. Reentrant: a signal handler may begin a run while the main thread does.
        self._resuming = threading.RLock()
        self.root = RootSupervisor.start(dispatcher, self.runs)
        self.draining = False
        self._process = os.getpid()
        # Protects the end of the dispatcher. Reentrant: a signal handler may shut down what the main thread shuts down.
        self._closing = threading.RLock()
        self._id_prefix = secrets.token_hex(6)
        self._id_numbers = itertools.count(1)
        self._tokens: list[Token[Runtime | None]] = []
        with _living_lock:
            _living.add(self)

    @property
    def observers(self) -> Observers:
        """Those who are told of runs that begin now."""
        return self._own_observers if self._own_observers is not None else _observers

    def __enter__(self) -> Self:
        self.check_usable()
        self._tokens.append(_current.set(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _current.reset(self._tokens.pop())
        try:
            self.shutdown(timeout=None if kind is None else 0.0)
        except DeadlockError:
            self.shutdown(timeout=0.0)
            raise

    def shutdown(self, timeout: float | None = None) -> None:
        """End the runtime. Runs that are at work may finish; then all threads end that can be ended.

        Args:
            timeout: Seconds that runs at work may take at most; then they are cancelled. None waits as long as it
            takes.

        Raises:
            DeadlockError: If it would wait for as long as it takes on a thread that the runs need.
        """
        self.check_process()
        if self.dispatcher.closed:
            return
        if timeout is None:
            self._refuse_to_block()
        error = RuntimeShutdownError("the runtime was shut down before the run had ended")
        if self.keeper is not None:
            self.keeper.prepare_end()
        try:
            # In this order: a run that begins enters `runs` before it looks at `draining`, and one that ends leaves
            # `runs` before it does.
            self.draining = True
            now = self.dispatcher.now
            deadline = None if timeout is None else now() + timeout
            finished, runs = True, self.runs.copy()
            while finished:
                drained = self.root.ask(Drain(runs, error), block=False)
                finished = self.dispatcher.wait(drained, None if deadline is None else max(0.0, deadline - now()))
                # Runs at work may have begun others before they ended.
                runs = self.runs.copy()
                if not runs:
                    break
        except BaseException:
            self._end_all(error)
            raise
        if not finished:
            self._end_all(error)
        else:
            self._close(JOIN_SECONDS, error)

    def recover(self, workflows: Iterable[Any]) -> list[Handler]:
        """Go on with the runs in the store whose process has died, and from now on with those whose process dies.

        A run that cannot go on, since its code has changed or its bytes are damaged, is set aside with the reason, and
        keeps no other from going on: `greenroom runs --status set_aside` lists them. A run at rest is read when
        something wakes it; `greenroom.deploy.check` reads all that rest and tells which could not go on, without that.

        Args:
            workflows: The workflows whose runs to take: objects, or classes that are made without arguments.

        Returns:
            The handlers of the runs that go on now.

        Raises:
            WorkflowRuntimeError: If the runtime has no store, or one of them is no workflow.
            StoreError: If the store failed.

        Example:
            >>> from greenroom import Runtime, StartEvent, StopEvent, Workflow, step
            >>> from greenroom.stores import MemoryStore
            >>> class Hello(Workflow):
            ...     @step
            ...     def hello(self, ev: StartEvent) -> StopEvent:
            ...         return StopEvent(result="hello")
            >>> with Runtime(store=MemoryStore()) as runtime:
            ...     print(len(runtime.recover([Hello])), Hello().run(run_id="one").result())
            0 hello
        """
        self.check_usable()
        if isinstance(workflows, type) or not isinstance(workflows, Iterable):
            raise WorkflowRuntimeError(f"recover() takes a list of workflows and classes of them, not {workflows!r}")
        made: dict[str, Any] = {}
        for given in workflows:
            workflow = _made(given)
            if workflow.workflow_name in made:
                raise WorkflowRuntimeError(
                    f"recover() was given two workflows of the name {workflow.workflow_name}: which of them its runs go"
                    " on with would be a matter of chance; give each a workflow_name of its own"
                )
            made[workflow.workflow_name] = workflow
        return self._keeper().recover(made.values())

    def get(self, run_id: str) -> Handler | None:
        """Return the handler of a run: one that goes on here or, with a store, one that rests or has ended there.

        Raises:
            RunHeldError: If another process has the run: `respond`, `send_event` and `cancel_run` reach it there.
            WorkflowRuntimeError: If it was set aside, or its workflow is not known here.
        """
        self.check_process()
        return self.runs.get(run_id) if self.keeper is None else self.keeper.get(run_id)

    def run_time(self) -> float:
        """Return the time of the clock that the runs go by, in seconds."""
        return self.dispatcher.now() if self.keeper is None else self.keeper.now()

    def _keeper(self) -> RunKeeper:
        if self.keeper is None:
            raise WorkflowRuntimeError("this runtime has no store: make it as Runtime(store=SQLiteStore('runs.db'))")
        return self.keeper

    def pending_inputs(self) -> list[PendingInput]:
        """Return the open questions of all runs, the oldest first.

        With a store those of all its runs whose workflows are known here are among them, whoever has the runs. No run
        is woken for that, nor kept from going to rest. One question can be looked up by its id in `RunStore.input`.

        Raises:
            StoreError: If the store failed.
        """
        questions: list[PendingInput] = []
        looked_at: set[str] = set()
        for run_id, handler in self.runs.copy().items():
            found = handler.questions_in_memory()
            if found is not None:
                looked_at.add(run_id)
                questions += found
        if self.keeper is not None:
            questions += (question for question in self.keeper.questions() if question.run_id not in looked_at)
        return sorted(questions, key=lambda question: question.asked_at)

    def respond(self, input_id: str, response: Event | Mapping[str, Any]) -> None:
        """Answer a question of any of the runs; see `Handler.respond`.

        With a store also one that another process has: it finds the answer in the run's inbox.

        Raises:
            UnknownInputError: If no run that goes on has asked it.
            InputError: As `Handler.respond` raises it.
        """
        handler = self._find_asker(input_id)
        if handler is not None:
            handler.answer_question(input_id, response)
            return
        if self.keeper is not None and self.keeper.answer(input_id, response):
            return
        raise UnknownInputError(f"no run here has asked '{input_id}'; pending_inputs() lists the open questions")

    def send_event(self, run_id: str, event: Event, *, dedup_key: str | None = None) -> None:
        """Send an event to any of the runs; see `Handler.send_event`.

        With a store also to one that another process has: it finds the event in the run's inbox.

        Args:
            run_id: The run.
            event: The event.
            dedup_key: Of the events with the same key only the first counts, from whichever process they are sent.

        Raises:
            WorkflowRuntimeError: If there is no such run, it has ended, or it is no event that can be sent.
            StoreError: If the store failed.
        """
        try:
            self._handler_here(run_id).send_event(event, dedup_key=dedup_key)
        except RunHeldError:
            self._keeper().send(run_id, event, dedup_key)

    def cancel_run(self, run_id: str) -> None:
        """End any of the runs; see `Handler.cancel_run`.

        With a store also one that another process has: it finds the wish in the run's inbox. Then this does not wait
        for the end.

        Raises:
            WorkflowRuntimeError: If there is no such run.
            StoreError: If the store failed.
        """
        try:
            self._handler_here(run_id).cancel_run()
        except RunHeldError:
            self._keeper().cancel(run_id)

    def _handler_here(self, run_id: str) -> Handler:
        handler = self.get(run_id)
        if handler is None:
            raise WorkflowRuntimeError(f"there is no run '{run_id}'")
        return handler

    def _find_asker(self, input_id: str) -> Handler | None:
        origin, _, _ = str(input_id).rpartition(":")
        runs = self._of_origin(origin)
        while not runs and "/" in origin:
            origin = origin.rpartition("/")[0]  # a question of a child begins with what those of its parent begin with
            runs = self._of_origin(origin)
        knowing = [handler for handler in runs if handler.knows_question(input_id)]
        # Of several that went on from one snapshot, some may have been answered.
        asking = [handler for handler in knowing if handler.is_asking(input_id)] if len(knowing) > 1 else knowing
        return next(iter((*asking, *knowing)), None)

    def _of_origin(self, origin: str) -> tuple[Handler, ...]:
        first = self.runs.get(origin)
        return (*self.resumed.get(origin, ()), *(() if first is None else (first,)))

    def enter_resumed(self, handler: Handler) -> None:
        """Note that a run goes on from another, for the questions that bear the other's id."""
        with self._resuming:
            # A run that had rested in its store is there already.
            others = (other for other in self.resumed.get(handler.origin, ()) if other is not handler)
            self.resumed[handler.origin] = (handler, *others)
        # Entered first, then looked; a run that ends does so first, and leaves then.
        if handler.has_ended():
            self.leave_resumed(handler.origin, handler)

    def leave_resumed(self, origin: str, handler: object) -> None:
        """Forget a run that was entered, if it was."""
        with self._resuming:
            others = tuple(other for other in self.resumed.get(origin, ()) if other is not handler)
            if others:
                self.resumed[origin] = others
            else:
                self.resumed.pop(origin, None)

    def on_input(self, callback: Callable[[PendingInput], object]) -> None:
        """Have a function called with each question that is asked from now on, on a thread of the runtime.

        Args:
            callback: Takes the `PendingInput`. What it raises is logged.
        """
        if not callable(callback):
            raise WorkflowRuntimeError(f"on_input() takes a function, not {callback!r}")
        self._on_input.append(callback)

    def tell_question(self, question: PendingInput) -> None:
        """Call those who asked for it. Called in a supervisor's turn."""
        for callback in self._on_input:
            self.dispatcher.execute(Unlimited(partial(callback, question)))

    def check_usable(self) -> None:
        """Raise if no run can begin here: after the shutdown, or in a forked child.

        While the runtime lets the runs at work finish, their steps may begin the runs that they need for it.
        """
        self.check_process()
        if self.draining and not self._is_at_work(current_step.get(None)):
            raise RuntimeShutdownError("this Runtime has been shut down; make a new one, or use the default one")

    def check_process(self) -> None:
        """Raise RuntimeForkedError in a forked child, where the runtime's threads do not exist."""
        if self._process != os.getpid():
            raise RuntimeForkedError(
                f"this belongs to process {self._process} and does not work in its forked child {os.getpid()}: build"
                " the workflow anew and run it in the child, whose default runtime is its own"
                + (": that has no store, so make a Runtime(store=...) there as well" if self.keeper is not None else "")
            )

    def _refuse_to_block(self) -> None:
        step = current_step.get(None)
        if step is not None and self._is_at_work(step):
            raise DeadlockError(
                f"shutdown() within step '{step.invocation.spec.name}' would wait for its own run '{step.run_id}' for"
                " ever: shut the runtime down from outside, or with a timeout"
            )
        if self.dispatcher.on_loop_thread() and any(handler.needs_loop() for handler in list(self.runs.values())):
            raise DeadlockError(
                "shutdown() would block the event loop that the runs need: await their handlers before the end of the"
                " block, or shut down with a timeout"
            )

    def _is_at_work(self, step: StepPort | None) -> bool:
        return step is not None and not step.cancelled and not self.dispatcher.closed and step.root_id in self.runs

    def new_run_id(self) -> str:
        """Return an id that no other run has, in any process."""
        return f"{self._id_prefix}-{next(self._id_numbers)}"

    def _end_all(self, error: RuntimeShutdownError) -> None:
        for handler in list(self.runs.values()):
            handler.end(error)
        if self.keeper is not None:
            # One whose commit is under way gives itself back when that is done, and needs its store for it.
            drained = self.root.ask(Drain(self.runs.copy(), error), block=False)
            self.dispatcher.wait(drained, EXIT_SECONDS / 2)
        self._close(EXIT_SECONDS, error)

    def _close(self, seconds: float, error: RuntimeShutdownError) -> None:
        now = self.dispatcher.now
        deadline = now() + seconds
        for resources in list(self.open_resources):
            # They leave time for the threads, of which one may be what uses them.
            resources.close_in_time(max(0.0, deadline - now()) / 2)
        seconds = max(0.0, deadline - now())
        with self._closing:
            if not self.dispatcher.closed:
                try:
                    if self.keeper is not None:
                        self.keeper.close(seconds, error)
                finally:
                    # What hangs in the store hangs on a thread of its own; half a second is enough for the others.
                    self.dispatcher.shutdown(max(0.5, deadline - now()))


def _made(given: Any) -> Any:
    """Return a workflow that is given as an object or as a class."""
    workflow = given
    if isinstance(given, type) and issubclass(given, GraphOwner):
        try:
            workflow = given()
        except TypeError as error:
            raise WorkflowRuntimeError(
                f"recover() makes {given.__name__}() without arguments, and that failed: {error}. Give it an object"
            ) from error
        if not hasattr(workflow, "workflow_name"):
            raise WorkflowRuntimeError(f"{given.__name__}.__init__ must call super().__init__()")
    if not hasattr(workflow, "workflow_name"):
        raise WorkflowRuntimeError(f"recover() takes workflows and classes of them, not {given!r}")
    return workflow


def check_durability(durability: Any, kept: Durability) -> None:
    """Raise WorkflowRuntimeError if an option for a store is wrong."""
    if durability not in ("sync", "async"):
        raise WorkflowRuntimeError(f"Runtime(durability=...) is 'sync' or 'async', not {durability!r}")
    for name, least in (("flush_interval", 0.0), ("idle_timeout", 0.0), ("lease", 0.1), ("retention", 0.0)):
        value = getattr(kept, name)
        if name in ("idle_timeout", "retention") and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
            raise WorkflowRuntimeError(f"Runtime({name}=...) takes seconds, {least:g} or more, not {value!r}")


def default_runtime() -> Runtime:
    """Return the process's own runtime, made on first use and shut down at exit."""
    global _default
    runtime = _default
    if runtime is None or runtime.draining:
        with _default_lock:
            if _default is None or _default.draining:
                _default = Runtime()
            runtime = _default
    return runtime


def current_runtime() -> Runtime:
    """Return the runtime of the `with` block that this code is in, or the default one."""
    return _current.get() or default_runtime()


def shutdown_default_runtime(timeout: float = 0.0) -> None:
    """Shut the default runtime down, as at exit; the next run makes a new one.

    Args:
        timeout: Seconds that runs at work may take at most before they are cancelled.
    """
    global _default
    with _default_lock:
        runtime, _default = _default, None
    if runtime is not None:
        runtime.shutdown(timeout)


def add_observer(observer: Observer) -> None:
    """Have an observer told of all runs that begin from now on, on the default runtime and on all that have none.

    Args:
        observer: It is not added again if it is there already.

    Raises:
        WorkflowRuntimeError: If it is no `Observer`.

    Example:
        >>> from greenroom.observer import Observer
        >>> from greenroom.runtime import add_observer, remove_observer
        >>> class Count(Observer):
        ...     runs = 0
        ...     def run_ended(self, run):
        ...         self.runs += 1
        >>> count = Count()
        >>> add_observer(count)
        >>> from greenroom import StartEvent, StopEvent, Workflow, step
        >>> class Hello(Workflow):
        ...     @step
        ...     def hello(self, ev: StartEvent) -> StopEvent:
        ...         return StopEvent(result="hello")
        >>> Hello().run().result()
        'hello'
        >>> count.runs
        1
        >>> remove_observer(count)
    """
    global _observers
    with _default_lock:
        if all(member is not observer for member in _observers.members):
            _observers = _observers.and_also(observer)


def remove_observer(observer: Observer) -> None:
    """Tell an observer that `add_observer` has named of no further runs. Those that go on are told of to their end."""
    global _observers
    with _default_lock:
        _observers = Observers(member for member in _observers.members if member is not observer)


def living_runtimes() -> list[Runtime]:
    """Return the runtimes of this process that have not been shut down."""
    process = os.getpid()
    with _living_lock:
        return [runtime for runtime in _living if runtime._process == process and not runtime.dispatcher.closed]


def _at_exit() -> None:
    for runtime in living_runtimes():
        runtime.shutdown(timeout=0.0)


def _after_fork_in_child() -> None:
    global _default, _default_lock, _living_lock
    # Another thread of the parent may have held the locks at the fork.
    _default_lock, _living_lock = threading.Lock(), threading.Lock()
    _default = None
    # The thread that forked goes on in the child: no longer in a block of the parent's, nor as a worker of its pool.
    _current.set(None)
    here.lane = here.actor = None
    step = current_step.get(None)
    if step is not None:
        step.forked()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork_in_child)

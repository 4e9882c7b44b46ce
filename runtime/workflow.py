"""The workflow: a class whose steps make a graph, and whose `run` begins a run."""

from __future__ import annotations

import contextvars
import inspect
from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from pydantic import ValidationError

from greenroom.actors.durable import Begin, DurableSupervisor, Kept
from greenroom.actors.observed import ObservedDurableSupervisor, ObservedSupervisor
from greenroom.actors.resources import RunResources
from greenroom.actors.root import RunAdmitted
from greenroom.actors.stream import StreamActor, StreamLog
from greenroom.actors.supervisor import RunSupervisor
from greenroom.context import ContextCore
from greenroom.errors import (
    ContextStateError,
    GreenroomError,
    RunExistsError,
    RuntimeShutdownError,
    WorkflowRuntimeError,
    WorkflowValidationError,
)
from greenroom.events import Event, StartEvent, StopEvent
from greenroom.facts import CancelAsked, Inspect, Outcome, Recovered, RunResumed, RunStarted
from greenroom.graph import Graph, GraphOwner, check_names
from greenroom.handler import Handler, RunLink
from greenroom.keeper import RunKeeper
from greenroom.logging import run_log
from greenroom.named import registry_of
from greenroom.observer import Observers
from greenroom.ports import RestingPort
from greenroom.recovery import Recovery
from greenroom.resources import ResourceManager
from greenroom.run_state import OnStuck, RunState
from greenroom.runtime import Runtime, _current, current_runtime
from greenroom.signature import read_step
from greenroom.steps import describe, step_options
from greenroom.stores import FIRST_FENCE
from greenroom.verbose import Verbose

if TYPE_CHECKING:
    from greenroom.representation.graph import WorkflowGraph

__all__ = ["Workflow"]


class Workflow(GraphOwner):
    """Base of all workflows. Its `@step` methods take events and return events.

    A workflow may be run any number of times, from any thread, also at once; the runs share its attributes.

    Attributes:
        timeout: Seconds at work that a run may take, or None.
        workflow_name: The name used in messages and snapshots.
        on_stuck: What is done with a run that nothing can end any more.

    Example:
        >>> from greenroom import Event, StartEvent, StopEvent, Workflow, step
        >>> class Counted(Event):
        ...     words: int
        >>> class Count(Workflow):
        ...     @step
        ...     def count(self, ev: StartEvent) -> Counted:
        ...         return Counted(words=len(ev.text.split()))
        ...     @step
        ...     def report(self, ev: Counted) -> StopEvent:
        ...         return StopEvent(result=f"{ev.words} words")
        >>> Count(timeout=10).run(text="to be or not to be").result()
        '6 words'
    """

    _free_steps: ClassVar[dict[str, Any]] = {}
    _version: ClassVar[int] = 0
    _handler_class: ClassVar[type[Handler]] = Handler

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._free_steps = {}

    def __init__(
        self,
        timeout: float | None = None,
        disable_validation: bool = False,
        verbose: bool = False,
        num_concurrent_runs: int | None = None,
        runtime: Runtime | None = None,
        workflow_name: str | None = None,
        skip_graph_checks: Collection[str] | None = None,
        on_stuck: OnStuck = "fail",
        resource_manager: ResourceManager | None = None,
    ) -> None:
        """Build the workflow and check it.

        Args:
            timeout: Seconds that a run may be at work; time spent waiting for a person does not count. None: no limit.
            disable_validation: Skip the checks of the graph. The signatures are always checked.
            verbose: Print what the steps do, those of child runs included, or log it to `greenroom.verbose` where
                somebody listens. Of the outermost run alone it counts.
            num_concurrent_runs: How many runs of this object may go on at once; further ones wait. None: no limit.
            runtime: Where to run; None for that of the `with Runtime()` block around, or the default one.
            workflow_name: A name for messages and snapshots; by default the class's module and qualified name.
            skip_graph_checks: Checks to leave out: "reachability", "terminal_event", "dead_end".
            on_stuck: What to do with a run that nothing can end any more: "fail" it, or "wait" for somebody outside.
            resource_manager: Holds the resources that steps take, so that several workflows share them, or a test gives
                others; None for one of the workflow's own.

        Raises:
            WorkflowConfigurationError: If there is not exactly one kind of start event and one kind of stop event.
            WorkflowValidationError: If a signature, a connection or an option is wrong. All faults are in the message.
        """
        cls = type(self)
        self.workflow_name = workflow_name or f"{cls.__module__}.{cls.__qualname__}"
        _check_options(cls.__name__, timeout, num_concurrent_runs, runtime, on_stuck, resource_manager)
        self.timeout = timeout
        self._verbose = verbose
        self._num_concurrent_runs = num_concurrent_runs
        self._runtime = runtime if runtime is not None else _current.get()
        self.on_stuck: OnStuck = on_stuck
        self._skip = check_names(skip_graph_checks)
        self._disable_validation = disable_validation
        self._resource_manager = resource_manager if resource_manager is not None else ResourceManager()
        self._graph = _graph_of(cls)
        if not disable_validation:
            self.validate()

    @classmethod
    def _class_graph(cls) -> Graph:
        return _graph_of(cls)

    # -- what it is ----------------------------------------------------------------------------------------------------

    @classmethod
    def add_step(cls, func: Any) -> None:
        """Add a free function that `@step(workflow=...)` decorates. Objects that exist already keep their steps.

        Raises:
            WorkflowValidationError: If it is not decorated, or the class has a step of that name.
        """
        if "_handler_class" in cls.__dict__:  # Workflow, or that of greenroom.aio
            raise WorkflowValidationError("subclass Workflow, and add steps to the subclass")
        if step_options(func) is None:
            raise WorkflowValidationError(f"{func!r} is not a step; decorate it with @step(workflow={cls.__name__})")
        if func.__name__ in _find_steps(cls):
            raise WorkflowValidationError(
                f"{cls.__name__} already has a step '{func.__name__}'; give this one another name"
            )
        cls._free_steps[func.__name__] = func
        Workflow._version += 1

    @classmethod
    def graph(cls) -> WorkflowGraph:
        """Return the workflow's graph: its steps, events and people, and the ways between them, to read and to draw.

        It needs no object, and is made even where building the workflow would find faults in it, which it lists. In a
        notebook it shows itself. What a run did is in `handler.graph()`.

        Raises:
            WorkflowConfigurationError: If there is not exactly one kind of start event and one kind of stop event.
            WorkflowValidationError: If the signature of a step is wrong.

        Example:
            >>> from greenroom import StartEvent, StopEvent, Workflow, step
            >>> class Greet(Workflow):
            ...     @step
            ...     def greet(self, ev: StartEvent) -> StopEvent:
            ...         return StopEvent(result="Hello")
            >>> Greet.graph()
            <WorkflowGraph of Greet: 2 events, 1 step>
            >>> page = Greet.graph().to_html()
        """
        from greenroom.representation.build import build_graph  # Few programs draw, and all of them start.

        return build_graph(_graph_of(cls))

    @property
    def runtime(self) -> Runtime:
        """Where a run that begins now would run."""
        return self._runtime or current_runtime()

    @property
    def start_event_class(self) -> type[StartEvent]:
        """The class of the event that begins a run."""
        return self._graph.start_event_class

    @property
    def stop_event_class(self) -> type[StopEvent]:
        """The class of the event that ends a run."""
        return self._graph.stop_event_class

    @property
    def events(self) -> list[type[Event]]:
        """Every class of event that the steps take or return."""
        return list(self._graph.events)

    def validate(self, *, validate_resource_configs: bool = True, validate_resources: bool = False) -> bool:
        """Check the graph; return whether the workflow asks people.

        Args:
            validate_resource_configs: Read the files of the `ResourceConfig`s, again if they have been, and check that
                they fit.
            validate_resources: Call the factories of all resources as well, once each, to see that they work.

        Raises:
            WorkflowValidationError: With every fault that was found.
            BaseException: What a factory raises.
        """
        dependencies = self._graph.dependencies
        found = self._resource_manager.check(dependencies, configs=validate_resource_configs)
        self._graph.validate(self._skip, found)
        if validate_resources:
            manager = self.wanted_resources
            if manager is not None:
                _resources_in(self._runtime or current_runtime(), manager).rehearse(dependencies)
        return self._graph.asks_people

    # -- resources -----------------------------------------------------------------------------------------------------

    @property
    def resource_manager(self) -> ResourceManager:
        """What holds the workflow's resources."""
        return self._resource_manager

    @property
    def wanted_resources(self) -> ResourceManager | None:
        """What holds the resources that steps depend on, or None if they depend on nothing. For the runtime."""
        return self._resource_manager if self._graph.dependencies else None

    def close(self) -> None:
        """Close the resources that are open for the workflow, in reverse order; `with workflow:` does so at its end.

        What a step at work is using is closed when that has ended. The workflow can still be run: what is needed is
        opened anew. Without this call the resources are closed when the workflow object is no longer used, or at the
        end of the runtime.

        Raises:
            BaseException: What the first resource raised that failed to close; the others are closed all the same.
        """
        self._resource_manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._resource_manager.close()

    # -- running -------------------------------------------------------------------------------------------------------

    def run(
        self,
        ctx: ContextCore[Any] | None = None,
        start_event: StartEvent | None = None,
        *,
        run_id: str | None = None,
        **kwargs: Any,
    ) -> Handler:
        """Begin a run and return its handler at once. Any thread may call, with or without an event loop.

        Args:
            ctx: The context of an earlier run, or one made as `Context(workflow)`: its state is kept. One that has
                unfinished work, as after `cancel_run()`, resumes it.
            start_event: The start event; or give its fields as keyword arguments.
            run_id: An id for the run, unique among those that go on in the runtime; None makes one.
            **kwargs: The fields of the start event.

        Returns:
            The `Handler`.

        Raises:
            WorkflowRuntimeError: If the start event is of the wrong class or has a bad field, or the id is taken.
            ContextStateError: If `ctx` is in use, or of another workflow, or resumes and a start event was given.
            RuntimeShutdownError: If the runtime has been shut down.
        """
        if not hasattr(self, "_graph"):
            raise WorkflowRuntimeError(f"{type(self).__name__}.__init__ must call super().__init__()")
        runtime = self.runtime
        runtime.check_usable()
        if run_id is None:
            run_id = runtime.new_run_id()
        elif not isinstance(run_id, str) or not run_id:
            raise WorkflowRuntimeError(f"run(run_id=...) takes a text that is not empty, not {run_id!r}")
        elif runtime.keeper is not None:
            known = self._known_run(runtime.keeper, run_id)
            if known is not None:
                return known
        beginning: RunStarted | RunResumed
        if self._check_context(ctx):
            if start_event is not None or kwargs:
                raise ContextStateError(
                    "this context has unfinished work, which run(ctx=ctx) resumes: give it no start event, or begin"
                    " anew with another context"
                )
            beginning = RunResumed()
        else:
            beginning = RunStarted(self.make_start_event(start_event, kwargs))
        # The state is taken last: whatever is refused leaves the context as it was.
        if run_id in runtime.runs and (runtime.keeper is None or ctx is not None):
            raise _id_taken(run_id)
        state = self._take_state(ctx, run_id, runtime.now())
        try:
            return self._begin(runtime, state, beginning, ctx)
        except RunExistsError:
            # Another thread or process was quicker by a hair, and with a store the same id is the same run.
            assert runtime.keeper is not None
            known = self._known_run(runtime.keeper, run_id)
            # There is none if the store has failed that other thread.
            return self.run(ctx, start_event, run_id=run_id, **kwargs) if known is None else known

    def _known_run(self, keeper: RunKeeper, run_id: str) -> Handler | None:
        """Return the run of this id that the store has, if it has one: asking twice for a run gives the same run."""
        keeper.know(self)  # pyright: ignore[reportArgumentType]
        handler = keeper.get(run_id)
        if handler is not None and handler._link.graph.name != self._graph.name:
            raise WorkflowRuntimeError(f"run '{run_id}' is of {handler._link.graph.name}, not of {self._graph.name}")
        return handler

    def _begin(self, runtime: Runtime, state: RunState, beginning: RunStarted | RunResumed, ctx: Any) -> Handler:
        keeper, run_id = runtime.keeper, state.run_id
        kept = None if keeper is None else Kept(registry_of(self), FIRST_FENCE, 1)
        supervisor = self._make_supervisor(runtime, state, kept)
        link = RunLink(self, run_id, runtime, supervisor.actor_ref)
        handler = self._handler_class(
            link,
            supervisor.log,
            supervisor.stream,
        )
        supervisor.finisher = handler
        if ctx is not None:
            handler.ctx = ctx
        begins: Any = beginning
        try:
            if keeper is not None and kept is not None:
                begins = Begin(beginning, late=self._num_concurrent_runs is not None)
                try:
                    keeper.make(self, handler, state, beginning, kept.registry)  # pyright: ignore[reportArgumentType]
                except RunExistsError:
                    if ctx is not None:
                        raise _id_taken(run_id) from None
                    raise
            elif runtime.runs.setdefault(run_id, handler) is not handler:
                raise _id_taken(run_id)
            if runtime.draining:
                try:
                    runtime.check_usable()
                except RuntimeShutdownError:
                    runtime.runs.pop(run_id, None)  # The drain may have found it there and ended it.
                    raise
        except GreenroomError:
            # Another thread came first by a hair. What the context holds can still be resumed.
            state.apply(CancelAsked(), runtime.now())
            raise
        finally:
            if ctx is not None:
                ctx._port = link
        if state.origin != run_id:
            handler.origin = state.origin
            runtime.enter_resumed(handler)
        supervisor.watch(runtime.root)
        self._let_begin(runtime, handler, supervisor, begins)
        return handler

    def _make_supervisor(self, runtime: Runtime, state: RunState, kept: Kept | None) -> RunSupervisor:
        parts = (runtime.dispatcher, state, self.function_of, contextvars.copy_context(), runtime.parking)
        observers, keeper = self._observers(runtime), runtime.keeper
        supervisor: RunSupervisor
        if keeper is None or kept is None:
            supervisor = ObservedSupervisor(observers, *parts) if observers else RunSupervisor(*parts)
        else:
            if observers:
                supervisor = ObservedDurableSupervisor(observers, *parts, keeper, kept)
            else:
                supervisor = DurableSupervisor(*parts, keeper, kept)
        supervisor.provide(self.wanted_resources, partial(_resources_in, runtime))
        return supervisor

    def _let_begin(self, runtime: Runtime, handler: Handler, supervisor: RunSupervisor, begins: Any) -> None:
        if self._num_concurrent_runs is None:
            supervisor.actor_ref.tell(begins)
        else:
            handler.is_limited = True
            runtime.root.tell(RunAdmitted(handler, begins, id(self), self._num_concurrent_runs))

    # -- durable runs, for the keeper ----------------------------------------------------------------------------------

    def _go_on(
        self,
        runtime: Runtime,
        recovery: Recovery,
        kept: Kept,
        handler: Handler | None,
        missed: list[Event],
    ) -> Handler:
        """Go on with a run that the store had; with its handler, where somebody has kept it, and what that has missed.

        Raises:
            RuntimeShutdownError: If the runtime is being shut down. The run is left where it is.
        """
        state = recovery.state
        supervisor, was_known = self._make_supervisor(runtime, state, kept), handler is not None
        if recovery.has_moved and isinstance(supervisor, DurableSupervisor):
            supervisor.checkpoint_first()
        if handler is None:
            link = RunLink(self, state.run_id, runtime, supervisor.actor_ref)
            handler = self._handler_class(link, supervisor.log, supervisor.stream)
        supervisor.finisher = handler
        # As a run that begins: it enters `runs` before it looks whether that is being drained.
        runtime.runs[state.run_id] = handler
        try:
            runtime.check_usable()
        except RuntimeShutdownError:
            runtime.runs.pop(state.run_id, None)
            raise
        if was_known:
            handler.come_back(supervisor, missed)
        if state.origin != state.run_id:
            handler.origin = state.origin
            runtime.enter_resumed(handler)
        supervisor.watch(runtime.root)
        self._let_begin(runtime, handler, supervisor, Recovered(recovery.last))
        return handler

    def _ended(self, runtime: Runtime, run_id: str, next_offset: int, outcome: Outcome) -> Handler:
        """Return the handler of a run that has ended, from what the store kept of it."""
        log = StreamLog(next_offset)
        log.ended = True
        handler = self._handler_class(
            RunLink(self, run_id, runtime, None), log, StreamActor.start(runtime.dispatcher, log)
        )
        handler.finish(outcome)
        return handler

    def _observers(self, runtime: Runtime) -> Observers:
        observers = runtime.observers
        if self._verbose:
            observers = observers.and_also(Verbose())
        log = run_log()
        return observers if log is None else observers.and_also(log)

    def _check_context(self, ctx: Any) -> bool:
        """Return whether the context has unfinished work to resume; raise if it cannot be run."""
        if ctx is None:
            return False
        if not isinstance(ctx, ContextCore):
            raise ContextStateError(
                f"run(ctx=...) takes a Context, not {describe(ctx)}; give the fields of the start event by name, or the"
                " event as run(start_event=...)"
            )
        if ctx._step is not None:
            raise ContextStateError(
                "run(ctx=...) takes the context of a run that has ended, not that of a step at work"
            )
        port = ctx._port
        if port.graph.name != self._graph.name:
            raise ContextStateError(f"this context belongs to {port.graph.name}, not to {self._graph.name}")
        if isinstance(port, RestingPort) and port.state is None:
            return False
        return bool(port.ask(Inspect(RunState.check_reopen)))

    def _take_state(self, ctx: Any, run_id: str, now: float) -> RunState:
        """Return the state for a new run; a context gives its own away, to one run at a time."""
        timeout, on_stuck = self.timeout, self.on_stuck
        port = None if ctx is None else ctx._port
        store = port.hand_over() if isinstance(port, RestingPort) else None
        if port is None or (isinstance(port, RestingPort) and port.state is None):
            return RunState(self._graph, run_id, timeout=timeout, on_stuck=on_stuck, store=store)
        state: RunState = port.ask(Inspect(lambda state: state.reopen(run_id, timeout, on_stuck)))
        if isinstance(port, RestingPort):
            state.shift_clock(now)
        return state

    def make_start_event(self, start_event: Any, kwargs: dict[str, Any]) -> StartEvent:
        """Return a start event that was given, checked, or one made of its fields. For `run` and `ctx.run`."""
        expected = self._graph.start_event_class
        if start_event is None:
            try:
                return expected(**kwargs)
            except ValidationError as error:
                raise WorkflowRuntimeError(
                    f"cannot make the start event {expected.__name__} of {self._graph.name} from"
                    f" {', '.join(kwargs) or 'no keyword arguments'}: {error}"
                ) from error
        if not isinstance(start_event, expected):
            raise WorkflowRuntimeError(
                f"{self._graph.name} begins with {expected.__name__}; run(start_event=...) was given"
                f" {describe(start_event)}"
            )
        if kwargs:
            raise WorkflowRuntimeError(
                f"run() takes a start event or its fields, not both: put {', '.join(kwargs)} into the start event"
            )
        return start_event

    def function_of(self, name: str) -> Callable[..., Any]:
        """Return the function of a step, bound to this workflow. For the runtime."""
        if self._graph.steps[name].in_workflow:
            return cast("Callable[..., Any]", getattr(self, name))
        return cast("Callable[..., Any]", _find_steps(type(self))[name][0])


def _resources_in(runtime: Runtime, manager: ResourceManager) -> RunResources:
    """Return what the steps of one run depend on."""
    return RunResources(manager, runtime.dispatcher, runtime.root, runtime.open_resources)


def _id_taken(run_id: str) -> WorkflowRuntimeError:
    return WorkflowRuntimeError(f"a run with the id '{run_id}' is going on; choose another run_id")


def _find_steps(cls: type) -> dict[str, tuple[Any, bool]]:
    """Return the step functions of a workflow class by name, and whether each is a method."""
    found: dict[str, tuple[Any, bool]] = {}
    for base in reversed(cls.__mro__):
        for name, attribute in vars(base).items():
            if step_options(attribute) is not None:
                found[name] = (attribute, True)
            else:
                found.pop(name, None)  # A step that is overridden by something else is no step any more.
        for name, function in vars(base).get("_free_steps", {}).items():
            found[name] = (function, False)
    return found


def _find_functions(cls: type) -> list[Any]:
    """Return all functions of a workflow class, steps and helpers, those of `Workflow` itself left out."""
    methods = [
        attribute
        for base in cls.__mro__
        if base not in Workflow.__mro__
        for attribute in vars(base).values()
        if inspect.isfunction(attribute)
    ]
    return methods + [function for function, in_workflow in _find_steps(cls).values() if not in_workflow]


def _unbound_steps(cls: type) -> list[tuple[str, str]]:
    """Return the steps that are static or class methods, by name, with what they are."""
    attributes = {name: attribute for base in reversed(cls.__mro__) for name, attribute in vars(base).items()}
    return [
        (name, type(attribute).__name__)
        for name, attribute in attributes.items()
        if isinstance(attribute, staticmethod | classmethod) and step_options(attribute.__func__) is not None
    ]


def _graph_of(cls: type[Workflow]) -> Graph:
    """Read a class's graph, once for each set of steps."""
    version, graph = cls.__dict__.get("_read_graph", (None, None))
    if graph is None or version != Workflow._version:
        specs, faults = (
            [],
            [
                f"step '{name}' is a {kind}; make it a method, or a free function with @step(workflow={cls.__name__})"
                for name, kind in _unbound_steps(cls)
            ],
        )
        for function, in_workflow in _find_steps(cls).values():
            try:
                specs.append(read_step(function, in_workflow=in_workflow, owner=cls))
            except WorkflowValidationError as error:
                faults += str(error).splitlines()
        if faults:
            raise WorkflowValidationError(f"{cls.__name__} cannot work:\n" + "\n".join(f"  - {f}" for f in faults))
        graph = Graph(cls.__name__, specs, _find_functions(cls), inspect.cleandoc(cls.__doc__) if cls.__doc__ else None)
        cls._read_graph = (Workflow._version, graph)  # type: ignore[attr-defined]
    return cast("Graph", graph)


def _check_options(
    name: str, timeout: Any, num_concurrent_runs: Any, runtime: Any, on_stuck: Any, resource_manager: Any
) -> None:
    faults = []
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0):
        faults.append(f"timeout must be seconds greater than 0, or None, not {timeout!r}")
    if num_concurrent_runs is not None and (
        isinstance(num_concurrent_runs, bool) or not isinstance(num_concurrent_runs, int) or num_concurrent_runs < 1
    ):
        faults.append(f"num_concurrent_runs must be an integer greater than 0, or None, not {num_concurrent_runs!r}")
    if runtime is not None and not isinstance(runtime, Runtime):
        faults.append(f"runtime must be a Runtime, not {describe(runtime)}")
    if on_stuck not in ("fail", "wait"):
        faults.append(f"on_stuck must be 'fail' or 'wait', not {on_stuck!r}")
    if resource_manager is not None and not isinstance(resource_manager, ResourceManager):
        faults.append(f"resource_manager must be a ResourceManager, not {describe(resource_manager)}")
    if faults:
        raise WorkflowValidationError(f"{name}(): " + "; ".join(faults))

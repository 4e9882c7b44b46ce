"""The workflow: a class whose steps make a graph, and whose `run` begins a run."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from pydantic import ValidationError

from greenroom.context_core import ContextCore
from greenroom.discovery import add_free_step, find_steps, read_graph
from greenroom.errors import (
    ContextStateError,
    RunExistsError,
    WorkflowRuntimeError,
    WorkflowValidationError,
)
from greenroom.events import Event, StartEvent, StopEvent
from greenroom.facts import Inspect, RunResumed, RunStarted
from greenroom.graph import Graph, GraphOwner, check_names
from greenroom.handler import Handler
from greenroom.keeper import RunKeeper
from greenroom.launch import begin, id_taken, resources_in
from greenroom.ports import RestingPort
from greenroom.resources import ResourceManager
from greenroom.run_link import RunLink
from greenroom.run_state import OnStuck, RunState
from greenroom.runtime import Runtime, _current, current_runtime
from greenroom.steps import describe

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
        self._graph = cls._class_graph()
        if not disable_validation:
            self.validate()

    @classmethod
    def _class_graph(cls) -> Graph:
        return read_graph(cls, Workflow)

    # -- what it is ----------------------------------------------------------------------------------------------------

    @classmethod
    def add_step(cls, func: Any) -> None:
        """Add a free function that `@step(workflow=...)` decorates. Objects that exist already keep their steps.

        Raises:
            WorkflowValidationError: If it is not decorated, or the class has a step of that name.
        """
        if "_handler_class" in cls.__dict__:  # Workflow, or that of greenroom.aio
            raise WorkflowValidationError("subclass Workflow, and add steps to the subclass")
        add_free_step(cls, func)

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

        return build_graph(cls._class_graph())

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
                resources_in(self._runtime or current_runtime(), manager).rehearse(dependencies)
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
            run_id: An id for the run, unique among those that go on in the runtime; None makes one. With a store the
                run that has this id already, unfinished or ended, is returned, whatever else is given here.
            **kwargs: The fields of the start event.

        Returns:
            The `Handler`.

        Raises:
            WorkflowRuntimeError: If the start event is of the wrong class or has a bad field, or the id is taken.
            RunHeldError: If the store has a run of this id, and another process has that.
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
        elif "\0" in run_id or any("\ud800" <= character <= "\udfff" for character in run_id):
            raise WorkflowRuntimeError(f"run(run_id=...) takes a text that stores can keep, not {run_id!r}")
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
            raise id_taken(run_id)
        state = self._take_state(ctx, run_id, runtime)
        try:
            return begin(self, runtime, state, beginning, ctx)  # pyright: ignore[reportArgumentType]
        except RunExistsError:
            # Another thread or process was quicker by a hair, and with a store the same id is the same run.
            assert runtime.keeper is not None
            known = self._known_run(runtime.keeper, run_id)
            # There is none if the store has failed that other thread.
            return self.run(ctx, start_event, run_id=run_id, **kwargs) if known is None else known

    def _known_run(self, keeper: RunKeeper, run_id: str) -> Handler | None:
        """Return the run of this id that the store has, if it has one: asking twice for a run gives the same run."""
        keeper.know(self)  # pyright: ignore[reportArgumentType]
        return keeper.get(run_id, self.workflow_name)

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

    def _take_state(self, ctx: Any, run_id: str, runtime: Runtime) -> RunState:
        """Return the state for a new run; a context gives its own away, to one run at a time."""
        timeout, on_stuck = self.timeout, self.on_stuck
        port = None if ctx is None else ctx._port
        store = port.hand_over() if isinstance(port, RestingPort) else None
        if port is None or (isinstance(port, RestingPort) and port.state is None):
            return RunState(self._graph, run_id, timeout=timeout, on_stuck=on_stuck, store=store)
        state: RunState = port.ask(Inspect(lambda state: state.reopen(run_id, timeout, on_stuck)))
        if not (isinstance(port, RunLink) and port.runtime is runtime):
            state.shift_clock(runtime.run_time() - port.now())
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
        return cast("Callable[..., Any]", find_steps(type(self))[name][0])


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

"""What the contexts of `def` and of `async def` steps share: all that needs no wait.

A context holds nothing of the run itself. It turns calls into facts and hands them to its port, which takes them to the
run's supervisor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, cast, overload

from typing_extensions import TypeVar

from greenroom.child import begin_child
from greenroom.document import graphs_within, read_document, take_document
from greenroom.errors import ContextStateError, StepCancelled, WorkflowRuntimeError
from greenroom.events import Event, InputRequiredEvent, NeverEvent
from greenroom.facts import CollectAsked, EventArrived, EventSent, EventWritten, Inspect, WaitAsked
from greenroom.fingerprint import find_graphs
from greenroom.graph import EventKind, Graph
from greenroom.named import graphs_named_by, registry_for
from greenroom.ports import HasGraph, RestingPort, RunPort, StepPort, current_step, step_has_ended
from greenroom.snapshot import document_from_dict, document_to_dict, dump_snapshot, load_snapshot
from greenroom.steps import ContextBase, describe

if TYPE_CHECKING:
    from typing import Self

    from greenroom.child import Runnable
    from greenroom.codec import TypeRegistry
    from greenroom.events import StartEvent
    from greenroom.retry import RetryInfo
    from greenroom.run_state import RunState

__all__ = ["ContextCore", "check_sendable"]

# A bare `Context` is one of any state: another step of the workflow may have named the model.
S = TypeVar("S", default=Any)
E = TypeVar("E", bound=Event)
MAX_DELAY = 1e9  # Thirty years; a larger number is a mistake, and the clock cannot add it.


class ContextCore(ContextBase, Generic[S]):
    """What `Context` and `AsyncContext` share: all that needs no wait.

    One object has one of three faces: before the run (made by hand from a workflow), outside (`handler.ctx`), and
    within a step (the step's own parameter). A method used on the wrong face raises `ContextStateError`.
    """

    __slots__ = ("_port", "_step")

    _port: RunPort
    _step: StepPort | None

    def __init__(self, workflow: HasGraph) -> None:
        """Make a context to fill before `workflow.run(ctx=...)`.

        Args:
            workflow: The workflow that it is for.
        """
        self._port = RestingPort(_graph_of(workflow, f"{type(self).__name__}(...)"))
        self._step = None

    @classmethod
    def _of_run(cls, port: RunPort) -> Any:
        context = cls.__new__(cls)
        context._port = port
        context._step = None
        return context

    @classmethod
    def _of_step(cls, port: StepPort) -> Any:
        context = cls.__new__(cls)
        context._port = context._step = port
        return context

    @staticmethod
    def get_step_context() -> Any:
        """Return the context of the step that is running here, for helper functions that are not given it.

        Raises:
            ContextStateError: If no step is running in this thread or task.
        """
        port = current_step.get(None)
        if port is None:
            raise ContextStateError("get_step_context() works only while a step runs, in the thread or task it runs in")
        return port.context

    # -- within a step -------------------------------------------------------------------------------------------------

    def send_event(
        self,
        message: Event,
        step: str | None = None,
        delay: float | None = None,
        dedup_key: str | None = None,
    ) -> None:
        """Send an event into the run.

        Within a step it is delivered after what the step sent before, and before what it returns. From outside the call
        returns when the run has taken the event; one that no step takes is held until a wait claims it.

        Args:
            message: The event.
            step: The name of the one step that shall take it; by default it is routed by its class.
            delay: Seconds to wait before it is delivered. Only within a step.
            dedup_key: Tells the event from all others that are sent to the run: of those with the same key only the
                first counts, however often a sender tries. Only from outside.

        Raises:
            WorkflowRuntimeError: If it is no event, a stop event, or addressed to a step that does not take it, or if
                the run has ended.
        """
        port = self._port
        check_sendable(port.graph, message, step)
        if self._step is None:
            if delay is not None:
                raise ContextStateError("send_event(delay=...) works only from within a step")
            if dedup_key is not None and not isinstance(dedup_key, str):
                raise WorkflowRuntimeError(f"send_event(dedup_key=...) takes a text, not {dedup_key!r}")
            port.ask(EventArrived(message, step, dedup_key))
            return
        if dedup_key is not None:
            raise ContextStateError("send_event(dedup_key=...) works only from outside: what a step sends is sent once")
        if delay is not None and not (isinstance(delay, int | float) and 0 <= delay <= MAX_DELAY):
            raise WorkflowRuntimeError(f"send_event(delay=...) takes seconds, from 0 to {MAX_DELAY:g}, not {delay!r}")
        if self._step.cancelled or self._step.fact is not None:
            self._refuse_to_act()
        self._step.tell(EventSent(self._step.invocation.number, self._step.attempt, message, step, delay))

    def write_event_to_stream(self, ev: Event | None) -> None:
        """Publish an event to those who read the run's stream. No step sees it. None is ignored.

        An `InternalDispatchEvent` reaches only those who read with `expose_internal=True`.

        Raises:
            WorkflowRuntimeError: If it is no event, or a stop event: only the end of the run ends its stream.
        """
        step = self._within_step("write_event_to_stream()")
        if ev is None:
            return
        kind = step.graph.kind(type(ev))
        if kind is EventKind.NONE:
            raise WorkflowRuntimeError(f"write_event_to_stream() takes an event, not {describe(ev)}")
        if kind is EventKind.STOP:
            raise WorkflowRuntimeError(
                f"write_event_to_stream({type(ev).__name__}) would end the stream before the run; return it instead"
            )
        if step.cancelled or step.fact is not None:
            self._refuse_to_act()
        step.tell(EventWritten(step.invocation.number, step.attempt, ev))

    @overload
    def collect_events(
        self, ev: Event, expected: list[type[E]] | Mapping[type[E], int], buffer_id: str | None = None
    ) -> list[E] | None: ...

    @overload  # for mypy, which takes a list of different classes for one of metaclasses
    def collect_events(  # pyright: ignore[reportOverlappingOverload]
        self, ev: Event, expected: list[type[Any]] | Mapping[type[Any], int], buffer_id: str | None = None
    ) -> list[Any] | None: ...

    def collect_events(
        self, ev: Event, expected: list[Any] | Mapping[Any, int], buffer_id: str | None = None
    ) -> list[Any] | None:
        """Count an event in, and take the batch out once all that is expected has come.

        Each event counts once, however many workers the step has, and exactly one invocation is handed the batch.

        Args:
            ev: The event, as a rule the one that the step was given. One of no expected class is not kept.
            expected: The classes that make a batch, one for each event; or how many of each class, as `{Result: 100}`.
            buffer_id: Tells several collections of one step apart.

        Returns:
            The batch in the order asked, equal classes in the order they came; None while it is not complete. Surplus
            events wait for the next batch.

        Example:
            >>> from greenroom import Context, Event, StartEvent, StopEvent, Workflow, step
            >>> class Part(Event):
            ...     n: int
            >>> class Sum(Workflow):
            ...     @step
            ...     def split(self, ctx: Context, ev: StartEvent) -> Part | None:
            ...         for n in range(3):
            ...             ctx.send_event(Part(n=n))
            ...         return None
            ...     @step
            ...     def join(self, ctx: Context, ev: Part) -> StopEvent | None:
            ...         parts = ctx.collect_events(ev, {Part: 3})
            ...         return parts and StopEvent(result=sum(part.n for part in parts))
            >>> Sum().run().result()
            3
        """
        step = self._within_step("collect_events()")
        _check_expected(step.graph, ev, expected)
        if buffer_id is not None and not isinstance(buffer_id, str):
            raise WorkflowRuntimeError(f"collect_events(buffer_id=...) takes a text, not {buffer_id!r}")
        invocation = step.invocation
        return cast(
            "list[Any] | None",
            step.ask(
                CollectAsked(
                    invocation.number, step.attempt, ev, ev is invocation.event, expected, buffer_id or "default"
                )
            ),
        )

    def _wait_fact(
        self,
        event_type: Any,
        request: Event | None,
        name: str | None,
        requirements: Mapping[str, Any] | None,
        timeout: float | None,
        *,
        asks: bool,
    ) -> tuple[StepPort, WaitAsked]:
        method = "ask" if asks else "wait_for_event"
        step = self._within_step(f"{method}()")
        kind = EventKind.NONE if not isinstance(event_type, type) else step.graph.kind(event_type)
        if kind is EventKind.NONE or kind is EventKind.STOP:
            raise WorkflowRuntimeError(f"{method}() waits for an event of a class, not for {event_type!r}")
        if request is not None and step.graph.kind(type(request)) in (EventKind.NONE, EventKind.STOP):
            raise WorkflowRuntimeError(f"{method}() publishes an event, not {describe(request)}")
        if timeout is not None and not (isinstance(timeout, int | float) and timeout >= 0):
            raise WorkflowRuntimeError(f"{method}(timeout=...) takes seconds, 0 or more, or None, not {timeout!r}")
        name = name if name is not None else ("ask" if asks else f"wait for {event_type.__qualname__}")
        is_question = asks or isinstance(request, InputRequiredEvent)
        key = f"{name}#{step.nth(name)}"
        invocation = step.invocation
        return step, WaitAsked(
            invocation.number, step.attempt, key, event_type, requirements or {}, timeout, request, is_question
        )

    def _sleep_fact(self, seconds: float | None, until: datetime | None) -> tuple[StepPort, WaitAsked]:
        step = self._within_step("sleep()")
        if (seconds is None) == (until is None):
            raise WorkflowRuntimeError("sleep() takes either seconds or until=..., a time of day")
        if until is not None:
            if not isinstance(until, datetime) or until.tzinfo is None:
                raise WorkflowRuntimeError(f"sleep(until=...) takes a datetime with a time zone, not {until!r}")
            seconds = max(0.0, (until - step.wall_time()).total_seconds())
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= MAX_DELAY:
            raise WorkflowRuntimeError(f"sleep(...) takes seconds, from 0 to {MAX_DELAY:g}, not {seconds!r}")
        return self._wait_fact(NeverEvent, None, "sleep", None, seconds, asks=False)

    def _begin_child(
        self, workflow: Runnable, start_event: StartEvent | None, run_id: str | None, fields: dict[str, Any]
    ) -> tuple[StepPort, str, str, Any]:
        step = self._within_step("run()")
        if step.cancelled or step.fact is not None:
            self._refuse_to_act()
        return step, *begin_child(step, workflow, start_event, run_id, fields)

    def retry_info(self) -> RetryInfo:
        """Return which attempt this is and why the last one failed."""
        return self._within_step("retry_info()").retry_info

    @property
    def cancelled(self) -> bool:
        """Whether the result of this step is no longer wanted. A long `def` step looks at it now and then."""
        step = self._within_step("cancelled")
        step.checkpoint()
        return step.cancelled

    def check_cancelled(self) -> None:
        """Raise `StepCancelled`, which unwinds the step, if its result is no longer wanted."""
        step = self._within_step("check_cancelled()")
        step.checkpoint()
        if step.cancelled:
            raise StepCancelled("the run has ended or was cancelled, or the step took longer than its timeout")

    # -- outside -------------------------------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether the run is going on."""
        return self._port.is_running

    def _running_fact(self) -> Inspect:
        if self._step is not None:
            raise ContextStateError("running_steps() is for handler.ctx, not for the context of a step")
        return Inspect(lambda state: state.active_steps)

    # -- snapshots -----------------------------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        """Return all that the run is, as bytes, to be put away and gone on with by `Context.restore`, in any process.

        It can be taken at any time: before the run, while it goes on, and after its end.

        Raises:
            ContextSerdeError: If the run holds something that cannot be encoded; the message starts with its path.

        Example:
            >>> from greenroom import Context, StartEvent, StopEvent, Workflow, step
            >>> class Count(Workflow):
            ...     @step
            ...     def count(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ...         ctx.store.set("count", ctx.store.get("count", 0) + 1)
            ...         return StopEvent(result=ctx.store.get("count"))
            >>> workflow = Count()
            >>> handler = workflow.run()
            >>> handler.result()
            1
            >>> data = handler.ctx.snapshot()
            >>> workflow.run(ctx=Context.restore(workflow, data)).result()
            2
        """
        return cast("bytes", self._take(dump_snapshot))

    def to_dict(self) -> dict[str, Any]:
        """Return the snapshot as values that `json.dumps` takes; see `snapshot` and `from_dict`."""
        return cast("dict[str, Any]", self._take(document_to_dict))

    @classmethod
    def restore(cls, workflow: HasGraph, data: bytes) -> Self:
        """Return the context of a run that was put away; `workflow.run(ctx=...)` goes on with it.

        Nothing is imported or run: only classes that the workflow's code names, or that were registered with
        `greenroom.codec.register_type`, are built.

        Args:
            workflow: The workflow that the snapshot is of.
            data: What `snapshot` returned.

        Raises:
            ContextSerdeError: If the bytes are damaged, of a newer format, of another workflow, or if the workflow's
                graph has changed; the message lists the differences.
        """
        graph = _graph_of(workflow, "Context.restore(...)")
        named = graphs_named_by(workflow)
        registry = registry_for(graph, *named)
        document = load_snapshot(graph, data, registry, named)
        within = find_graphs(document, named, graph, registry)
        return cast("Self", cls._of_run(RestingPort.of(read_document(graph, document, registry, within))))

    @classmethod
    def from_dict(cls, workflow: HasGraph, data: Mapping[str, Any]) -> Self:
        """Return the context of a run that was put away by `to_dict`; see `restore`."""
        graph = _graph_of(workflow, "Context.from_dict(...)")
        named = graphs_named_by(workflow)
        registry = registry_for(graph, *named)
        document = document_from_dict(graph, data, registry, named)
        within = find_graphs(document, named, graph, registry)
        return cast("Self", cls._of_run(RestingPort.of(read_document(graph, document, registry, within))))

    def _take(self, encode: Callable[[dict[str, Any], TypeRegistry], Any]) -> Any:
        if self._step is not None:
            raise ContextStateError("a snapshot is taken from outside, of handler.ctx, not from within a step")
        now, registry = self._port.now(), registry_for(self._port.graph)

        def take(state: RunState) -> Any:
            known = registry_for(state.graph, *graphs_within(state)) if state.children else registry
            return encode(take_document(state, now), known)

        # Encoded in the supervisor's turn, so that all of it is of one moment.
        return self._port.ask(Inspect(take))

    # -- inside help ---------------------------------------------------------------------------------------------------

    def _refuse_to_act(self) -> None:
        """Raise for a step that was cancelled, or whose context outlived it."""
        self.check_cancelled()
        assert self._step is not None
        raise step_has_ended(self._step)

    def _within_step(self, name: str) -> StepPort:
        if self._step is None:
            raise ContextStateError(f"ctx.{name} works only within a step, on the context that the step was given")
        return self._step


def _graph_of(workflow: Any, call: str) -> Graph:
    graph = getattr(workflow, "_graph", None)
    if isinstance(workflow, type) or not isinstance(graph, Graph):
        given = f"the class {workflow.__name__}" if isinstance(workflow, type) else type(workflow).__name__
        raise ContextStateError(f"{call} takes the workflow object that it is for, not {given}")
    return graph


def check_sendable(graph: Graph, event: Any, step: str | None) -> None:
    """Raise if an event cannot be sent into a run, or not to the step that is named."""
    kind = graph.kind(type(event))
    if kind is EventKind.NONE:
        raise WorkflowRuntimeError(f"send_event() takes an event, not {describe(event)}")
    if kind is EventKind.STOP:
        raise WorkflowRuntimeError(
            f"send_event({type(event).__name__}) would not end the run: return the stop event from a step"
        )
    if step is not None:
        fault = graph.check_target(step, type(event))
        if fault is not None:
            raise WorkflowRuntimeError(f"send_event({type(event).__name__}): {fault}")


def _check_expected(graph: Graph, event: Any, expected: Any) -> None:
    if graph.kind(type(event)) is EventKind.NONE:
        raise WorkflowRuntimeError(f"collect_events() counts an event in, not {describe(event)}")
    if isinstance(expected, Mapping):
        for count in expected.values():
            if type(count) is not int or count < 1:
                raise WorkflowRuntimeError(f"collect_events() expects 1 or more of each class, not {count!r}")
    elif not isinstance(expected, list | tuple):
        raise WorkflowRuntimeError(
            f"collect_events() expects a list of event classes or {{class: count}}, not {describe(expected)}"
        )
    for cls in expected:
        if not isinstance(cls, type) or graph.kind(cls) is EventKind.NONE:
            raise WorkflowRuntimeError(f"collect_events() expects event classes, not {cls!r}")

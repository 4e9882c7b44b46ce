"""The context: what a step, or whoever holds the run's handler, can do with a run.

A context holds nothing of the run itself. It turns calls into facts and hands them to its port, which takes them to the
run's supervisor. `Context` blocks where an answer is needed; `AsyncContext` is awaited there.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Generic, cast, overload

from typing_extensions import TypeVar

from greenroom.child import AsyncChildRun, ChildRun, begin_child
from greenroom.document import graphs_within, read_document, take_document
from greenroom.errors import ContextStateError, StepCancelled, WorkflowRuntimeError
from greenroom.events import Event, HumanResponseEvent, InputRequiredEvent, NeverEvent
from greenroom.facts import CollectAsked, EventArrived, EventSent, EventWritten, Inspect, OnceAsked, OnceDone, WaitAsked
from greenroom.graph import EventKind, Graph
from greenroom.named import graphs_named_by, registry_for
from greenroom.ports import HasGraph, RestingPort, RunPort, StepPort, current_step, step_has_ended
from greenroom.snapshot import document_from_dict, document_to_dict, dump_snapshot, load_snapshot
from greenroom.steps import ContextBase, describe
from greenroom.store import AsyncStore, Store

if TYPE_CHECKING:
    from typing import Self

    from greenroom.child import Runnable
    from greenroom.codec import TypeRegistry
    from greenroom.events import StartEvent
    from greenroom.retry import RetryInfo
    from greenroom.run_state import RunState

__all__ = ["AsyncContext", "AsyncStore", "Context", "ContextCore", "RunPort", "StepPort", "Store", "current_step"]

# A bare `Context` is one of any state: another step of the workflow may have named the model.
S = TypeVar("S", default=Any)
E = TypeVar("E", bound=Event)
T = TypeVar("T")
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
        return cast("Self", cls._of_run(RestingPort.of(read_document(graph, document, registry, named))))

    @classmethod
    def from_dict(cls, workflow: HasGraph, data: Mapping[str, Any]) -> Self:
        """Return the context of a run that was put away by `to_dict`; see `restore`."""
        graph = _graph_of(workflow, "Context.from_dict(...)")
        named = graphs_named_by(workflow)
        registry = registry_for(graph, *named)
        document = document_from_dict(graph, data, registry, named)
        return cast("Self", cls._of_run(RestingPort.of(read_document(graph, document, registry, named))))

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


class Context(ContextCore[S]):
    """The context of a `def` step, and of code that waits by blocking. Annotate it as `Context` or `Context[State]`.

    Example:
        >>> from greenroom import Context, StartEvent, StopEvent, Workflow, step
        >>> class Count(Workflow):
        ...     @step
        ...     def count(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ...         ctx.store.set("count", ctx.store.get("count", 0) + 1)
        ...         return StopEvent(result=ctx.store.get("count"))
        >>> Count().run().result()
        1
    """

    __slots__ = ()
    for_async_steps: ClassVar[bool] = False

    def sleep(self, seconds: float | None = None, *, until: datetime | None = None) -> None:
        """Wait here for a time. As any wait it costs no worker, and with a store it outlives the process.

        Args:
            seconds: How long, from 0 to 1e9.
            until: Or until when: a datetime with a time zone. One that is past waits no time.

        Raises:
            WorkflowRuntimeError: If neither or both are given, or one is out of range.

        Example:
            >>> from datetime import datetime, timedelta, timezone
            >>> from greenroom import Context, StartEvent, StopEvent, Workflow, step
            >>> class Later(Workflow):
            ...     @step
            ...     def wait(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ...         ctx.sleep(0.01)
            ...         ctx.sleep(until=datetime.now(timezone.utc) + timedelta(seconds=0.01))
            ...         return StopEvent(result="rested")
            >>> Later().run().result()
            'rested'
        """
        step, fact = self._sleep_fact(seconds, until)
        with contextlib.suppress(TimeoutError):
            step.wait(fact)

    def wait_for_event(
        self,
        event_type: type[E],
        waiter_event: Event | None = None,
        waiter_id: str | None = None,
        requirements: Mapping[str, Any] | None = None,
        timeout: float | None = 2000,
    ) -> E:
        """Wait here until an event comes, from another step or from outside.

        The step stands still at this line: its worker takes other events meanwhile, and no deadline runs. A
        `HumanResponseEvent` answers one wait, the oldest that matches; any other event answers every wait that matches.

        Args:
            event_type: The class to wait for; subclasses match as well.
            waiter_event: An event to stream once, when the wait is registered; an `InputRequiredEvent` is also listed
                among the open questions.
            waiter_id: A name for this wait, which finds it again when the step runs anew after a restore. Needed only
                where the order of several waits may differ from one run of the body to the next.
            requirements: What the event's fields, declared or not, must be.
            timeout: Seconds to wait at most; None waits as long as it takes.

        Returns:
            The event.

        Raises:
            TimeoutError: If no event came in time.

        Example:
            >>> from greenroom import Context, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent
            >>> from greenroom import Workflow, step
            >>> class Name(Workflow):
            ...     @step
            ...     def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ...         question = InputRequiredEvent(prefix="Your name? ")
            ...         answer = ctx.wait_for_event(HumanResponseEvent, waiter_event=question)
            ...         return StopEvent(result=f"Hello {answer.response}")
            >>> handler = Name().run()
            >>> handler.send_event(HumanResponseEvent(response="Ada"))
            >>> handler.result()
            'Hello Ada'
        """
        step, fact = self._wait_fact(event_type, waiter_event, waiter_id, requirements, timeout, asks=False)
        return cast("E", step.wait(fact))

    @overload
    def ask(self, request: Event, *, timeout: float | None = None, key: str | None = None) -> HumanResponseEvent: ...

    @overload
    def ask(self, request: Event, response: type[E], timeout: float | None = None, key: str | None = None) -> E: ...

    def ask(
        self, request: Event, response: type[Any] | None = None, timeout: float | None = None, key: str | None = None
    ) -> Any:
        """Ask a person and wait here for the answer.

        The request is streamed under an `input_id` of its own and listed in `handler.pending_inputs()` until it is
        answered with `handler.respond(input_id, ...)`, which checks the answer first.

        Args:
            request: The question, as an event.
            response: The class of the answer; `HumanResponseEvent` by default.
            timeout: Seconds to wait at most; None waits as long as it takes.
            key: A name for this question; see `waiter_id` of `wait_for_event`.

        Returns:
            The answer, an object of the response class.

        Raises:
            TimeoutError: If nobody answered in time.

        Example:
            >>> from greenroom import Context, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent
            >>> from greenroom import Workflow, step
            >>> class Approval(HumanResponseEvent):
            ...     approved: bool
            >>> class Pay(Workflow):
            ...     @step
            ...     def pay(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ...         answer = ctx.ask(InputRequiredEvent(amount=ev.amount), Approval)
            ...         return StopEvent(result="paid" if answer.approved else "refused")
            >>> handler = Pay().run(amount=100)
            >>> question = next(event for event in handler.stream_events() if isinstance(event, InputRequiredEvent))
            >>> handler.respond(question.input_id, {"approved": True})
            >>> handler.result()
            'paid'
        """
        wanted = response if response is not None else HumanResponseEvent
        step, fact = self._wait_fact(wanted, request, key, None, timeout, asks=True)
        return step.wait(fact)

    def once(self, key: str, fn: Callable[..., T], *args: Any) -> T:
        """Do something that must not be done again when the step runs anew, as after a crash or a retry.

        Args:
            key: A name for it, unique within the step.
            fn: What to do. If it raises, it counts as not done.
            *args: Its arguments.

        Returns:
            What it returned, now or the first time.

        Example:
            >>> from greenroom import Context, StartEvent, StopEvent, Workflow, step
            >>> class Charge(Workflow):
            ...     @step
            ...     def charge(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ...         receipt = ctx.once("charge", lambda amount: f"charged {amount}", ev.amount)
            ...         return StopEvent(result=receipt)
            >>> Charge().run(amount=5).result()
            'charged 5'
        """
        step = self._within_step("once()")
        number, attempt = step.invocation.number, step.attempt
        is_done, result = step.ask(OnceAsked(number, attempt, _checked_key(key)))
        if not is_done:
            result = fn(*args)
            step.ask(OnceDone(number, attempt, key, result))
        return cast("T", result)

    def running_steps(self) -> list[str]:
        """Return the names of the steps that have an invocation running, in alphabetical order."""
        return cast("list[str]", self._port.ask(self._running_fact()))

    def run(
        self, workflow: Runnable, start_event: StartEvent | None = None, *, run_id: str | None = None, **kwargs: Any
    ) -> ChildRun:
        """Begin a run within this one, and return at once.

        The child belongs to this run: it is cancelled, timed out and put away with it, its questions are among this
        run's, and `stream_events(include_children=True)` shows what it streams. The step ends when its children have
        ended; one that fails and whose result was not asked for fails the step. See docs/children.md.

        Args:
            workflow: What to run. Its steps may be `def` or `async def`.
            start_event: The start event; or give its fields as keyword arguments.
            run_id: An id for the child; None makes one. Where several tasks of a step begin children in an order that
                may differ when the step runs anew, it finds each of them again.
            **kwargs: The fields of the start event.

        Returns:
            The child. Children that are begun before the first result is asked for run side by side.

        Raises:
            ContextStateError: If it is no workflow object.
            WorkflowRuntimeError: If the start event is of the wrong class or has a bad field.

        Example:
            >>> from greenroom import Context, StartEvent, StopEvent, Workflow, step
            >>> class Sum(Workflow):
            ...     @step
            ...     def add(self, ev: StartEvent) -> StopEvent:
            ...         return StopEvent(result=sum(ev.numbers))
            >>> class Bill(Workflow):
            ...     @step
            ...     def total(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ...         total = ctx.run(Sum(), numbers=[1, 2, 3]).result()
            ...         return StopEvent(result=f"{total} in all")
            >>> Bill().run().result()
            '6 in all'
        """
        return ChildRun(*self._begin_child(workflow, start_event, run_id, kwargs))

    @property
    def store(self) -> Store[S]:
        """The state that the steps of the run share."""
        return Store(self)


class AsyncContext(ContextCore[S]):
    """The context of an `async def` step: `greenroom.aio.Context`. Its store is awaited."""

    __slots__ = ()
    for_async_steps: ClassVar[bool] = True

    async def sleep(self, seconds: float | None = None, *, until: datetime | None = None) -> None:
        """Wait here for a time; see `Context.sleep`."""
        step, fact = self._sleep_fact(seconds, until)
        with contextlib.suppress(TimeoutError):
            await step.wait_async(fact)

    async def wait_for_event(
        self,
        event_type: type[E],
        waiter_event: Event | None = None,
        waiter_id: str | None = None,
        requirements: Mapping[str, Any] | None = None,
        timeout: float | None = 2000,
    ) -> E:
        """Wait here until an event comes; see `Context.wait_for_event`."""
        step, fact = self._wait_fact(event_type, waiter_event, waiter_id, requirements, timeout, asks=False)
        return cast("E", await step.wait_async(fact))

    @overload
    async def ask(
        self, request: Event, *, timeout: float | None = None, key: str | None = None
    ) -> HumanResponseEvent: ...

    @overload
    async def ask(
        self, request: Event, response: type[E], timeout: float | None = None, key: str | None = None
    ) -> E: ...

    async def ask(
        self, request: Event, response: type[Any] | None = None, timeout: float | None = None, key: str | None = None
    ) -> Any:
        """Ask a person and wait here for the answer; see `Context.ask`."""
        wanted = response if response is not None else HumanResponseEvent
        step, fact = self._wait_fact(wanted, request, key, None, timeout, asks=True)
        return await step.wait_async(fact)

    @overload
    async def once(self, key: str, fn: Callable[..., Awaitable[T]], *args: Any) -> T: ...

    @overload
    async def once(self, key: str, fn: Callable[..., T], *args: Any) -> T: ...

    async def once(self, key: str, fn: Callable[..., Any], *args: Any) -> Any:
        """Do something that must not be done again when the step runs anew; see `Context.once`. `fn` may be async."""
        step = self._within_step("once()")
        number, attempt = step.invocation.number, step.attempt
        is_done, result = await step.ask_async(OnceAsked(number, attempt, _checked_key(key)))
        if not is_done:
            result = fn(*args)
            if inspect.isawaitable(result):
                result = await result
            await step.ask_async(OnceDone(number, attempt, key, result))
        return result

    async def running_steps(self) -> list[str]:
        """Return the names of the steps that have an invocation running; see `Context.running_steps`."""
        return cast("list[str]", await self._port.ask_async(self._running_fact()))

    def run(
        self, workflow: Runnable, start_event: StartEvent | None = None, *, run_id: str | None = None, **kwargs: Any
    ) -> AsyncChildRun:
        """Begin a run within this one, and return at once: `await` what it returns; see `Context.run`."""
        return AsyncChildRun(*self._begin_child(workflow, start_event, run_id, kwargs))

    @property
    def store(self) -> AsyncStore[S]:
        """The state that the steps of the run share."""
        return AsyncStore(self)


def _graph_of(workflow: Any, call: str) -> Graph:
    graph = getattr(workflow, "_graph", None)
    if isinstance(workflow, type) or not isinstance(graph, Graph):
        given = f"the class {workflow.__name__}" if isinstance(workflow, type) else type(workflow).__name__
        raise ContextStateError(f"{call} takes the workflow object that it is for, not {given}")
    return graph


def _checked_key(key: Any) -> str:
    if not isinstance(key, str) or not key:
        raise WorkflowRuntimeError(f"once() takes a key that is a text and not empty, not {key!r}")
    return key


def check_sendable(graph: Graph, event: Any, step: str | None) -> None:
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

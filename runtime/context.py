"""The context: what a step, or whoever holds the run's handler, can do with a run.

`Context` blocks where an answer is needed; `AsyncContext` is awaited there.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, cast, overload

from typing_extensions import TypeVar

from greenroom.child import AsyncChildRun, ChildRun
from greenroom.context_core import ContextCore
from greenroom.errors import WorkflowRuntimeError
from greenroom.events import Event, HumanResponseEvent
from greenroom.facts import OnceAsked, OnceDone
from greenroom.store import AsyncStore, Store

if TYPE_CHECKING:
    from greenroom.child import Runnable
    from greenroom.events import StartEvent

__all__ = ["AsyncContext", "Context"]

S = TypeVar("S", default=Any)
E = TypeVar("E", bound=Event)
T = TypeVar("T")


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


def _checked_key(key: Any) -> str:
    if not isinstance(key, str) or not key:
        raise WorkflowRuntimeError(f"once() takes a key that is a text and not empty, not {key!r}")
    return key

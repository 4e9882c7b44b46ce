"""The same API for code that awaits: `from greenroom.aio import Workflow, Context, ...`.

It has every name that `greenroom` has, so that one import line will do. An `async def` step is given this module's
`Context`, in whatever workflow. This module's `Workflow` hands it also to whoever calls `run()`, as `handler.ctx`, and
its handler's `cancel_run`, `send_event`, `respond` and `stop_event_result` are awaited.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from greenroom.child import AsyncChildRun as ChildRun
from greenroom.collect import All, Collect, Take
from greenroom.context import AsyncContext as Context
from greenroom.context_core import ContextCore, check_sendable
from greenroom.errors import (
    ContextSerdeError,
    ContextStateError,
    DeadlockError,
    GreenroomError,
    InputAnsweredError,
    InputError,
    InputExpiredError,
    InvalidResponseError,
    RuntimeForkedError,
    RuntimeShutdownError,
    StepCancelled,
    StepTimeoutError,
    UnknownInputError,
    WorkflowCancelledByUser,
    WorkflowConfigurationError,
    WorkflowRuntimeError,
    WorkflowStuckError,
    WorkflowTimeoutError,
    WorkflowValidationError,
)
from greenroom.events import (
    CollectionReleaseEvent,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StepFailedEvent,
    StepState,
    StepStateChanged,
    StopEvent,
    UnhandledEvent,
    WorkflowCancelledEvent,
    WorkflowFailedEvent,
    WorkflowIdleEvent,
    WorkflowTimedOutEvent,
)
from greenroom.facts import EventArrived, Inspect, Responded
from greenroom.handler import Handler as BlockingHandler
from greenroom.inputs import PendingInput
from greenroom.outcome import DeadLetter
from greenroom.run_state import find_question
from greenroom.runtime import Runtime
from greenroom.state import DictState
from greenroom.steps import catch_error, step
from greenroom.workflow import Workflow as BlockingWorkflow

__all__ = [
    "All",
    "ChildRun",
    "Collect",
    "CollectionReleaseEvent",
    "Context",
    "ContextSerdeError",
    "ContextStateError",
    "DeadLetter",
    "DeadlockError",
    "DictState",
    "Event",
    "GreenroomError",
    "Handler",
    "HumanResponseEvent",
    "InputAnsweredError",
    "InputError",
    "InputExpiredError",
    "InputRequiredEvent",
    "InvalidResponseError",
    "PendingInput",
    "Runtime",
    "RuntimeForkedError",
    "RuntimeShutdownError",
    "StartEvent",
    "StepCancelled",
    "StepFailedEvent",
    "StepState",
    "StepStateChanged",
    "StepTimeoutError",
    "StopEvent",
    "Take",
    "UnhandledEvent",
    "UnknownInputError",
    "Workflow",
    "WorkflowCancelledByUser",
    "WorkflowCancelledEvent",
    "WorkflowConfigurationError",
    "WorkflowFailedEvent",
    "WorkflowIdleEvent",
    "WorkflowRuntimeError",
    "WorkflowStuckError",
    "WorkflowTimedOutEvent",
    "WorkflowTimeoutError",
    "WorkflowValidationError",
    "catch_error",
    "step",
]


class Handler(BlockingHandler):
    """The handler of a run, for code that awaits. `await handler` gives the result.

    Example:
        >>> import asyncio
        >>> from greenroom.aio import StartEvent, StopEvent, Workflow, step
        >>> class Double(Workflow):
        ...     @step
        ...     async def double(self, ev: StartEvent) -> StopEvent:
        ...         return StopEvent(result=2 * ev.n)
        >>> async def main():
        ...     return await Double().run(n=21)
        >>> asyncio.run(main())
        42
    """

    _context_class: type[ContextCore[Any]] = Context

    async def cancel_run(self, timeout: float = 5.0) -> None:  # type: ignore[override]  # awaited, as all here
        """End the run; see `greenroom.Handler.cancel_run`."""
        self._ask_cancel()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._await_end(), timeout)

    async def send_event(  # type: ignore[override]
        self, event: Event, step: str | None = None, dedup_key: str | None = None
    ) -> None:
        """Send an event into the run; see `greenroom.Context.send_event`."""
        check_sendable(self._link.graph, event, step)
        await self._link.ask_async(EventArrived(event, step, dedup_key))

    async def respond(self, input_id: str, response: Event | Mapping[str, Any]) -> None:  # type: ignore[override]
        """Answer a question; see `greenroom.Handler.respond`."""
        if self.has_ended():
            await asyncio.to_thread(self._refuse_late_answer, input_id)
        question = await self._link.ask_async(Inspect(lambda state: find_question(state, input_id)))
        await self._link.ask_async(Responded(input_id, self._checked_response(question, response)))

    async def stop_event_result(self) -> StopEvent:  # type: ignore[override]
        """Await the end, raise what `await handler` raises, and return the stop event itself."""
        await self
        return super().stop_event_result(timeout=0)


class Workflow(BlockingWorkflow):
    """A workflow whose `run` returns a handler for code that awaits. Its steps may be `async def` or `def`."""

    _handler_class: ClassVar[type[BlockingHandler]] = Handler

    async def close(self) -> None:  # type: ignore[override]  # awaited, as all here
        """Close the resources that are open for the workflow; see `greenroom.Workflow.close`."""
        await asyncio.to_thread(super().close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    if TYPE_CHECKING:

        def run(
            self,
            ctx: ContextCore[Any] | None = None,
            start_event: StartEvent | None = None,
            *,
            run_id: str | None = None,
            **kwargs: Any,
        ) -> Handler: ...

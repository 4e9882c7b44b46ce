"""The test runner for code that awaits: `from greenroom.testing.aio import WorkflowTestRunner`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from greenroom.context_core import ContextCore
from greenroom.events import Event, StartEvent
from greenroom.testing.runner import DEFAULT_TIMEOUT, Answer, Trial, WorkflowTestResult
from greenroom.workflow import Workflow

__all__ = ["WorkflowTestResult", "WorkflowTestRunner"]


class WorkflowTestRunner:
    """Runs a workflow to its end, and keeps all that it streamed; see `greenroom.testing.WorkflowTestRunner`.

    Example:
        >>> import asyncio
        >>> from greenroom.aio import StartEvent, StopEvent, Workflow, step
        >>> class Double(Workflow):
        ...     @step
        ...     async def double(self, ev: StartEvent) -> StopEvent:
        ...         return StopEvent(result=2 * ev.n)
        >>> async def test_double():
        ...     test = await WorkflowTestRunner(Double()).run(StartEvent(n=21), expose_internal=False)
        ...     return test.result, test.event_types
        >>> asyncio.run(test_double())
        (42, {<class 'greenroom.events.StopEvent'>: 1})
    """

    def __init__(self, workflow: Workflow) -> None:
        """Make a runner.

        Args:
            workflow: The workflow, which may be run any number of times.
        """
        self._workflow = workflow

    async def run(
        self,
        start_event: StartEvent | None = None,
        ctx: ContextCore[Any] | None = None,
        expose_internal: bool = True,
        exclude_events: Collection[type[Event]] | None = None,
        *,
        answers: Mapping[type[Any], Answer] | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
    ) -> WorkflowTestResult:
        """Run the workflow, and return when it has ended; see `greenroom.testing.WorkflowTestRunner.run`."""
        with Trial(self._workflow, start_event, ctx, exclude_events, answers, timeout) as trial:
            trial.answer_earlier()
            async for event in trial.handler.stream_events(expose_internal=expose_internal):
                trial.take(event)
            return trial.outcome(await trial.handler)

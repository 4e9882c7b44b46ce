"""Runs that a step begins within its own: what `ctx.run(...)` returns.

A child run is used from within the step that began it, in the thread or task of that step or in those that it starts
and waits for. It holds nothing of the run: each call is a fact for the supervisor, which owns the child and its parent.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from greenroom.child_facts import ChildAsked, ChildAwaited, ChildCancelAsked
from greenroom.errors import ContextStateError, WorkflowRuntimeError
from greenroom.graph import Graph
from greenroom.ports import Cast, HasGraph, StepPort
from greenroom.steps import describe

if TYPE_CHECKING:
    from greenroom.events import StartEvent
    from greenroom.resources import ResourceManager
    from greenroom.run_state import OnStuck

__all__ = ["AsyncChildRun", "ChildRun", "ChildRunCore", "Runnable", "begin_child"]


class Runnable(HasGraph, Protocol):
    """What a context needs to know of a workflow to run it within another run."""

    timeout: float | None

    @property
    def on_stuck(self) -> OnStuck:
        """What to do with a run that nothing can end any more."""
        ...

    @property
    def wanted_resources(self) -> ResourceManager | None:
        """What holds the resources that steps depend on, or None if they depend on nothing."""
        ...

    def make_start_event(self, start_event: Any, kwargs: dict[str, Any]) -> StartEvent:
        """Return the start event, checked, or made of its fields."""
        ...

    def function_of(self, name: str) -> Callable[..., Any]:
        """Return the function of a step, bound to the workflow."""
        ...


class _Status:
    """Is told how a child ended, by the supervisor in its turn; read by whoever asks for it."""

    value = "running"

    def set(self, value: str) -> None:
        self.value = value

    def set_exception(self, error: Any) -> None:
        self.value = "cancelled"  # The run has left this process, and the child with it.


class ChildRunCore:
    """What `ChildRun` and `AsyncChildRun` share.

    Attributes:
        run_id: The child's id.
    """

    def __init__(self, port: StepPort, name: str, run_id: str, status: _Status) -> None:
        self.run_id = run_id
        self._port = port
        self._name = name
        self._status = status

    def __repr__(self) -> str:
        return f"<{type(self).__name__} '{self.run_id}': {self.status}>"

    @property
    def status(self) -> str:
        """How the child is doing: "running", "completed", "failed", "timed_out" or "cancelled"."""
        return self._status.value

    def cancel(self) -> None:
        """End the child: its `result()` then raises `WorkflowCancelledByUser`. Nothing happens if it has ended."""
        port = self._port
        port.tell(ChildCancelAsked(port.invocation.number, port.attempt, self._name))

    def _awaited(self, timeout: float | None) -> ChildAwaited:
        if timeout is not None and not (isinstance(timeout, int | float) and timeout >= 0):
            raise WorkflowRuntimeError(f"result(timeout=...) takes seconds, 0 or more, or None, not {timeout!r}")
        port = self._port
        nth = port.nth(f"result of {self._name}")
        return ChildAwaited(port.invocation.number, port.attempt, self._name, nth, timeout)


class ChildRun(ChildRunCore):
    """A run within a run, as the `def` step that began it sees it.

    Attributes:
        run_id: The child's id.

    Example:
        >>> from greenroom import Context, StartEvent, StopEvent, Workflow, step
        >>> class Square(Workflow):
        ...     @step
        ...     def square(self, ev: StartEvent) -> StopEvent:
        ...         return StopEvent(result=ev.n * ev.n)
        >>> class Squares(Workflow):
        ...     @step
        ...     def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ...         runs = [ctx.run(Square(), n=n) for n in ev.numbers]  # side by side
        ...         return StopEvent(result=[run.result() for run in runs])
        >>> Squares().run(numbers=[1, 2, 3]).result()
        [1, 4, 9]
    """

    def result(self, timeout: float | None = None) -> Any:
        """Wait here for the child to end, and return its result.

        The step stands still at this line, as at a wait: its worker takes other events meanwhile.

        Args:
            timeout: Seconds to wait at most; None waits as long as it takes.

        Returns:
            The result of a plain StopEvent; of a subclass, the event itself.

        Raises:
            TimeoutError: If the child has not ended in time. It goes on.
            WorkflowTimeoutError: If it was at work for longer than its own `Workflow(timeout=...)` allows.
            WorkflowCancelledByUser: If it was cancelled.
            Exception: What a step of the child raised, unchanged.
        """
        return self._port.wait(self._awaited(timeout))


class AsyncChildRun(ChildRunCore):
    """A run within a run, as the `async def` step that began it sees it: `greenroom.aio.ChildRun`.

    Attributes:
        run_id: The child's id.

    Example:
        >>> from greenroom.aio import Context, StartEvent, StopEvent, Workflow, step
        >>> class Square(Workflow):
        ...     @step
        ...     async def square(self, ev: StartEvent) -> StopEvent:
        ...         return StopEvent(result=ev.n * ev.n)
        >>> class Nine(Workflow):
        ...     @step
        ...     async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ...         return StopEvent(result=await ctx.run(Square(), n=3))
        >>> Nine().run().result()
        9
    """

    def __await__(self) -> Generator[Any, None, Any]:
        return self.result().__await__()

    async def result(self, timeout: float | None = None) -> Any:
        """Wait here for the child to end, and return its result; see `ChildRun.result`."""
        return await self._port.wait_async(self._awaited(timeout))


def begin_child(
    port: StepPort, workflow: Runnable, start_event: Any, run_id: str | None, fields: Mapping[str, Any]
) -> tuple[str, str, _Status]:
    """Begin a run within that of a step; return its name, its id, and what tells its status."""
    graph = getattr(workflow, "_graph", None)
    if isinstance(workflow, type) or not isinstance(graph, Graph):
        given = f"the class {workflow.__name__}" if isinstance(workflow, type) else describe(workflow)
        raise ContextStateError(f"ctx.run(...) takes the workflow object that is to run, not {given}")
    if run_id is not None and (not isinstance(run_id, str) or not run_id):
        raise WorkflowRuntimeError(f"ctx.run(run_id=...) takes a text that is not empty, not {run_id!r}")
    event = workflow.make_start_event(start_event, dict(fields))
    number = port.invocation.number
    stem = f"{run_id or graph.name}.{number}"
    # The same in each attempt that makes the same calls in the same order: so a replay finds its children again.
    name = f"{stem}.{port.nth(f'run {stem}')}"
    run_id = run_id or f"{port.run_id}/{name}"
    cast = Cast(graph, run_id, workflow.function_of, contextvars.copy_context(), workflow.wanted_resources)
    status = _Status()
    port.begin_child(
        ChildAsked(number, port.attempt, name, run_id, graph, event, workflow.timeout, workflow.on_stuck, cast, status)
    )
    return name, run_id, status

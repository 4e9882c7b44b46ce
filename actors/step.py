"""The actor of one step of a run, and the bodies that it has in flight.

A body runs on a thread of the dispatcher, or as a task on the event loop, with the variables of whoever called `run()`.
Its attributes are written before it starts and, while it runs, by its own thread or task; `cancelled` is set by the
step actor and only read by the body. `in_flight` is added to and read by the actor's turn; a body that ends takes
itself out, which is a single dict operation.
"""

from __future__ import annotations

import asyncio
import contextlib
import dis
import os
import sys
from collections.abc import Callable
from datetime import datetime
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar

from greenroom.actors.base import PooledActor, Ref
from greenroom.actors.dispatcher import Dispatcher
from greenroom.actors.parking import Parking
from greenroom.actors.stream import await_reply
from greenroom.child_facts import ChildAsked, ChildAwaited
from greenroom.collect import Gather, Join
from greenroom.context import AsyncContext, Context
from greenroom.context_core import ContextCore
from greenroom.effects import CancelInvocation, StartInvocation
from greenroom.errors import RuntimeForkedError, StepCancelled, StepPassivated, WorkflowRuntimeError
from greenroom.facts import Failed, Finished, PassivateAsked, WaitAsked
from greenroom.graph import Graph
from greenroom.log_fields import log_fields
from greenroom.ports import Cast, current_step, step_has_ended
from greenroom.steps import StepSpec

if TYPE_CHECKING:
    from greenroom.events import Event

__all__ = ["StepActor"]


class StepActor(PooledActor):
    """Starts and cancels the bodies of one step of one run."""

    def __init__(
        self, dispatcher: Dispatcher, supervisor: Ref, name: str, cast: Cast, parking: Parking, root_id: str
    ) -> None:
        """Make the actor.

        Args:
            dispatcher: Gives threads to the bodies.
            supervisor: Is told how they end.
            name: The name of the step.
            cast: The run that it is a step of.
            parking: Where bodies that wait are counted.
            root_id: The id of the run that was begun from outside: this one, or the one around it.
        """
        super().__init__(dispatcher)
        self.supervisor = supervisor
        self.graph = cast.graph
        spec = self.spec = cast.graph.steps[name]
        self.run_id = cast.run_id
        self.root_id = root_id
        self.label = f"{cast.run_id}/{name}"
        self.variables = cast.variables
        self.parking = parking
        function, resources = cast.functions(name), cast.resources
        if resources is not None and spec.dependencies:
            variables = cast.variables
            self.call = resources.caller(spec, lambda values: _binder(spec, partial(function, **values)), variables)
        else:
            self.call = _binder(spec, function)
        self.in_flight: dict[tuple[int, int], _Body] = {}
        self._execute = dispatcher.execute_async if spec.is_async else dispatcher.execute
        self._body_class = _AsyncBody if spec.is_async else _Body

    def log_fields(self) -> dict[str, Any]:
        return log_fields(self.run_id, self.spec.name)

    def on_receive(self, message: StartInvocation | CancelInvocation) -> None:
        """Start a body, or cancel one."""
        if isinstance(message, StartInvocation):
            body = self._body_class(self, message)
            self.in_flight[message.invocation.number, message.attempt] = body
            self._execute(body)  # type: ignore[arg-type]  # the dispatcher's method and the body's class go together
        else:
            cancelled = self.in_flight.pop((message.invocation, message.attempt), None)
            if cancelled is not None:
                cancelled.cancel()


def _binder(spec: StepSpec, function: Callable[..., Any]) -> Callable[[_Body], Any]:
    """Return a function of a body that calls the step with the parameters that it names."""
    event, context = spec.event_parameter, spec.context_parameter
    if spec.gather is not None:
        arguments = _gathered(spec, spec.gather)
        if context is None:
            return lambda body: function(**arguments(body.invocation.event))
        return lambda body: function(**{context: body.context, **arguments(body.invocation.event)})
    if context is None:
        return lambda body: function(**{event: body.invocation.event})
    return lambda body: function(**{context: body.context, event: body.invocation.event})


def _gathered(spec: StepSpec, gather: Gather) -> Callable[[Any], dict[str, Any]]:
    """Return a function that gives the events of a release to the parameters of a step that takes many."""
    if isinstance(gather, Join):
        return lambda release: dict(zip(gather.parameters, release.events, strict=True))
    return lambda release: {spec.event_parameter: list(release.events)}


def _let_go(error: BaseException) -> None:
    """Let go of what the frames hold that led to an error and to those behind it. They keep their line numbers."""
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        current = pending.pop()
        if current is not None and id(current) not in seen:
            seen.add(id(current))
            trace = current.__traceback__
            while trace is not None:
                _clear(trace.tb_frame)
                trace = trace.tb_next
            pending += [current.__cause__, current.__context__]
            if isinstance(current, BaseExceptionGroup):
                pending += current.exceptions


_YIELD = dis.opmap["YIELD_VALUE"]


def _clear(frame: FrameType) -> None:
    """Clear a frame that has ended, and no other.

    An error may be raised in many places, as that of a run is for each that waits for its result, and its traceback
    then holds the frames of all. Among them may be a coroutine that has caught it and stands at an await since. Up to
    Python 3.12 clearing its frame would close it, and its task would wait for ever; such a frame stands at a yield.
    """
    clear, code = frame.clear, frame.f_code.co_code
    with contextlib.suppress(RuntimeError):  # It runs, or is known to stand at an await.
        # Nothing is called between the look and the clearing, so no other thread comes in between.
        if sys.version_info >= (3, 13) or code[frame.f_lasti] != _YIELD:
            clear()


class _Body:
    """One attempt at an invocation of a `def` step. It is also the port of the context that the step is given."""

    __slots__ = (
        "_actor",
        "_context",
        "_has_children",
        "_names",
        "attempt",
        "cancelled",
        "fact",
        "invocation",
        "label",
        "retry_info",
        "supervisor",
    )
    context_class: ClassVar[type[ContextCore[Any]]] = Context

    def __init__(self, actor: StepActor, start: StartInvocation) -> None:
        self._actor = actor
        self._context: Any = None
        self._names: dict[str, int] | None = None
        self._has_children = False
        self.label = actor.label
        self.supervisor = actor.supervisor
        self.invocation = start.invocation
        self.attempt = start.attempt
        self.retry_info = start.retry_info
        self.cancelled = False
        self.fact: Finished | Failed | None = None

    # -- as a body -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run the step's function."""
        if self.cancelled:
            return
        actor = self._actor
        try:
            event = actor.variables.copy().run(self._call)
            if type(event) is list:
                event = event.copy()  # The step may hold on to its own, and change it.
            actor.spec.check_return(event)
            if self._has_children:
                self.wait(self._join())
            self.fact = Finished(self.invocation.number, self.attempt, event)
        except BaseException as error:
            # Whatever a step raises is data: it is told to the supervisor and raised where the result is asked for.
            self._note_failure(error)

    def report(self) -> None:
        """Tell the supervisor how it ended."""
        self._context = None  # which knows this body: without the cycle both go at once
        self._actor.in_flight.pop((self.invocation.number, self.attempt), None)
        if self.fact is not None:
            self.supervisor.tell(self.fact)

    def cancel(self) -> None:
        """Say that the result is no longer wanted. A thread cannot be stopped: the step looks at `ctx.cancelled`."""
        self.cancelled = True

    @property
    def context(self) -> Any:
        """The context that the step is given, made when it is first wanted."""
        if self._context is None:
            self._context = self.context_class._of_step(self)
        return self._context

    def _call(self) -> Event | list[Event] | None:
        current_step.set(self)
        result: Event | list[Event] | None = self._actor.call(self)
        return result

    def _note_failure(self, error: BaseException) -> None:
        if isinstance(error, StepPassivated):
            return  # The next attempt goes on from here.
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_globals.get("__package__") == __package__:
            trace = trace.tb_next  # The frames of the actors come first, and tell the user nothing.
        error.__traceback__ = trace
        if isinstance(error, StepCancelled | asyncio.CancelledError):
            if self.cancelled or self._actor.dispatcher.closed:
                return  # The loop of a runtime that ends cancels its tasks, perhaps before the run does.
            wrapped = WorkflowRuntimeError(
                f"step '{self._actor.spec.name}' raised {type(error).__name__}, though nobody had cancelled it; let a"
                " step end by returning or by raising an Exception"
            )
            wrapped.__cause__ = error
            error = wrapped
        _let_go(error)
        self.fact = Failed(self.invocation.number, self.attempt, error, self._actor.dispatcher.wall_time())

    def _join(self) -> ChildAwaited:
        """Return the wait for the children that the step has not asked after: it ends when they have."""
        return ChildAwaited(self.invocation.number, self.attempt, None)

    def forked(self) -> None:
        """Refuse everything from now on: this is a forked child, and the run is its parent's."""
        self.supervisor = _InParent(self.supervisor.actor)

    # -- as the port of its context ------------------------------------------------------------------------------------

    @property
    def graph(self) -> Graph:
        """The workflow's graph."""
        return self._actor.graph

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._actor.run_id

    @property
    def root_id(self) -> str:
        """The id of the run that was begun from outside: this one, or the one around it."""
        return self._actor.root_id

    @property
    def is_running(self) -> bool:
        """Whether the run is going on: it is, or its step would have been cancelled."""
        return not self.cancelled

    def now(self) -> float:
        """Return the time of the run's clock, in seconds."""
        return self._actor.dispatcher.now()

    def wall_time(self) -> datetime:
        """Return the time of day, in UTC."""
        return self._actor.dispatcher.wall_time()

    def checkpoint(self) -> None:
        """Let others go on, where bodies are given turns."""
        self._actor.dispatcher.checkpoint()

    def tell(self, fact: Any) -> None:
        """Hand a fact to the supervisor."""
        self.supervisor.tell(fact)

    def ask(self, fact: Any) -> Any:
        """Hand a fact to the supervisor and block for its answer."""
        if self.fact is not None and not self.cancelled:
            raise step_has_ended(self)
        return self.supervisor.ask(fact)

    def wait(self, fact: WaitAsked | ChildAwaited) -> Any:
        """Hand a wait to the supervisor and block for its end, as one of those that are parked."""
        with self._actor.parking.parked(self):
            return self.ask(fact)

    async def wait_async(self, fact: WaitAsked | ChildAwaited) -> Any:
        """Hand a wait to the supervisor and await its end. A coroutine that waits costs no thread."""
        return await self.ask_async(fact)

    def nth(self, name: str) -> int:
        """Return how often this attempt has asked for this name before."""
        names = self._names = self._names if self._names is not None else {}
        names[name] = names.get(name, -1) + 1
        return names[name]

    def begin_child(self, fact: ChildAsked) -> None:
        """Hand over a run that the step begins within its own."""
        self._has_children = True
        self.supervisor.tell(fact)

    def passivate(self) -> None:
        """Have the body unwound, so that its thread is free. Called by the parking."""
        self.supervisor.tell_control(PassivateAsked(self.invocation.number, self.attempt))

    async def ask_async(self, fact: Any) -> Any:
        """Hand a fact to the supervisor and await its answer."""
        if self.fact is not None and not self.cancelled:
            raise step_has_ended(self)
        return await await_reply(self.supervisor.ask(fact, block=False), self._actor.dispatcher)


class _InParent(Ref):
    """Stands in a forked child for the supervisor of a run of its parent."""

    def tell(self, message: Any) -> None:
        raise self._error()

    def ask(self, message: Any, *, block: bool = True, timeout: float | None = None) -> Any:
        raise self._error()

    def _error(self) -> RuntimeForkedError:
        return RuntimeForkedError(
            f"this step belongs to a run of process {os.getppid()} and does not work in its forked child"
            f" {os.getpid()}: end the child with os._exit(), or run a workflow of its own in it"
        )


class _AsyncBody(_Body):
    """One attempt at an invocation of an `async def` step."""

    __slots__ = ("_loop", "_task")
    context_class: ClassVar[type[ContextCore[Any]]] = AsyncContext

    def create_task(self, loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        """Begin the step's coroutine."""
        variables = self._actor.variables.copy()
        variables.run(current_step.set, self)
        self._loop = loop
        self._task: asyncio.Task[None] = loop.create_task(self._main(), name=self.label, context=variables)
        return self._task

    def cancel(self) -> None:
        """Cancel the task."""
        self.cancelled = True
        task = getattr(self, "_task", None)
        if task is not None:
            with contextlib.suppress(RuntimeError):  # The loop is closed, and the task has gone with it.
                self._loop.call_soon_threadsafe(task.cancel)

    def refuse(self, error: BaseException) -> None:
        """Report that the coroutine could not begin."""
        self._note_failure(error)
        self.report()

    async def _main(self) -> None:
        try:
            if not self.cancelled:
                event = await self._actor.call(self)
                if type(event) is list:
                    event = event.copy()
                self._actor.spec.check_return(event)
                if self._has_children:
                    await self.wait_async(self._join())
                self.fact = Finished(self.invocation.number, self.attempt, event)
        except BaseException as error:
            self._note_failure(error)
        self._actor.dispatcher.report_async(self)

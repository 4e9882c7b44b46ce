"""Bringing a run to work: its supervisor and its handler, whether it begins or the store has it."""

from __future__ import annotations

import contextvars
from functools import partial
from typing import TYPE_CHECKING, Any

from greenroom.actors.durable import Begin, DurableSupervisor, Kept
from greenroom.actors.observed import ObservedDurableSupervisor, ObservedSupervisor
from greenroom.actors.resources import RunResources
from greenroom.actors.root import RunAdmitted
from greenroom.actors.stream import StreamActor, StreamLog
from greenroom.actors.supervisor import RunSupervisor
from greenroom.errors import (
    GreenroomError,
    RunExistsError,
    RuntimeShutdownError,
    StoreError,
    WorkflowRuntimeError,
)
from greenroom.events import Event
from greenroom.facts import CancelAsked, Recovered, RunResumed, RunStarted
from greenroom.handler import Handler
from greenroom.logging import run_log
from greenroom.named import registry_of
from greenroom.observer import Observers
from greenroom.outcome import Outcome
from greenroom.recovery import Recovery
from greenroom.resources import ResourceManager
from greenroom.run_link import RunLink
from greenroom.run_state import RunState
from greenroom.stores import FIRST_FENCE
from greenroom.verbose import Verbose

if TYPE_CHECKING:
    from greenroom.runtime import Runtime
    from greenroom.workflow import Workflow

__all__ = ["begin", "ended", "go_on", "id_taken", "resources_in"]


def begin(
    workflow: Workflow, runtime: Runtime, state: RunState, beginning: RunStarted | RunResumed, ctx: Any
) -> Handler:
    """Begin a run.

    Args:
        workflow: Its workflow.
        runtime: Where it runs.
        state: The run.
        beginning: Its first fact.
        ctx: The context that it was begun with, or None.

    Raises:
        WorkflowRuntimeError: If a run of this id goes on.
        RunExistsError: If the store has a run of this id.
        RuntimeShutdownError: If the runtime has been shut down.
    """
    keeper, run_id = runtime.keeper, state.run_id
    kept = None if keeper is None else Kept(registry_of(workflow), FIRST_FENCE, 1)
    supervisor = _make_supervisor(workflow, runtime, state, kept)
    link = RunLink(workflow, run_id, runtime, supervisor.actor_ref)
    handler = workflow._handler_class(link, supervisor.log, supervisor.stream)
    supervisor.finisher = handler
    if ctx is not None:
        handler.ctx = ctx
    begins: Any = beginning
    try:
        if keeper is not None and kept is not None:
            begins = Begin(beginning, late=workflow._num_concurrent_runs is not None)
            try:
                keeper.make(workflow, handler, state, beginning, kept.registry)  # pyright: ignore[reportArgumentType]
            except RunExistsError:
                if ctx is not None:
                    raise id_taken(run_id) from None
                raise
        elif runtime.runs.setdefault(run_id, handler) is not handler:
            raise id_taken(run_id)
        if runtime.draining:
            try:
                runtime.check_usable()
            except RuntimeShutdownError:
                runtime.runs.pop(run_id, None)  # The drain may have found it there and ended it.
                raise
    except GreenroomError as error:
        # Another thread came first by a hair. What the context holds can still be resumed.
        state.apply(CancelAsked(), runtime.run_time())
        if isinstance(error, StoreError):
            runtime.check_usable()  # The end of the runtime has closed the store meanwhile.
        raise
    finally:
        if ctx is not None:
            ctx._port = link
    if state.origin != run_id:
        handler.origin = state.origin
        runtime.enter_resumed(handler)
    supervisor.watch(runtime.root)
    _let_begin(workflow, runtime, handler, supervisor, begins)
    return handler


def _make_supervisor(workflow: Workflow, runtime: Runtime, state: RunState, kept: Kept | None) -> RunSupervisor:
    parts = (runtime.dispatcher, state, workflow.function_of, contextvars.copy_context(), runtime.parking)
    observers, keeper = _observers(workflow, runtime), runtime.keeper
    supervisor: RunSupervisor
    if keeper is None or kept is None:
        supervisor = ObservedSupervisor(observers, *parts) if observers else RunSupervisor(*parts)
    elif observers:
        supervisor = ObservedDurableSupervisor(observers, *parts, keeper, kept)
    else:
        supervisor = DurableSupervisor(*parts, keeper, kept)
    supervisor.provide(workflow.wanted_resources, partial(resources_in, runtime))
    return supervisor


def _let_begin(workflow: Workflow, runtime: Runtime, handler: Handler, supervisor: RunSupervisor, begins: Any) -> None:
    if workflow._num_concurrent_runs is None:
        supervisor.actor_ref.tell(begins)
    else:
        handler.is_limited = True
        runtime.root.tell(RunAdmitted(handler, begins, id(workflow), workflow._num_concurrent_runs))


def go_on(
    workflow: Workflow,
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
    supervisor, was_known = _make_supervisor(workflow, runtime, state, kept), handler is not None
    if recovery.has_moved and isinstance(supervisor, DurableSupervisor):
        supervisor.checkpoint_first()
    if handler is None:
        link = RunLink(workflow, state.run_id, runtime, supervisor.actor_ref)
        handler = workflow._handler_class(link, supervisor.log, supervisor.stream)
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
    _let_begin(workflow, runtime, handler, supervisor, Recovered(recovery.last, recovery.has_rested))
    return handler


def ended(workflow: Workflow, runtime: Runtime, run_id: str, next_offset: int, outcome: Outcome) -> Handler:
    """Return the handler of a run that has ended, from what the store kept of it."""
    log = StreamLog(next_offset)
    log.ended = True
    handler = workflow._handler_class(
        RunLink(workflow, run_id, runtime, None), log, StreamActor.start(runtime.dispatcher, log)
    )
    handler.finish(outcome)
    return handler


def _observers(workflow: Workflow, runtime: Runtime) -> Observers:
    observers = runtime.observers
    if workflow._verbose:
        observers = observers.and_also(Verbose())
    log = run_log()
    return observers if log is None else observers.and_also(log)


def resources_in(runtime: Runtime, manager: ResourceManager) -> RunResources:
    """Return what the steps of one run depend on."""
    return RunResources(manager, runtime.dispatcher, runtime.root, runtime.open_resources)


def id_taken(run_id: str) -> WorkflowRuntimeError:
    """Return the error for an id that another run has."""
    return WorkflowRuntimeError(f"a run with the id '{run_id}' is going on; choose another run_id")

"""The way from outside to a run: to its supervisor, wherever that is just now."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pykka import ActorDeadError

from greenroom.actors.base import Ref
from greenroom.actors.stream import await_reply
from greenroom.facts import Inspect
from greenroom.named import graphs_named_by

if TYPE_CHECKING:
    from greenroom.graph import Graph
    from greenroom.runtime import Runtime
    from greenroom.workflow import Workflow

__all__ = ["RunLink"]


class RunLink:
    """The way from outside to a run's supervisor: the port of `handler.ctx`."""

    __slots__ = ("graph", "run_id", "runtime", "supervisor", "workflow")

    def __init__(self, workflow: Workflow, run_id: str, runtime: Runtime, supervisor: Ref | None) -> None:
        self.workflow = workflow
        self.graph: Graph = workflow._graph
        self.run_id = run_id
        self.runtime = runtime
        self.supervisor = supervisor  # None while a durable run rests in its store, and once it has ended there

    def ask(self, fact: Any) -> Any:
        """Hand over a fact and block for its answer."""
        while True:
            supervisor = self.reach()
            try:
                return supervisor.ask(fact)
            except ActorDeadError:
                if self.supervisor == supervisor:
                    raise
                # A durable run that went to rest just now: it is woken for this.

    def ask_in_memory(self, question: Inspect) -> Any:
        """Have something read off the state, or return None if the run rests in its store: it is not woken."""
        self.runtime.check_process()
        supervisor = self.supervisor
        while supervisor is not None:
            try:
                return supervisor.ask(question)
            except ActorDeadError:
                if self.supervisor == supervisor:
                    raise
                supervisor = self.supervisor
        return None

    async def ask_async(self, fact: Any) -> Any:
        """Hand over a fact and await its answer."""
        self.runtime.check_process()
        while True:
            supervisor = self.supervisor
            if supervisor is None:
                supervisor = await asyncio.to_thread(self.reach)
            try:
                return await await_reply(supervisor.ask(fact, block=False), self.runtime.dispatcher)
            except ActorDeadError:
                if self.supervisor == supervisor:
                    raise

    def reach(self) -> Ref:
        """Return the supervisor; that of a durable run which rests is woken first.

        Raises:
            WorkflowRuntimeError: If the run has ended in another process, or goes on there.
        """
        self.runtime.check_process()
        supervisor = self.supervisor
        while supervisor is None:
            assert self.runtime.keeper is not None
            # It may go to rest again before it is looked at.
            supervisor = self.runtime.keeper.wake(self.run_id).supervisor
        return supervisor

    def needs_loop(self) -> bool:
        """Return whether the run has `async def` steps, or may run workflows within it that have."""
        return self.graph.has_async_steps or any(graph.has_async_steps for graph in graphs_named_by(self.workflow))

    def now(self) -> float:
        """Return the time of the run's clock, in seconds."""
        return self.runtime.run_time()

    @property
    def is_running(self) -> bool:
        """Whether the run is going on."""
        return bool(self.ask(Inspect(lambda state: state.outcome is None)))

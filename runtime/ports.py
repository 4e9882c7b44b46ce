"""The ways from a context to its run: what a context needs of whoever carries its calls."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import Context as Variables
from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from greenroom.child_facts import ChildAsked, ChildAwaited
from greenroom.errors import ContextStateError
from greenroom.facts import Fact, Inspect, WaitAsked
from greenroom.graph import Graph
from greenroom.run_state import RunState
from greenroom.state import StateStore, StoreCall

if TYPE_CHECKING:
    from greenroom.invocation import Invocation
    from greenroom.resources import ResourceManager
    from greenroom.retry import RetryInfo

__all__ = [
    "Cast",
    "HasGraph",
    "HasPort",
    "RestingPort",
    "RunPort",
    "StepPort",
    "current_step",
    "step_has_ended",
]


class RunPort(Protocol):
    """The way from a context to the supervisor of its run."""

    @property
    def graph(self) -> Graph:
        """The workflow's graph."""
        ...

    @property
    def run_id(self) -> str:
        """The run's id."""
        ...

    def ask(self, fact: Any) -> Any:
        """Hand over a fact and block until it is answered."""
        ...

    async def ask_async(self, fact: Any) -> Any:
        """Hand over a fact and await its answer."""
        ...

    def now(self) -> float:
        """Return the time of the run's clock, in seconds."""
        ...

    @property
    def is_running(self) -> bool:
        """Whether the run is going on."""
        ...


class StepPort(RunPort, Protocol):
    """The way from the context of one attempt at an invocation."""

    invocation: Invocation
    attempt: int
    retry_info: RetryInfo
    cancelled: bool
    fact: Any  # what the attempt ended with; None while it runs

    @property
    def context(self) -> Any:
        """The context that the step is given."""
        ...

    def wall_time(self) -> datetime:
        """Return the time of day, in UTC."""
        ...

    def checkpoint(self) -> None:
        """Let others go on, where bodies are given turns."""

    def tell(self, fact: Fact) -> None:
        """Hand over a fact."""

    def wait(self, fact: WaitAsked | ChildAwaited) -> Any:
        """Hand over a wait and block until it has ended."""
        ...

    async def wait_async(self, fact: WaitAsked | ChildAwaited) -> Any:
        """Hand over a wait and await its end."""
        ...

    @property
    def root_id(self) -> str:
        """The id of the run that was begun from outside: this one, or the one around it."""
        ...

    def begin_child(self, fact: ChildAsked) -> None:
        """Hand over a run that the step begins within its own."""

    def nth(self, name: str) -> int:
        """Return how often this attempt has asked for this name before."""
        ...

    def forked(self) -> None:
        """Refuse everything from now on: this is a forked child, and the run is its parent's."""


class Cast:
    """Those who run the steps of one run: what their actors are made from, and the actors.

    Attributes:
        graph: The workflow's graph.
        run_id: The run's id.
        functions: Returns the function of a step by its name, bound to the workflow.
        variables: The context variables of whoever began the run.
        manager: Holds the resources that the steps depend on; None if they depend on nothing.
        steps: The addresses of the step actors by name. Touched by the supervisor alone, as `resources` is.
        resources: What is open for the run.
        watch: Hears of the begin and end of bodies, where somebody observes the run; else None.
    """

    __slots__ = ("functions", "graph", "manager", "resources", "run_id", "steps", "variables", "watch")

    def __init__(
        self,
        graph: Graph,
        run_id: str,
        functions: Callable[[str], Callable[..., Any]],
        variables: Variables,
        manager: ResourceManager | None = None,
    ) -> None:
        self.graph = graph
        self.run_id = run_id
        self.functions = functions
        self.variables = variables
        self.manager = manager
        self.steps: dict[str, Any] = {}
        self.resources: Any = None
        self.watch: Any = None


class HasGraph(Protocol):
    """What a context needs to know of a workflow."""

    _graph: Graph


class HasPort(Protocol):
    """A context, as its store needs it: the port changes when a run begins with the context."""

    _port: RunPort
    _step: StepPort | None


class RestingPort:
    """The port of a context whose run has not begun, or was put away in a snapshot.

    Attributes:
        state: The run that was put away, with a clock that stands at 0; or None.
    """

    run_id = ""
    is_running = False

    @classmethod
    def of(cls, state: RunState) -> RestingPort:
        """Return the port of a run that was put away."""
        port = cls(state.graph, state.store)
        port.state = state
        return port

    def now(self) -> float:
        """Return the time of the run's clock, which stands still."""
        return 0.0

    def __init__(self, graph: Graph, store: StateStore | None = None) -> None:
        self.graph = graph
        self.state: RunState | None = None
        self.store = store if store is not None else StateStore(graph.state_type)
        # Protects the store, which any thread may fill before the run begins, and `_handed_over`.
        self._lock = threading.Lock()
        self._handed_over = False

    def hand_over(self) -> StateStore:
        """Give the store to the run that begins. Only the first of those that race for the context gets it."""
        with self._lock:
            if self._handed_over:
                raise ContextStateError("this context is in use by a run that has just begun")
            self._handed_over = True
            return self.store

    def ask(self, fact: Any) -> Any:
        if isinstance(fact, Inspect):
            state = self.state if self.state is not None else RunState(self.graph, self.run_id, store=self.store)
            return fact.read(state)
        if not isinstance(fact, StoreCall):
            raise ContextStateError("this needs a running workflow: call workflow.run(ctx=ctx) first")
        answers: list[tuple[Any, BaseException | None]] = []
        with self._lock:
            if self._handed_over:
                raise ContextStateError("this context has just gone on to a run; try again")
            self.store.call(fact, lambda _, value, error: answers.append((value, error)))
        if not answers:
            raise ContextStateError("another thread has edit_state() open; before the run begins nobody waits in line")
        value, error = answers[0]
        if error is not None:
            raise error
        return value

    async def ask_async(self, fact: Any) -> Any:
        return self.ask(fact)


current_step: ContextVar[StepPort] = ContextVar("greenroom_step")


def step_has_ended(step: StepPort) -> ContextStateError:
    """Return the error for the use of a context whose step has ended."""
    return ContextStateError(
        f"step '{step.invocation.spec.name}' has ended, and its context with it: let the step wait for what it started,"
        " or use handler.ctx"
    )

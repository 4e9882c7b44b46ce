"""The `@step` and `@catch_error` decorators, and what a workflow knows of a step.

Decorating only notes the options. `greenroom.signature` reads the annotations when the workflow is built, so that a
step may name classes that are defined after it.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, overload

from greenroom.annotations import local_names
from greenroom.collect import Gather, Join
from greenroom.errors import WorkflowRuntimeError, WorkflowValidationError
from greenroom.events import Event, StopEvent
from greenroom.resources import Dependency

if TYPE_CHECKING:
    from greenroom.retry import RetryPolicy

__all__ = ["Catch", "ContextBase", "StepOptions", "StepSpec", "catch_error", "describe", "step", "step_options"]

DEFAULT_WORKERS = 4
GRAPH_CHECKS = ("reachability", "terminal_event", "dead_end")
STEP_GRAPH_CHECKS = ("reachability", "dead_end")

_F = TypeVar("_F", bound=Callable[..., Any])
_OPTIONS = "__greenroom_step__"


class ContextBase:
    """Marks the classes that a step may ask for as its context."""

    for_async_steps: ClassVar[bool]


@dataclass(frozen=True, slots=True)
class Catch:
    """What `@catch_error(...)` was told.

    Attributes:
        for_steps: The names of the steps whose failures it takes; None for all that no other takes.
        max_recoveries: How often it may recover in one lineage of events.
    """

    for_steps: tuple[str, ...] | None
    max_recoveries: int


@dataclass(frozen=True, slots=True)
class StepOptions:
    """What `@step(...)` or `@catch_error(...)` was told, and the local names that its annotations may need."""

    num_workers: int
    retry_policy: RetryPolicy | None
    timeout: float | None
    skip_graph_checks: frozenset[str]
    accept_event_subclasses: bool
    local_names: Mapping[str, Any]
    catches: Catch | None = None


@dataclass(frozen=True, slots=True)
class StepSpec:
    """A step as its workflow knows it.

    Attributes:
        name: The name of its function.
        is_async: Whether it is an `async def`.
        event_parameter: The name of the parameter that takes the event, or the list of events.
        context_parameter: The name of the parameter that takes the context, or None.
        accepts: The classes of events that it takes.
        returns: The classes of events that it may return, one at a time.
        returns_none: Whether it may return None.
        state_type: The model that its `Context[State]` names, or None.
        options: What `@step(...)` was told.
        in_workflow: Whether it is a method, not a free function.
        returns_lists_of: The classes of events that it may return in a list.
        gather: How it takes many events at once, or None where it takes one.
        dependencies: The resources that it takes.
    """

    name: str
    is_async: bool
    event_parameter: str
    context_parameter: str | None
    accepts: tuple[type[Event], ...]
    returns: tuple[type[Event], ...]
    returns_none: bool
    state_type: type | None
    options: StepOptions
    in_workflow: bool
    returns_lists_of: tuple[type[Event], ...] = ()
    gather: Gather | None = None
    dependencies: tuple[Dependency, ...] = ()

    @property
    def emits(self) -> tuple[type[Event], ...]:
        """The classes of events that it may return, alone or in a list."""
        return self.returns + self.returns_lists_of

    def check_return(self, value: Any) -> None:
        """Raise WorkflowRuntimeError, naming what was declared, if the step may not return `value`."""
        if value is None:
            if self.returns_none:
                return
        elif type(value) is list:
            if self.returns_lists_of:
                self._check_list(value)
                return
        elif type(value) in self.returns or isinstance(value, self.returns):
            return
        if inspect.iscoroutine(value):
            value.close()
            raise WorkflowRuntimeError(
                f"step '{self.name}' returned a coroutine: it is a plain def that calls an async function; make the"
                " step `async def` and await it"
            )
        got = "None" if value is None else describe(value)
        declared = self._declared()
        if value is None:
            fix = "return an event, or add None to the return annotation"
        elif type(value) is list:
            fix = "annotate the return with list[...] to send each of its events on, or return one event"
        elif isinstance(value, Event):
            fix = "add it to the return annotation, or mend the step"
        else:
            fix = "return an event"
        raise WorkflowRuntimeError(f"step '{self.name}' returned {got}, but declares -> {declared}; {fix}")

    def _check_list(self, events: list[Any]) -> None:
        good: set[type] = set()
        for index, event in enumerate(events):
            if type(event) in good:
                continue
            if not isinstance(event, self.returns_lists_of):
                raise WorkflowRuntimeError(
                    f"step '{self.name}' returned a list whose item {index} is {describe(event)}, but declares ->"
                    f" {self._declared()}"
                )
            if isinstance(event, StopEvent):
                raise WorkflowRuntimeError(
                    f"step '{self.name}' returned a list whose item {index} is a {type(event).__name__}, which ends the"
                    " run: return it alone"
                )
            good.add(type(event))

    def signature(self) -> str:
        """Return how the step is written, without defaults and resources."""
        names = " | ".join(cls.__name__ for cls in self.accepts)
        if isinstance(self.gather, Join):
            pairs = zip(self.gather.parameters, self.gather.classes, strict=True)
            events = [f"{name}: {cls.__name__}" for name, cls in pairs]
        elif self.gather is not None and self.gather.limit is not None:
            events = [f"{self.event_parameter}: Annotated[list[{names}], Collect(Take({self.gather.limit}))]"]
        else:
            events = [f"{self.event_parameter}: {names if self.gather is None else f'list[{names}]'}"]
        context = [] if self.context_parameter is None else [f"{self.context_parameter}: Context"]
        return f"{'async ' * self.is_async}def {self.name}({', '.join(context + events)}) -> {self._declared()}"

    def _declared(self) -> str:
        lists = [f"list[{' | '.join(cls.__name__ for cls in self.returns_lists_of)}]"] if self.returns_lists_of else []
        return " | ".join(lists + [cls.__name__ for cls in self.returns] + ["None"] * self.returns_none)


@overload
def step(func: _F) -> _F: ...


@overload
def step(
    *,
    workflow: type | None = None,
    num_workers: int = DEFAULT_WORKERS,
    retry_policy: RetryPolicy | None = None,
    timeout: float | None = None,
    skip_graph_checks: list[Literal["reachability", "dead_end"]] | None = None,
    accept_event_subclasses: bool = False,
) -> Callable[[_F], _F]: ...


def step(
    func: Any = None,
    *,
    workflow: type | None = None,
    num_workers: int = DEFAULT_WORKERS,
    retry_policy: RetryPolicy | None = None,
    timeout: float | None = None,
    skip_graph_checks: list[Literal["reachability", "dead_end"]] | None = None,
    accept_event_subclasses: bool = False,
) -> Any:
    """Make a method, or a free function, a step of a workflow.

    The annotations say what the step takes and returns: one parameter annotated with an event class or a union of
    them, optionally one annotated with `Context`, and a return annotation of event classes and None. A step that
    returns `list[E]` sends each event on; one that takes `list[E]` is given all that came of such a list, and one with
    several parameters of event classes one of each (docs/fan-out.md).

    Args:
        func: The function, `def` or `async def`, when used without parentheses.
        workflow: The workflow class that a free function belongs to. Leave it out on a method.
        num_workers: How many invocations of the step may be in flight at once in one run, 1 or more.
        retry_policy: Decides whether and when a failed invocation is tried again; None fails at once.
        timeout: Seconds that one invocation may take; None for no limit. The body of a `def` step that takes longer is
            abandoned, not killed: its result is ignored.
        skip_graph_checks: Checks of the graph that do not apply to this step: "reachability", "dead_end".
        accept_event_subclasses: Give the step also those events of subclasses that another step takes as its own, as a
            step that watches all events wants. Without it an event goes to the steps of its nearest class only.

    Returns:
        The function itself.

    Raises:
        WorkflowValidationError: If an option is wrong, or a free function does not name its workflow.

    Example:
        >>> from greenroom import StartEvent, StopEvent, Workflow, step
        >>> class Shout(Workflow):
        ...     @step
        ...     def shout(self, ev: StartEvent) -> StopEvent:
        ...         return StopEvent(result=ev.text.upper())
        >>> Shout().run(text="hello").result()
        'HELLO'
    """
    options = (num_workers, retry_policy, timeout, skip_graph_checks, accept_event_subclasses)
    if func is None:
        return lambda function: _decorate(function, workflow, *options, sys._getframe(1))
    return _decorate(func, workflow, *options, sys._getframe(1))


@overload
def catch_error(func: _F) -> _F: ...


@overload
def catch_error(
    *, workflow: type | None = None, for_steps: list[str] | None = None, max_recoveries: int = 1
) -> Callable[[_F], _F]: ...


def catch_error(
    func: Any = None,
    *,
    workflow: type | None = None,
    for_steps: list[str] | None = None,
    max_recoveries: int = 1,
) -> Any:
    """Make a method, or a free function, the step that is given the failures of other steps.

    It takes a `StepFailedEvent` when a step has failed for good, after its retries, instead of the run failing. What it
    returns goes on in the place of what the failed step would have returned; None ends that branch.

    Args:
        func: The function, `def` or `async def`, when used without parentheses.
        workflow: The workflow class that a free function belongs to. Leave it out on a method.
        for_steps: The names of the steps whose failures it takes; None for all that no other `@catch_error` names.
        max_recoveries: How often it may recover in one lineage: along what led from one event to the next. The failure
            after that fails the run.

    Returns:
        The function itself.

    Raises:
        WorkflowValidationError: If an option is wrong, or a free function does not name its workflow.

    Example:
        >>> from greenroom import StartEvent, StepFailedEvent, StopEvent, Workflow, catch_error, step
        >>> class Divide(Workflow):
        ...     @step
        ...     def divide(self, ev: StartEvent) -> StopEvent:
        ...         return StopEvent(result=1 / ev.by)
        ...     @catch_error
        ...     def apologise(self, ev: StepFailedEvent) -> StopEvent:
        ...         return StopEvent(result=f"sorry: {ev.exception}")
        >>> Divide().run(by=0).result()
        'sorry: division by zero'
    """
    frame = sys._getframe(1)

    def decorate(function: Any) -> Any:
        where = f"@catch_error on '{getattr(function, '__qualname__', function)}'"
        if isinstance(max_recoveries, bool) or not isinstance(max_recoveries, int) or max_recoveries < 1:
            raise WorkflowValidationError(f"{where}: max_recoveries must be an integer greater than 0")
        names = None if for_steps is None else tuple(for_steps)
        if isinstance(for_steps, str) or (names is not None and not all(isinstance(name, str) for name in names)):
            raise WorkflowValidationError(f"{where}: for_steps must be a list of the names of steps, or None")
        return _decorate(function, workflow, 1, None, None, None, False, frame, Catch(names, max_recoveries))

    return decorate if func is None else decorate(func)


def _decorate(
    function: Any,
    workflow: type | None,
    num_workers: int,
    retry_policy: RetryPolicy | None,
    timeout: float | None,
    skip_graph_checks: list[Any] | None,
    accept_event_subclasses: bool,
    frame: types.FrameType,
    catches: Catch | None = None,
) -> Any:
    if not inspect.isfunction(function):
        raise WorkflowValidationError(
            f"@step decorates functions and methods, not {describe(function)}; options go by name, as in"
            " @step(num_workers=8)"
        )
    name = function.__qualname__
    if isinstance(num_workers, bool) or not isinstance(num_workers, int) or num_workers < 1:
        raise WorkflowValidationError(f"@step on '{name}': num_workers must be an integer greater than 0")
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0):
        raise WorkflowValidationError(f"@step on '{name}': timeout must be a number of seconds greater than 0, or None")
    if retry_policy is not None and not callable(getattr(retry_policy, "next", None)):
        raise WorkflowValidationError(
            f"@step on '{name}': retry_policy must have a method next(); see greenroom.retry.retry_policy()"
        )
    if not isinstance(accept_event_subclasses, bool):
        raise WorkflowValidationError(f"@step on '{name}': accept_event_subclasses must be True or False")
    unknown = set(skip_graph_checks or ()) - set(STEP_GRAPH_CHECKS)
    if unknown:
        raise WorkflowValidationError(
            f"@step on '{name}': unknown graph checks {sorted(unknown)}; known are {list(STEP_GRAPH_CHECKS)}"
        )
    options = StepOptions(
        num_workers,
        retry_policy,
        timeout,
        frozenset(skip_graph_checks or ()),
        accept_event_subclasses,
        local_names(function, frame),
        catches,
    )
    setattr(function, _OPTIONS, options)
    if workflow is not None:
        add_step = getattr(workflow, "add_step", None)
        if not isinstance(workflow, type) or not callable(add_step):
            raise WorkflowValidationError(f"@step on '{name}': workflow= must be a Workflow class, not {workflow!r}")
        add_step(function)
    elif _is_free(function):
        raise WorkflowValidationError(
            f"to make the free function '{name}' a step, say which workflow it belongs to: @step(workflow=MyWorkflow)"
        )
    return function


def step_options(function: Any) -> StepOptions | None:
    """Return the options of a decorated function, or None if it is not a step."""
    return getattr(function, _OPTIONS, None) if inspect.isfunction(function) else None


def _is_free(function: Any) -> bool:
    parent = function.__qualname__.rpartition(".")[0]
    return bool(parent == "" or parent.endswith("<locals>"))


def describe(value: Any) -> str:
    """Say what a value is that should have been another, such as `an instance of int` or `the class Draft`."""
    return f"an instance of {type(value).__name__}" if not isinstance(value, type) else f"the class {value.__name__}"

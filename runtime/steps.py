"""The `@step` decorator, and what a step's annotations say.

Decorating only notes the options. The annotations are read when the workflow is built, so that a step may name classes
that are defined after it.
"""

from __future__ import annotations

import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, overload

from greenroom.errors import WorkflowRuntimeError, WorkflowValidationError
from greenroom.events import Event

if TYPE_CHECKING:
    from greenroom.retry import RetryPolicy

__all__ = ["ContextBase", "StepOptions", "StepSpec", "describe", "step", "step_options"]

GRAPH_CHECKS = ("reachability", "terminal_event", "dead_end")
STEP_GRAPH_CHECKS = ("reachability", "dead_end")

_F = TypeVar("_F", bound=Callable[..., Any])
_OPTIONS = "__greenroom_step__"


class ContextBase:
    """Marks the classes that a step may ask for as its context."""

    for_async_steps: ClassVar[bool]


@dataclass(frozen=True, slots=True)
class StepOptions:
    """What `@step(...)` was told, and the local names that its annotations may need."""

    num_workers: int
    retry_policy: RetryPolicy | None
    timeout: float | None
    skip_graph_checks: frozenset[str]
    local_names: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StepSpec:
    """A step as its workflow knows it.

    Attributes:
        name: The name of its function.
        is_async: Whether it is an `async def`.
        event_parameter: The name of the parameter that takes the event.
        context_parameter: The name of the parameter that takes the context, or None.
        accepts: The classes of events that it takes.
        returns: The classes of events that it may return.
        returns_none: Whether it may return None.
        state_type: The model that its `Context[State]` names, or None.
        options: What `@step(...)` was told.
        in_workflow: Whether it is a method, not a free function.
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

    def check_return(self, value: Any) -> None:
        """Raise WorkflowRuntimeError, naming what was declared, if the step may not return `value`."""
        if value is None:
            if self.returns_none:
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
        declared = " | ".join([cls.__name__ for cls in self.returns] + ["None"] * self.returns_none)
        if value is None:
            fix = "return an event, or add None to the return annotation"
        elif isinstance(value, Event):
            fix = "add it to the return annotation, or mend the step"
        else:
            fix = "return an event"
        raise WorkflowRuntimeError(f"step '{self.name}' returned {got}, but declares -> {declared}; {fix}")


@overload
def step(func: _F) -> _F: ...


@overload
def step(
    *,
    workflow: type | None = None,
    num_workers: int = 4,
    retry_policy: RetryPolicy | None = None,
    timeout: float | None = None,
    skip_graph_checks: list[Literal["reachability", "dead_end"]] | None = None,
) -> Callable[[_F], _F]: ...


def step(
    func: Any = None,
    *,
    workflow: type | None = None,
    num_workers: int = 4,
    retry_policy: RetryPolicy | None = None,
    timeout: float | None = None,
    skip_graph_checks: list[Literal["reachability", "dead_end"]] | None = None,
) -> Any:
    """Make a method, or a free function, a step of a workflow.

    The annotations say what the step takes and returns: one parameter annotated with an event class or a union of
    them, optionally one annotated with `Context`, and a return annotation of event classes and None.

    Args:
        func: The function, `def` or `async def`, when used without parentheses.
        workflow: The workflow class that a free function belongs to. Leave it out on a method.
        num_workers: How many invocations of the step may be in flight at once in one run, 1 or more.
        retry_policy: Decides whether and when a failed invocation is tried again; None fails at once.
        timeout: Seconds that one invocation may take; None for no limit. The body of a `def` step that takes longer is
            abandoned, not killed: its result is ignored.
        skip_graph_checks: Checks of the graph that do not apply to this step: "reachability", "dead_end".

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
    if func is None:
        return lambda function: _decorate(
            function, workflow, num_workers, retry_policy, timeout, skip_graph_checks, sys._getframe(1)
        )
    return _decorate(func, workflow, num_workers, retry_policy, timeout, skip_graph_checks, sys._getframe(1))


def _decorate(
    function: Any,
    workflow: type | None,
    num_workers: int,
    retry_policy: RetryPolicy | None,
    timeout: float | None,
    skip_graph_checks: list[Any] | None,
    frame: types.FrameType,
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
    unknown = set(skip_graph_checks or ()) - set(STEP_GRAPH_CHECKS)
    if unknown:
        raise WorkflowValidationError(
            f"@step on '{name}': unknown graph checks {sorted(unknown)}; known are {list(STEP_GRAPH_CHECKS)}"
        )
    options = StepOptions(
        num_workers, retry_policy, timeout, frozenset(skip_graph_checks or ()), _local_names(function, frame)
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


def read_step(function: types.FunctionType, *, in_workflow: bool, owner: type) -> StepSpec:
    """Read a decorated function's annotations.

    Args:
        function: The decorated function.
        in_workflow: Whether it is a method of `owner`, so that its first parameter is the workflow.
        owner: The workflow class.

    Raises:
        WorkflowValidationError: With every fault that was found, one a line.
    """
    options = step_options(function)
    assert options is not None
    where = f"step '{function.__name__}'"
    hints = _resolve_hints(function, options, owner, where)
    parameters = list(inspect.signature(function).parameters.values())
    if in_workflow:
        parameters = parameters[1:]
    faults: list[str] = []
    event_parameters: list[tuple[str, tuple[type[Event], ...]]] = []
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    context_parameter: str | None = None
    state_type: type | None = None
    is_async = inspect.iscoroutinefunction(function)
    for parameter in parameters:
        hint = hints.get(parameter.name)
        context_class, parameter_state = _context_of(hint)
        members = _union_members(hint)
        events = tuple(m for m in members if isinstance(m, type) and issubclass(m, Event))
        if (context_class is not None or events) and parameter.kind not in by_name:
            faults.append(
                f"{where}: parameter '{parameter.name}' cannot be given by name; write it as a plain parameter,"
                " without / or *"
            )
        if context_class is not None:
            if context_parameter is not None:
                faults.append(
                    f"{where} takes two contexts, '{context_parameter}' and '{parameter.name}'; one is enough"
                )
            if context_class.for_async_steps != is_async:
                faults.append(_wrong_context(where, parameter.name, is_async))
            context_parameter, state_type = parameter.name, parameter_state
            continue
        if events and len(events) == len([m for m in members if m is not type(None)]):
            event_parameters.append((parameter.name, events))
        elif events:
            others = ", ".join(_name(m) for m in members if m not in events and m is not type(None))
            faults.append(f"{where}: parameter '{parameter.name}' mixes events with {others}; name event classes only")
        elif parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            faults.append(
                f"{where}: nothing can be given for parameter '{parameter.name}'"
                f" ({'no annotation' if hint is None else _name(hint)}); annotate it with an event class or Context,"
                " or give it a default"
            )
    if len(event_parameters) != 1:
        found = (
            f"found {len(event_parameters)}: {[n for n, _ in event_parameters]}" if event_parameters else "found none"
        )
        faults.append(f"{where} must have exactly one parameter annotated with an event class; {found}")
    returns, returns_none = _returns_of(hints, where, faults)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        faults.append(f"{where} is a generator; return one event, and send others with ctx.send_event()")
    if faults:
        raise WorkflowValidationError("\n".join(faults))
    name, accepts = event_parameters[0]
    return StepSpec(
        name=function.__name__,
        is_async=is_async,
        event_parameter=name,
        context_parameter=context_parameter,
        accepts=accepts,
        returns=returns,
        returns_none=returns_none,
        state_type=state_type,
        options=options,
        in_workflow=in_workflow,
    )


def _returns_of(hints: dict[str, Any], where: str, faults: list[str]) -> tuple[tuple[type[Event], ...], bool]:
    if "return" not in hints:
        faults.append(f"{where} must have a return annotation: event classes, None, or a union of them")
        return (), False
    members = _union_members(hints["return"])
    wrong = [m for m in members if m is not type(None) and not (isinstance(m, type) and issubclass(m, Event))]
    if wrong:
        faults.append(
            f"{where}: return annotation names {', '.join(map(_name, wrong))}; it may name event classes and None"
        )
    events = tuple(m for m in members if isinstance(m, type) and issubclass(m, Event))
    return events, type(None) in members


def _wrong_context(where: str, parameter: str, is_async: bool) -> str:
    if is_async:
        return f"{where} is async: annotate '{parameter}' with Context from greenroom.aio, whose methods are awaited"
    return f"{where} is a plain def: annotate '{parameter}' with Context from greenroom, whose methods block"


def _resolve_hints(function: Any, options: StepOptions, owner: type, where: str) -> dict[str, Any]:
    local_names = {**options.local_names, owner.__name__: owner}
    try:
        return typing.get_type_hints(function, localns=local_names, include_extras=True)
    except Exception as error:
        raise WorkflowValidationError(f"{where}: its annotations cannot be resolved: {error}") from error


def _context_of(hint: Any) -> tuple[type[ContextBase] | None, type | None]:
    """Return the context class and the state model that an annotation names, or two Nones."""
    members = [m for m in _union_members(hint) if m is not type(None)]
    if len(members) != 1:
        return None, None
    base = typing.get_origin(members[0]) or members[0]
    if isinstance(base, type) and issubclass(base, ContextBase):
        arguments = typing.get_args(members[0])
        state = arguments[0] if arguments and isinstance(arguments[0], type) else None
        return base, state
    return None, None


def _union_members(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(member for argument in typing.get_args(hint) for member in _union_members(argument))
    return (type(None),) if hint is None else (hint,)


def _local_names(function: Any, frame: types.FrameType) -> dict[str, Any]:
    """Return the names of enclosing functions and class bodies that annotations written as strings may mean."""
    wanted = set(re.findall(r"\w+", " ".join(a for a in function.__annotations__.values() if isinstance(a, str))))
    names: dict[str, Any] = {}
    current: types.FrameType | None = frame
    while wanted and current is not None and current.f_code.co_name != "<module>":
        # Not every frame below is a scope around: it may be one that called the enclosing function.
        is_around = function.__qualname__.startswith(f"{current.f_code.co_qualname}.")
        if is_around and current.f_globals is function.__globals__:
            for name in wanted.intersection(current.f_locals):
                names.setdefault(name, current.f_locals[name])
        current = current.f_back
    return names


def _is_free(function: Any) -> bool:
    parent = function.__qualname__.rpartition(".")[0]
    return bool(parent == "" or parent.endswith("<locals>"))


def describe(value: Any) -> str:
    """Say what a value is that should have been another, such as `an instance of int` or `the class Draft`."""
    return f"an instance of {type(value).__name__}" if not isinstance(value, type) else f"the class {value.__name__}"


def _name(hint: Any) -> str:
    return getattr(hint, "__name__", None) or str(hint)

"""The `@step` decorator, and what a step's annotations say.

Decorating only notes the options. The annotations are read when the workflow is built, so that a step may name classes
that are defined after it.
"""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, overload

from greenroom.annotations import local_names
from greenroom.collect import Collect, Gather, Join
from greenroom.errors import WorkflowRuntimeError, WorkflowValidationError
from greenroom.events import Event, StepFailedEvent, StopEvent
from greenroom.resources import Dependency, DependencyReader, find_marker

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
    lists: list[tuple[str, tuple[type[Event], ...], Collect]] = []
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    context_parameter: str | None = None
    state_type: type | None = None
    is_async = inspect.iscoroutinefunction(function)
    reader = DependencyReader(faults)
    for parameter in parameters:
        hint = hints.get(parameter.name)
        if find_marker(hint) is not None:
            reader.read(parameter, hint, where)
            continue
        listed = _list_of(hint, where, faults)
        if listed is not None:
            lists.append((parameter.name, *listed))
            if parameter.kind not in by_name:
                faults.append(_not_by_name(where, parameter.name))
            continue
        context_class, parameter_state = _context_of(hint)
        members = _union_members(hint)
        events = tuple(m for m in members if isinstance(m, type) and issubclass(m, Event))
        if (context_class is not None or events) and parameter.kind not in by_name:
            faults.append(_not_by_name(where, parameter.name))
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
                f" ({'no annotation' if hint is None else _name(hint)}); annotate it with an event class, Context, or"
                " Annotated[..., Resource(factory)], or give it a default"
            )
    gather = _gather_of(event_parameters, lists, where, faults)
    returns, returns_lists_of, returns_none = _returns_of(hints, where, faults)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        faults.append(f"{where} is a generator; return one event or a list, and send others with ctx.send_event()")
    takes_failures = any(issubclass(cls, StepFailedEvent) for _, classes in event_parameters for cls in classes)
    if options.catches is None and takes_failures:
        faults.append(f"{where} takes StepFailedEvent: decorate it with @catch_error instead of @step")
    elif options.catches is not None and (lists or [c for _, c in event_parameters] != [(StepFailedEvent,)]):
        faults.append(f"{where} is decorated with @catch_error: it must accept StepFailedEvent and nothing else")
    if faults:
        raise WorkflowValidationError("\n".join(faults))
    if lists:
        name, accepts, _ = lists[0]
    else:
        name = event_parameters[0][0]
        accepts = tuple(dict.fromkeys(cls for _, classes in event_parameters for cls in classes))
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
        returns_lists_of=returns_lists_of,
        gather=gather,
        dependencies=tuple(reader.found),
    )


def _not_by_name(where: str, parameter: str) -> str:
    return f"{where}: parameter '{parameter}' cannot be given by name; write it as a plain parameter, without / or *"


def _list_of(hint: Any, where: str, faults: list[str]) -> tuple[tuple[type[Event], ...], Collect] | None:
    """Return the classes of a list of events that a parameter takes and when it is complete, or None."""
    inner, collects = hint, []
    if typing.get_origin(hint) is typing.Annotated:
        inner, *metadata = typing.get_args(hint)
        collects = [item for item in metadata if isinstance(item, Collect)]
        if any(item is Collect for item in metadata):
            faults.append(f"{where}: write Collect() in the annotation, not the class Collect")
    lists = [member for member in _union_members(inner) if member is not type(None)]
    if len(lists) != 1 or typing.get_origin(lists[0]) is not list:
        if collects:
            faults.append(f"{where}: Collect(...) goes with a list of events, as in Annotated[list[E], Collect()]")
        return None
    members = _union_members(typing.get_args(lists[0])[0])
    events = tuple(m for m in members if isinstance(m, type) and issubclass(m, Event))
    if not events:
        return None
    if len(events) < len(members):
        faults.append(f"{where}: {lists[0]} mixes events with something else; name event classes only")
    if len(collects) > 1:
        faults.append(f"{where} names Collect(...) twice; once is enough")
    return events, collects[0] if collects else Collect()


def _gather_of(
    events: list[tuple[str, tuple[type[Event], ...]]],
    lists: list[tuple[str, tuple[type[Event], ...], Collect]],
    where: str,
    faults: list[str],
) -> Gather | None:
    """Return how a step takes many events at once, or None."""
    names = [name for name, *_ in events] + [name for name, *_ in lists]
    if not names:
        faults.append(f"{where} must have exactly one parameter annotated with an event class; found none")
    elif len(lists) > 1:
        faults.append(f"{where} takes {len(lists)} lists of events, {names}; it may take one")
    elif lists and events:
        faults.append(f"{where} takes a list of events and an event, {names}; it may take a list, or single events")
    elif lists:
        return lists[0][2]
    elif len(events) > 1:
        if unions := [name for name, classes in events if len(classes) > 1]:
            faults.append(
                f"{where} joins the events {names}: each must name one class, and {', '.join(unions)} names several"
            )
        return Join(tuple(names), tuple(classes[0] for _, classes in events))
    return None


def _returns_of(
    hints: dict[str, Any], where: str, faults: list[str]
) -> tuple[tuple[type[Event], ...], tuple[type[Event], ...], bool]:
    """Return the classes that a step returns alone and in a list, and whether it may return None."""
    if "return" not in hints:
        faults.append(f"{where} must have a return annotation: event classes, None, or a union of them")
        return (), (), False
    alone: list[Any] = []
    listed: list[Any] = []
    for member in _union_members(hints["return"]):
        if typing.get_origin(member) is list:
            listed += _union_members(typing.get_args(member)[0])
        else:
            alone.append(member)
    returns_none = type(None) in alone
    named = [m for m in alone if m is not type(None)] + listed
    wrong = [m for m in named if not (isinstance(m, type) and issubclass(m, Event))]
    if wrong:
        faults.append(
            f"{where}: return annotation names {', '.join(map(_name, wrong))}; it may name event classes, lists of"
            " them, and None"
        )
    ends = [m for m in listed if isinstance(m, type) and issubclass(m, StopEvent)]
    if ends:
        faults.append(f"{where}: return annotation names a list of {_name(ends[0])}; a run ends once: return it alone")
    return _events(alone), _events(listed), returns_none


def _events(members: list[Any]) -> tuple[type[Event], ...]:
    return tuple(dict.fromkeys(m for m in members if isinstance(m, type) and issubclass(m, Event)))


def _wrong_context(where: str, parameter: str, is_async: bool) -> str:
    if is_async:
        return f"{where} is async: annotate '{parameter}' with Context from greenroom.aio, whose methods are awaited"
    return f"{where} is a plain def: annotate '{parameter}' with Context from greenroom, whose methods block"


def _resolve_hints(function: Any, options: StepOptions, owner: type, where: str) -> dict[str, Any]:
    names = {**options.local_names, owner.__name__: owner}
    try:
        return typing.get_type_hints(function, localns=names, include_extras=True)
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


def _is_free(function: Any) -> bool:
    parent = function.__qualname__.rpartition(".")[0]
    return bool(parent == "" or parent.endswith("<locals>"))


def describe(value: Any) -> str:
    """Say what a value is that should have been another, such as `an instance of int` or `the class Draft`."""
    return f"an instance of {type(value).__name__}" if not isinstance(value, type) else f"the class {value.__name__}"


def _name(hint: Any) -> str:
    return getattr(hint, "__name__", None) or str(hint)

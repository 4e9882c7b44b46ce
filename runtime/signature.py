"""What a step's signature says: which events it takes and returns, one or many, and what else it wants to be given."""

from __future__ import annotations

import inspect
import types
import typing
from typing import Any

from greenroom.collect import Collect, Gather, Join
from greenroom.errors import WorkflowValidationError
from greenroom.events import Event, StepFailedEvent, StopEvent
from greenroom.resources import DependencyReader, find_marker
from greenroom.steps import ContextBase, StepOptions, StepSpec, step_options

__all__ = ["read_step"]


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


def _name(hint: Any) -> str:
    return getattr(hint, "__name__", None) or str(hint)

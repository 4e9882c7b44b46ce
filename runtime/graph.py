"""The graph of a workflow: which step takes what, and whether the whole can work.

Built once for a workflow class, then only read, by any thread.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from typing import Any

from pydantic import BaseModel, ValidationError

from greenroom.collect import Join
from greenroom.errors import WorkflowConfigurationError, WorkflowValidationError
from greenroom.events import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    InternalDispatchEvent,
    StartEvent,
    StepFailedEvent,
    StopEvent,
)
from greenroom.fan_out import Levels
from greenroom.steps import GRAPH_CHECKS, StepSpec

__all__ = ["EventKind", "Graph", "GraphOwner"]


class EventKind(Enum):
    """What an object means to a run."""

    NONE = "no event"
    PLAIN = "an event"
    INPUT = "a question to a person"
    INTERNAL = "an event that streams leave out"
    STOP = "the end"
    MANY = "a list of events"


class Graph:
    """The steps of a workflow and the events between them.

    Attributes:
        name: The workflow's name, used in messages.
        steps: The steps by name, in alphabetical order.
        functions: The functions of the workflow class, steps and helpers: what they name, a snapshot may build.
        description: The docstring of the workflow class, or None.
        start_event_class: The one class of event that begins a run.
        stop_event_class: The one class of event that ends a run.
        events: Every class of event that a step takes or returns.
        asks_people: Whether a step takes an event that only somebody outside can send.
        response_class: The class of the answer to a question that no wait goes with.
        dependencies: The resources that the steps take.
        has_async_steps: Whether a step is an `async def`, so that a run needs the event loop.
        state_type: The model of the run's state that the steps' `Context[State]` name, or None.
        handlers: The `@catch_error` step that takes the failures of a step, by that step's name.
        joins: The names of the steps that take several events, one of each.
        snapshot_registry: The classes that a snapshot may build, and what they were found from; kept here by
            `greenroom.snapshot.registry_for`.
    """

    def __init__(
        self, name: str, steps: Iterable[StepSpec], functions: Iterable[Any] = (), description: str | None = None
    ) -> None:
        """Read the graph.

        Raises:
            WorkflowConfigurationError: If there is not exactly one start event class and one stop event class.
            WorkflowValidationError: If two steps name states of which neither extends the other, or the state cannot
                be made without arguments.
        """
        self.name = name
        self.functions = tuple(functions)
        self.description = description
        self.steps: Mapping[str, StepSpec] = {spec.name: spec for spec in sorted(steps, key=lambda spec: spec.name)}
        self._routes: dict[type[Event], tuple[StepSpec, ...]] = {}
        self._kinds: dict[Any, EventKind] = {}
        self._ids: dict[type[Event], str] = {}
        self.snapshot_registry: tuple[Any, Any] | None = None
        accepted = {cls for spec in self.steps.values() for cls in spec.accepts}
        returned = {cls for spec in self.steps.values() for cls in spec.emits}
        self._accepted, self._returned = accepted, returned
        self.events: list[type[Event]] = sorted(accepted | returned, key=lambda cls: (cls.__qualname__, cls.__module__))
        self.start_event_class, self.stop_event_class = self._find_ends()
        self.asks_people = any(issubclass(cls, HumanResponseEvent) for cls in accepted)
        self.state_type = self._find_state_type()
        answers = [cls for cls in accepted if issubclass(cls, HumanResponseEvent)]
        self.response_class: type[Event] = answers[0] if len(answers) == 1 else HumanResponseEvent
        self.dependencies = tuple(dependency for spec in self.steps.values() for dependency in spec.dependencies)
        self.has_async_steps = any(spec.is_async for spec in self.steps.values())
        self.handlers: Mapping[str, StepSpec] = self._find_handlers()
        self.joins = [spec.name for spec in self.steps.values() if isinstance(spec.gather, Join)]
        self._levels = Levels(self.steps, self._takers, self.handlers)

    def route(self, event_class: type[Event]) -> tuple[StepSpec, ...]:
        """Return the steps that an event of this class goes to, in alphabetical order.

        An event goes to every step that accepts its class; where none does, to those that accept its nearest base
        class, as `functools.singledispatch` finds an implementation; and to those that accept every subclass.
        """
        route = self._routes.get(event_class)
        if route is None:
            route = self._routes[event_class] = self._find_route(event_class)
        return route

    def collectors(self, producer: str) -> tuple[StepSpec, ...]:
        """Return the steps that gather what comes of the lists which a step returns."""
        return self._levels.collectors.get(producer, ())

    def kind(self, cls: Any) -> EventKind:
        """Return what an object of this class means to a run. Cheap: pydantic's own isinstance is not."""
        kind = self._kinds.get(cls)
        if kind is None:
            kind = self._kinds[cls] = _find_kind(cls)
        return kind

    def event_id(self, cls: type[Event]) -> str:
        """Return the name of an event class in the drawing and in the tally of a run.

        It is that of the class or of its nearest base that a step takes or returns. Cheap: asked at every hop.
        """
        name = self._ids.get(cls)
        if name is None:
            name = self._ids[cls] = self._find_id(cls)
        return name

    def accepts(self, spec: StepSpec, event_class: type[Event]) -> bool:
        """Return whether a step takes events of this class when they are addressed to it by name."""
        return issubclass(event_class, spec.accepts)

    def check_target(self, step: str, event_class: type[Event]) -> str | None:
        """Return what is wrong with addressing an event of this class to a step, or None."""
        spec = self.steps.get(step)
        if spec is None:
            return f"step '{step}' does not exist in {self.name}; its steps are {', '.join(self.steps)}"
        if not self.accepts(spec, event_class):
            accepts = " | ".join(cls.__name__ for cls in spec.accepts)
            return f"step '{step}' of {self.name} does not accept {event_class.__name__}; it accepts {accepts}"
        return None

    def validate(self, skip: Collection[str] = (), found: Iterable[str] = ()) -> None:
        """Check that every event has a taker and a maker, and that every step can be reached and can end the run.

        Args:
            skip: Names of checks to leave out: "reachability", "terminal_event", "dead_end".
            found: Faults that were found elsewhere, to be told with those that are found here.

        Raises:
            WorkflowValidationError: With every fault that was found, one a line, each with what to do.
        """
        faults = [*self.find_faults(skip), *found]
        if faults:
            raise WorkflowValidationError(f"{self.name} cannot work:\n" + "\n".join(f"  - {fault}" for fault in faults))

    def find_faults(self, skip: Collection[str] = ()) -> list[str]:
        """Return what `validate` would raise, a line each."""
        faults = [
            f"step '{spec.name}' cannot accept {cls.__name__}: a stop event ends the run, no step sees it"
            for spec in self.steps.values()
            for cls in spec.accepts
            if issubclass(cls, StopEvent)
        ]
        faults += self._check_handlers()
        unmade = sorted(cls.__name__ for cls in self._accepted if not self._is_made(cls))
        if unmade:
            faults.append(
                f"events that are consumed but never produced: {', '.join(unmade)}; name them in the return annotation"
                " of the step that returns or sends them"
            )
        if "terminal_event" not in skip:
            untaken = sorted(cls.__name__ for cls in self._returned if not self._is_taken(cls))
            if untaken:
                faults.append(
                    f"[terminal_event] events that are produced but never consumed: {', '.join(untaken)}; add a step"
                    " that takes them, or take them out of the return annotation"
                )
        # Connections come first: with an event unmade or untaken, reachability only repeats the fault.
        if not faults:
            faults += self._check_reachability(skip) + self._check_dead_ends(skip) + self._levels.faults()
        return faults

    def _find_ends(self) -> tuple[type[StartEvent], type[StopEvent]]:
        starts = sorted((c for c in self._accepted if issubclass(c, StartEvent)), key=lambda c: c.__qualname__)
        stops = sorted((c for c in self._returned if issubclass(c, StopEvent)), key=lambda c: c.__qualname__)
        faults = []
        if not self.steps:
            faults.append("it has no steps; decorate its methods with @step")
        elif not starts:
            faults.append(
                "no step takes a StartEvent; annotate the event of the first step with StartEvent or a subclass"
            )
        elif len(starts) > 1:
            faults.append(
                f"steps take {len(starts)} kinds of start event, {_names(starts)}; a run begins with one kind"
            )
        if self.steps and not stops:
            faults.append(
                "no step returns a StopEvent; annotate the return of the last step with StopEvent or a subclass"
            )
        elif len(stops) > 1:
            faults.append(f"steps return {len(stops)} kinds of stop event, {_names(stops)}; a run ends with one kind")
        if faults:
            raise WorkflowConfigurationError(f"{self.name} cannot work:\n" + "\n".join(f"  - {f}" for f in faults))
        return starts[0], stops[0]

    def _find_handlers(self) -> dict[str, StepSpec]:
        found: dict[str, StepSpec] = {}
        # Those that name steps come first, and what is left goes to the one that names none.
        handlers = [(spec, spec.options.catches) for spec in self.steps.values() if spec.options.catches is not None]
        for spec, catches in sorted(handlers, key=lambda item: item[1].for_steps is None):
            for name in self.steps if catches.for_steps is None else catches.for_steps:
                if name in self.steps and self.steps[name].options.catches is None:
                    found.setdefault(name, spec)
        return found

    def _check_handlers(self) -> list[str]:
        faults = []
        claims: dict[str, str] = {}
        wildcards = []
        for spec in self.steps.values():
            if spec.options.catches is None:
                continue
            if spec.options.catches.for_steps is None:
                wildcards.append(spec.name)
            for name in dict.fromkeys(spec.options.catches.for_steps or ()):
                if name not in self.steps:
                    faults.append(f"@catch_error step '{spec.name}' names step '{name}', which does not exist")
                elif self.steps[name].options.catches is not None:
                    faults.append(
                        f"@catch_error step '{spec.name}' names '{name}', which is one as well: their own failures fail"
                        " the run"
                    )
                elif name in claims:
                    faults.append(
                        f"the failures of step '{name}' go to one step; '{claims[name]}' and '{spec.name}' both name it"
                    )
                claims.setdefault(name, spec.name)
        if len(wildcards) > 1:
            faults.append(
                f"@catch_error steps {', '.join(map(repr, wildcards))} all take the failures of every step; name steps"
                " with for_steps=[...] in all of them but one"
            )
        return faults

    def _find_state_type(self) -> type | None:
        found: type | None = None
        for spec in self.steps.values():
            state = spec.state_type
            if state is None or (found is not None and issubclass(found, state)):
                continue
            if found is not None and not issubclass(state, found):
                raise WorkflowValidationError(
                    f"{self.name}: steps name the states {found.__name__} and {state.__name__}"
                    "; let one extend the other"
                )
            found = state
        if found is not None:
            self._check_state_type(found)
        return found

    def _check_state_type(self, state: type) -> None:
        if not issubclass(state, BaseModel):
            raise WorkflowValidationError(f"{self.name}: the state {state.__name__} must be a pydantic model")
        try:
            state()
        except ValidationError as error:
            raise WorkflowValidationError(
                f"{self.name}: the state {state.__name__} cannot be made without arguments; give each of its fields a"
                f" default: {error}"
            ) from error

    def _find_id(self, cls: type[Event]) -> str:
        known = next((base for base in cls.__mro__ if base in self._accepted or base in self._returned), cls)
        name = known.__name__
        is_taken = name in self.steps or any(name == other.__name__ for other in self.events if other is not known)
        return f"{known.__module__}.{known.__qualname__}" if is_taken else name

    def _find_route(self, event_class: type[Event]) -> tuple[StepSpec, ...]:
        if issubclass(event_class, StopEvent):
            return ()
        nearest = next((base for base in event_class.__mro__ if self._takes_itself(base)), None)
        return tuple(
            spec
            for spec in self.steps.values()
            if nearest in spec.accepts or (spec.options.accept_event_subclasses and self.accepts(spec, event_class))
        )

    def _takes_itself(self, event_class: type) -> bool:
        return any(event_class in spec.accepts for spec in self.steps.values())

    def _is_made(self, accepted: type[Event]) -> bool:
        if issubclass(accepted, StartEvent | InputRequiredEvent | HumanResponseEvent | StepFailedEvent | StopEvent):
            return True
        return any(issubclass(made, accepted) or issubclass(accepted, made) for made in self._returned)

    def _is_taken(self, returned: type[Event]) -> bool:
        if issubclass(returned, StopEvent | InputRequiredEvent | HumanResponseEvent):
            return True
        return bool(self._takers(returned))

    def _takers(self, returned: type[Event]) -> list[StepSpec]:
        """Return the steps that an event annotated as `returned` may reach: it may be a subclass when it comes."""
        direct = list(self.route(returned))
        return direct + [
            spec
            for spec in self.steps.values()
            if spec not in direct and any(issubclass(cls, returned) for cls in spec.accepts)
        ]

    def _check_reachability(self, skip: Collection[str]) -> list[str]:
        if "reachability" in skip:
            return []
        entries = (StartEvent, HumanResponseEvent, StepFailedEvent)
        reached = {spec.name for spec in self.steps.values() if any(issubclass(cls, entries) for cls in spec.accepts)}
        frontier = list(reached)
        while frontier:
            for cls in self.steps[frontier.pop()].emits:
                for taker in self._takers(cls):
                    if taker.name not in reached:
                        reached.add(taker.name)
                        frontier.append(taker.name)
        lost = [
            spec.name
            for spec in self.steps.values()
            if spec.name not in reached and "reachability" not in spec.options.skip_graph_checks
        ]
        return [f"[reachability] no event leads to {_steps(lost)}; check the events they take"] if lost else []

    def _check_dead_ends(self, skip: Collection[str]) -> list[str]:
        if "dead_end" in skip:
            return []
        exits = (StopEvent, InputRequiredEvent)
        alive = {spec.name for spec in self.steps.values() if any(issubclass(cls, exits) for cls in spec.emits)}
        grown = True
        while grown:
            more = {
                spec.name
                for spec in self.steps.values()
                if spec.name not in alive
                and any(taker.name in alive for cls in spec.emits for taker in self._takers(cls))
            }
            alive |= more
            grown = bool(more)
        dead = [
            spec.name
            for spec in self.steps.values()
            # One that returns no event only looks on, as a step that logs.
            if spec.emits and spec.name not in alive and "dead_end" not in spec.options.skip_graph_checks
        ]
        if not dead:
            return []
        return [
            f"[dead_end] {_steps(dead)} can never lead to a stop event; let them return an event that does, or mark"
            " them @step(skip_graph_checks=['dead_end'])"
        ]


def _find_kind(cls: Any) -> EventKind:
    if cls is list:
        return EventKind.MANY
    if not isinstance(cls, type) or not issubclass(cls, Event):
        return EventKind.NONE
    if issubclass(cls, StopEvent):
        return EventKind.STOP
    if issubclass(cls, InternalDispatchEvent):
        return EventKind.INTERNAL
    return EventKind.INPUT if issubclass(cls, InputRequiredEvent) else EventKind.PLAIN


def check_names(names: Collection[str] | None) -> frozenset[str]:
    """Return the checks to skip, or raise WorkflowValidationError for a name that is not one."""
    if isinstance(names, str):
        raise WorkflowValidationError(f"skip_graph_checks takes a list of names, not the text {names!r}")
    unknown = set(names or ()) - set(GRAPH_CHECKS)
    if unknown:
        raise WorkflowValidationError(f"unknown graph check names {sorted(unknown)}; known are {list(GRAPH_CHECKS)}")
    return frozenset(names or ())


def _names(classes: Iterable[type]) -> str:
    return ", ".join(cls.__name__ for cls in classes)


def _steps(names: list[str]) -> str:
    return ("step " if len(names) == 1 else "steps ") + ", ".join(f"'{name}'" for name in names)


class GraphOwner:
    """Base of all workflows, by which modules below them know one: no code of a value runs when its class is asked."""

    _graph: Graph

    @classmethod
    def _class_graph(cls) -> Graph:
        """Return the graph of the class.

        Raises:
            WorkflowValidationError: If its steps make none.
        """
        raise NotImplementedError

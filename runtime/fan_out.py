"""Which steps gather what comes of which list: the levels of a graph, worked out from its annotations.

The events of a list, and all that comes of them, stand on the level of the step that returned it; what a step that
takes a list returns stands where that list was returned. Outside of all lists is a level as well. A step that returns
lists may be reached on its own level, as where a tree is walked: then its lists lie in each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from greenroom.collect import Collect, Join
from greenroom.events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent
from greenroom.steps import StepSpec

__all__ = ["Levels"]

Level = str | None  # the step whose list it is, or None outside of all lists
Takers = Callable[[type[Event]], Iterable[StepSpec]]


class Levels:
    """The levels on which each step of a graph can be reached.

    Attributes:
        collectors: The steps that take a list and gather from the lists of a step, by that step's name.
    """

    def __init__(self, steps: Mapping[str, StepSpec], takers: Takers, handlers: Mapping[str, StepSpec]) -> None:
        """Follow the events from the start, and from what somebody outside may send.

        Args:
            steps: The steps by name.
            takers: Returns the steps that an event of a class may go to.
            handlers: The `@catch_error` step of each step that has one.
        """
        self._takers = takers
        self._steps = steps
        self._handlers = handlers
        self._found: dict[str, dict[str, StepSpec]] = {}
        self._reached: dict[str, set[Level]] = {name: set() for name in steps}
        self._arrivals: dict[tuple[str, type[Event]], set[Level]] = {}
        self._todo: list[tuple[StepSpec, Level]] = []
        for entry in (StartEvent, HumanResponseEvent):
            for spec in steps.values():
                if any(issubclass(cls, entry) for cls in spec.accepts):
                    self._arrive(spec, None, entry)
        self._follow_all()
        for spec in steps.values():
            # No annotation leads to these: only somebody outside can send what they take.
            if spec.gather is None and not self._reached[spec.name]:
                self._reach(spec, None)
        self._follow_all()
        self.collectors = {
            producer: tuple(found[name] for name in sorted(found)) for producer, found in self._found.items()
        }

    def faults(self) -> list[str]:
        """Return what cannot work, a sentence each."""
        faults = []
        for spec in self._steps.values():
            names = " | ".join(cls.__name__ for cls in spec.accepts)
            if isinstance(spec.gather, Collect) and not any(spec in found for found in self.collectors.values()):
                faults.append(
                    f"step '{spec.name}' takes list[{names}], but no step returns a list whose events lead to it: let"
                    " the step that fans out return list[...], or take one event and use ctx.collect_events()"
                )
            elif isinstance(spec.gather, Join) and not self._meeting(spec, spec.gather):
                faults.append(
                    f"step '{spec.name}' takes {' and '.join(cls.__name__ for cls in spec.gather.classes)}, which have"
                    " no common stream level: some come out of a list and some do not, or they come of different lists"
                )
        return faults

    def _follow_all(self) -> None:
        while self._todo:
            self._follow(*self._todo.pop())

    def _follow(self, spec: StepSpec, level: Level) -> None:
        for cls in spec.returns:
            self._send(cls, level)
        for cls in spec.returns_lists_of:
            self._send(cls, spec.name)
        for cls in spec.emits:
            if issubclass(cls, InputRequiredEvent):
                # The answer goes on where the question was asked.
                asked_on = level if cls in spec.returns else spec.name
                for taker in self._steps.values():
                    if any(issubclass(taken, HumanResponseEvent) for taken in taker.accepts):
                        self._arrive(taker, asked_on, HumanResponseEvent)
        for collector in list(self._found.get(spec.name, {}).values()):
            self._reach(collector, level)
        handler = self._handlers.get(spec.name)
        if handler is not None:
            self._arrive(handler, level, handler.accepts[0])

    def _send(self, event_class: type[Event], level: Level) -> None:
        for taker in self._takers(event_class):
            self._arrive(taker, level, event_class)

    def _arrive(self, spec: StepSpec, level: Level, event_class: type[Event]) -> None:
        if isinstance(spec.gather, Collect):
            if level is not None:
                self._found.setdefault(level, {})[spec.name] = spec
                for outer in list(self._reached[level]):
                    self._reach(spec, outer)
        elif isinstance(spec.gather, Join):
            for cls in spec.gather.classes:
                if issubclass(event_class, cls) or issubclass(cls, event_class):
                    self._arrivals.setdefault((spec.name, cls), set()).add(level)
            for meeting in self._meeting(spec, spec.gather):
                self._reach(spec, meeting)
        else:
            self._reach(spec, level)

    def _reach(self, spec: StepSpec, level: Level) -> None:
        if level not in self._reached[spec.name]:
            self._reached[spec.name].add(level)
            self._todo.append((spec, level))

    def _meeting(self, spec: StepSpec, join: Join) -> set[Level]:
        levels = [self._arrivals.get((spec.name, cls), set()) for cls in join.classes]
        return set.intersection(*levels)

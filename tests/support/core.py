"""Plays the actors around a `RunState`: keeps what it starts, the timers it sets, the stream and the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from greenroom.child_facts import ChildAsked, ChildAwaited, ChildCancelAsked, ForChild
from greenroom.collect import Gather
from greenroom.effects import (
    Answer,
    CancelInvocation,
    DropTimer,
    Effect,
    Finish,
    FromChild,
    Publish,
    SetTimer,
    StartInvocation,
)
from greenroom.events import Event, StopEvent
from greenroom.facts import (
    BecameQuiet,
    CollectAsked,
    EventArrived,
    EventSent,
    EventWritten,
    Fact,
    Failed,
    Finished,
    RunStarted,
    TimerFired,
    TimerKey,
)
from greenroom.graph import Graph
from greenroom.outcome import Outcome
from greenroom.retry import RetryPolicy
from greenroom.run_state import RunState
from greenroom.steps import Catch, StepOptions, StepSpec

WALL = datetime(2026, 1, 1, tzinfo=UTC)


def make_spec(
    name: str,
    *accepts: type[Event],
    returns: Sequence[type[Event]] = (StopEvent,),
    num_workers: int = 4,
    retry_policy: RetryPolicy | None = None,
    timeout: float | None = None,
    state_type: type | None = None,
    skip_graph_checks: Sequence[str] = (),
    accept_event_subclasses: bool = False,
    lists: Sequence[type[Event]] = (),
    gather: Gather | None = None,
    catches: Catch | None = None,
) -> StepSpec:
    """Return what reading a step's function would have returned."""
    return StepSpec(
        name=name,
        is_async=False,
        event_parameter="ev",
        context_parameter="ctx",
        accepts=tuple(accepts),
        returns=tuple(returns),
        returns_none=True,
        state_type=state_type,
        options=StepOptions(
            num_workers, retry_policy, timeout, frozenset(skip_graph_checks), accept_event_subclasses, {}, catches
        ),
        in_workflow=True,
        returns_lists_of=tuple(lists),
        gather=gather,
    )


class Play:
    """One run, with the actors played by the test.

    Attributes:
        in_flight: The starts that have neither ended nor been cancelled, oldest first.
        cancelled: The starts that the run gave up; their bodies may go on.
        stream: What was published, with offsets.
        answers: What each asker was answered: pairs of value and error.
        timers: When each timer is due.
        in_children: The starts in children that have neither ended nor been cancelled, with the child's path.
        child_stream: What children published, with the child's path.
    """

    def __init__(self, *specs: StepSpec, state: RunState | None = None, **options: Any) -> None:
        self.state = state if state is not None else RunState(Graph("Played", specs), "run-1", **options)
        self.now = 0.0
        self.in_flight: list[StartInvocation] = []
        self.cancelled: list[StartInvocation] = []
        self.stream: list[tuple[int, Event]] = []
        self.answers: dict[Any, list[tuple[Any, BaseException | None]]] = {}
        self.timers: dict[TimerKey, float] = {}
        self.outcome: Outcome | None = None
        self.in_children: list[tuple[tuple[str, ...], StartInvocation]] = []
        self.child_stream: list[tuple[tuple[str, ...], Event]] = []
        self._askers = 0

    # -- facts ---------------------------------------------------------------------------------------------------------

    def apply(self, fact: Fact) -> list[Effect]:
        effects = self.state.apply(fact, self.now)
        for effect in effects:
            self._obey(effect)
        return effects

    def start(self, event: Event) -> list[Effect]:
        return self.apply(RunStarted(event))

    def arrive(self, event: Event, step: str | None = None) -> tuple[Any, BaseException | None]:
        """Send from outside; return the answer."""
        fact = EventArrived(event, step)
        return self._ask(fact)

    def finish(self, of: str | StartInvocation, event: Event | list[Event] | None = None) -> list[Effect]:
        start = self.first(of)
        self._forget(start)
        return self.apply(Finished(start.invocation.number, start.attempt, event))

    def fail(self, of: str | StartInvocation, error: BaseException) -> list[Effect]:
        start = self.first(of)
        self._forget(start)
        return self.apply(Failed(start.invocation.number, start.attempt, error, WALL))

    def send(
        self, of: str | StartInvocation, event: Event, step: str | None = None, delay: float | None = None
    ) -> list[Effect]:
        start = self.first(of)
        return self.apply(EventSent(start.invocation.number, start.attempt, event, step, delay))

    def write(self, of: str | StartInvocation, event: Event) -> list[Effect]:
        start = self.first(of)
        return self.apply(EventWritten(start.invocation.number, start.attempt, event))

    def collect(
        self,
        of: str | StartInvocation,
        expected: Sequence[type[Event]] | Mapping[type[Event], int],
        *,
        event: Event | None = None,
        buffer_id: str = "default",
    ) -> list[Event] | None:
        """Collect the invocation's own event, or `event`; return the batch or raise the error."""
        start = self.first(of)
        invocation = start.invocation
        counted = invocation.event if event is None else event
        fact = CollectAsked(invocation.number, start.attempt, counted, counted is invocation.event, expected, buffer_id)
        batch, error = self._ask(fact)
        if error is not None:
            raise error
        return batch  # type: ignore[no-any-return]

    def begin_child(self, of: str | StartInvocation, name: str, graph: Graph, event: Event, **options: Any) -> Any:
        """Begin a run within the run, or come by it again; return what will be answered its status."""
        start = self.first(of)
        watcher = self._askers = self._askers + 1
        timeout, on_stuck = options.get("timeout"), options.get("on_stuck", "fail")
        self.apply(
            ChildAsked(
                start.invocation.number, start.attempt, name, name, graph, event, timeout, on_stuck, object(), watcher
            )
        )
        return watcher

    def await_child(self, of: str | StartInvocation, name: str | None, timeout: float | None = None) -> int:
        """Wait for the end of a child, or of all; return the asker."""
        start = self.first(of)
        fact = ChildAwaited(start.invocation.number, start.attempt, name, 0, timeout)
        fact.asker = self._askers = self._askers + 1
        self.apply(fact)
        return self._askers

    def cancel_child(self, of: str | StartInvocation, name: str) -> None:
        start = self.first(of)
        self.apply(ChildCancelAsked(start.invocation.number, start.attempt, name))

    def finish_in_child(self, step: str, event: Event | None = None) -> None:
        path, start = self._take_from_child(step)
        self.apply(ForChild(path, Finished(start.invocation.number, start.attempt, event)))

    def fail_in_child(self, step: str, error: BaseException) -> None:
        path, start = self._take_from_child(step)
        self.apply(ForChild(path, Failed(start.invocation.number, start.attempt, error, WALL)))

    def _take_from_child(self, step: str) -> tuple[tuple[str, ...], StartInvocation]:
        found = next(item for item in self.in_children if item[1].invocation.spec.name == step)
        self.in_children.remove(found)
        return found

    def rest(self) -> list[Effect]:
        """Say that nothing is on its way any more."""
        return self.apply(BecameQuiet())

    def advance(self, seconds: float) -> None:
        """Let time pass, and fire what falls due on the way."""
        until = self.now + seconds
        while self.timers:
            key, at = min(self.timers.items(), key=lambda item: item[1])
            if at > until:
                break
            del self.timers[key]
            self.now = max(self.now, at)
            self.apply(TimerFired(key, WALL))
        self.now = until

    # -- what can be seen ----------------------------------------------------------------------------------------------

    def first(self, of: str | StartInvocation) -> StartInvocation:
        if isinstance(of, StartInvocation):
            return of
        return next(start for start in self.in_flight if start.invocation.spec.name == of)

    def running(self) -> list[tuple[str, Event]]:
        return [(start.invocation.spec.name, start.invocation.event) for start in self.in_flight]

    @property
    def published(self) -> list[Event]:
        return [event for _, event in self.stream]

    @property
    def letters(self) -> list[tuple[Event, str]]:
        return [(letter.event, letter.reason) for letter in self.state.dead_letters]

    # -- orders --------------------------------------------------------------------------------------------------------

    def _ask(self, fact: Any) -> tuple[Any, BaseException | None]:
        fact.asker = self._askers = self._askers + 1
        self.apply(fact)
        (answer,) = self.answers[fact.asker]
        return answer

    def _forget(self, start: StartInvocation) -> None:
        for starts in (self.in_flight, self.cancelled):
            if start in starts:
                starts.remove(start)

    def _obey(self, effect: Effect) -> None:
        match effect:
            case StartInvocation():
                self.in_flight.append(effect)
            case CancelInvocation():
                (start,) = [
                    s
                    for s in self.in_flight
                    if s.invocation.number == effect.invocation and s.attempt == effect.attempt
                ]
                self.in_flight.remove(start)
                self.cancelled.append(start)
            case Publish():
                self.stream.append((effect.offset, effect.event))
            case SetTimer():
                self.timers[effect.key] = effect.at
            case DropTimer():
                self.timers.pop(effect.key, None)
            case Answer():
                self.answers.setdefault(effect.asker, []).append((effect.value, effect.error))
            case FromChild(path, StartInvocation() as start):
                self.in_children.append((path, start))
            case FromChild(path, CancelInvocation() as cancel):
                (item,) = [
                    (at, start)
                    for at, start in self.in_children
                    if at == path
                    and start.invocation.number == cancel.invocation
                    and start.attempt == cancel.attempt
                    and start.invocation.spec.name == cancel.step
                ]
                self.in_children.remove(item)
            case FromChild(path, Publish() as publish):
                self.child_stream.append((path, publish.event))
            case Finish():
                assert self.outcome is None, "a run finishes once"
                self.outcome = effect.outcome
                self.timers.clear()

"""The supervisor of one run: the single writer of its state.

It takes facts in, has `RunState` say what follows, and passes the orders on: to the step actors, the stream, the timer,
whoever asked, and at the end to the handler. It runs no code of the user's and never blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context as Variables
from typing import Any, NamedTuple, Protocol

from pykka._envelope import Envelope

from greenroom.actors.base import PooledActor, Ref, Reply, Terminated
from greenroom.actors.dispatcher import Dispatcher, Timer
from greenroom.actors.parking import Parking
from greenroom.actors.resources import RunResources
from greenroom.actors.step import StepActor
from greenroom.actors.stream import ChildEvent, Published, StreamActor, StreamLog
from greenroom.child_facts import ForChild
from greenroom.effects import (
    Answer,
    AskPerson,
    CancelInvocation,
    DropTimer,
    Effect,
    Finish,
    FromChild,
    Publish,
    SetTimer,
    StartInvocation,
)
from greenroom.errors import GreenroomError, WorkflowRuntimeError
from greenroom.events import Event
from greenroom.facts import (
    BecameQuiet,
    CollectAsked,
    Crashed,
    EventArrived,
    EventSent,
    EventWritten,
    Fact,
    Finished,
    Inspect,
    Recovered,
    RunResumed,
    RunStarted,
    TimerFired,
    TimerKey,
    WaitAsked,
)
from greenroom.log_fields import log_fields
from greenroom.outcome import Outcome
from greenroom.ports import Cast
from greenroom.resources import ResourceManager
from greenroom.run_state import RunState, failed_outcome
from greenroom.waits import OpenInput

__all__ = ["ExposeInternal", "RunSupervisor", "TimerDue"]


class TimerDue(NamedTuple):
    """A timer of ours is due. `serial` tells it from one that it replaced."""

    key: TimerKey
    serial: int


class ExposeInternal(NamedTuple):
    """Asks that internal events go to the stream, from the oldest that is still kept."""


class ChildRef(Ref):
    """The address of a run's supervisor for the steps of a child: what they tell and ask bears the child's path.

    It is equal to the address of the supervisor, since it is the same actor that it leads to.
    """

    def __init__(self, supervisor: Ref, path: tuple[str, ...]) -> None:
        super().__init__(supervisor.actor)
        self._supervisor = supervisor
        self._path = path

    def tell(self, message: Any) -> None:
        """Send a fact of the child."""
        self._supervisor.tell(ForChild(self._path, message))

    def tell_control(self, message: Any) -> None:
        """Send a fact of the child on the control lane."""
        self._supervisor.tell_control(ForChild(self._path, message))

    def ask(self, message: Any, *, block: bool = True, timeout: float | None = None) -> Any:
        """Send a fact of the child and wait for the answer."""
        return self._supervisor.ask(ForChild(self._path, message), block=block, timeout=timeout)


class Finisher(Protocol):
    """What is told the end of a run."""

    def finish(self, outcome: Outcome) -> None:
        """Take the outcome."""

    def on_question(self, question: OpenInput) -> None:
        """Take note of a question to a person."""


class ResourcesClosed(NamedTuple):
    """What was open for the run has been closed after its end, so that whoever waits for the outcome may have it."""

    finisher: Finisher
    outcome: Outcome


class RunSupervisor(PooledActor):
    """Owns a run from its start event to its outcome, and its state afterwards.

    Attributes:
        log: The run's stream, to be read.
        stream: The stream's actor.
        finisher: Is told the outcome. Set before the run begins.
        exposed: Whether internal events go to the stream. It may be set before the run begins; later, `ExposeInternal`
            does so.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        state: RunState,
        functions: Callable[[str], Callable[..., Any]],
        variables: Variables,
        parking: Parking,
    ) -> None:
        """Make the actor; the run begins when it is told `RunStarted` or `RunResumed`.

        Args:
            dispatcher: Gives turns, threads and time.
            state: The run; its children are in it.
            functions: Returns the function of a step by its name, bound to the workflow.
            variables: The context variables of whoever called `run()`.
            parking: Where bodies that wait are counted.
        """
        super().__init__(dispatcher)
        self.log = StreamLog(state.published)
        self.stream = StreamActor.start(dispatcher, self.log)
        self._now = dispatcher.now
        self._clock_offset = 0.0  # how far the run's clock is ahead of the dispatcher's, in seconds
        self._state = state
        self._parking = parking
        self._cast = Cast(state.graph, state.run_id, functions, variables)
        self._steps = self._cast.steps
        self._root_id = state.run_id
        self._next_offset = state.published
        self.finisher: Finisher | None = None
        self._timers: dict[TimerKey, tuple[int, Timer]] = {}
        self._timer_serial = 0
        self._begun = False
        self._early: list[EventArrived] = []
        self._published: list[Event] = []
        self._of_children: list[ChildEvent] = []
        self._told_of_children = state.place[1]
        self.exposed = False
        self._run_ended = False
        self._step_class: type[StepActor] = StepActor

    def provide(self, manager: ResourceManager | None, make: Callable[[ResourceManager], RunResources]) -> None:
        """Say what the steps depend on, before the run begins.

        Args:
            manager: Holds the resources of the run's own workflow, if its steps depend on any.
            make: Makes what the steps of one run depend on: of this one, or of a child.
        """
        self._cast.manager = manager
        self._make_resources = make

    # -- messages ------------------------------------------------------------------------------------------------------

    def on_receive(self, message: Any) -> None:
        """Take a fact in."""
        if type(message) in _FACTS_AT_WORK and self._begun:
            self._apply(message)
        elif type(message) is TimerDue:
            serial, _ = self._timers.get(message.key, (-1, None))
            if serial == message.serial:
                del self._timers[message.key]
                self._apply(TimerFired(message.key, self.dispatcher.wall_time()))
        elif type(message) is ResourcesClosed:
            message.finisher.finish(message.outcome)
        elif type(message) is Terminated:
            if message.reason is not None:
                self._apply(Crashed(_engine_failure(message.ref, message.reason)))
        elif not self._begun and not self._run_ended and type(message) is EventArrived:
            # It is taken, whenever the run may begin; whoever sent it need not wait for that.
            self._answer(Answer(message.asker, None))
            message.asker = None
            self._early.append(message)
        else:
            self._apply(message)
            if type(message) in _BEGINNINGS or self._run_ended:
                self._begun = True
                self._serve_early()

    def on_ask(self, message: Any, reply: Reply) -> None:
        """Take in a fact whose answer somebody waits for."""
        if type(message) is Inspect:
            reply.set(message.read(self._state))
        elif type(message) is ExposeInternal:
            self.exposed = True
            self._flush()
            # The reader may look when the stream has what is told to it here, and not before.
            self.stream.actor.put(Envelope(message, reply_to=reply))
        else:
            question: Any = message.fact if type(message) is ForChild else message
            question.asker = reply
            self.on_receive(message)

    def log_fields(self) -> dict[str, Any]:
        return log_fields(self._state.run_id)

    def on_turn_end(self) -> None:
        """Pass on what was published, and see whether the run has come to rest."""
        state = self._state
        if (
            (len(state.invocations) == state.parked or state.touched)
            and self._begun
            and not self._run_ended
            and self.empty()
        ):
            self._apply(BecameQuiet())
        if self._published or self._of_children or (self.exposed and state.notes):
            self._flush()

    def on_failure(self, exception_type: Any, exception_value: Any, traceback: Any) -> None:
        """End the run for those outside: its state can no longer be trusted."""
        if self._run_ended:
            return
        error = _engine_failure(self.actor_ref, exception_value)
        try:
            # If the state is still good for that, what is in flight is cancelled, and those who wait are answered.
            self._apply(Crashed(error))
        finally:
            if not self._run_ended:
                crashed = failed_outcome(error)
                self._published.append(crashed.event)
                self._finish(Finish(crashed))

    # -- orders --------------------------------------------------------------------------------------------------------

    def _apply(self, fact: Fact) -> None:
        self._obey(self._take(fact, self._now()))

    def _take(self, fact: Fact, now: float) -> list[Effect]:
        """Have the state say what follows from a fact."""
        return self._state.apply(fact, now)

    def _obey(self, effects: list[Effect]) -> None:
        for effect in effects:
            _ORDERS[type(effect)](self, effect)

    def _start_invocation(self, effect: StartInvocation) -> None:
        name = effect.invocation.spec.name
        step = self._steps.get(name)
        if step is None:
            step = self._start_step(name, self._cast, self.actor_ref)
        step.tell(effect)

    def _start_step(self, name: str, cast: Cast, supervisor: Ref) -> Ref:
        if cast.manager is not None and cast.resources is None:
            cast.resources = self._make_resources(cast.manager)
        actor = self._step_class(self.dispatcher, supervisor, name, cast, self._parking, self._root_id)
        actor.watch(self.actor_ref)
        cast.steps[name] = actor.actor_ref
        return actor.actor_ref

    def _cancel_invocation(self, effect: CancelInvocation) -> None:
        self._cancel(effect, self._cast)

    def _cancel(self, effect: CancelInvocation, cast: Cast) -> None:
        step = cast.steps.get(effect.step)
        if step is not None:  # else its start was held for a commit that did not come
            step.tell(effect)

    def _from_child(self, effect: FromChild) -> None:
        path, order, cast = effect
        if isinstance(order, StartInvocation):
            name = order.invocation.spec.name
            step = cast.steps.get(name)
            if step is None:
                step = self._start_step(name, cast, ChildRef(self.actor_ref, path))
            step.tell(order)
        elif isinstance(order, CancelInvocation):
            self._cancel(order, cast)
        elif isinstance(order, Publish):
            self._of_children.append(ChildEvent(self._next_offset, cast.run_id, order.event))
        elif cast.resources is not None:  # It has ended.
            cast.resources.end()

    def _publish(self, effect: Publish) -> None:
        self._published.append(effect.event)
        self._next_offset = effect.offset + 1

    def _ask_person(self, effect: AskPerson) -> None:
        if self.finisher is not None:
            self.finisher.on_question(effect.question)

    def _set_timer(self, effect: SetTimer) -> None:
        self._drop_timer(DropTimer(effect.key))
        self._timer_serial += 1
        due = TimerDue(effect.key, self._timer_serial)
        timer = self.dispatcher.set_timer(effect.at - self._clock_offset, self.actor_ref, due)
        self._timers[effect.key] = (self._timer_serial, timer)

    def _drop_timer(self, effect: DropTimer) -> None:
        _, timer = self._timers.pop(effect.key, (0, None))
        if timer is not None:
            self.dispatcher.drop_timer(timer)

    def _answer(self, effect: Answer) -> None:
        asker = effect.asker
        if asker is None:
            return
        if effect.error is not None:
            asker.set_exception((type(effect.error), effect.error, None))
        else:
            asker.set(effect.value)

    def _finish(self, effect: Finish) -> None:
        self._run_ended = True
        self._flush()
        for _, timer in self._timers.values():
            self.dispatcher.drop_timer(timer)
        self._timers.clear()
        self._steps.clear()
        self._serve_early()  # A run that is cancelled before its turn never begins, and they wait for an answer.
        finisher, self.finisher = self.finisher, None
        if finisher is not None and not self._closes_first(finisher, effect.outcome):
            finisher.finish(effect.outcome)

    def _closes_first(self, finisher: Finisher, outcome: Outcome) -> bool:
        """Have what is open for the run closed; return whether the outcome is to wait for that."""
        if self._cast.resources is None:
            return False
        return not self._cast.resources.end(lambda: self.actor_ref.tell(ResourcesClosed(finisher, outcome)))

    def _serve_early(self) -> None:
        early, self._early = self._early, []
        for fact in early:
            self._apply(fact)

    def _flush(self) -> None:
        notes = []
        if self.exposed:
            notes = list(self._state.notes)
            self._state.notes.clear()
        published, self._published = self._published, []
        of_children, self._of_children = self._of_children, []
        before, self._told_of_children = self._told_of_children, self._told_of_children + len(of_children)
        self.stream.tell(Published(notes, of_children, published, self._run_ended, before))


_ORDERS: dict[type, Callable[[RunSupervisor, Any], None]] = {
    StartInvocation: RunSupervisor._start_invocation,
    CancelInvocation: RunSupervisor._cancel_invocation,
    Publish: RunSupervisor._publish,
    AskPerson: RunSupervisor._ask_person,
    SetTimer: RunSupervisor._set_timer,
    DropTimer: RunSupervisor._drop_timer,
    Answer: RunSupervisor._answer,
    Finish: lambda supervisor, effect: supervisor._finish(effect),  # Those who observe it are told before.
    FromChild: RunSupervisor._from_child,
}


# Most messages are these: they need no second look.
_BEGINNINGS = frozenset({RunStarted, RunResumed, Recovered})
_FACTS_AT_WORK = frozenset({Finished, EventSent, EventWritten, CollectAsked, WaitAsked, ForChild})


def _engine_failure(ref: Ref, reason: BaseException) -> GreenroomError:
    error = WorkflowRuntimeError(
        f"the engine itself failed in {ref.actor_class.__name__}: {reason!r}; please report this with its traceback"
    )
    error.__cause__ = reason
    return error

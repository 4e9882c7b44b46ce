"""The supervisor and the step actor of a run that somebody observes; a run without observers has neither.

They tell by way of a `RunWatch`: the supervisor of what comes in its turn, the step actors of the begin and the end of
bodies, on the threads of those.
"""

from __future__ import annotations

import contextvars
import logging
from typing import Any

from greenroom.actors.base import Ref
from greenroom.actors.dispatcher import Dispatcher
from greenroom.actors.durable import DurableSupervisor
from greenroom.actors.parking import Parking
from greenroom.actors.step import StepActor, _AsyncBody, _Body
from greenroom.actors.supervisor import RunSupervisor
from greenroom.actors.watch import RunWatch
from greenroom.child_facts import ChildAwaited
from greenroom.effects import Effect, Finish
from greenroom.errors import ContextSerdeError, LeaseLostError
from greenroom.events import Event
from greenroom.facts import Carried, Fact, Failed, Finished, WaitAsked
from greenroom.observer import Observers
from greenroom.ports import Cast, current_step

__all__ = ["ObservedDurableSupervisor", "ObservedSupervisor"]

logger = logging.getLogger("greenroom.observer")


class ObservedSupervisor(RunSupervisor):
    """Tells observers what happens to its run, and to those within it."""

    def __init__(self, observers: Observers, *arguments: Any) -> None:
        """Make the actor.

        Args:
            observers: Those to tell.
            *arguments: As for `RunSupervisor`.
        """
        super().__init__(*arguments)
        self._watch = self._cast.watch = RunWatch(observers, self._cast.variables, self._now)
        if not self._watch.hears_only_runs:
            self._step_class = _ObservedStepActor

    def _take(self, fact: Fact, now: float) -> list[Effect]:
        return self._watch.take(self._state, fact, now)

    def _finish(self, effect: Finish) -> None:
        self._watch.end(effect.outcome, self._now())
        super()._finish(effect)


class ObservedDurableSupervisor(ObservedSupervisor, DurableSupervisor):
    """Tells observers what happens to its run, and has the journal keep what they carry with it."""

    def _take(self, fact: Fact, now: float) -> list[Effect]:
        effects = super()._take(fact, now)
        to_carry, self._watch.to_carry = self._watch.to_carry, None
        if to_carry is not None:
            self._keep(to_carry)
        return effects

    def _keep(self, carried: Any) -> None:
        """Have the journal keep what observers carry with the run, if it has changed. No run fails for an observer."""
        try:
            # Another class might not be there when the run is read again.
            if type(carried) is not dict or not all(type(text) is str for item in carried.items() for text in item):
                raise ContextSerdeError(f"a {type(carried).__name__} that is no dict of texts by name")
            if carried != self._state.carried:
                self.actor_ref.tell(Carried(dict(carried)))
        except ContextSerdeError as error:
            logger.error("what observers carry with a run cannot be kept: %s", error, extra=self.log_fields())

    def _leave(self) -> None:
        self._watch.leave("rested", self._now())
        super()._leave()

    def _let_go(self, error: BaseException) -> None:
        self._watch.leave("lost" if isinstance(error, LeaseLostError) else "given_back", self._now())
        super()._let_go(error)


class _ObservedStepActor(StepActor):
    """Starts bodies that tell of their begin and end."""

    def __init__(
        self, dispatcher: Dispatcher, supervisor: Ref, name: str, cast: Cast, parking: Parking, root_id: str
    ) -> None:
        super().__init__(dispatcher, supervisor, name, cast, parking, root_id)
        self._watch: RunWatch = cast.watch
        self._body_class = _ObservedAsyncBody if self.spec.is_async else _ObservedBody

    def body_begins(self, key: tuple[int, int]) -> None:
        """Tell the begin of an attempt, unless it was given up before."""
        going = self._watch.going.get(key)
        if going is not None:
            record = going.record
            record.started_at = self._watch.now()
            self._watch.tell("step_started", record)
            if going.comes_second():
                self._watch.tell("step_ended", record)

    def body_ends(self, key: tuple[int, int], fact: Finished | Failed | None) -> None:
        """Tell the end of an attempt, unless it was given up before."""
        going = self._watch.going.pop(key, None)
        if going is None:
            return
        record = going.record
        record.ended_at = self._watch.now()
        if type(fact) is Finished:
            record.end, record.output = "completed", fact.event
        elif type(fact) is Failed:
            record.end, record.error = "failed", fact.error
        else:
            record.end = "cancelled"
        if going.comes_second():
            self._watch.tell("step_ended", record)

    def forget(self) -> None:
        """Tell no end that is not ours to tell: this is a forked child, and the run is its parent's."""
        self._watch.going.clear()


class _Observed(_Body):
    """What both kinds of observed bodies do."""

    __slots__ = ()
    _actor: _ObservedStepActor

    def report(self) -> None:
        self._actor.body_ends((self.invocation.number, self.attempt), self.fact)
        super().report()

    def forked(self) -> None:
        super().forked()
        self._actor.forget()

    def wait(self, fact: WaitAsked | ChildAwaited) -> Any:
        if isinstance(fact, WaitAsked):
            fact.variables = contextvars.copy_context()
        return super().wait(fact)

    async def wait_async(self, fact: WaitAsked | ChildAwaited) -> Any:
        if isinstance(fact, WaitAsked):
            fact.variables = contextvars.copy_context()
        return await super().wait_async(fact)


class _ObservedBody(_Observed):
    __slots__ = ()

    def _call(self) -> Event | list[Event] | None:
        current_step.set(self)
        self._actor.body_begins((self.invocation.number, self.attempt))
        return super()._call()


class _ObservedAsyncBody(_Observed, _AsyncBody):
    __slots__ = ()

    async def _main(self) -> None:
        self._actor.body_begins((self.invocation.number, self.attempt))
        await super()._main()

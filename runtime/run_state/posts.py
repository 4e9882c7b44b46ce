"""What other processes have posted for a run: it has its place there, or it is refused and accounted for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from greenroom.effects import Effect
from greenroom.errors import InputError
from greenroom.facts import EventArrived, Fact, PostRefused, Responded
from greenroom.run_state.children import find_question

if TYPE_CHECKING:
    from greenroom.run_state.state import RunState


def as_taken(state: RunState, fact: Fact) -> Fact:
    """Return the fact that a post comes to: itself or, where the run has no place for it, that it is refused.

    To be asked when it is taken in, and not before: what was posted earlier may have closed the question.
    """
    if isinstance(fact, Responded):
        try:
            question = find_question(state, fact.input_id)
        except InputError as error:
            return PostRefused(fact.event, str(error), fact.token)
        if not isinstance(fact.event, question.response):
            wanted, given = question.response.__name__, type(fact.event).__name__
            reason = f"question '{fact.input_id}' is answered with {wanted}, not {given}"
            return PostRefused(fact.event, reason, fact.token)
    elif isinstance(fact, EventArrived) and fact.step is not None:
        problem = state.graph.check_target(fact.step, type(fact.event))
        if problem is not None:
            return PostRefused(fact.event, problem)
    return fact


def post_refused(state: RunState, fact: PostRefused, now: float, effects: list[Effect]) -> None:
    """A post was refused: nobody waits to hear of it, so it is a dead letter."""
    state.bury(fact.event, fact.reason, None)

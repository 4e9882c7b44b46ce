"""What those who wait for the core are answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from greenroom.effects import Answer, Effect
from greenroom.errors import StepCancelled
from greenroom.waits import Wait


def answer_to_wait(wait: Wait, asker: Any) -> Answer:
    """Answer a wait that has ended; by its end or, in a later attempt, from the log."""
    if wait.state == "answered":
        if wait.outcome is not None:
            return Answer(asker, wait.outcome.result, wait.outcome.error)
        return Answer(asker, wait.answer)
    if wait.runs:
        return Answer(asker, None, TimeoutError(f"run '{wait.runs[0]}' has not ended in time; it goes on"))
    name = "an event" if wait.event_type is None else wait.event_type.__name__
    return Answer(asker, None, TimeoutError(f"Timed out waiting for {name}"))


def given_up() -> StepCancelled:
    """Return what a body is told whose attempt no longer counts."""
    return StepCancelled("this attempt was given up: the run has ended, or the step took longer than its timeout")


def answer_into(effects: list[Effect]) -> Callable[[Any, Any, BaseException | None], None]:
    """Return a function that answers an asker through the effects."""
    return lambda asker, value, error: effects.append(Answer(asker, value, error))

"""Waits and questions: where the invocations of a run stand still, and what people are asked.

Part of the pure core. `WaitBook` finds the waits that an event answers at a cost that does not grow with the waits of
other classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from greenroom.errors import InputAnsweredError, InputExpiredError, UnknownInputError
from greenroom.events import Event, HumanResponseEvent
from greenroom.lineage import Lineage

if TYPE_CHECKING:
    from greenroom.outcome import Outcome

__all__ = ["InputBook", "InputEnd", "OpenInput", "Wait", "WaitBook", "WaitState"]

WaitState = Literal["open", "answered", "expired"]
InputEnd = Literal["answered", "expired", "withdrawn"]


class Wait:
    """One call in a step that waits for an event.

    Attributes:
        number: Counts the waits of the run; the oldest has the smallest.
        invocation: The number of the invocation that waits.
        step: The name of its step.
        key: Tells the waits of one invocation apart, and finds them again when its body runs anew.
        event_type: The class that is waited for; None after a restore, until the body has come to this call again.
        requirements: What the event's fields must be.
        deadline: When the wait gives up, in the clock's seconds, or None.
        input_id: The question that goes with it, or None.
        state: Whether it waits, was answered, or has expired.
        answer: The event that answered it.
        runs: The names of the children whose end is waited for, where it is not an event; `left` counts those that go
            on, and `outcome` is that of the child that ended the wait, if it tells more than that all have ended.
        asker: Where the answer goes; opaque here, and None while no body stands at the call.
    """

    __slots__ = (
        "answer",
        "asker",
        "deadline",
        "event_type",
        "input_id",
        "invocation",
        "key",
        "left",
        "number",
        "outcome",
        "requirements",
        "runs",
        "state",
        "step",
    )

    def __init__(
        self,
        number: int,
        invocation: int,
        step: str,
        key: str,
        event_type: type[Event] | None,
        requirements: Mapping[str, Any],
        deadline: float | None,
        runs: tuple[str, ...] = (),
    ) -> None:
        self.number = number
        self.invocation = invocation
        self.step = step
        self.key = key
        self.event_type = event_type
        self.requirements = dict(requirements)
        self.deadline = deadline
        self.input_id: str | None = None
        self.state: WaitState = "open"
        self.answer: Event | None = None
        self.asker: Any = None
        self.runs = runs
        self.left = 0
        self.outcome: Outcome | None = None

    def matches(self, event: Event, step: str | None) -> bool:
        """Return whether the event, addressed to a step or to nobody, answers this wait."""
        if self.event_type is None or not isinstance(event, self.event_type) or step not in (None, self.step):
            return False
        if self.input_id is not None and event.get("input_id") not in (None, self.input_id):
            return False
        return all(event.get(name, _MISSING) == value for name, value in self.requirements.items())


_MISSING: Any = object()


class WaitBook:
    """The waits of a run that are open."""

    def __init__(self) -> None:
        self.by_number: dict[int, Wait] = {}
        self._by_type: dict[type[Event], dict[int, Wait]] = {}

    def __len__(self) -> int:
        return len(self.by_number)

    def add(self, wait: Wait) -> None:
        """Enter a wait, or enter it again now that its class is known."""
        self.by_number[wait.number] = wait
        if wait.event_type is not None:
            self._by_type.setdefault(wait.event_type, {})[wait.number] = wait

    def remove(self, wait: Wait) -> None:
        """Take a wait out."""
        self.by_number.pop(wait.number, None)
        waits = self._by_type.get(wait.event_type) if wait.event_type is not None else None
        if waits is not None:
            waits.pop(wait.number, None)
            if not waits:
                del self._by_type[wait.event_type]  # type: ignore[arg-type]  # it is not None here

    def answered_by(self, event: Event, step: str | None) -> list[Wait]:
        """Return the waits that an event answers: a person's answer one, the oldest; any other all, oldest first."""
        found = [
            wait
            for base in type(event).__mro__
            for wait in self._by_type.get(base, {}).values()
            if wait.matches(event, step)
        ]
        found.sort(key=lambda wait: wait.number)
        return found[:1] if isinstance(event, HumanResponseEvent) else found


@dataclass(slots=True)
class OpenInput:
    """A question to a person.

    Attributes:
        input_id: Its id.
        request: The event that asks.
        response: The class of the answer.
        step: The step that asks.
        asked_at: When it was asked, in the clock's seconds.
        expires_at: When it is given up, in the clock's seconds, or None.
        wait: The number of the wait that the answer goes to, or None where a step takes it.
        lineage: What the answer carries on, where a step takes it.
    """

    input_id: str
    request: Event
    response: type[Event]
    step: str
    asked_at: float
    expires_at: float | None
    wait: int | None
    lineage: Lineage | None = None


class InputBook:
    """The questions of a run: those that are open, and how the others were closed."""

    def __init__(self) -> None:
        self.open: dict[str, OpenInput] = {}
        self.closed: dict[str, InputEnd] = {}

    def find(self, input_id: str) -> OpenInput:
        """Return an open question.

        Raises:
            InputAnsweredError: If it was answered, or the step that asked no longer waits.
            InputExpiredError: If it was given up.
            UnknownInputError: If there never was one.
        """
        found = self.open.get(input_id)
        if found is not None:
            return found
        how = self.closed.get(input_id)
        if how == "expired":
            raise InputExpiredError(f"question '{input_id}' was given up: nobody had answered in time")
        if how is not None:
            said = "has been answered" if how == "answered" else "is no longer asked: its step has ended"
            raise InputAnsweredError(f"question '{input_id}' {said}")
        raise UnknownInputError(f"there is no question '{input_id}'; pending_inputs() lists those that are open")

    def close(self, input_id: str | None, how: InputEnd) -> None:
        """Close a question, if it is open."""
        if input_id is not None and self.open.pop(input_id, None) is not None:
            self.closed[input_id] = how

    def oldest_without_wait(self, event: Event, step: str | None) -> OpenInput | None:
        """Return the oldest question that an answer fits and that no wait stands for; of one step, or of any."""
        wanted = event.get("input_id")
        for question in self.open.values():
            fits = isinstance(event, question.response) and wanted in (None, question.input_id)
            if question.wait is None and fits and step in (None, question.step):
                return question
        return None

"""Questions to people, as those outside see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from greenroom.errors import InvalidResponseError
from greenroom.events import Event

if TYPE_CHECKING:
    from greenroom.waits import OpenInput

__all__ = ["PendingInput"]


@dataclass(frozen=True, slots=True)
class PendingInput:
    """A question that is open.

    Attributes:
        input_id: Its id, with which it is answered.
        run_id: The run whose handler answers it: the one that asks, or the outermost that it is a child of.
        step: The step that asks.
        request: The event that asks, as it was streamed.
        response: The class of the answer.
        asked_at: When it was asked, in UTC.
        expires_at: When it is given up, in UTC, or None.
    """

    input_id: str
    run_id: str
    step: str
    request: Event
    response: type[Event]
    asked_at: datetime
    expires_at: datetime | None

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the answer."""
        return self.response.model_json_schema()

    def make_response(self, response: Event | Mapping[str, Any]) -> Event:
        """Return the answer as an event of the response class.

        Args:
            response: The event itself, or its fields.

        Raises:
            InvalidResponseError: If it does not fit.
        """
        if isinstance(response, Event):
            if isinstance(response, self.response):
                return response
            given, wanted = type(response).__name__, self.response.__name__
            if given == wanted:
                given = "another class of that name: was it defined again, as by a cell of a notebook?"
            raise InvalidResponseError(f"question '{self.input_id}' is answered with {wanted}, not {given}")
        if not isinstance(response, Mapping):
            raise InvalidResponseError(
                f"question '{self.input_id}' is answered with {self.response.__name__} or a dict of its fields, not an"
                f" instance of {type(response).__name__}"
            )
        try:
            return self.response.model_validate(dict(response))
        except ValidationError as error:
            raise InvalidResponseError(
                f"the answer to question '{self.input_id}' does not fit {self.response.__name__}: {error}"
            ) from error


def pending_input(question: OpenInput, run_id: str, now: float, wall_time: datetime) -> PendingInput:
    """Return a question of a run as it is seen outside.

    Args:
        question: The question.
        run_id: The run.
        now: The time of the run's clock, in seconds.
        wall_time: The time of day at that moment.
    """
    expires_at = question.expires_at
    return PendingInput(
        question.input_id,
        run_id,
        question.step,
        question.request,
        question.response,
        wall_time - timedelta(seconds=now - question.asked_at),
        None if expires_at is None else wall_time + timedelta(seconds=expires_at - now),
    )

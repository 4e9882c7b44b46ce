"""What processes put down in a store for the runs of others, and the questions that they find there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from greenroom.codec import TypeRegistry, decode, encode, global_registry
from greenroom.errors import ContextSerdeError
from greenroom.events import Event
from greenroom.facts import CancelAsked, EventArrived, Responded
from greenroom.inputs import PendingInput
from greenroom.stores import InboxEntry, InputRow, RunStore

__all__ = ["ANSWER", "FIELDS", "post_answer", "post_cancel", "post_event", "post_fields", "read_entry", "read_question"]

EVENT, ANSWER, FIELDS, CANCEL = "event", "answer", "fields", "cancel"


def post_event(
    store: RunStore, run_id: str, event: Event, registry: TypeRegistry, dedup_key: str | None = None
) -> bool:
    """Put an event into the inbox of a run; return False if one with this key was posted before."""
    return store.post(run_id, EVENT, encode([event, None, dedup_key], registry), dedup_key)


def post_answer(store: RunStore, run_id: str, input_id: str, event: Event, registry: TypeRegistry) -> bool:
    """Put the answer to a question into the inbox of the run that asks; return False if there is one already."""
    return store.post(run_id, ANSWER, encode([input_id, event], registry), f"answer to {input_id}")


def post_fields(store: RunStore, question: InputRow, fields: Mapping[str, Any]) -> None:
    """Put the fields of an answer, as JSON has them, into the inbox of the run that asks.

    For those who do not have the class of the answer. Whoever takes it in has, and validates it by the class.
    """
    payload = [question.input_id, question.response, json.dumps(dict(fields))]
    store.post(question.run_id, FIELDS, encode(payload, global_registry))


def post_cancel(store: RunStore, run_id: str) -> None:
    """Ask for the end of a run."""
    store.post(run_id, CANCEL, b"")


def read_question(row: InputRow, registry: TypeRegistry) -> PendingInput:
    """Return a question of a store.

    Raises:
        ContextSerdeError: If its request cannot be read, or the class of its answer is gone.
    """
    return PendingInput(
        input_id=row.input_id,
        run_id=row.run_id,
        step=row.step,
        request=decode(row.request, registry),
        response=_response_class(row.input_id, row.response, registry),
        asked_at=datetime.fromtimestamp(row.asked_at, UTC),
        expires_at=None if row.expires_at is None else datetime.fromtimestamp(row.expires_at, UTC),
    )


def read_entry(entry: InboxEntry, registry: TypeRegistry) -> EventArrived | Responded | CancelAsked:
    """Return the fact that was put into an inbox.

    Raises:
        ContextSerdeError: If it cannot be read, or is an answer that does not fit.
    """
    if entry.kind == CANCEL:
        return CancelAsked()
    values = decode(entry.payload, registry)
    try:
        if entry.kind == FIELDS:
            input_id, response, fields = values
            cls = _response_class(input_id, response, registry)
            event = cls.model_validate_json(fields)
            encode(event, registry)  # Its class may have made of the fields what a journal cannot hold.
            return Responded(input_id, event, is_posted=True)
        if entry.kind == EVENT:
            return EventArrived(*values)
        input_id, event = values
        return Responded(input_id, event, is_posted=True)
    except ValidationError as error:
        raise ContextSerdeError(f"the answer to question '{values[0]}' does not fit: {error}") from error
    except (TypeError, ValueError) as error:
        raise ContextSerdeError(f"inbox entry {entry.id} is not whole: {error}") from error


def _response_class(input_id: str, name: str, registry: TypeRegistry) -> type[Event]:
    cls = registry.get(name)
    if cls is None or not issubclass(cls, Event):
        raise ContextSerdeError(
            f"question '{input_id}' is answered with {name}, a class that the workflow does not name any more: if it"
            " was renamed or moved, register it with greenroom.codec.register_type(..., formerly=...)"
        ).about(name)
    return cls

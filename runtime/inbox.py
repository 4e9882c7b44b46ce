"""What processes put down in a store for the runs of others, and the questions that they find there."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from greenroom.codec import TypeRegistry, decode, encode, global_registry
from greenroom.errors import ContextSerdeError
from greenroom.events import Event, HumanResponseEvent
from greenroom.facts import CancelAsked, EventArrived, PostRefused, Responded
from greenroom.inputs import PendingInput
from greenroom.journal import describe_record
from greenroom.stores import InboxEntry, InputRow, Loaded, RunStore

__all__ = [
    "ANSWER",
    "FIELDS",
    "fate_of",
    "post_answer",
    "post_cancel",
    "post_event",
    "post_fields",
    "read_entry",
    "read_question",
]

EVENT, ANSWER, FIELDS, CANCEL = "event", "answer", "fields", "cancel"


def post_event(
    store: RunStore, run_id: str, event: Event, registry: TypeRegistry, dedup_key: str | None = None
) -> bool:
    """Put an event into the inbox of a run; return False if one with this key was posted before."""
    return store.post(run_id, EVENT, encode([event, None, dedup_key], registry), dedup_key)


def post_answer(store: RunStore, run_id: str, input_id: str, event: Event, registry: TypeRegistry) -> str | None:
    """Put the answer to a question into the inbox of the run that asks.

    Returns:
        A token for `fate_of`; None if such an answer was posted before.
    """
    token = secrets.token_hex(8)
    is_first = store.post(run_id, ANSWER, encode([input_id, event, token], registry), f"answer to {input_id}")
    return token if is_first else None


def post_fields(store: RunStore, question: InputRow, fields: Mapping[str, Any]) -> str:
    """Put the fields of an answer, as JSON has them, into the inbox of the run that asks; return a token for `fate_of`.

    For those who do not have the class of the answer. Whoever takes it in has, and validates it by the class.
    """
    token = secrets.token_hex(8)
    payload = [question.input_id, question.response, json.dumps(dict(fields)), token]
    store.post(question.run_id, FIELDS, encode(payload, global_registry))
    return token


def fate_of(store: RunStore, run_id: str, token: str) -> tuple[bool, str | None]:
    """Return whether a run has taken an answer out of its inbox and, if it has refused it, the reason.

    No class is built or looked up. A refusal is found for as long as the journal has it.
    """
    if any(token.encode() in entry.payload for entry in store.inbox(run_id=run_id)):
        return False, None
    loaded = store.load([run_id]).get(run_id)
    for _, record in loaded.records if isinstance(loaded, Loaded) else ():
        _, kind, fields = describe_record(record)
        if kind == PostRefused.__name__ and fields["token"] == token:
            return True, str(fields["reason"])
    return True, None


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


def read_entry(entry: InboxEntry, registry: TypeRegistry) -> EventArrived | Responded | PostRefused | CancelAsked:
    """Return the fact that was put into an inbox. An answer whose fields do not fit its class is refused.

    Raises:
        ContextSerdeError: If it cannot be read.
    """
    if entry.kind == CANCEL:
        return CancelAsked()
    values = decode(entry.payload, registry)
    try:
        if entry.kind == FIELDS:
            return _read_fields(registry, *values)
        fact = EventArrived(*values) if entry.kind == EVENT else Responded(*values)
    except (TypeError, ValueError) as error:
        raise ContextSerdeError(f"inbox entry {entry.id} is not whole: {error}") from error
    if not isinstance(fact.event, Event):
        raise ContextSerdeError(f"inbox entry {entry.id} is not whole: it has {fact.event!r} for an event")
    return fact


def _read_fields(
    registry: TypeRegistry, input_id: str, response: str, fields: str, token: str
) -> Responded | PostRefused:
    given = HumanResponseEvent(answer=json.loads(fields))
    cls = _response_class(input_id, response, registry)
    try:
        event = cls.model_validate_json(fields)
        encode(event, registry)  # Its class may have made of the fields what a journal cannot hold.
    except Exception as error:  # The validators of its class may raise anything.
        said = str(error) if isinstance(error, ValidationError | ContextSerdeError) else repr(error)
        encode(given, registry)
        return PostRefused(given, f"the answer to question '{input_id}' does not fit: {said}", token)
    return Responded(input_id, event, token)


def _response_class(input_id: str, name: str, registry: TypeRegistry) -> type[Event]:
    cls = registry.get(name)
    if cls is None or not issubclass(cls, Event):
        raise ContextSerdeError(
            f"question '{input_id}' is answered with {name}, a class that the workflow does not name any more: if it"
            " was renamed or moved, register it with greenroom.codec.register_type(..., formerly=...)"
        ).about(name)
    return cls

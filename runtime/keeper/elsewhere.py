"""Runs that another runtime has: what is for them is put into their inboxes. No state, no lock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from greenroom.context_core import check_sendable
from greenroom.errors import InputAnsweredError, WorkflowRuntimeError
from greenroom.events import Event
from greenroom.inbox import post_answer, post_event, read_question
from greenroom.named import registry_of
from greenroom.stores import InputRow, RunStore

if TYPE_CHECKING:
    from greenroom.workflow import Workflow

__all__ = ["answer_elsewhere", "send_elsewhere"]


def answer_elsewhere(
    store: RunStore, workflow: Workflow, question: InputRow, response: Event | Mapping[str, Any]
) -> None:
    """Check the answer to a question, and put it into the inbox of the run that asks.

    Raises:
        InvalidResponseError: If it does not fit.
        InputAnsweredError: If there is an answer in the inbox already.
        StoreError: If the store failed, or the run has ended.
    """
    registry = registry_of(workflow)
    event = read_question(question, registry).make_response(response)
    if not post_answer(store, question.run_id, question.input_id, event, registry):
        raise InputAnsweredError(
            f"question '{question.input_id}' has been answered: its run is to take the answer soon"
        )


def send_elsewhere(store: RunStore, workflow: Workflow, run_id: str, event: Event, dedup_key: str | None) -> None:
    """Put an event into the inbox of a run.

    Raises:
        WorkflowRuntimeError: If it is no event, or a stop event.
        ContextSerdeError: If it cannot be encoded.
        StoreError: If the store failed, or the run has ended.
    """
    check_sendable(workflow._graph, event, None)
    if dedup_key is not None and not isinstance(dedup_key, str):
        raise WorkflowRuntimeError(f"send_event(dedup_key=...) takes a text, not {dedup_key!r}")
    post_event(store, run_id, event, registry_of(workflow), dedup_key)

"""The open questions in the store: listed as they stand there, and no run is woken for that. No state, no lock."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from greenroom.codec import TypeRegistry
from greenroom.errors import ContextSerdeError
from greenroom.inbox import read_question
from greenroom.inputs import PendingInput
from greenroom.log_fields import log_fields
from greenroom.named import registry_of
from greenroom.stores import InputRow, RunStore

if TYPE_CHECKING:
    from greenroom.workflow import Workflow

__all__ = ["stored_questions"]

logger = logging.getLogger("greenroom.durable")

PAGE = 1000


def stored_questions(
    store: RunStore, workflows: Mapping[str, Workflow], run_id: str | None = None
) -> Iterator[PendingInput]:
    """Return the open questions of one run, or of all whose workflows are known here, the oldest first.

    One that cannot be read is logged and left out: its run cannot go on, and the others can.

    Raises:
        StoreError: If the store failed.
    """
    registries: dict[str, TypeRegistry] = {}
    for row in _rows(store, run_id):
        workflow = workflows.get(row.workflow)
        if workflow is None:
            continue
        if row.workflow not in registries:
            registries[row.workflow] = registry_of(workflow)
        try:
            yield read_question(row, registries[row.workflow])
        except ContextSerdeError as error:
            fields = log_fields(row.run_id, row.step)
            logger.error("question '%s' of run '%s' cannot be read: %s", row.input_id, row.run_id, error, extra=fields)


def _rows(store: RunStore, run_id: str | None) -> Iterator[InputRow]:
    after = 0
    while page := store.inputs(run_id, after=after, limit=PAGE):
        yield from page
        after = page[-1].number

"""The open questions of runs that rest: listed from the store, and no run is woken for that. No state, no lock."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from greenroom.codec import TypeRegistry
from greenroom.inbox import read_question
from greenroom.inputs import PendingInput
from greenroom.named import registry_of
from greenroom.stores import RunStore

if TYPE_CHECKING:
    from greenroom.workflow import Workflow

__all__ = ["questions_at_rest"]

PAGE = 500


def questions_at_rest(store: RunStore, workflows: Mapping[str, Workflow], runs: Collection[str]) -> list[PendingInput]:
    """Return the open questions in the store of the workflows that are known here, but for some runs.

    Raises:
        ContextSerdeError: If one cannot be read.
        StoreError: If the store failed.
    """
    questions: list[PendingInput] = []
    after: str | None = None
    known: dict[str, Workflow | None] = {}
    registries: dict[str, TypeRegistry] = {}
    while True:
        page = store.inputs(after=after, limit=PAGE)
        for row in page:
            if row.run_id in runs:
                continue
            if row.run_id not in known:
                run = store.row(row.run_id)
                known[row.run_id] = None if run is None else workflows.get(run.workflow)
            workflow = known[row.run_id]
            if workflow is not None:
                name = workflow.workflow_name
                if name not in registries:
                    registries[name] = registry_of(workflow)
                questions.append(read_question(row, registries[name]))
        if len(page) < PAGE:
            return questions
        after = page[-1].input_id

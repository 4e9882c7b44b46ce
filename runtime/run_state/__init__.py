"""The rules of a run: one deterministic state machine with no threads, no clock and no I/O.

`RunState.apply(fact, now)` takes what has happened and returns what is to be done. The same facts at the same times
give the same effects. It never copies itself, so that a fact costs the same however large the run has grown.
"""

from __future__ import annotations

from greenroom.run_state.child import Child
from greenroom.run_state.children import (
    all_dead_letters,
    all_questions,
    asks_or_asked,
    casts_within,
    find_question,
    live_bodies,
)
from greenroom.run_state.ending import failed_outcome
from greenroom.run_state.notes import Note, of_child, read_note
from greenroom.run_state.posts import as_taken
from greenroom.run_state.state import MAX_DEAD_LETTERS, MAX_NOTES, OnStuck, RunState

__all__ = [
    "MAX_DEAD_LETTERS",
    "MAX_NOTES",
    "Child",
    "Note",
    "OnStuck",
    "RunState",
    "all_dead_letters",
    "all_questions",
    "as_taken",
    "asks_or_asked",
    "casts_within",
    "failed_outcome",
    "find_question",
    "live_bodies",
    "of_child",
    "read_note",
]

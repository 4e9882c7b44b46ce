"""What `greenroom runs` and `greenroom show` print."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from greenroom.cli.plain import class_of, in_words, moment, since, span
from greenroom.cli.screen import Screen
from greenroom.cli.stores import find_run, is_held, plain_document
from greenroom.codec import transcribe
from greenroom.document import take_document
from greenroom.errors import ContextSerdeError, StoreError
from greenroom.journal import describe_record
from greenroom.named import graphs_named_by, registry_of
from greenroom.owners import is_dead
from greenroom.recovery import read_run
from greenroom.snapshot import open_snapshot
from greenroom.stores import ENDED, InboxEntry, InputRow, Loaded, RunRow, RunStore, Status
from greenroom.workflow import Workflow

__all__ = ["describe_run", "list_runs", "read_document", "show_run"]

_TAIL = 10


# -- runs --------------------------------------------------------------------------------------------------------------


def list_runs(store: RunStore, workflow: str | None, status: Status | None, limit: int, screen: Screen) -> None:
    """Print a line a run, the newest first."""
    rows = store.runs(workflow, status, limit=limit)
    if not rows and workflow is not None:
        rows = store.runs(workflow.replace(":", "."), status, limit=limit)  # named as the other commands name it
    alive = {owner for owner in store.owners() if not is_dead(owner)}
    described = [describe_run(row, store, alive) for row in rows]
    if screen.as_json:
        for document in described:
            screen.document(document)
        return
    screen.table(
        ("RUN", "WORKFLOW", "STATUS", "AGE", "OWNER", "WAITS FOR"),
        [
            (
                document["run_id"],
                document["workflow"],
                document["status"],
                span(time.time() - document["created_at"]),
                document["holder"] or "",
                _waits_in_words(document),
            )
            for document in described
        ],
    )
    if not rows:
        screen.note("There are no such runs.")
    elif len(rows) == limit:
        screen.note(f"These are the newest {limit}; --limit shows more.")


def describe_run(row: RunRow, store: RunStore, alive: set[str]) -> dict[str, Any]:
    """Return a row with what is told of it: who has it, and what it waits for."""
    holder: str | None = None
    if row.status == "running":
        holder = "at rest" if row.owner is None else "alive" if row.owner in alive else "dead"
    questions = [] if row.status in ENDED else store.inputs(row.run_id, limit=100)
    return {
        **asdict(row),
        "holder": holder,
        "questions": [{"input_id": q.input_id, "step": q.step, "response": q.response} for q in questions],
    }


def _waits_in_words(document: dict[str, Any]) -> str:
    if document["status"] != "running":
        return document["reason"] or ""
    words = [f"{q['response'].rpartition(':')[2]} to {q['input_id']}" for q in document["questions"]]
    wake_at = document["wake_at"]
    if wake_at is not None:
        words.append(f"its time, {since(wake_at)}" if wake_at else "a process that takes it")
    return ", ".join(words)


# -- one run -----------------------------------------------------------------------------------------------------------


def show_run(store: RunStore, run_id: str, workflow: Workflow | None, screen: Screen) -> None:
    """Print all that the store has of a run."""
    row = find_run(store, run_id)
    loaded = store.load([run_id]).get(run_id)
    faults: list[str] = []
    document: dict[str, Any] | None = None
    if isinstance(loaded, StoreError):
        faults.append(str(loaded))
    elif loaded is not None:
        document = _document_or_fault(loaded, workflow, faults)
    questions, inbox = store.inputs(run_id), store.inbox(run_id=run_id)
    result = store.result(run_id)
    records = loaded.records if isinstance(loaded, Loaded) else []
    shown = {
        **asdict(row),
        "is_held": is_held(store, row),
        "applied": workflow is not None and not faults,
        "result": None if result is None else _transcribed(result, "the result", faults),
        "run": document,
        "questions": [_question_document(question, faults) for question in questions],
        "inbox": [_entry_document(entry, faults) for entry in inbox],
        "journal": [_record_document(number, record) for number, record in records[-_TAIL:]],
        "faults": faults,
    }
    if screen.as_json:
        screen.document(shown)
    else:
        _print_run(shown, len(records), screen)


def read_document(loaded: Loaded, workflow: Workflow | None) -> dict[str, Any] | None:
    """Return the document of a run as JSON-able values: as of now with its workflow, else as of its checkpoint.

    Raises:
        ContextSerdeError: If it cannot be read.
    """
    if loaded.snapshot is None:
        return None
    if workflow is None:
        head, body = open_snapshot(loaded.snapshot[1])
        return {**transcribe(head), **transcribe(body)}
    recovery = read_run(
        workflow._graph,
        loaded.snapshot[1],
        loaded.records,
        registry_of(workflow),
        published=loaded.row.next_offset,
        timeout=workflow.timeout,
        on_stuck=workflow.on_stuck,
        named=graphs_named_by(workflow),
    )
    document: dict[str, Any] = plain_document(take_document(recovery.state, recovery.last), workflow)
    return document


def _document_or_fault(loaded: Loaded, workflow: Workflow | None, faults: list[str]) -> dict[str, Any] | None:
    try:
        return read_document(loaded, workflow)
    except ContextSerdeError as error:
        faults.append(str(error))
    try:
        return None if workflow is None else read_document(loaded, None)
    except ContextSerdeError:
        return None  # What is wrong has been told.


def _transcribed(data: bytes, what: str, faults: list[str]) -> Any:
    try:
        return transcribe(data)
    except ContextSerdeError as error:
        faults.append(f"{what} cannot be read: {error}")
        return None


def _question_document(question: InputRow, faults: list[str]) -> dict[str, Any]:
    request = _transcribed(question.request, f"question '{question.input_id}'", faults)
    return {**asdict(question), "request": request}


def _entry_document(entry: InboxEntry, faults: list[str]) -> dict[str, Any]:
    payload = _transcribed(entry.payload, f"inbox entry {entry.id}", faults) if entry.payload else None
    return {**asdict(entry), "payload": payload}


def _record_document(number: int, record: bytes) -> dict[str, Any]:
    try:
        at, kind, fields = describe_record(record)
    except ContextSerdeError as error:
        return {"number": number, "fault": str(error)}
    return {"number": number, "at": at, "kind": kind, "fields": fields}


def _print_run(shown: dict[str, Any], records: int, screen: Screen) -> None:
    screen.heading(f"Run {shown['run_id']}")
    status = shown["status"] + (f": {shown['reason']}" if shown["reason"] else "")
    owner = shown["owner"]
    held = "" if owner is None else f"{owner} ({'alive' if shown['is_held'] else 'dead'})"
    size = f"{records} records after the checkpoint, {shown['bytes']} bytes; {shown['next_offset']} stream events"
    wake_at = shown["wake_at"]
    screen.pairs(
        {
            "workflow": shown["workflow"],
            "status": status,
            "made": f"{moment(shown['created_at'])}, {since(shown['created_at'])}",
            "changed": f"{moment(shown['updated_at'])}, {since(shown['updated_at'])}",
            "held by": held or ("nobody: it is at rest" if shown["status"] == "running" else ""),
            "wakes": "" if wake_at is None else since(wake_at) if wake_at else "as soon as a process takes it",
            "journal": size,
            "result": "" if shown["result"] is None else in_words(shown["result"]),
        }
    )
    for fault in shown["faults"]:
        screen.error(fault)
    if shown["run"] is not None:
        if records and not shown["applied"]:
            screen.note(f"What follows is as of the checkpoint: {records} records have come since. Name the workflow,")
            screen.note("as `greenroom show RUN module:Workflow`, to have them applied.")
        _print_document(shown["run"], screen)
    _print_table(
        screen,
        "Open questions",
        ("INPUT", "STEP", "ANSWER", "ASKED", "EXPIRES", "REQUEST"),
        [
            (
                each["input_id"],
                each["step"],
                each["response"].rpartition(":")[2],
                since(each["asked_at"]),
                "" if each["expires_at"] is None else since(each["expires_at"]),
                in_words(each["request"]),
            )
            for each in shown["questions"]
        ],
    )
    _print_table(
        screen,
        "Inbox",
        ("ENTRY", "KIND", "CONTENT"),
        [(str(each["id"]), each["kind"], in_words(each["payload"])) for each in shown["inbox"]],
    )
    _print_table(
        screen,
        f"Journal, the last {_TAIL} records" if records > _TAIL else "Journal",
        ("NUMBER", "AT", "FACT", "CONTENT"),
        [_record_line(each) for each in shown["journal"]],
    )


def _print_document(run: dict[str, Any], screen: Screen) -> None:
    screen.heading("State")
    screen.line(in_words(run["state"]))
    _print_table(
        screen,
        "Invocations",
        ("NUMBER", "STEP", "EVENT", "STANDING"),
        [
            (str(each["number"]), each["step"], in_words(each["event"]), _standing(each))
            for each in sorted(run["invocations"], key=lambda each: int(each["number"]))
        ],
    )
    events = [(step, str(buffer_id), in_words(event)) for step, buffer_id, all_ in run["buffers"] for event, _ in all_]
    _print_table(screen, "Collected", ("STEP", "BUFFER", "EVENT"), events)
    later = [(f"in {span(left)}", step or "", in_words(event)) for _, event, step, left, _ in run["delayed"]]
    later += [("held for a wait", step or "", in_words(event)) for event, step in run["held"]]
    _print_table(screen, "Events to come", ("WHEN", "STEP", "EVENT"), later)
    letters = [(step or "", in_words(event), reason) for event, reason, step in run["dead_letters"]]
    _print_table(screen, "Dead letters", ("STEP", "EVENT", "WHY"), letters)


def _standing(invocation: dict[str, Any]) -> str:
    words = []
    for wait in invocation["waits"] or ():
        if wait["state"] == "open":
            event = (wait["event_type"] or "").rpartition(":")[2]
            words.append(
                f"waits for {event or 'its time'}" + ("" if wait["left"] is None else f" {span(wait['left'])}")
            )
    if invocation["retry_in"] is not None:
        words.append(f"is tried again in {span(invocation['retry_in'])}")
    if invocation["failures"]:
        error = invocation["retry_info"][2]
        words.append(f"failed {invocation['failures']} times" + ("" if error is None else f", with {in_words(error)}"))
    return "; ".join(words) or "at work or queued"


def _record_line(record: dict[str, Any]) -> tuple[str, str, str, str]:
    if "fault" in record:
        return str(record["number"]), "", "", record["fault"]
    fields = {key: value for key, value in record["fields"].items() if value is not None}
    words = "  ".join(f"{key}={class_of(value) or in_words(value)}" for key, value in fields.items())
    return str(record["number"]), moment(record["at"]), record["kind"], words


def _print_table(screen: Screen, title: str, headings: tuple[str, ...], rows: Sequence[Sequence[str]]) -> None:
    if rows:
        screen.heading(title)
        screen.table(headings, rows)

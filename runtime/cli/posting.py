"""What `greenroom answer`, `cancel`, `put-back`, `export` and `check` do."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from greenroom.cli.faults import CommandError
from greenroom.cli.forms import ClassForm, SchemaForm, fill_in
from greenroom.cli.keyboard import Keyboard, NoLongerAsked
from greenroom.cli.listing import read_document
from greenroom.cli.plain import class_of, in_words
from greenroom.cli.questions import ask_person
from greenroom.cli.saved import write_whole
from greenroom.cli.screen import Screen
from greenroom.cli.stores import find_run, is_held
from greenroom.codec import transcribe
from greenroom.deploy import check
from greenroom.document import take_document
from greenroom.errors import ContextSerdeError, StoreError
from greenroom.inbox import ANSWER, FIELDS, fate_of, post_answer, post_cancel, post_fields, read_question
from greenroom.journal import describe_record
from greenroom.named import graphs_named_by, registry_of
from greenroom.recovery import read_run
from greenroom.snapshot import dump_snapshot
from greenroom.stores import ENDED, InputRow, Loaded, RunRow, RunStore
from greenroom.workflow import Workflow

__all__ = ["answer_question", "cancel_run", "check_store", "export_run", "put_run_back", "tell_taken"]

# Seconds to wait for a process to take what was posted, and between two looks whether one has.
_TAKEN_WITHIN = 2.0
_LOOK_EVERY = 0.05


def answer_question(
    store: RunStore, input_id: str, workflow: Workflow | None, pairs: Sequence[str], screen: Screen
) -> tuple[RunRow, str]:
    """Ask a person for the answer to a question, unless it is given, and post it.

    Returns:
        The run that asks, and the token of the post.

    Raises:
        CommandError: If the question is not open, or the answer does not fit.
    """
    question = store.input(input_id)
    if question is None:
        raise CommandError(f"no run has asked '{input_id}'; `greenroom show RUN` lists the questions of a run")
    row = find_run(store, question.run_id)
    if question.closed is not None:
        raise CommandError(f"question '{input_id}' is not open any more: it was {question.closed}")
    if row.status in ENDED:
        raise CommandError(f"run '{row.run_id}', which asked '{input_id}', is {row.status}")
    if workflow is not None and workflow.workflow_name != row.workflow:
        raise CommandError(f"question '{input_id}' is of a run of {row.workflow}, not of {workflow.workflow_name}")
    if _is_answered(store, question):
        screen.note("An answer to it is in the inbox already, and not taken yet. The first one that fits is taken.")
    if workflow is None:
        schema = SchemaForm(question.response.rpartition(":")[2], _read_schema(question))
        token = post_fields(store, question, _ask(store, question, schema, pairs, screen))
    else:
        registry = registry_of(workflow)
        form = ClassForm(read_question(question, registry).response)
        event = form.make(_ask(store, question, form, pairs, screen))
        posted = post_answer(store, row.run_id, input_id, event, registry)
        if posted is None:
            raise CommandError(f"question '{input_id}' has been answered: the answer is in the inbox of its run")
        token = posted
    return row, token


def tell_taken(store: RunStore, row: RunRow, input_id: str, token: str, screen: Screen) -> None:
    """Wait a moment for the answer to be taken, and tell what has become of it.

    Raises:
        CommandError: If the run has refused it.
    """
    taken = row.status == "running" and _wait(lambda: fate_of(store, row.run_id, token)[0])
    _, refused = fate_of(store, row.run_id, token)
    if refused is not None:
        raise CommandError(
            f"run '{row.run_id}' has refused the answer: {refused}. It is kept among the run's dead letters, which"
            f" `greenroom show {row.run_id} module:Workflow` lists"
        )
    if screen.as_json:
        screen.document({"answered": input_id, "run_id": row.run_id, "taken": taken})
    elif taken:
        screen.note(f"Answered: run '{row.run_id}' has taken it.")
    else:
        screen.note(f"The answer is in the inbox of run '{row.run_id}'. {_when(store, row.run_id)}")


def cancel_run(store: RunStore, run_id: str, screen: Screen) -> None:
    """Ask for the end of a run, and tell what has become of it."""
    row = find_run(store, run_id)
    post_cancel(store, run_id)

    def has_ended() -> bool:
        now = store.row(run_id)
        return now is None or now.status in ENDED

    ended = row.status == "running" and _wait(has_ended)
    if screen.as_json:
        screen.document({"cancelled": run_id, "taken": ended})
    elif ended:
        screen.note(f"Run '{run_id}' has ended.")
    else:
        screen.note(f"The wish to end it is in the inbox of run '{run_id}'. {_when(store, run_id)}")


def put_run_back(store: RunStore, run_id: str, screen: Screen) -> None:
    """Let a run that was set aside go on."""
    row = find_run(store, run_id)
    if not store.put_back(run_id):
        raise CommandError(f"run '{run_id}' was not set aside: it is {row.status}")
    if screen.as_json:
        screen.document({"put_back": run_id, "reason": row.reason})
    else:
        screen.note(f"Run '{run_id}' runs again. {_when(store, run_id)}")


def export_run(
    store: RunStore, run_id: str, reference: str | None, workflow: Workflow | None, output: Path | None, screen: Screen
) -> None:
    """Write a run to a file: as a snapshot, or with `--json` all that the store has of it."""
    row = find_run(store, run_id)
    loaded = store.load([run_id]).get(run_id)
    if isinstance(loaded, StoreError):
        raise loaded
    if screen.as_json:
        document = _whole(store, row, loaded, workflow)
        if output is None:
            screen.document(document)
            return
        data = json.dumps(document, indent=2).encode()
    else:
        if workflow is None:
            raise CommandError(
                "name the workflow, as `greenroom export RUN module:Workflow`: a snapshot is made of the checkpoint and"
                " the journal, and only the workflow's code can apply it. With --json no code is needed"
            )
        if row.status in ENDED or loaded is None or loaded.snapshot is None:
            raise CommandError(f"run '{run_id}' is {row.status}, so there is nothing to go on with; --json exports it")
        data = _snapshot(loaded, workflow)
    path = output or Path(f"{run_id.replace('/', '_')}.greenroom")
    if output is None and path.exists():
        raise CommandError(f"{path} exists; name a file with --output FILE")
    try:
        write_whole(path, data)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from error
    screen.note(f"Wrote {path}.")
    if not screen.as_json:
        screen.note(f"To go on with a copy of the run: greenroom resume {path} {reference}")


def check_store(store: RunStore, workflows: Sequence[Workflow], screen: Screen) -> bool:
    """Tell what would break by the code as it is now; return whether nothing would."""
    try:
        report = check(
            store, workflows, on_progress=lambda done, all_: screen.progress(f"Looked at {done} of {all_} runs")
        )
    finally:
        screen.progress(None)
    for run in report.broken:
        if screen.as_json:
            screen.document(asdict(run))
            continue
        screen.heading(f"{run.run_id}  {run.workflow}{'  (set aside)' if run.status == 'set_aside' else ''}")
        for fault in run.faults:
            subject = ".".join(filter(None, [fault.event, fault.field]))
            of_step = "" if fault.step is None else f" of step '{fault.step}'"
            screen.line(f"  {fault.place}{of_step}{f', {subject}' if subject else ''}: {fault.problem}")
    if screen.as_json:
        screen.document({"checked": report.checked, "broken": len(report.broken), "others": dict(report.others)})
    else:
        broken = len(report.broken)
        screen.note(f"{report.checked} unfinished runs were looked at; {broken or 'none'} would break.")
        for name, count in report.others.items():
            screen.note(f"{count} unfinished runs of {name} were not looked at: that workflow was not named.")
    return not report.broken


# -- inside help -------------------------------------------------------------------------------------------------------


def _ask(
    store: RunStore, question: InputRow, form: ClassForm | SchemaForm, pairs: Sequence[str], screen: Screen
) -> dict[str, Any]:
    if pairs or not screen.can_ask:
        return fill_in(form, pairs)
    request = transcribe(question.request)
    fields = request.get("fields", {}) if isinstance(request, dict) else {}
    shown = {
        key: value if isinstance(value, str | int | float | None) else in_words(value) for key, value in fields.items()
    }

    def is_open() -> bool:
        now = store.input(question.input_id)
        return now is not None and now.closed is None

    try:
        return ask_person(class_of(request) or "Question", shown, form, screen, Keyboard(), is_open)
    except NoLongerAsked:
        raise CommandError(f"question '{question.input_id}' is not open any more") from None
    except EOFError:
        raise CommandError("nothing was answered") from None


def _is_answered(store: RunStore, question: InputRow) -> bool:
    entries = (entry for entry in store.inbox(run_id=question.run_id) if entry.kind in (ANSWER, FIELDS))
    return any(transcribe(entry.payload)[0] == question.input_id for entry in entries)


def _read_schema(question: InputRow) -> dict[str, Any]:
    try:
        schema = json.loads(question.schema)
    except ValueError as error:
        raise CommandError(f"the schema of question '{question.input_id}' is damaged: {error}") from error
    return schema if isinstance(schema, dict) else {}


def _wait(condition: Any) -> bool:
    deadline = time.monotonic() + _TAKEN_WITHIN
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_EVERY)
    return True


def _when(store: RunStore, run_id: str) -> str:
    row = store.row(run_id)
    if row is not None and row.status in ENDED:
        return f"The run is {row.status}, and will not take it: it stays there until the run is deleted."
    if row is None or row.status == "set_aside":
        return "The run is set aside; it is taken when the run has been put back: greenroom put-back RUN."
    if is_held(store, row):
        return f"The process that has the run, {row.owner}, takes it."
    return f"Nobody holds the run at present: it is taken when a process runs that knows {row.workflow}."


def _snapshot(loaded: Loaded, workflow: Workflow) -> bytes:
    registry = registry_of(workflow)
    assert loaded.snapshot is not None
    recovery = read_run(
        workflow._graph,
        loaded.snapshot[1],
        loaded.records,
        registry,
        published=loaded.row.next_offset,
        timeout=workflow.timeout,
        on_stuck=workflow.on_stuck,
        named=graphs_named_by(workflow),
    )
    return dump_snapshot(take_document(recovery.state, recovery.last), registry)


def _whole(store: RunStore, row: RunRow, loaded: Loaded | None, workflow: Workflow | None) -> dict[str, Any]:
    result = store.result(row.run_id)
    events: list[dict[str, Any]] = []
    after = -1
    while page := store.events(row.run_id, after):
        events += [{"offset": offset, "event": _readable(data)} for offset, data in page]
        after = page[-1][0]
    journal = []
    for number, record in loaded.records if loaded is not None else ():
        try:
            at, kind, fields = describe_record(record)
            journal.append({"number": number, "at": at, "kind": kind, "fields": fields})
        except ContextSerdeError as error:
            journal.append({"number": number, "fault": str(error)})
    return {
        **asdict(row),
        "run": None if loaded is None else read_document(loaded, workflow),
        "result": None if result is None else _readable(result),
        "stream": events,
        "journal": journal,
    }


def _readable(data: bytes) -> Any:
    try:
        return transcribe(data)
    except ContextSerdeError as error:
        return {"fault": str(error)}

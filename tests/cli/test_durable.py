"""The commands on the runs of a store, and runs that are kept in one, with and without a process that has them."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from greenroom import Context, Runtime
from greenroom.cli import posting
from greenroom.cli.app import app
from greenroom.cli.schema import schema_faults
from greenroom.cli.session import ExitCode, Session
from greenroom.inbox import fate_of
from greenroom.keeper.lookout import Lookout
from greenroom.stores import Commit, InputRow, RunStore, SQLiteStore
from tests.support import postgres
from tests.support.durable_flows import Reviews, Verdict
from tests.support.flavours import DEADLINE
from tests.support.terminal import GREENROOM, ROOT

FLOW = "tests.support.durable_flows:Reviews"
NAME = "tests.support.durable_flows.Reviews"
GOOD = ["ok=true", "due=2026-01-31"]


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Work in an empty folder, with a store that is named and not there yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("GREENROOM_STORE", "runs.db")
    return "runs.db"


def call(*arguments: str) -> Result:
    result = CliRunner().invoke(app, [*arguments])
    assert "Traceback" not in result.stderr
    return result


def told(result: Result) -> str:
    """What stderr says, on one line."""
    return " ".join(result.stderr.split())


def documents(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def leave(run_id: str = "one", *fields: str) -> None:
    """Begin a run, which asks and is left in the store."""
    assert call("run", FLOW, f"--run-id={run_id}", *fields).exit_code == 75


@contextmanager
def holder(*run_ids: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.durable_flows", str(Path("runs.db").resolve()), *run_ids],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.stdin.close()
            process.wait(DEADLINE)


# -- runs in a store ---------------------------------------------------------------------------------------------------


def test_a_run_without_a_terminal_is_left_in_the_store() -> None:
    """Exit code 75, no file, and the command goes on with it; a store of the environment is not repeated."""
    done = call("run", FLOW, "--run-id=one")
    assert done.exit_code == 75
    assert f"Saved to the store. To go on: greenroom resume one {FLOW}" in told(done)
    assert {path.name for path in Path().iterdir()} <= {"runs.db", "runs.db-wal", "runs.db-shm"}
    done = call("run", FLOW, "--run-id=two", "--store=runs.db")
    assert f"greenroom resume two {FLOW} --store runs.db" in told(done)
    done = call("resume", "one", FLOW)
    assert done.exit_code == 75
    assert "there is no terminal to ask at" in told(done)
    # The same id is the same run; what it asks is shown again.
    again = call("run", FLOW, "--run-id=one")
    assert again.exit_code == 75
    assert "Run 'one' is in the store already: it goes on with what it was begun with." in told(again)
    assert "input_id=one:1" in again.stdout
    assert len(documents(call("runs", "--json"))) == 2


def test_ctrl_c_leaves_a_run_in_the_store_and_another_process_goes_on() -> None:
    """Also a kill that cannot be seen: what was committed is there."""
    with GREENROOM.terminal("run", FLOW, "--run-id", "one", "--store", Path("runs.db").resolve()) as person:
        person.read_until("ok (y/n): ")
        person.interrupt()
        rest = person.read_rest()
        assert "Saved to the store." in rest
        assert f"greenroom resume one {FLOW} --store" in rest
        assert person.code() == 75
    with GREENROOM.terminal("resume", "one", FLOW, "--store", Path("runs.db").resolve()) as person:
        person.read_until("ok (y/n): ")
        person.interrupt(signal.SIGKILL)
        person.code()
    assert documents(call("runs", "--json"))[0]["holder"] == "dead"
    with GREENROOM.terminal("resume", "one", FLOW, "--store", Path("runs.db").resolve()) as person:
        person.read_until("ok (y/n): ")
        person.type("y\n")
        person.read_until("due (date): ")
        person.type("2026-01-31\n")
        person.read_until("stars (integer) [3]: ")
        person.type("\n")
        assert person.read_rest().endswith("Result: 31.01.2026 3\n")
        assert person.code() == 0
    assert documents(call("runs", "--json"))[0]["status"] == "completed"


@pytest.mark.parametrize(
    "words",
    [
        ["run", FLOW, "--run-id=mine"],
        ["run", "tests.support.cli_flows:AskNumber", "--run-id=mine"],
        ["resume", "left", FLOW],
        ["answer", "left:1", FLOW, "ok=false", "due=2026-01-31", "--run"],
    ],
    ids=["run", "run another workflow", "resume", "answer"],
)
def test_a_command_that_works_on_one_run_leaves_all_others_alone(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though they are due, were left by a process that is dead, or are of the same workflow, and it looks around."""
    for run_id in ("left", "due", "orphan"):
        leave(run_id)
    assert call("run", "tests.support.cli_flows:AskNumber", "--run-id=other").exit_code == 75
    store = SQLiteStore("runs.db")
    store.open()
    for run_id in ("due", "other"):
        store.post(run_id, "cancel", b"")
    store.renew("a dead process", 1000)
    store.acquire(["orphan"], "a dead process")
    store.resign("a dead process")
    others = ("due", "orphan", "other")
    before = [store.row(run_id) for run_id in others]
    assert [row.wake_at for row in before if row is not None] == [0.0, None, 0.0]
    looks = threading.Semaphore(0)
    look, drive = Lookout._look_around, Session.drive

    def count(lookout: Lookout) -> float | None:
        soon = look(lookout)
        looks.release()
        return soon

    def drive_later(session: Session) -> ExitCode:
        for _ in range(3):
            assert looks.acquire(timeout=DEADLINE)
        return drive(session)

    monkeypatch.setattr("greenroom.keeper.POLL_SECONDS", 0.001)
    monkeypatch.setattr(Lookout, "_look_around", count)
    monkeypatch.setattr(Session, "drive", drive_later)
    assert call(*words).exit_code == 75
    assert [store.row(run_id) for run_id in others] == before
    store.close()


def test_runs_are_listed() -> None:
    """By status and workflow, with what they wait for; as a table and as JSON lines."""
    leave("one")
    leave("two")
    call("answer", "two:1", FLOW, *GOOD, "--run")
    lines = call("runs").stdout.splitlines()
    assert lines[0].split() == ["RUN", "WORKFLOW", "STATUS", "AGE", "OWNER", "WAITS", "FOR"]
    assert [line.split()[:3] for line in lines[1:]] == [["two", NAME, "completed"], ["one", NAME, "running"]]
    assert lines[2].endswith("at rest  Verdict to one:1")
    (row,) = documents(call("runs", "--json", "--status=running"))
    asked = {"input_id": "one:1", "step": "review", "response": "tests.support.durable_flows:Verdict"}
    assert row["questions"] == [asked]
    assert (row["run_id"], row["holder"]) == ("one", "at rest")
    assert "There are no such runs" in told(call("runs", "--workflow=Other"))
    done = call("runs", "--limit=1")
    assert len(done.stdout.splitlines()) == 2
    assert "--limit shows more" in told(done)


def test_runs_of_a_workflow_are_listed_by_either_of_its_names() -> None:
    """As the other commands name it, and as the list does."""
    leave()
    for name, count in ((FLOW, 1), (NAME, 1), ("Reviews", 0)):
        assert len(documents(call("runs", "--json", "--workflow", name))) == count


def test_a_run_is_shown_without_its_code_and_with_it() -> None:
    """State, invocations, questions, inbox and journal; without the code as of the checkpoint, and that is said."""
    leave("one", "topic=dogs")
    call("answer", "one:1", *GOOD)
    bare = call("show", "one")
    assert bare.exit_code == 0
    for words in (
        f"workflow  {NAME}",
        "at rest",
        "Open questions",
        "one:1  review  Verdict",
        "Inbox",
        "fields",
        "WaitAsked",
    ):
        assert words in bare.stdout
    assert "Review(message='Is it good?', text='about cats', input_id='one:1')" in bare.stdout
    assert "records have come since. Name the workflow" in told(bare)
    assert "waits for Verdict" not in bare.stdout
    full = call("show", "one", FLOW)
    assert "DictState(topic='dogs')" in full.stdout
    assert "1       review  Draft(text='about cats')  waits for Verdict" in full.stdout
    (document,) = documents(call("show", "one", FLOW, "--json"))
    assert document["run"]["state"]["fields"] == {"topic": "dogs"}
    assert document["journal"][0]["kind"] == "RunStarted"
    assert document["faults"] == []
    (document,) = documents(call("show", "one", "--json"))
    assert document["questions"][0]["request"]["fields"]["text"] == "about cats"


def test_showing_imports_nothing_without_the_workflow() -> None:
    """A store says which module its classes are of, and is not believed."""
    leave("one")
    program = (
        "import sys; from greenroom.cli.app import app\n"
        "try:\n    app(['show', 'one'])\nexcept SystemExit as end:\n"
        "    print([name for name in sys.modules if name.startswith('tests')], end.code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=25, check=True)
    assert done.stdout.endswith("[] 0\n")


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reference", [[], [FLOW]], ids=["schema", "class"])
def test_an_answer_is_taken_by_the_process_that_has_the_run(reference: list[str]) -> None:
    """With the class or without it; the values come as its class makes them of what JSON has."""
    with holder("one") as process:
        assert documents(call("runs", "--json"))[0]["holder"] == "alive"
        refused = call("resume", "one", FLOW)
        assert refused.exit_code == 2
        assert "run 'one' is held by process" in told(refused)
        done = call("answer", "one:1", *reference, *GOOD, "stars=5")
        assert (done.exit_code, told(done)) == (0, "Answered: run 'one' has taken it.")
        again = call("answer", "one:1", *reference, *GOOD)
        assert again.exit_code == 2
        assert "it was answered" in told(again) or "is completed" in told(again)
        assert process.poll() is None
    with Runtime(store=SQLiteStore("runs.db")) as runtime:
        runtime.recover([Reviews])
        handler = runtime.get("one")
        assert handler is not None
        assert handler.result(DEADLINE) == "31.01.2026 5"


def test_an_answer_that_nobody_takes_waits_and_is_told() -> None:
    """It is taken by the next process that knows the workflow, here or elsewhere."""
    leave("one")
    done = call("answer", "one:1", *GOOD, "--json")
    assert documents(done) == [{"answered": "one:1", "run_id": "one", "taken": False}]
    assert "Nobody holds the run at present: it is taken when a process runs that knows" in told(call("cancel", "one"))
    with holder():
        deadline = time.monotonic() + DEADLINE
        while documents(call("runs", "--json"))[0]["status"] == "running":
            assert time.monotonic() < deadline, "nobody took it"
    assert documents(call("runs", "--json"))[0]["status"] in ("completed", "cancelled")


def test_a_second_answer_is_told_of_the_first() -> None:
    """Nobody has taken that: by its class it is refused, without its class the first that fits is taken."""
    leave()
    assert call("answer", "one:1", FLOW, *GOOD).exit_code == 0
    without = call("answer", "one:1", *GOOD)
    assert without.exit_code == 0
    assert "An answer to it is in the inbox already, and not taken yet. The first one that fits is taken." in told(
        without
    )
    by_its_class = call("answer", "one:1", FLOW, *GOOD)
    assert by_its_class.exit_code == 2
    assert "question 'one:1' has been answered: the answer is in the inbox of its run" in told(by_its_class)


def test_a_run_of_a_class_in_the_program_itself_is_told(tmp_path: Path) -> None:
    """No other program knows it: the message says what to do."""
    program = """
from greenroom import HumanResponseEvent, InputRequiredEvent, Runtime, StartEvent, Workflow, Context, StopEvent, step
from greenroom.stores import SQLiteStore
class Reviews(Workflow):
    @step
    def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=ctx.ask(InputRequiredEvent(), HumanResponseEvent).response)
with Runtime(store=SQLiteStore("runs.db")):
    handler = Reviews().run(run_id="one")
    next(event for event in handler.stream_events())
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=DEADLINE)
    done = call("resume", "one", FLOW)
    assert done.exit_code == 2
    assert f"run 'one' is of __main__.Reviews, not of {NAME}: it was begun by a program that defines" in told(done)


def test_an_answer_that_is_refused_is_told_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when another answer is quicker by a hair; it is a dead letter of the run."""
    post_fields = posting.post_fields

    def post_late(store: RunStore, question: InputRow, fields: Mapping[str, Any]) -> str:
        first = post_fields(store, question, {**fields, "ok": False, "stars": 2})
        while not fate_of(store, question.run_id, first)[0]:
            threading.Event().wait(0.01)
        return post_fields(store, question, fields)

    with holder("one"):
        monkeypatch.setattr(posting, "post_fields", post_late)
        done = call("answer", "one:1", *GOOD)
        assert done.exit_code == 2
        assert "run 'one' has refused the answer: question 'one:1' has been answered" in told(done)
        shown = " ".join(call("show", "one", FLOW).stdout.split())
        assert "Dead letters" in shown
        assert "question 'one:1' has been answered" in shown
        (refused,) = [r for r in documents(call("show", "one", "--json"))[0]["journal"] if r["kind"] == "PostRefused"]
        assert refused["fields"]["reason"] == "question 'one:1' has been answered"


def test_an_answer_can_be_worked_on_here() -> None:
    """Until the run rests again, with exit code 75, or ends."""
    leave("one")
    done = call("answer", "one:1", FLOW, "ok=false", "due=2026-01-31", "--run")
    assert (done.exit_code, "The run rests" in told(done)) == (75, True)
    done = call("answer", "one:2", FLOW, *GOOD, "--run")
    assert (done.exit_code, done.stdout) == (0, "Result: 31.01.2026 3\n")
    # Whoever asks for a run that has ended gets what it came to.
    for words in (["resume", "one", FLOW], ["run", FLOW, "--run-id=one"]):
        done = call(*words)
        assert (done.exit_code, done.stdout, done.stderr) == (0, "Result: 31.01.2026 3\n", "")


def test_an_answer_is_asked_for_at_the_terminal() -> None:
    """From the stored schema alone, field by field."""
    leave("one")
    with GREENROOM.terminal("answer", "one:1", "--store", Path("runs.db").resolve()) as person:
        assert "? Is it good?" in person.read_until("ok (y/n): ")
        person.type("perhaps\n")
        assert "answer y or n" in person.read_until("ok (y/n): ")
        person.type("y\n")
        person.read_until("due (date): ")
        person.type("tomorrow\n")
        assert "should be a date" in person.read_until("due (date): ")
        person.type("2026-01-31\n")
        person.read_until("stars (integer) [3]: ")
        person.type("9\n")
        assert "should be at most 5" in person.read_until("stars (integer) [3]: ")
        person.type("4\n")
        assert "The answer is in the inbox of run 'one'" in person.read_rest()
        assert person.code() == 0
    assert call("resume", "one", FLOW).stdout.endswith("Result: 31.01.2026 4\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["one:9", *GOOD], "no run has asked 'one:9'"),
        (
            ["one:1"],
            "the question: ok: field required; due: field required. Verdict takes: ok (y/n)",
        ),
        (["one:1", *GOOD, "stars=6"], "stars: should be at most 5"),
        (["one:1", "ok=true", "due=soon"], "due: should be a date"),
        (["one:1", FLOW, "ok=true", "due=soon"], "due: Input should be a valid date"),
        (["one:1", "ok=true", "ok=true"], "'ok' is given twice"),
        (["one:1", "ok=true", "due"], "'due' is not key=value"),
        (["one:1", *GOOD, "--run"], "--run needs the workflow"),
        (["one:1", "tests.support.cli_flows:AskNumber", *GOOD], f"is of a run of {NAME}, not of"),
        (["one:1", "nowhere:Flow", *GOOD], "there is no module 'nowhere'"),
    ],
)
def test_a_wrong_answer_is_refused(words: list[str], message: str) -> None:
    """With exit code 2, and the question stays open."""
    leave("one")
    done = call("answer", *words)
    assert done.exit_code == 2
    assert message in told(done)
    assert documents(call("show", "one", "--json"))[0]["inbox"] == []


# -- the other commands ------------------------------------------------------------------------------------------------


def test_a_run_is_cancelled_in_the_process_that_has_it() -> None:
    """And what has ended cannot be cancelled."""
    with holder("one"):
        done = call("cancel", "one")
        assert (done.exit_code, told(done)) == (0, "Run 'one' has ended.")
    done = call("cancel", "one")
    assert (done.exit_code, "is cancelled" in told(done)) == (2, True)


def test_a_run_is_exported_and_a_copy_goes_on(tmp_path: Path) -> None:
    """The file is read by `resume` and by `Context.restore`; the run in the store is as it was."""
    leave("one")
    done = call("export", "one", FLOW)
    assert done.exit_code == 0
    assert f"greenroom resume one.greenroom {FLOW}" in told(done)
    assert Path("one.greenroom").stat().st_mode & 0o777 == 0o600
    assert "one.greenroom exists" in told(call("export", "one", FLOW))
    handler = Reviews().run(ctx=Context.restore(Reviews(), Path("one.greenroom").read_bytes()))
    handler.respond("one:1", Verdict(ok=True, due="2026-01-31"))
    assert handler.result(DEADLINE) == "31.01.2026 3"
    done = call("resume", "one.greenroom", FLOW)
    assert (done.exit_code, "Saved to one.greenroom" in told(done)) == (75, True)
    assert "name the workflow" in told(call("resume", "one.greenroom"))
    assert documents(call("runs", "--json"))[0]["status"] == "running"
    (document,) = documents(call("export", "one", "--json"))
    assert [event["event"]["$record"] for event in document["stream"]] == ["tests.support.durable_flows:Review"]
    assert [record["kind"] for record in document["journal"]] == ["RunStarted", "StoreCall", "Finished", "WaitAsked"]
    assert "only the workflow's code can apply it" in told(call("export", "one"))
    assert "cannot write no/where" in told(call("export", "one", FLOW, "--output=no/where"))


def test_a_run_that_was_set_aside_is_put_back() -> None:
    """Its reason is listed until then."""
    leave("one")
    store = SQLiteStore("runs.db")
    store.open()
    fence = store.acquire(["one"], "me")["one"]
    store.commit([Commit("one", fence, status="set_aside", reason="step 'review' is gone")])
    store.close()
    assert "step 'review' is gone" in call("runs", "--status=set_aside").stdout
    assert call("resume", "one", FLOW).exit_code == 2
    assert "put-back" in told(call("answer", "one:1", *GOOD))
    assert call("put-back", "one").exit_code == 0
    done = call("put-back", "one")
    assert (done.exit_code, "was not set aside: it is running" in told(done)) == (2, True)
    assert call("resume", "one", FLOW).stdout.endswith("Result: 31.01.2026 3\n")


def test_check_tells_what_would_break(tmp_path: Path) -> None:
    """Exit code 0 when nothing would, 1 and a line a fault when something would; nothing is changed."""
    leave("one")
    before = call("show", "one", "--json").stdout
    done = call("check", FLOW)
    assert (done.exit_code, done.stdout) == (0, "")
    assert told(done) == "1 unfinished runs were looked at; none would break."
    Path("newer.py").write_text(
        "from greenroom import StartEvent, StopEvent, Workflow, step\n"
        "from tests.support.durable_flows import Draft, Review, Verdict\n"
        "class Flow(Workflow):\n"
        "    @step\n"
        "    def begin(self, ev: StartEvent) -> StopEvent:\n"
        "        return StopEvent(result=[Draft, Review, Verdict])\n"
        f"flow = Flow(workflow_name='{NAME}')\n"
    )
    done = call("check", "newer:flow")
    assert done.exit_code == 1
    assert "invocation 1 of step 'review', Draft: step 'review' is gone, and has Draft in hand" in done.stdout
    run, summary = documents(call("check", "newer:flow", "--json"))
    assert (run["run_id"], run["faults"][0]["step"], run["faults"][0]["event"]) == ("one", "review", "Draft")
    assert summary == {"checked": 1, "broken": 1, "others": {}}
    assert "1 unfinished runs of" in told(call("check", "tests.support.cli_flows:AskNumber"))
    assert call("show", "one", "--json").stdout == before


# -- stores that are not what they should be ---------------------------------------------------------------------------


COMMANDS = [
    ["runs"],
    ["show", "one"],
    ["answer", "one:1", *GOOD],
    ["cancel", "one"],
    ["put-back", "one"],
    ["export", "one", "--json"],
    ["check", FLOW],
    ["resume", "one", FLOW],
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_no_command_makes_a_store_by_mistake(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that was mistyped is told, and so is none; only `run` makes a store."""
    done = call(*words, "--store=rums.db")
    assert done.exit_code == 2
    assert "there is no store rums.db" in told(done)
    Path("rums.db").touch()
    assert "this file is empty, and no store: rums.db" in told(call(*words, "--store=rums.db"))
    assert "is a folder" in told(call(*words, "--store=."))
    assert "'mysql://' is no store" in told(call(*words, "--store=mysql://here"))
    assert Path("rums.db").stat().st_size == 0
    assert list(Path().iterdir()) == [Path("rums.db")]
    monkeypatch.delenv("GREENROOM_STORE")
    if words[0] != "resume":
        assert "name the store: --store runs.db" in told(call(*words))


def test_damaged_newer_and_locked_stores_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """One clear error with exit code 1."""
    leave("one")
    Path("text.db").write_text("hello, this is no database at all\n" * 100)
    done = call("runs", "--store=text.db")
    assert (done.exit_code, "is damaged, or no SQLite database" in told(done)) == (1, True)
    with sqlite3.connect("newer.db") as db:
        db.execute(f"PRAGMA application_id = {0x67726E72}")
        db.execute("PRAGMA user_version = 99")
        db.execute("CREATE TABLE runs (id INTEGER)")
    db.close()
    done = call("runs", "--store=newer.db")
    assert (done.exit_code, "a newer Greenroom has written it" in told(done)) == (1, True)
    monkeypatch.setattr("greenroom.cli.stores.SQLiteStore", lambda path: SQLiteStore(path, busy_timeout=0.05))
    other = sqlite3.connect("runs.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    done = call("cancel", "one")
    assert (done.exit_code, "keeps the store" in told(done)) == (1, True)
    other.execute("ROLLBACK")
    other.close()


def test_damaged_bytes_of_a_run_are_told_and_the_rest_is_shown() -> None:
    """A record that is no document, and a checkpoint that is none."""
    leave("one")
    store = SQLiteStore("runs.db")
    store.open()
    fence = store.acquire(["one"], "me")["one"]
    store.commit([Commit("one", fence, records=[(4, b"junk")], release=True)])
    store.close()
    done = call("show", "one", FLOW)
    assert done.exit_code == 0
    assert "journal record 4 cannot be applied" in told(done)
    assert "one:1  review  Verdict" in done.stdout
    done = call("check", FLOW)
    assert (done.exit_code, "journal record 4: " in done.stdout) == (1, True)


@pytest.mark.parametrize("words", [words for words in COMMANDS if words[0] in ("show", "cancel", "put-back", "export")])
def test_an_unknown_run_is_told(words: list[str]) -> None:
    """With exit code 2."""
    leave("other")
    done = call(*words)
    assert (done.exit_code, told(done)) == (
        2,
        "Error: the store has no run 'one'; `greenroom runs` lists those that it has",
    )


def test_help_has_examples() -> None:
    """Every command on stores says how it is used."""
    for words in COMMANDS[:-1]:
        text = call(words[0], "--help").stdout
        assert f"greenroom {words[0]}" in text
        assert "GREENROOM_STORE" in text


def test_a_reader_that_has_gone_does_no_harm() -> None:
    """`greenroom runs | head -1` ends quietly."""
    leave("one")
    leave("two")
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", "from greenroom.cli import main; main()", "runs"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        timeout=25,
        check=False,
    )
    os.close(write)
    assert done.stderr == ""


def test_what_pydantic_s_schemas_say_is_checked() -> None:
    """References, unions, limits, formats, lists, objects, and what is not in them."""
    schema = {
        "$defs": {
            "Colour": {"enum": ["red", "blue"]},
            "Point": {"type": "object", "properties": {"x": {"type": "number"}}},
        },
        "properties": {
            "colour": {"$ref": "#/$defs/Colour"},
            "at": {"anyOf": [{"$ref": "#/$defs/Point"}, {"type": "null"}]},
            "pair": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "maxItems": 2},
            "code": {"type": "string", "pattern": "^[a-z]+$", "minLength": 2},
            "id": {"type": "string", "format": "uuid"},
            "kind": {"const": "a"},
            "odd": {"type": "string", "pattern": "(?<bad"},
        },
        "required": ["colour"],
        "additionalProperties": {"type": "integer"},
    }
    good = {"colour": "red", "at": None, "pair": [1, "a"], "code": "ab", "kind": "a", "more": 1, "odd": "x"}
    assert schema_faults(schema, good) == []
    assert schema_faults(schema, {**good, "at": {"x": 1.5}, "id": "12345678-1234-5678-1234-567812345678"}) == []
    bad = {"at": {"x": "1"}, "pair": ["1", "a", 3], "code": "A", "id": "1", "kind": "b", "more": True}
    assert schema_faults(schema, bad) == [
        ("colour", "field required"),
        ("at.x", "should be a number"),
        ("pair", "should have at most 2 items"),
        ("pair.0", "should be an integer"),
        ("code", "should have at least 2 characters"),
        ("code", "should match ^[a-z]+$"),
        ("id", "should be a uuid"),
        ("kind", "should be 'a'"),
        ("more", "should be an integer"),
    ]
    assert schema_faults({"properties": {"n": {"type": "integer"}}}, {"n": 1e999}) == [("n", "should be an integer")]
    assert schema_faults({"additionalProperties": False}, {"n": 1}) == [("n", "there is no such field")]


@pytest.mark.skipif(postgres.missing() is not None, reason=str(postgres.missing()))
def test_a_store_in_postgresql_is_named_by_its_url() -> None:
    """The same commands; a database without a store is told and stays as it is, as is one that cannot be reached."""
    server = postgres.PostgresServer()
    try:
        words = dict(pair.split("=") for pair in server.conninfo.split())
        url = f"postgresql:///{words['dbname']}?host={words['host']}&user={words['user']}"
        done = call("runs", "--store", url)
        assert (done.exit_code, "this database has no store of Greenroom" in told(done)) == (2, True)
        assert call("run", FLOW, "--run-id=one", "--store", url).exit_code == 75
        (row,) = documents(call("runs", "--json", "--store", url))
        assert (row["run_id"], row["holder"]) == ("one", "at rest")
        assert "waits for Verdict" in call("show", "one", FLOW, "--store", url).stdout
        assert call("check", FLOW, "--store", url).exit_code == 0
        done = call("answer", "one:1", FLOW, *GOOD, "--run", "--store", url)
        assert (done.exit_code, done.stdout) == (0, "Result: 31.01.2026 3\n")
    finally:
        server.close()
    done = call("runs", "--store", url)
    assert (done.exit_code, "the database cannot be reached" in told(done)) == (2, True)

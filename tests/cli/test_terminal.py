"""The command as a person uses it: on a terminal, in processes of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.terminal import GREENROOM, ROOT, TIME_LIMIT

FLOWS = "tests.support.cli_flows"


@pytest.mark.parametrize("flow", ["AskNumber", "AskNumberAsync"])
def test_a_prefix_is_the_prompt(flow: str) -> None:
    """A plain question is asked as `input(prefix)` would, and its answer is a text."""
    with GREENROOM.terminal("run", f"{FLOWS}:{flow}") as person:
        assert person.read_until("Enter a number: ") == "Enter a number: "
        person.type("21\n")
        assert person.read_rest() == "21\nResult: doubled: 42\n"
        assert person.code() == 0


def test_prompts_are_made_from_the_schema() -> None:
    """Each field has its own prompt; what does not fit is asked again with the reason; a secret is not shown."""
    with GREENROOM.terminal("run", f"{FLOWS}:AskProfile") as person:
        assert person.read_until("Your age (integer): ") == "\n? Tell us about \\x1b[5myou\nYour age (integer): "
        person.type("young\n")
        assert "valid integer" in person.read_until("Your age (integer): ")
        person.type("17\n")
        assert "greater than or equal to 18" in person.read_until("Your age (integer): ")
        person.type("20\n")
        person.read_until("colour (red / blue) [blue]: ")
        person.type("green\n")
        assert "choose one of: red, blue" in person.read_until("colour (red / blue) [blue]: ")
        person.type("RED\n")
        person.read_until("member (y/n): ")
        person.type("perhaps\n")
        assert "answer y or n" in person.read_until("member (y/n): ")
        person.type("y\n")
        person.read_until("password: ")
        person.type("hunter2\n")
        assert "hunter2" not in person.read_until("tags (JSON array) [[]]: ")
        person.type('["a", "b"]\n')
        # Each field fits, but not all of them together: all is asked again.
        assert "members must be 21" in person.read_until("Your age (integer): ")
        person.type("40\n")
        person.read_until("[blue]: ")
        person.type("\n")
        person.read_until("member (y/n): ")
        person.type("y\n")
        person.read_until("password: ")
        person.type("swordfish\n")
        assert "swordfish" not in person.read_until("[[]]: ")
        person.type("\n")
        assert person.read_rest().endswith("Result: 40 blue True swordfish []\n")
        assert person.code() == 0


def test_several_questions_are_asked_in_turn() -> None:
    """Questions that are open at once are asked one after the other."""
    with GREENROOM.terminal("run", f"{FLOWS}:AskTwo") as person:
        for answer in ("one", "two"):
            which = "first" if "The first" in person.read_until("? ") else "second"
            person.type(f"{which}-{answer}\n")
        rest = person.read_rest()
        assert "first=first-" in rest
        assert "second=second-" in rest
        assert person.code() == 0


def test_what_was_typed_before_a_question_is_no_answer_to_it(tmp_path: Path) -> None:
    """Lines typed ahead are dropped when a question is shown, so that a stray Enter approves nothing."""
    with GREENROOM.terminal("run", f"{FLOWS}:AskNumber") as person:
        person.type("13\n13\n")
        person.read_until("Enter a number: ")
        person.type("4\n")
        assert "doubled: 8" in person.read_rest()


def test_a_question_that_is_closed_gives_the_prompt_up(tmp_path: Path) -> None:
    """When the run ends by itself, the person is told and needs to press nothing."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with GREENROOM.terminal("run", f"{FLOWS}:AskMeanwhile", f"until={pipe}") as person:
        person.read_until("Quick? ")
        pipe.write_text("nobody answered")
        assert person.read_rest() == "\nThis is no longer asked.\nResult: nobody answered\n"
        assert person.code() == 0


def test_questions_are_asked_while_the_output_goes_elsewhere(tmp_path: Path) -> None:
    """Prompts go to stderr: with stdout in a file the person is still asked."""
    with (
        (tmp_path / "out").open("wb") as out,
        GREENROOM.terminal("run", f"{FLOWS}:AskNumber", stdout=out.fileno()) as person,
    ):
        person.read_until("Enter a number: ")
        person.type("2\n")
        assert person.code() == 0
    assert (tmp_path / "out").read_text() == "Result: doubled: 4\n"


@pytest.mark.parametrize(
    ("how", "flow"),
    [
        ("SIGINT", "AskNumber"),
        ("SIGINT", "AskNumberAsync"),
        ("SIGTERM", "AskNumber"),
        ("SIGHUP", "AskNumber"),
        ("Ctrl-D", "AskNumber"),
    ],
)
def test_a_run_is_put_away_and_answered_in_a_second_process(tmp_path: Path, how: str, flow: str) -> None:
    """An interrupt at the question saves the run; the printed command goes on with it; then its file is gone."""
    file = tmp_path / "run.saved"
    with GREENROOM.terminal("run", f"{FLOWS}:{flow}", "--snapshot", file) as person:
        person.read_until("Enter a number: ")
        if how == "Ctrl-D":
            person.type("\x04")
        else:
            person.interrupt(signal.Signals[how])
        rest = person.read_rest()
        assert person.code() == 75
    assert f"greenroom resume {file} {FLOWS}:{flow}" in rest
    printed = rest.split("To go on:\n")[1].split()
    assert printed[0] == "greenroom"
    with GREENROOM.terminal(*printed[1:]) as person:
        person.read_until("Enter a number: ")
        person.type("5\n")
        assert "Result: doubled: 10" in person.read_rest()
        assert person.code() == 0
    assert list(tmp_path.iterdir()) == []


def test_a_run_at_work_is_put_away_and_goes_on(tmp_path: Path) -> None:
    """Ctrl-C while a step blocks saves the run; what was done once is not done again when it goes on."""
    file, log, until = tmp_path / "run.saved", tmp_path / "log", tmp_path / "until"
    os.mkfifo(until)
    with GREENROOM.terminal("run", f"{FLOWS}:Works", f"log={log}", f"until={until}", "--snapshot", file) as person:
        person.read_until("at work")
        person.interrupt()
        person.read_rest()
        assert person.code() == 75
    until.unlink()
    until.write_text("worked")
    done = GREENROOM.run("resume", file, f"{FLOWS}:Works")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Result: worked\n", "")
    assert log.read_text() == "begun\n"


def test_several_questions_over_several_processes(tmp_path: Path) -> None:
    """An answer given before the interrupt is kept: only what is open is asked again."""
    file = tmp_path / "run.saved"
    with GREENROOM.terminal("run", f"{FLOWS}:AskTwo", "--snapshot", file) as person:
        answered = "first" if "The first" in person.read_until("? ") else "second"
        person.type("one\n")
        person.read_until("? ")
        person.interrupt()
        person.read_rest()
        assert person.code() == 75
    with GREENROOM.terminal("resume", file, f"{FLOWS}:AskTwo") as person:
        assert answered not in person.read_until("? ")
        person.type("two\n")
        assert f"{answered}=one" in person.read_rest()
        assert person.code() == 0


def test_the_workflow_that_a_file_names_is_confirmed_first(tmp_path: Path) -> None:
    """Without the workflow's name, a person is shown the one in the file, and only a yes imports it."""
    file = tmp_path / "run.saved"
    assert GREENROOM.run("run", f"{FLOWS}:AskNumber", "--snapshot", file).returncode == 75
    with GREENROOM.terminal("resume", file) as person:
        person.read_until("[y/N]: ")
        person.type("\n")
        assert "nothing was imported" in person.read_rest()
        assert person.code() == 2
    with GREENROOM.terminal("resume", file) as person:
        assert f"goes on with {FLOWS}:AskNumber" in " ".join(person.read_until("[y/N]: ").split())
        person.type("y\n")
        person.read_until("Enter a number: ")
        person.type("3\n")
        assert "doubled: 6" in person.read_rest()
        assert person.code() == 0


def test_a_resumed_run_that_fails_keeps_its_file(tmp_path: Path) -> None:
    """After a failure the run can be taken up again from where it was saved."""
    file = tmp_path / "run.saved"
    assert GREENROOM.run("run", f"{FLOWS}:AskThenFail", "--snapshot", file).returncode == 75
    for answer, code in (("no", 1), ("yes", 0)):
        with GREENROOM.terminal("resume", file, f"{FLOWS}:AskThenFail") as person:
            assert person.read_until("verdict (yes / no): ") == "\n? Go on?\nverdict (yes / no): "
            person.type(f"{answer}\n")
            person.read_rest()
            assert person.code() == code
        assert file.exists() == (code == 1)


def test_two_processes_do_not_resume_one_file(tmp_path: Path) -> None:
    """While one process asks, another is turned away, so that nothing is done twice."""
    file = tmp_path / "run.saved"
    assert GREENROOM.run("run", f"{FLOWS}:AskNumber", "--snapshot", file).returncode == 75
    with GREENROOM.terminal("resume", file, f"{FLOWS}:AskNumber") as person:
        person.read_until("Enter a number: ")
        second = GREENROOM.run("resume", file, f"{FLOWS}:AskNumber")
        assert (second.returncode, second.stderr) == (2, f"Error: another process is resuming {file}\n")
        person.type("1\n")
        assert "doubled: 2" in person.read_rest()


def test_a_reader_that_has_gone_does_not_stop_the_run(tmp_path: Path) -> None:
    """With a closed pipe for standard output (`| head -1`) the run goes on quietly to its end."""
    done = GREENROOM.run_unread("run", f"{FLOWS}:Noisy", f"mark={tmp_path / 'mark'}")
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "mark").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_that_cannot_be_written_saves_the_run(tmp_path: Path) -> None:
    """Where the disk that takes the output is full, the error is told and the run is put away, not lost."""
    file, log, until = tmp_path / "run.saved", tmp_path / "log", tmp_path / "until"
    os.mkfifo(until)
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            GREENROOM.command("run", f"{FLOWS}:Works", f"log={log}", f"until={until}", "--snapshot", file),
            cwd=ROOT,
            env=GREENROOM.environment,
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            timeout=TIME_LIMIT,
            check=False,
        )
    assert done.returncode == 75
    assert "Error: cannot write to the standard output: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    until.unlink()
    until.write_text("worked")
    assert GREENROOM.run("resume", file, f"{FLOWS}:Works").returncode == 0


def test_a_run_that_takes_too_long_fails(tmp_path: Path) -> None:
    """--timeout ends a run whose step is at work for longer, with exit code 1, though the step blocks."""
    os.mkfifo(tmp_path / "pipe")
    done = GREENROOM.run(
        "run", f"{FLOWS}:Works", f"log={tmp_path / 'log'}", f"until={tmp_path / 'pipe'}", "--timeout", "0.3"
    )
    assert done.returncode == 1
    assert "WorkflowTimeoutError" in done.stderr


# The examples.


def test_a_payment_is_approved_in_a_second_process(tmp_path: Path) -> None:
    """The approval example: the entry is booked in the first process, and paid in the second."""
    file, flow = tmp_path / "payment.saved", "examples.approval:PaymentWorkflow"
    first = GREENROOM.run("run", flow, "to=Ada", "amount=1200", "--snapshot", file)
    assert first.returncode == 75
    assert "Booked  entry='entry ADA-1200'" in first.stdout
    with GREENROOM.terminal("resume", file, flow) as person:
        screen = person.read_until("Your decision (approve / reject): ")
        assert "? Pay 1,200.00 EUR to Ada?" in screen
        assert "Booked" not in screen
        person.type("approve\n")
        person.read_until("A word to the payee [Enter: none]: ")
        person.type("\n")
        assert "Result: entry ADA-1200 paid" in person.read_rest()
        assert person.code() == 0


def test_the_invoices_are_approved_in_a_second_process(tmp_path: Path) -> None:
    """The invoices example: the files are checked in the first process, and the sum is approved in the second."""
    file, flow = tmp_path / "invoices.saved", "examples.invoices.workflow:InvoiceWorkflow"
    first = GREENROOM.run("run", flow, "folder=examples/invoices/data/inbox", "--snapshot", file)
    assert first.returncode == 75
    assert sum(line.startswith("Progress") for line in first.stdout.splitlines()) == 23
    with (
        (tmp_path / "out").open("wb") as out,
        GREENROOM.terminal("resume", file, flow, "--json", stdout=out.fileno()) as person,
    ):
        assert person.code() == 75  # --json asks nobody
    with GREENROOM.terminal("resume", file, flow) as person:
        assert "total_eur=21938.93" in person.read_until("decision (approved / rejected / held): ")
        person.type("approved\n")
        rest = person.read_rest()
        assert person.code() == 0
    report = json.loads(rest[rest.index("{") :])["report"]
    assert (report["payment"], len(report["accepted"]), len(report["rejected"])) == ("approved", 16, 7)

"""The command without a terminal: arguments, output, exit codes, and what it says when something is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import msgpack
import pytest
from click.testing import Result
from typer.testing import CliRunner

from greenroom.cli.app import app

FLOWS = "tests.support.cli_flows"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, and leave no trace of it on the path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments])


def told(result: Result) -> str:
    """What stderr says, on one line."""
    return " ".join(result.stderr.split())


def test_the_stream_and_the_result_are_printed() -> None:
    """Events come as plain lines, the result last, and nothing goes to stderr."""
    done = call("run", f"{FLOWS}:Echo", "zip=12345", "amount=3", "note=a b")
    assert (done.exit_code, done.stderr) == (0, "")
    first, rest = done.stdout.split("\n", 1)
    assert first == "Packed  text='3 to 12345'"
    assert rest.startswith("Result:\n")
    assert json.loads(rest.removeprefix("Result:\n")) == {"zip": "12345", "amount": 3, "note": "a b"}


def test_json_prints_a_document_a_line() -> None:
    """With --json each line is a JSON object: the events, then the result."""
    done = call("run", "--json", f"{FLOWS}:Echo", 'zip="007"', "tags=[1, 2]")
    assert (done.exit_code, done.stderr) == (0, "")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"event": "Packed", "data": {"text": "1 to 007"}},
        {"result": {"zip": "007", "amount": 1, "tags": [1, 2]}},
    ]


def test_verbose_shows_the_steps() -> None:
    """With --verbose the invocations of the steps are shown as well."""
    done = call("run", "-v", f"{FLOWS}:Echo", "zip=1")
    assert "[echo:0] started from Order" in done.stdout


def test_a_failure_is_one_line_and_exit_code_1() -> None:
    """The error names the step, and only --verbose prints its traceback and further lines."""
    done = call("run", f"{FLOWS}:Fails")
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "Error: step 'fall': ValueError: first line\n")
    done = call("run", f"{FLOWS}:Fails", "--verbose")
    assert done.exit_code == 1
    assert "Traceback (most recent call last):" in done.stderr
    assert "second line" in done.stderr


def test_a_failure_is_a_document_too() -> None:
    """With --json the failure is the last line of the output."""
    done = call("run", f"{FLOWS}:Fails", "--json")
    assert json.loads(done.stdout) == {"error": "first line\nsecond line", "type": "ValueError", "step": "fall"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_module:Flow"], "Error: there is no module 'no_such_module': looked in"),
        (["tests.no_such_module:Flow"], "Error: there is no module 'tests.no_such_module'"),
        (["flows.py:Flow"], "is not module:Workflow; name the module as `import` does"),
        (["flows"], "is not module:Workflow"),
        ([f"{FLOWS}:Ecko"], f"Error: module '{FLOWS}' has no 'Ecko'; its workflows: Echo, Noisy, "),
        ([f"{FLOWS}:Order"], "is no Workflow, but the class Order; its workflows: Echo"),
        ([f"{FLOWS}:not_a_workflow"], "is no Workflow, but an instance of int; its workflows"),
        (["json:loads"], "is no Workflow, but an instance of function; it has no workflows"),
        ([f"{FLOWS}:Broken"], "Error: Broken"),
        ([f"{FLOWS}:NeedsArguments"], f"Make the object in the module and name that: {FLOWS}:workflow"),
        ([f"{FLOWS}:Echo"], "Error: cannot begin with these fields of Order: zip: Field required. Give them as"),
        ([f"{FLOWS}:Echo", "zip=1", "amount=many"], "amount: Input should be a valid integer"),
        ([f"{FLOWS}:Echo", "zip"], "Error: 'zip' is not key=value, such as topic=cats"),
        ([f"{FLOWS}:Echo", "zip=1", "zip=2"], "Error: 'zip' is given twice"),
        ([f"{FLOWS}:Echo", "zip=1", "--timeout=-1"], "Error: --timeout takes seconds greater than 0, not -1"),
        ([f"{FLOWS}:Echo", "zip=1", "--snapshot=no/where"], "cannot save to no/where: No such file or directory"),
        ([f"{FLOWS}:Echo", "zip=1", "--snapshot=."], "Error: cannot save to .: Is a directory"),
    ],
)
def test_a_wrong_command_says_what_to_do(arguments: list[str], message: str) -> None:
    """What cannot be run is refused before anything runs, with exit code 2 and no traceback."""
    done = call("run", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in told(done)
    assert "Traceback" not in done.stderr


def test_the_current_directory_is_searched(tmp_path: Path) -> None:
    """A module beside the shell's prompt is found, and what fails within it is told as such."""
    (tmp_path / "beside.py").write_text(f"from {FLOWS} import made\n")
    (tmp_path / "faulty.py").write_text("import no_such_thing\n")
    (tmp_path / "leaving.py").write_text("raise SystemExit('goodbye')\n")
    done = call("run", "beside:made")
    assert (done.exit_code, done.stdout) == (0, "Result: here\n")
    assert "cannot import 'faulty': No module named 'no_such_thing'" in told(call("run", "faulty:Flow"))
    assert "cannot import 'leaving': SystemExit: goodbye" in told(call("run", "leaving:Flow"))


def test_version_and_help() -> None:
    """--version prints the version; each help lists the exit codes."""
    assert call("--version").stdout == f"greenroom {version('greenroom')}\n"
    for arguments in ([], ["run"], ["resume"]):
        text = " ".join(call(*arguments, "--help").stdout.replace("│", " ").split())
        for code in ("0 the run succeeded", "1 it failed", "2 the command was wrong", "75 the run was saved", "130 it"):
            assert code in text


def test_an_unknown_option_is_a_usage_error() -> None:
    """Typer's own usage errors have exit code 2 as well."""
    assert call("run", "--no-such-option").exit_code == 2


def test_a_question_without_a_terminal_saves_the_run(tmp_path: Path) -> None:
    """Nobody can be asked: the run is saved under a default name, exit code 75, and the command goes on with it."""
    done = call("run", f"{FLOWS}:AskNumber", "--timeout=60")
    (file,) = tmp_path.iterdir()
    assert done.exit_code == 75
    assert file.name.startswith("AskNumber-")
    assert file.stat().st_mode & 0o777 == 0o600
    assert "there is no terminal to ask at" in done.stderr
    assert f"greenroom resume {file.name} {FLOWS}:AskNumber --timeout 60" in done.stderr
    # It can be resumed; there still is no terminal, so that it is saved again.
    done = call("resume", file.name, f"{FLOWS}:AskNumber")
    assert done.exit_code == 75
    assert list(tmp_path.iterdir()) == [file]


def test_all_other_work_is_done_before_a_run_is_saved() -> None:
    """Both of two questions side by side are open in what is saved, and a program can read them."""
    done = call("run", f"{FLOWS}:AskTwo", "--json", "--snapshot=two")
    assert done.exit_code == 75
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["saved"] == "two"
    assert last["resume"] == f"greenroom resume two {FLOWS}:AskTwo"
    assert sorted(each["request"]["data"]["prefix"] for each in last["questions"]) == ["The first? ", "The second? "]
    assert last["questions"][0]["schema"]["title"] == "HumanResponseEvent"


def test_what_cannot_be_saved_is_told(tmp_path: Path) -> None:
    """A run that holds a socket cannot be put away: exit code 1, the path of the value, no file."""
    done = call("run", f"{FLOWS}:HoldsSocket")
    assert done.exit_code == 1
    assert "connection" in done.stderr
    assert "socket" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file cannot be written the error says why, and no half file is left."""

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("greenroom.cli.saved.os.fsync", fail)
    done = call("run", f"{FLOWS}:AskNumber")
    assert done.exit_code == 1
    assert "cannot be saved" in done.stderr
    assert told(done).endswith("and is lost: No space left on device")
    assert list(tmp_path.iterdir()) == []


def saved_number(name: str = "saved") -> None:
    assert call("run", f"{FLOWS}:AskNumber", f"--snapshot={name}").exit_code == 75


def test_a_file_does_not_choose_what_is_imported(tmp_path: Path) -> None:
    """Without a terminal to confirm at, the workflow must be named; the file's own word imports nothing."""
    (tmp_path / "trap.py").write_text("raise SystemExit('sprung')\n")
    data = msgpack.packb({"greenroom_file": 1, "workflow": "trap:Flow", "snapshot": b""})
    (tmp_path / "saved").write_bytes(data)
    done = call("resume", "saved")
    assert done.exit_code == 2
    assert told(done) == "Error: name the workflow to go on with; saved says that it is trap:Flow"
    assert "trap" not in sys.modules


def test_files_that_cannot_be_resumed_are_told(tmp_path: Path) -> None:
    """A missing, damaged, foreign, newer or mismatched file is one clear error with exit code 2."""
    saved_number()
    good = (tmp_path / "saved").read_bytes()
    flow = f"{FLOWS}:AskNumber"
    for name, data, message in (
        ("cut", good[:-5], "cut is damaged, or no saved run"),
        ("empty", b"", "empty is damaged, or no saved run"),
        ("text", b"hello", "text is damaged, or no saved run"),
        ("list", msgpack.packb({"a": 1}), "list is no saved run of Greenroom"),
        ("newer", msgpack.packb({"greenroom_file": 9}), "newer was saved by a newer version of Greenroom"),
        ("flipped", good[:-40] + bytes([good[-40] ^ 1]) + good[-39:], "cannot go on with flipped: "),
    ):
        (tmp_path / name).write_bytes(data)
        done = call("resume", name, flow)
        assert (done.exit_code, done.stdout) == (2, "")
        assert message in told(done)
        assert (tmp_path / name).exists()
    assert "cannot read gone: No such file or directory" in told(call("resume", "gone", flow))
    assert "cannot save to .: Is a directory" in told(call("resume", ".", flow))
    assert "the snapshot is of AskNumber, not of AskTwo" in told(call("resume", "saved", f"{FLOWS}:AskTwo"))
    assert (tmp_path / "saved").read_bytes() == good


def test_the_engine_does_not_import_typer_or_rich() -> None:
    """`import greenroom` needs no extra."""
    program = "import greenroom, greenroom.cli, sys; print({'typer', 'rich', 'click'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=25, check=True)
    assert done.stdout == "set()\n"


def test_without_the_extra_the_command_says_how_to_install_it() -> None:
    """Where typer is missing, the command names the extra and ends with exit code 2."""
    program = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'typer' else find(name, *rest)\n"
        "from greenroom.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=25, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "greenroom needs typer; install with: pip install 'greenroom[cli]'\n"

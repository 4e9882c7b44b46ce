"""The command `greenroom graph`."""

from __future__ import annotations

import json
import subprocess
import sys
import webbrowser
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from greenroom.cli.app import app
from greenroom.representation import WorkflowGraph
from tests.support import drawn_flows as flows

FLOWS = "tests.support.drawn_flows"
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, and leave no trace of it on the path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["graph", *arguments])


def told(result: Result) -> str:
    """What stderr says, on one line."""
    return " ".join(result.stderr.split())


def test_mermaid_is_printed() -> None:
    """Without options the flowchart goes to stdout, and nothing to stderr or into files."""
    done = call(f"{FLOWS}:Loop")
    assert (done.exit_code, done.stdout, done.stderr) == (0, flows.Loop.graph().to_mermaid(), "")
    assert list(Path().iterdir()) == []


def test_dot_svg_and_json_are_printed() -> None:
    """The other texts go to stdout as well; JSON reads back as the graph."""
    assert call(f"{FLOWS}:Loop", "--format", "dot").stdout == flows.Loop.graph().to_graphviz()
    assert call(f"{FLOWS}:Loop", "-f", "svg").stdout == flows.Loop.graph().to_svg()
    assert WorkflowGraph.model_validate(json.loads(call(f"{FLOWS}:Loop", "-f", "json").stdout)) == flows.Loop.graph()


def test_the_page_goes_into_a_file() -> None:
    """A page is written to a file that bears the workflow's name, and the name is told."""
    done = call(f"{FLOWS}:Loop", "--format", "html")
    assert (done.exit_code, done.stdout, told(done)) == (0, "", "Wrote Loop.html.")
    assert Path("Loop.html").read_text(encoding="utf-8") == flows.Loop.graph().to_html()


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.html", "to_html"),
        ("a.SVG", "to_svg"),
        ("a.mmd", "to_mermaid"),
        ("a.mermaid", "to_mermaid"),
        ("a.gv", "to_graphviz"),
    ],
)
def test_the_name_of_the_file_says_how_to_draw(name: str, form: str) -> None:
    """--output chooses the format by its ending."""
    assert call(f"{FLOWS}:Loop", "--output", name).exit_code == 0
    assert Path(name).read_text(encoding="utf-8") == getattr(flows.Loop.graph(), form)()


def test_open_shows_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """--open writes the page and hands its address to the browser; without a browser it says so."""
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)
    assert call(f"{FLOWS}:Loop", "--open").exit_code == 0
    assert opened == [Path("Loop.html").resolve().as_uri()]
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    failed = call(f"{FLOWS}:Loop", "--open")
    assert failed.exit_code == 1
    assert "no browser could be started; open Loop.html in yours" in told(failed)


def test_a_faulty_workflow_is_drawn() -> None:
    """What building it would refuse goes to stderr, and the drawing to stdout."""
    done = call(f"{FLOWS}:Faulty")
    assert (done.exit_code, done.stdout) == (0, flows.Faulty.graph().to_mermaid())
    assert "building it would fail" in told(done)
    assert "produced but never consumed: Good" in told(done)


def test_what_the_module_prints_is_not_of_the_drawing() -> None:
    """It goes to stderr, so that the drawing can go into a pipe."""
    source = "from tests.support.drawn_flows import Loop\nprint('imported')\n"
    Path("chatty_flow.py").write_text(source)
    done = call("chatty_flow:Loop")
    assert (done.exit_code, done.stdout, told(done)) == (0, flows.Loop.graph().to_mermaid(), "imported")


def test_no_object_is_made() -> None:
    """A class whose objects need arguments is drawn; so is an object."""
    assert call("tests.support.cli_flows:NeedsArguments").exit_code == 0
    assert call("tests.support.cli_flows:made").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tests.support.cli_flows:Broken"], "no step returns a StopEvent"),
        (["tests.support.cli_flows:Missing"], "has no 'Missing'"),
        (["tests.support.cli_flows:not_a_workflow"], "is no Workflow"),
        ([f"{FLOWS}:Loop", "-o", "a.txt"], "'a.txt' does not say how to draw; end it in .html, or give --format"),
        ([f"{FLOWS}:Loop", "-o", "missing/a.svg"], "cannot write missing/a.svg: No such file or directory"),
        ([f"{FLOWS}:Loop", "-o", ".", "-f", "svg"], "cannot write .: Is a directory"),
        ([f"{FLOWS}:Loop", "--open", "-f", "dot"], "--open shows html or svg in the browser, not dot"),
    ],
)
def test_a_wrong_command_says_why(arguments: list[str], message: str) -> None:
    """Each mistake is one error message on stderr, exit code 2, and nothing on stdout."""
    done = call(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in told(done)


def run(redirection: str) -> subprocess.CompletedProcess[str]:
    command = f"'{sys.executable}' -c 'from greenroom.cli import main; main()' graph {FLOWS}:Loop -f svg {redirection}"
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], cwd=ROOT, capture_output=True, text=True, timeout=50
    )


def test_a_reader_that_goes_away_is_no_error() -> None:
    """`greenroom graph ... | true` ends quietly."""
    done = run("| true")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_or_closed_output_is_an_error() -> None:
    """Where standard output cannot be written, the command says so and fails."""
    full = run("> /dev/full")
    assert (full.returncode, "cannot write to standard output" in full.stderr) == (1, True)
    closed = run(">&-")
    assert (closed.returncode, "standard output is closed" in closed.stderr) == (1, True)


def test_help_shows_examples() -> None:
    """The help tells what is drawn, and gives commands to copy."""
    text = " ".join(call("--help").stdout.split())
    assert "greenroom graph shop.orders:OrderWorkflow --open" in text
    assert "who is asked, what loops and what fans out" in text

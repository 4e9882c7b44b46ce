"""The migration page keeps its word: its programs run, its table of imports holds, its tests exist."""

from __future__ import annotations

import ast
import difflib
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "from-llamaindex.md").read_text()
IMPORTS = dict(re.findall(r"^\| `(from [\w.]+ import)` \| `(from [\w.]+ import)` \|$", PAGE, re.MULTILINE))

# The programs, and what the peer prints when it runs them as they are written.
PROGRAMS = {
    "rag": "retrieved 2\nkept 1\nan actor? A mailbox keeps the messages of an actor in order. (of 2)\n",
    "approval": "Pay 20 to Bo?\npaid\nPay 30 to Cy?\nrefused\n",
    "fan_out": ("[(0, 0), (1, 1), (2, 2), (3, 0), (4, 1)]\n[(0, 0), (1, 1), (2, 2), (3, -1), (4, 1)]\n[0, 1]\n"),
}


def migrated(program: str) -> str:
    """Change the import lines as the page says, and nothing else."""
    return re.sub(r"^from [\w.]+ import", lambda found: IMPORTS.get(found[0], found[0]), program, flags=re.MULTILINE)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_runs_once_its_imports_are_changed(name: str, tmp_path: Path) -> None:
    """Written for the peer, it prints here what it prints there."""
    program = tmp_path / f"{name}.py"
    program.write_text(migrated((ROOT / "tests" / "migration" / f"{name}.py").read_text()))
    assert "from workflows" not in program.read_text()
    done = subprocess.run(
        [sys.executable, "-W", "error", program], cwd=tmp_path, capture_output=True, text=True, timeout=50
    )
    assert (done.stdout, done.stderr) == (PROGRAMS[name], "")


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_page_shows_the_whole_difference(name: str) -> None:
    """Under the link to the program, line by line."""
    before = (ROOT / "tests" / "migration" / f"{name}.py").read_text()
    lines = difflib.unified_diff(before.splitlines(), migrated(before).splitlines(), lineterm="", n=0)
    changed = [line for line in lines if line[0] in "+-" and line[:3] not in ("+++", "---")]
    shown = re.search(rf"\(\.\./tests/migration/{name}\.py\).*?```diff\n(.*?)```", PAGE, re.DOTALL)
    assert shown is not None
    assert sorted(shown[1].splitlines()) == sorted(changed)


def test_each_line_of_the_table_of_imports_holds() -> None:
    """The modules that it names exist, and are named once."""
    assert len(IMPORTS) >= 10
    for line in IMPORTS.values():
        importlib.import_module(line.split()[1])


def test_the_program_without_an_event_loop_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    """As it stands on the page."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    exec(compile(code, "from-llamaindex.md", "exec"), {"__name__": "page"})
    assert capsys.readouterr().out.strip() == code.rstrip().splitlines()[-1].partition("  # ")[2]


def rows() -> list[tuple[str, str, str]]:
    """Return the rows of the tables of features: what, how it stands, tests."""
    table = PAGE[PAGE.index("## Every feature") :]
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines() if line[:1] == "|"]
    return [
        (cell[0], cell[1], cell[2] if len(cell) > 2 else "")
        for cell in cells
        if cell[0] not in ("feature", "---|---|---")
    ]


def test_every_row_says_how_it_stands_and_links_a_test() -> None:
    """Same, better, or different with a reason."""
    assert len(rows()) > 150
    for feature, how, tests in rows():
        word = re.match(r"same|better|different", how)
        assert word is not None, feature
        assert "missing" not in how, feature
        assert "pending" not in how.replace("pending_inputs", ""), feature
        assert word[0] != "different" or "because" in how or "see" in how, f"{feature}: no reason"
        assert word[0] != "better" or how.startswith("better: "), f"{feature}: not said what"
        assert tests, feature


def test_every_link_leads_to_what_is_there() -> None:
    """A test by its name in the file that the link leads to; any other link to a file."""
    links = re.findall(r"\[([^\]]+)\]\(([^)#][^)]*)\)", PAGE)
    functions: dict[Path, set[str]] = {}
    for text, target in links:
        if target.startswith("https://"):
            continue
        path = (ROOT / "docs" / target.partition("#")[0]).resolve()
        assert path.is_file(), target
        if path not in functions:
            nodes = ast.walk(ast.parse(path.read_text())) if path.suffix == ".py" else []
            functions[path] = {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
        if text.startswith("`test_"):
            assert text.strip("`") in functions[path], f"{text} is not in {target}"
    assert sum(text.startswith("`test_") for text, _ in links) > 200


def test_every_defect_has_a_test_that_bears_its_number() -> None:
    """D1 to D27, wherever in tests/ they stand."""
    names = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    numbers = {int(n) for name in re.findall(r"def (test_d\d+\w*)", names) for n in re.findall(r"d(\d+)(?=_)", name)}
    assert numbers >= set(range(1, 28))

"""The examples of the README and of pages in docs/ run and print what their comments say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


EXAMPLES = [
    pytest.param(code, id=f"{page}-{number}")
    for page in ("README.md", "docs/children.md", "docs/fan-out.md")
    for number, code in enumerate(
        re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE), start=1
    )
]


@pytest.mark.parametrize("code", EXAMPLES)
def test_an_example_prints_what_it_says(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A code block, run as it stands, prints the value in the comment of its last line."""
    shown = code.rstrip().splitlines()[-1].partition("  # ")[2]
    exec(compile(code, "example", "exec"), {"__name__": "readme"})
    assert shown
    assert capsys.readouterr().out.strip() == shown


def test_its_commands_are_targets_of_the_makefile() -> None:
    """The two commands that the README gives are targets of the Makefile."""
    commands = re.findall(r"^    make (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert commands == ["run", "test"]
    assert set(commands) <= set(targets)

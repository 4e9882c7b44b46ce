"""The programs of docs/observability.md print what stands below them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parent.parent / "docs" / "observability.md"
# A program, and the next block of text, which is what it prints.
PROGRAMS = re.findall(r"^```python\n(.*?)^```$.*?^```text\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(("program", "printed"), PROGRAMS, ids=["opentelemetry", "logging"])
def test_a_program_prints_what_the_page_says(program: str, printed: str) -> None:
    """A program of the page, run as it stands in a process of its own, prints the text that follows."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (printed, "")

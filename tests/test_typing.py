"""A user's program, as strictly typed as they like, is clean in both type checkers, and it runs."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.typing import program

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = str(Path(program.__file__).relative_to(ROOT))
WRONG = str(Path(program.__file__).with_name("wrong.py").relative_to(ROOT))

checkers = pytest.mark.parametrize("checker", [["mypy", "--strict"], ["pyright"]], ids=["mypy", "pyright"])


def check(checker: list[str], path: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *checker, path], cwd=ROOT, capture_output=True, text=True)


@checkers
def test_a_users_program_type_checks(checker: list[str]) -> None:
    """Contexts, waits, questions, collections, handlers and tests have the types that a user expects."""
    done = check(checker, PROGRAM)
    assert done.returncode == 0, done.stdout + done.stderr


@checkers
def test_a_wrong_program_is_refused_line_by_line(checker: list[str]) -> None:
    """Every line that is wrong is told, and no other."""
    done = check(checker, WRONG)
    told = {int(number) for number in re.findall(r"wrong\.py:(\d+):.*error", done.stdout)}
    lines = (ROOT / WRONG).read_text().splitlines()
    marked = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    assert len(marked) > 20
    assert told == marked, done.stdout + done.stderr


def test_the_typed_program_runs() -> None:
    """What the type checkers are told is what happens."""
    assert program.blocking() == 6
    assert asyncio.run(program.awaiting()) == 44

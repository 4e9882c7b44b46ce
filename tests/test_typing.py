"""A user's program, as strictly typed as they like, is clean in both type checkers, and it runs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tests.typing import program

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = str(Path(program.__file__).relative_to(ROOT))


@pytest.mark.parametrize("checker", [["mypy", "--strict"], ["pyright"]], ids=["mypy", "pyright"])
def test_a_users_program_type_checks(checker: list[str]) -> None:
    """Plain and typed contexts, undeclared fields and both kinds of handler have the types that a user expects."""
    done = subprocess.run([sys.executable, "-m", *checker, PROGRAM], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_typed_program_runs() -> None:
    """What the type checkers are told is what happens."""
    assert program.blocking() == 6
    assert asyncio.run(program.awaiting()) == 44

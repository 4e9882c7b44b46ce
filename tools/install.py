"""Bring .venv up to date with this checkout: `python tools/install.py EXTRA...` (the Makefile calls it).

The project is installed in editable *strict* mode: a tree of links under build/, one a file, that shows the folders
runtime/ and actors/ as the package `greenroom`. Edits show through the links; only when a file comes, goes or changes
its name must the tree be made again. So there are three steps, each done only when what it depends on has changed:

1. the environment: another interpreter, or the checkout was moved,
2. the dependencies: pyproject.toml or this script,
3. the links: the set of modules and data files in the two folders (offline).

What was done is written down after it succeeded, so an interrupted run is repeated.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
# The folders that are packages, and the names they are installed under.
PACKAGES = {"runtime": "greenroom", "actors": "greenroom/actors"}
# Modules beside them.
MODULES = [Path("greenroom_pytest.py")]


def main(extras: list[str]) -> None:
    """Update .venv and install the extras, one process at a time."""
    with open(__file__, "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # held until this process ends, however it ends
        make_environment()
        if not install_dependencies(extras):
            refresh_links()


def make_environment() -> None:
    """Make .venv anew unless this interpreter made it, for this folder."""
    stamp = VENV / "made-by"
    # A virtual environment shares both with the interpreter it was made from, so running inside .venv changes nothing.
    maker = f"{ROOT}\n{sys.base_prefix}\n{sys.version}\n"
    if stamp.is_file() and stamp.read_text() == maker and VENV_PYTHON.exists():
        return
    print(f"Making .venv with Python {sys.version.split()[0]} ...", flush=True)
    base_python = getattr(sys, "_base_executable", sys.executable)
    run(base_python, "-m", "venv", "--clear", str(VENV))
    stamp.write_text(maker)


def install_dependencies(extras: list[str]) -> bool:
    """Install the project with these extras unless that was done; tell whether it was done now."""
    pyproject = (ROOT / "pyproject.toml").read_bytes()
    done = hashlib.sha256(pyproject + Path(__file__).read_bytes()).hexdigest()
    stamps = [VENV / f"installed-{extra}" for extra in extras]
    if all(stamp.is_file() and stamp.read_text() == done for stamp in stamps):
        return False
    print(f"Installing into .venv (greenroom[{','.join(extras)}]) ...", flush=True)
    pip("install", *tomllib.loads(pyproject.decode())["build-system"]["requires"])
    install_project(f".[{','.join(extras)}]")
    for stamp in stamps:
        stamp.write_text(done)
    return True


def refresh_links() -> None:
    """Make the links anew if modules or data files came or went, without the network."""
    if links() != wanted_links():
        install_project(".", "--no-deps", "--no-index")


def install_project(requirement: str, *options: str) -> None:
    pip("install", "--no-build-isolation", "--config-settings", "editable_mode=strict", *options, "-e", requirement)


def wanted_links() -> set[Path]:
    """The modules and the data files that pyproject.toml names, as the paths they have once installed."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    patterns = {"*.py", *(pattern for patterns in data.values() for pattern in patterns)}
    return set(MODULES) | {
        Path(name, file.relative_to(ROOT / folder))
        for folder, name in PACKAGES.items()
        for pattern in patterns
        for file in (ROOT / folder).rglob(pattern)
    }


def links() -> set[Path]:
    """The files in the tree that .venv shows as the package; empty where there is none."""
    pointers = VENV.glob("lib/*/site-packages/__editable__.greenroom-*.pth")
    trees = [Path(line) for pointer in pointers for line in pointer.read_text().splitlines()]
    return {
        link.relative_to(tree)
        for tree in trees
        for link in tree.rglob("*")
        if not link.is_dir() and link.parent.name != "__pycache__"
    }


def pip(*arguments: str) -> None:
    run(str(VENV_PYTHON), "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)


def run(*command: str) -> None:
    """Run a command in the checkout; end with its exit code if it fails, for it has said why."""
    code = subprocess.run(command, cwd=ROOT, env={**os.environ, "PIP_REQUIRE_VIRTUALENV": "0"}).returncode
    if code:
        print(f"Failed: {' '.join(command)}", file=sys.stderr)
        sys.exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])

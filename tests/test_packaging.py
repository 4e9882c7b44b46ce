"""The two folders become one package, whole; and no tracked file tells of the machine it was written on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"runtime": "greenroom", "actors": "greenroom/actors"}


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command to its end and return what it printed; its errors are in the message if it fails."""
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a source distribution, as a release is, from a copy: a build leaves files in its folder."""
    source = tmp_path_factory.mktemp("source")
    for folder in PACKAGES:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "greenroom_pytest.py"):
        shutil.copy(ROOT / name, source)
    output = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", output, source, cwd=output)
    (built,) = output.glob("*.whl")
    return built


def test_the_wheel_holds_every_module(wheel: Path) -> None:
    """Each .py file of both folders is in the wheel under its greenroom name; else what these need, and the plugin."""
    expected = {
        f"{name}/{module.relative_to(ROOT / folder).as_posix()}"
        for folder, name in PACKAGES.items()
        for module in (ROOT / folder).rglob("*.py")
    }
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    contained = {name for name in names if ".dist-info/" not in name}
    data = {"py.typed", "representation/page.css", "representation/page.js"}
    assert contained == expected | {f"greenroom/{name}" for name in data} | {"greenroom_pytest.py"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_wheel_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """Installed in a folder of its own, both packages are imported from there, in any working directory."""
    target = tmp_path / "installed"
    run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--no-index", "--target", target, wheel),
        cwd=tmp_path,
    )
    program = "import greenroom, greenroom.actors; print(greenroom.__file__); print(greenroom.actors.__file__)"
    printed = run(sys.executable, "-c", program, cwd=tmp_path, PYTHONPATH=str(target))
    package = target / "greenroom"
    assert printed.splitlines() == [str(package / "__init__.py"), str(package / "actors" / "__init__.py")]


def test_no_tracked_file_names_a_machine_or_a_registry() -> None:
    """No file that git tracks holds a path of the machine it was written on or the address of a package registry."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so there is no list of tracked files")
    # Put together here, so that this file does not hold them.
    forbidden = [
        "/work" + "/",
        "/root" + "/",
        "pypi" + ".org",
        "python" + "hosted",
        "npmjs" + ".org",
        "deb" + ".debian",
    ]
    patterns = [argument for text in forbidden for argument in ("-e", text)]
    found = subprocess.run(["git", "grep", "-InF", *patterns], cwd=ROOT, capture_output=True, text=True)
    # 0: found some; 1: found none; else: git could not look.
    assert found.returncode == 1, found.stdout + found.stderr


def test_the_table_of_layers_is_that_of_the_checks() -> None:
    """docs/architecture.md lists the modules of each layer as import-linter is told them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    checked = [set(re.findall(r"\w+", layer)) for layer in reversed(settings)]
    page = (ROOT / "docs" / "architecture.md").read_text()
    cells = re.findall(r"^\| [\w ]+ \| (`.*`) \|$", page, re.MULTILINE)
    told = [set(re.findall(r"\w+", cell.replace("greenroom.", ""))) for cell in cells]
    there = {path.stem for path in (ROOT / "runtime").iterdir()} | {"actors"}  # some layers name what may come
    assert told == [layer & there for layer in checked]

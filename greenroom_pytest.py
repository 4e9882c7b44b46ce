"""Pytest's plugin: fixtures for tests of workflows. Pytest finds it by itself; docs/testing.md tells how to use it.

It is loaded in every project of an environment that has Greenroom, so it imports the engine only within a fixture.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from greenroom import Runtime
    from greenroom.testing import SeededRuntime, WorkflowTestRunner

_seed = pytest.StashKey[int]()
_failed = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --greenroom-seed."""
    parser.getgroup("greenroom").addoption(
        "--greenroom-seed",
        type=int,
        default=None,
        metavar="N",
        help="the seed of the fixture greenroom_seeded; by default a new one is drawn for each session",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Draw the session's seed, not from `random` itself, which a test may have seeded."""
    given = config.getoption("--greenroom-seed")
    config.stash[_seed] = random.SystemRandom().randrange(1_000_000) if given is None else given


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Note whether the test has failed, and say with which seed."""
    report: pytest.TestReport = yield
    if report.failed:
        item.stash[_failed] = True
        if "greenroom_seeded" in getattr(item, "fixturenames", ()):
            seed = item.config.stash[_seed]
            report.sections.append(("greenroom", f"repeat this schedule with --greenroom-seed={seed}"))
    return report


@pytest.fixture
def greenroom_runtime(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    """A `greenroom.Runtime` of the test's own, on which its workflows run.

    It is shut down at the end of the test. A test that leaves a run going fails, and the message names the run.
    """
    from greenroom import Runtime

    with Runtime() as runtime:
        yield runtime
        _end(request, runtime)


@pytest.fixture
def greenroom_seeded(request: pytest.FixtureRequest) -> Iterator[SeededRuntime]:
    """A `greenroom.testing.SeededRuntime` of the test's own: one thing at a time, in virtual time.

    The seed is drawn anew for each session; a failure prints it, and `--greenroom-seed` repeats it. A test that leaves
    a run going fails, and the message names the run.
    """
    from greenroom.testing import SeededRuntime

    with SeededRuntime(request.config.stash[_seed]) as runtime:
        yield runtime
        if not request.node.stash.get(_failed, False):
            runtime.join_spawned()
        _end(request, runtime)


@pytest.fixture
def greenroom_runner(greenroom_runtime: Runtime) -> type[WorkflowTestRunner]:
    """The class `greenroom.testing.WorkflowTestRunner`, on the test's own runtime: `greenroom_runner(Flow()).run()`."""
    from greenroom.testing import WorkflowTestRunner

    return WorkflowTestRunner


def _end(request: pytest.FixtureRequest, runtime: Runtime) -> None:
    """Shut the runtime down; fail the test for runs that it left, unless it has failed before and may well have."""
    # A reader of the stream sees the end of a run a moment before its handler does: asking the run takes it past that.
    about = {handler: _describe(handler) for handler in runtime.runs.copy().values()}
    left = [text for handler, text in about.items() if not handler.done()]
    runtime.shutdown(timeout=0.0)
    if left and not request.node.stash.get(_failed, False):
        pytest.fail(
            "The test left runs going:\n  " + "\n  ".join(left) + "\nWait for handler.result(), or end them with"
            " handler.cancel_run().",
            pytrace=False,
        )


def _describe(handler: Any) -> str:
    """Name a run, and what it is about."""
    steps = handler.running_steps()
    questions = [repr(question.request) for question in handler.open_questions()]
    about = [f"at work: {', '.join(steps)}"] * bool(steps) + [f"asks: {', '.join(questions)}"] * bool(questions)
    return "; ".join([repr(handler), *about])

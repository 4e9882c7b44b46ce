"""What holds for every test: a time limit that cannot be ignored, and nothing left behind.

Warnings are errors (pyproject.toml), and pytest warns of an exception that no one saw, in a thread or in a finaliser:
so such an exception fails the test that was running.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

pytest.register_assert_rewrite("tests.support")  # so that what fails there is told in full

from greenroom.stores import MemoryStore, RunStore, SQLiteStore  # noqa: E402
from tests.support import leaks, postgres  # noqa: E402

# Seconds after a test's time limit, which is raised in the main thread, until the process is ended. A test that blocks
# signals, or swallows the failure and goes on, gets no further.
HARD_STOP_AFTER = 15.0

# No time limit of an example, which a busy machine may break, and the same examples each time, so that red repeats.
# HYPOTHESIS_PROFILE=search draws new ones.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

_stderr = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep the real stderr: during a test, descriptor 2 is pytest's capture file."""
    # A shell ignores Ctrl-C for what it starts in the background, and `nohup` a closed terminal; tests count on both.
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)
    config.stash[_stderr] = os.dup(sys.__stderr__.fileno() if sys.__stderr__ else 2)


def pytest_unconfigure(config: pytest.Config) -> None:
    gc.unfreeze()
    os.close(config.stash[_stderr])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Past the time limit and a while more, print every thread's stack and end the process."""
    limit = _time_limit(item)
    if not limit or item.config.getoption("usepdb"):
        return (yield)
    faulthandler.dump_traceback_later(limit + HARD_STOP_AFTER, exit=True, file=item.config.stash[_stderr])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _time_limit(item: pytest.Item) -> float:
    """The seconds that pytest-timeout gives this test: marker, command line, pyproject.toml."""
    marker = item.get_closest_marker("timeout")
    if marker is not None:
        return float(marker.args[0] if marker.args else marker.kwargs["timeout"])
    return float(item.config.getoption("timeout") or item.config.getini("timeout"))


class _LoopErrors(logging.Handler):
    """Collects what asyncio's exception handler logs: exceptions of tasks and callbacks that no one awaited."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(logging.Formatter().format(record))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.PostgresServer]:
    """A server for all tests that do not stop it."""
    if lacking := postgres.missing():
        pytest.skip(lacking)
    server = postgres.PostgresServer()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Fail a test that leaves a thread, a file descriptor or an exception that no one saw.

    It is set up first and torn down last, so what fixtures clean up is not held against the test. The default runtime
    is shut down after each test: its threads are idle between tests, not leaked.
    """
    loop_errors = _LoopErrors()
    asyncio_log = logging.getLogger("asyncio")
    asyncio_log.addHandler(loop_errors)
    gc.freeze()  # the collection below looks only at what the test made, and so takes no time
    before = leaks.Held.now()

    yield

    try:
        if runtime := sys.modules.get("greenroom.runtime"):
            runtime.shutdown_default_runtime()
        gc.collect()  # now, so that what a dead cycle has to say is said in this test
        left = leaks.left_since(before) + loop_errors.messages
    finally:
        asyncio_log.removeHandler(loop_errors)
    if left:
        pytest.fail("The test left behind:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture(params=["memory", "sqlite"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], RunStore]]:
    """Returns the same store each time, as another process would open it; all are closed after the test."""
    memory, made = MemoryStore(), list[RunStore]()

    def make() -> RunStore:
        made.append(memory if request.param == "memory" else SQLiteStore(tmp_path / "runs.db", poll_interval=0.01))
        return made[-1]

    yield make
    for store in made:
        store.close()

"""The guards of conftest.py catch what they are there for. Each is tried on a run of pytest of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run_pytest(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, source: str) -> pytest.RunResult:
    """Run the tests in `source` in another process, under the project's settings and guards."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile(source)
    return pytester.runpytest_subprocess(
        "-c", ROOT / "pyproject.toml", "--rootdir", pytester.path, "-p", "tests.conftest", pytester.path
    )


def test_what_is_left_behind_fails_the_test(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that leaves a thread, a file, or an exception that no one saw fails, and the message names it."""
    result = run_pytest(
        pytester,
        monkeypatch,
        """
        import _thread, asyncio, gc, os, threading, time, warnings
        from tests.support import leaks

        leaks.GRACE = 0.05

        def test_thread():
            threading.Thread(target=time.sleep, args=[60], daemon=True, name="left-thread").start()

        def test_bare_thread():
            running = threading.Event()

            def run():
                running.set()
                time.sleep(60)

            _thread.start_new_thread(run, ())
            running.wait()

        def test_file():
            os.open(__file__, os.O_RDONLY)

        def test_thread_exception():
            thread = threading.Thread(target=lambda: 1 / 0)
            thread.start()
            thread.join()

        def test_finaliser():
            class Bad:
                def __del__(self):
                    raise ValueError("left in a finaliser")

            bad = Bad()
            bad.itself = bad  # so that only the collector finds it

        def test_unawaited_task():
            async def fail():
                raise ValueError("left in a task")

            async def main():
                asyncio.ensure_future(fail())
                await asyncio.sleep(0)

            asyncio.run(main())

        def test_warning():
            warnings.warn("left as a warning")

        def test_clean():
            thread = threading.Thread(target=time.sleep, args=[0.01])
            thread.start()
        """,
    )
    result.assert_outcomes(passed=6, errors=5, failed=2)
    result.stdout.fnmatch_lines_random(
        [
            "*ERROR*::test_thread - *",
            "*thread 'left-thread' (daemon)*",
            "*ERROR*::test_bare_thread - *",
            "*thread *, started by _thread*",
            "*ERROR*::test_file - *",
            "*file descriptor *: *.py",
            "*FAILED*::test_thread_exception - *",
            "*ZeroDivisionError*",
            "*ERROR*::test_finaliser - *",
            "*left in a finaliser*",
            "*ERROR*::test_unawaited_task - *",
            "*left in a task*",
            "*FAILED*::test_warning - *",
        ]
    )


def test_a_test_that_waits_for_ever_fails(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past its time limit a test fails, with the stacks of the other threads printed, and the next test runs."""
    result = run_pytest(
        pytester,
        monkeypatch,
        """
        import threading
        import pytest

        @pytest.mark.timeout(0.3)
        def test_hangs():
            done = threading.Event()
            thread = threading.Thread(target=wait_in_another_thread, args=[done])
            thread.start()
            try:
                threading.Event().wait()
            finally:
                done.set()

        def wait_in_another_thread(done):
            done.wait()

        def test_after():
            pass
        """,
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines_random(["*Timeout (>0.3s)*", "*in wait_in_another_thread*"])


def test_a_test_that_cannot_be_interrupted_ends_the_run(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test that blocks the time limit's signal is ended with its process, the stacks of all threads printed."""
    result = run_pytest(
        pytester,
        monkeypatch,
        """
        import signal, threading
        import pytest
        from tests import conftest

        conftest.HARD_STOP_AFTER = 0.3

        @pytest.mark.timeout(0.3)
        def test_hangs():
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
            threading.Event().wait()
        """,
    )
    assert result.ret == 1
    result.stderr.fnmatch_lines(["Timeout (0:00:00.6*", "*in test_hangs"])


def test_a_hypothesis_test_may_use_the_guard(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard's fixture does not trip Hypothesis's check for fixtures that are set up once for many examples."""
    result = run_pytest(
        pytester,
        monkeypatch,
        """
        from hypothesis import given, settings, strategies as st

        @settings(database=None)
        @given(st.integers())
        def test_any(n):
            assert isinstance(n, int)
        """,
    )
    result.assert_outcomes(passed=1)


def test_the_files_of_this_process_are_seen() -> None:
    """The guard's list holds every open descriptor, so a system without /dev/fd fails here and not silently."""
    from tests.support.leaks import Held

    reader, writer = os.pipe()
    try:
        assert {reader, writer} <= {fd for fd, _, _ in Held.now().files}
    finally:
        os.close(reader)
        os.close(writer)

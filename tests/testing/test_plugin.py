"""The fixtures of `greenroom_pytest`, each tried on a run of pytest of its own."""

from __future__ import annotations

import sys
import textwrap

import pytest

# Imported here, so that a run of pytest within this process does not import it anew.
import greenroom.testing  # noqa: F401

FLOWS = """
import asyncio, random, threading
import pytest
from greenroom import Context, Event, HumanResponseEvent, InputRequiredEvent, Runtime, StartEvent, StopEvent
from greenroom import Workflow, WorkflowCancelledByUser, aio, step

class Hello(Workflow):
    @step
    def hello(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result="hello")

class Asks(Workflow):
    @step
    async def ask(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
        answer = await ctx.ask(InputRequiredEvent(prefix="Sure?"))
        return StopEvent(result=answer.response)

class Blocks(Workflow):
    def __init__(self):
        super().__init__()
        self.at_work, self.go = threading.Event(), threading.Event()

    @step
    def block(self, ev: StartEvent) -> StopEvent:
        self.at_work.set()
        self.go.wait(20)
        return StopEvent()

@pytest.fixture
def blocks():
    flow = Blocks()
    yield flow
    flow.go.set()
"""


def run_tests(pytester: pytest.Pytester, tests: str, *options: str) -> pytest.RunResult:
    """Run these tests, with the workflows above."""
    pytester.makepyfile(flows=FLOWS, test_flows="from flows import *\n" + textwrap.dedent(tests))
    return pytester.runpytest("-p", "no:cacheprovider", *options)


def test_each_test_has_a_runtime_of_its_own(pytester: pytest.Pytester) -> None:
    """Workflows run on it without being told, and it is shut down at the end of its test."""
    result = run_tests(
        pytester,
        """
        seen = []

        @pytest.mark.parametrize("n", range(2))
        def test_runtime(greenroom_runtime, n):
            handler = Hello().run()
            assert handler.result(10) == "hello"
            assert handler._link.runtime is greenroom_runtime
            assert greenroom_runtime not in seen
            assert all(runtime.dispatcher.closed for runtime in seen)
            seen.append(greenroom_runtime)

        def test_without():
            assert all(runtime.dispatcher.closed for runtime in seen)
        """,
    )
    result.assert_outcomes(passed=3)


def test_a_run_that_is_left_going_fails_the_test_and_is_named(pytester: pytest.Pytester) -> None:
    """One that waits for a person with its question, one at work with its steps, on both kinds of runtime."""
    result = run_tests(
        pytester,
        """
        def test_rests(greenroom_runtime):
            next(iter(Asks().run(run_id="resting").stream_events()))

        def test_works(blocks, greenroom_runtime):
            blocks.run(run_id="working")
            assert blocks.at_work.wait(20)

        def test_seeded(greenroom_seeded):
            Asks().run(run_id="seeded")
            greenroom_seeded.run_until_idle()

        def test_ended(greenroom_runtime):
            handler = Asks().run()
            handler.cancel_run()
            with pytest.raises(WorkflowCancelledByUser):
                handler.result(10)

        @pytest.mark.parametrize("n", range(20))
        def test_stream(greenroom_runtime, n):
            assert [type(event) for event in Hello().run().stream_events()] == [StopEvent]

        def test_spawned(greenroom_seeded):
            handler = Asks().run()
            greenroom_seeded.spawn(handler.cancel_run)
        """,
    )
    result.assert_outcomes(passed=25, errors=3)
    result.stdout.fnmatch_lines(
        [
            "*The test left runs going:",
            "*run 'resting' of Asks: running>; asks: InputRequiredEvent(prefix='Sure?'*",
            "*run 'working' of Blocks: running>; at work: block",
            "*run 'seeded' of Asks: running>; asks: *",
        ]
    )


def test_a_test_that_failed_is_not_blamed_for_its_runs_too(pytester: pytest.Pytester) -> None:
    """Its own failure is what is to be read; the runs are ended all the same."""
    result = run_tests(
        pytester,
        """
        kept = []

        def test_fails(greenroom_runtime):
            kept.append(Asks().run())
            assert False, "on purpose"

        def test_fails_seeded(greenroom_seeded):
            kept.append(Asks().run())
            assert False, "on purpose"

        def test_they_ended():
            assert [handler.done() for handler in kept] == [True, True]
        """,
    )
    result.assert_outcomes(passed=1, failed=2)
    assert "left runs going" not in result.stdout.str()


def test_a_failure_prints_the_seed_and_the_option_repeats_it(pytester: pytest.Pytester) -> None:
    """Without the option a seed is drawn that differs; a test that passes prints none."""
    tests = """
        def test_fails(greenroom_seeded):
            print(f"seed is {greenroom_seeded.seed}.")
            assert False

        def test_passes(greenroom_seeded):
            assert Hello().run().result() == "hello"

        def test_fails_elsewhere():
            random.seed(1)
            assert False
        """
    given = run_tests(pytester, tests, "--greenroom-seed=371")
    given.assert_outcomes(passed=1, failed=2)
    given.stdout.fnmatch_lines(["*--greenroom-seed=371*"])
    assert given.stdout.str().count("--greenroom-seed=") == 1
    assert "seed is 371." in given.stdout.str()
    drawn = {line for _ in range(3) for line in run_tests(pytester, tests).outlines if line.startswith("seed is ")}
    assert len(drawn) > 1


def test_the_runner_runs_on_the_tests_own_runtime(pytester: pytest.Pytester) -> None:
    """greenroom_runner is the class WorkflowTestRunner, and both kinds of runtime may be used beside each other."""
    result = run_tests(
        pytester,
        """
        def test_runner(greenroom_runner, greenroom_runtime):
            test = greenroom_runner(Asks()).run(answers={InputRequiredEvent: {"response": "yes"}})
            assert test.result == "yes"
            assert test.ctx._port.runtime is greenroom_runtime

        def test_both(greenroom_runtime, greenroom_seeded):
            handler = Hello().run()
            assert handler.result() == "hello" and handler._link.runtime is greenroom_seeded
            assert Hello(runtime=greenroom_runtime).run().result(10) == "hello"
        """,
    )
    result.assert_outcomes(passed=2)


def test_the_plugin_does_not_import_the_engine_unless_a_fixture_is_used(pytester: pytest.Pytester) -> None:
    """Neither its import nor a session without its fixtures takes the time that the engine's import does."""
    pytester.makepyfile(
        """
        import sys

        def test_nothing():
            assert "greenroom_pytest" in sys.modules
            assert not {"greenroom", "pydantic", "pykka"} & set(sys.modules)
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)
    program = (
        "import sys, pytest; before = set(sys.modules); import greenroom_pytest;"
        " print(sorted(set(sys.modules) - before))"
    )
    assert pytester.run(sys.executable, "-c", program).outlines == ["['greenroom_pytest']"]


def test_the_fixtures_and_the_option_are_documented_where_pytest_lists_them(pytester: pytest.Pytester) -> None:
    """`pytest --fixtures` and `pytest --help` tell of them."""
    listed = pytester.runpytest("--fixtures").stdout.str()
    assert all(f"greenroom_{name}" in listed for name in ("runtime", "seeded", "runner"))
    assert "--greenroom-seed" in pytester.runpytest("--help").stdout.str()

"""What `Workflow(verbose=True)` prints."""

import contextlib
import logging
import os

import pytest

from greenroom import Context, Event, Runtime, StartEvent, StopEvent, Workflow, aio, step
from greenroom.retry import retry_policy, stop_after_attempt, wait_none
from greenroom.testing import SeededRuntime
from tests.support.flavours import DEADLINE, Flavour


class Middle(Event):
    n: int = 0


class Detail(Middle):
    pass


class Loud(Workflow):
    """Two steps, one of which streams and sends to nobody."""

    @step(num_workers=1)
    def first(self, ctx: Context, ev: StartEvent) -> Middle | None:
        ctx.write_event_to_stream(Detail(n=1))
        ctx.send_event(Middle(n=1))
        return Middle(n=2)

    @step(num_workers=1)
    async def second(self, ctx: aio.Context, ev: Middle) -> StopEvent | None:
        return ctx.collect_events(ev, [Middle, Middle]) and StopEvent(result="done")


LOUD = [
    "[tick] add: StartEvent -> first",
    "[first:0] started from StartEvent",
    "[stream] Detail",
    "[tick] add: Middle -> second",
    "[second:0] started from Middle",
    "[first:0] complete with Middle",
    "[tick] add: Middle -> second",
    "[second] enqueued (waiting for capacity)",
    "[second:0] complete with no result",
    "[second:0] started from Middle",
    "[second:0] complete with StopEvent",
    "[result] StopEvent(result='done')",
]


def test_verbose_prints_what_happens(capsys: pytest.CaptureFixture[str]) -> None:
    """A verbose run prints a line for all that happens in it before its result is there."""
    assert Loud(verbose=True).run().result(DEADLINE) == "done"
    printed = capsys.readouterr().out.splitlines()
    assert sorted(printed) == sorted(LOUD)
    assert printed[0] == LOUD[0]
    assert printed[-1] == LOUD[-1]


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
def test_verbose_logs_where_somebody_listens(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, level: int
) -> None:
    """Where the logger greenroom.verbose is enabled the lines go there, and nothing is printed."""
    with caplog.at_level(level, logger="greenroom.verbose"), Runtime():
        Loud(verbose=True).run().result(DEADLINE)
    records = [record for record in caplog.records if record.name == "greenroom.verbose"]
    assert sorted(record.getMessage() for record in records) == sorted(LOUD)
    assert {record.levelno for record in records} == {level}
    assert capsys.readouterr().out == ""


def test_verbose_leaves_no_line_out(capsys: pytest.CaptureFixture[str]) -> None:
    """However fast a run is, verbose prints all of it from the first line."""

    class Loop(Workflow):
        @step
        def one(self, ev: StartEvent | Middle) -> Middle | StopEvent:
            n = ev.get("n", 0)
            return StopEvent() if n == 2000 else Middle(n=n + 1)

    Loop(verbose=True).run().result(DEADLINE)
    assert len(capsys.readouterr().out.splitlines()) == 3 * 2001 + 1


def test_verbose_tells_of_failures_waits_and_dead_letters(flow: Flavour, capsys: pytest.CaptureFixture[str]) -> None:
    """An attempt that fails, its retry, a wait and its answer, and an event that nobody takes have a line each."""

    class Busy(Workflow):
        @flow.step(retry_policy=retry_policy(stop=stop_after_attempt(2), wait=wait_none()))
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            if ctx.retry_info().retry_number == 0:
                raise ValueError("once")
            ctx.send_event(Middle(n=1))
            await flow(ctx.wait_for_event(Detail))
            return StopEvent()

    with SeededRuntime(1) as runtime:
        handler = Busy(verbose=True, disable_validation=True).run()
        runtime.run_until_idle()
        handler.send_event(Detail(n=1))
        handler.result()
    assert capsys.readouterr().out.splitlines() == [
        "[tick] add: StartEvent -> one",
        "[one:0] started from StartEvent",
        "[one:0] failed with ValueError('once')",
        "[one] tried again in 0 s",
        "[one:0] started from StartEvent",
        "[unhandled] Middle: no step takes it",
        "[one:0] waits for Detail",
        "[idle]",
        "[one:0] wait for Detail answered with Detail",
        "[one:0] complete with StopEvent",
        "[result] StopEvent()",
    ]


def test_verbose_names_the_runs_while_several_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    """The lines begin with the run's id where it would not be plain otherwise."""

    class Waits(Workflow):
        @step
        def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.wait_for_event(Middle)
            return StopEvent()

    with SeededRuntime(1) as runtime:
        first, second = [Waits(verbose=True).run(run_id=name) for name in "ab"]
        runtime.run_until_idle()
        capsys.readouterr()
        for handler in (first, second):
            handler.send_event(Middle(n=1))
            handler.result()
    assert capsys.readouterr().out.splitlines() == [
        "a [one:0] wait for Middle answered with Middle",
        "a [one:0] complete with StopEvent",
        "a [result] StopEvent()",
        "[one:0] wait for Middle answered with Middle",
        "[one:0] complete with StopEvent",
        "[result] StopEvent()",
    ]


def test_verbose_prints_what_children_do(flow: Flavour, capsys: pytest.CaptureFixture[str]) -> None:
    """The lines of children are printed with their run id, and while they go on those of their parent as well."""

    class Inner(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=1)

    class Outer(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await flow(ctx.run(Inner()).result()))

    with SeededRuntime(1) as runtime:
        handler = Outer(verbose=True).run(run_id="r")
        runtime.run_until_idle()
        assert handler.result() == 1
    assert capsys.readouterr().out.splitlines() == [
        "[tick] add: StartEvent -> one",
        "[one:0] started from StartEvent",
        "r/Inner.0.0 [tick] add: StartEvent -> one",
        "r/Inner.0.0 [one:0] started from StartEvent",
        "r/Inner.0.0 [one:0] complete with StopEvent",
        "r/Inner.0.0 [result] StopEvent(result=1)",
        "[one:0] complete with StopEvent",
        "[result] StopEvent(result=1)",
    ]


def test_a_closed_pipe_does_not_harm_a_verbose_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the lines cannot be written any more, the run goes on, and that is logged."""
    reader, writer = os.pipe()
    os.close(reader)
    out = open(writer, "w")  # noqa: SIM115 - closed below, in the way of a pipe that nobody reads
    monkeypatch.setattr("sys.stdout", out)
    try:
        assert Loud(verbose=True).run().result(DEADLINE) == "done"
    finally:
        with contextlib.suppress(BrokenPipeError):
            out.close()
    assert any(isinstance(record.exc_info[1], BrokenPipeError) for record in caplog.records if record.exc_info)


def test_a_quiet_run_prints_nothing(flow: Flavour, capsys: pytest.CaptureFixture[str]) -> None:
    """Without verbose nothing is written anywhere."""

    class Quiet(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    with Runtime():
        Quiet().run().result(DEADLINE)
    assert capsys.readouterr() == ("", "")

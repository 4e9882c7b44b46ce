"""What a failed body leaves behind."""

from __future__ import annotations

import asyncio
import gc
import traceback
import weakref

import pytest

from greenroom import StartEvent, StopEvent, Workflow, step
from greenroom.actors.step import _let_go

DEADLINE = 20


class Local:
    """Something that a step has in a variable."""


alive: list[weakref.ref[Local]] = []


def fail_deeper() -> None:
    local = Local()
    alive.append(weakref.ref(local))
    raise ValueError("deeper")


def fail() -> StopEvent:
    try:
        fail_deeper()
    except ValueError as error:
        raise RuntimeError("on top") from error
    return StopEvent()


class Fails(Workflow):
    @step
    def one(self, ev: StartEvent) -> StopEvent:
        return fail()


class FailsAsync(Workflow):
    @step
    async def one(self, ev: StartEvent) -> StopEvent:
        return fail()


class FailsInGroup(Workflow):
    @step
    def one(self, ev: StartEvent) -> StopEvent:
        try:
            fail_deeper()
        except ValueError as error:
            raise ExceptionGroup("several", [error]) from None
        return StopEvent()


@pytest.mark.parametrize("workflow", [Fails, FailsAsync])
def test_the_traceback_goes_from_the_result_to_the_step(workflow: type[Workflow]) -> None:
    """Between the call of result() and the step's own frame there is no frame of the engine."""
    with pytest.raises(RuntimeError) as raised:
        workflow().run().result(DEADLINE)
    names = [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert names[1:] == ["result", "one", "fail"]


@pytest.mark.parametrize("workflow", [Fails, FailsAsync, FailsInGroup])
def test_the_errors_behind_a_stored_error_keep_no_values_alive(workflow: type[Workflow]) -> None:
    """What was in the variables of a frame is freed, also where the error is a cause or in a group."""
    error = workflow().run().exception(DEADLINE)
    behind = error.exceptions[0] if isinstance(error, ExceptionGroup) else error and error.__cause__
    assert isinstance(behind, ValueError)
    gc.collect()
    assert alive.pop()() is None
    assert traceback.extract_tb(behind.__traceback__)[-1].name == "fail_deeper"


def test_an_error_that_another_coroutine_has_caught_leaves_that_coroutine_alone() -> None:
    """A step fails with the error of a run that a task had awaited too: the task goes on from where it stands."""
    error = ValueError("of a run that many wait for")
    caught, goes_on = asyncio.Event(), asyncio.Event()

    async def reads() -> str:
        try:
            raise error
        except ValueError:
            caught.set()
        await goes_on.wait()
        return "went on"

    async def main() -> str:
        task = asyncio.create_task(reads())
        await caught.wait()
        try:
            raise error  # puts its own frames in front of those that are there
        except ValueError:
            _let_go(error)
        goes_on.set()
        async with asyncio.timeout(10):
            return await task

    assert asyncio.run(main()) == "went on"

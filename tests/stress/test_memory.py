"""Nothing grows with how long a run is, or with how many runs there have been."""

from __future__ import annotations

import gc
import tracemalloc
import weakref

import pytest

from greenroom import Context, Event, Runtime, StartEvent, StopEvent, Workflow, aio, step
from tests.support.waiting import wait_until

SOON = 60.0


class Again(Event):
    """Once more round the loop."""

    left: int


class Loop(Workflow):
    """A long chain of `def` steps, measured on its way."""

    marks: list[int]

    @step
    def begin(self, ev: StartEvent) -> Again:
        return Again(left=ev.length)

    @step
    def again(self, ctx: Context, ev: Again) -> Again | StopEvent:
        if ev.left % 5000 == 0:
            gc.collect()
            self.marks.append(tracemalloc.get_traced_memory()[0])
        return Again(left=ev.left - 1) if ev.left else StopEvent(result=self.marks)


class AsyncLoop(aio.Workflow):
    """The same of `async def` steps."""

    marks: list[int]

    @step
    async def begin(self, ev: StartEvent) -> Again:
        return Again(left=ev.length)

    @step
    async def again(self, ctx: aio.Context, ev: Again) -> Again | StopEvent:
        if ev.left % 5000 == 0:
            gc.collect()
            self.marks.append(tracemalloc.get_traced_memory()[0])
        return Again(left=ev.left - 1) if ev.left else StopEvent(result=self.marks)


class Quick(Workflow):
    """One step."""

    @step
    def quick(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(Again(left=0))
        return StopEvent(result=ev.n)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("cls", [Loop, AsyncLoop])
def test_a_long_loop_keeps_memory_flat(cls):
    """Twenty thousand steps retain nothing but the bounded log of internal events."""
    workflow = cls(timeout=600)
    workflow.marks = []
    tracemalloc.start()
    try:
        marks = workflow.run(length=20_000).result(150)
    finally:
        tracemalloc.stop()
    assert len(marks) == 5
    # The first mark is before that log is full; from the second on, fifteen thousand steps add next to nothing.
    assert marks[-1] - marks[1] < 50_000


@pytest.mark.timeout(180)
def test_ten_thousand_finished_runs_leave_nothing():
    """Not in the runtime, the root, the pool or the timer, and their handlers and supervisors are freed."""
    with Runtime(max_threads=8) as runtime:
        gone = []
        for batch in range(20):
            workflow = Quick(timeout=3600, num_concurrent_runs=100 if batch % 2 else None)
            handlers = [workflow.run(n=n) for n in range(500)]
            assert [handler.result(SOON) for handler in handlers] == list(range(500))
            gone += [weakref.ref(handlers[0]), weakref.ref(handlers[-1].supervisor.actor), weakref.ref(workflow)]
            gone += [weakref.ref(handlers[1]._stream.actor)]
            del handlers, workflow
        assert wait_until(lambda: not runtime.runs)
        root, pool = runtime.root.actor, runtime.dispatcher
        assert wait_until(lambda: not root._groups and not root._going and not root._lines)
        assert wait_until(lambda: pool._running == 0 and pool._awake == 0)
        assert not pool._bodies
        assert not pool._unlimited
        assert len(pool._timer.actor_inbox._heap) < 200

        def freed():
            gc.collect()
            return all(ref() is None for ref in gone)

        assert wait_until(freed)


def test_a_finished_run_is_freed_without_the_cycle_collector():
    """Its handler and its actors go when nobody holds them, so that many short runs cost no collections."""
    with Runtime(max_threads=2):
        gc.disable()
        try:
            handler = Quick().run(n=1)
            assert handler.result(SOON) == 1
            gone = weakref.ref(handler), weakref.ref(handler.supervisor.actor), weakref.ref(handler._stream.actor)
            del handler
            assert wait_until(lambda: all(ref() is None for ref in gone))
        finally:
            gc.enable()

"""What a workflow is and how it runs, through the public API."""

import contextvars
import threading
from typing import Optional, Union

import pytest

from greenroom import (
    Context,
    ContextStateError,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    Runtime,
    RuntimeShutdownError,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowConfigurationError,
    WorkflowRuntimeError,
    WorkflowStuckError,
    WorkflowTimeoutError,
    WorkflowValidationError,
    aio,
    step,
)
from tests.support.flavours import DEADLINE, Flavour
from tests.support.waiting import wait_until


class Middle(Event):
    n: int = 0


class Detail(Middle):
    pass


class Topic(StartEvent):
    topic: str
    length: int = 3


class Report(StopEvent):
    pages: int


# -- definition --------------------------------------------------------------------------------------------------------


def test_a_chain_of_steps_runs_to_its_result(flow: Flavour) -> None:
    """Each step is given what the one before returned, and the stop event's result is the run's."""

    class Chain(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> Middle:
            return Middle(n=ev.n + 1)

        @flow.step
        async def two(self, ctx: Context, ev: Middle) -> StopEvent:
            return StopEvent(result=ev.n * 10)

    assert Chain().run(n=1).result(DEADLINE) == 20


def test_parameters_may_have_any_name_and_order(flow: Flavour) -> None:
    """The annotations alone say which parameter is the event and which the context; keyword-only ones work too."""

    class Order(Workflow):
        @flow.step
        async def one(this, incoming: StartEvent, where: Context) -> Middle:
            await flow(where.store.set("seen", type(incoming).__name__))
            return Middle(n=1)

        @flow.step
        async def two(self, *, where: Context, default: int = 7, what: Middle) -> StopEvent:
            return StopEvent(result=(await flow(where.store.get("seen")), what.n, default))

    assert Order().run().result(DEADLINE) == ("StartEvent", 1, 7)


def test_unions_say_what_is_accepted_and_returned(flow: Flavour) -> None:
    """`A | B`, Union and Optional all name what a step takes and returns."""

    class Unions(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> Union[Middle, Detail, None]:  # noqa: UP007  # the older spelling
            return Detail(n=5)

        @flow.step
        async def two(self, ev: Optional[Middle | Detail]) -> StopEvent | None:  # noqa: UP045  # the older spelling
            return StopEvent(result=type(ev).__name__)

    assert Unions().run().result(DEADLINE) == "Detail"


def test_annotations_in_quotes_may_name_local_classes() -> None:
    """Annotations written as text find classes of the enclosing function, also ones defined after the step."""

    class Local(Workflow):
        @step
        def one(self, ev: "StartEvent") -> "Later":
            return Later(n=4)

        @step
        async def two(self, ctx: "aio.Context", ev: "Later") -> "StopEvent":
            return StopEvent(result=ev.n)

    class Later(Event):
        n: int

    # `Later` is defined after the decorator ran, so only a name that the function still knows can be found.
    with pytest.raises(WorkflowValidationError, match=r"step 'one'.*'Later'"):
        Local()


def test_annotations_in_quotes_find_local_classes_defined_before() -> None:
    """Annotations written as text find classes of the enclosing function."""

    class Earlier(Event):
        n: int

    class Local(Workflow):
        @step
        def one(self, ev: "StartEvent") -> "Earlier | None":
            return Earlier(n=4)

        @step
        async def two(self, ctx: "aio.Context", ev: "Earlier") -> "StopEvent":
            return StopEvent(result=ev.n)

    assert Local().run().result(DEADLINE) == 4


def test_steps_are_inherited_overridden_and_removed(flow: Flavour) -> None:
    """A subclass has its bases' steps; it may replace one, and a plain method in a step's place removes the step."""

    class Base(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> Middle:
            return Middle(n=1)

        @flow.step
        async def two(self, ev: Middle) -> StopEvent:
            return StopEvent(result=f"base {ev.n}")

        @flow.step
        async def also(self, ev: Middle) -> None:
            raise AssertionError("removed in the subclasses")

    class Sub(Base):
        also = None  # type: ignore[assignment]

        @flow.step
        async def two(self, ev: Middle) -> StopEvent:
            return StopEvent(result=f"sub {ev.n}")

    class SubSub(Sub):
        pass

    assert SubSub().run().result(DEADLINE) == "sub 1"


def test_a_mixin_that_is_no_workflow_brings_its_steps() -> None:
    """Steps of a plain class count when a workflow inherits from it."""

    class Ending:
        @step
        def end(self, ev: Middle) -> StopEvent:
            return StopEvent(result=ev.n)

    class Mixed(Ending, Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Middle:
            return Middle(n=9)

    assert Mixed().run().result(DEADLINE) == 9


def test_free_functions_are_steps_and_are_inherited() -> None:
    """Free functions join a workflow by `workflow=`, in it and in its subclasses (D24), not in its bases."""

    class Base(Workflow):
        @step
        def begin(self, ev: StartEvent) -> Middle:
            return Middle(n=2)

    @step(workflow=Base)
    async def end(ctx: aio.Context, ev: Middle) -> StopEvent:
        return StopEvent(result=await ctx.store.get("x", ev.n))

    class Sub(Base):
        pass

    @step(workflow=Sub, skip_graph_checks=["dead_end"])
    def note(ev: Middle) -> None:
        return None

    assert Base().run().result(DEADLINE) == 2
    assert Sub().run().result(DEADLINE) == 2
    assert Base().events == [Middle, StartEvent, StopEvent]


def test_attributes_of_the_workflow_are_shared_by_its_runs(flow: Flavour) -> None:
    """Steps are methods of the one object that ran."""

    class Named(Workflow):
        def __init__(self, name: str) -> None:
            super().__init__(timeout=DEADLINE)
            self.name = name

        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=self.name)

    workflow = Named("Ada")
    assert [run.result(DEADLINE) for run in [workflow.run(), workflow.run()]] == ["Ada", "Ada"]
    assert workflow.timeout == DEADLINE


def test_properties_are_not_evaluated(flow: Flavour) -> None:
    """A property of the workflow is read when a step reads it, not by the engine (D23)."""

    class Costly(Workflow):
        @property
        def answer(self) -> int:
            raise AssertionError("nobody asked for it")

        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=1)

    assert Costly().run().result(DEADLINE) == 1


# -- start and stop events ---------------------------------------------------------------------------------------------


def test_a_start_event_of_ones_own_is_built_from_keywords(flow: Flavour) -> None:
    """run() builds the declared start event; declared fields are validated and others kept."""

    class Write(Workflow):
        @flow.step
        async def one(self, ev: Topic) -> StopEvent:
            return StopEvent(result=(ev.topic, ev.length, ev.mood))

    assert Write().start_event_class is Topic
    assert Write().run(topic="pirates", length="4", mood="grim").result(DEADLINE) == ("pirates", 4, "grim")
    assert Write().run(start_event=Topic(topic="sea", mood="calm")).result(DEADLINE) == ("sea", 3, "calm")


def test_a_subclass_of_the_start_event_may_be_given(flow: Flavour) -> None:
    """A start event of a subclass reaches the step that takes its base (D21)."""

    class Longer(Topic):
        pages: int = 2

    class Write(Workflow):
        @flow.step
        async def one(self, ev: Topic) -> StopEvent:
            return StopEvent(result=type(ev).__name__)

    assert Write().run(start_event=Longer(topic="x")).result(DEADLINE) == "Longer"


def test_a_stop_event_of_ones_own_is_the_result(flow: Flavour) -> None:
    """A subclass of StopEvent is itself the result of the run."""

    class Write(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> Report:
            return Report(pages=3, extra="kept")

    assert Write().stop_event_class is Report
    result = Write().run().result(DEADLINE)
    assert isinstance(result, Report)
    assert (result.pages, result.extra, result.result) == (3, "kept", None)


def test_a_result_of_none_is_a_result(flow: Flavour) -> None:
    """A plain StopEvent() ends the run with None."""

    class Quiet(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    handler = Quiet().run()
    assert handler.result(DEADLINE) is None
    assert handler.status == "completed"


# -- run ---------------------------------------------------------------------------------------------------------------


def test_the_run_id_is_chosen_or_made(flow: Flavour) -> None:
    """run(run_id=...) names the run and is no field of the start event; otherwise each run has an id of its own."""

    class Show(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=(ev.get("run_id"), threading.current_thread().name))

    named = Show().run(run_id="monday")
    assert named.run_id == "monday"
    seen, thread_name = named.result(DEADLINE)
    assert seen is None
    if flow.kind != "async def":
        assert thread_name == "monday/one"
    assert len({Show().run().run_id for _ in range(20)}) == 20


def test_an_id_may_be_used_again_after_the_end(flow: Flavour) -> None:
    """An id is taken only while its run goes on."""

    class Quick(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=ev.n)

    assert [Quick().run(run_id="same", n=n).result(DEADLINE) for n in range(30)] == list(range(30))


def test_an_id_that_is_taken_is_refused_and_harms_nobody(flow: Flavour) -> None:
    """A second run under a live run's id is refused by name; the first goes on."""
    proceed = threading.Event()

    class Wait(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            await flow.until(proceed)
            return StopEvent(result="first")

    workflow = Wait()
    first = workflow.run(run_id="one")
    with pytest.raises(WorkflowRuntimeError, match="run with the id 'one' is going on; choose another run_id"):
        workflow.run(run_id="one")
    proceed.set()
    assert first.result(DEADLINE) == "first"


def test_runs_may_begin_on_any_thread(flow: Flavour) -> None:
    """run() and result() work on any thread, many at once."""

    class Square(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> Middle:
            return Middle(n=ev.n)

        @flow.step
        async def two(self, ev: Middle) -> StopEvent:
            return StopEvent(result=ev.n**2)

    workflow, results = Square(), {}

    def run(n: int) -> None:
        results[n] = workflow.run(n=n).result(DEADLINE)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: n**2 for n in range(16)}


def test_steps_see_the_context_variables_of_the_caller_of_run(flow: Flavour) -> None:
    """Each step sees the variables as they were at run(); what a step sets stays with it."""
    user = contextvars.ContextVar("user", default="nobody")

    class Who(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> Middle:
            seen = user.get()
            user.set("the step")
            return Middle(seen=seen)

        @flow.step
        async def two(self, ev: Middle) -> StopEvent:
            return StopEvent(result=(ev.seen, user.get()))

    token = user.set("Ada")
    handler = Who().run()
    user.reset(token)
    assert handler.result(DEADLINE) == ("Ada", "Ada")
    assert user.get() == "nobody"


def test_a_step_may_run_workflows_and_wait_for_them() -> None:
    """A def step may block on other runs, nested as deep as it likes, even with one thread for bodies."""

    class Down(Workflow):
        @step
        def one(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=0 if ev.n == 0 else 1 + Down().run(n=ev.n - 1).result(DEADLINE))

    with Runtime(max_threads=1):
        assert Down().run(n=20).result(DEADLINE) == 20


def test_a_step_that_waits_for_another_runtime_gives_up_its_place() -> None:
    """A body that waits for a run of another runtime leaves its place in its own to others."""
    opened = threading.Event()

    class Opens(Workflow):
        @step
        def one(self, ev: StartEvent) -> StopEvent:
            opened.set()
            return StopEvent()

    class Waits(Workflow):
        @step
        def one(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=opened.wait(DEADLINE))

    with Runtime(max_threads=1) as here, Runtime(max_threads=1) as there:

        class Outer(Workflow):
            @step
            def one(self, ev: StartEvent) -> StopEvent:
                inner = Waits(runtime=there).run()
                Opens(runtime=here).run()
                return StopEvent(result=inner.result(DEADLINE))

        assert Outer(runtime=here).run().result(DEADLINE) is True


def test_an_async_step_may_await_other_runs() -> None:
    """An async step awaits the handlers of other runs, which share its loop."""

    class Down(aio.Workflow):
        @step
        async def one(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=0 if ev.n == 0 else 1 + await Down().run(n=ev.n - 1))

    assert Down().run(n=20).result(DEADLINE) == 20


# -- num_workers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_num_workers_bounds_the_invocations_at_work(flow: Flavour, workers: int) -> None:
    """Exactly num_workers invocations of a step are at work at once where there is enough to do."""
    everybody = threading.Barrier(workers)
    lock = threading.Lock()
    now: list[int] = []
    most: list[int] = []

    class Fan(Workflow):
        @flow.step
        async def split(self, ctx: Context, ev: StartEvent) -> Middle | None:
            for n in range(4 * workers):
                ctx.send_event(Middle(n=n))
            return None

        @flow.step(num_workers=workers)
        async def work(self, ev: Middle) -> Detail:
            with lock:
                now.append(1)
                most.append(len(now))
            await flow.meet(everybody)
            with lock:
                now.pop()
            # The barrier lets the next ones in only after these have left.
            await flow.meet(everybody)
            return Detail(n=ev.n)

        @flow.step
        async def join(self, ctx: Context, ev: Detail) -> StopEvent | None:
            batch = await flow(ctx.collect_events(ev, {Detail: 4 * workers}))
            return batch and StopEvent(result=sorted(event.n for event in batch))

    assert Fan().run().result(DEADLINE) == list(range(4 * workers))
    assert max(most) == workers


def test_the_default_is_four_workers_a_step(flow: Flavour) -> None:
    """Four events are worked on at once without any option."""
    everybody = threading.Barrier(4)

    class Fan(Workflow):
        @flow.step
        async def split(self, ctx: Context, ev: StartEvent) -> Middle | None:
            for n in range(4):
                ctx.send_event(Middle(n=n))
            return None

        @flow.step
        async def work(self, ctx: Context, ev: Middle) -> StopEvent | None:
            await flow.meet(everybody)
            return (await flow(ctx.collect_events(ev, {Middle: 4}))) and StopEvent()

    Fan().run().result(DEADLINE)


# -- num_concurrent_runs -----------------------------------------------------------------------------------------------


def test_num_concurrent_runs_keeps_the_others_in_line(flow: Flavour) -> None:
    """Runs past the limit have a handler, wait their turn in order, and begin as others end."""
    gates = [threading.Event() for _ in range(4)]
    begun: list[int] = []

    class Limited(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            begun.append(ev.n)
            await flow.until(gates[ev.n])
            return StopEvent(result=ev.n)

    workflow = Limited(num_concurrent_runs=2)
    handlers = [workflow.run(n=n) for n in range(4)]
    assert wait_until(lambda: sorted(begun) == [0, 1])
    assert [handler.done() for handler in handlers] == [False] * 4
    gates[1].set()
    assert handlers[1].result(DEADLINE) == 1
    assert wait_until(lambda: begun[2:] == [2])
    gates[0].set()
    assert wait_until(lambda: begun[2:] == [2, 3])
    for gate in gates:
        gate.set()
    assert [handler.result(DEADLINE) for handler in handlers] == [0, 1, 2, 3]


def test_the_timeout_does_not_count_time_in_line(flow: Flavour) -> None:
    """A run's clock begins when the run does, not when it joins the line."""
    proceed = threading.Event()

    class Limited(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            if ev.n == 0:
                await flow.until(proceed)
            return StopEvent(result=ev.n)

    workflow = Limited(num_concurrent_runs=1, timeout=0.5)
    workflow.timeout = None
    first = workflow.run(n=0)
    workflow.timeout = 0.5
    second = workflow.run(n=1)
    # Another run of the same timeout, which began at the same time, has run out of it: so much time has passed.
    with pytest.raises(WorkflowTimeoutError):
        _a_run_that_times_out(0.6)
    assert second.status == "running"
    proceed.set()
    assert (first.result(DEADLINE), second.result(DEADLINE)) == (0, 1)


def _a_run_that_times_out(seconds: float) -> None:
    class Parked(Workflow):
        @step
        def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            while not ctx.cancelled:
                threading.Event().wait(0.005)
            return StopEvent()

    Parked(timeout=seconds).run().result(DEADLINE)


def test_a_run_in_line_can_be_cancelled(flow: Flavour) -> None:
    """A run that waits in line is cancelled at once, never begins, and does not hold up those behind it."""
    proceed = threading.Event()
    begun: list[int] = []

    class Limited(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            begun.append(ev.n)
            await flow.until(proceed)
            return StopEvent(result=ev.n)

    workflow = Limited(num_concurrent_runs=1)
    first, second, third = [workflow.run(n=n) for n in range(3)]
    second.cancel_run()
    assert second.status == "cancelled"
    with pytest.raises(WorkflowCancelledByUser):
        second.result(DEADLINE)
    proceed.set()
    assert (first.result(DEADLINE), third.result(DEADLINE)) == (0, 2)
    assert begun == [0, 2]


def test_an_event_for_a_run_in_line_is_taken_and_kept_for_it(flow: Flavour) -> None:
    """send_event() to a run that waits in line returns at once, and the event comes after the run's start event."""
    proceed = threading.Event()

    class Ask(Workflow):
        @flow.step
        async def ask(self, ev: StartEvent) -> InputRequiredEvent:
            if ev.n == 0:
                await flow.until(proceed)
            return InputRequiredEvent()

        @flow.step
        async def answer(self, ev: HumanResponseEvent) -> StopEvent:
            return StopEvent(result=ev.response)

    workflow = Ask(num_concurrent_runs=1)
    first, second = workflow.run(n=0), workflow.run(n=1)
    second.send_event(HumanResponseEvent(response="early"))
    assert not second.done()
    proceed.set()
    first.send_event(HumanResponseEvent(response="first"))
    assert (first.result(DEADLINE), second.result(DEADLINE)) == ("first", "early")


def test_an_event_for_a_run_that_is_cancelled_in_line_is_a_dead_letter(flow: Flavour) -> None:
    """An event taken for a run that never begins is listed, not lost."""
    proceed = threading.Event()

    class Ask(Workflow):
        @flow.step
        async def ask(self, ev: StartEvent) -> StopEvent | InputRequiredEvent:
            await flow.until(proceed)
            return StopEvent()

        @flow.step
        async def answer(self, ev: HumanResponseEvent) -> StopEvent:
            return StopEvent(result=ev.response)

    workflow = Ask(num_concurrent_runs=1)
    first, second = workflow.run(), workflow.run()
    second.send_event(HumanResponseEvent(response="early"))
    second.cancel_run()
    letters = second.dead_letters()
    assert [(letter.event.get("response"), letter.step) for letter in letters] == [("early", None)]
    proceed.set()
    first.result(DEADLINE)


def test_the_limit_is_each_workflow_objects_own(flow: Flavour) -> None:
    """num_concurrent_runs bounds the runs of one object, not of its class."""
    both = threading.Barrier(2)

    class Limited(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            await flow.meet(both)
            return StopEvent()

    handlers = [Limited(num_concurrent_runs=1).run() for _ in range(2)]
    for handler in handlers:
        handler.result(DEADLINE)


# -- timeout -----------------------------------------------------------------------------------------------------------


def test_a_run_that_takes_too_long_is_ended(flow: Flavour) -> None:
    """Past its timeout a run ends with an error that names what was at work."""
    never = threading.Event()

    class Slow(Workflow):
        @flow.step
        async def wait_long(self, ev: StartEvent) -> StopEvent:
            await flow.until(never)
            return StopEvent()

    handler = Slow(timeout=0.05).run()
    with pytest.raises(WorkflowTimeoutError, match=r"after 0\.05 seconds\. Currently active steps: wait_long"):
        handler.result(DEADLINE)
    never.set()
    assert handler.status == "timed_out"


def test_a_timeout_holds_while_an_async_step_blocks_the_loop() -> None:
    """A body that blocks its event loop cannot hold up the run's timeout (D11)."""
    release = threading.Event()

    class Rude(Workflow):
        @step
        async def one(self, ev: StartEvent) -> StopEvent:
            release.wait(DEADLINE)
            return StopEvent(result="finished after all")

    handler = Rude(timeout=0.05).run()
    with pytest.raises(WorkflowTimeoutError):
        handler.result(DEADLINE)
    release.set()


def test_time_spent_waiting_for_a_person_does_not_count(flow: Flavour) -> None:
    """The clock of a run stands still while nothing is at work."""

    class Ask(Workflow):
        @flow.step
        async def ask(self, ev: StartEvent) -> InputRequiredEvent:
            return InputRequiredEvent()

        @flow.step
        async def answer(self, ev: HumanResponseEvent) -> StopEvent:
            return StopEvent(result="in time")

    handler = Ask(timeout=0.3).run()
    next(iter(handler.stream_events()))
    with pytest.raises(WorkflowTimeoutError):
        _a_run_that_times_out(0.5)
    handler.send_event(HumanResponseEvent())
    assert handler.result(DEADLINE) == "in time"


def test_each_run_of_a_reused_context_has_the_whole_timeout(flow: Flavour) -> None:
    """Time at work of an earlier run is not held against the next one of the same context (D17)."""
    never = threading.Event()

    class Sometimes(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            if ev.slow:
                await flow.until(never)
            return StopEvent(result="ok")

    workflow = Sometimes(timeout=0.1)
    handler = workflow.run(slow=True)
    with pytest.raises(WorkflowTimeoutError):
        handler.result(DEADLINE)
    assert workflow.run(ctx=handler.ctx, slow=False).result(DEADLINE) == "ok"
    never.set()


# -- stuck -------------------------------------------------------------------------------------------------------------


def test_a_run_that_nothing_can_end_fails_at_once(flow: Flavour) -> None:
    """A run with nothing left to do that could never go on fails, without any timeout."""

    class Lost(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent | None:
            return None

    with pytest.raises(WorkflowStuckError, match=r"(?s)of Lost is stuck.*on_stuck='wait'"):
        Lost().run().result(DEADLINE)


def test_on_stuck_wait_keeps_the_run_for_somebody_outside(flow: Flavour) -> None:
    """Workflow(on_stuck="wait") keeps a run that only an event from outside can move."""

    class Keep(Workflow):
        @flow.step
        async def one(self, ev: StartEvent | Middle) -> StopEvent | Middle | None:
            return StopEvent(result=ev.n) if isinstance(ev, Middle) else None

    handler = Keep(on_stuck="wait").run()
    internal = handler.stream_events(expose_internal=True)
    assert any(type(event).__name__ == "WorkflowIdleEvent" for event in internal_until_idle(internal))
    assert not handler.done()
    handler.send_event(Middle(n=3))
    assert handler.result(DEADLINE) == 3


def internal_until_idle(stream: object) -> list[Event]:
    seen = []
    for event in stream:  # type: ignore[attr-defined]
        seen.append(event)
        if type(event).__name__ == "WorkflowIdleEvent":
            break
    return seen


# -- runtimes ----------------------------------------------------------------------------------------------------------


class Here(Workflow):
    @step
    def one(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=threading.current_thread())


def test_a_workflow_runs_in_the_runtime_of_the_block_around() -> None:
    """A workflow made before the block runs in the block's runtime when it is run there."""
    workflow = Here()
    with Runtime() as runtime:
        handler = workflow.run()
        thread = handler.result(DEADLINE)
        assert runtime.dispatcher is handler._link.runtime.dispatcher
        assert thread.is_alive()
    thread.join(DEADLINE)
    assert not thread.is_alive()


def test_a_workflow_is_bound_to_the_runtime_that_it_was_built_with() -> None:
    """runtime=, or else the block around the constructor, binds the workflow; blocks around run() do not count then."""
    with Runtime() as other, Runtime() as inner:
        named, built_inside = Here(runtime=other), Here()
        assert named.run()._link.runtime is other
        assert built_inside.run()._link.runtime is inner
    with pytest.raises(RuntimeShutdownError, match="has been shut down; make a new one"):
        built_inside.run()


def test_child_workflows_run_in_the_runtime_of_their_block() -> None:
    """A workflow that a step runs belongs to the block in which the parent's run began."""

    class Child(Workflow):
        @step
        def one(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=None)

    class Parent(Workflow):
        @step
        def one(self, ev: StartEvent) -> StopEvent:
            child = Child().run()
            child.result(DEADLINE)
            return StopEvent(result=child._link.runtime)

    with Runtime() as runtime:
        assert Parent().run().result(DEADLINE) is runtime


def test_leaving_the_block_lets_runs_at_work_finish(flow: Flavour) -> None:
    """Whatever has begun when the block is left runs to its end, also a run that was started that instant."""

    class Chain(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> Middle:
            return Middle(n=1)

        @flow.step
        async def two(self, ev: Middle) -> StopEvent:
            return StopEvent(result="finished")

    for _ in range(25):
        with Runtime():
            handlers = [Chain().run() for _ in range(3)]
        assert [handler.result(0) for handler in handlers] == ["finished"] * 3


def test_leaving_the_block_lets_runs_in_line_have_their_turn(flow: Flavour) -> None:
    """Runs that wait in line when the block is left begin as others end, and finish too."""

    class Limited(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=ev.n)

    with Runtime():
        workflow = Limited(num_concurrent_runs=1)
        handlers = [workflow.run(n=n) for n in range(5)]
    assert [handler.result(0) for handler in handlers] == list(range(5))


def test_leaving_the_block_lets_a_run_at_work_begin_its_children() -> None:
    """A run at work when the block is left may still run the workflows that it needs to finish."""
    proceed = threading.Event()

    class Child(Workflow):
        @step
        def one(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result="child")

    class Parent(Workflow):
        @step
        def one(self, ev: StartEvent) -> StopEvent:
            proceed.wait(DEADLINE)
            return StopEvent(result=Child().run().result(DEADLINE))

    with Runtime() as runtime:
        handler = Parent().run()
        wait_until(lambda: handler.ctx.running_steps() == ["one"])
        closer = threading.Thread(target=runtime.shutdown)
        closer.start()

        def refused() -> bool:
            try:
                Here(runtime=runtime).run()
            except RuntimeShutdownError:
                return True
            return False

        # A run from outside is refused as soon as the runtime drains: then the parent may go on.
        assert wait_until(refused)
        proceed.set()
        closer.join(DEADLINE)
    assert handler.result(DEADLINE) == "child"


def test_leaving_the_block_ends_runs_that_rest(flow: Flavour) -> None:
    """A run that waits for a person is ended when its runtime is shut down, and says so."""

    class Ask(Workflow):
        @flow.step
        async def ask(self, ev: StartEvent) -> InputRequiredEvent:
            return InputRequiredEvent()

        @flow.step
        async def answer(self, ev: HumanResponseEvent) -> StopEvent:
            return StopEvent()

    with Runtime():
        handler = Ask().run()
    with pytest.raises(RuntimeShutdownError, match="shut down before the run had ended"):
        handler.result(DEADLINE)
    assert handler.status == "cancelled"
    assert [type(event).__name__ for event in handler.stream_events()] == [
        "InputRequiredEvent",
        "WorkflowCancelledEvent",
    ]
    with pytest.raises(RuntimeShutdownError, match="HumanResponseEvent was not delivered"):
        handler.send_event(HumanResponseEvent())
    assert [type(letter.event) for letter in handler.dead_letters()] == [HumanResponseEvent]


# -- a context for several runs ----------------------------------------------------------------------------------------


def counting(flow: Flavour) -> Workflow:
    class Count(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            async with flow.editing(ctx) as state:
                state["count"] = state.get("count", 0) + 1
            return StopEvent(result=await flow(ctx.store.get("count")))

    return Count()


def test_a_context_keeps_its_state_from_run_to_run(flow: Flavour) -> None:
    """run(ctx=handler.ctx) begins anew with the state of the run before; a run without begins with an empty one."""
    workflow = counting(flow)
    handler = workflow.run()
    for expected in (1, 2, 3):
        assert handler.result(DEADLINE) == expected
        context = handler.ctx
        handler = workflow.run(ctx=context)
        assert handler.ctx is context
    assert handler.result(DEADLINE) == 4
    assert workflow.run().result(DEADLINE) == 1


def test_a_context_can_be_filled_before_the_run(flow: Flavour) -> None:
    """Context(workflow) has a store to fill; the run goes on with it."""
    workflow = counting(flow)
    context = Context(workflow)
    context.store.set("count", 10)
    assert not context.is_running
    assert workflow.run(ctx=context).result(DEADLINE) == 11
    assert context.store.get("count") == 11


def test_a_context_whose_run_failed_can_run_again(flow: Flavour) -> None:
    """After a failure the state is kept and nothing of the old work is done again."""
    done: list[str] = []

    class Fail(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await flow(ctx.store.set("last", ev.what))
            done.append(ev.what)
            if ev.what == "fail":
                raise ValueError("no")
            return StopEvent(result=await flow(ctx.store.get("last")))

    workflow = Fail()
    handler = workflow.run(what="fail")
    with pytest.raises(ValueError, match="no"):
        handler.result(DEADLINE)
    assert handler.ctx.store.get("last") == "fail"
    assert workflow.run(ctx=handler.ctx, what="work").result(DEADLINE) == "work"
    assert done == ["fail", "work"]


def cancelled_in_the_middle(flow: Flavour) -> tuple[Workflow, Context, list[str], threading.Event]:
    """Return a workflow, the context of a run of it that was cancelled at work, what its steps did, and their gate."""
    gate, log = threading.Event(), []
    at_work = threading.Event()

    class Long(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> Middle:
            log.append(f"one {ev.n}")
            return Middle(n=ev.n)

        @flow.step
        async def two(self, ctx: Context, ev: Middle) -> StopEvent:
            log.append(f"two {ev.n}")
            at_work.set()
            await flow.until(gate)
            return StopEvent(result=ev.n)

    workflow = Long()
    handler = workflow.run(n=1)
    assert at_work.wait(DEADLINE)
    handler.cancel_run()
    assert handler.status == "cancelled"
    return workflow, handler.ctx, log, gate


def test_the_context_of_a_cancelled_run_resumes(flow: Flavour) -> None:
    """run(ctx=...) after cancel_run() does again what was at work, and only that (D26)."""
    workflow, context, log, gate = cancelled_in_the_middle(flow)
    gate.set()
    resumed = workflow.run(ctx=context)
    assert resumed.result(DEADLINE) == 1
    assert log == ["one 1", "two 1", "two 1"]


@pytest.mark.parametrize("arguments", [{"n": 2}, {"start_event": StartEvent(n=2)}])
def test_a_resumed_run_refuses_a_start_event(flow: Flavour, arguments: dict[str, object]) -> None:
    """A start event for a run that resumes is refused, and the context can still resume (D26)."""
    workflow, context, _, gate = cancelled_in_the_middle(flow)
    gate.set()
    with pytest.raises(ContextStateError, match=r"unfinished work.*give it no start event"):
        workflow.run(ctx=context, **arguments)
    assert not context.is_running
    assert workflow.run(ctx=context).result(DEADLINE) == 1


def test_what_a_cancelled_body_still_does_is_no_part_of_the_resumed_run() -> None:
    """A def body that goes on after the cancel cannot write into the resumed run, nor end it."""
    gates = [threading.Event(), threading.Event()]
    entered, left = [threading.Event(), threading.Event()], threading.Event()
    tries: list[int] = []

    class Stubborn(Workflow):
        @step
        def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            attempt = len(tries)
            tries.append(attempt)
            entered[attempt].set()
            gates[attempt].wait(DEADLINE)
            try:
                ctx.store.set("by", attempt)
            finally:
                left.set()
            return StopEvent(result=attempt)

    workflow = Stubborn()
    first = workflow.run()
    assert entered[0].wait(DEADLINE)
    first.cancel_run()
    second = workflow.run(ctx=first.ctx)
    assert entered[1].wait(DEADLINE)
    gates[0].set()
    assert left.wait(DEADLINE)
    left.clear()
    assert second.status == "running"
    assert second.ctx.store.get("by", None) is None
    gates[1].set()
    assert second.result(DEADLINE) == 1
    assert second.ctx.store.get("by") == 1


def test_the_handler_of_the_earlier_run_keeps_to_its_own_run(flow: Flavour) -> None:
    """Once a context runs again, the earlier handler still shows its own run and cannot reach into the new one."""
    proceed = threading.Event()

    class Ask(aio.Workflow):
        @flow.step
        async def ask(self, ev: StartEvent) -> InputRequiredEvent:
            return InputRequiredEvent()

        @flow.step
        async def answer(self, ev: HumanResponseEvent) -> StopEvent:
            await flow.until(proceed)
            return StopEvent(result=ev.response)

    workflow = Ask()
    first = workflow.run()
    first.ctx.send_event(HumanResponseEvent(response="one"))
    proceed.set()
    assert first.result(DEADLINE) == "one"
    second = workflow.run(ctx=first.ctx)
    with pytest.raises(WorkflowRuntimeError, match=f"run '{first.run_id}' has ended"):
        _run_async(first.send_event(HumanResponseEvent(response="to the old one")))
    assert first.status == "completed"
    assert [letter.event.response for letter in first.dead_letters()] == ["to the old one"]
    second.ctx.send_event(HumanResponseEvent(response="two"))
    assert second.result(DEADLINE) == "two"
    assert second.dead_letters() == []


def _run_async(awaitable: object) -> object:
    import asyncio

    async def main() -> object:
        return await awaitable  # type: ignore[misc]

    return asyncio.run(main())


def test_only_one_of_many_that_race_for_a_context_gets_it(flow: Flavour) -> None:
    """However many threads run the same context at once, one run begins and the others are refused."""
    proceed = threading.Event()

    class Wait(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            await flow.until(proceed)
            return StopEvent()

    workflow = Wait()
    for _ in range(20):
        context, barrier = Context(workflow), threading.Barrier(4)
        handlers, refusals = [], []

        def race(context: Context = context, barrier: threading.Barrier = barrier) -> None:
            barrier.wait(DEADLINE)
            try:
                handlers.append(workflow.run(ctx=context))  # noqa: B023  # the threads end in this round
            except ContextStateError as error:
                refusals.append(str(error))  # noqa: B023

        threads = [threading.Thread(target=race) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(handlers) == 1
        assert len(refusals) == 3
        assert all("this context is in use by" in refusal for refusal in refusals)
        handlers[0].cancel_run()
    proceed.set()


def test_one_kind_of_start_and_stop_event_is_needed() -> None:
    """Building a workflow without steps, or with two kinds of start event, fails at once with all faults."""

    class Empty(Workflow):
        pass

    class Other(StartEvent):
        pass

    class Two(Workflow):
        @step
        def one(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

        @step
        def two(self, ev: Other) -> Report:
            return Report(pages=1)

    with pytest.raises(WorkflowConfigurationError, match="Empty cannot work:\n  - it has no steps"):
        Empty()
    with pytest.raises(WorkflowConfigurationError) as error:
        Two(disable_validation=True)
    assert "2 kinds of start event, StartEvent, Other" in str(error.value)
    assert "2 kinds of stop event, Report, StopEvent" in str(error.value)

"""Bad input: a GreenroomError that says what, where and what to do, at the earliest moment, and nothing that hangs."""

import asyncio
import re
import threading
from typing import Any

import pytest

from greenroom import (
    Context,
    ContextStateError,
    DeadlockError,
    Event,
    GreenroomError,
    HumanResponseEvent,
    InputRequiredEvent,
    Runtime,
    RuntimeShutdownError,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowConfigurationError,
    WorkflowRuntimeError,
    WorkflowValidationError,
    aio,
    step,
)
from tests.support.flavours import DEADLINE, Flavour
from tests.support.waiting import wait_until


class Part(Event):
    n: int = 0


class Other(Event):
    pass


class Topic(StartEvent):
    topic: str
    length: int = 3


class Write(Workflow):
    @step
    def draft(self, ev: Topic) -> Part:
        return Part()

    @step
    async def finish(self, ev: Part) -> StopEvent:
        return StopEvent(result="done")


def fault_of(define: Any, error: type[GreenroomError] = WorkflowValidationError) -> str:
    """Build what `define` returns, and return the message of the error that it fails with."""
    with pytest.raises(error) as raised:
        define()()
    return str(raised.value)


# -- annotations -------------------------------------------------------------------------------------------------------


def steps_that_are_wrong() -> dict[str, tuple[Any, str]]:
    def no_event() -> Any:
        class W(Workflow):
            @step
            def one(self) -> StopEvent:
                return StopEvent()

        return W

    def no_annotation() -> Any:
        class W(Workflow):
            @step
            def one(self, ev) -> StopEvent:  # type: ignore[no-untyped-def]
                return StopEvent()

        return W

    def not_an_event() -> Any:
        class W(Workflow):
            @step
            def one(self, ev: int) -> StopEvent:
                return StopEvent()

        return W

    def event_and_list() -> Any:
        class W(Workflow):
            @step
            def one(self, ev: StartEvent, parts: list[Part]) -> StopEvent:
                return StopEvent()

        return W

    def mixed_union() -> Any:
        class W(Workflow):
            @step
            def one(self, ev: StartEvent | int) -> StopEvent:
                return StopEvent()

        return W

    def no_return() -> Any:
        class W(Workflow):
            @step
            def one(self, ev: StartEvent):  # type: ignore[no-untyped-def]
                return StopEvent()

        return W

    def wrong_return() -> Any:
        class W(Workflow):
            @step
            def one(self, ev: StartEvent) -> StopEvent | str:
                return StopEvent()

        return W

    def extra_parameter() -> Any:
        class W(Workflow):
            @step
            def one(self, ev: StartEvent, database: str) -> StopEvent:
                return StopEvent()

        return W

    def two_contexts() -> Any:
        class W(Workflow):
            @step
            def one(self, ev: StartEvent, a: Context, b: Context) -> StopEvent:
                return StopEvent()

        return W

    def blocking_context_in_async_step() -> Any:
        class W(Workflow):
            @step
            async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
                return StopEvent()

        return W

    def awaited_context_in_def_step() -> Any:
        class W(Workflow):
            @step
            def one(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
                return StopEvent()

        return W

    def unknown_name() -> Any:
        class W(Workflow):
            @step
            def one(self, ev: "StartEvent") -> "Nowhere":  # type: ignore[name-defined] # noqa: F821
                return StopEvent()

        return W

    def generator() -> Any:
        class W(Workflow):
            @step
            def one(self, ev: StartEvent) -> StopEvent:
                yield StopEvent()

        return W

    def async_generator() -> Any:
        class W(Workflow):
            @step
            async def one(self, ev: StartEvent) -> StopEvent:
                yield StopEvent()

        return W

    def variadic() -> Any:
        class W(Workflow):
            @step
            def one(self, *events: StartEvent) -> StopEvent:
                return StopEvent()

        return W

    def static() -> Any:
        class W(Workflow):
            @staticmethod
            @step
            def one(ev: StartEvent) -> StopEvent:
                return StopEvent()

        return W

    def of_class() -> Any:
        class W(Workflow):
            @classmethod
            @step
            def one(cls, ev: StartEvent) -> StopEvent:
                return StopEvent()

        return W

    def takes_stop() -> Any:
        class W(Workflow):
            @step
            def one(self, ev: StartEvent) -> StopEvent:
                return StopEvent()

            @step
            def two(self, ev: StopEvent) -> None: ...

        return W

    def never_made() -> Any:
        class W(Workflow):
            @step
            def one(self, ev: StartEvent | Part) -> StopEvent:
                return StopEvent()

        return W

    def never_taken() -> Any:
        class W(Workflow):
            @step
            def one(self, ev: StartEvent) -> StopEvent | Part:
                return StopEvent()

        return W

    def dead_end() -> Any:
        class W(Workflow):
            @step
            def one(self, ev: StartEvent) -> StopEvent | Part:
                return StopEvent()

            @step
            def two(self, ev: Part) -> Part:
                return ev

        return W

    def island() -> Any:
        class W(Workflow):
            @step
            def one(self, ev: StartEvent) -> StopEvent:
                return StopEvent()

            @step
            def two(self, ev: Part) -> Part | StopEvent:
                return ev

        return W

    return {
        "no event": (no_event, "step 'one' must have exactly one parameter annotated with an event class; found none"),
        "no annotation": (no_annotation, "nothing can be given for parameter 'ev' (no annotation); annotate it"),
        "not an event": (not_an_event, "nothing can be given for parameter 'ev' (int); annotate it"),
        "event and list": (event_and_list, "takes a list of events and an event, ['ev', 'parts']; it may take a list"),
        "mixed union": (mixed_union, "parameter 'ev' mixes events with int; name event classes only"),
        "no return": (no_return, "step 'one' must have a return annotation: event classes, None, or a union"),
        "wrong return": (wrong_return, "step 'one': return annotation names str; it may name event classes, lists of"),
        "extra parameter": (extra_parameter, "nothing can be given for parameter 'database' (str)"),
        "two contexts": (two_contexts, "step 'one' takes two contexts, 'a' and 'b'; one is enough"),
        "Context in async": (blocking_context_in_async_step, "'ctx' with Context from greenroom.aio"),
        "aio.Context in def": (awaited_context_in_def_step, "annotate 'ctx' with Context from greenroom, whose"),
        "unknown name": (unknown_name, "step 'one': its annotations cannot be resolved: name 'Nowhere' is not defined"),
        "generator": (
            generator,
            "step 'one' is a generator; return one event or a list, and send others",
        ),
        "async generator": (async_generator, "step 'one' is a generator; return one event"),
        "variadic": (
            variadic,
            "parameter 'events' cannot be given by name; write it as a plain parameter, without / or *",
        ),
        "static": (static, "step 'one' is a staticmethod; make it a method, or a free function with @step(workflow="),
        "of class": (
            of_class,
            "step 'one' is a classmethod; make it a method, or a free function with @step(workflow=",
        ),
        "takes stop": (takes_stop, "step 'two' cannot accept StopEvent: a stop event ends the run, no step sees it"),
        "never made": (never_made, "events that are consumed but never produced: Part; name them in the return"),
        "never taken": (never_taken, "events that are produced but never consumed: Part; add a step that takes them"),
        "dead end": (
            dead_end,
            "[dead_end] step 'two' can never lead to a stop event; let them return an event that does",
        ),
        "island": (island, "[reachability] no event leads to step 'two'; check the events they take"),
    }


WRONG = steps_that_are_wrong()


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_step_is_named_when_the_workflow_is_built(case: str) -> None:
    """A wrong signature or connection fails the constructor, with the step, the fault and what to do."""
    define, expected = WRONG[case]
    message = fault_of(define)
    assert expected in message
    assert message.startswith("W cannot work:\n  - ")


def test_all_faults_are_in_one_message() -> None:
    """Faults of several steps come together, one a line."""

    def define() -> Any:
        class W(Workflow):
            @step
            def one(self, ev: int) -> StopEvent:
                return StopEvent()

            @step
            async def two(self, ctx: Context, ev: Part) -> str:  # type: ignore[empty-body]
                ...

        return W

    message = fault_of(define)
    assert message.count("\n  - ") == 4
    assert "step 'one'" in message
    assert "step 'two'" in message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"num_workers": 0}, "num_workers must be an integer greater than 0"),
        ({"num_workers": True}, "num_workers must be an integer greater than 0"),
        ({"num_workers": 1.5}, "num_workers must be an integer greater than 0"),
        ({"timeout": 0}, "timeout must be a number of seconds greater than 0, or None"),
        ({"timeout": float("nan")}, "timeout must be a number of seconds greater than 0, or None"),
        ({"timeout": "1"}, "timeout must be a number of seconds greater than 0, or None"),
        ({"retry_policy": 3}, "retry_policy must have a method next()"),
        ({"skip_graph_checks": ["nonsense"]}, "unknown graph checks ['nonsense']; known are"),
        ({"workflow": 3}, "workflow= must be a Workflow class, not 3"),
        ({"workflow": Write()}, "workflow= must be a Workflow class, not <"),
        ({"workflow": Workflow}, "subclass Workflow, and add steps to the subclass"),
    ],
)
def test_a_wrong_option_of_step_is_refused_by_the_decorator(options: dict[str, Any], expected: str) -> None:
    """@step(...) looks at its options when it decorates, and names the function."""
    with pytest.raises(WorkflowValidationError, match=re.escape(expected)):

        class W(Workflow):
            @step(**options)
            def one(self, ev: StartEvent) -> StopEvent:
                return StopEvent()


def test_step_on_what_is_no_function_is_refused() -> None:
    """@step decorates functions; anything else is refused at once."""
    with pytest.raises(WorkflowValidationError, match="@step decorates functions and methods, not an instance of int"):
        step(3)  # type: ignore[type-var]
    with pytest.raises(WorkflowValidationError, match=r"options go by name, as in @step\(num_workers=8\)"):
        step(8)  # type: ignore[type-var]
    with pytest.raises(WorkflowValidationError, match="not the class Part"):
        step(Part)
    with pytest.raises(WorkflowValidationError, match="not an instance of staticmethod"):
        step(staticmethod(lambda ev: None))


def test_a_free_function_must_name_its_workflow() -> None:
    """@step on a free function without workflow= says what to write."""
    with pytest.raises(WorkflowValidationError, match=r"free function '.*lost' a step.*@step\(workflow=MyWorkflow\)"):

        @step
        def lost(ev: StartEvent) -> StopEvent:
            return StopEvent()


def test_a_second_step_of_the_same_name_is_refused() -> None:
    """A free function cannot take the name of another step."""

    class W(Write):
        pass

    with pytest.raises(WorkflowValidationError, match="W already has a step 'draft'; give this one another name"):

        @step(workflow=W)
        def draft(ev: Part) -> StopEvent:
            return StopEvent()

    with pytest.raises(WorkflowValidationError, match="is not a step; decorate it"):
        W.add_step(lambda ev: None)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"timeout": 0}, "timeout must be seconds greater than 0, or None, not 0"),
        ({"timeout": -1.0}, "timeout must be seconds greater than 0, or None, not -1.0"),
        ({"timeout": float("nan")}, "timeout must be seconds greater than 0, or None, not nan"),
        ({"timeout": "5"}, "timeout must be seconds greater than 0, or None, not '5'"),
        ({"num_concurrent_runs": 0}, "num_concurrent_runs must be an integer greater than 0, or None, not 0"),
        ({"num_concurrent_runs": True}, "num_concurrent_runs must be an integer greater than 0, or None, not True"),
        ({"runtime": "mine"}, "runtime must be a Runtime, not an instance of str"),
        ({"on_stuck": "panic"}, "on_stuck must be 'fail' or 'wait', not 'panic'"),
        ({"skip_graph_checks": ["dead-end"]}, "unknown graph check names ['dead-end']; known are"),
        ({"skip_graph_checks": "dead_end"}, "skip_graph_checks takes a list of names, not the text 'dead_end'"),
    ],
)
def test_a_wrong_option_of_a_workflow_is_refused_by_its_constructor(options: dict[str, Any], expected: str) -> None:
    """Workflow(...) names the option, what it takes and what it was given."""
    with pytest.raises(WorkflowValidationError, match=re.escape(expected)):
        Write(**options)


def test_a_constructor_that_forgets_its_base_is_named() -> None:
    """A workflow whose __init__ does not call super().__init__() says so when it is run."""

    class Forgets(Write):
        def __init__(self) -> None:
            self.name = "x"

    with pytest.raises(WorkflowRuntimeError, match=r"Forgets.__init__ must call super\(\).__init__\(\)"):
        Forgets().run(topic="x")


def test_a_state_that_needs_arguments_is_refused() -> None:
    """Context[State] needs a State that can be made without arguments; the message names the field."""
    from pydantic import BaseModel

    class State(BaseModel):
        owner: str

    class W(Workflow):
        @step
        def one(self, ctx: Context[State], ev: StartEvent) -> StopEvent:
            return StopEvent()

    with pytest.raises(WorkflowValidationError, match=r"(?s)the state State cannot be made without arguments.*owner"):
        W()


# -- run ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, r"(?s)cannot make the start event Topic of Write from no keyword arguments: .*topic\n  Field required"),
        (
            {"topic": "x", "length": "long"},
            r"(?s)start event Topic of Write from topic, length: .*length\n  Input should",
        ),
        ({"start_event": StartEvent()}, r"Write begins with Topic; .* was given an instance of StartEvent"),
        ({"start_event": StopEvent()}, r"Write begins with Topic; .* was given an instance of StopEvent"),
        ({"start_event": {"topic": "x"}}, r"Write begins with Topic; .* was given an instance of dict"),
        ({"start_event": Topic}, r"Write begins with Topic; .* was given the class Topic"),
        ({"start_event": Topic(topic="x"), "length": 4}, "a start event or its fields, not both: put length into"),
        ({"topic": "x", "run_id": ""}, r"run\(run_id=...\) takes a text that is not empty, not ''"),
        ({"topic": "x", "run_id": "a\0"}, r"run\(run_id=...\) takes a text that stores can keep, not 'a"),
        ({"topic": "x", "run_id": "a\ud800"}, r"run\(run_id=...\) takes a text that stores can keep, not 'a"),
        ({"topic": "x", "run_id": 7}, r"run\(run_id=...\) takes a text that is not empty, not 7"),
    ],
)
def test_a_wrong_start_is_refused_by_run(arguments: dict[str, Any], expected: str) -> None:
    """run() itself raises; no run begins and no thread starts (D21)."""
    with Runtime() as runtime:
        with pytest.raises(WorkflowRuntimeError, match=expected):
            Write().run(**arguments)
        assert runtime.runs == {}


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ("text", r"run\(ctx=...\) takes a Context, not an instance of str"),
        (StartEvent(), r"an instance of StartEvent; give .* by name, or the event as run\(start_event=...\)"),
        (Context, r"run\(ctx=...\) takes a Context, not the class Context"),
    ],
)
def test_a_wrong_context_is_refused_by_run(context: Any, expected: str) -> None:
    """run(ctx=...) takes a context and says what it was given."""
    with pytest.raises(ContextStateError, match=expected):
        Write().run(ctx=context, topic="x")


def test_the_context_of_another_workflow_is_refused() -> None:
    """A context belongs to its workflow."""

    class Second(Write):
        pass

    with pytest.raises(ContextStateError, match="this context belongs to Second, not to Write"):
        Write().run(ctx=Context(Second()), topic="x")


@pytest.mark.parametrize("workflow", [Write, "text", None, 3])
def test_a_context_is_made_for_a_workflow_object(workflow: Any) -> None:
    """Context(...) takes a workflow object, not its class, nor anything else."""
    with pytest.raises(ContextStateError, match=r"Context\(...\) takes the workflow object that it is for, not"):
        Context(workflow)


def test_a_context_that_runs_is_refused(flow: Flavour) -> None:
    """run(ctx=...) while the context's run goes on says which run has it; that run is not disturbed."""
    proceed = threading.Event()

    class Wait(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            await flow.until(proceed)
            return StopEvent(result="undisturbed")

    workflow = Wait()
    handler = workflow.run(run_id="first")
    with pytest.raises(ContextStateError, match="this context is in use by run 'first', which has not ended"):
        workflow.run(ctx=handler.ctx)
    assert handler.ctx.is_running
    proceed.set()
    assert handler.result(DEADLINE) == "undisturbed"


def test_a_refused_run_leaves_the_context_as_it_was(flow: Flavour) -> None:
    """After any refusal the context can be run as before."""

    class Wait(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: Topic) -> StopEvent:
            await flow(ctx.store.set("topic", ev.topic))
            return StopEvent(result=ev.topic)

    workflow, proceed = Wait(), threading.Event()

    class Long(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            await flow.until(proceed)
            return StopEvent()

    taken = Long().run(run_id="taken")
    for context in (workflow.run(topic="first").ctx, Context(workflow)):
        wait_until(lambda context=context: not context.is_running)
        for arguments in ({}, {"start_event": StopEvent()}, {"topic": "x", "run_id": "taken"}):
            with pytest.raises(WorkflowRuntimeError):
                workflow.run(ctx=context, **arguments)
        assert not context.is_running
        assert workflow.run(ctx=context, topic="second").result(DEADLINE) == "second"
        assert context.store.get("topic") == "second"
    proceed.set()
    taken.result(DEADLINE)


@pytest.mark.parametrize("value", [0, -1, True, 1.5, None, "8"])
def test_a_wrong_number_of_threads_is_refused(value: Any) -> None:
    """Runtime(max_threads=...) takes a whole number above 0."""
    with pytest.raises(WorkflowRuntimeError, match=r"Runtime\(max_threads=...\) takes an integer, 1 or more, not"):
        Runtime(max_threads=value)


def test_a_wrong_loop_is_refused() -> None:
    """Runtime(loop=...) takes an event loop."""
    with pytest.raises(WorkflowRuntimeError, match=r"Runtime\(loop=...\) takes an asyncio event loop, not"):
        Runtime(loop="mine")  # type: ignore[arg-type]


# -- what steps return -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "step 'one' returned None, but declares -> Part | StopEvent; return an event, or add None to"),
        (Other(), "step 'one' returned an instance of Other, but declares -> Part | StopEvent; add it to the return"),
        (3, "step 'one' returned an instance of int, but declares -> Part | StopEvent; return an event"),
        (Part, "step 'one' returned the class Part, but declares -> Part | StopEvent; return an event"),
        (
            [Part()],
            "step 'one' returned an instance of list, but declares -> Part | StopEvent; annotate the",
        ),
    ],
)
def test_a_step_that_returns_what_it_did_not_declare_fails(flow: Flavour, value: Any, expected: str) -> None:
    """The run fails with a message that says what was returned and what was declared."""

    class W(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> Part | StopEvent:
            return value

        @flow.step
        async def two(self, ev: Part) -> StopEvent:
            return StopEvent()

    handler = W().run()
    with pytest.raises(WorkflowRuntimeError, match=re.escape(expected)):
        handler.result(DEADLINE)
    assert handler.get_stop_event().step_name == "one"


def test_a_def_step_that_returns_a_coroutine_is_told_so() -> None:
    """A plain function around an async one is the usual cause; the message says so and nothing is left unawaited."""

    async def work() -> StopEvent:
        return StopEvent()

    class W(Workflow):
        @step
        def one(self, ev: StartEvent) -> StopEvent:
            return work()  # type: ignore[return-value]

    with pytest.raises(WorkflowRuntimeError, match=r"step 'one' returned a coroutine.*make the step `async def`"):
        W().run().result(DEADLINE)


# -- what steps call ---------------------------------------------------------------------------------------------------


def run_one(flow: Flavour, call: Any) -> Any:
    """Run a workflow whose step makes a call with its context and event; return the handler."""

    class W(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent | Part:
            return StopEvent(result=await flow(call(ctx, ev)))

        @flow.step
        async def two(self, ev: Part) -> StopEvent:
            return StopEvent()

    return W().run()


NOT_CALLS: dict[str, tuple[Any, str]] = {
    "unknown step": (
        lambda ctx, ev: ctx.send_event(Part(), step="three"),
        "send_event(Part): step 'three' does not exist in W; its steps are one, two",
    ),
    "step that does not take it": (
        lambda ctx, ev: ctx.send_event(Part(), step="one"),
        "send_event(Part): step 'one' of W does not accept Part; it accepts StartEvent",
    ),
    "stop event": (
        lambda ctx, ev: ctx.send_event(StopEvent()),
        "send_event(StopEvent) would not end the run: return the stop event from a step",
    ),
    "no event": (lambda ctx, ev: ctx.send_event("x"), "send_event() takes an event, not an instance of str"),
    "event class": (lambda ctx, ev: ctx.send_event(Part), "send_event() takes an event, not the class Part"),
    "negative delay": (
        lambda ctx, ev: ctx.send_event(Part(), delay=-1),
        "send_event(delay=...) takes seconds, from 0 to 1e+09, not -1",
    ),
    "delay of nan": (
        lambda ctx, ev: ctx.send_event(Part(), delay=float("nan")),
        "send_event(delay=...) takes seconds, from 0 to 1e+09, not nan",
    ),
    "delay as text": (
        lambda ctx, ev: ctx.send_event(Part(), delay="5"),
        "send_event(delay=...) takes seconds, from 0 to 1e+09, not '5'",
    ),
    "huge delay": (
        lambda ctx, ev: ctx.send_event(Part(), delay=10**400),
        "send_event(delay=...) takes seconds, from 0 to 1e+09, not 1000",
    ),
    "stream a stop event": (
        lambda ctx, ev: ctx.write_event_to_stream(StopEvent()),
        "write_event_to_stream(StopEvent) would end the stream before the run; return it instead",
    ),
    "stream no event": (
        lambda ctx, ev: ctx.write_event_to_stream({"a": 1}),
        "write_event_to_stream() takes an event, not an instance of dict",
    ),
    "collect no event": (
        lambda ctx, ev: ctx.collect_events("x", [Part]),
        "collect_events() counts an event in, not an instance of str",
    ),
    "collect one class": (
        lambda ctx, ev: ctx.collect_events(ev, Part),
        "collect_events() expects a list of event classes or {class: count}, not the class Part",
    ),
    "collect what is no class": (
        lambda ctx, ev: ctx.collect_events(ev, [Part, 3]),
        "collect_events() expects event classes, not 3",
    ),
    "collect instances": (
        lambda ctx, ev: ctx.collect_events(ev, [Part()]),
        "collect_events() expects event classes, not Part(n=0)",
    ),
    "collect none of a class": (
        lambda ctx, ev: ctx.collect_events(ev, {Part: 0}),
        "collect_events() expects 1 or more of each class, not 0",
    ),
    "collect with a wrong buffer id": (
        lambda ctx, ev: ctx.collect_events(ev, [Part], buffer_id=["a"]),
        "collect_events(buffer_id=...) takes a text, not ['a']",
    ),
    "run with the context of a step": (
        lambda ctx, ev: Write().run(ctx=ctx, topic="x"),
        "run(ctx=...) takes the context of a run that has ended, not that of a step at work",
    ),
    "running_steps": (
        lambda ctx, ev: ctx.running_steps(),
        "running_steps() is for handler.ctx, not for the context of a step",
    ),
}


@pytest.mark.parametrize("case", NOT_CALLS)
def test_a_wrong_call_within_a_step_raises_where_it_is_made(flow: Flavour, case: str) -> None:
    """The call itself raises, so that the traceback names the line; the run fails with that error (D22)."""
    call, expected = NOT_CALLS[case]
    handler = run_one(flow, call)
    with pytest.raises(GreenroomError) as raised:
        handler.result(DEADLINE)
    assert expected in str(raised.value)
    assert handler.get_stop_event().step_name == "one"


@pytest.mark.parametrize(
    ("send", "expected"),
    [
        (
            lambda h: h.send_event(Part(), step="three"),
            "step 'three' does not exist in Asks; its steps are answer, ask",
        ),
        (lambda h: h.send_event(Part(), step="ask"), "step 'ask' of Asks does not accept Part; it accepts StartEvent"),
        (lambda h: h.send_event(StopEvent()), "send_event(StopEvent) would not end the run"),
        (lambda h: h.send_event("yes"), "send_event() takes an event, not an instance of str"),
        (lambda h: h.send_event(HumanResponseEvent), "send_event() takes an event, not the class HumanResponseEvent"),
        (
            lambda h: h.ctx.send_event(HumanResponseEvent(), delay=1),
            "send_event(delay=...) works only from within a step",
        ),
        (lambda h: h.ctx.write_event_to_stream(Part()), "ctx.write_event_to_stream() works only within a step"),
        (lambda h: h.ctx.collect_events(Part(), [Part]), "ctx.collect_events() works only within a step"),
        (lambda h: h.ctx.retry_info(), "ctx.retry_info() works only within a step"),
        (lambda h: h.ctx.cancelled, "ctx.cancelled works only within a step"),
        (lambda h: h.ctx.check_cancelled(), "ctx.check_cancelled() works only within a step"),
        (lambda h: h.stream_events(after=-2), "stream_events(after=...) takes an offset, -1 or more, not -2"),
        (lambda h: h.stream_events(after="0"), "stream_events(after=...) takes an offset, -1 or more, not '0'"),
        (lambda h: h.stream_events(after=True), "stream_events(after=...) takes an offset, -1 or more, not True"),
    ],
)
def test_a_wrong_call_from_outside_raises_at_once(flow: Flavour, send: Any, expected: str) -> None:
    """A wrong call on the handler or its context raises there, and the run goes on as if nothing had been."""

    class Asks(Workflow):
        @flow.step
        async def ask(self, ev: StartEvent) -> InputRequiredEvent:
            return InputRequiredEvent()

        @flow.step
        async def answer(self, ev: HumanResponseEvent) -> StopEvent:
            return StopEvent(result="fine")

    handler = Asks().run()
    with pytest.raises(GreenroomError, match=re.escape(expected)):
        send(handler)
    handler.send_event(HumanResponseEvent())
    assert handler.result(DEADLINE) == "fine"


# -- contexts outside their place --------------------------------------------------------------------------------------


def test_a_context_before_its_run_has_only_a_store(flow: Flavour) -> None:
    """What needs a run says so on a context that was made by hand."""
    context = Context(Write())
    for call in (
        lambda: context.send_event(Part()),
        lambda: context.write_event_to_stream(Part()),
        lambda: context.collect_events(Part(), [Part]),
        context.retry_info,
        context.check_cancelled,
        lambda: context.cancelled,
    ):
        with pytest.raises(ContextStateError, match=r"needs a running workflow|works only within a step"):
            call()
    assert context.running_steps() == []
    assert not context.is_running


def test_get_step_context_outside_a_step_is_refused() -> None:
    """Context.get_step_context() works only while a step runs in the thread or task."""
    for context_class in (Context, aio.Context):
        with pytest.raises(ContextStateError, match="works only while a step runs"):
            context_class.get_step_context()


def test_the_context_of_a_step_that_has_returned_is_refused(flow: Flavour) -> None:
    """A step's context that somebody kept says that its step has ended; nothing it is given is lost silently."""
    kept, proceed = [], threading.Event()

    class Keeps(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> Part:
            kept.append(ctx)
            return Part()

        @flow.step
        async def two(self, ctx: Context, ev: Part) -> StopEvent:
            await flow.until(proceed)
            return StopEvent(result=await flow(ctx.store.get("late", None)))

    handler = Keeps().run()
    assert wait_until(lambda: handler.ctx.running_steps() == ["two"])
    (ctx,) = kept

    async def call(function: Any) -> None:
        await flow(function())

    for function in (
        lambda: ctx.send_event(Part()),
        lambda: ctx.write_event_to_stream(Part()),
        lambda: ctx.collect_events(Part(), [Part]),
        lambda: ctx.store.set("late", 1),
        lambda: ctx.store.get("late", None),
    ):
        with pytest.raises(ContextStateError, match="step 'one' has ended, and its context with it"):
            asyncio.run(call(function))
    proceed.set()
    assert handler.result(DEADLINE) is None
    assert handler.dead_letters() == []


# -- waits that could never end ----------------------------------------------------------------------------------------


def test_waiting_for_ones_own_run_is_refused(flow: Flavour) -> None:
    """result(), exception(), await and a stream of the step's own run raise instead of waiting for ever."""
    handlers: list[Any] = []
    ready = threading.Event()

    async def awaits(call: Any) -> Any:
        return await call

    class Waits(Workflow):
        @flow.step
        async def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await flow.until(ready)
            (handler,) = handlers
            refused = []
            calls = [
                handler.result,
                handler.exception,
                handler.stop_event_result,
                lambda: handler.result(5),
                lambda: next(iter(handler.stream_events())),
                lambda: list(handler.stream_events(after=-1, expose_internal=True)),
            ]
            for call in calls:
                try:
                    call()
                except DeadlockError as error:
                    refused.append(str(error))
            if flow.kind == "async def":
                for make in (handler.__await__, lambda: anext(handler.stream_events()).__await__()):
                    try:
                        await awaits(_Awaitable(make))
                    except DeadlockError as error:
                        refused.append(str(error))
            return StopEvent(result=refused)

    handlers.append(Waits().run(run_id="own"))
    ready.set()
    refused = handlers[0].result(DEADLINE)
    assert len(refused) == (8 if flow.kind == "async def" else 6)
    assert all("within step 'one' would wait for its own run 'own' for ever" in message for message in refused)


class _Awaitable:
    def __init__(self, make: Any) -> None:
        self._make = make

    def __await__(self) -> Any:
        return self._make()


def test_blocking_the_loop_that_the_run_needs_is_refused() -> None:
    """result() and a plain `for` on the loop thread raise, and say to await instead."""

    class Child(Workflow):
        @step
        async def one(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=1)

    class Parent(Workflow):
        @step
        async def one(self, ev: StartEvent) -> StopEvent:
            refused = []
            for call in (lambda: Child().run().result(), lambda: list(Child().run().stream_events())):
                try:
                    call()
                except DeadlockError as error:
                    refused.append(str(error))
            return StopEvent(result=(refused, await Child().run()))

    refused, awaited = Parent().run().result(DEADLINE)
    assert awaited == 1
    assert len(refused) == 2
    assert all("would block the event loop that the async steps" in message for message in refused)
    assert all("await the handler, or use `async for`" in message for message in refused)


def test_shutting_the_runtime_down_from_its_own_step_is_refused(flow: Flavour) -> None:
    """A step cannot wait for the end of all steps; the call raises and the runtime goes on."""

    class Closes(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            try:
                runtime.shutdown()
            except DeadlockError as error:
                return StopEvent(result=str(error))
            return StopEvent(result="shut down")

    with Runtime() as runtime:
        message = Closes().run().result(DEADLINE)
    assert "shutdown() within step 'one' would wait for its own run" in message


def test_leaving_the_block_on_the_loop_that_its_runs_need_is_refused() -> None:
    """Runtime(loop=...) cannot be left with runs in flight while its loop stands still: they end, and it says why."""

    class Slow(aio.Workflow):
        @step
        async def one(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(0.01)
            return StopEvent()

    async def main() -> aio.Handler:
        with (
            pytest.raises(DeadlockError, match="would block the event loop that the runs need: await their handlers"),
            Runtime(loop=asyncio.get_running_loop()),
        ):
            handler = Slow().run()
        return handler

    handler = asyncio.run(main())
    assert handler.status == "cancelled"


# -- after the shutdown ------------------------------------------------------------------------------------------------


def test_a_handler_after_the_shutdown_answers(flow: Flavour) -> None:
    """After its runtime's shutdown a handler still has its result, stream and state; what needs the run is refused."""

    class Asks(Workflow):
        @flow.step
        async def ask(self, ctx: Context, ev: StartEvent) -> InputRequiredEvent:
            await flow(ctx.store.set("asked", 1))
            return InputRequiredEvent()

        @flow.step
        async def answer(self, ev: HumanResponseEvent) -> StopEvent:
            return StopEvent()

    with Runtime():
        workflow = Asks()
        handler = workflow.run()
    assert handler.done()
    assert isinstance(handler.exception(), RuntimeShutdownError)
    assert [type(event).__name__ for event in handler.stream_events()] == [
        "InputRequiredEvent",
        "WorkflowCancelledEvent",
    ]
    assert handler.ctx.store.get("asked") == 1
    assert not handler.ctx.is_running
    with pytest.raises(RuntimeShutdownError, match=r"HumanResponseEvent was not delivered"):
        handler.send_event(HumanResponseEvent())
    handler.cancel_run()
    called = threading.Event()
    handler.add_done_callback(lambda _: called.set())
    assert called.is_set()
    with pytest.raises(RuntimeShutdownError, match="make a new one"):
        workflow.run()
    # Its context goes on in another runtime.
    with Runtime() as second:
        resumed = Asks(runtime=second).run(ctx=handler.ctx)
        resumed.send_event(HumanResponseEvent())
        resumed.result(DEADLINE)


def test_an_ended_run_takes_no_events(flow: Flavour) -> None:
    """An event for a run that has ended is refused by name, and listed."""

    class Ends(Workflow):
        @flow.step
        async def one(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    handler = Ends().run(run_id="over")
    handler.result(DEADLINE)
    with pytest.raises(WorkflowRuntimeError, match="run 'over' has ended; Part was not delivered"):
        handler.send_event(Part(n=5))
    assert [letter.event.n for letter in handler.dead_letters()] == [5]


def test_a_runtime_that_was_shut_down_cannot_be_entered_again() -> None:
    """Shutdown is final, and to shut down twice does nothing."""
    with Runtime() as runtime:
        pass
    runtime.shutdown()
    with pytest.raises(RuntimeShutdownError, match="has been shut down; make a new one"):
        runtime.__enter__()


def test_all_configuration_errors_are_validation_errors() -> None:
    """One except clause catches everything that Greenroom raises."""
    assert issubclass(WorkflowConfigurationError, WorkflowValidationError)
    assert issubclass(WorkflowValidationError, GreenroomError)
    assert issubclass(WorkflowRuntimeError, GreenroomError)

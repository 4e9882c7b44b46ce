"""Steps: what the decorator takes, what annotations say, and where steps are found."""

from __future__ import annotations

import functools
import threading
import typing
from collections.abc import Callable
from typing import Annotated, Any, Optional, Union

import pytest
from pydantic import BaseModel

from greenroom import Context, Event, StartEvent, StopEvent, Workflow, step
from greenroom.aio import Context as AsyncContext
from greenroom.errors import WorkflowRuntimeError, WorkflowValidationError
from greenroom.retry import retry_policy
from greenroom.signature import read_step
from greenroom.steps import StepSpec, step_options


class A(Event):
    pass


class B(Event):
    pass


class State(BaseModel):
    n: int = 0


class Sample(Workflow):
    """A minimal workflow, to be extended."""

    @step
    def begin(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result="begin")


class Host:
    """Owns the functions that are read alone."""


def read(function: Any) -> StepSpec:
    return read_step(step(function), in_workflow=True, owner=Host)


def faults(function: Any) -> list[str]:
    with pytest.raises(WorkflowValidationError) as caught:
        read(function)
    return str(caught.value).splitlines()


def method(function: Callable[..., Any]) -> Any:
    """Make a function of a test look like a method, as one of a class in a class body does."""
    function.__qualname__ = f"Host.{function.__name__}"
    return function


# -- the decorator -----------------------------------------------------------------------------------------------------


def test_the_decorator_returns_the_function_itself_with_and_without_parentheses() -> None:
    """It only notes the options: four workers, no policy, no timeout."""

    def bare(self: Any, ev: A) -> None: ...

    method(bare)
    assert step(bare) is bare
    options = step_options(bare)
    assert options is not None
    assert (options.num_workers, options.retry_policy, options.timeout) == (4, None, None)
    policy = retry_policy()
    assert step(num_workers=2, retry_policy=policy, timeout=1.5, skip_graph_checks=["dead_end"])(bare) is bare
    options = step_options(bare)
    assert options is not None
    assert (options.num_workers, options.retry_policy, options.timeout) == (2, policy, 1.5)
    assert options.skip_graph_checks == {"dead_end"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_workers": 0}, "num_workers must be an integer greater than 0"),
        ({"num_workers": True}, "num_workers must be an integer greater than 0"),
        ({"num_workers": 1.5}, "num_workers must be an integer greater than 0"),
        ({"timeout": 0}, "timeout must be a number of seconds greater than 0"),
        ({"timeout": "1"}, "timeout must be a number of seconds greater than 0"),
        ({"timeout": float("nan")}, "timeout must be a number of seconds greater than 0"),
        ({"retry_policy": 3}, "retry_policy must have a method next"),
        ({"accept_event_subclasses": "yes"}, "accept_event_subclasses must be True or False"),
        ({"skip_graph_checks": ["nope"]}, r"unknown graph checks \['nope'\]"),
        ({"skip_graph_checks": ["terminal_event"]}, "unknown graph checks"),
        ({"workflow": object}, "workflow= must be a Workflow class"),
    ],
)
def test_wrong_options_are_refused_where_they_are_written(options: dict[str, Any], message: str) -> None:
    """The message names the step."""

    def wrong(self: Any, ev: A) -> None: ...

    method(wrong)
    with pytest.raises(WorkflowValidationError, match=rf"'Host.wrong'.*{message}"):
        step(**options)(wrong)


@pytest.mark.parametrize("timeout", [float("nan"), 0, -1, True, "1"])
def test_a_workflow_refuses_a_wrong_timeout(timeout: Any) -> None:
    """As a step does."""
    with pytest.raises(WorkflowValidationError, match="timeout must be seconds greater than 0"):
        Sample(timeout=timeout)


def test_only_functions_can_be_steps() -> None:
    """A class or an object that can be called is not one."""
    for wrong in (A, functools.partial(print), staticmethod(print)):
        with pytest.raises(WorkflowValidationError, match="decorates functions and methods"):
            step(wrong)  # type: ignore[type-var]


# -- annotations -------------------------------------------------------------------------------------------------------


def test_annotations_say_what_a_step_takes_and_returns() -> None:
    """The names and the order of the parameters do not matter."""

    def work(self: Any, what: A | B, context: Context[State]) -> StopEvent | A | None: ...

    spec = read(method(work))
    assert (spec.name, spec.is_async, spec.in_workflow) == ("work", False, True)
    assert (spec.event_parameter, spec.context_parameter) == ("what", "context")
    assert spec.accepts == (A, B)
    assert spec.returns == (StopEvent, A)
    assert spec.returns_none
    assert spec.state_type is State


@pytest.mark.parametrize(
    "hint",
    # The older spellings are part of what is tested.
    [A, Optional[A], Union[A, None], A | None, "A", "A | None", Annotated[A, 1], Annotated[A | None, 1]],
)
def test_an_event_may_be_annotated_in_many_ways(hint: Any) -> None:
    """Optional, Annotated and text mean what they mean elsewhere."""

    def work(self: Any, ev: Any) -> None: ...

    work.__annotations__["ev"] = hint
    spec = read(method(work))
    assert spec.accepts == (A,)
    assert spec.returns == ()
    assert spec.returns_none


def test_an_async_step_is_known_as_one() -> None:
    """And takes the context whose methods are awaited."""

    async def work(self: Any, ctx: AsyncContext, ev: A) -> None: ...

    assert read(method(work)).is_async


def test_a_context_of_the_other_kind_is_refused() -> None:
    """The message says which one to import."""

    async def awaits(self: Any, ctx: Context, ev: A) -> None: ...

    def blocks(self: Any, ctx: AsyncContext, ev: A) -> None: ...

    assert faults(method(awaits)) == [
        "step 'awaits' is async: annotate 'ctx' with Context from greenroom.aio, whose methods are awaited"
    ]
    assert faults(method(blocks)) == [
        "step 'blocks' is a plain def: annotate 'ctx' with Context from greenroom, whose methods block"
    ]


def test_parameters_with_defaults_are_left_alone() -> None:
    """So are *args and **kwargs that name no event."""

    def work(self: Any, ev: A, factor: float = 2.0, *rest: Any, **more: Any) -> None: ...

    assert read(method(work)).event_parameter == "ev"


def test_all_faults_of_a_signature_are_told_together() -> None:
    """One a line, each naming the step."""

    def work(self, first: A, second: B, ctx: Context, again: Context, number: int):  # type: ignore[no-untyped-def]
        yield

    assert faults(method(work)) == [
        "step 'work' takes two contexts, 'ctx' and 'again'; one is enough",
        "step 'work': nothing can be given for parameter 'number' (int); annotate it with an event class, Context, or"
        " Annotated[..., Resource(factory)], or give it a default",
        "step 'work' must have a return annotation: event classes, None, or a union of them",
        "step 'work' is a generator; return one event or a list, and send others with ctx.send_event()",
    ]


def test_other_faults_of_a_signature() -> None:
    """No event, events mixed with others, and a return that is no event."""

    def none(self: Any) -> None: ...

    def mixed(self: Any, ev: A | int) -> None: ...

    def returns(self: Any, ev: A) -> int | list[A]: ...

    assert faults(method(none)) == [
        "step 'none' must have exactly one parameter annotated with an event class; found none"
    ]
    assert faults(method(mixed))[0] == "step 'mixed': parameter 'ev' mixes events with int; name event classes only"
    assert faults(method(returns)) == [
        "step 'returns': return annotation names int; it may name event classes, lists of them, and None"
    ]


def test_a_parameter_that_cannot_be_given_by_name_is_refused() -> None:
    """Events and contexts are given by name; it would fail at the first event."""

    def positional(self: Any, ctx: Context, ev: A, /) -> None: ...

    def starred(self: Any, *ev: A) -> None: ...

    def named(self: Any, **ev: A) -> None: ...

    fix = "cannot be given by name; write it as a plain parameter, without / or *"
    assert faults(method(positional)) == [
        f"step 'positional': parameter 'ctx' {fix}",
        f"step 'positional': parameter 'ev' {fix}",
    ]
    assert f"step 'starred': parameter 'ev' {fix}" in faults(method(starred))
    assert f"step 'named': parameter 'ev' {fix}" in faults(method(named))


def test_annotations_that_cannot_be_resolved_are_told() -> None:
    """With the name that is missing."""

    def work(self: Any, ev: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    (line,) = faults(method(work))
    assert line == "step 'work': its annotations cannot be resolved: name 'Nowhere' is not defined"


def test_all_faults_of_a_workflow_s_steps_are_told_in_one_message() -> None:
    """Not only those of the first step."""

    class Wrong(Workflow):
        @step
        def one(self) -> None: ...

        @step
        def two(self, ev: A) -> int: ...

    with pytest.raises(WorkflowValidationError) as caught:
        Wrong()
    assert str(caught.value).splitlines() == [
        "Wrong cannot work:",
        "  - step 'one' must have exactly one parameter annotated with an event class; found none",
        "  - step 'two': return annotation names int; it may name event classes, lists of them, and None",
    ]


# -- where names are looked up -----------------------------------------------------------------------------------------


def test_local_classes_are_found_from_enclosing_scopes() -> None:
    """Annotations are text in this file, and these classes are names of functions and of a class body."""

    class Outer(Event):
        n: int = 1

    def make() -> type[Workflow]:
        class Inner(Event):
            n: int = 2

        class Flow(Workflow):
            class Own(StartEvent):
                pass

            @step
            def one(self, ev: Own) -> Outer:
                return Outer()

            @step
            def two(self, ev: Outer) -> Inner:
                return Inner(n=ev.n + 1)

            @step
            def three(self, ev: Inner) -> StopEvent:
                return StopEvent(result=ev.n)

        return Flow

    assert make()().run().result(timeout=30) == 2


class Nested(Workflow):
    """Its events are in its own body, as text."""

    class Begin(StartEvent):
        pass

    class End(StopEvent):
        pass

    @step
    def only(self, ev: Begin) -> End:
        return self.End(result=1)


def test_classes_in_the_body_of_a_workflow_are_found() -> None:
    """In a module's class as in a local one, and in a subclass of it."""

    class Sub(Nested):
        pass

    assert Nested().start_event_class is Nested.Begin
    assert Sub().stop_event_class is Nested.End


def test_a_local_name_of_a_caller_does_not_hide_what_an_annotation_means() -> None:
    """Scopes are those around the function, not those of whoever calls."""

    def make() -> type[Workflow]:
        class Flow(Workflow):
            @step
            def only(self, ev: StartEvent) -> StopEvent | A:
                return StopEvent()

            @step
            def other(self, ev: A) -> StopEvent:
                return StopEvent()

        return Flow

    def call() -> type[Workflow]:
        A = StopEvent = 5  # noqa: F841
        return make()

    assert A in call()().events


def test_local_names_that_annotations_do_not_use_are_not_kept() -> None:
    """A step must not keep alive all that was near it."""
    unused = threading.Lock()

    class Local(Event):
        pass

    def work(self: Any, ev: Local) -> None: ...

    options = step_options(step(workflow=type("Taker", (), {"add_step": staticmethod(lambda func: None)}))(work))
    assert options is not None
    assert set(options.local_names) == {"Local"}
    assert not unused.locked()


# -- methods, inheritance, free functions ------------------------------------------------------------------------------


def test_steps_are_inherited_and_overridden_by_name() -> None:
    """A decorated method replaces the step of its base."""

    class Sub(Sample):
        @step
        def begin(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result="sub")

    class Untouched(Sample):
        pass

    assert Sub().run().result(timeout=30) == "sub"
    assert Untouched().run().result(timeout=30) == "begin"


def test_overriding_with_an_undecorated_method_removes_the_step() -> None:
    """It is not a step any more, and the message says what lacks."""

    class Sub(Sample):
        def begin(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    with pytest.raises(WorkflowValidationError, match="it has no steps"):
        Sub()


def test_free_functions_are_steps_of_their_workflow_and_of_its_subclasses() -> None:
    """Also of a subclass that was made before the function."""

    class Base(Workflow):
        @step
        def begin(self, ev: StartEvent) -> A:
            return A()

    class Sub(Base):
        pass

    @step(workflow=Base)
    def end(ev: A) -> StopEvent:
        return StopEvent(result="free")

    class Later(Sub):
        pass

    for cls in (Base, Sub, Later):
        assert cls().run().result(timeout=30) == "free"


def test_a_free_function_does_not_reach_the_base_or_a_sibling() -> None:
    """It belongs to the class that it names."""

    class One(Sample):
        pass

    class Two(Sample):
        pass

    @step(workflow=One)
    def more(ev: StartEvent) -> StopEvent:
        return StopEvent()

    assert "more" in One()._graph.steps
    assert "more" not in Two()._graph.steps
    assert "more" not in Sample()._graph.steps


def test_a_method_of_a_subclass_replaces_a_free_function() -> None:
    """By name, as it replaces a method."""

    class Base(Workflow):
        @step
        def begin(self, ev: StartEvent) -> A:
            return A()

    @step(workflow=Base)
    def end(ev: A) -> StopEvent:
        return StopEvent(result="free")

    class Sub(Base):
        @step
        def end(self, ev: A) -> StopEvent:
            return StopEvent(result="method")

    assert Sub().run().result(timeout=30) == "method"
    assert Base().run().result(timeout=30) == "free"


def test_a_name_is_given_to_a_step_once() -> None:
    """A second free function of that name would silently replace the first."""

    class Base(Sample):
        pass

    def begin(ev: StartEvent) -> StopEvent:
        return StopEvent()

    with pytest.raises(WorkflowValidationError, match="Base already has a step 'begin'"):
        step(workflow=Base)(begin)


def test_a_free_function_must_name_its_workflow() -> None:
    """The message shows how."""
    with pytest.raises(WorkflowValidationError, match=r"'.*free'.*@step\(workflow=MyWorkflow\)"):

        @step
        def free(ev: StartEvent) -> StopEvent:
            return StopEvent()


def test_a_step_added_later_is_seen_by_new_objects_only() -> None:
    """Objects that exist keep their graph."""

    class Base(Sample):
        pass

    old = Base()

    def more(ev: StartEvent) -> StopEvent:
        return StopEvent()

    with pytest.raises(WorkflowValidationError, match="is not a step"):
        Base.add_step(more)
    step(workflow=Base)(more)
    assert "more" not in old._graph.steps
    assert "more" in Base()._graph.steps


def test_properties_of_a_workflow_are_not_evaluated() -> None:
    """Steps are found on the class, not by looking at the object."""
    looked = []

    class Sub(Sample):
        @property
        def costly(self) -> int:
            looked.append(1)
            return 1

    assert Sub().run().result(timeout=30) == "begin"
    assert looked == []


# -- what a step returns -----------------------------------------------------------------------------------------------


def test_a_step_may_return_what_it_declares() -> None:
    """Subclasses included, and None where it is named."""

    class Lower(A):
        pass

    def work(self: Any, ev: A) -> A | None: ...

    spec = read(method(work))
    for right in (A(), Lower(), None):
        spec.check_return(right)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (B(), "returned an instance of B, but declares -> A | StopEvent; add it to the return annotation"),
        (None, "returned None, but declares -> A | StopEvent; return an event, or add None to the return annotation"),
        (A, "returned the class A, but declares -> A | StopEvent; return an event"),
        (5, "returned an instance of int, but declares -> A | StopEvent; return an event"),
    ],
)
def test_a_step_that_returns_what_it_did_not_declare_is_told_what_and_how_to_mend_it(value: Any, message: str) -> None:
    """The message names the step and the declaration."""

    def work(self: Any, ev: A) -> A | StopEvent: ...

    with pytest.raises(WorkflowRuntimeError) as caught:
        read(method(work)).check_return(value)
    assert str(caught.value).startswith(f"step 'work' {message}")


def test_a_step_that_declares_none_may_return_nothing_else() -> None:
    """An event would be lost otherwise."""

    def work(self: Any, ev: A) -> None: ...

    spec = read(method(work))
    spec.check_return(None)
    with pytest.raises(WorkflowRuntimeError, match="declares -> None"):
        spec.check_return(A())


def test_hints_of_this_file_are_text() -> None:
    """Or the tests of scopes above would prove nothing."""
    assert typing.get_type_hints(Sample.begin)["ev"] is StartEvent
    assert Sample.begin.__annotations__["ev"] == "StartEvent"

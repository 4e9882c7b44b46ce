"""Unfinished runs with others within them when the code has changed: of the run itself, or of those."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from greenroom import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    Runtime,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowRuntimeError,
    aio,
    step,
)
from greenroom.stores import RunStore
from tests.runtime.test_deploy import asked, begun, end, faults, flow
from tests.support.flavours import DEADLINE
from tests.support.waiting import wait_until


class Ask(InputRequiredEvent):
    n: int


class Answer(HumanResponseEvent):
    n: int


class Item(Event):
    n: int


class Late(Event):
    n: int


def tree(changed: str = "", item: type[Event] = Item) -> type[Workflow]:
    """A run within a run within a run; the innermost asks. One of them has a step more, or less.

    Args:
        changed: Which of them is not what it was, or "gone": the innermost lacks the step that asks.
        item: The class that the innermost hands to the step that asks.
    """

    class More(Workflow):
        @step
        def more(self, ev: Answer) -> StopEvent:
            return StopEvent(result="more")

    class Inner(More if changed == "inner" else Workflow):  # type: ignore[misc]
        @step(num_workers=2 if changed == "workers" else 4)
        def begin(self, ctx: Context, ev: StartEvent) -> item | None:  # type: ignore[valid-type]
            ctx.send_event(Late(n=1), delay=1e6)
            return item(n=ev.n)

        @step(num_workers=1 if changed == "workers" else 4)
        def ask(self, ctx: Context, ev: item) -> StopEvent:  # type: ignore[valid-type]
            return StopEvent(result=ev.n + ctx.ask(Ask(n=1), Answer).n)

        @step
        def late(self, ev: Late) -> None: ...

    class Fewer(Workflow):
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=(Item, Late, Ask, Answer))  # which it still names

    Fewer.__name__ = "Inner"
    inner = Fewer if changed == "gone" else Inner

    class Middle(More if changed == "middle" else Workflow):  # type: ignore[misc]
        @step
        async def begin(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await ctx.run(inner(disable_validation=True), n=ev.n))

    class Outer(More if changed == "outer" else Workflow):  # type: ignore[misc]
        @step
        def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=ctx.run(Middle(disable_validation=True), n=ev.n).result())

    return Outer


WHERE = pytest.mark.parametrize("where", ["journal", "checkpoint"])


def left(store: RunStore, where: str) -> str:
    """Leave a tree in its journal, or in the checkpoint that it rests with; return the id of its question."""
    if where == "journal":
        return begun(store, tree(), n=1)
    with Runtime(store=store, idle_timeout=0.0):
        handler = flow(tree()).run(run_id="one", n=1)
        question = asked(handler)
        assert wait_until(lambda: handler.supervisor is None, DEADLINE)
    return question


@WHERE
@pytest.mark.parametrize("changed", ["outer", "middle", "inner", "workers"])
def test_a_tree_goes_on_where_nothing_unfinished_stands_on_the_difference(
    make_store: Callable[[], RunStore], changed: str, where: str
) -> None:
    """Whichever of its graphs has changed, found in the journal or in a checkpoint; what it left can be read again."""
    left(make_store(), where)
    assert faults(make_store(), tree(changed)) == []
    assert end(make_store(), tree(changed), {"n": 2}) == 3


def test_a_tree_may_come_to_other_code_time_and_again(make_store: Callable[[], RunStore]) -> None:
    """Also if it was brought back by the code that began it in between."""
    question = begun(make_store(), tree(), n=1)
    for changed in ("", "", "inner", "outer", "", "workers", "middle"):
        assert faults(make_store(), tree(changed)) == []
        with Runtime(store=make_store()) as runtime:
            runtime.recover([flow(tree(changed))])
            handler = runtime.get("one")
            assert handler is not None
            assert [pending.input_id for pending in handler.pending_inputs()] == [question]
    assert end(make_store(), tree(), {"n": 2}) == 3


@WHERE
def test_a_run_within_a_run_that_stands_on_the_difference_is_found(
    make_store: Callable[[], RunStore], where: str
) -> None:
    """The tree is set aside until the code is mended; a check tells of which run and workflow, by step and event."""
    left(make_store(), where)
    told = faults(make_store(), tree("gone"))
    assert [(fault.workflow, fault.step, fault.event) for fault in told] == [
        ("Inner", "ask", "Item"),
        ("Inner", None, "Late"),
    ]
    assert [fault.place for fault in told] == [
        "run 'one/Middle.0.0/Inner.0.0' of Inner, invocation 1",
        "run 'one/Middle.0.0/Inner.0.0' of Inner, a delayed event",
    ]
    assert told[0].problem == "step 'ask' is gone, and has Item in hand"
    with Runtime(store=make_store()) as runtime:
        assert runtime.recover([flow(tree("gone"))]) == []
        with pytest.raises(WorkflowRuntimeError, match="Inner has changed, and this run stands on what has changed"):
            runtime.get("one")
    store = make_store()
    store.open()
    assert store.put_back("one")
    store.close()
    assert end(make_store(), tree("inner"), {"n": 2}) == 3


def shaped(**annotations: Any) -> type[Event]:
    """A class of the name of Item with these fields."""
    return type("Item", (Event,), {"__annotations__": annotations, "__module__": __name__, "__qualname__": "Item"})


def test_fields_that_do_not_fit_in_a_run_within_a_run_are_found(make_store: Callable[[], RunStore]) -> None:
    """By workflow, step, event and field: what is missing, in the journal; what has another type, in the run."""
    begun(make_store(), tree(), n=1)
    missing = faults(make_store(), tree(item=shaped(n=int, name=str)))
    assert [(fault.workflow, fault.step, fault.event, fault.field) for fault in missing] == [
        ("Inner", "begin", "Item", "name")
    ]
    assert missing[0].place.startswith("run 'one/Middle.0.0/Inner.0.0' of Inner, journal record")
    typed = faults(make_store(), tree(item=shaped(n=str)))
    assert [(fault.workflow, fault.step, fault.event, fault.field) for fault in typed] == [
        ("Inner", "ask", "Item", "n")
    ]
    assert typed[0].place == "run 'one/Middle.0.0/Inner.0.0' of Inner, invocation 1"


def test_values_in_a_checkpoint_of_a_tree_that_cannot_be_built_are_found(
    make_store: Callable[[], RunStore],
) -> None:
    """Each with its run."""
    left(make_store(), "checkpoint")
    told = faults(make_store(), tree(item=Ask))
    assert ("Inner", "ask", f"{__name__}:Item") in [(fault.workflow, fault.step, fault.event) for fault in told]
    assert "run 'one/Middle.0.0/Inner.0.0' of Inner, invocation 1" in [fault.place for fault in told]


def test_a_workflow_that_is_not_named_any_more_is_told(make_store: Callable[[], RunStore]) -> None:
    """With what to do."""

    class Outer(Workflow):
        @step
        def begin(self, ev: StartEvent) -> StopEvent: ...

    begun(make_store(), tree(), n=1)
    told = faults(make_store(), Outer)
    assert "there is a run of Middle within the run, which the workflow's code does not name" in told[0].problem

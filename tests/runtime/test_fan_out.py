"""Fan-out and fan-in by type: a step that returns a list, and steps that take lists or one event of each kind."""

import json
import threading
from itertools import islice
from typing import Annotated, Any

import pytest

from greenroom import (
    All,
    Collect,
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    Runtime,
    StartEvent,
    StepFailedEvent,
    StopEvent,
    Take,
    Workflow,
    step,
)
from greenroom.errors import (
    ContextSerdeError,
    WorkflowCancelledByUser,
    WorkflowRuntimeError,
    WorkflowStuckError,
    WorkflowValidationError,
)
from greenroom.retry import retry_policy, stop_after_attempt, wait_fixed, wait_none
from greenroom.testing import SeededRuntime, explore
from tests.support.flavours import DEADLINE, FLAVOURS, Flavour


@pytest.fixture(params=FLAVOURS)
def flow(request: pytest.FixtureRequest) -> Flavour:
    return Flavour(request.param)


class Item(Event):
    n: int


class Done(Event):
    n: int


class Sum(Event):
    total: int


class Late(Event):
    n: int


class Row(Event):
    n: int


def test_a_list_is_sent_on_one_by_one_and_gathered_when_all_is_done(flow: Flavour) -> None:
    """In the order the members arrive; one whose branch ends with None is absent."""

    class Squares(Workflow):
        @flow.step
        async def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(ev.count)]

        @flow.step
        async def square(self, ev: Item) -> Done | None:
            return Done(n=ev.n * ev.n) if ev.n % 2 == 0 else None

        @flow.step
        async def add(self, done: list[Done]) -> StopEvent:
            return StopEvent(result=sorted(ev.n for ev in done))

    assert Squares().run(count=7).result(DEADLINE) == [0, 4, 16, 36]


def test_an_empty_list_is_gathered_as_one(flow: Flavour) -> None:
    """What takes the list is run once, with nothing in it. None opens no list."""

    class Empty(Workflow):
        @flow.step
        async def split(self, ev: StartEvent) -> list[Item] | None:
            return [] if ev.empty else None

        @flow.step
        async def square(self, ev: Item) -> Done:
            return Done(n=ev.n)

        @flow.step
        async def add(self, done: list[Done]) -> StopEvent:
            return StopEvent(result=len(done))

    assert Empty().run(empty=True).result(DEADLINE) == 0
    with pytest.raises(Exception, match="is stuck"):
        Empty().run(empty=False).result(DEADLINE)


def test_take_is_served_with_the_first_and_ignores_the_rest() -> None:
    """The others work on, and what they return is accounted for."""
    both = threading.Event()

    class Race(Workflow):
        @step
        def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(4)]

        @step
        def run_one(self, ev: Item) -> Done:
            if ev.n >= 2:
                assert both.wait(DEADLINE)
            return Done(n=ev.n)

        @step
        def choose(self, first: Annotated[list[Done], Collect(Take(2))]) -> Sum:
            both.set()
            return Sum(total=sum(ev.n for ev in first))

        @step
        def wait_for_rest(self, rest: Annotated[list[Done], Collect(All())]) -> Sum:
            return Sum(total=len(rest))

        @step
        def finish(self, ev: Sum, ctx: Context) -> StopEvent | None:
            batch = ctx.collect_events(ev, [Sum, Sum])
            return StopEvent(result=[s.total for s in batch]) if batch else None

    handler = Race().run()
    assert handler.result(DEADLINE) == [1, 4]
    assert sorted(letter.event.n for letter in handler.dead_letters()) == [2, 3]
    assert {letter.step for letter in handler.dead_letters()} == {"choose"}


def test_take_of_more_than_come_is_served_with_what_has_come() -> None:
    """When nothing is left that could add to it."""

    class Few(Workflow):
        @step
        def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=1)]

        @step
        def choose(self, first: Annotated[list[Item], Collect(Take(5))]) -> StopEvent:
            return StopEvent(result=len(first))

    assert Few().run().result(DEADLINE) == 1


def test_a_list_within_a_list_is_gathered_by_itself(flow: Flavour) -> None:
    """The inner list once for each, the outer list once."""

    class Row(Event):
        cells: list[int]

    class RowSum(Event):
        total: int

    class Table(Workflow):
        @flow.step
        async def rows(self, ev: StartEvent) -> list[Row]:
            return [Row(cells=cells) for cells in ev.table]

        @flow.step
        async def cells(self, ev: Row) -> list[Item]:
            return [Item(n=n) for n in ev.cells]

        @flow.step
        async def double(self, ev: Item) -> Done:
            return Done(n=2 * ev.n)

        @flow.step
        async def add_row(self, done: list[Done]) -> RowSum:
            return RowSum(total=sum(ev.n for ev in done))

        @flow.step
        async def add_rows(self, rows: list[RowSum]) -> StopEvent:
            return StopEvent(result=sorted(row.total for row in rows))

    assert Table().run(table=[[1, 2], [], [3]]).result(DEADLINE) == [0, 6, 6]


def test_two_steps_that_take_the_list_both_get_it_and_so_does_one_that_takes_its_events() -> None:
    """Each sees the whole; an event also goes to whoever takes it alone."""
    seen: list[int] = []

    class Both(Workflow):
        @step
        def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(3)]

        @step(skip_graph_checks=["dead_end"])
        def look(self, ev: Item) -> None:
            seen.append(ev.n)

        @step
        def least(self, items: list[Item]) -> Done:
            return Done(n=min(ev.n for ev in items))

        @step
        def most(self, items: list[Item]) -> Sum:
            return Sum(total=max(ev.n for ev in items))

        @step
        def pair(self, low: Done, high: Sum) -> StopEvent:
            return StopEvent(result=(low.n, high.total))

    assert Both().run().result(DEADLINE) == (0, 2)
    assert sorted(seen) == [0, 1, 2]


def test_a_step_that_takes_several_events_is_given_one_of_each(flow: Flavour) -> None:
    """Again and again, equal classes in the order they come."""

    class Pairs(Workflow):
        @flow.step
        async def begin(self, ctx: Context, ev: StartEvent) -> Item | Done | None:
            for n in range(3):
                ctx.send_event(Item(n=n))
            for n in range(3):
                ctx.send_event(Done(n=10 * n))
            return None

        @flow.step(num_workers=1)
        async def pair(self, item: Item, done: Done) -> Sum:
            return Sum(total=item.n + done.n)

        @flow.step
        async def finish(self, ctx: Context, ev: Sum) -> StopEvent | None:
            batch = await flow(ctx.collect_events(ev, [Sum] * 3))
            return StopEvent(result=[s.total for s in batch]) if batch else None

    assert Pairs().run().result(DEADLINE) == [0, 11, 22]


def test_a_failing_member_fails_the_run_and_a_retry_of_the_gathering_step_is_given_the_same_list() -> None:
    """The list is part of the invocation, not of the attempt."""
    lists: list[list[int]] = []

    class Retries(Workflow):
        @step
        def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(3)]

        @step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(2)))
        def add(self, items: list[Item]) -> StopEvent:
            lists.append([ev.n for ev in items])
            items.clear()
            if len(lists) == 1:
                raise ValueError("again")
            return StopEvent(result="done")

    class Fails(Workflow):
        @step
        def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(3)]

        @step
        def work(self, ev: Item) -> Done:
            raise ValueError(ev.n)

        @step
        def add(self, done: list[Done]) -> StopEvent:
            return StopEvent()

    assert Retries().run().result(DEADLINE) == "done"
    assert lists == [[0, 1, 2], [0, 1, 2]]
    with pytest.raises(ValueError, match=r"[012]"):
        Fails().run().result(DEADLINE)


def test_what_a_member_sends_belongs_to_the_list_and_what_comes_from_elsewhere_does_not() -> None:
    """An event that belongs to no list cannot be gathered: it is a dead letter, or held for a wait."""

    class Sends(Workflow):
        @step
        def split(self, ev: StartEvent, ctx: Context) -> list[Item] | Done:
            ctx.send_event(Done(n=-1))
            return [Item(n=n) for n in range(3)]

        @step
        def work(self, ev: Item, ctx: Context) -> Done | None:
            ctx.send_event(Done(n=ev.n))
            ctx.send_event(Done(n=10 + ev.n), delay=0.001)
            return None

        @step
        def add(self, done: list[Done]) -> StopEvent:
            return StopEvent(result=sorted(ev.n for ev in done))

    handler = Sends().run()
    assert handler.result(DEADLINE) == [0, 1, 2, 10, 11, 12]
    assert [letter.event.n for letter in handler.dead_letters()] == [-1]


def test_ten_thousand_members_are_gathered() -> None:
    """The cost of a member does not grow with their number; here only that it works."""

    class Many(Workflow):
        @step
        def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(10_000)]

        @step
        def add(self, items: list[Item]) -> StopEvent:
            return StopEvent(result=sum(ev.n for ev in items))

    assert Many().run().result(DEADLINE) == sum(range(10_000))


def test_a_list_may_hold_only_what_was_declared() -> None:
    """And is refused where none was declared; each message says what to do."""

    class Wrong(Workflow):
        @step
        def split(self, ev: StartEvent) -> list[Item] | Done | StopEvent:
            return ev.what  # type: ignore[no-any-return]

        @step
        def add(self, items: list[Item | Done]) -> StopEvent:
            return StopEvent(result=len(items))

        @step
        def other(self, ev: Done) -> StopEvent:
            return StopEvent(result="alone")

    assert Wrong().run(what=[Item(n=1)]).result(DEADLINE) == 1
    assert Wrong().run(what=Done(n=1)).result(DEADLINE) == "alone"
    with pytest.raises(WorkflowRuntimeError, match=r"list whose item 1 is an instance of Done, but declares"):
        Wrong().run(what=[Item(n=1), Done(n=1)]).result(DEADLINE)
    with pytest.raises(WorkflowRuntimeError, match="returned an instance of Item"):
        Wrong().run(what=Item(n=1)).result(DEADLINE)


def test_faults_of_gathering_are_told_when_the_workflow_is_built() -> None:
    """A list that nobody returns, two lists, events that never meet, a cardinality that is none, a list of ends."""

    class NoProducer(Workflow):
        @step
        def begin(self, ev: StartEvent) -> Item:
            return Item(n=1)

        @step
        def add(self, items: list[Item]) -> StopEvent:
            return StopEvent()

    class NoMeeting(Workflow):
        @step
        def begin(self, ev: StartEvent, ctx: Context) -> list[Item] | Done:
            return []

        @step
        def pair(self, item: Item, done: Done) -> StopEvent:
            return StopEvent()

    class TwoLists(Workflow):
        @step
        def begin(self, ev: StartEvent) -> list[Item]:
            return []

        @step
        def add(self, items: list[Item], others: list[Item]) -> StopEvent:
            return StopEvent()

    class Ends(Workflow):
        @step
        def begin(self, ev: StartEvent) -> list[StopEvent]:
            return []

    class OnEvent(Workflow):
        @step
        def begin(self, ev: Annotated[StartEvent, Collect()]) -> StopEvent:
            return StopEvent()

    class Mixes(Workflow):
        @step
        def begin(self, ev: StartEvent) -> list[Item] | Done:
            return []

        @step
        def add(self, items: list[Item], done: Done) -> StopEvent:
            return StopEvent()

    class Unions(Workflow):
        @step
        def begin(self, ev: StartEvent) -> Item | Done:
            return Item(n=1)

        @step
        def pair(self, first: Item | Done, second: Done) -> StopEvent:
            return StopEvent()

    class Yields(Workflow):
        @step
        def begin(self, ev: StartEvent) -> list[Item]:  # type: ignore[misc]
            yield Item(n=1)

        @step
        def add(self, items: list[Item]) -> StopEvent:
            return StopEvent()

    class Bare(Workflow):
        @step
        def begin(self, ev: StartEvent) -> list[Item]:
            return []

        @step
        def add(self, items: Annotated[list[Item], Collect]) -> StopEvent:
            return StopEvent()

    for workflow, message in [
        (Mixes, "takes a list of events and an event"),
        (Unions, "each must name one class, and first names several"),
        (Yields, "is a generator; return one event or a list"),
        (Bare, r"write Collect\(\) in the annotation"),
        (NoProducer, r"'add' takes list\[Item\], but no step returns a list whose events lead to it"),
        (NoMeeting, "'pair' takes Item and Done, which have no common stream level"),
        (TwoLists, "takes 2 lists of events"),
        (Ends, "names a list of StopEvent; a run ends once"),
        (OnEvent, "goes with a list of events"),
    ]:
        with pytest.raises(WorkflowValidationError, match=message):
            workflow()
    with pytest.raises(WorkflowValidationError, match=r"takes All\(\) or Take\(n\)"):
        Collect(3)  # type: ignore[arg-type]
    for wrong in (0, -1, True, 1.5, "2"):
        with pytest.raises(ValueError, match="integer greater than 0"):
            Take(wrong)  # type: ignore[arg-type]


def test_every_schedule_gathers_the_same() -> None:
    """Whoever comes first, the list is complete, and gathered once."""

    class Deep(Workflow):
        @step
        def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(4)]

        @step(num_workers=2)
        async def again(self, ev: Item) -> list[Done]:
            return [Done(n=ev.n)] * ev.n

        @step(num_workers=2)
        def inner(self, done: list[Done]) -> Sum:
            return Sum(total=sum(ev.n for ev in done))

        @step
        async def outer(self, sums: list[Sum]) -> StopEvent:
            return StopEvent(result=sorted(s.total for s in sums))

    def check(runtime: SeededRuntime) -> None:
        assert Deep().run().result() == [0, 1, 4, 9]

    explore(check, seeds=range(60))


@pytest.mark.parametrize("as_json", [False, True])
def test_a_fan_out_survives_a_snapshot_at_every_moment(as_json: bool) -> None:
    """Cut while members wait and some lie in the list already: what is gathered is the same."""

    class Asks(Workflow):
        @step
        def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(4)]

        @step(num_workers=2)
        def work(self, ev: Item, ctx: Context) -> Done:
            return Done(n=ev.n + ctx.wait_for_event(HumanResponseEvent).n)

        @step
        def add(self, done: list[Done]) -> StopEvent:
            return StopEvent(result=[ev.n for ev in done])

    workflow = Asks()
    context: Any = None
    for answer in range(1, 5):
        with SeededRuntime(answer) as runtime:
            handler = workflow.run() if context is None else workflow.run(ctx=context)
            runtime.run_until_idle()
            handler.send_event(HumanResponseEvent(n=10 * answer))
            runtime.run_until_idle()
            if answer == 4:
                results = handler.result()
                assert sorted(n % 10 for n in results) == [0, 1, 2, 3]
                assert sorted(n // 10 for n in results) == [1, 2, 3, 4]
                return
            taken = handler.ctx.to_dict() if as_json else handler.ctx.snapshot()
            handler.cancel_run()
        context = Context.from_dict(workflow, taken) if as_json else Context.restore(workflow, taken)


def test_the_list_is_in_the_order_in_which_its_events_come(flow: Flavour) -> None:
    """Not in that of the members that they come of."""
    second = threading.Event()

    class Slow(Workflow):
        @flow.step
        async def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=0), Item(n=1)]

        @flow.step
        async def work(self, ctx: Context, ev: Item) -> Done:
            if ev.n == 0:
                await flow.until(second)
            return Done(n=ev.n)

        @flow.step(skip_graph_checks=["dead_end"])
        async def look(self, ev: Done) -> None:
            if ev.n == 1:
                second.set()

        @flow.step
        async def add(self, done: list[Done]) -> StopEvent:
            return StopEvent(result=[ev.n for ev in done])

    assert Slow().run().result(DEADLINE) == [1, 0]


def test_take_is_served_early_and_a_member_that_fails_later_still_fails_the_run(flow: Flavour) -> None:
    """Unless a `@catch_error` step takes the failure: what comes of that is too late for the list."""
    served = threading.Event()

    class Race(Workflow):
        @flow.step
        async def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(3)]

        @flow.step
        async def work(self, ev: Item) -> Done:
            if ev.n == 2:
                await flow.until(served)
                raise ValueError("late")
            return Done(n=ev.n)

        @flow.step
        async def choose(self, first: Annotated[list[Done], Collect(Take(2))]) -> Sum:
            served.set()
            return Sum(total=sum(ev.n for ev in first))

        @flow.step
        async def wait_for_end(self, ev: Sum, rest: Late) -> StopEvent:
            return StopEvent(result=ev.total)

        @flow.step
        async def late(self, everything: list[Done]) -> Late:
            return Late(n=len(everything))

    class Mended(Race):
        @flow.catch_error
        async def mend(self, ev: StepFailedEvent) -> Done:
            return Done(n=100)

    with pytest.raises(ValueError, match="late"):
        Race().run().result(DEADLINE)
    served.clear()
    handler = Mended().run()
    assert handler.result(DEADLINE) == 1
    assert [(letter.event.n, letter.step) for letter in handler.dead_letters()] == [(100, "choose")]


def test_each_list_is_gathered_by_itself_whoever_returned_it(flow: Flavour) -> None:
    """Two steps return lists of the same class, and one of them two lists: three lists are gathered."""

    class Two(Workflow):
        @flow.step
        async def begin(self, ctx: Context, ev: StartEvent) -> Done | None:
            ctx.send_event(Done(n=1))
            ctx.send_event(Done(n=2))
            return None

        @flow.step
        async def some(self, ev: Done) -> list[Item]:
            return [Item(n=10 * ev.n + n) for n in range(ev.n)]

        @flow.step
        async def others(self, ev: StartEvent) -> list[Item]:
            return [Item(n=7)]

        @flow.step
        async def add(self, items: list[Item]) -> Sum:
            return Sum(total=sum(ev.n for ev in items))

        @flow.step
        async def finish(self, ctx: Context, ev: Sum) -> StopEvent | None:
            batch = await flow(ctx.collect_events(ev, {Sum: 3}))
            return StopEvent(result=sorted(s.total for s in batch)) if batch else None

    assert Two().run().result(DEADLINE) == [7, 10, 41]


def test_two_events_of_one_class_are_joined_in_the_order_they_come(flow: Flavour) -> None:
    """One parameter after the other; what is left over when the list is at its end is a dead letter."""

    class Pairs(Workflow):
        @flow.step
        async def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(5)]

        @flow.step
        async def pair(self, first: Item, second: Item) -> Sum:
            return Sum(total=10 * first.n + second.n)

        @flow.step
        async def finish(self, sums: list[Sum]) -> StopEvent:
            return StopEvent(result=sorted(s.total for s in sums))

    handler = Pairs().run()
    assert handler.result(DEADLINE) == [1, 23]
    (letter,) = handler.dead_letters()
    assert (letter.event.n, letter.step) == (4, "pair")
    assert "nothing was left" in letter.reason


def test_events_of_different_lists_are_never_joined(flow: Flavour) -> None:
    """Each inner list has its own pairs; what the inner lists lead to is joined outside."""

    class Inner(Workflow):
        @flow.step
        async def outer(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in (1, 2, 3)]

        @flow.step
        async def inner(self, ev: Item) -> list[Done | Late]:
            return [Done(n=ev.n), Late(n=ev.n)]

        @flow.step
        async def pair(self, done: Done, late: Late) -> Sum:
            assert done.n == late.n
            return Sum(total=done.n)

        @flow.step
        async def row(self, sums: list[Sum]) -> Row:
            return Row(n=sum(s.total for s in sums))

        @flow.step
        async def finish(self, rows: list[Row]) -> StopEvent:
            return StopEvent(result=sorted(row.n for row in rows))

    assert Inner().run().result(DEADLINE) == [1, 2, 3]


def test_an_event_sent_to_a_gathering_step_by_name_counts_only_if_it_is_of_the_list(flow: Flavour) -> None:
    """From a member it is gathered; from before the list it is a dead letter that says why."""

    class Sends(Workflow):
        @flow.step
        async def split(self, ctx: Context, ev: StartEvent) -> list[Item] | Done:
            ctx.send_event(Done(n=-1), step="add")
            return [Item(n=1)]

        @flow.step
        async def work(self, ctx: Context, ev: Item) -> Done | None:
            ctx.send_event(Done(n=ev.n), step="add")
            return None

        @flow.step
        async def add(self, done: list[Done]) -> StopEvent:
            return StopEvent(result=[ev.n for ev in done])

    handler = Sends().run()
    assert handler.result(DEADLINE) == [1]
    (letter,) = handler.dead_letters()
    assert letter.event.n == -1
    assert "came out of no list for 'add' to gather" in letter.reason


def test_a_branch_stays_in_its_list_while_a_question_is_open(flow: Flavour) -> None:
    """A member that returns a question waits in the list for the step that takes the answer."""

    class Asks(Workflow):
        @flow.step
        async def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in (1, 2)]

        @flow.step
        async def ask(self, ev: Item) -> InputRequiredEvent:
            return InputRequiredEvent(n=ev.n)

        @flow.step
        async def answered(self, ev: HumanResponseEvent) -> Done:
            return Done(n=ev.n)

        @flow.step
        async def add(self, done: list[Done]) -> StopEvent:
            return StopEvent(result=[ev.n for ev in done])

    handler = Asks().run()
    questions = list(islice(handler.stream_events(), 2))
    handler.respond(questions[1].input_id, HumanResponseEvent(n=20))
    handler.respond(questions[0].input_id, HumanResponseEvent(n=10))
    assert handler.result(DEADLINE) == [20, 10]


def test_a_tree_is_walked_and_gathered_from_its_leaves(flow: Flavour) -> None:
    """A step whose list leads to itself opens lists within lists; each is gathered, the innermost first."""

    class Tree(Workflow):
        @flow.step
        async def split(self, ev: StartEvent | Item) -> list[Item | Done]:
            depth = ev.n if isinstance(ev, Item) else 3
            return [Item(n=depth - 1), Item(n=depth - 1)] if depth else [Done(n=1)]

        @flow.step
        async def add(self, parts: list[Done | Sum]) -> Sum:
            return Sum(total=sum(part.n if isinstance(part, Done) else part.total for part in parts))

        @flow.step(skip_graph_checks=["dead_end"])
        async def finish(self, ev: Sum) -> StopEvent | None:
            return StopEvent(result=ev.total) if ev.total == 8 else None

    assert Tree().run().result(DEADLINE) == 8


def test_lists_lie_in_each_other_ten_thousand_deep() -> None:
    """Closing them all at once takes no stack."""

    class Deep(Workflow):
        @step
        def go(self, ev: StartEvent | Item) -> list[Item] | Done:
            depth = ev.n if isinstance(ev, Item) else 0
            return [Item(n=depth + 1)] if depth < 10_000 else Done(n=depth)

        @step
        def add(self, done: list[Done | Sum]) -> Sum:
            return Sum(total=1 + sum(d.total if isinstance(d, Sum) else 0 for d in done))

        @step(skip_graph_checks=["dead_end"])
        def finish(self, ev: Sum) -> StopEvent | None:
            return StopEvent(result=ev.total) if ev.total == 10_000 else None

    class Nothing(Workflow):
        @step
        def go(self, ev: StartEvent | Item) -> list[Item] | None:
            depth = ev.n if isinstance(ev, Item) else 0
            return [Item(n=depth + 1)] if depth < 10_000 else None

        @step
        def count(self, items: Annotated[list[Item], Collect(Take(1))], ctx: Context) -> Sum:
            return Sum(total=items[0].n)

        @step
        def finish(self, ev: Sum) -> StopEvent | None:
            return StopEvent(result="over") if ev.total == 10_000 else None

    assert Deep().run().result(DEADLINE) == 10_000
    assert Nothing().run().result(DEADLINE) == "over"


def test_what_was_sent_from_outside_may_open_a_list(flow: Flavour) -> None:
    """A step that only people start fans out like any other; an empty list is gathered there too."""

    class Asked(Workflow):
        @flow.step
        async def begin(self, ctx: Context, ev: StartEvent) -> Item | None:
            ctx.write_event_to_stream(InputRequiredEvent())
            return None

        @flow.step
        async def split(self, ev: HumanResponseEvent) -> list[Item]:
            return [Item(n=n) for n in range(ev.n)]

        @flow.step
        async def add(self, items: list[Item]) -> StopEvent:
            return StopEvent(result=len(items))

    for count in (0, 3):
        handler = Asked().run()
        handler.send_event(HumanResponseEvent(n=count))
        assert handler.result(DEADLINE) == count


def test_a_list_that_the_step_changes_later_is_sent_as_it_was_returned(flow: Flavour) -> None:
    """The same list twice, and an event in it many times: each counts."""
    shared: list[Item] = []

    class Shared(Workflow):
        @flow.step
        async def split(self, ctx: Context, ev: StartEvent | Late) -> list[Item] | Late:
            if isinstance(ev, StartEvent):
                ctx.send_event(Late(n=1), delay=0.001)
            shared.extend([Item(n=1)] * 3)
            return shared

        @flow.step
        async def add(self, items: list[Item]) -> Sum:
            return Sum(total=len(items))

        @flow.step
        async def finish(self, ctx: Context, ev: Sum) -> StopEvent | None:
            batch = await flow(ctx.collect_events(ev, {Sum: 2}))
            return StopEvent(result=[s.total for s in batch]) if batch else None

    assert Shared().run().result(DEADLINE) == [3, 6]


def test_a_list_goes_through_a_cycle_again_and_again(flow: Flavour) -> None:
    """What gathers it may lead back to the step that returns it."""

    class Rounds(Workflow):
        @flow.step
        async def split(self, ev: StartEvent | Done) -> list[Item]:
            return [Item(n=ev.n if isinstance(ev, Done) else 0)] * 3

        @flow.step
        async def add(self, items: list[Item]) -> Done | StopEvent:
            return Done(n=items[0].n + 1) if items[0].n < 50 else StopEvent(result=(items[0].n, len(items)))

    assert Rounds().run().result(DEADLINE) == (50, 3)


def test_a_list_ends_no_run_and_its_end_is_no_event_of_it(flow: Flavour) -> None:
    """Where the annotation lets a stop event through, the step fails; a list where none is declared fails as well."""

    class Stops(Workflow):
        @flow.step
        async def split(self, ev: StartEvent) -> list[Event] | StopEvent:
            return [Item(n=1), StopEvent()]

        @flow.step
        async def add(self, items: list[Item]) -> StopEvent:
            return StopEvent()

    class NoList(Workflow):
        @flow.step
        async def split(self, ev: StartEvent) -> StopEvent:
            return [StopEvent()]

    with pytest.raises(WorkflowRuntimeError, match="item 1 is a StopEvent, which ends the run: return it alone"):
        Stops().run().result(DEADLINE)
    with pytest.raises(WorkflowRuntimeError, match="returned an instance of list, but declares -> StopEvent; annotate"):
        NoList().run().result(DEADLINE)


def test_a_run_that_lacks_a_part_of_a_join_says_so(flow: Flavour) -> None:
    """A join outside of all lists waits for ever: the run is stuck, and names it."""

    class Lacks(Workflow):
        @flow.step
        async def begin(self, ev: StartEvent) -> Item | Done | None:
            return Item(n=1)

        @flow.step
        async def pair(self, item: Item, done: Done) -> StopEvent:
            return StopEvent()

    with pytest.raises(WorkflowStuckError, match=r"the join 'pair' holds 1 and lacks 1 Done|'pair' holds 1 and lacks"):
        Lacks().run().result(DEADLINE)


def test_a_step_may_collect_under_any_name_beside_its_join(flow: Flavour) -> None:
    """What it collects itself and what waits to be joined do not mix."""

    class Both(Workflow):
        @flow.step
        async def begin(self, ctx: Context, ev: StartEvent) -> Item | Done | None:
            for n in range(4):
                ctx.send_event(Item(n=n))
                ctx.send_event(Done(n=n))
            return None

        @flow.step(num_workers=1)
        async def pair(self, ctx: Context, item: Item, done: Done) -> StopEvent | None:
            for name in ("join", "None", "0"):
                batch = await flow(ctx.collect_events(item, {Item: 4}, buffer_id=name))
            return StopEvent(result=[ev.n for ev in batch]) if batch else None

    assert Both().run().result(DEADLINE) == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_cancelled_run_goes_on_in_the_middle_of_its_list(kind: str) -> None:
    """With the live context: members that lay in the list stay there, the others run again."""
    flow = Flavour(kind)
    gates = [threading.Event(), threading.Event()]
    arrived = threading.Event()

    class Halves(Workflow):
        @flow.step
        async def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(4)]

        @flow.step
        async def work(self, ev: Item) -> Done:
            if ev.n >= 2:
                await flow.until(gates[0])
            return Done(n=ev.n)

        @flow.step(num_workers=1, skip_graph_checks=["dead_end"])
        async def look(self, ctx: Context, ev: Done) -> None:
            if await flow(ctx.collect_events(ev, {Done: 2})):
                arrived.set()

        @flow.step
        async def add(self, done: list[Done]) -> StopEvent:
            return StopEvent(result=sorted(ev.n for ev in done))

    workflow = Halves()
    handler = workflow.run()
    assert arrived.wait(DEADLINE)
    saved = handler.ctx.snapshot()
    handler.cancel_run()
    with pytest.raises(WorkflowCancelledByUser):
        handler.result(DEADLINE)
    gates[0].set()
    assert workflow.run(ctx=handler.ctx).result(DEADLINE) == [0, 1, 2, 3]
    assert workflow.run(ctx=Context.restore(workflow, saved)).result(DEADLINE) == [0, 1, 2, 3]


def test_a_member_that_never_returns_does_not_keep_a_run_from_its_end(flow: Flavour) -> None:
    """Another step returns the stop event; what lay in the list is accounted for."""
    never = threading.Event()

    class Ends(Workflow):
        @flow.step
        async def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(2)]

        @flow.step
        async def work(self, ev: Item) -> Done:
            if ev.n == 0:
                await flow.until(never)
            return Done(n=ev.n)

        @flow.step
        async def look(self, ev: Done) -> StopEvent | None:
            return StopEvent(result="ended") if ev.n == 1 else None

        @flow.step
        async def add(self, done: list[Done]) -> StopEvent:
            return StopEvent(result="gathered")

    try:
        handler = Ends().run()
        assert handler.result(DEADLINE) == "ended"
        assert [(letter.event.n, letter.step) for letter in handler.dead_letters()] == [(1, "add")]
    finally:
        never.set()


def test_members_that_wait_may_give_their_threads_up_and_are_gathered() -> None:
    """With two threads for bodies that wait and ten members that do."""

    class Waits(Workflow):
        @step
        def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(10)]

        @step(num_workers=10)
        def work(self, ctx: Context, ev: Item) -> Done:
            return Done(n=ev.n + ctx.ask(InputRequiredEvent(of=ev.n), HumanResponseEvent).n)

        @step
        def add(self, done: list[Done]) -> StopEvent:
            return StopEvent(result=sorted(ev.n for ev in done))

    with Runtime(max_parked=2):
        handler = Waits().run()
        questions = list(islice(handler.stream_events(), 10))
        for question in questions:
            handler.respond(question.input_id, HumanResponseEvent(n=100))
        assert handler.result(DEADLINE) == list(range(100, 110))


def test_a_member_that_takes_too_long_fails_or_is_made_up_for(flow: Flavour) -> None:
    """Its place in the list is taken by what its `@catch_error` step returns."""
    hold = threading.Event()

    class Slow(Workflow):
        @flow.step
        async def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(3)]

        @flow.step
        async def work(self, ev: Item) -> Done | Late:
            return Late(n=1) if ev.n == 1 else Done(n=ev.n)

        @flow.step(timeout=0.02)
        async def hang(self, ev: Late) -> Done:
            await flow.until(hold)
            return Done(n=ev.n)

        @flow.catch_error
        async def mend(self, ev: StepFailedEvent) -> Done:
            return Done(n=10 + ev.input_event.n)

        @flow.step
        async def add(self, done: list[Done]) -> StopEvent:
            return StopEvent(result=sorted(ev.n for ev in done))

    try:
        assert Slow().run().result(DEADLINE) == [0, 2, 11]
    finally:
        hold.set()


def test_a_list_that_may_be_none_is_taken_as_a_list() -> None:
    """`list[E] | None` says nothing more: the step is given a list."""

    class Optional(Workflow):
        @step
        def begin(self, ev: StartEvent) -> list[Item]:
            return [Item(n=1)]

        @step
        def add(self, items: Annotated[list[Item] | None, Collect(Take(1))]) -> StopEvent:
            return StopEvent(result=[ev.n for ev in items or []])

    assert Optional().run().result(DEADLINE) == [1]


def test_without_validation_a_list_that_nobody_returns_is_never_gathered(flow: Flavour) -> None:
    """Its events are accounted for, and the run says that it is stuck."""

    class Odd(Workflow):
        @flow.step
        async def begin(self, ev: StartEvent) -> Item:
            return Item(n=1)

        @flow.step
        async def add(self, items: list[Item]) -> StopEvent:
            return StopEvent()

    handler = Odd(disable_validation=True).run()
    with pytest.raises(WorkflowStuckError, match="came out of no list for 'add' to gather"):
        handler.result(DEADLINE)


class Corrupted(Workflow):
    """Two lists within each other and a join, of which members wait."""

    @step
    def rows(self, ev: StartEvent) -> list[Row]:
        return [Row(n=1)]

    @step
    def split(self, ev: Row) -> list[Item]:
        return [Item(n=n) for n in range(3)]

    @step
    def work(self, ev: Item, ctx: Context) -> Done:
        if ev.n:
            ctx.ask(InputRequiredEvent(), HumanResponseEvent)
        return Done(n=ev.n)

    @step
    def add(self, done: list[Done]) -> Late:
        return Late(n=len(done))

    @step
    def end(self, all: list[Late]) -> StopEvent:
        return StopEvent(result=[late.n for late in all])

    @step(skip_graph_checks=["dead_end"], retry_policy=retry_policy(wait=wait_fixed(10), stop=stop_after_attempt(2)))
    def pair(self, ctx: Context, done: Done, item: Item) -> None:
        if not ctx.retry_info().retry_number:
            raise ValueError("tried again later")


def _corruptions() -> list[Any]:
    """Changes that make of a good document one that cannot be."""

    def in_fan_out(index: int, **fields: Any) -> Any:
        return lambda document: document["fan_outs"][index].update(fields)

    def in_invocations(**fields: Any) -> Any:
        return lambda document: [invocation.update(fields) for invocation in document["invocations"]]

    def released(document: Any) -> Any:
        (invocation,) = [item for item in document["invocations"] if item["step"] == "pair"]
        return invocation

    return [
        pytest.param(change, id=name)
        for name, change in {
            "an outer fan-out that is none": in_fan_out(1, outer=[{}, 7]),
            "a fan-out in itself": in_fan_out(0, outer=[{}, 0]),
            "a cycle": in_fan_out(0, outer=[{}, 1]),
            "a negative number": in_fan_out(0, number=-1),
            "a number twice": in_fan_out(1, number=0),
            "a number still to be given": in_fan_out(1, number=99),
            "the wrong order": lambda document: document["fan_outs"].reverse(),
            "no such producer": in_fan_out(0, producer="nobody"),
            "gathered for no such step": in_fan_out(0, gathered={"nobody": [[], {}]}),
            "gathered for a plain step": in_fan_out(0, gathered={"work": [[], {}]}),
            "gathered for a join": in_fan_out(0, gathered={"pair": [[], {}]}),
            "gathered no events": in_fan_out(0, gathered={"add": [[1], {}]}),
            "gathered nothing at all": in_fan_out(0, gathered={"add": None}),
            "a negative budget": in_fan_out(1, outer=[{"work": -1}, 0]),
            "a budget of nobody": in_fan_out(1, outer=[{"nobody": 1}, 0]),
            "served no such step": in_fan_out(0, served=["nobody"]),
            "served and gathering": in_fan_out(1, served=["add"]),
            "no fan-outs": lambda document: document["fan_outs"].clear(),
            "fan-outs that are no list": lambda document: document.update(fan_outs=3),
            "a member of no such fan-out": in_invocations(lineage=[{}, 5]),
            "nobody in the fan-outs": in_invocations(lineage=None),
            "a lineage that is none": in_invocations(lineage="first"),
            "a lineage without a fan-out": in_invocations(lineage=[{}]),
            "one event for a step that joins": lambda d: released(d).update(
                event=released(d)["event"]["fields"]["events"][0]
            ),
            "too few events for a join": lambda d: released(d)["event"]["fields"]["events"].pop(),
            "a join of no such fan-out": lambda d: d["buffers"][0].__setitem__(1, 9),
            "a join that is no join": lambda d: d["buffers"][0].__setitem__(0, "add"),
            "a join that joins nothing": lambda d: d["buffers"][0].__setitem__(2, [3]),
        }.items()
    ]


@pytest.fixture(scope="module")
def good_document() -> str:
    with SeededRuntime(1) as runtime:
        handler = Corrupted().run()
        runtime.run_until_idle()
        return json.dumps(handler.ctx.to_dict())


def test_the_document_that_is_corrupted_is_good(good_document: str) -> None:
    """As it stands it goes on to the end."""
    with SeededRuntime(2) as runtime:
        workflow = Corrupted()
        handler = workflow.run(ctx=Context.from_dict(workflow, json.loads(good_document)))
        runtime.run_until_idle()
        for question in handler.pending_inputs():
            handler.respond(question.input_id, {})
        runtime.run_until_idle()
        assert handler.result() == [3]


@pytest.mark.parametrize("change", _corruptions())
def test_a_document_whose_fan_outs_cannot_be_is_refused(good_document: str, change: Any) -> None:
    """With a ContextSerdeError, and not later, when the run goes on."""
    document = json.loads(good_document)
    change(document)
    workflow = Corrupted()
    with pytest.raises(ContextSerdeError):
        Context.from_dict(workflow, document)

"""Fan-out and fan-in by type: a step that returns a list, and steps that take lists or one event of each kind."""

import threading
from typing import Annotated, Any

import pytest

from greenroom import All, Collect, Context, Event, HumanResponseEvent, StartEvent, StopEvent, Take, Workflow, step
from greenroom.errors import WorkflowRuntimeError, WorkflowValidationError
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
    from greenroom.retry import retry_policy, stop_after_attempt, wait_none

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

    for workflow, message in [
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

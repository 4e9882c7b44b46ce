"""The rules by which a tree of runs only waits, is put away and goes on, without threads."""

from __future__ import annotations

from typing import Any

import pytest

from greenroom import StartEvent, StopEvent
from greenroom.checkpoint import dump_checkpoint, load_checkpoint
from greenroom.child_facts import ChildAsked, ChildAwaited, ForChild
from greenroom.codec import TypeRegistry
from greenroom.errors import StepPassivated
from greenroom.events import Event, HumanResponseEvent, InputRequiredEvent
from greenroom.facts import Caller, EventSent, PassivateAsked, Recovered, Responded, WaitAsked
from greenroom.graph import Graph
from greenroom.named import registry_for
from greenroom.past_graph import PastGraphs
from greenroom.retry import retry_policy, stop_after_attempt, wait_fixed
from greenroom.run_state import RunState, live_bodies
from greenroom.state import StoreCall
from tests.support.core import Play, make_spec


class Mid(Event):
    n: int = 0


POLICY = retry_policy(wait=wait_fixed(30), stop=stop_after_attempt(3))
LEAF = Graph("Leaf", [make_spec("leaf", StartEvent, retry_policy=POLICY)])
BRANCH = Graph("Branch", [make_spec("branch", StartEvent), make_spec("take", Mid)])


class Tree(Play):
    """A run whose step has begun a branch, whose step has begun a leaf. Facts are told as the steps of any of them."""

    def __init__(self, timeout: float | None = None, leaf_timeout: float | None = None) -> None:
        super().__init__(make_spec("root", StartEvent, retry_policy=POLICY), timeout=timeout)
        self.leaf_timeout = leaf_timeout
        self.start(StartEvent())
        self.grow()

    def grow(self) -> None:
        """Begin the runs within the run, or come by them again."""
        self.begin_child("root", "b", BRANCH, StartEvent())
        self.begin_in("branch", "l", LEAF, timeout=self.leaf_timeout)

    def at(self, step: str) -> tuple[tuple[str, ...], Any]:
        """Return where a body is at work, and its start."""
        found = [(path, start) for path, start in self.in_children if start.invocation.spec.name == step]
        return found[-1] if found else ((), self.first(step))

    def tell(self, step: str, kind: Any, *fields: Any) -> Any:
        """Have a body tell a fact that begins with its invocation and attempt; return what is answered there."""
        path, start = self.at(step)
        fact = kind(start.invocation.number, start.attempt, *fields)
        if hasattr(fact, "asker"):
            fact.asker = self._askers = self._askers + 1
        self.apply(ForChild(path, fact) if path else fact)
        return getattr(fact, "asker", None)

    def begin_in(self, step: str, name: str, graph: Graph, timeout: float | None = None) -> None:

        self.tell(step, ChildAsked, name, name, graph, StartEvent(), timeout, "fail", object(), None)

    def await_in(self, step: str, name: str) -> Any:

        return self.tell(step, ChildAwaited, name)

    def ask_in(self, step: str, timeout: float | None = None) -> Any:
        return self.tell(step, WaitAsked, "q", HumanResponseEvent, {}, timeout, InputRequiredEvent(), True)

    def all_wait(self, timeout: float | None = None) -> None:
        """Have the leaf ask, and the others wait for each other."""
        self.ask_in("leaf", timeout)
        self.await_in("branch", "l")
        self.await_child("root", "b")

    def lose(self) -> None:
        """Have the process die and another go on."""
        self.in_flight.clear()
        self.in_children.clear()
        self.timers.clear()
        self.apply(Recovered(self.now))

    def saved(self) -> RunState:
        """Return the run as its checkpoint has it."""
        graphs = [self.state.graph, BRANCH, LEAF]
        registry: TypeRegistry = registry_for(*graphs)
        state, _ = load_checkpoint(
            self.state.graph,
            dump_checkpoint(self.state, self.now, registry),
            registry,
            timeout=self.state.timeout,
            on_stuck="fail",
            within=PastGraphs(graphs, registry),
        )
        return state


def test_a_tree_only_waits_when_all_its_runs_do() -> None:
    """One of them at work is enough for it not to."""
    tree = Tree()
    assert not tree.state.only_waits
    tree.await_child("root", "b")
    tree.await_in("branch", "l")
    assert not tree.state.only_waits
    tree.ask_in("leaf")
    assert tree.state.only_waits
    assert tree.state.is_quiet


@pytest.mark.parametrize("read", [False, True])
def test_a_tree_whose_leaf_is_in_the_delay_before_a_retry_only_waits(read: bool) -> None:
    """It is at work all the same, and goes on by itself; a checkpoint knows it too."""
    tree = Tree()
    tree.await_child("root", "b")
    tree.await_in("branch", "l")
    tree.fail_in_child("leaf", ValueError())
    if read:
        tree.state = tree.saved()
    assert tree.state.only_waits
    assert tree.state.is_at_work
    assert not tree.state.spends_time
    assert tree.state.next_due() == 30
    tree.advance(30)
    assert not tree.state.only_waits
    assert [start.invocation.spec.name for _, start in tree.in_children][-1] == "leaf"


@pytest.mark.parametrize("options", [{"timeout": 100.0}, {"leaf_timeout": 100.0}])
def test_a_timeout_counts_the_delay_before_a_retry(options: Any) -> None:
    """That of the run as that of the one within which it is; a question to a person is counted by none."""
    tree = Tree(**options)
    tree.await_child("root", "b")
    tree.await_in("branch", "l")
    tree.fail_in_child("leaf", ValueError())
    assert tree.state.only_waits
    assert tree.state.spends_time
    tree.advance(30)
    tree.ask_in("leaf")
    assert tree.state.only_waits
    assert not tree.state.spends_time


def test_a_tree_is_due_with_the_first_timer_of_any_of_its_runs() -> None:
    """A wait's end, an event that was sent with a delay."""
    tree = Tree()
    tree.tell("branch", EventSent, Mid(), None, 70.0)
    tree.all_wait(timeout=90.0)
    assert tree.state.next_due() == 70
    assert tree.saved().next_due() == 70
    tree.advance(70)
    assert tree.state.next_due() == 90


def test_a_run_whose_step_is_to_begin_again_first_is_due_with_that() -> None:
    """In the delay before its step's retry nobody could go on with it, had the process died."""
    tree = Tree()
    tree.ask_in("leaf", 10.0)
    tree.await_in("branch", "l")
    tree.fail("root", ValueError())
    assert tree.state.only_waits
    assert tree.state.next_due() == 30
    tree.lose()
    assert tree.state.next_due() == 30
    tree.advance(30)
    tree.grow()
    assert tree.state.next_due() == 10  # It is over; the timer that was set is due at once.


def unwind(tree: Tree) -> None:
    for path, invocation in live_bodies(tree.state):
        unwound = PassivateAsked(invocation.number, invocation.attempt)
        tree.apply(ForChild(path, unwound) if path else unwound)


def test_all_bodies_of_a_tree_that_waits_can_be_unwound() -> None:
    """Whoever stands there is told so; the tree waits on, and its questions stay open."""
    tree = Tree()
    tree.all_wait()
    assert [path for path, _ in live_bodies(tree.state)] == [(), ("b",), ("b", "l")]
    unwind(tree)
    assert live_bodies(tree.state) == []
    assert not tree.in_flight
    assert not tree.in_children
    assert all(type(error) is StepPassivated for ((_, error),) in tree.answers.values())
    assert tree.state.only_waits
    assert tree.saved().only_waits


def test_a_child_that_ends_while_its_parent_is_unwound_begins_it_again() -> None:
    """The step comes by its child, and is given its result."""
    tree = Tree()
    tree.await_child("root", "b")
    tree.await_in("branch", "l")
    unwind(tree)
    assert [start.invocation.spec.name for _, start in tree.in_children] == ["leaf"]
    tree.finish_in_child("leaf", StopEvent(result=5))
    assert [start.invocation.spec.name for _, start in tree.in_children] == ["branch"]
    tree.begin_in("branch", "l", LEAF)
    assert tree.answers[tree.await_in("branch", "l")] == [(5, None)]
    tree.finish_in_child("branch", StopEvent(result=6))
    assert tree.answers[tree.await_child("root", "b")] == [(6, None)]


@pytest.mark.parametrize("answered", ["before", "after"])
def test_what_only_waits_in_a_child_is_not_begun_again(answered: str) -> None:
    """Its step has a body again when its wait has ended, also if that was before its parent had come by."""
    tree = Tree()
    tree.all_wait()
    (question,) = tree.state.children["b"].run.children["l"].run.inputs.open
    tree.lose()
    answer = Responded(question, HumanResponseEvent(n=1))
    if answered == "before":
        tree.apply(answer)
    tree.begin_child("root", "b", BRANCH, StartEvent())
    tree.await_child("root", "b")
    assert [start.invocation.spec.name for _, start in tree.in_children] == ["branch"]
    tree.begin_in("branch", "l", LEAF)
    tree.await_in("branch", "l")
    if answered == "after":
        assert tree.state.only_waits
        assert [start.invocation.spec.name for _, start in tree.in_children] == ["branch"]
        tree.apply(answer)
    assert [start.invocation.spec.name for _, start in tree.in_children] == ["branch", "leaf"]
    assert [value.n for value, _ in tree.answers[tree.ask_in("leaf")]] == [1]


def test_the_time_that_a_child_has_worked_counts_on() -> None:
    """Its timeout does not begin anew when another process goes on with it."""
    tree = Tree(leaf_timeout=100.0)
    tree.await_child("root", "b")
    tree.await_in("branch", "l")
    tree.advance(60)
    tree.lose()
    tree.grow()
    assert tree.timers["child", "b", "child", "l", "run"] == 100
    tree.lose()
    tree.grow()
    tree.ask_in("leaf")
    assert not [key for key in tree.timers if key[-1] == "run"]


def test_an_edit_of_a_child_is_dropped_with_the_body_that_made_it() -> None:
    """Its state can be edited again."""
    tree = Tree()
    path, start = tree.at("leaf")
    owner = Caller(start.invocation.number, start.attempt)
    tree.apply(ForChild(path, StoreCall("begin_edit", (), owner)))
    tree.state = tree.saved()
    leaf = tree.state.children["b"].run.children["l"].run
    assert leaf.store.is_contended
    tree.lose()
    tree.grow()
    leaf = tree.state.children["b"].run.children["l"].run
    assert not leaf.store.is_contended

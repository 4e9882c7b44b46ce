"""The rules for children, without threads: what goes to a child, what comes out of it, and what its parent keeps."""

from __future__ import annotations

from greenroom import StartEvent, StopEvent, WorkflowCancelledByUser, WorkflowStuckError
from greenroom.child_facts import ForChild
from greenroom.events import Event, StepState, WorkflowIdleEvent
from greenroom.facts import EventSent
from greenroom.graph import Graph
from greenroom.retry import retry_policy, stop_after_attempt, wait_fixed
from greenroom.run_state import all_dead_letters, of_child, read_note
from tests.support.core import Play, make_spec


class Mid(Event):
    n: int = 0


SIMPLE = Graph("Simple", [make_spec("work", StartEvent)])
LONGER = Graph("Longer", [make_spec("first", StartEvent, returns=(Mid,)), make_spec("last", Mid)])


def begun(*graphs: Graph, **options: object) -> Play:
    """A run whose step has begun a child of each graph, named a, b, ..."""
    play = Play(make_spec("parent", StartEvent), **options)
    play.start(StartEvent())
    for name, graph in zip("abcdef", graphs, strict=False):
        play.begin_child("parent", name, graph, StartEvent(n=name))
    return play


def test_a_child_is_begun_once_however_often_it_is_asked_for() -> None:
    """The second call finds the first one's child."""
    play = begun(SIMPLE)
    play.begin_child("parent", "a", SIMPLE, StartEvent(n="again"))
    assert [(path, start.invocation.event.n) for path, start in play.in_children] == [(("a",), "a")]


def test_who_waits_is_parked_until_the_child_ends() -> None:
    """Its worker is free meanwhile, and the run is not at rest, since the child is at work."""
    play = begun(SIMPLE)
    asker = play.await_child("parent", "a")
    assert play.state.parked == 1
    assert not play.state.is_quiet
    play.finish_in_child("work", StopEvent(result=3))
    assert play.answers[asker] == [(3, None)]
    assert play.state.parked == 0
    assert play.child_stream == [(("a",), StopEvent(result=3))]
    assert play.published == []


def test_the_result_of_one_that_has_ended_is_answered_at_once_and_again() -> None:
    """From the log, as often as it is asked for."""
    play = begun(SIMPLE)
    play.finish_in_child("work", StopEvent(result=3))
    assert play.answers[play.await_child("parent", "a")] == [(3, None)]
    assert play.answers[play.await_child("parent", "a")] == [(3, None)]


def test_an_event_goes_its_way_within_the_child() -> None:
    """It is routed by the child's graph, and seen by no step of the parent."""
    play = begun(LONGER)
    play.finish_in_child("first", Mid(n=1))
    assert [(path, start.invocation.spec.name) for path, start in play.in_children] == [(("a",), "last")]
    assert [name for name, _ in play.running()] == ["parent"]


def test_the_wait_for_all_ends_with_the_last() -> None:
    """It answers nothing: nobody asked for a result."""
    play = begun(SIMPLE, SIMPLE)
    asker = play.await_child("parent", None)
    play.finish_in_child("work", StopEvent(result=1))
    assert asker not in play.answers
    play.finish_in_child("work", StopEvent(result=2))
    assert play.answers[asker] == [(None, None)]


def test_the_wait_for_all_ends_with_the_first_that_fails() -> None:
    """Unless its failure was told before."""
    error = LookupError("gone")
    play = begun(SIMPLE, SIMPLE, SIMPLE)
    told = play.await_child("parent", "a")
    play.fail_in_child("work", error)
    assert play.answers[told][0][1] is error
    asker = play.await_child("parent", None)
    assert asker not in play.answers
    play.fail_in_child("work", error)
    assert play.answers[asker][0][1] is error


def test_a_wait_for_no_child_that_is_not_told_is_answered_at_once() -> None:
    """As at the end of a step that has asked for every result."""
    play = begun(SIMPLE)
    play.finish_in_child("work", StopEvent())
    play.await_child("parent", "a")
    assert play.answers[play.await_child("parent", None)] == [(None, None)]
    assert play.state.parked == 0


def test_a_retry_begins_anew_what_failed_and_keeps_the_rest() -> None:
    """Questions of the new child begin with another origin, so that no id comes twice."""
    policy = retry_policy(wait=wait_fixed(1), stop=stop_after_attempt(3))
    play = Play(make_spec("parent", StartEvent, retry_policy=policy))
    play.start(StartEvent())
    for name in "ab":
        play.begin_child("parent", name, SIMPLE, StartEvent(n=name))
    play.finish_in_child("work", StopEvent(result=1))
    error = LookupError("gone")
    play.fail_in_child("work", error)
    play.await_child("parent", "b")
    play.fail("parent", error)
    play.advance(1)
    for name in "ab":
        play.begin_child("parent", name, SIMPLE, StartEvent(n=name))
    assert [path for path, _ in play.in_children] == [("b",)]
    assert play.state.children["b"].run.origin == "run-1/b~1"
    assert play.answers[play.await_child("parent", "a")] == [(1, None)]


def test_the_end_of_the_parent_ends_the_child_first() -> None:
    """Its bodies are cancelled, its timers dropped, and what it had before it is accounted for."""
    play = begun(LONGER)
    path, start = play.in_children[0]
    play.apply(ForChild(path, EventSent(start.invocation.number, start.attempt, Mid(n=7), None, 50.0)))
    assert ("child", "a", "delayed", 0) in play.timers
    play.finish("parent", StopEvent(result=1))
    assert play.in_children == []
    assert play.letters == [(Mid(n=7), "in run 'a': the run ended before its delay was over")]
    assert play.outcome is not None
    assert play.state.children == {}
    late = ForChild(path, EventSent(start.invocation.number, start.attempt, Mid(n=8), None, None))
    play.apply(late)
    assert play.letters[-1] == (Mid(n=8), "it was sent after the run had ended")


def test_the_timers_of_a_child_that_ends_are_dropped() -> None:
    """Nothing of it is left in the clock."""
    play = Play(make_spec("parent", StartEvent))
    play.start(StartEvent())
    play.begin_child("parent", "a", SIMPLE, StartEvent(), timeout=30.0)
    assert list(play.timers) == [("child", "a", "run")]
    play.finish_in_child("work", StopEvent())
    assert play.timers == {}


def test_a_cancelled_child_raises_and_is_no_failure() -> None:
    """The step knows what it has done."""
    play = begun(SIMPLE)
    play.cancel_child("parent", "a")
    assert play.in_children == []
    ((_, error),) = play.answers[play.await_child("parent", "a")]
    assert isinstance(error, WorkflowCancelledByUser)
    assert play.answers[play.await_child("parent", None)] == [(None, None)]


def test_the_clock_of_the_parent_goes_on_while_a_child_works() -> None:
    """And ends both."""
    play = begun(SIMPLE, timeout=10.0)
    play.await_child("parent", "a")
    play.advance(11)
    assert play.outcome is not None
    assert play.outcome.status == "timed_out"
    assert play.outcome.event.active_steps == ["Simple.work"]


def test_a_child_that_rests_for_good_is_stuck_while_its_parent_waits() -> None:
    """The parent itself is not: its wait has been answered by then."""
    play = begun(LONGER)
    asker = play.await_child("parent", "a")
    play.finish_in_child("first", None)
    play.rest()
    ((_, error),) = play.answers[asker]
    assert isinstance(error, WorkflowStuckError)
    assert play.outcome is None


def test_rest_is_seen_once_by_each_child_that_something_happened_to() -> None:
    """A child that waits is not asked again at every rest of its parent."""
    graph = Graph("Patient", [make_spec("work", StartEvent)])
    play = Play(make_spec("parent", StartEvent))
    play.start(StartEvent())
    play.begin_child("parent", "a", graph, StartEvent(), on_stuck="wait")
    play.finish_in_child("work", None)
    assert list(play.state.touched) == ["a"]
    play.rest()
    play.rest()
    assert not play.state.touched
    told = [note for note in play.state.notes if note[1] is of_child]
    assert [type(read_note(note)) for note in told].count(WorkflowIdleEvent) == 1


def test_internal_events_of_a_child_stand_between_what_it_publishes() -> None:
    """Each note says how many events of the run, and of its children, came before it."""
    play = begun(SIMPLE)
    play.finish_in_child("work", StopEvent())
    told = [(note[0], read_note(note)) for note in play.state.notes if note[1] is of_child]
    assert [(place, event.step_state) for place, event in told] == [
        ((0, 0), StepState.RUNNING),
        ((0, 0), StepState.NOT_RUNNING),
    ]
    assert play.state.place == (0, 1)


def test_dead_letters_of_a_child_that_goes_on_are_listed_with_its_parents() -> None:
    """With the run named."""
    play = begun(LONGER)
    path, start = play.in_children[0]
    play.apply(ForChild(path, EventSent(start.invocation.number, start.attempt + 1, Mid(n=1), None, None)))
    assert [letter.reason for letter in all_dead_letters(play.state)] == [
        "in run 'a': it was sent by an attempt that had been given up"
    ]

"""The rules of a run, one example each, with the actors played by the test."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from greenroom.effects import CancelInvocation, Finish, Publish, SetTimer, StartInvocation
from greenroom.errors import (
    ContextStateError,
    RuntimeShutdownError,
    StepCancelled,
    StepTimeoutError,
    WorkflowCancelledByUser,
    WorkflowRuntimeError,
    WorkflowStuckError,
    WorkflowTimeoutError,
)
from greenroom.events import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StepState,
    StepStateChanged,
    StopEvent,
    UnhandledEvent,
    WorkflowCancelledEvent,
    WorkflowFailedEvent,
    WorkflowIdleEvent,
    WorkflowTimedOutEvent,
)
from greenroom.facts import (
    Caller,
    CancelAsked,
    CollectAsked,
    Crashed,
    DrainAsked,
    EventArrived,
    EventSent,
    EventWritten,
    Failed,
    Finished,
    RunResumed,
    RunStarted,
    TimerFired,
)
from greenroom.graph import Graph
from greenroom.retry import RetryInfo, retry_policy, stop_after_attempt, wait_fixed
from greenroom.run_state import MAX_DEAD_LETTERS, MAX_NOTES, RunState, read_note
from greenroom.state import UNSET, StoreCall
from tests.support.core import WALL, Play, make_spec


class Base(Event):
    n: int = 0


class Left(Base):
    pass


class LowerLeft(Left):
    pass


class Right(Base):
    pass


class Done(StopEvent):
    total: int = 0


class Question(InputRequiredEvent):
    pass


class Reply(HumanResponseEvent):
    text: str = ""


def twice(delay: float = 2.0, attempts: int = 3) -> Any:
    return retry_policy(wait=wait_fixed(delay), stop=stop_after_attempt(attempts))


START = make_spec("begin", StartEvent)


def begun(*specs: Any, **options: Any) -> Play:
    """Return a run whose first step is at work."""
    play = Play(START, *specs, **options)
    play.start(StartEvent())
    return play


def names(play: Play) -> list[str]:
    return [name for name, _ in play.running()]


def numbers(play: Play) -> list[int]:
    return [event.n for _, event in play.running() if isinstance(event, Base)]


# -- routing -----------------------------------------------------------------------------------------------------------


def test_an_event_goes_to_every_step_that_takes_its_class_in_alphabetical_order() -> None:
    """Broadcast: each taker gets its own invocation of the same object, by name of the step."""
    play = begun(make_spec("c", Left), make_spec("a", Left), make_spec("b", Right))
    event = Left()
    play.send("begin", event)
    assert play.running()[1:] == [("a", event), ("c", event)]
    assert all(start.invocation.event is event for start in play.in_flight[1:])


def test_the_nearest_class_takes_an_event_and_farther_ones_do_not() -> None:
    """A step for the class itself hides the steps for its bases."""
    play = begun(make_spec("any", Base), make_spec("left", Left))
    play.send("begin", LowerLeft())
    play.send("begin", Right())
    assert names(play)[1:] == ["left", "any"]


def test_an_event_addressed_to_a_step_goes_to_that_step_alone() -> None:
    """`step=` overrides routing, also where a nearer class has a taker."""
    play = begun(make_spec("any", Base), make_spec("left", Left), make_spec("also", Left))
    play.send("begin", Left(), step="any")
    assert names(play)[1:] == ["any"]


def test_what_a_step_sends_comes_before_what_it_returns() -> None:
    """Sent events are delivered in order, and the returned one last."""
    play = begun(make_spec("work", Left, num_workers=1))
    begin = play.first("begin")
    for n in (1, 2):
        play.send(begin, Left(n=n))
    play.finish(begin, Left(n=3))
    seen = []
    while play.in_flight:
        seen += numbers(play)
        play.finish("work")
    assert seen == [1, 2, 3]


# -- queues and workers ------------------------------------------------------------------------------------------------


def test_a_step_runs_no_more_than_its_workers_and_the_rest_wait_in_order() -> None:
    """The queue of a step is first in, first out."""
    play = begun(make_spec("work", Left, num_workers=2))
    for n in range(5):
        play.send("begin", Left(n=n))
    assert numbers(play) == [0, 1]
    play.finish(play.in_flight[2])
    assert numbers(play) == [0, 2]
    play.finish(play.in_flight[1])
    assert numbers(play) == [2, 3]


def test_a_worker_has_the_smallest_free_number() -> None:
    """Numbers count from 0, and the smallest that is free is taken."""
    play = begun(make_spec("work", Left, num_workers=3))
    for n in range(3):
        play.send("begin", Left(n=n))
    works = play.in_flight[1:]
    assert [start.invocation.worker for start in works] == [0, 1, 2]
    play.finish(works[1])
    play.finish(works[0])
    play.send("begin", Left())
    play.send("begin", Left())
    assert [start.invocation.worker for start in play.in_flight[2:]] == [0, 1]


def test_a_queued_invocation_takes_the_number_of_the_worker_that_got_free() -> None:
    """A worker that ends goes on with the next in the queue."""
    play = begun(make_spec("work", Left, num_workers=2))
    for n in range(3):
        play.send("begin", Left(n=n))
    play.finish(play.in_flight[2])
    assert play.in_flight[-1].invocation.worker == 1


def test_internal_notes_tell_the_life_of_an_invocation() -> None:
    """Queued, running, ended: with the worker's number, and the classes in and out."""
    play = begun(make_spec("work", Left, num_workers=1))
    play.send("begin", Left())
    play.send("begin", Left())
    play.finish("work", Right())
    told = [read_note(note) for note in play.state.notes]
    assert [(n.name, n.step_state, n.worker_id) for n in told if isinstance(n, StepStateChanged)] == [
        ("begin", StepState.RUNNING, "0"),
        ("work", StepState.RUNNING, "0"),
        ("work", StepState.PREPARING, "<enqueued>"),
        ("work", StepState.NOT_RUNNING, "0"),
        ("work", StepState.RUNNING, "0"),
    ]
    ended = told[3]
    assert isinstance(ended, StepStateChanged)
    assert (ended.input_event_name, ended.output_event_name) == ("Left", "Right")


def test_a_note_stands_at_the_offset_of_the_next_published_event() -> None:
    """So that internal events can be put between the others."""
    play = begun()
    play.write("begin", Right())
    play.finish("begin", StopEvent())
    assert [note[0] for note in play.state.notes] == [(0, 0), (1, 0)]


def test_notes_that_nobody_reads_are_bounded() -> None:
    """Only the newest are kept, so that a long run does not grow."""
    play = begun(make_spec("work", Left))
    for _ in range(MAX_NOTES):
        play.send("begin", Left())
        play.finish("work")
    assert len(play.state.notes) == MAX_NOTES


# -- the stream --------------------------------------------------------------------------------------------------------


def test_written_events_have_offsets_without_a_gap_and_the_last_event_is_the_end() -> None:
    """Offsets count 0, 1, 2 over all steps."""
    play = begun(make_spec("work", Left))
    play.write("begin", Base(n=1))
    play.send("begin", Left())
    play.write("work", Base(n=2))
    play.finish("begin", StopEvent(result="end"))
    assert [offset for offset, _ in play.stream] == [0, 1, 2]
    assert play.published[-1] == StopEvent(result="end")


def test_a_question_that_a_step_returns_is_streamed_kept_open_and_routed() -> None:
    """An InputRequiredEvent reaches the outside and the steps that take it, and is no dead letter."""
    play = begun(make_spec("note", Question), make_spec("hear", Reply))
    question = Question()
    play.finish("begin", question)
    (published,) = play.published
    assert published == Question(input_id="run-1:1")
    assert [asked.request for asked in play.state.inputs.open.values()] == [published]
    assert question == Question(), "the step's own event is left as it was"
    assert names(play) == ["note"]
    untaken = begun(make_spec("hear", Reply))
    untaken.finish("begin", question)
    assert untaken.letters == []


def test_an_answer_closes_the_oldest_question() -> None:
    """One answer, one question."""
    play = begun(make_spec("hear", Reply))
    first, second = Question(n=1), Question(n=2)
    play.write("begin", first)
    play.finish("begin", second)
    play.arrive(Reply())
    assert [asked.request.n for asked in play.state.inputs.open.values()] == [2]
    assert names(play) == ["hear"]


# -- the end -----------------------------------------------------------------------------------------------------------


def test_the_first_stop_event_ends_the_run_and_gives_up_what_else_runs() -> None:
    """Bodies in flight are cancelled before the end is told, and what they return later changes nothing."""
    play = begun(make_spec("work", Left))
    play.send("begin", Left())
    effects = play.finish("begin", StopEvent(result=1))
    assert [type(effect) for effect in effects] == [CancelInvocation, Publish, Finish]
    assert play.outcome is not None
    assert (play.outcome.status, play.outcome.result, play.outcome.error) == ("completed", 1, None)
    assert play.finish(play.cancelled[0], StopEvent(result=2)) == []
    assert play.state.outcome is play.outcome
    assert play.outcome.result == 1


def test_a_subclass_of_stop_event_is_itself_the_result() -> None:
    """So a result can be typed."""
    play = begun()
    play.finish("begin", Done(total=3))
    assert play.outcome is not None
    assert play.outcome.result == Done(total=3)


def test_the_end_of_a_run_accounts_for_every_event_it_leaves() -> None:
    """Queued, in a retry delay, half collected, delayed and held events are dead letters, each with its reason."""
    play = begun(
        make_spec("work", Left, num_workers=1),
        make_spec("join", Right),
        make_spec("shaky", Base, retry_policy=twice()),
    )
    play.send("begin", Left(n=1))
    play.send("begin", Left(n=2))
    play.send("begin", Right(n=3))
    play.collect("join", [Right, Right])
    play.finish("join")
    play.send("begin", Base(n=4))
    play.fail("shaky", ValueError())
    play.send("begin", Left(n=5), step="work", delay=9)
    play.arrive(Reply(text="6"))
    play.finish("begin", StopEvent())
    assert play.letters == [
        (Left(n=2), "the run ended before the step took it"),
        (Base(n=4), "the run ended before its retry"),
        (Right(n=3), "the run ended before its collection was complete"),
        (Left(n=5), "the run ended before its delay was over"),
        (Reply(text="6"), "the run ended and nothing had waited for it"),
    ]
    assert [letter.step for letter in play.state.dead_letters] == ["work", "shaky", "join", "work", None]
    assert not play.state.invocations
    assert not play.state.held
    assert not play.state.buffered()


def test_an_ended_run_lets_go_of_the_events_it_has_accounted_for() -> None:
    """The event of a finished invocation is not kept alive by the state."""
    play = begun(make_spec("work", Left))
    event = Left()
    gone = weakref.ref(event)
    play.send("begin", event)
    play.finish("work")
    del event
    gc.collect()
    assert gone() is None


# -- failures and retries ----------------------------------------------------------------------------------------------


def test_a_failure_without_a_policy_ends_the_run_with_the_error_unchanged() -> None:
    """The stream ends with a WorkflowFailedEvent that names step, attempts and seconds."""
    play = begun(make_spec("work", Left))
    play.send("begin", Left())
    play.now = 3.0
    error = ValueError("no")
    play.fail("work", error)
    assert play.outcome is not None
    assert play.outcome.error is error
    event = play.published[-1]
    assert isinstance(event, WorkflowFailedEvent)
    assert (event.step_name, event.exception, event.attempts, event.elapsed_seconds) == ("work", error, 1, 3.0)


def test_a_failed_invocation_is_tried_again_after_the_delay_and_knows_why() -> None:
    """Attempt and retry information count up; the worker is free in the meantime."""
    play = begun(make_spec("work", Left, num_workers=1, retry_policy=twice(delay=2.0)))
    play.send("begin", Left(n=1))
    play.send("begin", Left(n=2))
    error = ValueError("first")
    assert play.first("work").invocation.retry_info == RetryInfo(0, 0.0, None, None)
    play.now = 1.0
    play.fail("work", error)
    assert numbers(play) == [2]
    play.finish("work")
    play.advance(1.9)
    assert numbers(play) == []
    play.advance(0.1)
    assert numbers(play) == [1]
    retried = play.first("work")
    assert retried.attempt == 2
    assert retried.invocation.retry_info == RetryInfo(1, 1.0, error, WALL)


def test_a_retry_goes_before_what_has_not_begun_and_behind_older_retries() -> None:
    """Retries keep the order in which their delays ended."""
    play = begun(make_spec("work", Left, num_workers=3, retry_policy=twice(delay=2.0)))
    for n in range(6):
        play.send("begin", Left(n=n))
    for start in play.in_flight[1:4]:
        play.fail(start, ValueError())
        play.now += 0.1
    assert numbers(play) == [3, 4, 5]
    play.send("begin", Left(n=6))
    play.advance(5.0)
    order = []
    for _ in range(4):
        play.finish("work")
        order.append(numbers(play)[-1])
    assert order == [0, 1, 2, 6]


def test_a_policy_that_gives_up_ends_the_run_with_the_last_error() -> None:
    """`attempts` counts all tries, and the clock runs from the first."""
    play = begun(make_spec("work", Left, retry_policy=twice(delay=2.0, attempts=2)))
    play.send("begin", Left())
    play.fail("work", ValueError("first"))
    play.advance(2.0)
    last = ValueError("second")
    play.fail("work", last)
    assert play.outcome is not None
    assert play.outcome.error is last
    event = play.published[-1]
    assert isinstance(event, WorkflowFailedEvent)
    assert (event.attempts, event.elapsed_seconds) == (2, 2.0)


def test_a_policy_that_raises_fails_the_run_with_what_it_raised() -> None:
    """The step's own error is kept as the context."""

    class Broken:
        def next(self, elapsed_time: float, attempts: int, error: Exception) -> float | None:
            raise RuntimeError("policy")

    play = begun(make_spec("work", Left, retry_policy=Broken()))
    play.send("begin", Left())
    error = ValueError("step")
    play.fail("work", error)
    assert play.outcome is not None
    assert str(play.outcome.error) == "policy"
    assert play.outcome.error.__context__ is error


def test_a_base_exception_is_not_tried_again() -> None:
    """Only an Exception is the business of a policy."""
    play = begun(make_spec("work", Left, retry_policy=twice()))
    play.send("begin", Left())
    play.fail("work", SystemExit())
    assert play.outcome is not None
    assert play.outcome.status == "failed"


def test_facts_of_an_attempt_that_was_given_up_are_buried_or_refused() -> None:
    """Nothing that a timed-out body still does reaches the run, and nothing of it is lost without a word."""
    play = begun(make_spec("work", Left, timeout=1.0, retry_policy=twice()))
    play.send("begin", Left())
    play.advance(1.0)
    (late,) = play.cancelled
    play.send(late, Right(n=1))
    play.write(late, Right(n=2))
    with pytest.raises(StepCancelled):
        play.collect(late, [Left])
    play.finish(late, Right(n=3))
    assert play.letters == [
        (Right(n=1), "it was sent by an attempt that had been given up"),
        (Right(n=2), "it was written by an attempt that had been given up"),
        (Right(n=3), "it was returned by an attempt that had been given up"),
    ]
    assert play.published == []
    play.advance(2.0)
    play.fail(late, ValueError())
    play.send(late, Right(n=4))
    with pytest.raises(StepCancelled):
        play.collect(late, [Left])
    assert names(play) == ["begin", "work"]
    assert play.letters[-1] == (Right(n=4), "it was sent by an attempt that had been given up")


# -- time --------------------------------------------------------------------------------------------------------------


def test_a_step_that_takes_longer_than_its_timeout_is_cancelled_and_fails() -> None:
    """The error says which step and how long; the timer goes when the body ends in time."""
    play = begun(make_spec("work", Left, timeout=5.0))
    play.send("begin", Left())
    play.advance(4.9)
    play.finish("work")
    assert play.timers == {}
    play.send("begin", Left())
    play.advance(5.0)
    assert play.outcome is not None
    assert isinstance(play.outcome.error, StepTimeoutError)
    assert str(play.outcome.error) == "step 'work' took longer than its timeout of 5.0 seconds"
    assert [start.invocation.spec.name for start in play.cancelled] == ["work", "begin"]


def test_a_step_timeout_is_tried_again_with_a_time_of_its_own() -> None:
    """Each attempt has the whole timeout."""
    play = begun(make_spec("work", Left, timeout=5.0, retry_policy=twice(delay=2.0)))
    play.send("begin", Left())
    play.advance(7.0)
    assert play.first("work").attempt == 2
    play.advance(4.9)
    assert play.first("work").attempt == 2
    play.finish("work", StopEvent())
    assert play.outcome is not None
    assert play.outcome.status == "completed"


def test_a_run_that_is_at_work_for_too_long_is_timed_out() -> None:
    """The error names the steps at work, each once, in alphabetical order."""
    play = begun(make_spec("work", Left), make_spec("also", Right), timeout=10.0)
    for event in (Left(), Left(), Right()):
        play.send("begin", event)
    play.finish("begin")
    play.advance(9.9)
    assert play.outcome is None
    play.advance(0.1)
    assert play.outcome is not None
    assert play.outcome.status == "timed_out"
    assert isinstance(play.outcome.error, WorkflowTimeoutError)
    assert str(play.outcome.error) == "Operation timed out after 10.0 seconds. Currently active steps: also, work"
    assert play.published == [WorkflowTimedOutEvent(timeout=10.0, active_steps=["also", "work"])]


def test_the_clock_of_a_run_stands_still_while_nothing_is_at_work() -> None:
    """Time spent waiting for a person or a delayed event does not count."""
    play = begun(make_spec("hear", Reply), timeout=10.0)
    play.advance(6.0)
    play.finish("begin", Question())
    assert play.timers == {}
    play.advance(1000.0)
    play.arrive(Reply())
    play.advance(3.0)
    play.finish("hear")
    play.advance(1000.0)
    play.arrive(Reply())
    play.advance(0.9)
    assert play.outcome is None
    play.advance(0.1)
    assert play.outcome is not None
    assert play.outcome.status == "timed_out"


def test_a_retry_delay_is_time_at_work() -> None:
    """A run cannot outlast its timeout by failing."""
    play = begun(retry_policy_spec(), timeout=3.0)
    play.send("begin", Left())
    play.finish("begin")
    play.fail("work", ValueError())
    play.advance(3.0)
    assert play.outcome is not None
    assert str(play.outcome.error) == "Operation timed out after 3.0 seconds. No steps active"


def retry_policy_spec() -> Any:
    return make_spec("work", Left, retry_policy=twice(delay=60.0))


def test_a_delayed_event_comes_when_its_delay_is_over() -> None:
    """Delays run beside each other; one that is due earlier overtakes."""
    play = begun(make_spec("work", Left))
    play.send("begin", Left(n=1), delay=5.0)
    play.send("begin", Left(n=2), delay=1.0)
    play.send("begin", Left(n=3), delay=0)
    assert numbers(play) == [3]
    play.advance(1.0)
    assert numbers(play) == [3, 2]
    play.advance(4.0)
    assert numbers(play) == [3, 2, 1]


def test_a_delayed_event_that_nobody_takes_is_a_dead_letter_when_it_comes() -> None:
    """A delay changes when, not whether, an event is accounted for."""
    play = begun()
    play.send("begin", Left(), delay=1.0)
    assert play.letters == []
    play.advance(1.0)
    assert play.letters == [(Left(), "no step takes it")]


# -- events nobody takes -----------------------------------------------------------------------------------------------


def test_an_event_from_within_that_no_step_takes_is_a_dead_letter() -> None:
    """It is told on the internal stream as well."""
    play = begun()
    play.send("begin", Left())
    assert play.letters == [(Left(), "no step takes it")]
    told = read_note(play.state.notes[-1])
    assert isinstance(told, UnhandledEvent)
    assert (told.event_type, told.step_name, told.idle) == ("Left", None, False)
    assert told.qualified_name == f"{Left.__module__}.Left"


def test_an_event_from_outside_that_no_step_takes_is_held() -> None:
    """It waits for a wait to claim it; the sender is told that the run has it."""
    play = begun()
    assert play.arrive(Left()) == (None, None)
    assert play.state.held == [(Left(), None)]
    assert play.letters == []


def test_dead_letters_are_bounded() -> None:
    """Only the newest are kept."""
    play = begun()
    for n in range(MAX_DEAD_LETTERS + 2):
        play.send("begin", Left(n=n))
    assert len(play.letters) == MAX_DEAD_LETTERS
    assert play.letters[0][0] == Left(n=2)


# -- coming to rest ----------------------------------------------------------------------------------------------------


def test_a_run_that_nothing_can_end_fails_and_says_what_it_lacks() -> None:
    """The message names each collection with what it holds and lacks, and the events that nobody took."""
    play = begun(make_spec("join", Left))
    play.send("begin", Left())
    play.collect("join", {Left: 3, Right: 1}, buffer_id="parts")
    play.finish("join")
    play.finish("begin", Right())
    play.rest()
    assert play.outcome is not None
    assert isinstance(play.outcome.error, WorkflowStuckError)
    assert str(play.outcome.error).splitlines() == [
        "run 'run-1' of Played is stuck: nothing is queued, in flight or awaited, and no step takes an event that only"
        " somebody outside can send",
        "  - the collection 'parts' of step 'join' holds 1 and lacks 2 x Left, 1 x Right",
        "  - Right was not taken: no step takes it",
        "return an event that leads to a stop event, or keep the run with Workflow(on_stuck='wait')",
    ]


def test_a_stuck_run_names_a_complete_collection_that_nobody_took() -> None:
    """Surplus may make up a batch for which no further event comes to ask."""
    play = begun(make_spec("join", Left))
    for n in range(2):
        play.send("begin", Left(n=n))
        play.collect("join", [Left, Left, Left])
        play.finish("join")
    play.send("begin", Left(n=2))
    assert play.collect("join", [Left]) == [Left(n=0)]
    play.finish("join")
    play.finish("begin")
    play.rest()
    assert play.outcome is not None
    assert "the collection 'default' of step 'join' holds 2, enough, but nothing asked for them" in str(
        play.outcome.error
    )


def test_a_run_that_rested_before_is_stuck_when_its_delayed_event_is_not_taken() -> None:
    """It rests while the delay lasts; when nobody takes the event that it waited for, nothing can end it any more."""
    play = begun(make_spec("work", Left))
    play.send("begin", Right(), delay=5.0)
    play.finish("begin")
    play.rest()
    assert play.outcome is None
    play.advance(5.0)
    play.rest()
    assert play.outcome is not None
    assert isinstance(play.outcome.error, WorkflowStuckError)


@pytest.mark.parametrize("reason", ["steps hear people", "a question is open", "an event is delayed", "on_stuck"])
def test_a_run_that_may_go_on_is_not_stuck(reason: str) -> None:
    """It is idle: told once on the internal stream until something starts again."""
    specs = [make_spec("hear", Reply)] if reason == "steps hear people" else []
    play = begun(*specs, on_stuck="wait" if reason == "on_stuck" else "fail")
    if reason == "an event is delayed":
        play.send("begin", Left(), delay=5)
    play.finish("begin", Question() if reason == "a question is open" else None)
    play.rest()
    play.rest()
    assert play.outcome is None
    assert [type(read_note(note)) for note in play.state.notes].count(WorkflowIdleEvent) == 1


def test_a_run_is_told_idle_again_after_it_has_worked() -> None:
    """Each rest is told once."""
    play = begun(make_spec("hear", Reply))
    play.finish("begin")
    play.rest()
    play.arrive(Reply())
    play.rest()
    play.finish("hear")
    play.rest()
    assert [type(read_note(note)) for note in play.state.notes].count(WorkflowIdleEvent) == 2


def test_a_run_with_a_retry_to_come_is_not_quiet() -> None:
    """A retry delay is work."""
    play = begun(make_spec("work", Left, retry_policy=twice()))
    play.send("begin", Left())
    play.finish("begin")
    play.fail("work", ValueError())
    assert not play.state.is_quiet
    play.rest()
    assert play.outcome is None


# -- draining ----------------------------------------------------------------------------------------------------------


def test_draining_lets_work_finish_and_ends_a_run_that_rests() -> None:
    """A run at work goes on; when it comes to rest it ends with the error of the drain."""
    play = begun(make_spec("hear", Reply))
    error = RuntimeShutdownError("down")
    play.apply(DrainAsked(error))
    assert play.outcome is None
    play.finish("begin", Question())
    play.rest()
    assert play.outcome is not None
    assert (play.outcome.status, play.outcome.error) == ("cancelled", error)
    assert play.published[-1] == WorkflowCancelledEvent()


def test_draining_ends_a_run_at_rest_at_once() -> None:
    """Nothing need come to pass first."""
    play = begun(make_spec("hear", Reply))
    play.finish("begin")
    play.rest()
    error = RuntimeShutdownError("down")
    play.apply(DrainAsked(error))
    assert play.outcome is not None
    assert play.outcome.error is error


def test_a_draining_run_may_still_complete() -> None:
    """The drain does not take a result away."""
    play = begun()
    play.apply(DrainAsked(RuntimeShutdownError("down")))
    play.finish("begin", StopEvent(result=1))
    assert play.outcome is not None
    assert play.outcome.status == "completed"


def test_a_crash_of_the_engine_fails_the_run() -> None:
    """The error is told as the run's own."""
    play = begun()
    error = RuntimeError("engine")
    play.apply(Crashed(error))
    assert play.outcome is not None
    assert (play.outcome.status, play.outcome.error) == ("failed", error)


# -- cancelling and resuming -------------------------------------------------------------------------------------------


def resumed(play: Play) -> Play:
    """Return the run that goes on from one that was cancelled."""
    again = Play(state=play.state.reopen("run-2", None, "fail"))
    again.now = play.now
    assert again.state.has_unfinished_work
    again.apply(RunResumed())
    return again


def test_cancelling_ends_the_run_at_once_and_cancels_what_is_in_flight() -> None:
    """The result raises WorkflowCancelledByUser, and the stream ends with a WorkflowCancelledEvent."""
    play = begun()
    effects = play.apply(CancelAsked())
    assert [type(effect) for effect in effects] == [CancelInvocation, Publish, Finish]
    assert play.outcome is not None
    assert play.outcome.status == "cancelled"
    assert isinstance(play.outcome.error, WorkflowCancelledByUser)
    assert play.published == [WorkflowCancelledEvent()]


def test_a_cancelled_run_is_resumed_in_order() -> None:
    """What ran comes first, then the queue, and what waits for its retry when its delay is over; nothing is lost."""
    play = begun(make_spec("work", Left, num_workers=2, retry_policy=twice()))
    for n in range(6):
        play.send("begin", Left(n=n))
    play.fail(play.in_flight[1], ValueError())
    play.finish("begin")
    assert numbers(play) == [1, 2]
    play.apply(CancelAsked())
    assert play.letters == []
    again = resumed(play)
    order = []
    while again.in_flight:
        order += numbers(again)[:1]
        again.finish(again.in_flight[0])
    assert order == [1, 2, 3, 4, 5]
    again.advance(60.0)
    assert numbers(again) == [0]


def test_a_resumed_retry_knows_its_attempt() -> None:
    """Retry counts are kept."""
    play = begun(make_spec("work", Left, retry_policy=twice()))
    play.send("begin", Left())
    play.fail("work", ValueError())
    play.apply(CancelAsked())
    again = resumed(play)
    assert not names(again).count("work"), "the delay goes on"
    again.advance(60.0)
    assert again.first("work").invocation.retry_info.retry_number == 1


def test_a_resumed_run_goes_on_with_its_offsets_questions_delays_and_held_events() -> None:
    """All that was unfinished is there."""
    play = begun(make_spec("work", Left))
    play.write("begin", Question(n=1))
    play.send("begin", Left(n=1), delay=5.0)
    play.arrive(Right(n=2))
    play.advance(2.0)
    play.apply(CancelAsked())
    again = resumed(play)
    assert [asked.request.n for asked in again.state.inputs.open.values()] == [1]
    assert again.state.held == [(Right(n=2), None)]
    again.finish("begin")
    again.advance(3.0)
    assert numbers(again) == [1]
    again.write("work", Base())
    assert again.stream[-1][0] == 2


def test_late_facts_of_a_cancelled_run_do_not_reach_the_run_that_resumed_it() -> None:
    """A body of a thread cannot be stopped: what it still returns belongs to the ended run."""
    play = begun(make_spec("work", Left))
    play.apply(CancelAsked())
    again = resumed(play)
    (late,) = play.cancelled
    assert play.finish(late, Left()) == []
    assert play.letters == [(Left(), "it was returned after the run had ended")]
    assert names(again) == ["begin"]
    again.finish("begin", StopEvent(result=2))
    assert again.outcome is not None
    assert again.outcome.result == 2


def test_an_event_sent_to_the_ended_run_is_turned_away_though_it_was_resumed() -> None:
    """An old handler does not steer the new run."""
    play = begun(make_spec("work", Left))
    play.apply(CancelAsked())
    again = resumed(play)
    _, error = play.arrive(Left())
    assert isinstance(error, WorkflowRuntimeError)
    assert names(again) == ["begin"]


def test_a_collected_event_counts_once_though_its_step_runs_again_on_resume() -> None:
    """The event stays in the collection, and the second run of the body does not add it again."""
    play = begun(make_spec("join", Left))
    play.send("begin", Left(n=1))
    assert play.collect("join", [Left, Left]) is None
    play.apply(CancelAsked())
    again = resumed(play)
    assert again.collect("join", [Left, Left]) is None
    again.finish("join")
    again.send("begin", Left(n=1))  # "begin" runs from its top as well: this one was sent before
    assert not [name for name in names(again) if name == "join"]
    again.send("begin", Left(n=2))
    assert again.collect("join", [Left, Left]) == [Left(n=1), Left(n=2)]


def test_a_batch_handed_before_the_cancel_is_handed_again_on_resume() -> None:
    """The step that had the batch runs again, so it gets it again, also where it has a retry policy."""
    for policy in (None, twice()):
        play = begun(make_spec("join", Left, retry_policy=policy))
        play.send("begin", Left(n=1))
        assert play.collect("join", [Left]) == [Left(n=1)]
        play.apply(CancelAsked())
        again = resumed(play)
        assert again.collect("join", [Left]) == [Left(n=1)]


def test_a_run_that_was_cancelled_before_it_began_begins_when_resumed() -> None:
    """A cancel may overtake the start event, which is unfinished work like any other."""
    play = Play(START)
    play.apply(CancelAsked())
    assert play.start(StartEvent(topic="x")) == []
    again = resumed(play)
    assert again.running() == [("begin", StartEvent(topic="x"))]


def test_a_start_event_that_comes_after_another_run_went_on_is_a_dead_letter() -> None:
    """Nobody would resume it any more."""
    play = Play(START)
    play.apply(CancelAsked())
    play.state.reopen("run-2", None, "fail")
    play.start(StartEvent())
    assert play.letters == [(StartEvent(), "the run ended before it began")]


def test_what_a_resumed_run_delivers_does_not_take_the_place_of_what_it_resumes() -> None:
    """Invocations and delays go on counting."""
    play = begun(make_spec("work", Left))
    play.send("begin", Left(n=1))
    play.send("begin", Left(n=2), delay=5.0)
    play.apply(CancelAsked())
    again = resumed(play)
    again.send("begin", Left(n=1))  # Its body runs from the top, and has sent these two before.
    again.send("begin", Left(n=2), delay=5.0)
    again.send("begin", Left(n=3))
    again.send("begin", Left(n=4), delay=5.0)
    assert len({start.invocation.number for start in again.in_flight}) == 3
    again.advance(5.0)
    assert numbers(again) == [1, 3, 2, 4]


def test_a_run_that_failed_before_it_began_accounts_for_its_start_event() -> None:
    """There is nothing to resume: the event is a dead letter."""
    play = Play(START)
    play.apply(Crashed(RuntimeError()))
    play.start(StartEvent())
    assert play.letters == [(StartEvent(), "the run ended before it began")]
    assert not play.state.reopen("run-2", None, "fail").has_unfinished_work


def test_a_context_without_unfinished_work_begins_anew_with_its_store() -> None:
    """After a normal end the state is kept, and the stream begins at 0."""
    play = begun()
    play.state.store.call(StoreCall("set", ("n", 7), "outside"), lambda *_: None)
    play.send("begin", Left())
    play.finish("begin", StopEvent())
    state = play.state.reopen("run-2", 5.0, "wait")
    assert not state.has_unfinished_work
    assert (state.run_id, state.timeout, state.on_stuck, state.published) == ("run-2", 5.0, "wait", 0)
    assert state.store is play.state.store
    assert not state.dead_letters
    again = Play(state=state)
    again.start(StartEvent())
    assert names(again) == ["begin"]


def test_a_run_goes_on_from_an_ended_run_once() -> None:
    """Two runs would write one state: the second is refused, as is a run from one that has not ended."""
    play = begun()
    with pytest.raises(ContextStateError, match=r"run 'run-1', which has not ended"):
        play.state.reopen("run-2", None, "fail")
    play.finish("begin", StopEvent())
    play.state.reopen("run-2", None, "fail")
    with pytest.raises(ContextStateError, match=r"run 'run-2'"):
        play.state.reopen("run-3", None, "fail")


def test_no_run_goes_on_while_somebody_edits_the_state() -> None:
    """The edit could not be committed any more, and the new run would wait for it for ever."""
    play = begun()
    play.apply(CancelAsked())
    call(play, "begin_edit", owner="outside", asker="edit")
    with pytest.raises(ContextStateError, match=r"edit_state\(\) open"):
        play.state.reopen("run-2", None, "fail")
    call(play, "abort_edit", owner="outside", asker="abort")
    assert play.state.reopen("run-2", None, "fail").has_unfinished_work


def test_the_time_at_work_of_a_resumed_run_begins_anew() -> None:
    """A timeout is of a run, not of a context."""
    play = begun(timeout=10.0)
    play.advance(9.0)
    play.apply(CancelAsked())
    again = Play(state=play.state.reopen("run-2", 10.0, "fail"))
    again.now = play.now
    again.apply(RunResumed())
    assert again.timers == {("run",): 19.0}


def test_cancelling_a_long_queue_looks_at_each_invocation_once() -> None:
    """The cost of a cancel grows with the queue, not with its square."""

    class Counting(Left):
        pass

    play = begun(make_spec("work", Left, num_workers=1))
    for n in range(2000):
        play.send("begin", Left(n=n))
    looked = 0

    class Queue(type(play.state.lanes["work"].queue)):  # type: ignore[misc]
        def __contains__(self, item: object) -> bool:
            nonlocal looked
            looked += len(self)
            return super().__contains__(item)

    lane = play.state.lanes["work"]
    lane.queue = Queue(lane.queue)
    play.apply(CancelAsked())
    assert looked == 0
    assert len(play.state.invocations) == 2001


# -- collections -------------------------------------------------------------------------------------------------------


def test_a_batch_is_handed_to_one_invocation_in_the_order_asked() -> None:
    """Equal classes keep the order in which they came, and surplus waits for the next batch."""
    play = begun(make_spec("join", Base))
    for event in (Left(n=1), Left(n=2), Left(n=3), Right(n=4)):
        play.send("begin", event)
    starts = play.in_flight[1:]
    batches = [play.collect(start, [Right, Left, Left]) for start in starts]
    assert batches == [None, None, None, [Right(n=4), Left(n=1), Left(n=2)]]
    assert play.state.buffered() == {("join", "default"): [Left(n=3)]}


def test_collections_of_other_steps_and_ids_do_not_mix() -> None:
    """A collection is of one step and one id."""
    play = begun(make_spec("join", Left), make_spec("also", Left))
    play.send("begin", Left(n=1))
    assert play.collect("also", [Left, Left]) is None
    assert play.collect("join", [Left, Left]) is None
    assert play.collect("join", [Left, Left], buffer_id="x") is None
    play.send("begin", Left(n=2))
    assert play.collect(play.in_flight[-1], [Left, Left]) == [Left(n=1), Left(n=2)]
    assert set(play.state.buffered()) == {("also", "default"), ("join", "x")}


def test_an_event_counts_once_in_one_collection_however_often_its_step_asks() -> None:
    """Asking twice in one body does not count the event twice."""
    play = begun(make_spec("join", Left))
    play.send("begin", Left(n=1))
    assert play.collect("join", [Left, Left]) is None
    assert play.collect("join", [Left, Left]) is None


def test_a_retry_does_not_count_its_event_again() -> None:
    """The first attempt has put it in."""
    play = begun(make_spec("join", Left, retry_policy=twice(delay=0.0)))
    play.send("begin", Left(n=1))
    assert play.collect("join", [Left, Left]) is None
    play.fail("join", ValueError())
    play.advance(0.0)
    assert play.collect("join", [Left, Left]) is None
    play.finish("join")
    play.send("begin", Left(n=2))
    assert play.collect("join", [Left, Left]) == [Left(n=1), Left(n=2)]


def test_a_batch_of_an_attempt_that_fails_is_handed_to_its_retry() -> None:
    """The retry gets the same batch, also where others have collected since, and after it the next."""
    play = begun(make_spec("join", Left, retry_policy=twice(delay=1.0)))
    play.send("begin", Left(n=1))
    play.send("begin", Left(n=2))
    first, second = play.in_flight[1:]
    assert play.collect(first, [Left, Left]) is None
    assert play.collect(second, [Left, Left]) == [Left(n=1), Left(n=2)]
    play.fail(second, ValueError())
    play.send("begin", Left(n=3))
    assert play.collect(play.in_flight[-1], [Left, Left]) is None
    play.advance(1.0)
    retry = play.in_flight[-1]
    assert play.collect(retry, [Left, Left]) == [Left(n=1), Left(n=2)]
    assert play.collect(retry, [Left, Left]) is None
    assert play.state.buffered() == {("join", "default"): [Left(n=3)]}


def test_a_second_retry_is_handed_the_batch_again() -> None:
    """However often an attempt fails, the batch is its next one's."""
    play = begun(make_spec("join", Left, retry_policy=twice(delay=1.0)))
    play.send("begin", Left(n=1))
    for _ in range(2):
        assert play.collect("join", [Left]) == [Left(n=1)]
        play.fail("join", ValueError())
        play.advance(1.0)
    assert play.collect("join", [Left]) == [Left(n=1)]


def test_an_empty_collection_is_not_kept() -> None:
    """A long run that names its collections by an id of its own does not grow."""
    play = begun(make_spec("join", Left))
    for n in range(10):
        play.send("begin", Left(n=n))
        assert play.collect("join", [Left], buffer_id=f"batch-{n}") == [Left(n=n)]
        play.finish("join")
    assert play.state.buffers == {}


# -- the state ---------------------------------------------------------------------------------------------------------


def call(play: Play, method: str, *arguments: Any, owner: Any, asker: Any) -> None:
    fact = StoreCall(method, arguments, owner)
    fact.asker = asker
    play.apply(fact)


def caller(start: StartInvocation) -> Caller:
    return Caller(start.invocation.number, start.attempt)


@pytest.mark.parametrize("end", ["finish", "fail"])
def test_the_end_of_an_invocation_drops_its_edit_and_serves_who_waits(end: str) -> None:
    """An edit that was never committed holds nobody up for ever."""
    play = begun(make_spec("work", Left, retry_policy=twice()))
    play.send("begin", Left())
    work = play.first("work")
    call(play, "begin_edit", owner=caller(work), asker="edit")
    call(play, "set", "n", 1, owner="outside", asker="set")
    assert "set" not in play.answers
    if end == "finish":
        play.finish(work)
    else:
        play.fail(work, ValueError())
    assert play.answers["set"] == [(None, None)]
    call(play, "get", "n", UNSET, owner="outside", asker="get")
    assert play.answers["get"] == [(1, None)]


def test_the_end_of_the_run_answers_every_step_that_waits_for_the_state() -> None:
    """Each asker is answered once: with what it asked for, or that it was given up."""
    play = begun(make_spec("work", Left), make_spec("also", Right))
    play.send("begin", Left())
    play.send("begin", Right())
    call(play, "begin_edit", owner="outside", asker="holder")
    for name in ("begin", "work", "also"):
        call(play, "set", name, 1, owner=caller(play.first(name)), asker=name)
    call(play, "set", "outside", 1, owner="other", asker="other")
    play.apply(CancelAsked())
    for name in ("begin", "work", "also"):
        ((_, error),) = play.answers[name]
        assert isinstance(error, StepCancelled)
    assert "other" not in play.answers
    call(play, "abort_edit", owner="outside", asker="abort")
    assert play.answers["other"] == [(None, None)]


def test_the_state_of_an_ended_run_can_be_read_and_set_from_outside_only() -> None:
    """A body that goes on after the end is refused."""
    play = begun()
    begin = play.first("begin")
    play.apply(CancelAsked())
    call(play, "set", "n", 1, owner="outside", asker="set")
    call(play, "get", "n", UNSET, owner="outside", asker="get")
    call(play, "get", "n", UNSET, owner=caller(begin), asker="late")
    assert play.answers["get"] == [(1, None)]
    assert isinstance(play.answers["late"][0][1], StepCancelled)


def test_an_attempt_that_was_given_up_cannot_reach_the_state() -> None:
    """Its calls are answered with StepCancelled, so that the body unwinds."""
    play = begun(make_spec("work", Left, timeout=1.0, retry_policy=twice()))
    play.send("begin", Left())
    play.advance(1.0)
    call(play, "set", "n", 1, owner=caller(play.cancelled[0]), asker="late")
    assert isinstance(play.answers["late"][0][1], StepCancelled)


# -- facts after the end -----------------------------------------------------------------------------------------------


def test_facts_after_the_end_are_turned_away_by_name_and_their_askers_answered() -> None:
    """No effect but answers, and each event is a dead letter with its reason."""
    play = begun()
    begin = play.first("begin")
    number, attempt = begin.invocation.number, begin.attempt
    play.finish(begin, StopEvent())
    _, error = play.arrive(Left(n=1))
    assert isinstance(error, WorkflowRuntimeError)
    assert str(error) == "run 'run-1' has ended; Left was not delivered"
    for fact in (
        EventSent(number, attempt, Left(n=2), None, None),
        EventWritten(number, attempt, Left(n=3)),
        Finished(number, attempt, Left(n=4)),
        Finished(number, attempt, None),
        Failed(number, attempt, ValueError(), WALL),
        TimerFired(("run",), WALL),
        CancelAsked(),
        DrainAsked(RuntimeShutdownError()),
    ):
        assert play.apply(fact) == []
    fact = CollectAsked(number, attempt, Left(), True, [Left], "default")
    fact.asker = "collect"
    play.apply(fact)
    assert isinstance(play.answers["collect"][0][1], StepCancelled)
    assert play.letters == [
        (Left(n=1), "it came after the run had ended"),
        (Left(n=2), "it was sent after the run had ended"),
        (Left(n=3), "it was written to the stream after the run had ended"),
        (Left(n=4), "it was returned after the run had ended"),
    ]
    assert play.outcome is not None
    assert play.outcome.status == "completed"
    assert play.published == [StopEvent()]


def test_an_event_for_a_run_that_a_shutdown_ended_is_refused_as_such() -> None:
    """The sender learns that the runtime is gone, not only the run."""
    play = begun()
    play.apply(CancelAsked(RuntimeShutdownError("the runtime was shut down")))
    _, error = play.arrive(Left())
    assert isinstance(error, RuntimeShutdownError)
    assert str(error) == "the runtime was shut down; Left was not delivered"


# -- cost and purity ---------------------------------------------------------------------------------------------------


def test_the_same_facts_give_the_same_effects() -> None:
    """The core keeps no clock and draws no random numbers."""

    def effects() -> list[Any]:
        state = RunState(Graph("Same", [START, make_spec("work", Left, retry_policy=twice())]), "run-1", timeout=9)
        facts = [
            RunStarted(StartEvent()),
            EventSent(0, 1, Left(n=1), None, None),
            Failed(1, 1, ValueError(), WALL),
            EventArrived(Right()),
            TimerFired(("retry", 1), WALL),
            Finished(1, 2, StopEvent(result=1)),
        ]
        return [
            (type(effect).__name__, getattr(effect, "at", None), getattr(effect, "event", None))
            for at, fact in enumerate(facts)
            for effect in state.apply(fact, float(at))
        ]

    assert effects() == effects()
    assert len(effects()) > 8


def test_a_fact_of_a_run_with_a_timeout_sets_no_new_timer_while_there_is_work() -> None:
    """The clock is started once, not at every message."""
    play = begun(make_spec("work", Left), timeout=10.0)
    effects = play.send("begin", Left())
    assert not [effect for effect in effects if isinstance(effect, SetTimer)]

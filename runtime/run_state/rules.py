"""Which rule takes which fact."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from greenroom.child_facts import ChildAsked, ChildAwaited, ChildCancelAsked, ForChild
from greenroom.effects import Answer, Effect
from greenroom.facts import (
    BecameQuiet,
    Caller,
    CancelAsked,
    Carried,
    CollectAsked,
    Crashed,
    DrainAsked,
    EventArrived,
    EventSent,
    EventWritten,
    Failed,
    Finished,
    OnceAsked,
    OnceDone,
    PassivateAsked,
    PostRefused,
    Recovered,
    Responded,
    RunResumed,
    RunStarted,
    TimerFired,
    WaitAsked,
)
from greenroom.run_state.answers import answer_into, given_up
from greenroom.run_state.child_runs import (
    child_asked,
    child_awaited,
    child_cancel_asked,
    child_timer_fired,
    for_child,
)
from greenroom.run_state.collecting import collect_asked, settle
from greenroom.run_state.delivery import (
    deliver_inside,
    event_arrived,
    event_sent,
    event_written,
    finished,
    recovered,
    responded,
    run_resumed,
    run_started,
)
from greenroom.run_state.ending import cancel_asked, check_timeout, crashed, drain_asked
from greenroom.run_state.failing import failed, step_timed_out
from greenroom.run_state.posts import post_refused
from greenroom.run_state.resting import became_quiet
from greenroom.run_state.waiting import end_wait, once_asked, once_done, passivate_asked, wait_asked
from greenroom.run_state.work import admit
from greenroom.state import StoreCall

if TYPE_CHECKING:
    from greenroom.run_state.state import RunState


def timer_fired(state: RunState, fact: TimerFired, now: float, effects: list[Effect]) -> None:
    """A timer is due."""
    match fact.key:
        case ("run",):
            check_timeout(state, now, effects)
        case ("retry", number):
            invocation = state.invocations.get(number)
            if invocation is not None:
                invocation.retry_at = None
                state.retrying -= 1
                admit(state, invocation, now, effects, is_retry=True)
        case ("step", number, attempt):
            step_timed_out(state, number, attempt, fact, now, effects)
        case ("wait", number):
            wait = state.waits.by_number.get(number)
            if wait is not None:
                end_wait(state, wait, None, now, effects)
        case ("child", name, *key):
            of_child = TimerFired(tuple(key), fact.at, fact.retry_in)
            child_timer_fired(state, name, of_child, now, effects)
            fact.retry_in = of_child.retry_in
        case ("delayed", number):
            event, step, _, lineage = state.delayed.pop(number)
            deliver_inside(state, event, step, lineage, now, effects)
            settle(state, lineage, now, effects)


def carried(state: RunState, fact: Carried, now: float, effects: list[Effect]) -> None:
    """Observers keep something with the run."""
    state.carried = fact.texts


def store_called(state: RunState, fact: StoreCall, now: float, effects: list[Effect]) -> None:
    """Somebody reads or edits the shared state."""
    if isinstance(fact.owner, Caller) and state.current(*fact.owner) is None:
        effects.append(Answer(fact.asker, None, given_up()))
    else:
        state.store.call(fact, answer_into(effects))


RULES: dict[type, Callable[[RunState, Any, float, list[Effect]], None]] = {
    RunStarted: run_started,
    RunResumed: run_resumed,
    Recovered: recovered,
    Carried: carried,
    EventArrived: event_arrived,
    EventSent: event_sent,
    EventWritten: event_written,
    CollectAsked: collect_asked,
    WaitAsked: wait_asked,
    OnceAsked: once_asked,
    OnceDone: once_done,
    ForChild: for_child,
    ChildAsked: child_asked,
    ChildAwaited: child_awaited,
    ChildCancelAsked: child_cancel_asked,
    Responded: responded,
    PostRefused: post_refused,
    PassivateAsked: passivate_asked,
    Crashed: crashed,
    DrainAsked: drain_asked,
    StoreCall: store_called,
    Finished: finished,
    Failed: failed,
    TimerFired: timer_fired,
    CancelAsked: cancel_asked,
    BecameQuiet: became_quiet,
}

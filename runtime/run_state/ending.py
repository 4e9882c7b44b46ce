"""How a run ends: its result, a failure, its timeout, a cancel, or nothing left to do; and what comes after."""

from __future__ import annotations

from typing import TYPE_CHECKING

from greenroom.child_facts import ChildAsked, ChildAwaited, ForChild
from greenroom.effects import Answer, CancelInvocation, DropTimer, Effect, Finish, SetTimer
from greenroom.errors import (
    ContextStateError,
    GreenroomError,
    InputAnsweredError,
    RuntimeShutdownError,
    WorkflowCancelledByUser,
    WorkflowRuntimeError,
    WorkflowTimeoutError,
)
from greenroom.events import (
    Event,
    StopEvent,
    WorkflowCancelledEvent,
    WorkflowFailedEvent,
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
    Fact,
    Finished,
    OnceAsked,
    OnceDone,
    Responded,
    RunStarted,
    WaitAsked,
)
from greenroom.invocation import Invocation
from greenroom.outcome import Outcome
from greenroom.run_state.answers import answer_into, given_up
from greenroom.run_state.child import Child
from greenroom.run_state.children import close_child, lift
from greenroom.state import StoreCall
from greenroom.tally import Deed
from greenroom.waits import WaitBook

if TYPE_CHECKING:
    from greenroom.run_state.state import RunState

RUN_TIMER = ("run",)


def cancel_asked(state: RunState, fact: CancelAsked, now: float, effects: list[Effect]) -> None:
    """Somebody cancels the run."""
    end(state, Outcome("cancelled", WorkflowCancelledEvent(), fact.error), effects)


def drain_asked(state: RunState, fact: DrainAsked, now: float, effects: list[Effect]) -> None:
    """The run is to end as soon as nothing of it is at work."""
    state.drain_error = fact.error
    if state.is_quiet:
        end(state, Outcome("cancelled", WorkflowCancelledEvent(), fact.error), effects)


def crashed(state: RunState, fact: Crashed, now: float, effects: list[Effect]) -> None:
    """A part of the engine has failed, and the run with it."""
    fail(state, fact.error, effects)


def mind_clock(state: RunState, now: float, effects: list[Effect]) -> None:
    """Let the run's clock go while there is work, and stand still while there is none."""
    assert state.timeout is not None
    if state.is_at_work:
        if state.at_work_since is None:
            state.at_work_since = now
            effects.append(SetTimer(RUN_TIMER, now + state.timeout - state.worked))
    elif state.at_work_since is not None:
        state.worked += now - state.at_work_since
        state.at_work_since = None
        effects.append(DropTimer(RUN_TIMER))


def check_timeout(state: RunState, now: float, effects: list[Effect]) -> None:
    """End the run if its time at work is over."""
    if state.timeout is None or state.at_work_since is None:
        return
    active = state.active_steps
    at_work = f"Currently active steps: {', '.join(active)}" if active else "No steps active"
    error = WorkflowTimeoutError(f"Operation timed out after {state.timeout} seconds. {at_work}")
    event = WorkflowTimedOutEvent(timeout=state.timeout, active_steps=active)
    end(state, Outcome("timed_out", event, error), effects)


def fail(
    state: RunState,
    error: BaseException,
    effects: list[Effect],
    step: str | None = None,
    attempts: int | None = None,
    elapsed: float | None = None,
) -> None:
    """End the run with an error, in a step or as a whole."""
    end(state, failed_outcome(error, step, attempts, elapsed), effects)


def end(state: RunState, outcome: Outcome, effects: list[Effect], *, may_resume: bool = True) -> None:
    """End the run: cancel what runs, account for what is left, publish the last event.

    One that is cancelled keeps its work, so that it can be resumed, if it `may_resume`.
    """
    state.outcome = outcome
    keeps_work = outcome.status == "cancelled" and may_resume
    if state.children:
        end_children(state, effects, for_good=not keeps_work)
    for invocation in state.invocations.values():
        if invocation.worker is not None:
            effects.append(CancelInvocation(invocation.spec.name, invocation.number, invocation.attempt))
            state.store.release(Caller(invocation.number, invocation.attempt), answer_into(effects))
        elif invocation.parked_at is not None and invocation.is_live:
            unpark(state, invocation, effects)
    if keeps_work:
        put_away(state)
    else:
        clear_work(state)
    state.publish(outcome.event, effects)
    effects.append(Finish(outcome))


def end_children(state: RunState, effects: list[Effect], *, for_good: bool) -> None:
    """End all children with their parent: for good, or put away with it."""
    for child in state.children.values():
        run = child.run
        if run is None or (child.is_at_rest and not for_good):
            continue
        if for_good:
            abandon(state, child, effects)
            continue
        error = WorkflowCancelledByUser(f"run '{child.run_id}' was put away with the one that began it")
        end_child(state, child, Outcome("cancelled", WorkflowCancelledEvent(), error), effects)
        run.worked = 0.0  # Whatever goes on from here has all its time again, as the run around it has.
        child.put_away()
    if for_good:
        state.children.clear()
    state.busy = state.dozing = 0
    state.touched.clear()


def end_child(
    state: RunState, child: Child, outcome: Outcome, effects: list[Effect], *, may_resume: bool = True
) -> None:
    """End a child that has not ended by itself, and pass on what follows."""
    run, ended = child.run, list[Effect]()
    assert run is not None
    end(run, outcome, ended, may_resume=may_resume)
    if child.watch is not None:
        child.watch.saw(ended)
    lift(state, child, ended, effects)


def lose_bodies(state: RunState, last: float) -> None:
    """Go on from `last`, when the last fact came, without the bodies and callers there were: here and in children.

    What waits and is known to wait does so without a body, and one is started when its wait has ended. Children are put
    away without a word, until their steps have come by their `ctx.run`.
    """
    state.store.release_all()
    parked = {
        invocation.number: invocation.parked_at
        for invocation in state.invocations.values()
        if invocation.parked_at is not None
        and invocation.ready is None
        and invocation.is_known_to_wait
        and all(state.children[name].outcome is not None for name in invocation.children or ())
    }
    put_away(state)
    for number, since in parked.items():
        state.invocations[number].parked_at = since
    state.parked = len(parked)
    if state.at_work_since is not None:
        state.worked += last - state.at_work_since
        state.at_work_since = None
    for child in state.children.values():
        if child.run is not None and not child.is_at_rest:
            lose_bodies(child.run, last)
            child.run.put_away_as("running")
            child.put_away()
    state.busy = state.dozing = 0
    state.touched.clear()


def abandon(state: RunState, child: Child, effects: list[Effect], error: BaseException | None = None) -> None:
    """End a child for good, if it goes on; what it had before it becomes dead letters."""
    run = child.run
    if run is None:
        return
    if error is None:
        error = WorkflowCancelledByUser(f"run '{child.run_id}' was ended with the step or the run that had begun it")
    child.outcome = Outcome("cancelled", WorkflowCancelledEvent(), error)
    if child.is_at_rest:
        end_children(run, effects, for_good=True)
        clear_work(run)
    else:
        end_child(state, child, child.outcome, effects, may_resume=False)
    close_child(state, child, effects)


def forget_children(state: RunState, invocation: Invocation, effects: list[Effect]) -> None:
    """Drop the children of an invocation that has ended: nobody can ask for them any more."""
    for name in invocation.children or ():
        child = state.children.pop(name)
        state.touched.pop(name, None)
        abandon(state, child, effects)


def late_for_child(state: RunState, fact: ForChild, effects: list[Effect]) -> None:
    """Pass on what comes for a child after the end: those who wait are answered, events are accounted for."""
    child = state.children.get(fact.path[0])
    if child is not None and child.run is not None:
        apply_after_end(child.run, fact.inner(), effects)
        if child.watch is not None:
            child.watch.saw([])
    else:
        apply_after_end(state, fact.fact, effects)


def unpark(state: RunState, invocation: Invocation, effects: list[Effect]) -> None:
    """Unwind a body that waits when the run ends."""
    effects.append(CancelInvocation(invocation.spec.name, invocation.number, invocation.attempt))
    state.store.release(Caller(invocation.number, invocation.attempt), answer_into(effects))
    for wait in (invocation.waits or {}).values():
        asker, wait.asker = wait.asker, None
        if asker is not None:
            effects.append(Answer(asker, None, given_up()))


def put_away(state: RunState) -> None:
    """Keep all unfinished work, so that the run can be resumed: what ran will run again before what waited."""
    running = [inv for inv in state.invocations.values() if inv.worker is not None]
    retries = [inv for lane in state.lanes.values() for inv in lane.retries]
    queued = {inv.number: inv for lane in state.lanes.values() for inv in lane.queue}
    delayed = [inv for inv in state.invocations.values() if inv.worker is None and inv.number not in queued]
    # A number that is there already keeps its place, so the delayed do not bring the retries in again.
    state.invocations = {inv.number: inv for inv in (*running, *retries, *delayed)} | queued
    for invocation in state.invocations.values():
        # Its body runs from the top again, and the log answers what this attempt has done.
        invocation.attempt += 1
        invocation.worker = invocation.parked_at = invocation.ready = None
        invocation.is_live = False
    state.parked = 0
    state.lanes.clear()


def clear_work(state: RunState) -> None:
    """Account for every event that the end leaves behind."""
    for invocation in state.invocations.values():
        deed: Deed = "dropped" if invocation.first_started_at is None else "cut_off"
        state.tally.deeds[deed, invocation.spec.name, type(invocation.event)] += 1
        if invocation.worker is None and invocation.parked_at is None:
            reason = "its retry" if invocation.failures else "the step took it"
            state.bury(invocation.event, f"the run ended before {reason}", invocation.spec.name)
    for (step, _), buffer in state.buffers.items():
        for event in buffer.events:
            state.bury(event, "the run ended before its collection was complete", step)
    for fan_out in state.fan_outs.values():
        for step, gathered in fan_out.gathered.items():
            for event in gathered.events:
                state.bury(event, "the run ended before its list was complete", step)
    for event, target, *_ in state.delayed.values():
        state.bury(event, "the run ended before its delay was over", target)
    for event, target in state.held:
        state.bury(event, "the run ended and nothing had waited for it", target)
    state.invocations.clear()
    state.lanes.clear()
    state.buffers.clear()
    state.delayed.clear()
    state.fan_outs.clear()
    state.held.clear()
    state.parked = state.retrying = 0
    state.waits = WaitBook()
    for input_id in list(state.inputs.open):
        state.inputs.close(input_id, "withdrawn")


def apply_after_end(state: RunState, fact: Fact, effects: list[Effect]) -> None:
    """The run is over: its state may still be read and set, all else is turned away by name."""
    if isinstance(fact, ForChild):
        late_for_child(state, fact, effects)
    elif isinstance(fact, RunStarted):
        start_late(state, fact.event)
    elif isinstance(fact, StoreCall) and not isinstance(fact.owner, Caller):
        if state.successor is not None:
            # The store has another writer now.
            in_use = ContextStateError(f"this context has just gone on to run '{state.successor}'; try again")
            effects.append(Answer(fact.asker, None, in_use))
        else:
            state.store.call(fact, answer_into(effects))
    elif isinstance(fact, Responded):
        over = InputAnsweredError(f"run '{state.run_id}' has ended; question '{fact.input_id}' is no longer asked")
        effects.append(Answer(fact.asker, None, over))
    elif isinstance(fact, StoreCall | CollectAsked | WaitAsked | OnceAsked | OnceDone | ChildAwaited):
        effects.append(Answer(fact.asker, None, given_up()))
    elif isinstance(fact, EventArrived):
        state.bury(fact.event, "it came after the run had ended", fact.step)
        effects.append(Answer(fact.asker, None, turned_away(state, fact.event)))
    elif isinstance(fact, EventSent):
        state.bury(fact.event, "it was sent after the run had ended", fact.step)
    elif isinstance(fact, EventWritten):
        state.bury(fact.event, "it was written to the stream after the run had ended", None)
    elif isinstance(fact, Finished):
        for event in fact.events:
            if not isinstance(event, StopEvent):
                state.bury(event, "it was returned after the run had ended", None)
    elif isinstance(fact, ChildAsked):
        state.bury(fact.event, "it was to begin a run within this one, which had ended", None)


def turned_away(state: RunState, event: Event) -> GreenroomError:
    """Return the error for somebody outside who sends to a run that has ended."""
    assert state.outcome is not None
    name = type(event).__name__
    if isinstance(state.outcome.error, RuntimeShutdownError):
        return RuntimeShutdownError(f"{state.outcome.error}; {name} was not delivered")
    return WorkflowRuntimeError(f"run '{state.run_id}' has ended; {name} was not delivered")


def start_late(state: RunState, event: Event) -> None:
    """The end has overtaken the start event: if it was a cancel, the event is unfinished work to be resumed."""
    assert state.outcome is not None
    if state.outcome.status == "cancelled" and state.successor is None:
        for spec in state.graph.route(type(event)):
            state.new_invocation(spec, event, None)
    else:
        state.bury(event, "the run ended before it began", None)


def failed_outcome(
    error: BaseException, step: str | None = None, attempts: int | None = None, elapsed: float | None = None
) -> Outcome:
    """Return the outcome of a run that failed, in a step or as a whole."""
    event = WorkflowFailedEvent(step_name=step, exception=error, attempts=attempts, elapsed_seconds=elapsed)
    return Outcome("failed", event, error)

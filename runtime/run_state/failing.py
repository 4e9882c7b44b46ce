"""What follows a failure: another attempt, a step that catches it, or the end of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from greenroom.effects import CancelInvocation, Effect, SetTimer
from greenroom.errors import StepTimeoutError
from greenroom.events import StepFailedEvent
from greenroom.facts import UNDECIDED, Failed, TimerFired
from greenroom.invocation import Invocation
from greenroom.lineage import recovered
from greenroom.retry import RetryInfo, next_delay, retry_seed
from greenroom.run_state.children import forget_failed_children
from greenroom.run_state.collecting import settle
from greenroom.run_state.ending import fail, forget_children
from greenroom.run_state.waiting import withdraw_waits
from greenroom.run_state.work import admit, leave, serve_queue
from greenroom.steps import StepSpec
from greenroom.tally import Deed

if TYPE_CHECKING:
    from greenroom.run_state.state import RunState


def failed(state: RunState, fact: Failed, now: float, effects: list[Effect]) -> None:
    """An attempt failed: another follows, a step catches the error, or the run fails."""
    invocation = state.invocations.get(fact.invocation)
    if invocation is None or invocation.attempt != fact.attempt:
        return
    failures = invocation.failures + 1
    started = invocation.first_started_at
    elapsed = now - started if started is not None else 0.0
    if fact.retry_in == UNDECIDED:
        _decide(state, invocation, fact, failures, elapsed)
    error, delay = fact.error, fact.retry_in
    worker = leave(state, invocation, None, effects)
    if delay is None:
        del state.invocations[invocation.number]
        if invocation.waits:
            withdraw_waits(state, invocation, effects)
        if invocation.children:
            forget_children(state, invocation, effects)
        handler = handler_for(state, invocation, error)
        deed: Deed = "failed" if handler is None else "caught"
        state.tally.deeds[deed, invocation.spec.name, type(invocation.event)] += 1
        if handler is not None:
            event = StepFailedEvent(
                step_name=invocation.spec.name,
                input_event=invocation.event,
                exception=error,
                attempts=failures,
                elapsed_seconds=elapsed,
                failed_at=fact.failed_at,
            )
            lineage = recovered(invocation.lineage, handler.name)
            admit(state, state.new_invocation(handler, event, lineage), now, effects)
            settle(state, invocation.lineage, now, effects)
            serve_queue(state, invocation.spec, worker, now, effects)
        else:
            fail(state, error, effects, invocation.spec.name, failures, elapsed)
        return
    state.tally.deeds["retried", invocation.spec.name, type(invocation.event)] += 1
    invocation.attempt += 1
    invocation.failures = failures
    if invocation.children:
        forget_failed_children(state, invocation)
    invocation.sends = invocation.writes = 0  # A retry does these again; its waits and collections are answered.
    invocation.retry_info = RetryInfo(
        failures, elapsed, error if isinstance(error, Exception) else None, fact.failed_at
    )
    invocation.retry_at = now + delay
    state.retrying += 1
    effects.append(SetTimer(("retry", invocation.number), invocation.retry_at))
    serve_queue(state, invocation.spec, worker, now, effects)


def _decide(state: RunState, invocation: Invocation, fact: Failed, failures: int, elapsed: float) -> None:
    """Ask the retry policy what follows, and note it in the fact."""
    error, policy = fact.error, invocation.spec.options.retry_policy
    fact.retry_in = None
    if policy is not None and isinstance(error, Exception):
        try:
            seed = retry_seed(state.run_id, invocation.spec.name, failures)
            fact.retry_in = next_delay(policy, elapsed, failures, error, seed)
        except Exception as policy_error:
            # A policy is the user's code; one that raises fails the run with what it raised.
            policy_error.__context__ = error
            fact.error = policy_error


def handler_for(state: RunState, invocation: Invocation, error: BaseException) -> StepSpec | None:
    """Return the step that catches this failure, if there is one that may still recover in its lineage."""
    handler = state.graph.handlers.get(invocation.spec.name)
    if handler is None or handler.options.catches is None or not isinstance(error, Exception):
        return None
    used = 0 if invocation.lineage is None else invocation.lineage.recoveries.get(handler.name, 0)
    return handler if used < handler.options.catches.max_recoveries else None


def step_timed_out(
    state: RunState, number: int, attempt: int, timer: TimerFired, now: float, effects: list[Effect]
) -> None:
    """An attempt took longer than its step may."""
    if state.current(number, attempt) is None:
        return
    spec = state.invocations[number].spec
    error = StepTimeoutError(f"step '{spec.name}' took longer than its timeout of {spec.options.timeout} seconds")
    effects.append(CancelInvocation(spec.name, number, attempt, error))
    fact = Failed(number, attempt, error, timer.at, timer.retry_in)
    failed(state, fact, now, effects)
    timer.retry_in = fact.retry_in

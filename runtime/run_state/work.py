"""Invocations at work: who gets a worker, who waits for one, and what follows a failure."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from greenroom.effects import DropTimer, Effect, SetTimer, StartInvocation
from greenroom.events import StepState
from greenroom.invocation import Invocation
from greenroom.lanes import Lane
from greenroom.run_state.answers import answer_to_wait
from greenroom.run_state.notes import state_changed
from greenroom.steps import StepSpec

if TYPE_CHECKING:
    from greenroom.run_state.state import RunState


def admit(
    state: RunState, invocation: Invocation, now: float, effects: list[Effect], *, is_retry: bool = False
) -> None:
    """Start an invocation if its step has a free worker, else put it in the queue."""
    spec = invocation.spec
    lane = state.lanes.get(spec.name)
    if lane is None:
        lane = state.lanes[spec.name] = Lane(spec)
    worker = lane.take_worker()
    if worker is not None:
        start(state, invocation, worker, now, effects)
        return
    (lane.retries if is_retry else lane.queue).append(invocation)
    cls = type(invocation.event)
    state.notes.append((state.place, state_changed, lane.name, StepState.PREPARING, None, cls, None))


def start(state: RunState, invocation: Invocation, worker: int, now: float, effects: list[Effect]) -> None:
    """Give a worker to an invocation: its body begins, or goes on from where it waited."""
    state.idle_noted = False
    spec = invocation.spec
    invocation.worker = worker
    if invocation.first_started_at is None:
        invocation.first_started_at = now
    cls = type(invocation.event)
    state.notes.append((state.place, state_changed, spec.name, StepState.RUNNING, worker, cls, None))
    if invocation.parked_at is not None and go_on(state, invocation, now, effects):
        time_left = invocation.time_left
    else:
        invocation.skips_sends, invocation.skips_writes = invocation.sends, invocation.writes
        invocation.collect_position = 0
        effects.append(StartInvocation(invocation, invocation.attempt))
        time_left = spec.options.timeout
    if time_left is not None:
        invocation.step_deadline = now + time_left
        effects.append(SetTimer(("step", invocation.number, invocation.attempt), invocation.step_deadline))


def go_on(state: RunState, invocation: Invocation, now: float, effects: list[Effect]) -> bool:
    """Let an invocation that was parked go on; return whether its body still stands where it waited."""
    assert invocation.parked_at is not None
    assert invocation.first_started_at is not None
    invocation.first_started_at += now - invocation.parked_at
    invocation.parked_at = None
    ready, invocation.ready = invocation.ready or [], None
    if not invocation.is_live:
        return False
    for wait in ready:
        asker, wait.asker = wait.asker, None
        effects.append(answer_to_wait(wait, asker))
    return True


def leave(state: RunState, invocation: Invocation, output: str | None, effects: list[Effect]) -> int | None:
    """Take an invocation whose attempt has ended off its worker; return the worker's number, if it had one."""
    state.release_store(invocation, effects)
    if invocation.worker is not None:
        return take_worker(state, invocation, output, effects)
    # It ended while it stood at a wait, as one that waits in several tasks of which another has failed.
    invocation.parked_at = None
    if invocation.ready is None:
        state.parked -= 1
    else:
        invocation.ready = None
        state.lanes[invocation.spec.name].retries.remove(invocation)
    return None


def take_worker(state: RunState, invocation: Invocation, output: str | None, effects: list[Effect]) -> int:
    """Take the worker of an invocation, and return its number."""
    worker, invocation.worker = invocation.worker, None
    assert worker is not None
    spec, cls = invocation.spec, type(invocation.event)
    note = (state.place, state_changed, spec.name, StepState.NOT_RUNNING, worker, cls, output)
    state.notes.append(note)
    if spec.options.timeout is not None:
        effects.append(DropTimer(("step", invocation.number, invocation.attempt)))
    return worker


def serve_queue(state: RunState, spec: StepSpec, worker: int | None, now: float, effects: list[Effect]) -> None:
    """Give a free worker to the next in the queue."""
    if worker is None:
        return
    lane = state.lanes[spec.name]
    waiting = lane.next_waiting()
    if waiting is not None:
        start(state, waiting, worker, now, effects)
    else:
        heapq.heappush(lane.freed, worker)

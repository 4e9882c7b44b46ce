"""The journal: a run is its facts, and a checkpoint is the run to the letter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from greenroom import StartEvent, Workflow
from greenroom.checkpoint import dump_checkpoint, load_checkpoint
from greenroom.effects import StartInvocation
from greenroom.facts import CancelAsked, EventArrived, Failed, Recovered, RunStarted, TimerFired
from greenroom.journal import RecordError, encode_fact, is_recorded, pack_record, replay
from greenroom.named import graphs_named_by, registry_for
from greenroom.past_graph import PastGraphs
from greenroom.run_state import RunState
from greenroom.testing import SeededRuntime
from tests.runtime.test_cut_everywhere import Approvals, Coroutines, Family, Retries, Stages, live

MAKERS = [Approvals, Coroutines, Retries, Stages]


class Kept:
    """What a journal keeps of one run: checkpoints after every fact, and the facts."""

    def __init__(self) -> None:
        self.checkpoints: list[bytes] = []
        self.records: list[bytes] = []


@contextmanager
def journal_kept(kept: Kept, registry: Any = None) -> Iterator[None]:
    """Record every fact, with what the run has noted in it, and the run after it."""
    apply, given = RunState.apply, registry

    def watched(state: RunState, fact: Any, now: float) -> Any:
        if state.depth:
            return apply(state, fact, now)  # What happens to a child is a fact of its parent's.
        registry = given or registry_for(state.graph)
        if not kept.checkpoints:
            kept.checkpoints.append(dump_checkpoint(state, 0.0, registry))
        recorded = is_recorded(fact) and state.outcome is None
        data = encode_fact(fact, registry) if recorded else b""
        effects = apply(state, fact, now)
        if recorded:
            asks_policy = isinstance(fact, Failed | TimerFired)
            kept.records.append(pack_record(now, encode_fact(fact, registry) if asks_policy else data))
        if recorded and state.outcome is None:
            # With the clock at 0 the bytes of two runs can be compared, whenever they were taken.
            kept.checkpoints.append(dump_checkpoint(state, 0.0, registry))
        return effects

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunState, "apply", watched)
        yield


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("max_parked", [0, 1000])
@pytest.mark.parametrize("seed", [1, 2])
def test_facts_that_are_replayed_give_the_same_run(
    make: Callable[[list[str]], Workflow], max_parked: int, seed: int
) -> None:
    """From the beginning and from every checkpoint on, byte for byte, to the end."""
    kept = Kept()
    with SeededRuntime(seed) as runtime, journal_kept(kept):
        runtime.parking._max_parked = max_parked
        workflow = make([])
        handler = workflow.run()
        live(handler, -1)
        result = handler.result()
    graph = workflow._graph
    registry = registry_for(graph)
    assert len(kept.records) > 10
    for begun, checkpoint in enumerate(kept.checkpoints[:: 1 if len(kept.checkpoints) < 60 else 7]):
        first = begun * (1 if len(kept.checkpoints) < 60 else 7)
        state, _ = load_checkpoint(graph, checkpoint, registry, timeout=None, on_stuck="fail")
        for number, record in enumerate(kept.records[first:], first + 1):
            replay(state, [record], registry)
            if number < len(kept.checkpoints):
                assert dump_checkpoint(state, 0.0, registry) == kept.checkpoints[number], number
        assert state.outcome is not None
        assert state.outcome.result == result


def test_a_recovered_run_starts_again_what_was_at_work_and_leaves_what_waits() -> None:
    """With new attempts, so that what the dead process may still say is turned away."""
    kept = Kept()
    with SeededRuntime(1) as runtime, journal_kept(kept):
        handler = Approvals([]).run()
        runtime.run_until_idle()
        handler.cancel_run()
    graph = Approvals([])._graph
    registry = registry_for(graph)
    begun = waiting = 0
    for checkpoint in kept.checkpoints:
        state, _ = load_checkpoint(graph, checkpoint, registry, timeout=None, on_stuck="fail")
        attempts = {number: invocation.attempt for number, invocation in state.invocations.items()}
        at_work = {number for number, invocation in state.invocations.items() if invocation.worker is not None}
        parked = {number for number, invocation in state.invocations.items() if invocation.parked_at is not None}
        effects = state.apply(Recovered(0.0), 1.0)
        started = {e.invocation.number for e in effects if isinstance(e, StartInvocation)}
        assert at_work <= started
        assert not parked & started
        assert state.parked == len(parked)
        assert all(inv.attempt == attempts[number] + 1 for number, inv in state.invocations.items())
        begun, waiting = begun + len(started), waiting + len(parked)
    assert begun
    assert waiting


@pytest.mark.parametrize("max_parked", [0, 1000])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_facts_of_children_are_replayed_with_those_of_their_parent(max_parked: int, seed: int) -> None:
    """From the beginning and from every checkpoint, byte for byte, children and grandchildren included."""
    named = graphs_named_by(Family([]))
    registry = registry_for(*named)
    within = PastGraphs(named, registry)
    kept = Kept()
    with SeededRuntime(seed) as runtime, journal_kept(kept, registry):
        runtime.parking._max_parked = max_parked
        handler = Family([]).run()
        live(handler, -1)
        result = handler.result()
    graph = Family([])._graph
    stride = 1 if len(kept.checkpoints) < 60 else 7
    seen = 0
    for first in range(0, len(kept.checkpoints), stride):
        state, _ = load_checkpoint(
            graph, kept.checkpoints[first], registry, timeout=None, on_stuck="fail", within=within
        )
        seen += any(child.cast is not None for child in state.children.values())
        for number, record in enumerate(kept.records[first:], first + 1):
            replay(state, [record], registry, within)
            if number < len(kept.checkpoints):
                assert dump_checkpoint(state, 0.0, registry) == kept.checkpoints[number], (first, number)
    assert seen
    assert state.outcome is not None
    assert state.outcome.result == result


def test_a_journal_that_goes_on_after_the_end_of_the_run_does_not_apply() -> None:
    """By the code as it is now the run has ended where it had gone on: that is told, and nothing is guessed."""
    graph = Approvals([])._graph
    registry = registry_for(graph)
    facts = [RunStarted(StartEvent()), CancelAsked(), EventArrived(StartEvent(), None, None)]
    records = [pack_record(1.0, encode_fact(fact, registry)) for fact in facts]
    with pytest.raises(
        RecordError, match=r"record 2, EventArrived, cannot be applied: the run had not ended before it"
    ):
        replay(RunState(graph, "one"), records, registry)

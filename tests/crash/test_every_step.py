"""A durable run whose process dies at any step goes on in another, and ends as the run that never died.

A workflow runs once on a schedule drawn from a seed. Then it runs again and again, and each time its process dies at
another step of the schedule or just after another commit, of which nobody was told; a new process recovers the run.
The guarantee is that of docs/durability.md.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from greenroom import InputRequiredEvent, Workflow
from greenroom.actors.ticker import TickNow
from greenroom.codec import decode
from greenroom.events import WorkflowCancelledEvent
from greenroom.named import registry_of
from tests.runtime.test_cut_everywhere import ROUNDS, Approvals, Coroutines, Family, Lists, Retries, Stages, Tree, tell
from tests.support.worlds import World

SCALE = int(os.environ.get("GREENROOM_SOAK", "1"))
SEEDS = range(1, 1 + SCALE)
STEPS = 6 * SCALE  # deaths at a step
COMMITS = 5 * SCALE  # and just after a commit
FLOWS = [Approvals, Coroutines, Family, Lists, Retries, Stages, Tree]


class _Effects(list[str]):
    """Hands what a workflow notes to the world."""

    def __init__(self, world: World) -> None:
        self._world = world

    def append(self, text: str) -> None:
        self._world.effect(text)


class Lived(NamedTuple):
    """What came of a run."""

    world: World
    result: Any
    stream: list[str]
    input_ids: list[str]
    seen: set[tuple[int, str]]  # what readers in the processes that died had read, with offsets


def run_with_deaths(
    make: Callable[[list[str]], Workflow],
    seed: int,
    deaths: list[dict[str, int]],
    max_parked: int = 1000,
    *,
    is_sync: bool = True,
    idle_timeout: float | None = None,
) -> Lived:
    """Run a workflow in one process after the other.

    Args:
        make: Makes the workflow. It notes its effects in the list that it is given.
        seed: Decides the schedules.
        deaths: When each process dies: as `World.process` takes it. One more works to the end.
        max_parked: How many bodies may wait on their threads.
        is_sync: Whether what follows from a fact waits for its commit.
        idle_timeout: When the run goes to rest.
    """
    world = World(seed, is_sync=is_sync, idle_timeout=idle_timeout)
    seen: set[tuple[int, str]] = set()
    answered: set[str] = set()
    for death in [*deaths, {}]:
        handler: Any = None
        with world.process(**death) as runtime:
            runtime.parking._max_parked = max_parked
            workflow = make(_Effects(world))
            world.registry = registry_of(workflow)
            runtime.recover([workflow])
            handler = runtime.get("one") or workflow.run(run_id="one")
            for _ in range(ROUNDS):
                pending = handler.pending_inputs()
                assert answered.isdisjoint(question.input_id for question in pending), "an answer was lost"
                if handler.done():
                    break
                if pending:
                    question: Any = pending[0]
                    handler.respond(question.input_id, {"n": question.request.n * 10})
                    answered.add(question.input_id)
                else:
                    runtime.run_until_idle()
                    if not handler.done() and not handler.pending_inputs():
                        runtime.advance(1)
                        runtime.keeper._clock.tell(TickNow())  # A run at rest is woken by its timers, not by a look.
            handler.result()
        if handler is not None:
            # What comes after the death is how it was put down here, and told to nobody.
            read = [tell(event) for event in handler._log.events if not isinstance(event, WorkflowCancelledEvent)]
            seen.update(enumerate(read, handler._log.first_offset))
    row = world.store.row("one")
    assert row is not None
    assert row.status == "completed"
    events = world.store.events("one")
    assert [offset for offset, _ in events] == list(range(row.next_offset)), "the stream has a gap"
    stream = [decode(data, world.registry) for _, data in events]
    data = world.store.result("one")
    assert data is not None
    last, error = decode(data, world.registry)
    assert error is None
    assert tell(stream[-1]) == tell(last)
    assert world.store.inputs() == []
    asked = [event.input_id for event in stream if isinstance(event, InputRequiredEvent)]
    return Lived(world, last.result, [tell(event) for event in stream], asked, seen)


def check(make: Callable[[list[str]], Workflow], whole: Lived, lived: Lived, *, is_sync: bool = True) -> None:
    """Compare a run whose process died with the one that was left alone."""
    assert lived.result == whole.result
    assert Counter(lived.stream) == Counter(whole.stream)
    assert len(set(lived.input_ids)) == len(whole.input_ids)
    effects, expected = Counter(lived.world.effects), Counter(whole.world.effects)
    assert expected - effects == Counter(), "an effect was not done"
    assert effects - expected <= lived.world.unrecorded, "what was done once and recorded was done again"
    if is_sync:
        assert lived.seen <= set(enumerate(lived.stream)), "a reader has read what is not in the stream"


@pytest.mark.parametrize("make", FLOWS)
@pytest.mark.parametrize("max_parked", [0, 1000])
@pytest.mark.parametrize("mode", ["sync", "async", "resting"])
def test_a_run_whose_process_dies_ends_as_the_one_that_lived(
    make: Callable[[list[str]], Workflow], max_parked: int, mode: str
) -> None:
    """At steps all over the schedule, and just after every commit, of which nobody was told."""
    options: Any = {"is_sync": mode != "async", "idle_timeout": 0.0 if mode == "resting" else None}
    for seed in SEEDS:
        whole = run_with_deaths(make, seed, [], max_parked, **options)
        assert max(Counter(whole.world.effects).values()) == 1
        deaths = [{"step": step} for step in range(1, whole.world.steps, max(1, whole.world.steps // STEPS))]
        deaths += [{"commit": commit} for commit in range(1, whole.world.commits + 1)][:COMMITS]
        for death in deaths:
            try:
                check(make, whole, run_with_deaths(make, seed, [death], max_parked, **options), is_sync=mode != "async")
            except BaseException as error:
                error.add_note(f"{make.__name__}, seed {seed}, max_parked {max_parked}, {mode}, died at {death}")
                raise


@pytest.mark.parametrize("make", FLOWS)
def test_a_run_whose_processes_die_one_after_the_other_ends_as_the_one_that_lived(
    make: Callable[[list[str]], Workflow],
) -> None:
    """However often, as long as each gets a little further."""
    for seed in SEEDS:
        whole = run_with_deaths(make, seed, [])
        for stride in (23, 57):
            deaths = [{"step": stride + 7 * number} for number in range(12)]
            try:
                check(make, whole, run_with_deaths(make, seed, deaths))
            except BaseException as error:
                error.add_note(f"{make.__name__}, seed {seed}, died at {deaths}")
                raise


@pytest.mark.parametrize("make", [Family, Tree])
def test_a_tree_of_runs_that_rests_may_be_killed_at_every_commit(make: Callable[[list[str]], Workflow]) -> None:
    """Those included with which it leaves memory, as it does whenever all of it only waits; and again soon after.

    At every fourth of the others, and in a soak at all.
    """
    for seed in SEEDS:
        whole = run_with_deaths(make, seed, [], idle_timeout=0.0)
        assert len(whole.world.rests) >= 5
        for commit in sorted({*whole.world.rests, *range(seed, whole.world.commits + 1, 4 if SCALE == 1 else 1)}):
            try:
                lived = run_with_deaths(make, seed, [{"commit": commit}, {"commit": 2}], idle_timeout=0.0)
                check(make, whole, lived)
            except BaseException as error:
                error.add_note(f"{make.__name__}, seed {seed}, died at commit {commit}")
                raise

"""Processes that die, on a schedule drawn from a seed: a seeded runtime over a store, dropped between two steps.

A `World` is what outlives the processes: the store, the effects that were done, the clock. A process is a
`SeededRuntime` with a keeper of its own. At the step at which it dies the store takes nothing more from it, no effect
of its bodies counts any more, and whoever waits on it is raised `Died`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from greenroom.codec import decode
from greenroom.errors import GreenroomError, StoreError, StoreUnavailableError
from greenroom.journal import unpack_record
from greenroom.keeper import Durability, RunKeeper
from greenroom.stores import Commit, MemoryStore
from greenroom.testing import SeededRuntime


class Died(Exception):
    """The process has died."""


class _EffectOfTheDead(BaseException):
    """Ends a body that goes on after its process has died."""


class _Mortal:
    """The store, as one process sees it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.alive = True

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._world.store, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if not self.alive:
                raise StoreUnavailableError("this process has died")
            return method(*args, **kwargs)

        return call

    def commit(self, commits: Sequence[Commit]) -> list[StoreError | None]:
        if not self.alive:
            raise StoreUnavailableError("this process has died")
        world = self._world
        refused = world.store.commit(commits)
        world.commits += 1
        for commit, error in zip(commits, refused, strict=True):
            if error is None:
                world.note(commit)
        if world.dies_at_commit == world.commits:
            world.kill()  # committed, and nobody was told
            raise StoreUnavailableError("this process has died")
        return refused


class World:
    """What outlives its processes.

    Attributes:
        store: The store itself.
        effects: What was done, in order.
        recorded: What is done once and recorded: the results of `ctx.once` that are committed.
        commits: How many transactions there were.
        rests: The commits with which a run left memory.
        steps: How many steps the process at work has taken.
        unrecorded: Effects that were done when a process died, and not recorded: the one window in which `once` may do
            something twice.
    """

    def __init__(self, seed: int, *, is_sync: bool = True, idle_timeout: float | None = None) -> None:
        self.seed = seed
        self.store = MemoryStore(clock=lambda: self.time)
        self.effects: list[str] = []
        self.recorded: list[str] = []
        self.unrecorded: Counter[str] = Counter()
        self.commits = self.steps = self.kills = 0
        self.rests: list[int] = []
        self.dies_at_step: int | None = None
        self.dies_at_commit: int | None = None
        self.time = 1e9
        self._durability = Durability(is_sync, 0.05, idle_timeout, math.inf, None, poll=math.inf)
        self._runtime: SeededRuntime | None = None
        self._mortal: _Mortal | None = None

    def effect(self, text: str) -> str:
        """Do something that can be seen outside."""
        if self._mortal is None or not self._mortal.alive:
            raise _EffectOfTheDead
        self.effects.append(text)
        return text

    def note(self, commit: Commit) -> None:
        """Take note of what a commit records."""
        if commit.release and commit.snapshot is not None:
            self.rests.append(self.commits)
        for _, record in commit.records:
            name, *values = decode(unpack_record(record)[1], self.registry)
            while name == "ForChild":
                name, *values = decode(values[1], self.registry)
            if name == "OnceDone":
                self.recorded.append(values[3])

    @contextmanager
    def process(self, *, step: int | None = None, commit: int | None = None) -> Iterator[SeededRuntime]:
        """A process at work, that dies at a step, or when a commit is done, unless the block ends before."""
        self.steps, self.dies_at_step = 0, step
        self.dies_at_commit = None if commit is None else self.commits + commit
        runtime = SeededRuntime(self.seed + 1000 * self.kills)
        dispatcher = runtime._dispatcher
        begun = self.time
        dispatcher._now = begun - dispatcher.wall_time().timestamp() + dispatcher.now()
        tick = dispatcher._tick

        def count() -> None:
            tick()
            if self._mortal is mortal and mortal.alive:
                self.steps += 1
                self.time = max(self.time, dispatcher.wall_time().timestamp())
                if self.steps == self.dies_at_step:
                    self.kill()

        mortal = self._mortal = _Mortal(self)
        dispatcher._tick = count  # type: ignore[method-assign]
        self._runtime = runtime
        runtime.keeper = RunKeeper(runtime, mortal, self._durability)  # type: ignore[arg-type]
        owner = runtime.keeper.lease.owner
        try:
            with runtime:
                try:
                    yield runtime
                except BaseException:
                    with suppress(GreenroomError):
                        runtime.shutdown(0.0)
                    raise
        except (Died, GreenroomError):
            if mortal.alive:
                raise
        finally:
            if not mortal.alive:
                self.store.resign(owner)  # as whoever sees that the process is gone does

    def kill(self) -> None:
        """Have the process die here and now."""
        assert self._mortal is not None
        assert self._runtime is not None
        self._mortal.alive = False
        self.kills += 1
        self.unrecorded += Counter(self.effects) - Counter(self.recorded) - self.unrecorded
        dispatcher = self._runtime._dispatcher
        for visitor in dispatcher._visitors.copy():
            visitor.error, visitor.is_done = Died(), lambda: True  # type: ignore[assignment]

    registry: Any = None  # of the workflow whose runs there are

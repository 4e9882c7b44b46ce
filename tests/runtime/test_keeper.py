"""What the keeper of durable runs does beside committing: it sweeps, lists questions, and leaves alone what it should."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from greenroom import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    Runtime,
    StartEvent,
    StopEvent,
    Workflow,
    step,
)
from greenroom.stores import Loaded, MemoryStore, RunStore, SQLiteStore
from tests.support.flavours import DEADLINE
from tests.support.waiting import wait_until


class Ask(InputRequiredEvent):
    n: int


class Answer(HumanResponseEvent):
    n: int


class Tick(Event):
    n: int


class Asks(Workflow):
    @step
    def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(Tick(n=1))
        return StopEvent(result=ctx.ask(Ask(n=ev.n), Answer).n)


@pytest.fixture(params=["memory", "sqlite"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], RunStore]:
    """Returns the same store each time, as another process would open it."""
    if request.param == "memory":
        store = MemoryStore()
        return lambda: store
    return lambda: SQLiteStore(tmp_path / "runs.db", poll_interval=0.01)


def until(condition: Callable[[], object]) -> None:
    assert wait_until(condition, DEADLINE), "it never came to be"


def answer(handler: Any, n: int) -> None:
    until(handler.pending_inputs)
    handler.respond(handler.pending_inputs()[0].input_id, {"n": n})


# -- retention ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retention", [None, 3600.0])
def test_the_journal_of_a_run_that_has_ended_is_dropped_and_its_result_is_kept(
    retention: float | None, make_store: Callable[[], RunStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever `retention` is; that of a run that goes on is not touched."""
    monkeypatch.setattr("greenroom.keeper.lookout.SWEEP_SECONDS", 0.0)
    store = make_store()

    def kept(run_id: str) -> bool:
        loaded = store.load([run_id])[run_id]
        assert isinstance(loaded, Loaded)
        return loaded.snapshot is not None or bool(loaded.records)

    with Runtime(store=store, retention=retention) as runtime:
        ended, goes_on = (Asks().run(run_id=name, n=1) for name in ("ended", "goes on"))
        answer(ended, 2)
        assert ended.result(DEADLINE) == 2
        until(goes_on.pending_inputs)
        assert runtime.keeper is not None
        look = runtime.keeper.lookout.look
        until(lambda: look() or not kept("ended"))
        assert kept("goes on")
    with Runtime(store=make_store(), retention=retention) as runtime:
        runtime.recover([Asks])
        again = runtime.get("ended")
        assert again is not None
        assert again.result(DEADLINE) == 2
        assert [type(event).__name__ for event in again.stream_events(after=-1)] == ["Tick", "Ask", "StopEvent"]

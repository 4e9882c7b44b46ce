"""Workflows for the tests of the commands on stores, and a process that holds runs of them.

`python -m tests.support.durable_flows STORE RUN...` recovers what there is, begins the runs, says "ready", and works on
them until its input ends.
"""

from __future__ import annotations

import sys
from datetime import date

from pydantic import Field

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
from greenroom.stores import PostgresStore, RunStore, SQLiteStore


class Draft(Event):
    text: str


class Review(InputRequiredEvent):
    message: str
    text: str


class Verdict(HumanResponseEvent):
    ok: bool
    due: date
    stars: int = Field(default=3, ge=1, le=5)


class Reviews(Workflow):
    """Drafts, asks for a verdict, and asks again until it is good."""

    @step
    def draft(self, ctx: Context, ev: StartEvent) -> Draft:
        ctx.store.set("topic", ev.get("topic", "cats"))
        return Draft(text="about cats")

    @step
    def review(self, ctx: Context, ev: Draft) -> StopEvent:
        while True:
            verdict = ctx.ask(Review(message="Is it good?", text=ev.text), Verdict)
            if verdict.ok:
                return StopEvent(result=f"{verdict.due:%d.%m.%Y} {verdict.stars}")


def store_of(where: str) -> RunStore:
    return PostgresStore(where) if where.startswith("postgresql:") else SQLiteStore(where)


def hold() -> None:
    """Work on runs until the input ends."""
    with Runtime(store=store_of(sys.argv[1])) as runtime:
        runtime.recover([Reviews])
        for run_id in sys.argv[2:]:
            handler = Reviews().run(run_id=run_id)
            for event in handler.stream_events():
                if isinstance(event, Review):
                    break
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    from tests.support import durable_flows  # under the name by which other processes know its classes

    durable_flows.hold()

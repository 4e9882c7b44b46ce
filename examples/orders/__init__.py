"""Orders that web processes begin and workers go on with: see README.md."""

from __future__ import annotations

from pathlib import Path

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
from greenroom.stores import SQLiteStore


class Order(StartEvent):
    amount: int


class Reserved(Event):
    receipt: str


class Approval(HumanResponseEvent):
    approved: bool


class OrderWorkflow(Workflow):
    """Reserves the goods, asks a person, and ships."""

    @step
    def reserve(self, ctx: Context, ev: Order) -> Reserved:
        return Reserved(receipt=ctx.once("reserve", reserve, ev.amount))

    @step
    def ship(self, ctx: Context, ev: Reserved) -> StopEvent:
        approval = ctx.ask(InputRequiredEvent(message=f"Ship {ev.receipt}?"), Approval)
        return StopEvent(result=f"{ev.receipt}, shipped" if approval.approved else "refused")


def reserve(amount: int) -> str:
    """Stands for an entry in a stock list, which must be made only once."""
    return f"{amount} reserved"


def open_runtime(path: str | Path) -> Runtime:
    """Make the runtime of a process. One that forks makes it after the fork, in each child."""
    return Runtime(store=SQLiteStore(path))

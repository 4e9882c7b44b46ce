"""A payment that a person approves, in this process or in a later one: see README.md."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from pydantic import Field

from greenroom import Context, Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Workflow, step


class Payment(StartEvent):
    to: str
    amount: Decimal = Field(gt=0)


class Booked(Event):
    entry: str


class Approval(HumanResponseEvent):
    decision: Literal["approve", "reject"] = Field(description="Your decision")
    reason: str = Field("", description="A word to the payee")


class PaymentWorkflow(Workflow):
    @step
    def pay(self, ctx: Context, ev: Payment) -> StopEvent:
        entry = ctx.once("book", book, ev)  # Not done again when the step goes on in another process.
        ctx.write_event_to_stream(Booked(entry=entry))
        approval = ctx.ask(InputRequiredEvent(message=f"Pay {ev.amount:,.2f} EUR to {ev.to}?"), Approval)
        if approval.decision == "reject":
            return StopEvent(result=f"{entry} cancelled: {approval.reason or 'no reason given'}")
        return StopEvent(result=f"{entry} paid")


def book(payment: Payment) -> str:
    """Stands for an entry in a ledger, which must be made only once."""
    return f"entry {payment.to.upper()[:3]}-{payment.amount}"

"""The workflow: one event a file, checked side by side, collected into a report that a person may have to approve.

Inbox -> InvoiceFile, one a file -> Checked, four at a time -> Done, or above the limit:
ApprovalRequired, a person answers with Approval -> Done
"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

from pydantic import BaseModel

from examples.invoices.parsing import Invoice, Rejection, read_invoice
from examples.invoices.report import Decision, Report, make_report
from greenroom import Context, Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Workflow, step


class Inbox(StartEvent):
    """Start here: a folder of invoices, and the largest sum in euros that needs no approval."""

    folder: Path
    limit_eur: Decimal = Decimal(10_000)


class InvoiceFile(Event):
    """One file to check, of so many in this run."""

    path: Path
    of: int


class Checked(Event):
    """What became of one file."""

    outcome: Invoice | Rejection
    of: int


class Progress(Event):
    """Streamed to whoever watches: one more file is checked."""

    outcome: Invoice | Rejection
    of: int


class ApprovalRequired(InputRequiredEvent):
    """Asks a person: may this sum be paid?"""

    accepted: int
    total_eur: Decimal
    limit_eur: Decimal


class Approval(HumanResponseEvent):
    """The person's answer."""

    decision: Decision


class Done(StopEvent):
    """The result of the run."""

    report: Report


class State(BaseModel):
    """What the run remembers between steps."""

    limit_eur: Decimal = Decimal(0)
    report: Report | None = None


class InboxError(Exception):
    """The folder cannot be worked on; the message says why."""


class InvoiceWorkflow(Workflow):
    """Checks a folder of invoices: `InvoiceWorkflow().run(folder=..., limit_eur=...)`."""

    @step
    def open_inbox(self, ctx: Context[State], ev: Inbox) -> InvoiceFile | None:
        """Send one event for each file."""
        try:
            paths = [path for path in ev.folder.iterdir() if path.is_file() and not path.name.startswith(".")]
        except OSError as error:
            raise InboxError(f"cannot read the folder {ev.folder}: {error.strerror}") from error
        if not paths:
            raise InboxError(f"no files in the folder {ev.folder}")
        ctx.store.set("limit_eur", ev.limit_eur)
        for path in sorted(paths):
            ctx.send_event(InvoiceFile(path=path, of=len(paths)))
        return None

    @step(num_workers=4)
    def check(self, ctx: Context[State], ev: InvoiceFile) -> Checked:
        """Read and check one file; four of these run at once. Blocking calls are fine here."""
        outcome = read_invoice(ev.path)
        ctx.write_event_to_stream(Progress(outcome=outcome, of=ev.of))
        return Checked(outcome=outcome, of=ev.of)

    @step
    def gather(self, ctx: Context[State], ev: Checked) -> Done | ApprovalRequired | None:
        """Wait for every file, then report, or ask a person first."""
        checked = ctx.collect_events(ev, {Checked: ev.of})
        if checked is None:
            return None
        report = make_report((each.outcome for each in checked), ctx.store.get("limit_eur"))
        if report.payment == "within limit":
            return Done(report=report)
        ctx.store.set("report", report)
        return ApprovalRequired(accepted=len(report.accepted), total_eur=report.total_eur, limit_eur=report.limit_eur)

    @step
    def decide(self, ctx: Context[State], ev: Approval) -> Done:
        """Runs when the answer comes, however long that takes."""
        report: Report = ctx.store.get("report")
        return Done(report=report.model_copy(update={"payment": ev.decision}))

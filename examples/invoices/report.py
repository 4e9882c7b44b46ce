"""From checked files to a Report, and from a Report to files that people and programs read."""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal

from pydantic import BaseModel, computed_field

from examples.invoices.money import RATES, show, to_eur
from examples.invoices.parsing import Invoice, Rejection

Decision = Literal["approved", "rejected", "held"]


class Payable(BaseModel):
    """One accepted invoice, as the report lists it."""

    file: str
    number: str
    issued: datetime.date
    supplier: str
    currency: str
    total: Decimal
    eur: Decimal


class Report(BaseModel):
    """What became of every file, and whether the sum may be paid."""

    rates_of: datetime.date
    accepted: list[Payable]
    rejected: list[Rejection]
    limit_eur: Decimal
    payment: Decision | Literal["within limit"]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total_eur(self) -> Decimal:
        """The sum of the accepted invoices, in euros."""
        return sum((payable.eur for payable in self.accepted), Decimal("0.00"))

    @computed_field  # type: ignore[prop-decorator]
    @property
    def totals(self) -> dict[str, Decimal]:
        """The sum of the accepted invoices in each currency."""
        totals: defaultdict[str, Decimal] = defaultdict(Decimal)
        for payable in self.accepted:
            totals[payable.currency] += payable.total
        return dict(sorted(totals.items()))


def make_report(checked: Iterable[Invoice | Rejection], limit_eur: Decimal) -> Report:
    """Sort the outcomes by file, turn away duplicates, convert to euros.

    Args:
        checked: One outcome a file, in any order.
        limit_eur: The largest sum, in euros, that needs no approval.

    Returns:
        The report. A sum above the limit is `held` until somebody decides.
    """
    accepted: list[Payable] = []
    rejected: list[Rejection] = []
    first: dict[tuple[str, str], Invoice] = {}
    for outcome in sorted(checked, key=lambda outcome: outcome.file):
        if isinstance(outcome, Rejection):
            rejected.append(outcome)
            continue
        earlier = first.setdefault((outcome.supplier, outcome.number), outcome)
        if earlier is not outcome:
            rejected.append(Rejection(file=outcome.file, reason=_duplicate(outcome, earlier)))
            continue
        eur = to_eur(outcome.total, outcome.currency)
        accepted.append(Payable(**outcome.model_dump(include=set(Payable.model_fields)), eur=eur))
    report = Report(
        rates_of=RATES.date, accepted=accepted, rejected=rejected, limit_eur=limit_eur, payment="within limit"
    )
    return report if report.total_eur <= limit_eur else report.model_copy(update={"payment": "held"})


def _duplicate(invoice: Invoice, earlier: Invoice) -> str:
    if invoice.model_copy(update={"file": earlier.file}) == earlier:
        return f"duplicate: the same invoice as {earlier.file}"
    return f"duplicate: number {invoice.number} is already used in {earlier.file}, which says something else"


def summary(report: Report) -> str:
    """The report as text for a person."""
    accepted, rejected = len(report.accepted), len(report.rejected)
    text = [f"Files: {accepted + rejected}, accepted {accepted}, rejected {rejected}", "", "Accepted"]
    width = max((len(payable.file) for payable in report.accepted), default=0)
    for payable in report.accepted:
        amount, eur = show(payable.total, payable.currency), show(payable.eur, "EUR")
        text.append(f"  {payable.file:{width}}  {amount:>14}  {eur:>14}  {payable.supplier}")
    text += ["", "Rejected"]
    for rejection in report.rejected:
        text += [f"  {rejection.file}", f"    {rejection.reason}"]
    text += ["", f"Totals (rates of {report.rates_of})"]
    text += [f"  {show(amount, currency):>18}" for currency, amount in report.totals.items()]
    text += [f"  {show(report.total_eur, 'EUR'):>18}  in all", "", f"Payment: {_payment(report)}", ""]
    return "\n".join(text)


def _payment(report: Report) -> str:
    limit = show(report.limit_eur, "EUR")
    return {
        "within limit": f"approved, the sum is within the limit of {limit}",
        "approved": f"approved by a person, the sum is above the limit of {limit}",
        "rejected": f"rejected by a person, the sum is above the limit of {limit}",
        "held": f"held for approval, the sum is above the limit of {limit}",
    }[report.payment]


class OutputError(Exception):
    """The report cannot be written; the message says why."""


def open_output(folder: Path) -> None:
    """Make the folder for the report. Called before any work is done, so that no work is done in vain.

    Raises:
        OutputError: if files cannot be written there.
    """
    with _output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()


def write_report(report: Report, folder: Path) -> None:
    """Write `report.json` (money as text, so that no reader makes it a float) and `summary.txt` into a folder.

    Raises:
        OutputError: if the files cannot be written.
    """
    with _output_errors(folder):
        (folder / "report.json").write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (folder / "summary.txt").write_text(summary(report), encoding="utf-8")


@contextmanager
def _output_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write to the folder {folder}: {error.strerror}") from error

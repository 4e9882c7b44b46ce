"""From a file to an Invoice or a Rejection. Nothing here knows of workflows, and no bad file raises."""

from __future__ import annotations

import csv
import datetime
import io
import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, StringConstraints, ValidationError
from pydantic_core import PydanticCustomError

from examples.invoices.money import RATES, round_to


def _written_as(pattern: str, expected: str) -> BeforeValidator:
    """Accept text only in one shape: pydantic alone would take `1_0` for 10 and `20250630` for a time stamp."""

    def check(value: Any) -> Any:
        if isinstance(value, Decimal | datetime.date) or (isinstance(value, str) and re.fullmatch(pattern, value)):
            return value
        found = ascii(value)[:40]
        raise PydanticCustomError("shape", "expected {expected}, found {found}", {"expected": expected, "found": found})

    return BeforeValidator(check)


def _printable(value: str) -> str:
    """Refuse control characters, which could rewrite the reader's terminal."""
    if not value.isprintable():
        raise PydanticCustomError("printable", "expected printable text")
    return value


Amount = Annotated[Decimal, _written_as(r"-?[0-9]{1,12}(\.[0-9]{1,6})?", "a plain number such as 1250.00")]
Date = Annotated[datetime.date, _written_as(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", "a date such as 2025-06-30")]
Text = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), AfterValidator(_printable)
]


class Line(BaseModel):
    """One line item."""

    description: Text
    quantity: Amount
    unit_price: Amount


class Invoice(BaseModel):
    """An invoice that passed every check of its own file."""

    file: str
    number: Text
    issued: Date
    supplier: Text
    currency: Text
    lines: list[Line] = Field(min_length=1)
    tax: Amount
    total: Amount


class Rejection(BaseModel):
    """A file that cannot be paid, and why, in words for the person who has to fix it."""

    file: str
    reason: str


class _Unreadable(Exception):
    """The file does not hold an invoice; the message says why."""


def read_invoice(path: Path) -> Invoice | Rejection:
    """Read and check one file.

    Args:
        path: A `.csv` file (one row a line item, the invoice's own fields repeated on each) or a `.json` file.

    Returns:
        The invoice, or the rejection with every reason that was found.
    """
    file = printable_name(path)
    try:
        invoice = Invoice.model_validate({**_fields(path), "file": file})
    except _Unreadable as error:
        return Rejection(file=file, reason=str(error))
    except ValidationError as error:
        return Rejection(file=file, reason="; ".join(_in_words(problem) for problem in error.errors()))
    reason = _disagreement(invoice)
    return Rejection(file=file, reason=reason) if reason else invoice


def printable_name(path: Path) -> str:
    """The file's name, safe to print whatever bytes it is made of."""
    return path.name if path.name.isprintable() else ascii(path.name)


def _fields(path: Path) -> dict[str, Any]:
    readers = {".csv": _csv_fields, ".json": _json_fields}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise _Unreadable("not an invoice file: its name ends neither in .csv nor in .json")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise _Unreadable(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _Unreadable(f"not UTF-8 text: {error.reason} at byte {error.start}") from error
    if not text.strip():
        raise _Unreadable("the file is empty")
    return reader(text)


def _json_fields(text: str) -> dict[str, Any]:
    try:
        # Numbers stay the text they are written as, so that no amount is ever a float.
        fields = json.loads(text, parse_float=str, parse_int=str)
    except json.JSONDecodeError as error:
        raise _Unreadable(f"malformed JSON at line {error.lineno}, column {error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise _Unreadable("malformed JSON: nested too deeply") from error
    if not isinstance(fields, dict):
        raise _Unreadable("malformed JSON: expected one object with the fields of an invoice")
    return fields


def _csv_fields(text: str) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    lines: list[dict[str, str]] = []
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in rows:
            if None in row:
                raise _Unreadable(f"malformed CSV at line {rows.line_num}: more values than the header has names")
            # An empty cell is a missing field.
            cells = {name: value for name, value in row.items() if value}
            lines.append({name: cells.pop(name) for name in Line.model_fields if name in cells})
            if fields and cells != fields:
                raise _Unreadable(
                    f"malformed CSV at line {rows.line_num}: its invoice fields differ from the first row"
                )
            fields = cells
    except csv.Error as error:
        raise _Unreadable(f"malformed CSV at line {rows.reader.line_num}: {error}") from error
    if not lines:
        raise _Unreadable("no line items")
    return {**fields, "lines": lines}


def _in_words(problem: Any) -> str:
    where = ".".join(str(part + 1) if isinstance(part, int) else part for part in problem["loc"])
    match problem["type"]:
        case "missing":
            return f"missing field: {where}"
        case "too_short":
            return "no line items"
        case _:
            return f"{where}: {problem['msg']}"


def _disagreement(invoice: Invoice) -> str | None:
    """What the invoice says that cannot be right, or None."""
    if invoice.currency not in RATES.currencies:
        return f"currency: no rate for {invoice.currency} in the table of {RATES.date}"
    for name, amount in (("tax", invoice.tax), ("total", invoice.total)):
        if amount != round_to(amount, invoice.currency):
            return f"{name}: {amount} has more decimals than {invoice.currency} has"
    amounts = [round_to(line.quantity * line.unit_price, invoice.currency) for line in invoice.lines]
    due = sum(amounts, invoice.tax)
    if due != invoice.total:
        return f"total: states {invoice.total}, but lines and tax add up to {due}"
    return None

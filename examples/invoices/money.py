"""Currencies: how many decimals each has, and what it is worth in euros on one fixed day. Money is always Decimal."""

from __future__ import annotations

import datetime
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

from pydantic import BaseModel


class Currency(BaseModel):
    """One currency: its units for one euro, and its number of decimals (2 for cents, 0 for yen)."""

    per_eur: Decimal
    minor_units: int


class RateTable(BaseModel):
    """The rates of one day, by currency code."""

    date: datetime.date
    currencies: dict[str, Currency]


RATES = RateTable.model_validate_json((Path(__file__).parent / "data" / "rates.json").read_text(encoding="utf-8"))


def round_to(amount: Decimal, currency: str) -> Decimal:
    """Round to the smallest unit of a currency in the rate table, halves away from zero.

    Example:
        >>> round_to(Decimal("10.005"), "EUR"), round_to(Decimal("1250.5"), "JPY")
        (Decimal('10.01'), Decimal('1251'))
    """
    return amount.quantize(Decimal(1).scaleb(-RATES.currencies[currency].minor_units), rounding=ROUND_HALF_UP)


def to_eur(amount: Decimal, currency: str) -> Decimal:
    """Convert an amount to euros at the fixed rate, rounded to the cent.

    Example:
        >>> to_eur(Decimal("11720.00"), "USD")
        Decimal('10000.00')
    """
    return round_to(amount / RATES.currencies[currency].per_eur, "EUR")


def show(amount: Decimal, currency: str) -> str:
    """Write an amount for people.

    Example:
        >>> show(Decimal("98000"), "JPY"), show(Decimal("1250.5"), "EUR")
        ('JPY 98,000', 'EUR 1,250.50')
    """
    return f"{currency} {round_to(amount, currency):,}"

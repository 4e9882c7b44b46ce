"""What the commands of the benchmarks share of their arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable

__all__ = ["at_least"]


def at_least(least: int) -> Callable[[str], int]:
    """Return what argparse calls to read a whole number of `least` or more."""

    def read(text: str) -> int:
        number = int(text)
        if number < least:
            raise argparse.ArgumentTypeError(f"{number} would measure nothing; give {least} or more")
        return number

    read.__name__ = "number"  # argparse names it where the text is none
    return read

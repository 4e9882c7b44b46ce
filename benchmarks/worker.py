"""The process that measures one side of one row: `python -m benchmarks.worker module:Class side`.

It reads an order a line on stdin, `{"size": ..., "seconds": ...}`, and answers each with a line on stdout,
`{"value": ..., "notes": {...}}` or `{"error": ...}`. It ends when stdin does. Whatever else is printed goes to stderr.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import os
import sys
import time
import traceback
from statistics import median
from typing import cast

from benchmarks.row import Measure, Row, Side

EXIT_TIMEOUT = 30.0
"""Seconds after which a process that should end, and does not, is taken to hang."""


def path_of(row: type[Row]) -> str:
    """Return the name under which `load` finds the row in another process."""
    return f"{row.__module__}:{row.__qualname__}"


def load(path: str) -> Row:
    """Build the row of this `module:Class` name."""
    module, _, name = path.partition(":")
    return cast(type[Row], getattr(importlib.import_module(module), name))()


def set_up(row: Row, side: Side) -> Measure:
    """Set up one side of the row, warm it up, and return its measurement."""
    measure = row.ours() if side == "ours" else row.peer()
    measure(row.quick_size)
    return measure


def take_round(measure: Measure, size: int, seconds: float) -> float:
    """Measure until `seconds` have passed, at least once, and return the median."""
    values: list[float] = []
    end = time.perf_counter() + seconds
    while not values or time.perf_counter() < end:
        gc.collect()
        values.append(measure(size))
    return median(values)


def main(path: str, side: Side) -> None:
    # The answers keep the real stdout to themselves; what a row prints must not end up among them.
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    row = load(path)
    measure: Measure | None = None
    for line in sys.stdin:
        order = json.loads(line)
        # The watchdog is a C thread that needs no interpreter lock, so it fires whatever hangs.
        faulthandler.dump_traceback_later(row.timeout + order["seconds"], exit=True)
        try:
            if measure is None:
                measure = set_up(row, side)
            value = take_round(measure, order["size"], order["seconds"])
            answer: dict[str, object] = {"value": value, "notes": row.notes}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(answer), file=answers)
    faulthandler.dump_traceback_later(EXIT_TIMEOUT, exit=True)


if __name__ == "__main__":
    main(sys.argv[1], cast(Side, sys.argv[2]))

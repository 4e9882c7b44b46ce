"""Says what was measured: a table on a terminal, a line a row otherwise, and JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from benchmarks.harness import installed_version, peer_version
from benchmarks.row import PEER, Figure, Result

HEADER = ("what", "ours", "peer", "ratio", "target", "met")


def amount(value: float, unit: str) -> str:
    """Write a figure of a row: `amount(0.0000215, "s")` is `21.5 µs`."""
    number, name = (value * 1e6, "µs") if unit == "s" else (value, "B")
    digits = 0 if abs(number) >= 100 else 1 if abs(number) >= 10 else 2
    return f"{number:,.{digits}f} {name}"


def cells(result: Result) -> tuple[str, ...]:
    """Return the cells of one row, as `HEADER` names them."""
    ratio, met = result.ratio, result.met
    return (
        result.row.what,
        _figure(result.ours, result.row.unit),
        _figure(result.peer, result.row.unit) if result.peer else "-",
        "-" if ratio is None else f"{ratio:.1f}x" if ratio < 1000 else "> 1,000x",
        result.row.target.text,
        {True: "met", False: "NOT MET", None: "-"}[met],
    )


def _figure(figure: Figure, unit: str) -> str:
    return "failed" if figure.value is None else amount(figure.value, unit)


def remarks(result: Result) -> list[str]:
    """Return what else is to be said of a row: notes and errors of its sides."""
    said = []
    for side, figure in (("ours", result.ours), ("peer", result.peer)):
        if figure is None:
            continue
        if figure.error is not None:
            said.append(f"{side} failed: {figure.error}")
        elif figure.notes:
            said.append(f"{side}: " + ", ".join(f"{name} {value:.4g}" for name, value in figure.notes.items()))
    return said


def print_lines(results: Iterable[Result]) -> list[Result]:
    """Print each row as a line as soon as it is known, and return all of them."""
    done = []
    for result in results:
        what, ours, peer, ratio, target, met = cells(result)
        print(f"{what}: ours {ours}, peer {peer}, ratio {ratio}, target {target}, {met}", flush=True)
        for remark in remarks(result):
            print(f"    {remark}", flush=True)
        done.append(result)
    return done


def print_table(results: Iterable[Result]) -> list[Result]:
    """Print a table on the terminal that grows row by row, and return the results."""
    from rich.live import Live
    from rich.markup import escape
    from rich.table import Table

    table = Table(*HEADER)
    done = []
    with Live(table, refresh_per_second=2):
        for result in results:
            what, *rest = cells(result)
            table.add_row("\n".join([what, *(f"[dim]{escape(remark)}[/dim]" for remark in remarks(result))]), *rest)
            done.append(result)
    return done


def as_document(results: list[Result], rounds: int, quick: bool) -> dict[str, Any]:
    """Return the results and what they were taken with, as JSON-able values. Figures are seconds or bytes a unit."""
    return {
        "format": 1,
        "taken": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "rounds": rounds,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "greenroom": installed_version("greenroom"),
        PEER: peer_version(),
        **{name: installed_version(name) for name in {r.row.peer_name for r in results} - {PEER}},
        "rows": [
            {
                "name": result.row.name,
                "what": result.row.what,
                "size": result.size,
                "unit": result.row.unit,
                "ours": _figure_document(result.ours),
                "peer": _figure_document(result.peer) if result.peer else None,
                "ratio": result.ratio,
                "target": result.row.target.text,
                "met": result.met,
            }
            for result in results
        ],
    }


def _figure_document(figure: Figure) -> dict[str, Any]:
    return {"median": figure.value, "samples": figure.samples, "notes": figure.notes, "error": figure.error}

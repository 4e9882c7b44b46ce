"""The command line: `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.arguments import at_least
from benchmarks.harness import compare_all, installed_version, peer_version
from benchmarks.profiling import profile
from benchmarks.row import PEER, Row
from benchmarks.rows import ROWS

OUTPUT = Path(__file__).parent / "results" / "latest.json"


def main(argv: Sequence[str] | None = None, rows: Sequence[type[Row]] = ROWS) -> int:
    """Measure, print and write what the arguments ask for.

    Returns:
        0 when everything that was asked for was measured, 1 when a side of a row failed. A missed target is a result
        and not a failure.
    """
    by_name = {row.name: row for row in rows}
    options = _parse(argv, by_name)
    if options.list:
        for row in rows:
            print(f"{row.name}: {row.what}; target {row.target.text}")
        return 0
    if options.profile:
        row = by_name[options.profile]
        print(profile(row(), row.quick_size if options.quick else row.size))
        return 0
    chosen = [by_name[name] for name in options.rows or by_name]
    for row in chosen:
        if lacking := row.lacking():
            print(f"{row.name} is left out: {lacking}", flush=True)
    chosen = [row for row in chosen if not row.lacking()]
    peer = peer_version()
    for name in dict.fromkeys(row.peer_name for row in chosen if row.has_peer()):
        version = peer if name == PEER else installed_version(name)
        print(
            f"peer: {name} {version}" if version else f"no peer: `pip install -U {name}` to measure beside it",
            flush=True,
        )
    if options.quick:
        print("quick: small sizes, to see that it works; the figures mean little", flush=True)
    measured = compare_all(chosen, options.rounds, options.quick, with_peer=peer is not None)
    done = report.print_table(measured) if sys.stdout.isatty() else report.print_lines(measured)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    document = report.as_document(done, options.rounds, options.quick)
    options.output.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written to {options.output}")
    failed = [result for result in done for figure in (result.ours, result.peer) if figure and figure.error]
    return 1 if failed else 0


def _parse(argv: Sequence[str] | None, by_name: dict[str, type[Row]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure Greenroom beside LlamaIndex Workflows and DBOS, in turns, and print the ratios.",
    )
    parser.add_argument("--rows", nargs="+", metavar="ROW", choices=by_name, help="only these rows (see --list)")
    parser.add_argument("--rounds", type=at_least(1), default=5, help="rounds a side, of which the median counts [5]")
    parser.add_argument("--quick", action="store_true", help="small sizes and one measurement a round")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the JSON [benchmarks/results/latest.json]")
    parser.add_argument("--list", action="store_true", help="list the rows and end")
    parser.add_argument("--profile", metavar="ROW", choices=by_name, help="show where our side spends its time")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())

"""The command line: `python -m examples.invoices --help`."""

from __future__ import annotations

import argparse
import re
import sys
from decimal import Decimal
from pathlib import Path

from examples.invoices.report import Decision, OutputError, Report, open_output, summary, write_report
from examples.invoices.terminal import Screen
from examples.invoices.workflow import Approval, ApprovalRequired, Done, InboxError, InvoiceWorkflow, Progress

INBOX = Path(__file__).parent / "data" / "inbox"


def _euros(text: str) -> Decimal:
    if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,2})?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount in euros, such as 10000 or 99.50")
    return Decimal(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.invoices",
        description="Check a folder of invoices, four files at a time, and report what can be paid.",
        epilog="A sum above the limit needs a person: the program asks on the terminal. Without a terminal, and "
        "without --approve or --reject, the payment is held for approval and the report says so. "
        "Exit codes: 0 the report is written, 2 bad input, 130 interrupted.",
    )
    parser.add_argument("folder", nargs="?", type=Path, default=INBOX, help="the invoices (default: the example's own)")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        default=Path("out/invoices"),
        help="where to write (default: %(default)s)",
    )
    parser.add_argument(
        "--limit",
        type=_euros,
        metavar="EUR",
        default=Decimal(10_000),
        help="the largest sum that needs no approval (default: %(default)s)",
    )
    answer = parser.add_mutually_exclusive_group()
    answer.add_argument(
        "--approve", dest="answer", action="store_const", const="approved", help="answer yes beforehand"
    )
    answer.add_argument("--reject", dest="answer", action="store_const", const="rejected", help="answer no beforehand")
    return parser


def process(folder: Path, limit: Decimal, answer: Decision | None, screen: Screen) -> Report:
    """Run the workflow, show its progress, and answer its question."""
    handler = InvoiceWorkflow().run(folder=folder, limit_eur=limit)
    try:
        for event in handler.stream_events():
            if isinstance(event, Progress):
                screen.progress(event)
            elif isinstance(event, ApprovalRequired):
                handler.send_event(Approval(decision=answer or screen.ask(event)))
        done: Done = handler.result()
    except KeyboardInterrupt:
        handler.cancel_run()
        raise
    return done.report


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The command line without the program's name; None takes it from `sys.argv`.

    Returns:
        The exit code: 0 the report is written, 2 bad input, 130 interrupted.
    """
    options = _parser().parse_args(arguments)
    try:
        open_output(options.output)
        with Screen() as screen:
            report = process(options.folder, options.limit, options.answer, screen)
        write_report(report, options.output)
    except (InboxError, OutputError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted: no report was written.", file=sys.stderr)
        return 130
    screen.line(f"\n{summary(report)}")
    screen.line(f"Wrote {options.output / 'report.json'} and {options.output / 'summary.txt'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

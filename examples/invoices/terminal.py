"""What a person sees: a progress bar and a question on a terminal, plain lines without one."""

from __future__ import annotations

import io
import os
import sys
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar

from examples.invoices.money import show
from examples.invoices.parsing import Rejection
from examples.invoices.report import Decision
from examples.invoices.workflow import ApprovalRequired, Progress

ANSWERS: dict[str, Decision] = {"y": "approved", "yes": "approved", "n": "rejected", "no": "rejected", "": "held"}


class _PatientConsole(Console):
    """Goes quiet when the reader of a pipe has gone (`| head`): the report still has to be written."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        # The interpreter flushes standard output once more at exit, and must not fail there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Screen:
    """Shows a run; use it as a context manager so that the terminal is left in order."""

    def __init__(self) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A supplier's name that this terminal's encoding lacks must not end the program.
            sys.stdout.reconfigure(errors="replace")
        self._console = _PatientConsole(highlight=False, soft_wrap=True)
        self._bar = ProgressBar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("Checking invoices", total=None)
        self._done = 0

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.stop()

    def progress(self, event: Progress) -> None:
        """Count one more file. On a terminal the bar shows it and only rejections get a line."""
        self._done += 1
        self._bar.start()  # Does nothing the second time.
        self._bar.update(self._task, completed=self._done, total=event.of)
        outcome, count = event.outcome, f"[{self._done:>{len(str(event.of))}}/{event.of}]"
        if isinstance(outcome, Rejection):
            self.line(f"{count} rejected  {outcome.file}: {outcome.reason}", style="red")
        elif not self._console.is_terminal:
            self.line(f"{count} ok        {outcome.file}: {show(outcome.total, outcome.currency)}")

    def line(self, text: str, style: str | None = None) -> None:
        """Print text as it is."""
        self._console.print(text, markup=False, style=style)

    def ask(self, request: ApprovalRequired) -> Decision:
        """Ask the person at the terminal, until the answer is one of those offered."""
        self._bar.stop()
        total, limit = show(request.total_eur, "EUR"), show(request.limit_eur, "EUR")
        self.line(f"\nThe {request.accepted} accepted invoices come to {total}, above the limit of {limit}.")
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            self.line("There is no terminal to ask: held for approval. Run again with --approve or --reject.")
            return "held"
        while True:
            try:
                answer = self._console.input(f"Pay {escape(total)}? (y = approve, n = reject, Enter = hold) ")
            except EOFError:
                self.line("")
                return "held"
            if decision := ANSWERS.get(answer.strip().lower()):
                return decision

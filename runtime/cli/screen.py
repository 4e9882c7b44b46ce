"""What the command shows: coloured on a terminal, plain lines without one, or JSON lines.

What the run says, its stream and its result, goes to standard output. Questions, notes and errors go to standard error,
so that a person can be asked while the output goes into a file.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic_core import to_json
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from greenroom.events import Event, InternalDispatchEvent, StopEvent
from greenroom.inputs import PendingInput
from greenroom.verbose import describe

__all__ = ["OutputError", "Screen", "printable"]

# Characters of a value that a line shows; `--verbose` and `--json` show all.
_WIDTH = 200


class OutputError(Exception):
    """Standard output cannot be written to; the message says why."""


class _PatientConsole(Console):
    """Goes quiet when the reader of a pipe has gone (`| head`): the run still has to be finished."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        abandon_output(self.file)


def abandon_output(file: Any) -> None:
    """Send what a stream still holds nowhere: the interpreter flushes it once more at exit, and must not fail there."""
    with contextlib.suppress(io.UnsupportedOperation):  # not a real file, as in a test
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, file.fileno())
        os.close(nowhere)


class Screen:
    """Shows one run.

    Args:
        as_json: Print JSON lines, and ask nobody.
        verbose: Also show what the steps do, values in full, and tracebacks.
    """

    def __init__(self, as_json: bool, verbose: bool) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # A name that this terminal's encoding lacks must not end the run.
                stream.reconfigure(errors="backslashreplace")
        self.as_json = as_json
        self._verbose = verbose
        self._out = _PatientConsole(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._err = _PatientConsole(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
        # Whether there is somebody to ask.
        self.can_ask = not as_json and sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()

    # -- the run -------------------------------------------------------------------------------------------------------

    def event(self, event: Event) -> None:
        """Show an event of the stream. The last one is left to `result` and `failure`."""
        if isinstance(event, InternalDispatchEvent):
            line = describe(event)
            if self._verbose and line is not None and not self.as_json:
                self._print_out(Text(line, style="dim"))
        elif isinstance(event, StopEvent):
            return
        elif self.as_json:
            self._print_json({"event": type(event).__name__, "data": event.to_dict()})
        else:
            self._print_out(self._event_line(event))

    def result(self, value: Any) -> None:
        """Show the result."""
        if self.as_json:
            self._print_json({"result": value.to_dict() if isinstance(value, Event) else value})
            return
        text = value if isinstance(value, str) else _json(value, indent=2)
        if self._out.is_terminal:
            text = printable(text)
        self._print_out(Text.assemble(("Result:", "bold green"), "\n" if "\n" in text else " ", text))

    def failure(self, error: BaseException, step: str | None) -> None:
        """Show why the run failed."""
        if self.as_json:
            self._print_json({"error": str(error), "type": type(error).__name__, "step": step})
        place = f"step '{step}': " if step is not None else ""
        lines = str(error).strip().splitlines() or [""]
        # A message of Greenroom's own lists what is wrong line by line; of another only the first is shown.
        text = "\n".join(lines) if type(error).__module__.startswith("greenroom.") else lines[0]
        self.error(f"{place}{type(error).__name__}{': ' if text else ''}{text}", error)

    def saved(self, path: str, command: str, why: str, questions: list[PendingInput]) -> None:
        """Tell where the run was saved, and how to go on with it."""
        if self.as_json:
            self._print_json(
                {"saved": path, "resume": command, "questions": [_as_document(question) for question in questions]}
            )
            return
        self.note(why)
        self._print_err(Text.assemble("Saved to ", (printable(path), "bold"), ". To go on:"))
        self._print_err(Text.assemble("  ", (printable(command), "bold cyan")))

    # -- what a store has ----------------------------------------------------------------------------------------------

    def document(self, document: Mapping[str, Any]) -> None:
        """Print a line of JSON."""
        self._print_json(dict(document))

    def heading(self, text: str) -> None:
        """Print the heading of a part."""
        self._print_out(Text.assemble("\n", (printable(text), "bold")))

    def line(self, text: str) -> None:
        """Print a line."""
        self._print_out(Text(self._cut(text)))

    def pairs(self, pairs: Mapping[str, str]) -> None:
        """Print what is not empty, a line each."""
        width = max(map(len, pairs))
        for key, value in pairs.items():
            if value:
                self._print_out(Text.assemble((f"{key:{width}}  ", "dim"), self._cut(value)))

    def table(self, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print rows below their headings, in columns as wide as they have to be."""
        cells = [[self._cut(cell).replace("\n", " ") for cell in row] for row in rows]
        widths = [max(map(cell_len, column)) for column in zip(headings, *cells, strict=True)]
        for number, row in enumerate([headings, *cells] if rows else []):
            padded = [cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
            self._print_out(Text("  ".join(padded).rstrip(), style="dim" if number == 0 else ""))

    def progress(self, text: str | None) -> None:
        """Show how far long work has come, on a terminal, in one line; None wipes it."""
        if self._err.is_terminal and not self.as_json:
            with contextlib.suppress(OSError):
                self._err.file.write("\r\x1b[K" + (text or ""))
                self._err.file.flush()

    def _cut(self, text: str) -> str:
        shown = printable(text)
        return shown if self._verbose or len(shown) <= _WIDTH else f"{shown[:_WIDTH]}…"

    # -- people --------------------------------------------------------------------------------------------------------

    def question(self, title: str, fields: Mapping[str, Any]) -> None:
        """Show what is asked: its title, and what is known besides."""
        self._print_err(Text.assemble("\n", ("? ", "bold yellow"), (printable(title).strip(), "bold")))
        for key, value in fields.items():
            self._print_err(Text.assemble("  ", *self._pair(key, value)))

    def prompt(self, label: str, hint: str) -> None:
        """Print a prompt and stay on its line."""
        label = printable(label).rstrip()
        colon = "" if label.endswith(("?", ":", ">")) and not hint else ":"
        words = Text.assemble((label, "bold"), (f" {printable(hint)}" if hint else "", "dim"), colon, " ")
        self._print_err(words, end="")

    def complaint(self, reason: str) -> None:
        """Tell why an answer is not taken."""
        self._print_err(Text(f"  {printable(reason)}", style="red"))

    # -- notes ---------------------------------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """Print a line for people."""
        self._print_err(Text(printable(text)))

    def error(self, text: str, error: BaseException | None = None) -> None:
        """Print an error; with `verbose` its traceback comes first."""
        if self._verbose and error is not None:
            self._print_err(Text(printable("".join(traceback.format_exception(error))), style="dim"))
        self._print_err(Text.assemble(("Error:", "bold red"), " ", printable(text)))

    # -- inside help ---------------------------------------------------------------------------------------------------

    def _event_line(self, event: Event) -> Text:
        return self._line_of(type(event).__name__, event.to_dict())

    def _line_of(self, name: str, values: Mapping[str, Any]) -> Text:
        pairs = [token for key, value in values.items() for token in ("  ", *self._pair(key, value))]
        return Text.assemble((name, "bold cyan"), *pairs)

    def _pair(self, key: str, value: Any) -> tuple[tuple[str, str], str]:
        text = _word(value)
        if len(text) > _WIDTH and not self._verbose:
            text = f"{text[:_WIDTH]}…"
        return (f"{printable(key)}=", "dim"), text

    def _print_out(self, line: Text) -> None:
        with _output():
            self._out.print(line)

    def _print_json(self, document: dict[str, Any]) -> None:
        with _output():
            self._out.out(_json(document), highlight=False)

    def _print_err(self, line: Text, end: str = "\n") -> None:
        with contextlib.suppress(OSError):  # a terminal that has gone: there is nobody left to tell
            self._err.print(line, end=end)


def _as_document(question: PendingInput) -> dict[str, Any]:
    return {
        "input_id": question.input_id,
        "step": question.step,
        "request": {"event": type(question.request).__name__, "data": question.request.to_dict()},
        "schema": question.schema,
    }


@contextlib.contextmanager
def _output() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        abandon_output(sys.stdout)
        raise OutputError(f"cannot write to the standard output: {error.strerror}") from error


def printable(text: str) -> str:
    r"""Return a text whose control characters are spelled out, so that it cannot steer the terminal.

    Example:
        >>> printable("two\nlines and \x1b[31mred")
        'two\nlines and \\x1b[31mred'
    """
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def _word(value: Any) -> str:
    """Return a value as one word of a line."""
    text = value if isinstance(value, str) else _json(value)
    if text.startswith('"'):  # a Decimal, a date, a path: what JSON writes as a text
        text = json.loads(text)
    elif not isinstance(value, str):
        return printable(text)
    return text if text and text.isprintable() and " " not in text else repr(text)


def _json(value: Any, indent: int | None = None) -> str:
    try:
        return to_json(value, indent=indent, inf_nan_mode="strings", bytes_mode="base64", fallback=repr).decode()
    except ValueError:  # a cycle, or half a character
        return json.dumps(repr(value), indent=indent)

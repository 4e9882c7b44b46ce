"""What `greenroom graph` does: find a workflow, draw it, and put the drawing where it is wanted."""

from __future__ import annotations

import contextlib
import sys
import webbrowser
from enum import StrEnum
from pathlib import Path

from greenroom.cli.faults import CommandError
from greenroom.cli.screen import Screen, abandon_output
from greenroom.cli.session import ExitCode
from greenroom.cli.source import find_workflow
from greenroom.errors import GreenroomError
from greenroom.representation.graph import WorkflowGraph

__all__ = ["Format", "draw"]


class Format(StrEnum):
    """How a graph is written."""

    HTML = "html"
    SVG = "svg"
    MERMAID = "mermaid"
    DOT = "dot"
    JSON = "json"


_SUFFIXES = {
    ".html": Format.HTML,
    ".htm": Format.HTML,
    ".svg": Format.SVG,
    ".mermaid": Format.MERMAID,
    ".mmd": Format.MERMAID,
    ".dot": Format.DOT,
    ".gv": Format.DOT,
    ".json": Format.JSON,
}
_FOR_BROWSERS = (Format.HTML, Format.SVG)


def draw(reference: str, form: Format | None, output: Path | None, opens: bool, screen: Screen) -> ExitCode:
    """Draw a workflow, and return the exit code.

    Args:
        reference: `module:name` of a workflow class, which is not made, or of an object of one.
        form: How to write it; None: as the file's name says or, without a file, as Mermaid.
        output: The file to write. None: standard output; a page goes to `<Workflow>.html`.
        opens: Whether to open the file in the browser.
        screen: Where to tell of faults.
    """
    try:
        form = _choose_format(form, output, opens)
        with contextlib.redirect_stdout(sys.stderr):  # What a module prints as it is imported is not of the drawing.
            graph = find_workflow(reference).graph()
        if graph.faults:
            screen.note(f"{graph.name} is drawn as it is, but building it would fail:")
            for fault in graph.faults:
                screen.note(f"  - {fault}")
        if output is None and (form is Format.HTML or opens):
            output = Path(f"{graph.name}.{form.value}")
        text = _written(graph, form)
        if output is None:
            return _print(text, screen)
        _save(text, output)
    except GreenroomError as error:
        screen.error(str(error), error.__cause__ or error)
        return ExitCode.USAGE
    screen.note(f"Wrote {output}.")
    if opens and not webbrowser.open(output.resolve().as_uri()):
        screen.error(f"no browser could be started; open {output} in yours")
        return ExitCode.FAILURE
    return ExitCode.SUCCESS


def _choose_format(form: Format | None, output: Path | None, opens: bool) -> Format:
    if form is None and output is not None:
        form = _SUFFIXES.get(output.suffix.lower())
        if form is None:
            raise CommandError(f"'{output}' does not say how to draw; end it in .html, or give --format")
    elif form is None:
        form = Format.HTML if opens else Format.MERMAID
    if opens and form not in _FOR_BROWSERS:
        raise CommandError(f"--open shows html or svg in the browser, not {form.value}")
    return form


def _written(graph: WorkflowGraph, form: Format) -> str:
    match form:
        case Format.HTML:
            return graph.to_html()
        case Format.SVG:
            return graph.to_svg()
        case Format.MERMAID:
            return graph.to_mermaid()
        case Format.DOT:
            return graph.to_graphviz()
        case Format.JSON:
            return graph.model_dump_json(indent=2) + "\n"


def _save(text: str, output: Path) -> None:
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"cannot write {output}: {error.strerror}") from error


def _print(text: str, screen: Screen) -> ExitCode:
    if sys.stdout is None:
        screen.error("standard output is closed; write to a file with --output FILE")
        return ExitCode.FAILURE
    try:
        # The drawing is UTF-8 wherever it goes, as it is in a file.
        sys.stdout.buffer.write(text.encode())
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        abandon_output(sys.stdout)  # The reader has gone, as `head` does: it has what it wanted.
    except OSError as error:
        abandon_output(sys.stdout)
        screen.error(f"cannot write to standard output: {error.strerror}; write to a file with --output FILE", error)
        return ExitCode.FAILURE
    return ExitCode.SUCCESS

"""The commands `greenroom run`, `resume` and `graph`, beside those of `greenroom.cli.durable`."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from greenroom.cli.drawing import Format, draw
from greenroom.cli.durable import StoreName, add_commands, is_option, runtime_for, store_option, take_over
from greenroom.cli.faults import CommandError
from greenroom.cli.places import FilePlace, StorePlace
from greenroom.cli.saved import check_writable, hold, read_saved
from greenroom.cli.screen import Screen
from greenroom.cli.session import ExitCode, Session
from greenroom.cli.source import load_workflow, make_start_event
from greenroom.context import Context
from greenroom.errors import ContextSerdeError, GreenroomError
from greenroom.workflow import Workflow

__all__ = ["app"]

_EPILOG = (
    "Exit codes: 0 the run succeeded; 1 it failed; 2 the command was wrong and no run began; "
    "75 the run was saved and can be resumed; 130 it was cancelled."
)

app = typer.Typer(
    name="greenroom",
    help="Run workflows at a terminal, answer their questions, put them away and go on with them later; look after the "
    "runs of a store; draw workflows.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # paragraphs of the docstrings are filled anew
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"greenroom {version('greenroom')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


Timeout = Annotated[float | None, typer.Option(help="Seconds that the run may be at work; waiting for people is free.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show what the steps do, long values, tracebacks.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON lines, for programs. Nobody is asked.")]


@app.command(epilog=_EPILOG)
def run(
    context: typer.Context,
    workflow: Annotated[str, typer.Argument(metavar="MODULE:WORKFLOW", help="A Workflow class, or an object of one.")],
    fields: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Fields of the start event, as JSON or text.")
    ] = None,
    timeout: Timeout = None,
    verbose: Verbose = False,
    as_json: AsJson = False,
    snapshot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to save the run if it is interrupted.")
    ] = None,
    store: StoreName = None,
    run_id: Annotated[
        str | None, typer.Option(metavar="ID", help="The id of the run; with a store the same id is the same run.")
    ] = None,
) -> None:
    """Run a workflow: show its stream, ask its questions, print its result.

    Modules are looked for in the current directory first. Questions are asked on the terminal. Ctrl-C, Ctrl-D at a
    question, SIGTERM and the loss of the terminal save the run to a file (by default WORKFLOW-ID.greenroom in the
    current directory) and print the command that goes on with it. So does a run that needs an answer where there is no
    terminal to ask at, once it can do nothing else.

    With a store the run is kept in it from its first event on, and survives whatever happens to this process. Then an
    interrupt leaves it there, and no file is written.
    """
    screen = Screen(as_json, verbose)

    def start(held: ExitStack) -> Session:
        _check_timeout(timeout)
        if snapshot is not None:
            check_writable(snapshot)
        made = load_workflow(workflow)
        event = make_start_event(made.start_event_class, fields or [])
        _set_timeout(made, timeout)
        if store:
            if snapshot is not None:
                raise CommandError("--snapshot is for runs without a store: give one of --snapshot and --store")
            runtime = runtime_for(held, store, may_make=True)
            row = runtime.keeper.store.row(run_id) if runtime.keeper is not None and run_id is not None else None
            if row is not None and row.status == "running":
                screen.note(f"Run '{run_id}' is in the store already: it goes on with what it was begun with.")
            handler = made.run(start_event=event, run_id=run_id)
            options = [*_options(timeout), *store_option(context, store)]
            return Session(handler, StorePlace(runtime, handler.run_id, workflow, options), screen)
        handler = made.run(start_event=event, run_id=run_id)
        path = snapshot or Path(f"{type(made).__name__}-{handler.run_id}.greenroom")
        return Session(handler, FilePlace(path, workflow, _options(timeout)), screen)

    raise typer.Exit(_carry_out(start, screen))


@app.command(epilog=_EPILOG)
def resume(
    context: typer.Context,
    run: Annotated[
        str, typer.Argument(metavar="FILE_OR_RUN", help="The file that the run was saved to; with a store, its id.")
    ],
    workflow: Annotated[
        str | None, typer.Argument(metavar="[MODULE:WORKFLOW]", help="The workflow, as it was given to `run`.")
    ] = None,
    timeout: Timeout = None,
    verbose: Verbose = False,
    as_json: AsJson = False,
    store: StoreName = None,
) -> None:
    """Go on with a run that was saved, or with one of a store.

    A file cannot choose what is imported: name the workflow, as the printed command does, or confirm the name that is
    in the file at the terminal. If the run is interrupted again it is saved to the same file. When it has succeeded the
    file is removed, so that nothing is done twice; when it fails the file stays.

    With --store the run is named by its id, and taken over unless a process that is alive has it. Where the store is
    only named by GREENROOM_STORE, a file of that name comes first.
    """
    screen = Screen(as_json, verbose)
    file = Path(run)
    from_store = bool(store) and (is_option(context, "store") or not file.exists())

    def start_from_store(held: ExitStack) -> Session:
        _check_timeout(timeout)
        if workflow is None:
            raise CommandError(f"name the workflow to go on with, as `greenroom resume {run} module:Workflow`")
        made = load_workflow(workflow)
        _set_timeout(made, timeout)
        runtime = runtime_for(held, store)
        options = [*_options(timeout), *store_option(context, store)]
        return Session(take_over(runtime, made, run), StorePlace(runtime, run, workflow, options), screen)

    def start(held: ExitStack) -> Session:
        _check_timeout(timeout)
        check_writable(file)
        held.enter_context(hold(file))
        saved = read_saved(file)
        reference = workflow or _confirmed(saved.workflow, file, screen)
        made = load_workflow(reference)
        _set_timeout(made, timeout)
        try:
            restored: Any = Context.restore(made, saved.snapshot)
        except ContextSerdeError as error:
            raise CommandError(f"cannot go on with {file}: {error}") from error
        return Session(made.run(ctx=restored), FilePlace(file, reference, _options(timeout)), screen)

    if from_store:
        raise typer.Exit(_carry_out(start_from_store, screen))
    raise typer.Exit(_carry_out(start, screen, spent=file))


add_commands(app)


_GRAPH_EPILOG = (
    "Examples:\n\n"
    "`greenroom graph shop.orders:OrderWorkflow` prints Mermaid\n\n"
    "`greenroom graph shop.orders:OrderWorkflow --open` writes OrderWorkflow.html and shows it\n\n"
    "`greenroom graph shop.orders:OrderWorkflow --output docs/orders.svg` writes a picture for a README\n\n"
    "`greenroom graph shop.orders:OrderWorkflow --format dot | dot -Tpdf > orders.pdf` uses Graphviz"
)


@app.command(epilog=_GRAPH_EPILOG)
def graph(
    workflow: Annotated[str, typer.Argument(metavar="MODULE:WORKFLOW", help="A Workflow class, or an object of one.")],
    form: Annotated[
        Format | None,
        typer.Option("--format", "-f", help="How to draw; by default as FILE ends, and mermaid without one."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write; html goes to WORKFLOW.html.")
    ] = None,
    opens: Annotated[bool, typer.Option("--open", help="Show the page in the browser.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks.")] = False,
) -> None:
    """Draw a workflow: its steps and events, who is asked, what loops and what fans out.

    Nothing is run, and no object is made. A workflow that would be refused when it is built is drawn as well; what is
    wrong with it is told on standard error. The html page stands alone and opens without a network.
    """
    raise typer.Exit(draw(workflow, form, output, opens, Screen(as_json=False, verbose=verbose)))


def _carry_out(start: Callable[[ExitStack], Session], screen: Screen, spent: Path | None = None) -> int:
    """Begin and follow a run, remove the file that its success has spent, and return the exit code."""
    with ExitStack() as held:
        try:
            session = start(held)
        except GreenroomError as error:
            screen.error(str(error), error.__cause__ or error)
            return ExitCode.USAGE
        except (KeyboardInterrupt, typer.Abort):
            screen.note("\nInterrupted: no run had begun.")
            return ExitCode.CANCELLED
        try:
            code = session.drive()
        except GreenroomError as error:  # as of a store that fails
            screen.error(str(error), error)
            return ExitCode.FAILURE
        if code is ExitCode.SUCCESS and spent is not None:
            spent.unlink(missing_ok=True)
        return code


def _confirmed(reference: str | None, file: Path, screen: Screen) -> str:
    """Return the workflow that a file names once the person has agreed to import it."""
    if reference is None:
        raise CommandError(f"name the workflow to go on with, as `greenroom resume {file} module:Workflow`")
    if not screen.can_ask:
        raise CommandError(f"name the workflow to go on with; {file} says that it is {reference}")
    if not typer.confirm(f"{file} goes on with {reference}. Import and run it?", err=True):
        raise CommandError("nothing was imported; name the workflow to go on with")
    return reference


def _check_timeout(timeout: float | None) -> None:
    if timeout is not None and not (timeout > 0 and math.isfinite(timeout)):
        raise CommandError(f"--timeout takes seconds greater than 0, not {timeout:g}")


def _set_timeout(workflow: Workflow, timeout: float | None) -> None:
    if timeout is not None:
        workflow.timeout = timeout


def _options(timeout: float | None) -> list[str]:
    return [] if timeout is None else ["--timeout", f"{timeout:g}"]

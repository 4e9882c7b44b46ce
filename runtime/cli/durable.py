"""The commands about the runs of a store: `runs`, `show`, `answer`, `cancel`, `put-back`, `export` and `check`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from greenroom.cli.faults import CommandError
from greenroom.cli.listing import list_runs, show_run
from greenroom.cli.places import StorePlace
from greenroom.cli.posting import answer_question, cancel_run, check_store, export_run, put_run_back, tell_taken
from greenroom.cli.screen import OutputError, Screen
from greenroom.cli.session import ExitCode, Session
from greenroom.cli.source import load_workflow
from greenroom.cli.stores import find_store, opened
from greenroom.errors import GreenroomError, RunEndedError, StoreError, UnknownRunError
from greenroom.handler import Handler
from greenroom.runtime import Runtime
from greenroom.workflow import Workflow

__all__ = ["StoreName", "add_commands", "is_option", "runtime_for", "store_option", "take_over"]


class _Status(StrEnum):
    """How a run stands."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    SET_ASIDE = "set_aside"


StoreName = Annotated[
    str | None,
    typer.Option(
        "--store",
        envvar="GREENROOM_STORE",
        show_envvar=True,
        metavar="PATH_OR_URL",
        help="The store of the runs: a SQLite file, or postgresql://...",
    ),
]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="The id of the run.")]
Optional = Annotated[
    str | None, typer.Argument(metavar="[MODULE:WORKFLOW]", help="The run's workflow, if its code may be imported.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON lines, for programs. Nobody is asked.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show long values and tracebacks.")]

_CODES = "Exit codes: 0 it was done; 1 the store failed, or something would break; 2 the command was wrong."


def _epilog(*examples: str) -> str:
    return "\n\n".join(["Examples:", *examples, _CODES])


def add_commands(app: typer.Typer) -> None:
    """Add the commands to an application."""
    app.command(
        epilog=_epilog(
            "`greenroom runs --store runs.db`",
            "`greenroom runs --status set_aside` lists what could not go on, and why",
            "`greenroom runs --workflow shop.orders:Orders --limit 1000 --json | jq .run_id`",
        )
    )(runs)
    app.command(
        epilog=_epilog(
            "`greenroom show order-17 --store runs.db`",
            "`greenroom show order-17 shop.orders:Orders` applies the journal as well",
        )
    )(show)
    app.command(
        epilog=_epilog(
            "`greenroom answer order-17:1` asks at the terminal",
            "`greenroom answer order-17:1 approved=true note='well done'`",
            "`greenroom answer order-17:1 shop.orders:Orders approved=true --run` works on the run here as well",
        )
    )(answer)
    app.command(epilog=_epilog("`greenroom cancel order-17 --store runs.db`"))(cancel)
    app.command("put-back", epilog=_epilog("`greenroom put-back order-17 --store runs.db`"))(put_back)
    app.command(
        epilog=_epilog(
            "`greenroom export order-17 shop.orders:Orders --output order-17.greenroom`",
            "`greenroom export order-17 --json > order-17.json` needs no code",
        )
    )(export)
    app.command(
        epilog=_epilog(
            "`greenroom check --store runs.db shop.orders:Orders shop.returns:Returns`",
            "`greenroom check shop.orders:Orders && ./deploy`",
        )
    )(check)


def runs(
    store: StoreName = None,
    status: Annotated[_Status | None, typer.Option(help="Only runs with this status.")] = None,
    workflow: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Only runs of this workflow, as module:Workflow or as it is listed."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many to list, the newest first.")] = 50,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """List the runs of a store: how they stand, who has them, and what they wait for.

    The owner of a run is alive or dead, or the run is at rest: then nobody needs to have it until something comes for
    it. No code of the workflows is needed.
    """

    def act(screen: Screen) -> None:
        with opened(store) as there:
            list_runs(there, workflow, None if status is None else cast("Any", status.value), limit, screen)

    _carry_out(act, as_json, verbose)


def show(
    run: RunId,
    workflow: Optional = None,
    store: StoreName = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Show a run: its state, what it is at and waits for, its questions, inbox, dead letters and journal.

    Without the workflow nothing is imported, and no object of its classes is made: the run is shown as of its newest
    checkpoint, with the journal that follows. With it, the journal is applied.
    """

    def act(screen: Screen) -> None:
        made = None if workflow is None else load_workflow(workflow)
        with opened(store) as there:
            show_run(there, run, made, screen)

    _carry_out(act, as_json, verbose)


def answer(
    context: typer.Context,
    input_id: Annotated[str, typer.Argument(metavar="INPUT", help="The id of the question.")],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODULE:WORKFLOW] [KEY=VALUE...]", help="The run's workflow; the fields of the answer."
        ),
    ] = None,
    store: StoreName = None,
    works: Annotated[
        bool, typer.Option("--run", help="Take the run over and work on it here, until it rests or ends.")
    ] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Answer a question that a run has asked.

    The answer is put into the inbox of the run. The process that has the run takes it, or the next one that knows its
    workflow. Without fields they are asked for at the terminal.

    The answer is checked by the JSON schema that was stored with the question, and once more by whoever takes it.
    With the workflow it is checked by its class.
    """
    pairs = list(words or ())
    reference = pairs.pop(0) if pairs and "=" not in pairs[0] else None

    def act(screen: Screen) -> ExitCode | None:
        if works and reference is None:
            raise CommandError(f"--run needs the workflow, as `greenroom answer {input_id} module:Workflow --run`")
        made = None if reference is None else load_workflow(reference)
        with opened(store) as there:
            row, token = answer_question(there, input_id, made, pairs, screen)
            if not works:
                tell_taken(there, row, input_id, token, screen)
        if not works or made is None or reference is None:
            return None
        with ExitStack() as held:
            runtime = runtime_for(held, store)
            place = StorePlace(runtime, row.run_id, reference, store_option(context, store))
            return Session(take_over(runtime, made, row.run_id), place, screen, until_rest=True).drive()

    _carry_out(act, as_json, verbose)


def cancel(run: RunId, store: StoreName = None, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """End a run.

    The wish is put into the inbox of the run: the process that has the run ends it, or the next one that knows its
    workflow.
    """

    def act(screen: Screen) -> None:
        with opened(store) as there:
            cancel_run(there, run, screen)

    _carry_out(act, as_json, verbose)


def put_back(run: RunId, store: StoreName = None, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Let a run go on that was set aside, once its code has been mended.

    `greenroom check` tells beforehand whether it will.
    """

    def act(screen: Screen) -> None:
        with opened(store) as there:
            put_run_back(there, run, screen)

    _carry_out(act, as_json, verbose)


def export(
    run: RunId,
    workflow: Optional = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write; by default RUN.greenroom.")
    ] = None,
    store: StoreName = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="All of the run, its stream and journal too, as JSON; needs no code.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Write a run to a file: a snapshot that `greenroom resume` and `Context.restore` read.

    The run in the store is not touched, and goes on: what is resumed from the file is a copy.
    """

    def act(screen: Screen) -> None:
        made = None if workflow is None else load_workflow(workflow)
        with opened(store) as there:
            export_run(there, run, workflow, made, output, screen)

    _carry_out(act, as_json, verbose)


def check(
    workflows: Annotated[
        list[str], typer.Argument(metavar="MODULE:WORKFLOW...", help="The workflows, as they are now.")
    ],
    store: StoreName = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Before a deploy: load every unfinished run by the code as it is here, and list what would break.

    Nothing is changed, no run is taken over, and no step is run. Exit code 1 if something would break.
    """

    def act(screen: Screen) -> ExitCode:
        made = [load_workflow(reference) for reference in workflows]
        with opened(store) as there:
            return ExitCode.SUCCESS if check_store(there, made, screen) else ExitCode.FAILURE

    _carry_out(act, as_json, verbose)


# -- what the other commands need as well ------------------------------------------------------------------------------


def runtime_for(held: ExitStack, store: str | None, *, may_make: bool = False) -> Runtime:
    """Make a runtime on a store for one run of it, to be ended with `held`."""
    runtime = Runtime(store=find_store(store, may_make=may_make))
    assert runtime.keeper is not None
    runtime.keeper.lookout.wakes_others = False
    return held.enter_context(runtime)


def take_over(runtime: Runtime, workflow: Workflow, run_id: str) -> Handler:
    """Go on with a run of the runtime's store."""
    assert runtime.keeper is not None
    return runtime.keeper.take_over(workflow, run_id)


def is_option(context: typer.Context, name: str) -> bool:
    """Return whether an option was given on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def store_option(context: typer.Context, store: str | None) -> list[str]:
    """Return what a further command needs to name the same store; nothing where the environment does."""
    return ["--store", store] if store and is_option(context, "store") else []


def _carry_out(act: Callable[[Screen], ExitCode | None], as_json: bool, verbose: bool) -> None:
    """Do what a command does, tell what goes wrong, and exit."""
    screen = Screen(as_json, verbose)
    code: ExitCode | None
    try:
        code = act(screen)
    except GreenroomError as error:
        screen.error(str(error), error.__cause__ or error)
        is_fault = isinstance(error, StoreError) and not isinstance(error, UnknownRunError | RunEndedError)
        code = ExitCode.FAILURE if is_fault else ExitCode.USAGE
    except OutputError as error:
        screen.error(str(error))
        code = ExitCode.FAILURE
    except (KeyboardInterrupt, typer.Abort):
        screen.note("\nInterrupted.")
        code = ExitCode.CANCELLED
    raise typer.Exit(ExitCode.SUCCESS if code is None else code)

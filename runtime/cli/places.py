"""Where a run at a terminal is put away when it cannot go on there: in a file, or in its store."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Protocol

from greenroom.cli.saved import SavedRun, write_saved
from greenroom.errors import ContextSerdeError, RuntimeShutdownError
from greenroom.handler import Handler
from greenroom.runtime import Runtime

__all__ = ["FilePlace", "Place", "PutAwayError", "StorePlace"]


# Seconds in which what is being committed may still be, and a step that is nearly done may end.
_PATIENCE = 1.0


class PutAwayError(Exception):
    """The run cannot be put away, and is lost; the message says why."""


class Place(Protocol):
    """Where a run is put away.

    Attributes:
        name: How to call it.
        command: The words of the command that goes on with the run.
    """

    name: str
    command: str

    def put_away(self, handler: Handler) -> bool:
        """Put the run away; return False if it had ended before.

        Raises:
            PutAwayError: If it cannot be.
        """
        ...


class FilePlace:
    """A file.

    Args:
        path: The file.
        workflow: The import path of the run's workflow.
        options: What the command that resumes it needs besides.
    """

    def __init__(self, path: Path, workflow: str, options: list[str]) -> None:
        self.name = str(path)
        self.command = shlex.join(["greenroom", "resume", str(path), workflow, *options])
        self._path = path
        self._workflow = workflow

    def put_away(self, handler: Handler) -> bool:
        # First the run is halted, so that it does nothing which the snapshot does not know of.
        Handler.cancel_run(handler)
        if handler.status != "cancelled":
            return False
        try:
            write_saved(self._path, SavedRun(self._workflow, handler.ctx.snapshot()))
        except (OSError, ContextSerdeError) as error:
            raise PutAwayError(str(error.strerror) if isinstance(error, OSError) else str(error)) from error
        return True


class StorePlace:
    """The store that keeps the run anyway.

    Args:
        runtime: The runtime that the run is at work in, and nothing else.
        run_id: The run.
        workflow: The import path of its workflow.
        options: What the command that resumes it needs besides.
    """

    def __init__(self, runtime: Runtime, run_id: str, workflow: str, options: list[str]) -> None:
        self.name = "the store"
        self.command = shlex.join(["greenroom", "resume", run_id, workflow, *options])
        self._runtime = runtime

    def put_away(self, handler: Handler) -> bool:
        self._runtime.shutdown(timeout=_PATIENCE)
        return isinstance(handler.exception(), RuntimeShutdownError)

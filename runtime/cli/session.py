"""One run at a terminal: its stream is shown, its questions are asked, and it is saved when it cannot go on here.

All of this runs on the main thread. A signal strikes there as a KeyboardInterrupt; the engine runs no actor on it.
"""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path

from greenroom.cli.keyboard import Keyboard, NoLongerAsked
from greenroom.cli.questions import ask_person
from greenroom.cli.saved import SavedRun, write_saved
from greenroom.cli.screen import OutputError, Screen
from greenroom.errors import ContextSerdeError, InputError, WorkflowCancelledByUser
from greenroom.events import WorkflowFailedEvent, WorkflowIdleEvent
from greenroom.handler import Handler
from greenroom.inputs import PendingInput

__all__ = ["ExitCode", "Session"]


class ExitCode(IntEnum):
    """How the command ended."""

    SUCCESS = 0
    FAILURE = 1
    USAGE = 2
    SAVED = 75  # EX_TEMPFAIL: try again later
    CANCELLED = 130


class Session:
    """A run at a terminal.

    Args:
        handler: The run.
        workflow: The import path of its workflow.
        path: Where to save it.
        options: What the command that resumes it needs besides.
        screen: Where to show it.
    """

    def __init__(self, handler: Handler, workflow: str, path: Path, options: list[str], screen: Screen) -> None:
        self._handler = handler
        self._workflow = workflow
        self._path = path
        self._options = options
        self._screen = screen
        self._keyboard = Keyboard()

    def drive(self) -> ExitCode:
        """Stay with the run until it ends or is saved."""
        try:
            with _signals_interrupt():
                why = self._follow()
        except (KeyboardInterrupt, EOFError):
            why = "\nInterrupted."
        except OutputError as error:
            self._screen.error(str(error))
            why = "Stopped."
        if why is not None:
            with _signals_ignored():
                return self._save(why)
        return self._conclude()

    def _follow(self) -> str | None:
        """Show and ask until the run ends; return why it should be saved instead, or None."""
        if self._screen.can_ask:
            self._ask_all()  # Those that were open when the run was saved are not streamed again.
        for event in self._handler.stream_events(expose_internal=True):
            is_idle, is_question = isinstance(event, WorkflowIdleEvent), event.get("input_id") is not None
            if not (is_question and self._screen.can_ask):
                self._screen.event(event)
            if self._screen.can_ask and (is_idle or is_question):
                self._ask_all()
            elif is_idle and self._handler.open_questions():
                return "The run needs an answer, and there is no terminal to ask at."
        return None

    # -- people --------------------------------------------------------------------------------------------------------

    def _ask_all(self) -> None:
        while questions := self._handler.open_questions():
            self._ask(questions[0])

    def _ask(self, question: PendingInput) -> None:
        def is_open() -> bool:
            return any(other.input_id == question.input_id for other in self._handler.open_questions())

        try:
            answer = ask_person(question, self._screen, self._keyboard, is_open)
            self._handler.answer_question(question.input_id, answer)
        except NoLongerAsked:
            self._screen.note("\nThis is no longer asked.")
        except InputError as error:
            self._screen.note(f"Too late: {error}.")

    # -- the end -------------------------------------------------------------------------------------------------------

    def _conclude(self) -> ExitCode:
        error = self._handler.exception()
        try:
            if error is None:
                self._screen.result(self._handler.result())
                return ExitCode.SUCCESS
            last = self._handler.get_stop_event()
            self._screen.failure(error, last.step_name if isinstance(last, WorkflowFailedEvent) else None)
        except OutputError as lost:
            self._screen.error(str(lost))
            return ExitCode.FAILURE
        return ExitCode.CANCELLED if isinstance(error, WorkflowCancelledByUser) else ExitCode.FAILURE

    def _save(self, why: str) -> ExitCode:
        questions = self._handler.open_questions()
        # First the run is halted, so that it does nothing which the snapshot does not know of.
        Handler.cancel_run(self._handler)
        if self._handler.status != "cancelled":
            return self._conclude()  # It was faster.
        try:
            write_saved(self._path, SavedRun(self._workflow, self._handler.ctx.snapshot()))
        except (OSError, ContextSerdeError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            self._screen.error(f"{why.strip()} The run cannot be saved to {self._path}, and is lost: {reason}", error)
            return ExitCode.FAILURE
        command = shlex.join(["greenroom", "resume", str(self._path), self._workflow, *self._options])
        try:
            self._screen.saved(str(self._path), command, why, questions)
        except OutputError as error:
            self._screen.error(f"{error}. The run is saved to {self._path}")
        return ExitCode.SAVED


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let the end of the terminal and a polite kill act as Ctrl-C does. What is ignored (`nohup`) stays ignored."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _signals_ignored() -> Iterator[None]:
    """Keep a second signal from tearing the saving apart; it takes a moment."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""One run at a terminal: its stream is shown, its questions are asked, and it is saved when it cannot go on here.

All of this runs on the main thread. A signal strikes there as a KeyboardInterrupt; the engine runs no actor on it.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

from greenroom.cli.forms import ClassForm
from greenroom.cli.keyboard import Keyboard, NoLongerAsked
from greenroom.cli.places import Place, PutAwayError
from greenroom.cli.questions import ask_person
from greenroom.cli.screen import OutputError, Screen
from greenroom.errors import InputError, WorkflowCancelledByUser
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
        place: Where to put it away.
        screen: Where to show it.
        until_rest: Ask nobody, and put the run away as soon as it rests.
    """

    def __init__(self, handler: Handler, place: Place, screen: Screen, *, until_rest: bool = False) -> None:
        self._handler = handler
        self._place = place
        self._screen = screen
        self._until_rest = until_rest
        self._asks = screen.can_ask and not until_rest
        self._keyboard = Keyboard()
        self._shown: set[str] = set()  # the ids of the questions that were shown and not asked

    def drive(self) -> ExitCode:
        """Stay with the run until it ends or is saved."""
        if self._handler.done():
            return self._conclude()  # One of a store, that had ended before.
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
        """Show and ask until the run ends; return why it should be put away instead, or None."""
        if self._asks:
            self._ask_all()  # Those that were open when the run was put away are not streamed again.
        elif self._handler.is_at_rest() and (why := self._why_rest()):
            return why  # Of a rest that began before, nothing is told again.
        for event in self._handler.stream_events(expose_internal=True):
            is_idle, is_question = isinstance(event, WorkflowIdleEvent), event.get("input_id") is not None
            if not (is_question and self._asks):
                self._screen.event(event)
                self._shown.add(str(event.get("input_id")))
            if self._asks and (is_idle or is_question):
                self._ask_all()
            elif is_idle and self._handler.is_at_rest() and (why := self._why_rest()):
                return why  # Something may have come since the event was published.
        return None

    def _why_rest(self) -> str | None:
        """Return why a run that rests should be put away, or None if what it waits for may come by itself."""
        if self._until_rest:
            return "The run rests: it waits for more."
        questions = self._handler.open_questions()
        for question in questions:
            if question.input_id not in self._shown:  # It was streamed to another process.
                self._screen.event(question.request)
        return "The run needs an answer, and there is no terminal to ask at." if questions else None

    # -- people --------------------------------------------------------------------------------------------------------

    def _ask_all(self) -> None:
        while questions := self._handler.open_questions():
            self._ask(questions[0])

    def _ask(self, question: PendingInput) -> None:
        def is_open() -> bool:
            return any(other.input_id == question.input_id for other in self._handler.open_questions())

        try:
            form, request = ClassForm(question.response), question.request
            title = type(request).__name__
            values = ask_person(title, request.to_dict(), form, self._screen, self._keyboard, is_open)
            self._handler.answer_question(question.input_id, form.make(values))
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
        try:
            if not self._place.put_away(self._handler):
                return self._conclude()  # It was faster.
        except PutAwayError as error:
            message = f"{why.strip()} The run cannot be saved to {self._place.name}, and is lost: {error}"
            self._screen.error(message, error.__cause__)
            return ExitCode.FAILURE
        try:
            self._screen.saved(self._place.name, self._place.command, why, questions)
        except OutputError as error:
            self._screen.error(f"{error}. The run is saved to {self._place.name}")
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

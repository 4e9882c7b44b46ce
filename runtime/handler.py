"""The handler: what `workflow.run()` returns.

The future's own lock protects its state. The supervisor's turn completes it; done-callbacks of the user's run on a
thread of the pool, never in a turn. `_position` and `_notes_read` are written by whichever thread reads the handler's
own stream.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from greenroom.actors.base import Ref
from greenroom.actors.dispatcher import Unlimited
from greenroom.actors.root import RunEnded
from greenroom.actors.stream import Published, StreamLog, settle
from greenroom.actors.supervisor import RunSupervisor
from greenroom.context import Context
from greenroom.context_core import ContextCore
from greenroom.errors import (
    DeadlockError,
    GreenroomError,
    LeaseLostError,
    RuntimeShutdownError,
    StoreError,
    WorkflowRuntimeError,
)
from greenroom.event_stream import EventStream
from greenroom.events import Event, StopEvent
from greenroom.facts import CancelAsked, Inspect, Responded
from greenroom.inputs import PendingInput, pending_input
from greenroom.log_fields import log_fields
from greenroom.outcome import DeadLetter, Outcome
from greenroom.ports import current_step
from greenroom.run_link import RunLink
from greenroom.run_state import all_dead_letters, all_questions, asks_or_asked, find_question

if TYPE_CHECKING:
    from greenroom.representation.graph import WorkflowGraph
    from greenroom.waits import OpenInput

__all__ = ["Handler"]

logger = logging.getLogger("greenroom")

Status = Literal["running", "completed", "failed", "timed_out", "cancelled"]


class Handler(concurrent.futures.Future[Any]):
    """A run in progress: its result, its stream, and the way to send it events.

    It is a `concurrent.futures.Future`, so `result`, `exception`, `done`, `add_done_callback` and
    `concurrent.futures.wait` work on it; and `await handler` works on any event loop. `cancel()` does nothing, as on
    any future that runs: use `cancel_run()`. The run goes on if the handler is dropped.

    Attributes:
        run_id: The run's id.
        ctx: The run's context, for its store and for running it again.
        origin: What the ids of its questions begin with: the id of the run that first asked.
        is_limited: Whether the run counts towards `num_concurrent_runs`.
        seen: How many events its stream had when the run went to rest.

    Example:
        >>> from greenroom import StartEvent, StopEvent, Workflow, step
        >>> class Double(Workflow):
        ...     @step
        ...     def double(self, ev: StartEvent) -> StopEvent:
        ...         return StopEvent(result=2 * ev.n)
        >>> handler = Double().run(n=21)
        >>> handler.result(timeout=10)
        42
        >>> [type(event).__name__ for event in handler.stream_events()]
        ['StopEvent']
    """

    ctx: Any
    _context_class: type[ContextCore[Any]] = Context
    # Here, not in __init__: a KeyboardInterrupt may strike in there, and __del__ looks at both.
    _outcome: Outcome | None = None
    _is_watched = False  # whether anybody has asked for the outcome or reads the stream

    def __init__(self, link: RunLink, log: StreamLog, stream: Ref) -> None:
        super().__init__()
        self.run_id = link.run_id
        self.is_limited = False
        self.seen = 0
        self._link = link
        self._log = log
        self._stream = stream
        self.origin = link.run_id
        self._awaiting: set[asyncio.Future[None]] = set()
        self._traceback: Any = None
        self._position = log.first_offset - 1
        self._notes_read = self._of_children_read = 0
        self.ctx = self._context_class._of_run(link)
        # A future that runs cannot be cancelled by those who merely wait for it.
        self.set_running_or_notify_cancel()

    def __del__(self) -> None:
        # Nobody can ask any more: an error that nobody has seen would be lost without a word.
        if not self._is_watched and self._outcome is not None and self._outcome.status in ("failed", "timed_out"):
            error, fields = self._outcome.error, log_fields(self.run_id)
            logger.error("%r: nobody has asked for its result", self, exc_info=error, extra=fields)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of run '{self.run_id}' of {self._link.graph.name}: {self.status}>"

    @property
    def supervisor(self) -> Ref | None:
        """The address of the run's supervisor; None while a durable run rests in its store."""
        return self._link.supervisor

    # -- the result ----------------------------------------------------------------------------------------------------

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the run to end, and return its result.

        Args:
            timeout: Seconds to wait at most; None waits as long as it takes.

        Returns:
            The result of a plain StopEvent; of a subclass, the event itself.

        Raises:
            TimeoutError: If the run has not ended in time. It goes on.
            WorkflowTimeoutError: If the run was ended for taking too long.
            WorkflowCancelledByUser: If it was cancelled.
            DeadlockError: If the calling thread is one that the run needs.
            Exception: What a step raised, unchanged.
        """
        self._is_watched = True
        self._wait(timeout)
        error = super().exception(timeout=0)
        try:
            if error is not None:
                # Each raise would add its frames to the traceback that all callers share.
                raise error.with_traceback(self._traceback)
            return super().result(timeout=0)
        finally:
            del self, error

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the run to end, and return what `result` would raise, or None.

        Raises:
            TimeoutError: If the run has not ended in time.
            DeadlockError: If the calling thread is one that the run needs.
        """
        self._is_watched = True
        self._wait(timeout)
        return super().exception(timeout=0)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._await_result().__await__()

    async def _await_result(self) -> Any:
        if not self.done():
            self._refuse_within_own_step("await handler")
            await self._await_end()
        return self.result(timeout=0)

    async def _await_end(self) -> None:
        if not self.done():
            self._link.runtime.check_process()
            self._link.runtime.dispatcher.drive(self)
        if not self.done():
            loop = asyncio.get_running_loop()
            future: asyncio.Future[None] = loop.create_future()
            self._keep()
            # Entered first, then looked again; the end completes the handler first and looks here then.
            self._awaiting.add(future)
            try:
                if not self.done():
                    await future
            finally:
                self._awaiting.discard(future)

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Call `fn(handler)` when the run has ended: on a thread of the runtime, or at once if it has."""
        if self.done():
            super().add_done_callback(fn)
        else:
            self._keep()
            dispatcher = self._link.runtime.dispatcher
            super().add_done_callback(lambda _: dispatcher.execute(Unlimited(lambda: fn(self))))

    def _keep(self) -> None:
        """See to it that somebody is told of the end, though nobody may hold on to this while the run rests."""
        keeper = self._link.runtime.keeper
        if keeper is not None:
            keeper.keep(self)  # pyright: ignore[reportArgumentType]

    @property
    def status(self) -> Status:
        """How the run is doing."""
        self._is_watched = True
        return "running" if self._outcome is None else self._outcome.status

    def get_stop_event(self) -> StopEvent | None:
        """Return the event that ended the run's stream, or None while it runs."""
        self._is_watched = True
        return None if self._outcome is None else self._outcome.event

    def stop_event_result(self, timeout: float | None = None) -> StopEvent:
        """Wait as `result` does, raise what it raises, and return the stop event itself."""
        self.result(timeout)
        assert self._outcome is not None
        return self._outcome.event

    # -- the stream ----------------------------------------------------------------------------------------------------

    def stream_events(
        self, after: int | None = None, expose_internal: bool = False, include_children: bool = False
    ) -> EventStream:
        """Read the events that the run publishes, with `for` or `async for`, up to and with the last one.

        The last one is the stop event, or a `WorkflowFailedEvent`, `WorkflowTimedOutEvent` or
        `WorkflowCancelledEvent`; none of them raises here. Nothing is lost by attaching late, even after the end.

        Args:
            after: Read what comes after this offset (-1: from the start), independently of all other readers. None
                continues where this handler's reading stopped, as after a `break`.
            expose_internal: Also read `StepStateChanged`, `UnhandledEvent` and `WorkflowIdleEvent`. They have no
                offsets; only the newest thousand before the first such reader are kept.
            include_children: Also read what the runs publish that steps have begun by `ctx.run`, each in its place.
                They have no offsets; `run_id` of the stream tells whose the event is that was read last.

        Raises:
            WorkflowRuntimeError: If `after` is no offset.
        """
        if after is not None and (isinstance(after, bool) or not isinstance(after, int) or after < -1):
            hint = "; internal events are asked for by name: expose_internal=True" if isinstance(after, bool) else ""
            raise WorkflowRuntimeError(f"stream_events(after=...) takes an offset, -1 or more, not {after!r}{hint}")
        self._is_watched = True
        return EventStream(self, after, expose_internal, include_children)  # pyright: ignore[reportArgumentType]

    # -- the run -------------------------------------------------------------------------------------------------------

    def send_event(self, event: Event, step: str | None = None, dedup_key: str | None = None) -> None:
        """Send an event into the run; return when the run has taken it. See `Context.send_event`."""
        self.ctx.send_event(event, step, dedup_key=dedup_key)

    def cancel_run(self, timeout: float = 5.0) -> None:
        """End the run: `result()` then raises `WorkflowCancelledByUser`. Nothing happens if it has ended.

        The bodies of `def` steps that are at work cannot be stopped: they see `ctx.cancelled`, and what they return is
        ignored.

        Args:
            timeout: Seconds to wait at most for the run to have ended.
        """
        self._ask_cancel()
        if not self.done():
            self._link.runtime.dispatcher.wait(self, timeout)

    def pending_inputs(self) -> list[PendingInput]:
        """Return the questions of this run that are open, in the order they were asked."""
        return self.open_questions()

    def respond(self, input_id: str, response: Event | Mapping[str, Any]) -> None:
        """Answer a question. The answer is checked first; one that does not fit leaves the question open.

        Args:
            input_id: The question's id, from its event or from `pending_inputs()`.
            response: An event of the question's response class, or a dict of its fields.

        Raises:
            UnknownInputError: If there never was such a question.
            InputAnsweredError: If it has been answered.
            InputExpiredError: If it was given up.
            InvalidResponseError: If the answer does not fit the response class.
        """
        self.answer_question(input_id, response)

    def dead_letters(self) -> list[DeadLetter]:
        """Return the events that no step took and none will, oldest first, each with the reason."""
        letters: list[DeadLetter] = self._link.ask(Inspect(all_dead_letters))
        return letters

    def graph(self) -> WorkflowGraph:
        """Return the workflow's graph with what this run has done so far: see `Workflow.graph`.

        Each step says how many invocations have started, finished, failed, been retried, and are running, waiting or
        queued now; each edge, how many events went along it. A run that was restored goes on counting.

        Example:
            >>> from greenroom import StartEvent, StopEvent, Workflow, step
            >>> class Greet(Workflow):
            ...     @step
            ...     def greet(self, ev: StartEvent) -> StopEvent:
            ...         return StopEvent(result="Hello")
            >>> handler = Greet().run()
            >>> handler.result()
            'Hello'
            >>> graph = handler.graph()
            >>> graph.status, [node.counts.finished for node in graph.nodes if node.node_type == "step"]
            ('completed', [1])
        """
        from greenroom.representation.counts import add_counts, count  # Few programs draw, and all of them start.

        return add_counts(self._link.graph, self._link.ask(Inspect(count)))

    # -- for the runtime that looks over all its runs, and for test tools ----------------------------------------------

    def open_questions(self) -> list[PendingInput]:
        """Return the questions that are open. A run that rests in its store is not woken for that."""
        questions = self.questions_in_memory()
        if questions is not None:
            return questions
        keeper = self._link.runtime.keeper
        return [] if keeper is None or self.has_ended() else list(keeper.questions(self.run_id))

    def questions_in_memory(self) -> list[PendingInput] | None:
        """Return the questions that are open, or None if the run rests in its store."""
        try:
            questions = self._link.ask_in_memory(Inspect(all_questions, is_told=True))
        except GreenroomError as error:
            if self._outcome is None and not isinstance(error, LeaseLostError | RuntimeShutdownError | StoreError):
                raise
            return []  # It has ended, and nothing but its outcome was kept.
        if questions is None:
            return None
        now, wall_time = self._link.now(), self._link.runtime.dispatcher.wall_time()
        return [pending_input(question, self.run_id, now, wall_time) for question in questions]

    def is_at_rest(self) -> bool:
        """Return whether the run has come to rest and said so: only the outside or a timer lets it go on."""
        return bool(self._link.ask(Inspect(lambda state: state.idle_noted and state.is_quiet)))

    def running_steps(self) -> list[str]:
        """Return the names of the steps that have an invocation running."""
        steps: list[str] = self._link.ask(Inspect(lambda state: state.active_steps))
        return steps

    def knows_question(self, input_id: str) -> bool:
        """Return whether the run has ever asked a question of this id."""
        known: bool = self._link.ask(Inspect(lambda state: asks_or_asked(state, input_id)))
        return known

    def is_asking(self, input_id: str) -> bool:
        """Return whether the question of this id is open."""
        is_open: bool = self._link.ask(Inspect(lambda state: input_id in state.inputs.open))
        return is_open

    def answer_question(self, input_id: str, response: Event | Mapping[str, Any]) -> None:
        """Check an answer and hand it over."""
        self._refuse_late_answer(input_id)
        fact = Responded(input_id, self._checked_response(self._link.ask(_find(input_id)), response))
        self._link.ask(fact)

    def _refuse_late_answer(self, input_id: str) -> None:
        """Raise what is wrong with an answer to a run that had ended before this process came to know it."""
        keeper = self._link.runtime.keeper
        if keeper is not None and self._link.supervisor is None and self.has_ended():
            keeper.open_question(input_id)

    def _checked_response(self, question: OpenInput, response: Event | Mapping[str, Any]) -> Event:
        now, wall_time = self._link.now(), self._link.runtime.dispatcher.wall_time()
        return pending_input(question, self.run_id, now, wall_time).make_response(response)

    # -- within the engine ---------------------------------------------------------------------------------------------

    def finish(self, outcome: Outcome) -> None:
        """Take the outcome. Called by the supervisor, in its turn."""
        if self._outcome is not None:
            return
        self._outcome = outcome
        runtime = self._link.runtime
        if runtime.runs.get(self.run_id) is self:
            runtime.runs.pop(self.run_id, None)
        if runtime.keeper is not None:
            runtime.keeper.let_go(self)  # pyright: ignore[reportArgumentType]
        if self.origin != self.run_id:
            runtime.leave_resumed(self.origin, self)
        if outcome.error is None:
            self.set_result(outcome.result)
        else:
            self._traceback = outcome.error.__traceback__
            self.set_exception(outcome.error)
        for future in list(self._awaiting):
            with contextlib.suppress(RuntimeError):  # Its loop was closed; nobody awaits the handler there any more.
                future.get_loop().call_soon_threadsafe(settle, future)
        if self.is_limited or runtime.draining:
            runtime.root.tell(RunEnded(self))

    def earlier_events(self, after: int) -> list[Event]:
        """Return what was published after an offset before this process had the run."""
        keeper, first = self._link.runtime.keeper, self._log.first_offset
        if keeper is None or after + 1 >= first:
            return []
        return keeper.earlier_events(self.run_id, after, first, self._link.workflow)

    def needs_loop(self) -> bool:
        """Return whether the event loop is needed for the run to go on now."""
        return self._link.needs_loop() and bool(self.running_steps())

    def has_ended(self) -> bool:
        """Return whether the run has its outcome."""
        return self._outcome is not None

    def on_question(self, question: OpenInput) -> None:
        """Tell the runtime of a question. Called by the supervisor, in its turn."""
        runtime = self._link.runtime
        runtime.tell_question(pending_input(question, self.run_id, runtime.run_time(), runtime.dispatcher.wall_time()))

    def end(self, error: BaseException) -> None:
        """End the run as cancelled, with this error as its result. Called at the runtime's shutdown."""
        if self._link.supervisor is not None:
            self._link.supervisor.tell_control(CancelAsked(error))

    def leave(self, published: int) -> None:
        """Take note that the run rests in its store. Called by the keeper, in the supervisor's turn."""
        self.seen = published
        self._link.supervisor = None

    def end_at_rest(self, outcome: Outcome, missed: list[Event]) -> None:
        """Take the outcome of a run that rested here, and what was published since. Called by the keeper."""
        self._stream.tell(Published([], [], missed, True))
        self.finish(outcome)

    def come_back(self, supervisor: RunSupervisor, missed: list[Event]) -> None:
        """Go on with another supervisor, and the stream that there is, to which another process may have published."""
        supervisor.log, supervisor.stream = self._log, self._stream
        if missed:
            self._stream.tell(Published([], [], missed, False))
        self._link.supervisor = supervisor.actor_ref

    def is_done(self) -> bool:
        """Return whether the run has ended."""
        return self.done()

    def block(self, timeout: float | None) -> None:
        """Block until the run has ended. `Dispatcher.wait` calls it."""
        with contextlib.suppress(TimeoutError):
            super().exception(timeout)

    def _wait(self, timeout: float | None) -> None:
        if self.done():
            return
        self._refuse_to_block("result()")
        if not self._link.runtime.dispatcher.wait(self, timeout):
            raise TimeoutError(f"run '{self.run_id}' has not ended within {timeout} seconds; it goes on")

    def _ask_cancel(self) -> None:
        self._link.runtime.check_process()
        if not self.done():
            self._link.reach().tell_control(CancelAsked())

    def _refuse_to_block(self, call: str) -> None:
        self._link.runtime.check_process()
        self._refuse_within_own_step(call)
        if self._link.runtime.dispatcher.on_loop_thread() and self._link.needs_loop():
            raise DeadlockError(
                f"{call} would block the event loop that the async steps of run '{self.run_id}' need: await the"
                " handler, or use `async for`"
            )

    def _refuse_within_own_step(self, call: str) -> None:
        port = current_step.get(None)
        if (
            port is not None
            and self._link.supervisor is not None
            and getattr(port, "supervisor", None) == self._link.supervisor
        ):
            raise DeadlockError(
                f"{call} within step '{port.invocation.spec.name}' would wait for its own run '{self.run_id}' for ever:"
                " return a stop event, or wait outside the run"
            )


def _find(input_id: str) -> Inspect:
    return Inspect(lambda state: find_question(state, input_id))

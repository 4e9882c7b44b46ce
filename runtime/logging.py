"""Logging through the standard library: whose run, step and invocation a record belongs to.

`RunFilter` gives these three to every record of a handler, those of other libraries included:

    import logging
    import greenroom.logging

    logging.basicConfig(format="%(levelname)s %(run_id)s %(step)s#%(invocation)s %(message)s")
    greenroom.logging.add_run_fields()

The engine itself logs to `greenroom` and its children, and its records always bear them. On `greenroom.run` there is
the life of the runs: at INFO their begin and end, and of durable ones when they rest and come back; all between at
DEBUG. The level is looked at when a run begins or comes back; where it is off, nothing of this is called.
"""

from __future__ import annotations

import logging

from greenroom.events import Event
from greenroom.log_fields import log_fields
from greenroom.observer import AttemptRecord, Observer, RunRecord, WaitRecord
from greenroom.outcome import DeadLetter
from greenroom.ports import current_step

__all__ = ["RunFilter", "add_run_fields", "run_log"]

run_logger = logging.getLogger("greenroom.run")


class RunFilter(logging.Filter):
    """Gives each record the attributes `run_id`, `step` and `invocation`. It lets all records pass.

    They are those of the step in whose body the record was made, also in functions that it calls and in tasks and
    `asyncio.to_thread` calls that it makes; outside of any step they are empty texts. What a record has already stays
    as it is. Add it to handlers, since the filters of a logger do not see what comes from its children; where records
    pass through a queue, to the `QueueHandler`, which is called where they are made.

    Example:
        >>> import logging, sys
        >>> from greenroom import StartEvent, StopEvent, Workflow, step
        >>> from greenroom.logging import RunFilter
        >>> handler = logging.StreamHandler(sys.stdout)
        >>> handler.setFormatter(logging.Formatter("[%(run_id)s %(step)s %(invocation)s] %(message)s"))
        >>> handler.addFilter(RunFilter())
        >>> mine = logging.getLogger("mine")
        >>> mine.addHandler(handler)
        >>> class Hello(Workflow):
        ...     @step
        ...     def hello(self, ev: StartEvent) -> StopEvent:
        ...         mine.warning("hello")
        ...         return StopEvent()
        >>> Hello().run(run_id="first").result()
        [first hello 0] hello
        >>> mine.removeHandler(handler)
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Set the attributes that are missing."""
        port = current_step.get(None)
        fields = (
            log_fields() if port is None else log_fields(port.run_id, port.invocation.spec.name, port.invocation.number)
        )
        for name, value in fields.items():
            if name not in record.__dict__:
                record.__dict__[name] = value
        return True


def add_run_fields(logger: logging.Logger | None = None) -> None:
    """Add a `RunFilter` to all handlers that a logger has now, unless they have one.

    Args:
        logger: The root logger by default: call it after `logging.basicConfig(...)` or the like.

    Example:
        >>> import logging
        >>> from greenroom.logging import RunFilter, add_run_fields
        >>> logger = logging.getLogger("docs.example")
        >>> logger.addHandler(logging.NullHandler())
        >>> add_run_fields(logger)
        >>> add_run_fields(logger)
        >>> [type(each).__name__ for each in logger.handlers[0].filters]
        ['RunFilter']
    """
    for handler in (logger or logging.getLogger()).handlers:
        if not any(isinstance(each, RunFilter) for each in handler.filters):
            handler.addFilter(RunFilter())


def run_log() -> Observer | None:
    """Return what logs the life of a run to `greenroom.run`, as far as its level lets it; None where it is off."""
    if not run_logger.isEnabledFor(logging.INFO):
        return None
    return _FullLog() if run_logger.isEnabledFor(logging.DEBUG) else _RunLog()


_BEGINNINGS = {"started": "began", "resumed": "goes on", "woken": "is woken", "recovered": "is recovered"}
_LEAVINGS = {
    "rested": "rests in its store",
    "given_back": "is given back to its store",
    "lost": "is lost to another process",
}


class _RunLog(Observer):
    """Logs the begin and the end of a run, and when it leaves memory and comes back."""

    def run_started(self, run: RunRecord) -> None:
        began = _BEGINNINGS[run.beginning]
        where = "" if run.parent is None else f" in step '{run.parent.step}' of run '{run.parent.run.run_id}'"
        run_logger.info("run '%s' of %s %s%s", run.run_id, run.workflow, began, where, extra=log_fields(run.run_id))

    def run_left(self, run: RunRecord) -> None:
        assert run.left is not None
        fields = log_fields(run.run_id)
        run_logger.info("run '%s' of %s %s", run.run_id, run.workflow, _LEAVINGS[run.left], extra=fields)

    def run_ended(self, run: RunRecord) -> None:
        assert run.outcome is not None
        assert run.ended_at is not None
        seconds, status, fields = run.ended_at - run.started_at, run.outcome.status, log_fields(run.run_id)
        run_logger.info("run '%s' of %s: %s after %.6f s", run.run_id, run.workflow, status, seconds, extra=fields)


class _FullLog(_RunLog):
    """Logs all that happens in a run."""

    def run_idle(self, run: RunRecord) -> None:
        run_logger.debug("run '%s' has come to rest", run.run_id, extra=log_fields(run.run_id))

    def event_routed(self, run: RunRecord, event: Event, step: str, is_queued: bool) -> None:
        what = "is queued for" if is_queued else "goes to"
        run_logger.debug("%s %s step '%s'", type(event).__name__, what, step, extra=log_fields(run.run_id, step))

    def event_streamed(self, run: RunRecord, event: Event) -> None:
        run_logger.debug("%s goes to the stream", type(event).__name__, extra=log_fields(run.run_id))

    def event_held(self, run: RunRecord, event: Event) -> None:
        run_logger.debug("%s is kept for a wait", type(event).__name__, extra=log_fields(run.run_id))

    def dead_letter(self, run: RunRecord, letter: DeadLetter) -> None:
        fields = log_fields(run.run_id, letter.step or "")
        run_logger.debug("%s is a dead letter: %s", type(letter.event).__name__, letter.reason, extra=fields)

    def step_started(self, attempt: AttemptRecord) -> None:
        fields = log_fields(attempt.run.run_id, attempt.step, attempt.invocation)
        event = type(attempt.event).__name__
        run_logger.debug("step '%s' begins attempt %d at %s", attempt.step, attempt.attempt, event, extra=fields)

    def step_ended(self, attempt: AttemptRecord) -> None:
        assert attempt.ended_at is not None
        fields = log_fields(attempt.run.run_id, attempt.step, attempt.invocation)
        seconds = attempt.ended_at - attempt.started_at
        if attempt.error is None:
            run_logger.debug("step '%s': %s after %.6f s", attempt.step, attempt.end, seconds, extra=fields)
        else:
            message = "step '%s': %s after %.6f s with %r"
            run_logger.debug(message, attempt.step, attempt.end, seconds, attempt.error, extra=fields)

    def step_retried(self, run: RunRecord, step: str, invocation: int, delay: float) -> None:
        fields = log_fields(run.run_id, step, invocation)
        run_logger.debug("step '%s' is tried again in %.6f s", step, delay, extra=fields)

    def wait_started(self, wait: WaitRecord) -> None:
        attempt, event = wait.attempt, wait.event_type.__name__
        fields = log_fields(attempt.run.run_id, attempt.step, attempt.invocation)
        run_logger.debug("step '%s' waits for %s", attempt.step, event, extra=fields)

    def wait_ended(self, wait: WaitRecord) -> None:
        attempt, event = wait.attempt, wait.event_type.__name__
        fields = log_fields(attempt.run.run_id, attempt.step, attempt.invocation)
        run_logger.debug("step '%s': its wait for %s is over: %s", attempt.step, event, wait.end, extra=fields)

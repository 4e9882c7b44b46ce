"""OpenTelemetry: spans and metrics of runs, step attempts and waits. It needs `pip install greenroom[otel]`.

`instrument()` switches it on for the process; `Runtime(observers=[OpenTelemetry(...)])` does for one runtime. Where the
program sets no SDK up, all of it does nothing. docs/observability.md lists the spans, metrics and attributes.

Hooks come from any thread. `_spans` holds those that are open, by record; only single dict operations are used on it.
The run's span is made current in the variables that all its bodies get, a step's span in those of its body. So spans
that the code of a step opens are children of the step's, on whichever thread the step runs and also after a wait.

A span belongs to one process and cannot be put away. So a durable run has one for each time that it is in memory, all
in one trace: the first is the parent of the others, and each bears a link to the one before it. The contexts of these
two are kept with the run, in the form of the W3C's traceparent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import TypeAlias, get_args

try:
    from opentelemetry import context, metrics, trace
    from opentelemetry.context import Context
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
    from opentelemetry.trace import Link, Span, Status, StatusCode, TracerProvider
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError as error:
    raise ImportError("greenroom.otel needs OpenTelemetry: pip install 'greenroom[otel]'") from error

from greenroom.observer import AttemptRecord, Observer, RunLeaving, RunRecord, WaitRecord
from greenroom.outcome import DeadLetter
from greenroom.runtime import add_observer, living_runtimes, remove_observer

__all__ = ["OpenTelemetry", "instrument", "uninstrument"]

Attributes: TypeAlias = dict[str, str | int | float | bool]

# Seconds. From what a hop takes to what a person takes.
_BUCKETS = (0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 10000)

_LEAVINGS = get_args(RunLeaving)
_PROPAGATOR = TraceContextTextMapPropagator()
_FIRST, _LAST = "greenroom.otel.first.", "greenroom.otel.last."  # what the texts begin with that a run carries

_instrumented: OpenTelemetry | None = None


class OpenTelemetry(Observer):
    """Makes a span of each run, each attempt at a step and each wait, and keeps the metrics.

    Example:
        >>> from opentelemetry.sdk.trace import TracerProvider
        >>> from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        >>> from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        >>> from greenroom import Runtime, StartEvent, StopEvent, Workflow, step
        >>> from greenroom.otel import OpenTelemetry
        >>> class Hello(Workflow):
        ...     @step
        ...     def hello(self, ev: StartEvent) -> StopEvent:
        ...         return StopEvent(result="hello")
        >>> spans, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
        >>> provider.add_span_processor(SimpleSpanProcessor(spans))
        >>> with Runtime(observers=[OpenTelemetry(tracer_provider=provider)]):
        ...     print(Hello().run().result())
        hello
        >>> [span.name for span in spans.get_finished_spans()]
        ['step hello', 'run Hello']
    """

    def __init__(
        self, *, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        """Make the observer.

        Args:
            tracer_provider: Makes the spans; None for the process's own.
            meter_provider: Keeps the metrics; None for the process's own.
        """
        self.meter_provider = meter_provider
        self._spans: dict[RunRecord | AttemptRecord | WaitRecord, Span] = {}
        release = version("greenroom")
        self._tracer = trace.get_tracer("greenroom", release, tracer_provider)
        meter = metrics.get_meter("greenroom", release, meter_provider)

        def seconds(name: str, what: str) -> Callable[[float, Attributes], None]:
            histogram = meter.create_histogram(name, "s", what, explicit_bucket_boundaries_advisory=_BUCKETS)
            return histogram.record

        self._runs = meter.create_counter("greenroom.runs", "{run}", "Runs that have ended")
        self._active_runs = meter.create_up_down_counter("greenroom.active_runs", "{run}", "Runs that go on")
        self._record_run = seconds("greenroom.run.duration", "Time from the begin of a run to its end")
        self._attempts = meter.create_counter("greenroom.step.attempts", "{attempt}", "Attempts that have ended")
        self._retries = meter.create_counter("greenroom.step.retries", "{retry}", "Attempts that follow a failed one")
        self._record_attempt = seconds("greenroom.step.duration", "Time that an attempt takes, its waits included")
        self._record_mailbox = seconds("greenroom.mailbox.wait_time", "Time that an event waits until its step begins")
        self._active_waits = meter.create_up_down_counter("greenroom.active_waits", "{wait}", "Waits that are open")
        self._record_wait = seconds("greenroom.wait.duration", "Time from the begin of a wait until the step goes on")
        self._letters = meter.create_counter("greenroom.dead_letters", "{event}", "Events that nobody takes")
        meter.create_observable_up_down_counter(
            "greenroom.pool.threads", [_count_threads(meter_provider)], "{thread}", "Threads of the runtimes"
        )

    def run_started(self, run: RunRecord) -> None:
        attributes = _of_run(run)
        attributes["greenroom.beginning"] = run.beginning
        if run.start_event is not None:
            attributes["greenroom.start_event"] = type(run.start_event).__name__
        if run.origin != run.run_id:
            attributes["greenroom.origin_run_id"] = run.origin
        if run.parent is not None:
            attributes["greenroom.parent_run_id"] = run.parent.run.run_id
            attributes["greenroom.parent_step"] = run.parent.step
            attributes["greenroom.parent_invocation"] = run.parent.invocation
        carried = run.carried
        first, last = _read(carried, _FIRST), _read(carried, _LAST)
        span = self._spans[run] = self._tracer.start_span(
            f"run {run.workflow}",
            context=None if first is None else trace.set_span_in_context(first),
            attributes=attributes,
            links=[] if last is None else [Link(last.get_span_context())],
        )
        texts: dict[str, str] = {}
        _PROPAGATOR.inject(texts, trace.set_span_in_context(span))  # nothing where there is no SDK
        if first is None:
            carried.update({_FIRST + name: text for name, text in texts.items()})
        if "traceparent" in texts:
            carried[_LAST + "traceparent"] = texts["traceparent"]
        context.attach(trace.set_span_in_context(span))
        self._active_runs.add(1, {"greenroom.workflow": run.workflow})

    def run_ended(self, run: RunRecord) -> None:
        assert run.outcome is not None
        assert run.ended_at is not None
        workflow: Attributes = {"greenroom.workflow": run.workflow}
        labels = _labels(workflow, run.outcome.status, run.outcome.error)
        self._active_runs.add(-1, workflow)
        self._runs.add(1, labels)
        self._record_run(run.ended_at - run.started_at, labels)
        failed = run.outcome.status in ("failed", "timed_out")
        self._end(run, run.outcome.status, type(run.outcome.event).__name__, run.outcome.error, failed)

    def run_left(self, run: RunRecord) -> None:
        assert run.left is not None
        self._active_runs.add(-1, {"greenroom.workflow": run.workflow})
        self._end(run, run.left, None, None, False)

    def dead_letter(self, run: RunRecord, letter: DeadLetter) -> None:
        event = type(letter.event).__name__
        self._letters.add(1, {"greenroom.workflow": run.workflow, "greenroom.event": event})
        span = self._spans.get(run)
        if span is not None:
            span.add_event("greenroom.dead_letter", {"greenroom.event": event, "greenroom.reason": letter.reason})

    def step_started(self, attempt: AttemptRecord) -> None:
        attributes = _of_attempt(attempt)
        span = self._spans[attempt] = self._tracer.start_span(f"step {attempt.step}", attributes=attributes)
        context.attach(trace.set_span_in_context(span))
        labels: Attributes = {"greenroom.workflow": attempt.run.workflow, "greenroom.step": attempt.step}
        self._record_mailbox(attempt.started_at - attempt.due_at, labels)

    def step_ended(self, attempt: AttemptRecord) -> None:
        assert attempt.end is not None
        assert attempt.ended_at is not None
        step: Attributes = {"greenroom.workflow": attempt.run.workflow, "greenroom.step": attempt.step}
        labels = _labels(step, attempt.end, attempt.error)
        self._attempts.add(1, labels)
        self._record_attempt(attempt.ended_at - attempt.started_at, labels)
        self._end(attempt, attempt.end, attempt.output_name, attempt.error, attempt.end in ("failed", "timed_out"))

    def step_retried(self, run: RunRecord, step: str, invocation: int, delay: float) -> None:
        self._retries.add(1, {"greenroom.workflow": run.workflow, "greenroom.step": step})
        span = self._spans.get(run)
        if span is not None:
            attributes: Attributes = {"greenroom.step": step, "greenroom.invocation": invocation}
            span.add_event("greenroom.retry", {**attributes, "greenroom.retry_delay": delay})

    def wait_started(self, wait: WaitRecord) -> None:
        attempt = wait.attempt
        attributes = _of_attempt(attempt)
        attributes["greenroom.event"] = wait.event_type.__name__
        if wait.timeout is not None:
            attributes["greenroom.timeout"] = wait.timeout
        if wait.input_id is not None:
            attributes["greenroom.input_id"] = wait.input_id
        self._spans[wait] = self._tracer.start_span(f"wait {wait.event_type.__name__}", attributes=attributes)
        self._active_waits.add(1, {"greenroom.workflow": attempt.run.workflow, "greenroom.step": attempt.step})

    def wait_ended(self, wait: WaitRecord) -> None:
        assert wait.end is not None
        assert wait.ended_at is not None
        step: Attributes = {"greenroom.workflow": wait.attempt.run.workflow, "greenroom.step": wait.attempt.step}
        self._active_waits.add(-1, step)
        if wait.end not in _LEAVINGS:  # else it goes on where the run does, and is measured there
            self._record_wait(wait.ended_at - wait.started_at, _labels(step, wait.end, None))
        self._end(wait, wait.end, None if wait.answer is None else type(wait.answer).__name__, None, False)

    def _end(
        self,
        record: RunRecord | AttemptRecord | WaitRecord,
        outcome: str,
        output: str | None,
        error: BaseException | None,
        failed: bool,
    ) -> None:
        span = self._spans.pop(record, None)
        if span is None:
            return
        try:
            span.set_attribute("greenroom.outcome", outcome)
            if output is not None:
                span.set_attribute("greenroom.output_event", output)
            if error is not None and failed:
                span.set_attribute("error.type", _name(error))
                span.record_exception(error)
                span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
        finally:
            span.end()


def instrument(*, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None) -> None:
    """Switch OpenTelemetry on, for the default runtime and all that were given no observers of their own.

    Runs that begin from now on are seen. Called again, it takes the place of what was on.

    Args:
        tracer_provider: Makes the spans; None for the process's own.
        meter_provider: Keeps the metrics; None for the process's own.

    Example:
        >>> import greenroom.otel
        >>> greenroom.otel.instrument()
        >>> greenroom.otel.uninstrument()
    """
    global _instrumented
    observer = OpenTelemetry(tracer_provider=tracer_provider, meter_provider=meter_provider)
    uninstrument()
    add_observer(observer)
    _instrumented = observer


def uninstrument() -> None:
    """Switch off what `instrument` has switched on. Runs that go on are seen to their end."""
    global _instrumented
    observer, _instrumented = _instrumented, None
    if observer is not None:
        remove_observer(observer)


def _read(carried: dict[str, str], prefix: str) -> Span | None:
    """Return a span that stands for one whose context a run has carried, or None where it has none that can be read."""
    texts = {name.removeprefix(prefix): text for name, text in carried.items() if name.startswith(prefix)}
    span = trace.get_current_span(_PROPAGATOR.extract(texts, Context()))
    return span if span.get_span_context().is_valid else None


def _of_run(run: RunRecord) -> Attributes:
    return {"greenroom.run_id": run.run_id, "greenroom.workflow": run.workflow}


def _of_attempt(attempt: AttemptRecord) -> Attributes:
    return {
        "greenroom.run_id": attempt.run.run_id,
        "greenroom.workflow": attempt.run.workflow,
        "greenroom.step": attempt.step,
        "greenroom.invocation": attempt.invocation,
        "greenroom.attempt": attempt.attempt,
        "greenroom.retry_number": attempt.retry_number,
        "greenroom.worker": attempt.worker,
        "greenroom.input_event": type(attempt.event).__name__,
    }


def _labels(base: Attributes, outcome: str, error: BaseException | None) -> Attributes:
    labels: Attributes = {**base, "greenroom.outcome": outcome}
    if error is not None and outcome in ("failed", "timed_out"):
        labels["error.type"] = _name(error)
    return labels


def _name(error: BaseException) -> str:
    cls = type(error)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _count_threads(provider: MeterProvider | None) -> Callable[[CallbackOptions], Iterable[Observation]]:
    """Return a function that counts the threads of the runtimes whose metrics go to a provider.

    A meter keeps its first callback for good, also when another observer takes the place of the one that made it.
    """

    def count(options: CallbackOptions) -> Iterable[Observation]:
        observed = [
            runtime.dispatcher.thread_count()
            for runtime in living_runtimes()
            for observer in runtime.observers.members
            if isinstance(observer, OpenTelemetry) and observer.meter_provider is provider
        ]
        return [Observation(sum(observed))]

    return count

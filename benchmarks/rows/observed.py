"""What OpenTelemetry adds to a step hop.

The chain of `def-hop`, with a span and five measurements a hop. The spans go through the SDK's batch processor to an
exporter that drops them, so the figure is the cost on the side of the run.
"""

from __future__ import annotations

from benchmarks.row import Measure, Row, no_target
from benchmarks.rows.hops import DefHop


class ObservedHop(Row):
    """A chain of `def` steps with OpenTelemetry switched on, and beside it with an observer that only counts."""

    name = "otel-hop"
    what = "one step hop, `def` step, OpenTelemetry on"
    size = 1000
    quick_size = 50
    target = no_target()

    def ours(self) -> Measure:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

        from greenroom import otel
        from greenroom.observer import Observer
        from greenroom.runtime import add_observer, remove_observer

        class Drop(SpanExporter):
            def export(self, spans: object) -> SpanExportResult:
                return SpanExportResult.SUCCESS

        class Count(Observer):
            steps = 0

            def step_ended(self, attempt: object) -> None:
                self.steps += 1

        tracers, meters = TracerProvider(), MeterProvider([InMemoryMetricReader()])
        tracers.add_span_processor(BatchSpanProcessor(Drop()))
        count, chain = Count(), DefHop().ours()

        def measure(hops: int) -> float:
            self.notes["µs without"] = chain(hops) * 1e6
            add_observer(count)
            self.notes["µs with an observer that counts"] = chain(hops) * 1e6
            remove_observer(count)
            otel.instrument(tracer_provider=tracers, meter_provider=meters)
            cost = chain(hops)
            otel.uninstrument()
            return cost

        return measure

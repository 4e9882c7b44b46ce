"""An OpenTelemetry SDK that keeps everything in memory."""

from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from greenroom.otel import OpenTelemetry

__all__ = ["Telemetry"]


class Telemetry:
    """An SDK that keeps everything in memory, and its observer."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.observer = OpenTelemetry(tracer_provider=self.tracers, meter_provider=self.meters)
        self.tracer = self.tracers.get_tracer("test")

    def check(self) -> None:
        """Check at the end that nothing is left open."""
        assert not self.observer._spans
        assert all(point.value == 0 for name in ("runs", "waits") for point in self.points(f"greenroom.active_{name}"))
        self.meters.shutdown()

    def spans(self, prefix: str = "") -> list[ReadableSpan]:
        """The spans that have ended, in the order they did."""
        return [span for span in self.exporter.get_finished_spans() if span.name.startswith(prefix)]

    def span(self, name: str) -> ReadableSpan:
        """The one span of this name."""
        (found,) = [span for span in self.spans() if span.name == name]
        return found

    def parent_of(self, span: ReadableSpan) -> str | None:
        """The name of a span's parent."""
        if span.parent is None:
            return None
        return next(s.name for s in self.spans() if s.context.span_id == span.parent.span_id)  # type: ignore[union-attr]

    def points(self, name: str) -> list[Any]:
        """The data points of a metric."""
        data = self.reader.get_metrics_data()
        metrics = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics] if data else []
        return [point for metric in metrics if metric.name == name for point in metric.data.data_points]

    def values(self, name: str, *labels: str) -> dict[Any, Any]:
        """The values of a counter by some of its attributes."""
        return {tuple(p.attributes.get(f"greenroom.{label}") for label in labels): p.value for p in self.points(name)}

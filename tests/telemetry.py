"""What the program tells of itself, kept for tests: OpenTelemetry's own SDK with exporters in memory, and log lines."""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.logging.handler import LoggingHandler
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Decision, Sampler, SamplingResult

# A point of a metric: its labels, and its figure or, of a histogram, how often it was recorded.
type Points = list[tuple[dict[str, Any], float]]


class _AsTheDistros(Sampler):
    """Azure Monitor's sampler knows a parent only from a context that is given; this one drops who gives none."""

    def should_sample(self, parent_context: Context | None, *args: Any, **kwargs: Any) -> SamplingResult:
        if parent_context is None:
            return SamplingResult(Decision.DROP)
        return ALWAYS_ON.should_sample(parent_context, *args, **kwargs)

    def get_description(self) -> str:
        return type(self).__name__


@cache
def _providers() -> tuple[TracerProvider, InMemoryMetricReader]:
    """Set OpenTelemetry's global providers, which a process can do once."""
    spans = TracerProvider(sampler=_AsTheDistros())
    trace.set_tracer_provider(spans)
    delta = AggregationTemporality.DELTA
    reader = InMemoryMetricReader(preferred_temporality={Counter: delta, Histogram: delta})
    metrics.set_meter_provider(MeterProvider([reader]))
    return spans, reader


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Everything since the fixture began."""

    spans_in_memory: InMemorySpanExporter
    logs_in_memory: InMemoryLogRecordExporter
    reader: InMemoryMetricReader

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """In the order in which they ended."""
        return self.spans_in_memory.get_finished_spans()

    def span(self, name: str) -> ReadableSpan:
        (found,) = (span for span in self.spans if span.name == name)
        return found

    def log_attributes(self) -> list[Mapping[str, Any]]:
        return [dict(logged.log_record.attributes or {}) for logged in self.logs_in_memory.get_finished_logs()]

    def metrics(self) -> dict[str, Points]:
        """Return what was measured since the last call."""
        read = self.reader.get_metrics_data()
        points: dict[str, Points] = {}
        for resource in read.resource_metrics if read else ():
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                points[metric.name] = [
                    (dict(point.attributes or {}), point.count if hasattr(point, "count") else point.value)
                    for point in metric.data.data_points
                ]
        return points

    def everything(self) -> str:
        """All of it as text, to look for what must not be there."""
        logs = [logged.to_json() for logged in self.logs_in_memory.get_finished_logs()]
        return "\n".join([*(span.to_json() for span in self.spans), *logs, repr(self.reader.get_metrics_data())])


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    provider, reader = _providers()
    spans, logs = InMemorySpanExporter(), InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
    provider.add_span_processor(SimpleSpanProcessor(spans))
    log_provider = LoggerProvider()
    log_provider.add_log_record_processor(SimpleLogRecordProcessor(logs))
    handler = LoggingHandler(logger_provider=log_provider)
    logging.getLogger().addHandler(handler)
    kept = Telemetry(spans, logs, reader)
    kept.metrics()
    yield kept
    logging.getLogger().removeHandler(handler)
    spans.shutdown()


def lines(log: pytest.LogCaptureFixture, event: str = "") -> list[dict[str, Any]]:
    """Return the program's log lines, or those of one event."""
    records = [record for record in log.records if record.name == "rotators"]
    told = [json.loads(record.getMessage()) for record in records]
    return [line for line in told if event in ("", line["event"])]

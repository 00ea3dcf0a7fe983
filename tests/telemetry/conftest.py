"""Telemetry by the real SDK, kept in memory."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Metric
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from choreo.telemetry import Telemetry
from tests.services.shop import Shop


@dataclass
class Told:
    """What an App told: its spans, and its metrics."""

    exporter: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)
    reader: InMemoryMetricReader = field(default_factory=InMemoryMetricReader)

    def __post_init__(self) -> None:
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meter_provider = MeterProvider([self.reader])
        self.telemetry = Telemetry(
            tracer_provider=self.tracer_provider, meter_provider=self.meter_provider
        )

    def spans(self, operation: str = "") -> list[ReadableSpan]:
        """Give the spans that have ended, or those of one operation."""
        found = self.exporter.get_finished_spans()
        return [span for span in found if operation in ("", span.name.split(" ")[0])]

    def metrics(self) -> dict[str, Metric]:
        """Give the metrics by name."""
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def points(self, name: str) -> list[Any]:
        """Give the points of a metric, one for each set of labels."""
        metric = self.metrics().get(name)
        return [] if metric is None else list(metric.data.data_points)

    def count(self, name: str, **labels: str) -> int:
        """Add up a counter over the points that have these labels (dots as `__`)."""
        wanted = {label.replace("__", "."): value for label, value in labels.items()}
        return sum(
            point.value
            for point in self.points(name)
            if wanted.items() <= dict(point.attributes).items()
        )

    def close(self) -> None:
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()


@pytest.fixture
def told() -> Iterator[Told]:
    told = Told()
    yield told
    told.close()


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Told) -> Shop:
    monkeypatch.setenv("CHOREO_BROKER", f"sqlite:///{tmp_path}/choreo.db")
    return Shop(tmp_path, telemetry=told.telemetry)

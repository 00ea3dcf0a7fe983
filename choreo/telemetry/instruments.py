"""The instruments of one meter, by the names of the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from opentelemetry.metrics import Counter, Histogram, Meter

from choreo.telemetry.names import METRICS

__all__ = ["Instruments"]

Labels = Mapping[str, str]


class _Gauge(Protocol):
    def set(self, amount: float, attributes: Labels | None = None) -> None: ...


class Instruments:
    """Counts and measures. A label is never an id: there are as many series as handlers."""

    def __init__(self, meter: Meter) -> None:
        """Make what the table names."""
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        self._gauges: dict[str, _Gauge] = {}
        for name, kind, unit, meaning, _, buckets, _ in METRICS:
            if kind == "counter":
                self._counters[name] = meter.create_counter(name, unit, meaning)
            elif kind == "gauge":
                self._gauges[name] = meter.create_gauge(name, unit, meaning)
            else:
                self._histograms[name] = meter.create_histogram(
                    name, unit, meaning, explicit_bucket_boundaries_advisory=buckets
                )

    def count(self, name: str, labels: Labels, n: int = 1) -> None:
        """Add to a counter."""
        self._counters[name].add(n, labels)

    def measure(self, name: str, value: float, labels: Labels) -> None:
        """Put a value into a histogram."""
        self._histograms[name].record(value, labels)

    def show(self, name: str, value: float, labels: Labels) -> None:
        """Set a gauge."""
        self._gauges[name].set(value, labels)

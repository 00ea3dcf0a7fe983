"""OpenTelemetry's SDK, set up for a process that has nothing but services.

Exporters, sampling, resources and intervals go by the `OTEL_…` variables, as the SDK reads them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from choreo.errors import ConfigurationError

__all__ = ["asked", "configure", "exported"]

SWITCH = "CHOREO_TELEMETRY"
TRACES, METRICS = "OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER"
ASKING = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    TRACES,
    METRICS,
)
OTLP = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
FLUSH_S = 5.0
"""For what is still to be exported at the end; a collector that is gone holds nobody up."""
MISSING = "pip install 'choreo[telemetry]'"
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def asked() -> bool:
    """Tell whether the environment asks for telemetry.

    `CHOREO_TELEMETRY` says so, 1 or 0; without it, an OTLP endpoint or an exporter that is named
    does. `OTEL_SDK_DISABLED=true` is a no. Raises ConfigurationError for what is neither.
    """
    said = os.environ.get(SWITCH, "").strip().lower()
    if said and said not in (*_YES, *_NO):
        raise ConfigurationError(
            f"{SWITCH} is {said!r}", code="CH1014", fix="give 1 or 0, or leave it out"
        )
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or said in _NO:
        return False
    return said in _YES or any(os.environ.get(name) for name in ASKING)


def configure(name: str, *, scraped: bool) -> Callable[[], None]:
    """Set up what the environment asks for; give what ends it, and sends what is left.

    `name` is the service, unless `OTEL_SERVICE_NAME` names it. `scraped`: somebody will come for
    metrics, so there are some, unless telemetry is switched off. Where the process has providers
    already they stay. Raises ConfigurationError where a package is missing.
    """
    wanted = asked()
    off = os.environ.get(SWITCH, "").strip().lower() in _NO
    if not wanted and (off or not scraped):
        return _nothing
    try:
        from opentelemetry import metrics, trace
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as exc:
        if not wanted:
            return _nothing  # /metrics says what is missing
        raise _missing("the SDK of OpenTelemetry is not installed", MISSING) from exc
    resource = Resource.create(
        {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": name}
    )
    ends: list[Callable[[], object]] = []
    if wanted and not _real(trace.get_tracer_provider()):
        tracers = TracerProvider(resource=resource)
        for exporter in _named(TRACES, "opentelemetry_traces_exporter"):
            tracers.add_span_processor(BatchSpanProcessor(exporter()))
        trace.set_tracer_provider(tracers)
        ends.append(tracers.shutdown)
    if not _real(metrics.get_meter_provider()):
        meters = MeterProvider(_readers(scraped=scraped, pushed=wanted), resource=resource)
        metrics.set_meter_provider(meters)
        ends.append(meters.shutdown)
    return lambda: _in_time(ends)


def exported() -> tuple[str, bytes]:
    """Give the process's metrics as Prometheus reads them: the type, and the text.

    Without the packages for it, the text says what to install.
    """
    try:
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
    except ImportError:
        return "text/plain; charset=utf-8", f"# no metrics: {MISSING}\n".encode()
    return CONTENT_TYPE_LATEST, generate_latest()


def _readers(*, scraped: bool, pushed: bool) -> list[Any]:
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    readers: list[Any] = []
    names = _names(METRICS) if pushed else []
    if scraped or "prometheus" in names:
        try:
            from opentelemetry.exporter.prometheus import PrometheusMetricReader
        except ImportError:
            pass  # /metrics says what is missing
        else:
            readers.append(PrometheusMetricReader())
    if pushed:
        readers += [
            PeriodicExportingMetricReader(exporter())
            for exporter in _named(METRICS, "opentelemetry_metrics_exporter", "prometheus")
        ]
    return readers


def _names(variable: str) -> list[str]:
    given = os.environ.get(variable, "").replace(",", " ").split() or ["otlp"]
    return [name for name in given if name != "none"]


def _named(variable: str, group: str, besides: str = "") -> list[Any]:
    """Load the exporters that a variable names, by the entry points of their packages."""
    found = []
    for name in _names(variable):
        if name == besides:
            continue
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        entry = OTLP.get(protocol, protocol) if name == "otlp" else name
        points = tuple(entry_points(group=group, name=entry))
        if not points:
            fix = f"{MISSING}, or the exporter's own package; or correct {variable}"
            raise _missing(f"no exporter {entry!r} is installed", fix)
        found.append(points[0].load())
    return found


def _real(provider: object) -> bool:
    from choreo.telemetry.around import API

    return not type(provider).__module__.startswith(API)


def _missing(what: str, fix: str) -> ConfigurationError:
    return ConfigurationError(what, code="CH1051", fix=fix)


def _nothing() -> None:
    """There is nothing to end."""


def _in_time(ends: list[Callable[[], object]]) -> None:
    """End all, each in a thread of its own that nobody waits for beyond `FLUSH_S`."""
    threads = [threading.Thread(target=end, name="choreo-flush", daemon=True) for end in ends]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(FLUSH_S)

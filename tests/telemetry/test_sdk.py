"""The SDK as a process sets it up for itself: by the environment, and to its end."""

import http.server
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from choreo.errors import ConfigurationError
from choreo.telemetry import asked, configure
from tests.house.source import ROOT

WITHIN_S = 40.0

DESK = """
import asyncio
from choreo import App
from choreo.running import telling
from tests.telemetry.desk import Asked, service

async def main():
    async with App(service(), folder=":memory:") as app:
        await app.outcome(await app.publish(Asked()), within_s=10)

desk = service()
with telling([desk], health=""):
    asyncio.run(main())
print("done", flush=True)
"""


class Collector(http.server.ThreadingHTTPServer):
    """Takes what is exported by OTLP over HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Taking)
        self.spans: list[str] = []
        self.metrics: list[str] = []
        self.services: Counter[str] = Counter()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Taking(http.server.BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            import gzip

            body = gzip.decompress(body)
        if self.path == "/v1/traces":
            traces = ExportTraceServiceRequest.FromString(body)
            for one in traces.resource_spans:
                self._of(one.resource)
                self.server.spans += [s.name for scope in one.scope_spans for s in scope.spans]
        else:
            metrics = ExportMetricsServiceRequest.FromString(body)
            for each in metrics.resource_metrics:
                self._of(each.resource)
                self.server.metrics += [
                    m.name for scope in each.scope_metrics for m in scope.metrics
                ]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _of(self, resource: object) -> None:
        for one in resource.attributes:  # type: ignore[attr-defined]
            if one.key == "service.name":
                self.server.services[one.value.string_value] += 1

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.shutdown()
    collector.server_close()


def ran(folder: Path, **environment: str) -> tuple[int, str]:
    """Give what became of it and what it said: not that it has waited for a processor."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("CHOREO_", "OTEL_"))}
    done = subprocess.run(
        [sys.executable, "-c", DESK], cwd=folder,
        env={**ours, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True, text=True, timeout=WITHIN_S, check=False,
    )  # fmt: skip
    said = (done.stdout + done.stderr).splitlines(keepends=True)
    return done.returncode, "".join(line for line in said if not line.startswith("CH5008 "))


def test_an_endpoint_is_enough(tmp_path: Path, collector: Collector) -> None:
    assert ran(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint) == (0, "done\n")
    assert {"send desk.asked", "process desk.asked"} <= set(collector.spans)
    assert "messaging.process.duration" in collector.metrics
    assert set(collector.services) == {"desk"}


def test_the_environment_of_the_sdk_holds(tmp_path: Path, collector: Collector) -> None:
    ran(
        tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        OTEL_SERVICE_NAME="mine",
        OTEL_METRICS_EXPORTER="none",
        OTEL_TRACES_SAMPLER="always_off",
    )
    assert not collector.spans
    assert not collector.metrics
    ran(
        tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        OTEL_SERVICE_NAME="mine",
        OTEL_TRACES_EXPORTER="none",
    )
    assert not collector.spans
    assert "messaging.process.duration" in collector.metrics
    assert set(collector.services) == {"mine"}


@pytest.mark.parametrize(
    "no", [{"CHOREO_TELEMETRY": "0"}, {"OTEL_SDK_DISABLED": "true"}], ids=["ours", "the SDK's"]
)
def test_off_is_off(tmp_path: Path, collector: Collector, no: dict[str, str]) -> None:
    assert ran(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, **no) == (0, "done\n")
    assert not collector.spans
    assert not collector.metrics


def test_a_collector_that_is_gone_holds_nobody_up(tmp_path: Path) -> None:
    began = time.monotonic()
    code, said = ran(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    assert code == 0
    assert "done" in said
    assert time.monotonic() - began < WITHIN_S / 2


def test_an_exporter_that_is_not_there_is_told(tmp_path: Path) -> None:
    code, said = ran(tmp_path, OTEL_TRACES_EXPORTER="zipkin")
    assert code == 1
    assert "CH1051 no exporter 'zipkin' is installed" in said


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.startswith(("OTEL_", "CHOREO_TELEMETRY")):
            monkeypatch.delenv(name)
    return monkeypatch


def test_what_asks_for_it(bare: pytest.MonkeyPatch) -> None:
    assert not asked()
    bare.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    assert asked()
    bare.setenv("CHOREO_TELEMETRY", "off")
    assert not asked()
    bare.setenv("CHOREO_TELEMETRY", "1")
    assert asked()
    bare.setenv("OTEL_SDK_DISABLED", "True")
    assert not asked()


def test_a_switch_that_is_neither(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("CHOREO_TELEMETRY", "maybe")
    with pytest.raises(ConfigurationError, match="CH1014"):
        asked()


def test_the_sdk_is_missing(bare: pytest.MonkeyPatch) -> None:
    bare.setitem(sys.modules, "opentelemetry.sdk.metrics", None)
    configure("desk", scraped=True)()  # /metrics says what is missing
    bare.setenv("CHOREO_TELEMETRY", "1")
    with pytest.raises(ConfigurationError, match=r"CH1051 .*pip install 'choreo\[telemetry\]'"):
        configure("desk", scraped=False)

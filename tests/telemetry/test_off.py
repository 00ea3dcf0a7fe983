"""Where nobody has configured telemetry there is none of it: not one object on the way."""

import subprocess
import sys

import pytest
from opentelemetry import trace
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import NoOpTracerProvider

from choreo import App
from choreo.adapters.sqlite import SqliteBroker, SqliteStore
from choreo.telemetry import Telemetry
from choreo.telemetry.broker import ToldBroker
from choreo.worker.pipeline import Pipeline
from choreo.worker.runners import Runners
from tests.house.source import ROOT
from tests.telemetry.conftest import Told
from tests.telemetry.desk import Asked, opened, service


async def test_off_is_nothing_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    pipelines: list[Pipeline] = []
    made = Pipeline.__init__

    def noted(self: Pipeline, *given: object) -> None:
        made(self, *given)  # type: ignore[arg-type]
        pipelines.append(self)

    monkeypatch.setattr(Pipeline, "__init__", noted)
    async with App(service(), folder=":memory:") as app:
        assert app.telemetry is None
        assert type(app.broker) is SqliteBroker
        assert type(app.store) is SqliteStore
        (pipeline,) = pipelines
        assert pipeline.store is app.store
        assert pipeline.run == pipeline.caller.run
        assert getattr(pipeline.attempt, "__func__", None) is Runners._attempt
        await app.outcome(await app.publish(Asked()), within_s=5)


async def test_providers_that_do_nothing_count_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Telemetry.configured() is None
    monkeypatch.setattr(trace, "get_tracer_provider", NoOpTracerProvider)
    monkeypatch.setattr("opentelemetry.metrics.get_meter_provider", NoOpMeterProvider)
    assert Telemetry.configured() is None


async def test_metrics_alone_leave_records_as_they_are(told: Told) -> None:
    telemetry = Telemetry(meter_provider=told.meter_provider)
    async with opened(service(), telemetry=telemetry) as app:
        assert type(app.broker) is ToldBroker
        await app.outcome(await app.publish(Asked()), within_s=5)
        records = [one async for batch in app.broker.read(None) for one in batch]
    assert told.points("messaging.process.duration")
    assert not told.spans()
    assert not [one for one in records if "traceparent" in one.headers]


async def test_spans_alone_need_no_meter(told: Told) -> None:
    telemetry = Telemetry(tracer_provider=told.tracer_provider)
    async with opened(service(), telemetry=telemetry) as app:
        await app.outcome(await app.publish(Asked()), within_s=5)
    assert told.spans("process")
    assert not told.metrics()


GLOBAL = """
import asyncio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from choreo import App
from choreo.telemetry.broker import ToldBroker

async def main():
    async with App(folder=":memory:") as app:
        return type(app.broker) is ToldBroker

before = asyncio.run(main())
trace.set_tracer_provider(TracerProvider())
assert (before, asyncio.run(main())) == (False, True)
"""


def test_the_providers_of_the_process_are_used() -> None:
    """In a process of its own: they can be set only once."""
    subprocess.run([sys.executable, "-c", GLOBAL], cwd=ROOT, check=True, timeout=30)

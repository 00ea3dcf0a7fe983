"""Telemetry of one App: what goes around its ports, and where it is told to."""

from __future__ import annotations

import asyncio
from importlib.metadata import PackageNotFoundError, version
from weakref import WeakKeyDictionary

from opentelemetry import metrics, trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from choreo.ports import Broker, Clock, Store
from choreo.telemetry.attempts import Attempts
from choreo.telemetry.broker import ToldBroker
from choreo.telemetry.instruments import Instruments
from choreo.telemetry.names import SCHEMA
from choreo.telemetry.sampler import Sampler, Working
from choreo.telemetry.store import ToldStore

__all__ = ["Telemetry"]

NAME = "choreo"
try:
    VERSION = version(NAME)
except PackageNotFoundError:  # run from its sources
    VERSION = ""
API = ("opentelemetry.trace", "opentelemetry.metrics")
"""Where providers are defined that do nothing, or only stand in for one that may come."""

_made: WeakKeyDictionary[MeterProvider, Instruments] = WeakKeyDictionary()


class Telemetry:
    """Spans and metrics by these providers, or by one of them."""

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        """Give what is to be used; None: no spans, or no metrics."""
        self._tracer = None
        if tracer_provider is not None:
            self._tracer = tracer_provider.get_tracer(NAME, VERSION, SCHEMA)
        self._instruments = None if meter_provider is None else _instruments(meter_provider)

    @classmethod
    def configured(cls) -> Telemetry | None:
        """Use the process's own providers; None where nobody has configured any."""
        tracer_provider: TracerProvider | None = trace.get_tracer_provider()
        meter_provider: MeterProvider | None = metrics.get_meter_provider()
        if type(tracer_provider).__module__.startswith(API):
            tracer_provider = None
        if type(meter_provider).__module__.startswith(API):
            meter_provider = None
        if tracer_provider is None and meter_provider is None:
            return None
        return cls(tracer_provider=tracer_provider, meter_provider=meter_provider)

    def broker(self, inner: Broker) -> Broker:
        """Give the broker that tells of `inner`."""
        return ToldBroker(inner, self._tracer, self._instruments)

    def store(self, inner: Store, system: str) -> Store:
        """Give the store that tells of `inner`; `system` names the log beside it."""
        return ToldStore(inner, system, self._tracer, self._instruments)

    def attempts(self, system: str) -> Attempts:
        """Give what goes around the attempts of a worker."""
        return Attempts(system, self._tracer, self._instruments)

    def sample(
        self, worker: Working, ports: tuple[Broker, Store], clock: Clock
    ) -> asyncio.Task[None] | None:
        """Look at a worker now and then until cancelled, if there are metrics."""
        if self._instruments is None:
            return None
        sampler = Sampler(self._instruments, worker, ports, clock)
        return asyncio.create_task(sampler.run(), name="choreo telemetry")


def _instruments(provider: MeterProvider) -> Instruments:
    """Make the instruments of a provider once, however many Apps use it."""
    if provider not in _made:
        _made[provider] = Instruments(provider.get_meter(NAME, VERSION, SCHEMA))
    return _made[provider]

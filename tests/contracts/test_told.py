"""What telemetry puts around the ports keeps all that they promise."""

from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

from choreo.ports import Broker
from choreo.telemetry import Telemetry
from choreo.testing import BrokerContract, MakeBroker, MakePlace, Place, StoreContract
from tests.contracts.test_sqlite import MEMORY, broker_over, place_over

TELEMETRY = Telemetry(tracer_provider=TracerProvider(), meter_provider=MeterProvider())


class TestToldBroker(BrokerContract):
    @pytest.fixture
    def make(self, tmp_path: Path) -> MakeBroker:
        inner = broker_over(tmp_path / "choreo.db")

        async def make() -> Broker:
            return TELEMETRY.broker(await inner())

        return make


class TestToldStore(StoreContract):
    @pytest.fixture
    def make(self) -> MakePlace:
        inner = place_over(MEMORY)

        async def make() -> Place:
            place = await inner()
            store = TELEMETRY.store(place.store, "choreo")
            return Place(store, TELEMETRY.broker(place.broker), place.clock)

        return make

"""The broker of the simulated deployment keeps what the port promises."""

import random

import pytest

from choreo.testing import BrokerContract, MakeBroker
from choreo.testing.simulation.broker import SimBroker
from choreo.testing.simulation.cluster import Cluster


class TestSimBroker(BrokerContract):
    @pytest.fixture(params=[1, 2])
    def make(self, request: pytest.FixtureRequest) -> MakeBroker:
        cluster = Cluster(random.Random(request.param))

        async def make() -> SimBroker:
            return SimBroker(cluster)

        return make

"""A real Kafka keeps what the port of a broker promises."""

import uuid
from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest

from choreo.adapters.kafka import KafkaBroker, KafkaSettings
from choreo.testing import BrokerContract, Faults, FaultyBroker, MakeBroker
from choreo.testing.servers import KafkaServer
from tests.contracts.retrying import RetryingBroker


def quick(server: KafkaServer, namespace: str | None = None) -> KafkaSettings:
    """Settings for tests: topics and groups of their own, members that are missed soon."""
    return KafkaSettings(
        server.bootstrap,
        namespace=namespace or f"{uuid.uuid4().hex[:8]}.",
        create_topics=True,
        session_timeout_s=6.0,
        heartbeat_s=0.1,
    )


class TestKafkaBroker(BrokerContract):
    @pytest.fixture
    def make(self, kafka_server: KafkaServer) -> MakeBroker:
        settings = quick(kafka_server)

        async def make() -> KafkaBroker:
            return KafkaBroker(settings)

        return make


FAULTS = Faults(refused=0.3, ack_lost=0, delayed=0.3, repeated=0.3, commit_lost=0, repeated_max=4)
WHOLE = 30
"""So many tests are the contract as a whole, not some that were picked."""


@pytest.fixture(scope="module")
def fired() -> Iterator[list[FaultyBroker]]:
    """All faults of the contract as a whole have fired."""
    made: list[FaultyBroker] = []
    yield made
    if len(made) >= WHOLE:
        found = sum((one.fired for one in made), Counter[tuple[str, str]]())
        verbs = ["publish", "subscribe", "read", "ensure", "poll", "commit"]
        pairs = [(fault, verb) for fault in ("refused", "delayed") for verb in verbs]
        assert not [pair for pair in (*pairs, ("repeated", "poll")) if not found[pair]]


class TestKafkaFaultyBroker(BrokerContract):
    """Once more, over a cluster that fails by a seed and a client that asks again."""

    @pytest.fixture
    def make(self, kafka_server: KafkaServer, fired: list[FaultyBroker]) -> MakeBroker:
        settings = quick(kafka_server)
        chance = Random(7)

        async def make() -> RetryingBroker:
            inner = KafkaBroker(settings)
            faulty = FaultyBroker(inner, seed=chance.getrandbits(32), faults=FAULTS)
            fired.append(faulty)
            return RetryingBroker(faulty)

        return make

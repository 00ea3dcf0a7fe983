"""A real Kafka keeps what the port of a broker promises."""

import uuid

import pytest

from choreo.adapters.kafka import KafkaBroker, KafkaSettings
from choreo.testing import BrokerContract, MakeBroker
from choreo.testing.servers import KafkaServer


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

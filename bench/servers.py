"""A Kafka and a PostgreSQL for one measurement, and choreo's parts upon them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from choreo.adapters.kafka import KafkaBroker, KafkaSettings
from choreo.adapters.postgres import PostgresStore
from choreo.adapters.system import SystemClock
from choreo.testing.servers import KafkaServer
from choreo.testing.servers.postgres import PostgresServer

__all__ = ["Cluster", "cluster"]


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the servers are. Topics and groups are in a namespace of this measurement."""

    servers: str
    database: str
    namespace: str

    def settings(self, *, session_s: float = 10.0) -> KafkaSettings:
        """Give the settings of a client that may create its topics."""
        return KafkaSettings(
            self.servers, namespace=self.namespace, create_topics=True, session_timeout_s=session_s
        )

    def parts(self) -> dict[str, Any]:
        """Give what an App takes beside its services: a broker and a store of its own."""
        return {
            "broker": KafkaBroker(self.settings()),
            "store": PostgresStore(self.database, clock=SystemClock()),
        }


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Start both; PostgreSQL writes to the disk before it answers."""
    postgres = PostgresServer.found(fsync=True)
    with KafkaServer() as kafka, postgres:
        url = postgres.database()
        try:
            yield Cluster(kafka.bootstrap, url, f"bench-{uuid.uuid4().hex[:8]}.")
        finally:
            postgres.drop(url)

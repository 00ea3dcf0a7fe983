"""A Kafka and a PostgreSQL for one measurement, and choreo's parts upon them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from choreo.adapters.kafka import KafkaBroker, KafkaSettings
from choreo.adapters.postgres import PostgresStore
from choreo.adapters.system import SystemClock
from choreo.testing.servers import KafkaServer
from choreo.testing.servers.postgres import PostgresServer

__all__ = ["Cluster", "cluster", "clusters"]


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the servers are. Topics and groups are in a namespace of this measurement."""

    servers: str
    database: str
    namespace: str

    def settings(self, **environ: str) -> KafkaSettings:
        """Give the settings of a client that may create its topics; `environ` by Kafka's names."""
        settings = KafkaSettings.from_environment(environ, self.servers)
        return replace(settings, namespace=self.namespace, create_topics=True)

    def parts(self, **environ: str) -> dict[str, Any]:
        """Give what an App takes beside its services: a broker and a store of its own."""
        return {
            "broker": KafkaBroker(self.settings(**environ)),
            "store": PostgresStore(self.database, clock=SystemClock()),
        }


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Start both; PostgreSQL writes to the disk before it answers."""
    with clusters(1) as (where,):
        yield where


@contextmanager
def clusters(count: int) -> Iterator[list[Cluster]]:
    """Start both, for several that share them, each with a database and topics of its own."""
    postgres = PostgresServer.found(fsync=True)
    with KafkaServer() as kafka, postgres:
        made = [
            Cluster(kafka.bootstrap, postgres.database(), f"bench-{uuid.uuid4().hex[:8]}.")
            for _ in range(count)
        ]
        try:
            yield made
        finally:
            for one in made:
                postgres.drop(one.database)

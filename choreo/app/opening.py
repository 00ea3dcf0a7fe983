"""The parts of a deployment, opened: what `App` is composed of, and who runs beside one."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from choreo.adapters.sqlite import Database, Log, SqliteBroker, SqliteStore
from choreo.adapters.sqlite.survey import Survey
from choreo.adapters.sqlite.survey import survey as survey_of
from choreo.adapters.system import SystemClock
from choreo.app.deployment import FILE, FOLDER, VIEWS, Deployment
from choreo.codec import Codec
from choreo.environment import codec_settings
from choreo.errors import ConfigurationError
from choreo.ports import (
    Broker,
    Clock,
    ClusterLook,
    DatabaseLook,
    SchemaRegistry,
    Store,
    ViewStore,
)

if TYPE_CHECKING:
    import faust

    from choreo.adapters.kafka import KafkaTopics

__all__ = [
    "Survey",
    "database_path",
    "deployed",
    "embedded",
    "look_at_cluster",
    "look_at_database",
    "open_broker",
    "open_codec",
    "open_faust",
    "open_registry",
    "open_topics",
    "open_views",
    "store_migrations",
    "survey",
    "system_clock",
]


def deployed(folder: str | Path | None = None, *, clock: Clock) -> tuple[Broker, Store]:
    """Make log and store, wherever the settings say that they are."""
    return Deployment.of(folder).parts(clock)


def embedded(folder: str | Path | None = None, *, clock: Clock) -> tuple[SqliteBroker, SqliteStore]:
    """Make the embedded deployment: log and store in one SQLite file."""
    log = Log(Database(database_path(folder)))
    return SqliteBroker(log), SqliteStore(log, clock=clock)


def open_broker(folder: str | Path | None = None) -> Broker:
    """Open the log alone, for those who only read it or publish."""
    return Deployment.of(folder).broker()


def system_clock() -> Clock:
    """Give the machine's clock, for those who run beside an App."""
    return SystemClock()


def open_codec(clock: Clock) -> Codec:
    """Make the codec that the environment asks for: JSON, unless CHOREO_CODEC says avro."""
    chosen = codec_settings()
    registry = None if chosen.registry is None else open_registry(chosen.registry)
    return chosen.codec(registry, elapsed=clock.elapsed)


def open_topics(servers: str | None = None) -> KafkaTopics:
    """Open the topics of the cluster that is told, or of CHOREO_BROKER's, or Kafka's own name."""
    from choreo.adapters.kafka import KafkaSettings, KafkaTopics

    named, namespace = Deployment.cluster_of(os.environ.get("CHOREO_BROKER", ""))
    settings = KafkaSettings.from_environment(os.environ, servers or named or None)
    return KafkaTopics(replace(settings, namespace=namespace))


def open_faust(work: Callable[[Broker], Awaitable[None]], group: str) -> faust.App:
    """Make a faust app on the settings' cluster: what `work` subscribes to comes by its agents.

    Raises ConfigurationError where the log is no Kafka.
    """
    from choreo.adapters.faust import faust_app
    from choreo.adapters.kafka import KafkaBroker, KafkaSettings

    servers, namespace = Deployment.cluster_of(os.environ.get("CHOREO_BROKER", ""))
    if not servers:
        raise ConfigurationError(
            "a faust worker reads Kafka, and nothing says where that is",
            code="CH1014",
            fix="set CHOREO_BROKER=kafka://host:9092",
        )
    settings = KafkaSettings.from_environment(os.environ, servers)
    broker = KafkaBroker(replace(settings, namespace=namespace))
    client = settings.client()
    return faust_app(broker, work, group=group, client=client, namespace=namespace)


async def look_at_cluster(servers: str, topics: Collection[str]) -> ClusterLook:
    """Look at a Kafka cluster, and at those of these topics that are there."""
    async with open_topics(servers) as cluster:
        return await cluster.look(topics)


async def look_at_database(url: str) -> DatabaseLook:
    """Look at a PostgreSQL database from outside: nothing is written."""
    from choreo.adapters.postgres.looking import look_at

    return await look_at(url, SystemClock().now)


def open_registry(url: str) -> SchemaRegistry:
    """Make the client of a schema registry; nothing is asked before it is used."""
    from choreo.adapters.registry import HttpRegistry

    return HttpRegistry(url)


def open_views(folder: str | Path | None = None) -> ViewStore:
    """Open the tracker's views: `views.db`, beside the log, or tables in the store's database."""
    return Deployment.of(folder).views()


def store_migrations(after: int = 0) -> str:
    """Give the SQL that makes the store's tables in PostgreSQL, for those who run their own.

    `after`: only what came after this one, `SELECT max(number) FROM choreo.version`.
    """
    from choreo.adapters.postgres import printed

    return printed(after)


def survey(folder: str | Path | None = None, *, now: float, whole: bool = True) -> Survey:
    """Look at the embedded deployment's file from outside: nothing is written.

    `whole`: read all of it for damage. Raises StoreError where it is no store.
    """
    path = database_path(folder)
    return survey_of(path, str(Path(path).with_name(VIEWS)), now=now, whole=whole)


def database_path(folder: str | Path | None = None) -> str:
    """Say where the log's file is; where the log is elsewhere, what lies beside it: `.choreo/`."""
    deployment = Deployment.of(folder)
    return deployment.log or deployment.own or str(Path(FOLDER) / FILE)

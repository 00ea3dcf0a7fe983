"""Which broker and store: what settings name becomes adapters, each imported where it is used."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from choreo.adapters.sqlite import Database, Log, SqliteBroker, SqliteStore
from choreo.adapters.sqlite.views import SqliteViewStore
from choreo.errors import ConfigurationError
from choreo.ports import Broker, Clock, Store, ViewStore

__all__ = ["FILE", "FOLDER", "MEMORY", "VIEWS", "Deployment"]

FOLDER = ".choreo"
FILE = "choreo.db"
VIEWS = "views.db"
MEMORY = ":memory:"
SQLITE = "sqlite:///"
KAFKA = "kafka://"
POSTGRES = ("postgresql://", "postgres://")
NAME = re.compile("[A-Za-z0-9._-]{1,100}")


@dataclass(frozen=True, slots=True)
class Deployment:
    """Where the log and the store are, as the settings say.

    `log` and `own` are the SQLite files of each, None where it is elsewhere; `servers` are
    Kafka's, and `namespace` begins the names there; `database` is PostgreSQL's URL, which may
    hold a password.
    """

    log: str | None = None
    own: str | None = None
    servers: str | None = None
    database: str | None = field(default=None, repr=False)
    namespace: str = ""

    @classmethod
    def of(cls, folder: str | Path | None = None) -> Deployment:
        """Go by the folder, else by CHOREO_BROKER and CHOREO_STORE, else by the default.

        `kafka://` without hosts takes those of KAFKA_BOOTSTRAP_SERVERS; beside Kafka, and for
        `postgresql://` without a host, DATABASE_URL says where the store is.
        """
        if folder is not None:
            path = MEMORY if str(folder) == MEMORY else str(Path(folder) / FILE)
            return cls(log=path, own=path)
        broker, store = (os.environ.get(name, "") for name in ("CHOREO_BROKER", "CHOREO_STORE"))
        log = servers = own = database = None
        namespace = ""
        if broker.startswith(KAFKA):
            servers, namespace = cls.cluster_of(broker)
            if "@" in servers:  # who we are is said elsewhere, and not shown
                fix = "name hosts alone; KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD say who"
                raise _wrong("CHOREO_BROKER", broker, fix)
            if not servers:
                raise _wrong("CHOREO_BROKER", broker, f"name the servers: {KAFKA}host:9092")
            store = store or _database_url()
        else:
            log = _file("CHOREO_BROKER", broker) if broker else str(Path(FOLDER) / FILE)
        if store.startswith(POSTGRES):
            database = store if store not in POSTGRES else _database_url()
        else:
            own = _file("CHOREO_STORE", store) if store else log
        if own is None and not database:
            raise ConfigurationError(
                "Kafka is a log, and nothing says where the services' store is",
                code="CH1014",
                fix="set CHOREO_STORE=postgresql://user@host/name",
            )
        return cls(log, own, servers, database, namespace)

    @staticmethod
    def cluster_of(broker: str) -> tuple[str, str]:
        """Give hosts and namespace of a `kafka://hosts/name` URL, nothing of any other.

        Without hosts they are those of KAFKA_BOOTSTRAP_SERVERS. With a name, `name.` begins all
        topics and groups. Raises ConfigurationError for a name that no topic can have.
        """
        if not broker.startswith(KAFKA):
            return "", ""
        servers, _, path = broker.removeprefix(KAFKA).partition("/")
        name = path.strip("/")
        if name and not NAME.fullmatch(name):
            fix = f"name the namespace in letters, digits, '.', '_', '-': {KAFKA}host:9092/staging"
            raise _wrong("CHOREO_BROKER", broker, fix)
        return servers or _also("KAFKA_BOOTSTRAP_SERVERS"), f"{name}." if name else ""

    @property
    def embedded(self) -> bool:
        """Tell whether log and store are one file."""
        return self.log is not None and self.log == self.own

    def __str__(self) -> str:
        """Name the log, without anything secret."""
        return self.log or f"{KAFKA}{self.servers}/{self.namespace[:-1]}".rstrip("/")

    def broker(self) -> Broker:
        """Open the log."""
        if self.log is not None:
            return SqliteBroker(Log(Database(self.log)))
        from choreo.adapters.kafka import KafkaBroker, KafkaSettings

        settings = KafkaSettings.from_environment(os.environ, self.servers)
        return KafkaBroker(replace(settings, namespace=self.namespace))

    def parts(self, clock: Clock) -> tuple[Broker, Store]:
        """Make the log and the store."""
        if self.log is not None and self.embedded:
            log = Log(Database(self.log))
            return SqliteBroker(log), SqliteStore(log, clock=clock)
        if self.own is not None:
            own = Log(Database(self.own))
            return self.broker(), SqliteStore(own, clock=clock, publishes=False)
        from choreo.adapters.postgres import PostgresStore

        return self.broker(), PostgresStore(self.database or "", clock=clock)

    def views(self) -> ViewStore:
        """Open the tracker's views: beside the store where that is PostgreSQL, else a file."""
        if self.database is not None:
            from choreo.adapters.postgres.views import PostgresViewStore

            return PostgresViewStore(self.database)
        beside = self.log or self.own or ""
        return SqliteViewStore(MEMORY if beside == MEMORY else str(Path(beside).with_name(VIEWS)))


def _also(variable: str) -> str:
    return os.environ.get(variable, "")


def _database_url() -> str:
    """Give DATABASE_URL, if that is PostgreSQL's."""
    url = _also("DATABASE_URL")
    return url if url.startswith(POSTGRES) else ""


def _file(variable: str, url: str) -> str:
    path = url.removeprefix(SQLITE)
    if path == url or not path:
        fix = {
            "CHOREO_BROKER": f"use {SQLITE}path/{FILE} or {KAFKA}host:9092",
            "CHOREO_STORE": f"use postgresql://user@host/name, or {SQLITE}path/store.db",
        }[variable]
        raise _wrong(variable, url, fix)
    return path


def _wrong(variable: str, url: str, fix: str) -> ConfigurationError:
    scheme = url.partition("://")[0] if "://" in url else url  # the rest may hold a password
    return ConfigurationError(
        f"{variable}: {scheme!r} is no deployment as this version has them",
        code="CH1014",
        fix=fix,
    )

"""Where a shop may run: one file, two files, a Kafka and a PostgreSQL. A test looks into each
of them behind everybody's back, with the same words.
"""

import asyncio
import sqlite3
import threading
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from choreo import Service
from choreo.adapters.kafka import KafkaBroker, KafkaSettings, KafkaTopics
from choreo.adapters.kafka.names import record_of
from choreo.adapters.postgres import PostgresStore
from choreo.app import Deployment
from choreo.codec import headers_from_text
from choreo.events import Record
from choreo.ports import Broker, Clock, Store
from choreo.topology import manifest, topics_of
from tests.services.watched import Watched

T = TypeVar("T")
Rows = list[tuple[Any, ...]]
PARTITIONS = 2
LOCKED_S = 10.0
READ_MS = 50


Places = Callable[[str], "Place"]
"""Makes one in a folder of this name."""
everywhere = pytest.mark.parametrize(
    "places",
    ["one file", "two files", pytest.param("servers", marks=pytest.mark.timeout(180))],
    indirect=True,
)
"""A test that runs on every deployment: `places`, `place` and `shop` are of each in turn."""


class Place(Protocol):
    """A deployment that nothing was ordered in: settings that name it, and eyes for a test."""

    folder: Path
    """What the shop keeps beside log and store, and the provider its books."""
    order: str
    """The column that tells in which order rows were written."""

    @property
    def settings(self) -> Mapping[str, str]:
        """What the environment of every process says."""
        ...

    def parts(self, clock: Clock) -> tuple[Broker, Store]:
        """Make log and store for an App in this process."""
        ...

    def history(self) -> Sequence[Record]:
        """Give all records, in the order in which they were written."""
        ...

    def position(self) -> int:
        """Give how far the log has come: it grows with every record."""
        ...

    def count(self, *kinds: str) -> int:
        """Count the keys with an event of one of these classes."""
        ...

    def rows(self, sql: str, *values: object) -> Rows:
        """Read the store."""
        ...

    def tables(self) -> Sequence[str]:
        """Name the tables of the store."""
        ...

    def write(self, sql: str) -> None:
        """Change the store."""
        ...

    def close(self) -> None:
        """Look no more."""
        ...


class Files:
    """The log in a file; the store in the same one, or `beside` it in one of its own."""

    order = "rowid"

    def __init__(self, folder: Path, *, beside: bool = False) -> None:
        """Nothing is there yet."""
        self.folder = folder
        self._log = folder / "choreo.db"
        self._store = folder / "store.db" if beside else self._log

    @property
    def settings(self) -> Mapping[str, str]:
        """Name the files."""
        return {
            "CHOREO_BROKER": f"sqlite:///{self._log}",
            "CHOREO_STORE": f"sqlite:///{self._store}",
        }

    def parts(self, clock: Clock) -> tuple[Broker, Store]:
        """Open the files."""
        return Deployment(log=str(self._log), own=str(self._store)).parts(clock)

    def history(self) -> list[Record]:
        """Read the log's table."""
        rows = self._read(
            self._log,
            "SELECT name, key, headers, value, partition, position "
            "FROM log JOIN topic ON topic.id = log.topic ORDER BY position",
        )
        return [
            Record(topic, key, headers_from_text(headers), *rest)
            for topic, key, headers, *rest in rows
        ]

    def position(self) -> int:
        """Give the last position."""
        ((position,),) = self._read(self._log, "SELECT coalesce(max(position), 0) FROM log")
        return int(position)

    def count(self, *kinds: str) -> int:
        """Look for the type in the headers' text."""
        named = " OR ".join(f"headers LIKE '%.{kind}\"%'" for kind in kinds)
        sql = f"SELECT count(DISTINCT key) FROM log WHERE {named}"
        ((count,),) = self._read(self._log, sql)
        return int(count)

    def rows(self, sql: str, *values: object) -> Rows:
        """Read the store's file."""
        return self._read(self._store, sql, *values)

    def tables(self) -> list[str]:
        """Name the tables of the store's file."""
        return [
            name for (name,) in self.rows("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]

    def write(self, sql: str) -> None:
        """Change the store's file."""
        with closing(sqlite3.connect(self._store, timeout=LOCKED_S)) as db, db:
            db.execute(sql)

    def close(self) -> None:
        """Nothing is kept open."""

    @staticmethod
    def _read(file: Path, sql: str, *values: object) -> Rows:
        with closing(sqlite3.connect(file, timeout=LOCKED_S)) as db:
            return db.execute(sql, values).fetchall()


class Servers:
    """A Kafka and a PostgreSQL, looked at from a thread: who asks may have a loop that runs."""

    order = "ctid"  # the place on the page: nothing is deleted here, so it only grows

    def __init__(
        self, folder: Path, kafka: str, database: str, services: Sequence[Service]
    ) -> None:
        """Make the services' topics, under a name that nobody else uses."""
        self.folder = folder
        self._database = database
        self._kafka = kafka
        self._name = f"s{uuid.uuid4().hex[:8]}"
        self._consumer: AIOKafkaConsumer | None = None
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._found: list[tuple[int, Record]] = []  # with the time at which it was written
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tests-look")
        self._thread.start()
        self._wait(self._make(services))

    @property
    def settings(self) -> Mapping[str, str]:
        """Name the servers."""
        return {
            "CHOREO_BROKER": f"kafka://{self._kafka}/{self._name}",
            "CHOREO_STORE": self._database,
        }

    def parts(self, clock: Clock) -> tuple[Broker, Store]:
        """Make clients of the servers."""
        broker = KafkaBroker(KafkaSettings(self._kafka, namespace=f"{self._name}."))
        return cast("Broker", Watched(broker)), PostgresStore(self._database, clock=clock)

    def history(self) -> list[Record]:
        """Read all partitions, from where it was last read, to their ends."""
        self._wait(self._read_on())
        return [record for _, record in sorted(self._found, key=lambda one: one[0])]

    def position(self) -> int:
        """Count the records."""
        return len(self.history())

    def count(self, *kinds: str) -> int:
        """Count the keys of records of these types."""
        return len({one.key for one in self.history() if _kind(one) in kinds})

    def rows(self, sql: str, *values: object) -> Rows:
        """Ask the database."""
        return self._wait(self._ask(sql, *values))

    def tables(self) -> list[str]:
        """Name what is in the services' schema."""
        found = self.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return [name for (name,) in found]

    def write(self, sql: str) -> None:
        """Change the database."""
        self._wait(self._ask(sql))

    def close(self) -> None:
        """Hang up, and end the thread."""
        self._wait(self._hang_up())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # ── in the thread ────────────────────────────────────────────────────────────────────

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _make(self, services: Sequence[Service]) -> None:
        manifests = {service.name: manifest(service) for service in services}
        wanted = topics_of(manifests, partitions=PARTITIONS, retention_s=None, given={})
        settings = KafkaSettings(self._kafka, namespace=f"{self._name}.")
        async with KafkaTopics(settings) as topics:
            await topics.create(wanted)
        self._topics = {f"{settings.namespace}{one.name}": one.name for one in wanted}

    async def _read_on(self) -> None:
        if self._consumer is None:
            self._consumer = AIOKafkaConsumer(
                bootstrap_servers=self._kafka,
                auto_offset_reset="earliest",
                fetch_max_wait_ms=READ_MS,  # a question waits behind it
            )
            await self._consumer.start()
            self._consumer.assign(
                [TopicPartition(topic, n) for topic in self._topics for n in range(PARTITIONS)]
            )
        reader = self._consumer
        ends = await reader.end_offsets(reader.assignment())
        while any([await reader.position(place) < end for place, end in ends.items()]):
            for place, found in (await reader.getmany(timeout_ms=READ_MS)).items():
                name = self._topics[place.topic]
                self._found += ((one.timestamp, record_of(one, name)) for one in found)

    async def _ask(self, sql: str, *values: object) -> Rows:
        if self._connection is None:
            self._connection = await asyncpg.connect(self._database)
        return [tuple(row) for row in await self._connection.fetch(sql, *values)]

    async def _hang_up(self) -> None:
        if self._consumer is not None:
            await self._consumer.stop()
        if self._connection is not None:
            await self._connection.close()


def _kind(record: Record) -> str:
    return record.headers.get("ce_type", "").rsplit(".", 1)[-1]

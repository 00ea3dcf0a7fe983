"""The tracker on Kafka and PostgreSQL: how fast it takes in what it has not read."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition

from bench.figure import Figure
from bench.flows import Chain, interleaved
from bench.process import started
from choreo.adapters.kafka import KafkaBroker, KafkaSettings
from choreo.adapters.postgres.views import PostgresViewStore
from choreo.events import MANIFESTS_TOPIC, STEPS_TOPIC, Record
from choreo.ports import Topic
from choreo.testing.servers import KafkaServer
from choreo.testing.servers.postgres import PostgresServer

__all__ = ["kafka_tracker", "kafka_tracker_faust"]

FLOWS = 20_000
FEWER = 5_000
LONG = Chain("order", 10)
TOGETHER = 5000
LOOK_S = 0.02

Ended = Callable[[], int | None]
"""Gives an exit code once a tracker has ended by itself."""


def kafka_tracker(flows: int = FLOWS) -> list[Figure]:
    """Events a second that tracker processes take from a log that nobody has read yet.

    Flows of ten events, 256 of them at a time side by side, on ten topics; views in PostgreSQL.
    The baseline is a bare consumer of the same records: `getmany`, and nothing else. That of two
    processes is what one of them does alone.
    """
    postgres = PostgresServer.found(fsync=True)
    with KafkaServer() as server:
        postgres.start()
        try:
            written = asyncio.run(_write(server.bootstrap, flows))
            bare = written / asyncio.run(_bare(server.bootstrap, written))
            one, two = (
                written / _caught_up(server.bootstrap, postgres.database(), count)
                for count in (1, 2)
            )
        finally:
            postgres.close()
    return [
        Figure("kafka_tracker", one, "events/s", bare,
               f"{written:,} events into PostgreSQL; bare getmany read {bare:,.0f} a second"),
        Figure("kafka_tracker2", two, "events/s", one, "two processes; baseline: one"),
    ]  # fmt: skip


def kafka_tracker_faust(flows: int = FEWER) -> list[Figure]:
    """Events a second that a faust worker takes while they come, faster than it can.

    What lies there when a worker begins it reads as any tracker does, so that is no figure of
    its own. The baseline is a plain tracker, of which the same is asked.
    """
    postgres = PostgresServer.found(fsync=True)
    with KafkaServer() as server:
        postgres.start()
        try:
            plain, faust = (
                _while_they_come(tracker, server.bootstrap, postgres.database(), flows)
                for tracker in (_plain, _faust)
            )
        finally:
            postgres.close()
    return [
        Figure("kafka_tracker_faust", faust, "events/s", plain,
               f"{flows * LONG.events:,} events, as they come; baseline: a plain tracker"),
    ]  # fmt: skip


def _while_they_come(
    tracker: Callable[[str, str], AbstractContextManager[Ended]],
    servers: str,
    place: str,
    flows: int,
) -> float:
    """Start a tracker, then write events; give how many it takes a second."""
    asyncio.run(_write(servers, 0))
    with tracker(servers, place) as ended:
        asyncio.run(_all_read(servers, place, ended))
        begun = time.perf_counter()
        written = asyncio.run(_write(servers, flows))
        asyncio.run(_all_read(servers, place, ended))
        return written / (time.perf_counter() - begun)


@contextmanager
def _plain(servers: str, place: str) -> Iterator[Ended]:
    with started("bench.kafka_tracker_process", servers, place) as tracker:
        tracker.heard()
        tracker.told("begin")
        yield lambda: None


@contextmanager
def _faust(servers: str, place: str) -> Iterator[Ended]:
    words = ("faust", "-A", "choreo.faust", "worker", "--without-web", "-l", "error")
    settings = {"CHOREO_BROKER": f"kafka://{servers}", "CHOREO_STORE": place}
    with (
        tempfile.TemporaryDirectory() as home,
        subprocess.Popen(
            [sys.executable, "-m", *words], cwd=home, env={**os.environ, **settings},
            stdout=subprocess.DEVNULL,
        ) as worker,
    ):  # fmt: skip
        try:
            yield worker.poll
        finally:
            worker.terminate()


def _caught_up(servers: str, place: str, count: int) -> float:
    """Let so many processes read all there is into empty views; give the seconds."""
    with ExitStack() as stack:
        trackers = [
            stack.enter_context(started("bench.kafka_tracker_process", servers, place))
            for _ in range(count)
        ]
        for tracker in trackers:
            tracker.heard()
        begun = time.perf_counter()
        for tracker in trackers:
            tracker.told("begin")
        asyncio.run(_all_read(servers, place))
        took = time.perf_counter() - begun
        for tracker in trackers:
            tracker.told("end")
            tracker.heard()
    return took


async def _all_read(servers: str, place: str, ended: Ended = lambda: None) -> None:
    """Wait until the views have been told of all that lies on the log."""
    broker, views = KafkaBroker(KafkaSettings(servers)), PostgresViewStore(place)
    ends = await broker.ends(None)
    while True:
        marks = (await views.position()).marks
        if all(marks.get(partition, 0) >= end for partition, end in ends.items()):
            break
        assert ended() is None, "the tracker has ended"
        await asyncio.sleep(LOOK_S)
    await views.close()
    await broker.close()


async def _write(servers: str, flows: int) -> int:
    broker = KafkaBroker(KafkaSettings(servers, create_topics=True))
    names = [*(LONG.topic(n) for n in range(LONG.events)), STEPS_TOPIC, MANIFESTS_TOPIC]
    await broker.ensure([Topic(name) for name in names])
    await broker.publish(LONG.manifests())
    waiting: list[Record] = []
    written = 0
    for record in interleaved(LONG, flows):
        waiting.append(record)
        if len(waiting) == TOGETHER:
            await broker.publish(waiting)
            written += len(waiting)
            waiting = []
    await broker.publish(waiting)
    await broker.close()
    return written + len(waiting)


async def _bare(servers: str, records: int) -> float:
    """Read them all with the client alone; give the seconds."""
    consumer = AIOKafkaConsumer(bootstrap_servers=servers, auto_offset_reset="earliest")
    await consumer.start()
    places = [
        TopicPartition(LONG.topic(n), number) for n in range(LONG.events) for number in range(4)
    ]
    consumer.assign(places)
    await consumer.seek_to_beginning(*places)
    begun, read = time.perf_counter(), 0
    while read < records:
        found = await consumer.getmany(timeout_ms=1000, max_records=3000)
        read += sum(len(batch) for batch in found.values())
    took = time.perf_counter() - begun
    await consumer.stop()
    return took

"""The tracker as a faust worker, on a real Kafka and a real PostgreSQL.

Several share the load, and what is in the views is what a plain tracker makes of the log:
whoever was killed, and whatever bytes came.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from choreo.adapters.kafka import KafkaBroker, KafkaSettings
from choreo.adapters.postgres.views import PostgresViewStore
from choreo.app import system_clock
from choreo.events import MANIFESTS_TOPIC, STEPS_TOPIC, Record
from choreo.ports import Broker, FlowFilter, FlowSummary, Topic, ViewStore
from choreo.testing.servers import KafkaServer
from choreo.tracker import SharedTracker
from tests.faust.workers import Workers, holders, module_of_page, workers_of
from tests.postgres.database import database, server
from tests.processes.test_trackers import flow_of
from tests.unit.test_tracker_shared import Quick, manifests

TOPICS = ["t.orders", "t.stock", "t.pay", "t.mail", "t.ship", STEPS_TOPIC, MANIFESTS_TOPIC]
FLOWS = 400
LOOK_S = 0.1
WITHIN_S = 60.0

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def kafka_alone() -> Iterator[KafkaServer]:
    """A cluster for these tests: a worker reads all that is there."""
    with KafkaServer() as server:
        yield server


@pytest.fixture
async def broker(kafka_alone: KafkaServer) -> AsyncIterator[Broker]:
    broker = KafkaBroker(KafkaSettings(kafka_alone.bootstrap, create_topics=True))
    await broker.ensure([Topic(name) for name in TOPICS])
    await broker.publish(manifests())
    yield broker
    await broker.close()


@pytest.fixture
def workers(kafka_alone: KafkaServer, tmp_path: Path) -> Iterator[Workers]:
    with database() as url, workers_of(tmp_path, kafka_alone.bootstrap, url) as found:
        yield found


@pytest.fixture
async def views(workers: Workers) -> AsyncIterator[ViewStore]:
    views = PostgresViewStore(workers.settings["CHOREO_STORE"])
    yield views
    await views.close()


async def rows(views: ViewStore) -> dict[str, FlowSummary]:
    return {row.flow: row for row in await views.flows(FlowFilter())}


async def until(workers: Workers, true: Callable[[], Awaitable[object]]) -> None:
    clock = system_clock()
    for _ in range(int(WITHIN_S / LOOK_S)):
        if await true():
            return
        await clock.sleep(LOOK_S)
    raise AssertionError(f"it did not come true\n{workers.said()}")


@pytest.fixture
async def alone() -> AsyncIterator[ViewStore]:
    """Other views, for a plain tracker: of PostgreSQL too, which takes no NUL."""
    views = PostgresViewStore(await asyncio.to_thread(server().database))
    yield views
    await views.close()


async def same(broker: Broker, workers: Workers, views: ViewStore, alone: ViewStore) -> None:
    """Wait until the views have all of the log, and compare them with a plain tracker's."""
    ends = {place: end for place, end in (await broker.ends(None)).items() if end}

    async def all_read() -> bool:
        return (await views.position()).marks == ends

    await until(workers, all_read)
    await SharedTracker(broker, alone, Quick()).catch_up()
    wanted = await rows(alone)
    assert await rows(views) == wanted
    for flow in wanted:
        assert sorted(await views.facts(flow)) == sorted(await alone.facts(flow))


# ── one ──────────────────────────────────────────────────────────────────────────────────

POISON: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]] = [
    (None, b"", []),
    (b"k", None, []),
    (b"\xff", b"\xff\xfe", [("ce_id", b"\xff\xfe"), ("ce_correlationid", b"caf\xe9\x00")]),
    (b"k", b"{", [("ce_id", b"1"), ("ce_id", b"2"), ("ce_correlationid", b"twice")]),
    (b"k", b"{}", [("ce_id", None), ("ce_correlationid", b"nothing"), ("ce_time", b"soon")]),
    (b"k", b"[" * 5000, [("content-type", b"application/cloudevents+json")]),
    (b"k", b"\x00" * 100_000, [("ce_correlationid", b"large"), ("choreo-attempt", b"-1e9")]),
]


async def poison(servers: str, topics: list[str]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=servers)
    await producer.start()
    for topic in topics:
        for key, value, headers in POISON:
            await producer.send_and_wait(topic, value, key=key, headers=headers)
    await producer.stop()


async def test_it_makes_of_the_log_what_a_plain_tracker_does(
    kafka_alone: KafkaServer,
    broker: Broker,
    workers: Workers,
    views: ViewStore,
    alone: ViewStore,
) -> None:
    """Of what lay there, of what comes, of bytes that are nothing, of a topic that is new."""
    await broker.publish([one for number in range(FLOWS // 2) for one in flow_of(number)])
    worker = workers.start()

    async def begun() -> bool:
        return await holders(kafka_alone.bootstrap) == 1 and bool(await rows(views))

    await until(workers, begun)
    await poison(kafka_alone.bootstrap, ["t.orders", STEPS_TOPIC, MANIFESTS_TOPIC])
    await broker.publish([one for n in range(FLOWS // 2, FLOWS) for one in flow_of(n)])
    await same(broker, workers, views, alone)
    await broker.ensure([Topic("t.late")])
    await broker.publish([Record("t.late", b"k", {"ce_correlationid": "late"}, b"") for _ in "ab"])
    await same(broker, workers, views, alone)
    assert {"late", "nothing", "large"} <= (await rows(views)).keys()
    assert worker.poll() is None
    worker.terminate()
    assert worker.wait(WITHIN_S) == 0


async def test_what_waiting_does_not_mend_ends_the_worker(
    broker: Broker, workers: Workers, views: ViewStore
) -> None:
    """The library would go on, and acknowledge what nobody has written."""
    await views.position()
    newer = "UPDATE choreo.view_state SET version = 99"
    await asyncio.to_thread(server().run, newer, url=workers.settings["CHOREO_STORE"])
    worker = workers.start()

    async def ended() -> bool:
        return worker.poll() is not None

    await until(workers, ended)
    assert worker.returncode != 0
    # In all that it has said: how much the library says while it stops differs.
    assert "CH4005" in workers.log(0).read_text(errors="replace"), workers.said()


# ── several ──────────────────────────────────────────────────────────────────────────────


async def test_one_that_is_killed_loses_and_double_counts_nothing(
    kafka_alone: KafkaServer,
    broker: Broker,
    workers: Workers,
    views: ViewStore,
    alone: ViewStore,
) -> None:
    """While records come; another is there, and one of a user's own module comes in its place."""
    (workers.folder / "mine.py").write_text(module_of_page())
    first, second = workers.start(), workers.start()

    async def shared() -> bool:
        return await holders(kafka_alone.bootstrap) == 2

    await until(workers, shared)
    for number in range(0, FLOWS, 10):
        await broker.publish([one for n in range(number, number + 10) for one in flow_of(n)])
        if number == FLOWS // 2:
            first.kill()
            workers.start("mine")
    await same(broker, workers, views, alone)
    facts = [fact for flow in await rows(views) for fact in await views.facts(flow)]
    assert len(facts) == len(set(facts))
    await until(workers, shared)
    await broker.publish([one for n in range(FLOWS, FLOWS + 50) for one in flow_of(n)])
    await same(broker, workers, views, alone)
    assert second.poll() is None

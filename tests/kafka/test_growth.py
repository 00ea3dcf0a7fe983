"""Partitions are added while flows run: nothing is lost, and the order of a key begins anew."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from choreo import App, Service
from choreo.adapters.kafka import KafkaBroker, KafkaSettings, KafkaTopics
from choreo.adapters.postgres import PostgresStore
from choreo.app import system_clock
from choreo.audit import gather, judge
from choreo.ports import Topic
from choreo.testing.servers import KafkaServer
from choreo.topology import manifest, steps_of, topics_of
from tests.kafka.settings import member
from tests.kafka.test_app import nothing
from tests.postgres.database import database
from tests.semantics.events import Paid, Placed, Sent

BEFORE, AFTER = 2, 5
KEYS = 8
AT_LEAST = 40
WITHIN_S = 60.0
TOPICS = {"desk.placed", "desk.paid", "desk.sent"}


@pytest.fixture
def url() -> Iterator[str]:
    with database() as url:
        yield url


def desk(taken: dict[str, list[int]]) -> Service:
    service = Service("desk")

    @service.on(Placed)
    async def pay(placed: Placed) -> Paid:
        taken[placed.k].append(placed.n)
        return Paid(k=placed.k, n=placed.n)

    @service.on(Paid)
    async def send(paid: Paid) -> Sent:
        return Sent(k=paid.k, n=paid.n)

    service.flow("order", starts=Placed, ends=Sent)
    return service


class Feed:
    """Publishes flows, one number after the other for each key."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.flows: list[str] = []

    async def some(self) -> None:
        """Publish the next number of each key."""
        n = len(self.flows) // KEYS
        self.flows += await asyncio.gather(
            *(self.app.publish(Placed(k=f"k{k}", n=n), id=f"{k}/{n}") for k in range(KEYS))
        )


def topics(service: Service, partitions: int) -> tuple[Topic, ...]:
    manifests = {service.name: manifest(service)}
    return topics_of(manifests, partitions=partitions, retention_s=None, given={})


async def grow(settings: KafkaSettings, service: Service) -> list[str]:
    """Plan for more partitions, and add them; give the plan's warnings."""
    async with KafkaTopics(settings) as cluster:
        wanted = topics_of(
            {service.name: manifest(service)}, partitions=AFTER, retention_s=None, given={}
        )
        steps = steps_of(wanted, await cluster.partitions())
        assert {step.topic.name for step in steps if step.act == "grow"} >= TOPICS
        await cluster.grow([step.topic for step in steps if step.act == "grow"])
        return [step.warning for step in steps if step.topic.name in TOPICS]


async def used(broker: KafkaBroker) -> set[str]:
    """Name the topics that have records in partitions that were added."""
    ends = await broker.ends(sorted(TOPICS))
    return {place.topic for place, end in ends.items() if end and place.number >= BEFORE}


async def test_partitions_that_are_added_are_found_by_who_writes_and_by_who_reads(
    kafka_server: KafkaServer, url: str, tmp_path: Path
) -> None:
    settings = replace(member(kafka_server.bootstrap), metadata_age_s=1.0)
    taken: dict[str, list[int]] = defaultdict(list)
    service = desk(taken)
    async with KafkaTopics(settings) as cluster:
        await cluster.create(
            topics_of({"desk": manifest(service)}, partitions=BEFORE, retention_s=None, given={})
        )
    broker, store = KafkaBroker(settings), PostgresStore(url, clock=system_clock())
    async with App(service, broker=broker, store=store) as app, asyncio.timeout(WITHIN_S):
        feed = Feed(app)
        while len(feed.flows) < AT_LEAST:
            await feed.some()
        warnings = await grow(settings, service)
        assert all("another partition" in warning for warning in warnings)
        while await used(broker) != TOPICS:
            await feed.some()
        for _ in range(AT_LEAST // KEYS):
            await feed.some()
        ends = await asyncio.gather(*(app.outcome(one, within_s=WITHIN_S) for one in feed.flows))
    numbers = range(len(feed.flows) // KEYS)
    assert sorted((end.k, end.n) for end in ends if isinstance(end, Sent)) == sorted(
        (f"k{k}", n) for k in range(KEYS) for n in numbers
    )
    await judged(settings, url, tmp_path, taken)


async def judged(
    settings: KafkaSettings, url: str, folder: Path, taken: dict[str, list[int]]
) -> None:
    """Audit it; each key is in its order before the growth, and after it."""
    broker, store = KafkaBroker(settings), PostgresStore(url, clock=system_clock())
    evidence = await gather(broker, [store], rows=nothing, folder=folder)
    await store.close()
    await broker.close()
    report = judge(evidence)
    assert list(report.violations) == []
    assert {"once", "order", "taken", "offsets", "published", "sent"} <= {*report.judged}
    lies: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for record in evidence.history:
        if record.topic == "desk.placed":
            placed = Placed.model_validate_json(record.value)
            lies[placed.k][record.partition].append(placed.n)
    for key, parts in lies.items():
        assert sorted(n for part in parts.values() for n in part) == sorted(taken[key])
        for part in parts.values():
            assert [n for n in taken[key] if n in part] == part
    assert any(len(parts) > 1 for parts in lies.values()), "no key has moved"

"""An App on a real Kafka and a real PostgreSQL: the same services, another deployment."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from choreo import App, Service, Tx
from choreo.adapters.kafka import KafkaBroker
from choreo.adapters.postgres import PostgresStore
from choreo.app import system_clock
from choreo.audit import gather, judge
from choreo.ports import Row
from choreo.testing.servers import KafkaServer
from tests.kafka.settings import member
from tests.postgres.database import database
from tests.semantics.events import Paid, Placed, Sent

FLOWS = 40
KEYS = 4


@pytest.fixture
def url() -> Iterator[str]:
    with database() as url:
        yield url


def nothing(sql: str, *values: object) -> list[Row]:
    raise AssertionError(sql)


def desk(sold: dict[str, list[int]]) -> Service:
    service = Service("desk")

    @service.on(Placed)
    async def pay(placed: Placed) -> Paid:
        return Paid(k=placed.k, n=placed.n)

    @service.on(Paid)
    async def send(paid: Paid, tx: Tx) -> Sent:
        await tx.execute("INSERT INTO desk_sold VALUES ($1)", paid.n)
        sold.setdefault(paid.k, []).append(paid.n)
        return Sent(k=paid.k, n=paid.n)

    service.flow("order", starts=Placed, ends=Sent)
    return service


async def sold_rows(store: PostgresStore) -> list[Any]:
    async with store.transaction() as tx:
        return [row["n"] for row in await tx.fetch("SELECT n FROM desk_sold ORDER BY n")]


async def test_flows_come_to_their_ends_and_the_audit_agrees(
    kafka_server: KafkaServer, url: str, tmp_path: Path
) -> None:
    settings = member(kafka_server.bootstrap)
    sold: dict[str, list[int]] = {}
    clock = system_clock()
    broker, store = KafkaBroker(settings), PostgresStore(url, clock=clock)
    async with store.transaction() as tx:
        await tx.execute("CREATE TABLE desk_sold (n INTEGER UNIQUE)")
    async with App(desk(sold), broker=broker, store=store) as app:
        flows = [await app.publish(Placed(k=f"k{n % KEYS}", n=n), id=str(n)) for n in range(FLOWS)]
        ends = await asyncio.gather(*(app.outcome(flow, within_s=30) for flow in flows))
        assert [end.n for end in ends if isinstance(end, Sent)] == list(range(FLOWS))
        assert await sold_rows(store) == list(range(FLOWS))
    for key in range(KEYS):
        assert sold[f"k{key}"] == list(range(key, FLOWS, KEYS))

    broker, store = KafkaBroker(settings), PostgresStore(url, clock=clock)
    evidence = await gather(broker, [store], rows=nothing, folder=tmp_path)
    await store.close()
    await broker.close()
    assert evidence.positions is not None
    assert {group for group, _ in evidence.positions} == {"desk"}
    assert sum(evidence.positions.values()) >= 2 * FLOWS  # of what is placed and paid
    report = judge(evidence)
    assert list(report.violations) == []
    assert {"once", "order", "taken", "offsets", "published", "sent"} <= set(report.judged)

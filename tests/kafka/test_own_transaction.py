"""A front end publishes with its own rows: on Kafka once they are committed, else never."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from choreo import App, Service, Tx
from choreo.adapters.kafka import KafkaBroker, KafkaSettings
from choreo.adapters.postgres import PostgresStore
from choreo.app import system_clock
from choreo.testing.servers import KafkaServer
from tests.kafka.settings import member
from tests.postgres.database import database
from tests.semantics.events import Placed, Sent

WITHIN_S = 20
FLOWS = 20


@pytest.fixture
def url() -> Iterator[str]:
    with database() as url:
        yield url


def service(name: str, sent: list[int]) -> Service:
    made = Service(name)

    @made.on(Placed)
    async def send(placed: Placed, tx: Tx) -> Sent:
        await tx.execute("INSERT INTO desk_sold VALUES ($1)", placed.n)
        sent.append(placed.n)
        return Sent(k=placed.k, n=placed.n)

    made.flow("order", starts=Placed, ends=Sent)
    return made


@asynccontextmanager
async def running(settings: KafkaSettings, url: str, *services: Service) -> AsyncIterator[App]:
    broker, store = KafkaBroker(settings), PostgresStore(url, clock=system_clock())
    async with App(*services, broker=broker, store=store) as app:
        yield app


@asynccontextmanager
async def shop(url: str) -> AsyncIterator[Any]:
    """Have a connection of a front end's own, with tables for it and for the service."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            "CREATE TABLE public.baskets (n INTEGER); CREATE TABLE public.desk_sold (n INTEGER)"
        )
        yield connection
    finally:
        await connection.close()


async def test_a_front_end_publishes_with_its_rows(kafka_server: KafkaServer, url: str) -> None:
    """In a process without services; what is rolled back is heard of by nobody."""
    settings, sent = member(kafka_server.bootstrap), list[int]()
    async with (
        shop(url) as connection,
        running(settings, url) as front,
        running(settings, url, service("desk", sent)) as app,
    ):
        flows = []
        for n in range(FLOWS):
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute("INSERT INTO public.baskets VALUES ($1)", n)
            flow = await front.publish(Placed(k="k", n=n), tx=connection)
            if n % 2:
                await transaction.rollback()
            else:
                await transaction.commit()
                flows.append(flow)
        ends = await asyncio.gather(*(app.outcome(one, within_s=WITHIN_S) for one in flows))
        assert [end.n for end in ends if isinstance(end, Sent)] == [*range(0, FLOWS, 2)]
        assert sent == [*range(0, FLOWS, 2)]  # one key: in the order of commits
        assert await connection.fetchval("SELECT count(*) FROM public.baskets") == FLOWS // 2
        placed = [one async for batch in app.broker.read(["desk.placed"]) for one in batch]
        assert [one.headers["ce_id"] for one in placed] == flows  # each is there once


async def test_it_waits_for_a_service_to_publish_it(kafka_server: KafkaServer, url: str) -> None:
    """Of several services one does; a key of the caller's own gives one flow."""
    settings, sent = member(kafka_server.bootstrap), list[int]()
    async with shop(url) as connection, running(settings, url) as front:
        flows = set()
        for _ in range(2):
            async with connection.transaction():
                flows.add(await front.publish(Placed(k="k", n=7), id="basket-7", tx=connection))
        (flow,) = flows
        other = Service("audit")

        @other.on(Placed)
        async def note(placed: Placed) -> None:
            """See it, too."""

        async with running(settings, url, service("desk", sent), other) as app:
            end = await app.outcome(flow, within_s=WITHIN_S)
            assert isinstance(end, Sent)
            placed = [one async for batch in app.broker.read(["desk.placed"]) for one in batch]
            assert [one.headers["ce_id"] for one in placed] == [flow, flow]
        assert sent == [7]


async def test_sessions_of_sqlalchemy_and_a_tx(kafka_server: KafkaServer, url: str) -> None:
    settings, sent = member(kafka_server.bootstrap), list[int]()
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))
    async with shop(url), running(settings, url, service("desk", sent)) as app:
        async with AsyncSession(engine) as session, session.begin():
            await session.execute(text("INSERT INTO public.baskets VALUES (1)"))
            one = await app.publish(Placed(k="a", n=1), tx=session)
        async with app.transaction() as tx:
            await tx.execute("INSERT INTO baskets VALUES (2)")
            two = await app.publish(Placed(k="b", n=2), tx=tx)
        for flow in (one, two):
            assert isinstance(await app.outcome(flow, within_s=WITHIN_S), Sent)
        assert sorted(sent) == [1, 2]
    await engine.dispose()

"""The relay on a real broker and a real database: whoever dies, nothing is lost, order is kept."""

import asyncio
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence

import pytest

from choreo import App, Service
from choreo.adapters.kafka import KafkaBroker, KafkaSettings
from choreo.adapters.postgres import PostgresStore
from choreo.app import system_clock
from choreo.events import STEP, Record
from choreo.testing.servers import KafkaServer
from tests.house.source import ROOT
from tests.kafka.settings import member
from tests.postgres.database import database
from tests.semantics.events import Paid, Placed, Reserved

KEYS = 3
NUMBERS = 12
WITHIN_S = 60.0


class Dies(KafkaBroker):
    """A broker at which the process ends, by SIGKILL, as a step's record of number 2 is published:
    before it is, or after, when nobody has been told yet."""

    when = ""

    async def publish(self, records: Sequence[Record]) -> None:
        mine = any(STEP in one.headers and b'"n":2' in one.value for one in records)
        if mine and self.when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        await super().publish(records)
        if mine:
            os.kill(os.getpid(), signal.SIGKILL)


def desk(*, fast: int = 0) -> Service:
    """A service whose first handler is slow, but for one key: slow and fast writers at once."""
    service = Service("desk")

    @service.on(Placed)
    async def reserve(placed: Placed) -> Reserved:
        if placed.k != f"k{fast}":
            await asyncio.sleep(0.02)
        return Reserved(k=placed.k, n=placed.n)

    @service.on(Reserved)
    async def pay(reserved: Reserved) -> Paid:
        return Paid(k=reserved.k, n=reserved.n)

    service.flow("order", starts=Placed, ends=Paid)
    return service


async def die(servers: str, namespace: str, url: str, when: str) -> None:
    """Be a member until the end comes."""
    broker = Dies(member(servers, namespace))
    broker.when = when
    async with App(desk(), broker=broker, store=PostgresStore(url, clock=system_clock())):
        await asyncio.Event().wait()


@pytest.fixture
def url() -> Iterator[str]:
    with database() as url:
        yield url


async def firsts(settings: KafkaSettings, kind: type[Reserved | Paid]) -> dict[str, list[int]]:
    """Give, by key, the numbers on a topic in order, each where it first stands."""
    found = defaultdict[str, list[int]](list)
    broker = KafkaBroker(settings)
    async for records in broker.read([kind.__event__.topic]):
        for record in records:
            event = kind.model_validate_json(record.value)
            if event.n not in found[event.k]:
                found[event.k].append(event.n)
    await broker.close()
    return dict(found)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_owner_that_is_killed_around_the_publish_leaves_it_to_the_next(
    kafka_server: KafkaServer, url: str, when: str
) -> None:
    settings = member(kafka_server.bootstrap)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.kafka.test_relay", settings.bootstrap_servers),
        *(settings.namespace, url, when),
        cwd=ROOT,
    )
    store = PostgresStore(url, clock=system_clock())
    async with (
        App(broker=KafkaBroker(settings), store=store) as feeding,
        asyncio.timeout(WITHIN_S),
    ):
        flows = [
            await feeding.publish(Placed(k=f"k{k}", n=n), id=f"{k}/{n}")
            for n in range(NUMBERS)
            for k in range(KEYS)
        ]
        assert await process.wait() == -signal.SIGKILL
    apps = [
        App(
            desk(fast=n),
            broker=KafkaBroker(settings),
            store=PostgresStore(url, clock=system_clock()),
        )
        for n in range(2)
    ]
    async with asyncio.timeout(WITHIN_S), apps[0] as one, apps[1]:
        await asyncio.gather(*(one.outcome(flow, within_s=WITHIN_S) for flow in flows))
    wanted = {f"k{k}": list(range(NUMBERS)) for k in range(KEYS)}
    assert await firsts(settings, Reserved) == wanted
    assert await firsts(settings, Paid) == wanted


if __name__ == "__main__":
    asyncio.run(die(*sys.argv[1:]))

"""A process that is stopped between the broker's word and its takeover, for longer than it may."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator

import pytest

from choreo.adapters.kafka import KafkaBroker
from choreo.adapters.postgres import PostgresStore
from choreo.app import system_clock
from choreo.events import Partition
from choreo.plan import Owned
from choreo.ports import Topic
from choreo.testing.servers import KafkaServer
from tests.kafka.settings import SESSION_S, member
from tests.postgres.database import database

TOPIC = Topic("contract.orders", 2)
GROUP = "contract"
WAIT_S = 20.0


@pytest.fixture
def url() -> Iterator[str]:
    with database() as url:
        yield url


class Heir:
    """Takes over at once."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store
        self.generation: int | None = None
        self.owned: Owned | None = None
        self.took = asyncio.Event()

    async def assigned(
        self, partitions: Collection[Partition], generation: int | None = None
    ) -> None:
        self.generation = generation
        self.owned = await self._store.own(GROUP, partitions, generation=generation)
        if partitions:
            self.took.set()

    async def revoked(self, partitions: Collection[Partition]) -> None:
        self.took.clear()


async def told(process: asyncio.subprocess.Process, word: str) -> list[int]:
    assert process.stdout is not None
    async with asyncio.timeout(WAIT_S):
        while True:
            line = (await process.stdout.readline()).decode().split()
            assert line, "it ended"
            if line[0] == word:
                return [int(one) for one in line[1:]]


async def test_a_zombie_does_not_take_over_by_the_generation_it_knew(
    kafka_server: KafkaServer, url: str
) -> None:
    """What it was told before it stood still gives it nothing (also tests/postgres)."""
    settings = member(kafka_server.bootstrap)
    broker, store = KafkaBroker(settings), PostgresStore(url, clock=system_clock())
    await broker.ensure([TOPIC])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.kafka.zombie"),
        *(kafka_server.bootstrap, settings.namespace, url, GROUP, TOPIC.name),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    try:
        former, *partitions = await told(process, "has")
        assert partitions == [0, 1]
        process.send_signal(signal.SIGSTOP)
        heir = Heir(store)
        await broker.subscribe(GROUP, [TOPIC.name], assignee=heir)
        async with asyncio.timeout(SESSION_S + WAIT_S):
            await heir.took.wait()
        assert heir.generation is not None
        assert heir.generation > former
        assert heir.owned is not None
        assert len(heir.owned.epochs) == 2
        process.stdin.write(b"take\n")  # it is there before the process goes on
        process.send_signal(signal.SIGCONT)
        assert await told(process, "took") == []  # then it joins again, and all divide anew
    finally:
        process.kill()
        await process.wait()
        await broker.close()
        await store.close()

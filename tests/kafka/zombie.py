"""A member of a group that takes its partitions over in the store when it is told to.

It says `has GENERATION PARTITION …` when the broker has given it some; a line on standard input
lets it take them over, and it says `took PARTITION …`. In between it can be stopped in its tracks.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Collection

from choreo.adapters.kafka import KafkaBroker
from choreo.adapters.postgres import PostgresStore
from choreo.app import system_clock
from choreo.events import Partition
from tests.kafka.desk import say
from tests.kafka.settings import member


class Taking:
    """Takes over by the generation that it was given the partitions in, however late."""

    def __init__(self, store: PostgresStore, group: str) -> None:
        self._store = store
        self._group = group

    async def assigned(
        self, partitions: Collection[Partition], generation: int | None = None
    ) -> None:
        say("has", generation, *(one.number for one in partitions))
        await asyncio.to_thread(sys.stdin.readline)
        owned = await self._store.own(self._group, partitions, generation=generation)
        say("took", *(one.number for one in owned.epochs))

    async def revoked(self, partitions: Collection[Partition]) -> None:
        pass


async def main(servers: str, namespace: str, url: str, group: str, topic: str) -> None:
    broker = KafkaBroker(member(servers, namespace))
    store = PostgresStore(url, clock=system_clock())
    await store.own(group, [])  # it is connected, and lives
    await broker.subscribe(group, [topic], assignee=Taking(store, group))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

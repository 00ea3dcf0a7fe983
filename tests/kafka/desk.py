"""A member of a group as a process of its own, which can be stopped in its tracks.

Told `commit` on standard input, it commits what it has read, but nothing any more once partitions
were taken from it. It says `has PARTITION …`, `lost PARTITION …`, `read VALUE`, `committed`, each
on a line.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Collection

from choreo.adapters.kafka import KafkaBroker, KafkaSettings
from choreo.events import Partition, Record
from tests.kafka.settings import member


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


class Told:
    def __init__(self) -> None:
        self.done: dict[Partition, int] = {}
        self.has_lost = False

    def read(self, one: Record) -> None:
        if not self.has_lost:
            self.done[Partition(one.topic, one.partition)] = one.offset + 1
        say("read", one.value.decode())

    async def assigned(
        self, partitions: Collection[Partition], generation: int | None = None
    ) -> None:
        say("has", *(one.number for one in partitions))

    async def revoked(self, partitions: Collection[Partition]) -> None:
        self.has_lost = True
        self.done.clear()
        say("lost", *(one.number for one in partitions))


async def main(settings: KafkaSettings, group: str, topic: str) -> None:
    broker = KafkaBroker(settings)
    told = Told()
    subscription = await broker.subscribe(group, [topic], assignee=told)

    async def read() -> None:
        while records := await subscription.poll(100):
            for one in records:
                told.read(one)

    reading = asyncio.create_task(read())
    while await asyncio.to_thread(sys.stdin.readline):
        await subscription.commit(dict(told.done))
        say("committed")
    reading.cancel()
    await broker.close()


if __name__ == "__main__":
    servers, namespace, name, topic_name = sys.argv[1:]
    asyncio.run(main(member(servers, namespace), name, topic_name))

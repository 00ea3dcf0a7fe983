"""Coming and going: who leaves says so, and who has a name of its own may come back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection
from dataclasses import replace

from choreo.adapters.kafka import KafkaBroker
from choreo.events import Partition
from choreo.ports import Topic
from choreo.testing.servers import KafkaServer
from tests.kafka.settings import SESSION_S, member

TOPIC = Topic("orders", 2)


class Told:
    """An assignee that counts."""

    def __init__(self) -> None:
        self.revocations = 0

    async def assigned(
        self, partitions: Collection[Partition], generation: int | None = None
    ) -> None:
        pass

    async def revoked(self, partitions: Collection[Partition]) -> None:
        self.revocations += 1


async def test_who_closes_leaves_its_group_at_once(kafka_server: KafkaServer) -> None:
    """Nobody waits for its session to run out."""
    broker = KafkaBroker(member(kafka_server.bootstrap))
    await broker.ensure([TOPIC])
    subscription = await broker.subscribe("desk", [TOPIC.name])
    assert await broker._cluster.occupied("desk")
    await subscription.close()
    assert not await broker._cluster.occupied("desk")
    await broker.close()


async def test_members_share_every_topic_not_only_all_partitions(
    kafka_server: KafkaServer,
) -> None:
    """Each group reads choreo.control, too: who came second had that, and nothing to do."""
    topics = [Topic("choreo.control", 4), Topic("shared", 4)]
    settings = member(kafka_server.bootstrap)
    one, two = KafkaBroker(settings), KafkaBroker(settings)
    await one.ensure(topics)
    members = [await broker.subscribe("sharing", [t.name for t in topics]) for broker in (one, two)]
    async with asyncio.timeout(20):
        while True:
            has = [len(each.assigned()) for each in members]
            if min(has) and sum(has) == sum(topic.partitions for topic in topics):
                break
            await asyncio.sleep(0.005)
    counts = [Counter(place.topic for place in each.assigned()) for each in members]
    assert counts == [Counter({topic.name: 2 for topic in topics})] * 2
    for broker in (one, two):
        await broker.close()


async def test_a_named_member_that_comes_back_in_time_moves_no_partition(
    kafka_server: KafkaServer,
) -> None:
    settings = replace(member(kafka_server.bootstrap), session_timeout_s=10 * SESSION_S)
    one, two = (KafkaBroker(replace(settings, instance_id=name)) for name in ("desk-1", "desk-2"))
    await one.ensure([TOPIC])
    told = Told()
    staying = await one.subscribe("desk", [TOPIC.name], assignee=told)
    leaving = await two.subscribe("desk", [TOPIC.name])
    async with asyncio.timeout(20):
        while True:
            if len(staying.assigned()) == len(leaving.assigned()) == 1:
                break
            await asyncio.sleep(0.005)
    before, had = told.revocations, list(leaving.assigned())
    await two.close()
    again = KafkaBroker(replace(settings, instance_id="desk-2"))
    back = await again.subscribe("desk", [TOPIC.name])
    async with asyncio.timeout(20):
        while True:
            if back.assigned():
                break
            await asyncio.sleep(0.005)
    assert list(back.assigned()) == had
    assert told.revocations == before
    await again.close()
    await one.close()

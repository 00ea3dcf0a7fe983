"""Closed at a bad moment: whoever has asked for something gets an answer."""

import asyncio

import pytest

from choreo.adapters.kafka import KafkaBroker, KafkaSettings
from choreo.adapters.kafka.cluster import Cluster
from choreo.errors import BrokerClosedError
from choreo.events import Partition
from choreo.ports import Topic
from choreo.testing.servers import KafkaServer
from tests.kafka.settings import member
from tests.waiting import answered

ANSWER_S = 30.0


@pytest.mark.parametrize("runs", [False, True], ids=["before it joins", "while it joins"])
async def test_a_broker_closed_while_a_member_begins(
    kafka_server: KafkaServer, *, runs: bool
) -> None:
    broker = KafkaBroker(member(kafka_server.bootstrap))
    await broker.ensure([Topic("orders", 1)])
    subscribing = asyncio.create_task(broker.subscribe("desk", ["orders"]))
    await asyncio.sleep(0)
    (subscription,) = broker._subscriptions
    while runs and subscription._running is None:  # noqa: ASYNC110 - once
        await asyncio.sleep(0)
    await broker.close()
    assert isinstance(await answered(subscribing, within_s=ANSWER_S), BrokerClosedError)


async def test_a_cluster_that_was_left_is_not_connected_to_again() -> None:
    cluster = Cluster(KafkaSettings("127.0.0.1:9"))
    await cluster.close()
    for asked in (
        cluster.partitions(),
        cluster.bounds([cluster.names.place(Partition("orders", 0))]),
    ):
        with pytest.raises(BrokerClosedError):
            await asked

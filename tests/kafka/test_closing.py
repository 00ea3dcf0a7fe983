"""Closed at a bad moment: whoever has asked for something gets an answer."""

import asyncio
from typing import Any

import pytest

from choreo.adapters.kafka import KafkaBroker, KafkaSettings
from choreo.adapters.kafka.cluster import Cluster
from choreo.errors import BrokerClosedError
from choreo.events import Partition
from choreo.ports import Topic
from choreo.testing.servers import KafkaServer
from tests.kafka.settings import member

ANSWER_S = 30.0


async def answered(task: "asyncio.Task[Any]") -> BaseException | None:
    """Give what a task has raised; it has to end."""
    await asyncio.wait([task], timeout=ANSWER_S)
    assert task.done(), "it waits for ever"
    return task.exception()


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
    assert isinstance(await answered(subscribing), BrokerClosedError)


async def test_a_cluster_that_was_left_is_not_connected_to_again() -> None:
    cluster = Cluster(KafkaSettings("127.0.0.1:9"))
    await cluster.close()
    for asked in (
        cluster.partitions(),
        cluster.bounds([cluster.names.place(Partition("orders", 0))]),
    ):
        with pytest.raises(BrokerClosedError):
            await asked

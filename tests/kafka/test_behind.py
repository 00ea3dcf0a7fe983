"""Each broker learns by itself what was created: one may not know what another has told already."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from aiokafka.admin import NewTopic
from aiokafka.errors import NodeNotReadyError
from aiokafka.protocol.metadata import MetadataRequest

from choreo.adapters.kafka import KafkaBroker, cluster
from choreo.errors import BrokerError, BrokerUnavailableError
from choreo.events import Record
from choreo.ports import Topic
from choreo.testing.servers import KafkaServer
from tests.kafka.settings import member
from tests.kafka.test_operation import opened

TOPIC = Topic("orders", 2)
HANGS_S = 30.0
BESIDE = 900
ANY = None


class Behind:
    """A desk whose questions are answered as they were before, so many times as one says."""

    def __init__(self, desk: Any, before: Any) -> None:
        self._asks = desk._send_request
        self._before = before
        self.to_any = 0
        """Questions that any broker may answer."""
        self.to_one = 0
        """Questions to a certain one."""
        self.beside = 0
        """So many more brokers are told of: all of them are the first one."""
        self.refused = False
        """No question to a certain one is answered."""
        self.silent: set[int | None] = set()
        """Whoever lets a question wait until `released`."""
        self.released = asyncio.Event()

    @classmethod
    async def of(cls, broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch) -> Behind:
        desk = await broker._cluster._desk()
        made = cls(desk, await desk._get_cluster_metadata())
        monkeypatch.setattr(desk, "_send_request", made.send)
        return made

    async def send(self, request: Any, node_id: int | None = None) -> Any:
        if isinstance(request, MetadataRequest):
            if node_id in self.silent:
                await self.released.wait()
                raise NodeNotReadyError
            if node_id is not None and self.refused:
                raise NodeNotReadyError
            if node_id is None and self.to_any:
                self.to_any -= 1
                return self._before
            if node_id is not None and self.to_one:
                self.to_one -= 1
                return self._before
            told = await self._asks(request, node_id)
            _, *where = told.brokers[0]
            told.brokers += [(BESIDE + number, *where) for number in range(self.beside)]
            return told
        return await self._asks(request, node_id)


async def test_a_topic_is_published_to_whichever_broker_was_asked_for_it_first(
    kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = member(kafka_server.bootstrap)
    async with opened(KafkaBroker(settings)) as broker, opened(KafkaBroker(settings)) as other:
        behind = await Behind.of(broker, monkeypatch)
        await other.ensure([TOPIC])
        behind.to_any = 1
        await broker.publish([Record(TOPIC.name, b"k", {}, b"1")])
        assert not behind.to_any


@pytest.mark.parametrize("who", ["publishes", "subscribes", "needs it"])
async def test_a_topic_that_any_broker_knows_is_there(
    kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """Only where none knows it is it missing."""
    settings = member(kafka_server.bootstrap)
    strict = replace(settings, create_topics=False)
    async with opened(KafkaBroker(strict)) as broker, opened(KafkaBroker(settings)) as other:
        behind = await Behind.of(broker, monkeypatch)
        await other.ensure([TOPIC])
        behind.to_any = 3
        if who == "publishes":
            await broker.publish([Record(TOPIC.name, b"k", {}, b"1")])
        elif who == "subscribes":
            await broker.subscribe("desk", [TOPIC.name])
        else:
            await broker.ensure([TOPIC])


async def test_a_topic_that_was_created_is_known_to_every_broker(
    kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever is asked next: else it were missing, right after it was made."""
    async with opened(KafkaBroker(member(kafka_server.bootstrap))) as broker:
        behind = await Behind.of(broker, monkeypatch)
        behind.to_one = 5
        await broker.ensure([TOPIC])
        assert not behind.to_one


async def test_a_topic_has_its_replicas_where_no_single_broker_answers(
    kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For good: what tells of three brokers once is enough to know of three."""
    wanted: list[NewTopic] = []
    async with opened(KafkaBroker(member(kafka_server.bootstrap))) as broker:
        behind = await Behind.of(broker, monkeypatch)
        behind.beside = 2
        behind.refused = True
        desk = await broker._cluster._desk()
        create = desk.create_topics

        async def created(topics: list[NewTopic]) -> Any:
            wanted.extend(topics)
            return await create(topics)

        monkeypatch.setattr(desk, "create_topics", created)
        with suppress(BrokerError):  # of a cluster that has not so many
            await broker.ensure([TOPIC])
    assert [one.replication_factor for one in wanted] == [3]


async def test_a_broker_that_hangs_does_not_hold_up_what_the_others_tell(
    kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "ANSWER_S", 0.05)
    settings = member(kafka_server.bootstrap)
    async with opened(KafkaBroker(settings)) as broker, opened(KafkaBroker(settings)) as other:
        behind = await Behind.of(broker, monkeypatch)
        await other.ensure([TOPIC])
        behind.beside = 1
        behind.silent.add(BESIDE)
        behind.to_one = 5
        try:
            async with asyncio.timeout(HANGS_S):
                await broker._cluster._seen([TOPIC.name])
        finally:
            behind.released.set()
        assert not behind.to_one


async def test_new_topics_are_waited_for_no_longer_where_a_look_hangs(
    kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "SEEN_S", 0.1)
    async with opened(KafkaBroker(member(kafka_server.bootstrap))) as broker:
        behind = await Behind.of(broker, monkeypatch)
        behind.silent.add(ANY)
        try:
            async with asyncio.timeout(HANGS_S):
                with pytest.raises(BrokerUnavailableError, match="wait for new topics"):
                    await broker._cluster._seen([TOPIC.name])
        finally:
            behind.silent.clear()
            behind.released.set()

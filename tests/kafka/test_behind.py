"""Each broker learns by itself what was created: one may not know what another has told already."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from aiokafka.protocol.metadata import MetadataRequest

from choreo.adapters.kafka import KafkaBroker
from choreo.events import Record
from choreo.ports import Topic
from choreo.testing.servers import KafkaServer
from tests.kafka.settings import member
from tests.kafka.test_operation import opened

TOPIC = Topic("orders", 2)


class Behind:
    """A desk whose questions are answered as they were before, so many times as one says."""

    def __init__(self, desk: Any, before: Any) -> None:
        self._asks = desk._send_request
        self._before = before
        self.to_any = 0
        """Questions that any broker may answer."""
        self.to_one = 0
        """Questions to a certain one."""

    @classmethod
    async def of(cls, broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch) -> Behind:
        desk = await broker._cluster._desk()
        made = cls(desk, await desk._get_cluster_metadata())
        monkeypatch.setattr(desk, "_send_request", made.send)
        return made

    async def send(self, request: Any, node_id: int | None = None) -> Any:
        if isinstance(request, MetadataRequest):
            if node_id is None and self.to_any:
                self.to_any -= 1
                return self._before
            if node_id is not None and self.to_one:
                self.to_one -= 1
                return self._before
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

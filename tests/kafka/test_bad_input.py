"""What is wrong is said at once, in a line with its code and its fix."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from choreo import App, Service
from choreo.adapters.kafka import KafkaBroker, KafkaSecurity, KafkaSettings
from choreo.adapters.sqlite import Database, Log, SqliteStore
from choreo.app import system_clock
from choreo.errors import BrokerError, BrokerUnavailableError, ConfigurationError
from choreo.events import Partition, Record
from choreo.ports import Topic
from choreo.testing.servers import KafkaServer, free_ports
from tests.kafka.settings import member
from tests.semantics.events import Paid, Placed

TOPIC = Topic("orders", 2)
WAIT_S = 20.0


def record(value: bytes = b"{}", topic: str = TOPIC.name, key: bytes = b"k") -> Record:
    return Record(topic, key, {}, value)


@asynccontextmanager
async def opened(settings: KafkaSettings) -> AsyncIterator[KafkaBroker]:
    broker = KafkaBroker(settings)
    try:
        yield broker
    finally:
        await broker.close()


async def everything(broker: KafkaBroker) -> list[bytes]:
    return [one.value async for batch in broker.read(None) for one in batch]


def verbs(broker: KafkaBroker) -> list[Callable[[], Awaitable[object]]]:
    return [
        lambda: broker.publish([record()]),
        lambda: broker.subscribe("desk", [TOPIC.name]),
        lambda: everything(broker),
        lambda: broker.ends(None),
        lambda: broker.ensure([TOPIC]),
    ]


async def test_a_certificate_that_can_not_be_read_is_told_by_every_verb(tmp_path: Path) -> None:
    security = KafkaSecurity("SSL", ssl_ca_location=str(tmp_path / "none.pem"))
    settings = KafkaSettings("127.0.0.1:9092", security)
    async with opened(settings) as broker, asyncio.timeout(WAIT_S):
        for verb in verbs(broker):
            with pytest.raises(ConfigurationError) as caught:
                await verb()
            assert caught.value.code == "CH1022"


async def test_who_can_not_become_a_member_again_says_so(
    kafka_server: KafkaServer, tmp_path: Path
) -> None:
    """The certificate was there at the start."""
    settings = member(kafka_server.bootstrap)
    async with opened(settings) as broker, asyncio.timeout(WAIT_S):
        await broker.ensure([TOPIC])
        subscription = await broker.subscribe("desk", [TOPIC.name])
        gone = KafkaSecurity("SSL", ssl_ca_location=str(tmp_path / "none.pem"))
        subscription._settings = replace(settings, security=gone)
        assert subscription._consumer is not None
        await subscription._consumer.stop()
        with pytest.raises(ConfigurationError):
            await subscription.poll(1)


async def test_a_broker_that_is_not_there_is_told_by_every_verb() -> None:
    settings = KafkaSettings(f"127.0.0.1:{free_ports(1)[0]}")
    async with opened(settings) as broker, asyncio.timeout(WAIT_S):
        for verb in verbs(broker):
            with pytest.raises(BrokerUnavailableError, match=r"CH3001.*Connect call failed"):
                await verb()


def alice(server: KafkaServer, password: str = "wonder") -> KafkaSettings:  # noqa: S107 - of a test
    security = KafkaSecurity("SASL_PLAINTEXT", sasl_username="alice", sasl_password=password)
    return replace(member(server.bootstrap_sasl), security=security)


async def test_a_wrong_password_is_not_taken_for_a_broker_that_is_gone(
    kafka_server: KafkaServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(alice(kafka_server, "wondre")) as broker, asyncio.timeout(WAIT_S):
        for verb in verbs(broker):
            with pytest.raises(BrokerError, match="CH3022") as caught:
                await verb()
            assert not caught.value.transient
            assert "wondre" not in str(caught.value)
    assert "wondre" not in caplog.text


async def test_what_is_not_allowed_is_told(kafka_server: KafkaServer) -> None:
    """A topic that is there and may not be seen is not taken for a missing one."""
    settings = alice(kafka_server)
    async with opened(member(kafka_server.bootstrap, settings.namespace)) as anybody:
        await anybody.ensure([TOPIC])
    async with opened(settings) as broker, asyncio.timeout(WAIT_S):
        calls = verbs(broker)
        for verb in (calls[0], calls[1]):
            with pytest.raises(BrokerError, match="CH3023") as caught:
                await verb()
            assert caught.value.fields["topic"] == TOPIC.name
            assert not caught.value.transient


async def test_a_missing_topic_is_told_and_never_created_by_asking(
    kafka_server: KafkaServer,
) -> None:
    """Also where the broker would create it."""
    settings = replace(member(kafka_server.bootstrap), create_topics=False)
    async with opened(settings) as broker, asyncio.timeout(WAIT_S):
        calls = verbs(broker)
        for verb in (calls[0], calls[1], calls[4]):
            with pytest.raises(BrokerError, match=r"CH3004.*topic=orders.*choreo topics apply"):
                await verb()
        assert await everything(broker) == []
        assert await broker.ends(None) == {}


async def test_a_record_that_is_too_large_keeps_its_batch_out(kafka_server: KafkaServer) -> None:
    settings = replace(member(kafka_server.bootstrap), value_bytes_max=1000)
    async with opened(settings) as broker, asyncio.timeout(WAIT_S):
        await broker.ensure([TOPIC])
        large = record(b"x" * settings.record_bytes_max)
        with pytest.raises(BrokerError, match=r"CH3020.*topic=orders, bytes=\d+, bytes_max=66536"):
            await broker.publish([record(), large, record()])
        await broker.publish([record(b"kept")])
        assert await everything(broker) == [b"kept"]


async def test_a_record_that_the_topic_does_not_take_is_told(kafka_server: KafkaServer) -> None:
    """Its limit may be lower than ours."""
    low = replace(member(kafka_server.bootstrap), value_bytes_max=1000)
    async with opened(low) as broker:
        await broker.ensure([TOPIC])
    async with opened(member(kafka_server.bootstrap, low.namespace)) as broker:
        with pytest.raises(BrokerError, match="CH3020") as caught:
            await broker.publish([record(b"x" * 500_000)])
        assert not caught.value.transient
        await broker.publish([record(b"kept")])
        assert await everything(broker) == [b"kept"]


async def test_what_was_deleted_before_it_was_read_is_told(
    kafka_server: KafkaServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The group goes on with the first that is there."""
    settings = member(kafka_server.bootstrap)
    async with opened(settings) as broker, asyncio.timeout(WAIT_S):
        await broker.ensure([Topic(TOPIC.name, 1)])
        await broker.publish([record(str(n).encode()) for n in range(10)])
        subscription = await broker.subscribe("desk", [TOPIC.name])
        await subscription.poll(1)
        await subscription.commit({Partition(TOPIC.name, 0): 2})
        await subscription.close()
        desk = await broker._cluster._desk()
        place = TopicPartition(settings.namespace + TOPIC.name, 0)
        await desk.delete_records({place: RecordsToDelete(before_offset=7)})
        with caplog.at_level(logging.WARNING, "choreo.kafka"):
            subscription = await broker.subscribe("desk", [TOPIC.name])
        assert "CH3021 the group desk stands at 2" in caplog.text
        assert (await subscription.poll(1))[0].value == b"7"


async def test_an_inbox_kept_for_less_than_its_topics_retention(
    kafka_server: KafkaServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Named at the start: which service, which topics, and both times; others are not."""
    settings = member(kafka_server.bootstrap)
    day_s = 86_400.0
    short, long = Service("short", inbox_keep_s=day_s), Service("long", inbox_keep_s=30 * day_s)
    for service in (short, long):

        @service.on(Placed)
        async def see(placed: Placed) -> None:
            pass

        service.on(Paid, name="see_too")(see_too)
    async with opened(settings) as broker:
        await broker.ensure([Topic("desk.placed", 1, 2 * day_s), Topic("desk.paid", 1, day_s)])
    broker, clock = KafkaBroker(settings), system_clock()
    store = SqliteStore(Log(Database(tmp_path / "s.db")), clock=clock, publishes=False)
    with caplog.at_level(logging.WARNING, "choreo.app"):
        async with App(short, long, broker=broker, store=store):
            pass
    (line,) = [one.message for one in caplog.records if "CH3027" in one.message]
    assert "service=short" in line
    assert "inbox_keep_s=86400" in line
    assert "desk.placed 172800 s" in line
    assert "desk.paid" not in line


async def see_too(paid: Paid) -> None:
    pass


async def test_a_topic_made_anew_with_fewer_partitions_stops_who_reads_it(
    kafka_server: KafkaServer,
) -> None:
    """Its keys are elsewhere, and what was read of it is gone."""
    settings = member(kafka_server.bootstrap)
    async with opened(settings) as broker, asyncio.timeout(2 * WAIT_S):
        await broker.ensure([Topic(TOPIC.name, 4)])
        subscription = await broker.subscribe("desk", [TOPIC.name])
        desk = await broker._cluster._desk()
        await desk.delete_topics([settings.namespace + TOPIC.name])
        while True:
            if TOPIC.name not in await broker._cluster.partitions():
                break
            await asyncio.sleep(0.01)
        await broker.ensure([Topic(TOPIC.name, 2)])
        with pytest.raises(BrokerError, match=r"CH3024.*topic=orders, partitions=\d,"):
            await subscription.poll(1)

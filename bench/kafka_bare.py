"""The baseline on Kafka and PostgreSQL: a bare, hand-written chain.

getmany, validate, then inbox, outbox and state in one transaction, produce and flush, then commit
the offsets: one batch after the other, as careful services are written by hand. It does what no
framework can do without, and no more; nothing of it overlaps.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from pydantic import BaseModel

from bench.servers import Cluster

__all__ = ["BATCH", "Chain", "Step", "chain", "fill", "steps_per_s"]

BATCH = 1000
TABLES = """
CREATE TABLE IF NOT EXISTS bare_inbox (handler INTEGER, subject BYTEA, status SMALLINT,
    PRIMARY KEY (handler, subject));
CREATE TABLE IF NOT EXISTS bare_outbox (seq BIGSERIAL PRIMARY KEY, partition INTEGER,
    headers TEXT, value BYTEA);
CREATE TABLE IF NOT EXISTS bare_state (key TEXT PRIMARY KEY, version INTEGER, value BYTEA);
CREATE TABLE IF NOT EXISTS bare_stock (sku TEXT PRIMARY KEY, units INTEGER);
"""
INBOX = """
INSERT INTO bare_inbox SELECT 1, subject, 2 FROM unnest($1::bytea[]) AS a (subject)
ON CONFLICT DO NOTHING RETURNING subject
"""
OUTBOX = """
INSERT INTO bare_outbox (partition, headers, value)
SELECT * FROM unnest($1::integer[], $2::text[], $3::bytea[]) RETURNING seq
"""
STATE = """
INSERT INTO bare_state SELECT key, 1, value FROM unnest($1::text[], $2::bytea[]) AS n (key, value)
ON CONFLICT (key) DO UPDATE SET version = bare_state.version + 1, value = excluded.value
"""
SENT = "DELETE FROM bare_outbox WHERE seq = ANY($1::bigint[])"
BUSINESS = (
    "INSERT INTO bare_stock VALUES ($1, 1) ON CONFLICT (sku) DO UPDATE SET"
    " units = bare_stock.units + 1"
)
Headers = list[tuple[str, bytes]]


class Step(BaseModel):
    """The event that is taken and given."""

    order_id: str
    filler: str
    n: int


class Chain:
    """One handler between two topics."""

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        producer: AIOKafkaProducer,
        connection: asyncpg.Connection[asyncpg.Record],
        to: str,
        *,
        batch: int,
        business: bool,
    ) -> None:
        """Take clients that have been started; `business`: one statement more for each event."""
        self._batch = batch
        self._consumer = consumer
        self._producer = producer
        self._connection = connection
        self._to = to
        self._business = business
        self._sent: list[int] = []

    async def turn(self) -> int:
        """Take one batch through; give how many there were."""
        found = await self._consumer.getmany(timeout_ms=1000, max_records=self._batch)
        records = [record for some in found.values() for record in some]
        if not records:
            return 0
        async with self._connection.transaction():
            given = await self._write(records)
        sending = [
            await self._producer.send(self._to, value, key=key, headers=headers)
            for key, headers, value in given
        ]
        await self._producer.flush()
        await asyncio.gather(*sending)
        await self._consumer.commit(
            {place: some[-1].offset + 1 for place, some in found.items() if some}
        )
        return len(records)

    async def _write(self, records: Sequence[Any]) -> list[tuple[bytes, Headers, bytes]]:
        run = self._connection
        taken = [
            (record, uuid.UUID(dict(record.headers)["ce_id"].decode()).bytes,
             Step.model_validate_json(record.value))
            for record in records
        ]  # fmt: skip
        rows = await run.fetch(INBOX, [subject for _, subject, _ in taken])
        fresh = {row[0] for row in rows}
        given: list[tuple[bytes, Headers, bytes]] = []
        partitions, texts, states = [], [], {}
        for record, subject, event in taken:
            if subject not in fresh:
                continue
            after = Step(order_id=event.order_id, filler=event.filler, n=event.n + 1)
            own = subject[:6] + hashlib.sha1(subject).digest()[:10]  # noqa: S324 - an id
            headers = headers_of(own, subject)
            value = after.model_dump_json().encode()
            given.append((record.key, headers, value))
            partitions.append(record.partition)
            texts.append(json.dumps([(name, text.decode()) for name, text in headers]))
            states[after.order_id] = value
            if self._business:
                await run.execute(BUSINESS, f"sku-{event.n * 7 % 500}")
        rows = await run.fetch(OUTBOX, partitions, texts, [value for *_, value in given])
        await run.execute(STATE, list(states), list(states.values()))
        if self._sent:
            await run.execute(SENT, self._sent)
        self._sent = [row[0] for row in rows]
        return given


def headers_of(own: bytes, cause: bytes) -> Headers:
    """Give the headers that each event of choreo has."""
    text, of = (str(uuid.UUID(bytes=one)).encode() for one in (own, cause))
    return [
        ("ce_specversion", b"1.0"), ("ce_source", b"s3"), ("ce_type", b"saga.s3.Step"),
        ("content-type", b"application/json"), ("choreo-step", b"s3.go"), ("ce_id", text),
        ("ce_time", b"2026-01-01T00:00:00.000Z"), ("ce_subject", b"order-1"),
        ("ce_correlationid", of), ("ce_causationid", of), ("choreo-attempt", b"1"),
        ("choreo-started", b"1767225600.000"), ("choreo-took", b"0.000012"),
    ]  # fmt: skip


async def fill(servers: str, topic: str, events: range, *, kind: str = "saga.s3.Step") -> None:
    """Produce events that are to be taken; the number of each is in its id and its key."""
    producer = AIOKafkaProducer(
        bootstrap_servers=servers, acks="all", enable_idempotence=True, linger_ms=5
    )
    await producer.start()
    sending = []
    try:
        for n in events:
            event = Step(order_id=f"order-{n}", filler="x" * 200, n=n)
            own = (
                (1_767_225_600_000 + n).to_bytes(6, "big") + b"\x70\0\x80\0" + n.to_bytes(6, "big")
            )
            headers = [(k, v) for k, v in headers_of(own, own) if not k.startswith("choreo-")]
            headers = [(k, kind.encode() if k == "ce_type" else v) for k, v in headers]
            value, key = event.model_dump_json().encode(), event.order_id.encode()
            sending.append(await producer.send(topic, value, key=key, headers=headers))
        await asyncio.gather(*sending)
    finally:
        await producer.stop()


@asynccontextmanager
async def chain(
    where: Cluster,
    take: str,
    give: str,
    *,
    linger_ms: int = 5,
    batch: int = BATCH,
    business: bool = False,
) -> AsyncIterator[Chain]:
    """Start the clients of a chain between two topics, which exist."""
    connection = await asyncpg.connect(where.database)
    consumer = AIOKafkaConsumer(
        take, bootstrap_servers=where.servers, group_id=f"{where.namespace}bare-{take}",
        enable_auto_commit=False, auto_offset_reset="earliest", max_poll_records=BATCH,
    )  # fmt: skip
    producer = AIOKafkaProducer(
        bootstrap_servers=where.servers, acks="all", enable_idempotence=True, linger_ms=linger_ms
    )
    try:
        await connection.execute(TABLES)
        await consumer.start()
        await producer.start()
        yield Chain(consumer, producer, connection, give, batch=batch, business=business)
    finally:
        await consumer.stop()
        await producer.stop()
        await connection.close()


async def steps_per_s(
    where: Cluster, take: str, give: str, *, count: int, business: bool = False
) -> float:
    """Take `count` events, which lie there already, from one topic to the other.

    The first batch is not counted, a quarter at most: with it the group is there, and the code
    is warm.
    """
    batch = min(BATCH, max(count // 4, 1))
    async with chain(where, take, give, batch=batch, business=business) as one:
        first = done = await one.turn()
        while not first:
            first = done = await one.turn()
        begun = time.perf_counter()
        while done < count:
            done += await one.turn()
        took = time.perf_counter() - begun
    return (done - first) / took

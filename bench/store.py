"""A store in PostgreSQL alone: plain steps through `apply`, against a bare transaction of the same.

Both write the same inbox rows and outbox rows, in groups of 256, on one connection, durable.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import asyncpg

from bench.figure import Figure
from choreo.adapters.postgres import PostgresStore
from choreo.adapters.system import SystemClock
from choreo.events import Partition, Record
from choreo.plan import Owned, Plan, Publish, Sent, Settle, Source, Status
from choreo.testing.servers.postgres import PostgresServer

__all__ = ["postgres_steps"]

GROUP = 256
STEPS = 20_000
PARTITIONS = 4
VALUE = b'{"order_id": "order-1", "filler": "' + b"x" * 200 + b'"}'
HEADERS = {
    "ce_specversion": "1.0", "ce_id": "0190a5c0-0000-8000-8000-000000000000",
    "ce_source": "s3", "ce_type": "saga.s3.Step", "ce_time": "2026-01-01T00:00:00.000Z",
    "ce_subject": "order-1", "content-type": "application/json",
    "ce_correlationid": "0190a5c0-0000-7000-8000-000000000000",
    "ce_causationid": "0190a5c0-0000-7000-8000-000000000000", "choreo-step": "s3.go",
    "choreo-attempt": "1", "choreo-started": "1767225600.000", "choreo-took": "0.000012",
}  # fmt: skip
BARE = (
    "WITH i AS (INSERT INTO bare_inbox SELECT * FROM unnest($1::int[], $2::bytea[], $3::int2[],"
    " $4::bytea[], $5::int[], $6::int8[]) ON CONFLICT DO NOTHING),"
    " o AS (INSERT INTO bare_outbox (owner, topic, key, headers, value)"
    " SELECT * FROM unnest($5::int[], $7::text[], $8::bytea[], $9::text[], $10::bytea[])"
    " RETURNING seq) SELECT array_agg(seq) FROM o"
)
TABLES = """
CREATE TABLE bare_inbox (handler int, subject bytea, status int2, hash bytea, owner int,
    "offset" int8, PRIMARY KEY (handler, subject));
CREATE TABLE bare_outbox (seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, owner int,
    topic text, key bytea, headers text, value bytea);
"""


def _subject(number: int) -> bytes:
    return b"\x01\x90\xa5\xc0\x00\x00\x80\x00" + number.to_bytes(8, "big")


def _plans(claims: Sequence[Owned], first: int) -> list[Plan]:
    plans = []
    for number in range(first, first + GROUP):
        partition = number % PARTITIONS
        source = Source("bench.in", partition, number)
        record = Record("bench.out", b"order-%d" % number, HEADERS, VALUE)
        settle = Settle("bench.go", _subject(number), Status.DONE, b"12345678", source)
        plans.append(Plan(claims[partition], (settle, Publish(record))))
    return plans


async def _store(url: str, steps: int) -> tuple[float, float]:
    """Give steps a second, and the seconds of our own processor that one takes."""
    store = PostgresStore(url, clock=SystemClock())
    partitions = [Partition("bench.in", number) for number in range(PARTITIONS)]
    owned = await store.own("bench", partitions)
    claims = [owned.only(partition) for partition in partitions]
    groups = [_plans(claims, first) for first in range(0, steps, GROUP)]
    waiting = iter(groups)

    async def committer() -> None:
        for group in waiting:
            await store.apply(group)
            rows = tuple(plan.changes[1].record.row for plan in group)  # type: ignore[union-attr]
            sent.append(Plan(None, (Sent(rows),)))
            if len(sent) > 1:
                await store.apply([sent.pop(0)])

    sent: list[Plan] = []
    await store.apply(_plans(claims, 10**9))  # connects, prepares
    begun, used = time.perf_counter(), time.process_time()
    await asyncio.gather(committer(), committer())
    done = len(groups) * GROUP
    took, cpu = time.perf_counter() - begun, time.process_time() - used
    await store.close()
    return done / took, cpu / done


async def _bare(url: str, steps: int) -> float:
    connection = await asyncpg.connect(url)
    await connection.execute(TABLES)

    async def group(first: int) -> None:
        numbers = range(first, first + GROUP)
        seqs = await connection.fetchval(
            BARE, [1] * GROUP, [_subject(n) for n in numbers], [2] * GROUP,
            [b"12345678"] * GROUP, [n % PARTITIONS for n in numbers], list(numbers),
            ["bench.out"] * GROUP, [b"order-%d" % n for n in numbers],
            [HEADERS_TEXT] * GROUP, [VALUE] * GROUP,
        )  # fmt: skip
        await connection.execute("DELETE FROM bare_outbox WHERE seq = ANY($1::int8[])", seqs)

    await group(10**9)
    begun = time.perf_counter()
    for first in range(0, steps, GROUP):
        await group(first)
    took = time.perf_counter() - begun
    await connection.close()
    return len(range(0, steps, GROUP)) * GROUP / took


HEADERS_TEXT = str(HEADERS)


def postgres_steps(steps: int = STEPS) -> list[Figure]:
    """Measure on a server of our own, which writes to the disk before it answers."""
    with PostgresServer.found(fsync=True) as server:
        bare = asyncio.run(_bare(server.database(), steps))
        rate, cpu = asyncio.run(_store(server.database(), steps))
    about = "plain steps through PostgresStore.apply, 256 a group; baseline: bare asyncpg"
    return [
        Figure("postgres_steps", rate, "steps/s", bare, about),
        Figure(
            "postgres_step_cpu_us",
            cpu * 1e6,
            "us",
            1e6 / bare,
            "of this process; baseline: the whole time of a bare step",
        ),
    ]

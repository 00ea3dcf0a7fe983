"""What grows with the past on Kafka and PostgreSQL: a process's memory, the time of the inbox."""

from __future__ import annotations

import asyncio

import asyncpg

from bench.figure import Figure
from bench.growth import DAYS, FLOWS_FEW, FLOWS_MANY, ROWS_FEW, ROWS_MANY, grown
from bench.kafka_saga import flows_per_s, middle
from bench.process import started
from bench.saga import STEPS
from bench.servers import Cluster, cluster, clusters

__all__ = ["inbox_growth", "kafka_rss_growth"]

FLOWS = 3000
ROUNDS = 3
FILL_S = 1800
OLD = f"""
INSERT INTO choreo.inbox (handler, subject, status, hash, owner, "offset")
SELECT $1::int, decode(lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint
        - {DAYS * 86_400_000}::bigint * ($3::bigint - n) / $3::bigint), 12, '0')
    || substr(md5($1::int::text || n::text), 1, 20), 'hex'),
    2, decode(substr(md5(n::text), 1, 16), 'hex'), $2::int, n
FROM generate_series(1, $3::bigint) AS n
"""


def kafka_rss_growth(few: int = FLOWS_FEW, many: int = FLOWS_MANY) -> list[Figure]:
    """How many times more memory a process holds after 200,000 flows than after 20,000.

    The five services of saga5 in one process of its own; its resident set (RSS) when all flows
    have ended. The baseline is the RSS after 20,000.
    """
    with (
        cluster() as where,
        started("bench.growth_process", where.servers, where.database, where.namespace) as process,
    ):
        return [grown("kafka_rss_growth", process, few, many)]


def inbox_growth(
    few: int = ROWS_FEW, many: int = ROWS_MANY, flows: int = FLOWS, rounds: int = ROUNDS
) -> list[Figure]:
    """What is left of the steps a second with 10^7 old inbox rows, of those with 10^4.

    The five services of saga5 on two databases, by turns; the medians count. The old rows have
    what the services' own have: the handlers' numbers, ids that begin with the time, spread
    over the last twenty days. The baseline is the rate with 10^4.
    """
    with clusters(2) as places:
        for place, rows in zip(places, (few, many), strict=True):
            asyncio.run(flows_per_s(place, range(100)))  # makes the tables, names the handlers
            asyncio.run(_fill(place, rows))
        rates: list[list[float]] = [[], []]
        for turn in range(rounds):
            span = range(1000 + turn * flows, 1000 + (turn + 1) * flows)
            for place, found in zip(places, rates, strict=True):
                found.append(STEPS * asyncio.run(flows_per_s(place, span)))
    before, after = map(middle, rates)
    return [
        Figure("inbox_growth", after / before, "times", 1.0,
               f"{before:,.0f} steps/s with {few:,} old rows, {after:,.0f} with {many:,}"),
    ]  # fmt: skip


async def _fill(where: Cluster, rows: int) -> None:
    """Insert old rows: of each flow one a handler, in the order of their ids."""
    connection = await asyncpg.connect(where.database)
    try:
        handlers = await connection.fetch(
            "SELECT handler, max(owner) FROM choreo.inbox GROUP BY handler"
        )
        assert len(handlers) == STEPS, handlers
        for handler, owner in handlers:
            await connection.execute(OLD, handler, owner, rows // STEPS, timeout=FILL_S)
        await connection.execute("VACUUM ANALYZE choreo.inbox")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()

"""The saga on Kafka and PostgreSQL: five services, five steps and six events, in one process."""

from __future__ import annotations

import asyncio
import time

from bench.figure import Figure
from bench.kafka_bare import fill, steps_per_s
from bench.saga import STEPS, Count, services, through
from bench.servers import Cluster, cluster
from choreo import App
from choreo.adapters.kafka import KafkaBroker
from choreo.ports import Topic

__all__ = ["flows_per_s", "kafka_saga5", "kafka_saga5_tx", "middle", "spread"]

FLOWS = 3000
ROUNDS = 3
STOCK = "CREATE TABLE IF NOT EXISTS bench_stock (sku TEXT PRIMARY KEY, units INTEGER)"


def kafka_saga5(flows: int = FLOWS, rounds: int = ROUNDS) -> list[Figure]:
    """Flows of five steps a second, in turns with a bare chain; the medians count."""
    return [_measured("kafka_saga5", flows, rounds, business=False)]


def kafka_saga5_tx(flows: int = FLOWS // 3, rounds: int = ROUNDS) -> list[Figure]:
    """Do the same with one business statement in each step, in both."""
    return [_measured("kafka_saga5_tx", flows, rounds, business=True)]


def _measured(name: str, flows: int, rounds: int, *, business: bool) -> Figure:
    rates, bare = [], []
    with cluster() as where:
        for turn in range(rounds):
            span = range(turn * flows, (turn + 1) * flows)
            bare.append(asyncio.run(bare_rate(where, span, business=business)))
            rates.append(asyncio.run(flows_per_s(where, span, business=business)))
    rate, steps = middle(rates), middle(bare)
    return Figure(
        name, rate, "flows/s", steps / STEPS,
        f"bare chain {steps:,.0f} steps/s; {rounds} turns: {spread(rates)}",
    )  # fmt: skip


def middle(values: list[float]) -> float:
    """Give the median."""
    return sorted(values)[len(values) // 2]


def spread(values: list[float]) -> str:
    """Show the lowest and the highest."""
    return f"{min(values):,.0f}-{max(values):,.0f}"


async def bare_rate(where: Cluster, span: range, *, business: bool = False) -> float:
    """Give the steps a second of a bare chain, on four events for each flow, up to 12,000."""
    broker = KafkaBroker(where.settings())
    turn = f"{span.start}"
    await broker.ensure([Topic(f"bare.take.{turn}"), Topic(f"bare.give.{turn}")])
    await broker.close()
    take, give = (f"{where.namespace}bare.{end}.{turn}" for end in ("take", "give"))
    count = min(4 * len(span), 12_000)
    await fill(where.servers, take, range(span.start * 8, span.start * 8 + count))
    return await steps_per_s(where, take, give, count=count, business=business)


async def flows_per_s(where: Cluster, span: range, *, business: bool = False) -> float:
    """Put flows through the five services, to their ends; give how many a second."""
    count = Count()
    app = App(*services(count, business=business), **where.parts())
    async with app:
        if business:
            async with app.store.transaction() as tx:
                await tx.execute(STOCK)
        begun = time.perf_counter()
        await through(app, count, span)
        await app.drain()
        took = time.perf_counter() - begun
    return len(span) / took

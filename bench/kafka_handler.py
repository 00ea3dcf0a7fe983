"""One handler on Kafka and PostgreSQL, consume to publish, beside a bare chain and FastStream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from bench.figure import Figure
from bench.kafka_bare import Step, fill, steps_per_s
from bench.kafka_saga import middle, spread
from bench.saga import Step0, Step1
from bench.servers import Cluster, cluster
from choreo import App, Service
from choreo.adapters.kafka import KafkaBroker
from choreo.ports import Topic

__all__ = ["kafka_handler"]

EVENTS = 10_000
ROUNDS = 3
SHARE = 5
"""Of a framework that takes a message at a time, one event in so many is enough."""


def kafka_handler(events: int = EVENTS, rounds: int = ROUNDS) -> list[Figure]:
    """Events a second through one handler, with dedup, in turns with others; the medians count.

    All take what lies on a topic already. `kafka_handler` has a bare chain of the same promises
    as its baseline, `kafka_handler_faststream` FastStream's handler of one message, which
    publishes, and promises less.
    """
    ours, bare, others = [], [], []
    with cluster() as where:
        for turn in range(rounds):
            span = range(turn * events, (turn + 1) * events)
            bare.append(asyncio.run(_bare(where, span)))
            ours.append(asyncio.run(_ours(where, span)))
            some = range(span.start, span.start + max(events // SHARE, 2))
            others += asyncio.run(_faststream(where, some))
    rate, steps = middle(ours), middle(bare)
    beside = middle(others) if others else None
    about = "FastStream is not installed: make bench installs it (the extra bench)"
    if beside is not None:
        about = f"FastStream, a message at a time, no dedup: {beside:,.0f} events/s"
    return [
        Figure("kafka_handler", rate, "events/s", steps,
               f"bare chain {steps:,.0f} events/s; {rounds} turns: {spread(ours)}"),
        Figure("kafka_handler_faststream", rate, "events/s", beside, about),
    ]  # fmt: skip


class Watch:
    """Counts what was handled, from the first to the last."""

    def __init__(self, count: int) -> None:
        """Wait for so many."""
        self.left = count
        self.begun = 0.0
        self.done = asyncio.Event()

    def one(self) -> None:
        """Count one."""
        self.begun = self.begun or time.perf_counter()
        self.left -= 1
        if not self.left:
            self.done.set()


def _service(handled: Callable[[], object]) -> Service:
    service = Service("handler")

    @service.on(Step0)
    async def go(step: Step0) -> Step1:
        handled()
        return Step1(order_id=step.order_id, filler=step.filler, n=step.n + 1)

    return service


async def _filled(where: Cluster, name: str, events: range) -> None:
    """Make a topic of that name, and one for what is answered; put the events on it."""
    broker = KafkaBroker(where.settings())
    await broker.ensure([Topic(name), Topic(f"{name}.given")])
    await broker.close()
    kind = Step0.__event__.type
    await fill(where.servers, f"{where.namespace}{name}", events, kind=kind)


async def _bare(where: Cluster, events: range) -> float:
    name = f"bare.{events.start}"
    await _filled(where, name, events)
    take, give = (f"{where.namespace}{name}{end}" for end in ("", ".given"))
    return await steps_per_s(where, take, give, count=len(events))


async def _ours(where: Cluster, events: range) -> float:
    """Take them all; the time ends when the last answer is on its topic."""
    watch = Watch(len(events))
    await _filled(where, Step0.__event__.topic, events)
    async with App(_service(watch.one), **where.parts()) as app:
        await watch.done.wait()
        await app.drain()
        return len(events) / (time.perf_counter() - watch.begun)


async def _faststream(where: Cluster, events: range) -> list[float]:
    """Do so with FastStream as it comes; nothing where it is not installed."""
    try:
        from faststream.kafka import KafkaBroker as FastBroker
    except ImportError:
        return []
    name = f"fast.{events.start}"
    await _filled(where, name, events)
    watch = Watch(len(events))
    broker = FastBroker(where.servers, logger=None)
    take, give = (f"{where.namespace}{name}{end}" for end in ("", ".given"))

    async def go(step: Step) -> Step:
        watch.one()
        return Step(order_id=step.order_id, filler=step.filler, n=step.n + 1)

    subscriber = broker.subscriber(take, group_id=f"{name}.group", auto_offset_reset="earliest")
    broker.publisher(give)(subscriber(go))
    await broker.start()
    try:
        await watch.done.wait()
        return [len(events) / (time.perf_counter() - watch.begun)]
    finally:
        await broker.stop()

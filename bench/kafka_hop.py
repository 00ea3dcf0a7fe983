"""A hop on Kafka: how long an event takes that a step answers and another service takes."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from bench.figure import Figure
from bench.kafka_bare import Step, chain, headers_of
from bench.pace import Pacer, percentile
from bench.servers import Cluster, cluster
from choreo import App, Event, Service
from choreo.adapters.kafka import KafkaBroker
from choreo.ports import Topic

__all__ = ["kafka_hop"]

PER_S = 1000
COUNT = 6000
WARM_UP = 1000
ROUNDS = 3


class HopAsked(Event, topic="khop.asked", key="key"):
    """What comes; `n` says when it was due."""

    key: str
    n: int
    filler: str


class HopTaken(Event, topic="khop.taken", key="key"):
    """What the first service answers, and the second takes."""

    key: str
    n: int
    filler: str


def kafka_hop(count: int = COUNT, rounds: int = ROUNDS) -> list[Figure]:
    """Milliseconds from an event's being due to the start of the handler of what answers it.

    `kafka_hop_ms_p50` and `kafka_hop_ms_p99`, at 1,000 events a second: published, taken by a
    step, committed, published, taken by the next service. The baseline is a bare chain between
    the same two topics, in turns; of each the median of the rounds counts.
    """
    ours, bare = [], []
    with cluster() as where:
        for turn in range(rounds):
            bare.append(asyncio.run(_bare(where, f"bare.{turn}", count)))
            ours.append(asyncio.run(_ours(where, count)))
    return [
        Figure(
            f"kafka_hop_ms_{mark}", _middle(ours, share), "ms", _middle(bare, share),
            f"{PER_S:,} events/s, {rounds} turns; a hop, a step, a hop",
        )
        for mark, share in (("p50", 0.5), ("p99", 0.99))
    ]  # fmt: skip


def _middle(rounds: list[list[float]], share: float) -> float:
    found = sorted(percentile(late[WARM_UP:] or late, share) for late in rounds)
    return found[len(found) // 2] * 1e3


class Late:
    """How late each one was, by when it was due."""

    def __init__(self, count: int) -> None:
        """Wait for so many."""
        self.late: list[float] = []
        self.done = asyncio.Event()
        self._count = count
        self._pacer: Pacer | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def paced(self, publish: Callable[[int], Coroutine[Any, Any, Any]]) -> list[float]:
        """Publish at the pace; give how late they were, when all have come."""
        loop = asyncio.get_running_loop()

        def due(n: int) -> None:
            task = loop.create_task(publish(n))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        pacer = Pacer(lambda n: loop.call_soon_threadsafe(due, n), per_s=PER_S, count=self._count)
        self._pacer = pacer
        pacer.start()
        await self.done.wait()
        await asyncio.gather(*self._tasks)
        return self.late

    def came(self, n: int) -> None:
        """Note one."""
        assert self._pacer is not None
        self.late.append(time.perf_counter() - self._pacer.intended(n))
        if len(self.late) == self._count:
            self.done.set()


async def _ours(where: Cluster, count: int) -> list[float]:
    late = Late(count)
    first, second = Service("hop"), Service("sink")

    @first.on(HopAsked)
    async def take(asked: HopAsked) -> HopTaken:
        return HopTaken(key=asked.key, n=asked.n, filler=asked.filler)

    @second.on(HopTaken)
    async def end(taken: HopTaken) -> None:
        late.came(taken.n)

    async with App(first, second, **where.parts()) as app:
        return await late.paced(
            lambda n: app.publish(HopAsked(key=f"order-{n}", n=n, filler="x" * 200))
        )


async def _bare(where: Cluster, name: str, count: int) -> list[float]:
    broker = KafkaBroker(where.settings())
    await broker.ensure([Topic(name), Topic(f"{name}.given")])
    await broker.close()
    take, give = (f"{where.namespace}{name}{end}" for end in ("", ".given"))
    late = Late(count)
    producer = AIOKafkaProducer(
        bootstrap_servers=where.servers, acks="all", enable_idempotence=True
    )
    reader = AIOKafkaConsumer(give, bootstrap_servers=where.servers, auto_offset_reset="earliest")

    async def publish(n: int) -> None:
        step = Step(order_id=f"order-{n}", filler="x" * 200, n=n)
        own = uuid.uuid4().bytes
        await producer.send_and_wait(
            take, step.model_dump_json().encode(), step.order_id.encode(),
            headers=headers_of(own, own),
        )  # fmt: skip

    async def read() -> None:
        while not late.done.is_set():
            for some in (await reader.getmany(timeout_ms=1000)).values():
                for one in some:
                    late.came(Step.model_validate_json(one.value).n - 1)

    async with chain(where, take, give, linger_ms=0) as one:
        await producer.start()
        await reader.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(read())
                working = tasks.create_task(_turning(one))
                await late.paced(publish)
                working.cancel()
        finally:
            await reader.stop()
            await producer.stop()
    return late.late


async def _turning(one: Any) -> None:
    while True:
        await one.turn()

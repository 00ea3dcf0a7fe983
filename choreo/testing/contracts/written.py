"""What the contracts of a broker are written with: two topics, and ways to read them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager

from choreo.events import Partition, Record
from choreo.ports import Broker, Since, Subscription, Topic

__all__ = [
    "MANY",
    "MIB",
    "ONE",
    "WAIT_S",
    "MakeBroker",
    "at",
    "by_partition",
    "everything",
    "following",
    "opened",
    "places",
    "record",
    "refused",
    "take",
    "turns",
    "values",
]

MakeBroker = Callable[[], Awaitable[Broker]]
MANY, ONE = Topic("contract.many", 4), Topic("contract.one", 1)
WAIT_S = 20.0
MIB = 1 << 20


@asynccontextmanager
async def opened(make: MakeBroker) -> AsyncIterator[Broker]:
    """Open a broker with the two topics, and close it."""
    broker = await make()
    try:
        await broker.ensure([MANY, ONE])
        yield broker
    finally:
        await broker.close()


@asynccontextmanager
async def following(broker: Broker) -> AsyncIterator[AsyncIterator[Sequence[Record]]]:
    """Follow the one-partition topic, and end the iteration when done."""
    batches = broker.read([ONE.name], follow=True)
    async with aclosing(batches):  # type: ignore[type-var]
        yield batches


class refused:  # noqa: N801 - reads as the statement it is
    """Expect an error of a class: `with refused(BrokerClosedError): …`."""

    def __init__(self, expected: type[BaseException]) -> None:
        """Name the class."""
        self.expected = expected

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        assert kind is not None, f"{self.expected.__name__} was not raised"
        return issubclass(kind, self.expected)


def record(key: str, value: str, *, topic: str = MANY.name) -> Record:
    """Make a record to publish."""
    return Record(topic, key.encode(), {"ce_id": value}, value.encode())


def at(one: Record) -> Partition:
    """Name a record's partition."""
    return Partition(one.topic, one.partition)


def values(records: Iterable[Record]) -> list[bytes]:
    """List the values."""
    return [one.value for one in records]


def places(records: Iterable[Record]) -> list[tuple[Partition, int]]:
    """List where records stand."""
    return [(at(one), one.offset) for one in records]


def by_partition(records: Iterable[Record]) -> list[tuple[Partition, list[int]]]:
    """List the offsets of each partition in the order of the records."""
    found: dict[Partition, list[int]] = defaultdict(list)
    for one in records:
        found[at(one)].append(one.offset)
    return sorted(found.items())


async def everything(
    broker: Broker, topics: Sequence[str] | None = None, *, since: Since = 0
) -> list[Record]:
    """Read to the end."""
    async with asyncio.timeout(WAIT_S):
        return [one async for batch in broker.read(topics, since=since) for one in batch]


async def take(subscription: Subscription, wanted: int) -> list[Record]:
    """Poll until that many records have come, and no more."""
    seen: list[Record] = []
    async with asyncio.timeout(WAIT_S):
        while len(seen) < wanted:
            batch = await subscription.poll(wanted - len(seen))
            assert batch, "a poll gave nothing, and the subscription is open"
            seen += batch
    return seen


async def turns(number: int) -> None:
    """Let the loop turn."""
    for _ in range(number):
        await asyncio.sleep(0)

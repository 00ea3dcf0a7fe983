"""What the contracts of a store are written with: a place, and plans for it."""

from __future__ import annotations

import unittest
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

from choreo.events import Partition, Record
from choreo.plan import (
    Change,
    Owned,
    Parked,
    Plan,
    Publish,
    SaveState,
    Settle,
    Source,
    Status,
)
from choreo.ports import ORPHANS, Applied, Broker, Due, Outbox, Seen, Store, Topic, Unsent, Want
from choreo.testing.clock import ManualClock

__all__ = [
    "GROUP",
    "HANDLER",
    "TOPIC",
    "MakePlace",
    "Place",
    "due",
    "opened",
    "parked",
    "publish",
    "published",
    "publishing",
    "reopenable",
    "row",
    "settle",
    "source",
    "subject",
    "unsent",
    "unwritable",
    "want",
]

TOPIC = Topic("contract.orders", 4)
GROUP = "contract"
HANDLER = f"{GROUP}.take"
HERE = Partition(TOPIC.name, 0)


@dataclass(frozen=True, slots=True)
class Place:
    """A store, its log, and the clock that it goes by."""

    store: Store
    broker: Broker
    clock: ManualClock

    async def own(self, *numbers: int, group: str = GROUP) -> Owned:
        """Take partitions of the contract's topic over; without numbers, all."""
        chosen = numbers or range(TOPIC.partitions)
        return await self.store.own(group, [Partition(TOPIC.name, number) for number in chosen])

    async def apply(self, owned: Owned | None, *changes: Change) -> Applied | BaseException:
        """Apply one plan of these changes."""
        (result,) = await self.store.apply([Plan(owned, changes)])
        return result

    async def look(self, *wants: Want) -> Seen:
        """Load one want, the first."""
        seen = await self.store.load(wants)
        return seen[0]

    async def status(self, number: int, *, handler: str = HANDLER) -> Status | None:
        """Give the state of a delivery."""
        return (await self.look(Want(handler, subject(number)))).status

    async def close(self) -> None:
        """Close the store, then the log."""
        await self.store.close()
        await self.broker.close()


MakePlace = Callable[[], Awaitable[Place]]


@asynccontextmanager
async def opened(make: MakePlace) -> AsyncIterator[Place]:
    """Open a place with its topic, and close it."""
    place = await make()
    try:
        await place.broker.ensure([TOPIC])
        yield place
    finally:
        await place.close()


def reopenable(place: Place) -> None:
    """Skip a test that opens its place more than once, where nothing is durable."""
    if not place.store.traits.durable:
        raise unittest.SkipTest("what is not durable is another place each time")


def subject(number: int) -> bytes:
    """Make the 16 bytes of a subject, or of a timer's id."""
    return number.to_bytes(16, "big")


def source(offset: int = 0, *, partition: int = 0) -> Source:
    """Say where a delivery came in."""
    return Source(TOPIC.name, partition, offset)


def settle(
    number: int,
    status: Status = Status.DONE,
    *,
    seen: tuple[int, int] | None = None,
    parked: Parked | None = None,
    at: Source | None = None,
    handler: str = HANDLER,
) -> Settle:
    """Settle subject `number`; it came in at offset `number`, unless told otherwise."""
    kept = at or source(number)
    return Settle(handler, subject(number), status, b"hash", kept, seen=seen, parked=parked)


def parked(due: float | None, *, attempt: int = 1, run: int = 0, chain: str = "chain") -> Parked:
    """Say what a parked row keeps."""
    return Parked(run, attempt, due, chain, b"\x00record\xff", "ValueError: ✗")


def publish(value: str, *, key: str = "k", topic: str = TOPIC.name) -> Publish:
    """Publish a record with that value."""
    return Publish(Record(topic, key.encode(), {"ce_id": value}, value.encode()))


def unwritable(place: Place) -> Change:
    """Make a change that the store can not write, whatever stands there.

    A topic that is missing; where the topics are another one's, a version that no row takes.
    """
    if place.store.traits.publishes:
        return publish("lost", topic="contract.missing")
    return SaveState("contract.Unwritable", "k", 2**64, b"")


async def unsent(
    place: Place, owned: Owned | None = None, *, after: int = 0, most: int = 7
) -> list[Unsent]:
    """List what waits to be published of partitions of `owned` (None: of all, and of nobody).

    Skipped where the store publishes by itself.
    """
    if place.store.traits.publishes:
        raise unittest.SkipTest("this store publishes by itself")
    outbox = cast("Outbox", place.store)
    everything = [Partition(TOPIC.name, number) for number in range(TOPIC.partitions)]
    asked = owned or Owned(GROUP, dict.fromkeys([*everything, ORPHANS], 0))
    found: list[Unsent] = []
    while rows := await outbox.unsent(asked, after=after, most=most):
        assert len(rows) <= most
        assert [one.row for one in rows] == [one.record.row for one in rows]
        found += rows
        after = rows[-1].row
    return found


def publishing(place: Place) -> None:
    """Skip a test of what is on the log, where a relay brings it there."""
    if not place.store.traits.publishes:
        raise unittest.SkipTest("this store publishes through a relay")


async def published(place: Place) -> list[str]:
    """List the values that are on the log, or, where a relay brings them there, on their way."""
    if not place.store.traits.publishes:
        return [one.record.value.decode() for one in await unsent(place)]
    return [
        record.value.decode() async for batch in place.broker.read([TOPIC.name]) for record in batch
    ]


async def due(
    place: Place, owned: Owned, *, skip: Collection[tuple[str, bytes]] = (), most: int = 100
) -> list[int]:
    """List, as numbers, the subjects that are due now."""
    found, _ = await place.store.due(owned, skip=skip, most=most)
    return [int.from_bytes(one.subject, "big") for one in found]


def row(found: Sequence[Due], number: int) -> Due:
    """Pick the due row of a subject."""
    return next(one for one in found if one.subject == subject(number))


def want(number: int, *, memos: bool = False) -> Want:
    """Say that a delivery's own rows are wanted."""
    return Want(HANDLER, subject(number), memos=memos)

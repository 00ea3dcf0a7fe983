"""What every broker promises of reading outside of groups, and of topics, as tests to inherit."""
# ruff: noqa: PLR2004 - these are tests: expected values are literal

from __future__ import annotations

import asyncio

from choreo.events import Partition
from choreo.ports import Topic
from choreo.testing.contracts.written import (
    MANY,
    ONE,
    WAIT_S,
    MakeBroker,
    at,
    everything,
    following,
    opened,
    record,
    take,
    values,
)

__all__ = ["ReadingContract"]


class ReadingContract:
    """Reading, topics; `BrokerContract` has these, too."""

    async def test_reading_begins_where_it_is_told(self, make: MakeBroker) -> None:
        """From a position on, that one included; only the topics named, or all."""
        async with opened(make) as broker:
            records = [record("k", str(n), topic=ONE.name) for n in range(5)]
            await broker.publish([*records, record("k", "other")])
            for n in range(5):
                read = await everything(broker, [ONE.name], since=records[n].offset)
                assert read == records[n:]
            after = await everything(broker, [ONE.name], since=records[4].offset + 1)
            assert not after
            assert values(await everything(broker, [MANY.name])) == [b"other"]
            assert len(await everything(broker)) == 6

    async def test_reading_begins_where_it_is_told_in_each_partition(
        self, make: MakeBroker
    ) -> None:
        """A partition that is not named is read from its beginning."""
        async with opened(make) as broker:
            records = [record(str(n), str(n)) for n in range(20)]
            await broker.publish(records)
            first = records[0]
            since = {at(first): first.offset + 1}
            read = await everything(broker, [MANY.name], since=since)
            wanted = [one for one in records if at(one) != at(first) or one.offset > first.offset]
            assert sorted(values(read)) == sorted(values(wanted))

    async def test_what_comes_later_lies_beyond_the_ends(self, make: MakeBroker) -> None:
        """Whoever begins to read at the ends sees what is published from then on, and no more."""
        async with opened(make) as broker:
            await broker.publish([record(str(n), "before") for n in range(10)])
            ends = await broker.ends([MANY.name])
            assert set(ends) == {Partition(MANY.name, n) for n in range(MANY.partitions)}
            await broker.publish([record(str(n), "after") for n in range(10)])
            read = await everything(broker, [MANY.name], since=ends)
            assert values(read) == [b"after"] * 10

    async def test_the_ends_of_all_topics_tell_which_there_are(self, make: MakeBroker) -> None:
        """A topic made a moment ago is among them, empty or not; each with all its partitions."""
        async with opened(make) as broker:
            await broker.ensure([Topic("contract.new", 2)])
            ends = await broker.ends(None)
            for topic in (ONE, MANY, Topic("contract.new", 2)):
                mine = {place for place in ends if place.topic == topic.name}
                assert mine == {Partition(topic.name, n) for n in range(topic.partitions)}
            assert await broker.ends([MANY.name]) == {
                place: end for place, end in ends.items() if place.topic == MANY.name
            }

    async def test_reading_leaves_no_trace(self, make: MakeBroker) -> None:
        """A reader belongs to no group: it moves nobody's position."""
        async with opened(make) as broker:
            await broker.publish([record("k", str(n), topic=ONE.name) for n in range(3)])
            await everything(broker)
            subscription = await broker.subscribe("group", [ONE.name])
            assert len(await take(subscription, 3)) == 3

    async def test_a_follower_sees_what_comes_later(self, make: MakeBroker) -> None:
        """It does not end at the end, and leaves nothing out on the way."""
        async with opened(make) as broker:
            await broker.publish([record("k", "0", topic=ONE.name)])
            seen: list[bytes] = []
            async with asyncio.timeout(WAIT_S), following(broker) as batches:
                async for batch in batches:
                    seen += values(batch)
                    if len(seen) == 6:
                        break
                    await broker.publish([record("k", str(len(seen)), topic=ONE.name)])
            assert seen == [str(n).encode() for n in range(6)]

    async def test_topics_are_created_once(self, make: MakeBroker) -> None:
        """`ensure` again, with the same or more topics, changes nothing that is there."""
        async with opened(make) as broker:
            await broker.publish([record("k", "1", topic=ONE.name)])
            await broker.ensure([ONE, Topic("contract.new", 2), ONE])
            await broker.ensure([])
            await broker.publish([record("k", "2", topic="contract.new")])
            assert sorted(values(await everything(broker))) == [b"1", b"2"]

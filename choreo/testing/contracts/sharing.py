"""What every broker promises of a group with several members, as tests to inherit."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from choreo.events import Partition, Record
from choreo.ports import Broker, Subscription
from choreo.testing.contracts.written import (
    MANY,
    WAIT_S,
    MakeBroker,
    at,
    opened,
    record,
    take,
    turns,
    values,
)

__all__ = ["SharingContract"]

ALL = frozenset(Partition(MANY.name, number) for number in range(MANY.partitions))


class SharingContract:
    """Members of one group; `BrokerContract` has these, too."""

    async def test_members_share_the_partitions(self, make: MakeBroker) -> None:
        """Each partition is one member's, and no member has much more than another."""
        async with opened(make) as broker:
            members = [await broker.subscribe("group", [MANY.name]) for _ in range(2)]
            await shared(members)
            assert [len(one.assigned()) for one in members] == [2, 2]
            assert all(one.shared for one in members)
            third = await broker.subscribe("group", [MANY.name])
            await shared([*members, third])
            assert broker.traits.eager or len(third.assigned()) == 1

    async def test_groups_share_nothing_with_each_other(self, make: MakeBroker) -> None:
        """A member of another group takes nothing away."""
        async with opened(make) as broker:
            one = await broker.subscribe("one", [MANY.name])
            other = await broker.subscribe("other", [MANY.name])
            await turns(50)
            assert set(one.assigned()) == set(other.assigned()) == ALL
            assert not one.shared

    async def test_a_record_goes_to_one_member(self, make: MakeBroker) -> None:
        """Each once, in order per key, to whoever has the partition."""
        async with opened(make) as broker:
            members = [await broker.subscribe("group", [MANY.name]) for _ in range(2)]
            await shared(members)
            await broker.publish([record(f"k{n % 9}", str(n)) for n in range(180)])
            seen = await gathered(members, 180)
            assert sorted(int(v) for polled in seen for v in values(polled)) == list(range(180))
            for member, polled in zip(members, seen, strict=True):
                assert {at(one) for one in polled} <= set(member.assigned())
                for key in {one.key for one in polled}:
                    listed = [int(one.value) for one in polled if one.key == key]
                    assert listed == sorted(listed)

    async def test_whoever_leaves_is_replaced_where_it_stood(self, make: MakeBroker) -> None:
        """What it had committed does not come again; what it had not, does."""
        async with opened(make) as broker:
            staying = await broker.subscribe("group", [MANY.name])
            leaving = await broker.subscribe("group", [MANY.name])
            await shared([staying, leaving])
            await broker.publish([record(f"k{n}", str(n)) for n in range(60)])
            kept, gone = await gathered([staying, leaving], 60)
            if broker.traits.eager:
                await staying.commit({at(one): one.offset + 1 for one in kept})
            done: dict[Partition, int] = {}
            for one in gone[: len(gone) // 2]:
                done[at(one)] = one.offset + 1
            await leaving.commit(done)
            await leaving.close()
            await shared([staying])
            again = [one for one in gone if one.offset >= done.get(at(one), 0)]
            polled = await take(staying, len(again))
            assert sorted(values(polled)) == sorted(values(again))
            assert not set(values(polled)) & set(values(kept))
            assert not staying.shared

    async def test_a_partition_moves_once_its_member_has_come_to_rest(
        self, make: MakeBroker
    ) -> None:
        """`revoked` is waited for; no record of the partition comes meanwhile to anybody.

        An eager broker takes all at first, and which ones move is known at the end.
        """
        async with opened(make) as broker:
            first, second = Witness(), Witness()
            one = await broker.subscribe("group", [MANY.name], assignee=first)
            assert first.has == ALL
            first.may_rest.clear()
            other = await broker.subscribe("group", [MANY.name], assignee=second)
            async with asyncio.timeout(WAIT_S):
                await first.resting.wait()
            await broker.publish([record(f"k{n}", str(n)) for n in range(40)])
            kept = frozenset(one.assigned())
            mine = [r for r in await read(broker) if at(r) in kept]
            assert sorted(values(await take(one, len(mine)))) == sorted(values(mine))
            assert not second.has
            first.may_rest.set()
            await shared([one, other])
            if broker.traits.eager:
                assert not kept
                kept = frozenset(one.assigned())
                mine = [r for r in await read(broker) if at(r) in kept]
                assert sorted(values(await take(one, len(mine)))) == sorted(values(mine))
            assert (first.has, second.has) == (kept, ALL - kept)
            theirs = [r for r in await read(broker) if at(r) not in kept]
            assert sorted(values(await take(other, len(theirs)))) == sorted(values(theirs))

    async def test_an_offset_of_what_is_not_ours_is_passed_over(self, make: MakeBroker) -> None:
        """Who lost a partition does not move where the group stands in it."""
        async with opened(make) as broker:
            one = await broker.subscribe("group", [MANY.name])
            await broker.publish([record(f"k{n}", str(n)) for n in range(30)])
            polled = await take(one, 30)
            other = await broker.subscribe("group", [MANY.name])
            await shared([one, other])
            lost = frozenset(other.assigned())
            await one.commit({at(each): each.offset + 1 for each in polled})
            theirs = [each for each in polled if at(each) in lost]
            again = await take(other, len(theirs))
            assert sorted(values(again)) == sorted(values(theirs))


class Witness:
    """An assignee that says what it has, and rests when it may."""

    def __init__(self) -> None:
        """Have nothing."""
        self.has: frozenset[Partition] = frozenset()
        self.resting = asyncio.Event()
        self.may_rest = asyncio.Event()
        self.may_rest.set()

    async def assigned(
        self, partitions: Collection[Partition], generation: int | None = None
    ) -> None:
        """Have more."""
        assert not self.has & frozenset(partitions)
        self.has |= frozenset(partitions)

    async def revoked(self, partitions: Collection[Partition]) -> None:
        """Have less, after a while."""
        self.resting.set()
        await self.may_rest.wait()
        self.has -= frozenset(partitions)


async def shared(members: Sequence[Subscription]) -> None:
    """Wait until all partitions are somebody's, each one member's, evenly."""
    async with asyncio.timeout(WAIT_S):
        while True:
            found = [partition for one in members for partition in one.assigned()]
            counts = [len(one.assigned()) for one in members]
            if sorted(found) == sorted(ALL) and max(counts) - min(counts) <= 1:
                return
            await asyncio.sleep(0.005)


async def gathered(members: Sequence[Subscription], wanted: int) -> list[list[Record]]:
    """Poll all members until that many records have come."""
    seen: list[list[Record]] = [[] for _ in members]

    async def poll(member: Subscription, polled: list[Record]) -> None:
        while batch := await member.poll(10):
            polled += batch
            if sum(map(len, seen)) >= wanted:
                enough.set()

    enough = asyncio.Event()
    polling = [asyncio.create_task(poll(*pair)) for pair in zip(members, seen, strict=True)]
    async with asyncio.timeout(WAIT_S):
        await enough.wait()
    for task in polling:
        task.cancel()
    await asyncio.gather(*polling, return_exceptions=True)
    return seen


async def read(broker: Broker) -> list[Record]:
    """Read everything of the topic."""
    return [one async for batch in broker.read([MANY.name]) for one in batch]

"""What every broker promises of publishing and polling, as tests to inherit."""
# ruff: noqa: PLR2004 - these are tests: expected values are literal

from __future__ import annotations

import asyncio
import unittest
from collections import defaultdict
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any

from choreo.errors import BrokerClosedError, ChoreoError
from choreo.events import Headers, Partition, Record
from choreo.ports import Topic
from choreo.testing.contracts.cancelling import cancelled_at
from choreo.testing.contracts.written import (
    MANY,
    MIB,
    ONE,
    WAIT_S,
    MakeBroker,
    at,
    by_partition,
    everything,
    opened,
    places,
    record,
    refused,
    take,
    turns,
    values,
)

__all__ = ["PollingContract"]


class PollingContract:
    """Publishing, polling; `BrokerContract` has these, too."""

    # ── publish ──────────────────────────────────────────────────────────────────────────

    async def test_published_records_know_their_place(self, make: MakeBroker) -> None:
        """Partition and offset of each are set; offsets rise within a partition."""
        async with opened(make) as broker:
            records = [record(f"k{n % 5}", str(n)) for n in range(40)]
            await broker.publish(records)
            await broker.publish([])
            seen = await everything(broker)
        assert all(one.partition in range(MANY.partitions) for one in records)
        for _, offsets in by_partition(records):
            assert offsets == sorted(set(offsets))
            assert offsets[0] >= 0
        assert sorted(places(seen)) == sorted(places(records))

    async def test_order_per_key_is_order_of_publishing(self, make: MakeBroker) -> None:
        """Whatever the batches, a subscription and a reader see each key in order."""
        async with opened(make) as broker:
            records = [record(f"k{n % 7}", str(n)) for n in range(210)]
            for start in range(0, 210, 30):
                await broker.publish(records[start : start + 30])
            subscription = await broker.subscribe("group", [MANY.name])
            polled = await take(subscription, 210)
            await subscription.close()
            read = await everything(broker)
        for seen in (polled, read):
            for key in {one.key for one in records}:
                wanted = [one.value for one in records if one.key == key]
                assert [one.value for one in seen if one.key == key] == wanted

    async def test_a_key_stays_in_its_partition(self, make: MakeBroker) -> None:
        """Always the same, also through another broker of the place; keys are spread."""
        found: dict[bytes | None, set[int]] = defaultdict(set)
        for turn in range(4):
            async with opened(make) as broker:
                records = [record(f"k{n}", "x") for n in range(50)]
                await broker.publish(records[turn:] + records[:turn])
                for one in records:
                    found[one.key].add(one.partition)
        assert all(len(partitions) == 1 for partitions in found.values())
        assert len(set.union(*found.values())) > 1

    async def test_a_batch_is_published_whole_or_not_at_all(self, make: MakeBroker) -> None:
        """One record that can not be published, anywhere in the batch, keeps all out."""
        async with opened(make) as broker:
            for bad in range(3):
                batch = [record(f"k{n}", f"{bad}.{n}") for n in range(3)]
                batch[bad] = record("k", "lost", topic="contract.missing")
                with refused(ChoreoError):
                    await broker.publish(batch)
            await broker.publish([record("k", "kept")])
            assert values(await everything(broker)) == [b"kept"]

    async def test_publishing_again_is_harmless(self, make: MakeBroker) -> None:
        """Each record is there once more, and knows its last place; nothing else is disturbed."""
        async with opened(make) as broker:
            records = [record("k", str(n), topic=ONE.name) for n in range(3)]
            await broker.publish(records)
            await broker.publish(records)
            seen = await everything(broker)
            assert values(seen) == [b"0", b"1", b"2"] * 2
            assert places(seen[3:]) == places(records)

    async def test_publishers_side_by_side_keep_each_others_order(self, make: MakeBroker) -> None:
        """Each one's records of a key stand in its order, whoever else publishes."""
        async with opened(make) as broker:

            async def publisher(name: str) -> None:
                for n in range(10):
                    await broker.publish([record("k", f"{name}.{n}.{i}") for i in range(3)])

            await asyncio.gather(*(publisher(name) for name in "abcd"))
            seen = [value.decode() for value in values(await everything(broker))]
        assert len(seen) == 120
        for name in "abcd":
            wanted = [f"{name}.{n}.{i}" for n in range(10) for i in range(3)]
            assert [value for value in seen if value.startswith(name)] == wanted

    async def test_bytes_come_back_as_they_went(self, make: MakeBroker) -> None:
        """Empty and big values, missing and odd keys, headers of any text or bytes."""
        headers: list[Headers] = [
            {},
            {"ce_id": "1", "content-type": "application/json"},
            {"ключ": "значение ✓", "empty": "", "": "nameless"},
            {"raw": b"\xff\x00\xfe".decode("utf-8", "surrogateescape"), "quote": '"\\\n'},
        ]
        keys = [None, b"", b"k", b"\xff\x00\xfe", "ключ".encode()]
        contents = [b"", b"{}", bytes(range(256)), b"x" * MIB]
        records = [
            *(Record(ONE.name, b"k", one, b"v") for one in headers),
            *(Record(ONE.name, one, {}, b"v") for one in keys),
            *(Record(ONE.name, b"k", {}, one) for one in contents),
        ]
        async with opened(make) as broker:
            await broker.publish(records)
            subscription = await broker.subscribe("group", [ONE.name])
            assert await take(subscription, len(records)) == records
            await subscription.close()
            assert await everything(broker) == records
            if not broker.traits.durable:
                return
        async with opened(make) as broker:
            assert await everything(broker) == records

    # ── groups ───────────────────────────────────────────────────────────────────────────

    async def test_a_new_group_begins_with_the_earliest(self, make: MakeBroker) -> None:
        """What was published before it came is given as well, from all its topics."""
        async with opened(make) as broker:
            before = [record("a", "1", topic=ONE.name), record("b", "2")]
            await broker.publish(before)
            subscription = await broker.subscribe("group", [ONE.name, MANY.name])
            await broker.publish([record("c", "3", topic=ONE.name)])
            assert sorted(values(await take(subscription, 3))) == [b"1", b"2", b"3"]

    async def test_a_poll_gives_at_most_what_was_asked_for(self, make: MakeBroker) -> None:
        """No more than `records_max`, never nothing, and all in the end."""
        async with opened(make) as broker:
            await broker.publish([record("k", str(n), topic=ONE.name) for n in range(10)])
            subscription = await broker.subscribe("group", [ONE.name])
            seen: list[Record] = []
            while len(seen) < 10:
                async with asyncio.timeout(WAIT_S):
                    batch = await subscription.poll(3)
                assert 1 <= len(batch) <= 3
                seen += batch
            assert values(seen) == [str(n).encode() for n in range(10)]

    async def test_what_was_not_committed_is_given_again(self, make: MakeBroker) -> None:
        """A subscription that goes on for its group begins where the group committed."""
        async with opened(make) as broker:
            records = [record("k", str(n), topic=ONE.name) for n in range(6)]
            await broker.publish(records)
            for begin, end in ((0, 0), (0, 2), (2, 5), (5, 5), (5, 6)):
                subscription = await broker.subscribe("group", [ONE.name])
                assert await take(subscription, 6 - begin) == records[begin:]
                if end > begin:
                    await subscription.commit({at(records[end - 1]): records[end - 1].offset + 1})
                await subscription.close()
            await broker.publish([record("k", "last", topic=ONE.name)])
            subscription = await broker.subscribe("group", [ONE.name])
            assert values(await take(subscription, 1)) == [b"last"]

    async def test_partitions_are_committed_each_for_itself(self, make: MakeBroker) -> None:
        """A commit of one partition leaves the others where they were."""
        async with opened(make) as broker:
            records = [record(f"k{n}", str(n)) for n in range(60)]
            await broker.publish(records)
            (first, offsets), *rest = by_partition(records)
            subscription = await broker.subscribe("group", [MANY.name])
            await take(subscription, 60)
            await subscription.commit({first: offsets[-1] + 1})
            await subscription.close()
            again = await broker.subscribe("group", [MANY.name])
            seen = await take(again, 60 - len(offsets))
            assert by_partition(seen) == rest

    async def test_groups_do_not_feel_each_other(self, make: MakeBroker) -> None:
        """Each is given all; a commit of one is none of another."""
        async with opened(make) as broker:
            records = [record("k", str(n), topic=ONE.name) for n in range(4)]
            await broker.publish(records)
            one = await broker.subscribe("one", [ONE.name])
            assert await take(one, 4) == records
            await one.commit({at(records[3]): records[3].offset + 1})
            other = await broker.subscribe("other", [ONE.name])
            assert await take(other, 4) == records

    async def test_a_member_alone_has_every_partition(self, make: MakeBroker) -> None:
        """`assigned` names all partitions of its topics, and of no other."""
        async with opened(make) as broker:
            await broker.publish([record("k", "x")])
            subscription = await broker.subscribe("group", [MANY.name])
            await take(subscription, 1)
            wanted = {Partition(MANY.name, number) for number in range(MANY.partitions)}
            assert set(subscription.assigned()) == wanted

    async def test_publishing_wakes_who_polls(self, make: MakeBroker) -> None:
        """A poll waits, without giving nothing, and goes on when something comes."""
        async with opened(make) as broker:
            subscription = await broker.subscribe("group", [MANY.name])
            for n in range(5):
                polling = asyncio.create_task(subscription.poll(10))
                await turns(10)
                assert not polling.done()
                await broker.publish([record("k", str(n))])
                async with asyncio.timeout(WAIT_S):
                    assert values(await polling) == [str(n).encode()]

    # ── close, reopen ────────────────────────────────────────────────────────────────────

    async def test_a_closed_subscription_gives_nothing(self, make: MakeBroker) -> None:
        """A poll that waits returns nothing, as every later one; closing twice is fine."""
        async with opened(make) as broker:
            subscription = await broker.subscribe("group", [MANY.name])
            polling = asyncio.create_task(subscription.poll(10))
            await turns(5)
            await subscription.close()
            await subscription.close()
            async with asyncio.timeout(WAIT_S):
                assert not await polling
                assert not await subscription.poll(10)

    async def test_a_closed_broker_refuses(self, make: MakeBroker) -> None:
        """BrokerClosedError for every verb; closing twice, or from two sides, is fine."""
        broker = await make()
        await broker.ensure([MANY, ONE])
        subscription = await broker.subscribe("group", [MANY.name])
        polling = asyncio.create_task(subscription.poll(10))
        await turns(5)
        await asyncio.gather(broker.close(), broker.close())
        await broker.close()
        async with asyncio.timeout(WAIT_S):
            with suppress(BrokerClosedError):
                assert not await polling
            with refused(BrokerClosedError):
                await broker.publish([record("k", "x")])
            with refused(BrokerClosedError):
                await broker.subscribe("group", [MANY.name])
            with refused(BrokerClosedError):
                await broker.ensure([ONE])
            with refused(BrokerClosedError):
                await everything(broker)
            await subscription.close()

    async def test_a_reopened_broker_has_everything(self, make: MakeBroker) -> None:
        """Topics, records, and where its groups go on; new offsets are greater."""
        async with opened(make) as broker:
            if not broker.traits.durable:
                raise unittest.SkipTest("what is not durable can not be reopened")
            records = [record("k", str(n), topic=ONE.name) for n in range(4)]
            await broker.publish(records)
            subscription = await broker.subscribe("group", [ONE.name])
            await take(subscription, 2)
            await subscription.commit({at(records[1]): records[1].offset + 1})
        again = await make()
        try:
            last = record("k", "last", topic=ONE.name)
            await again.publish([last])
            assert last.offset > records[-1].offset
            assert await everything(again) == [*records, last]
            subscription = await again.subscribe("group", [ONE.name])
            assert await take(subscription, 3) == [*records[2:], last]
        finally:
            await again.close()

    # ── cancellation ─────────────────────────────────────────────────────────────────────

    async def test_a_cancelled_publish_is_whole_or_nothing(self, make: MakeBroker) -> None:
        """Cancelled at any await, all of a batch is there or none; then all works as before."""
        async with opened(make) as broker:
            batches: list[tuple[list[bytes], bool]] = []
            for late in (0, 1, 4):
                for await_ in count(1):
                    batch = [record(f"k{n}", f"{late}.{await_}.{n}") for n in range(3)]
                    publish = partial(broker.publish, batch)
                    told = await cancelled_at(publish, await_, turns=late)
                    batches.append((values(batch), told.reached))
                    if not told.reached:
                        break
            await broker.publish([record("k", "last")])
            seen = values(await everything(broker))
            for wanted, reached in batches:
                found = [seen.count(value) for value in wanted]
                assert found in ([[0] * 3, [1] * 3] if reached else [[1] * 3])

    async def test_a_cancelled_poll_loses_nothing(self, make: MakeBroker) -> None:
        """Cancelled while it waits, or just as something comes: the next poll gives it."""
        async with opened(make) as broker:
            subscription = await broker.subscribe("group", [ONE.name])
            seen: list[Record] = []
            for n in range(24):
                polling = asyncio.create_task(subscription.poll(10))
                await turns(n % 3)
                await broker.publish([record("k", str(n), topic=ONE.name)])
                await turns(n)
                polling.cancel()
                await asyncio.wait([polling])
                if not polling.cancelled():
                    seen += polling.result()
            seen += await take(subscription, 24 - len(seen))
            assert values(seen) == [str(n).encode() for n in range(24)]

    async def test_whoever_is_cancelled_elsewhere_disturbs_nobody(self, make: MakeBroker) -> None:
        """Subscribing, reading, creating topics: given up at any await, and then done."""
        async with opened(make) as broker:
            await broker.publish([record("k", str(n), topic=ONE.name) for n in range(3)])

            async def subscribed(group: str) -> None:
                await (await broker.subscribe(group, [ONE.name])).close()

            calls: list[Callable[[int], Coroutine[Any, Any, object]]] = [
                lambda n: subscribed(f"group-{n}"),
                lambda _: everything(broker, [ONE.name]),
                lambda n: broker.ensure([Topic(f"contract.new-{n}", 2)]),
            ]
            for call in calls:
                for n in count(1):
                    if not (await cancelled_at(partial(call, n), n)).reached:
                        break
            await broker.publish([record("k", "3", topic=ONE.name)])
            subscription = await broker.subscribe("group-1", [ONE.name])
            assert values(await take(subscription, 4)) == [b"0", b"1", b"2", b"3"]

    async def test_a_cancelled_commit_is_made_or_not(self, make: MakeBroker) -> None:
        """The group goes on from one of the two offsets, and a commit again is good."""
        async with opened(make) as broker:
            records = [record("k", str(n), topic=ONE.name) for n in range(40)]
            await broker.publish(records)
            subscription = await broker.subscribe("group", [ONE.name])
            await take(subscription, 40)
            for n in count(1):
                offsets = {at(records[n]): records[n].offset + 1}
                told = await cancelled_at(partial(subscription.commit, offsets), n)
                if not told.reached:
                    break
            await subscription.close()
            again = await broker.subscribe("group", [ONE.name])
            assert await take(again, 39 - n) == records[n + 1 :]

"""What a store and a log show to an audit: all that is there, as values."""

from __future__ import annotations

from typing import cast

from choreo.events import Partition, Record
from choreo.plan import Memo, Remember, SetTimer, Status
from choreo.ports import AuditedBroker, AuditedStore, Contents, InboxRow, MemoRow, TimerRow
from choreo.testing.contracts.place import (
    GROUP,
    HANDLER,
    TOPIC,
    MakePlace,
    Place,
    opened,
    parked,
    publish,
    settle,
    source,
    subject,
)

__all__ = ["ShowingContract"]

HERE = Partition(TOPIC.name, 0)


async def shown(place: Place) -> Contents:
    """Ask the store for all that it keeps."""
    return await cast("AuditedStore", place.store).contents()


class ShowingContract:
    """What is written is shown, and nothing else: for stores and logs that can be audited.

    Its fixture `make` is the one of a StoreContract.
    """

    async def test_nothing_is_shown_where_nothing_is(self, make: MakePlace) -> None:
        """An empty store shows nothing, nor a log that nobody reads."""
        async with opened(make) as place:
            found = await shown(place)
            assert not [*found.inbox, *found.timers, *found.memos, *found.owners, *found.outbox]
            assert not found.floors
            assert await cast("AuditedBroker", place.broker).positions() == {}

    async def test_deliveries_are_shown_as_they_are(self, make: MakePlace) -> None:
        """Settled, parked, void: with the place that each came in at."""
        async with opened(make) as place:
            owned = await place.own()
            await place.apply(owned, settle(1))
            await place.apply(owned, settle(2, Status.PARKED, parked=parked(70.0, chain="c")))
            await place.apply(owned, settle(3, Status.VOID))
            contents = await shown(place)
            assert sorted(contents.inbox) == [
                InboxRow(HANDLER, subject(1), Status.DONE, source(1)),
                InboxRow(HANDLER, subject(2), Status.PARKED, source(2), 70.0, "c"),
                InboxRow(HANDLER, subject(3), Status.VOID, source(3)),
            ]

    async def test_timers_and_outside_calls_are_shown(self, make: MakePlace) -> None:
        """A timer that has not fired, a call that nobody knows the outcome of."""
        async with opened(make) as place:
            owned = await place.own()
            timer = SetTimer(subject(9), 90.0, HANDLER, b"payload", source(4))
            call = Remember(subject(4), f"{HANDLER}/charge", Memo.INTENT, b"")
            await place.apply(owned, settle(4, Status.PARKED, parked=parked(1.0)), timer, call)
            contents = await shown(place)
            assert list(contents.timers) == [TimerRow(subject(9), HANDLER, 90.0, source(4))]
            assert list(contents.memos) == [MemoRow(HANDLER, subject(4), "charge", Memo.INTENT)]

    async def test_owners_are_shown_until_they_let_go(self, make: MakePlace) -> None:
        """Whoever has a partition is named."""
        async with opened(make) as place:
            await place.own(0, 1)
            owners = (await shown(place)).owners
            assert {(one.group, one.partition.number, bool(one.holder)) for one in owners} == {
                (GROUP, 0, True),
                (GROUP, 1, True),
            }

    async def test_what_is_not_sent_is_shown(self, make: MakePlace) -> None:
        """A record that waits for its relay is there, in a store that has one."""
        async with opened(make) as place:
            owned = await place.own()
            await place.apply(owned, settle(1), publish("a"))
            outbox = (await shown(place)).outbox
            if place.store.traits.publishes:
                assert not outbox
            else:
                ((_, partition, record),) = outbox
                assert partition == HERE
                assert (record.topic, record.value) == (TOPIC.name, b"a")

    async def test_committed_offsets_are_shown(self, make: MakePlace) -> None:
        """What a group has committed is what it reads next."""
        async with opened(make) as place:
            record = Record(TOPIC.name, b"k", {"ce_id": "1"}, b"1")
            await place.broker.publish([record])
            subscription = await place.broker.subscribe("readers", [TOPIC.name])
            partition = Partition(TOPIC.name, record.partition)
            await subscription.poll(1)
            await subscription.commit({partition: record.offset + 1})
            await subscription.close()
            positions = await cast("AuditedBroker", place.broker).positions()
            assert positions["readers", partition] == record.offset + 1

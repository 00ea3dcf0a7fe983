"""What a store promises whose plans are published by a relay: rows, in order, until told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from choreo.events import Partition, Record
from choreo.plan import Change, Owned, Plan, Publish, Sent, Settle, Status
from choreo.ports import ORPHANS, Applied, Seen, Tx, Unsent
from choreo.testing.contracts.place import (
    GROUP,
    TOPIC,
    MakePlace,
    Place,
    opened,
    parked,
    publish,
    reopenable,
    settle,
    source,
    subject,
    unsent,
    unwritable,
    want,
)
from choreo.testing.contracts.sections import Section

__all__ = ["OutboxContract"]

HERE, THERE = Partition(TOPIC.name, 0), Partition(TOPIC.name, 1)
AWAY = Partition("contract.away", 3)
"""A partition of a topic that this store has never heard of."""


class OutboxContract:
    """Part of the contract of a store; skipped where the store publishes by itself."""

    async def test_a_record_waits_as_it_was_published(self, make: MakePlace) -> None:
        """Topic, key, headers and value, of any bytes; and it knows its row."""
        async with _opened(make) as place:
            owned = await place.own()
            bytes_ = bytes(range(256))
            records = [
                Record("elsewhere.unheard-of", None, {}, b""),
                Record(TOPIC.name, bytes_, {"ce_id": "✓", "odd": "\udcff"}, bytes_ * 1000),
            ]
            plan: list[Change] = [settle(1), *(Publish(record) for record in records)]
            assert await place.apply(owned, *plan) is Applied.DONE
            rows = await unsent(place)
            assert [_content(one.record) for one in rows] == [_content(one) for one in records]
            assert [one.row for one in rows] == [one.row for one in records]
            assert all(one.row > 0 for one in rows)

    async def test_rows_rise_as_they_are_committed(self, make: MakePlace) -> None:
        """Per input partition, within a plan, a group, and from one group to the next."""
        async with _opened(make) as place:
            claims = await _claims(place)
            for turn in range(3):
                group = [
                    _step(claims[n % 2], 100 * turn + n, f"{turn}.{n}.0", f"{turn}.{n}.1")
                    for n in range(60)
                ]
                assert set(await place.store.apply(group)) == {Applied.DONE}
            for number, claim in enumerate(claims):
                rows = await unsent(place, claim)
                assert [one.row for one in rows] == sorted({one.row for one in rows})
                assert _values(rows) == [
                    f"{turn}.{n}.{i}"
                    for turn in range(3)
                    for n in range(number, 60, 2)
                    for i in range(2)
                ]

    async def test_side_by_side_each_plan_keeps_its_order(self, make: MakePlace) -> None:
        """Groups that are written at once do not tear a plan's records apart from their order."""
        async with _opened(make) as place:
            claims = await _claims(place)
            await asyncio.gather(
                *(
                    place.store.apply([_step(claims[n % 2], n, f"{n}.0", f"{n}.1")])
                    for n in range(80)
                )
            )
            for number, claim in enumerate(claims):
                seen = _values(await unsent(place, claim))
                assert sorted(seen) == sorted(
                    f"{n}.{i}" for n in range(number, 80, 2) for i in range(2)
                )
                assert all(
                    seen.index(f"{n}.0") < seen.index(f"{n}.1") for n in range(number, 80, 2)
                )

    async def test_a_row_is_of_the_partition_that_the_delivery_came_in_on(
        self, make: MakePlace
    ) -> None:
        """Whatever was done with it, and whatever topic its record goes to."""
        async with _opened(make) as place:
            claims = await _claims(place)
            claim = settle(5, at=source(5, partition=1))
            row = parked(place.clock.now())

            async def section(tx: Tx, seen: Seen) -> tuple[Change, ...]:
                del tx, seen
                return settle(4, at=source(4, partition=1)), publish("section")

            plans = [
                _step(claims[1], 1, "done", topic="elsewhere.any"),
                Plan(claims[1], (publish("note"),)),
                Plan(
                    claims[1],
                    (
                        claim._replace(subject=subject(2), status=Status.PARKED, parked=row),
                        publish("parked"),
                    ),
                ),
                Plan(claims[1], (), section, want(4)),
                Plan(claims[1], (claim,), _claimed(claim), want(5)),
            ]
            for plan in plans:
                assert await place.store.apply([plan]) == [Applied.DONE]
            assert await unsent(place, claims[0]) == []
            rows = await unsent(place, claims[1])
            assert _once(rows) == ["done", "note", "parked", "section", "claimed"]
            assert {one.partition for one in rows} == {THERE}

    async def test_a_source_may_be_a_topic_that_nobody_here_knows(self, make: MakePlace) -> None:
        """Its broker is another's: nothing had to be created for it."""
        async with _opened(make) as place:
            owned = await place.store.own(GROUP, [AWAY])
            at = source()._replace(topic=AWAY.topic, partition=AWAY.number)
            assert await place.apply(owned, settle(1, at=at), publish("1")) is Applied.DONE
            (row,) = await unsent(place, owned)
            assert row.partition == AWAY
            assert (await place.look(want(1))).source == at

    async def test_a_group_sees_its_own_rows(self, make: MakePlace) -> None:
        """Two services of one store read the same partitions."""
        async with _opened(make) as place:
            for group in ("one", "other"):
                owned = await place.own(group=group)
                change = settle(1, handler=f"{group}.take")
                assert await place.apply(owned, change, publish(group)) is Applied.DONE
                assert _values(await unsent(place, owned)) == [group]

    async def test_what_came_of_no_delivery_is_with_the_orphans(self, make: MakePlace) -> None:
        """And so is what came in on a partition that no process has any more."""
        async with _opened(make) as place:
            gone = await place.store.own("former", [AWAY])
            owned = await place.own(0, 1)
            orphans = await place.store.own(GROUP, [ORPHANS])
            assert await place.apply(None, publish("nobody's")) is Applied.DONE
            at = source(1, partition=3)
            assert await place.apply(orphans, settle(1, at=at), publish("orphan's")) is Applied.DONE
            assert await place.apply(owned, settle(2), publish("owner's")) is Applied.DONE
            assert await place.apply(gone, publish("another's")) is Applied.DONE
            assert _values(await unsent(place, owned)) == ["owner's"]
            assert _once(await unsent(place, orphans)) == ["nobody's", "orphan's"]

    # ── whole or not at all ──────────────────────────────────────────────────────────────

    async def test_rows_are_written_with_their_plan_or_not_at_all(self, make: MakePlace) -> None:
        """A plan that loses, fails or is stale leaves none; those beside it do."""
        async with _opened(make) as place:
            former = await place.own()
            owned = await place.own()
            assert await place.apply(owned, settle(1)) is Applied.DONE

            async def raising(tx: Tx, seen: Seen) -> tuple[Change, ...]:
                del tx, seen
                raise ValueError

            group = [
                Plan(owned, (settle(1), publish("duplicate"))),
                Plan(owned, (settle(2), publish("2"), publish("3"))),
                Plan(owned, (settle(3), publish("failed"), unwritable(place))),
                Plan(former, (settle(4), publish("stale"))),
                Plan(owned, (), raising, want(5)),
                Plan(owned, (settle(6),), _claimed(settle(6)), want(6)),
            ]
            results = await place.store.apply(group)
            assert [one for one in results if isinstance(one, Applied)] == [
                Applied.DUPLICATE,
                Applied.DONE,
                Applied.STALE,
                Applied.DONE,
            ]
            assert sorted(_values(await unsent(place))) == ["2", "3", "claimed"]

    async def test_a_cancelled_apply_leaves_all_rows_or_none(self, make: MakePlace) -> None:
        """Applied again, each is there once."""
        async with _opened(make) as place:
            owned = await place.own()
            for n in range(12):
                plan = settle(n), publish(f"{n}.0"), publish(f"{n}.1")
                applying = asyncio.create_task(place.apply(owned, *plan))
                for _ in range(n):
                    await asyncio.sleep(0)
                applying.cancel()
                await asyncio.gather(applying, return_exceptions=True)
                assert await place.apply(owned, *plan) in (Applied.DONE, Applied.DUPLICATE)
            seen = _values(await unsent(place))
            assert seen == [f"{n}.{i}" for n in range(12) for i in range(2)]

    # ── sent ─────────────────────────────────────────────────────────────────────────────

    async def test_what_is_sent_is_forgotten_and_no_more(self, make: MakePlace) -> None:
        """Exactly the rows that are named; naming one again is fine."""
        async with _opened(make) as place:
            owned = await place.own()
            await place.store.apply([_step(owned, n, f"{n}.0", f"{n}.1") for n in range(50)])
            rows = await unsent(place)
            gone = [one for one in rows if one.row % 3 == 0]
            kept = [one for one in rows if one.row % 3]
            sent = Sent(tuple(one.row for one in gone))
            for _ in range(2):
                assert await place.apply(None, sent) is Applied.DONE
                assert _values(await unsent(place)) == _values(kept)
            assert await place.apply(None, Sent(())) is Applied.DONE
            assert _values(await unsent(place)) == _values(kept)

    async def test_sent_goes_along_with_other_plans(self, make: MakePlace) -> None:
        """In one group with what is new; it is nobody's, and no stale owner keeps it back."""
        async with _opened(make) as place:
            former = await place.own()
            await place.apply(former, settle(1), publish("1"))
            (row,) = await unsent(place)
            owned = await place.own()
            group = [
                Plan(owned, (settle(2), publish("2"))),
                Plan(former, (settle(3), publish("3"))),
                Plan(None, (Sent((row.row,)),)),
            ]
            assert await place.store.apply(group) == [Applied.DONE, Applied.STALE, Applied.DONE]
            assert _values(await unsent(place)) == ["2"]

    async def test_no_row_is_given_twice(self, make: MakePlace) -> None:
        """Also when all before it are gone: a late Sent forgets nothing that is new."""
        async with _opened(make) as place:
            owned = await place.own()
            given: list[int] = []
            for n in range(5):
                await place.apply(owned, settle(n), publish(str(n)))
                (row,) = await unsent(place)
                assert row.row not in given
                given.append(row.row)
                await place.apply(None, Sent(tuple(given)))
            assert given == sorted(given)

    async def test_rows_are_read_in_pieces(self, make: MakePlace) -> None:
        """Beyond a row, so many at most: together they are all, each once."""
        async with _opened(make) as place:
            owned = await place.own()
            await place.store.apply([_step(owned, n, str(n)) for n in range(20)])
            whole = await unsent(place, owned, most=1000)
            assert _values(whole) == [str(n) for n in range(20)]
            assert _values(await unsent(place, owned, most=3)) == _values(whole)
            assert await unsent(place, owned, after=whole[-1].row) == []
            assert _values(await unsent(place, owned, after=whole[4].row)) == _values(whole[5:])

    async def test_rows_survive_a_stop_and_are_the_next_owners(self, make: MakePlace) -> None:
        """Also of a plan whose owner is another one by now."""
        async with _opened(make) as place:
            reopenable(place)
            owned = await place.own()
            await place.store.apply([_step(owned, n, str(n)) for n in range(5)])
            rows = await unsent(place)
            await place.apply(None, Sent((rows[0].row, rows[3].row)))
        async with _opened(make) as again:
            owned = await again.own()
            left = await unsent(again, owned)
            assert [one.row for one in left] == [rows[n].row for n in (1, 2, 4)]
            assert [_content(one.record) for one in left] == [
                _content(rows[n].record) for n in (1, 2, 4)
            ]
            assert await again.apply(owned, settle(9), publish("9")) is Applied.DONE
            assert (await unsent(again, owned))[-1].row > rows[-1].row


@asynccontextmanager
async def _opened(make: MakePlace) -> AsyncIterator[Place]:
    async with opened(make) as place:
        await unsent(place)  # or skipped
        yield place


async def _claims(place: Place) -> tuple[Owned, Owned]:
    """Take two partitions over, each on its own, as a worker's plans stand on them."""
    owned = await place.own(0, 1)
    return owned.only(HERE), owned.only(THERE)


def _step(owned: Owned, number: int, *values: str, topic: str = TOPIC.name) -> Plan:
    """Settle a delivery of the first partition that is owned, and publish."""
    partition = min(owned.epochs)
    at: Settle = settle(number, at=source(number, partition=partition.number))
    return Plan(owned, (at, *(publish(value, topic=topic) for value in values)))


def _claimed(claim: Settle) -> Section:
    async def section(tx: Tx, seen: Seen) -> tuple[Change, ...]:
        del tx, seen
        return claim, publish("claimed")

    return section


def _values(rows: Sequence[Unsent]) -> list[str]:
    return [one.record.value.decode() for one in rows]


def _once(rows: Sequence[Unsent]) -> list[str]:
    """List values; what is compared with nothing may be there twice, when its answer was lost."""
    return list(dict.fromkeys(_values(rows)))


def _content(record: Record) -> tuple[object, ...]:
    return record.topic, record.key, record.headers, record.value

"""What a store promises who publishes in a transaction of his own."""

from __future__ import annotations

import asyncio
from typing import cast

from choreo.errors import StoreError
from choreo.events import Record
from choreo.plan import Change, Plan
from choreo.ports import ORPHANS, Applied, Enlisting, Outbox, Seen, Tx
from choreo.testing.contracts.place import (
    GROUP,
    MakePlace,
    Place,
    opened,
    publish,
    published,
    settle,
    unsent,
    want,
)
from choreo.testing.contracts.written import refused

__all__ = ["EnlistingContract"]


class EnlistingContract:
    """Part of the contract of a store."""

    async def test_what_is_enlisted_is_published_with_the_transaction(
        self, make: MakePlace
    ) -> None:
        """Not before its end, in the order of the calls, and beside the rows of the caller."""
        async with opened(make) as place:
            async with place.store.transaction() as tx:
                await tx.execute("CREATE TABLE contract_rows (n INTEGER)")
            async with place.store.transaction() as tx:
                await tx.execute("INSERT INTO contract_rows VALUES (1)")
                for value in ("1", "2", "3"):
                    await _enlist(place, tx, value)
            assert await published(place) == ["1", "2", "3"]
            async with place.store.transaction() as tx:
                assert await tx.fetchval("SELECT n FROM contract_rows") == 1

    async def test_what_is_rolled_back_is_never_published(self, make: MakePlace) -> None:
        """What comes after it is."""
        async with opened(make) as place:
            with refused(ZeroDivisionError):
                async with place.store.transaction() as tx:
                    await _enlist(place, tx, "never")
                    raise ZeroDivisionError
            async with place.store.transaction() as tx:
                await _enlist(place, tx, "2")
            assert await published(place) == ["2"]

    async def test_steps_publish_beside_it(self, make: MakePlace) -> None:
        """Each record is there once, whoever has left it."""
        async with opened(make) as place:
            owned = await place.own()
            for n in range(4):
                async with place.store.transaction() as tx:
                    await _enlist(place, tx, f"own {n}")
                assert await place.apply(owned, settle(n), publish(f"step {n}")) is Applied.DONE
            everything = [f"{whose} {n}" for n in range(4) for whose in ("own", "step")]
            assert await published(place) == everything

    async def test_a_transaction_that_is_none_is_refused(self, make: MakePlace) -> None:
        """One that is over, and what is no transaction at all; nothing is published."""
        async with opened(make) as place:
            async with place.store.transaction() as tx:
                pass
            for none in (tx, object(), None):
                with refused(StoreError):
                    await _enlist(place, none, "lost")
            with refused(StoreError):
                await tx.execute("SELECT 1")
            assert await published(place) == []

    async def test_a_handlers_transaction_is_refused(self, make: MakePlace) -> None:
        """A step publishes what it returns."""
        async with opened(make) as place:
            owned = await place.own()

            async def section(tx: Tx, seen: Seen) -> tuple[Change, ...]:
                del seen
                await _enlist(place, tx, "lost")
                return (settle(1),)

            (told,) = await place.store.apply([Plan(owned, (), section, want(1))])
            assert isinstance(told, StoreError), told
            assert told.code == "CH4014"
            assert await published(place) == []

    async def test_one_group_at_a_time_publishes_what_is_enlisted(self, make: MakePlace) -> None:
        """The first that somebody has; who waits for it is told."""
        async with opened(make) as place:
            await unsent(place)  # or skipped
            outbox = cast("Outbox", place.store)
            others = await place.store.own("others", [ORPHANS])
            mine = await place.store.own(GROUP, [ORPHANS])
            async with asyncio.timeout(20):
                waiting = asyncio.ensure_future(outbox.stirred())
                async with place.store.transaction() as tx:
                    await _enlist(place, tx, "1")
                await waiting
            assert await unsent(place, others) == []
            (row,) = await unsent(place, mine)
            assert (row.record.value, row.partition) == (b"1", ORPHANS)


async def _enlist(place: Place, tx: object, value: str) -> None:
    change = publish(value)
    record: Record = change.record
    await cast("Enlisting", place.store).enlist(tx, record)

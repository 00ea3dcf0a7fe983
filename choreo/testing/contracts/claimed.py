"""What a store promises of sections that bring their claim: the row that they begin with."""
# ruff: noqa: ARG001, PLR2004 - a section takes what a section is given; values are literal

from __future__ import annotations

import asyncio

from choreo.errors import ChoreoError, StoreError
from choreo.plan import Change, Owned, Plan, Settle, Status
from choreo.ports import UNWRITTEN, Applied, Seen, Tx
from choreo.testing.contracts.place import (
    MakePlace,
    due,
    opened,
    parked,
    publish,
    published,
    settle,
    unwritable,
    want,
)
from choreo.testing.contracts.sections import INSERT, Section, Wrong, prepared, rows, writing

__all__ = ["ClaimedSectionContract"]


class ClaimedSectionContract:
    """Part of the contract of a store."""

    async def test_a_claim_is_written_with_its_section(self, make: MakePlace) -> None:
        """Many in one group: each has its rows, its records in their order, its row."""
        async with opened(make) as place:
            owned = await prepared(place)
            group = [claiming(owned, n, telling(n)) for n in range(40)]
            assert set(await place.store.apply(group)) == {Applied.DONE}
            assert await rows(place) == [(n, str(n), n) for n in range(40)]
            assert await published(place) == [str(n) for n in range(40)]
            seen = await place.store.load([want(n) for n in range(41)])
            assert [one.status for one in seen] == [Status.DONE] * 40 + [None]

    async def test_a_claim_that_was_made_before_keeps_no_other_out(self, make: MakePlace) -> None:
        """Its section does not run; those beside it run once."""
        async with opened(make) as place:
            owned = await prepared(place)
            for settled in (0, 3, 5):
                await place.apply(owned, settle(settled))
            ran: list[int] = []
            group = [claiming(owned, n, writing(n, ran)) for n in (0, 1, 2, 3, 4, 4, 5)]
            results = list(await place.store.apply(group))
            lost = [n for n, result in enumerate(results) if result is Applied.DUPLICATE]
            assert len(lost) == 4
            assert {0, 3, 6} < set(lost)
            assert results.count(Applied.DONE) == 3
            assert sorted(ran) == [1, 2, 4]
            assert await rows(place) == [(n, str(n), n) for n in (1, 2, 4)]

    async def test_a_claim_goes_when_its_section_raises(self, make: MakePlace) -> None:
        """The delivery can be tried again, and the others of the group are written."""
        async with opened(make) as place:
            owned = await prepared(place)
            group = [claiming(owned, n, failing(n) if n % 2 else telling(n)) for n in range(6)]
            results = await place.store.apply(group)
            assert [result is Applied.DONE for result in results] == [True, False] * 3
            assert all(isinstance(result, Wrong) for result in results[1::2])
            seen = await place.store.load([want(n) for n in range(6)])
            assert [one.status for one in seen] == [Status.DONE, None] * 3
            assert await rows(place) == [(n, str(n), n) for n in (0, 2, 4)]
            assert await published(place) == ["0", "2", "4"]
            again = [claiming(owned, n, telling(n)) for n in (1, 3, 5)]
            assert set(await place.store.apply(again)) == {Applied.DONE}
            assert len(await published(place)) == 6

    async def test_a_section_may_come_to_something_else_than_its_claim(
        self, make: MakePlace
    ) -> None:
        """What it returns is what is written: parked, void, or with more changes."""
        async with opened(make) as place:
            owned = await prepared(place)
            now = place.clock.now()
            ends = (
                settle(0, Status.PARKED, parked=parked(now, chain="a")),
                settle(1, Status.VOID),
                settle(2),
            )
            group = [claiming(owned, n, ending(end)) for n, end in enumerate(ends)]
            assert set(await place.store.apply(group)) == {Applied.DONE}
            assert await due(place, owned) == [0]
            found = [await place.status(n) for n in range(3)]
            assert found == [Status.PARKED, Status.VOID, Status.DONE]

    async def test_what_is_not_the_sections_fault_is_said_so(self, make: MakePlace) -> None:
        """A StoreError of code UNWRITTEN, for a plan with a section as for one without."""
        async with opened(make) as place:
            owned = await prepared(place)
            lost = unwritable(place)

            async def section(tx: Tx, seen: Seen) -> tuple[Change, ...]:
                await tx.execute(INSERT, 1, "lost", 1)
                return settle(1), lost

            group = [
                claiming(owned, 1, section),
                Plan(owned, (), section, want(1)),
                Plan(owned, (settle(2), lost)),
                claiming(owned, 3, telling(3)),
            ]
            *errors, last = await place.store.apply(group)
            assert last is Applied.DONE
            for error in errors:
                assert isinstance(error, StoreError)
                assert error.code == UNWRITTEN
            assert [await place.status(n) for n in (1, 2, 3)] == [None, None, Status.DONE]
            assert await rows(place) == [(3, "3", 3)]

    # ── transactions outside of steps ────────────────────────────────────────────────────

    async def test_a_cancelled_transaction_leaves_nothing(self, make: MakePlace) -> None:
        """Cancelled while it is open; whoever writes next does not wait for it."""
        async with opened(make) as place:
            owned = await prepared(place)
            begun = asyncio.Event()

            async def holding() -> None:
                async with place.store.transaction() as tx:
                    await tx.execute(INSERT, 1, "held", 1)
                    begun.set()
                    await asyncio.Event().wait()

            async with asyncio.timeout(20):
                task = asyncio.create_task(holding())
                await begun.wait()
                task.cancel()
                await asyncio.wait([task])
                assert task.cancelled()
                (result,) = await place.store.apply([claiming(owned, 2, telling(2))])
            assert result is Applied.DONE
            assert await rows(place) == [(2, "2", 2)]

    async def test_a_statement_that_fails_leaves_the_transaction_usable(
        self, make: MakePlace
    ) -> None:
        """Whoever catches its error goes on; what went before is kept."""
        async with opened(make) as place:
            await prepared(place)
            async with place.store.transaction() as tx:
                await tx.execute(INSERT, 1, "kept", 1)
                try:
                    await tx.execute("INSERT INTO contract_missing VALUES (1)")
                except ChoreoError as exc:
                    assert not exc.transient  # noqa: PT017 - the transaction is what is tested
                await tx.execute(INSERT, 2, "kept", 2)
            assert await rows(place) == [(1, "kept", 1), (2, "kept", 2)]


def claiming(owned: Owned, number: int, section: Section) -> Plan:
    """Make a plan that brings its claim."""
    return Plan(owned, (settle(number),), section, want(number))


def telling(number: int) -> Section:
    """Make a section that writes a row, settles its delivery and publishes."""

    async def section(tx: Tx, seen: Seen) -> tuple[Change, ...]:
        await tx.execute(INSERT, number, str(number), number)
        return settle(number), publish(str(number))

    return section


def failing(number: int) -> Section:
    """Make a section that writes a row and raises."""

    async def section(tx: Tx, seen: Seen) -> tuple[Change, ...]:
        await tx.execute(INSERT, number, "lost", number)
        raise Wrong

    return section


def ending(end: Settle) -> Section:
    """Make a section that ends like this."""

    async def section(tx: Tx, seen: Seen) -> tuple[Change, ...]:
        await tx.execute(INSERT, 0, "x", 0)
        return (end,)

    return section

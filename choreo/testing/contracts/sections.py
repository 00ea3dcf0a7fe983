"""What a store promises of a service's own data: in the step's transaction, or in none."""
# ruff: noqa: PLR2004 - these are tests: expected values are literal

# ruff: noqa: ARG001 - a section takes what a section is given
from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from choreo.errors import ChoreoError
from choreo.plan import Change, Gate, GateKey, Owned, Parked, Plan, Status
from choreo.ports import Applied, GateSeen, Row, Seen, StateSeen, Tx, Want
from choreo.testing.contracts.place import (
    HANDLER,
    MakePlace,
    Place,
    opened,
    publish,
    published,
    reopenable,
    settle,
    source,
    subject,
    unwritable,
    want,
)
from choreo.testing.contracts.written import refused

__all__ = ["SectionContract"]

Section = Callable[[Tx, Seen], Awaitable[tuple[Change, ...]]]
CREATE = "CREATE TABLE contract_sums (id INTEGER, what TEXT, n INTEGER)"
INSERT = "INSERT INTO contract_sums (id, what, n) VALUES ($1, $2, $3)"
SELECT = "SELECT id, what, n FROM contract_sums ORDER BY id, what"
KEY = GateKey("effects", "contract.undo", "flow")
STATE = ("contract.Basket", "1")


class Wrong(Exception):  # noqa: N818 - what a user's own code may raise
    """What the handlers of these tests raise."""


class SectionContract:
    """Part of the contract of a store."""

    # ── sections ─────────────────────────────────────────────────────────────────────────

    async def test_a_section_and_its_changes_are_one(self, make: MakePlace) -> None:
        """It sees what it wrote, and what it returns is written with it."""
        async with opened(make) as place:
            owned = await prepared(place)

            async def section(tx: Tx, seen: Seen) -> tuple[Change, ...]:
                assert seen.status is None
                assert await tx.execute(INSERT, 1, "a", 10) == 1
                assert await tx.execute(INSERT, 2, "b", 20) == 1
                assert await tx.execute("UPDATE contract_sums SET n = n + $1", 5) == 2
                assert await tx.fetchval("SELECT sum(n) FROM contract_sums") == 40
                return settle(1), publish("done")

            assert await run(place, owned, section) is Applied.DONE
            assert await rows(place) == [(1, "a", 15), (2, "b", 25)]
            assert await place.status(1) is Status.DONE
            assert await published(place) == ["done"]

    async def test_a_section_that_raises_leaves_nothing(self, make: MakePlace) -> None:
        """Its own exception stands in its place; the other plans of its group are written."""
        async with opened(make) as place:
            owned = await prepared(place)

            async def bad(tx: Tx, seen: Seen) -> tuple[Change, ...]:
                await tx.execute(INSERT, 2, "bad", 0)
                raise Wrong

            async def broken(tx: Tx, seen: Seen) -> tuple[Change, ...]:
                await tx.execute(INSERT, 3, "broken", 0)
                await tx.execute("INSERT INTO contract_missing (id) VALUES ($1)", 1)
                return (settle(3),)

            async def lost(tx: Tx, seen: Seen) -> tuple[Change, ...]:
                await tx.execute(INSERT, 4, "lost", 0)
                return settle(4), unwritable(place)

            results = await place.store.apply(
                [
                    Plan(owned, (), writing(1), want(1)),
                    Plan(owned, (), bad, want(2)),
                    Plan(owned, (), broken, want(3)),
                    Plan(owned, (), lost, want(4)),
                    Plan(owned, (), writing(5), want(5)),
                    Plan(owned, (settle(6),)),
                ]
            )
            assert [results[n] for n in (0, 4, 5)] == [Applied.DONE] * 3
            assert isinstance(results[1], Wrong)
            assert isinstance(results[2], Exception)
            assert isinstance(results[3], ChoreoError)
            assert await rows(place) == [(1, "1", 1), (5, "5", 5)]
            seen = await place.store.load([want(n) for n in range(1, 7)])
            assert [one.status is Status.DONE for one in seen] == [True, *[False] * 3, True, True]

    async def test_sections_of_a_group_run_one_after_the_other(self, make: MakePlace) -> None:
        """Each sees what those before it left."""
        async with opened(make) as place:
            owned = await prepared(place)
            await place.store.apply([Plan(owned, (), writing(0), want(0))])

            def adding(number: int) -> Section:
                async def section(tx: Tx, seen: Seen) -> tuple[Change, ...]:
                    n = await tx.fetchval("SELECT n FROM contract_sums")
                    await tx.execute("UPDATE contract_sums SET n = $1", n + number)
                    return (settle(number),)

                return section

            group = [Plan(owned, (), adding(n), want(n)) for n in range(1, 41)]
            assert set(await place.store.apply(group)) == {Applied.DONE}
            assert await rows(place) == [(0, "0", sum(range(41)))]

    async def test_a_section_of_a_settled_delivery_does_not_run(self, make: MakePlace) -> None:
        """Nor one of an owner that is none any more."""
        async with opened(make) as place:
            former = await prepared(place)
            ran: list[int] = []
            await place.apply(former, settle(1))
            assert await run(place, former, writing(1, ran)) is Applied.DUPLICATE
            owned = await place.own()
            assert await run(place, former, writing(2, ran), want(2)) is Applied.STALE
            assert ran == []
            assert await run(place, owned, writing(2, ran), want(2)) is Applied.DONE
            assert ran == [2]
            assert await rows(place) == [(2, "2", 2)]

    async def test_a_delivery_twice_in_a_group_runs_once(self, make: MakePlace) -> None:
        """Whoever comes second finds it settled."""
        async with opened(make) as place:
            owned = await prepared(place)
            ran: list[int] = []
            group = [Plan(owned, (), writing(1, ran), want(1)) for _ in range(3)]
            results = list(await place.store.apply(group))
            assert results == [Applied.DONE, Applied.DUPLICATE, Applied.DUPLICATE]
            assert ran == [1]
            assert await rows(place) == [(1, "1", 1)]

    async def test_a_section_sees_gates_and_state_inside(self, make: MakePlace) -> None:
        """What it wants is read in its transaction: what it decides on can not have changed."""
        async with opened(make) as place:
            owned = await prepared(place)
            wanted = Want(HANDLER, subject(1), gates=(KEY,), state=STATE)
            found: list[Seen] = []

            async def section(tx: Tx, seen: Seen) -> tuple[Change, ...]:
                found.append(seen)
                members = seen.gates[KEY].members + b"+"
                return settle(1), Gate(KEY, seen.gates[KEY].seq, closed=False, members=members)

            change = Gate(KEY, 0, closed=False, members=b"before")
            group = [Plan(owned, (settle(9), change)), Plan(owned, (), section, wanted)]
            assert list(await place.store.apply(group)) == [Applied.DONE] * 2
            assert found[0].gates[KEY].members == b"before"
            assert found[0].state == StateSeen(0, None)
            seen = await place.look(wanted)
            assert seen.gates[KEY].members == b"before+"

    async def test_changes_that_lose_take_the_section_back(self, make: MakePlace) -> None:
        """A conflict, or a row that is another by now, leaves none of its statements."""
        async with opened(make) as place:
            owned = await prepared(place)
            kept = Parked(0, 2, None, "chain", b"", "")
            await place.apply(owned, settle(2, Status.PARKED, parked=kept))

            async def conflicting(tx: Tx, seen: Seen) -> tuple[Change, ...]:
                await tx.execute(INSERT, 1, "x", 1)
                return settle(1), Gate(KEY, 7, closed=False, members=b"")

            async def late(tx: Tx, seen: Seen) -> tuple[Change, ...]:
                await tx.execute(INSERT, 2, "x", 1)
                return (settle(2, seen=(0, 1)),)

            assert await run(place, owned, conflicting, want(1)) is Applied.CONFLICT
            assert await run(place, owned, late, want(2)) is Applied.DUPLICATE
            assert await rows(place) == []
            assert (await gate(place)) == GateSeen(0, closed=False, members=b"")

    async def test_a_parked_delivery_has_its_section(self, make: MakePlace) -> None:
        """It sees its attempt, and settles the row that it saw."""
        async with opened(make) as place:
            owned = await prepared(place)
            kept = Parked(1, 3, place.clock.now(), "chain", b"", "")
            await place.apply(owned, settle(1, Status.PARKED, parked=kept))

            async def section(tx: Tx, seen: Seen) -> tuple[Change, ...]:
                assert (seen.status, seen.run, seen.attempt) == (Status.PARKED, 1, 3)
                await tx.execute(INSERT, 1, "x", 1)
                return (settle(1, seen=(seen.run, seen.attempt)),)

            assert await run(place, owned, section) is Applied.DONE
            assert await run(place, owned, section) is Applied.DUPLICATE
            assert await rows(place) == [(1, "x", 1)]

    async def test_a_section_may_await_tx_alone(self, make: MakePlace) -> None:
        """Anything else is an error in its place, and leaves nothing."""
        async with opened(make) as place:
            owned = await prepared(place)

            async def waiting(tx: Tx, seen: Seen) -> tuple[Change, ...]:
                await tx.execute(INSERT, 1, "x", 1)
                await asyncio.sleep(0)
                return (settle(1),)

            async def stubborn(tx: Tx, seen: Seen) -> tuple[Change, ...]:
                for _ in range(3):
                    with suppress(ChoreoError):
                        await waiting(tx, seen)
                return (settle(1),)

            for section in (waiting, stubborn):
                result = await run(place, owned, section)
                assert isinstance(result, ChoreoError)
                assert result.code == "CH5003"
                assert await rows(place) == []
                assert await place.status(1) is None

    async def test_a_section_does_not_steer_the_transaction(self, make: MakePlace) -> None:
        """What would commit, or roll back, more than its own is refused."""
        async with opened(make) as place:
            owned = await prepared(place)
            steering = ("COMMIT", "rollback", " BEGIN", "SAVEPOINT x", "RELEASE x", "END",
                        "/* x */ COMMIT", "-- x\nROLLBACK")  # fmt: skip
            for number, statement in enumerate(steering):

                async def section(tx: Tx, seen: Seen, sql: str = statement) -> tuple[Change, ...]:
                    await tx.execute(INSERT, 1, "x", 1)
                    await tx.execute(sql)
                    raise Wrong

                group = [
                    Plan(owned, (settle(100 + number),)),
                    Plan(owned, (), section, want(1)),
                ]
                results = await place.store.apply(group)
                assert results[0] is Applied.DONE, statement
                assert isinstance(results[1], Exception), statement
                assert await rows(place) == [], statement

    # ── values ───────────────────────────────────────────────────────────────────────────

    async def test_values_come_back_as_the_table_says(self, make: MakePlace) -> None:
        """None, int, float, str and bytes as they are; bool, Decimal and datetime as kept."""
        zone = timezone(timedelta(hours=2))
        same: list[object] = [
            None, 0, -1, 2**63 - 1, -(2**63), 0.1, -1e300, "", "ä✓x", b"", b"\x00\xff",
        ]  # fmt: skip
        kept: list[tuple[object, object]] = [
            *((value, value) for value in same),
            (True, 1),
            (False, 0),
            (Decimal("12.30"), "12.30"),
            (datetime(2026, 1, 2, 3, 4, 5, 600, UTC), "2026-01-02T03:04:05.000600+00:00"),
            (datetime(2026, 1, 2, 3, 4, tzinfo=zone), "2026-01-02T03:04:00+02:00"),
        ]
        async with opened(make) as place, place.store.transaction() as tx:
            for value, wanted in kept:
                found = await tx.fetchval("SELECT $1", value)
                assert found == wanted, value
                assert isinstance(found, type(wanted)) or isinstance(wanted, int), value

    async def test_what_a_table_can_not_keep_is_refused(self, make: MakePlace) -> None:
        """A clear error, not a guess."""
        async with opened(make) as place:
            for value in (object(), [1], {"a": 1}, 2**63, 1j, "a\0b"):
                with refused(ChoreoError):
                    async with place.store.transaction() as tx:
                        await tx.fetchval("SELECT $1", value)

    async def test_rows_and_parameters_have_names_and_numbers(self, make: MakePlace) -> None:
        """A row maps column names; a parameter may stand twice, and in any order."""
        async with opened(make) as place:
            await prepared(place)
            async with place.store.transaction() as tx:
                found = await tx.fetch("SELECT $2 AS b, $1 AS a, $2 AS c", 1, "x")
                assert [dict(row) for row in found] == [{"b": "x", "a": 1, "c": "x"}]
                assert await tx.fetch(SELECT) == []
                assert await tx.fetchval(SELECT) is None
                assert await tx.execute("DELETE FROM contract_sums") == 0

    # ── transactions outside of steps ────────────────────────────────────────────────────

    async def test_a_transaction_commits_or_leaves_nothing(self, make: MakePlace) -> None:
        """At its end all is there; after an exception none, and it is the caller's own."""
        async with opened(make) as place:
            await prepared(place)
            async with place.store.transaction() as tx:
                await tx.execute(INSERT, 1, "kept", 1)
                assert await tx.fetchval("SELECT count(*) FROM contract_sums") == 1
            with refused(Wrong):
                async with place.store.transaction() as tx:
                    await tx.execute(INSERT, 2, "lost", 2)
                    raise Wrong
            assert await rows(place) == [(1, "kept", 1)]

    async def test_a_transaction_may_wait_for_other_things(self, make: MakePlace) -> None:
        """It is no section: its owner may await what he likes in it."""
        async with opened(make) as place:
            owned = await prepared(place)
            async with asyncio.timeout(20), place.store.transaction() as tx:
                count = await tx.fetchval("SELECT count(*) FROM contract_sums")
                await asyncio.sleep(0)
                await tx.execute(INSERT, 1, "later", count)
            assert await run(place, owned, writing(2), want(2)) is Applied.DONE
            assert await rows(place) == [(1, "later", 0), (2, "2", 2)]

    async def test_data_outlives_a_stop(self, make: MakePlace) -> None:
        """As what was settled with it."""
        async with opened(make) as place:
            reopenable(place)
            owned = await prepared(place)
            await run(place, owned, writing(1))
        async with opened(make) as again:
            assert await rows(again) == [(1, "1", 1)]
            assert await again.status(1) is Status.DONE


async def prepared(place: Place) -> Owned:
    """Make the table, and own everything."""
    async with place.store.transaction() as tx:
        await tx.execute(CREATE)
    return await place.own()


def writing(number: int, ran: list[int] | None = None) -> Section:
    """Make a section that inserts a row and settles its delivery."""

    async def section(tx: Tx, seen: Seen) -> tuple[Change, ...]:
        if ran is not None:
            ran.append(number)
        await tx.execute(INSERT, number, str(number), number)
        return (settle(number, at=source(number)),)

    return section


async def run(
    place: Place, owned: Owned, section: Callable[..., Any], wanted: Want | None = None
) -> Applied | BaseException:
    """Apply one plan with a section; for subject 1, unless told otherwise."""
    (result,) = await place.store.apply([Plan(owned, (), section, wanted or want(1))])
    return result


async def rows(place: Place) -> list[tuple[Any, ...]]:
    """List what the table holds."""
    async with place.store.transaction() as tx:
        found: list[Row] = await tx.fetch(SELECT)
        return [tuple(row.values()) for row in found]


async def gate(place: Place) -> GateSeen:
    """Load the gate."""
    return (await place.look(want(1)._replace(gates=(KEY,)))).gates[KEY]

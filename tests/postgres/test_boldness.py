"""Sections run without savepoints until something has to be taken back: nobody notices."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest

from choreo.adapters.postgres import PostgresStore
from choreo.errors import ChoreoError
from choreo.events import Partition
from choreo.plan import Change, Owned, Plan
from choreo.ports import Applied, Seen, Tx
from choreo.testing import ManualClock
from choreo.testing.contracts.place import GROUP, TOPIC, publish, settle, want

Section = Callable[[Tx, Seen], Awaitable[tuple[Change, ...]]]
INSERT = "INSERT INTO contract_sums VALUES ($1, $2)"


@pytest.fixture
async def store(url: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(url, clock=ManualClock())
    async with store.transaction() as tx:
        await tx.execute("CREATE TABLE contract_sums (id BIGINT PRIMARY KEY, n BIGINT NOT NULL)")
    yield store
    await store.close()


async def rows(store: PostgresStore) -> list[tuple[int, int]]:
    async with store.transaction() as tx:
        found = await tx.fetch("SELECT id, n FROM contract_sums ORDER BY id")
    return [(row["id"], row["n"]) for row in found]


def claiming(owned: Owned, number: int, section: Section) -> Plan:
    return Plan(owned, (settle(number),), section, want(number))


def writing(number: int, ran: list[int]) -> Section:
    async def section(tx: Tx, seen: Seen) -> tuple[Change, ...]:
        ran.append(number)
        count = await tx.fetchval("SELECT count(*) FROM contract_sums")
        assert await tx.execute(INSERT, number, count) == 1
        return settle(number), publish(str(number))

    return section


async def test_who_catches_what_it_broke_goes_on_and_so_do_the_others(
    store: PostgresStore,
) -> None:
    """What was said before is said again, with the same answers; no section runs twice."""
    ran: list[int] = []
    owned = await store.own(GROUP, [Partition(TOPIC.name, 0)])

    async def mending(tx: Tx, seen: Seen) -> tuple[Change, ...]:
        ran.append(2)
        await tx.execute(INSERT, 2, 20)
        for broken in (0, 2):
            with pytest.raises(ChoreoError) as told:
                await tx.execute(INSERT, broken, 21)
            assert told.value.code == "CH4006"
        await tx.execute("UPDATE contract_sums SET n = n + 1 WHERE id = $1", 2)
        return settle(2), publish("2")

    async def raising(tx: Tx, seen: Seen) -> tuple[Change, ...]:
        ran.append(4)
        await tx.execute(INSERT, 4, 40)
        raise ValueError

    group = [
        *(claiming(owned, n, writing(n, ran)) for n in (0, 1)),
        claiming(owned, 2, mending),
        claiming(owned, 3, writing(3, ran)),
        claiming(owned, 4, raising),
        claiming(owned, 5, writing(5, ran)),
    ]
    results = await store.apply(group)
    assert [result is Applied.DONE for result in results] == [True] * 4 + [False, True]
    assert isinstance(results[4], ValueError)
    assert ran == [0, 1, 2, 3, 4, 5]
    assert await rows(store) == [(0, 0), (1, 1), (2, 21), (3, 3), (5, 4)]
    unsent = await store.unsent(owned, after=0, most=99)
    assert [one.record.value for one in unsent] == [b"0", b"1", b"2", b"3", b"5"]


@pytest.mark.parametrize("first", [0, 1, 2])
async def test_one_that_raises_is_taken_back_alone(store: PostgresStore, first: int) -> None:
    """The first of a group, one in its midst, or the last."""
    ran: list[int] = []
    owned = await store.own(GROUP, [Partition(TOPIC.name, 0)])

    async def raising(tx: Tx, seen: Seen) -> tuple[Change, ...]:
        await tx.execute(INSERT, 9, 9)
        raise ValueError

    group = [claiming(owned, n, writing(n, ran)) for n in range(3)]
    group[first] = claiming(owned, first, raising)
    results = await store.apply(group)
    assert isinstance(results[first], ValueError)
    others = [n for n in range(3) if n != first]
    assert [results[n] for n in others] == [Applied.DONE] * 2
    assert ran == others
    assert await rows(store) == [(n, count) for count, n in enumerate(others)]
    again = await store.apply([claiming(owned, first, writing(first, ran))])
    assert again == [Applied.DONE]


async def test_other_answers_than_before_are_a_conflict(store: PostgresStore, url: str) -> None:
    """Somebody wrote between: what the first section read would not be true any more."""
    ran: list[int] = []
    owned = await store.own(GROUP, [Partition(TOPIC.name, 0)])
    rival = await asyncpg.connect(url)
    looking = await asyncpg.connect(url)
    try:
        await rival.execute("BEGIN; INSERT INTO contract_sums VALUES (7, 100)")
        await rival.execute("SELECT pg_advisory_xact_lock(42)")

        async def failing(tx: Tx, seen: Seen) -> tuple[Change, ...]:
            await tx.fetchval("SELECT pg_advisory_xact_lock(42)::text")
            with pytest.raises(ChoreoError):
                await tx.fetchval("SELECT 1 / 0")
            return settle(1), publish("1")

        group = [claiming(owned, 0, writing(0, ran)), claiming(owned, 1, failing)]
        applying = asyncio.create_task(store.apply(group))
        waits = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND wait_event = 'advisory' AND datname = current_database()"
        )
        async with asyncio.timeout(15):
            while not await looking.fetchval(waits):  # noqa: ASYNC110 - asks a server
                await asyncio.sleep(0.005)
        await rival.execute("COMMIT")
        results = await applying
        assert all(isinstance(one, ChoreoError) and one.transient for one in results), results
        assert await rows(store) == [(7, 100)]
        assert {one.status for one in await store.load([want(0), want(1)])} == {None}
        (again,) = await store.apply([claiming(owned, 0, writing(0, ran))])
        assert again is Applied.DONE
        assert await rows(store) == [(0, 1), (7, 100)]
    finally:
        rival.terminate()
        looking.terminate()

"""A database that goes: what was told to be written is there once, and the rest can be done."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from typing import Any

import pytest

from choreo.adapters.postgres import PostgresStore
from choreo.errors import ChoreoError, StoreUnavailableError
from choreo.events import Partition
from choreo.plan import Change, Gate, GateKey, Owned, Plan, Settle, Source, Status
from choreo.ports import Applied, Seen, Tx, Want
from choreo.testing import ManualClock
from choreo.testing.contracts.place import GROUP, HANDLER, TOPIC, publish, settle, subject, want
from tests.postgres.database import server
from tests.postgres.proxy import Wire, wire

KEY = GateKey("effects", HANDLER, "flow")
HERE = [Partition(TOPIC.name, 0)]
SIZE, GROUPS = 20, 50
"""Steps that are written together, and how many of these follow when the server is back."""
FAR = 1_000_000
"""Where the second writer's numbers begin."""


@asynccontextmanager
async def wired(url: str) -> AsyncIterator[tuple[PostgresStore, Wire, Owned]]:
    async with wire(url) as (line, near):
        store = PostgresStore(near, clock=ManualClock())
        try:
            yield store, line, await store.own(GROUP, HERE)
        finally:
            line.cut = ""
            await store.close()


async def written(store: PostgresStore, owned: Owned) -> list[str]:
    return [one.record.value.decode() for one in await store.unsent(owned, after=0, most=1000)]


def kinds() -> dict[str, tuple[bytes, tuple[Change, ...]]]:
    """Give, by kind of group, the statement that commits it, and the plan's changes."""
    plain = (settle(1), publish("1"))
    return {
        "plain": (b"", plain),
        "guarded": (b"COMMIT", (*plain, Gate(KEY, 0, closed=True, members=b""))),
    }


@pytest.mark.parametrize("kind", ["plain", "guarded"])
@pytest.mark.parametrize("cut", ["before", "after"])
async def test_a_connection_lost_at_commit(url: str, cut: str, kind: str) -> None:
    """Nobody knows whether it is committed: asked once more, the inbox row tells."""
    word, changes = kinds()[kind]
    async with wired(url) as (store, line, owned):
        await store.apply([Plan(owned, (settle(0), publish("0"), *changes[2:]))])
        line.word, line.cut = word, cut
        again = [Plan(owned, changes)]
        if len(changes) > 2:
            again = [Plan(owned, (*changes[:2], Gate(KEY, 1, closed=True, members=b"")))]
        with pytest.raises(StoreUnavailableError):
            await store.apply(again)
        assert line.cuts == 1
        (told,) = await store.apply(again)
        assert told is (Applied.DUPLICATE if cut == "after" else Applied.DONE)
        assert await written(store, owned) == ["0", "1"]


@pytest.mark.parametrize("cut", ["before", "after"])
async def test_a_connection_lost_in_a_section(url: str, cut: str) -> None:
    """The plan's place says transient; run again, the rows of the user are there once."""
    ran: list[int] = []

    async def section(tx: Tx, seen: Seen) -> tuple[Change, ...]:
        ran.append(1)
        await tx.execute("INSERT INTO contract_sums VALUES (1)")
        return settle(1), publish("1")

    async with wired(url) as (store, line, owned):
        async with store.transaction() as tx:
            await tx.execute("CREATE TABLE contract_sums (n INTEGER)")
        plan = Plan(owned, (settle(1),), section, want(1))
        for word in (b"INSERT INTO contract_sums", b"COMMIT"):
            line.word, line.cut = word, cut
            (told,) = await store.apply([plan])
            if told is Applied.DUPLICATE:  # the COMMIT before was done
                break
            assert isinstance(told, StoreUnavailableError)
        line.cut = ""
        (told,) = await store.apply([plan])
        assert told is (Applied.DUPLICATE if cut == "after" else Applied.DONE)
        async with store.transaction() as tx:
            assert await tx.fetchval("SELECT count(*) FROM contract_sums") == 1
        assert await written(store, owned) == ["1"]
        assert len(ran) == (2 if cut == "after" else 3)


async def test_reading_goes_on_after_a_lost_connection(url: str) -> None:
    async with wired(url) as (store, line, owned):
        await store.apply([Plan(owned, (settle(1),))])
        reads: list[Any] = [
            partial(store.load, [want(1)]),
            partial(store.due, owned, skip=(), most=9),
            partial(store.unsent, owned, after=0, most=9),
            partial(store.own, GROUP, HERE),
        ]
        for read in reads:
            await read()
            line.word, line.cut = b"", "before"
            with pytest.raises(StoreUnavailableError):
                await read()
            await read()
        assert line.cuts == len(reads)


async def test_a_transaction_of_its_own_tells_of_the_loss(url: str) -> None:
    async with wired(url) as (store, line, _):
        line.word = b"CREATE"
        with pytest.raises(StoreUnavailableError):  # noqa: PT012 - the block is the transaction
            async with store.transaction() as tx:
                line.cut = "before"
                await tx.execute("CREATE TABLE contract_sums (n INTEGER)")
        async with store.transaction() as tx:
            await tx.execute("CREATE TABLE contract_sums (n INTEGER)")


async def test_a_transaction_that_waits_for_too_long_is_taken_back(url: str) -> None:
    store = PostgresStore(url, clock=ManualClock(), tx_hold_s=0.05)
    async with store.transaction() as tx:
        await tx.execute("CREATE TABLE contract_sums (n INTEGER)")
    held = asyncio.Event()
    with pytest.raises(ChoreoError) as told:  # noqa: PT012 - the block is the transaction
        async with store.transaction() as tx:
            await tx.execute("INSERT INTO contract_sums VALUES (1)")
            asyncio.get_running_loop().call_later(0.1, held.set)
            await held.wait()
            await tx.execute("INSERT INTO contract_sums VALUES (2)")
    assert told.value.code == "CH4007"
    async with store.transaction() as tx:
        assert await tx.fetchval("SELECT count(*) FROM contract_sums") == 0
    await store.close()


async def test_a_statement_of_a_section_that_takes_too_long_is_ended(url: str) -> None:
    store = PostgresStore(url, clock=ManualClock(), tx_hold_s=2.0)
    owned = await store.own(GROUP, HERE)

    async def slow(tx: Tx, seen: Seen) -> tuple[Change, ...]:
        await tx.fetchval("SELECT pg_sleep(20)::text")
        return (settle(1),)

    async def quick(tx: Tx, seen: Seen) -> tuple[Change, ...]:
        await tx.fetchval("SELECT 1")
        return (settle(2),)

    plans = [Plan(owned, (), slow, want(1)), Plan(owned, (), quick, want(2))]
    results = await store.apply(plans)
    assert getattr(results[0], "code", "") == "CH4007"
    assert results[1] is Applied.DONE
    await store.close()


def goes_and_comes(how: str) -> None:
    if how == "kill":
        server().kill()
        server().start()
    else:
        server().restart()


@pytest.mark.parametrize("how", ["restart", "kill"])
async def test_a_server_that_goes_and_comes_under_load(url: str, how: str) -> None:
    """Whoever is told that it is away asks again, and in the end each delivery is settled once."""
    if not server().ours:
        pytest.skip("the server is not ours to be killed")
    store = PostgresStore(url, clock=ManualClock())
    owned = await store.own(GROUP, HERE)
    back = asyncio.Event()
    refused = 0
    done: dict[int, list[int]] = {0: [], FAR: []}

    def step(number: int) -> Plan:
        at = Source(TOPIC.name, 0, number)
        change = Settle(HANDLER, subject(number), Status.DONE, b"", at)
        return Plan(owned, (change, publish(str(number))))

    async def work(first: int) -> None:
        """Write, until it was refused and has written much since the server is there again."""
        nonlocal refused
        left = GROUPS
        for start in count(first, SIZE):
            numbers = range(start, start + SIZE)
            plans = [step(number) for number in numbers]
            while True:
                try:
                    results = await store.apply(plans)
                except StoreUnavailableError:
                    refused += 1
                    await asyncio.sleep(0.02)
                    continue
                assert set(results) <= {Applied.DONE, Applied.DUPLICATE}
                break
            done[first] += numbers
            left -= back.is_set()
            if not left:
                return

    async with asyncio.timeout(50):
        working = [asyncio.create_task(work(first)) for first in done]
        while not all(len(some) > SIZE for some in done.values()):  # noqa: ASYNC110 - they begin
            await asyncio.sleep(0.005)
        await asyncio.to_thread(goes_and_comes, how)
        back.set()
        await asyncio.gather(*working)
    assert refused > 0
    everything = [number for some in done.values() for number in some]
    values: list[str] = []
    after = 0
    while rows := await store.unsent(owned, after=after, most=1000):
        values += [one.record.value.decode() for one in rows]
        after = rows[-1].row
    assert sorted(map(int, values)) == everything
    for first, some in done.items():
        assert [int(value) for value in values if first <= int(value) < first + FAR] == some
    wants = [Want(HANDLER, subject(number)) for number in everything]
    assert {seen.status for seen in await store.load(wants)} == {Status.DONE}
    await store.close()

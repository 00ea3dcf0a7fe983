"""What two processes may do at once, forced to happen: each ends as if one had come first."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import asyncpg
import pytest

from choreo.adapters.postgres import PostgresStore
from choreo.adapters.sqlite import Database, Log, SqliteBroker
from choreo.plan import Change, Gate, GateKey, Plan, Settle, Status
from choreo.ports import Applied, Seen, Tx, Want
from choreo.testing import ManualClock, Place
from choreo.testing.contracts.place import (
    HANDLER,
    opened,
    publish,
    published,
    settle,
    subject,
    unsent,
    want,
)
from tests.postgres.database import server

A, B = (GateKey("effects", HANDLER, scope) for scope in "ab")
WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    " AND datname = current_database()"
)
MakePlaces = Callable[[], Coroutine[Any, Any, Place]]


@pytest.fixture
def make(url: str, tmp_path: Path) -> Callable[[], Awaitable[Place]]:
    clock = ManualClock()

    async def make() -> Place:
        broker = SqliteBroker(Log(Database(tmp_path / "log.db")))
        return Place(PostgresStore(url, clock=clock), broker, clock)

    return make


@asynccontextmanager
async def two(make: MakePlaces) -> AsyncIterator[tuple[Place, Place]]:
    async with opened(make) as one, opened(make) as other:
        yield one, other


class Rival:
    """Another process, statement by statement."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def __aenter__(self) -> Self:
        self.connection = await asyncpg.connect(self._url)
        self.looking = await asyncpg.connect(self._url)
        await self.connection.execute("SET deadlock_timeout = '20s'; BEGIN")
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.connection.terminate()
        self.looking.terminate()

    async def run(self, sql: str, *values: object) -> Any:
        return await self.connection.fetch(sql, *values)

    async def until_waiting(self, tasks: int = 1) -> None:
        """Wait until so many others wait for a lock."""
        async with asyncio.timeout(20):
            while await self.looking.fetchval(WAITING) < tasks:  # noqa: ASYNC110 - asks a server
                await asyncio.sleep(0.005)


async def seq_of(place: Place, key: GateKey) -> int:
    return (await place.look(Want(HANDLER, subject(99), (key,)))).gates[key].seq


async def number_of(rival: Rival, handler: str = HANDLER) -> int:
    return int(await rival.looking.fetchval("SELECT id FROM choreo.name WHERE text = $1", handler))


# ── gates ────────────────────────────────────────────────────────────────────────────────


async def test_a_void_that_comes_while_the_action_runs(make: MakePlaces, url: str) -> None:
    """The trigger has the scope's row; the action waits for it, and sees what it became."""
    async with opened(make) as place, Rival(url) as rival:
        owned = await place.own()
        assert await place.apply(owned, Gate(A, 0, closed=False, members=b"[]")) is Applied.DONE
        seq = await seq_of(place, A)
        await rival.run("UPDATE choreo.gate SET seq = seq + 1, closed = true")
        action = settle(1), publish("effect"), Gate(A, seq, closed=False, members=b"[1]")
        acting = asyncio.create_task(place.apply(owned, *action))
        await rival.until_waiting()
        await rival.run("COMMIT")
        assert await acting is Applied.CONFLICT
        assert await place.status(1) is None
        assert await published(place) == []
        seen = (await place.look(Want(HANDLER, subject(1), (A,)))).gates[A]
        assert seen == (seq + 1, True, b"[]")


async def test_a_void_that_is_rolled_back_was_none(make: MakePlaces, url: str) -> None:
    async with opened(make) as place, Rival(url) as rival:
        owned = await place.own()
        await place.apply(owned, Gate(A, 0, closed=False, members=b""))
        await rival.run("UPDATE choreo.gate SET seq = seq + 1, closed = true")
        seq = await seq_of(place, A)
        action = settle(1), Gate(A, seq, closed=False, members=b"1")
        acting = asyncio.create_task(place.apply(owned, *action))
        await rival.until_waiting()
        await rival.run("ROLLBACK")
        assert await acting is Applied.DONE


async def test_two_triggers_at_once_on_a_scope_that_nobody_has_written(
    make: MakePlaces, url: str
) -> None:
    """The second waits for the first one's row, though there was none to be locked."""
    async with opened(make) as place, Rival(url) as rival:
        owned = await place.own()
        assert await seq_of(place, A) == 0
        handler = await number_of(rival)
        await rival.run(
            "INSERT INTO choreo.gate VALUES ($1, $2, $3, 1, true, 'first', 0)",
            A.kind, handler, A.scope,
        )  # fmt: skip
        second = settle(1), Gate(A, 0, closed=True, members=b"second")
        closing = asyncio.create_task(place.apply(owned, *second))
        await rival.until_waiting()
        await rival.run("COMMIT")
        assert await closing is Applied.CONFLICT
        assert (await place.look(Want(HANDLER, subject(1), (A,)))).gates[A].members == b"first"


async def test_arrivals_in_two_processes_at_once(make: MakePlaces) -> None:
    """Each is in the set; whoever comes last, and only that one, completes it."""
    async with two(make) as places:
        owned = [await place.own(number) for number, place in enumerate(places)]
        completed = []

        async def arrive(number: int) -> None:
            place, claim = places[number % 2], owned[number % 2]
            while True:
                seen = (await place.look(Want(HANDLER, subject(99), (A,)))).gates[A]
                members = seen.members + bytes([number])
                last = len(members) == 16
                change = Gate(A, seen.seq, closed=last, members=members)
                done = [publish("joined")] if last else []
                if await place.apply(claim, settle(number), change, *done) is Applied.DONE:
                    completed.extend([number] * last)
                    return

        async with asyncio.timeout(40):
            await asyncio.gather(*(arrive(number) for number in range(16)))
        seen = (await places[0].look(Want(HANDLER, subject(99), (A,)))).gates[A]
        assert sorted(seen.members) == list(range(16))
        assert len(completed) == 1
        assert await published(places[0]) == ["joined"]


# ── owners ───────────────────────────────────────────────────────────────────────────────


async def test_a_takeover_waits_for_what_its_former_owner_is_writing(
    make: MakePlaces, url: str
) -> None:
    """So nothing of the zombie is committed after it; its next plan is stale."""
    async with two(make) as (zombie, heir), Rival(url) as rival:
        former = await zombie.own(0)
        await zombie.status(1)
        handler = await number_of(rival)
        await rival.run(
            'INSERT INTO choreo.inbox (handler, subject, status, hash, owner, "offset")'
            " SELECT $1, $2, 2, '', min(id), 1 FROM choreo.owner",
            handler, subject(1),
        )  # fmt: skip
        writing = asyncio.create_task(zombie.apply(former, settle(1), publish("late")))
        await rival.until_waiting()
        taking = asyncio.create_task(heir.own(0))
        await rival.until_waiting(2)
        assert not taking.done()
        await rival.run("ROLLBACK")
        assert await writing is Applied.DONE
        owned = await taking
        assert await zombie.apply(former, settle(2), publish("stale")) is Applied.STALE
        assert await heir.apply(owned, settle(3), publish("heir's")) is Applied.DONE
        rows = await unsent(heir, owned)
        assert [one.record.value for one in rows] == [b"late", b"heir's"]
        assert await heir.status(2) is None


@pytest.mark.parametrize("guarded", [False, True], ids=["plain", "guarded"])
async def test_a_zombie_that_comes_during_the_takeover_is_stale(
    make: MakePlaces, url: str, *, guarded: bool
) -> None:
    """It waits for the new epoch, and does not go by the old one that it still can read."""
    async with opened(make) as zombie, Rival(url) as rival:
        former = await zombie.own(0)
        await zombie.status(1)
        await rival.run("UPDATE choreo.owner SET epoch = epoch + 1")
        plan: list[Change] = [settle(1), publish("late")]
        plan += [Gate(A, 0, closed=True, members=b"")] if guarded else []
        writing = asyncio.create_task(zombie.apply(former, *plan))
        await rival.until_waiting()
        await rival.run("COMMIT")
        assert await writing is Applied.STALE
        assert await published(zombie) == []
        assert await zombie.status(1) is None


async def test_a_section_of_a_zombie_does_not_run(make: MakePlaces, url: str) -> None:
    async with opened(make) as zombie, Rival(url) as rival:
        former = await zombie.own(0)
        await zombie.status(1)
        ran = []

        async def section(tx: Tx, seen: Seen) -> tuple[Change, ...]:
            ran.append(1)
            return (settle(1),)

        await rival.run("UPDATE choreo.owner SET epoch = epoch + 1")
        plan = Plan(former, (), section, want(1))
        writing = asyncio.create_task(zombie.store.apply([plan]))
        await rival.until_waiting()
        await rival.run("COMMIT")
        assert await writing == [Applied.STALE]
        assert ran == []


# ── inbox ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize("alone", [True, False])
async def test_the_same_delivery_in_two_processes(
    make: MakePlaces, url: str, *, committed: bool, alone: bool
) -> None:
    """The second waits for the first: what that one comes to decides."""
    async with opened(make) as place, Rival(url) as rival:
        owned = await place.own()
        await place.status(1)
        handler = await number_of(rival)
        await rival.run(
            'INSERT INTO choreo.inbox (handler, subject, status, hash, owner, "offset")'
            " SELECT $1, $2, 2, 'theirs', min(id), 1 FROM choreo.owner",
            handler, subject(1),
        )  # fmt: skip
        more = () if alone else (Gate(A, 0, closed=True, members=b""),)
        applying = asyncio.create_task(place.apply(owned, settle(1), publish("ours"), *more))
        await rival.until_waiting()
        await rival.run("COMMIT" if committed else "ROLLBACK")
        assert await applying is (Applied.DUPLICATE if committed else Applied.DONE)
        assert await published(place) == ([] if committed else ["ours"])
        assert await place.status(1) is Status.DONE
        assert await seq_of(place, A) == (0 if committed or alone else 1)


# ── deadlocks ────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def patient(url: str) -> Iterator[str]:
    """Give a database whose connections look for a circle once, but not before there is one."""
    name = url.rpartition("/")[2]
    server().run(f"ALTER DATABASE {name} SET deadlock_timeout = '4s'")
    yield url
    server().run(f"ALTER DATABASE {name} RESET deadlock_timeout")


async def test_groups_that_lock_rows_in_opposite_order(make: MakePlaces, patient: str) -> None:
    """The database ends one of them; the store applies its group again, and no handler runs."""
    async with opened(make) as place, Rival(patient) as rival:
        owned = await place.own()
        await place.apply(owned, *(Gate(key, 0, closed=False, members=b"") for key in (A, B)))
        await rival.run("UPDATE choreo.gate SET at = 1 WHERE scope = 'b'")
        group = [
            Plan(owned, (settle(n), publish(str(n)), Gate(key, 1, closed=True, members=b"x")))
            for n, key in enumerate((B, A))
        ]
        applying = asyncio.create_task(place.store.apply(group))
        await rival.until_waiting()
        await rival.run("UPDATE choreo.gate SET at = 1 WHERE scope = 'a'")  # now a circle
        await rival.run("COMMIT")
        assert await applying == [Applied.DONE, Applied.DONE]
        assert await published(place) == ["0", "1"]


async def test_groups_of_two_stores_in_opposite_order(make: MakePlaces) -> None:
    async with two(make) as places:
        claims = [await place.own(number) for number, place in enumerate(places)]
        for turn in range(15):
            seqs = [(key, await seq_of(places[0], key)) for key in (A, B)]

            def group(which: int) -> list[Plan]:
                gates = seqs[::-1] if which else seqs  # noqa: B023 - used at once
                return [
                    Plan(
                        claims[which],
                        (
                            settle(100 * turn + 10 * which + n),  # noqa: B023
                            Gate(key, seq, closed=False, members=b""),
                        ),
                    )
                    for n, (key, seq) in enumerate(gates)
                ]

            results = await asyncio.gather(
                *(place.store.apply(group(which)) for which, place in enumerate(places))
            )
            assert sorted(str(one) for group in results for one in group) == [
                "Applied.CONFLICT", "Applied.CONFLICT", "Applied.DONE", "Applied.DONE",
            ]  # fmt: skip


# ── sections ─────────────────────────────────────────────────────────────────────────────


async def test_sections_of_two_stores_are_serialized(make: MakePlaces) -> None:
    """Each reads what the other may change: what can not be serialized is run again."""
    async with two(make) as places:
        async with places[0].store.transaction() as tx:
            await tx.execute("CREATE TABLE contract_doctors (name TEXT, on_call INTEGER)")
            await tx.execute("INSERT INTO contract_doctors VALUES ('a', 1), ('b', 1)")
        claims = [await place.own(number) for number, place in enumerate(places)]

        def leaving(name: str, number: int) -> Callable[..., Any]:
            async def section(tx: Tx, seen: Seen) -> tuple[Settle, ...]:
                on_call = await tx.fetchval("SELECT sum(on_call) FROM contract_doctors")
                if on_call > 1:
                    sql = "UPDATE contract_doctors SET on_call = 0 WHERE name = $1"
                    await tx.execute(sql, name)
                return (settle(number),)

            return section

        async def leave(which: int) -> None:
            name = "ab"[which]
            while True:
                plan = Plan(claims[which], (), leaving(name, which), want(which))
                (result,) = await places[which].store.apply([plan])
                if result is Applied.DONE:
                    return
                assert getattr(result, "transient", False), result

        for _ in range(10):
            async with places[0].store.transaction() as tx:
                await tx.execute("UPDATE contract_doctors SET on_call = 1")
            await asyncio.gather(leave(0), leave(1))
            async with places[0].store.transaction() as tx:
                sql = "SELECT sum(on_call) FROM contract_doctors"
                assert await tx.fetchval(sql) == 1  # never nobody
                await tx.execute("DELETE FROM choreo.inbox")


async def test_a_section_that_can_not_be_serialized_says_so(make: MakePlaces, url: str) -> None:
    """Its statement fails as transient; a handler that swallows that writes nothing either."""
    async with opened(make) as place, Rival(url) as rival:
        owned = await place.own()
        async with place.store.transaction() as tx:
            await tx.execute("CREATE TABLE contract_sums (n INTEGER)")
            await tx.execute("INSERT INTO contract_sums VALUES (1)")
        for stubborn in (False, True):
            await rival.run("UPDATE contract_sums SET n = n + 1")

            async def section(
                tx: Tx, seen: Seen, *, stubborn: bool = stubborn
            ) -> tuple[Change, ...]:
                try:
                    await tx.execute("UPDATE contract_sums SET n = n + 10")
                except Exception:
                    if not stubborn:
                        raise
                return (settle(1),)

            plans = [Plan(owned, (settle(1),), section, want(1))]
            applying = asyncio.create_task(place.store.apply(plans))
            await rival.until_waiting()
            await rival.run("COMMIT")
            (result,) = await applying
            assert getattr(result, "code", "") == "CH4002"
            assert await place.status(1) is None
            await rival.run("BEGIN")
        assert await rival.run("SELECT n FROM contract_sums") == [(3,)]

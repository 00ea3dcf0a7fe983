"""Records in a transaction that is the caller's: of asyncpg, or of SQLAlchemy on it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine

from choreo.adapters.postgres import PostgresStore
from choreo.errors import StoreError
from choreo.plan import Owned
from choreo.ports import ORPHANS
from choreo.testing import ManualClock
from choreo.testing.contracts.place import GROUP, publish
from tests.postgres.database import server

NOBODYS = Owned(GROUP, {ORPHANS: 0})


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(url, clock=ManualClock())
    try:
        await store.own(GROUP, [ORPHANS])
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def engine_of(url: str, **more: Any) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"), **more)
    try:
        yield engine
    finally:
        await engine.dispose()


async def left(store: PostgresStore) -> list[str]:
    rows = await store.unsent(NOBODYS, after=0, most=1000)
    return [one.record.value.decode() for one in rows]


async def by_asyncpg(url: str, work: Callable[[Any], Awaitable[None]]) -> None:
    async with connected(url) as connection, connection.transaction():
        await work(connection)


async def by_pool(url: str, work: Callable[[Any], Awaitable[None]]) -> None:
    async with (
        asyncpg.create_pool(url, min_size=1, max_size=1) as pool,
        pool.acquire() as connection,
        connection.transaction(),
    ):
        await work(connection)


async def by_session(url: str, work: Callable[[Any], Awaitable[None]]) -> None:
    async with engine_of(url) as engine, AsyncSession(engine) as session, session.begin():
        await work(session)


async def by_connection(url: str, work: Callable[[Any], Awaitable[None]]) -> None:
    async with engine_of(url) as engine, engine.begin() as connection:
        await work(connection)


WAYS = [by_asyncpg, by_pool, by_session, by_connection]


async def run(tx: Any, sql: str) -> None:
    await tx.execute(text(sql) if isinstance(tx, (AsyncSession, AsyncConnection)) else sql)


@pytest.mark.parametrize("way", WAYS)
async def test_a_record_goes_with_the_callers_rows(url: str, way: Any) -> None:
    async with opened(url) as store:
        async with connected(url) as connection:
            await connection.execute("CREATE TABLE public.own_rows (n INTEGER)")

        async def done(tx: Any) -> None:
            await run(tx, "INSERT INTO public.own_rows VALUES (1)")
            await store.enlist(tx, publish("committed").record)
            assert await left(store) == []

        async def failed(tx: Any) -> None:
            await done(tx)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await way(url, failed)
        assert await left(store) == []
        await way(url, done)
        assert await left(store) == ["committed"]
        async with connected(url) as connection:
            assert await connection.fetchval("SELECT count(*) FROM public.own_rows") == 1


async def test_a_savepoint_that_is_rolled_back_takes_its_records_with_it(url: str) -> None:
    async with opened(url) as store, connected(url) as connection:
        async with connection.transaction():
            await store.enlist(connection, publish("1").record)
            with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is the savepoint
                async with connection.transaction():
                    await store.enlist(connection, publish("never").record)
                    raise ZeroDivisionError
        assert await left(store) == ["1"]


async def test_under_one_key_the_order_is_that_of_commits(url: str) -> None:
    """Who comes second has its row once the first is committed, not before."""
    async with opened(url) as store, connected(url) as one, connected(url) as two:
        first = one.transaction()
        await first.start()
        await store.enlist(one, publish("first").record)

        async def second() -> None:
            async with two.transaction():
                await store.enlist(two, publish("second").record)

        waiting = asyncio.ensure_future(second())
        async with asyncio.timeout(20):
            while not await one.fetchval(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            ):
                assert not waiting.done()
            await store.enlist(one, publish("also first").record)
            await first.commit()
            await waiting
        assert await left(store) == ["first", "also first", "second"]


async def test_other_keys_do_not_wait(url: str) -> None:
    async with opened(url) as store, connected(url) as one, connected(url) as two:
        async with asyncio.timeout(20), one.transaction():
            await store.enlist(one, publish("a", key="a").record)
            async with two.transaction():
                await store.enlist(two, publish("b", key="b").record)
            assert await left(store) == ["b"]
        assert sorted(await left(store)) == ["a", "b"]


async def test_who_waits_is_told_at_once(url: str) -> None:
    """By the database, whoever has left it; and told so again after a lost connection."""
    async with opened(url) as store, connected(url) as connection, asyncio.timeout(20):
        await store.stirred()  # what was said before it listened nobody has heard
        for turn in range(3):
            waiting = asyncio.ensure_future(store.stirred())
            async with connection.transaction():
                await store.enlist(connection, publish(str(turn)).record)
                assert not waiting.done()
            await waiting
        waiting = asyncio.ensure_future(store.stirred())
        await asyncio.sleep(0)
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
        )
        with pytest.raises(StoreError, match="CH4001"):
            await waiting
        await store.stirred()


# ── what is refused ──────────────────────────────────────────────────────────────────────


async def refused(store: PostgresStore, tx: object, word: str) -> None:
    with pytest.raises(StoreError, match=f"CH4014.*{word}") as told:
        await store.enlist(tx, publish("lost").record)
    assert told.value.fix
    assert not told.value.transient
    assert await left(store) == []


async def test_without_a_transaction_it_is_refused(url: str) -> None:
    async with opened(url) as store, connected(url) as connection, engine_of(url) as engine:
        await refused(store, connection, "no transaction is open")
        async with AsyncSession(engine) as session:
            await refused(store, session, "no transaction is open")
        async with engine.connect() as plain:
            await refused(store, plain, "no transaction is open")


async def test_what_is_closed_is_refused(url: str) -> None:
    async with opened(url) as store, engine_of(url) as engine:
        async with connected(url) as connection:
            pass
        await refused(store, connection, "no transaction is open")
        async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool:
            async with pool.acquire() as borrowed:
                pass
            await refused(store, borrowed, "released back")
        async with AsyncSession(engine) as session, session.begin():
            pass
        await refused(store, session, "no transaction is open")
        async with engine.begin() as over:
            pass
        await refused(store, over, "no transaction is open")


async def test_autocommit_is_no_transaction(url: str) -> None:
    """SQLAlchemy believes in one that the database does not have."""
    async with (
        opened(url) as store,
        engine_of(url, isolation_level="AUTOCOMMIT") as engine,
        engine.begin() as connection,
    ):
        await refused(store, connection, "no transaction is open")


async def test_one_that_has_failed_is_refused(url: str) -> None:
    async with opened(url) as store, connected(url) as connection, engine_of(url) as engine:
        transaction = connection.transaction()
        await transaction.start()
        with pytest.raises(asyncpg.PostgresError):
            await connection.execute("SELECT 1 / 0")
        await refused(store, connection, "aborted")
        await transaction.rollback()
        async with AsyncSession(engine) as session:
            with pytest.raises(DBAPIError):
                await session.execute(text("SELECT 1 / 0"))
            await refused(store, session, "aborted")


@pytest.fixture
def other() -> Iterator[str]:
    url = server().database()
    yield url
    server().drop(url)


@pytest.mark.parametrize("way", WAYS)
async def test_one_of_another_database_is_refused(url: str, other: str, way: Any) -> None:
    """Of one without our tables, and of one that has them; the caller's own may go on."""
    async with opened(url) as store:
        for _ in range(2):

            async def work(tx: Any) -> None:
                await refused(store, tx, "another database")
                await run(tx, "SELECT 1")

            await way(other, work)
            async with opened(other):
                pass


async def test_what_is_no_connection_is_refused(url: str) -> None:
    async with opened(url) as store:
        await refused(store, object(), "no transaction of PostgreSQL")


@pytest.fixture
def teller(url: str) -> str:
    """Give the database as a role sees it that has no rights in it."""
    server().run(
        "DO $$ BEGIN CREATE ROLE teller LOGIN PASSWORD 'teller';"
        " EXCEPTION WHEN duplicate_object THEN NULL; END $$"
    )
    parts = urlsplit(url)
    return parts._replace(netloc=f"teller:teller@{parts.netloc.rpartition('@')[2]}").geturl()


async def test_a_role_that_may_not_is_told(url: str, teller: str) -> None:
    """By the code of a missing right: what it needs are two grants."""
    async with opened(url) as store, connected(url) as owner, connected(teller) as theirs:
        async with theirs.transaction():
            with pytest.raises(StoreError, match="CH4013"):
                await store.enlist(theirs, publish("lost").record)
        await owner.execute("GRANT USAGE ON SCHEMA choreo TO teller")
        await owner.execute("GRANT INSERT ON choreo.outbox TO teller")
        async with theirs.transaction():
            await store.enlist(theirs, publish("allowed").record)
        assert await left(store) == ["allowed"]
        await owner.execute("DROP OWNED BY teller")

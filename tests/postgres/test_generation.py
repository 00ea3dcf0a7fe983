"""Who takes over by an older generation of its group does not get what somebody who lives has."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from choreo.adapters.postgres import PostgresStore, printed
from choreo.events import Partition
from choreo.plan import Plan
from choreo.ports import ORPHANS, Applied
from choreo.testing import ManualClock
from choreo.testing.contracts.place import GROUP, TOPIC, settle
from tests.postgres.database import server

HERE, THERE = (Partition(TOPIC.name, number) for number in range(2))


@asynccontextmanager
async def process(url: str) -> AsyncIterator[PostgresStore]:
    """Have a store with a connection, so a life, of its own."""
    store = PostgresStore(url, clock=ManualClock())
    try:
        yield store
    finally:
        await store.close()


async def test_an_older_generation_takes_nothing_over_from_who_lives(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What nobody has it takes; and the owner never feels it."""
    async with process(url) as heir, process(url) as zombie:
        await zombie.own(GROUP, [HERE, ORPHANS], generation=6)
        owned = await heir.own(GROUP, [HERE, ORPHANS], generation=7)
        with caplog.at_level(logging.WARNING, "choreo.postgres"):
            late = await zombie.own(GROUP, [HERE, THERE, ORPHANS], generation=6)
        assert set(late.epochs) == {THERE}
        (line,) = [one.message for one in caplog.records if f"{TOPIC.name}-0" in one.message]
        assert "CH4016" in line
        assert "generation=6, newer=7" in line
        assert await heir.apply([Plan(owned, (settle(1),))]) == [Applied.DONE]


@pytest.mark.parametrize("generation", [7, 8, None])
async def test_the_same_and_newer_ones_take_over(url: str, generation: int | None) -> None:
    """The same: a member with a name of its own comes back. None: nobody counts."""
    async with process(url) as former, process(url) as heir:
        owned = await former.own(GROUP, [HERE], generation=7)
        assert set((await heir.own(GROUP, [HERE], generation=generation)).epochs) == {HERE}
        assert await former.apply([Plan(owned, (settle(1),))]) == [Applied.STALE]


@pytest.mark.parametrize("end", ["closed", "killed"])
async def test_from_who_is_gone_an_older_one_takes_over(url: str, end: str) -> None:
    """Also where the group was made anew, and counts from one again."""
    async with process(url) as heir:
        async with process(url) as former:
            await former.own(GROUP, [HERE], generation=7)
            if end == "killed":
                former._owned.clear()  # it says no goodbye
        assert set((await heir.own(GROUP, [HERE], generation=1)).epochs) == {HERE}


async def test_who_has_it_may_take_it_again_by_any_generation(url: str) -> None:
    async with process(url) as store:
        await store.own(GROUP, [HERE], generation=7)
        assert set((await store.own(GROUP, [HERE], generation=1)).epochs) == {HERE}


@pytest.fixture
def old() -> Iterator[str]:
    """Give a database as the first version left it."""
    url = server().database()
    newest = printed(1)
    assert "0001" not in newest
    whole = printed()
    cut = whole.index("-- 0002")
    server().script(whole[:cut] + "COMMIT;", url=url)
    server().run(
        "INSERT INTO choreo.owner (grp, topic, partition, epoch)"
        f" VALUES ('{GROUP}', '{TOPIC.name}', 0, 41)",
        url=url,
    )
    yield url
    server().drop(url)


@pytest.mark.parametrize("by", ["itself", "hand"])
async def test_tables_of_the_first_version_are_brought_forward(old: str, by: str) -> None:
    """At the start, or by what `choreo migrations --after 1` prints; epochs go on."""
    if by == "hand":
        await asyncio.to_thread(server().script, printed(1), url=old)
    async with process(old) as store:
        owned = await store.own(GROUP, [HERE], generation=3)
        assert owned.epochs == {HERE: 42}
        assert await store.apply([Plan(owned, (settle(1),))]) == [Applied.DONE]

"""Slow handlers delay their own key only: the rest goes to the store, and comes back in order."""

import asyncio
import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from choreo import App, Event, Service, State, Tx
from choreo.worker import Limits

TIGHT = Limits(in_flight_max=40, runners_max=8, spill_s=0.2, chain_max=5, drain_s=0.2)
WITHIN_S = 30


class Put(Event, topic="belt.put", key="key"):
    key: str
    n: int


class Taken(Event, topic="belt.taken", key="key"):
    key: str
    n: int


class Belt:
    """A service whose handler waits, for some keys, until it may go on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs: list[tuple[str, int]] = []
        self.may = defaultdict[str, asyncio.Event](asyncio.Event)
        self.service = Service("belt")

        @self.service.on(Put)
        async def take(put: Put) -> Taken:
            self.runs.append((put.key, put.n))
            if put.key.startswith("slow"):
                await self.may[put.key].wait()
            return Taken(key=put.key, n=put.n)

    def open(self, limits: Limits = TIGHT) -> App:
        return App(self.service, folder=self.folder, limits=limits)

    def ask(self, sql: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.folder / "choreo.db", timeout=10)) as db:
            return db.execute(sql).fetchall()

    def taken(self) -> dict[str, list[int]]:
        """Give, by key, the numbers that were taken, in order of commit."""
        rows = self.ask(
            "SELECT value FROM log JOIN topic ON topic.id = log.topic"
            " WHERE name = 'belt.taken' ORDER BY position"
        )
        found = defaultdict[str, list[int]](list)
        for (value,) in rows:
            taken = Taken.model_validate_json(value)  # type: ignore[arg-type]
            found[taken.key].append(taken.n)
        return found

    async def until(self, **wanted: int) -> None:
        """Wait until so many of each key were taken."""
        async with asyncio.timeout(WITHIN_S):
            while any(len(self.taken()[k]) < n for k, n in wanted.items()):  # noqa: ASYNC110
                await asyncio.sleep(0.02)


async def test_others_go_on_while_one_key_waits_and_its_order_is_kept(tmp_path: Path) -> None:
    belt = Belt(tmp_path)
    async with belt.open() as app:
        for n in range(150):
            await app.publish(Put(key="slow", n=n))
            await app.publish(Put(key="quick", n=n))
        await belt.until(quick=150)
        assert belt.taken()["slow"] == []
        assert belt.runs.count(("slow", 0)) == 1
        belt.may["slow"].set()
        await belt.until(slow=150)
    assert belt.taken() == {"slow": list(range(150)), "quick": list(range(150))}
    assert max(Counter(belt.runs).values()) == 1
    assert not belt.ask("SELECT 1 FROM inbox WHERE status = 1")


async def test_what_was_put_into_the_store_is_there_after_an_end_in_the_middle(
    tmp_path: Path,
) -> None:
    belt = Belt(tmp_path)
    async with belt.open() as app:
        for n in range(60):
            await app.publish(Put(key="slow", n=n))
        await app.publish(Put(key="quick", n=0))
        await belt.until(quick=1)
        async with asyncio.timeout(WITHIN_S):  # the offset is beyond what still runs
            moved = "SELECT 1 FROM position WHERE topic = 'belt.put' AND offset > 60"
            while not belt.ask(moved):  # noqa: ASYNC110 - it is a file
                await asyncio.sleep(0.02)
    again = Belt(tmp_path)
    again.may["slow"].set()
    async with again.open():
        await again.until(slow=60)
    assert again.taken()["slow"] == list(range(60))


async def test_more_stuck_handlers_than_runners_do_not_stop_the_rest(tmp_path: Path) -> None:
    belt = Belt(tmp_path)
    async with belt.open() as app:
        for n in range(3 * TIGHT.runners_max):
            await app.publish(Put(key=f"slow{n}", n=0))
        await app.publish(Put(key="quick", n=0))
        await belt.until(quick=1)
        for n in range(3 * TIGHT.runners_max):
            belt.may[f"slow{n}"].set()
        await belt.until(**{f"slow{n}": 1 for n in range(3 * TIGHT.runners_max)})
    assert max(Counter(belt.runs).values()) == 1


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_ends_when_order_is_kept_and_all_is_done_once(
    tmp_path: Path, seed: int
) -> None:
    random = Random(seed)
    service = Service("belt", migrations=_table(tmp_path))
    runs: list[tuple[str, int]] = []

    @service.on(Put)
    async def take(put: Put) -> Taken:
        runs.append((put.key, put.n))
        await asyncio.sleep(random.choice((0, 0, 0.01, 0.09, 0.1, 0.11, 0.2, 0.21, 0.3)))
        return Taken(key=put.key, n=put.n)

    @service.on(Put)
    async def keep(put: Put, tx: Tx) -> None:
        await asyncio.sleep(random.choice((0, 0, 0.1, 0.11, 0.21)))
        await tx.execute("INSERT INTO belt_kept (key, n) VALUES ($1, $2)", put.key, put.n)

    belt = Belt(tmp_path)
    limits = replace(TIGHT, in_flight_max=20, chain_max=2, drain_s=10)
    async with App(service, folder=tmp_path, limits=limits) as app:
        for n in range(20):
            for key in "abcde":
                await app.publish(Put(key=key, n=n))
        await belt.until(a=20, b=20, c=20, d=20, e=20)
        async with asyncio.timeout(WITHIN_S):
            while len(belt.ask("SELECT 1 FROM belt_kept")) < 100:  # noqa: ASYNC110 - it is a file
                await asyncio.sleep(0.02)
    assert belt.taken() == {key: list(range(20)) for key in "abcde"}
    assert max(Counter(runs).values()) == 1
    kept = belt.ask("SELECT key, n FROM belt_kept ORDER BY rowid")
    assert len(kept) == 100
    for key in "abcde":
        assert [n for other, n in kept if other == key] == list(range(20))


def _table(folder: Path) -> Path:
    migrations = folder / "migrations"
    migrations.mkdir()
    (migrations / "1.sql").write_text("CREATE TABLE belt_kept (key TEXT, n INTEGER);")
    return migrations


async def test_an_end_waits_for_what_runs_and_not_for_all_that_waits_behind_it(
    tmp_path: Path,
) -> None:
    belt = Belt(tmp_path)
    limits = Limits(drain_s=WITHIN_S)
    async with belt.open(limits) as app:
        for n in range(50):
            await app.publish(Put(key="slow", n=n))
        async with asyncio.timeout(WITHIN_S):
            while not belt.runs:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
        stopping = asyncio.create_task(app.drain())
        await asyncio.sleep(0)
        belt.may["slow"].set()
        await stopping
    assert belt.taken()["slow"] == [0]
    async with belt.open(limits):
        await belt.until(slow=50)
    assert belt.taken()["slow"] == list(range(50))
    assert max(Counter(belt.runs).values()) == 1


class Added(Event, topic="belt.added", key="item"):
    item: str
    shelf: str
    n: int = 0


class Shelf(State, key="shelf"):
    shelf: str
    total: int = 0


async def test_a_slow_one_with_a_state_ends_though_quick_ones_of_that_state_go_on_coming(
    tmp_path: Path,
) -> None:
    belt = Belt(tmp_path)
    service = Service("belt")
    runs: list[str] = []
    active = 0
    most = 0

    @service.on(Added)
    async def add(added: Added, shelf: Shelf) -> Taken:
        nonlocal active, most
        active += 1
        most = max(most, active)
        runs.append(added.item)
        await asyncio.sleep(added.n / 10)
        shelf.total += 1
        active -= 1
        return Taken(key=added.shelf, n=shelf.total)

    async with App(service, folder=tmp_path, limits=replace(TIGHT, drain_s=10)) as app:
        await app.publish(Added(item="slow", shelf="a", n=6))
        for n in range(20):
            await app.publish(Added(item=f"quick{n}", shelf="a"))
            await asyncio.sleep(0.05)
        await belt.until(a=21)
    assert belt.taken()["a"] == list(range(1, 22))
    assert (most, len(runs)) == (1, 21)

"""After crashes: what was settled before them holds nobody up; what called outside goes on."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from choreo import App, Context, Failure, Service
from choreo.worker import Limits
from tests.semantics.events import Paid, Placed, Reserved

SETTLED = 150
WITHIN_S = 15.0
"""Far less than `SETTLED` deliveries take that are waited for, each 0.2 s."""
SLOW_S = 0.1
SLOW = 50


def crash(folder: Path) -> None:
    """Leave the file as a process does that ended before it could commit offsets or let go."""
    with closing(sqlite3.connect(folder / "choreo.db")) as db, db:
        db.execute("UPDATE owner SET holder = '999999999 0'")
        db.execute("DELETE FROM position")


async def test_what_was_settled_before_is_passed_over_at_once(tmp_path: Path) -> None:
    service = Service("desk")
    taken: list[int] = []

    @service.on(Placed)
    async def reserve(placed: Placed) -> Reserved:
        taken.append(placed.n)
        return Reserved(k=placed.k, n=placed.n)

    async def until(n: int) -> None:
        while n not in taken:  # noqa: ASYNC110 - it is a list
            await asyncio.sleep(0.01)

    async with App(service, folder=tmp_path) as app:
        for n in range(SETTLED):
            await app.publish(Placed(k=f"{n}", n=n))
        await until(SETTLED - 1)
    for _ in range(3):  # from the third on it is careful
        crash(tmp_path)
        async with App(service, folder=tmp_path) as app:
            pass
    crash(tmp_path)
    async with App(service, folder=tmp_path) as app:
        await app.publish(Placed(k="new", n=SETTLED))
        async with asyncio.timeout(WITHIN_S):
            await until(SETTLED)
    assert len(taken) == SETTLED + 1


async def test_who_is_told_to_end_begins_no_more_of_them(tmp_path: Path) -> None:
    service = Service("desk")
    begun: list[int] = []

    @service.on(Placed)
    async def reserve(placed: Placed) -> Reserved:
        begun.append(placed.n)
        await asyncio.sleep(SLOW_S)
        return Reserved(k=placed.k)

    limits = Limits(drain_s=2)
    async with App(service, folder=tmp_path) as app:
        await app.stop()
    for _ in range(3):
        crash(tmp_path)
        async with App(service, folder=tmp_path):
            pass
    async with App(folder=tmp_path) as app:
        for n in range(SLOW):  # one by one they take several times the drain
            await app.publish(Placed(k=f"{n}", n=n))
    crash(tmp_path)
    async with App(service, folder=tmp_path, limits=limits) as app, asyncio.timeout(WITHIN_S):
        while not begun:  # noqa: ASYNC110 - it is a list
            await asyncio.sleep(0.01)
    assert not app.gave_up
    some = len(begun)
    assert some < SLOW
    async with App(service, folder=tmp_path), asyncio.timeout(2 * WITHIN_S):
        while len(begun) < SLOW:  # noqa: ASYNC110 - it is a list
            await asyncio.sleep(0.01)
    assert sorted(begun) == list(range(SLOW))


async def test_what_has_called_outside_is_never_given_up_as_killed(tmp_path: Path) -> None:
    service = Service("desk")
    calls: list[int] = []
    stood_in: list[str] = []
    running = asyncio.Event()

    async def charge() -> None:
        calls.append(1)

    @service.on(Placed)
    async def pay(placed: Placed, ctx: Context) -> Paid:
        await ctx.once("charge", charge)
        running.set()
        await asyncio.Event().wait()  # until the process ends
        return Paid(k=placed.k)

    @service.otherwise(pay)
    async def give_up(placed: Placed, why: Failure) -> Reserved:
        stood_in.append(why.reason)
        return Reserved(k=placed.k)

    limits = Limits(crashes_max=2, drain_s=0.01)
    async with App(service, folder=tmp_path, limits=limits) as app:
        await app.publish(Placed(k="a"))
        await running.wait()
    told: list[tuple[object, ...]] = []
    for _ in range(12):
        crash(tmp_path)
        running.clear()
        async with App(service, folder=tmp_path, limits=limits):
            async with asyncio.timeout(WITHIN_S):
                while not running.is_set() and not told:
                    await asyncio.sleep(0.02)
                    told = rows(tmp_path, "SELECT 1 FROM log WHERE instr(value, 'CH5012')")
        if told:
            break
    assert told, "it was never counted"
    assert calls == [1]
    assert not stood_in
    assert rows(tmp_path, "SELECT status FROM inbox WHERE due IS NOT NULL") == [(1,)]


def rows(folder: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(folder / "choreo.db", timeout=10)) as db:
        return db.execute(sql).fetchall()

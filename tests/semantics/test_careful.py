"""After crashes: what was settled before them holds nobody up."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from choreo import App, Service
from tests.semantics.events import Placed, Reserved

SETTLED = 150
WITHIN_S = 15.0
"""Far less than `SETTLED` deliveries take that are waited for, each 0.2 s."""


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

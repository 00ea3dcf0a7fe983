"""Cancelled at a bad moment: a member that begins to move, a file that is being opened."""

import asyncio
import threading
from pathlib import Path

import pytest

from choreo.adapters.sqlite import Database, Log, SqliteBroker
from choreo.ports import Topic

TURNS = 4
"""Of the loop, from the kick to the look at the group."""


@pytest.mark.parametrize("turns", range(TURNS))
async def test_a_cancellation_at_the_moment_of_a_kick_is_not_swallowed(
    tmp_path: Path, turns: int
) -> None:
    broker = SqliteBroker(Log(Database(tmp_path / "choreo.db")))
    await broker.ensure([Topic("orders", 1)])
    subscription = await broker.subscribe("desk", ["orders"])
    beating = subscription._beating
    assert beating is not None
    await asyncio.sleep(0)  # it waits
    subscription._kicked.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    beating.cancel()
    await asyncio.wait([beating], timeout=5)
    assert beating.cancelled()
    await broker.close()


async def test_a_file_is_closed_while_it_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, going_on, start = threading.Event(), threading.Event(), threading.Thread.start

    def held(thread: threading.Thread) -> None:
        if thread.name == "choreo-sqlite-reader":
            begun.set()
            going_on.wait()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", held)
    database = Database(tmp_path / "choreo.db")
    database.hold()
    opening = asyncio.create_task(database.open())
    await asyncio.to_thread(begun.wait)
    opening.cancel()
    await asyncio.wait([opening])
    closing = asyncio.create_task(database.close())
    await asyncio.sleep(0)
    going_on.set()
    await closing
    assert opening.cancelled()
    assert left(tmp_path) == ["choreo.db"]


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]

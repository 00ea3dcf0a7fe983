"""A member of a group that is told to end while it begins to move."""

import asyncio
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

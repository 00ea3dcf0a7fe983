"""What is remembered of a connection goes with it."""

import asyncio
import gc

import pytest

from choreo.adapters.postgres import PostgresStore
from choreo.adapters.postgres.tx import _prepared
from choreo.testing import ManualClock


async def test_statements_of_a_connection_that_is_gone_are_forgotten(url: str) -> None:
    """A block that raises ends its connection: there may be any number of them."""
    store = PostgresStore(url, clock=ManualClock())
    before = len(_prepared)

    async def raises() -> None:
        async with store.transaction() as tx:
            await tx.fetchval("SELECT $1", 1)
            raise ZeroDivisionError

    for _ in range(5):
        with pytest.raises(ZeroDivisionError):
            await raises()
        await asyncio.sleep(0)
    gc.collect()
    assert len(_prepared) == before
    await store.close()

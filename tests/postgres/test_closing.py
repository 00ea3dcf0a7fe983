"""Connections are closed to the last, whatever the first of them raises."""

from typing import Any

import asyncpg
import pytest

from choreo.adapters.postgres import PostgresStore
from choreo.adapters.postgres.lines import Connection, Lines, Server
from choreo.app import system_clock
from choreo.errors import StoreUnavailableError
from choreo.ports import Want

MANY = 3


class Closing:
    """Hears of each connection that is told to close; the first one fails at it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[Connection] = []
        real: Any = asyncpg.Connection.close

        async def close(connection: Connection, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the client's own
            self.told.append(connection)
            await real(connection, timeout=timeout)
            if len(self.told) == 1:
                raise ConnectionResetError("the line is dead")

        monkeypatch.setattr(asyncpg.Connection, "close", close)

    def well(self, many: int) -> bool:
        """Tell whether so many were told, and all are closed."""
        return len(self.told) == many and all(one.is_closed() for one in self.told)


async def test_lines_are_closed_to_the_last(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Lines(Server(url), MANY)
    async with lines.one(), lines.one(), lines.one():
        pass
    closing = Closing(monkeypatch)
    with pytest.raises(StoreUnavailableError, match="the line is dead"):
        await lines.close()
    assert closing.well(MANY)


async def test_all_kinds_of_lines_of_a_store_are_closed(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PostgresStore(url, clock=system_clock())
    await store.load([Want("desk.see", bytes(16))])  # by a line for reading, after one aside
    async with store.transaction() as tx:
        await tx.fetch("SELECT 1")
    closing = Closing(monkeypatch)
    with pytest.raises(StoreUnavailableError, match="the line is dead"):
        await store.close()
    assert closing.well(MANY)

"""Connections: opened when they are needed, kept for the next who needs one, never trusted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import asyncpg

from choreo.adapters.postgres.edge import translated
from choreo.errors import (
    BrokerClosedError,
    ChoreoError,
    ConfigurationError,
    StoreUnavailableError,
)

__all__ = ["Connection", "Lines", "Server"]

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

CONNECT_S = 10.0
COMMAND_S = 60.0
SETTINGS = {
    "application_name": "choreo",
    "search_path": "public, choreo",
    "timezone": "UTC",
    "jit": "off",
    "lock_timeout": "30s",
    "idle_in_transaction_session_timeout": "60s",
}


class Server:
    """A database by its URL: `postgresql://user:password@host:port/name?sslmode=…`."""

    def __init__(self, url: str) -> None:
        """Read the URL; nothing is connected yet."""
        scheme, _, rest = url.partition("://")
        if scheme not in ("postgresql", "postgres") or not rest:
            raise ConfigurationError(
                f"{scheme!r} is no PostgreSQL database",
                code="CH1014",
                fix="use postgresql://user:password@host:port/name",
            )
        self._url = url
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise _unreadable() from None  # what it says may be a piece of the password
        beyond = (
            f"{parts.path}#{parts.fragment}" if parts.path else f"{parts.query}#{parts.fragment}"
        )
        if "@" in beyond and "@" not in parts.netloc:  # of the password, all before is no host
            raise _unreadable()
        self.name = f"{parts.hostname or 'localhost'}:{port or 5432}{parts.path}"
        """Host, port and database: what may be shown of it."""

    async def connect(self) -> Connection:
        """Open one connection."""
        with translated(self.name):
            return await asyncpg.connect(
                self._url,
                timeout=CONNECT_S,
                command_timeout=COMMAND_S,
                server_settings=SETTINGS,
            )


def _unreadable() -> ConfigurationError:
    return ConfigurationError(
        "the database's URL can not be read",
        code="CH1014",
        fix="use postgresql://user:password@host:port/name; what is special in a password is"
        " written as %40 for @, %2F for /, %3F for ?, %23 for #, %3A for :",
    )


class Lines:
    """A few connections for one kind of work, so that no kind waits for another's."""

    def __init__(self, server: Server, most: int) -> None:
        """Open none yet."""
        self._server = server
        self._free: list[Connection] = []
        self._turn = asyncio.Semaphore(most)
        self._closed = False
        self.used = 0
        """How many are in somebody's hands, or on their way there."""
        self.on_new: Callable[[Connection], Any] | None = None
        """Awaited with each connection that was opened."""

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Connection]:
        """Have a connection for oneself; one on which something went wrong is not used again."""
        async with self._turn:
            if self._closed:
                raise BrokerClosedError(
                    "used after close", fix="make a new store", database=self._server.name
                )
            self.used += 1
            try:
                async with self._lent() as connection:
                    yield connection
            finally:
                self.used -= 1

    @asynccontextmanager
    async def _lent(self) -> AsyncIterator[Connection]:
        connection = await self._taken()
        try:
            yield connection
        except ChoreoError as exc:
            if isinstance(exc, StoreUnavailableError):
                connection.terminate()
            self._back(connection)
            raise
        except BaseException:  # given up in the middle of something
            connection.terminate()
            raise
        self._back(connection)

    async def _taken(self) -> Connection:
        while self._free:
            connection = self._free.pop()
            if not connection.is_closed():
                return connection
        connection = await self._server.connect()
        if self.on_new is not None:
            try:
                await self.on_new(connection)
            except BaseException:
                connection.terminate()
                raise
        return connection

    def _back(self, connection: Connection) -> None:
        if connection.is_closed():
            return
        if self._closed or connection.is_in_transaction():
            connection.terminate()
        else:
            self._free.append(connection)

    async def close(self) -> None:
        """Close what is free; what is in use ends with its use. May be called twice."""
        self._closed = True
        free, self._free = self._free, []
        async with AsyncExitStack() as last:  # each is closed, whatever the others raise
            for connection in free:
                last.push_async_callback(self._hang_up, connection)

    async def _hang_up(self, connection: Connection) -> None:
        if not connection.is_closed():
            with translated(self._server.name):
                await connection.close(timeout=CONNECT_S)

"""The tracker's views in PostgreSQL, fed by as many trackers as share the log.

A batch is one transaction. It locks the rows of its flows, in order, before it looks at them or
adds facts; so of two trackers that write about one flow the second sees what the first has
written, and a fold sees all facts that there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib import resources
from typing import TypeVar

import asyncpg

from choreo.adapters.postgres.edge import translated
from choreo.adapters.postgres.lines import Connection, Lines, Server
from choreo.adapters.postgres.viewlist import Listing, found, summaries
from choreo.adapters.postgres.viewshape import Shapes
from choreo.adapters.postgres.viewwrite import UnwritableError, Writing, facts_of
from choreo.errors import BrokerClosedError, ChoreoError, StoreError
from choreo.events import Partition
from choreo.ports import Fact, FlowFilter, FlowSummary, Standing, ViewBatch
from choreo.ports.merging import readable

__all__ = ["PostgresViewStore"]

T = TypeVar("T")

VERSION = 2
LOCK = 0x63686F72_656F0002
CONNECTIONS_MAX = 4
TABLES = ("state", "mark", "shape", "fact", "flow", "manifest", "ending")
UNWRITABLE = (asyncpg.CharacterNotInRepertoireError, asyncpg.DataError)
NUL = "\0"
"""No text of PostgreSQL has it."""


class PostgresViewStore:
    """Views in one database, in tables `choreo.view_…`."""

    def __init__(self, url: str) -> None:
        """Name the database; nothing is connected before the first use."""
        self._server = Server(url)
        self._lines = Lines(self._server, CONNECTIONS_MAX)
        self._opening = asyncio.Lock()
        self._shapes = Shapes()
        self._open = self._closed = False

    # ── verbs ────────────────────────────────────────────────────────────────────────────

    async def position(self) -> Standing:
        async def look(c: Connection) -> Standing:
            state = await c.fetchrow("SELECT position, last FROM choreo.view_state")
            marks = await c.fetch('SELECT topic, partition, "offset" FROM choreo.view_mark')
            if state is None:  # emptied by hand
                return Standing(0, "", {})
            return Standing(
                state["position"], state["last"],
                {Partition(topic, number): offset for topic, number, offset in marks},
            )  # fmt: skip

        return await self._with(look)

    async def apply(self, batch: ViewBatch) -> int:
        async def write(c: Connection, batch: ViewBatch = batch) -> int:
            async with c.transaction():
                return await Writing(c, batch, self._shapes).done()

        try:
            return await self._with(write)
        except (UnicodeEncodeError, UnwritableError):  # headers with bytes that are no UTF-8
            pass
        except ChoreoError as exc:
            if not isinstance(exc.__cause__, UNWRITABLE):
                raise
        clean = readable(batch, without=NUL)
        return await self._with(lambda c: write(c, clean))

    async def flows(self, which: FlowFilter) -> Sequence[FlowSummary]:
        async def listed(c: Connection) -> Sequence[FlowSummary]:
            return await summaries(c, await Listing(c, which).flows())

        asked = "".join((which.search, which.name, *which.status))
        return [] if NUL in asked else await self._with(listed)

    async def facts(self, flow: str) -> Sequence[Fact]:
        async def read(c: Connection) -> Sequence[Fact]:
            return (await facts_of(c, [flow])).get(flow, [])

        return [] if NUL in flow else await self._with(read)

    async def find(self, text: str) -> Sequence[str]:
        return [] if NUL in text or not text else await self._with(lambda c: found(c, text))

    async def manifests(self) -> Mapping[str, str]:
        async def read(c: Connection) -> Mapping[str, str]:
            rows = await c.fetch("SELECT service, text FROM choreo.view_manifest")
            return {row["service"]: row["text"] for row in rows}

        return await self._with(read)

    async def close(self) -> None:
        self._closed = True
        await self._lines.close()

    # ── connections ──────────────────────────────────────────────────────────────────────

    async def _with(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        if self._closed:
            raise BrokerClosedError(
                "used after close", fix="make a new one", database=self._server.name
            )
        async with self._lines.one() as connection:
            with translated(self._server.name, value_errors=False):
                if not self._open:
                    async with self._opening:
                        await self._prepare(connection)
                        self._open = True
                return await work(connection)

    async def _prepare(self, c: Connection) -> None:
        """Make the tables; those of an older version are dropped, since the log has it all."""
        if await self._version(c) == VERSION:
            return
        sql = await asyncio.to_thread(
            (resources.files("choreo.adapters.postgres") / "views.sql").read_text
        )
        async with c.transaction():
            await c.execute(f"SELECT pg_advisory_xact_lock({LOCK})")
            if await self._version(c) == VERSION:
                return
            await c.execute("CREATE SCHEMA IF NOT EXISTS choreo")
            for table in TABLES:
                await c.execute(f"DROP TABLE IF EXISTS choreo.view_{table}")
            await c.execute(sql)
            await c.execute("INSERT INTO choreo.view_state (version) VALUES ($1)", VERSION)

    async def _version(self, c: Connection) -> int:
        """Give the version of the tables, 0 if there are none; refuse those of a newer one."""
        if await c.fetchval("SELECT to_regclass('choreo.view_state')") is None:
            return 0
        version = await c.fetchval("SELECT version FROM choreo.view_state") or 0
        if version > VERSION:
            raise StoreError(
                f"the views are of a newer version ({version}) than this one ({VERSION})",
                code="CH4005",
                fix="start the newer choreo that wrote them, or drop the tables choreo.view_…:"
                " the log has it all",
                database=self._server.name,
            )
        return version

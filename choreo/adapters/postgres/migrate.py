"""The store's own tables: numbered SQL files, each run once, by one process at a time."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from importlib import resources

from choreo.adapters.postgres.edge import translated
from choreo.adapters.postgres.lines import Connection, Server
from choreo.errors import StoreError

__all__ = ["migrate", "migrations", "printed"]

LOCK = 0x63686F72_656F0001  # nobody else's: it spells "choreo"
BEGIN = "CREATE SCHEMA IF NOT EXISTS choreo"
VERSIONS = (
    "CREATE TABLE IF NOT EXISTS choreo.version (number integer PRIMARY KEY,"
    " at timestamptz NOT NULL DEFAULT now())"
)
RAN = "INSERT INTO choreo.version (number) VALUES ({number})"


@lru_cache(maxsize=1)
def migrations() -> tuple[tuple[int, str, str], ...]:
    """Give number, name and SQL of each, in order."""
    folder = resources.files("choreo.adapters.postgres") / "migrations"
    files = sorted(
        (one for one in folder.iterdir() if one.name.endswith(".sql")), key=lambda one: one.name
    )
    return tuple((int(one.name[:4]), one.name, one.read_text()) for one in files)


def printed(after: int = 0) -> str:
    """Give those after a number, 0 for all, as one script, for people who run their own.

    choreo finds it done, and needs only SELECT, INSERT, UPDATE and DELETE from then on.
    """
    parts = [] if after else [f"{BEGIN};", f"{VERSIONS};"]
    for number, name, sql in migrations():
        if number > after:
            parts += [f"-- {name}", sql.strip(), f"{RAN.format(number=number)};"]
    parts += [
        "-- What the user of CHOREO_STORE needs:",
        "-- GRANT USAGE ON SCHEMA choreo TO …;",
        "-- GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA choreo TO …;",
        "-- GRANT USAGE ON ALL SEQUENCES IN SCHEMA choreo TO …;",
    ]
    return "\n\n".join(("BEGIN;", *parts, "COMMIT;")) + "\n"


async def migrate(connection: Connection, server: Server) -> None:
    """Run those that have not run yet; whoever comes at the same time waits.

    Raises StoreError CH4005 where a newer version has been there, and changes nothing.
    """
    files = await asyncio.to_thread(migrations)
    newest = files[-1][0]
    with translated(server.name):
        if await _current(connection) == newest:
            return
        async with connection.transaction():
            await connection.execute(f"SELECT pg_advisory_xact_lock({LOCK})")
            done = await _current(connection)
            if done > newest:
                raise StoreError(
                    f"the tables are of a newer version ({done}) than this one ({newest})",
                    code="CH4005",
                    fix="start it with that version of choreo, or a newer one",
                    database=server.name,
                )
            if not done:
                await connection.execute(f"{BEGIN}; {VERSIONS}")
            for number, _, sql in files:
                if number > done:
                    await connection.execute(sql)
                    await connection.execute(RAN.format(number=number))


async def _current(connection: Connection) -> int:
    """Give the number of the last migration that has run; 0 if none has."""
    if await connection.fetchval("SELECT to_regclass('choreo.version')") is None:
        return 0
    return await connection.fetchval("SELECT coalesce(max(number), 0) FROM choreo.version") or 0

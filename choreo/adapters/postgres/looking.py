"""A look at a database from outside: nothing is made in it, and nothing written."""

from __future__ import annotations

from collections.abc import Callable

from choreo.adapters.postgres.edge import translated
from choreo.adapters.postgres.lines import Connection, Server
from choreo.adapters.postgres.migrate import migrations
from choreo.adapters.postgres.timing import NOW
from choreo.ports import DatabaseLook

__all__ = ["look_at", "settings_of"]

SETTINGS = ("fsync", "full_page_writes", "synchronous_commit", "server_version", "autovacuum")


async def look_at(url: str, now: Callable[[], float]) -> DatabaseLook:
    """Connect and look; raises what a store would. `now` is this machine's time."""
    server = Server(url)
    connection = await server.connect()
    try:
        with translated(server.name):
            settings = await settings_of(connection)
            standby = await connection.fetchval("SELECT pg_is_in_recovery()")
            off_s = now() - float(await connection.fetchval(NOW))
            there = await connection.fetchval("SELECT to_regclass('choreo.version') IS NOT NULL")
            tables = unsent = 0
            if there:
                tables = await connection.fetchval("SELECT max(number) FROM choreo.version") or 0
                unsent = await connection.fetchval("SELECT count(*) FROM choreo.outbox")
    finally:
        await connection.close()
    return DatabaseLook(server.name, settings, standby, tables, migrations()[-1][0], unsent, off_s)


async def settings_of(connection: Connection) -> dict[str, str]:
    """Give the settings that tell how durable this user's transactions are, and the version."""
    rows = await connection.fetch(
        "SELECT name, setting FROM pg_settings WHERE name = ANY($1)", SETTINGS
    )
    return {row["name"]: row["setting"] for row in rows}

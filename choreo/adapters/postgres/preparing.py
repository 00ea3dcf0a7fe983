"""Before services begin: their own migrations, and what waits for their handlers."""

from __future__ import annotations

from collections.abc import Sequence

from choreo.adapters.postgres.lines import Connection
from choreo.ports import Waiting
from choreo.ports.migration import Migration

__all__ = ["migrated", "migrations_of", "waiting_for"]

LOCK = 0x63686F72_656F0002  # of the services' migrations: one process at a time
KNOWN = "SELECT sha1 FROM choreo.migration WHERE service = $1 AND file = $2"
WAITING = (
    "SELECT name.text, what, count(*) AS many,"
    " array(SELECT alias.text FROM choreo.alias WHERE alias.id = name.id) AS former FROM ("
    " SELECT handler, 'parked deliveries' AS what FROM choreo.inbox"
    " WHERE status = 1 AND chain IS NOT NULL"
    " UNION ALL SELECT handler, 'timers' FROM choreo.timer"
    " UNION ALL SELECT handler, 'open outside calls' FROM choreo.memo WHERE state = 1"
    ") AS waiting JOIN choreo.name ON name.id = waiting.handler"
    " WHERE starts_with(name.text, $1)"
    " GROUP BY name.id, name.text, what ORDER BY name.text, what"
)


async def migrated(connection: Connection, service: str, files: Sequence[tuple[str, str]]) -> None:
    """Run those that have not run yet, in order, in one transaction."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
        for one in (Migration(service, file, sql) for file, sql in files):
            if not one.has_run(await connection.fetchval(KNOWN, service, one.file)):
                await connection.execute(one.sql)
                await connection.execute(
                    "INSERT INTO choreo.migration VALUES ($1, $2, $3)",
                    service, one.file, one.digest,
                )  # fmt: skip


async def migrations_of(connection: Connection) -> list[tuple[str, str]]:
    """Give service and file of those that have run."""
    rows = await connection.fetch("SELECT service, file FROM choreo.migration")
    return [(row["service"], row["file"]) for row in rows]


async def waiting_for(connection: Connection, group: str) -> list[Waiting]:
    """Give what waits for the handlers of a group, by their present names."""
    rows = await connection.fetch(WAITING, f"{group}.")
    return [Waiting(one["text"], tuple(one["former"]), one["what"], one["many"]) for one in rows]

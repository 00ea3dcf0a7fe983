"""A service's own migrations: files of statements, each run once."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from choreo.adapters.sqlite.tx import first_word
from choreo.ports import Tx
from choreo.ports.migration import Migration

__all__ = ["migrated"]

KNOWN = "SELECT sha1 FROM migration WHERE service = $1 AND file = $2"


async def migrated(tx: Tx, service: str, files: Sequence[tuple[str, str]]) -> None:
    """Run those that have not run yet, in order."""
    for one in (Migration(service, file, sql) for file, sql in files):
        kept = await tx.fetchval(KNOWN, service, one.file)
        if not one.has_run(kept):
            for statement in _statements(one.sql):
                await tx.execute(statement)
            await tx.execute(
                "INSERT INTO migration VALUES ($1, $2, $3)", service, one.file, one.digest
            )


def _statements(sql: str) -> list[str]:
    """Split at the semicolons that end a statement."""
    found = []
    begun = ""
    for piece in sql.split(";"):
        begun += piece + ";"
        if sqlite3.complete_statement(begun):
            found.append(begun.strip())
            begun = ""
    # What follows the last semicolon is a comment, or a statement that lacks its own.
    return [one for one in (*found, begun) if first_word(one)]

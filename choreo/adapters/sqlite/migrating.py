"""A service's own migrations: files of statements, each run once."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence

from choreo.adapters.sqlite.tx import first_word
from choreo.errors import ConfigurationError
from choreo.ports import Tx

__all__ = ["migrated"]


async def migrated(tx: Tx, service: str, files: Sequence[tuple[str, str]]) -> None:
    """Run those that have not run yet, in order."""
    for name, sql in files:
        digest = hashlib.sha1(sql.encode(), usedforsecurity=False).hexdigest()
        known = await tx.fetchval(
            "SELECT sha1 FROM migration WHERE service = $1 AND file = $2", service, name
        )
        if known == digest:
            continue
        if known is not None:
            raise ConfigurationError(
                "a migration that has run was changed",
                code="CH1012",
                fix="restore it, and put the change into a new file",
                service=service,
                file=name,
            )
        for statement in _statements(sql):
            await tx.execute(statement)
        await tx.execute("INSERT INTO migration VALUES ($1, $2, $3)", service, name, digest)


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

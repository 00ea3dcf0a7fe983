"""Names of handlers, as the small integers that rows keep.

A handler that was renamed keeps its number, so all that was ever written under a former name
is found under the present one. The former name stays an alias: an older process that runs
beside the new one, or comes back, means the same rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping

from choreo.ports import Waiting

__all__ = ["adopt", "known", "number_of", "waiting_for"]


def number_of(connection: sqlite3.Connection, name: str) -> int:
    """Give the number of a name, a former one, or a new one."""
    number = known(connection, name)
    if number is not None:
        return number
    connection.execute("INSERT INTO name (text) VALUES (?)", (name,))
    (added,) = connection.execute("SELECT last_insert_rowid()").fetchone()
    return int(added)


def adopt(connection: sqlite3.Connection, asked: Mapping[str, tuple[str, ...]]) -> dict[str, int]:
    """Give the number of each name; it takes over what its former names have."""
    return {name: _adopted(connection, name, former, asked) for name, former in asked.items()}


def _adopted(
    connection: sqlite3.Connection, name: str, former: tuple[str, ...], asked: Collection[str]
) -> int:
    if _canonical(connection, name) is None and (number := known(connection, name)) is not None:
        (heir,) = connection.execute("SELECT text FROM name WHERE id = ?", (number,)).fetchone()
        if heir in asked:  # a handler of its own has the name now
            connection.execute("DELETE FROM alias WHERE text = ?", (name,))
    found = [number for one in former if (number := _canonical(connection, one)) is not None]
    if found and known(connection, name) is None:
        connection.execute("UPDATE name SET text = ? WHERE id = ?", (name, found[0]))
    number = number_of(connection, name)
    for other in found:
        if other != number:
            _merge(connection, other, number)
            _fence(connection, name.partition(".")[0])
    connection.executemany(
        "INSERT INTO alias VALUES (?, ?) ON CONFLICT DO UPDATE SET id = excluded.id",
        [(one, number) for one in former],
    )
    return number


def _merge(connection: sqlite3.Connection, former: int, number: int) -> None:
    """Move the rows of a name under another, which had rows of its own already."""
    for table in ("inbox", "gate", "memo"):  # where both have a row, the heir's stands
        connection.execute(
            f"UPDATE OR IGNORE {table} SET handler = ? WHERE handler = ?", (number, former)
        )
        connection.execute(f"DELETE FROM {table} WHERE handler = ?", (former,))
    connection.execute("UPDATE timer SET handler = ? WHERE handler = ?", (number, former))
    connection.execute("UPDATE alias SET id = ? WHERE id = ?", (number, former))
    connection.execute("DELETE FROM name WHERE id = ?", (former,))


def _fence(connection: sqlite3.Connection, group: str) -> None:
    """Have nobody write any more who knows a number that is gone: nobody would find it."""
    connection.execute("UPDATE owner SET epoch = epoch + 1 WHERE grp = ?", (group,))


def _canonical(connection: sqlite3.Connection, name: str) -> int | None:
    row = connection.execute("SELECT id FROM name WHERE text = ?", (name,)).fetchone()
    return row[0] if row else None


def known(connection: sqlite3.Connection, name: str) -> int | None:
    """Give the number of a name or a former name that was ever written."""
    row = connection.execute(
        "SELECT id FROM name WHERE text = ?1 UNION ALL SELECT id FROM alias WHERE text = ?1",
        (name,),
    ).fetchone()
    return row[0] if row else None


# ── what nobody would run ────────────────────────────────────────────────────────────────

WAITING = (
    "SELECT name.id AS id, name.text AS text, what, count(*) AS many FROM ("
    " SELECT handler, 'parked deliveries' AS what FROM inbox INDEXED BY inbox_chain"
    " WHERE status = 1 AND chain IS NOT NULL"
    " UNION ALL SELECT handler, 'timers' FROM timer"
    " UNION ALL SELECT handler, 'open outside calls' FROM memo WHERE state = 1"
    ") AS waiting JOIN name ON name.id = waiting.handler"
    " WHERE substr(name.text, 1, length(?1)) = ?1"
    " GROUP BY name.id, name.text, what ORDER BY name.text, what"
)


def waiting_for(connection: sqlite3.Connection, group: str) -> list[Waiting]:
    """Give what waits for the handlers of a group, by their present names."""
    formers: dict[int, list[str]] = {}
    for text, number in connection.execute("SELECT text, id FROM alias").fetchall():
        formers.setdefault(number, []).append(text)
    rows = connection.execute(WAITING, (f"{group}.",)).fetchall()
    return [
        Waiting(text, tuple(formers.get(number, ())), what, many)
        for number, text, what, many in rows
    ]

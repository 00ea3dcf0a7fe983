"""What a simulation left, as an audit wants to see it.

Each service has a store of its own. For an invariant that asks for the services' own tables
they are put together in one: they do not meet, since their names begin with their service's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from choreo.adapters.sqlite.inline import Disk
from choreo.adapters.sqlite.tx import SqliteTx, driven
from choreo.ports import Row

__all__ = ["Tables"]

OWN = (
    "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND substr(name, 1, length(?1)) = ?1"
)


class Tables:
    """The own tables of all services, to be asked as one."""

    def __init__(self, disks: Iterable[tuple[str, Disk]]) -> None:
        """Copy what services, by their names, have on their disks now."""
        self._all = sqlite3.connect(":memory:", isolation_level=None)
        for service, disk in disks:
            for table, sql in disk.connection.execute(OWN, (f"{service}_",)).fetchall():
                self._all.execute(sql)
                self._copy(table, _read(disk, table))

    def rows(self, sql: str, *values: object) -> list[Row]:
        """Give the rows of a SELECT, as a Tx would."""
        return list(driven(SqliteTx(self._all).fetch(sql, *values)))

    def _copy(self, table: str, rows: Sequence[Sequence[object]]) -> None:
        if rows:
            marks = ", ".join("?" * len(rows[0]))
            self._all.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)  # noqa: S608 - its own name


def _read(disk: Disk, table: str) -> list[tuple[object, ...]]:
    return disk.connection.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608 - as above

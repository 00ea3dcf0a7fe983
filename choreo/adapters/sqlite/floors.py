"""How old what came in is: marks of where the log ended at what time, and floors of groups.

All that lies before a mark is at least as old as that mark. A group's floor in a partition is a
mark that it has read beyond. Where the log is in the same file one mark is of all partitions;
beside another broker each has its own, of what the group has told with `Passed`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from choreo.adapters.sqlite.bulk import select_rows
from choreo.adapters.sqlite.database import last_position
from choreo.events import Partition
from choreo.plan import Passed
from choreo.ports import Floor, Want

__all__ = ["LAST", "Aging", "Ends", "Marks", "floors_of", "note_passed", "place_of", "raised"]

LAST = "coalesce(?, (SELECT max(seq) FROM sqlite_sequence WHERE name = 'log'), 0)"
"""What a gate or memo ages by: the seconds that are given, or where the log ends now."""
Place = tuple[int, int]
NONE = Floor(0, 0.0)


class Aging(Protocol):
    """Marks of a group."""

    def mark(self, now: float) -> None:
        """Remember where the log ends."""
        ...

    def end(self, partition: Partition, at: float, before: int) -> Floor:
        """Give the last mark as old as `at`, of an end that a reader at `before` is beyond."""
        ...

    def written_before(self, at: float) -> int:
        """Give what gates and memos written before `at` have at most, by LAST."""
        ...


class Marks:
    """The log is in this file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Look there."""
        self._connection = connection

    def mark(self, now: float) -> None:
        """Remember where the log ends, of all partitions at once."""
        self._connection.execute(
            "INSERT INTO mark VALUES (?, ?) ON CONFLICT DO NOTHING",
            (last_position(self._connection), now),
        )

    def end(self, partition: Partition | None, at: float, before: int = 2**62) -> Floor:
        """Give the last such mark; one log is of all partitions."""
        del partition
        row = self._connection.execute(
            "SELECT position, at FROM mark WHERE at <= ? AND position < ?"
            " ORDER BY position DESC LIMIT 1",
            (at, before),
        ).fetchone()
        return Floor(*row) if row else NONE

    def written_before(self, at: float) -> int:
        """Give where the log ended by then."""
        return self.end(None, at).offset


class Ends:
    """The log is elsewhere; a group has told now and then where its partitions ended."""

    def __init__(self, connection: sqlite3.Connection, group: str) -> None:
        """Look there."""
        self._connection = connection
        self._group = group

    def mark(self, now: float) -> None:
        """Remember what was told last, each with its own time."""
        del now
        self._connection.execute(
            "INSERT OR IGNORE INTO ended SELECT grp, topic, partition, offset, at FROM passed"
            " WHERE grp = ?",
            (self._group,),
        )

    def end(self, partition: Partition, at: float, before: int) -> Floor:
        """Give the last such mark of this partition."""
        row = self._connection.execute(
            "SELECT offset - 1, at FROM ended WHERE grp = ? AND topic = ? AND partition = ?"
            " AND at <= ? AND offset <= ? ORDER BY at DESC LIMIT 1",
            (self._group, *partition, at, before),
        ).fetchone()
        return Floor(*row) if row else NONE

    def written_before(self, at: float) -> int:
        """Give whole seconds: where the log is elsewhere gates and memos keep their time."""
        return int(at)


def note_passed(connection: sqlite3.Connection, group: str, change: Passed, now: float) -> None:
    """Keep how far a group has come in a partition of a log elsewhere."""
    topic, number = change.partition
    connection.execute(
        "INSERT INTO position (grp, topic, partition, offset) VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET offset = excluded.offset",
        (group, topic, number, change.offset),
    )
    connection.execute(
        "INSERT OR REPLACE INTO passed VALUES (?, ?, ?, ?, ?)",
        (group, topic, number, change.end, now),
    )


def raised(
    connection: sqlite3.Connection, group: str, aging: Aging, at: float, long_ago: float
) -> tuple[dict[Place, Floor], dict[Place, int]]:
    """Raise the floor of each partition to a mark that the group has read beyond.

    Gives the floors, and what is of `long_ago`, by the numbers of topic and partition.
    """
    floors, old = {}, {}
    for name, topic, number, offset, *before in connection.execute(
        "SELECT topic, topic.id, partition, offset, floor, floor_at FROM position"
        " JOIN topic ON topic.name = topic WHERE grp = ?",
        (group,),
    ).fetchall():
        partition = Partition(name, number)
        floor = Floor(*before)
        found = aging.end(partition, at, offset)
        if found.offset > floor.offset:
            floor = found
            connection.execute(
                "UPDATE position SET floor = ?, floor_at = ?"
                " WHERE grp = ? AND topic = ? AND partition = ?",
                (*floor, group, *partition),
            )
        if floor.offset:
            floors[topic, number] = floor
            old[topic, number] = aging.end(partition, long_ago, offset).offset
    return floors, old


def place_of(want: Want) -> tuple[str, str, int] | None:
    """Name the group's partition that a record came in on."""
    source = want.source
    return None if source is None else (_group(want.handler), source[0], source[1])


@lru_cache(maxsize=1024)
def _group(handler: str) -> str:
    return handler.partition(".")[0]


FLOOR = (
    "SELECT grp, topic, partition, floor, floor_at FROM asked"
    " CROSS JOIN position ON grp = column1 AND topic = column2 AND partition = column3"
)


def floors_of(
    connection: sqlite3.Connection, wants: Sequence[Want]
) -> dict[tuple[str, str, int], Floor]:
    """Read the floors of the partitions that these records came in on, by group."""
    if not connection.execute("SELECT 1 FROM position WHERE floor > 0 LIMIT 1").fetchone():
        return {}
    asked = {place for want in wants if (place := place_of(want)) is not None}
    rows = select_rows(connection, FLOOR, 3, [part for row in asked for part in row])
    return {row[:3]: Floor(row[3], row[4]) for row in rows if row[3]}

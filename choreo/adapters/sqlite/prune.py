"""Forgetting what is old, in pieces that hold nobody up.

How old a row is, marks tell (`floors.py`). A floor rises first; only then rows of records before
it go, so whoever finds no row for such a record knows that it may have been handled before.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from choreo.adapters.sqlite.database import Database, last_position
from choreo.adapters.sqlite.floors import Aging, Ends, Marks, raised
from choreo.events import MANIFESTS_TOPIC, TIMED, id_bytes
from choreo.policies import Keep
from choreo.ports import Floor

__all__ = ["Sweep", "begin"]

DAY_S = 86_400.0
Place = tuple[int, int]


class Sweep:
    """One pass over what a group keeps: `pieces`, each a look at some rows and what goes."""

    def __init__(
        self, group: str, floors: Mapping[Place, Floor], old: Mapping[Place, int], now: float
    ) -> None:
        """Keep, by topic and partition, the floors and what is as old as a flow is kept."""
        self.group = group
        self.floors = floors
        self._old = old
        self.now = now
        self.handlers: tuple[int, ...] = ()
        self.flow_floor = 0  # of gates and memos
        self.log_floor = 0
        self._seen = 0  # rows in the last look
        self._last = b""
        self._pieces = self._all()

    async def step(self, database: Database, most: int) -> bool:
        """Do the next piece; tell whether more are left."""
        self._most = most
        work = next(self._pieces, None)
        if work is None:
            return False
        look, forget = work
        rows = await database.read(look)
        if doomed := self._taken(rows):
            await database.write(lambda c: forget(c, doomed))
        return True

    # Each piece is a look at rows, on the reader, and what to do with those that are old.
    # `_taken` moves the cursor on and picks them.

    def _all(self) -> Iterator[tuple[Callable[[sqlite3.Connection], Any], Callable[..., None]]]:
        if self.floors:
            for handler in self.handlers:
                yield from self._inbox(handler)
        if self.flow_floor:
            yield from self._table(GATES, ("", 0, ""), _old_gate, _forget_gates)
            yield from self._table(MEMOS, (b"", 0, ""), _old_memo, _forget_memos)
        if self.log_floor:
            yield from self._log()

    def _inbox(self, handler: int) -> Iterator[tuple[Any, Any]]:
        """Pass over what was born after every floor: its records are not before any."""
        born = max(floor.at for floor in self.floors.values())
        young, old = _prefix(born), _prefix(self.now + DAY_S)
        cursor, end = b"", young
        while True:
            self._taken = self._old_rows
            yield partial(_inbox_rows, handler, cursor, end, self._most), _forget_rows
            if self._seen == self._most:
                cursor = self._last
            elif end == young and old > young:
                cursor, end = old, b"\xff" * 17
            else:
                return

    def _old_rows(self, rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        self._seen = len(rows)
        if rows:
            self._last = rows[-1][1]
        found = []
        for handler, subject, settled, topic, partition, offset in rows:
            floor = self.floors.get((topic, partition))
            if floor is None or offset > floor.offset or not settled:
                continue
            if subject[6] >> 4 in TIMED or offset <= self._old[topic, partition]:
                found.append((handler, subject))
        return found

    def _table(
        self, look: str, cursor: tuple[Any, ...], old: Callable[..., bool], forget: Any
    ) -> Iterator[tuple[Any, Any]]:
        def taken(rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
            nonlocal cursor
            self._seen = len(rows)
            if rows:
                cursor = rows[-1][:3]
            ours = (row for row in rows if row[1] in self.handlers)
            return [(*row[:3], self.flow_floor) for row in ours if old(row, self.flow_floor)]

        while True:
            self._taken = taken
            yield partial(_table_rows, look, cursor, self._most), forget
            if self._seen < self._most:
                return

    def _log(self) -> Iterator[tuple[Any, Any]]:
        while True:
            self._taken = self._positions
            yield partial(_log_rows, self.log_floor, self._most), _forget_log
            if self._seen < self._most:
                return

    def _positions(self, rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        self._seen = len(rows)
        return list(rows)


# ── the beginning ────────────────────────────────────────────────────────────────────────


def begin(
    connection: sqlite3.Connection, group: str, keep: Keep, now: float, *, beside: bool
) -> Sweep | None:
    """Mark the log's end, raise the group's floors; None while its last sweep is young.

    `beside`: the log is elsewhere, and the group has told how far it came in it.
    """
    row = connection.execute("SELECT at FROM sweep WHERE grp = ?", (group,)).fetchone()
    if row is not None and abs(now - row[0]) < keep.every_s:
        return None
    connection.execute("INSERT OR REPLACE INTO sweep VALUES (?, ?)", (group, now))
    long_ago = now - keep.flow_s
    marks: Aging = Ends(connection, group) if beside else Marks(connection)
    marks.mark(now)
    floors, old = raised(connection, group, marks, now - keep.inbox_s, long_ago)
    sweep = Sweep(group, floors, old, now)
    rows = connection.execute("SELECT id FROM name WHERE text GLOB ?", (f"{group}.*",))
    sweep.handlers = tuple(number for (number,) in rows)
    sweep.flow_floor = marks.written_before(long_ago)
    if keep.log_s is not None and not beside:
        sweep.log_floor = min(
            marks.written_before(now - keep.log_s),
            last_position(connection) - 1,  # one record stays, for those who read on behind it
            *(offset - 1 for (offset,) in connection.execute("SELECT offset FROM position")),
        )
    return sweep


# ── what is looked at, and what goes ─────────────────────────────────────────────────────

GATES = (
    "SELECT kind, handler, scope, position, members FROM gate"
    " WHERE (kind, handler, scope) > (?, ?, ?) ORDER BY kind, handler, scope LIMIT ?"
)
MEMOS = (
    "SELECT subject, handler, name, position, state FROM memo"
    " WHERE (subject, handler, name) > (?, ?, ?) ORDER BY subject, handler, name LIMIT ?"
)
SET = "SELECT 1 FROM timer WHERE id = ?"
OPEN = "SELECT 1 FROM inbox WHERE handler = ? AND subject = ? AND status IN (1, 3)"


def _prefix(at: float) -> bytes:
    """Give what ids begin with that were born at this time."""
    return max(0, min(int(at * 1000), 2**48 - 1)).to_bytes(6, "big")


def _inbox_rows(
    handler: int, cursor: bytes, end: bytes, most: int, connection: sqlite3.Connection
) -> list[tuple[Any, ...]]:
    return connection.execute(
        "SELECT handler, subject, status IN (2, 4), topic, partition, offset FROM inbox"
        " WHERE handler = ? AND subject > ? AND subject < ? ORDER BY subject LIMIT ?",
        (handler, cursor, end, most),
    ).fetchall()


def _forget_rows(connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    connection.executemany(
        "DELETE FROM inbox WHERE handler = ? AND subject = ? AND status IN (2, 4)", rows
    )


def _table_rows(
    look: str, cursor: tuple[Any, ...], most: int, connection: sqlite3.Connection
) -> list[tuple[Any, ...]]:
    return connection.execute(look, (*cursor, most)).fetchall()


def _old_gate(row: tuple[Any, ...], floor: int) -> bool:
    return bool(row[3] <= floor)


def _old_memo(row: tuple[Any, ...], floor: int) -> bool:
    return bool(row[3] <= floor and row[4] != 1)  # what is open stays open


def _forget_gates(connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    for kind, handler, scope, floor in rows:
        key = (kind, handler, scope)
        where = "WHERE kind = ? AND handler = ? AND scope = ?"
        row = connection.execute(f"SELECT members, position FROM gate {where}", key).fetchone()
        if row is not None and row[1] <= floor and not _waited_for(connection, handler, row[0]):
            connection.execute(f"DELETE FROM gate {where}", key)


def _waited_for(connection: sqlite3.Connection, handler: int, members: bytes) -> bool:
    """Tell whether a call, a timer or an undo of this gate is open."""
    try:
        kept = json.loads(members) if members else {}
    except ValueError:
        return False
    if not isinstance(kept, dict):
        return False
    timers = [*kept.get("timers", ()), *([kept["timer"]] if "timer" in kept else [])]
    found = ((SET, (bytes.fromhex(timer),)) for timer in timers)
    undone = ((OPEN, (handler, id_bytes(effect))) for effect in kept.get("effects", ()))
    return bool(kept.get("intents")) or any(
        connection.execute(sql, key).fetchone() for sql, key in (*found, *undone)
    )


def _forget_memos(connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    for subject, handler, name, floor in rows:
        if not connection.execute(OPEN, (handler, subject)).fetchone():
            connection.execute(
                "DELETE FROM memo WHERE subject = ? AND handler = ? AND name = ?"
                " AND state <> 1 AND position <= ?",
                (subject, handler, name, floor),
            )


def _log_rows(floor: int, most: int, connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
    """Manifests stay: whoever comes later wants the newest of each service."""
    return connection.execute(
        "SELECT position FROM log WHERE position <= ? AND topic NOT IN"
        " (SELECT id FROM topic WHERE name = ?) ORDER BY position LIMIT ?",
        (floor, MANIFESTS_TOPIC, most),
    ).fetchall()


def _forget_log(connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    connection.executemany("DELETE FROM log WHERE position = ?", rows)

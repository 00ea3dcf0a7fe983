"""A store's file, looked at from outside: reads only, and makes no file that is not there.

Who asks has an operator's questions: is the file whole, who works on it, what waits.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from choreo.adapters.sqlite.database import last_position, retried, translated, version_of
from choreo.adapters.sqlite.members import LEASE_S, alive
from choreo.adapters.sqlite.schema import WITH_OUTBOX
from choreo.codec import headers_from_text
from choreo.errors import ChoreoError
from choreo.events import TIME, id_text

__all__ = ["DeadSeen", "GroupSeen", "Survey", "survey"]

LAG_MAX = 200_000
LATEST = 200
DEAD_MAX = 1_000
PARKED, DEAD = 1, 3


@dataclass(frozen=True, slots=True)
class GroupSeen:
    """A consumer group: its processes, alive or not, whose partitions are, and what waits.

    `lag` has the records of each partition that were not passed yet, as topic-number.
    `more` says that there are more than were counted.
    """

    name: str
    alive: tuple[str, ...]
    gone: tuple[str, ...]
    orphaned: tuple[str, ...]
    lag: Mapping[str, int]
    more: bool


@dataclass(frozen=True, slots=True)
class DeadSeen:
    """The dead letters of one handler."""

    handler: str
    count: int
    error: str


@dataclass(frozen=True, slots=True)
class Survey:
    """What was seen. Sizes in bytes; times in epoch seconds, None where there is none.

    `parked` and `timers` have (handler, number, number overdue, first due time); `gates`
    (kind, number open, id that the oldest one's scope begins with); `views` is how far the
    tracker has read, None without views.
    """

    size: int
    wal_size: int
    disk_free: int
    version: int
    journal_mode: str
    damage: tuple[str, ...]
    records: int
    newest: float | None
    groups: tuple[GroupSeen, ...]
    parked: tuple[tuple[str, int, int, float | None], ...]
    timers: tuple[tuple[str, int, int, float | None], ...]
    dead: tuple[DeadSeen, ...]
    unknown: int
    gates: tuple[tuple[str, int, float | None], ...]
    views: int | None = None
    behind: int = 0


def survey(path: str, views: str, *, now: float, whole: bool = True) -> Survey:
    """Look at a file. `whole`: read all of it for damage, which takes as long as reading it.

    Raises StoreError where it is no store of ours, or can not be read.
    """
    with translated(path), _opened(path) as connection:
        version = retried(lambda: version_of(connection, path, WITH_OUTBOX))
        damage: tuple[str, ...] = ()
        if whole:
            found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(5)")]
            damage = () if found == ["ok"] else tuple(found)
        names = dict(connection.execute("SELECT id, text FROM name"))
        last = last_position(connection)
        read = _views_position(views)
        return Survey(
            size=_size(path),
            wal_size=_size(f"{path}-wal"),
            disk_free=shutil.disk_usage(Path(path).parent).free,
            version=version,
            journal_mode=_journal_mode(path),
            damage=damage,
            records=last,
            newest=_newest(connection),
            groups=tuple(_groups(connection)),
            parked=_waiting(connection, "inbox", f"WHERE status = {PARKED}", names, now),
            timers=_waiting(connection, "timer", "", names, now),
            dead=tuple(_dead(connection, names)),
            unknown=connection.execute("SELECT count(*) FROM memo WHERE state = 1").fetchone()[0],
            gates=tuple(_gates(connection)),
            views=read,
            behind=0 if read is None else max(last - read, 0),
        )


@contextmanager
def _opened(path: str) -> Iterator[sqlite3.Connection]:
    """Open a file for reading. One without its log beside it is open nowhere: it stands still."""
    still = "" if Path(f"{path}-wal").exists() else "&immutable=1"
    quoted = str(Path(path).resolve()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    connection = sqlite3.connect(f"file:{quoted}?mode=ro{still}", uri=True, isolation_level=None)
    with closing(connection):
        connection.execute("BEGIN")  # one moment for all that is read
        yield connection


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0


def _journal_mode(path: str) -> str:
    """Read it from the file's header (SQLite, "Database File Format", section 1.3)."""
    with Path(path).open("rb") as file:
        return "wal" if file.read(20)[18:] == b"\2\2" else "delete"


def _newest(connection: sqlite3.Connection) -> float | None:
    """Give the latest time among the last records, as their headers say."""
    found = []
    for (text,) in connection.execute(
        "SELECT CAST(headers AS BLOB) FROM log ORDER BY position DESC LIMIT ?", (LATEST,)
    ):
        try:
            found.append(datetime.fromisoformat(headers_from_text(text).get(TIME, "")).timestamp())
        except (ChoreoError, ValueError, OverflowError):
            continue
    return max(found, default=None)


def _groups(connection: sqlite3.Connection) -> Iterator[GroupSeen]:
    members: dict[str, list[tuple[int, str, float]]] = {}
    for id_, group, holder, until in connection.execute(
        "SELECT id, grp, holder, until FROM member ORDER BY id"
    ):
        members.setdefault(group, []).append((id_, holder, until))
    offsets: dict[str, dict[tuple[str, int], int]] = {}
    for group, topic, number, offset in connection.execute(
        "SELECT grp, topic, partition, offset FROM position"
    ):
        offsets.setdefault(group, {})[topic, number] = offset
    orphans: dict[str, list[str]] = {}
    living = {
        id_ for found in members.values() for id_, holder, until in found if _lives(holder, until)
    }
    for group, topic, number, member in connection.execute(
        "SELECT grp, topic, partition, member FROM assignment ORDER BY grp, topic, partition"
    ):
        offsets.setdefault(group, {}).setdefault((topic, number), 1)
        if member not in living:
            orphans.setdefault(group, []).append(f"{topic}-{number}")
    for group in sorted({*members, *offsets}):
        found = members.get(group, [])
        lag, more = _lag(connection, offsets.get(group, {}))
        yield GroupSeen(
            group,
            tuple(holder for id_, holder, _ in found if id_ in living),
            tuple(holder for id_, holder, _ in found if id_ not in living),
            tuple(orphans.get(group, ())),
            lag,
            more,
        )


def _lives(holder: str, until: float) -> bool:
    uptime = time.monotonic()
    return alive(holder) and uptime <= until <= uptime + 2 * LEASE_S


def _lag(
    connection: sqlite3.Connection, offsets: Mapping[tuple[str, int], int]
) -> tuple[dict[str, int], bool]:
    """Count what lies beyond the offsets, partition by partition, up to a limit."""
    if not offsets:
        return {}, False
    rows = connection.execute(
        "SELECT topic.name, log.partition, log.position FROM log JOIN topic ON topic.id = log.topic"
        " WHERE log.position >= ? ORDER BY log.position LIMIT ?",
        (min(offsets.values()), LAG_MAX),
    )
    lag: dict[str, int] = {}
    seen = 0
    for topic, number, position in rows:
        seen += 1
        if position >= offsets.get((topic, number), position + 1):
            name = f"{topic}-{number}"
            lag[name] = lag.get(name, 0) + 1
    return dict(sorted(lag.items())), seen == LAG_MAX


def _waiting(
    connection: sqlite3.Connection, table: str, where: str, names: Mapping[int, str], now: float
) -> tuple[tuple[str, int, int, float | None], ...]:
    rows = connection.execute(
        f"SELECT handler, count(*), coalesce(sum(due < ?), 0), min(due) FROM {table} {where}"
        " GROUP BY handler",
        (now,),
    )
    return tuple(sorted((names.get(number, "?"), *rest) for number, *rest in rows.fetchall()))


def _dead(connection: sqlite3.Connection, names: Mapping[int, str]) -> Iterator[DeadSeen]:
    rows = connection.execute(
        "SELECT handler, count(*), max(error) FROM"
        f" (SELECT handler, error FROM inbox WHERE status = {DEAD}) GROUP BY handler LIMIT ?",
        (DEAD_MAX,),
    )
    for number, count, error in sorted(rows, key=lambda row: names.get(row[0], "?")):
        yield DeadSeen(names.get(number, "?"), count, str(error or ""))


def _gates(connection: sqlite3.Connection) -> Iterator[tuple[str, int, float | None]]:
    """Give, by kind, the open gates of those that wait for something.

    Of the others an open one is as it should be: a scope that was never to be undone, visits
    counted. A scope that begins with an id of its time tells how old it is.
    """
    rows: list[Any] = connection.execute(
        "SELECT kind, count(*), min(CASE WHEN substr(scope, 15, 1) = '7' THEN scope END)"
        " FROM gate WHERE closed = 0 AND kind IN ('join', 'expects') GROUP BY kind ORDER BY kind"
    ).fetchall()
    for kind, count, scope in rows:
        yield kind, count, _time_of(scope)


def _time_of(scope: str | None) -> float | None:
    """Read the time out of a UUID of version 7 (RFC 9562, section 5.7)."""
    try:
        raw = bytes.fromhex((scope or "")[:36].replace("-", ""))
        return int.from_bytes(raw[:6], "big") / 1000 if id_text(raw)[14] == "7" else None
    except (ValueError, IndexError):
        return None


def _views_position(path: str) -> int | None:
    if not Path(path).exists():
        return None
    with translated(path), _opened(path) as connection:
        row = connection.execute("SELECT value FROM meta WHERE name = 'position'").fetchone()
        return int(row[0]) if row else 0

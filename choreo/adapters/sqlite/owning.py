"""Who owns what came in, and what is theirs to do: due deliveries, timers, rows to publish.

Beside its log a store sees which partitions the members of a group have. Alone it goes by the
processes that own them: what came in on a partition of no living process is nobody's.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from choreo.adapters.sqlite.database import Database
from choreo.adapters.sqlite.log import Log
from choreo.adapters.sqlite.outbox import Outbox
from choreo.codec import headers_from_text
from choreo.events import Partition, Record
from choreo.plan import Owned, Parked, Source
from choreo.ports import ORPHANS, Due, Unsent

__all__ = ["due_of", "due_rows", "let_go", "stale", "take_over", "unsent_rows"]

# ── due ──────────────────────────────────────────────────────────────────────────────────

# No GLOB: a statement that compares so with a parameter is prepared anew for each value of it.
GROUPS = "handler IN (SELECT id FROM name WHERE substr(text, 1, length(?2)) = ?2)"
# json_each holds the partitions, by number of topic: taken apart once, not for each row. ?4 tells
# whether what came in on a partition of nobody is ours, too.
OURS = (
    GROUPS + " AND (({0}.topic, partition) IN"
    " (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?3))"
    " OR ?4 AND NOT EXISTS (SELECT 1 FROM assignment AS had WHERE grp = ?5"
    " AND had.topic = topic.name AND had.partition = {0}.partition))"
)
# By their indexes: settled rows are many, and without statistics SQLite would go by handler.
DUE = (
    "SELECT handler, subject, due, topic.name, partition, offset, record, hash, run, attempt,"
    " chain, error FROM inbox INDEXED BY inbox_due CROSS JOIN topic ON topic.id = inbox.topic"
    f" WHERE status = 1 AND due IS NOT NULL AND due <= ?1 AND {OURS.format('inbox')}"
    " ORDER BY due LIMIT ?6"
)
FIRED = (
    "SELECT handler, timer.id, due, topic.name, partition, offset, payload FROM timer"
    f" CROSS JOIN topic ON topic.id = timer.topic WHERE due <= ?1 AND {OURS.format('timer')}"
    " ORDER BY due LIMIT ?6"
)
NEXT = (
    "SELECT min(due) FROM (SELECT min(due) AS due FROM inbox INDEXED BY inbox_due"
    f" WHERE status = 1 AND due > ?1 AND {GROUPS}"
    f" UNION ALL SELECT min(due) FROM timer WHERE due > ?1 AND {GROUPS})"
)

HELD = (
    "SELECT name.text, chain, topic.name, partition FROM inbox INDEXED BY inbox_chain"
    " CROSS JOIN name ON name.id = handler CROSS JOIN topic ON topic.id = inbox.topic"
    " WHERE chain <> '' AND substr(name.text, 1, length(?1)) = ?1"
)


ASSIGNED = "assignment AS had WHERE grp = ?5"
OWNED = "owner AS had WHERE grp = ?5 AND holder IN (SELECT value FROM json_each(?7))"
DUE_ALONE, FIRED_ALONE = (sql.replace(ASSIGNED, OWNED) for sql in (DUE, FIRED))
HOLDERS = "SELECT DISTINCT holder FROM owner WHERE grp = ?"


def due_rows(
    connection: sqlite3.Connection, owned: Owned, now: float, most: int, log: Log | Outbox
) -> tuple[list[tuple[Any, ...]], float | None]:
    """Read parked deliveries and timers that are due, and when the next one of the group is."""
    topics = log.topics
    places = [(topics[p.topic][0], p.number) for p in owned.epochs if p.topic in topics]
    ours = f"{owned.group}."
    asked = [now, ours, json.dumps(places), ORPHANS in owned.epochs, owned.group, most]
    due, fired = DUE, FIRED
    if isinstance(log, Outbox):
        due, fired = DUE_ALONE, FIRED_ALONE
        holders = (holder for (holder,) in connection.execute(HOLDERS, (owned.group,)))
        asked.append(json.dumps(_living(holders, log.database)))
    rows = connection.execute(due, asked).fetchall()
    rows += connection.execute(fired, asked).fetchall()
    rows.sort(key=lambda row: row[2])
    (after,) = connection.execute(NEXT, (now, ours)).fetchone()
    return rows, after


def due_of(handler: str, row: tuple[Any, ...]) -> Due:
    """Make a Due of a row."""
    subject, due, source, payload = row[1], row[2], Source(row[3], row[4], row[5]), row[6]
    if len(row) == 7:  # noqa: PLR2004 - a timer's columns
        return Due(handler, subject, due, source, payload, None)
    parked = Parked(row[8], row[9], due, row[10] or "", payload, row[11] or "")
    return Due(handler, subject, due, source, payload, parked, row[7])


# ── to be published ──────────────────────────────────────────────────────────────────────

# With ORPHANS also what is of a partition of nobody; with those of the first group also what is
# of no service.
UNSENT = (
    "SELECT seq, topic, partition, target, CAST(key AS BLOB), CAST(headers AS BLOB),"
    " CAST(value AS BLOB) FROM outbox WHERE seq > ?1 AND (grp = ?2 AND (topic, partition) IN"
    " (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?3))"
    " OR ?7 AND grp = '' OR ?4 AND (grp = ?2 AND (topic, partition) NOT IN"
    " (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?5))))"
    " ORDER BY seq LIMIT ?6"
)


def unsent_rows(
    connection: sqlite3.Connection, owned: Owned, database: Database, *, after: int, most: int
) -> list[Unsent]:
    """Read what is not known to be published, in order."""
    orphans = ORPHANS in owned.epochs
    ours = json.dumps([*owned.epochs])
    others = json.dumps([*_served(_owners(connection, owned.group), database)] if orphans else [])
    first = orphans and _first(connection, database) in (None, owned.group)
    asked = (after, owned.group, ours, orphans, others, most, first)
    found = []
    for row in connection.execute(UNSENT, asked).fetchall():
        seq, topic, partition, target, key, headers, value = row
        record = Record(target, key, headers_from_text(headers), value)
        record.row = seq
        found.append(Unsent(seq, Partition(topic, partition), record))
    return found


# ── ownership ────────────────────────────────────────────────────────────────────────────

Owners = Mapping[tuple[str, int], tuple[int, str]]
"""Epoch and holder of each partition, as they stand in the row: there are many."""


def take_over(
    connection: sqlite3.Connection,
    group: str,
    partitions: Collection[Partition],
    database: Database,
    *,
    shared: bool,
) -> Owned:
    """Raise the epochs of those partitions that are not another process's by now.

    `shared`: the broker's members stand in the same file, and say whose they are.
    """
    holder = database.holder()
    former = _owners(connection, group)
    assigned = _assigned(connection, group, holder) if shared else _served(former, database)
    refused = set[Partition]()
    if shared:
        refused = {one for one in partitions if assigned.get(one, holder) != holder}
    ours = [p for p in partitions if p not in refused and (p != ORPHANS or not refused)]
    connection.executemany(
        "INSERT INTO owner VALUES (?, ?, ?, 1, ?)"
        " ON CONFLICT DO UPDATE SET epoch = epoch + 1, holder = excluded.holder",
        [(group, *partition, holder) for partition in ours],
    )
    epochs = {partition: former.get(partition, (0, ""))[0] + 1 for partition in ours}
    holders = {former[partition][1] for partition in ours if partition in former}
    gone = {one for one in holders if one and not database.alive(one)}
    unclean = {partition for partition in ours if former.get(partition, (0, ""))[1] in gone}
    held = [
        (handler, chain)
        for handler, chain, topic, number in connection.execute(HELD, (f"{group}.",))
        if (place := Partition(topic, number)) in epochs
        or (ORPHANS in epochs and place not in assigned)
    ]
    return Owned(group, epochs, held, unclean)


def _assigned(connection: sqlite3.Connection, group: str, ours: str) -> dict[tuple[str, int], str]:
    """Give the partitions that members of a group have or had, and their processes."""
    return {
        (topic, number): having
        for topic, number, having in connection.execute(
            "SELECT topic, partition, coalesce(holder, ?2) FROM assignment"
            " LEFT JOIN member ON member.id = member WHERE assignment.grp = ?1",
            (group, ours),
        )
    }


def _living(holders: Iterable[str], database: Database) -> list[str]:
    return [one for one in dict.fromkeys(holders) if one and database.alive(one)]


def _served(owners: Owners, database: Database) -> dict[tuple[str, int], str]:
    """Give the partitions that a process owns which is there, and the process."""
    living = _living((holder for _, holder in owners.values()), database)
    return {place: holder for place, (_, holder) in owners.items() if holder in living}


def _first(connection: sqlite3.Connection, database: Database) -> str | None:
    """Name the first group whose orphans a process has that is there."""
    rows = connection.execute("SELECT grp, holder FROM owner WHERE topic = '' ORDER BY grp")
    return next((grp for grp, holder in rows if holder and database.alive(holder)), None)


def _owners(connection: sqlite3.Connection, group: str) -> Owners:
    rows = connection.execute(
        "SELECT topic, partition, epoch, holder FROM owner WHERE grp = ?", (group,)
    )
    return {row[:2]: row[2:] for row in rows}


def let_go(connection: sqlite3.Connection, group: str, epochs: Mapping[Partition, int]) -> None:
    """Say that this process has nothing open in these partitions any more."""
    connection.executemany(
        "UPDATE owner SET holder = '' WHERE grp = ? AND topic = ? AND partition = ? AND epoch = ?",
        [(group, *partition, epoch) for partition, epoch in epochs.items()],
    )


def stale(connection: sqlite3.Connection, owned: Collection[Owned]) -> set[int]:
    """Give the `id` of each of these of which somebody else has taken a partition over."""
    current: dict[str, Owners] = {}
    found = set()
    for one in owned:
        if one.group not in current:
            current[one.group] = _owners(connection, one.group)
        now = current[one.group]
        if any(now.get(p, (0, ""))[0] != epoch for p, epoch in one.epochs.items()):
            found.add(id(one))
    return found

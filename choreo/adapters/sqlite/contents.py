"""The file's rows as an audit sees them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any

from choreo.codec import headers_from_text
from choreo.events import Partition, Record
from choreo.plan import Memo, Source, Status
from choreo.ports import Contents, InboxRow, MemoRow, OwnerRow, TimerRow, Unsent

__all__ = ["contents_of", "positions_of"]

INBOX = (
    "SELECT name.text, subject, status, topic.name, partition, offset, due, coalesce(chain, '')"
    " FROM inbox JOIN name ON name.id = inbox.handler LEFT JOIN topic ON topic.id = inbox.topic"
)
TIMERS = (
    "SELECT timer.id, name.text, due, topic.name, partition, offset"
    " FROM timer JOIN name ON name.id = timer.handler LEFT JOIN topic ON topic.id = timer.topic"
)
MEMOS = "SELECT text, subject, name, state FROM memo JOIN name AS of ON of.id = memo.handler"
OWNERS = "SELECT grp, topic, partition, epoch, holder FROM owner"
OUTBOX = (
    "SELECT seq, topic, partition, target, CAST(key AS BLOB), CAST(headers AS BLOB),"
    " CAST(value AS BLOB) FROM outbox ORDER BY seq"
)
HAS_OUTBOX = "SELECT 1 FROM sqlite_master WHERE name = 'outbox'"
FLOORS = "SELECT grp, topic, partition, floor FROM position WHERE floor > 0"
POSITIONS = "SELECT grp, topic, partition, offset FROM position"


def contents_of(connection: sqlite3.Connection) -> Contents:
    """Read what the file keeps for all services, as of one moment."""
    connection.execute("SAVEPOINT contents")  # from its first SELECT on it sees one moment
    try:
        return Contents(
            inbox=[
                InboxRow(handler, bytes(subject), Status(status), _source(*place), due, chain)
                for handler, subject, status, *place, due, chain in connection.execute(INBOX)
            ],
            timers=[
                TimerRow(bytes(timer), handler, due, _source(*place))
                for timer, handler, due, *place in connection.execute(TIMERS)
            ],
            memos=[
                MemoRow(handler, bytes(subject), name, Memo(state))
                for handler, subject, name, state in connection.execute(MEMOS)
            ],
            owners=[
                OwnerRow(group, Partition(topic, number), epoch, holder)
                for group, topic, number, epoch, holder in connection.execute(OWNERS)
            ],
            outbox=[_unsent(*row) for row in _outbox(connection)],
            floors={
                (group, Partition(topic, number)): floor
                for group, topic, number, floor in connection.execute(FLOORS)
            },
        )
    finally:
        connection.execute("RELEASE contents")


def positions_of(connection: sqlite3.Connection) -> dict[tuple[str, Partition], int]:
    """Read where every group is to read next."""
    return {
        (group, Partition(topic, number)): offset
        for group, topic, number, offset in connection.execute(POSITIONS)
    }


def _outbox(connection: sqlite3.Connection) -> Iterable[tuple[Any, ...]]:
    if connection.execute(HAS_OUTBOX).fetchone() is None:
        return ()
    return connection.execute(OUTBOX)


def _unsent(
    row: int,
    topic: str,
    partition: int,
    target: str,
    key: bytes | None,
    headers: bytes,
    value: bytes,
) -> Unsent:
    record = Record(target, key, headers_from_text(headers), value)
    record.row = row
    return Unsent(row, Partition(topic, partition), record)


def _source(topic: str | None, partition: int, offset: int) -> Source:
    return Source(topic or "", partition, offset)

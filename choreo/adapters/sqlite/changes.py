"""Changes, written one by one: each compares what stands there with what was seen.

What loses says so by an exception; whoever performs the plan takes all of it back.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping

from choreo.adapters.sqlite.floors import LAST, note_passed
from choreo.adapters.sqlite.names import number_of
from choreo.adapters.sqlite.outbox import topic_number
from choreo.plan import (
    CancelTimer,
    Change,
    Gate,
    Memo,
    Passed,
    Plan,
    Remember,
    SaveState,
    Sent,
    SetTimer,
    Settle,
    Source,
    Status,
)
from choreo.ports import Applied

__all__ = ["Changes", "LostError"]

BEFORE = "SELECT 1 FROM inbox WHERE handler = ?1 AND chain = ?2 AND offset < ?3"
WAKE = (
    "UPDATE inbox SET due = 0 WHERE handler = ?1 AND subject = ("
    " SELECT subject FROM inbox WHERE handler = ?1 AND chain = ?2"
    " ORDER BY offset LIMIT 1) AND status = 1 AND due IS NULL"
)
FORGET = "DELETE FROM outbox WHERE seq IN (SELECT value FROM json_each(?))"
INBOX_FULL = (
    "INSERT INTO inbox (handler, subject, status, hash, topic, partition, offset,"
    " run, attempt, due, chain, record, error) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT DO NOTHING"
)


class LostError(Exception):
    """A change that can not be made: the plan's outcome, not an error."""

    def __init__(self, applied: Applied) -> None:
        super().__init__(applied)
        self.applied = applied


class Changes:
    """Writes changes that are no Publish, in the writer's thread."""

    def __init__(
        self, names: Mapping[str, int], topics: Mapping[str, tuple[int, int]], now: float | None
    ) -> None:
        """Know the numbers of handlers and topics, as far as they were learned.

        `now`: the time that rows age by, None where they age with the log.
        """
        self._names = names
        self._topics = topics
        self._now = now
        self._age = None if now is None else int(now)

    def write(self, connection: sqlite3.Connection, plan: Plan, change: Change) -> None:
        """Write one change of a plan; raises LostError when something else stands there."""
        if isinstance(change, Settle):
            self._settle(connection, change)
        elif isinstance(change, Gate):
            _write_gate(connection, self._number(connection, change.key.name), change, self._age)
        elif isinstance(change, SetTimer):
            connection.execute(
                "INSERT OR REPLACE INTO timer VALUES (?, ?, ?, ?, ?, ?, ?)",
                (change.id, change.due, self._names[change.handler], change.payload,
                 *self._place(connection, change.source)),
            )  # fmt: skip
        elif isinstance(change, CancelTimer):
            _cancel_timer(connection, change)
        elif isinstance(change, Remember):
            handler, _, call = change.name.partition("/")
            number = self._number(connection, handler)
            _remember(connection, (change.subject, number, call), change, self._age)
        elif isinstance(change, SaveState):
            _save_state(connection, change)
        elif isinstance(change, Sent):
            rows = json.dumps(change.rows)
            connection.execute(FORGET, (rows,))
        elif isinstance(change, Passed) and plan.owned is not None and self._now is not None:
            note_passed(connection, plan.owned.group, change, self._now)

    def _number(self, connection: sqlite3.Connection, name: str) -> int:
        return self._names.get(name) or number_of(connection, name)

    def _place(self, connection: sqlite3.Connection, source: Source) -> tuple[int, int, int]:
        known = self._topics.get(source.topic)
        number = topic_number(connection, source.topic) if known is None else known[0]
        return number, source.partition, source.offset

    def _settle(self, connection: sqlite3.Connection, change: Settle) -> None:
        parked = change.parked
        kept = (None,) * 6 if parked is None else tuple(parked)
        handler = self._names[change.handler]
        if parked is not None and parked.due is None and change.status is Status.PARKED:
            kept = (*kept[:2], self._due_behind(connection, handler, change), *kept[3:])
        if change.seen is None:
            cursor = connection.execute(
                INBOX_FULL,
                (handler, change.subject, change.status, change.payload_hash,
                 *self._place(connection, change.source),
                 *kept),
            )  # fmt: skip
            if not cursor.rowcount and not change.spawn:
                raise LostError(Applied.DUPLICATE)
            return
        row = connection.execute(
            "SELECT chain FROM inbox WHERE handler = ? AND subject = ? AND status = ?"
            " AND run = ? AND attempt = ?",
            (handler, change.subject, Status.DEAD if change.dead else Status.PARKED, *change.seen),
        ).fetchone()
        if row is None:
            raise LostError(Applied.CONFLICT if change.dead else Applied.DUPLICATE)
        connection.execute(
            "UPDATE inbox SET status = ?, run = ?, attempt = ?, due = ?, chain = ?, record = ?,"
            " error = ? WHERE handler = ? AND subject = ?",
            (change.status, *kept, handler, change.subject),
        )
        if row[0] and not change.holds:
            _release_next(connection, handler, row[0])

    @staticmethod
    def _due_behind(connection: sqlite3.Connection, handler: int, change: Settle) -> float | None:
        """Nobody before it holds the chain any more: what was to wait is due at once."""
        assert change.parked is not None
        ahead = connection.execute(
            BEFORE,
            (handler, change.parked.chain, change.source.offset),
        ).fetchone()
        return None if ahead else 0.0


def _release_next(connection: sqlite3.Connection, handler: int, chain: str) -> None:
    """Let the delivery that waits next in this chain run, unless a dead letter holds it."""
    connection.execute(
        WAKE,
        (handler, chain),
    )


def _write_gate(
    connection: sqlite3.Connection, handler: int, change: Gate, age: int | None
) -> None:
    kind, _, scope = change.key
    if change.seq:
        cursor = connection.execute(
            f"UPDATE gate SET seq = seq + 1, closed = ?, members = ?, position = {LAST}"
            " WHERE kind = ? AND handler = ? AND scope = ? AND seq = ?",
            (change.closed, change.members, age, kind, handler, scope, change.seq),
        )
    else:
        cursor = connection.execute(
            f"INSERT INTO gate VALUES (?, ?, ?, 1, ?, ?, {LAST}) ON CONFLICT DO NOTHING",
            (kind, handler, scope, change.closed, change.members, age),
        )
    if not cursor.rowcount:
        raise LostError(Applied.CONFLICT)


def _cancel_timer(connection: sqlite3.Connection, change: CancelTimer) -> None:
    if change.due is None:
        connection.execute("DELETE FROM timer WHERE id = ?", (change.id,))
        return
    cursor = connection.execute(
        "DELETE FROM timer WHERE id = ? AND due = ? AND payload = ?",
        (change.id, change.due, change.payload),
    )
    if not cursor.rowcount:
        raise LostError(Applied.DUPLICATE)


def _remember(
    connection: sqlite3.Connection, key: tuple[bytes, int, str], change: Remember, age: int | None
) -> None:
    if change.state is Memo.RESULT:
        # The first result wins, whoever had the intent.
        unless = "state <> 2"
    else:
        unless = "state = 0" if change.state is Memo.INTENT else "state = 1"
    cursor = connection.execute(
        f"INSERT INTO memo VALUES (?, ?, ?, ?, ?, {LAST}) ON CONFLICT DO UPDATE SET"
        " state = excluded.state, result = excluded.result, position = excluded.position"
        f" WHERE {unless}",
        (*key, change.state, change.result, age),
    )
    if not cursor.rowcount and change.state is Memo.RESULT:
        raise LostError(Applied.CONFLICT)


def _save_state(connection: sqlite3.Connection, change: SaveState) -> None:
    if change.version:
        cursor = connection.execute(
            "UPDATE state SET version = version + 1, value = ?"
            " WHERE type = ? AND key = ? AND version = ?",
            (change.value, change.type, change.key, change.version),
        )
    else:
        cursor = connection.execute(
            "INSERT INTO state VALUES (?, ?, 1, ?) ON CONFLICT DO NOTHING",
            (change.type, change.key, change.value),
        )
    if not cursor.rowcount:
        raise LostError(Applied.CONFLICT)

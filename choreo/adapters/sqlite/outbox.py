"""The outbox: records that steps left, for a relay to publish on another broker.

The store then stands in a file of its own, which no log shares. Rows carry the partition that
the step's delivery came in on: whoever owns that partition publishes them.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from choreo.adapters.sqlite.bulk import bound, insert_rows
from choreo.adapters.sqlite.database import Database
from choreo.adapters.sqlite.log import Left, Log
from choreo.adapters.sqlite.schema import OUTBOX, WITH_OUTBOX
from choreo.codec import headers_to_text
from choreo.events import Record
from choreo.plan import Change, Plan, Publish, SetTimer, Settle
from choreo.ports import ORPHANS, Clock

__all__ = ["Outbox", "topic_number"]

APPEND = "INSERT INTO outbox (grp, topic, partition, target, key, headers, value)"
APPEND_COLUMNS = 7
LOOK_S = 1.0
NOBODY = ("", *ORPHANS)
"""Group and partition of what came of no delivery, and of no service."""


class Outbox:
    """Takes, in place of a Log, what plans publish."""

    def __init__(self, log: Log, clock: Clock) -> None:
        """Share the file and the topics' numbers of a log that nothing is appended to."""
        self._log = log
        self.now = clock.now  # what rows age by
        self.database: Database = log.database
        self.topics = log.topics
        self.targets: Collection[str] = _Any()
        self._ready = False
        self._stirred = asyncio.Event()

    async def open(self) -> None:
        """Open the file, make the table. Safe to call again."""
        await self._log.open()
        if not self._ready:
            await self.database.write(_prepared)
            self._ready = True

    async def learn(self, topics: Collection[str]) -> None:
        """Give numbers to topics that deliveries came in on; their log is elsewhere."""
        unknown = sorted(set(topics) - self.topics.keys())
        if unknown:
            await self.database.write(lambda c: [topic_number(c, name) for name in unknown])
            await self._log.refresh()

    def rows(self, records: Sequence[Record], left: Iterable[Left] = ()) -> list[Any]:
        """Make the rows of records that these plans left, in order."""
        values: list[Any] = []
        for record, place in zip(records, _places(left), strict=True):
            values += (
                *place, record.topic,
                bound(record.key), headers_to_text(record.headers), bound(record.value),
            )  # fmt: skip
        return values

    def append(self, connection: sqlite3.Connection, values: Sequence[Any]) -> int:
        """Append rows; give the number of the first. In the writer's thread."""
        _, last = insert_rows(connection, APPEND, APPEND_COLUMNS, values)
        return last - len(values) // APPEND_COLUMNS + 1

    def appended(self, records: Sequence[Record], first: int) -> None:
        """Tell each record its row, once they are committed. On the loop."""
        for row, record in enumerate(records, first):
            record.row = row

    def stir(self) -> None:
        """Tell that there are rows which no step has left. On the loop."""
        self._stirred.set()

    async def stirred(self, *, alone: bool) -> None:
        """Wait until there may be some; unless we are `alone`, another process may write them."""
        while not self._stirred.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(None if alone else LOOK_S):
                    await self._stirred.wait()
            if not alone and await self.database.read(_has_nobodys):
                break
        self._stirred.clear()


class _Any(Collection[str]):
    """Every topic: whether it is there, the broker knows."""

    def __contains__(self, _: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def _has_nobodys(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM outbox WHERE grp = '' LIMIT 1").fetchone() is not None


def _prepared(connection: sqlite3.Connection) -> None:
    """Make the table; an older choreo, which would never publish its rows, refuses the file."""
    for statement in OUTBOX.split(";\n"):
        if statement.strip():
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version={WITH_OUTBOX}")


def _places(left: Iterable[Left]) -> Iterator[tuple[str, str, int]]:
    """Give, for each record that these plans publish, whose it is."""
    for plan, changes in left:
        place = None
        for change in changes:
            if type(change) is Publish:
                place = place or _place(plan, changes)
                yield place


def _place(plan: Plan, changes: Sequence[Change]) -> tuple[str, str, int]:
    """Give the group and the input partition of a step: where its delivery came in."""
    if plan.owned is None:
        return NOBODY
    for change in changes:
        if isinstance(change, (Settle, SetTimer)):
            return (plan.owned.group, *change.source[:2])
    return (plan.owned.group, *min(plan.owned.epochs, default=ORPHANS))


def topic_number(connection: sqlite3.Connection, name: str) -> int:
    """Give the number of a topic that is nobody's here, inside a transaction."""
    connection.execute(
        "INSERT INTO topic (name, partitions) VALUES (?, 0) ON CONFLICT DO NOTHING", (name,)
    )
    (number,) = connection.execute("SELECT id FROM topic WHERE name = ?", (name,)).fetchone()
    return int(number)

"""The Broker of the embedded deployment."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from choreo.adapters.sqlite.database import last_position
from choreo.adapters.sqlite.log import Log
from choreo.errors import BrokerClosedError, BrokerError
from choreo.events import Partition, Record
from choreo.ports import BrokerTraits, Topic

__all__ = ["SqliteBroker"]

BUFFERED_MAX = 50_000
READ_MOST = 1000


class SqliteBroker:
    """Topics in one SQLite file, or in memory."""

    def __init__(self, log: Log) -> None:
        """Share the log of a store, or have it alone."""
        self._log = log
        self._database = log.database
        self._database.hold()
        self._subscriptions: list[SqliteSubscription] = []
        self._pending: list[_Pending] = []
        self._closed = False

    @property
    def traits(self) -> BrokerTraits:
        return BrokerTraits(durable=not self._database.memory, stores=True)

    @property
    def busy(self) -> int:
        """How many records wait to be polled; a clock that stands still asks."""
        return sum(subscription.behind for subscription in self._subscriptions)

    async def publish(self, records: Sequence[Record]) -> None:
        self._check()
        if not records:
            return
        if not self._log.topics.keys() >= {record.topic for record in records}:
            await self._log.open()
            await self._log.refresh()
        rows = self._log.rows(records)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        if not self._pending:
            loop.call_soon(self._submit)
        self._pending.append((records, rows, done))
        await done

    def _submit(self) -> None:
        """Write what was asked for in one turn of the loop as one."""
        pending, self._pending = self._pending, []
        try:
            self._database.submit(_Append(self._log, pending))
        except BrokerClosedError as exc:
            for _, _, done in pending:
                done.set_exception(exc)

    async def subscribe(self, group: str, topics: Sequence[str]) -> SqliteSubscription:
        self._check()
        await self._log.open()
        await self._log.follow()
        await self._log.refresh()
        unknown = [topic for topic in topics if topic not in self._log.topics]
        if unknown:
            raise BrokerError(
                "the topic does not exist",
                code="CH3004",
                fix="create it first: a running App creates its services' topics",
                topic=", ".join(unknown),
            )
        subscription = SqliteSubscription(self._log, group, topics)
        await subscription.join()
        self._subscriptions.append(subscription)
        return subscription

    async def read(
        self, topics: Sequence[str] | None, *, since: int = 0, follow: bool = False
    ) -> AsyncIterator[Sequence[Record]]:
        self._check()
        await self._log.open()
        start = max(since, 1)
        if follow:
            await self._log.follow()
        while not self._closed:
            await self._log.refresh()
            end = await self._database.read(last_position)
            numbers = self._numbers(topics)
            while start <= end:
                scan = partial(self._log.scan, start=start, end=end, topics=numbers, most=READ_MOST)
                records, reached = await self._database.read(scan)
                start = reached + 1
                if records:
                    yield records
            if not follow:
                return
            await self._log.wait_beyond(start - 1)

    def _numbers(self, topics: Sequence[str] | None) -> list[int] | None:
        if topics is None:
            return None
        return [self._log.topics[name][0] for name in topics if name in self._log.topics]

    async def ensure(self, topics: Sequence[Topic]) -> None:
        self._check()
        await self._log.ensure(topics)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for subscription in self._subscriptions:
            await subscription.close()
        await self._log.close()
        await self._database.close()

    def _check(self) -> None:
        if self._closed:
            raise BrokerClosedError(
                "used after close", fix="make a new broker", file=self._database.path
            )


_Pending = tuple[Sequence[Record], list[Any], asyncio.Future[None]]


class _Append:
    """Records of one turn of the loop; each call's are there, or none of any."""

    def __init__(self, log: Log, pending: list[_Pending]) -> None:
        self._log = log
        self._pending = pending
        self._records = [record for records, _, _ in pending for record in records]
        self._rows = [value for _, rows, _ in pending for value in rows]
        self.weight = len(self._records)
        self._first = 0

    def perform(self, connection: sqlite3.Connection) -> None:
        self._first = self._log.append(connection, self._rows)

    def finish(self, error: BaseException | None) -> None:
        if error is None:
            self._log.appended(self._records, self._first)
        for _, _, done in self._pending:
            if done.done():
                continue
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)


class SqliteSubscription:
    """A group's place. All partitions are its own: one process runs a group at a time."""

    def __init__(self, log: Log, group: str, topics: Sequence[str]) -> None:
        """Made by `SqliteBroker.subscribe`."""
        self._log = log
        self._group = group
        self._topics = tuple(topics)
        self._committed: dict[Partition, int] = {}
        self._delivered: dict[Partition, int] = {}
        self._buffer: deque[Record] = deque()
        self._next = 1  # the position to read next, while behind
        self._tail = False  # fed from memory
        self._moved = asyncio.Event()
        self._closed = False

    async def join(self) -> None:
        """Find out where the group stands."""
        numbers = [self._log.topics[name][0] for name in self._topics]
        self._numbers = numbers
        self._assigned = [
            Partition(name, number)
            for name in self._topics
            for number in range(self._log.topics[name][1])
        ]
        rows = await self._log.database.read(
            lambda c: c.execute(
                "SELECT topic, partition, offset FROM position WHERE grp = ?", (self._group,)
            ).fetchall()
        )
        stored = {Partition(topic, number): offset for topic, number, offset in rows}
        self._committed = {partition: stored.get(partition, 1) for partition in self._assigned}
        self._next = min(self._committed.values(), default=1)
        self._log.add_feed(self._topics, self._fed)

    def assigned(self) -> Collection[Partition]:
        return self._assigned

    @property
    def behind(self) -> int:
        """How many records wait to be polled."""
        if self._closed:
            return 0
        return len(self._buffer) + (0 if self._tail else self._log.known + 1 - self._next)

    def _fed(self, records: list[Record]) -> None:
        """Take what was just appended, if it is next; otherwise it is read later."""
        if self._tail:
            if len(self._buffer) > BUFFERED_MAX:
                self._tail = False
                self._next = records[0].offset
            else:
                self._buffer.extend(records)
        self._moved.set()

    async def poll(self, records_max: int) -> Sequence[Record]:
        while not self._closed:
            if self._buffer:
                return self._take(records_max)
            if not self._tail:
                await self._read_on(records_max)
                if self._buffer:
                    continue
            if self._tail:
                self._moved.clear()
                await self._moved.wait()
        return []

    def _take(self, records_max: int) -> list[Record]:
        buffer = self._buffer
        if len(buffer) <= records_max:
            taken = list(buffer)
            buffer.clear()
        else:
            taken = [buffer.popleft() for _ in range(records_max)]
        delivered = self._delivered
        for record in taken:
            delivered[record.topic, record.partition] = record.offset  # type: ignore[index]
        return taken

    async def _read_on(self, records_max: int) -> None:
        end = self._log.known
        if self._next <= end:
            records, reached = await self._log.database.read(
                lambda c: self._log.scan(c, self._next, end, self._numbers, records_max)
            )
            self._next = reached + 1
            committed = self._committed
            self._buffer.extend(
                r for r in records if r.offset >= committed[Partition(r.topic, r.partition)]
            )
        if self._next > self._log.known:
            self._tail = True

    async def commit(self, offsets: Mapping[Partition, int]) -> None:
        if self._closed:
            raise BrokerClosedError("used after close", fix="subscribe again", group=self._group)
        rows = self._rows_to_commit(offsets)
        if not rows:
            return

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "INSERT INTO position (grp, topic, partition, offset) VALUES (?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET offset = max(offset, excluded.offset)",
                rows,
            )

        await self._log.database.write(write)

    def _rows_to_commit(self, offsets: Mapping[Partition, int]) -> list[tuple[Any, ...]]:
        """Give the rows; partitions in which nothing is open go on to where we have read."""
        beyond = (
            self._buffer[0].offset
            if self._buffer
            else (self._log.known + 1 if self._tail else self._next)
        )
        rows = []
        for partition in self._assigned:
            offset = offsets.get(partition, self._committed[partition])
            if self._delivered.get(partition, 0) < offset:
                offset = max(offset, beyond)
            if offset > self._committed[partition]:
                self._committed[partition] = offset
                rows.append((self._group, partition.topic, partition.number, offset))
        return rows

    async def close(self) -> None:
        self._closed = True
        self._log.drop_feed(self._fed)
        self._moved.set()

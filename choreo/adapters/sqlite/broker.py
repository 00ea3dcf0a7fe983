"""The Broker of the embedded deployment."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Any

from choreo.adapters.sqlite.contents import positions_of
from choreo.adapters.sqlite.database import last_position, resolve
from choreo.adapters.sqlite.log import Log
from choreo.adapters.sqlite.subscription import SqliteSubscription
from choreo.errors import BrokerClosedError, BrokerError
from choreo.events import Partition, Record
from choreo.ports import Assignee, BrokerTraits, Since, Topic

__all__ = ["SqliteBroker"]

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
            _answer(pending, exc)

    async def subscribe(
        self, group: str, topics: Sequence[str], *, assignee: Assignee | None = None
    ) -> SqliteSubscription:
        self._check()
        await self._log.open()
        await self._log.follow()
        await self._log.refresh()
        self._check()  # whoever has closed it meanwhile would not know of a new member
        unknown = [topic for topic in topics if topic not in self._log.topics]
        if unknown:
            raise BrokerError(
                "the topic does not exist",
                code="CH3004",
                fix="create it first: a running App creates its services' topics",
                topic=", ".join(unknown),
            )
        subscription = SqliteSubscription(self._log, group, topics, assignee)
        self._subscriptions.append(subscription)
        await subscription.join()
        return subscription

    async def read(
        self, topics: Sequence[str] | None, *, since: Since = 0, follow: bool = False
    ) -> AsyncIterator[Sequence[Record]]:
        self._check()
        await self._log.open()
        marks: Mapping[Partition, int] = {} if isinstance(since, int) else since
        start = max(since, 1) if isinstance(since, int) else 1
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
                if marks:
                    records = [one for one in records if one.offset >= marks.get(_place(one), 1)]
                if records:
                    yield records
            if not follow:
                return
            await self._log.wait_beyond(start - 1)

    async def ends(self, topics: Sequence[str] | None) -> Mapping[Partition, int]:
        self._check()
        await self._log.open()
        await self._log.refresh()
        end = await self._database.read(last_position)
        known = self._log.topics
        return {
            Partition(name, number): end + 1
            for name in (known if topics is None else topics)
            for number in range(known[name][1] if name in known else 0)
        }

    async def positions(self) -> Mapping[tuple[str, Partition], int]:
        """Give the offset that each group reads next, by partition."""
        self._check()
        return await self._database.read(positions_of)

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


def _place(record: Record) -> Partition:
    return Partition(record.topic, record.partition)


_Pending = tuple[Sequence[Record], list[Any], asyncio.Future[None]]


class _Append:
    """Records of one turn of the loop; each call's are there, or none of any."""

    def __init__(self, log: Log, pending: list[_Pending]) -> None:
        self._log = log
        self._pending = pending
        self._records = [record for records, _, _ in pending for record in records]
        self._rows = [value for _, rows, _ in pending for value in rows]
        self.weight = len(self._records)
        self.again = True
        self._first = 0

    def perform(self, connection: sqlite3.Connection) -> None:
        self._first = self._log.append(connection, self._rows)

    def finish(self, error: BaseException | None) -> None:
        if error is None:
            self._log.appended(self._records, self._first)
        _answer(self._pending, error)


def _answer(pending: list[_Pending], error: BaseException | None) -> None:
    for _, _, done in pending:
        resolve(done, None, error)

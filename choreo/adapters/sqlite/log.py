"""The log in the file: topics, appending, and handing over what this process appended.

A record's offset is its position in the one log (docs/adr/0002). What a transaction of this
process appended goes to the process's own subscriptions from memory, once committed and if
it is next for them; what others appended is read from the file.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable, Collection, Container, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from zlib import crc32

from choreo.adapters.sqlite.bulk import bound, insert_rows
from choreo.adapters.sqlite.database import Database, last_position
from choreo.codec import headers_from_text, headers_to_text
from choreo.errors import BrokerClosedError, BrokerError, ChoreoError, StoreError
from choreo.events import Record
from choreo.plan import Change, Plan
from choreo.ports import Topic

__all__ = ["Left", "Log", "topics_of"]

APPEND = "INSERT INTO log (topic, partition, key, headers, value)"
APPEND_COLUMNS = 5
WATCH_S = 0.001
READ_AGAIN_S = 0.5
LOOKS_PER_CHECK = 250
log = logging.getLogger("choreo.sqlite")

Feed = Callable[[list[Record]], None]
Left = tuple[Plan, Sequence[Change]]
"""A plan, and what it comes to: its own changes, or those that its section returned."""


class Log:
    """Topics and records of one Database."""

    def __init__(self, database: Database) -> None:
        """Nothing is read before the first use."""
        self.database = database
        self.topics: dict[str, tuple[int, int]] = {}
        self.targets: Container[str] = self.topics  # that can be appended to
        self.names: dict[int, str] = {}
        self.known = 0  # everything up to this position has been fed to the feeds
        self.siblings: list[asyncio.Event] = []  # members in this process, to be told of changes
        self._feeds: dict[str, list[Feed]] = {}
        self._keyless = 0
        self._watcher: threading.Thread | None = None
        self._stop_watching = threading.Event()
        self._behind: asyncio.Event | None = None
        self._catching_up: asyncio.Task[None] | None = None
        self._end = 0
        self._grown = asyncio.Event()

    # ── topics ───────────────────────────────────────────────────────────────────────────

    async def open(self) -> None:
        """Open the file and learn its topics. Safe to call again."""
        await self.database.open()
        if not self.topics:
            await self.refresh()

    async def refresh(self) -> None:
        """Read the topics again: another process may have made some."""
        self.know(await self.database.read(topics_of))

    @staticmethod
    def now() -> None:
        """Tell that rows beside this log age with it, by no clock."""

    async def learn(self, topics: Collection[str]) -> None:
        """Look for topics that are not known yet; they may not be there."""
        if not self.topics.keys() >= set(topics):
            await self.refresh()

    def know(self, found: Sequence[tuple[str, int, int]]) -> None:
        """Know topics, by name, number and partitions."""
        for name, number, partitions in found:
            self.topics[name] = (number, partitions)
            self.names[number] = name

    async def ensure(self, topics: Sequence[Topic]) -> None:
        """Create the topics that are not there."""

        def create(connection: sqlite3.Connection) -> list[tuple[str, int, int]]:
            connection.executemany(
                "INSERT INTO topic (name, partitions) VALUES (?, ?) ON CONFLICT DO NOTHING",
                [(topic.name, topic.partitions) for topic in topics],
            )
            return topics_of(connection)

        await self.open()
        if any(topic.name not in self.topics for topic in topics):
            self.know(await self.database.write(create))

    # ── appending ────────────────────────────────────────────────────────────────────────

    def rows(self, records: Sequence[Record], left: Iterable[Left] = ()) -> list[Any]:
        """Make the rows of records, and give each its partition. On the loop, not the thread.

        Which plans left them is nothing to a log.
        """
        del left
        values: list[Any] = []
        topics = self.topics
        for record in records:
            try:
                topic, partitions = topics[record.topic]
            except KeyError:
                raise BrokerError(
                    "the topic does not exist",
                    code="CH3004",
                    fix="create it first: a running App creates its services' topics",
                    topic=record.topic,
                ) from None
            key = record.key
            if key is None:
                self._keyless += 1
                partition = self._keyless % partitions
            else:
                partition = crc32(key) % partitions
            record.partition = partition
            headers = headers_to_text(record.headers)
            values += (topic, partition, bound(key), headers, bound(record.value))
        return values

    def append(self, connection: sqlite3.Connection, values: Sequence[Any]) -> int:
        """Append rows; give the position of the first. In the writer's thread."""
        rows = len(values) // APPEND_COLUMNS
        if not rows:
            return 0
        _, last = insert_rows(connection, APPEND, APPEND_COLUMNS, values)
        return last - rows + 1

    def appended(self, records: Sequence[Record], first: int) -> None:
        """Hand over what was committed at `first` and the positions after. On the loop."""
        for position, record in enumerate(records, first):
            record.offset = position
        if not records:
            return
        last = first + len(records) - 1
        if first == self.known + 1:
            self.known = last
            self._feed(records)
        elif last > self.known:
            self._fall_behind(last)

    def _feed(self, records: Collection[Record]) -> None:
        feeds = self._feeds
        shares: dict[Feed, list[Record]] = {}
        for record in records:
            for feed in feeds.get(record.topic, ()):
                shares.setdefault(feed, []).append(record)
        for feed, share in shares.items():
            feed(share)
        self._grown.set()

    async def wait_beyond(self, position: int) -> None:
        """Wait until something beyond this position is known, or the log is closed."""
        while self.known <= position and not self._stop_watching.is_set():
            self.check()
            self._grown.clear()
            await self._grown.wait()

    # ── following ────────────────────────────────────────────────────────────────────────

    def add_feed(self, topics: Collection[str], feed: Feed) -> None:
        """Give `feed` every record of these topics from `known` on."""
        for topic in topics:
            self._feeds.setdefault(topic, []).append(feed)

    def drop_feed(self, feed: Feed) -> None:
        """Feed it no more. Safe to call again."""
        for feeds in self._feeds.values():
            if feed in feeds:
                feeds.remove(feed)

    async def follow(self) -> None:
        """Begin to notice what is appended, by this process and by others."""
        if self._catching_up is not None:
            return
        await self.open()
        known, watching = await self.database.read(self._stand)
        if self._catching_up is not None or self._stop_watching.is_set():
            if watching is not None:
                watching.close()
            self._check_open()
            return
        self._behind = asyncio.Event()
        self.known = max(self.known, known)  # what was appended since the look was handed over
        self.database.on_foreign = self._fall_behind
        self._catching_up = asyncio.create_task(self._catch_up(), name="choreo-sqlite-log")
        self._fall_behind(self.known)
        if watching is not None:
            loop = asyncio.get_running_loop()
            self._watcher = threading.Thread(
                target=self._watch, args=(loop, watching), name="choreo-sqlite-watch", daemon=True
            )
            self._watcher.start()

    def _stand(self, connection: sqlite3.Connection) -> tuple[int, sqlite3.Connection | None]:
        """Give the log's end, and a connection to watch by: while the file is there for sure."""
        watching = None if self.database.memory else self.database.connect()
        return last_position(connection), watching

    def _check_open(self) -> None:
        if self._stop_watching.is_set():
            what = "closed while it was to be followed"
            raise BrokerClosedError(what, fix="make a new broker", file=self.database.path)

    def _fall_behind(self, end: int) -> None:
        self._end = max(self._end, end)
        if self._behind is not None and self._end > self.known:
            self._behind.set()

    async def _catch_up(self) -> None:
        assert self._behind is not None
        while True:
            await self._behind.wait()
            self._behind.clear()
            try:
                await self._read_on()
            except ChoreoError as exc:
                if not exc.transient:
                    if isinstance(exc, StoreError) and self.database.lost is None:
                        self.database.lost = exc  # who waits for records hears of it
                    self._lose()
                    return
                log.warning("the log could not be read, it is tried again: %s", exc)
                await asyncio.sleep(READ_AGAIN_S)
                self._behind.set()

    async def _read_on(self) -> None:
        """Feed what lies between what is known and the end."""
        if not any(self._feeds.values()):
            self.known = max(self.known, self._end)
            self._grown.set()
        while self.known < self._end:
            start, end = self.known + 1, self._end
            scan = partial(self.scan, start=start, end=end, topics=None, most=1000)
            records, reached = await self.database.read(scan)
            fresh = [record for record in records if record.offset > self.known]
            if reached > self.known:
                self.known = reached
                self._feed(fresh)

    def _lose(self) -> None:
        """Wake whoever waits for records: none will come any more."""
        self._grown.set()

    def check(self) -> None:
        """Raise what has made the log useless, if something has."""
        if self.database.lost is not None:
            raise self.database.lost

    def _file_is_lost(self) -> bool:
        try:
            self.database.check_place()
        except ChoreoError:
            return True
        return False

    def _watch(self, loop: asyncio.AbstractEventLoop, connection: sqlite3.Connection) -> None:
        seen = groups = -1
        looks = 0
        while not self._stop_watching.wait(WATCH_S):
            looks += 1
            if looks % LOOKS_PER_CHECK == 0 and self._file_is_lost():
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(self._lose)
                break
            if groups != self.database.groups:  # our own writer has just looked
                groups = self.database.groups
                continue
            try:
                (version,) = connection.execute("PRAGMA data_version").fetchone()
                if version == seen and not self.database.doubtful:
                    continue
                self.database.doubtful = False
                end = last_position(connection)
                seen = version
            except sqlite3.Error as exc:
                log.warning("the log could not be looked at, it is tried again: %s", exc)
                self._stop_watching.wait(READ_AGAIN_S)
                continue
            if end > self.database.own_end and end > self._end:
                try:
                    loop.call_soon_threadsafe(self._fall_behind, end)
                except RuntimeError:
                    break
        connection.close()

    async def close(self) -> None:
        """Stop following. May be called twice."""
        self._stop_watching.set()
        self._grown.set()
        if self._catching_up is not None:
            self._catching_up.cancel()
            await asyncio.gather(self._catching_up, return_exceptions=True)
            self._catching_up = None
        if self._watcher is not None:
            await asyncio.to_thread(self._watcher.join)
            self._watcher = None

    # ── reading ──────────────────────────────────────────────────────────────────────────

    def scan(
        self,
        connection: sqlite3.Connection,
        start: int,
        end: int,
        topics: Collection[int] | None,
        most: int,
    ) -> tuple[list[Record], int]:
        """Read positions `start` to `end`, at most `most` records; give how far that reached."""
        where = "" if topics is None else f"AND topic IN ({','.join(map(str, topics))}) "
        rows = connection.execute(
            "SELECT position, topic, partition, CAST(key AS BLOB), CAST(headers AS BLOB), "
            "CAST(value AS BLOB) FROM log "  # whatever wrote the row: bytes are bytes
            f"WHERE position BETWEEN ? AND ? {where}ORDER BY position LIMIT ?",
            (start, end, most),
        ).fetchall()
        names = self.names
        if any(row[1] not in names for row in rows):
            self.know(topics_of(connection))
        records = [
            Record(names[topic], key, headers_from_text(headers), value, partition, position)
            for position, topic, partition, key, headers, value in rows
        ]
        return records, (rows[-1][0] if len(rows) == most else end)


def topics_of(connection: sqlite3.Connection) -> list[tuple[str, int, int]]:
    """Give the name, number and partitions of each topic."""
    return connection.execute("SELECT name, id, partitions FROM topic").fetchall()

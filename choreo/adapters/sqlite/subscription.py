"""A group's member in this process: which partitions are its own, and their records in order."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

from choreo.adapters.sqlite import members
from choreo.adapters.sqlite.log import Log
from choreo.errors import BrokerClosedError, ChoreoError
from choreo.events import Partition, Record
from choreo.ports import Assignee

__all__ = ["SqliteSubscription"]

BUFFERED_MAX = 50_000
BEAT_S = 0.25
log = logging.getLogger("choreo.sqlite")


class SqliteSubscription:
    """A member of a group. Alone it has every partition; several share them."""

    def __init__(
        self, log: Log, group: str, topics: Sequence[str], assignee: Assignee | None
    ) -> None:
        """Made by `SqliteBroker.subscribe`."""
        self._log = log
        self._group = group
        self._assignee = assignee
        self._numbers = [log.topics[name][0] for name in topics]
        self._partitions = {name: log.topics[name][1] for name in sorted(topics)}
        self._all = sum(self._partitions.values())
        self._me = 0
        self._committed: dict[Partition, int] = {}  # of the partitions that are ours
        self._fed: set[tuple[str, int]] = set()  # those whose records we give
        self._delivered: dict[tuple[str, int], int] = {}
        self._buffer: deque[Record] = deque()
        self._next = 1  # the position to read next, while behind
        self._rewound = 0
        self._tail = False  # fed from memory
        self._moved = asyncio.Event()
        self._kicked = asyncio.Event()
        self._beating: asyncio.Task[None] | None = None
        self._giving: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._closed = False

    # ── membership ───────────────────────────────────────────────────────────────────────

    async def join(self) -> None:
        """Become a member, and take what is free."""
        self._next = self._log.known + 1
        self._log.add_feed(self._partitions, self._feed)
        await self._enter()
        await self._turn()
        if self._closed:  # meanwhile
            await self._leave()
            what = "closed while it subscribed"
            raise BrokerClosedError(what, fix="subscribe again", group=self._group)
        self._log.siblings.append(self._kicked)
        self._kick_others()
        self._beating = asyncio.create_task(self._beat(), name=f"choreo-sqlite-{self._group}")

    async def _enter(self) -> None:
        group, topics = self._group, list(self._partitions)
        self._me = await self._log.database.write(
            lambda c: members.joined(c, group, topics, _uptime())
        )

    async def _beat(self) -> None:
        told = False  # once an outage, not once a beat
        while not self._closed:
            if self._log.database.memory:
                await self._kicked.wait()
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(BEAT_S):
                        await self._kicked.wait()
            self._kicked.clear()
            try:
                await self._turn()
            except ChoreoError as exc:
                if not exc.transient:
                    self._fail(exc)
                    return
                if not told:
                    log.warning("the group %s could not be looked at: %s", self._group, exc)
                told = True
            except Exception as exc:  # noqa: BLE001 - whoever polls raises it
                self._fail(exc)
                return
            else:
                told = False

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        self._moved.set()

    async def _turn(self) -> None:
        """Do our part in the group, once."""

        def asked(do: Callable[..., members.Turn]) -> Callable[[sqlite3.Connection], members.Turn]:
            return lambda c: do(c, self._group, self._me, self._partitions, _uptime())

        database = self._log.database
        turn = await database.read(asked(members.look))
        if turn.writes:
            turn = await database.write(asked(members.perform))
        if turn.out:
            await self._again()
            return
        if turn.take:
            await self._begin(turn.take)
        if turn.give and self._giving is None:
            self._giving = asyncio.create_task(self._give(turn.give), name="choreo-sqlite-give")

    async def _again(self) -> None:
        """Others have gone on without us: what we had is theirs. Join again."""
        log.warning(
            "CH3005 the group %s went on without this process, which had not moved for %g s."
            " Fix: look for what blocks the event loop, or stops the process",
            self._group,
            members.LEASE_S,
        )
        if self._giving is not None:  # its partitions are not to be taken again before it ends
            await asyncio.gather(self._giving, return_exceptions=True)
        await self._withhold(list(self._committed))
        if not self._closed:
            await self._enter()
        self._kicked.set()

    async def _begin(self, partitions: Collection[Partition]) -> None:
        """Go on where the group stands in these partitions."""
        rows = await self._log.database.read(
            lambda c: c.execute(
                "SELECT topic, partition, offset FROM position WHERE grp = ?", (self._group,)
            ).fetchall()
        )
        stored = {(topic, number): offset for topic, number, offset in rows}
        for partition in partitions:
            self._committed[partition] = stored.get(partition, 1)
            self._delivered[partition] = self._committed[partition] - 1
        if self._assignee is not None:
            await self._assignee.assigned(partitions)
        reached = self._beyond()
        self._buffer.clear()
        self._tail = False
        self._next = min(reached, *(self._committed[partition] for partition in partitions))
        self._rewound += 1
        self._fed.update(partitions)
        self._moved.set()

    async def _give(self, partitions: Collection[Partition]) -> None:
        """Give partitions back, once what runs in them has come to rest."""
        try:
            me = self._me
            await self._withhold(partitions)
            await self._log.database.write(lambda c: members.left(c, me, partitions))
            self._kick_others()
        except Exception as exc:  # noqa: BLE001 - whoever polls raises it
            self._fail(exc)
        finally:
            self._giving = None

    async def _withhold(self, partitions: Collection[Partition]) -> None:
        self._fed.difference_update(partitions)
        self._buffer = deque(r for r in self._buffer if (r.topic, r.partition) in self._fed)
        if self._assignee is not None:
            await self._assignee.revoked(partitions)
        for partition in partitions:
            self._committed.pop(partition, None)

    def _kick_others(self) -> None:
        for kicked in self._log.siblings:
            if kicked is not self._kicked:
                kicked.set()

    def assigned(self) -> Collection[Partition]:
        return [Partition(*place) for place in sorted(self._fed)]

    @property
    def shared(self) -> bool:
        return len(self._fed) < self._all

    # ── records ──────────────────────────────────────────────────────────────────────────

    @property
    def behind(self) -> int:
        """How many records wait to be polled."""
        if self._closed:
            return 0
        return len(self._buffer) + (0 if self._tail else self._log.known + 1 - self._next)

    def _feed(self, records: list[Record]) -> None:
        """Take what was just appended, if it is next; otherwise it is read later."""
        if self._tail:
            if len(self._buffer) > BUFFERED_MAX:
                self._tail = False
                self._next = records[0].offset
            elif len(self._fed) == self._all:
                self._buffer.extend(records)
            else:
                fed = self._fed
                self._buffer.extend(r for r in records if (r.topic, r.partition) in fed)
        self._moved.set()

    async def poll(self, records_max: int) -> Sequence[Record]:
        while not self._closed:
            if self._failure is not None:
                raise self._failure
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
            delivered[record.topic, record.partition] = record.offset
        return taken

    async def _read_on(self, records_max: int) -> None:
        end, rewound = self._log.known, self._rewound
        if self._next <= end:
            records, reached = await self._log.database.read(
                lambda c: self._log.scan(c, self._next, end, self._numbers, records_max)
            )
            if rewound != self._rewound:  # partitions were added meanwhile: read from there
                return
            self._next = reached + 1
            delivered, fed = self._delivered, self._fed
            self._buffer.extend(
                record
                for record in records
                if (place := (record.topic, record.partition)) in fed
                and record.offset > delivered[place]
            )
        if self._next > self._log.known:
            self._tail = True

    # ── offsets ──────────────────────────────────────────────────────────────────────────

    async def commit(self, offsets: Mapping[Partition, int]) -> None:
        if self._closed:
            raise BrokerClosedError("used after close", fix="subscribe again", group=self._group)
        moved = self._to_commit(offsets)
        if not moved:
            return
        me = self._me

        def write(connection: sqlite3.Connection) -> dict[Partition, int]:
            ours = members.assigned_to(connection, self._group, me)
            written = {one: moved[one] for one in ours if one in moved}
            connection.executemany(
                "INSERT INTO position (grp, topic, partition, offset) VALUES (?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET offset = max(offset, excluded.offset)",
                [(self._group, *one, offset) for one, offset in written.items()],
            )
            return written

        # Noted only now: what could not be written is made up for by the next one.
        for partition, offset in (await self._log.database.write(write)).items():
            if partition in self._committed:
                self._committed[partition] = max(self._committed[partition], offset)

    def _beyond(self) -> int:
        """Give the position before which all was given, or is of no interest to us."""
        if self._buffer:
            return self._buffer[0].offset
        return self._log.known + 1 if self._tail else self._next

    def _to_commit(self, offsets: Mapping[Partition, int]) -> dict[Partition, int]:
        """Give what moves; partitions in which nothing is open go on to where we have read."""
        beyond = self._beyond()
        moved = {}
        for partition, committed in self._committed.items():
            offset = offsets.get(partition, committed)
            if partition in self._fed and self._delivered[partition] < offset:
                offset = max(offset, beyond)
            if offset > committed:
                moved[partition] = offset
        return moved

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._log.drop_feed(self._feed)
        self._moved.set()
        for task in (self._beating, self._giving):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if self._kicked in self._log.siblings:
            self._log.siblings.remove(self._kicked)
        await self._leave()
        self._kick_others()

    async def _leave(self) -> None:
        if self._me and not self._log.database.closed:
            try:
                await self._log.database.write(lambda c: members.left(c, self._me))
            except ChoreoError as exc:  # the lease ends by itself
                log.warning("the group %s could not be left: %s", self._group, exc)


def _uptime() -> float:
    """Give seconds since the machine's start: the same for every process on it."""
    return time.monotonic()

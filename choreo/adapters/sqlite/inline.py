"""A store in memory that does everything at once, where it is asked: no thread, no disk.

The simulated deployment runs the same store and the same SQL as the embedded one; only what
carries work to the writer's thread and back is left out. A `Disk` outlives the process that
uses it, so a host that has crashed comes back to what it had committed, and two processes
that take each other for gone may use one disk, as they may use one file.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from choreo.adapters.sqlite.database import (
    MEMORY,
    STATEMENTS_CACHED,
    Database,
    Work,
    translated,
)
from choreo.adapters.sqlite.session import InlineSession
from choreo.errors import BrokerClosedError
from choreo.ports import Tx

__all__ = ["Disk", "InlineDatabase"]

T = TypeVar("T")


class Disk:
    """What a machine keeps when its processes are gone: one database, in memory."""

    def __init__(self, content: bytes | None = None) -> None:
        """Begin empty, or with a copy of what `content()` gave."""
        self.connection = _opened(content)
        self.processes: set[str] = set()
        """Names of the processes that are there, a hanging one among them."""
        self.writer: object = None
        """Who wrote last."""
        self.holder: InlineDatabase | None = None
        """Whose transaction is open across several awaits."""
        self.waiting: deque[tuple[InlineDatabase, Callable[[], object]]] = deque()

    def content(self) -> bytes:
        """Give all that is committed. Not while a transaction is open."""
        return self.connection.serialize()

    def restore(self, content: bytes) -> None:
        """Go back to what `content()` gave: the rest was never durable."""
        self.connection.close()
        self.connection = _opened(content)
        self.writer = None

    def lose(self, process: str) -> None:
        """Forget a process that is gone: what it had not committed is rolled back."""
        self.processes.discard(process)
        self.waiting = deque(one for one in self.waiting if one[0].process != process)
        if self.holder is not None and self.holder.process == process:
            self.connection.execute("ROLLBACK")
            self.let_go()

    def let_go(self) -> None:
        """End the open transaction's hold; who waited goes on."""
        self.holder = None
        while self.waiting and self.holder is None:
            self.waiting.popleft()[1]()


def _opened(content: bytes | None) -> sqlite3.Connection:
    """Open a database in memory: a new one each time, with no statement of before."""
    connection = sqlite3.connect(MEMORY, isolation_level=None, cached_statements=STATEMENTS_CACHED)
    if content is not None:
        connection.deserialize(content)
    return connection


class InlineDatabase(Database):
    """A process's use of a disk: each piece of work is a transaction, done when it is asked for."""

    def __init__(self, disk: Disk, process: str) -> None:
        """`process` names who uses it, as no other one on this disk is named."""
        super().__init__(MEMORY)
        self.disk = disk
        self.process = process
        disk.processes.add(process)

    async def open(self) -> None:
        """Make the tables. Safe to call again."""
        if self.closed:
            raise BrokerClosedError("used after close", fix="make a new one", file=self.path)
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            with translated(self.path):
                self._prepare(self.disk.connection)

    async def close(self) -> None:
        self._users -= 1
        if self._users > 0 or self.closed:
            return
        self.closed = True
        self.disk.processes.discard(self.process)

    def check_place(self) -> None:
        """It can not be moved away."""

    def holder(self) -> str:
        """Name the process that uses the disk."""
        return self.process

    def alive(self, holder: str) -> bool:
        """Tell whether a process is there, be it one that hangs."""
        return holder in self.disk.processes

    @staticmethod
    def seconds() -> float:
        """No time passes inside a transaction."""
        return 0.0

    def submit(self, work: Work) -> None:
        """Do it now, or when the open transaction has ended; its answer comes a turn later."""
        if self.closed:
            raise BrokerClosedError("used after close", fix="make a new one", file=self.path)
        self.busy += 1
        if self.disk.holder is None:
            self._write_group(self.disk.connection, [work])
        else:
            self.disk.waiting.append(
                (self, lambda: self._write_group(self.disk.connection, [work]))
            )

    def _write_group(self, connection: sqlite3.Connection, group: list[Work]) -> list[Work]:
        """Write one piece of work: what fails takes nothing else with it."""
        error: BaseException | None = None
        try:
            with translated(self.path):
                connection.execute("BEGIN IMMEDIATE")
                if self.disk.writer is not self:
                    self.disk.writer = self
                    self.foreign = object()
                for work in group:
                    work.perform(connection)
                connection.execute("COMMIT")
        except BaseException as exc:  # noqa: BLE001 - told to who waits
            error = exc
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        outcomes = [error] * len(group)
        self._hand_over(lambda: self._finish(group, outcomes))
        return []

    def _hand_over(self, fn: Callable[[], object]) -> None:
        asyncio.get_running_loop().call_soon(fn)

    async def read(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        await self.open()
        await self._turn()
        with translated(self.path):
            found = fn(self.disk.connection)
        await asyncio.sleep(0)
        return found

    async def _turn(self) -> None:
        """Wait until no transaction is open."""
        while self.disk.holder is not None:
            free: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def wake(free: asyncio.Future[None] = free) -> None:
                if not free.done():
                    free.set_result(None)

            self.disk.waiting.append((self, wake))
            await free

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Tx]:
        """Open a transaction that lasts until the end of the block; all others wait for it."""
        await self.open()
        await self._turn()
        connection = self.disk.connection
        self.disk.holder = self
        connection.execute("BEGIN IMMEDIATE")
        self.disk.writer = None
        tx = InlineSession(self, connection)
        try:
            yield tx
        except BaseException:
            tx.end()
            if self.disk.holder is self:
                connection.execute("ROLLBACK")
                self.disk.let_go()
            raise
        tx.end()
        connection.execute("COMMIT")
        for then in tx.after:
            then()
        self.disk.let_go()
        await asyncio.sleep(0)

"""One SQLite file: one thread that writes, one that reads, and the group commit.

What is asked for while a transaction runs is written together in the next one: the slower
the disk, the larger the group. `synchronous=FULL`, so what is committed survives a power
loss. A busy file is tried again every 0.2 ms: SQLite's own waiting is far slower (p99 27 ms
against 3.7 ms, measured with two processes that write).
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from choreo.adapters.sqlite.members import alive, holder_name
from choreo.adapters.sqlite.samefile import SameFile, make_folder
from choreo.adapters.sqlite.schema import SCHEMA, VERSION, WITH_OUTBOX
from choreo.errors import BrokerClosedError, StoreError, StoreUnavailableError

__all__ = [
    "TX_HOLD_S",
    "Database",
    "TakenBackError",
    "Work",
    "last_position",
    "resolve",
    "translate",
    "translated",
]

T = TypeVar("T")

BUSY_RETRY_S = 0.0002
TX_HOLD_S = 10.0
OPERATIONS_BETWEEN_LOOKS = 1_000_000
BUSY_MAX_S = 10.0
GROUP_WEIGHT_MAX = 256
STATEMENTS_CACHED = 512
CHECKPOINT_EVERY = 40
MEMORY = ":memory:"
HELD = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)


class Work(Protocol):
    """Something to do inside the next write transaction; `again` if it can be done once more."""

    weight: int
    again: bool

    def perform(self, connection: sqlite3.Connection) -> None:
        """Do it, in the writer's thread. An exception undoes this work alone."""
        ...

    def finish(self, error: BaseException | None) -> None:
        """Hear, in the loop, that it is committed, or why it is not."""
        ...


class TakenBackError(StoreUnavailableError):
    """SQLite rolled the whole transaction back, because of one statement in it."""


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn sqlite3's errors into choreo's; the one place where that happens."""
    try:
        yield
    except sqlite3.Error as exc:
        raise translate(exc, path) from exc


def translate(error: sqlite3.Error, where: str) -> StoreError:
    """Give choreo's error for one of sqlite3's; `where` is a file or a statement."""
    text = str(error)
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        fix = "restore the file from a copy, or move it away to begin anew"
        return StoreError(f"the file is damaged: {text}", code="CH4003", fix=fix, at=where)
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        fix = "make the file and its folder writable for this user, or name another"
        return StoreError(f"can not be written: {text}", code="CH4004", fix=fix, at=where)
    if code in (*HELD, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return StoreUnavailableError(text, fix="free the disk or end what holds it", at=where)
    if code == sqlite3.SQLITE_INTERRUPT:
        fix = "look at the statement's plan: EXPLAIN QUERY PLAN; it holds up every writer"
        return StoreError(f"a Tx was open for more than {TX_HOLD_S:g} s: rolled back",
                          code="CH4007", fix=fix, at=where)  # fmt: skip
    fix = "correct the statement or its values"
    return StoreError(f"a statement failed: {text}", code="CH4006", fix=fix, at=where)


class Database:
    """The file. `path` may be `:memory:`, for tests: then one connection does everything."""

    def __init__(self, path: str | Path) -> None:
        """Remember where; nothing is opened before the first use."""
        self.path = str(path)
        self.memory = self.path == MEMORY
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._reads: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads: dict[str, threading.Thread] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening: asyncio.Future[None] | None = None
        self._users = 0
        self.closed = False
        self.hold_until: float | None = None  # of the sections that run now
        self.busy = 0
        # The end of what we appended last, known before anybody can see that commit.
        self.own_end = 0
        self.doubtful = False  # it was taken back: look at the end again
        self.groups = 0  # transactions begun
        self.foreign = object()  # another one whenever somebody else was seen to have written
        self.on_foreign: Callable[[int], object] = lambda _: None
        self._version_seen = -1
        self.same = SameFile(self.path)
        self.lost: StoreError | None = None

    # ── life ─────────────────────────────────────────────────────────────────────────────

    async def open(self) -> None:
        """Open the file, make its tables. Safe to call again, and at once from two tasks.

        Raises StoreError: CH4003 damaged, CH4004 not writable, CH4005 of a newer version.
        """
        if self.closed:
            raise BrokerClosedError("used after close", fix="make a new one", file=self.path)
        if self._opening is None:
            self._loop = asyncio.get_running_loop()
            opened = self._loop.create_future()
            opened.add_done_callback(asyncio.Future.exception)  # who asked may be gone by then
            self._start("writer", lambda: self._write_forever(opened))
            self._opening = opened
        if not self._opening.done():
            await asyncio.wait((self._opening,))
        self._opening.result()

    def _start(self, what: str, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, name=f"choreo-sqlite-{what}", daemon=True)
        thread.start()
        self._threads[what] = thread

    def hold(self) -> None:
        """Count one more user; the file is closed when the last one closes."""
        self._users += 1

    async def close(self) -> None:
        """Let go; the last user's close writes what was asked for and ends the threads."""
        self._users -= 1
        if self._users > 0 or self.closed:
            return
        self.closed = True
        if self._opening is not None and not self._opening.done():  # who asked was cancelled
            await asyncio.wait((self._opening,))
        # The writer last: then its connection is the last one, and leaves one file, no WAL.
        queues: dict[str, SimpleQueue[Any]] = {"reader": self._reads, "writer": self._queue}
        for what, asked in queues.items():
            if what in self._threads:
                asked.put(None)
                await asyncio.to_thread(self._threads[what].join)

    def check_place(self) -> None:
        """Raise StoreError CH4009 once the file is not the one any more that was opened."""
        if self.lost is None:
            try:
                self.same.check()
            except StoreError as exc:
                self.lost = exc
        if self.lost is not None:
            raise self.lost

    def connect(self) -> sqlite3.Connection:
        """Open a connection of our own settings."""
        make_folder(self.path)
        connection = sqlite3.connect(
            self.path,
            timeout=0,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=STATEMENTS_CACHED,
        )
        retried(lambda: self._version(connection))  # before anything is written
        retried(lambda: connection.execute("PRAGMA journal_mode=WAL").fetchone())
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA cache_size=-65536")
        connection.execute("PRAGMA temp_store=MEMORY")
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        if retried(lambda: self._version(connection)) >= VERSION:
            return
        retried(lambda: connection.execute("BEGIN IMMEDIATE"))
        if self._version(connection) >= VERSION:  # another process was faster
            connection.execute("ROLLBACK")
            return
        for statement in SCHEMA.split(";\n"):
            if statement.strip():
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version={VERSION}")
        connection.execute("COMMIT")

    def _version(self, connection: sqlite3.Connection) -> int:
        return version_of(connection, self.path, WITH_OUTBOX)

    def holder(self) -> str:
        """Name this process, so that no later one with its number is taken for it."""
        return holder_name()

    def alive(self, holder: str) -> bool:
        """Tell whether a process may still be there; of one we can not see only its lease tells."""
        return alive(holder)

    seconds = staticmethod(time.perf_counter)
    """What a transaction's length is measured by."""

    # ── writing ──────────────────────────────────────────────────────────────────────────

    def submit(self, work: Work) -> None:
        """Add work to the next transaction."""
        if self.closed:
            raise BrokerClosedError("used after close", fix="make a new one", file=self.path)
        self.busy += 1
        self._queue.put(work)

    async def write(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run `fn` inside the next transaction; give its result once that is committed."""
        await self.open()
        work = _Call(fn, asyncio.get_running_loop().create_future())
        self.submit(work)
        return await work.done  # type: ignore[no-any-return]

    def _write_forever(self, opened: asyncio.Future[None]) -> None:
        assert self._loop is not None
        try:
            with translated(self.path):
                connection = self.connect()
                self._prepare(connection)
                connection.set_progress_handler(self._held_too_long, OPERATIONS_BETWEEN_LOOKS)
                if not self.memory:
                    self._reader = self.connect()
                self.same.check()
            if not self.memory:
                self._start("reader", self._read_forever)
        except BaseException as exc:  # noqa: BLE001 - handed over to whoever opens
            self._hand_over(lambda error=exc: opened.set_exception(error))  # type: ignore[misc]
            return
        self._hand_over(lambda: resolve(opened, None, None))
        waiting: deque[Work] = deque()
        more = True
        while more or waiting:  # what is to be written again, too
            group, goes_on = self._next_group(waiting)
            more = more and goes_on
            if group:
                waiting.extendleft(reversed(self._write_group(connection, group)))
        connection.close()

    def _held_too_long(self) -> bool:
        """Tell SQLite, in the middle of a statement, whether to give up."""
        return self.hold_until is not None and time.perf_counter() > self.hold_until

    def _next_group(self, waiting: deque[Work]) -> tuple[list[Work], bool]:
        """Take what waits, up to a group's weight; wait for the first."""
        group: list[Work] = []
        weight = 0
        while True:
            if waiting:
                work: Work | None = waiting.popleft()
            elif group and self._queue.empty():
                return group, True
            else:
                work = self._queue.get()
            if work is None:
                return group, False
            if group and weight + work.weight > GROUP_WEIGHT_MAX:
                waiting.appendleft(work)
                return group, True
            group.append(work)
            weight += work.weight

    def _write_group(self, connection: sqlite3.Connection, group: list[Work]) -> list[Work]:
        """Write a group; give what is to be written again, through no fault of its own."""
        outcomes: list[BaseException | None] = []
        before = self.own_end
        try:
            with translated(self.path):
                self.check_place()
                retried(lambda: connection.execute("BEGIN IMMEDIATE"))
                begun = self._look(connection)
                for work in group:
                    outcomes.append(self._perform(connection, work))  # noqa: PERF401 - it counts
                end = last_position(connection)
                if end > begun:  # what others appended before is not ours to skip
                    self.own_end = end
                retried(lambda: connection.execute("COMMIT"))
        except BaseException as exc:  # noqa: BLE001 - told to everyone who waits
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self.own_end, self.doubtful, self.hold_until = before, True, None
            self._doubt(connection)
            again = _of_others(group, len(outcomes)) if isinstance(exc, TakenBackError) else []
            group = [work for work in group if work not in again]
            outcomes = [exc] * len(group)
        else:
            again = []
        self._hand_over(lambda: self._finish(group, outcomes))
        return again

    def _look(self, connection: sqlite3.Connection) -> int:
        """See, as a transaction begins, what others have written; give the end of the log."""
        self.groups += 1
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        end = last_position(connection)
        if version != self._version_seen:
            self._version_seen = version
            self.foreign = object()
            if end > self.own_end:
                self._hand_over(lambda: self.on_foreign(end))
        return end

    def _doubt(self, connection: sqlite3.Connection) -> None:
        """See whether what was told to have failed is there; the watcher looks later, if not."""
        with suppress(sqlite3.Error):
            end = last_position(connection)
            if end > self.own_end:
                self._hand_over(lambda: self.on_foreign(end))

    def _perform(self, connection: sqlite3.Connection, work: Work) -> BaseException | None:
        connection.execute("SAVEPOINT work")
        try:
            with translated(self.path):
                work.perform(connection)
        except BaseException as exc:
            if isinstance(exc, StoreUnavailableError):
                raise
            connection.execute("ROLLBACK TO work")
            connection.execute("RELEASE work")
            return exc
        connection.execute("RELEASE work")
        return None

    def _finish(self, group: list[Work], outcomes: list[BaseException | None]) -> None:
        self.busy -= len(group)
        for work, error in zip(group, outcomes, strict=True):
            work.finish(error)

    def _hand_over(self, fn: Callable[[], object]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(fn)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    # ── reading ──────────────────────────────────────────────────────────────────────────

    async def read(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run `fn` on the reading connection; it sees what is committed."""
        if self.memory:  # it takes its turn with what is written
            return await self.write(fn)
        await self.open()
        if self.closed:
            raise BrokerClosedError("used after close", fix="make a new one", file=self.path)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self.busy += 1

        def ended(result: Any, error: BaseException | None) -> None:
            self.busy -= 1
            resolve(done, result, error)

        def run() -> None:
            try:
                with translated(self.path):
                    self.check_place()
                    result = fn(self._reader)
            except BaseException as exc:  # noqa: BLE001 - handed over to who asked
                self._hand_over(lambda error=exc: ended(None, error))  # type: ignore[misc]
            else:
                self._hand_over(lambda: ended(result, None))

        self._reads.put(run)
        return await done

    def _read_forever(self) -> None:
        while (run := self._reads.get()) is not None:
            run()
        self._reader.close()


def version_of(
    connection: sqlite3.Connection,
    path: str,
    known: int,
    *,
    fix: str = "install the newer choreo that wrote it",
) -> int:
    """Give the version of our tables, 0 in an empty file; refuse a file that is not ours."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > known:
        what = f"the file has version {version}, this choreo knows up to {known}"
        raise StoreError(what, code="CH4005", fix=fix, file=path)
    if not version and connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
        raise StoreError(
            "the file is a database of something else",
            code="CH4003",
            fix="name another file; this one was left as it is",
            file=path,
        )
    return version


def last_position(connection: sqlite3.Connection) -> int:
    """Give the position of the log's last record; 0 in an empty log."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'log'").fetchone()
    return row[0] if row else 0


class _Call:
    weight = 1
    again = True

    def __init__(self, fn: Callable[[sqlite3.Connection], Any], done: asyncio.Future[Any]) -> None:
        self._fn = fn
        self.done = done
        self._result: Any = None

    def perform(self, connection: sqlite3.Connection) -> None:
        self._result = self._fn(connection)

    def finish(self, error: BaseException | None) -> None:
        resolve(self.done, self._result, error)


def _of_others(group: list[Work], taken_back: int) -> list[Work]:
    """Give what can be written again: all but what was at work, which would be at it for ever."""
    return [work for at, work in enumerate(group) if work.again and at != taken_back]


def resolve(done: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """Answer whoever waits, if somebody still does."""
    if done.done():  # whoever waited was cancelled
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)


def retried(fn: Callable[[], T]) -> T:
    """Call until the file is not busy, every 0.2 ms, for at most ten seconds.

    Whoever lost a race for SQLite's own locks has waited inside for as long already (a process was
    stopped with one in its hands): he has one more try, since it may be free by now.
    """
    last = time.monotonic() + BUSY_MAX_S
    raced = False
    while True:
        try:
            return fn()
        except sqlite3.OperationalError as exc:
            code = (getattr(exc, "sqlite_errorcode", None) or 0) & 0xFF
            if code == sqlite3.SQLITE_PROTOCOL and not raced:
                raced = True
            elif code not in HELD or time.monotonic() > last:
                raise
        time.sleep(BUSY_RETRY_S)  # in a thread of ours: no loop is held up

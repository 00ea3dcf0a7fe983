"""The Store in SQLite, in the file of a log or in one of its own.

In the log's file a step's commit is the publish, too. Beside another broker it keeps what is to
be published in an outbox.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager

from choreo.adapters.sqlite.apply import ApplyWork
from choreo.adapters.sqlite.contents import contents_of
from choreo.adapters.sqlite.inline import InlineDatabase
from choreo.adapters.sqlite.log import Log, topics_of
from choreo.adapters.sqlite.migrating import migrated
from choreo.adapters.sqlite.names import adopt, known, waiting_for
from choreo.adapters.sqlite.outbox import Outbox
from choreo.adapters.sqlite.owning import due_of, due_rows, let_go, take_over, unsent_rows
from choreo.adapters.sqlite.prune import Sweep, begin
from choreo.adapters.sqlite.seen import seen_of
from choreo.adapters.sqlite.session import InlineSession, Session
from choreo.errors import BrokerClosedError, StoreError
from choreo.events import Partition, Record
from choreo.plan import Owned, Plan, Publish, SetTimer, Settle
from choreo.policies import Keep
from choreo.ports import (
    ORPHANS,
    Applied,
    Clock,
    Contents,
    Due,
    Seen,
    StoreTraits,
    Tx,
    Unsent,
    Waiting,
    Want,
)

__all__ = ["SqliteStore"]


class SqliteStore:
    """The tables of a store: in the same file as the log, or (an `Outbox`) beside another one."""

    def __init__(self, log: Log, *, clock: Clock, publishes: bool = True) -> None:
        """Share the log of a broker; `clock` says what is due.

        Without `publishes`, `log` is of a file that no broker has, and stays empty.
        """
        self._log: Log | Outbox = log if publishes else Outbox(log, clock)
        self._database = log.database
        self._database.hold()
        self._clock = clock
        self._names: dict[str, int] = {}
        self._texts: dict[int, str] = {}
        self._owned: dict[str, dict[Partition, int]] = {}
        self._sweeps: dict[str, Sweep] = {}
        self._closed = False

    @property
    def traits(self) -> StoreTraits:
        return StoreTraits(durable=not self._database.memory, publishes=isinstance(self._log, Log))

    @property
    def busy(self) -> int:
        """How much work its threads have; a clock that stands still asks."""
        return self._database.busy

    # ── ownership ────────────────────────────────────────────────────────────────────────

    async def own(
        self, group: str, partitions: Collection[Partition], *, generation: int | None = None
    ) -> Owned:
        del generation  # no broker that counts them is in a file, or on one machine with it
        self._check()
        await self._log.open()
        await self._log.learn([one.topic for one in partitions if one != ORPHANS])
        shared = isinstance(self._log, Log)

        def take(connection: sqlite3.Connection) -> Owned:
            # Whoever owned them in this process has to look again.
            self._database.foreign = object()
            owned = take_over(connection, group, partitions, self._database, shared=shared)
            owned.held = [(self._present(connection, name), chain) for name, chain in owned.held]
            return owned

        owned = await self._database.write(take)
        self._owned.setdefault(group, {}).update(owned.epochs)
        return owned

    # ── seeing ───────────────────────────────────────────────────────────────────────────

    async def load(self, wants: Sequence[Want]) -> Sequence[Seen]:
        self._check()
        await self._learn(
            {want.handler: want.former for want in wants}
            | {want.target.handler: () for want in wants if want.target is not None}
        )
        names = self._names
        return await self._database.read(lambda c: seen_of(c, names, wants))

    async def due(
        self, owned: Owned, *, skip: Collection[tuple[str, bytes]], most: int
    ) -> tuple[Sequence[Due], float | None]:
        self._check()
        now = self._clock.now()
        skip = frozenset(skip)  # as it is now: what ends meanwhile is in the rows we read, too
        found, after = await self._database.read(
            lambda c: due_rows(c, owned, now, most + len(skip), self._log)
        )
        unknown = [row[0] for row in found if row[0] not in self._texts]
        if unknown:
            await self._refresh_names()
        due = (due_of(self._texts[row[0]], row) for row in found)
        rows = [one for one in due if (one.handler, one.subject) not in skip]
        return rows[:most], (now if len(rows) > most else after)

    async def unsent(self, owned: Owned, *, after: int, most: int) -> Sequence[Unsent]:
        self._check()
        assert isinstance(self._log, Outbox), "a store that publishes has no outbox"
        await self._log.open()
        database = self._database
        return await database.read(
            lambda c: unsent_rows(c, owned, database, after=after, most=most)
        )

    async def stirred(self) -> None:
        self._check()
        assert isinstance(self._log, Outbox), "a store that publishes has no outbox"
        await self._log.open()
        await self._log.stirred(alone=isinstance(self._database, InlineDatabase))

    async def contents(self) -> Contents:
        """Read everything that the file keeps, as of one moment; of all services."""
        self._check()
        return await self._database.read(contents_of)

    # ── writing ──────────────────────────────────────────────────────────────────────────

    async def apply(self, plans: Sequence[Plan]) -> Sequence[Applied | BaseException]:
        self._check()
        await self._log.open()
        done: asyncio.Future[list[Applied | BaseException]] = (
            asyncio.get_running_loop().create_future()
        )
        try:
            work = ApplyWork(self._log, self._names, plans, done)
        except KeyError:  # a handler that was never loaded
            await self._prepare(plans)
            work = ApplyWork(self._log, self._names, plans, done)
        if work.unusual:
            await self._prepare(work.unusual)
        self._database.submit(work)
        return await done

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Tx]:
        self._check()
        await self._log.open()
        if isinstance(self._database, InlineDatabase):
            async with self._database.session() as tx:
                yield tx
            return
        session = Session(self._database, asyncio.get_running_loop())
        self._database.submit(session)
        try:
            yield session
        except BaseException:
            session.end(rollback=True)
            raise
        session.end(rollback=False)
        await session.done

    async def enlist(self, tx: object, record: Record) -> None:
        """Make a record part of a transaction of this file (the port `Enlisting`)."""
        self._check()
        if not isinstance(tx, (Session, InlineSession)) or tx.database is not self._database:
            raise StoreError(
                f"it can not be published in this transaction: a {type(tx).__name__} is none that"
                " app.transaction() has opened on this file",
                code="CH4014",
                fix="async with app.transaction() as tx; a handler returns its events instead",
                file=self._database.path,
            )
        log = self._log
        if record.topic not in log.targets:  # another process has made it: this one looks again
            assert isinstance(log, Log)  # an outbox takes every topic
            log.know(await tx.call(topics_of))
        rows = log.rows([record], [(Plan(None, ()), (Publish(record),))])
        first = await tx.call(lambda c: log.append(c, rows))
        record.offset = first
        tx.after.append(lambda: log.appended([record], first))
        if isinstance(log, Outbox):
            tx.after.append(log.stir)

    async def migrate(self, service: str, files: Sequence[tuple[str, str]]) -> None:
        """Run a service's own migrations that have not run yet (the port `Prepared`)."""
        async with self.transaction() as tx:
            await migrated(tx, service, files)

    async def waiting(self, group: str) -> Sequence[Waiting]:
        """Give what waits for the group's handlers (the port `Prepared`)."""
        self._check()
        return await self._database.read(lambda c: waiting_for(c, group))

    async def migrations(self) -> Collection[tuple[str, str]]:
        """Give those of services that have run, once it can write (the port `Prepared`)."""
        async with self.transaction() as tx:
            rows = await tx.fetch("SELECT service, file FROM migration")
        return [(str(row["service"]), str(row["file"])) for row in rows]

    async def prune(self, group: str, keep: Keep, *, most: int) -> bool:
        self._check()
        await self._log.open()
        sweep = self._sweeps.get(group)
        if sweep is None:
            now = self._clock.now()
            beside = isinstance(self._log, Outbox)
            sweep = await self._database.write(lambda c: begin(c, group, keep, now, beside=beside))
            if sweep is not None:
                self._sweeps[group] = sweep
            return sweep is not None
        more = await sweep.step(self._database, most)
        if not more:
            del self._sweeps[group]
        return more

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True

        def write(connection: sqlite3.Connection) -> None:
            for group, epochs in self._owned.items():
                let_go(connection, group, epochs)

        try:
            if self._owned and not self._database.closed:
                await self._database.write(write)
        finally:
            await self._database.close()

    # ── names ────────────────────────────────────────────────────────────────────────────

    async def _prepare(self, plans: Sequence[Plan]) -> None:
        """Learn the numbers of handlers and topics that these plans name."""
        names, topics = self._names, set[str]()
        unknown: dict[str, tuple[str, ...]] = {}
        for plan in plans:
            for change in plan.changes:
                if isinstance(change, (Settle, SetTimer)):
                    topics.add(change.source.topic)
                    if change.handler not in names:
                        unknown[change.handler] = ()
                elif isinstance(change, Publish) and change.record.topic not in self._log.targets:
                    topics.add(change.record.topic)
            if plan.want is not None and plan.want.handler not in names:
                unknown[plan.want.handler] = plan.want.former
        await self._log.learn(topics)
        await self._learn(unknown)

    async def _learn(self, names: Mapping[str, tuple[str, ...]]) -> None:
        unknown = {name: former for name, former in names.items() if name not in self._names}
        if unknown:
            found = await self._database.write(lambda c: adopt(c, unknown))
            self._names.update(found)
            self._texts.update({number: name for name, number in found.items()})

    def _present(self, connection: sqlite3.Connection, name: str) -> str:
        """Give the name that we have for what others may have renamed."""
        number = known(connection, name)
        return name if number is None else self._texts.get(number, name)

    async def _refresh_names(self) -> None:
        """Learn what others have named; a number of ours keeps the name that we have for it."""
        rows = await self._database.read(
            lambda c: c.execute("SELECT id, text FROM name").fetchall()
        )
        self._texts = {**dict(rows), **self._texts}

    def _check(self) -> None:
        if self._closed:
            raise BrokerClosedError(
                "used after close", fix="make a new store", file=self._database.path
            )

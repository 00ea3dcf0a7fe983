"""The Store of many machines: tables in PostgreSQL, an outbox that a relay publishes from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from choreo.adapters.postgres.apply import Results, Writer, in_order
from choreo.adapters.postgres.contents import contents_of
from choreo.adapters.postgres.edge import translated
from choreo.adapters.postgres.enlisting import Database, Ear, enlist, identity, runner
from choreo.adapters.postgres.gathering import Gathering
from choreo.adapters.postgres.lines import Connection, Lines, Server
from choreo.adapters.postgres.looking import settings_of
from choreo.adapters.postgres.migrate import migrate
from choreo.adapters.postgres.names import Names, Place, adopt, places_of, unknown_in
from choreo.adapters.postgres.owning import Claim, hold, holder_number, let_go, orphans, take_over
from choreo.adapters.postgres.preparing import migrated, migrations_of, waiting_for
from choreo.adapters.postgres.prune import Sweep, begin
from choreo.adapters.postgres.sections import Sections
from choreo.adapters.postgres.seen import due_rows, seen_of, unsent_rows
from choreo.adapters.postgres.timing import Timing
from choreo.adapters.postgres.tx import PostgresTx, Statements
from choreo.errors import BrokerClosedError, StoreConflictError, StoreError
from choreo.events import Partition, Record
from choreo.plan import Owned, Plan
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
    weaker_settings,
)

__all__ = ["PostgresStore"]

T = TypeVar("T")
READERS_MAX = 3
ASIDE_MAX = 1  # more make smaller groups: half as many outside calls a second
USERS_MAX = 4
TX_HOLD_S = 5.0
ORPHANS_S = 5.0
TURNS_MAX = 20


class PostgresStore:
    """Steps in PostgreSQL, by asyncpg. Its tables are in a schema of their own, `choreo`.

    One transaction at a time writes what steps leave, on one connection: so the rows of the
    outbox rise as they are committed. Reading, outside calls and transactions of the
    service's own have connections of their own.
    """

    def __init__(self, url: str, *, clock: Clock, tx_hold_s: float = TX_HOLD_S) -> None:
        """Name the database; nothing is connected before the first use."""
        self._server = Server(url)
        self._clock = clock
        self._hold_s = tx_hold_s
        self._names = Names()
        self._writing = Lines(self._server, 1)
        self._writing.on_new = self._hold
        self._reading = Lines(self._server, READERS_MAX)
        self._aside = Lines(self._server, ASIDE_MAX)
        self._gathering = Gathering(partial(self._written, self._aside), ASIDE_MAX)
        self._users = Lines(self._server, USERS_MAX)
        self._ear = Ear()
        self._listening = Lines(self._server, 1)
        self._listening.on_new = self._ear.listen
        self._which: Database | None = None
        self._holder = 0
        self._opening = asyncio.Lock()
        self._turn = asyncio.Lock()
        self._open = False
        self._closed = False
        self._working: set[asyncio.Task[Any]] = set()
        self._owned: dict[int, int] = {}
        self._orphans: dict[str, tuple[float, list[int]]] = {}
        self._sweeps: dict[str, Sweep] = {}
        where = self._server.name
        self._timing = Timing(clock, where)
        self._writer = Writer(self._names, clock, where)
        self._sections = Sections(
            self._names, clock, where, look=self._look, learn=self._prepare, hold_s=tx_hold_s
        )

    @property
    def traits(self) -> StoreTraits:
        return StoreTraits(durable=True, publishes=False)

    @property
    def busy(self) -> int:
        """How much is being written and read; a clock that stands still asks."""
        return len(self._working) + self._reading.used + self._aside.used

    # ── ownership ────────────────────────────────────────────────────────────────────────

    async def own(
        self, group: str, partitions: Collection[Partition], *, generation: int | None = None
    ) -> Owned:
        await self._ready()

        async def work() -> Owned:
            places = [Place(group, *partition) for partition in partitions]
            async with self._writing.one() as connection:
                with translated(self._server.name):
                    await self._know_places(connection, places)
                    async with connection.transaction():
                        owned = await take_over(
                            connection,
                            self._names,
                            Claim(group, partitions, self._holder, generation),
                        )
            for partition, epoch in owned.epochs.items():
                self._owned[self._names.places[group, *partition]] = epoch
            self._orphans.clear()  # who is first may be another one now
            return owned

        return await self._shielded(self._outlasting(work))

    async def _hold(self, connection: Connection) -> None:
        with translated(self._server.name):
            if not self._holder:
                self._holder = await holder_number(connection)
            await hold(connection, self._holder)

    async def _places(self, connection: Connection, owned: Owned) -> list[int]:
        """Give the numbers of what is owned; of orphans those that are some by now."""
        group = owned.group
        await self._know_places(connection, [Place(group, *one) for one in owned.epochs])
        found = [self._names.places[group, *partition] for partition in owned.epochs]
        if ORPHANS not in owned.epochs:
            return found
        until, known = self._orphans.get(group, (0.0, []))
        if self._clock.elapsed() >= until:
            known = await orphans(connection, self._names, group)
            self._orphans[group] = (self._clock.elapsed() + ORPHANS_S, known)
        at = self._names.partitions
        return [*found, *(one for one in known if at[one].topic not in owned.topics)]

    # ── seeing ───────────────────────────────────────────────────────────────────────────

    async def load(self, wants: Sequence[Want]) -> Sequence[Seen]:
        await self._ready()
        if not wants:
            return []
        await self._learn(wants)
        async with self._reading.one() as connection:
            return await self._look(connection, wants)

    async def _look(self, connection: Connection, wants: Sequence[Want]) -> Sequence[Seen]:
        with translated(self._server.name):
            return await seen_of(connection, self._names, wants)

    async def due(
        self, owned: Owned, *, skip: Collection[tuple[str, bytes]], most: int
    ) -> tuple[Sequence[Due], float | None]:
        await self._ready()
        skip = frozenset(skip)  # as it is now: what ends meanwhile is in the rows we read, too
        async with self._reading.one() as connection:
            with translated(self._server.name):
                places = await self._places(connection, owned)
                await self._timing.look(connection)
                now = self._clock.now()
                found, after = await due_rows(
                    connection, self._names, places, now, most + len(skip)
                )
        rows = [one for one in found if (one.handler, one.subject) not in skip]
        return rows[:most], (now if len(rows) > most else after)

    async def unsent(self, owned: Owned, *, after: int, most: int) -> Sequence[Unsent]:
        await self._ready()
        async with self._reading.one() as connection:
            with translated(self._server.name):
                places = await self._places(connection, owned)
                return await unsent_rows(connection, self._names, places, after, most)

    async def stirred(self) -> None:
        await self._ready()
        async with self._listening.one() as connection:
            with translated(self._server.name):
                await self._ear.heard(connection)

    async def enlist(self, tx: object, record: Record) -> None:
        """Make a record part of a caller's own transaction (the port `Enlisting`)."""
        run = await runner(tx)  # a handler's is told before anything is waited for
        await self._ready()
        if self._which is None:
            async with self._aside.one() as connection:
                with translated(self._server.name):
                    self._which = await identity(connection)
        await enlist(run, record, self._which, self._server.name)

    async def contents(self) -> Contents:
        """Give all that is kept here, for an audit."""
        await self._ready()
        async with self._aside.one() as connection:
            with translated(self._server.name):
                return await contents_of(connection, self._names)

    # ── writing ──────────────────────────────────────────────────────────────────────────

    async def apply(self, plans: Sequence[Plan]) -> Sequence[Applied | BaseException]:
        await self._ready()
        return await self._shielded(self._apply(list(plans)))

    async def _apply(self, plans: list[Plan]) -> Results:
        if any(map(in_order, plans)):
            async with self._turn:  # whoever comes first writes first
                return await self._written(self._writing, plans)
        return await self._gathering.write(plans) if plans else []

    async def _written(self, lines: Lines, plans: list[Plan]) -> Results:
        await self._prepare(plans)
        results: dict[int, Applied | BaseException] = {}
        plain = [index for index, plan in enumerate(plans) if plan.section is None]
        if plain:
            some = [plans[index] for index in plain]
            results.update(zip(plain, await self._writer.write(lines, some), strict=True))
        sections = [index for index, plan in enumerate(plans) if plan.section is not None]
        if sections:
            some = [plans[index] for index in sections]
            ran = await self._sections.write(lines, some)
            results.update(zip(sections, ran, strict=True))
        return [results[index] for index in range(len(plans))]

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Tx]:
        await self._ready()
        async with self._users.one() as connection:
            with translated(self._server.name, value_errors=False):
                transaction = connection.transaction(isolation="serializable")
                await transaction.start()
            statements = _Watched(connection, self._hold_s)
            try:
                yield PostgresTx(statements)
            except BaseException:
                statements.close()
                connection.terminate()
                raise
            statements.close()
            with translated(self._server.name, value_errors=False):
                await transaction.commit()

    async def migrate(self, service: str, files: Sequence[tuple[str, str]]) -> None:
        """Run a service's own migrations that have not run yet (the port `Prepared`)."""
        await self._ready()
        async with self._users.one() as connection:
            with translated(self._server.name, value_errors=False):
                await migrated(connection, service, files)

    async def waiting(self, group: str) -> Sequence[Waiting]:
        """Give what waits for the group's handlers (the port `Prepared`)."""
        await self._ready()
        async with self._reading.one() as connection:
            with translated(self._server.name):
                return await waiting_for(connection, group)

    async def migrations(self) -> Collection[tuple[str, str]]:
        """Give those of services that have run (the port `Prepared`)."""
        await self._ready()
        async with self._reading.one() as connection:
            with translated(self._server.name):
                return await migrations_of(connection)

    async def weaker(self) -> Sequence[str]:
        """Name settings by which a loss of power undoes what was told (the port `OutsideStore`)."""
        await self._ready()
        async with self._reading.one() as connection:
            with translated(self._server.name):
                return weaker_settings(await settings_of(connection))

    async def prune(self, group: str, keep: Keep, *, most: int) -> bool:
        await self._ready()
        where = self._server.name
        sweep = self._sweeps.get(group)
        if sweep is None:
            async with self._aside.one() as connection:
                with translated(where):
                    sweep = await begin(connection, group, keep, self._clock.now())
            if sweep is not None:
                self._sweeps[group] = sweep
            return sweep is not None
        try:
            more = await sweep.step(self._aside, where, most)
        except BaseException:
            del self._sweeps[group]  # the next one begins anew
            raise
        if not more:
            del self._sweeps[group]
        return more

    # ── life ─────────────────────────────────────────────────────────────────────────────

    async def _ready(self) -> None:
        """Connect and migrate, once."""
        if self._closed:
            raise BrokerClosedError(
                "used after close", fix="make a new store", database=self._server.name
            )
        if self._open:
            return
        async with self._opening:
            if not self._open:
                async with self._aside.one() as connection:
                    await migrate(connection, self._server)
                    with translated(self._server.name):
                        await self._timing.look(connection)
                self._open = True

    async def close(self) -> None:
        self._closed = True
        while self._working:
            await asyncio.wait(self._working)
        owned, self._owned = self._owned, {}
        async with AsyncExitStack() as last:  # all are closed, whatever one of them raises
            kinds = (self._writing, self._reading, self._aside, self._users, self._listening)
            for lines in kinds:
                last.push_async_callback(lines.close)
            if owned:
                async with self._writing.one() as connection:
                    with translated(self._server.name):
                        await let_go(connection, owned.items())

    async def _shielded(self, work: Coroutine[Any, Any, T]) -> T:
        """Finish what was begun, also when whoever asked for it is gone."""
        task = asyncio.ensure_future(work)
        self._working.add(task)
        task.add_done_callback(self._worked)
        return await asyncio.shield(task)

    def _worked(self, task: asyncio.Task[Any]) -> None:
        self._working.discard(task)
        if not task.cancelled():
            task.exception()  # told to who asked, if he is still there

    @staticmethod
    async def _outlasting(work: Any) -> Any:
        for _ in range(TURNS_MAX):
            try:
                return await work()
            except StoreConflictError as exc:
                last = exc
        raise last

    # ── names ────────────────────────────────────────────────────────────────────────────

    async def _prepare(self, plans: Sequence[Plan]) -> None:
        """Learn the numbers of all that these plans name."""
        handlers, places = unknown_in(self._names, plans)
        wants = [plan.want for plan in plans if plan.want is not None]
        await self._learn(wants, dict.fromkeys(handlers, ()), places)

    async def _learn(
        self,
        wants: Sequence[Want],
        handlers: Mapping[str, tuple[str, ...]] = {},
        places: Sequence[Place] = (),
    ) -> None:
        known = self._names.handlers
        unknown = dict(handlers)
        for want in wants:
            if want.handler not in known:
                unknown.setdefault(want.handler, ())
                unknown[want.handler] = unknown[want.handler] or want.former
            if want.target is not None and want.target.handler not in known:
                unknown.setdefault(want.target.handler, ())
            for gate in want.gates:
                if gate.name not in known:
                    unknown.setdefault(gate.name, ())
        if unknown or places:
            async with self._aside.one() as connection:
                with translated(self._server.name):
                    if unknown:
                        self._names.learn(await adopt(connection, unknown))
                    if places:
                        await self._know_places(connection, places)

    async def _know_places(self, connection: Connection, places: Sequence[Place]) -> None:
        if unknown := [place for place in places if place not in self._names.places]:
            self._names.learn_places(await places_of(connection, unknown))


class _Watched(Statements):
    """Statements of a transaction outside of any step: it may not wait for too long."""

    def __init__(self, connection: Connection, hold_s: float) -> None:
        super().__init__(connection)
        self._hold_s = hold_s
        self._timer: asyncio.TimerHandle | None = None
        self._late = self._over = False
        self._wait()

    async def run(self, sql: str, values: tuple[object, ...]) -> Any:
        self._rest()
        if self._late:
            raise self._error()
        if self._over:
            raise StoreError(
                "the transaction is over", code="CH4014", fix="use a Tx inside of its block only"
            )
        try:
            return await super().run(sql, values)
        finally:
            self._wait()

    def close(self) -> None:
        """Run nothing any more: the connection is another's by now."""
        self._over = True
        self._rest()

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._hold_s, self._give_up)

    def _give_up(self) -> None:
        self._late = True
        self._connection.terminate()

    def _error(self) -> StoreError:
        return StoreError(
            f"a transaction waited {self._hold_s:g} s for its next statement: rolled back",
            code="CH4007",
            fix="await nothing else inside a transaction; it holds up every writer",
        )

"""Two things at once: each interleaving that one writer allows has its test here."""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from choreo import App, Context, Event, Failure, NotDone, Retry, Service, Tx
from choreo.adapters.sqlite import Database, Log, SqliteBroker, SqliteStore
from choreo.adapters.system import SystemClock
from choreo.events import Record, id_bytes
from choreo.plan import Parked, Plan, Settle, Source, Status
from choreo.ports import Applied
from choreo.step.parking import frozen
from tests.semantics.events import (
    Cancelled,
    Declined,
    NothingToDo,
    Packed,
    Paid,
    Placed,
    Released,
    Reserved,
    Sent,
    Weighed,
)
from tests.semantics.lab import HASTY, Lab, record_of, turning

ONCE = Retry(attempts_max=1)


def queued(app: App) -> int:
    """Tell how much waits for the store's threads."""
    assert isinstance(app.store, SqliteStore)
    return app.store.busy


def of(lab: Lab, event: type[Event]) -> list[str]:
    """List the flows that an event came to, in order."""
    return [one.headers["ce_correlationid"] for one in lab.only(event)]


# ── compensation ─────────────────────────────────────────────────────────────────────────


def undoing(service: Service) -> list[int]:
    """Declare the undo of what is reserved; give what it undoes."""
    undone: list[int] = []

    @service.compensate(Reserved, on=(Cancelled, Declined), nothing=NothingToDo)
    async def release(reserved: Reserved, why: Cancelled | Declined) -> Released:
        undone.append(reserved.n)
        return Released(n=reserved.n)

    return undone


@pytest.mark.parametrize("outside", [True, False])
async def test_a_void_that_comes_while_the_action_runs(lab: Lab, *, outside: bool) -> None:
    """What it did outside is published void, and undone; if nothing, that is said."""
    service = Service("desk")

    @service.on(Placed)
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        if outside:
            await ctx.once("call", lambda: 1, returns=int)
        await lab.clock.sleep(10)
        return Reserved(n=1)

    undone = undoing(service)
    async with lab.open(service) as app:
        await app.broker.publish([record_of(Placed(), "1", flow="f")])
        await lab.clock.advance(5)
        await app.broker.publish([record_of(Cancelled(), "2", flow="f")])
        await lab.clock.advance(100)
    assert "Reserved" not in lab.kinds()
    assert undone == ([1] if outside else [])
    assert lab.voids() == (["Reserved"] if outside else [])
    assert len(lab.only(Released)) == (1 if outside else 0)
    assert len(lab.only(NothingToDo)) == (0 if outside else 1)


@pytest.mark.parametrize("happened", [True, False])
async def test_an_action_whose_outcome_is_unknown_when_its_attempts_end(
    lab: Lab, *, happened: bool
) -> None:
    """It is not given up before the outcome is known, also when its scope was closed."""
    service = Service("desk")
    calls = 0

    @service.on(Placed, retry=ONCE)
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        def call() -> None:
            nonlocal calls
            calls += 1
            if calls < 9:
                raise ConnectionError("no answer")
            if not happened:
                raise NotDone("it never came")

        await ctx.once("call", call)
        return Reserved(n=1)

    undone = undoing(service)
    async with lab.open(service) as app:
        await app.broker.publish([record_of(Placed(), "1", flow="f")])
        await lab.clock.advance(1)
        await app.broker.publish([record_of(Cancelled(), "2", flow="f")])
        await lab.clock.advance(1)
        assert lab.dead() == []
        assert lab.only(NothingToDo) == []
    async with lab.open(service):
        await lab.clock.advance(1000)
    assert calls == 9
    assert undone == ([1] if happened else [])
    assert lab.voids() == (["Reserved"] if happened else [])
    assert len(lab.only(NothingToDo)) == (0 if happened else 1)


async def test_two_triggers_at_once(lab: Lab) -> None:
    service = Service("desk")

    @service.on(Placed)
    async def reserve(placed: Placed) -> Reserved:
        return Reserved(n=1)

    undone = undoing(service)
    async with lab.open(service) as app:
        await app.broker.publish([record_of(Placed(), "1", flow="f")])
        await lab.clock.settle()
        await app.broker.publish(
            [record_of(Cancelled(), "2", flow="f"), record_of(Declined(), "3", flow="f")]
        )
        await lab.clock.settle()
    assert undone == [1]
    assert len(lab.only(Released)) == 1


async def test_one_trigger_three_effects(lab: Lab) -> None:
    service = Service("desk")

    @service.on(Placed)
    async def reserve(placed: Placed) -> list[Reserved]:
        return [Reserved(n=n) for n in range(3)]

    undone = undoing(service)
    async with lab.open(service) as app:
        await app.broker.publish([record_of(Placed(), "1", flow="f")])
        await lab.clock.settle()
        await app.broker.publish([record_of(Cancelled(), "2", flow="f")])
        await lab.clock.settle()
        await app.broker.publish([record_of(Cancelled(), "2", flow="f")])
        await lab.clock.settle()
    assert sorted(undone) == [0, 1, 2]
    assert len({one.headers["ce_id"] for one in lab.only(Released)}) == 3


# ── owners ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("with_tx", [False, True])
async def test_a_zombie_that_commits_after_the_takeover(
    lab: Lab, tmp_path: Path, *, with_tx: bool
) -> None:
    """Its plan stands on an epoch that is over: nothing of it is there, and it is run anew."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "0001_row.sql").write_text("CREATE TABLE desk_row (run INTEGER);")
    service = Service("desk", migrations=folder)
    begun: list[int] = []
    go_on = asyncio.Event()

    async def slow(run: int) -> None:
        if run == 1:
            await go_on.wait()

    if with_tx:

        @service.on(Placed)
        async def reserve_in_tx(placed: Placed, tx: Tx) -> Reserved:
            begun.append(1)
            run = len(begun)
            await slow(run)
            await tx.execute("INSERT INTO desk_row VALUES ($1)", run)
            return Reserved(n=run)

    else:

        @service.on(Placed)
        async def reserve(placed: Placed) -> Reserved:
            begun.append(1)
            run = len(begun)
            await slow(run)
            return Reserved(n=run)

    zombie = App(service, folder=tmp_path, limits=HASTY)
    await zombie.start()
    await zombie.publish(Placed())
    await turning(lambda: begun)
    other = SqliteStore(Log(Database(tmp_path / "choreo.db")), clock=SystemClock())
    await taken_over(other, lab)
    go_on.set()
    await turning(lambda: queued(zombie) == 0)
    await zombie.stop()
    assert lab.only(Reserved) == []
    await other.close()
    async with App(service, folder=tmp_path):
        await turning(lambda: lab.only(Reserved))
    assert [one.value for one in lab.only(Reserved)] == [b'{"k":"x","n":2}']
    assert lab.rows("SELECT run FROM desk_row") == ([(2,)] if with_tx else [])


async def taken_over(store: SqliteStore, lab: Lab) -> None:
    """Raise the epochs of all partitions as another process does, without being asked."""
    rows = lab.rows("SELECT topic, partition FROM owner WHERE grp = 'desk'")
    assert rows

    def raised(connection: sqlite3.Connection) -> None:
        connection.executemany(
            "UPDATE owner SET epoch = epoch + 1 WHERE topic = ? AND partition = ?", rows
        )

    await store._database.write(raised)


async def test_join_arrivals_in_two_processes_at_once(tmp_path: Path) -> None:
    """Whoever is second finds the first: each flow is joined once, and none is left over."""
    flows = 40
    lab = Lab(tmp_path)

    def joining() -> Service:
        service = Service("desk")

        @service.join()
        async def pack(paid: Paid, weighed: Weighed) -> Packed:
            await asyncio.sleep(0)
            return Packed(n=paid.n)

        return service

    async with App(joining(), folder=tmp_path) as one, App(joining(), folder=tmp_path) as two:
        members = "SELECT DISTINCT member FROM assignment WHERE grp = 'desk' AND member <> 0"
        await turning(lambda: len(lab.rows(members)) == 2)  # each has a part of the partitions
        for n in range(flows):
            sides: list[Record] = [
                record_of(Paid(k=f"p{n}", n=n), f"p{n}", flow=f"{n}"),
                record_of(Weighed(k=f"w{n}", n=n), f"w{n}", flow=f"{n}"),
            ]
            await asyncio.gather(one.broker.publish(sides[:1]), two.broker.publish(sides[1:]))
        await turning(lambda: len(lab.only(Packed)) >= flows)
    assert sorted(of(lab, Packed), key=int) == [str(n) for n in range(flows)]
    assert lab.rows("SELECT * FROM gate WHERE NOT closed") == []


async def test_a_failure_outcome_after_the_success_of_a_redelivery(lab: Lab) -> None:
    """Given twice at once, the one that fails last changes nothing: it was done."""
    service = Service("desk")
    ran: list[str] = []

    @service.on(Placed, retry=ONCE)
    async def reserve(placed: Placed) -> Reserved:
        ran.append("quick" if ran else "slow")
        if len(ran) == 1:
            await lab.clock.sleep(10)
            raise ValueError("too late to matter")
        return Reserved()

    @service.otherwise(reserve)
    async def gave_up(placed: Placed, why: Failure) -> Declined:
        return Declined()

    async with lab.open(service) as app:
        await app.broker.publish([record_of(Placed(), "one")])
        await lab.clock.advance(1)
        again = record_of(Placed(), "one")
        again.key = b"another"  # so that it does not wait for the first
        await app.broker.publish([again])
        await lab.clock.advance(100)
    assert lab.dead() == []
    assert lab.only(Declined) == []
    assert len(lab.only(Reserved)) == ran.count("quick")
    ((status,),) = lab.rows(
        "SELECT status FROM inbox JOIN name ON name.id = handler WHERE text = 'desk.reserve'"
    )
    assert status == (2 if "quick" in ran else 4)


async def test_a_redrive_after_otherwise(lab: Lab) -> None:
    """The step was decided: nobody can claim it again, whatever run and attempt he names."""
    service = Service("desk")
    ran: list[str] = []

    @service.on(Placed, retry=ONCE)
    async def reserve(placed: Placed) -> Reserved:
        ran.append("reserve")
        raise ValueError("no room")

    @service.otherwise(reserve)
    async def gave_up(placed: Placed, why: Failure) -> Declined:
        ran.append("gave up")
        return Declined()

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.advance(1)
        (placed,) = lab.only(Placed)
        subject = id_bytes(placed.headers["ce_id"])
        source = Source(placed.topic, placed.partition, placed.offset)
        again = Parked(1, 1, lab.clock.now(), "", frozen(placed), "")
        for claim in ((0, 1), (0, 0), (1, 1), None):
            redrive = Settle(
                "desk.reserve", subject, Status.PARKED, b"", source, seen=claim, parked=again
            )
            assert await app.store.apply([Plan(None, (redrive,))]) == [Applied.DUPLICATE]
        await lab.clock.advance(100)
    assert ran == ["reserve", "gave up"]
    assert len(lab.only(Declined)) == 1


# ── the group's commit ───────────────────────────────────────────────────────────────────


class _Unheard:
    """A connection whose COMMIT is done, and tells of a failure, when it is told to."""

    def __init__(self, inner: sqlite3.Connection, fail: Callable[[], bool]) -> None:
        self._inner = inner
        self._fail = fail

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        cursor = self._inner.execute(sql, *values)
        if sql == "COMMIT" and self._fail():
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error
        return cursor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class UnheardDatabase(Database):
    """A file whose commits, at some of the transactions, succeed and are reported as failed."""

    def __init__(self, path: Path, failing: range) -> None:
        super().__init__(path)
        self.failing = failing
        self.commits = self.fired = 0
        self.armed = False

    def connect(self) -> sqlite3.Connection:
        return _Unheard(super().connect(), self._fail)  # type: ignore[return-value]

    def _fail(self) -> bool:
        if not self.armed:
            return False
        self.commits += 1
        failed = self.commits in self.failing
        self.fired += failed
        return failed


@pytest.mark.parametrize("failing", [range(1, 2), range(2, 3), range(3, 4), range(1, 40, 2)])
@pytest.mark.parametrize("with_tx", [False, True])
async def test_an_unknown_commit(
    lab: Lab, tmp_path: Path, failing: range, *, with_tx: bool
) -> None:
    """What was told to have failed had been done: it is asked again, and done once."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "0001_row.sql").write_text("CREATE TABLE desk_row (n INTEGER UNIQUE);")
    service = Service("desk", migrations=folder)
    calls: Counter[int] = Counter()

    @service.on(Placed)
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        await ctx.once("call", lambda: calls.update([placed.n]))
        return Reserved(k=placed.k, n=placed.n)

    if with_tx:

        @service.on(Reserved)
        async def write(reserved: Reserved, tx: Tx) -> Sent:
            await tx.execute("INSERT INTO desk_row VALUES ($1)", reserved.n)
            return Sent(n=reserved.n)

    else:

        @service.on(Reserved)
        async def send(reserved: Reserved) -> Sent:
            return Sent(n=reserved.n)

    database = UnheardDatabase(tmp_path / "choreo.db", failing)
    log = Log(database)
    broker, store = SqliteBroker(log), SqliteStore(log, clock=lab.clock)
    async with App(service, broker=broker, store=store, clock=lab.clock) as app:
        for n in range(4):
            await app.publish(Placed(k=f"{n % 2}", n=n))
        database.armed = True
        await lab.clock.advance(60)
        database.armed = False
        assert database.fired
        await lab.clock.advance(600)  # the outcome of a call may be unknown many times in a row
    assert sorted(one.value for one in lab.only(Sent)) == [
        b'{"k":"x","n":%d}' % n for n in range(4)
    ]
    assert len(lab.only(Reserved)) == 4
    assert lab.dead() == []
    assert set(calls) == set(range(4))
    if with_tx:
        assert lab.rows("SELECT n FROM desk_row ORDER BY n") == [(n,) for n in range(4)]
    assert lab.rows("SELECT * FROM inbox WHERE status <> 2") == []


async def test_a_group_with_one_bad_plan(lab: Lab, tmp_path: Path) -> None:
    """It fails alone: of twenty that finish at once, nineteen are there, and in order."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "0001_row.sql").write_text("CREATE TABLE desk_row (n INTEGER CHECK (n <> 7));")
    service = Service("desk", migrations=folder)
    begun: list[int] = []

    @service.on(Placed, retry=ONCE)
    async def write(placed: Placed, tx: Tx) -> Reserved:
        begun.append(placed.n)
        await lab.clock.sleep(1)
        await tx.execute("INSERT INTO desk_row VALUES ($1)", placed.n)
        return Reserved(n=placed.n)

    @service.on(Placed)
    async def plain(placed: Placed) -> Packed:
        await lab.clock.sleep(1)
        return Packed(n=placed.n)

    async with lab.open(service) as app:
        await asyncio.gather(*(app.publish(Placed(k=f"{n}", n=n)) for n in range(20)))
        await lab.clock.settle()
        assert len(begun) == 20
        await lab.clock.advance(10)
    good = [n for n in range(20) if n != 7]
    assert [n for (n,) in lab.rows("SELECT n FROM desk_row ORDER BY n")] == good
    assert len(lab.only(Reserved)) == 19
    assert len(lab.only(Packed)) == 20
    assert [one.key for one in lab.dead()] == [b"7"]

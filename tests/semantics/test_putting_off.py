"""A timer that is put off anew in the very moment in which it fires."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from choreo import After, App, Service
from choreo.adapters.sqlite import Database, Log, SqliteBroker, SqliteStore
from choreo.adapters.sqlite.apply import ApplyWork
from choreo.adapters.sqlite.database import Work
from tests.semantics.events import Placed, Sent
from tests.semantics.lab import Lab, Unminded, record_of, turning


class CountedDatabase(Database):
    """A file that counts the groups of plans in its writer's queue; who only looks is none."""

    plans = 0

    def submit(self, work: Work) -> None:
        super().submit(work)
        self.plans += isinstance(work, ApplyWork)


async def test_put_off_anew_for_the_very_moment_in_which_it_fires(tmp_path: Path) -> None:
    """What was put off first is replaced; what was put off last is published, once."""
    service = Service("desk")
    clock = Unminded()
    moment = datetime.fromtimestamp(clock.now() + 60, UTC)
    go_on = asyncio.Event()
    begun = asyncio.Event()

    @service.on(Placed)
    async def remind(placed: Placed) -> After[Sent]:
        if placed.n == 2:
            begun.set()
            await go_on.wait()
        return After(Sent(n=placed.n), at=moment, name="reminder")

    lab = Lab(tmp_path, clock)
    database = CountedDatabase(tmp_path / "choreo.db")
    log = Log(database)
    broker, store = SqliteBroker(log), SqliteStore(log, clock=clock)
    async with App(service, broker=broker, store=store, clock=clock) as app:
        for n in (1, 2):
            await app.broker.publish([record_of(Placed(k=f"{n}", n=n), f"{n}", flow="f")])
        await begun.wait()
        await turning(lambda: lab.rows("SELECT * FROM timer"))
        async with app.store.transaction() as tx:  # nobody else writes until it ends
            await tx.fetchval("SELECT 1")
            before = database.plans
            go_on.set()  # puts it off anew: the next in the writer's queue
            await turning(lambda: database.plans == before + 1)
            await clock.advance(60)
            await turning(lambda: database.plans == before + 2)  # it has fired: the next after that
        await turning(lambda: not lab.rows("SELECT * FROM timer"))
    assert [one.value for one in lab.only(Sent)] == [b'{"k":"x","n":2}']

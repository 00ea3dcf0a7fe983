"""Steps that want the rows of another process: run again, and no outage of the database."""

import asyncio
import logging
from pathlib import Path

import pytest

from choreo import Retry, Service, Tx
from tests.postgres.lab import PostgresLab
from tests.postgres.test_interleavings import Rival
from tests.semantics.events import Placed, Reserved

pytestmark = pytest.mark.blocks("a test looks into the database while the App runs")


async def test_a_step_that_can_not_be_serialized_is_run_again_at_once(
    tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The database answers: nobody is told otherwise, and nothing waits for it."""
    caplog.set_level(logging.WARNING, "choreo")
    lab = PostgresLab(tmp_path, url=url)
    service = Service("desk")
    ran: list[int] = []

    @service.on(Placed)
    async def reserve(placed: Placed, tx: Tx) -> Reserved:
        await tx.execute("UPDATE desk_sums SET n = n + 10")
        ran.append(placed.n)
        return Reserved()

    async with lab.open(service) as app, Rival(url) as rival:
        async with app.transaction() as tx:
            await tx.execute("CREATE TABLE desk_sums (n INTEGER)")
            await tx.execute("INSERT INTO desk_sums VALUES (1)")
        await rival.run("UPDATE desk_sums SET n = n + 1")
        await app.publish(Placed())
        going_on = asyncio.create_task(lab.clock.settle())
        await rival.until_waiting()
        await rival.run("COMMIT")
        await going_on
        worker = app.worker
        assert worker is not None
        assert worker.outage is None
        await lab.clock.advance(0.1)
        assert await rival.run("SELECT n FROM desk_sums") == [(12,)]
        assert ran == [0]
    assert lab.kinds() == ["Placed", "Reserved"]
    assert not [one for one in caplog.messages if "does not answer" in one]


async def test_a_constraint_that_waits_for_the_commit_fails_its_step_alone(
    tmp_path: Path, url: str
) -> None:
    """It is the handler's failure: it uses attempts up, and is given up."""
    lab = PostgresLab(tmp_path, url=url)
    service = Service("desk")

    @service.on(Placed, retry=Retry(attempts_max=2, first_s=0.01))
    async def reserve(placed: Placed, tx: Tx) -> Reserved:
        await tx.execute("INSERT INTO desk_rows VALUES ($1)", placed.n)
        return Reserved(k=placed.k)

    async with lab.open(service) as app:
        async with app.transaction() as tx:
            await tx.execute("CREATE TABLE desk_known (n INTEGER PRIMARY KEY)")
            await tx.execute("INSERT INTO desk_known VALUES (1)")
            await tx.execute(
                "CREATE TABLE desk_rows (n INTEGER REFERENCES desk_known"
                " DEFERRABLE INITIALLY DEFERRED)"
            )
        for n in (1, 2, 1):
            await app.publish(Placed(k=f"k{n}", n=n))
        await lab.clock.settle()
        await lab.clock.advance(60)
    assert lab.kinds().count("Reserved") == 2
    assert [one.key for one in lab.dead()] == [b"k2"]

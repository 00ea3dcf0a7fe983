"""Two things at once: each interleaving that one writer allows has its test here."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

from choreo import After, App, Service
from tests.semantics.events import Placed, Sent
from tests.semantics.lab import Lab, record_of


async def test_put_off_anew_for_the_very_moment_in_which_it_fires(tmp_path: Path) -> None:
    """What was put off first is replaced; what was put off last is published, once."""
    service = Service("desk")
    moment = datetime.now(UTC) + timedelta(seconds=0.3)
    go_on = asyncio.Event()
    begun = asyncio.Event()

    @service.on(Placed)
    async def remind(placed: Placed) -> After[Sent]:
        if placed.n == 2:
            begun.set()
            await go_on.wait()
        return After(Sent(n=placed.n), at=moment, name="reminder")

    lab = Lab(tmp_path)
    async with App(service, folder=tmp_path) as app, asyncio.timeout(20):
        for n in (1, 2):
            await app.broker.publish([record_of(Placed(k=f"{n}", n=n), f"{n}", flow="f")])
        await begun.wait()
        while not lab.rows("SELECT * FROM timer"):
            await asyncio.sleep(0)
        async with app.store.transaction() as tx:  # nobody else writes until it ends
            await tx.fetchval("SELECT 1")
            busy = app.store.busy
            go_on.set()  # puts it off anew: the next in the writer's queue
            while app.store.busy == busy:
                await asyncio.sleep(0)
            while app.store.busy <= busy + 1:  # the former one has fired: the next after it
                await asyncio.sleep(0)
        while lab.rows("SELECT * FROM timer"):
            await asyncio.sleep(0)
    assert [one.value for one in lab.only(Sent)] == [b'{"k":"x","n":2}']

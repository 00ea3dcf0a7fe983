"""Two things at once: each interleaving that one writer allows has its test here."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from choreo import After, App, Service
from choreo.adapters.sqlite import SqliteStore
from tests.semantics.events import Placed, Sent
from tests.semantics.lab import Lab, record_of


async def turning(true: Callable[[], object]) -> None:
    """Let the loop turn until it is true, by the real clock."""
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 - what it waits for happens in threads
            await asyncio.sleep(0)


def queued(app: App) -> int:
    """Tell how much waits for the store's threads."""
    assert isinstance(app.store, SqliteStore)
    return app.store.busy


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
    async with App(service, folder=tmp_path) as app:
        for n in (1, 2):
            await app.broker.publish([record_of(Placed(k=f"{n}", n=n), f"{n}", flow="f")])
        await begun.wait()
        await turning(lambda: lab.rows("SELECT * FROM timer"))
        async with app.store.transaction() as tx:  # nobody else writes until it ends
            await tx.fetchval("SELECT 1")
            before = queued(app)
            go_on.set()  # puts it off anew: the next in the writer's queue
            await turning(lambda: queued(app) == before + 1)
            await turning(lambda: queued(app) > before + 1)  # it has fired: the next after that
        await turning(lambda: not lab.rows("SELECT * FROM timer"))
    assert [one.value for one in lab.only(Sent)] == [b'{"k":"x","n":2}']

"""Readiness where the store is PostgreSQL: it tells of the database, not of who uses it."""

from contextlib import AsyncExitStack
from pathlib import Path

from choreo import App, Service
from choreo.adapters.postgres import PostgresStore
from choreo.adapters.postgres.store import USERS_MAX
from choreo.adapters.sqlite import Database, Log, SqliteBroker
from choreo.app import system_clock
from choreo.health import ServicesProbe
from tests.semantics.events import Placed


async def test_long_transactions_of_the_users_own_are_no_outage(tmp_path: Path, url: str) -> None:
    """As many as there may be at once: the store answers all the same, and has its migrations."""
    migrations = tmp_path / "migrations"
    migrations.mkdir()
    (migrations / "1.sql").write_text("CREATE TABLE desk_a (n INTEGER)")
    service = Service("desk", migrations=migrations)

    @service.on(Placed)
    async def see(placed: Placed) -> None: ...

    broker = SqliteBroker(Log(Database(tmp_path / "choreo.db")))
    store = PostgresStore(url, clock=system_clock(), tx_hold_s=60)
    async with App(service, broker=broker, store=store) as app, AsyncExitStack() as held:
        for _ in range(USERS_MAX):
            tx = await held.enter_async_context(app.transaction())
            await tx.fetch("SELECT 1")
        probe = ServicesProbe(app)
        assert await probe.problems() == []
        (migrations / "2.sql").write_text("CREATE TABLE desk_b (n INTEGER)")
        assert [one.code for one in await probe.problems()] == ["CH9005"]

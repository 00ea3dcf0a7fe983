"""Publishing in a transaction of the caller's own, in one file and beside another log."""

from pathlib import Path

import pytest

from choreo import App, Retry, Service, Tx
from tests.semantics.events import Placed, Sent
from tests.semantics.lab import Lab


@pytest.fixture(params=[False, True], ids=["file", "beside"])
def lab(tmp_path: Path, request: pytest.FixtureRequest) -> Lab:
    return Lab(tmp_path, beside=request.param)


def desk(*, apps: list[App] | None = None) -> Service:
    service = Service("desk")

    @service.on(Placed, retry=Retry(attempts_max=1))
    async def send(placed: Placed, tx: Tx) -> Sent:
        await tx.execute("INSERT INTO desk_sold VALUES ($1)", placed.n)
        for app in apps or ():
            await app.publish(Placed(n=placed.n + 1), tx=tx)
        return Sent(k=placed.k, n=placed.n)

    return service


async def table(app: App) -> None:
    async with app.transaction() as tx:
        await tx.execute("CREATE TABLE desk_sold (n INTEGER)")
        await tx.execute("CREATE TABLE baskets (n INTEGER)")


async def test_it_is_published_with_the_callers_rows_or_never(lab: Lab) -> None:
    async with lab.open(desk()) as app:
        await table(app)
        async with app.transaction() as tx:
            await tx.execute("INSERT INTO baskets VALUES (1)")
            flow = await app.publish(Placed(n=1), tx=tx)
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is the transaction
            async with app.transaction() as tx:
                await tx.execute("INSERT INTO baskets VALUES (2)")
                await app.publish(Placed(n=2), tx=tx)
                raise ZeroDivisionError
        await lab.until(lambda: lab.kinds() == ["Placed", "Sent"])
        assert [one.headers["ce_correlationid"] for one in lab.only(Sent)] == [flow]
        assert lab.rows("SELECT n FROM baskets") == [(1,)]


async def test_it_is_there_for_a_service_that_starts_later(lab: Lab) -> None:
    async with lab.open(desk()) as app:
        await table(app)
    async with lab.open() as front:  # nobody relays, and nobody handles
        async with front.transaction() as tx:
            await front.publish(Placed(n=1), tx=tx)
        assert lab.kinds() == ([] if lab.beside else ["Placed"])
    async with lab.open(desk()):
        await lab.until(lambda: lab.kinds() == ["Placed", "Sent"])


async def test_a_handler_publishes_by_returning_only(lab: Lab) -> None:
    """Its transaction is refused, whatever it does with an App that it got hold of."""
    apps: list[App] = []
    async with lab.open(desk(apps=apps)) as app:
        await table(app)
        apps.append(app)
        await app.publish(Placed(n=1))
        await lab.until(lab.dead)
        (letter,) = lab.dead()
        assert "CH4014" in letter.headers["choreo-dead-message"]
        assert lab.kinds() == ["Placed"]

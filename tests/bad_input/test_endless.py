"""A statement without an end, a handler that would end the process: neither stops the others."""

import sys
from pathlib import Path

import pytest

from choreo import Retry, Service, Tx
from choreo.adapters.sqlite import apply
from tests.bad_input.desk import Desk, until
from tests.semantics.events import Paid, Placed

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"


def paid(desk: Desk) -> set[str]:
    return {(one.key or b"").decode() for one in desk.log("desk.paid")}


async def test_a_statement_that_does_not_end_is_rolled_back_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply, "TX_HOLD_S", 0.3)
    migrations = tmp_path / "migrations"
    migrations.mkdir()
    (migrations / "1.sql").write_text("CREATE TABLE desk_seen (k TEXT);")
    desk = Desk(tmp_path)
    service = Service("desk", migrations=migrations)

    @service.on(Placed, retry=Retry(attempts_max=1))
    async def look(placed: Placed, tx: Tx) -> Paid:
        await tx.execute("INSERT INTO desk_seen VALUES ($1)", placed.k)
        if placed.k == "read":
            await tx.fetchval(f"{ENDLESS} SELECT count(*) FROM n")
        if placed.k == "write":  # SQLite takes back the whole transaction, and others with it
            await tx.execute(f"{ENDLESS} INSERT INTO desk_seen SELECT i FROM n")
        return Paid(k=placed.k)

    async with desk.open(service) as app:
        for k in ("a", "read", "b", "write", "c", "d"):
            await app.publish(Placed(k=k))
        await until(lambda: paid(desk) == set("abcd") and len(desk.dead()) == 2)
        async with app.store.transaction() as tx:
            seen = await tx.fetch("SELECT k FROM desk_seen ORDER BY k")
        assert [row["k"] for row in seen] == [*"abcd"]
    assert all("CH4007" in one.headers["choreo-dead-message"] for one in desk.dead())


async def test_a_handler_that_would_end_the_process_is_a_failed_attempt(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    service = Service("desk")

    @service.on(Placed, retry=Retry(attempts_max=2, first_s=0.01))
    async def leave(placed: Placed) -> Paid:
        if placed.k == "exit":
            sys.exit(3)
        return Paid(k=placed.k)

    async with desk.open(service) as app:
        for k in ("exit", "a"):
            await app.publish(Placed(k=k))
        await until(lambda: paid(desk) == {"a"} and len(desk.dead()) == 1)
    assert [one.headers["choreo-dead-error"] for one in desk.dead()] == ["SystemExit"]

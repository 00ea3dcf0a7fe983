"""State and Tx: what a step keeps is kept with it, or not at all."""

import asyncio
from pathlib import Path

import pytest

from choreo import Context, Later, Retry, Service, State, Tx
from tests.semantics.events import Cancelled, Paid, Placed, Reserved, Sent
from tests.semantics.lab import Lab


class Counter(State, key="k"):
    k: str
    n: int = 0


TABLE = "CREATE TABLE desk_row (k TEXT, n INTEGER UNIQUE);"


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    """A folder with one table to write to."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "0001_row.sql").write_text(TABLE)
    return folder


@pytest.mark.parametrize("with_tx", [False, True])
async def test_handlers_of_one_state_and_key_run_one_after_the_other(
    lab: Lab, *, with_tx: bool
) -> None:
    service = Service("desk")

    @service.on(Paid)
    async def paid(paid: Paid, counter: Counter) -> None:
        await asyncio.sleep(0)
        counter.n += 100

    if with_tx:

        @service.on(Placed)
        async def count_in_tx(placed: Placed, counter: Counter, tx: Tx) -> None:
            counter.n += 1
            await tx.fetchval("SELECT 1")

    else:

        @service.on(Placed)
        async def count(placed: Placed, counter: Counter) -> None:
            seen = counter.n
            await asyncio.sleep(0)
            counter.n = seen + 1

    async with lab.open(service) as app:
        for n in range(20):
            await app.publish(Placed(k="xy"[n % 2]))
            await app.publish(Paid(k="xy"[n % 2]))
        await lab.clock.advance(1)
    async with lab.open(service) as app:
        await app.publish(Placed(k="x"))
        await lab.clock.advance(1)
        x, y, z = [await app.load(Counter, key) for key in "xyz"]
    assert (x, y, z) == (Counter(k="x", n=1011), Counter(k="y", n=1010), None)


async def test_a_failed_attempt_leaves_the_state_as_it_was(lab: Lab) -> None:
    service = Service("desk")

    @service.on(Placed, retry=Retry(attempts_max=2, first_s=0.1))
    async def count(placed: Placed, counter: Counter, ctx: Context) -> None:
        counter.n += 1
        if ctx.attempt == 1 or placed.n == 2:
            raise ValueError("after the change")

    async with lab.open(service) as app:
        await app.publish(Placed(n=1))
        await lab.clock.advance(1)
        await app.publish(Placed(n=2))
        await lab.clock.advance(1)
        assert await app.load(Counter, "x") == Counter(k="x", n=1)


async def test_one_bad_handler_in_a_group_is_rolled_back_alone(lab: Lab, migrations: Path) -> None:
    service = Service("desk", migrations=migrations)

    @service.on(Placed, retry=Retry(attempts_max=1))
    async def write(placed: Placed, tx: Tx) -> Reserved:
        await tx.execute("INSERT INTO desk_row VALUES ($1, $2)", placed.k, placed.n)
        if placed.n % 5 == 3:
            raise ValueError("after the statement")
        return Reserved(k=placed.k, n=placed.n)

    async with lab.open(service) as app:
        await asyncio.gather(*(app.publish(Placed(k=f"{n}", n=n)) for n in range(20)))
        await lab.clock.advance(1)
    good = [n for n in range(20) if n % 5 != 3]
    assert lab.rows("SELECT n FROM desk_row ORDER BY n") == [(n,) for n in good]
    assert len(lab.only(Reserved)) == len(good)
    assert sorted(one.key or b"" for one in lab.dead()) == [b"13", b"18", b"3", b"8"]


async def test_what_a_constraint_refuses_is_the_handlers_failure(
    lab: Lab, migrations: Path
) -> None:
    service = Service("desk", migrations=migrations)

    @service.on(Placed, retry=Retry(attempts_max=1))
    async def write(placed: Placed, tx: Tx) -> None:
        await tx.execute("INSERT INTO desk_row VALUES ($1, $2)", placed.k, placed.n)

    async with lab.open(service) as app:
        for key in "abc":
            await app.publish(Placed(k=key, n=1 if key != "c" else 2))
            await lab.clock.advance(1)
    assert lab.rows("SELECT k, n FROM desk_row ORDER BY k") == [("a", 1), ("c", 2)]
    assert [one.key for one in lab.dead()] == [b"b"]


async def test_waiting_for_something_else_while_the_tx_is_open_is_refused(
    lab: Lab, migrations: Path
) -> None:
    service = Service("desk", migrations=migrations)

    @service.on(Placed)
    async def write(placed: Placed, tx: Tx) -> None:
        never = asyncio.get_running_loop().create_future()
        await tx.execute("INSERT INTO desk_row VALUES ($1, $2)", placed.k, placed.n)
        await never

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.advance(100)
    assert lab.rows("SELECT * FROM desk_row") == []
    assert [one.headers["choreo-dead-error"] for one in lab.dead()] == ["TxOpenError"]


@pytest.mark.parametrize("sql", ["COMMIT", " rollback", "BEGIN", "SAVEPOINT a", "/* x */ END"])
async def test_statements_that_steer_the_transaction_are_refused(
    lab: Lab, migrations: Path, sql: str
) -> None:
    service = Service("desk", migrations=migrations)

    @service.on(Placed, retry=Retry(attempts_max=1))
    async def write(placed: Placed, tx: Tx) -> Reserved:
        await tx.execute("INSERT INTO desk_row VALUES ($1, $2)", placed.k, placed.n)
        await tx.execute(sql)
        return Reserved()

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.advance(100)
    assert lab.rows("SELECT * FROM desk_row") == []
    assert lab.only(Reserved) == []
    assert len(lab.dead()) == 1


async def test_later_after_a_statement_rolls_it_back(lab: Lab, migrations: Path) -> None:
    service = Service("desk", migrations=migrations)
    ran = 0

    @service.on(Placed)
    async def write(placed: Placed, tx: Tx) -> Sent:
        nonlocal ran
        ran += 1
        await tx.execute("INSERT INTO desk_row VALUES ($1, $2)", placed.k, placed.n)
        if ran < 3:
            raise Later(after_s=10)
        return Sent()

    async with lab.open(service) as app:
        await app.publish(Placed())
        await lab.clock.advance(100)
    assert lab.rows("SELECT k, n FROM desk_row") == [("x", 0)]
    assert len(lab.only(Sent)) == 1


@pytest.mark.parametrize("before", [False, True])
async def test_unless_keeps_a_handler_from_running_in_its_scope(lab: Lab, *, before: bool) -> None:
    service = Service("desk")

    @service.on(Placed, unless=Cancelled, by="k")
    async def reserve(placed: Placed) -> Reserved:
        return Reserved(k=placed.k, n=placed.n)

    async with lab.open(service) as app:
        first, second = Placed(n=1), Cancelled()
        await app.publish(second if before else first)
        await lab.clock.settle()
        await app.publish(first if before else second)
        await lab.clock.settle()
    async with lab.open(service) as app:
        await app.publish(Placed(n=2))
        await app.publish(Placed(k="other", n=3))
        await lab.clock.settle()
    ran = [one.value for one in lab.only(Reserved)]
    assert ran == [
        *([] if before else [b'{"k":"x","n":1}']),
        b'{"k":"other","n":3}',
    ]
    assert len(lab.notes("void")) == (2 if before else 1)

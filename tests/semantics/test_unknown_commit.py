"""A COMMIT of unknown outcome: it was written, and the worker is told that it was not."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from choreo import After, App, Context, Retry, Service, State, Tx
from choreo.adapters.sqlite import Database, Log, SqliteBroker, SqliteStore
from choreo.plan import Plan
from choreo.ports import Applied
from choreo.testing import CALM, Faults, FaultyStore
from tests.semantics.events import Paid, Placed, Reserved, Sent
from tests.semantics.lab import Lab

LOST = replace(CALM, ack_lost=1)
REFUSED = replace(CALM, refused=1)
SLOWLY = Retry(attempts_max=5, first_s=10, factor=1)


class Once:
    """Lets one call of a store's `apply` fail, when it is told to; that, and no other."""

    def __init__(self, lab: Lab, *, raised: bool) -> None:
        self.log = Log(Database(lab.folder / "choreo.db"))
        inner = SqliteStore(self.log, clock=lab.clock)
        self._raised = float(raised)
        self.store = FaultyStore(inner, seed=1, faults=CALM, unheard=self._unheard)
        self.fired = 0

    def fail(self, faults: Faults = LOST) -> None:
        self.store.faults = replace(faults, raised=self._raised)

    def _unheard(self, plans: Sequence[Plan], results: Sequence[Applied | BaseException]) -> None:
        self.fired += 1
        self.store.faults = replace(CALM, raised=self._raised)


@asynccontextmanager
async def opened(lab: Lab, once: Once, *services: Service) -> AsyncIterator[App]:
    broker = SqliteBroker(once.log)
    async with App(*services, broker=broker, store=once.store, clock=lab.clock) as app:
        await lab.clock.settle()
        yield app


@pytest.fixture(params=[True, False], ids=["raised", "in-its-place"])
def once(request: pytest.FixtureRequest, lab: Lab) -> Once:
    """One that tells by raising, and one that tells in the plans' places."""
    return Once(lab, raised=request.param)


async def test_what_was_parked_runs_when_it_is_due(lab: Lab, once: Once) -> None:
    service = Service("desk")
    attempts: list[int] = []

    @service.on(Placed, retry=SLOWLY)
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        attempts.append(ctx.attempt)
        if ctx.attempt == 1:
            once.fail()
            raise ValueError("not yet")
        return Reserved()

    async with opened(lab, once, service) as app:
        await app.publish(Placed())
        await lab.clock.advance(9)
        assert attempts == [1]
        await lab.clock.advance(3)
    assert attempts == [1, 2]
    assert once.fired == 1
    assert lab.kinds() == ["Placed", "Reserved"]


async def test_who_comes_later_waits_behind_what_was_parked(lab: Lab, once: Once) -> None:
    service = Service("desk")
    done: list[int] = []

    @service.on(Placed, retry=SLOWLY)
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        if placed.n == 1 and ctx.attempt == 1:
            once.fail()
            raise ValueError("not yet")
        done.append(placed.n)
        return Reserved(n=placed.n)

    async with opened(lab, once, service) as app:
        for n in (1, 2):
            await app.publish(Placed(n=n))
            await lab.clock.advance(1)
        assert done == []
        await lab.clock.advance(20)
        await app.publish(Placed(n=3))
        await lab.clock.advance(1)
    assert done == [1, 2, 3]
    assert once.fired == 1


async def test_a_chain_goes_on_behind_what_was_settled(lab: Lab, once: Once) -> None:
    """The first of it was parked, and its end is what nobody heard of."""
    service = Service("desk")
    done: list[int] = []

    @service.on(Placed, retry=SLOWLY)
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        if placed.n == 1 and ctx.attempt == 1:
            raise ValueError("not yet")
        if placed.n == 1:
            once.fail()
        done.append(placed.n)
        return Reserved(n=placed.n)

    async with opened(lab, once, service) as app:
        for n in (1, 2):
            await app.publish(Placed(n=n))
            await lab.clock.advance(1)
        await lab.clock.advance(20)
        assert done == [1, 2]
        for n in (3, 4):
            await app.publish(Placed(n=n))
        await lab.clock.advance(1)
    assert done == [1, 2, 3, 4]
    assert once.fired == 1
    assert lab.rows("SELECT count(*) FROM inbox WHERE status = 1") == [(0,)]


async def test_a_timer_that_was_set_fires(lab: Lab, once: Once) -> None:
    service = Service("desk")

    @service.on(Placed)
    async def later(placed: Placed) -> After[Sent]:
        once.fail()
        return After(Sent(), after_s=30)

    async with opened(lab, once, service) as app:
        await app.publish(Placed())
        await lab.clock.advance(29)
        assert lab.kinds() == ["Placed"]
        await lab.clock.advance(3)
    assert lab.kinds() == ["Placed", "Sent"]
    assert once.fired == 1


async def test_what_a_step_published_is_published_once_and_taken(lab: Lab, once: Once) -> None:
    first, second = Service("desk"), Service("till")
    taken: list[int] = []

    @first.on(Placed)
    async def reserve(placed: Placed) -> Reserved:
        once.fail()
        return Reserved(n=placed.n)

    @second.on(Reserved)
    async def take(reserved: Reserved) -> None:
        taken.append(reserved.n)

    async with opened(lab, once, first, second) as app:
        await app.publish(Placed(n=7))
        await lab.clock.advance(1)
        await app.publish(Placed(n=8))
        await lab.clock.advance(1)
    assert lab.kinds() == ["Placed", "Reserved", "Placed", "Reserved"]
    assert taken == [7, 8]
    assert once.fired == 2


class Counter(State, key="k"):
    k: str
    n: int = 0


async def test_a_state_is_changed_once(lab: Lab, once: Once) -> None:
    service = Service("desk")

    @service.on(Placed)
    async def count(placed: Placed, counter: Counter) -> None:
        counter.n += 1
        if counter.n == 2:
            once.fail()

    async with opened(lab, once, service) as app:
        for _ in range(3):
            await app.publish(Placed())
            await lab.clock.advance(1)
        counter = await app.load(Counter, "x")
    assert counter == Counter(k="x", n=3)
    assert once.fired == 1


async def test_rows_of_a_section_are_written_once(lab: Lab, once: Once, tmp_path: Path) -> None:
    """The handler does not run again; one beside it whose section failed does, and fails once."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "0001_row.sql").write_text("CREATE TABLE desk_row (k TEXT, n INTEGER);")
    service = Service("desk", migrations=folder)
    attempts: list[tuple[str, int]] = []

    @service.on(Placed, retry=SLOWLY)
    async def write(placed: Placed, tx: Tx, ctx: Context) -> Reserved:
        if placed.k == "bad" and not once.fired:
            once.fail()
        attempts.append((placed.k, ctx.attempt))
        await tx.execute("INSERT INTO desk_row VALUES ($1, $2)", placed.k, ctx.attempt)
        if placed.k == "bad" and ctx.attempt == 1:
            raise ValueError("not yet")
        return Reserved(k=placed.k)

    async with opened(lab, once, service) as app:
        for k in ("good", "bad"):
            await app.publish(Placed(k=k))
        await lab.clock.advance(100)
    assert once.fired == 1
    assert sorted(lab.rows("SELECT k, n FROM desk_row")) == [("bad", 2), ("good", 1)]
    assert len(lab.only(Reserved)) == 2
    (retry,) = lab.notes("retrying")
    assert retry["error"] == "ValueError"
    assert attempts.count(("bad", 2)) == 1


@pytest.mark.parametrize("faults", [LOST, REFUSED], ids=["written", "not-written"])
@pytest.mark.parametrize("when", ["intent", "result"])
async def test_an_outside_call_is_made_with_one_key_and_remembered(
    lab: Lab, once: Once, when: str, faults: Faults
) -> None:
    """An answer that is lost before the call lets it not be made, and after it is no failure."""
    service = Service("desk")
    keys: list[str] = []

    @service.on(Placed, retry=Retry(attempts_max=1))
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        def call() -> int:
            keys.append(ctx.idempotency_key)
            if when == "result" and len(keys) == 1:
                once.fail(faults)
            return len(keys)

        if when == "intent" and ctx.attempt == 1:
            once.fail(faults)
        try:
            return Reserved(n=await ctx.once("call", call, returns=int))
        finally:
            once.fail(CALM)

    async with opened(lab, once, service) as app:
        await app.publish(Placed())
        await lab.clock.advance(100)
    made = 2 if (when, faults) == ("result", REFUSED) else 1
    assert len(keys) == made
    assert len(set(keys)) == 1
    assert [record.value for record in lab.only(Reserved)] == [b'{"k":"x","n":%d}' % made]
    assert lab.dead() == []


async def test_a_redelivered_record_is_paid_once_however_it_fails(lab: Lab, once: Once) -> None:
    service = Service("desk")
    runs: list[int] = []

    @service.on(Placed)
    async def pay(placed: Placed) -> Paid:
        runs.append(placed.n)
        once.fail()
        return Paid(n=placed.n)

    async with opened(lab, once, service) as app:
        for _ in range(3):
            await app.publish(Placed(n=1), id="one")
        await lab.clock.advance(5)
    assert runs == [1]
    assert sorted(lab.kinds()) == ["Paid", *["Placed"] * 3]

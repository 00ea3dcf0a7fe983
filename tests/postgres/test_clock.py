"""A host whose clock is ten minutes off: what it sets and what it fires is in time all the same."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from choreo import After, App, Context, Retry, Service
from choreo.adapters.postgres import PostgresStore
from choreo.adapters.sqlite import Database, Log, SqliteBroker
from choreo.adapters.system import SystemClock
from choreo.events import Partition
from choreo.plan import Plan, SetTimer
from choreo.ports import Applied
from choreo.testing import ManualClock
from choreo.testing.contracts.place import GROUP, HANDLER, TOPIC, source, subject
from tests.semantics.events import Paid, Placed, Sent

HERE = [Partition(TOPIC.name, 0)]
OFF_S = 600.0
DELAY_S = 1.5
LATE_S = 20.0
EARLY_S = 1.2
"""The database's answer is older by its way back: by as long as we wait for a processor, too."""

Skew = Callable[[float], None]


@pytest.fixture
def skew(monkeypatch: pytest.MonkeyPatch) -> Skew:
    """Have the whole process believe that it is so much later than it is."""
    real = time.time

    def by(off_s: float) -> None:
        monkeypatch.setattr(time, "time", lambda: real() + off_s)

    return by


async def database_time(url: str) -> float:
    connection = await asyncpg.connect(url)
    try:
        return float(await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())"))
    finally:
        await connection.close()


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[PostgresStore, SystemClock]]:
    clock = SystemClock()
    store = PostgresStore(url, clock=clock)
    try:
        yield store, clock
    finally:
        await store.close()


@pytest.mark.parametrize("off_s", [OFF_S, -OFF_S])
async def test_what_one_host_sets_another_fires_in_time(
    url: str, skew: Skew, off_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    skew(off_s)
    async with opened(url) as (store, clock):
        owned = await store.own(GROUP, HERE)
        assert abs(clock.now() - await database_time(url)) < OFF_S / 100
        due = clock.now() + DELAY_S
        assert await store.apply(
            [Plan(owned, (SetTimer(subject(1), due, HANDLER, b"", source()),))]
        ) == [Applied.DONE]
        (line,) = [one.message for one in caplog.records if "CH4015" in one.message]
        assert ("ahead of" if off_s > 0 else "behind") in line
        assert "600 s" in line
    skew(-off_s)
    async with opened(url) as (store, clock):
        owned = await store.own(GROUP, HERE)
        async with asyncio.timeout(LATE_S):
            while True:
                asked = clock.now()
                found, after = await store.due(owned, skip=(), most=9)
                if found:
                    break
                assert after == due
                assert asked < due
                await clock.sleep(due - clock.now())
        assert await database_time(url) >= due
        assert await database_time(url) < due + LATE_S


@pytest.mark.parametrize("off_s", [OFF_S, -OFF_S])
async def test_parked_deliveries_and_timers_of_a_host_that_is_off(
    url: str, skew: Skew, off_s: float, tmp_path: Path
) -> None:
    """By a clock that always passes: neither runs at once, and neither waits for ten minutes."""
    skew(off_s)
    began: dict[str, float] = {}
    took: dict[str, float] = {}
    service = Service("desk")

    @service.on(Placed, retry=Retry(attempts_max=3, first_s=DELAY_S, factor=1))
    async def pay(placed: Placed, ctx: Context) -> tuple[Paid, After[Sent]]:
        if ctx.attempt == 1:
            began["parked"] = time.monotonic()
            raise ValueError("not yet")
        began["later"] = time.monotonic()
        took["parked"] = began["later"] - began["parked"]
        return Paid(k=placed.k), After[Sent](Sent(k=placed.k), after_s=DELAY_S)

    @service.on(Sent)
    async def sent(event: Sent) -> None:
        took["later"] = time.monotonic() - began["later"]

    service.flow("order", starts=Placed, ends=Sent)
    clock = SystemClock()
    broker = SqliteBroker(Log(Database(tmp_path / "log.db")))
    store = PostgresStore(url, clock=clock)
    async with App(service, broker=broker, store=store, clock=clock) as app:
        flow = await app.publish(Placed(k="a"))
        skew(-off_s)  # it is set, and nobody minds
        await app.outcome(flow, within_s=LATE_S)
        async with asyncio.timeout(LATE_S):
            while "later" not in took:  # noqa: ASYNC110 - a handler sets it
                await asyncio.sleep(0.005)
    assert all(DELAY_S - EARLY_S <= one < LATE_S for one in took.values()), took


async def test_a_clock_that_a_test_moves_is_told_nothing(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    before = clock.now()
    store = PostgresStore(url, clock=clock)
    with caplog.at_level(logging.WARNING):
        owned = await store.own(GROUP, HERE)
        await store.due(owned, skip=(), most=1)
    await store.close()
    assert clock.now() == before
    assert "CH4015" not in caplog.text

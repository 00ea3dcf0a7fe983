"""Handlers that hold up others: named in one line, and the other keys go on."""

import asyncio
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from choreo import Retry, Service, Tx
from choreo.adapters.system import SystemClock
from choreo.worker import Limits
from tests.bad_input.desk import WITHIN_S, Desk, until
from tests.semantics.events import Paid, Placed

QUICK = Limits(blocked_s=0.5, stuck_s=0.5)


class StandingClock(SystemClock):
    """A clock that stands still but when it is set on; who sleeps by it sleeps as ever."""

    def __init__(self) -> None:
        self.at = super().elapsed()
        self._of_day = super().now() - self.at

    def elapsed(self) -> float:
        return self.at

    def now(self) -> float:
        return self._of_day + self.at


def said(caplog: pytest.LogCaptureFixture, code: str, word: str = "") -> list[str]:
    """Give the lines of a code, with a word in them; a slow machine has others."""
    return [line for line in caplog.messages if line.startswith(code) and word in line]


def paid(desk: Desk) -> list[str]:
    return [(one.key or b"").decode() for one in desk.log("desk.paid")]


def dead(desk: Desk) -> list[str]:
    return [one.headers["choreo-dead-message"] for one in desk.dead()]


@pytest.mark.blocks("the handler holds the event loop")
async def test_one_that_blocks_the_loop_is_named_and_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(tmp_path)
    service = Service("desk")

    @service.on(Placed)
    async def pay(placed: Placed) -> Paid:
        last = time.monotonic() + WITHIN_S
        while placed.n and not said(caplog, "CH5008", "key=slow") and time.monotonic() < last:
            time.sleep(0.01)  # noqa: ASYNC251 - that is what the test is about
        return Paid(k=placed.k)

    async with desk.open(service, limits=QUICK) as app:
        await app.publish(Placed(k="slow", n=1))
        await asyncio.gather(*(app.publish(Placed(k=f"k{n}")) for n in range(20)))
        await until(lambda: len(paid(desk)) == 21)
        await app.publish(Placed(k="later"))
        await until(lambda: len(paid(desk)) == 22)
    (line,) = said(caplog, "CH5008", "key=slow")
    assert "event loop" in line
    assert "handler=desk.pay" in line
    assert "test_handlers.py:" in line
    assert "Fix: " in line


async def test_one_that_holds_the_transaction_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(tmp_path)
    service = Service("desk")
    go_on = threading.Event()

    @service.on(Placed)
    async def pay(placed: Placed, tx: Tx) -> Paid:
        await tx.fetchval("SELECT 1")
        if placed.n:
            go_on.wait(20)
        return Paid(k=placed.k)

    async with desk.open(service, limits=QUICK) as app:
        await app.publish(Placed(k="slow", n=1))
        await until(lambda: said(caplog, "CH5008", "key=slow"))
        go_on.set()
        await app.publish(Placed(k="other"))
        await until(lambda: sorted(paid(desk)) == ["other", "slow"])
    (line,) = said(caplog, "CH5008", "key=slow")
    assert "transaction" in line
    assert "handler=desk.pay" in line
    assert "nothing is committed" in line


async def test_one_that_never_returns_is_named_and_left_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(tmp_path)
    never = asyncio.Event()
    service = Service("desk")

    @service.on(Placed)
    async def pay(placed: Placed) -> Paid:
        if placed.n:
            await never.wait()
        return Paid(k=placed.k)

    async with desk.open(service, limits=replace(QUICK, drain_s=0.2)) as app:
        await app.publish(Placed(k="stuck", n=1))
        await app.publish(Placed(k="stuck", n=0))
        await app.publish(Placed(k="other"))
        await until(lambda: paid(desk) == ["other"] and said(caplog, "CH5010", "key=stuck"))
    assert app.gave_up
    (line,) = said(caplog, "CH5010", "key=stuck")
    assert "handler=desk.pay, key=stuck" in line
    assert "timeout_s" in line
    (line,) = said(caplog, "CH5011")
    assert "desk.pay" in line
    never.set()
    async with desk.open(service, limits=QUICK):  # nothing is lost
        await until(lambda: paid(desk) == ["other", "stuck", "stuck"])
    assert not desk.dead()


async def test_one_that_never_returns_has_its_time(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    service = Service("desk")

    @service.on(Placed, timeout_s=0.1, retry=Retry(attempts_max=2, first_s=0.01))
    async def pay(placed: Placed) -> Paid:
        if placed.n:
            await asyncio.Event().wait()
        return Paid(k=placed.k)

    async with desk.open(service, limits=QUICK) as app:
        await app.publish(Placed(k="stuck", n=1))
        await app.publish(Placed(k="stuck", n=0))
        await until(lambda: paid(desk) == ["stuck"])
    assert not app.gave_up
    (why,) = dead(desk)
    assert why.startswith("CH5001")


async def test_one_that_swallows_its_cancellation_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(tmp_path)
    service = Service("desk")
    go_on = asyncio.Event()

    @service.on(Placed, timeout_s=0.1, retry=Retry(attempts_max=1))
    async def pay(placed: Placed) -> Paid:
        while placed.n and not go_on.is_set():
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                continue
        return Paid(k=placed.k)

    async with desk.open(service, limits=QUICK) as app:
        await app.publish(Placed(k="stubborn", n=1))
        await app.publish(Placed(k="stubborn", n=0))
        await app.publish(Placed(k="other"))
        await until(lambda: paid(desk) == ["other"] and said(caplog, "CH5009"))
        go_on.set()  # what it returns now is discarded
        await until(lambda: dead(desk) and paid(desk) == ["other", "stubborn"])
    (line,) = said(caplog, "CH5009")
    assert "handler=desk.pay, key=stubborn" in line
    assert dead(desk)[0].startswith("CH5001")


async def test_threads_that_never_end_keep_their_keys_and_no_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(tmp_path)
    service = Service("desk")
    go_on = threading.Event()
    stuck = 40  # more than an executor has threads
    begun: list[str] = []
    clock = StandingClock()  # no time is over but that of those who have begun to wait

    @service.on(Placed, timeout_s=1.0, retry=Retry(attempts_max=1))
    def pay(placed: Placed) -> Paid:
        if placed.n:
            begun.append(placed.k)
            go_on.wait(3 * WITHIN_S)
        return Paid(k=placed.k)

    async with desk.open(service, limits=replace(QUICK, stuck_s=60.0), clock=clock) as app:
        for n in range(stuck):
            await app.publish(Placed(k=f"stuck{n}", n=1))
            await app.publish(Placed(k=f"stuck{n}", n=0))
        for n in range(25):
            await app.publish(Placed(k=f"other{n}"))
        await until(lambda: len(paid(desk)) == 25 and len(begun) == stuck)
        clock.at += 2.0
        for n in range(25, 50):
            await app.publish(Placed(k=f"other{n}"))
        await until(lambda: len(paid(desk)) == 50 and len(said(caplog, "CH5009")) == stuck)
        assert not desk.dead()  # they are at it still
        go_on.set()
        await until(lambda: len(paid(desk)) == 50 + stuck and len(desk.dead()) == stuck)
    assert all(why.startswith("CH5001") for why in dead(desk))
    assert "in its thread" in said(caplog, "CH5009")[0]


async def test_one_that_returns_another_type_is_given_up_at_once(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    service = Service("desk")
    calls: list[int] = []

    @service.on(Placed)
    async def pay(placed: Placed) -> Paid:
        calls.append(placed.n)
        return [Paid(k=placed.k), placed, {"k": "x"}, None][placed.n]  # type: ignore[return-value]

    async with desk.open(service) as app:
        for n in (1, 2, 3, 0):
            await app.publish(Placed(n=n))
        await until(lambda: paid(desk) == ["x"] and len(desk.dead()) == 3)
    assert calls == [1, 2, 3, 0]
    assert all(why.startswith("CH5002") and "desk.pay" in why for why in dead(desk))

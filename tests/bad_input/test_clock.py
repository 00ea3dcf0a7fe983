"""A clock set back by an hour: nothing early, nothing stuck once it is right, nobody spins."""

import asyncio
import time
from contextlib import suppress
from pathlib import Path

import pytest

from choreo import After, App, Context, Retry, Service
from choreo.adapters.system import SystemClock
from choreo.app import open_broker, open_views, system_clock
from choreo.ports import FlowFilter
from choreo.tracker import Tracker, badges
from tests.bad_input.desk import Desk, until
from tests.semantics.events import Paid, Placed, Sent

HOUR = 3600.0
FAR_S = 60.0  # what is due then is not due before the test has set its clock
SLEEPS_A_SECOND = 60


class SetClock(SystemClock):
    """The machine's clock, set by whoever likes; it counts how often somebody sleeps by it."""

    def __init__(self) -> None:
        self.set_by = 0.0
        self.sleeps = 0
        self._passed_s = 0.0
        self._passing = asyncio.Event()

    def now(self) -> float:
        return super().now() + self._passed_s + self.set_by

    def elapsed(self) -> float:
        return super().elapsed() + self._passed_s

    def let_pass(self, seconds: float) -> None:
        """Have so much time pass at once: who sleeps for less wakes up."""
        self._passed_s += seconds
        self._passing.set()
        self._passing = asyncio.Event()

    async def sleep(self, delay_s: float) -> None:
        self.sleeps += 1
        last = self.elapsed() + delay_s
        while (left_s := last - self.elapsed()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._passing.wait()


def shop(clock: SetClock, early: list[float], *, after_s: float) -> Service:
    """Make a service with a parked delivery, a timer, and a time-out; `early` gets what is."""
    desk = Service("desk")
    due: dict[str, float] = {}

    @desk.on(Placed, retry=Retry(attempts_max=3, first_s=after_s, factor=1))
    async def pay(placed: Placed, ctx: Context) -> Paid | tuple[Paid, After[Sent]]:
        now = clock.now()
        if placed.k == "parked":
            if ctx.attempt == 1:
                due["parked"] = now + after_s
                raise ValueError("not yet")
            early.extend([due["parked"] - now] if now < due["parked"] else [])
        if placed.k == "later":
            due["later"] = now + after_s
            return Paid(k=placed.k), After[Sent](Sent(k=placed.k), after_s=after_s)
        return Paid(k=placed.k)

    @desk.on(Sent)
    async def sent(event: Sent) -> None:
        early.extend([due["later"] - clock.now()] if clock.now() < due["later"] else [])

    return desk


async def test_a_clock_set_back_by_an_hour(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(tmp_path)
    clock = SetClock()
    early: list[float] = []
    async with desk.open(shop(clock, early, after_s=FAR_S), clock=clock) as app:
        await app.publish(Placed(k="parked"))
        await app.publish(Placed(k="later"))
        await until(lambda: desk.kinds().count("Paid") == 1 and desk.log("choreo.steps"))
        clock.set_by = -HOUR
        await until(lambda: [one for one in caplog.messages if one.startswith("CH4010")])
        clock.let_pass(2 * FAR_S)  # their time would have come by now
        before, began = clock.sleeps, time.monotonic()
        for n in range(50):  # others go on
            await app.publish(Placed(k=f"other{n}"))
        await until(lambda: desk.kinds().count("Paid") >= 51 and time.monotonic() > began + 1.5)
        assert clock.sleeps - before < SLEEPS_A_SECOND * (time.monotonic() - began)
        assert desk.kinds().count("Paid") == 51
        assert "Sent" not in desk.kinds()
        clock.set_by = 0.0
        await until(lambda: desk.kinds().count("Paid") == 52 and "Sent" in desk.kinds(), within_s=5)
    assert not early
    assert not desk.dead()
    (line,) = (one for one in caplog.messages if one.startswith("CH4010"))
    assert "back by 3.6e+03 s" in line


async def test_what_is_parked_while_the_clock_is_back_runs_in_its_time(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    clock = SetClock()
    clock.set_by = -HOUR
    early: list[float] = []
    async with desk.open(shop(clock, early, after_s=1.0), clock=clock) as app:
        await app.publish(Placed(k="parked"))
        await app.publish(Placed(k="later"))
        await until(lambda: desk.kinds().count("Paid") == 2 and "Sent" in desk.kinds(), within_s=5)
    assert not early


async def test_times_on_records_are_sound_when_the_clock_goes_back(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    clock = SetClock()
    service = Service("desk")

    @service.on(Placed)
    async def pay(placed: Placed) -> Paid:
        clock.set_by = -HOUR
        await asyncio.sleep(0.01)
        return Paid(k=placed.k)

    service.flow("pay", starts=Placed, ends=(Paid,))
    async with App(service, folder=tmp_path, clock=clock) as app:
        flow = await app.publish(Placed())
        assert isinstance(await app.outcome(flow, within_s=5), Paid)
    (record,) = desk.log("desk.paid")
    assert 0.01 <= float(record.headers["choreo-took"]) < 5
    broker, views = open_broker(tmp_path), open_views(tmp_path)
    await Tracker(broker, views, system_clock()).catch_up()
    (shown,) = await views.flows(FlowFilter())
    assert shown.status == "completed"
    assert 0 <= badges(shown, clock.now()).duration_s < 5
    await views.close()
    await broker.close()

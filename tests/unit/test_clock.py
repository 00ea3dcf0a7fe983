"""The clocks: virtual time moves in order and lets everything settle; system time is time."""

import asyncio
import math
import threading
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choreo.adapters.system import SystemClock
from choreo.ports import Clock
from choreo.testing import ManualClock

ClockMaker = type[ManualClock] | type[SystemClock]


async def test_time_stands_still_until_it_is_moved() -> None:
    clock = ManualClock(start=1000.0)
    await clock.settle()
    assert (clock.now(), clock.elapsed()) == (1000.0, 0.0)
    await clock.advance(1800)
    assert (clock.now(), clock.elapsed()) == (2800.0, 1800.0)


async def test_a_sleeper_wakes_at_its_own_time_and_not_before() -> None:
    clock = ManualClock()
    woken: list[float] = []

    async def sleeper() -> None:
        await clock.sleep(10)
        woken.append(clock.elapsed())

    task = asyncio.create_task(sleeper())
    await clock.advance(9.999)
    assert not woken
    assert clock.sleepers == 1
    await clock.advance(100)
    await task
    assert woken == [10.0]
    assert clock.sleepers == 0


async def test_what_a_woken_sleeper_begins_belongs_to_its_moment() -> None:
    clock = ManualClock()
    seen: list[tuple[str, float]] = []

    async def every(name: str, seconds: float, times: int) -> None:
        for _ in range(times):
            await clock.sleep(seconds)
            seen.append((name, clock.elapsed()))

    async with asyncio.TaskGroup() as group:
        group.create_task(every("slow", 3, 2))
        group.create_task(every("fast", 2, 3))
        await clock.advance(6)
    assert seen == [
        ("fast", 2.0), ("slow", 3.0), ("fast", 4.0), ("slow", 6.0), ("fast", 6.0),
    ]  # fmt: skip


async def test_sleepers_of_one_moment_wake_in_the_order_of_their_calls() -> None:
    clock = ManualClock()
    woken: list[int] = []

    async def sleeper(number: int) -> None:
        await clock.sleep(1)
        woken.append(number)
        await asyncio.sleep(0)
        woken.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(sleeper(number))
        await clock.advance(1)
    assert woken == [0, 0, 1, 1, 2, 2, 3, 3]


async def test_ten_tenths_are_one() -> None:
    clock = ManualClock()
    task = asyncio.create_task(clock.sleep(1))
    for _ in range(10):
        await clock.advance(0.1)
    assert task.done()


async def test_a_sleep_without_length_waits_for_nobody() -> None:
    clock = ManualClock()
    for delay_s in (0, -1, math.nan):
        await clock.sleep(delay_s)
    assert clock.elapsed() == 0


async def test_the_shortest_sleep_lets_time_go_on() -> None:
    clock = ManualClock()

    async def restless() -> None:
        while clock.elapsed() < 1e-4:
            await clock.sleep(1e-12)

    task = asyncio.create_task(restless())
    await clock.advance(1)
    assert task.done()


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    clock = ManualClock()
    task = asyncio.create_task(clock.sleep(5))
    await clock.settle()
    task.cancel()
    await clock.settle()
    assert clock.sleepers == 0
    await clock.advance(10)
    assert task.cancelled()


async def test_time_waits_for_threads_that_say_when_they_are_done() -> None:
    clock = ManualClock()
    seen: list[float] = []
    jobs: list[asyncio.Future[None]] = []

    async def idle() -> bool:
        waited = False
        while jobs:
            await jobs.pop()
            waited = True
        return waited

    async def worker() -> None:
        await clock.sleep(1)
        done = threading.Event()
        job = asyncio.ensure_future(asyncio.to_thread(done.wait, 5))
        jobs.append(asyncio.ensure_future(_after(job, seen, clock)))
        asyncio.get_running_loop().call_soon(done.set)

    remove = clock.settle_with(idle)
    task = asyncio.create_task(worker())
    await clock.advance(100)
    await task
    assert seen == [1.0]
    remove()
    remove()


async def _after(job: asyncio.Future[bool], seen: list[float], clock: ManualClock) -> None:
    await job
    seen.append(clock.elapsed())


async def test_who_worked_makes_all_be_asked_again() -> None:
    clock = ManualClock()
    asked: list[str] = []
    work = {"left": 2, "right": 0}

    async def left() -> bool:
        asked.append("left")
        busy, work["left"] = work["left"] > 0, max(0, work["left"] - 1)
        work["right"] += busy
        return busy

    async def right() -> bool:
        asked.append("right")
        busy, work["right"] = work["right"] > 0, 0
        return busy

    clock.settle_with(right)
    clock.settle_with(left)
    await clock.settle()
    assert work == {"left": 0, "right": 0}
    assert asked[-2:] == ["right", "left"]


@pytest.mark.parametrize("delay_s", [-1.0, math.inf, math.nan])
async def test_time_goes_forward_by_something_finite(delay_s: float) -> None:
    with pytest.raises(AssertionError):
        await ManualClock().advance(delay_s)


async def test_two_can_not_move_one_clock() -> None:
    clock = ManualClock()
    first = asyncio.create_task(clock.advance(1))
    await asyncio.sleep(0)
    with pytest.raises(AssertionError):
        await clock.advance(1)
    await first
    await clock.advance(1)
    assert clock.elapsed() == 2


@given(st.lists(st.integers(1, 50), max_size=12), st.lists(st.integers(0, 30), max_size=6))
def test_all_wake_in_order_however_time_is_cut(delays: Sequence[int], cuts: Sequence[int]) -> None:
    async def run() -> list[tuple[float, int]]:
        clock = ManualClock()
        woken: list[tuple[float, int]] = []

        async def sleeper(number: int, delay: int) -> None:
            await clock.sleep(delay)
            woken.append((clock.elapsed(), number))

        async with asyncio.TaskGroup() as group:
            for number, delay in enumerate(delays):
                group.create_task(sleeper(number, delay))
            for cut in cuts:
                await clock.advance(cut)
            await clock.advance(60)
        return woken

    expected = sorted((float(delay), number) for number, delay in enumerate(delays))
    assert asyncio.run(run()) == expected


async def test_system_time_is_the_machines() -> None:
    clock: Clock = SystemClock()
    before = clock.elapsed()
    earliest = time.time()
    assert earliest <= clock.now() <= time.time()
    await clock.sleep(0.001)
    assert clock.elapsed() - before >= 0.0009


@pytest.mark.parametrize("make", [ManualClock, SystemClock])
def test_both_are_clocks(make: ClockMaker) -> None:
    clock: Clock = make()
    assert clock.elapsed() <= clock.elapsed()

"""Hot keys: a few keys with much to do and slow handlers, beside many quick ones."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from bench.figure import Figure
from bench.pace import Pacer, percentile
from choreo import App, Event, Service

__all__ = ["hot_keys"]

QUICK = 10_000
PER_S = 1000
WARM_UP = 1000
HOT_KEYS, HOT_EVENTS, HOT_S = 50, 20, 1.0
TURNS = 3


class QuickAsked(Event, topic="hot.quick", key="key"):
    """One of many, each with a key of its own."""

    key: str
    n: int


class SlowAsked(Event, topic="hot.slow", key="key"):
    """One of those that share a hot key."""

    key: str
    n: int


class Answered(Event, topic="hot.answered", key="key"):
    """What both handlers answer."""

    key: str


def hot_keys(
    quick: int = QUICK, keys: int = HOT_KEYS, events: int = HOT_EVENTS, turns: int = TURNS
) -> list[Figure]:
    """How many times the p99 of 10,000 quick events is that without the hot keys beside them.

    Quick events come at 1,000 a second, open loop; the latency is from the intended time to
    the start of the handler. Beside them 50 keys have 20 events each, with handlers that wait
    for one second: a chain of 20 s a key. Both are taken three times, by turns, and the better
    p99 of each counts. The baseline is the p99 without the hot keys.
    """
    alone, beside = [], []
    for _ in range(turns):
        alone.append(_p99(quick, 0, 0))
        beside.append(_p99(quick, keys, events))
    before, after = min(alone), min(beside)
    return [
        Figure("hot_keys", after / before, "times", 1.0,
               f"p99 of the quick ones {before * 1e3:.2f} ms alone, {after * 1e3:.2f} ms beside "
               f"{keys} hot keys with {events} events of {HOT_S:g} s each"),
    ]  # fmt: skip


def _p99(quick: int, keys: int, events: int) -> float:
    with tempfile.TemporaryDirectory() as made:
        late = asyncio.run(_run(Path(made), quick, keys, events))
    return percentile(late[WARM_UP:] or late, 0.99)


async def _run(folder: Path, quick: int, keys: int, events: int) -> list[float]:
    late: list[float] = []
    all_taken = asyncio.Event()
    service = Service("hot")

    @service.on(QuickAsked)
    async def take(asked: QuickAsked) -> Answered:
        late.append(time.perf_counter() - pacer.intended(asked.n))
        if len(late) == quick:
            all_taken.set()
        return Answered(key=asked.key)

    @service.on(SlowAsked)
    async def wait(asked: SlowAsked) -> Answered:
        await asyncio.sleep(HOT_S)
        return Answered(key=asked.key)

    async with App(service, folder=folder) as app:
        for key in range(keys):  # spread over a second: keys do not beat time together
            slow = (SlowAsked(key=f"hot-{key}", n=n) for n in range(events))
            await asyncio.gather(*map(app.publish, slow), asyncio.sleep(HOT_S / keys))
        loop = asyncio.get_running_loop()
        publishing: set[asyncio.Task[str]] = set()

        def due(n: int) -> None:
            task = loop.create_task(app.publish(QuickAsked(key=f"quick-{n}", n=n)))
            publishing.add(task)
            task.add_done_callback(publishing.discard)

        pacer = Pacer(lambda n: loop.call_soon_threadsafe(due, n), per_s=PER_S, count=quick)
        pacer.start()
        await all_taken.wait()
        await asyncio.gather(*publishing)
    return late

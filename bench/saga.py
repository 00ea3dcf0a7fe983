"""saga5: five services, five steps, six events, in one process; a tracker in a second one."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bench.bare import bare_steps_per_s
from bench.figure import Figure
from bench.process import started
from choreo import App, Event, Service, Tx

__all__ = ["EVENTS", "Count", "saga5", "saga5_tx", "services", "through"]

STEPS = 5
FLOWS = 40_000
WINDOW = 256
AHEAD = 2000
FILLER = "x" * 200
BEHIND_MAX_S = 1.0
"""A tracker that is further behind had not its part of the machine: the figure tells nothing."""


class Step0(Event, topic="saga.s0", key="order_id"):
    """The root."""

    order_id: str
    filler: str
    n: int


class Step1(Event, topic="saga.s1", key="order_id"):
    """After one step."""

    order_id: str
    filler: str
    n: int


class Step2(Event, topic="saga.s2", key="order_id"):
    """After two."""

    order_id: str
    filler: str
    n: int


class Step3(Event, topic="saga.s3", key="order_id"):
    """After three."""

    order_id: str
    filler: str
    n: int


class Step4(Event, topic="saga.s4", key="order_id"):
    """After four."""

    order_id: str
    filler: str
    n: int


class Step5(Event, topic="saga.s5", key="order_id"):
    """The end."""

    order_id: str
    filler: str
    n: int


EVENTS = (Step0, Step1, Step2, Step3, Step4, Step5)
SQL = (
    "INSERT INTO bench_stock VALUES ($1, 1) ON CONFLICT (sku) DO UPDATE"
    " SET units = bench_stock.units + 1"
)


class Count:
    """Counts flows that came to their end."""

    def __init__(self, total: int = 0) -> None:
        """Wait for this many."""
        self.left = total
        self.done = asyncio.Event()
        self.room = asyncio.Semaphore(AHEAD)

    def one(self) -> None:
        """Count one."""
        self.left -= 1
        self.room.release()
        if not self.left:
            self.done.set()


def services(count: Count, *, business: bool) -> list[Service]:
    """Make the five services."""
    return [_service(n, count, business=business) for n in range(STEPS)]


def _service(n: int, count: Count, *, business: bool) -> Service:
    service = Service(f"s{n + 1}")
    taken: Any = EVENTS[n]
    given: Any = EVENTS[n + 1]
    last = n + 1 == STEPS

    async def go(event: Any) -> Any:
        if last:
            count.one()
        return given(order_id=event.order_id, filler=event.filler, n=event.n + 1)

    async def go_tx(event: Any, tx: Tx) -> Any:
        await tx.execute(SQL, f"sku-{event.n * 7 % 500}")
        return await go(event)

    fn: Callable[..., Awaitable[Any]] = go_tx if business else go
    fn.__annotations__ = {"event": taken, "return": given, **({"tx": Tx} if business else {})}
    service.on(taken, name="go")(fn)
    if n == 0:
        service.flow("saga", starts=Step0, ends=Step5)
    return service


async def through(app: App, count: Count, flows: range) -> float:
    """Put flows through the services of an App, to their ends; give the seconds."""
    count.left = len(flows)
    count.done.clear()
    begun = time.perf_counter()
    await asyncio.gather(*(_feed(app, count, flows[n::WINDOW]) for n in range(WINDOW)))
    await count.done.wait()
    return time.perf_counter() - begun


async def _run(folder: Path, flows: int, *, business: bool) -> dict[str, float]:
    count = Count()
    app = App(*services(count, business=business), folder=folder)
    async with app:
        if business:
            async with app.store.transaction() as tx:
                await tx.execute(
                    "CREATE TABLE bench_stock (sku TEXT PRIMARY KEY, units INTEGER) WITHOUT ROWID"
                )
        begun, cpu = time.perf_counter(), time.process_time()
        await through(app, count, range(flows))
        await app.drain()
        took, cpu = time.perf_counter() - begun, time.process_time() - cpu
    return {"took": took, "cpu": cpu}


async def _feed(app: App, count: Count, flows: range) -> None:
    """Publish these roots, all feeders together at most AHEAD before what is done."""
    for n in flows:
        await count.room.acquire()
        await app.publish(Step0(order_id=f"order-{n}", filler=FILLER, n=0))


def _handlers_cpu_us(flows: int) -> float:
    """Measure what the handlers themselves cost, per step."""

    async def alone() -> float:
        count = Count(flows + 1)
        made = services(count, business=False)
        handlers = [next(iter(service.handlers.values())) for service in made]
        events = [event(order_id="order-1", filler=FILLER, n=0) for event in EVENTS]
        begun = time.process_time()
        for _ in range(flows // STEPS):
            for n, handler in enumerate(handlers):
                await handler.fn(events[n])
        return (time.process_time() - begun) / flows * 1e6

    return asyncio.run(alone())


def _measured(*, business: bool, flows: int, behind_max_s: float) -> tuple[dict[str, float], float]:
    """Run the saga beside a tracker; give its times, and how far behind the tracker was."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        with started("bench.tracker_process", folder) as tracker:
            tracker.heard()
            result = asyncio.run(_run(folder, flows, business=business))
            tracker.told()
            behind = tracker.heard()["behind_s"]
    assert behind < behind_max_s, f"the tracker was {behind:.2f} s behind at the end"
    return result, behind


def _bare(flows: int, *, business: bool) -> float:
    with tempfile.TemporaryDirectory() as made:
        return bare_steps_per_s(Path(made) / "bare.db", steps=flows * STEPS, business=business)


def saga5(flows: int = FLOWS, behind_max_s: float = BEHIND_MAX_S) -> list[Figure]:
    """Flows of five steps a second, a tracker in a second process beside them.

    `step_cpu_us` is what a step costs the process beside its handler. The baseline is a bare
    SQLite loop that does what no framework can do without (bench/bare.py).
    """
    bare = _bare(flows, business=False)
    result, behind = _measured(business=False, flows=flows, behind_max_s=behind_max_s)
    rate = flows / result["took"]
    cpu = result["cpu"] / flows / STEPS * 1e6 - _handlers_cpu_us(flows)
    return [
        Figure("saga5", rate, "flows/s", bare / STEPS,
               f"bare loop {bare:,.0f} steps/s; tracker {behind:.2f} s behind at the end"),
        Figure("step_cpu_us", cpu, "us", 1e6 / bare, "baseline: the bare loop's time a step"),
    ]  # fmt: skip


def saga5_tx(flows: int = FLOWS // 2, behind_max_s: float = BEHIND_MAX_S) -> list[Figure]:
    """Flows of five steps a second, each step with one business statement through Tx."""
    bare = _bare(2 * flows, business=True)
    result, behind = _measured(business=True, flows=flows, behind_max_s=behind_max_s)
    return [
        Figure("saga5_tx", flows / result["took"], "flows/s", bare / STEPS,
               f"bare loop {bare:,.0f} steps/s; tracker {behind:.2f} s behind at the end"),
    ]  # fmt: skip

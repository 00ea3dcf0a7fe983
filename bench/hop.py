"""A hop: from the moment at which an event is due to the start of the handler that takes it."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue

from bench.figure import Figure
from bench.pace import Pacer, percentile
from bench.process import started
from choreo import App, Event, Service

__all__ = ["HopAsked", "hop", "hop2", "taker"]

PER_S = 1000
COUNT = 10_000
WARM_UP = 1000
"""The first events are not counted: files are opened, code is met for the first time."""
TABLE = "CREATE TABLE log (position INTEGER PRIMARY KEY AUTOINCREMENT, value BLOB)"
INSERT = "INSERT INTO log (value) VALUES (?)"
VALUE = b'{"key":"k-1","n":1,"due":0.0,"filler":"' + b"x" * 200 + b'"}'
POLL_S = 0.001


class HopAsked(Event, topic="hop.asked", key="key"):
    """What is handed over; `due` is when it was to happen, by a clock that processes share."""

    key: str
    n: int
    due: float
    filler: str


class HopTaken(Event, topic="hop.taken", key="key"):
    """What the handler answers, so that its step is a whole one."""

    key: str
    n: int


def taker(heard: Callable[[float], object]) -> Service:
    """Make the service that takes the event and tells how late its handler began."""
    service = Service("hop")

    @service.on(HopAsked)
    async def take(asked: HopAsked) -> HopTaken:
        heard(time.perf_counter() - asked.due)
        return HopTaken(key=asked.key, n=asked.n)

    return service


def hop(count: int = COUNT) -> list[Figure]:
    """Milliseconds of a hop within one process, at 1,000 events a second.

    `hop_ms_p50` and `hop_ms_p99`. The event is published (so it is durable) and its handler
    begins. The baseline is what no framework can do without: one bare SQLite transaction with
    `synchronous=FULL`, by a thread that is handed the row and hands it on to the loop.
    """
    with tempfile.TemporaryDirectory() as made:
        bare = asyncio.run(_bare_hop(Path(made) / "bare.db", count))
        late = asyncio.run(_one_process(Path(made) / "one", count))
    return _figures("hop", late, bare)


def hop2(count: int = COUNT) -> list[Figure]:
    """Milliseconds of a hop from one process to another on the same file, at 1,000 a second.

    `hop2_ms_p50` and `hop2_ms_p99`. The baseline: one process writes with bare SQLite, the
    other polls `PRAGMA data_version` every millisecond and reads what is new.
    """
    with tempfile.TemporaryDirectory() as made:
        bare = _bare_hop2(Path(made) / "bare.db", count)
        late = asyncio.run(_two_processes(Path(made) / "two", count))
    return _figures("hop2", late, bare)


def _figures(name: str, late: list[float], bare: list[float]) -> list[Figure]:
    late, bare = late[WARM_UP:] or late, bare[WARM_UP:] or bare
    about = f"{PER_S:,} events/s for {len(late) / PER_S:.0f} s"
    return [
        Figure(
            f"{name}_ms_{mark}", percentile(late, share) * 1e3, "ms",
            percentile(bare, share) * 1e3, about,
        )
        for mark, share in (("p50", 0.5), ("p99", 0.99))
    ]  # fmt: skip


# ── with choreo ──────────────────────────────────────────────────────────────────────────


async def _one_process(folder: Path, count: int) -> list[float]:
    late: list[float] = []
    all_taken = asyncio.Event()

    def heard(by: float) -> None:
        late.append(by)
        if len(late) == count:
            all_taken.set()

    async with App(taker(heard), folder=folder) as app:
        await _publish(app, count)
        await all_taken.wait()
    return late


async def _two_processes(folder: Path, count: int) -> list[float]:
    with started("bench.hop_process", "choreo", folder, count) as other:
        await asyncio.to_thread(other.heard)
        async with App(folder=folder) as app:
            await _publish(app, count)
        said = await asyncio.to_thread(other.heard)
    return list(said["late"])


async def _publish(app: App, count: int) -> None:
    """Publish as paced; come back when all are durable."""
    loop = asyncio.get_running_loop()
    publishing: set[asyncio.Task[str]] = set()
    left = asyncio.Semaphore(0)

    def due(n: int) -> None:
        event = HopAsked(key=f"k-{n}", n=n, due=pacer.intended(n), filler="x" * 200)
        task = loop.create_task(app.publish(event))
        publishing.add(task)
        task.add_done_callback(ended)

    def ended(task: asyncio.Task[str]) -> None:
        publishing.discard(task)
        task.result()
        left.release()

    pacer = Pacer(lambda n: loop.call_soon_threadsafe(due, n), per_s=PER_S, count=count)
    pacer.start()
    for _ in range(count):
        await left.acquire()


# ── bare ─────────────────────────────────────────────────────────────────────────────────


def bare_log(path: Path) -> sqlite3.Connection:
    """Open the baseline's file."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    return connection


async def _bare_hop(path: Path, count: int) -> list[float]:
    loop = asyncio.get_running_loop()
    rows: SimpleQueue[int] = SimpleQueue()
    late: list[float] = []
    done = asyncio.Event()

    def taken(n: int) -> None:
        late.append(time.perf_counter() - pacer.intended(n))
        if len(late) == count:
            done.set()

    def write() -> None:
        with closing(bare_log(path)) as connection:
            connection.execute(TABLE)
            for _ in range(count):
                n = rows.get()
                connection.execute(INSERT, (VALUE,))
                loop.call_soon_threadsafe(taken, n)

    pacer = Pacer(rows.put, per_s=PER_S, count=count)
    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    pacer.start()
    await done.wait()
    writer.join()
    return late


def _bare_hop2(path: Path, count: int) -> list[float]:
    with closing(bare_log(path)) as connection:
        connection.execute(TABLE)
        with started("bench.hop_process", "bare", path, count) as other:
            other.heard()
            ended = threading.Event()

            def write(n: int) -> None:
                connection.execute(INSERT, (repr(pacer.intended(n)).encode() + b" " + VALUE,))
                if n == count - 1:
                    ended.set()

            pacer = Pacer(write, per_s=PER_S, count=count)
            pacer.start()
            ended.wait()
            return list(other.heard()["late"])

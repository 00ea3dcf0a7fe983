"""What grows with the past: a process's memory, and the time that an inbox takes."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from bench.figure import Figure
from bench.process import Child, started
from bench.saga import STEPS, Count, services, through
from choreo import App
from choreo.app import FILE

__all__ = ["inbox_growth", "rss_growth"]

FLOWS_FEW, FLOWS_MANY = 20_000, 200_000
ROWS_FEW, ROWS_MANY = 10_000, 10_000_000
FLOWS = 12_000
ROUNDS = 3
DAYS = 20
DONE = 2
CHUNK = 50_000


# ── memory ───────────────────────────────────────────────────────────────────────────────


def rss_growth(few: int = FLOWS_FEW, many: int = FLOWS_MANY) -> list[Figure]:
    """How many times more memory a process holds after 200,000 flows than after 20,000.

    The five services of saga5 with a default App, embedded, in one process of its own; its
    resident set (RSS) when all flows have ended. The baseline is the RSS after 20,000.
    """
    with tempfile.TemporaryDirectory() as made, started("bench.growth_process", made) as process:
        return [grown("rss_growth", process, few, many)]


def grown(name: str, process: Child, few: int, many: int) -> Figure:
    """Have a growth process run so many flows, then more; say how much more it holds."""
    sizes = []
    for first, last in ((0, few), (few, many)):
        process.told(f"{first} {last}")
        sizes.append(process.heard()["rss_mb"])
    process.told()
    before, after = sizes
    return Figure(
        name, after / before, "times", 1.0,
        f"{before:.0f} MB after {few:,} flows, {after:.0f} MB after {many:,}",
    )  # fmt: skip


# ── inbox ────────────────────────────────────────────────────────────────────────────────


def inbox_growth(few: int = ROWS_FEW, many: int = ROWS_MANY, flows: int = FLOWS) -> list[Figure]:
    """What is left of the flows a second with 10^7 old inbox rows, of those with 10^4.

    The five services of saga5 on two files, by turns; of each the best round counts. The old
    rows have what the services' own have: the handlers' numbers, ids that begin with the
    time, spread over the last twenty days. The baseline is the rate with 10^4.
    """
    with tempfile.TemporaryDirectory() as made:
        folders = [Path(made) / "few", Path(made) / "many"]
        for folder, rows in zip(folders, (few, many), strict=True):
            asyncio.run(_rate(folder, range(100)))  # makes the tables, names the handlers
            _fill(folder / FILE, rows)
        rates: list[list[float]] = [[], []]
        for turn in range(ROUNDS):
            span = range(1000 + turn * flows, 1000 + (turn + 1) * flows)
            for folder, found in zip(folders, rates, strict=True):
                found.append(asyncio.run(_rate(folder, span)))
    before, after = map(max, rates)
    return [
        Figure("inbox_growth_sqlite", after / before, "times", 1.0,
               f"{before:,.0f} flows/s with {few:,} old rows, {after:,.0f} with {many:,}"),
    ]  # fmt: skip


async def _rate(folder: Path, flows: range) -> float:
    count = Count()
    async with App(*services(count, business=False), folder=folder) as app:
        return len(flows) / await through(app, count, flows)


def _fill(path: Path, rows: int) -> None:
    """Insert old rows: of each flow one a handler, in the order of their ids."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA cache_size=-262144")
        topic, highest = connection.execute("SELECT min(topic), max(offset) FROM inbox").fetchone()
        handlers = [n for (n,) in connection.execute("SELECT DISTINCT handler FROM inbox")]
        assert len(handlers) == STEPS, handlers
        each = rows // STEPS
        for handler in sorted(handlers):
            for first in range(0, each, CHUNK):
                connection.execute("BEGIN")
                connection.executemany(
                    "INSERT INTO inbox (handler, subject, status, hash, topic, partition, offset)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    _old(handler, topic, highest, range(first, min(first + CHUNK, each)), each),
                )
                connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _old(
    handler: int, topic: int, highest: int, which: range, total: int
) -> Iterator[tuple[object, ...]]:
    now_ms = int(time.time() * 1000)
    past_ms = DAYS * 86_400_000
    for n in which:
        ms = now_ms - past_ms + past_ms * n // total
        digest = hashlib.sha1(b"%d %d" % (handler, n)).digest()  # noqa: S324 - an id
        subject = ms.to_bytes(6, "big") + digest[:10]
        yield handler, subject, DONE, digest[10:18], topic, n % 4, n % highest

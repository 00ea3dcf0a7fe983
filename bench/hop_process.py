"""The other process of a hop between two: it takes, and tells how late each one was."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

from bench.hop import POLL_S, bare_log, taker
from choreo import App

__all__ = ["main"]


async def main(folder: str, count: int) -> None:
    """Run the service; tell when it is ready, and the latencies at the end."""
    late: list[float] = []
    all_taken = asyncio.Event()

    def heard(by: float) -> None:
        late.append(by)
        if len(late) == count:
            all_taken.set()

    async with App(taker(heard), folder=folder):
        _tell(ready=True)
        await all_taken.wait()
    _tell(late=late)


def bare(path: Path, count: int) -> None:
    """Poll the file as bare SQLite can be polled."""
    late: list[float] = []
    position, version = 0, -1
    with closing(bare_log(path)) as connection:
        _tell(ready=True)
        while len(late) < count:
            time.sleep(POLL_S)  # the bare way to notice a commit: this is the baseline
            (now,) = connection.execute("PRAGMA data_version").fetchone()
            if now != version:
                version = now
                position = _read(connection, position, late)
    _tell(late=late)


def _read(connection: sqlite3.Connection, position: int, late: list[float]) -> int:
    rows = connection.execute("SELECT position, value FROM log WHERE position > ?", (position,))
    for reached, value in rows.fetchall():
        late.append(time.perf_counter() - float(value.split(b" ", 1)[0]))
        position = reached
    return position


def _tell(**said: object) -> None:
    print(json.dumps(said), flush=True)  # noqa: T201 - the answer to the parent


if __name__ == "__main__":
    if sys.argv[1] == "bare":
        bare(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        asyncio.run(main(sys.argv[2], int(sys.argv[3])))

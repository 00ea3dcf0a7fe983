"""A tracker in a process of its own; asked on stdin how far it is behind."""

from __future__ import annotations

import asyncio
import json
import sys
import time

from choreo.adapters.system import SystemClock
from choreo.app import open_broker, open_views
from choreo.cli.running import step_back
from choreo.tracker import Tracker

__all__ = ["main"]


async def main(folder: str) -> None:
    """Follow the log; at a line on stdin, tell how long it takes to reach its end."""
    step_back()
    broker = open_broker(folder)
    views = open_views(folder)
    tracker = Tracker(broker, views, SystemClock())
    await tracker.catch_up()
    following = asyncio.create_task(tracker.run())
    print("ready", flush=True)  # noqa: T201 - the answer to the parent
    await asyncio.to_thread(sys.stdin.readline)
    begun = time.perf_counter()
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await tracker.catch_up()
    behind_s = time.perf_counter() - begun
    print(json.dumps({"behind_s": behind_s}), flush=True)  # noqa: T201 - the answer
    await views.close()
    await broker.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

"""A tracker in a process of its own; asked on stdin how far it is behind."""

from __future__ import annotations

import asyncio
import json
import sys
import time

from choreo.adapters.system import SystemClock
from choreo.app import open_broker, open_views
from choreo.cli.running import collect_rarely, step_back
from choreo.tracker import Tracker

__all__ = ["main"]


async def main(folder: str) -> None:
    """Catch up and tell how long that took; follow the log until a line comes on stdin.

    Then tell how long it takes to reach the log's end, and leave.
    """
    collect_rarely()
    broker = open_broker(folder)
    views = open_views(folder)
    tracker = Tracker(broker, views, SystemClock())
    begun = time.perf_counter()
    await tracker.catch_up()
    _tell(caught_up_s=time.perf_counter() - begun, position=tracker.position)
    step_back()
    following = asyncio.create_task(tracker.run())
    await asyncio.to_thread(sys.stdin.readline)
    begun = time.perf_counter()
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await tracker.catch_up()
    behind_s = time.perf_counter() - begun
    await views.close()
    await broker.close()
    _tell(behind_s=behind_s)


def _tell(**said: float) -> None:
    print(json.dumps(said), flush=True)  # noqa: T201 - the answer to the parent


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

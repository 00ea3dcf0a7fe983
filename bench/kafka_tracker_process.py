"""A tracker of a partitioned log in a process of its own, as a member of the trackers' group."""

from __future__ import annotations

import asyncio
import json
import sys

from choreo.adapters.kafka import KafkaBroker, KafkaSettings
from choreo.adapters.postgres.views import PostgresViewStore
from choreo.adapters.system import SystemClock
from choreo.cli.running import collect_rarely
from choreo.tracker import SharedTracker

__all__ = ["main"]


async def main(servers: str, place: str) -> None:
    """Say that it is ready; with the first line on stdin begin, with the second leave, and say so.

    A member that did not leave the group would be waited for by the next who joins.
    """
    collect_rarely()
    broker, views = KafkaBroker(KafkaSettings(servers)), PostgresViewStore(place)
    tracker = SharedTracker(broker, views, SystemClock())
    _tell(ready=True)
    await asyncio.to_thread(sys.stdin.readline)
    following = asyncio.create_task(tracker.run())
    await asyncio.to_thread(sys.stdin.readline)
    tracker.stop()
    await following
    await views.close()
    await broker.close()
    _tell(left=True)


def _tell(**said: bool) -> None:
    print(json.dumps(said), flush=True)  # noqa: T201 - the answer to the parent


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

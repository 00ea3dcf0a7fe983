"""A tracker of a partitioned log in a process of its own: how long it takes to catch up."""

from __future__ import annotations

import asyncio
import json
import sys
import time

from choreo.adapters.kafka import KafkaBroker, KafkaSettings
from choreo.adapters.postgres.views import PostgresViewStore
from choreo.adapters.system import SystemClock
from choreo.cli.running import collect_rarely
from choreo.tracker import SharedTracker

__all__ = ["main"]


async def main(servers: str, place: str) -> None:
    """Read all there is into views in a database."""
    collect_rarely()
    broker, views = KafkaBroker(KafkaSettings(servers)), PostgresViewStore(place)
    tracker = SharedTracker(broker, views, SystemClock())
    await views.position()
    begun = time.perf_counter()
    await tracker.catch_up()
    took = time.perf_counter() - begun
    await views.close()
    await broker.close()
    print(json.dumps({"caught_up_s": took}), flush=True)  # noqa: T201 - the answer to the parent


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

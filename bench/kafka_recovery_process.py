"""A service in a process of its own, which is to be killed; it tells each step."""

from __future__ import annotations

import asyncio
import json
import sys
import time

from bench.servers import Cluster
from choreo import App, Event, Service

__all__ = ["PARTITIONS", "Asked", "main"]

PARTITIONS = 4


class Asked(Event, topic="recovery.asked", key="key"):
    """What is asked all the time, on all partitions."""

    key: str


class Answered(Event, topic="recovery.answered", key="key"):
    """What the step leaves."""

    key: str


async def main(servers: str, database: str, namespace: str, session_ms: str) -> None:
    """Work until killed."""
    service = Service("recovery")

    @service.on(Asked)
    async def answer(asked: Asked) -> Answered:
        said = {"key": asked.key, "at": time.perf_counter()}
        print(json.dumps(said), flush=True)  # noqa: T201 - told to the parent
        return Answered(key=asked.key)

    where = Cluster(servers, database, namespace)
    async with App(service, **where.parts(KAFKA_SESSION_TIMEOUT_MS=session_ms)) as app:
        await app.serve()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

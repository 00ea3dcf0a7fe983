"""A tracker that shares a cluster's partitions with others, in a process of its own."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from choreo.adapters.kafka import KafkaBroker
from choreo.adapters.postgres.views import PostgresViewStore
from choreo.adapters.sqlite.views import SqliteViewStore
from choreo.app import system_clock
from choreo.ports import ViewStore
from choreo.tracker import SharedTracker
from tests.kafka.settings import member


def views_at(place: str) -> ViewStore:
    """Open views in a database, or in a file."""
    return PostgresViewStore(place) if "://" in place else SqliteViewStore(Path(place))


async def main(servers: str, namespace: str, place: str) -> None:
    """Follow the log until the process ends."""
    broker = KafkaBroker(member(servers, namespace))
    await SharedTracker(broker, views_at(place), system_clock()).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

"""A tracker that shares a log's partitions with others, in a process of its own."""

import asyncio
import sys

from choreo.app import open_broker, open_views, system_clock
from choreo.tracker import SharedTracker


async def main(folder: str) -> None:
    """Follow the log until the process ends."""
    broker, views = open_broker(folder), open_views(folder)
    await SharedTracker(broker, views, system_clock()).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

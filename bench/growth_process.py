"""Services in a process of its own; told how many flows to take, it tells its memory."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from pathlib import Path
from typing import Any

from bench.saga import Count, services, through
from bench.servers import Cluster
from choreo import App

__all__ = ["main"]


async def main(*place: str) -> None:
    """Take flows from the first to before the last, as often as a line names them.

    `place` is a folder, or what a Cluster is made of.
    """
    count = Count()
    parts: dict[str, Any] = {"folder": place[0]}
    if len(place) > 1:
        parts = Cluster(*place).parts()
    async with App(*services(count, business=False), **parts) as app:
        while (line := (await asyncio.to_thread(sys.stdin.readline)).split()) and len(line) > 1:
            took = await through(app, count, range(int(line[0]), int(line[1])))
            said = {"rss_mb": _rss_mb(), "took_s": took}
            print(json.dumps(said), flush=True)  # noqa: T201 - the answer to the parent


def _rss_mb() -> float:
    """Give what is resident now; where the system does not tell, the most that ever was."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1 << 20 if sys.platform == "darwin" else 1 << 10)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

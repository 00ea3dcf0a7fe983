"""Recovery on Kafka: from a kill -9 to the next step in each of the partitions that were left."""

from __future__ import annotations

import asyncio
import threading
import time
from itertools import count

from bench.figure import Figure
from bench.kafka_recovery_process import PARTITIONS, Asked
from bench.process import Child, started
from bench.servers import Cluster, cluster
from choreo import App
from choreo.adapters.kafka.names import partition_of

__all__ = ["kafka_recovery"]

SESSION_S = 10.0
PER_S = 200
KEYS = 64
LOOK_S = 1.0
ALLOWED_S = 2.0
"""Beyond the session time-out, after which a broker gives up a member that is silent."""


def kafka_recovery(session_s: float = SESSION_S) -> list[Figure]:
    """Seconds from the kill -9 of one of two processes to the next step of its partitions.

    Until the last of them has had a step. The baseline is what the broker waits for, the
    session time-out, and two seconds more.
    """
    with cluster() as where:
        took = asyncio.run(_recovered(where, session_s))
    return [
        Figure("kafka_recovery_s", took, "s", session_s + ALLOWED_S,
               f"session time-out {session_s:g} s; baseline: that and {ALLOWED_S:g} s"),
    ]  # fmt: skip


class Steps:
    """When each process had its steps in each partition."""

    def __init__(self, children: list[Child]) -> None:
        """Listen to all, each in a thread of its own."""
        self.had: list[dict[int, list[float]]] = [
            {place: [] for place in range(PARTITIONS)} for _ in children
        ]
        for number, child in enumerate(children):
            threading.Thread(target=self._listen, args=(number, child), daemon=True).start()

    def _listen(self, number: int, child: Child) -> None:
        try:
            while True:
                said = child.heard()
                place = partition_of(said["key"].encode(), PARTITIONS)
                self.had[number][place].append(said["at"])
        except (AssertionError, ValueError):  # it was killed, or is not listened to any more
            return

    def after(self, number: int, since: float) -> dict[int, float]:
        """Give when a process had its first step after that time, by partition."""
        found = {place: [at for at in had if at > since] for place, had in self.had[number].items()}
        return {place: min(had) for place, had in found.items() if had}


async def _ask(app: App) -> None:
    for n in count():
        await app.publish(Asked(key=f"key-{n % KEYS}"))
        await asyncio.sleep(1 / PER_S)


async def _recovered(where: Cluster, session_s: float) -> float:
    words = (where.servers, where.database, where.namespace, round(session_s * 1000))
    with (
        started("bench.kafka_recovery_process", *words) as one,
        started("bench.kafka_recovery_process", *words) as other,
    ):
        steps = Steps([one, other])
        async with App(**where.parts()) as app:
            asking = asyncio.create_task(_ask(app))
            left: set[int] = set()
            while not left or len(left) == PARTITIONS:  # until they share
                since = time.perf_counter()
                await asyncio.sleep(LOOK_S)
                left = set(steps.after(0, since)) if steps.after(1, since) else set()
            one.kill()
            killed = time.perf_counter()
            while not left <= steps.after(1, killed).keys():  # noqa: ASYNC110 - threads hear it
                await asyncio.sleep(0.02)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
    first = steps.after(1, killed)
    return max(first[place] for place in left) - killed

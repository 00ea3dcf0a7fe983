"""What is looked at now and then: lag, what is in flight, what waits for a relay."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Protocol, cast

from choreo.errors import ChoreoError
from choreo.events import TIME, Partition
from choreo.plan import Owned
from choreo.ports import Broker, Clock, Outbox, Store, Subscription
from choreo.telemetry.instruments import Instruments
from choreo.telemetry.names import GROUP, IN_FLIGHT, LAG, LOOP_LAG, PARTITION, TOPIC, UNSENT

__all__ = ["Sampled", "Sampler", "Working"]

BEAT_S = 0.25
LOOK_S = 2.0

log = logging.getLogger("choreo.telemetry")


class Sampled(Protocol):
    """One service in a worker."""

    name: str
    owned: Owned
    subscription: Subscription

    def watermarks(self) -> Mapping[Partition, int]:
        """Give, per partition, an offset before which all is settled."""
        ...


class Working(Protocol):
    """What is asked of a worker."""

    @property
    def lanes(self) -> Sequence[Sampled]:
        """Its services."""
        ...

    @property
    def in_flight(self) -> int:
        """How many deliveries are taken and not settled."""
        ...


class Sampler:
    """Looks, for as long as it runs. Time is the machine's: it is about real waiting."""

    def __init__(
        self,
        instruments: Instruments,
        worker: Working,
        ports: tuple[Broker, Store],
        clock: Clock,
    ) -> None:
        """`ports` are asked as they are, so that looking is not told of."""
        self._instruments = instruments
        self._worker = worker
        self._broker, self._store = ports
        self._clock = clock

    async def run(self) -> None:
        """Look until cancelled. A log or a store that does not answer is asked again later."""
        loop = asyncio.get_running_loop()
        next_look = loop.time()
        while True:
            due = loop.time() + BEAT_S
            await asyncio.sleep(BEAT_S)
            self._instruments.measure(LOOP_LAG, max(loop.time() - due, 0.0), {})
            self._instruments.show(IN_FLIGHT, self._worker.in_flight, {})
            if loop.time() >= next_look:
                next_look = loop.time() + LOOK_S
                with suppress(ChoreoError):  # the worker meets it too, and says so
                    await self._look()

    async def _look(self) -> None:
        for lane in self._worker.lanes:
            if self._broker.traits.partitioned:
                await self._lag_by_partition(lane)
            else:
                behind = getattr(lane.subscription, "behind", 0)
                self._instruments.show(LAG, behind, {GROUP: lane.name})
            if not self._store.traits.publishes:
                await self._unsent(lane, cast("Outbox", self._store))

    async def _lag_by_partition(self, lane: Sampled) -> None:
        marks = lane.watermarks()
        ends = await self._broker.ends(sorted({partition.topic for partition in marks}))
        for partition, offset in marks.items():
            labels = {
                GROUP: lane.name,
                TOPIC: partition.topic,
                PARTITION: str(partition.number),
            }
            self._instruments.show(LAG, max(ends.get(partition, offset) - offset, 0), labels)

    async def _unsent(self, lane: Sampled, outbox: Outbox) -> None:
        rows = await outbox.unsent(lane.owned, after=0, most=1)
        age = 0.0
        if rows:
            told = rows[0].record.headers.get(TIME, "")
            with suppress(ValueError):
                age = self._clock.now() - datetime.fromisoformat(told).timestamp()
        self._instruments.show(UNSENT, max(age, 0.0), {GROUP: lane.name})

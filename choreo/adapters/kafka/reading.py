"""Reading outside of groups: partitions that are assigned by hand, from where one is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition

from choreo.adapters.kafka.cluster import Cluster, started, stopped
from choreo.adapters.kafka.names import record_of
from choreo.adapters.kafka.settings import KafkaSettings
from choreo.adapters.kafka.translating import translating
from choreo.events import Partition, Record
from choreo.ports import Since

__all__ = ["Reading"]

log = logging.getLogger("choreo.kafka")
WAIT_MS = 250
READ_MOST = 5_000
GROWN_LOOKS = 40  # waits without a record between two looks at the topics


class Reading:
    """One reader: where it stands in each partition, and where it ends, unless it follows."""

    def __init__(
        self, settings: KafkaSettings, cluster: Cluster, topics: Sequence[str] | None, since: Since
    ) -> None:
        """Connect later."""
        self._settings = settings
        self._cluster = cluster
        self._topics = topics
        self._since = since
        self._consumer: AIOKafkaConsumer | None = None
        self._next: dict[TopicPartition, int] = {}

    async def batches(
        self, *, follow: bool, closed: Callable[[], bool]
    ) -> AsyncGenerator[list[Record], None]:
        """Give records until the end of now, or for ever."""
        opening = asyncio.ensure_future(self._cluster.unbroken(self._open(follow=follow)))
        try:
            ends = await asyncio.shield(opening)
            consumer = self._consumer
            if consumer is None:
                return
            open_ = self._assign(consumer, ends, follow=follow)
            idle = 0
            while not closed():
                if not follow:
                    open_ = {place for place in open_ if self._next[place] < ends[place]}
                    if not open_:
                        return
                records = await self._get(consumer, open_, ends, follow=follow)
                if records:
                    idle = 0
                    yield records
                    continue
                idle += 1
                if follow and idle % GROWN_LOOKS == 0:
                    open_ = self._assign(consumer, await self._look(), follow=True)
        finally:
            await self._cluster.unbroken(self._shut(opening))

    async def _shut(self, opening: asyncio.Future[dict[TopicPartition, int]]) -> None:
        await asyncio.wait([opening])
        if self._consumer is not None:
            await stopped(self._consumer.stop())

    async def _open(self, *, follow: bool) -> dict[TopicPartition, int]:
        ends = await self._look()
        if self._next or follow:
            consumer = AIOKafkaConsumer(**self._settings.reader())
            await started(consumer, self._settings)
            self._consumer = consumer
        return ends

    async def _look(self) -> dict[TopicPartition, int]:
        """Learn of partitions, where they begin and end; those we know go on where they are."""
        names = self._cluster.names
        counts = await self._cluster.partitions()
        places = [
            names.place(Partition(topic, number))
            for topic, count in counts.items()
            if self._topics is None or topic in self._topics
            for number in range(count)
        ]
        begins, ends = await self._cluster.bounds(places)
        for place in places:
            if place in self._next:
                continue
            if isinstance(self._since, int):
                told = self._since
            else:
                told = self._since.get(names.partition(place), 0)
            # Beyond the end the client would begin anew, without a word.
            self._next[place] = min(max(told, begins[place]), ends[place])
        return dict(ends)

    def _assign(
        self, consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int], *, follow: bool
    ) -> set[TopicPartition]:
        wanted = {place for place, at in self._next.items() if follow or at < ends[place]}
        if wanted and wanted != consumer.assignment():
            consumer.assign(sorted(wanted))
            for place in wanted:
                consumer.seek(place, self._next[place])
        return wanted

    async def _get(
        self,
        consumer: AIOKafkaConsumer,
        open_: set[TopicPartition],
        ends: dict[TopicPartition, int],
        *,
        follow: bool,
    ) -> list[Record]:
        names = self._cluster.names
        records: list[Record] = []
        with translating("read"):
            found = await consumer.getmany(timeout_ms=WAIT_MS, max_records=READ_MOST)
            for place in open_:
                at = await consumer.position(place)
                if at < self._next[place]:  # the topic was deleted, and made again
                    log.warning(
                        "CH3021 %s begins anew: what was read of it is not there any more."
                        " Fix: see who deleted the topic",
                        place,
                    )
                self._next[place] = at
        for place, raw in found.items():
            topic = names.partition(place).topic
            end = ends[place]
            records += (record_of(one, topic) for one in raw if follow or one.offset < end)
        return records

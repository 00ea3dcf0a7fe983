"""Reading outside of groups: partitions that are assigned by hand, from where one is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from choreo.adapters.kafka.aligning import Alignment, fetch_bytes
from choreo.adapters.kafka.cluster import Cluster, ended, started
from choreo.adapters.kafka.names import record_of
from choreo.adapters.kafka.settings import KafkaSettings
from choreo.adapters.kafka.translating import translating
from choreo.events import Partition, Record
from choreo.ports import Since

__all__ = ["Reading"]

log = logging.getLogger("choreo.kafka")
WAIT_MS = 250
READ_MOST = 5_000


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
        """Give records as they come, for ever; or until the end of now, in the order of time."""
        opening = asyncio.ensure_future(self._cluster.unbroken(self._open(follow=follow)))
        try:
            ends = await asyncio.shield(opening)
            consumer = self._consumer
            if consumer is None:
                return
            found = self._followed(consumer) if follow else self._aligned(consumer, ends)
            async with aclosing(found):
                async for raw in found:
                    for start in range(0, len(raw), READ_MOST):
                        yield self._records(raw[start : start + READ_MOST])
                    if closed():
                        return
        finally:
            await self._cluster.unbroken(self._shut(opening))

    async def _followed(self, consumer: AIOKafkaConsumer) -> AsyncGenerator[list[Any], None]:
        """Give what the client gives; nothing, now and then."""
        self._assign(consumer, self._next)
        loop = asyncio.get_running_loop()
        looked = loop.time()
        while True:
            found = await self._get(consumer, self._next, READ_MOST)
            yield [one for raw in found.values() for one in raw]
            if loop.time() >= looked + self._settings.metadata_age_s:  # partitions may be new
                await self._look()
                self._assign(consumer, self._next)
                looked = loop.time()

    async def _aligned(
        self, consumer: AIOKafkaConsumer, ends: Mapping[TopicPartition, int]
    ) -> AsyncGenerator[list[Any], None]:
        """Give what lies before these ends; nothing, while a partition keeps others waiting."""
        open_ = {place for place, at in self._next.items() if at < ends[place]}
        self._assign(consumer, open_)
        alignment = Alignment(len(open_))
        while open_:
            for place, raw in (await self._get(consumer, open_)).items():
                alignment.add(place, [one for one in raw if one.offset < ends[place]])
            open_ = {place for place in open_ if self._next[place] < ends[place]}
            yield alignment.take(open_)
            resting = (consumer.assignment() - open_) | alignment.full()
            consumer.pause(*resting - consumer.paused())
            consumer.resume(*consumer.paused() - resting)

    async def _shut(self, opening: asyncio.Future[dict[TopicPartition, int]]) -> None:
        await asyncio.wait([opening])
        if self._consumer is not None:
            await ended(self._consumer)

    async def _open(self, *, follow: bool) -> dict[TopicPartition, int]:
        ends = await self._look()
        if self._next or follow:
            asked = self._settings.reader()
            if not follow:
                asked["max_partition_fetch_bytes"] = fetch_bytes(len(self._next))
            consumer = AIOKafkaConsumer(**asked)
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

    def _assign(self, consumer: AIOKafkaConsumer, wanted: Collection[TopicPartition]) -> None:
        if wanted and set(wanted) != consumer.assignment():
            consumer.assign(sorted(wanted))
            for place in wanted:
                consumer.seek(place, self._next[place])

    async def _get(
        self,
        consumer: AIOKafkaConsumer,
        places: Iterable[TopicPartition],
        most: int | None = None,
    ) -> Mapping[TopicPartition, Sequence[Any]]:
        """Wait for records; learn where these places now stand."""
        with translating("read"):
            found: Mapping[TopicPartition, Sequence[Any]] = await consumer.getmany(
                timeout_ms=WAIT_MS, max_records=most
            )
            for place in places:
                at = await consumer.position(place)
                if at < self._next[place]:  # the topic was deleted, and made again
                    log.warning(
                        "CH3021 %s begins anew: what was read of it is not there any more."
                        " Fix: see who deleted the topic",
                        place,
                    )
                self._next[place] = at
        return found

    def _records(self, found: Iterable[Any]) -> list[Record]:
        here = self._cluster.names.here
        topics: dict[str, str] = {}
        records = []
        for one in found:
            topic = topics.get(one.topic)
            if topic is None:
                topic = topics[one.topic] = here(one.topic) or one.topic
            records.append(record_of(one, topic))
        return records

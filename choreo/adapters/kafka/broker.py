"""The Broker of the Kafka deployment."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing

from choreo.adapters.kafka.cluster import Cluster
from choreo.adapters.kafka.producing import Producing
from choreo.adapters.kafka.reading import Reading
from choreo.adapters.kafka.settings import KafkaSettings
from choreo.adapters.kafka.subscription import KafkaSubscription
from choreo.errors import BrokerClosedError
from choreo.events import Partition, Record
from choreo.ports import Assignee, BrokerTraits, Since, Topic, TopicLook

__all__ = ["KafkaBroker"]


class KafkaBroker:
    """Topics on a cluster. Connects with the first call that needs it."""

    def __init__(self, settings: KafkaSettings) -> None:
        """Say where the cluster is; nothing is asked of it yet."""
        settings.warn()
        self._settings = settings
        self._cluster = Cluster(settings)
        self._producing = Producing(settings, self._cluster)
        self._subscriptions: list[KafkaSubscription] = []
        self._closed = False

    @property
    def traits(self) -> BrokerTraits:
        return BrokerTraits(
            durable=True, stores=False, partitioned=True, eager=True, system="kafka"
        )

    async def publish(self, records: Sequence[Record]) -> None:
        await self._producing.publish(records)

    async def subscribe(
        self, group: str, topics: Sequence[str], *, assignee: Assignee | None = None
    ) -> KafkaSubscription:
        self._check()
        subscription = KafkaSubscription(self._settings, self._cluster, group, topics, assignee)
        self._subscriptions = [one for one in self._subscriptions if not one.closed]
        self._subscriptions.append(subscription)
        await subscription.join()
        return subscription

    async def read(
        self, topics: Sequence[str] | None, *, since: Since = 0, follow: bool = False
    ) -> AsyncIterator[Sequence[Record]]:
        self._check()
        reading = Reading(self._settings, self._cluster, topics, since)
        async with aclosing(reading.batches(follow=follow, closed=lambda: self._closed)) as batches:
            async for records in batches:
                yield records

    async def ends(self, topics: Sequence[str] | None) -> Mapping[Partition, int]:
        self._check()
        return await self._cluster.unbroken(self._cluster.ends(topics))

    async def positions(self) -> Mapping[tuple[str, Partition], int]:
        self._check()
        return await self._cluster.unbroken(self._cluster.positions())

    async def look(self, topics: Collection[str]) -> Mapping[str, TopicLook]:
        self._check()
        return await self._cluster.unbroken(self._cluster.look(topics))

    async def ensure(self, topics: Sequence[Topic]) -> None:
        """Create what is missing where the settings allow it; else say what is missing."""
        self._check()
        if topics:
            await self._cluster.unbroken(self._cluster.create(topics))

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._producing.close()
        for subscription in self._subscriptions:
            await subscription.close()
        await self._cluster.close()

    def _check(self) -> None:
        if self._closed:
            raise BrokerClosedError(
                "used after close",
                fix="make a new broker",
                servers=self._settings.bootstrap_servers,
            )

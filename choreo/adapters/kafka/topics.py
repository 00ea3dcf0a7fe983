"""Topics on a cluster, for who sets one up: looked at, created, grown; never deleted."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from choreo.adapters.kafka.cluster import Cluster
from choreo.adapters.kafka.settings import KafkaSettings
from choreo.ports import ClusterLook, Topic

__all__ = ["KafkaTopics"]


class KafkaTopics:
    """A cluster's topics. Open it with `async with`."""

    def __init__(self, settings: KafkaSettings) -> None:
        """Say where the cluster is."""
        settings.warn()
        self.namespace = settings.namespace
        """What the names on the cluster begin with."""
        self._cluster = Cluster(replace(settings, create_topics=True))

    async def __aenter__(self) -> Self:
        """Nothing is asked yet."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Hang up."""
        await self._cluster.close()

    async def partitions(self) -> Mapping[str, int]:
        """Give the topics that are there, and how many partitions each has."""
        return await self._cluster.partitions()

    async def retention(self, topics: Collection[str]) -> Mapping[str, float]:
        """Give for how many seconds each topic keeps a record, inf for ever; not compacted ones."""
        return await self._cluster.retention(topics)

    async def look(self, topics: Collection[str]) -> ClusterLook:
        """Look at the cluster, and at those of these topics that are there."""
        return ClusterLook(await self._cluster.brokers(), await self._cluster.look(topics))

    async def create(self, topics: Sequence[Topic]) -> None:
        """Create those that are not there."""
        await self._cluster.create(topics)

    async def grow(self, topics: Sequence[Topic]) -> None:
        """Give topics more partitions; the order of their keys begins anew."""
        if topics:
            await self._cluster.grow(topics)

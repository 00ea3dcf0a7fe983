"""Names and records on both sides of the client: ours, and those of the cluster."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from aiokafka import TopicPartition
from aiokafka.partitioner import murmur2

from choreo.codec import headers_from_pairs
from choreo.events import Partition, Record

__all__ = ["Names", "partition_of", "record_of"]

KEYS_KEPT = 8192
KEPT_BYTES_MAX = 128


class Names:
    """Topics as the cluster knows them: with the namespace before each."""

    def __init__(self, namespace: str) -> None:
        """Remember what comes before."""
        self._namespace = namespace
        self._length = len(namespace)

    def there(self, topic: str) -> str:
        """Name a topic, or a group, for the cluster."""
        return self._namespace + topic

    def here(self, topic: str) -> str | None:
        """Name a topic of the cluster for us; None if it is none of ours."""
        if topic.startswith("__") or not topic.startswith(self._namespace):
            return None
        return topic[self._length :]

    def place(self, partition: Partition) -> TopicPartition:
        """Name a partition for the cluster."""
        return TopicPartition(self._namespace + partition.topic, partition.number)

    def partition(self, place: TopicPartition) -> Partition:
        """Name a partition for us."""
        return Partition(place.topic[self._length :], place.partition)


def partition_of(key: bytes, partitions: int) -> int:
    """Choose as every client of Kafka does: by murmur2 of the key."""
    found = _known_hash(key) if len(key) <= KEPT_BYTES_MAX else _hash(key)
    return found % partitions


def _hash(key: bytes) -> int:
    return int(murmur2(key) & 0x7FFFFFFF)


_known_hash = lru_cache(maxsize=KEYS_KEPT)(_hash)  # it takes 5 us, and a flow has one key


def record_of(found: Any, topic: str) -> Record:
    """Read a record as the client gives it."""
    value = found.value if found.value is not None else b""
    headers = headers_from_pairs(found.headers)
    return Record(topic, found.key, headers, value, found.partition, found.offset)

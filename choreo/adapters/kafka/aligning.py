"""Partitions side by side: records of several, in about the order in which they were written.

Who reads a backlog partition by partition meets the end of a flow long before its beginning,
and writes of each flow as often as it has events. In the order of time, what belongs together
comes together. Within a partition the order is that of the log, whatever the clocks said.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from typing import Any

from aiokafka import TopicPartition

__all__ = ["Alignment", "fetch_bytes"]

BYTES_MAX = 32 << 20
"""Of all records that wait for those of slower partitions; a fetch may come on top."""
FETCHED = 4  # fetches of a partition until its share is used up
SHARE_MIN, FETCH_MAX = 64 << 10, 1 << 20
OVERHEAD = 1024  # what a record costs beside its bytes


def fetch_bytes(partitions: int) -> int:
    """Tell how much to fetch of each of so many partitions at a time."""
    return min(FETCH_MAX, max(SHARE_MIN, BYTES_MAX // FETCHED // max(1, partitions)))


class Alignment:
    """Records that wait until every other partition has reached their time."""

    def __init__(self, partitions: int) -> None:
        """Say of how many partitions there will be records."""
        self._share = max(SHARE_MIN, BYTES_MAX // max(1, partitions))
        self._waiting: dict[TopicPartition, deque[tuple[int, Any]]] = {}
        self._bytes: dict[TopicPartition, int] = {}
        self._last: dict[TopicPartition, int] = {}

    def add(self, place: TopicPartition, records: Iterable[Any]) -> None:
        """Take in what the client gives of a partition."""
        waiting = self._waiting.setdefault(place, deque())
        size, last = self._bytes.get(place, 0), self._last.get(place, -1)
        for record in records:
            last = max(last, record.timestamp)
            size += _size(record)
            waiting.append((last, record))
        self._bytes[place], self._last[place] = size, last

    def full(self) -> set[TopicPartition]:
        """Name partitions of which enough waits."""
        return {place for place, size in self._bytes.items() if size >= self._share}

    def take(self, open_: Collection[TopicPartition]) -> list[Any]:
        """Give, in order, what no record of these partitions that is still to come precedes."""
        if not all(self._waiting.get(place) for place in open_):
            return []
        horizon = min((self._last[place] for place in open_), default=None)
        found: list[tuple[int, Any]] = []
        for place, waiting in self._waiting.items():
            size = self._bytes[place]
            while waiting and (horizon is None or waiting[0][0] <= horizon):
                size -= _size(waiting[0][1])
                found.append(waiting.popleft())
            self._bytes[place] = size
        found.sort(key=_time)
        return [record for _, record in found]


def _size(record: Any) -> int:
    return OVERHEAD + len(record.value or b"") + len(record.key or b"")


def _time(found: tuple[int, Any]) -> int:
    return found[0]

"""A broker on servers of its own, for a clock that stands still: it knows what is on its way.

Time may only go on when all that was published has been polled. An embedded log knows that;
of a cluster, whoever publishes and polls alone can know it as well.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from choreo.events import Partition, Record
from choreo.ports import Assignee, Subscription


class Watched:
    """Stands before a broker that nobody else publishes to."""

    def __init__(self, inner: Any) -> None:
        """Know of nothing yet."""
        self._inner = inner
        self._publishing = 0
        self._ends: dict[Partition, int] = {}
        self._subscriptions: list[_Subscription] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property
    def busy(self) -> int:
        """How many records are being published, or wait to be polled."""
        return self._publishing + sum(one.behind(self._ends) for one in self._subscriptions)

    async def publish(self, records: Sequence[Record]) -> None:
        """Publish, and note where each partition ends."""
        self._publishing += 1
        try:
            await self._inner.publish(records)
            for one in records:
                place = Partition(one.topic, one.partition)
                self._ends[place] = max(self._ends.get(place, 0), one.offset + 1)
        finally:
            self._publishing -= 1

    async def subscribe(
        self, group: str, topics: Sequence[str], *, assignee: Assignee | None = None
    ) -> Subscription:
        """Join, and note where the group goes on."""
        positions = await self._inner.positions()
        stood = {place: at for (one, place), at in positions.items() if one == group}
        self._ends |= await self._inner.ends(topics)
        inner = await self._inner.subscribe(group, topics, assignee=assignee)
        subscription = _Subscription(inner, topics, stood)
        self._subscriptions.append(subscription)
        return subscription


class _Subscription:
    def __init__(
        self, inner: Subscription, topics: Sequence[str], stood: Mapping[Partition, int]
    ) -> None:
        self._inner = inner
        self._topics = frozenset(topics)
        self._next = dict(stood)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def behind(self, ends: Mapping[Partition, int]) -> int:
        return sum(
            max(0, end - self._next.get(place, 0))
            for place, end in ends.items()
            if place.topic in self._topics
        )

    async def poll(self, records_max: int) -> Sequence[Record]:
        found = await self._inner.poll(records_max)
        for one in found:
            place = Partition(one.topic, one.partition)
            self._next[place] = max(self._next.get(place, 0), one.offset + 1)
        return found

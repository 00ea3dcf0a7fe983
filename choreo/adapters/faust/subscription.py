"""A place in a group that a faust worker has: its agents hand records over, another polls them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence

from choreo.errors import BrokerClosedError
from choreo.events import Partition, Record
from choreo.ports import Assignee

__all__ = ["FaustSubscription"]


class FaustSubscription:
    """What lies between the agents and who polls.

    An agent acknowledges records when `hand` has returned: they are committed, or another
    worker has their partition by then. So the worker's own offsets are never ahead.
    """

    def __init__(
        self, assigned: Callable[[], Collection[Partition]], assignee: Assignee | None
    ) -> None:
        """Say who knows which partitions the worker has, and who is told when that changes."""
        self._assigned = assigned
        self._assignee = assignee
        self._waiting: deque[Record] = deque()
        self._committed: dict[Partition, int] = {}
        self._handed = asyncio.Event()
        self._moved = asyncio.Event()
        self._closed = False

    # ── the agents' side ─────────────────────────────────────────────────────────────────

    async def hand(self, records: Sequence[Record]) -> None:
        """Give records to who polls, and wait until they are committed."""
        behind: dict[Partition, int] = {}
        for one in records:
            place = Partition(one.topic, one.partition)
            behind[place] = max(behind.get(place, 0), one.offset + 1)
        self._waiting.extend(records)
        self._handed.set()
        while not self._closed:
            ours = set(self.assigned())
            behind = {place: offset for place, offset in behind.items()
                      if place in ours and self._committed.get(place, 0) < offset}  # fmt: skip
            if not behind:
                return
            self._moved.clear()
            await self._moved.wait()

    async def given(self, partitions: Collection[Partition]) -> None:
        """Tell that these partitions are ours."""
        if self._assignee is not None:
            await self._assignee.assigned(partitions)

    async def taken(self, partitions: Collection[Partition]) -> None:
        """Tell that these partitions are not ours any more."""
        gone = set(partitions)
        self._waiting = deque(
            one for one in self._waiting if Partition(one.topic, one.partition) not in gone
        )
        for place in gone:
            self._committed.pop(place, None)
        self._moved.set()
        if self._assignee is not None:
            await self._assignee.revoked(partitions)

    # ── the side of who polls ────────────────────────────────────────────────────────────

    async def poll(self, records_max: int) -> Sequence[Record]:
        while not self._waiting and not self._closed:
            self._handed.clear()
            await self._handed.wait()
        if self._closed:
            return []
        return [self._waiting.popleft() for _ in range(min(records_max, len(self._waiting)))]

    def assigned(self) -> Collection[Partition]:
        return self._assigned()

    @property
    def shared(self) -> bool:
        """Always: the library does not tell of other workers."""
        return True

    async def commit(self, offsets: Mapping[Partition, int]) -> None:
        if self._closed:
            raise BrokerClosedError("used after close", fix="subscribe again")
        for place, offset in offsets.items():
            self._committed[place] = max(self._committed.get(place, 0), offset)
        self._moved.set()

    async def close(self) -> None:
        self._closed = True
        self._waiting.clear()
        self._handed.set()
        self._moved.set()

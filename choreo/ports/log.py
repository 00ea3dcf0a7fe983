"""The log: topics of partitions of records, and groups that read them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from choreo.events import Partition, Record

__all__ = ["Assignee", "Broker", "BrokerTraits", "Since", "Subscription", "Topic"]


Since = int | Mapping[Partition, int]
"""Where to read from: the offset to begin with in every partition, or in each of these.

Partitions that a mapping does not name are read from their beginning.
"""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic to be. `partitions` bounds how many processes can share a group's work.

    `retention_s` says for how long records are kept where a broker forgets them by itself (None:
    as it is set up); `compact`, that it keeps the last record of each key.
    """

    name: str
    partitions: int = 4
    retention_s: float | None = None
    compact: bool = False


@dataclass(frozen=True, slots=True)
class BrokerTraits:
    """What a broker can do; contracts skip by these alone.

    `stores`: the store's `apply` publishes by itself (same file, no relay). `partitioned`: an
    offset counts records of its own partition, and says nothing of another's; else it is a
    position in the whole log. `eager`: when a member comes or goes, every member is told that
    all its partitions are revoked, also those that it gets back; what it had not committed
    comes again. `system` is what traces and metrics call the log.
    """

    durable: bool
    stores: bool
    partitioned: bool = False
    eager: bool = False
    system: str = "choreo"


class Subscription(Protocol):
    """A group's place in some topics."""

    async def poll(self, records_max: int) -> Sequence[Record]:
        """Wait for records and give at most `records_max`, in order per partition.

        Each is given again, after a restart, until its offset is committed. Empty only
        when closed.
        """
        ...

    def assigned(self) -> Collection[Partition]:
        """Give the partitions that are ours now."""
        ...

    @property
    def shared(self) -> bool:
        """Tell whether other members have a part of the group's partitions."""
        ...

    async def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Set the offset to read next per partition; those not ours any more are passed over."""
        ...

    async def close(self) -> None:
        """Leave the group. May be called twice; a waiting `poll` returns nothing."""
        ...


class Assignee(Protocol):
    """Who is told which partitions of a subscription are its own."""

    async def assigned(
        self, partitions: Collection[Partition], generation: int | None = None
    ) -> None:
        """Take them over: their records come once this has returned.

        `generation` rises whenever the group's members divide its partitions anew, where the
        broker counts that.
        """
        ...

    async def revoked(self, partitions: Collection[Partition]) -> None:
        """Come to rest in them: no record of them comes, and another member waits for them."""
        ...


class Broker(Protocol):
    """The log: topics of partitions of records."""

    @property
    def traits(self) -> BrokerTraits:
        """Tell what this broker can do."""
        ...

    async def publish(self, records: Sequence[Record]) -> None:
        """Append records, all or none, in order per key; durable on return.

        Sets partition and offset of each. Safe to call again: ids are deterministic.
        Raises BrokerUnavailableError (transient), BrokerClosedError.
        """
        ...

    async def subscribe(
        self, group: str, topics: Sequence[str], *, assignee: Assignee | None = None
    ) -> Subscription:
        """Join a group; a new one starts at the earliest record.

        Partitions that are free are assigned before this returns. When members come and
        go, partitions move: one member at a time has a partition, and a member that is
        gone, or has not moved for its lease, loses its own.
        """
        ...

    def read(
        self, topics: Sequence[str] | None, *, since: Since = 0, follow: bool = False
    ) -> AsyncIterator[Sequence[Record]]:
        """Read topics (None: all) from `since` on, in batches, outside of any group.

        In order per partition; ends at the end, unless told to `follow`.
        """
        ...

    async def ends(self, topics: Sequence[str] | None) -> Mapping[Partition, int]:
        """Give, per partition, the offset that the next record will have, or a later one.

        None: of all topics there are, so this also tells which there are.
        """
        ...

    async def ensure(self, topics: Sequence[Topic]) -> None:
        """Create the topics that are not there. Safe to call again."""
        ...

    async def close(self) -> None:
        """Release everything. May be called twice."""
        ...

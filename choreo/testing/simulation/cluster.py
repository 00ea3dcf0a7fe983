"""Topics and groups of a simulated broker: what is there when every process is gone.

A cluster answers at once and never fails by itself; what may go wrong on the way to it and
back is the faults' (`choreo.testing.faults`). Members share partitions as evenly as they can,
keep what they have, and give back what is beyond their share once it has come to rest.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextvars import Context
from itertools import count
from typing import NamedTuple
from zlib import crc32

from choreo.audit import Committed
from choreo.errors import BrokerError
from choreo.events import Partition, Record
from choreo.ports import Topic

__all__ = ["Cluster", "Group", "Membership", "Stored", "copied"]


class Stored(NamedTuple):
    """One record as it lies there, and when it came."""

    at: float
    record: Record


class Membership:
    """A member as its group sees it: what it reads, what it holds, whether it was put out."""

    def __init__(self, topics: Sequence[str]) -> None:
        """Hold nothing."""
        self.topics = frozenset(topics)
        self.held: dict[Partition, None] = {}
        self.out = False
        self.kicked = asyncio.Event()


class Group:
    """The members of a consumer group in order of joining, and where it stands."""

    def __init__(self) -> None:
        """Begin without members, everywhere at the beginning."""
        self.members: list[Membership] = []
        self.offsets: dict[Partition, int] = {}
        self.holders: dict[Partition, Membership] = {}
        self.generation = 0

    def join(self, member: Membership) -> None:
        """Add a member; the others look whether they have too much."""
        self.members.append(member)
        self.changed()

    def leave(self, member: Membership) -> None:
        """Take a member out. Safe to call again."""
        if member not in self.members:
            return
        self.members.remove(member)
        member.out = True
        self.release(member, list(member.held))
        member.kicked.set()

    def release(self, member: Membership, partitions: Iterable[Partition]) -> None:
        """Free partitions of a member, for others to take."""
        for partition in partitions:
            if self.holders.get(partition) is member:
                del self.holders[partition]
            member.held.pop(partition, None)
        self.changed()

    def changed(self) -> None:
        """Have every member look."""
        self.generation += 1
        for member in self.members:
            member.kicked.set()

    def beyond(self, member: Membership, partitions: Iterable[Partition]) -> list[Partition]:
        """Give what a member has beyond its share."""
        found = []
        for topic, share, held in self._shares(member, partitions):
            del topic
            found += held[share:]
        return found

    def take(self, member: Membership, partitions: Sequence[Partition]) -> list[Partition]:
        """Have a member take what is free, up to its share."""
        taken = []
        for topic, share, held in self._shares(member, partitions):
            free = [p for p in partitions if p.topic == topic and p not in self.holders]
            taken += free[: max(share - len(held), 0)]
        for partition in taken:
            self.holders[partition] = member
            member.held[partition] = None
        return taken

    def _shares(
        self, member: Membership, partitions: Iterable[Partition]
    ) -> Iterable[tuple[str, int, list[Partition]]]:
        counts: dict[str, int] = defaultdict(int)
        for partition in partitions:
            counts[partition.topic] += 1
        for topic, number in counts.items():
            sharing = [one for one in self.members if topic in one.topics]
            rank = sharing.index(member)
            share = number // len(sharing) + (rank < number % len(sharing))
            yield topic, share, [p for p in member.held if p.topic == topic]


class Cluster:
    """The log itself, by partition; and all of it in the order in which it came."""

    def __init__(self, rng: random.Random, *, now: Callable[[], float] = lambda: 0.0) -> None:
        """Draw orders from `rng`; `now` stamps what comes."""
        self.rng = rng
        self._now = now
        self.topics: dict[str, int] = {}
        self.logs: dict[Partition, list[Record]] = {}
        self.history: list[Stored] = []
        self.groups: dict[str, Group] = defaultdict(Group)
        self.listeners: dict[str, list[asyncio.Event]] = defaultdict(list)
        self.readers: dict[asyncio.Event, None] = {}
        self._keyless = 0
        self.assignments = count(1)
        self.commits: list[Committed] = []
        self.context = Context()
        """What happens in the cluster by itself happens in no process."""

    def ensure(self, topics: Iterable[Topic]) -> None:
        """Create the topics that are not there."""
        for topic in topics:
            if topic.name not in self.topics:
                self.topics[topic.name] = topic.partitions
                for partition in self.partitions([topic.name]):
                    self.logs[partition] = []

    def partitions(self, topics: Iterable[str]) -> list[Partition]:
        """List all partitions of topics."""
        return [
            Partition(topic, number) for topic in topics for number in range(self.topics[topic])
        ]

    def positions(self) -> dict[tuple[str, Partition], int]:
        """Give the offset that each group reads next, where it has committed one."""
        return {
            (name, partition): offset
            for name, group in self.groups.items()
            for partition, offset in group.offsets.items()
        }

    def known(self, topics: Iterable[str]) -> None:
        """Raise BrokerError when a topic is not there."""
        missing = sorted({topic for topic in topics if topic not in self.topics})
        if missing:
            raise BrokerError(
                "the topic does not exist",
                code="CH3004",
                fix="create it first: a running App creates its services' topics",
                topic=", ".join(missing),
            )

    def append(self, records: Sequence[Record]) -> None:
        """Append copies of all, and say where they are; nobody sees some of them only."""
        self.known(record.topic for record in records)
        at = self._now()
        for record in records:
            if record.key is None:
                self._keyless += 1
                number = self._keyless % self.topics[record.topic]
            else:
                number = crc32(record.key) % self.topics[record.topic]
            log = self.logs[Partition(record.topic, number)]
            record.partition, record.offset = number, len(log)
            kept = copied(record)
            log.append(kept)
            self.history.append(Stored(at, kept))
        for topic in dict.fromkeys(record.topic for record in records):
            for listener in self.listeners[topic]:
                listener.set()
        for reader in self.readers:
            reader.set()


def copied(record: Record) -> Record:
    """Copy a record as it comes over a wire: nothing is known of it but its bytes."""
    return Record(
        record.topic,
        record.key,
        dict(record.headers),
        record.value,
        record.partition,
        record.offset,
    )

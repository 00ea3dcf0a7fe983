"""The Broker of the simulated deployment: one process's client of a Cluster."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Collection, Mapping, Sequence

from choreo.audit import Committed
from choreo.errors import BrokerClosedError
from choreo.events import Partition, Record
from choreo.ports import Assignee, BrokerTraits, Since, Topic
from choreo.testing.simulation.cluster import Cluster, Membership, copied

__all__ = ["SimBroker", "SimSubscription"]

READ_MOST = 1000
HALF = 0.5
log = logging.getLogger("choreo.simulation")


class SimBroker:
    """Partitions with offsets of their own, groups, no store: as Kafka, without its servers."""

    def __init__(self, cluster: Cluster) -> None:
        """Talk to this cluster."""
        self.cluster = cluster
        self.subscriptions: list[SimSubscription] = []
        self._closing = asyncio.Event()

    @property
    def traits(self) -> BrokerTraits:
        return BrokerTraits(durable=True, stores=False, partitioned=True)

    @property
    def busy(self) -> int:
        """How many records wait to be polled; a clock that stands still asks."""
        return sum(subscription.behind for subscription in self.subscriptions)

    async def publish(self, records: Sequence[Record]) -> None:
        self._check()
        if not records:
            return
        await asyncio.sleep(0)
        self.cluster.append(records)
        await asyncio.sleep(0)

    async def subscribe(
        self, group: str, topics: Sequence[str], *, assignee: Assignee | None = None
    ) -> SimSubscription:
        self._check()
        self.cluster.known(topics)
        subscription = SimSubscription(self.cluster, group, sorted(topics), assignee)
        self.subscriptions.append(subscription)
        await subscription.join()
        return subscription

    async def read(
        self, topics: Sequence[str] | None, *, since: Since = 0, follow: bool = False
    ) -> AsyncIterator[Sequence[Record]]:
        self._check()
        marks: Mapping[Partition, int] = {} if isinstance(since, int) else since
        least = since if isinstance(since, int) else 0
        grown = asyncio.Event()
        self.cluster.readers[grown] = None
        place = 0
        try:
            while not self._closing.is_set():
                grown.clear()
                piece = self.cluster.history[place : place + READ_MOST]
                place += len(piece)
                records = [
                    copied(one)
                    for _, one in piece
                    if (topics is None or one.topic in topics)
                    and one.offset >= marks.get(Partition(one.topic, one.partition), least)
                ]
                if records:
                    yield records
                if place < len(self.cluster.history):
                    continue
                if not follow:
                    return
                await grown.wait()
        finally:
            self.cluster.readers.pop(grown, None)

    async def ends(self, topics: Sequence[str] | None) -> Mapping[Partition, int]:
        self._check()
        await asyncio.sleep(0)
        known = [topic for topic in self.cluster.topics if topics is None or topic in topics]
        return {place: len(self.cluster.logs[place]) for place in self.cluster.partitions(known)}

    async def ensure(self, topics: Sequence[Topic]) -> None:
        self._check()
        await asyncio.sleep(0)
        self.cluster.ensure(topics)

    async def close(self) -> None:
        if self._closing.is_set():
            return
        self._closing.set()
        for reader in self.cluster.readers:
            reader.set()
        for subscription in self.subscriptions:
            await subscription.close()

    def _check(self) -> None:
        if self._closing.is_set():
            raise BrokerClosedError("used after close", fix="make a new broker")


class SimSubscription:
    """A member of a group, in one process."""

    def __init__(
        self, cluster: Cluster, group: str, topics: Sequence[str], assignee: Assignee | None
    ) -> None:
        """Made by `SimBroker.subscribe`."""
        self._cluster = cluster
        self._group = cluster.groups[group]
        self._name = group
        self._topics = topics
        self._assignee = assignee
        self._partitions = cluster.partitions(topics)
        self._fed: dict[Partition, int] = {}  # whose records we give, and the next of each
        self._moved = asyncio.Event()
        self._beating: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._closed = False
        self._assignment = 0
        self._shaken: list[Partition] = []  # to be given back, and taken again
        self.member = Membership(topics)

    # ── membership ───────────────────────────────────────────────────────────────────────

    async def join(self) -> None:
        """Become a member, and take what is free."""
        for topic in self._topics:
            self._cluster.listeners[topic].append(self._moved)
        try:
            self._group.join(self.member)
            await self._turn(giving=False)
        except BaseException:
            await self.close()
            raise
        self._beating = asyncio.create_task(self._beat(), name=f"choreo-sim-{self._name}")

    async def _beat(self) -> None:
        while not self._closed:
            await self.member.kicked.wait()
            self.member.kicked.clear()
            try:
                await self._turn()
            except Exception as exc:  # noqa: BLE001 - whoever polls raises it
                self._failure = exc
                self._moved.set()
                return

    async def _turn(self, *, giving: bool = True) -> None:
        """Do our part in the group, once."""
        if self.member.out:
            await self._again()
        shaken, self._shaken = self._shaken, []
        give = dict.fromkeys([*self._group.beyond(self.member, self._partitions), *shaken])
        if giving and (mine := [one for one in give if one in self.member.held]):
            await self._rest(mine)
        if not self.member.out and (taken := self._group.take(self.member, self._partitions)):
            await self._begin(taken)

    def expire(self) -> None:
        """Be given up by the cluster, which has not heard of this member for too long."""
        self._group.leave(self.member)

    def shake(self, rng: random.Random) -> None:
        """Lose some partitions, as in a rebalance; whoever is alone has them again at once."""
        self._shaken = [one for one in self.member.held if rng.random() < HALF]
        self.member.kicked.set()

    async def _rest(self, partitions: Sequence[Partition]) -> None:
        """Give partitions back, once what runs in them has come to rest."""
        await self._withhold(partitions)
        self._group.release(self.member, partitions)

    async def _again(self) -> None:
        """Others have gone on without us: what we had is theirs. Join again."""
        log.warning("CH3005 the group %s went on without this process", self._name)
        await self._withhold(list(self._fed))
        if not self._closed:
            self.member = Membership(self._topics)
            self._group.join(self.member)

    async def _begin(self, partitions: Sequence[Partition]) -> None:
        member = self.member
        self._assignment = next(self._cluster.assignments)
        starts = {partition: self._group.offsets.get(partition, 0) for partition in partitions}
        if self._assignee is not None:
            await self._assignee.assigned(partitions, self._group.generation)
        if not member.out:
            self._fed.update(starts)
        elif self._assignee is not None:  # put out meanwhile: what it took over is not its own
            await self._assignee.revoked(partitions)
        self._moved.set()

    async def _withhold(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            self._fed.pop(partition, None)
        if self._assignee is not None:
            await self._assignee.revoked(partitions)

    def assigned(self) -> Collection[Partition]:
        return sorted(self._fed)

    @property
    def shared(self) -> bool:
        return len(self._fed) < len(self._partitions)

    # ── records ──────────────────────────────────────────────────────────────────────────

    @property
    def behind(self) -> int:
        """How many records wait to be polled."""
        logs = self._cluster.logs
        return 0 if self._closed else sum(len(logs[p]) - at for p, at in self._fed.items())

    async def poll(self, records_max: int) -> Sequence[Record]:
        while not self._closed:
            if self._failure is not None:
                raise self._failure
            if records := self._take(records_max):
                return records
            self._moved.clear()
            await self._moved.wait()
        return []

    def _take(self, records_max: int) -> list[Record]:
        """Take from partitions in any order: between them there is none."""
        logs = self._cluster.logs
        waiting = [place for place, at in self._fed.items() if at < len(logs[place])]
        self._cluster.rng.shuffle(waiting)
        taken: list[Record] = []
        for place in waiting:
            at = self._fed[place]
            piece = logs[place][at : at + records_max - len(taken)]
            self._fed[place] = at + len(piece)
            taken += map(copied, piece)
            if len(taken) == records_max:
                break
        return taken

    # ── offsets ──────────────────────────────────────────────────────────────────────────

    async def commit(self, offsets: Mapping[Partition, int]) -> None:
        if self._closed:
            raise BrokerClosedError("used after close", fix="subscribe again", group=self._name)
        await asyncio.sleep(0)
        group = self._group
        for partition, offset in offsets.items():
            if group.holders.get(partition) is self.member:
                self._cluster.commits.append(
                    Committed(self._name, partition, str(self._assignment), offset)
                )
                group.offsets[partition] = max(offset, group.offsets.get(partition, 0))

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._moved.set()
        for topic in self._topics:
            if self._moved in self._cluster.listeners[topic]:
                self._cluster.listeners[topic].remove(self._moved)
        self._group.leave(self.member)
        beating = self._beating
        if beating is not None and beating is not asyncio.current_task():
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

"""Adapters that fail by a seed: a real broker and a real store, with faults between.

    broker = FaultyBroker(SqliteBroker(log), seed=7)
    store = FaultyStore(SqliteStore(log, clock=clock), seed=7)
    async with App(*services, broker=broker, store=store): …
    assert broker.fired["ack_lost", "publish"]

What stands behind them keeps its promises, so whatever does not hold in such a run is a
defect of who called. A test asserts that the faults which it is about have fired: one in
which none did shows nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import cast

from choreo.errors import BrokerUnavailableError, ChoreoError, StoreUnavailableError
from choreo.events import Partition, Record
from choreo.plan import Owned, Plan
from choreo.policies import Keep
from choreo.ports import (
    Applied,
    Assignee,
    Broker,
    BrokerTraits,
    Due,
    Enlisting,
    Outbox,
    Prepared,
    Seen,
    Since,
    Store,
    StoreTraits,
    Subscription,
    Topic,
    Tx,
    Unsent,
    Waiting,
    Want,
)

__all__ = ["CALM", "ROUGH", "Faults", "FaultyBroker", "FaultyStore"]

Unheard = Callable[[Sequence[Plan], Sequence[Applied | BaseException]], object]
FIX = "call again: a test has made it fail"


@dataclass(frozen=True, slots=True)
class Faults:
    """How likely each fault is at one call, from 0 to 1.

    `refused`: it fails before anything is done. `ack_lost`: all is done, and then it fails;
    of a store's `apply` and `transaction`, that is a COMMIT of unknown outcome. `delayed`: it
    takes up to `turns_max` turns of the loop longer, so that others overtake it. `repeated`:
    a poll is followed by up to `repeated_max` records of a partition that it, or an earlier
    one, gave already. `commit_lost`: offsets are not committed, and nobody is told.
    A store's `apply` tells of a fault by raising, or by an error in each plan's place: `raised`
    is how likely the former is.

    What follows can only be where a whole machine is simulated, or what is outside of it.
    `duplicate`: what was sent arrives twice. `late`: the sender hears that it failed, and up to
    `late_s` seconds later it arrives all the same; an outside system answers so late. `silent`:
    an outside system never answers. `conflict`: what a plan stands on has changed since.
    `crash`: the process ends, at once or at one of its next awaits. `power_loss`: the machine
    does, and what was not known to be durable may be gone. `hang`: the process stands still
    until others have taken its work over, and then goes on. `rebalance`: partitions are taken
    away and given again. `jump`: the machine's clock is set, by up to `jump_s` seconds.
    """

    refused: float = 0.05
    ack_lost: float = 0.05
    delayed: float = 0.1
    repeated: float = 0.05
    commit_lost: float = 0.1
    raised: float = 0.5
    turns_max: int = 20
    repeated_max: int = 10
    duplicate: float = 0.0
    late: float = 0.0
    silent: float = 0.0
    conflict: float = 0.0
    crash: float = 0.0
    power_loss: float = 0.0
    hang: float = 0.0
    rebalance: float = 0.0
    jump: float = 0.0
    late_s: float = 60.0
    jump_s: float = 600.0


CALM = Faults(refused=0, ack_lost=0, delayed=0, repeated=0, commit_lost=0)
"""No faults, for the end of a test: what must come to rest once they stop."""
ROUGH = Faults(
    refused=0.01, ack_lost=0.01, delayed=0.05, repeated=0.02, commit_lost=0.05,
    duplicate=0.02, late=0.005, silent=0.01, conflict=0.01, crash=0.002, power_loss=0.001,
    hang=0.001, rebalance=0.002, jump=0.001,
)  # fmt: skip
"""Some of every kind: what a simulation runs with unless it is told otherwise."""


class _Faulty:
    """What decides, by a seed, whether a fault fires, and counts those that did."""

    faults: Faults
    """What may happen from now on; set it to change that while it runs."""
    fired: Counter[tuple[str, str]]
    """How often each fault has fired, by its name and the verb at which it did."""

    def __init__(self, seed: int, faults: Faults | None, unavailable: type[ChoreoError]) -> None:
        self.faults = Faults() if faults is None else faults
        self.fired = Counter()
        self.rng = random.Random(seed)
        self._unavailable = unavailable

    def kinds(self) -> set[str]:
        """Name the kinds of faults that have fired at least once."""
        return {fault for fault, _ in self.fired}

    def fires(self, fault: str, verb: str) -> bool:
        """Draw, and count."""
        if self.rng.random() >= getattr(self.faults, fault):
            return False
        self.fired[fault, verb] += 1
        return True

    def error(self, what: str, verb: str) -> ChoreoError:
        """Make the error that a caller is given."""
        return self._unavailable(f"a fault: {what}", fix=FIX, at=verb)

    async def before(self, verb: str) -> None:
        """Be late, or fail with nothing done."""
        await self._delay(verb)
        if self.fires("refused", verb):
            raise self.error("nothing was done", verb)

    async def after(self, verb: str) -> None:
        """Be late, or fail although it was done."""
        await self._delay(verb)
        if self.fires("ack_lost", verb):
            raise self.error("it was done, and the answer is lost", verb)

    async def _delay(self, verb: str) -> None:
        if self.fires("delayed", verb):
            for _ in range(self.rng.randint(1, self.faults.turns_max)):
                await asyncio.sleep(0)


class FaultyBroker(_Faulty):
    """A Broker, with faults between it and its callers."""

    def __init__(self, inner: Broker, *, seed: int, faults: Faults | None = None) -> None:
        """Stand before `inner`; without `faults`, a few of each kind."""
        super().__init__(seed, faults, BrokerUnavailableError)
        self._inner = inner
        self._subscriptions: list[_FaultySubscription] = []

    @property
    def traits(self) -> BrokerTraits:
        return self._inner.traits

    @property
    def busy(self) -> int:
        """How many records wait to be polled; a clock that stands still asks.

        Not those of a subscription whose poll has failed: who polls may wait for the clock.
        """
        return sum(subscription.waiting for subscription in self._subscriptions)

    async def publish(self, records: Sequence[Record]) -> None:
        await self.before("publish")
        await self._inner.publish(records)
        await self.after("publish")

    async def subscribe(
        self, group: str, topics: Sequence[str], *, assignee: Assignee | None = None
    ) -> Subscription:
        await self.before("subscribe")
        subscription = _FaultySubscription(self)
        told = _Told(subscription, assignee)
        subscription.inner = await self._inner.subscribe(group, topics, assignee=told)
        self._subscriptions.append(subscription)
        return subscription

    async def read(
        self, topics: Sequence[str] | None, *, since: Since = 0, follow: bool = False
    ) -> AsyncIterator[Sequence[Record]]:
        await self.before("read")
        batches = self._inner.read(topics, since=since, follow=follow)
        async with aclosing(batches):  # type: ignore[type-var]
            async for records in batches:
                yield records
                await self.before("read")

    async def ends(self, topics: Sequence[str] | None) -> Mapping[Partition, int]:
        await self.before("ends")
        return await self._inner.ends(topics)

    async def ensure(self, topics: Sequence[Topic]) -> None:
        await self.before("ensure")
        await self._inner.ensure(topics)
        await self.after("ensure")

    async def close(self) -> None:
        for subscription in self._subscriptions:
            await subscription.close()
        await self._inner.close()


class _FaultySubscription:
    """A Subscription whose answers may be lost: then the next poll gives them."""

    inner: Subscription

    def __init__(self, chance: _Faulty) -> None:
        self._chance = chance
        self._next: deque[Record] = deque()
        self._given: dict[Partition, deque[Record]] = defaultdict(deque)
        self._failed = self._closed = False

    @property
    def waiting(self) -> int:
        if self._closed or self._failed:
            return 0
        return len(self._next) + int(getattr(self.inner, "behind", 0))

    async def poll(self, records_max: int) -> Sequence[Record]:
        self._failed = False
        try:
            return await self._poll(records_max)
        except ChoreoError:
            self._failed = True
            raise

    async def _poll(self, records_max: int) -> Sequence[Record]:
        chance = self._chance
        await chance.before("poll")
        while not self._next:
            records = await self.inner.poll(records_max)
            if not records:
                return records
            self._next.extend(records)
            await chance.after("poll")
        if self._closed:
            return []
        taken = [self._next.popleft() for _ in range(min(records_max, len(self._next)))]
        for record in taken:
            given = self._given[_at(record)]
            if not given or given[-1].offset < record.offset:
                given.append(record)
            if len(given) > chance.faults.repeated_max:
                given.popleft()
        if taken and chance.fires("repeated", "poll"):
            self._repeat(_at(taken[-1]))
        return taken

    def _repeat(self, partition: Partition) -> None:
        """Give the last few of a partition again, before all that comes after them."""
        given = self._given[partition]
        count = self._chance.rng.randint(1, len(given))
        self._next.extendleft(_again(given[-n]) for n in range(1, count + 1))

    def forget(self, partitions: Collection[Partition]) -> None:
        """Give none of these partitions' records any more."""
        self._next = deque(one for one in self._next if _at(one) not in partitions)
        for partition in partitions:
            self._given.pop(partition, None)

    def assigned(self) -> Collection[Partition]:
        return self.inner.assigned()

    @property
    def shared(self) -> bool:
        return self.inner.shared

    async def commit(self, offsets: Mapping[Partition, int]) -> None:
        await self._chance.before("commit")
        if self._chance.fires("commit_lost", "commit"):
            return
        await self.inner.commit(offsets)
        for partition, offset in offsets.items():
            given = self._given[partition]
            while given and given[0].offset < offset:
                given.popleft()
        self._next = deque(one for one in self._next if one.offset >= offsets.get(_at(one), 0))
        await self._chance.after("commit")

    async def close(self) -> None:
        self._closed = True
        await self.inner.close()


class _Told:
    """Has the subscription hold nothing back of partitions that are not its own any more."""

    def __init__(self, subscription: _FaultySubscription, assignee: Assignee | None) -> None:
        self._subscription = subscription
        self._assignee = assignee

    async def assigned(
        self, partitions: Collection[Partition], generation: int | None = None
    ) -> None:
        if self._assignee is not None:
            await self._assignee.assigned(partitions, generation)

    async def revoked(self, partitions: Collection[Partition]) -> None:
        self._subscription.forget(partitions)
        if self._assignee is not None:
            await self._assignee.revoked(partitions)


def _at(record: Record) -> Partition:
    return Partition(record.topic, record.partition)


def _again(record: Record) -> Record:
    """Copy a record as it would come from the log: nothing is known of it."""
    return Record(
        record.topic,
        record.key,
        dict(record.headers),
        record.value,
        record.partition,
        record.offset,
    )


class FaultyStore(_Faulty):
    """A Store, with faults between it and its callers.

    `unheard` is told plans and answers when the answers are lost, for a test to compare.
    """

    def __init__(
        self,
        inner: Store,
        *,
        seed: int,
        faults: Faults | None = None,
        unheard: Unheard | None = None,
    ) -> None:
        """Stand before `inner`; without `faults`, a few of each kind."""
        super().__init__(seed, faults, StoreUnavailableError)
        self._inner = inner
        self._unheard = unheard

    @property
    def traits(self) -> StoreTraits:
        return self._inner.traits

    @property
    def busy(self) -> int:
        """How much the store behind it has to do; a clock that stands still asks."""
        return int(getattr(self._inner, "busy", 0))

    async def own(
        self, group: str, partitions: Collection[Partition], *, generation: int | None = None
    ) -> Owned:
        await self.before("own")
        owned = await self._inner.own(group, partitions, generation=generation)
        await self.after("own")
        return owned

    async def load(self, wants: Sequence[Want]) -> Sequence[Seen]:
        await self.before("load")
        return await self._inner.load(wants)

    async def apply(self, plans: Sequence[Plan]) -> Sequence[Applied | BaseException]:
        try:
            await self.before("apply")
            results = await self._inner.apply(plans)
            try:
                await self.after("apply")
            except ChoreoError:
                if self._unheard is not None:
                    self._unheard(plans, results)
                raise
        except StoreUnavailableError as exc:
            if self.rng.random() < self.faults.raised:
                raise
            return [exc] * len(plans)
        return results

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Tx]:
        await self.before("transaction")
        async with self._inner.transaction() as tx:
            yield tx
        await self.after("transaction")

    def transaction(self) -> AbstractAsyncContextManager[Tx]:
        return self._transaction()

    async def due(
        self, owned: Owned, *, skip: Collection[tuple[str, bytes]], most: int
    ) -> tuple[Sequence[Due], float | None]:
        await self.before("due")
        return await self._inner.due(owned, skip=skip, most=most)

    async def unsent(self, owned: Owned, *, after: int, most: int) -> Sequence[Unsent]:
        await self.before("unsent")
        return await cast("Outbox", self._inner).unsent(owned, after=after, most=most)

    async def stirred(self) -> None:
        await cast("Outbox", self._inner).stirred()

    async def enlist(self, tx: object, record: Record) -> None:
        if self.fires("refused", "enlist"):  # never late: a section may wait for nothing else
            raise self.error("nothing was done", "enlist")
        await cast("Enlisting", self._inner).enlist(tx, record)

    async def migrate(self, service: str, files: Sequence[tuple[str, str]]) -> None:
        await self.before("migrate")
        await cast("Prepared", self._inner).migrate(service, files)
        await self.after("migrate")

    async def waiting(self, group: str) -> Sequence[Waiting]:
        await self.before("waiting")
        return await cast("Prepared", self._inner).waiting(group)

    async def migrations(self) -> Collection[tuple[str, str]]:
        await self.before("migrations")
        return await cast("Prepared", self._inner).migrations()

    async def prune(self, group: str, keep: Keep, *, most: int) -> bool:
        await self.before("prune")
        more = await self._inner.prune(group, keep, most=most)
        await self.after("prune")
        return more

    async def close(self) -> None:
        await self._inner.close()

"""A group's member: fetches ahead, gives back in bounded time, commits for what is its own.

A task of its own asks the client for records, also while nobody polls: the client takes a
member out of the group that does not ask. Every rebalance takes all partitions away; each
assignment has a number, and what belongs to an earlier one is dropped, not committed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka import errors as kafka

from choreo.adapters.kafka.cluster import Cluster, ended, started
from choreo.adapters.kafka.names import record_of
from choreo.adapters.kafka.settings import KafkaSettings
from choreo.adapters.kafka.translating import translating
from choreo.errors import BrokerClosedError, BrokerError, ChoreoError
from choreo.events import Partition, Record
from choreo.ports import Assignee

__all__ = ["KafkaSubscription"]

log = logging.getLogger("choreo.kafka")
FETCH_MS = 250
FULL_S = 0.5  # so often a full member is heard of by the client
AGAIN_S = (0.2, 0.5, 1.0, 2.0, 5.0)


class KafkaSubscription(ConsumerRebalanceListener):  # type: ignore[misc]  # the client is untyped
    """A member of a group."""

    def __init__(
        self,
        settings: KafkaSettings,
        cluster: Cluster,
        group: str,
        topics: Sequence[str],
        assignee: Assignee | None,
    ) -> None:
        """Made by `KafkaBroker.subscribe`."""
        self._settings = settings
        self._cluster = cluster
        self._group = group
        self._topics = list(topics)
        self._assignee = assignee
        self._counts: dict[str, int] = {}
        self._consumer: AIOKafkaConsumer | None = None
        self._assignment = 0  # its number
        self._has: frozenset[TopicPartition] = frozenset()  # may commit
        self._fed: frozenset[TopicPartition] = frozenset()  # its records are given
        self._taken: frozenset[TopicPartition] = frozenset()  # the assignee was told
        self._committed: dict[TopicPartition, int] = {}
        self._last: asyncio.Task[None] | None = None
        self._buffer: deque[Record] = deque()
        self._moved = asyncio.Event()
        self._room = asyncio.Event()
        self._ready = asyncio.Event()
        self._closing = asyncio.Event()
        self._failure: BaseException | None = None
        self._running: asyncio.Task[None] | None = None
        self._joined = False
        self._leaving: asyncio.Task[None] | None = None

    # ── membership ───────────────────────────────────────────────────────────────────────

    async def join(self) -> None:
        """Become a member; what is free is assigned when this returns."""
        try:
            occupied = await self._cluster.unbroken(self._check())
            self._check_open()
            self._running = asyncio.create_task(self._run(), name=f"choreo-kafka-{self._group}")
            self._running.add_done_callback(self._ran)
            if not occupied:
                await self._ready.wait()
            if self._failure is not None:
                raise self._failure
            self._check_open()
            self._joined = True
        except BaseException:
            await self.close()
            raise

    def _check_open(self) -> None:
        if self._closing.is_set():
            what = "closed while it subscribed"
            raise BrokerClosedError(what, fix="subscribe again", group=self._group)

    async def _check(self) -> bool:
        """Refuse what can be known to be wrong before we begin; tell whether others are there."""
        self._counts = await self._cluster.known(self._topics)
        return await self._cluster.occupied(self._group)

    async def _count(self) -> None:
        """Learn how many partitions there are now; raises when there were more."""
        there = await self._cluster.partitions()
        for topic, before in self._counts.items():
            count = there.get(topic, before)  # one that was just deleted may come again
            if count < before:
                raise BrokerError(
                    "the topic has fewer partitions than before: it was made anew",
                    code="CH3024",
                    fix="make it with as many partitions as it had, and start again",
                    topic=topic,
                    partitions=count,
                    group=self._group,
                )
            self._counts[topic] = count

    async def _run(self) -> None:
        """Be a member, and become one again after whatever the client can not recover from."""
        failed = 0
        while not self._closing.is_set():
            consumer = AIOKafkaConsumer(**self._settings.member(self._group))
            try:
                await started(consumer, self._settings)
                self._consumer = consumer
                consumer.subscribe(
                    [self._cluster.names.there(one) for one in self._topics], listener=self
                )
                while not self._closing.is_set():
                    await self._fetch(consumer)
                    failed = 0
            except ChoreoError as exc:
                if not exc.transient or not self._joined:
                    self._fail(exc)
                    return
                log.warning("the group %s is joined again: %s", self._group, exc)
            except Exception as exc:  # noqa: BLE001 - whoever polls raises it
                self._fail(exc)
                return
            finally:
                if not self._closing.is_set():
                    self._consumer = None
                    await self.on_partitions_revoked(self._has)
                    await ended(consumer)
            with suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_S[min(failed, len(AGAIN_S) - 1)]):
                    await self._closing.wait()
            failed += 1

    def _ran(self, running: asyncio.Task[None]) -> None:
        """Tell who polls what kept us from becoming a member again."""
        if not running.cancelled() and (error := running.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        self._ready.set()
        self._moved.set()

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Stop giving, and let what runs come to rest for a bounded time.

        The assignment is over: who is still taking it over will find that out, and give nothing.
        """
        self._assignment += 1
        self._fed = frozenset()
        self._buffer.clear()
        if not self._taken and self._last is None:
            self._has = frozenset()
            return
        self._last = asyncio.create_task(self._give(self._last), name="choreo-kafka-give")
        closing = asyncio.create_task(self._closing.wait())
        await asyncio.wait(
            (self._last, closing),
            timeout=self._settings.rest_s,
            return_when=asyncio.FIRST_COMPLETED,
        )
        closing.cancel()
        if not self._last.done() and not self._closing.is_set():
            log.warning(
                "CH3025 what ran in partitions of %s has not come to rest within %g s; they go"
                " on elsewhere. Fix: give handlers a timeout_s below that",
                self._group,
                self._settings.rest_s,
            )
        self._has = frozenset()  # from now on nothing is committed

    async def _give(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        taken, self._taken = self._taken, frozenset()
        if taken and self._assignee is not None:
            await self._told(self._assignee.revoked(self._partitions(taken)))

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Take over, beside the client: it keeps us in the group meanwhile."""
        assert self._consumer is not None
        self._assignment += 1
        self._fed = frozenset()
        self._has = frozenset(assigned)
        self._committed.clear()
        self._consumer.pause(*assigned)
        generation = self._consumer._coordinator.generation  # noqa: SLF001 - no other way
        self._last = asyncio.create_task(
            self._take(self._last, self._assignment, generation), name="choreo-kafka-take"
        )

    async def _take(
        self, before: asyncio.Task[None] | None, assignment: int, generation: int
    ) -> None:
        if before is not None:
            await asyncio.wait([before])
        if assignment != self._assignment or self._closing.is_set():
            return
        places = self._has
        try:
            await self._cluster.unbroken(self._look(places))
        except ChoreoError as exc:
            if not exc.transient:
                self._fail(exc)
                return
            log.warning("whether records were lost is not known: %s", exc)
        if assignment != self._assignment:
            return
        if places and self._assignee is not None:
            await self._told(self._assignee.assigned(self._partitions(places), generation))
        self._taken = places
        if assignment == self._assignment:
            self._fed = places
        self._ready.set()
        self._room.set()

    async def _told(self, telling: object) -> None:
        try:
            await telling  # type: ignore[misc]  # a coroutine of the assignee
        except Exception as exc:  # noqa: BLE001 - whoever polls raises it
            self._fail(exc)

    async def _look(self, places: Collection[TopicPartition]) -> None:
        """Say aloud when records were deleted before the group had read them."""
        await self._count()
        stood = await self._cluster.committed(self._group)
        begins, ends = await self._cluster.bounds([one for one in places if one in stood])
        for place, begin in begins.items():
            if begin <= stood[place] <= ends[place]:
                continue
            log.warning(
                "CH3021 the group %s stands at %d in %s, which has %d to %d: what lies between"
                " is gone, and it goes on with the first there is. Fix: let the topic keep its"
                " records for longer than a service may be behind",
                self._group,
                stood[place],
                place,
                begin,
                ends[place],
            )

    def _partitions(self, places: Collection[TopicPartition]) -> list[Partition]:
        return [self._cluster.names.partition(place) for place in sorted(places)]

    def assigned(self) -> Collection[Partition]:
        return self._partitions(self._fed)

    @property
    def shared(self) -> bool:
        return len(self._fed) < sum(self._counts.values())

    # ── records ──────────────────────────────────────────────────────────────────────────

    async def _fetch(self, consumer: AIOKafkaConsumer) -> None:
        """Ask once: for records, if there is room, else only to be heard of."""
        room = self._settings.buffered_max - len(self._buffer)
        feeding = self._fed if room > 0 else frozenset()
        with translating("fetch"):
            self._pause_all_but(consumer, feeding)
            if feeding:
                found = await consumer.getmany(timeout_ms=FETCH_MS, max_records=room)
            else:
                found = await consumer.getmany(timeout_ms=0)
        if found:
            self._feed(found)
        if not feeding:
            self._room.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(FULL_S):
                    await self._room.wait()

    def _pause_all_but(
        self, consumer: AIOKafkaConsumer, feeding: frozenset[TopicPartition]
    ) -> None:
        """Pause and resume anew each time: a rebalance forgets who was paused."""
        ours = consumer.assignment()
        paused = consumer.paused()
        if stop := ours - feeding - paused:
            consumer.pause(*stop)
        if go_on := paused & feeding & ours:
            consumer.resume(*go_on)

    def _feed(self, found: Mapping[TopicPartition, Sequence[object]]) -> None:
        names = self._cluster.names
        for place, raw in found.items():
            if place not in self._fed:
                continue  # of an earlier assignment
            topic = names.partition(place).topic
            self._buffer.extend(record_of(one, topic) for one in raw)
        self._moved.set()

    async def poll(self, records_max: int) -> Sequence[Record]:
        while not self._closing.is_set():
            if self._failure is not None:
                raise self._failure
            if self._buffer:
                buffer = self._buffer
                taken = [buffer.popleft() for _ in range(min(records_max, len(buffer)))]
                self._room.set()
                return taken
            self._moved.clear()
            await self._moved.wait()
        return []

    # ── offsets ──────────────────────────────────────────────────────────────────────────

    async def commit(self, offsets: Mapping[Partition, int]) -> None:
        if self._closing.is_set():
            raise BrokerClosedError("used after close", fix="subscribe again", group=self._group)
        assignment = self._assignment
        places = {self._cluster.names.place(one): offset for one, offset in offsets.items()}
        ours = {
            place: offset
            for place, offset in places.items()
            if place in self._has and offset > self._committed.get(place, -1)
        }
        consumer = self._consumer
        if not ours or consumer is None:
            return
        with translating("commit"):
            try:
                async with asyncio.timeout(self._settings.request_timeout_s):
                    await consumer.commit(ours)
            except (kafka.CommitFailedError, kafka.IllegalStateError, kafka.IllegalOperation):
                log.warning(
                    "CH3005 the group %s has gone on without this process: its offsets are passed"
                    " over. Fix: look for what blocks the event loop, or stops the process",
                    self._group,
                )
                return
        if assignment == self._assignment:
            self._committed.update(ours)
            await self._pass_over(consumer, ours)

    async def _pass_over(
        self, consumer: AIOKafkaConsumer, offsets: Mapping[TopicPartition, int]
    ) -> None:
        """Do not read what was committed before it was given: its reader has it from elsewhere."""
        assignment = self._assignment
        with suppress(TimeoutError, kafka.IllegalStateError):  # or it has just been taken from us
            async with asyncio.timeout(self._settings.request_timeout_s):
                for place, offset in offsets.items():
                    at = await consumer.position(place)
                    if assignment == self._assignment and at < offset:
                        consumer.seek(place, offset)

    @property
    def closed(self) -> bool:
        """Whether it has left its group for good."""
        return self._leaving is not None and self._leaving.done()

    async def close(self) -> None:
        if self._leaving is None:
            self._closing.set()
            self._leaving = asyncio.create_task(self._leave(), name="choreo-kafka-leave")
        await asyncio.shield(self._leaving)

    async def _leave(self) -> None:
        self._fed = self._has = frozenset()
        self._moved.set()
        self._room.set()
        self._ready.set()
        if self._running is not None:
            if self._consumer is None:  # it loses a connection that it is opening when cancelled
                await asyncio.wait([self._running], timeout=self._settings.request_timeout_s)
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        if self._consumer is not None:
            await ended(self._consumer)
        if self._last is not None:
            self._last.cancel()
            await asyncio.gather(self._last, return_exceptions=True)

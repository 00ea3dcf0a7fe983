"""What feeds the views from a partitioned log: trackers that share its partitions as a group.

Facts are a set, so it does not matter which of the trackers writes one, or how often. What was
read of each partition is written with the views, in one transaction; the group's offsets follow
after. So the views alone say what they lack: a partition that becomes a tracker's own is first
read from there, whatever the group believes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any

from choreo.errors import ChoreoError, StoreConflictError
from choreo.events import MANIFESTS_TOPIC, Partition, Record
from choreo.ports import Broker, Clock, Subscription, ViewBatch, ViewStore
from choreo.tracker.course import Course
from choreo.tracker.driver import Tracker
from choreo.tracker.feed import BATCH, OUTAGE_S, REST_S, Feed, Read

__all__ = ["GROUP", "SharedTracker", "tracker_of"]

log = logging.getLogger("choreo.tracker")

GROUP = "choreo.tracker"
"""The consumer group of all trackers; its lag tells how far the views are behind."""
BACKLOG = 5000
"""Records in one transaction while a partition is filled: by then most flows are whole."""
LOOK_S = 5.0
"""Between two looks for topics that are new, and at views that others may have emptied."""


def tracker_of(broker: Broker, views: ViewStore, clock: Clock) -> Tracker | SharedTracker:
    """Make the tracker that fits the log."""
    kind = SharedTracker if broker.traits.partitioned else Tracker
    return kind(broker, views, clock)


class SharedTracker:
    """Keeps views up to date with the partitions that are its own; others have theirs.

    Several, in as many processes as there are partitions, feed the same views. The number of
    the views counts what services have declared: a batch that was read before the last
    manifest came is refused, and read again.
    """

    def __init__(self, broker: Broker, views: ViewStore, clock: Clock) -> None:
        """Give what to read, what to write, and the time to rest by."""
        self._broker = broker
        self._views = views
        self._clock = clock
        self._feed = Feed(views)
        self._number = 0
        self._writing = _Writing()
        self._marks: dict[Partition, int] = {}
        self._filled: frozenset[Partition] = frozenset()
        self._told = asyncio.Event()
        self.course = Course(clock)
        """How it gets on."""

    @property
    def marks(self) -> Mapping[Partition, int]:
        """What is read next of each partition, as far as this tracker knows."""
        return dict(self._marks)

    async def run(self) -> None:
        """Follow the log until `stop` is called or the task is cancelled.

        While log or views do not answer, it waits, and goes on where the views stand.
        """
        while not self._told.is_set():
            try:
                await self._follow()
            except ChoreoError as exc:
                if not exc.transient:
                    raise
                self.course.outage = exc
                log.warning("the tracker waits, and goes on where it was: %s", exc)
                await self._paused(OUTAGE_S)

    async def catch_up(self) -> None:
        """Read all partitions up to their present ends, whoever's they are in the group."""
        await self._load()
        while not self._told.is_set():
            try:
                await self._fill(None)
            except StoreConflictError:
                await self._load()
            else:
                return

    def stop(self) -> None:
        """Let `run` end after the batch it is at. May be called twice."""
        self._told.set()

    # ── as a member of the group ─────────────────────────────────────────────────────────

    async def _follow(self) -> None:
        """Be a member until topics come, or we are told to end."""
        await self._load()
        self.course.begun = True
        topics = await self._topics()
        if not topics:
            self.course.reached_the_end()
            await self._paused(LOOK_S)
            return
        bell = _Bell()
        subscription = await self._broker.subscribe(GROUP, topics, assignee=bell)
        polling = asyncio.ensure_future(subscription.poll(BATCH))
        try:
            while not self._told.is_set():
                await self._wait(polling, bell.rung)
                bell.rung.clear()
                if not polling.done():
                    if await self._topics() != topics:
                        return
                    await self._look()
                records: Sequence[Record] = ()
                if polling.done():
                    records = polling.result()
                    polling = asyncio.ensure_future(subscription.poll(BATCH))
                await self._take(subscription, records)
                if len(records) < BATCH and not self._told.is_set():
                    self.course.reached_the_end()
                await self._clock.sleep(REST_S)
        finally:
            polling.cancel()
            await asyncio.gather(polling, return_exceptions=True)
            await subscription.close()
            self._filled = frozenset()

    async def _wait(self, polling: asyncio.Future[Sequence[Record]], rung: asyncio.Event) -> None:
        """Wait for records or partitions; no longer than until it is time to look, or to end."""
        pause = asyncio.ensure_future(self._paused(LOOK_S, rung))
        try:
            await asyncio.wait((polling, pause), return_when=asyncio.FIRST_COMPLETED)
        finally:
            pause.cancel()
            await asyncio.gather(pause, return_exceptions=True)

    async def _paused(self, delay_s: float, *events: asyncio.Event) -> None:
        """Sleep, or less if one of these comes, or we are told to end."""
        tasks = [asyncio.ensure_future(event.wait()) for event in (self._told, *events)]
        tasks.append(asyncio.ensure_future(self._clock.sleep(delay_s)))  # type: ignore[arg-type]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _topics(self) -> list[str]:
        return sorted({place.topic for place in await self._broker.ends(None)})

    async def _look(self) -> None:
        """See whether others have emptied the views, or told them of other services."""
        standing = await self._views.position()
        if standing.position != self._number:
            await self._load()
            self._filled = frozenset()

    async def _take(self, subscription: Subscription, records: Sequence[Record]) -> None:
        """Write records that are not there yet; of partitions that are new, what lies before.

        Then commit where the views stand, also for records that were there already.
        """
        before = dict(self._marks)
        read = {_place(one) for one in records}
        while True:
            ours = frozenset(subscription.assigned())
            try:
                new = ours - self._filled
                if new and not await self._fill(new, subscription.assigned):
                    if self._told.is_set():
                        return
                    continue
                self._filled = ours
                async with self._writing:
                    await self._write([one for one in records if self._lacks(one)])
            except StoreConflictError:
                await self._load()
                self._filled = frozenset()
            else:
                break
        marks = self._marks
        moved = {p: marks[p] for p in ours if marks.get(p, 0) != before.get(p, 0) or p in read}
        if moved:
            await subscription.commit(moved)

    # ── reading and writing ──────────────────────────────────────────────────────────────

    async def _load(self) -> None:
        while True:
            standing = await self._feed.load()
            self._number, self._marks = standing.position, dict(standing.marks)
            try:
                if standing.last not in ("", GROUP):
                    await self._reset("they are of a log with positions")
                elif standing.last:  # one that ended may have left flows to be folded again
                    await self._apply()
            except StoreConflictError:
                continue
            if standing.last in ("", GROUP):
                return

    async def _reset(self, why: str) -> None:
        """Empty the views: what they are of is not there any more."""
        log.warning("the views are made anew: %s", why)
        number = self._number
        await self._views.apply(
            ViewBatch(number, number + 1, GROUP, self._feed.summary, ends=(), reset=True)
        )

    async def _fill(
        self,
        wanted: Collection[Partition] | None,
        ours: Callable[[], Collection[Partition]] | None = None,
    ) -> bool:
        """Read partitions (None: all) from where the views stand up to their ends.

        False when, before it was there, it was told to stop, or one of them was not `ours` any
        more: then somebody else reads it, from where we have written it.
        """
        for place, mark in (await self._views.position()).marks.items():
            self._marks[place] = max(self._marks.get(place, 0), mark)
        ends = await self._broker.ends(None)
        if any(self._marks.get(place, 0) > end for place, end in ends.items()):
            await self._reset("the log was made anew")
            await self._load()
        asked = ends.keys() if wanted is None else ends.keys() & wanted
        declared = {place for place in ends if place.topic == MANIFESTS_TOPIC}
        await self._read(declared, ends, lambda: declared)  # before what is read by them
        return await self._read(asked - declared, ends, ours or (lambda: asked))

    async def _read(
        self,
        wanted: Collection[Partition],
        ends: Mapping[Partition, int],
        ours: Callable[[], Collection[Partition]],
    ) -> bool:
        marks = {place: self._marks.get(place, 0) for place in wanted}
        behind = {place: mark for place, mark in marks.items() if mark < ends[place]}
        if not behind:
            return True
        topics = sorted({place.topic for place in behind})
        since = {place: behind.get(place, end) for place, end in ends.items()}
        waiting: list[Record] = []
        async with self._writing:
            async for records in self._broker.read(topics, since=since):
                waiting += [one for one in records if _place(one) in behind]
                if len(waiting) >= BACKLOG:
                    await self._write(waiting)
                    waiting = []
                if self._told.is_set() or not behind.keys() <= set(ours()):
                    return False
            await self._write(waiting, {place: ends[place] for place in behind})
        return True

    async def _write(
        self, records: Sequence[Record], reached: Mapping[Partition, int] | None = None
    ) -> None:
        """Write a batch, and what is now to be read next of each partition.

        It goes on being written while the next one is read, unless that has to know of it.
        """
        last: dict[tuple[str, int], int] = {}
        for record in records:
            place = record.topic, record.partition
            last[place] = max(last.get(place, 0), record.offset + 1)
        marks = {**{Partition(*place): mark for place, mark in last.items()}, **(reached or {})}
        if not marks:
            return
        if any(topic == MANIFESTS_TOPIC for topic, _ in last):
            await self._writing.done()
        read = await self._feed.read(records)
        await self._writing.done()
        self._writing.begin(self._put(read, marks))

    async def _put(self, read: Read, marks: Mapping[Partition, int]) -> None:
        taken, fold, ends, stale = read
        position = self._number + (ends is not None)
        await self._apply(
            ViewBatch(
                self._number, position, GROUP, fold, taken.facts, taken.flows, taken.manifests,
                ends, stale, marks=marks,
            )
        )  # fmt: skip
        for place, mark in marks.items():
            self._marks[place] = max(self._marks.get(place, 0), mark)

    async def _apply(self, batch: ViewBatch | None = None) -> None:
        """Write a batch, then fold what a manifest has left to be folded again."""
        if batch is not None:
            left = await self._views.apply(batch)
            self._number = batch.position
        else:
            left = 1
        while left:
            left = await self._views.apply(
                ViewBatch(self._number, self._number, GROUP, self._feed.summary)
            )

    def _lacks(self, record: Record) -> bool:
        """Tell whether it is ours to write, and not there yet."""
        place = _place(record)
        return place in self._filled and record.offset >= self._marks.get(place, 0)


class _Bell:
    """Rings when partitions have become ours."""

    def __init__(self) -> None:
        self.rung = asyncio.Event()

    async def assigned(
        self, partitions: Collection[Partition], generation: int | None = None
    ) -> None:
        del partitions, generation
        self.rung.set()

    async def revoked(self, partitions: Collection[Partition]) -> None:
        """Whoever is given them may begin at once: what two have written does no harm."""


class _Writing:
    """One write at a time, that goes on beside what its caller does."""

    def __init__(self) -> None:
        self._task: asyncio.Future[None] | None = None

    def begin(self, write: Coroutine[Any, Any, None]) -> None:
        assert self._task is None
        self._task = asyncio.ensure_future(write)

    async def done(self) -> None:
        """Wait for it, if there is one; raise what it raises."""
        task = self._task
        if task is not None:
            await asyncio.wait((task,))
            self._task = None
            task.result()

    async def __aenter__(self) -> None:
        """Within the block writes may go on; not after it."""

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        task = self._task
        if kind is not None and task is not None:
            self._task = None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self.done()


def _place(record: Record) -> Partition:
    return Partition(record.topic, record.partition)

"""What feeds the views from a partitioned log: trackers that share its partitions as a group.

Facts are a set, so it does not matter which of the trackers writes one, or how often. What was
read of each partition is written with the views, in one transaction; the group's offsets follow
after. So the views alone say what they lack: a partition that becomes a tracker's own is first
read from there, whatever the group believes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence

from choreo.errors import ChoreoError, StoreConflictError
from choreo.events import Partition, Record
from choreo.ports import Broker, Clock, Subscription, ViewBatch, ViewStore
from choreo.tracker.course import Course
from choreo.tracker.driver import Tracker
from choreo.tracker.feed import BATCH, OUTAGE_S, REST_S, Feed

__all__ = ["GROUP", "SharedTracker", "tracker_of"]

log = logging.getLogger("choreo.tracker")

GROUP = "choreo.tracker"
"""The consumer group of all trackers; its lag tells how far the views are behind."""
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
        subscription = await self._broker.subscribe(GROUP, topics)
        polling = asyncio.ensure_future(subscription.poll(BATCH))
        try:
            while not self._told.is_set():
                await self._wait(polling)
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

    async def _wait(self, polling: asyncio.Future[Sequence[Record]]) -> None:
        """Wait for records, but no longer than until it is time to look, or to end."""
        pause = asyncio.ensure_future(self._paused(LOOK_S))
        try:
            await asyncio.wait((polling, pause), return_when=asyncio.FIRST_COMPLETED)
        finally:
            pause.cancel()
            await asyncio.gather(pause, return_exceptions=True)

    async def _paused(self, delay_s: float) -> None:
        """Sleep, or less if we are told to end."""
        tasks = [
            asyncio.ensure_future(self._told.wait()),
            asyncio.ensure_future(self._clock.sleep(delay_s)),
        ]
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
        """Write records that are not there yet; of partitions that are new, what lies before."""
        before = dict(self._marks)
        while True:
            ours = frozenset(subscription.assigned()) | {_place(one) for one in records}
            try:
                new = ours - self._filled
                if new and not await self._fill(new):
                    return
                self._filled = ours
                await self._write([one for one in records if one.offset >= self._mark(one)])
            except StoreConflictError:
                await self._load()
                self._filled = frozenset()
            else:
                break
        moved = {p: self._marks[p] for p in ours if self._marks.get(p, 0) != before.get(p, 0)}
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

    async def _fill(self, wanted: Collection[Partition] | None) -> bool:
        """Read partitions (None: all) from where the views stand up to their ends.

        False when it was told to stop before it was there.
        """
        ends = await self._broker.ends(None)
        if any(self._marks.get(place, 0) > end for place, end in ends.items()):
            await self._reset("the log was made anew")
            await self._load()
        asked = ends.keys() if wanted is None else ends.keys() & wanted
        behind = {p: self._marks.get(p, 0) for p in asked if self._marks.get(p, 0) < ends[p]}
        if not behind:
            return True
        topics = sorted({place.topic for place in behind})
        since = {place: behind.get(place, end) for place, end in ends.items()}
        waiting: list[Record] = []
        async for records in self._broker.read(topics, since=since):
            waiting += [one for one in records if _place(one) in behind]
            if len(waiting) >= BATCH:
                await self._write(waiting)
                waiting = []
            if self._told.is_set():
                return False
        await self._write(waiting, {place: ends[place] for place in behind})
        return True

    async def _write(
        self, records: Sequence[Record], reached: Mapping[Partition, int] | None = None
    ) -> None:
        """Write a batch, and what is now to be read next of each partition."""
        marks = dict(reached or {})
        for record in records:
            place = _place(record)
            marks[place] = max(marks.get(place, 0), record.offset + 1)
        if not marks:
            return
        taken, ends, stale = await self._feed.read(records)
        position = self._number + (ends is not None)
        await self._apply(
            ViewBatch(
                self._number, position, GROUP, self._feed.summary, taken.facts, taken.flows,
                taken.manifests, ends, stale, marks=marks,
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

    def _mark(self, record: Record) -> int:
        return self._marks.get(_place(record), 0)


def _place(record: Record) -> Partition:
    return Partition(record.topic, record.partition)

"""What feeds the views from a log with positions: read in batches, written in bulk."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import count

from choreo.errors import ChoreoError, StoreConflictError
from choreo.events import ID, Record
from choreo.ports import Broker, Clock, ViewBatch, ViewStore
from choreo.tracker.course import Course
from choreo.tracker.feed import BATCH, OUTAGE_S, REST_S, Feed

__all__ = ["Tracker"]

log = logging.getLogger("choreo.tracker")

TURNS_PER_LOOK = 25


class Tracker:
    """Reads the whole log, in order, from where the views stand, and keeps them up to date.

    Several may feed the same views: who moved the position first has written the batch.
    """

    def __init__(self, broker: Broker, views: ViewStore, clock: Clock) -> None:
        """Give what to read, what to write, and the time to rest by."""
        self._broker = broker
        self._views = views
        self._clock = clock
        self._feed = Feed(views)
        self._position = 0
        self._last = ""
        self._begun = False
        self._stopped = False
        self.course = Course(clock)
        """How it gets on."""

    @property
    def position(self) -> int:
        """The position in the log up to which the views are written."""
        return self._position

    async def run(self) -> None:
        """Follow the log until `stop` is called or the task is cancelled.

        It looks at the end of the log every 20 ms: that is less work than to be told of
        each record, and one transaction takes all that came. While log or views do not
        answer, on a full disk say, it waits.
        """
        for turn in count():
            if self._stopped:
                return
            try:
                await self.catch_up()
                self.course.reached_the_end()
                if turn % TURNS_PER_LOOK == 0:  # that the views are there, if nothing comes
                    await self._views.position()
            except ChoreoError as exc:
                if not exc.transient:
                    raise
                self.course.outage = exc
                log.warning("the tracker waits, and goes on where it was: %s", exc)
                await self._clock.sleep(OUTAGE_S)
                self._begun = False  # what was written, and what not, is to be asked
            await self._clock.sleep(REST_S)

    async def catch_up(self) -> int:
        """Read up to the present end of the log; give the position."""
        if not self._begun:
            await self._begin()
        while True:
            try:
                waiting: list[Record] = []
                async for records in self._broker.read(None, since=self._position):
                    waiting += records
                    if waiting and (len(waiting) >= BATCH or self._stopped):
                        await self._write(waiting)
                        waiting = []
                    if self._stopped:
                        break
                if waiting:
                    await self._write(waiting)
                return self._position
            except StoreConflictError:  # another tracker was faster
                await self._load()

    def stop(self) -> None:
        """Let `run` end after the batch it is at. May be called twice."""
        self._stopped = True

    async def _begin(self) -> None:
        await self._load()
        if self._position and not await self._same_log():
            await self._views.apply(
                ViewBatch(self._position, 0, "", fold=self._feed.summary, ends=(), reset=True)
            )
            await self._load()
        self._begun = self.course.begun = True

    async def _load(self) -> None:
        self._position, self._last, _ = await self._feed.load()

    async def _same_log(self) -> bool:
        """Tell whether the views are of this log: the last record is still where it was."""
        place = self._last.partition(" ")[0]
        if self._last and not place.isdecimal():  # written by members of a group, elsewhere
            return False
        before = int(place or 0)
        async for records in self._broker.read(None, since=before):
            for record in records:
                return record.offset > before or _name(record) == self._last
        return False

    async def _write(self, records: Sequence[Record]) -> None:
        taken, fold, ends, stale = await self._feed.read(records)
        last = max(records, key=_offset)
        left = await self._views.apply(
            ViewBatch(
                self._position, last.offset + 1, _name(last), fold,
                taken.facts, taken.flows, taken.manifests, ends, stale,
            )
        )  # fmt: skip
        self._position, self._last = last.offset + 1, _name(last)
        while left:
            left = await self._views.apply(
                ViewBatch(self._position, self._position, self._last, self._feed.summary)
            )


def _offset(record: Record) -> int:
    return record.offset


def _name(record: Record) -> str:
    own = record.headers.get(ID, "")
    return f"{record.offset} {record.topic}-{record.partition} {own}"

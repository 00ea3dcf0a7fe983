"""What feeds the views: the log, read in batches, written in bulk."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from itertools import count

from choreo.errors import ChoreoError, StoreConflictError
from choreo.events import ID, Record
from choreo.ports import Broker, Clock, Fact, FlowSummary, ViewBatch, ViewStore
from choreo.tracker.catalog import Catalog
from choreo.tracker.facts import take
from choreo.tracker.fold import fold, summarize
from choreo.tracker.view import FlowView

__all__ = ["Tracker", "catalog_of", "view_of"]

log = logging.getLogger("choreo.tracker")

OUTAGE_S = 1.0
"""Between two looks at a log, or at views, that do not answer."""
TURNS_PER_LOOK = 25
BATCH = 3000
"""Records in one transaction, when so many wait: a flow's row is then written less often."""
REST_S = 0.02
"""Between two batches, so that one transaction takes many records, and others the core."""


async def catalog_of(views: ViewStore) -> Catalog:
    """Read what services declare from the views."""
    return Catalog.of({name: json.loads(text) for name, text in (await views.manifests()).items()})


async def view_of(views: ViewStore, flow: str, catalog: Catalog | None = None) -> FlowView | None:
    """Fold one flow from the views; None when nothing is known of it."""
    facts = await views.facts(flow)
    if not facts:
        return None
    return fold(facts, catalog if catalog is not None else await catalog_of(views))


class Tracker:
    """Reads the whole log, in order, from where the views stand, and keeps them up to date.

    Several may feed the same views: who moved the position first has written the batch.
    """

    def __init__(self, broker: Broker, views: ViewStore, clock: Clock) -> None:
        """Give what to read, what to write, and the time to rest by."""
        self._broker = broker
        self._views = views
        self._clock = clock
        self._catalog = Catalog()
        self._position = 0
        self._last = ""
        self._begun = False
        self._stopped = False

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
                if turn % TURNS_PER_LOOK == 0:  # that the views are there, if nothing comes
                    await self._views.position()
            except ChoreoError as exc:
                if not exc.transient:
                    raise
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
                ViewBatch(self._position, 0, "", fold=self._summary, ends=(), reset=True)
            )
            await self._load()
        self._begun = True

    async def _load(self) -> None:
        self._position, self._last = await self._views.position()
        self._catalog = await catalog_of(self._views)

    async def _same_log(self) -> bool:
        """Tell whether the views are of this log: the last record is still where it was."""
        before = int(self._last.split(" ", 1)[0]) if self._last else 0
        async for records in self._broker.read(None, since=before):
            for record in records:
                return record.offset > before or _name(record) == self._last
        return False

    async def _write(self, records: Sequence[Record]) -> None:
        taken = take(records, self._catalog)
        ends: tuple[tuple[str, str], ...] | None = None
        stale: tuple[str, ...] = ()
        if taken.manifests:
            ends, stale = await self._declared(taken.manifests)
            taken = take(records, self._catalog)
        last = max(records, key=_offset)
        left = await self._views.apply(
            ViewBatch(
                self._position, last.offset + 1, _name(last), self._summary,
                taken.facts, taken.flows, taken.manifests, ends, stale,
            )
        )  # fmt: skip
        self._position, self._last = last.offset + 1, _name(last)
        while left:
            left = await self._views.apply(
                ViewBatch(self._position, self._position, self._last, self._summary)
            )

    async def _declared(
        self, manifests: Sequence[tuple[str, int, str]]
    ) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
        """Take manifests in; tell which pairs of (root, end) hold now, and what they change."""
        newest = {service: text for service, _, text in sorted(manifests, key=lambda one: one[1])}
        known = {**await self._views.manifests(), **newest}
        catalog = Catalog.of({name: json.loads(text) for name, text in known.items()})
        stale = self._catalog.changed(catalog)
        self._catalog = catalog
        return tuple(sorted(catalog.ends)), tuple(sorted(stale))

    def _summary(self, flow: str, facts: Sequence[Fact]) -> FlowSummary:
        del flow
        return summarize(facts, self._catalog)


def _offset(record: Record) -> int:
    return record.offset


def _name(record: Record) -> str:
    own = record.headers.get(ID, "")
    return f"{record.offset} {record.topic}-{record.partition} {own}"

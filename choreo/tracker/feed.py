"""Records to a batch for the views, by what the services have declared so far.

Whatever reads the log, by its position or as a member of a group, makes its batches here: there
is one fold, and one way to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from choreo.events import Record
from choreo.ports import Fact, FlowSummary, Standing, ViewStore
from choreo.tracker.catalog import Catalog
from choreo.tracker.facts import Taken, take
from choreo.tracker.fold import fold, summarize
from choreo.tracker.view import FlowView

__all__ = ["BATCH", "OUTAGE_S", "REST_S", "Feed", "Read", "catalog_of", "view_of"]

OUTAGE_S = 1.0
"""Between two looks at a log, or at views, that do not answer."""
BATCH = 3000
"""Records in one transaction, when so many wait: a flow's row is then written less often."""
REST_S = 0.02
"""Between two batches, so that one transaction takes many records, and others the core."""


class Read(NamedTuple):
    """What a batch of records says; `ends` is None when no service has declared anything new.

    `fold` gives a flow's row, by what the services had declared then.
    """

    taken: Taken
    fold: Callable[[str, Sequence[Fact]], FlowSummary]
    ends: tuple[tuple[str, str], ...] | None = None
    stale: tuple[str, ...] = ()


async def catalog_of(views: ViewStore) -> Catalog:
    """Read what services declare from the views."""
    return Catalog.of_texts((await views.manifests()).values())


async def view_of(views: ViewStore, flow: str, catalog: Catalog | None = None) -> FlowView | None:
    """Fold one flow from the views; None when nothing is known of it."""
    facts = await views.facts(flow)
    if not facts:
        return None
    return fold(facts, catalog if catalog is not None else await catalog_of(views))


class Feed:
    """Knows what the services declare, and reads records by it."""

    def __init__(self, views: ViewStore) -> None:
        """Nothing is known before `load`."""
        self._views = views
        self._catalog = Catalog()

    async def load(self) -> Standing:
        """Read where the views stand, and then what they know of the services.

        In this order: a catalog that is newer than the standing is found out when a batch
        is written.
        """
        standing = await self._views.position()
        self._catalog = await catalog_of(self._views)
        return standing

    async def read(self, records: Sequence[Record]) -> Read:
        """Read a batch; manifests in it hold for the whole of it."""
        taken = take(records, self._catalog)
        if not taken.manifests:
            return Read(taken, self.summary)
        known = await self._views.manifests()
        newest = {s: text for s, _, text in sorted(taken.manifests, key=lambda one: one[1])}
        if newest.items() <= known.items():
            taken.manifests.clear()
            return Read(taken, self.summary)
        catalog = Catalog.of_texts({**known, **newest}.values())
        stale = self._catalog.changed(catalog)
        self._catalog = catalog
        taken, ends = take(records, catalog), tuple(sorted(catalog.ends))
        return Read(taken, self.summary, ends, tuple(sorted(stale)))

    @property
    def summary(self) -> Callable[[str, Sequence[Fact]], FlowSummary]:
        """What folds all facts of a flow to its row, by what is declared at present."""
        catalog = self._catalog
        return lambda _, facts: summarize(facts, catalog)

"""The tracker of a simulation: one that ends and starts again, and one that reads all at once.

What the first shows is what the second shows, whenever it read, and both show what the
services' stores say: that is for an audit to judge.
"""

from __future__ import annotations

import random

from choreo.adapters.sqlite.views import SqliteViewStore
from choreo.audit import Views
from choreo.ports import FlowFilter, FlowSummary
from choreo.testing.simulation.broker import SimBroker
from choreo.testing.simulation.clock import HostClock
from choreo.testing.simulation.cluster import Cluster
from choreo.testing.simulation.loop import SimLoop
from choreo.tracker import SharedTracker

__all__ = ["Tracking"]


class Tracking:
    """Views of a cluster's log. Trackers take no part in its virtual time: they only read."""

    def __init__(self, cluster: Cluster) -> None:
        """Look at this cluster's log."""
        self._cluster = cluster
        self._views = SqliteViewStore(":memory:")
        self._loop = SimLoop(random.Random(0))

    def read_on(self) -> None:
        """Have a tracker start, read what has come, and be gone."""
        self._loop.complete(self._read(self._views))

    def shown(self) -> Views:
        """Give what is shown, and what a tracker shows that begins anew."""
        self.read_on()
        anew = SqliteViewStore(":memory:")
        self._loop.complete(self._read(anew))
        return Views(self._flows(self._views), self._flows(anew))

    async def _read(self, views: SqliteViewStore) -> None:
        await SharedTracker(SimBroker(self._cluster), views, HostClock(self._loop)).catch_up()

    def _flows(self, views: SqliteViewStore) -> list[FlowSummary]:
        return [*self._loop.complete(views.flows(FlowFilter()))]

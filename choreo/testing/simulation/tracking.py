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
        self._views: SqliteViewStore | None = None
        self._loop = SimLoop(random.Random(0))

    def read_on(self) -> list[FlowSummary]:
        """Have a tracker start, read what has come, and be gone; give what it shows."""
        if self._views is None:
            self._views = SqliteViewStore(":memory:")
        return self._read(self._views)

    def shown(self) -> Views:
        """Give what is shown, and what a tracker shows that begins anew."""
        anew = SqliteViewStore(":memory:")
        shown = Views(self.read_on(), self._read(anew))
        self._loop.complete(anew.close())
        return shown

    def end(self) -> None:
        """Let go of everything."""
        if self._views is not None:
            self._loop.complete(self._views.close())
        self._loop.bury()

    def _read(self, views: SqliteViewStore) -> list[FlowSummary]:
        tracker = SharedTracker(SimBroker(self._cluster), views, HostClock(self._loop))
        self._loop.complete(tracker.catch_up())
        return [*self._loop.complete(views.flows(FlowFilter()))]

"""The tracker: every flow, rebuilt from what lies on the log.

`fold` is pure: the set of a flow's facts and the manifests of the services give its view.
`Tracker` is the loop that reads records, makes facts of them, and feeds a ViewStore.
"""

from choreo.tracker.catalog import Catalog
from choreo.tracker.driver import Tracker, catalog_of, view_of
from choreo.tracker.facts import Taken, epoch, take
from choreo.tracker.fold import fold
from choreo.tracker.view import (
    OPEN,
    STATUSES,
    Anomaly,
    Attempt,
    Badges,
    EventView,
    FlowView,
    Missing,
    StepView,
    badges,
)

__all__ = [
    "OPEN",
    "STATUSES",
    "Anomaly",
    "Attempt",
    "Badges",
    "Catalog",
    "EventView",
    "FlowView",
    "Missing",
    "StepView",
    "Taken",
    "Tracker",
    "badges",
    "catalog_of",
    "epoch",
    "fold",
    "take",
    "view_of",
]

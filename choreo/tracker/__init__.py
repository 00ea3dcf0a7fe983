"""The tracker: every flow, rebuilt from what lies on the log.

`fold` is pure: the set of a flow's facts and the manifests of the services give its view.
`Tracker` is the loop that reads records, makes facts of them, and feeds a ViewStore;
`SharedTracker` is the one for a partitioned log, of which several share the work.
"""

from choreo.tracker.catalog import Catalog
from choreo.tracker.course import Course
from choreo.tracker.driver import Tracker
from choreo.tracker.facts import Taken, epoch, take
from choreo.tracker.feed import catalog_of, view_of
from choreo.tracker.fold import fold
from choreo.tracker.shared import GROUP, SharedTracker, tracker_of
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
    "GROUP",
    "OPEN",
    "STATUSES",
    "Anomaly",
    "Attempt",
    "Badges",
    "Catalog",
    "Course",
    "EventView",
    "FlowView",
    "Missing",
    "SharedTracker",
    "StepView",
    "Taken",
    "Tracker",
    "badges",
    "catalog_of",
    "epoch",
    "fold",
    "take",
    "tracker_of",
    "view_of",
]

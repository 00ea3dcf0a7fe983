"""Ports: what the rest of choreo needs of a log, a store, a view store, a clock.

An adapter implements them; a contract in `choreo.testing.contracts` holds each promise.
"""

from choreo.ports.clock import Clock
from choreo.ports.log import Assignee, Broker, BrokerTraits, Since, Subscription, Topic
from choreo.ports.store import (
    ORPHANS,
    UNWRITTEN,
    Applied,
    Due,
    Floor,
    GateSeen,
    Outbox,
    Row,
    Seen,
    StateSeen,
    Store,
    StoreTraits,
    Tx,
    Unsent,
    Want,
)
from choreo.ports.views import (
    Fact,
    FlowFilter,
    FlowMerge,
    FlowSummary,
    Standing,
    ViewBatch,
    ViewStore,
)

__all__ = [
    "ORPHANS",
    "UNWRITTEN",
    "Applied",
    "Assignee",
    "Broker",
    "BrokerTraits",
    "Clock",
    "Due",
    "Fact",
    "Floor",
    "FlowFilter",
    "FlowMerge",
    "FlowSummary",
    "GateSeen",
    "Outbox",
    "Row",
    "Seen",
    "Since",
    "Standing",
    "StateSeen",
    "Store",
    "StoreTraits",
    "Subscription",
    "Topic",
    "Tx",
    "Unsent",
    "ViewBatch",
    "ViewStore",
    "Want",
]

"""Ports: what the rest of choreo needs of a log, a store, a view store, a registry, a clock.

An adapter implements them; a contract in `choreo.testing.contracts` holds each promise.
"""

from choreo.ports.clock import Clock
from choreo.ports.contents import (
    AuditedBroker,
    AuditedStore,
    Contents,
    InboxRow,
    MemoRow,
    OwnerRow,
    TimerRow,
)
from choreo.ports.log import Assignee, Broker, BrokerTraits, Since, Subscription, Topic
from choreo.ports.store import (
    ORPHANS,
    UNWRITTEN,
    Applied,
    Due,
    Enlisting,
    Floor,
    GateSeen,
    Outbox,
    Prepared,
    Row,
    Seen,
    StateSeen,
    Store,
    StoreTraits,
    Tx,
    Unsent,
    Waiting,
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
from choreo.schemas import SchemaRegistry

__all__ = [
    "ORPHANS",
    "UNWRITTEN",
    "Applied",
    "Assignee",
    "AuditedBroker",
    "AuditedStore",
    "Broker",
    "BrokerTraits",
    "Clock",
    "Contents",
    "Due",
    "Enlisting",
    "Fact",
    "Floor",
    "FlowFilter",
    "FlowMerge",
    "FlowSummary",
    "GateSeen",
    "InboxRow",
    "MemoRow",
    "Outbox",
    "OwnerRow",
    "Prepared",
    "Row",
    "SchemaRegistry",
    "Seen",
    "Since",
    "Standing",
    "StateSeen",
    "Store",
    "StoreTraits",
    "Subscription",
    "TimerRow",
    "Topic",
    "Tx",
    "Unsent",
    "ViewBatch",
    "ViewStore",
    "Waiting",
    "Want",
]

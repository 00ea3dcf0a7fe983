"""What tests need, for users as for choreo itself: a clock, contracts, and faults."""

from choreo.testing.clock import ManualClock
from choreo.testing.contracts import (
    BrokerContract,
    MakeBroker,
    MakePlace,
    MakeViews,
    Place,
    ShowingContract,
    StoreContract,
    ViewStoreContract,
)
from choreo.testing.faults import CALM, Faults, FaultyBroker, FaultyStore
from choreo.testing.given import Done, Given, given

__all__ = [
    "CALM",
    "BrokerContract",
    "Done",
    "Faults",
    "FaultyBroker",
    "FaultyStore",
    "Given",
    "MakeBroker",
    "MakePlace",
    "MakeViews",
    "ManualClock",
    "Place",
    "ShowingContract",
    "StoreContract",
    "ViewStoreContract",
    "given",
]

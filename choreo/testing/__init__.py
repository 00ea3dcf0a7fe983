"""What tests need, for users as for choreo itself: a clock, contracts, and faults."""

from choreo.testing.clock import ManualClock
from choreo.testing.contracts import (
    BrokerContract,
    MakeBroker,
    MakePlace,
    Place,
    ShowingContract,
    StoreContract,
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
    "ManualClock",
    "Place",
    "ShowingContract",
    "StoreContract",
    "given",
]

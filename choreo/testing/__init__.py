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
from choreo.testing.faults import CALM, ROUGH, Faults, FaultyBroker, FaultyStore
from choreo.testing.given import Done, Given, given
from choreo.testing.simulation import Crash, Outside, Plan, World, simulate

__all__ = [
    "CALM",
    "ROUGH",
    "BrokerContract",
    "Crash",
    "Done",
    "Faults",
    "FaultyBroker",
    "FaultyStore",
    "Given",
    "MakeBroker",
    "MakePlace",
    "MakeViews",
    "ManualClock",
    "Outside",
    "Place",
    "Plan",
    "ShowingContract",
    "StoreContract",
    "ViewStoreContract",
    "World",
    "given",
    "simulate",
]

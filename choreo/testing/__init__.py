"""What tests need, for users as for choreo itself: a clock to move, and contracts to inherit."""

from choreo.testing.clock import ManualClock
from choreo.testing.contracts import BrokerContract, MakeBroker, MakePlace, Place, StoreContract

__all__ = [
    "BrokerContract",
    "MakeBroker",
    "MakePlace",
    "ManualClock",
    "Place",
    "StoreContract",
]

"""What tests need, for users as for choreo itself: a clock to move, and contracts to inherit."""

from choreo.testing.clock import ManualClock
from choreo.testing.contracts import BrokerContract, MakeBroker, MakePlace, Place, StoreContract
from choreo.testing.given import Done, Given, given

__all__ = [
    "BrokerContract",
    "Done",
    "Given",
    "MakeBroker",
    "MakePlace",
    "ManualClock",
    "Place",
    "StoreContract",
    "given",
]

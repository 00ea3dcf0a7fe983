"""Events of the payments service, and its views of inventory and shipping."""

from decimal import Decimal
from typing import Annotated

from pydantic import Field

from choreo import Event

Money = Annotated[Decimal, Field(max_digits=12, decimal_places=2)]


class PaymentCaptured(Event, topic="shop.payments", key="order_id"):
    """The customer has paid. `charge` is the provider's name for it."""

    order_id: str
    customer_id: str
    amount: Money
    charge: str


class PaymentDeclined(Event, topic="shop.payments", key="order_id", failure=True):
    """No money was taken, and none will be."""

    order_id: str
    reason: str


class PaymentTimedOut(Event, topic="shop.payments", key="order_id", failure=True):
    """Nobody knows in time whether the customer has paid."""

    order_id: str
    reason: str


class PaymentRefunded(Event, topic="shop.payments", key="order_id"):
    """The customer has the money back."""

    order_id: str
    amount: Money
    reason: str


class PaymentNotTaken(Event, topic="shop.payments", key="order_id"):
    """The order is off, and it turned out that there is nothing to give back."""

    order_id: str
    reason: str


class StockReserved(Event, topic="shop.inventory"):
    """Every line of the order is put aside."""

    order_id: str
    customer_id: str
    total: Decimal


class ShipmentFailed(Event, topic="shop.shipping"):
    """The order can not be sent."""

    order_id: str
    reason: str

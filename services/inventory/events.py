"""Events of the inventory service, and its views of orders, payments and shipping."""

from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, Field

from choreo import Event

Money = Annotated[Decimal, Field(max_digits=12, decimal_places=2)]


class Line(BaseModel):
    """So many units of one article."""

    sku: str
    quantity: int


class StockReserved(Event, topic="shop.inventory", key="order_id"):
    """Every line of the order is put aside. `total` is what the customer is to pay."""

    order_id: str
    customer_id: str
    total: Money


class OutOfStock(Event, topic="shop.inventory", key="order_id", failure=True):
    """Not every line could be put aside, so none was."""

    order_id: str
    reason: str


class StockReleased(Event, topic="shop.inventory", key="order_id"):
    """What was put aside is on hand again."""

    order_id: str
    reason: str


class StockShipped(Event, topic="shop.inventory", key="order_id"):
    """What was put aside has left the house."""

    order_id: str


class OrderAccepted(Event, topic="shop.orders"):
    """The order makes sense."""

    order_id: str
    customer_id: str
    lines: list[Line]
    total: Decimal


class PaymentDeclined(Event, topic="shop.payments"):
    """The customer can not pay."""

    order_id: str
    reason: str


class PaymentRefunded(Event, topic="shop.payments"):
    """The customer has the money back."""

    order_id: str
    reason: str


class PaymentNotTaken(Event, topic="shop.payments"):
    """There was no money to give back."""

    order_id: str
    reason: str


class OrderShipped(Event, topic="shop.shipping"):
    """The parcel is with the carrier."""

    order_id: str

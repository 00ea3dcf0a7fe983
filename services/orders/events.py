"""Events of the orders service, and its views of what inventory says."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, Field

from choreo import Event

Money = Annotated[Decimal, Field(max_digits=12, decimal_places=2)]
"""One currency, two places. A third place makes a line unreadable, not an order wrong."""
Name = Annotated[str, Field(min_length=1, max_length=200)]


class Line(BaseModel):
    """So many units of one article, at a price each."""

    sku: Name
    quantity: int
    unit_price: Money


class OrderPlaced(Event, topic="shop.orders", key="order_id"):
    """A customer wants this. Whether it makes sense is for `validate` to say."""

    order_id: Name
    customer_id: Name
    placed_at: datetime
    ship_country: str
    lines: list[Line]
    freight: Money
    total: Money


class OrderAccepted(Event, topic="shop.orders", key="order_id"):
    """The order makes sense; `total` is what it costs, freight included."""

    order_id: str
    customer_id: str
    lines: list[Line]
    total: Money


class OrderRejected(Event, topic="shop.orders", key="order_id", failure=True):
    """The order makes no sense; one sentence a reason."""

    order_id: str
    customer_id: str
    reasons: list[str]


class OrderCancelled(Event, topic="shop.orders", key="order_id", failure=True):
    """The order could not be carried out; nothing of it is left reserved or paid."""

    order_id: str
    customer_id: str
    reason: str


class OrderCompleted(Event, topic="shop.orders", key="order_id"):
    """The order is paid and on its way."""

    order_id: str
    total: Money


class OutOfStock(Event, topic="shop.inventory"):
    """Inventory could not fill the order."""

    order_id: str
    reason: str


class StockReleased(Event, topic="shop.inventory"):
    """Inventory took back what it had reserved for the order."""

    order_id: str
    reason: str


class StockShipped(Event, topic="shop.inventory"):
    """What was reserved for the order has left the house."""

    order_id: str

"""Events of the notifications service, and its views of orders and payments."""

from decimal import Decimal

from choreo import Event


class EmailSent(Event, topic="shop.notifications", key="order_id"):
    """The customer has a confirmation of payment."""

    order_id: str


class EmailSkipped(Event, topic="shop.notifications", key="order_id"):
    """The customer has no confirmation; the order goes on without."""

    order_id: str
    reason: str


class PaymentCaptured(Event, topic="shop.payments"):
    """The customer has paid."""

    order_id: str
    customer_id: str
    amount: Decimal


class OrderRejected(Event, topic="shop.orders"):
    """The order makes no sense."""

    order_id: str
    customer_id: str
    reasons: list[str]


class OrderCancelled(Event, topic="shop.orders"):
    """The order could not be carried out."""

    order_id: str
    customer_id: str
    reason: str

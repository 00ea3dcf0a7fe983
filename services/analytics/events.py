"""Events of the analytics service, and its view of payments."""

from decimal import Decimal

from choreo import Event


class AnalyticsRecorded(Event, topic="shop.analytics", key="order_id"):
    """The sale is counted."""

    order_id: str


class PaymentCaptured(Event, topic="shop.payments"):
    """The customer has paid."""

    order_id: str
    customer_id: str
    amount: Decimal

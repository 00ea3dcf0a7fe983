"""Events of the shipping service, and its views of payments, notifications and analytics."""

from choreo import Event


class OrderShipped(Event, topic="shop.shipping", key="order_id"):
    """The parcel is with the carrier, under its number `parcel`."""

    order_id: str
    parcel: str


class ShipmentFailed(Event, topic="shop.shipping", key="order_id", failure=True):
    """There is no parcel, and there will be none."""

    order_id: str
    reason: str


class PaymentCaptured(Event, topic="shop.payments"):
    """The customer has paid."""

    order_id: str
    customer_id: str


class EmailSent(Event, topic="shop.notifications"):
    """The customer has a confirmation."""

    order_id: str


class EmailSkipped(Event, topic="shop.notifications"):
    """The customer has no confirmation."""

    order_id: str


class AnalyticsRecorded(Event, topic="shop.analytics"):
    """The sale is counted."""

    order_id: str

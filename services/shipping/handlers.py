"""What the shipping service does: send what is paid for, once everybody is heard."""

import os
from collections.abc import AsyncIterator

from choreo import Failure, Retry, Service, Tx
from services.shipping.carrier import Carrier, CarrierRefusedError
from services.shipping.events import (
    AnalyticsRecorded,
    EmailSent,
    EmailSkipped,
    OrderShipped,
    PaymentCaptured,
    ShipmentFailed,
)

shipping = Service("shipping", migrations="migrations")


@shipping.resource
async def carrier() -> AsyncIterator[Carrier]:
    """Make the carrier; SHOP_SEED decides which parcels he refuses."""
    yield Carrier(int(os.environ.get("SHOP_SEED", "1")))


@shipping.join(within_s=60, retry=Retry(attempts_max=3, first_s=0.1, factor=4), timeout_s=10)
async def ship(
    paid: PaymentCaptured,
    email: EmailSent | EmailSkipped,
    analytics: AnalyticsRecorded | None,
    carrier: Carrier,
    tx: Tx,
) -> OrderShipped | ShipmentFailed:
    """Send the parcel when it is paid and the e-mail is settled; analytics may be missing."""
    try:
        parcel = await carrier.book(paid.order_id, paid.customer_id)
    except CarrierRefusedError as exc:
        return ShipmentFailed(order_id=paid.order_id, reason=f"refused: {exc}")
    await tx.execute(
        "INSERT INTO shipping_shipment (order_id, customer_id, parcel) VALUES ($1, $2, $3)",
        paid.order_id,
        paid.customer_id,
        parcel,
    )
    return OrderShipped(order_id=paid.order_id, parcel=parcel)


@shipping.otherwise(ship)
async def unshipped(
    arrived: PaymentCaptured | EmailSent | EmailSkipped | AnalyticsRecorded, why: Failure
) -> ShipmentFailed:
    """Give up a parcel that could not be sent."""
    return ShipmentFailed(
        order_id=arrived.order_id, reason=f"not sent: {why.reason} ({why.message})"
    )

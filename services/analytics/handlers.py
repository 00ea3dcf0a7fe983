"""What the analytics service does: one row a sale."""

from choreo import Context, Service, Tx
from services.analytics.events import AnalyticsRecorded, PaymentCaptured

analytics = Service("analytics", migrations="migrations")


@analytics.on(PaymentCaptured, timeout_s=10)
async def record(paid: PaymentCaptured, ctx: Context, tx: Tx) -> AnalyticsRecorded:
    """Count a sale, on the day (UTC) of its payment."""
    await tx.execute(
        "INSERT INTO analytics_sale (order_id, customer_id, cents, sold_on) "
        "VALUES ($1, $2, $3, $4)",
        paid.order_id,
        paid.customer_id,
        int(paid.amount.scaleb(2)),
        ctx.now.date().isoformat(),
    )
    return AnalyticsRecorded(order_id=paid.order_id)

"""What the orders service does: the first and the last word about every order."""

from collections.abc import Iterator
from decimal import Decimal

from choreo import HandlerError, Retry, Service, Tx
from services.orders.events import (
    OrderAccepted,
    OrderCancelled,
    OrderCompleted,
    OrderPlaced,
    OrderRejected,
    OutOfStock,
    StockReleased,
    StockShipped,
)

QUANTITY_MAX = 1_000_000

orders = Service("orders", migrations="migrations")

order = orders.flow(
    "order",
    starts=OrderPlaced,
    ends=(OrderCompleted, OrderCancelled, OrderRejected),
    deadline_s=3600,
    owner="shop",
    purpose="From basket to parcel",
)


def objections(placed: OrderPlaced) -> Iterator[str]:
    """Yield one sentence for each thing that is wrong with an order."""
    if not placed.lines:
        yield "the order has no lines"
    for line in placed.lines:
        if not 1 <= line.quantity <= QUANTITY_MAX:
            yield f"{line.sku}: quantity is {line.quantity}, not 1 to {QUANTITY_MAX}"
        if line.unit_price < 0:
            yield f"{line.sku}: the price {line.unit_price} is negative"
    if placed.freight < 0:
        yield f"the freight {placed.freight} is negative"
    price = sum((line.quantity * line.unit_price for line in placed.lines), placed.freight)
    if price != placed.total:
        yield f"the total is {placed.total}, lines and freight make {price}"


@orders.on(OrderPlaced, retry=Retry(attempts_max=8, first_s=0.2, factor=3, jitter=0.2))
async def validate(placed: OrderPlaced, tx: Tx) -> OrderAccepted | OrderRejected:
    """Accept an order that makes sense and was not accepted before."""
    reasons = list(objections(placed))
    if not reasons:
        new = await tx.execute(
            "INSERT INTO orders_order (order_id, customer_id, total_cents, status) "
            "VALUES ($1, $2, $3, 'accepted') ON CONFLICT (order_id) DO NOTHING",
            placed.order_id,
            placed.customer_id,
            int(placed.total.scaleb(2)),
        )
        if not new:
            reasons = [f"an order {placed.order_id} was accepted before"]
    if reasons:
        return OrderRejected(
            order_id=placed.order_id, customer_id=placed.customer_id, reasons=reasons
        )
    return OrderAccepted(
        order_id=placed.order_id,
        customer_id=placed.customer_id,
        lines=placed.lines,
        total=placed.total,
    )


@orders.on(OutOfStock, StockReleased)
async def cancel(why: OutOfStock | StockReleased, tx: Tx) -> OrderCancelled:
    """Close the order: it was never reserved, or is reserved no more."""
    customer_id, _ = await _close(why.order_id, "cancelled", tx)
    return OrderCancelled(order_id=why.order_id, customer_id=customer_id, reason=why.reason)


@orders.on(StockShipped)
async def complete(shipped: StockShipped, tx: Tx) -> OrderCompleted:
    """Close the order: all that it needs has happened."""
    _, total = await _close(shipped.order_id, "completed", tx)
    return OrderCompleted(order_id=shipped.order_id, total=total)


async def _close(order_id: str, status: str, tx: Tx) -> tuple[str, Decimal]:
    """Move the order to its end, from which nothing moves it on; give customer and total."""
    closed = await tx.fetch(
        "UPDATE orders_order SET status = $1 WHERE order_id = $2 AND status = 'accepted' "
        "RETURNING customer_id, total_cents",
        status,
        order_id,
    )
    if not closed:
        raise HandlerError("no open order of this number", order_id=order_id, wanted=status)
    return str(closed[0]["customer_id"]), Decimal(int(closed[0]["total_cents"])).scaleb(-2)

"""What the inventory service does: every line of an order, or none."""

from choreo import Failure, HandlerError, Retry, Service, Tx
from services.inventory.events import (
    Line,
    OrderAccepted,
    OrderShipped,
    OutOfStock,
    PaymentDeclined,
    PaymentNotTaken,
    PaymentRefunded,
    StockReleased,
    StockReserved,
    StockShipped,
)

inventory = Service("inventory", migrations="migrations")


def wanted(lines: list[Line]) -> dict[str, int]:
    """Sum the quantities by SKU, in order of SKU: the order in which rows are taken."""
    total: dict[str, int] = {}
    for line in lines:
        total[line.sku] = total.get(line.sku, 0) + line.quantity
    return dict(sorted(total.items()))


@inventory.on(
    OrderAccepted, retry=Retry(attempts_max=4, first_s=1, factor=5, jitter=0.2), timeout_s=5
)
async def reserve(order: OrderAccepted, tx: Tx) -> StockReserved | OutOfStock:
    """Put every line aside, or none. An unknown SKU is out of stock."""
    quantities = wanted(order.lines)
    short = []
    for sku, quantity in quantities.items():
        on_hand = await tx.fetchval("SELECT on_hand FROM inventory_stock WHERE sku = $1", sku)
        if on_hand is None:
            short.append(f"{sku} is unknown")
        elif on_hand < quantity:
            short.append(f"{sku}: {quantity} wanted, {on_hand} on hand")
    if short:
        return OutOfStock(order_id=order.order_id, reason="; ".join(short))
    for sku, quantity in quantities.items():
        await tx.execute(
            "UPDATE inventory_stock SET on_hand = on_hand - $1, reserved = reserved + $1 "
            "WHERE sku = $2",
            quantity,
            sku,
        )
        await tx.execute(
            "INSERT INTO inventory_reservation (order_id, sku, quantity, status) "
            "VALUES ($1, $2, $3, 'reserved')",
            order.order_id,
            sku,
            quantity,
        )
    return StockReserved(order_id=order.order_id, customer_id=order.customer_id, total=order.total)


@inventory.otherwise(reserve)
async def unfilled(order: OrderAccepted, why: Failure) -> OutOfStock:
    """Give up an order that could not be reserved: for the customer it is out of stock."""
    return OutOfStock(order_id=order.order_id, reason=f"not reserved: {why.reason} ({why.error})")


@inventory.compensate(StockReserved, on=(PaymentDeclined, PaymentRefunded, PaymentNotTaken))
async def release(
    reserved: StockReserved, why: PaymentDeclined | PaymentRefunded | PaymentNotTaken, tx: Tx
) -> StockReleased:
    """Take back what was put aside."""
    for sku, quantity in await _settle(reserved.order_id, "released", tx):
        await tx.execute(
            "UPDATE inventory_stock SET on_hand = on_hand + $1, reserved = reserved - $1 "
            "WHERE sku = $2",
            quantity,
            sku,
        )
    return StockReleased(order_id=reserved.order_id, reason=why.reason)


@inventory.on(OrderShipped)
async def ship_out(shipped: OrderShipped, tx: Tx) -> StockShipped:
    """Book out what was put aside."""
    for sku, quantity in await _settle(shipped.order_id, "shipped", tx):
        await tx.execute(
            "UPDATE inventory_stock SET reserved = reserved - $1, shipped = shipped + $1 "
            "WHERE sku = $2",
            quantity,
            sku,
        )
    return StockShipped(order_id=shipped.order_id)


async def _settle(order_id: str, status: str, tx: Tx) -> list[tuple[str, int]]:
    """Move the order's reservation to its end; give SKU and quantity, in order of SKU."""
    rows = await tx.fetch(
        "UPDATE inventory_reservation SET status = $1 "
        "WHERE order_id = $2 AND status = 'reserved' RETURNING sku, quantity",
        status,
        order_id,
    )
    if not rows:
        raise HandlerError("nothing is reserved for this order", order_id=order_id, wanted=status)
    return sorted((str(row["sku"]), int(row["quantity"])) for row in rows)

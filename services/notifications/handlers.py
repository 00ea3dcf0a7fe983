"""What the notifications service does: tell customers, and never fail an order over it."""

import os
from collections.abc import AsyncIterator

from choreo import Context, Failure, Retry, Service, Tx
from services.notifications.events import (
    EmailSent,
    EmailSkipped,
    OrderCancelled,
    OrderRejected,
    PaymentCaptured,
)
from services.notifications.mailer import Mailer, NoMailboxError

notifications = Service("notifications", migrations="migrations")


@notifications.resource
async def mailer() -> AsyncIterator[Mailer]:
    """Make the mailer; SHOP_SEED decides which letters it loses."""
    yield Mailer(int(os.environ.get("SHOP_SEED", "1")))


@notifications.on(
    PaymentCaptured,
    retry=Retry(attempts_max=3, first_s=0.1, factor=4, never=(NoMailboxError,)),
    timeout_s=10,
)
async def confirm(paid: PaymentCaptured, ctx: Context, mailer: Mailer, tx: Tx) -> EmailSent:
    """Confirm a payment."""
    text = f"Order {paid.order_id}: we have received {paid.amount}."
    await mailer.send(paid.customer_id, text, order_id=paid.order_id, attempt=ctx.attempt)
    await _note(tx, ctx.idempotency_key, paid.order_id, paid.customer_id, text)
    return EmailSent(order_id=paid.order_id)


@notifications.otherwise(confirm)
async def skip(paid: PaymentCaptured, why: Failure) -> EmailSkipped:
    """Go on without a confirmation."""
    return EmailSkipped(order_id=paid.order_id, reason=f"{why.reason}: {why.message}")


@notifications.on(OrderRejected, OrderCancelled, retry=Retry(attempts_max=8, first_s=0.1, factor=4))
async def tell(
    bad_news: OrderRejected | OrderCancelled, ctx: Context, mailer: Mailer, tx: Tx
) -> None:
    """Tell the customer why there will be no parcel; who has no mailbox gets a real letter."""
    order_id, recipient = bad_news.order_id, bad_news.customer_id
    text = f"Order {order_id} can not be carried out: {_reason(bad_news)}."
    try:
        await mailer.send(recipient, text, order_id=order_id, attempt=ctx.attempt)
    except NoMailboxError:
        text = f"By post. {text}"
    await _note(tx, ctx.idempotency_key, order_id, recipient, text)


def _reason(bad_news: OrderRejected | OrderCancelled) -> str:
    if isinstance(bad_news, OrderRejected):
        return "; ".join(bad_news.reasons)
    return bad_news.reason


async def _note(tx: Tx, key: str, order_id: str, recipient: str, text: str) -> None:
    await tx.execute(
        "INSERT INTO notifications_sent (letter_key, order_id, recipient, text) "
        "VALUES ($1, $2, $3, $4)",
        key,
        order_id,
        recipient,
        text,
    )

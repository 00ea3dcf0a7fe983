"""What the payments service does: take the money once, know what became of it, give it back."""

import asyncio
import os
from collections.abc import AsyncIterator
from decimal import Decimal
from functools import partial

from choreo import Context, Failure, Retry, Service, Tx
from services.payments.events import (
    PaymentCaptured,
    PaymentDeclined,
    PaymentNotTaken,
    PaymentRefunded,
    PaymentTimedOut,
    ShipmentFailed,
    StockReserved,
)
from services.payments.provider import Charge, PaymentProvider, Refund, make_client

WITHIN_S = float(os.environ.get("PAYMENT_WITHIN_S", "1800"))
"""How long a payment may take: half an hour, unless the environment says otherwise."""
INSERT = (
    "INSERT INTO payments_ledger (entry_key, order_id, kind, charge, cents) "
    "VALUES ($1, $2, $3, $4, $5)"
)

payments = Service("payments", migrations="migrations")


@payments.resource
async def provider() -> AsyncIterator[PaymentProvider]:
    """Keep one HTTP client for as long as the service runs."""
    # Made in a thread: it reads certificates from the disk.
    async with await asyncio.to_thread(make_client) as client:
        yield PaymentProvider(client)


@payments.on(
    StockReserved, retry=Retry(attempts_max=4, first_s=0.2, factor=3, jitter=0.2), timeout_s=30
)
async def capture(
    reserved: StockReserved, ctx: Context, provider: PaymentProvider, tx: Tx
) -> PaymentCaptured | PaymentDeclined:
    """Charge the customer. An answer that never came is asked for again, with the same key."""
    order_id, key = reserved.order_id, ctx.idempotency_key
    charge = partial(provider.charge, reserved.total, order_id=order_id, key=key)
    # A step that fails for good after it has charged gives the money back.
    back = partial(_give_back, provider, amount=reserved.total, key=f"{key}-undo")
    answer = await ctx.once("charge", charge, returns=Charge, undo=back)
    if answer.charge is None:
        return PaymentDeclined(order_id=order_id, reason=f"declined: {answer.declined}")
    cents = int(reserved.total.scaleb(2))
    await tx.execute(INSERT, key, order_id, "capture", answer.charge, cents)
    return PaymentCaptured(
        order_id=order_id,
        customer_id=reserved.customer_id,
        amount=reserved.total,
        charge=answer.charge,
    )


async def _give_back(
    provider: PaymentProvider, answer: Charge, *, amount: Decimal, key: str
) -> None:
    if answer.charge is not None:
        await provider.refund(answer.charge, amount, key=key)


@payments.otherwise(capture)
async def gave_up(reserved: StockReserved, why: Failure) -> PaymentDeclined:
    """Decline what could not be charged: every attempt certainly took nothing."""
    return PaymentDeclined(
        order_id=reserved.order_id, reason=f"not charged: {why.reason} ({why.message})"
    )


@payments.expects(PaymentCaptured, PaymentDeclined, after=StockReserved, within_s=WITHIN_S)
async def overdue(reserved: StockReserved) -> PaymentTimedOut:
    """Call it off when nobody knows in time."""
    return PaymentTimedOut(
        order_id=reserved.order_id, reason=f"payment not answered in {WITHIN_S:g} s"
    )


@payments.compensate(PaymentCaptured, on=(PaymentTimedOut, ShipmentFailed), nothing=PaymentNotTaken)
async def refund(
    captured: PaymentCaptured,
    why: PaymentTimedOut | ShipmentFailed,
    ctx: Context,
    provider: PaymentProvider,
    tx: Tx,
) -> PaymentRefunded:
    """Give the money back, as soon as it is known that it was taken."""
    key = ctx.idempotency_key
    give_back = partial(provider.refund, captured.charge, captured.amount, key=key)
    await ctx.once("refund", give_back, returns=Refund)
    cents = int(captured.amount.scaleb(2))
    await tx.execute(INSERT, key, captured.order_id, "refund", captured.charge, cents)
    return PaymentRefunded(order_id=captured.order_id, amount=captured.amount, reason=why.reason)

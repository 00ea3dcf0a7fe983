"""The order flow from end to end: every way that an order can go."""

from collections.abc import Callable
from decimal import Decimal

import pytest

from services.analytics import analytics
from services.notifications.mailer import MailError, NoMailboxError
from services.orders.events import (
    Line,
    OrderCancelled,
    OrderCompleted,
    OrderPlaced,
    OrderRejected,
)
from services.shipping.carrier import CarrierBusyError, CarrierRefusedError
from tests.services.places import everywhere
from tests.services.shop import Shop, placed

HALF_AN_HOUR_S = 1800.0
pytestmark = everywhere


async def goes(shop: Shop, order: OrderPlaced, *, wait_s: float = 0.0) -> object:
    """Stock ten A and five B, place the order, let time pass, give the end event."""
    await shop.stock(A=10, B=5)
    async with shop.open() as app:
        flow = await app.publish(order, id=order.order_id)
        await shop.clock.advance(wait_s)
        end = await app.outcome(flow, within_s=5)
        await shop.clock.advance(1)
        return end


def nothing_happened(shop: Shop) -> bool:
    """Tell whether stock and money are as at the beginning."""
    untouched = shop.on_shelf() == {"A": (10, 0, 0), "B": (5, 0, 0)}
    captured = sum(cents for kind, cents in shop.booked() if kind == "capture")
    refunded = sum(cents for kind, cents in shop.booked() if kind == "refund")
    return untouched and captured == refunded and shop.bank.kept() == 0


async def test_an_order_is_shipped(shop: Shop) -> None:
    end = await goes(shop, placed())
    assert end == OrderCompleted(order_id="1", total=Decimal("35.00"))
    assert shop.on_shelf() == {"A": (8, 0, 2), "B": (4, 0, 1)}
    assert shop.booked() == [("capture", 3500)]
    assert shop.bank.kept() == 3500
    assert shop.post.letters == ["Order 1: we have received 35.00."]
    assert shop.rows("SELECT parcel FROM shipping_shipment") == [("parcel-1",)]
    assert shop.rows("SELECT order_id, cents, sold_on FROM analytics_sale") == [
        ("1", 3500, "2026-01-01")
    ]
    assert shop.kinds() == [
        "AnalyticsRecorded",
        "EmailSent",
        "OrderAccepted",
        "OrderCompleted",
        "OrderPlaced",
        "OrderShipped",
        "PaymentCaptured",
        "StockReserved",
        "StockShipped",
    ]


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (placed(lines=[]), "no lines"),
        (placed("1", ("A", 0)), "quantity is 0"),
        (placed("1", ("A", -1), ("B", 2)), "quantity is -1"),
        (placed("1", ("A", 1_000_001)), "quantity is 1000001"),
        (placed(total="35.01"), "the total is 35.01"),
        (placed(freight="-5.00", total="25.00"), "the freight -5.00 is negative"),
        (
            placed(lines=[Line(sku="A", quantity=1, unit_price=Decimal("-1.00"))], total="4.00"),
            "the price -1.00 is negative",
        ),
    ],
)
async def test_an_order_that_makes_no_sense_is_rejected(
    shop: Shop, order: OrderPlaced, reason: str
) -> None:
    end = await goes(shop, order)
    assert isinstance(end, OrderRejected)
    assert reason in " ".join(end.reasons)
    assert shop.told(reason)
    assert nothing_happened(shop)


async def test_an_order_is_accepted_once_whatever_it_is_called(shop: Shop) -> None:
    await shop.stock(A=10, B=5)
    async with shop.open() as app:
        first = await app.publish(placed(), id="basket-1")
        assert isinstance(await app.outcome(first, within_s=5), OrderCompleted)
        second = await app.publish(placed(), id="basket-2")
        end = await app.outcome(second, within_s=5)
    assert isinstance(end, OrderRejected)
    assert shop.bank.kept() == 3500


async def test_a_rejected_order_may_be_placed_again_corrected(shop: Shop) -> None:
    await shop.stock(A=10, B=5)
    async with shop.open() as app:
        first = await app.publish(placed(total="1.00"), id="basket-1")
        assert isinstance(await app.outcome(first, within_s=5), OrderRejected)
        second = await app.publish(placed(), id="basket-2")
        assert isinstance(await app.outcome(second, within_s=5), OrderCompleted)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([("A", 2), ("B", 6)], "B: 6 wanted, 5 on hand"),
        ([("A", 1), ("C", 1)], "C is unknown"),
        ([("B", 3), ("A", 1), ("B", 3)], "B: 6 wanted, 5 on hand"),
    ],
)
async def test_an_order_that_can_not_be_filled_is_cancelled(
    shop: Shop, lines: list[tuple[str, int]], reason: str
) -> None:
    end = await goes(shop, placed("1", *lines))
    assert isinstance(end, OrderCancelled)
    assert end.reason == reason
    assert nothing_happened(shop)
    assert shop.booked() == []
    assert shop.rows("SELECT * FROM inventory_reservation") == []


async def test_lines_of_one_article_are_summed(shop: Shop) -> None:
    end = await goes(shop, placed("1", ("B", 2), ("A", 1), ("B", 3)))
    assert isinstance(end, OrderCompleted)
    assert shop.on_shelf() == {"A": (9, 0, 1), "B": (0, 0, 5)}


async def test_an_order_that_inventory_can_not_look_up_is_out_of_stock(shop: Shop) -> None:
    await shop.stock(A=10, B=5)
    async with shop.open() as app:
        shop.write("ALTER TABLE inventory_stock RENAME TO inventory_gone")
        flow = await app.publish(placed())
        await shop.clock.advance(60)
        end = await app.outcome(flow, within_s=5)
    assert isinstance(end, OrderCancelled)
    assert end.reason.startswith("not reserved: attempts used up")


async def test_a_declined_payment_releases_the_stock(shop: Shop) -> None:
    shop.bank.mood = lambda path, attempt: "declined"
    end = await goes(shop, placed())
    assert isinstance(end, OrderCancelled)
    assert end.reason == "declined: insufficient funds"
    assert shop.told("declined: insufficient funds")
    assert nothing_happened(shop)
    assert shop.booked() == []
    assert {"PaymentDeclined", "StockReleased"} <= set(shop.kinds())


@pytest.mark.parametrize("mood", ["refused", "down"])
async def test_a_provider_that_takes_no_calls_declines(shop: Shop, mood: str) -> None:
    shop.bank.mood = lambda path, attempt: mood
    end = await goes(shop, placed(), wait_s=60)
    assert isinstance(end, OrderCancelled)
    assert end.reason.startswith("not charged: attempts used up")
    assert shop.bank.calls == ["/charges"] * 4
    assert nothing_happened(shop)
    assert "PaymentTimedOut" not in shop.kinds()


@pytest.mark.parametrize("mood", ["error", "lost", "refused", "down"])
async def test_one_bad_answer_charges_once(shop: Shop, mood: str) -> None:
    shop.bank.mood = lambda path, attempt: mood if attempt == 1 else "plain"
    end = await goes(shop, placed(), wait_s=5)
    assert isinstance(end, OrderCompleted)
    assert len(shop.bank.calls) == 2
    assert len(shop.bank.charges) == 1
    assert shop.booked() == [("capture", 3500)]


@pytest.mark.parametrize("mood", ["error", "lost"])
async def test_unknown_is_not_failed_however_often(shop: Shop, mood: str) -> None:
    shop.bank.mood = lambda path, attempt: mood if attempt <= 10 else "plain"
    end = await goes(shop, placed(), wait_s=600)
    assert isinstance(end, OrderCompleted)
    assert len(shop.bank.calls) == 11
    assert shop.booked() == [("capture", 3500)]


async def test_a_charge_that_succeeded_is_refunded_after_half_an_hour_of_silence(
    shop: Shop,
) -> None:
    shop.bank.mood = lambda path, attempt: "lost"
    await shop.stock(A=10, B=5)
    async with shop.open() as app:
        flow = await app.publish(placed())
        await shop.clock.advance(HALF_AN_HOUR_S - 1)
        assert "PaymentTimedOut" not in shop.kinds()
        await shop.clock.advance(2)
        assert "PaymentTimedOut" in shop.kinds()
        # The money may be gone: nothing is released before that is known.
        await shop.clock.advance(HALF_AN_HOUR_S)
        assert shop.on_shelf()["A"] == (8, 2, 0)
        assert not {"PaymentRefunded", "PaymentNotTaken", "StockReleased"} & set(shop.kinds())
        shop.bank.mood = lambda path, attempt: "plain"
        await shop.clock.advance(120)
        end = await app.outcome(flow, within_s=5)
    assert isinstance(end, OrderCancelled)
    assert end.reason == "payment not answered in 1800 s"
    assert shop.booked() == [("capture", 3500), ("refund", 3500)]
    assert len(shop.bank.charges) == len(shop.bank.refunds) == 1
    assert nothing_happened(shop)
    kinds = shop.kinds()
    assert {"PaymentRefunded", "StockReleased"} <= set(kinds)
    assert not {"PaymentNotTaken", "EmailSent", "AnalyticsRecorded", "OrderShipped"} & set(kinds)


@pytest.mark.parametrize("fate", ["declined", "refused", "down"])
async def test_half_an_hour_of_silence_and_then_no_money(shop: Shop, fate: str) -> None:
    shop.bank.mood = lambda path, attempt: "error"
    await shop.stock(A=10, B=5)
    async with shop.open() as app:
        flow = await app.publish(placed())
        await shop.clock.advance(HALF_AN_HOUR_S + 1)
        assert "PaymentTimedOut" in shop.kinds()
        assert "PaymentNotTaken" not in shop.kinds()
        shop.bank.mood = lambda path, attempt: fate
        await shop.clock.advance(120)
        end = await app.outcome(flow, within_s=5)
    assert isinstance(end, OrderCancelled)
    assert end.reason == "payment not answered in 1800 s"
    assert nothing_happened(shop)
    assert shop.booked() == []
    assert "PaymentNotTaken" in shop.kinds()


async def test_a_payment_just_in_time_stands(shop: Shop) -> None:
    shop.bank.mood = lambda path, attempt: "error"
    await shop.stock(A=10, B=5)
    async with shop.open() as app:
        flow = await app.publish(placed())
        await shop.clock.advance(HALF_AN_HOUR_S - 120)
        shop.bank.mood = lambda path, attempt: "plain"
        await shop.clock.advance(119)
        assert isinstance(await app.outcome(flow, within_s=5), OrderCompleted)
        await shop.clock.advance(HALF_AN_HOUR_S)
    assert "PaymentTimedOut" not in shop.kinds()
    assert shop.booked() == [("capture", 3500)]


@pytest.mark.parametrize(
    ("error", "attempts"), [(MailError("full"), 3), (NoMailboxError("none"), 1)]
)
async def test_an_e_mail_that_fails_never_fails_an_order(
    shop: Shop, error: Exception, attempts: int
) -> None:
    shop.post.error = error
    end = await goes(shop, placed(), wait_s=5)
    assert isinstance(end, OrderCompleted)
    assert shop.post.attempts == attempts
    assert "EmailSkipped" in shop.kinds()
    assert "EmailSent" not in shop.kinds()


async def test_who_has_no_mailbox_is_told_by_post(shop: Shop) -> None:
    shop.post.error = NoMailboxError("none")
    end = await goes(shop, placed(lines=[]))
    assert isinstance(end, OrderRejected)
    ((text,),) = shop.rows("SELECT text FROM notifications_sent")
    assert text.startswith("By post. Order 1 can not be carried out: the order has no lines")


async def test_analytics_may_be_missing_and_come_late(shop: Shop) -> None:
    await shop.stock(A=10, B=5)
    async with shop.open(without=[analytics]) as app:
        flow = await app.publish(placed())
        await shop.clock.advance(59)
        assert "OrderShipped" not in shop.kinds()
        await shop.clock.advance(2)
        assert isinstance(await app.outcome(flow, within_s=5), OrderCompleted)
        assert "AnalyticsRecorded" not in shop.kinds()
    async with shop.open():
        await shop.clock.advance(120)
    assert shop.kinds().count("AnalyticsRecorded") == 1
    assert shop.kinds().count("OrderShipped") == 1
    assert shop.rows("SELECT count(*) FROM shipping_shipment") == [(1,)]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (CarrierRefusedError("no delivery to C1"), "refused: no delivery to C1"),
        (CarrierBusyError("no van"), "not sent: attempts used up (no van)"),
    ],
)
async def test_a_failed_shipment_is_refunded_then_released(
    shop: Shop, error: Exception, reason: str
) -> None:
    shop.van.error = error
    end = await goes(shop, placed(), wait_s=10)
    assert isinstance(end, OrderCancelled)
    assert end.reason == reason
    assert shop.booked() == [("capture", 3500), ("refund", 3500)]
    assert nothing_happened(shop)
    in_order = [kind for kind in shop.kinds(sort=False) if kind in UNDONE]
    assert in_order == list(UNDONE)


UNDONE = ("ShipmentFailed", "PaymentRefunded", "StockReleased", "OrderCancelled")


@pytest.mark.parametrize("mood", ["error", "lost", "refused", "down"])
async def test_a_refund_is_tried_until_it_is_known(shop: Shop, mood: str) -> None:
    shop.van.error = CarrierRefusedError("no")
    shop.bank.mood = lambda path, attempt: mood if path == "/refunds" and attempt <= 12 else "plain"
    await shop.stock(A=10, B=5)
    async with shop.open() as app:
        flow = await app.publish(placed())
        await shop.clock.advance(10)
        assert shop.on_shelf()["A"] == (8, 2, 0)
        await shop.clock.advance(1200)
        assert isinstance(await app.outcome(flow, within_s=5), OrderCancelled)
    assert shop.bank.calls.count("/refunds") == 13
    assert len(shop.bank.refunds) == 1
    assert shop.booked() == [("capture", 3500), ("refund", 3500)]
    assert nothing_happened(shop)


async def test_orders_do_not_wait_for_each_other(shop: Shop) -> None:
    shop.bank.mood = lambda path, attempt: "error" if attempt <= 8 else "plain"
    await shop.stock(A=100, B=100)
    async with shop.open() as app:
        slow = await app.publish(placed("1"))
        await shop.clock.advance(0.05)
        quick = [await app.publish(placed(f"{n}", ("A", 0))) for n in range(2, 9)]
        for flow in quick:
            assert isinstance(await app.outcome(flow, within_s=5), OrderRejected)
        await shop.clock.advance(300)
        assert isinstance(await app.outcome(slow, within_s=5), OrderCompleted)


def good_day(shop: Shop) -> None:
    pass


def nobody_pays(shop: Shop) -> None:
    shop.bank.mood = lambda path, attempt: "declined"


def nobody_delivers(shop: Shop) -> None:
    shop.van.error = CarrierRefusedError("no")


def nobody_answers(shop: Shop) -> None:
    shop.bank.mood = lambda path, attempt: (
        "lost" if path == "/charges" and attempt < 40 else "plain"
    )


@pytest.mark.parametrize("day", [good_day, nobody_pays, nobody_delivers, nobody_answers])
async def test_every_event_may_come_twice(shop: Shop, day: Callable[[Shop], None]) -> None:
    day(shop)
    await shop.stock(A=10, B=5)
    async with shop.open() as app:
        flows = [await app.publish(one) for one in (placed("1"), placed("2", total="1.00"))]
        await shop.clock.advance(HALF_AN_HOUR_S + 300)
        ends = [await app.outcome(flow, within_s=5) for flow in flows]
        await shop.clock.advance(1)
        tables, kinds, letters = shop.tables(), shop.kinds(), list(shop.post.letters)
        again = [one for one in shop.history() if one.topic.startswith("shop.")]
        assert len(again) >= 8
        await app.broker.publish(again)
        await shop.clock.advance(HALF_AN_HOUR_S + 300)
        assert ends == [await app.outcome(flow, within_s=5) for flow in flows]
    assert shop.tables() == tables
    assert shop.kinds() == sorted(kinds * 2)
    assert shop.post.letters == letters
    assert len(shop.bank.charges) <= 1

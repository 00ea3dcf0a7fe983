"""Handlers as plain calls: what happened goes in, what happens comes out."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal

import pytest

from choreo import Failure, HandlerError, Service
from choreo.adapters.sqlite.tx import SqliteTx
from choreo.errors import StoreError
from services.inventory import events as stock
from services.inventory.handlers import inventory, release, reserve, ship_out, unfilled, wanted
from services.inventory.stock import Article, put
from services.notifications import events as letters
from services.notifications.handlers import skip
from services.notifications.mailer import Mailer, MailError, NoMailboxError
from services.orders import events as shop
from services.orders.handlers import cancel, complete, orders, validate
from services.payments import events as money
from services.payments.handlers import gave_up, overdue
from services.shipping import events as parcels
from services.shipping.carrier import Carrier, CarrierBusyError, CarrierRefusedError
from services.shipping.handlers import ship, shipping, unshipped
from tests.services.shop import Van, placed

pytestmark = pytest.mark.blocks("the tables are in memory, and the test waits for them itself")

WHY = Failure(reason="attempts used up", error="OSError", message="no disk", attempts=4)


@contextmanager
def tables(service: Service) -> Iterator[SqliteTx]:
    """Give a transaction on the service's own tables, empty, in memory."""
    assert service.migrations is not None
    connection = sqlite3.connect(":memory:")
    for file in sorted(service.migrations.iterdir()):
        connection.executescript(file.read_text())
    try:
        yield SqliteTx(connection)
    finally:
        connection.close()


def accepted(*lines: tuple[str, int]) -> stock.OrderAccepted:
    return stock.OrderAccepted(
        order_id="1",
        customer_id="C1",
        lines=[stock.Line(sku=sku, quantity=quantity) for sku, quantity in lines],
        total=Decimal("35.00"),
    )


async def shelf(tx: SqliteTx, **units: int) -> None:
    for line, (sku, some) in enumerate(units.items(), 2):
        assert await put(Article(line, sku, sku, some), tx)


async def on_shelf(tx: SqliteTx) -> dict[str, tuple[int, int, int]]:
    rows = await tx.fetch("SELECT * FROM inventory_stock ORDER BY sku")
    return {row["sku"]: (row["on_hand"], row["reserved"], row["shipped"]) for row in rows}


async def test_validate_keeps_what_it_accepts() -> None:
    with tables(orders) as tx:
        said = await validate(placed(), tx)
        assert isinstance(said, shop.OrderAccepted)
        assert said.total == Decimal("35.00")
        row = (await tx.fetch("SELECT * FROM orders_order"))[0]
        assert tuple(row.values()) == ("1", "C1", 3500, "accepted")
        assert isinstance(await validate(placed(), tx), shop.OrderRejected)


async def test_validate_names_every_reason() -> None:
    with tables(orders) as tx:
        said = await validate(placed("1", ("A", 0), ("B", -2), total="1.00"), tx)
    assert isinstance(said, shop.OrderRejected)
    assert len(said.reasons) == 3


async def test_an_order_ends_once() -> None:
    with tables(orders) as tx:
        await validate(placed(), tx)
        end = await complete(shop.StockShipped(order_id="1"), tx)
        assert end == shop.OrderCompleted(order_id="1", total=Decimal("35.00"))
        with pytest.raises(HandlerError, match="no open order"):
            await cancel(shop.OutOfStock(order_id="1", reason="gone"), tx)
        with pytest.raises(HandlerError, match="no open order"):
            await complete(shop.StockShipped(order_id="2"), tx)


async def test_reserve_takes_all_lines() -> None:
    with tables(inventory) as tx:
        await shelf(tx, A=10, B=5)
        said = await reserve(accepted(("B", 2), ("A", 1), ("B", 3)), tx)
        assert isinstance(said, stock.StockReserved)
        assert await on_shelf(tx) == {"A": (9, 1, 0), "B": (0, 5, 0)}


@pytest.mark.parametrize("lines", [[("A", 1), ("B", 6)], [("A", 1), ("C", 1)]])
async def test_reserve_takes_all_lines_or_none(lines: list[tuple[str, int]]) -> None:
    with tables(inventory) as tx:
        await shelf(tx, A=10, B=5)
        assert isinstance(await reserve(accepted(*lines), tx), stock.OutOfStock)
        assert await on_shelf(tx) == {"A": (10, 0, 0), "B": (5, 0, 0)}


async def test_what_is_reserved_is_released_or_shipped_once() -> None:
    paid_back = stock.PaymentNotTaken(order_id="1", reason="late")
    with tables(inventory) as tx:
        await shelf(tx, A=10)
        reserved = await reserve(accepted(("A", 4)), tx)
        assert isinstance(reserved, stock.StockReserved)
        assert (await release(reserved, paid_back, tx)).reason == "late"
        assert await on_shelf(tx) == {"A": (10, 0, 0)}
        with pytest.raises(HandlerError, match="nothing is reserved"):
            await release(reserved, paid_back, tx)
        with pytest.raises(HandlerError, match="nothing is reserved"):
            await ship_out(stock.OrderShipped(order_id="1"), tx)


async def test_ship_out_books_out() -> None:
    with tables(inventory) as tx:
        await shelf(tx, A=10)
        await reserve(accepted(("A", 4)), tx)
        await ship_out(stock.OrderShipped(order_id="1"), tx)
        assert await on_shelf(tx) == {"A": (6, 0, 4)}


async def test_stock_is_stated_again_and_corrected() -> None:
    with tables(inventory) as tx:
        await shelf(tx, A=10)
        await reserve(accepted(("A", 4)), tx)
        await shelf(tx, A=10)
        assert await on_shelf(tx) == {"A": (6, 4, 0)}
        await shelf(tx, A=5)
        assert await on_shelf(tx) == {"A": (1, 4, 0)}
        assert not await put(Article(2, "A", "A", 3), tx)
        assert await on_shelf(tx) == {"A": (1, 4, 0)}


@pytest.mark.parametrize("column", ["on_hand", "reserved", "shipped"])
async def test_the_tables_refuse_less_than_nothing(column: str) -> None:
    with tables(inventory) as tx:
        await shelf(tx, A=10)
        with pytest.raises(StoreError):
            await tx.execute(f"UPDATE inventory_stock SET {column} = -1, initial = 9")


async def test_ship_books_a_parcel() -> None:
    paid = parcels.PaymentCaptured(order_id="1", customer_id="C1")
    email = parcels.EmailSkipped(order_id="1")
    with tables(shipping) as tx:
        said = await ship(paid, email, None, Van(), tx)
        assert said == parcels.OrderShipped(order_id="1", parcel="parcel-1")
        assert await tx.fetchval("SELECT customer_id FROM shipping_shipment") == "C1"
        refused = await ship(paid, email, None, Van(error=CarrierRefusedError("no")), tx)
        assert refused == parcels.ShipmentFailed(order_id="1", reason="refused: no")


async def test_fallbacks_say_why() -> None:
    reserved = money.StockReserved(order_id="1", customer_id="C1", total=Decimal(3))
    paid = letters.PaymentCaptured(order_id="1", customer_id="C1", amount=Decimal(3))
    said = [
        (await unfilled(accepted(("A", 1)), WHY)).reason,
        (await gave_up(reserved, WHY)).reason,
        (await skip(paid, WHY)).reason,
        (await unshipped(parcels.EmailSent(order_id="1"), WHY)).reason,
    ]
    assert all("attempts used up" in reason for reason in said)
    assert (await overdue(reserved)).reason == "payment not answered in 1800 s"


def test_lines_are_summed_in_order_of_their_articles() -> None:
    lines = [stock.Line(sku=sku, quantity=quantity) for sku, quantity in [("B", 1), ("A", 2)] * 2]
    assert list(wanted(lines).items()) == [("A", 4), ("B", 2)]


async def test_a_seed_decides_which_letters_are_lost() -> None:
    outcomes = []
    for seed in (1, 1, 2):
        said = []
        for number in range(300):
            try:
                await Mailer(seed).send("C1", "text", order_id=f"{number}", attempt=1)
                said.append("sent")
            except NoMailboxError:
                said.append("never")
            except MailError:
                said.append("later")
        outcomes.append(said)
    assert outcomes[0] == outcomes[1] != outcomes[2]
    assert set(outcomes[0]) == {"sent", "never", "later"}
    with pytest.raises(MailError, match="empty"):
        await Mailer().send("C1", "", order_id="1", attempt=1)


async def test_a_seed_decides_which_parcels_are_refused() -> None:
    outcomes = []
    for seed in (1, 1, 2):
        said = []
        for number in range(300):
            try:
                said.append(await Carrier(seed).book(f"{number}", "C1"))
            except CarrierRefusedError:
                said.append("refused")
            except CarrierBusyError:
                said.append("busy")
        outcomes.append(said)
    assert outcomes[0] == outcomes[1] != outcomes[2]
    assert {"refused", "busy"} < set(outcomes[0])

"""The shop's invariants: silent about what is right, one sentence about each thing that is not."""

import asyncio
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import Any

import pytest

from choreo.audit import Evidence
from services.invariants import ledger, money, stock
from services.orders.events import OrderCancelled, OrderCompleted
from services.provider.ledger import TABLES
from services.shipping.carrier import CarrierRefusedError
from tests.services.shop import Shop, placed

COMPLETED, CANCELLED, OPEN = "1", "2", "3"


def evidence(shop: Shop) -> Evidence:
    def rows(sql: str, *values: object) -> list[Mapping[str, Any]]:
        with closing(sqlite3.connect(shop.folder / "choreo.db")) as db:
            db.row_factory = sqlite3.Row
            return [dict(row) for row in db.execute(sql, values)]

    return Evidence(shop.history(), rows, shop.folder)


def provider(shop: Shop, *statements: str) -> None:
    with closing(sqlite3.connect(shop.folder / "provider.db")) as db, db:
        for statement in statements:
            db.execute(statement)


async def judged(shop: Shop) -> list[str]:
    return await asyncio.to_thread(_judged, shop)


def _judged(shop: Shop) -> list[str]:
    found: list[Iterable[str]] = [one(evidence(shop)) for one in (money, stock, ledger)]
    return [sentence for sentences in found for sentence in sentences]


@pytest.fixture
async def run(shop: Shop) -> Shop:
    """A shop with an order that was completed, one that was undone, one that is on its way."""
    await shop.stock(A=10, B=5)
    async with shop.open() as app:
        flow = await app.publish(placed(COMPLETED))
        assert isinstance(await app.outcome(flow, within_s=5), OrderCompleted)
        shop.van.error = CarrierRefusedError("no")
        flow = await app.publish(placed(CANCELLED))
        assert isinstance(await app.outcome(flow, within_s=5), OrderCancelled)
        await shop.clock.advance(1)
        shop.bank.mood = lambda path, attempt: "lost"
        await app.publish(placed(OPEN))
        await shop.clock.advance(1)
    with closing(sqlite3.connect(shop.folder / "provider.db")) as db, db:
        db.executescript(TABLES)
        for key, (order_id, cents) in shop.bank.charges.items():
            values = (f"ch-{key}", key, order_id, cents)
            db.execute("INSERT INTO charge VALUES (?, ?, ?, ?)", values)
        for key, (charge, cents) in shop.bank.refunds.items():
            db.execute("INSERT INTO refund VALUES (?, ?, ?, ?)", (f"re-{key}", key, charge, cents))
    return shop


async def test_what_is_right_is_not_mentioned(run: Shop) -> None:
    assert await judged(run) == []


@pytest.mark.parametrize(
    ("statement", "sentences"),
    [
        (f"DELETE FROM payments_ledger WHERE order_id = '{COMPLETED}'", ["kept", "booked as"]),
        ("DELETE FROM payments_ledger WHERE kind = 'refund'", ["kept", "booked as"]),
        ("UPDATE payments_ledger SET order_id = '9'", ["never placed", "kept", "kept", *["b"] * 2]),
        ("UPDATE payments_ledger SET cents = 1 WHERE kind = 'capture'", ["refunded", "kept"]),
        ("UPDATE inventory_stock SET initial = 11 WHERE sku = 'A'", ["11 at first"]),
        ("UPDATE inventory_stock SET on_hand = -1, reserved = 9", ["below nothing"]),
        (
            "UPDATE inventory_reservation SET status = 'shipped'",
            ["reserved, 0 by order", "order 2: not completed, and its units left"],
        ),
        ("DELETE FROM shipping_shipment", ["order 1: completed, and its parcel never left"]),
        (
            "INSERT INTO shipping_shipment VALUES ('2', 'C1', 'x')",
            ["order 2: not completed, and its parcel left"],
        ),
    ],
)
async def test_what_is_wrong_in_the_store_is_told(
    run: Shop, statement: str, sentences: list[str]
) -> None:
    with closing(sqlite3.connect(run.folder / "choreo.db")) as db, db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        db.execute(statement)
    found = await judged(run)
    for sentence in sentences:
        assert any(sentence in one for one in found), found


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        (f"DELETE FROM charge WHERE order_id = '{COMPLETED}'", "unknown to the provider"),
        ("DELETE FROM refund", "the provider has order 2: 3500 − 0 cents"),
        ("UPDATE charge SET cents = cents + 1", "the provider has"),
        (f"INSERT INTO charge VALUES ('x', 'x', '{COMPLETED}', 1)", "charged more than once"),
    ],
)
async def test_what_is_wrong_at_the_provider_is_told(
    run: Shop, statement: str, sentence: str
) -> None:
    provider(run, statement)
    found = await judged(run)
    assert any(sentence in one for one in found), found


async def test_a_charge_given_back_before_it_was_booked_is_no_difference(run: Shop) -> None:
    provider(
        run,
        "INSERT INTO charge VALUES ('x', 'x', '7', 100)",
        "INSERT INTO refund VALUES ('y', 'y', 'x', 100)",
    )
    assert await judged(run) == []


async def test_a_missing_provider_is_told(run: Shop) -> None:
    (run.folder / "provider.db").unlink()
    assert await judged(run) == ["2 charges are booked, and provider.db is missing"]


async def test_what_is_reserved_when_all_is_over_is_told(run: Shop) -> None:
    whole = await asyncio.to_thread(evidence, run)
    kept = [one for one in whole.history if one.headers.get("ce_subject") != OPEN]
    over = Evidence(kept, whole.rows, whole.folder)
    found = await asyncio.to_thread(lambda: list(stock(over)))
    assert found == [
        "A: 2 reserved, and every order is over",
        "B: 1 reserved, and every order is over",
    ]

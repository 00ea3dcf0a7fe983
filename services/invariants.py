"""What has to hold in the shop, whatever went wrong: money, stock, both ledgers.

Each function looks at the log and the store and yields one sentence a violation. An order is
over when each of its flows has an end; what is still on its way is judged by less.
"""

import os
import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from choreo import Evidence

PLACED = "shop.orders.OrderPlaced"
COMPLETED = "shop.orders.OrderCompleted"
ENDS = frozenset({COMPLETED, "shop.orders.OrderCancelled", "shop.orders.OrderRejected"})


@dataclass(slots=True)
class _Flow:
    """One flow of an order: its price, and its ends, type by event id."""

    cents: int = 0
    ends: dict[str, str] = field(default_factory=dict)

    @property
    def completed(self) -> bool:
        return COMPLETED in self.ends.values()


@dataclass(slots=True)
class _Order:
    """An order, with a flow for each time that it was placed."""

    flows: dict[str, _Flow] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        return all(flow.ends for flow in self.flows.values())

    @property
    def completed(self) -> bool:
        return any(flow.completed for flow in self.flows.values())

    @property
    def owed(self) -> int:
        return sum(flow.cents for flow in self.flows.values() if flow.completed)


def _orders(evidence: Evidence) -> dict[str, _Order]:
    found: dict[str, _Order] = defaultdict(_Order)
    for record in evidence.history:
        headers = record.headers
        kind = headers.get("ce_type", "")
        if (kind not in ENDS and kind != PLACED) or headers.get("choreo-void"):
            continue
        value = evidence.value(record)
        flow_id = headers.get("ce_correlationid") or headers.get("ce_id", "")
        flow = found[value["order_id"]].flows.setdefault(flow_id, _Flow())
        if kind == PLACED:
            flow.cents = _cents(value["total"])
        else:
            flow.ends[headers.get("ce_id", "")] = kind
    return found


def _cents(amount: str) -> int:
    return int(Decimal(amount).scaleb(2))


def _booked(evidence: Evidence) -> dict[str, tuple[int, int]]:
    """Give captured and refunded cents by order, as the payments service booked them."""
    rows = evidence.rows(
        "SELECT order_id, sum(CASE kind WHEN 'capture' THEN cents ELSE 0 END) AS captured, "
        "sum(CASE kind WHEN 'refund' THEN cents ELSE 0 END) AS refunded "
        "FROM payments_ledger GROUP BY order_id"
    )
    return {row["order_id"]: (int(row["captured"]), int(row["refunded"])) for row in rows}


def money(evidence: Evidence) -> Iterable[str]:
    """Captured less refunded is the price of completed orders; no account is below zero."""
    booked = _booked(evidence)
    orders = _orders(evidence)
    for order_id, (captured, refunded) in booked.items():
        if captured < refunded:
            yield f"order {order_id}: {refunded} cents refunded of {captured} captured"
        if order_id not in orders:
            yield f"order {order_id}: {captured} cents captured, and it was never placed"
    for order_id, order in orders.items():
        captured, refunded = booked.get(order_id, (0, 0))
        completed = sum(flow.completed for flow in order.flows.values())
        if completed > 1:
            yield f"order {order_id}: completed {completed} times"
        if order.over and captured - refunded != order.owed:
            yield (
                f"order {order_id}: {captured} − {refunded} cents kept, "
                f"{order.owed} is the price of what was completed"
            )


def stock(evidence: Evidence) -> Iterable[str]:
    """Per SKU initial = on hand + reserved + shipped, none below 0; at rest nothing is reserved.

    What left the house, and each parcel, belongs to a completed order, and each has both.
    """
    orders = _orders(evidence)
    at_rest = all(order.over for order in orders.values())
    for row in evidence.rows(STOCK):
        sku = row["sku"]
        parts = {name: int(row[name]) for name in ("on_hand", "reserved", "shipped")}
        if sum(parts.values()) != int(row["initial"]):
            yield f"{sku}: {row['initial']} at first, {parts} now"
        if min(parts.values()) < 0:
            yield f"{sku}: below nothing: {parts}"
        for status in ("reserved", "shipped"):
            by_order = int(row[f"{status}_by_order"])
            if parts[status] != by_order:
                yield f"{sku}: {parts[status]} {status}, {by_order} by order"
        if at_rest and parts["reserved"]:
            yield f"{sku}: {parts['reserved']} reserved, and every order is over"
    left = {
        "units": "SELECT DISTINCT order_id FROM inventory_reservation WHERE status = 'shipped'",
        "parcel": "SELECT order_id FROM shipping_shipment",
    }
    for what, sql in left.items():
        sent = {row["order_id"] for row in evidence.rows(sql)}
        for order_id, order in orders.items():
            if order.over and order.completed != (order_id in sent):
                end = "completed" if order.completed else "not completed"
                gone = "left" if order_id in sent else "never left"
                yield f"order {order_id}: {end}, and its {what} {gone}"


def ledger(evidence: Evidence) -> Iterable[str]:
    """What payments booked is what the provider did, charge by charge; one charge an order.

    A charge that was given back before it was booked is in the provider's books alone. They lie
    in PAYMENT_PROVIDER_FOLDER, if that is set: where the log is no file it has no folder.
    """
    ours = {
        row["charge"]: _Charge(row["order_id"], int(row["captured"]), int(row["refunded"]))
        for row in evidence.rows(BOOKED)
    }
    folder = os.environ.get("PAYMENT_PROVIDER_FOLDER")
    file = (Path(folder) if folder else evidence.folder) / "provider.db"
    if not file.exists():
        if ours:
            yield f"{len(ours)} charges are booked, and {file.name} is missing"
        return
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as provider:
        theirs = {row[0]: _Charge(*row[1:]) for row in provider.execute(PROVIDED)}
    orders = _orders(evidence)
    seen: set[str] = set()
    for charge in sorted(ours.keys() | theirs.keys()):
        booked, done = ours.get(charge), theirs.get(charge)
        if done is None:
            yield f"charge {charge}: booked as {booked}, unknown to the provider"
            continue
        if done.order_id in seen:
            yield f"order {done.order_id}: charged more than once"
        seen.add(done.order_id)
        order = orders.get(done.order_id)
        # While an order is open the provider may be ahead: we book what it has answered.
        open_ = order is not None and not order.over
        found = booked or _Charge(done.order_id, 0, 0)
        ahead = found.captured > done.captured or found.refunded > done.refunded
        if ahead or found.order_id != done.order_id or (found.kept != done.kept and not open_):
            yield f"charge {charge}: booked as {found}, the provider has {done}"


class _Charge(NamedTuple):
    """One charge in somebody's books, in cents."""

    order_id: str
    captured: int
    refunded: int

    @property
    def kept(self) -> int:
        return self.captured - self.refunded

    def __str__(self) -> str:
        return f"order {self.order_id}: {self.captured} − {self.refunded} cents"


# One statement: of a shop at work two would be of two moments.
STOCK = """
SELECT sku, initial, on_hand, reserved, shipped,
       (SELECT coalesce(sum(quantity), 0) FROM inventory_reservation AS kept
        WHERE kept.sku = inventory_stock.sku AND status = 'reserved') AS reserved_by_order,
       (SELECT coalesce(sum(quantity), 0) FROM inventory_reservation AS kept
        WHERE kept.sku = inventory_stock.sku AND status = 'shipped') AS shipped_by_order
FROM inventory_stock ORDER BY sku
"""
BOOKED = """
SELECT charge, order_id, sum(CASE kind WHEN 'capture' THEN cents ELSE 0 END) AS captured,
       sum(CASE kind WHEN 'refund' THEN cents ELSE 0 END) AS refunded
FROM payments_ledger GROUP BY charge, order_id
"""
PROVIDED = """
SELECT charge, order_id, cents,
       (SELECT coalesce(sum(cents), 0) FROM refund WHERE refund.charge = charge.charge)
FROM charge
"""

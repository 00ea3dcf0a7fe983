"""What has to hold in the shop, whatever went wrong: money, stock, both ledgers, every order.

Each function looks at the log and the store and yields one sentence a violation. An order is
over when each of its flows has an end; what is still on its way is judged by less.
"""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal

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
    def owed(self) -> int:
        return sum(flow.cents for flow in self.flows.values() if flow.completed)


def _orders(evidence: Evidence) -> dict[str, _Order]:
    found: dict[str, _Order] = defaultdict(_Order)
    for record in evidence.history:
        headers = record.headers
        kind = headers.get("ce_type", "")
        if (kind not in ENDS and kind != PLACED) or headers.get("choreo-void"):
            continue
        value = json.loads(record.value)
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
            yield f"money: order {order_id}: {refunded} cents refunded of {captured} captured"
        if order_id not in orders:
            yield f"money: order {order_id}: {captured} cents captured, and it was never placed"
    for order_id, order in orders.items():
        captured, refunded = booked.get(order_id, (0, 0))
        if order.over and captured - refunded != order.owed:
            yield (
                f"money: order {order_id}: {captured} − {refunded} cents kept, "
                f"{order.owed} is the price of what was completed"
            )


def stock(evidence: Evidence) -> Iterable[str]:
    """Per SKU initial = on hand + reserved + shipped, none below 0; at rest nothing is reserved."""
    reserved: dict[str, int] = {}
    for row in evidence.rows(
        "SELECT sku, sum(quantity) AS quantity FROM inventory_reservation "
        "WHERE status = 'reserved' GROUP BY sku"
    ):
        reserved[row["sku"]] = int(row["quantity"])
    at_rest = all(order.over for order in _orders(evidence).values())
    for row in evidence.rows(
        "SELECT sku, initial, on_hand, reserved, shipped FROM inventory_stock ORDER BY sku"
    ):
        sku = row["sku"]
        parts = {name: int(row[name]) for name in ("on_hand", "reserved", "shipped")}
        if sum(parts.values()) != int(row["initial"]):
            yield f"stock: {sku}: {row['initial']} at first, {parts} now"
        if min(parts.values()) < 0:
            yield f"stock: {sku}: below nothing: {parts}"
        if parts["reserved"] != reserved.get(sku, 0):
            yield f"stock: {sku}: {parts['reserved']} reserved, {reserved.get(sku, 0)} by order"
        if at_rest and parts["reserved"]:
            yield f"stock: {sku}: {parts['reserved']} reserved, and every order is over"


def ledger(evidence: Evidence) -> Iterable[str]:
    """What payments booked is what the provider did, order by order, and once each."""
    booked = _booked(evidence)
    file = evidence.folder / "provider.db"
    if not file.exists():
        if booked:
            yield f"ledger: {len(booked)} orders are booked, and {file.name} is missing"
        return
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as provider:
        done = {row[0]: (int(row[1]), int(row[2])) for row in provider.execute(PROVIDER)}
        twice = list(provider.execute(TWICE))
    for order_id, number in twice:
        yield f"ledger: order {order_id}: charged {number} times"
    orders = _orders(evidence)
    for order_id in sorted(booked.keys() | done.keys()):
        ours, theirs = booked.get(order_id, (0, 0)), done.get(order_id, (0, 0))
        order = orders.get(order_id)
        # While an order is open the provider may be ahead: we book what it has answered.
        ahead = order is not None and not order.over
        behind = ours[0] > theirs[0] or ours[1] > theirs[1]
        if behind if ahead else ours != theirs:
            yield (
                f"ledger: order {order_id}: booked {ours[0]} − {ours[1]} cents, "
                f"the provider has {theirs[0]} − {theirs[1]}"
            )


PROVIDER = """
SELECT order_id, sum(cents),
       sum((SELECT coalesce(sum(cents), 0) FROM refund WHERE refund.charge = charge.charge))
FROM charge GROUP BY order_id
"""
TWICE = "SELECT order_id, count(*) FROM charge GROUP BY order_id HAVING count(*) > 1"


def terminal(evidence: Evidence) -> Iterable[str]:
    """Each flow of an order has one end at most, and the order is completed at most once."""
    for order_id, order in _orders(evidence).items():
        yield from _ends(order_id, order)


def _ends(order_id: str, order: _Order) -> Iterator[str]:
    for flow_id, flow in order.flows.items():
        names = sorted(kind.rsplit(".", 1)[-1] for kind in flow.ends.values())
        if len(names) > 1:
            yield f"terminal: order {order_id}: flow {flow_id} ended {len(names)} times: {names}"
    completed = sum(flow.completed for flow in order.flows.values())
    if completed > 1:
        yield f"terminal: order {order_id}: completed {completed} times"

"""Made-up orders and the stock for them: the same seed gives the same files.

Most orders are fine. Some are not, each kind at least once in twenty orders or more: no
lines, no quantity, a wrong total, an unknown article, more than there is. What the payment
provider, the mailer and the carrier refuse is up to their own seed.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

FAULTS = ("no lines", "no quantity", "wrong total", "unknown article", "too many", "twice")
FAULTY = 0.12
"""Share of orders with a fault, or a peculiarity: "twice" names an article in two lines."""
ARTICLES = (
    "Apron", "Basket", "Bowl", "Bread knife", "Candle", "Cheese board", "Coffee mill", "Colander",
    "Cup", "Cutting board", "Egg timer", "Funnel", "Garlic press", "Grater", "Jar", "Jug",
    "Kettle", "Ladle", "Lemon squeezer", "Mortar", "Napkin", "Oven glove", "Pan", "Peeler",
    "Pepper mill", "Pie dish", "Plate", "Rolling pin", "Salad bowl", "Saucepan", "Scales",
    "Sieve", "Spatula", "Tea strainer", "Teapot", "Thermometer", "Tray", "Vase", "Whisk", "Wok",
)  # fmt: skip
COUNTRIES = ("Argentina", "Austria", "Brazil", "Canada", "Denmark", "France", "Germany", "Italy")
FIRST_DAY = datetime(2026, 1, 5, 8, tzinfo=UTC)
UNITS_PER_ORDER = 0.75
"""Opening units of each article, for each order to come: the last orders find some gone."""


@dataclass(frozen=True, slots=True)
class Article:
    """What can be bought."""

    sku: str
    name: str
    price: Decimal


def articles(rng: Random) -> Sequence[Article]:
    """Make the catalogue."""
    return [
        Article(f"A-{number:03}", name, Decimal(rng.randint(150, 9000)).scaleb(-2))
        for number, name in enumerate(ARTICLES, 1)
    ]


def stock(catalogue: Sequence[Article], count: int, rng: Random) -> Iterator[str]:
    """Yield the lines of the stock's file for so many orders."""
    yield "sku,name,units"
    middle = max(40.0, count * UNITS_PER_ORDER)
    for article in catalogue:
        units = int(middle * rng.uniform(0.4, 1.6))
        yield f"{article.sku},{article.name},{units}"


def orders(catalogue: Sequence[Article], count: int, rng: Random) -> Iterator[dict[str, Any]]:
    """Yield so many orders, as objects that JSON can hold."""
    faults = _faults(count, rng)
    for number in range(1, count + 1):
        yield _order(number, faults.get(number, ""), catalogue, rng)


def _faults(count: int, rng: Random) -> dict[int, str]:
    """Draw the numbers of faulty orders: each fault in turn, in no order."""
    faulty = rng.sample(range(1, count + 1), round(count * FAULTY) if count > 0 else 0)
    if count >= 2 * len(FAULTS) and len(faulty) < len(FAULTS):
        faulty = rng.sample(range(1, count + 1), len(FAULTS))
    return {number: FAULTS[place % len(FAULTS)] for place, number in enumerate(faulty)}


def _order(number: int, fault: str, catalogue: Sequence[Article], rng: Random) -> dict[str, Any]:
    chosen = rng.sample(catalogue, rng.randint(1, 4))
    lines: list[dict[str, Any]] = [
        {"sku": one.sku, "quantity": rng.randint(1, 12), "unit_price": str(one.price)}
        for one in chosen
    ]
    if fault == "no lines":
        lines = []
    elif fault == "no quantity":
        lines[0]["quantity"] = 0
    elif fault == "unknown article":
        lines[0]["sku"] = "A-999"
    elif fault == "too many":
        lines[0]["quantity"] = 100_000
    elif fault == "twice":
        lines.append(dict(lines[0], quantity=1))
    freight = Decimal(rng.randint(300, 4000)).scaleb(-2)
    total = sum((line["quantity"] * Decimal(line["unit_price"]) for line in lines), freight)
    if fault == "wrong total":
        total -= 1
    placed_at = FIRST_DAY + timedelta(minutes=7 * number)
    return {
        "order_id": f"{number:05}",
        "customer_id": f"C{rng.randint(1, 60):03}",
        "placed_at": placed_at.isoformat().replace("+00:00", "Z"),
        "ship_country": rng.choice(COUNTRIES),
        "lines": lines,
        "freight": str(freight),
        "total": str(total),
    }


def write(folder: Path, count: int, seed: int) -> tuple[Path, Path]:
    """Write orders.jsonl and stock.csv into a folder; give their paths."""
    rng = Random(seed)
    catalogue = articles(rng)
    orders_file, stock_file = folder / "orders.jsonl", folder / "stock.csv"
    stock_file.write_text("\n".join(stock(catalogue, count, rng)) + "\n", encoding="utf-8")
    made = (json.dumps(order) + "\n" for order in orders(catalogue, count, rng))
    orders_file.write_text("".join(made), encoding="utf-8")
    return orders_file, stock_file

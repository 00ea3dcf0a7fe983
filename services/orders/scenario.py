"""Orders of all kinds, for a simulation: `choreo simulate` calls `scenario` with its world."""

from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from typing import Protocol

from choreo import Event
from services.orders.events import Line, OrderPlaced

__all__ = ["rejected", "scenario", "single"]


ORDERS = 20
UNITS = 60
STOCK = (
    "INSERT INTO inventory_stock (sku, name, initial, on_hand, reserved, shipped) "
    "VALUES ($1, $1, $2, $2, 0, 0)"
)
ARTICLES = {"cup": Decimal("4.50"), "jug": Decimal("19.00"), "wok": Decimal("60.20")}
PLACED_AT = datetime(2026, 1, 5, 8, tzinfo=UTC)


class World(Protocol):
    """What a simulation gives to a scenario."""

    rng: Random

    def publish(self, event: Event, *, id: str | None = None) -> str:
        """Publish the first event of a flow."""
        ...

    def execute(self, service: str, sql: str, *values: object) -> None:
        """Write to a service's store, before it works."""
        ...

    def run(self, *, seconds: float) -> None:
        """Let virtual time go on."""
        ...


def scenario(world: World) -> None:
    """Place some orders: good ones, and each kind of bad one now and then."""
    for sku in ARTICLES:
        world.execute("inventory", STOCK, sku, UNITS)
    for number in range(1, ORDERS + 1):
        world.publish(order(number, world.rng), id=f"order-{number}")
        if world.rng.random() < 1 / 8:
            world.run(seconds=world.rng.choice((0.01, 5.0)))
    world.run(seconds=7200)


def single(world: World) -> None:
    """Place one order that is carried out: for a crash at every await of it."""
    world.execute("inventory", STOCK, "cup", UNITS)
    world.publish(_of([Line(sku="cup", quantity=1, unit_price=ARTICLES["cup"])]), id="single")
    world.run(seconds=7200)


def rejected(world: World) -> None:
    """Place one order that makes no sense: the smallest flow, for every two crashes of it."""
    world.publish(_of([]), id="rejected")
    world.run(seconds=7200)


def order(number: int, rng: Random) -> OrderPlaced:
    """Make an order; one in four has something to object to."""
    lines = [
        Line(sku=sku, quantity=rng.randint(1, 4), unit_price=price)
        for sku, price in ARTICLES.items()
        if rng.random() < 2 / 3
    ]
    wrong = rng.choice(("", "", "", "", "", "", "no lines", "unknown", "too many", "total"))
    if wrong == "no lines":
        lines = []
    elif wrong == "unknown":
        lines.append(Line(sku="yak", quantity=1, unit_price=Decimal("900.00")))
    elif wrong == "too many":
        lines.append(Line(sku="cup", quantity=2 * UNITS, unit_price=ARTICLES["cup"]))
    return _of(lines, number, wrong=wrong == "total", customer_id=f"C{rng.randint(1, 5)}")


def _of(
    lines: list[Line], number: int = 1, *, wrong: bool = False, customer_id: str = "C1"
) -> OrderPlaced:
    freight = Decimal("5.00")
    price = sum((line.quantity * line.unit_price for line in lines), freight)
    return OrderPlaced(
        order_id=str(number),
        customer_id=customer_id,
        placed_at=PLACED_AT,
        ship_country="France",
        lines=lines,
        freight=freight,
        total=price + (1 if wrong else 0),
    )

"""A small shop to be simulated: an order, its payment at a bank, and what goes wrong there."""

import json
from collections.abc import Iterable
from pathlib import Path

from choreo import Context, Event, Evidence, Retry, Service
from choreo.testing.simulation import Outside, UnansweredError, World

BOOKS = "bank.json"


class Ordered(Event, topic="desk.orders", key="order"):
    order: str


class Paid(Event, topic="desk.payments", key="order"):
    order: str


class Declined(Event, topic="desk.payments", key="order", failure=True):
    order: str


class Shipped(Event, topic="desk.orders", key="order"):
    order: str


class Dropped(Event, topic="desk.orders", key="order", failure=True):
    order: str


class Bank:
    """Takes money once a key, over a wire that fails by seed."""

    def __init__(self, outside: Outside) -> None:
        self.outside = outside
        self.taken: dict[str, str] = outside.memory.setdefault("taken", {})

    @classmethod
    def simulated(cls, outside: Outside) -> "Bank":
        made = cls(outside)
        if not outside.reports:
            outside.reports.append(made.report)
        return made

    def report(self, folder: Path) -> None:
        (folder / BOOKS).write_text(json.dumps(self.taken))

    async def take(self, order: str, *, key: str) -> str:
        return await self.outside.call(lambda: self._taken(order, key), verb="take")

    def _taken(self, order: str, key: str) -> str:
        if key not in self.taken:
            self.outside.entries.append(key)
        return self.taken.setdefault(key, order)


orders = Service("orders")
careful = Service("payments")
hasty = Service("payments")
"""The same service with a bug: it takes an answer that is lost for a refusal."""


@orders.on(Paid)
async def ship(paid: Paid) -> Shipped:
    return Shipped(order=paid.order)


@orders.on(Declined)
async def drop(declined: Declined) -> Dropped:
    return Dropped(order=declined.order)


@orders.on(Shipped)
def note(shipped: Shipped) -> None:
    assert shipped.order


orders.flow("order", starts=Ordered, ends=(Shipped, Dropped), deadline_s=3600)


@careful.on(Ordered, retry=Retry(attempts_max=5, first_s=1, factor=5), timeout_s=60)
async def capture(ordered: Ordered, ctx: Context, bank: Bank) -> Paid | Declined:
    await ctx.once("take", lambda: bank.take(ordered.order, key=ctx.idempotency_key), returns=str)
    return Paid(order=ordered.order)


@careful.otherwise(capture)
async def gave_up(ordered: Ordered) -> Declined:
    return Declined(order=ordered.order)


@hasty.on(Ordered, name="capture", retry=Retry(attempts_max=5, first_s=1, factor=5), timeout_s=60)
async def capture_hastily(ordered: Ordered, ctx: Context, bank: Bank) -> Paid | Declined:
    try:
        await bank.take(ordered.order, key=ctx.idempotency_key)
    except UnansweredError:  # it may have been taken: nobody gives it back
        return Declined(order=ordered.order)
    return Paid(order=ordered.order)


def scenario(world: World) -> None:
    """Place a few orders, and let a day go by."""
    for number in range(6):
        world.publish(Ordered(order=f"desk-{number}"), id=str(number))
    world.run(days=1)


def single(world: World) -> None:
    """Place one."""
    world.publish(Ordered(order="desk-0"), id="0")
    world.run(hours=2)


def money(evidence: Evidence) -> Iterable[str]:
    """Nobody pays twice, and nobody pays for what was dropped."""
    taken = sorted(json.loads((evidence.folder / BOOKS).read_text()).values())
    dropped = {
        record.key.decode()
        for record in evidence.history
        if record.key is not None and record.headers.get("ce_type") == "desk.orders.Dropped"
    }
    for order in sorted(set(taken)):
        if taken.count(order) > 1:
            yield f"order {order}: paid more than once"
        if order in dropped:
            yield f"order {order}: paid, and dropped"

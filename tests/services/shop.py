"""The whole shop in one process, for tests: what it needs from outside is in memory.

The payments service talks to the bank through its real client; only the wire is missing.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import InitVar, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx

from choreo import App, Service
from choreo.events import Record
from choreo.telemetry import Telemetry
from choreo.testing import ManualClock
from services.analytics import analytics
from services.inventory import inventory
from services.inventory.stock import Article, load
from services.notifications import Mailer, notifications
from services.orders import orders
from services.orders.events import Line, OrderPlaced
from services.payments import PaymentProvider, payments
from services.shipping import Carrier, shipping
from tests.services.places import Files, Place

SERVICES: tuple[Service, ...] = (
    orders,
    inventory,
    payments,
    notifications,
    analytics,
    shipping,
)

Mood = Callable[[str, int], str]


def plain(path: str, attempt: int) -> str:
    """The mood of a bank on a good day."""
    return "plain"


@dataclass
class Bank:
    """A payment provider behind a wire of no length.

    `mood(path, attempt)` says what becomes of the n-th call (from 1) of a path: plain, declined,
    refused (503, not processed), error (500, nothing done), lost (done, no answer), down.
    """

    mood: Mood = plain
    charges: dict[str, tuple[str, int]] = field(default_factory=dict)
    refunds: dict[str, tuple[str, int]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def provider(self) -> PaymentProvider:
        """Make the client that payments is given."""
        transport = httpx.MockTransport(self._handle)
        return PaymentProvider(httpx.AsyncClient(transport=transport, base_url="http://bank"))

    def kept(self) -> int:
        """Give the cents that the bank took and did not give back."""
        taken = sum(cents for _, cents in self.charges.values())
        return taken - sum(cents for _, cents in self.refunds.values())

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        path, key = request.url.path, request.headers["Idempotency-Key"]
        self.calls.append(path)
        mood = self.mood(path, self.calls.count(path))
        if mood == "down":
            raise httpx.ConnectError("down")
        if mood == "refused":
            return httpx.Response(503, json={"processed": False})
        if mood == "error":
            return httpx.Response(500)
        if mood == "declined":
            return httpx.Response(402, json={"declined": "insufficient funds"})
        body = dict(httpx.Response(200, content=request.content).json())
        cents = int(Decimal(body["amount"]).scaleb(2))
        if path == "/charges":
            self.charges.setdefault(key, (body["order_id"], cents))
            answer = {"charge": f"ch-{key}"}
        else:
            self.refunds.setdefault(key, (body["charge"], cents))
            answer = {"refund": f"re-{key}"}
        if mood == "lost":
            raise httpx.ReadTimeout("no answer")
        return httpx.Response(200, json=answer)


class Post(Mailer):
    """A mailer that keeps what it sent, and fails as often as it is told."""

    def __init__(self, *, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error
        self.attempts = 0
        self.letters: list[str] = []

    async def send(self, recipient: str, text: str, *, order_id: str, attempt: int) -> None:
        self.attempts += 1
        if self.error is not None:
            raise self.error
        self.letters.append(text)


class Van(Carrier):
    """A carrier that takes everything, unless it is told what to raise."""

    def __init__(self, *, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error

    async def book(self, order_id: str, customer_id: str) -> str:
        if self.error is not None:
            raise self.error
        return f"parcel-{order_id}"


def placed(order_id: str = "1", *lines: tuple[str, int], **changed: object) -> OrderPlaced:
    """Make an order of articles at 10.00 and a freight of 5.00."""
    chosen = lines or (("A", 2), ("B", 1))
    fields: dict[str, Any] = {
        "order_id": order_id,
        "customer_id": "C1",
        "placed_at": "2026-01-01T00:00:00Z",
        "ship_country": "France",
        "lines": [Line(sku=s, quantity=q, unit_price=Decimal("10.00")) for s, q in chosen],
        "freight": Decimal("5.00"),
        "total": Decimal(10 * sum(q for _, q in chosen) + 5).quantize(Decimal("0.01")),
    }
    return OrderPlaced.model_validate(fields | changed)


@dataclass
class Shop:
    """One shop in one folder: its outside, its clock, and ways to look at what it left.

    `at` is where log and store are: in the folder, in one file, unless a test says otherwise.
    """

    folder: Path
    clock: ManualClock = field(default_factory=ManualClock)
    bank: Bank = field(default_factory=Bank)
    post: Post = field(default_factory=Post)
    van: Van = field(default_factory=Van)
    telemetry: Telemetry | None = None
    at: InitVar[Place | None] = None
    place: Place = field(init=False)

    def __post_init__(self, at: Place | None) -> None:
        self.place = at or Files(self.folder)

    @asynccontextmanager
    async def open(self, without: Sequence[Service] = ()) -> AsyncIterator[App]:
        """Run the services."""
        outside = {PaymentProvider: self.bank.provider(), Mailer: self.post, Carrier: self.van}
        running = [service for service in SERVICES if service not in without]
        broker, store = self.place.parts(self.clock)
        app = App(*running, broker=broker, store=store, resources=outside, clock=self.clock)
        app.telemetry = self.telemetry
        async with app:
            yield app

    async def stock(self, **units: int) -> None:
        """Put articles on the shelf; the environment names the folder's store."""
        lines = [Article(n, sku, sku, some) for n, (sku, some) in enumerate(units.items(), 2)]
        _, bad = await load(list(lines))
        assert not bad

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Read the store."""
        return self.place.rows(sql, *values)

    def write(self, sql: str) -> None:
        """Change the store behind everybody's back."""
        self.place.write(sql)

    def kinds(self, *, sort: bool = True) -> list[str]:
        """Give the class names of the shop's events, without void ones, from the log."""
        found = [
            record.headers["ce_type"].rsplit(".", 1)[-1]
            for record in self.history()
            if record.topic.startswith("shop.") and "choreo-void" not in record.headers
        ]
        return sorted(found) if sort else found

    def history(self) -> list[Record]:
        """Give all records of the log."""
        return list(self.place.history())

    def told(self, reason: str) -> bool:
        """Tell whether a customer was written a letter with this reason."""
        return any(reason in letter for letter in self.post.letters)

    def on_shelf(self) -> dict[str, tuple[int, int, int]]:
        """Give on hand, reserved, shipped by SKU."""
        sql = "SELECT sku, on_hand, reserved, shipped FROM inventory_stock ORDER BY sku"
        return {sku: (a, b, c) for sku, a, b, c in self.rows(sql)}

    def booked(self) -> list[tuple[str, int]]:
        """Give what the payments service booked, in order."""
        return self.rows(f"SELECT kind, cents FROM payments_ledger ORDER BY {self.place.order}")

    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        """Give all that the services keep, to compare."""
        services = {service.name for service in SERVICES}
        return {
            name: sorted(self.rows(f"SELECT * FROM {name}"), key=repr)
            for name in self.place.tables()
            if name.split("_")[0] in services
        }

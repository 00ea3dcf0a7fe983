"""The payment provider in a simulation: its books, and a wire of no length that fails by seed.

The client is the real one; only what carries its requests is replaced.
"""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import httpx

__all__ = ["Bank", "Outside", "Wire"]

T = TypeVar("T")
DECLINED = 0.08
PATIENCE_S = 2.0
TABLES = """
CREATE TABLE charge (charge TEXT PRIMARY KEY, key TEXT, order_id TEXT, cents INTEGER);
CREATE TABLE refund (refund TEXT PRIMARY KEY, key TEXT, charge TEXT, cents INTEGER);
"""


class Outside(Protocol):
    """What a simulation gives to whoever stands in for a system outside."""

    memory: dict[str, Any]
    reports: list[Callable[[Path], object]]
    entries: list[str]

    def draw(self, *about: object) -> float:
        """Give a number in [0, 1) that hangs on the seed and on these values only."""
        ...

    async def call(self, do: Callable[[], T], *, verb: str, patience_s: float) -> T:
        """Have it do something; late, twice, never, or with a lost answer."""
        ...


class Charge(NamedTuple):
    """Money that was taken."""

    key: str
    order_id: str
    cents: int


class Refund(NamedTuple):
    """Money that was given back."""

    key: str
    charge: str
    cents: int


class Bank:
    """The provider's books: a charge and a refund once per key, whatever comes how often."""

    def __init__(self, outside: Outside) -> None:
        """Begin with nothing; have the books written where invariants look for them."""
        self._draw = outside.draw
        self._entries = outside.entries
        self.charges: dict[str, Charge] = {}
        self.refunds: dict[str, Refund] = {}
        outside.reports.append(self.report)

    @classmethod
    def of(cls, outside: Outside) -> "Bank":
        """Give the one bank of a simulation."""
        found = outside.memory.get("bank")
        if found is None:
            found = outside.memory["bank"] = cls(outside)
        return found

    def answer(self, path: str, key: str, body: dict[str, str]) -> tuple[int, dict[str, str]]:
        """Do what is asked, once per key; give status and answer."""
        cents = int(Decimal(body["amount"]).scaleb(2))
        if path == "/refunds":
            name = f"re-{key}"
            if name not in self.refunds:
                self.refunds[name] = Refund(key, body["charge"], cents)
                self._entries.append(name)
            return 200, {"refund": name}
        order_id = body["order_id"]
        if self._draw("declines", order_id) < DECLINED:
            return 402, {"declined": "insufficient funds"}
        name = f"ch-{key}"
        if name not in self.charges:
            self.charges[name] = Charge(key, order_id, cents)
            self._entries.append(name)
        return 200, {"charge": name}

    def report(self, folder: Path) -> None:
        """Write the books as the provider of the demo does."""
        with closing(sqlite3.connect(folder / "provider.db")) as books, books:
            books.execute("PRAGMA synchronous = OFF")  # it is looked at once, and thrown away
            books.executescript(TABLES)
            books.executemany(
                "INSERT INTO charge VALUES (?, ?, ?, ?)",
                [(name, *charge) for name, charge in self.charges.items()],
            )
            books.executemany(
                "INSERT INTO refund VALUES (?, ?, ?, ?)",
                [(name, *refund) for name, refund in self.refunds.items()],
            )


class Wire(httpx.AsyncBaseTransport):
    """What carries requests to the bank, and sometimes its answers back."""

    def __init__(self, outside: Outside) -> None:
        """Carry to the bank of this simulation."""
        self._outside = outside
        self._bank = Bank.of(outside)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Carry one request."""
        path, key = request.url.path, request.headers["Idempotency-Key"]
        do = partial(self._bank.answer, path, key, json.loads(request.content))
        try:
            status, answer = await self._outside.call(do, verb=path, patience_s=PATIENCE_S)
        except ConnectionError as exc:
            raise httpx.ConnectError(str(exc)) from exc
        except TimeoutError as exc:
            raise httpx.ReadTimeout(str(exc)) from exc
        return httpx.Response(status, json=answer)

"""The services' process killed with -9 in the middle of its work, again and again.

Nothing may be lost, done twice or left half done: the audit says so, and both ledgers.
"""

import asyncio
import sqlite3
import subprocess
from contextlib import closing, suppress
from pathlib import Path
from random import Random

import pytest

from choreo import App
from services.demo.generator import write
from services.demo.orders import OrderPlaced, read
from services.demo.processes import MODULES, ROOT, Shop
from services.demo.report import status_of

NORTHWIND = ROOT.parent / "shared" / "data" / "northwind"
KILLS = 10
PATIENT = {"PAYMENT_PATIENCE_S": "0.5"}
HASTY = {"PAYMENT_PATIENCE_S": "0.5", "PAYMENT_WITHIN_S": "2"}
"""So little time for a payment that some time out, and answer when they are called off."""


class Killed:
    """One shop in processes, with a hand on its services."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.shop = Shop(folder, environment)
        self.placed: list[OrderPlaced] = []
        self.kills = 0

    async def feed(self) -> None:
        """Publish all orders, a few at a time."""
        async with App(folder=self.shop.folder) as app:
            for start in range(0, len(self.placed), 16):
                some = self.placed[start : start + 16]
                await asyncio.gather(*(app.publish(one, id=one.order_id) for one in some))

    def wait(self, seconds: float) -> None:
        """Let the services work; raise when they end by themselves."""
        with suppress(subprocess.TimeoutExpired):
            self.shop.running["services"].wait(seconds)
        self.shop.check()

    def position(self) -> int:
        """Give how far the log has come."""
        return int(self._ask("SELECT coalesce(max(position), 0) FROM log"))

    def ended(self) -> int:
        """Count the orders with an end in the log."""
        return self.count("OrderCompleted", "OrderCancelled", "OrderRejected")

    def count(self, *kinds: str) -> int:
        """Count the orders with one of these events in the log."""
        named = " OR ".join(f"headers LIKE '%.{kind}\"%'" for kind in kinds)
        return int(self._ask(f"SELECT count(DISTINCT key) FROM log WHERE {named}"))

    def _ask(self, sql: str) -> int:
        with closing(sqlite3.connect(self.shop.folder / "choreo.db", timeout=10)) as db:
            return int(db.execute(sql).fetchone()[0])

    def strike(self, random: Random) -> None:
        """Wait until the services have begun to work, and a little; kill and start them."""
        before = self.position()
        for _ in range(100):
            self.wait(0.1)
            if self.position() > before:
                break
        self.wait(random.uniform(0.0, 0.5))
        self.kills += self.ended() < len(self.placed)
        self.shop.kill("services")
        self.shop.start_services()

    def finish(self, within_s: float) -> None:
        """Wait until all orders have ended and nothing follows any more."""
        for _ in range(int(within_s / 0.25)):
            if self.ended() == len(self.placed):
                break
            self.wait(0.25)
        last = -1
        while last != (last := self.position()):
            self.wait(1.0)


def run(killed: Killed, orders: Path, stock: Path, seed: int) -> None:
    shop = killed.shop
    killed.placed = [line for line in read(orders) if isinstance(line, OrderPlaced)]
    assert shop.load_stock(stock).returncode == 0
    shop.start_provider(seed=seed, plan="late=0.03,lost=0.06,late_s=1.5")
    shop.start_services()
    shop.start_tracker()
    asyncio.run(killed.feed())
    random = Random(seed)
    for _ in range(KILLS):
        killed.strike(random)
    killed.finish(within_s=120)
    flows = shop.ask("flows")
    open_ = [flow for flow in flows if status_of(flow) == "open"]
    assert not open_, f"{len(open_)} flows are open: {open_[:3]}"
    assert len(flows) == len(killed.placed)
    assert not [flow for flow in flows if flow["dead"]]
    shop.stop("services")
    shop.close()
    assert shop.ask("audit")["violations"] == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_services_lose_nothing(tmp_path: Path, seed: int) -> None:
    killed = Killed(tmp_path, HASTY | {"SHOP_SEED": str(seed)})
    try:
        orders, stock = write(tmp_path, 400, seed)
        run(killed, orders, stock, seed)
    finally:
        killed.shop.close()
    assert killed.kills >= KILLS / 2, "the orders were over before the services were killed"
    assert killed.count("PaymentTimedOut"), "no payment was called off"
    assert killed.count("PaymentRefunded"), "no payment was undone"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.skipif(not NORTHWIND.exists(), reason="the Northwind orders are not beside the clone")
def test_killed_services_lose_nothing_of_northwind(tmp_path: Path, seed: int) -> None:
    killed = Killed(tmp_path, PATIENT | {"SHOP_SEED": str(seed)})
    try:
        run(killed, NORTHWIND / "orders.jsonl", NORTHWIND / "stock.csv", seed)
    finally:
        killed.shop.close()
    assert killed.kills >= KILLS / 2, "the orders were over before the services were killed"


@pytest.mark.timeout(180)
def test_each_service_runs_alone(tmp_path: Path) -> None:
    killed = Killed(tmp_path, PATIENT)
    shop = killed.shop
    orders, stock = write(tmp_path, 30, seed=1)
    killed.placed = [line for line in read(orders) if isinstance(line, OrderPlaced)]
    try:
        assert shop.load_stock(stock).returncode == 0
        shop.start_provider(seed=1)
        for module in MODULES[1:]:
            shop.start_alone(module)
        shop.start_alone(MODULES[0], name="services")
        shop.start_tracker()
        asyncio.run(killed.feed())
        killed.finish(within_s=60)
        flows = shop.ask("flows")
    finally:
        shop.close()
    assert len(flows) == len(killed.placed)
    assert all(status_of(flow) != "open" for flow in flows)
    assert shop.ask("audit")["violations"] == []

"""The services' process killed with -9 in the middle of its work, again and again.

Nothing may be lost, done twice or left half done: the audit says so, and both ledgers.
"""

import asyncio
from pathlib import Path
from random import Random

import pytest

from services.demo.generator import write
from services.demo.orders import OrderPlaced, read
from services.demo.processes import MODULES
from tests.services.killing import NORTHWIND, Killed
from tests.services.places import Files

KILLS = 10
WITHIN_S = 600  # a minute, on a machine that does nothing else
PATIENT = {"PAYMENT_PATIENCE_S": "0.5"}
HASTY = {"PAYMENT_PATIENCE_S": "0.5", "PAYMENT_WITHIN_S": "2"}
"""So little time for a payment that some time out, and answer when they are called off."""


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
    killed.finish()
    killed.judge()


@pytest.mark.timeout(WITHIN_S)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_services_lose_nothing(tmp_path: Path, seed: int) -> None:
    killed = Killed(Files(tmp_path), HASTY | {"SHOP_SEED": str(seed)})
    try:
        orders, stock = write(tmp_path, 400, seed)
        run(killed, orders, stock, seed)
    finally:
        killed.shop.close()
    assert killed.kills >= KILLS / 2, "the orders were over before the services were killed"
    assert killed.count("PaymentTimedOut"), "no payment was called off"
    assert killed.count("PaymentRefunded"), "no payment was undone"


@pytest.mark.timeout(WITHIN_S)
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.skipif(not NORTHWIND.exists(), reason="the Northwind orders are not beside the clone")
def test_killed_services_lose_nothing_of_northwind(tmp_path: Path, seed: int) -> None:
    killed = Killed(Files(tmp_path), PATIENT | {"SHOP_SEED": str(seed)})
    try:
        run(killed, NORTHWIND / "orders.jsonl", NORTHWIND / "stock.csv", seed)
    finally:
        killed.shop.close()
    assert killed.kills >= KILLS / 2, "the orders were over before the services were killed"


@pytest.mark.timeout(WITHIN_S)
def test_each_service_runs_alone(tmp_path: Path) -> None:
    killed = Killed(Files(tmp_path), PATIENT)
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
        killed.finish()
        killed.rest()
    finally:
        shop.close()
    assert shop.ask("audit")["violations"] == []

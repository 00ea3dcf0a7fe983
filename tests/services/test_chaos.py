"""Several processes share the services' work, and die one after the other."""

from pathlib import Path

import pytest

from services.demo.generator import write
from tests.services import chaos
from tests.services.killing import NORTHWIND

KILLS = 20


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_six_processes_of_which_one_always_dies(tmp_path: Path, seed: int) -> None:
    if NORTHWIND.exists():
        orders, stock = NORTHWIND / "orders.jsonl", NORTHWIND / "stock.csv"
    else:
        orders, stock = write(tmp_path, 830, seed)
    ran = chaos.run(tmp_path, orders, stock, seed=seed, kills=KILLS)
    assert ran.kills >= KILLS / 4, "the orders were over before anything was killed"

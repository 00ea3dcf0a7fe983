"""Kafka, PostgreSQL and the processes on them are killed, stopped and moved, while orders run."""

from pathlib import Path
from random import Random

import pytest

from services.demo.generator import write
from tests.services import kafka_chaos
from tests.services.storm import schedule

ORDERS = 100
WITHIN_S = 900  # a minute, on a machine that does nothing else


@pytest.mark.timeout(WITHIN_S)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_whatever_is_killed_or_moves_nothing_is_lost(tmp_path: Path, seed: int) -> None:
    """Each kind of fault has had its effect, each order is right, each key in its order."""
    orders, stock = write(tmp_path, ORDERS, seed)
    faults = schedule(Random(seed), kafka_chaos.EACH, calm_s=kafka_chaos.CALM_S)
    kafka_chaos.run(tmp_path, orders, stock, seed=seed, faults=faults)

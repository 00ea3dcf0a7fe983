"""Kafka, PostgreSQL and the processes on them are killed, stopped and moved, while orders run.

In a process of its own, as by `make chaos`: what a client of Kafka leaves open in a storm is
found by the collector whenever it likes, and would be told of some other test.
"""

import subprocess
import sys

import pytest

from choreo.testing.servers.postgres import PostgresServer
from services.demo.processes import ROOT

ORDERS = 100
WITHIN_S = 900  # a minute, on a machine that does nothing else
CHAOS = ("-m", "tests.services.kafka_chaos", "--minutes", "0", "--faults", "1")


@pytest.mark.usefixtures("kafka_server")
@pytest.mark.timeout(WITHIN_S)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_whatever_is_killed_or_moves_nothing_is_lost(seed: int) -> None:
    """Each kind of fault has had its effect, each order is right, each key in its order."""
    PostgresServer.found()  # tells what is missing here
    command = [sys.executable, *CHAOS, "--count", f"{ORDERS}", "--seed", f"{seed}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "audit clean" in done.stdout

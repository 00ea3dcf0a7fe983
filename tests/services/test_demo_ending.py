"""However the demo on servers ends, nothing of what it has started goes on."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from choreo.testing.servers import KafkaServer
from services.demo.processes import ROOT, UP, Shop
from tests.postgres.database import server as postgres

COUNT = 12
LOOKS = 400
NAMES = ("CHOREO_", "KAFKA_", "DATABASE_")


def started(folder: Path, kafka: str) -> subprocess.Popen[str]:
    """Start the demo beside servers that are there."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(NAMES)}
    named = {"CHOREO_TEST_KAFKA": kafka, "CHOREO_TEST_POSTGRES": postgres().url}
    words = ["--deployment", "kafka", "--count", str(COUNT), "--folder", str(folder)]
    return subprocess.Popen(
        [sys.executable, "-m", "services.demo", *words],
        cwd=ROOT,
        env={**kept, **named},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def parts_of(pid: int) -> list[int]:
    """List the processes that a process has started."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_up(folder: Path) -> bool:
    """Tell whether services and tracker work."""
    logs = [folder / f"{name}.log" for name in ("services", "tracker")]
    return all(
        log.exists() and any(line.startswith(UP) for line in log.read_bytes().splitlines())
        for log in logs
    )


def there(pid: int) -> bool:
    """Tell whether a process works still: one that has ended may wait to be asked how."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(pids: list[int]) -> None:
    with subprocess.Popen(["sleep", "60"]) as patience:
        for _ in range(LOOKS):
            if not any(map(there, pids)):
                patience.kill()
                return
            try:
                patience.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
        patience.kill()
    raise AssertionError(f"still there: {[pid for pid in pids if there(pid)]}")


SLOW = """
import os, sys, time
print("a warning at the start")
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)  # a look for the test's word, in a process of its own
print("running slow")
time.sleep(60)  # up until the test ends it
"""


def test_a_part_that_has_said_something_is_not_up_yet(tmp_path: Path) -> None:
    """It does not hear yet that it is to end."""
    (tmp_path / "slow.py").write_text(SLOW)
    shop = Shop(tmp_path, {"PYTHONPATH": str(tmp_path)})
    log, go = tmp_path / "slow.log", tmp_path / "go"
    try:
        shop._start("slow", "slow", str(go))
        while "warning" not in log.read_text():
            shop.check()
        assert not shop._is_up("slow")
        go.touch()
        shop.wait_until_up("slow")
        assert log.read_text().endswith("running slow\n")
    finally:
        shop.kill("slow")
        shop.close()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_goes_on_when_the_demo_is_ended(
    tmp_path: Path, kafka_server: KafkaServer, number: signal.Signals
) -> None:
    demo = started(tmp_path / "run", kafka_server.bootstrap)
    try:
        while demo.poll() is None and not is_up(tmp_path / "run"):
            try:
                demo.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
        parts = parts_of(demo.pid)
        assert len(parts) >= 5, demo.communicate()[
            1
        ]  # servers, provider, services, tracker, reaper
        if number is signal.SIGINT:  # as a terminal does: all of the group hear it
            os.killpg(demo.pid, number)
        else:
            demo.send_signal(number)
        _, told = demo.communicate()
        wait_until_gone(parts)
    finally:
        demo.kill()
    assert demo.returncode != 0
    assert "did not stop" not in told
    assert "Traceback" not in told

"""Every step crashed once, before its commit or after it: the same verdict as without a crash."""

import asyncio
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from services.demo.generator import write
from services.demo.orders import OrderPlaced, read
from services.demo.report import status_of
from tests.services.crashing import CRASHED, KILLED
from tests.services.killing import Killed

COUNT = 4
CRASHES_MAX = 400
WITHIN_S = 200


class Crashed(Killed):
    """The shop's services in one process that is started again whenever it has died."""

    def start(self, when: str) -> None:
        """Start the services; without a `when` they live."""
        if when:
            self.shop._start("services", "tests.services.crashing", when)
        else:
            self.shop.start_services()

    def supervise(self, when: str) -> None:
        """Start the services again and again, until all orders have ended and it is calm."""
        calm, last = 0, -1
        for _ in range(int(WITHIN_S / 0.1)):
            services = self.shop.running["services"]
            with suppress(subprocess.TimeoutExpired):
                services.wait(0.1)
            if services.poll() == KILLED:
                self.kills += 1
                assert self.kills < CRASHES_MAX, self.shop.log("services")
                del self.shop.running["services"]
                self.start(when)
                continue
            self.shop.check()
            calm = calm + 1 if self.ended() == len(self.placed) else 0
            calm = calm if last == (last := self.position()) else 0
            if calm == 20:
                return
        raise AssertionError(f"{self.ended()} of {len(self.placed)} orders have ended")


def verdict(folder: Path, when: str) -> dict[str, str]:
    """Let some orders run, crashing or not; give how each of them ended."""
    crashed = Crashed(folder, {})
    folder.mkdir()
    orders, stock = write(folder, COUNT, seed=3)
    crashed.placed = [line for line in read(orders) if isinstance(line, OrderPlaced)]
    shop = crashed.shop
    try:
        assert shop.load_stock(stock).returncode == 0
        shop.start_provider(seed=3)
        crashed.start(when)
        shop.start_tracker()
        asyncio.run(crashed.feed())
        crashed.supervise(when)
        flows = shop.ask("flows")
        crashed.judge()
    finally:
        shop.close()
    if when:
        steps = [line for line in (folder / CRASHED).read_text().split("\n") if line]
        assert len(steps) == len(set(steps)) > 8 * COUNT
        assert crashed.kills > COUNT
    return {flow["key"]: status_of(flow) for flow in flows}


@pytest.mark.timeout(600)
def test_every_step_crashed_once_comes_to_the_same_verdict(tmp_path: Path) -> None:
    wanted = verdict(tmp_path / "calm", "")
    assert {"completed", "cancelled"} <= set(wanted.values())
    for when in ("before", "after"):
        assert verdict(tmp_path / when, when) == wanted

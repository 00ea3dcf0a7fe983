"""Every step crashed once, before its commit or after it: the same verdict as without a crash."""

import asyncio
from dataclasses import dataclass

import pytest

from services.demo.generator import write
from services.demo.orders import OrderPlaced, read
from services.demo.report import status_of
from tests.services.crashing import CRASHED, DEATHS, LIVES
from tests.services.killing import Killed
from tests.services.places import Place, Places


@dataclass(frozen=True)
class Some:
    """So many made-up orders, and stock for all: some are completed, some undone."""

    count: int
    seed: int


MANY = Some(4, seed=73)
FEW = Some(2, seed=13)
CRASHES_MAX = 400
WITHIN_S = 200
SETTINGS = {"KAFKA_GROUP_INSTANCE_ID": "crashed"}  # who comes again is not waited for


class Crashed(Killed):
    """The shop's services in one process that is there again whenever it has died."""

    crashes = False

    def start(self, when: str) -> None:
        """Start the services; without a `when` they live."""
        self.crashes = bool(when)
        if when:
            folder = str(self.shop.folder)
            self.shop._start("services", "tests.services.crashing", when, folder)
        else:
            self.shop.start_services()

    def deaths(self) -> int:
        """Count the processes that have died."""
        return len(self._lines(DEATHS))

    def at_work(self) -> bool:
        """Tell whether whoever came after the last death has come to work."""
        dead = self._lines(DEATHS)
        return not self.crashes or any(one not in dead for one in self._lines(LIVES)[-1:])

    def _lines(self, name: str) -> list[str]:
        file = self.shop.folder / name
        return file.read_text().splitlines() if file.exists() else []

    def calmed(self) -> None:
        """Wait until all orders have ended, and nothing happens though somebody is at work."""
        calm, last = 0, (-1, -1)
        for _ in range(int(WITHIN_S / 0.1)):
            self.wait(0.1)
            assert self.deaths() < CRASHES_MAX, self.shop.log("services")
            calm = calm + 1 if self.at_work() and self.ended() == len(self.placed) else 0
            calm = calm if last == (last := (self.position(), self.deaths())) else 0
            if calm == 20:
                return
        raise AssertionError(f"{self.ended()} of {len(self.placed)} orders have ended")


def verdict(place: Place, some: Some, when: str) -> dict[str, str]:
    """Let some orders run, crashing or not; give how each of them ended."""
    crashed = Crashed(place, {**SETTINGS, "SHOP_SEED": str(some.seed)})
    folder = place.folder
    orders, stock = write(folder, some.count, some.seed)
    crashed.placed = [line for line in read(orders) if isinstance(line, OrderPlaced)]
    shop = crashed.shop
    try:
        assert shop.load_stock(stock).returncode == 0
        shop.start_provider(seed=some.seed)
        crashed.start(when)
        shop.start_tracker()
        asyncio.run(crashed.feed())
        crashed.calmed()
        flows = crashed.judge()
    finally:
        shop.close()
    if when:
        steps = [line for line in (folder / CRASHED).read_text().split("\n") if line]
        assert len(steps) == len(set(steps)) > 8 * some.count
        assert crashed.deaths() > some.count
    return {flow["key"]: status_of(flow) for flow in flows}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("places", "some"),
    [("one file", MANY), ("two files", FEW), ("servers", FEW)],
    indirect=["places"],
)
def test_every_step_crashed_once_comes_to_the_same_verdict(places: Places, some: Some) -> None:
    wanted = verdict(places("calm"), some, "")
    assert {"completed", "cancelled"} <= set(wanted.values())
    for when in ("before", "after"):
        assert verdict(places(when), some, when) == wanted

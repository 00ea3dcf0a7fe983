"""Six processes on one file, each with two of the services; a random one is killed with -9
every 0.2 to 2 seconds, and started again.

`python -m tests.services.chaos --minutes 30` does it again and again, each time with the next
seed; the shop's orders are generated, or those of a file.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from services.demo.generator import write
from services.demo.orders import OrderPlaced, read
from services.demo.processes import MODULES
from tests.services.killing import Killed
from tests.services.places import Files

PATIENCE = {"PAYMENT_PATIENCE_S": "0.5", "PAYMENT_WITHIN_S": "6"}
CALM_S = (0.2, 2.0)


class Chaos(Killed):
    """The six processes. Each service runs in two of them, and shares its partitions."""

    def start(self, number: int) -> None:
        """Start process `number`."""
        pair = (MODULES[number], MODULES[(number + 1) % len(MODULES)])
        self.shop.start_services(pair, name=f"services-{number}")

    def rage(self, random: Random, kills: int) -> None:
        """Kill one process after the other until all orders have ended, at most `kills` times."""
        for _ in range(kills):
            self.wait(random.uniform(*CALM_S))
            if self.ended() == len(self.placed):
                return
            number = random.randrange(len(MODULES))
            self.shop.kill(f"services-{number}")
            self.start(number)
            self.kills += 1


def run(folder: Path, orders: Path, stock: Path, *, seed: int, kills: int) -> Chaos:
    """Let the orders run through the chaos to their ends; raise when anything is wrong."""
    chaos = Chaos(Files(folder), PATIENCE | {"SHOP_SEED": str(seed)})
    chaos.placed = [line for line in read(orders) if isinstance(line, OrderPlaced)]
    shop = chaos.shop
    try:
        assert shop.load_stock(stock).returncode == 0
        shop.start_provider(seed=seed, plan="late=0.03,lost=0.06,late_s=1.5")
        for number in range(len(MODULES)):
            chaos.start(number)
        shop.start_tracker()
        asyncio.run(chaos.feed())
        chaos.rage(Random(seed), kills)
        chaos.finish()
        chaos.judge()
    finally:
        shop.close()
    return chaos


def main() -> None:
    """Run round after round until the time is up; exit with 1 at the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1, help="of the first round")
    parser.add_argument("--count", type=int, default=830, help="orders a round")
    parser.add_argument("--orders", type=Path, help="a file of orders, instead of generated ones")
    parser.add_argument("--stock", type=Path, help="the stock that goes with it")
    asked = parser.parse_args()
    last = time.monotonic() + asked.minutes * 60
    seed = asked.seed
    while time.monotonic() < last:
        folder = Path(tempfile.mkdtemp(prefix="chaos-"))
        orders, stock = asked.orders, asked.stock
        if orders is None:
            orders, stock = write(folder, asked.count, seed)
        begun = time.monotonic()
        try:
            chaos = run(folder, orders, stock, seed=seed, kills=1_000_000)
        except AssertionError as exc:
            sys.exit(f"seed {seed}: {exc}\nthe folder is kept: {folder}")
        took = time.monotonic() - begun
        sys.stdout.write(f"seed {seed}: {chaos.kills} kills, {took:.0f} s, audit clean\n")
        sys.stdout.flush()
        shutil.rmtree(folder)
        seed += 1


if __name__ == "__main__":
    main()

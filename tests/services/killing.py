"""A shop in processes, with a hand on them: to be killed, counted and judged."""

import asyncio
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from random import Random
from time import monotonic

from choreo import App
from choreo.app import system_clock
from services.demo.orders import OrderPlaced
from services.demo.processes import MODULES, ROOT, Shop
from services.demo.report import status_of
from tests.services.places import Place

NORTHWIND = ROOT.parent / "shared" / "data" / "northwind"
STALL_S = 60.0


class Killed:
    """One shop in processes, with a hand on its services."""

    def __init__(self, place: Place, environment: Mapping[str, str]) -> None:
        self.place = place
        self.shop = Shop(place.folder, {**place.settings, **environment})
        self.placed: list[OrderPlaced] = []
        self.kills = 0

    async def feed(self) -> None:
        """Publish all orders, a few at a time."""
        broker, store = self.place.parts(system_clock())
        async with App(broker=broker, store=store) as app:
            for start in range(0, len(self.placed), 16):
                some = self.placed[start : start + 16]
                await asyncio.gather(*(app.publish(one, id=one.order_id) for one in some))

    def wait(self, seconds: float) -> None:
        """Let the services work; raise when they end by themselves."""
        with suppress(subprocess.TimeoutExpired):
            next(iter(self.shop.running.values())).wait(seconds)
        self.shop.check()

    def position(self) -> int:
        """Give how far the log has come."""
        return self.place.position()

    def ended(self) -> int:
        """Count the orders with an end in the log."""
        return self.count("OrderCompleted", "OrderCancelled", "OrderRejected")

    def count(self, *kinds: str) -> int:
        """Count the orders with one of these events in the log."""
        return self.place.count(*kinds)

    def strike(self, random: Random) -> None:
        """Wait until the services have begun to work, and a little; kill and start them."""
        manifests = self.position() + len(MODULES)  # that they begin with is no work
        for _ in range(100):
            self.wait(0.1)
            if self.position() > manifests:
                break
        self.wait(random.uniform(0.0, 0.5))
        self.kills += self.ended() < len(self.placed)
        self.shop.kill("services")
        self.shop.start_services()

    def finish(self) -> None:
        """Wait until all orders have ended and nothing follows any more.

        For as long as something goes on: a machine that does much else is slow.
        """
        seen, since = -1, monotonic()
        while (ended := self.ended()) < len(self.placed):
            if (position := self.position()) > seen:
                seen, since = position, monotonic()
            elif monotonic() - since > STALL_S:
                raise AssertionError(
                    f"{ended} of {len(self.placed)} have ended, nothing happens for {STALL_S:g} s"
                )
            self.wait(0.25)
        last = -1
        while last != (last := self.position()):
            self.wait(1.0)

    def judge(self) -> None:
        """Look at every flow, end everything, and audit what is left."""
        flows = self.shop.ask("flows")
        open_ = [flow for flow in flows if status_of(flow) == "open"]
        assert not open_, f"{len(open_)} flows are open: {open_[:3]}"
        assert len(flows) == len(self.placed)
        assert not [flow for flow in flows if flow["dead"]]
        services = {n: part for n, part in self.shop.running.items() if n.startswith("services")}
        for name, part in services.items():
            self.shop.stop(name)
            assert part.returncode == 0, self.shop.log(name)
        self.shop.close()
        assert self.shop.ask("audit")["violations"] == []

"""A shop in processes, with a hand on them: to be killed, counted and judged."""

import asyncio
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from random import Random
from time import monotonic
from typing import Any

from choreo import App
from choreo.app import system_clock
from services.demo.orders import OrderPlaced
from services.demo.processes import LAST, MODULES, ROOT, Shop
from services.demo.report import status_of
from tests.services.places import Place

NORTHWIND = ROOT.parent / "shared" / "data" / "northwind"
STALL_S = 60.0
Flows = Sequence[Mapping[str, Any]]


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
        """Wait until all orders have ended.

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

    def rest(self) -> Flows:
        """Wait until everybody is up, the tracker has seen all, and nothing is left to be done.

        An audit tells: what no handler has taken yet it would miss at the end. Give the flows.
        """
        self.shop.wait_until_up(*(name for name in self.shop.running if name not in LAST))
        seen, since = None, monotonic()
        while True:
            flows: Flows = self.shop.ask("flows")
            open_ = [flow for flow in flows if status_of(flow) == "open"]
            missed = self.shop.ask("audit")["violations"]
            if len(flows) == len(self.placed) and not open_ and not missed:
                return flows
            if (now := (self.position(), len(flows), len(open_), len(missed))) != seen:
                seen, since = now, monotonic()
            elif monotonic() - since > STALL_S:
                what = f"{len(flows)} flows, {len(open_)} are open: {open_[:3]}; {missed[:3]}"
                raise AssertionError(f"nothing happens for {STALL_S:g} s: {what}")
            self.wait(0.25)

    def judge(self) -> Flows:
        """Look at every flow, end everything, and audit what is left; give the flows."""
        flows = self.rest()
        assert not [flow for flow in flows if flow["dead"]]
        services = {n: part for n, part in self.shop.running.items() if n.startswith("services")}
        for name, part in services.items():
            self.shop.stop(name)
            assert part.returncode == 0, self.shop.log(name)
        self.shop.close()
        assert self.shop.ask("audit")["violations"] == []
        return flows

"""The whole shop on a log and a store that fail by a seed: the worker asks again, and copes.

Faults stop at the end, and then all comes to rest: every order has its end, the audit finds
nothing, and every kind of fault has fired.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import TypeVar

import pytest

from choreo import App
from choreo.adapters.sqlite import Database, Log, SqliteBroker, SqliteStore
from choreo.errors import ChoreoError
from choreo.testing import CALM, Faults, FaultyBroker, FaultyStore
from choreo.worker import Limits
from services import invariants
from services.notifications import Mailer
from services.payments import PaymentProvider
from services.shipping import Carrier
from tests.auditing import judged
from tests.services.shop import SERVICES, Shop, placed

T = TypeVar("T")
FAULTS = Faults(refused=0.05, ack_lost=0.1, delayed=0.2, repeated=0.2, commit_lost=0.3)
KINDS = {"refused", "ack_lost", "delayed", "repeated", "commit_lost"}
MOODS = ["plain"] * 4 + ["declined", "refused", "error", "lost", "lost", "down"]
HASTY = Limits(drain_s=0.0, commit_every_s=10)
STARTS_MAX = 500


async def insisting(ask: Callable[[], Awaitable[T]]) -> T:
    while True:
        try:
            return await ask()
        except ChoreoError as exc:
            if not exc.transient:
                raise


class Failing:
    """The deployment of a shop, one after the other: each fails in its own way."""

    def __init__(self, shop: Shop, seed: int) -> None:
        self.shop = shop
        self.rng = Random(seed)
        self.fired = Counter[tuple[str, str]]()

    def _made(self, faults: Faults) -> tuple[FaultyBroker, FaultyStore]:
        log = Log(Database(self.shop.folder / "choreo.db"))
        store = SqliteStore(log, clock=self.shop.clock)
        seed = self.rng.getrandbits(32)
        return (
            FaultyBroker(SqliteBroker(log), seed=seed, faults=faults),
            FaultyStore(store, seed=seed + 1, faults=faults),
        )

    async def _started(self, faults: Faults) -> tuple[App, FaultyBroker, FaultyStore]:
        """Start until it starts: as an operator, or whoever supervises, would."""
        shop = self.shop
        outside = {PaymentProvider: shop.bank.provider(), Mailer: shop.post, Carrier: shop.van}
        for _ in range(STARTS_MAX):
            broker, store = self._made(faults)
            app = App(
                *SERVICES,
                broker=broker,
                store=store,
                resources=outside,
                clock=shop.clock,
                limits=HASTY,
            )
            try:
                await app.start()
            except ChoreoError as exc:
                await app.stop()
                self._count(broker, store)
                if not exc.transient:
                    raise
            else:
                return app, broker, store
        raise AssertionError("it never started")

    def _count(self, *parts: FaultyBroker | FaultyStore) -> None:
        for part in parts:
            self.fired += part.fired

    @asynccontextmanager
    async def open(self, faults: Faults = FAULTS) -> AsyncIterator[App]:
        """Run the shop; within the block everything may fail."""
        app, broker, store = await self._started(faults)
        try:
            yield app
        finally:
            self._count(broker, store)
            broker.faults = store.faults = CALM
            await app.stop()


@pytest.mark.parametrize("seed", range(1, 6))
async def test_every_order_ends_whatever_fails(shop: Shop, seed: int) -> None:
    await shop.stock(A=40, B=12)
    failing = Failing(shop, seed)
    moods = Random(seed)
    shop.bank.mood = lambda path, attempt: moods.choice(MOODS)
    for run in range(3):
        async with failing.open() as app:
            for n in range(6):
                order = placed(f"{run}-{n}", ("A", 1 + n % 3), ("B", n % 2 + 1))
                await insisting(partial(app.publish, order, id=order.order_id))
                await shop.clock.advance(failing.rng.choice([0, 0.1, 5, 30]))
    async with failing.open(CALM):
        await shop.clock.advance(2 * 3600)
    assert {fault for fault, _ in failing.fired} == KINDS
    assert failing.fired["ack_lost", "apply"] > 3
    assert await judged(shop.folder, invariants.money, invariants.stock) == []

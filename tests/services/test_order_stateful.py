"""The order flow as a state machine: whatever happens, in whatever order, nothing is lost.

Hypothesis writes programs of what customers, the bank, the post, the carrier, the clock and
the power do, and prints the one that breaks an invariant. The whole shop runs in one App on a
file; a crash is the file as it was at that commit, with a new App on it: the old one goes on
writing to what nobody reads any more, and reaches nobody outside.
"""

import asyncio
import os
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from choreo import App
from choreo.adapters.sqlite import Database, Log, SqliteBroker, SqliteStore
from choreo.audit import audit
from choreo.events import Record
from choreo.plan import Plan
from choreo.ports import Applied
from choreo.worker import Limits
from services.invariants import ENDS, money, stock
from services.notifications import Mailer
from services.notifications.mailer import MailError, NoMailboxError
from services.orders.events import OrderPlaced
from services.payments import PaymentProvider
from services.shipping import Carrier
from services.shipping.carrier import CarrierBusyError, CarrierRefusedError
from tests.services.places import Files
from tests.services.power import shown_by
from tests.services.shop import SERVICES, Shop, placed

LINES: dict[str, tuple[tuple[str, int], ...]] = {
    "good": (("A", 1), ("B", 1)),
    "large": (("A", 3),),
    "out of stock": (("B", 50),),
    "unknown sku": (("Z", 1),),
    "no quantity": (("A", 0),),
    "bad total": (("A", 1),),
    "no lines": (("A", 1),),
}
KINDS = ("good", *sorted(LINES))
CHANGED: dict[str, dict[str, object]] = {
    "bad total": {"total": "1.00"},
    "no lines": {"lines": []},
}
MOODS = ("plain", "declined", "refused", "error", "lost", "down")
LETTERS = (None, MailError("full"), NoMailboxError("none"))
PARCELS = (None, CarrierBusyError("later"), CarrierRefusedError("never"))
GONE = "999999999 0"
"""A process that is no more, as the store names it."""
AT_ONCE = Limits(drain_s=0.01, crashes_max=1000)
WAIT_S = 60.0

PROGRAM, FAILED = "program", "failed in program"
happened = Counter[str]()
"""What the programs of one test came to: crashes, events that came again, ends of orders."""


class Doomed:
    """A store whose machine may lose its power at a commit, before it or after it."""

    def __init__(self, inner: Any, folder: Path) -> None:
        self._inner = inner
        self._folder = folder
        self.applies_left: int | None = None
        self.before = False
        self.crashed = asyncio.Event()
        self.left: Path | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def apply(self, plans: Sequence[Plan]) -> Sequence[Applied | BaseException]:
        """Write; or be gone, and never answer."""
        if self.applies_left is None:
            return await self._inner.apply(plans)  # type: ignore[no-any-return]
        self.applies_left -= 1
        if self.applies_left >= 0:
            return await self._inner.apply(plans)  # type: ignore[no-any-return]
        if self.left is None and not self.before:
            await self._inner.apply(plans)
        self.keep()
        return await asyncio.Future()

    def keep(self) -> None:
        """Keep the file as it is now: what is written from here on has never been."""
        if self.left is not None:
            return
        self.left = Path(tempfile.mkdtemp(dir=self._folder.parent))
        with (
            closing(sqlite3.connect(self._folder / "choreo.db")) as db,
            closing(sqlite3.connect(self.left / "choreo.db")) as copy,
        ):
            db.backup(copy)
            copy.execute("UPDATE owner SET holder = ? WHERE holder <> ''", (GONE,))
            copy.execute("UPDATE member SET holder = ?", (GONE,))
            copy.commit()
        self.crashed.set()


class OrderMachine(RuleBasedStateMachine):
    """Runs the shop, and what goes on around it."""

    @initialize()
    def begin(self) -> None:
        happened[PROGRAM] += 1
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.shop = Shop(Path(tempfile.mkdtemp(dir=self.folder.name)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CHOREO_BROKER", f"sqlite:///{self.shop.folder / 'choreo.db'}")
            self.runner.run(self.shop.stock(A=6, B=4))
        self.placed: dict[str, OrderPlaced] = {}
        self.run(self.start())

    # ── the machinery ────────────────────────────────────────────────────────────────────

    def run(self, work: Awaitable[None]) -> None:
        async def limited() -> None:
            async with asyncio.timeout(WAIT_S):
                await work

        self.runner.run(limited())

    async def start(self) -> None:
        """Run a new App on the file, and be a customer who was told nothing: order again."""
        shop = self.shop
        log = Log(Database(shop.folder / "choreo.db"))
        self.store = Doomed(SqliteStore(log, clock=shop.clock), shop.folder)
        store: Any = self.store
        outside = {PaymentProvider: self.bank(self.store), Mailer: shop.post, Carrier: shop.van}
        self.app = App(
            *SERVICES,
            broker=SqliteBroker(log),
            store=store,
            resources=outside,
            clock=shop.clock,
            limits=AT_ONCE,
        )
        await self.app.start()
        for key, order in self.placed.items():
            await self.app.publish(order, id=key)

    def bank(self, store: Doomed) -> PaymentProvider:
        """Give the bank, as long as the machine that calls it has power."""

        async def handle(request: httpx.Request) -> httpx.Response:
            if store.crashed.is_set():
                raise httpx.ConnectError("nobody calls any more")
            return await self.shop.bank._handle(request)

        transport = httpx.MockTransport(handle)
        return PaymentProvider(httpx.AsyncClient(transport=transport, base_url="http://bank"))

    async def goes_on(self, work: Callable[[], Awaitable[None]]) -> None:
        """Let something happen, and all that follows; a crash meanwhile is followed by a start."""

        async def all_of_it() -> None:
            await work()
            await self.shop.clock.settle()

        task = asyncio.ensure_future(all_of_it())
        crashed = asyncio.ensure_future(self.store.crashed.wait())
        await asyncio.wait((task, crashed), return_when=asyncio.FIRST_COMPLETED)
        crashed.cancel()
        if not self.store.crashed.is_set():
            await task
            return
        task.cancel()
        await asyncio.wait((task,))
        happened["crash"] += 1
        await self.app.stop()
        assert self.store.left is not None
        self.shop.folder = self.store.left
        self.shop.place = Files(self.store.left)
        await self.start()
        await self.shop.clock.settle()

    # ── what happens ─────────────────────────────────────────────────────────────────────

    @rule(kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))
    def place(self, kinds: list[str]) -> None:
        fresh = {}
        for number, kind in enumerate(kinds, len(self.placed) + 1):
            fresh[str(number)] = placed(str(number), *LINES[kind], **CHANGED.get(kind, {}))
        self.placed |= fresh

        async def all_of_them() -> None:
            await asyncio.gather(*(self.app.publish(one, id=key) for key, one in fresh.items()))

        self.run(self.goes_on(all_of_them))

    @precondition(lambda self: self.placed)
    @rule(data=st.data())
    def place_the_same_order_anew(self, data: st.DataObject) -> None:
        """A flow of its own, which has to be rejected, or both were bad."""
        known = data.draw(st.sampled_from(sorted(self.placed)))
        number, order = f"{len(self.placed) + 1}", self.placed[known]
        self.placed[number] = order

        async def again() -> None:
            await self.app.publish(order, id=number)

        self.run(self.goes_on(again))

    @rule(
        mood=st.sampled_from(MOODS),
        letter=st.sampled_from(range(len(LETTERS))),
        parcel=st.sampled_from(range(len(PARCELS))),
    )
    def the_outside_is(self, mood: str, letter: int, parcel: int) -> None:
        self.shop.bank.mood = lambda path, attempt: mood
        self.shop.post.error, self.shop.van.error = LETTERS[letter], PARCELS[parcel]

    @rule(seconds=st.sampled_from((0.3, 5.0, 61.0, 1900.0)))
    def time_passes(self, seconds: float) -> None:
        self.run(self.goes_on(lambda: self.shop.clock.advance(seconds)))

    @rule(applies=st.integers(0, 12), before=st.booleans())
    def the_power_will_fail(self, applies: int, before: bool) -> None:  # noqa: FBT001 - drawn
        self.store.applies_left, self.store.before = applies, before

    @rule()
    def it_is_killed(self) -> None:
        async def kill() -> None:
            self.store.keep()

        self.run(self.goes_on(kill))

    @precondition(lambda self: self.placed)
    @rule(data=st.data())
    def events_come_again(self, data: st.DataObject) -> None:
        found = self.events()
        chosen = data.draw(st.sets(st.integers(0, len(found) - 1), min_size=1, max_size=6))
        self.run(self.goes_on(lambda: self.again([found[index] for index in sorted(chosen)])))

    def events(self) -> list[Record]:
        """Give every event of the shop, once."""
        found = [one for one in self.shop.history() if one.topic.startswith("shop.")]
        return [*{one.headers["ce_id"]: one for one in found}.values()]

    async def again(self, records: Sequence[Record]) -> None:
        """Publish events that were published before."""
        happened["again"] += len(records)
        await self.app.broker.publish(
            [Record(one.topic, one.key, one.headers, one.value) for one in records]
        )

    # ── what holds ───────────────────────────────────────────────────────────────────────

    @invariant()
    def nothing_is_wrong(self) -> None:
        self.judge(at_rest=False)

    def judge(self, *, at_rest: bool) -> None:
        folder = self.shop.folder
        with closing(sqlite3.connect(folder / "choreo.db", isolation_level=None)) as db:
            evidence = shown_by(db, folder)
        found = audit(evidence, invariants=(money, stock), at_rest=at_rest)
        if found and not happened[FAILED]:
            happened[FAILED] = happened[PROGRAM]
        assert not found, "\n".join(f"{name}: {text}" for name, text in found)

    def teardown(self) -> None:
        """Once all is well outside, every order comes to its end; then all that was comes again."""
        try:
            self.the_outside_is("plain", 0, 0)
            self.store.applies_left = None
            self.run(self.goes_on(lambda: self.shop.clock.advance(3 * 3600.0)))
            self.run(self.goes_on(lambda: self.again(self.events())))
            self.run(self.goes_on(lambda: self.shop.clock.advance(3 * 3600.0)))
            self.run(self.app.stop())
            self.judge(at_rest=True)
            ended = [one for one in self.shop.history() if one.headers["ce_type"] in ENDS]
            happened.update(one.headers["ce_type"] for one in ended)
            flows = {one.headers["ce_correlationid"] for one in ended}
            assert len(flows) == len(self.placed)
            kept = sum(cents if kind == "capture" else -cents for kind, cents in self.shop.booked())
            assert self.shop.bank.kept() == kept
        finally:
            self.runner.close()
            self.folder.cleanup()


PROGRAMS = int(os.environ.get("CHOREO_TEST_PROGRAMS", "0"))
SHRINKS = "CHOREO_TEST_AS_FOUND" not in os.environ


@pytest.mark.timeout(600 + 20 * PROGRAMS)
def test_whatever_happens_every_order_comes_to_its_end() -> None:
    """Always the same few programs, or, by CHOREO_TEST_PROGRAMS=500, so many new ones.

    The one that fails is made shorter for some minutes; not by CHOREO_TEST_AS_FOUND=1.
    """
    programs = settings(
        max_examples=PROGRAMS or 10,
        stateful_step_count=12,
        deadline=None,
        derandomize=not PROGRAMS,
        database=None,
        print_blob=True,
        phases=[Phase.generate, *([Phase.shrink] if SHRINKS else [])],
        suppress_health_check=[HealthCheck.too_slow],
    )
    happened.clear()
    try:
        run_state_machine_as_test(OrderMachine, settings=programs)
    except BaseException as exc:
        exc.add_note(f"first {FAILED} {happened[FAILED] or happened[PROGRAM]}")
        raise
    assert happened.keys() >= {"crash", "again", *ENDS}, "too little has happened"

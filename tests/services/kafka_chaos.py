"""Three processes on a Kafka and a PostgreSQL, all of which are killed, stopped and moved.

`python -m tests.services.kafka_chaos --minutes 30` does it again and again, each time with the
next seed and as a new cluster; the shop's orders are generated, or those of a file.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from time import monotonic

import asyncpg

from choreo import App, Event
from choreo.adapters.kafka import KafkaBroker, KafkaSettings
from choreo.adapters.postgres import PostgresStore
from choreo.adapters.postgres.views import PostgresViewStore
from choreo.app import system_clock
from choreo.audit import Evidence, gather, judge
from choreo.errors import ChoreoError
from choreo.events import STARTED, STEP, TOOK
from choreo.ports import FlowFilter, FlowSummary, Row
from choreo.testing.servers import KafkaServer
from choreo.testing.servers.postgres import PostgresServer
from services.demo.generator import write
from services.demo.orders import OrderPlaced, read
from services.demo.processes import PartError, Shop
from services.demo.report import status_of
from services.invariants import ledger, money, stock
from tests.services.counting import Counted
from tests.services.storm import (
    PARTITIONS,
    SERVICES,
    SESSION_S,
    Fault,
    Kind,
    Storm,
    schedule,
)

PATIENCE = {"PAYMENT_PATIENCE_S": "0.5", "PAYMENT_WITHIN_S": "6"}
PROVIDER = "late=0.03,lost=0.06,late_s=1.5"
KEYS = 5
AT_ONCE = 8
AGAIN_S = 0.2
COUNT_S = 0.3
THREADS = 32
LOOK_S = 0.5
STALL_S = 60.0
CALM_S = (0.5, 3.0)
LEFT = (
    "SELECT * FROM choreo.owner ORDER BY grp, topic, partition",
    """
    SELECT text, encode(subject, 'hex'), status, owner, "offset", attempt, due, chain, error
    FROM choreo.inbox LEFT JOIN choreo.name ON id = handler ORDER BY owner, "offset"
    """,
    "SELECT id, handler, k, n FROM counting_row ORDER BY id",
    "SELECT seq, owner, topic, encode(key, 'escape') FROM choreo.outbox",
)
"""What is asked of the database when something does not come to its end."""
EACH = (Kind.KILL, Kind.FREEZE, Kind.BROKER, Kind.DATABASE, Kind.MEMBER)


class Run:
    """One storm over one shop, from its first order to the audit."""

    def __init__(
        self, storm: Storm, placed: Sequence[OrderPlaced], faults: Sequence[Fault]
    ) -> None:
        self.storm = storm
        self.placed = placed
        self.faults = faults
        self.counted = [0] * KEYS
        self._calm = asyncio.Event()
        self.refused = 0
        """How often publishing was refused, and tried again."""
        self.settings = KafkaSettings(storm.kafka.bootstrap, request_timeout_s=SESSION_S)
        self.url = storm.shop.environment["CHOREO_STORE"]

    async def live(self) -> None:
        """Publish while the faults happen, a little at a time; wait until all has ended."""
        # Servers are started and stopped in threads, all at once if it comes to that.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
        watching = asyncio.create_task(self.storm.watch())
        living = asyncio.create_task(self._live())
        try:
            await asyncio.wait((watching, living), return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                watching.result()
            await living
        finally:
            for task in (watching, living):
                task.cancel()
            await asyncio.gather(watching, living, return_exceptions=True)

    async def _live(self) -> None:
        for name in self.storm.names:
            await self.storm.until_up(name)
        lasts_s = sum(fault.after_s for fault in self.faults)
        async with self._app() as app, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._place(app, lasts_s))
            for key in range(KEYS):
                tasks.create_task(self._count(app, key))
            await self.storm.befall(self.faults)
            self._calm.set()
        for name in self.storm.names:  # before it is up it does not hear that it is to end
            await self.storm.until_up(name)
        await self._rest()

    # ── publishing ───────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def _app(self) -> AsyncIterator[App]:
        store = PostgresStore(self.url, clock=system_clock())
        async with App(broker=KafkaBroker(self.settings), store=store) as app:
            yield app

    async def _place(self, app: App, lasts_s: float) -> None:
        rest_s = lasts_s * AT_ONCE / len(self.placed)
        for start in range(0, len(self.placed), AT_ONCE):
            some = self.placed[start : start + AT_ONCE]
            await asyncio.gather(*(self._publish(app, one, one.order_id) for one in some))
            await asyncio.sleep(rest_s)

    async def _count(self, app: App, key: int) -> None:
        """Publish numbers for as long as something happens."""
        while not self._calm.is_set():
            n = self.counted[key]
            await self._publish(app, Counted(k=f"k{key}", n=n), f"{key}/{n}")
            self.counted[key] += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(self._calm.wait(), COUNT_S)

    async def _publish(self, app: App, event: Event, id: str) -> None:
        while True:
            try:
                await app.publish(event, id=id)
            except ChoreoError as exc:
                if not exc.transient:
                    raise
                self.refused += 1
                await asyncio.sleep(AGAIN_S)
            else:
                return

    # ── the end ──────────────────────────────────────────────────────────────────────────

    async def _rest(self) -> None:
        """Wait until every order has ended, nothing waits to be published or to be read.

        For as long as something goes on: a machine that does much else is slow.
        """
        seen, since = -1, monotonic()
        while True:
            try:
                what, records = await self._missing()
            except ChoreoError as exc:
                if not exc.transient:
                    raise
                what, records = f"{exc}", seen
            if not what:
                return
            if records != seen:
                seen, since = records, monotonic()
            elif monotonic() - since > STALL_S:
                raise AssertionError(f"nothing has happened for {STALL_S:g} s: {what}")
            await asyncio.sleep(LOOK_S)

    async def _missing(self) -> tuple[str, int]:
        """Say what has not come to an end yet, and how many records there are."""
        views = PostgresViewStore(self.url)
        broker = KafkaBroker(self.settings)
        try:
            ends = await broker.ends(None)
            flows = await views.flows(FlowFilter(name="order"))
            what = await self._unfinished(flows) or await self._behind(broker)
            return what, sum(ends.values())
        finally:
            await broker.close()
            await views.close()

    async def _unfinished(self, flows: Sequence[FlowSummary]) -> str:
        open_ = [flow.flow for flow in flows if status_of({"end": flow.end}) == "open"]
        if open_ or len(flows) < len(self.placed):
            return f"{len(flows)} flows are seen, {len(open_)} are open: {open_[:3]}"
        counted = await self._ask("SELECT count(*) FROM counting_row")
        if counted < 2 * sum(self.counted):
            return f"{counted} of twice {self.counted} numbers are handled"
        rows = await self._ask("SELECT count(*) FROM choreo.outbox")
        return f"{rows} rows are in the outbox" if rows else ""

    @staticmethod
    async def _behind(broker: KafkaBroker) -> str:
        positions, ends = await broker.positions(), await broker.ends(None)
        late = [
            f"{group} {place.topic}-{place.number}"
            for (group, place), offset in positions.items()
            if offset < ends[place]
        ]
        return f"not read to its end: {late[:3]}" if late else ""

    async def _ask(self, sql: str) -> int:
        ((number,),) = await asyncio.to_thread(self.storm.postgres.run, sql, url=self.url)
        return int(number)

    # ── judgement ────────────────────────────────────────────────────────────────────────

    def judge(self) -> None:
        """End everything in order, and look at all that is left."""
        shop = self.storm.shop
        flows = [flow for flow in shop.ask("flows") if flow["name"] == "order"]
        assert len(flows) == len(self.placed)
        assert not [flow for flow in flows if flow["dead"]]
        for name in self.storm.names:
            self.storm.stop(name)
        shop.close()
        evidence = asyncio.run(self._evidence())
        self._judge_order()
        found = judge(evidence, invariants=(money, stock, ledger))
        assert not found.violations, "\n".join(f"{n}: {text}" for n, text in found.violations[:20])
        assert {"once", "order", "taken", "published", "sent"} <= {*found.judged}
        self._judge_faults(evidence)

    async def _evidence(self) -> Evidence:
        broker = KafkaBroker(self.settings)
        store = PostgresStore(self.url, clock=system_clock())
        try:
            return await gather(broker, [store], rows=self._rows, folder=self.storm.shop.folder)
        finally:
            await store.close()
            await broker.close()

    def keep(self) -> None:
        """Write down what is left, for who looks for the reason of what is wrong."""
        evidence = asyncio.run(self._evidence())
        found = judge(evidence, invariants=(money, stock, ledger))
        with (self.storm.shop.folder / "left.txt").open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in self.storm.told)
            for name, text in found.violations:
                file.write(f"{name}: {text}\n")
            for (group, place), offset in sorted((evidence.positions or {}).items()):
                file.write(f"{group} {place.topic}-{place.number}: {offset}\n")
            for one in evidence.history:
                key = (one.key or b"").decode("utf-8", "replace")
                headers = " ".join(f"{name}={value}" for name, value in one.headers.items())
                file.write(f"{one.topic}-{one.partition}-{one.offset} {key} {headers}\n")
            for sql in LEFT:
                file.write(f"\n{sql}\n")
                file.writelines(f"{[*row.values()]}\n" for row in self._rows(sql))

    def _rows(self, sql: str, *values: object) -> list[Row]:
        async def fetch() -> list[Row]:
            connection = await asyncpg.connect(self.url)
            try:
                return [dict(row) for row in await connection.fetch(sql, *values)]
            finally:
                await connection.close()

        return asyncio.run(fetch())

    def _judge_order(self) -> None:
        """Each number was handled once by each handler, in the order of its key."""
        seen: dict[tuple[str, str], list[int]] = defaultdict(list)
        for row in self._rows("SELECT handler, k, n FROM counting_row ORDER BY id"):
            seen[row["handler"], row["k"]].append(row["n"])
        for key, count in enumerate(self.counted):
            for handler in ("note", "again"):
                numbers = seen[handler, f"k{key}"]
                assert numbers == list(range(count)), f"{handler} {key}: {numbers}"

    def _judge_faults(self, evidence: Evidence) -> None:
        """Every kind had the effect that it is there for, and partitions moved under handlers."""
        wanted = {fault.kind for fault in self.faults}
        missing = [kind.value for kind in wanted if not self.storm.fired[kind]]
        assert not missing, f"had no effect: {missing}"
        steps = [
            (float(one.headers[STARTED]), float(one.headers[TOOK]))
            for one in evidence.history
            if one.headers.get(STEP) == "counting.note" and STARTED in one.headers
        ]
        moved = self.storm.moved_at
        met = (begun < t < begun + took for t in moved for begun, took in steps)
        assert any(met), f"of {len(moved)} looks at a group that moved, none met a handler"


def run(folder: Path, orders: Path, stock_file: Path, *, seed: int, faults: Sequence[Fault]) -> Run:
    """Let the orders run through the storm to their ends; raise when anything is wrong."""
    placed = [line for line in read(orders) if isinstance(line, OrderPlaced)]
    with KafkaServer() as kafka, PostgresServer.found() as postgres:
        url = postgres.database()
        shop = Shop(
            folder,
            {
                **PATIENCE,
                "SHOP_SEED": str(seed),
                "CHOREO_BROKER": f"kafka://{kafka.bootstrap}",
                "CHOREO_STORE": url,
                "KAFKA_SESSION_TIMEOUT_MS": f"{SESSION_S * 1000:.0f}",
                "KAFKA_REQUEST_TIMEOUT_MS": f"{SESSION_S * 1000:.0f}",
            },
        )
        storm = Storm(shop, kafka, postgres)
        lived = Run(storm, placed, faults)
        try:
            shop.ask("topics", "apply", *SERVICES, "--partitions", str(PARTITIONS))
            assert shop.load_stock(stock_file).returncode == 0
            shop.start_provider(seed=seed, plan=PROVIDER)
            storm.start_all()
            shop.start_tracker()
            shop.wait_until_up("tracker")
            try:
                asyncio.run(lived.live())
                lived.judge()
            except (AssertionError, BaseExceptionGroup):
                lived.keep()
                raise
        finally:
            shop.close()
    return lived


def told(seed: int, faults: Sequence[Fault]) -> str:
    """Say what a seed has in store."""
    return f"seed {seed}: {', '.join(map(str, faults))}"


def main() -> None:
    """Run round after round until the time is up, at least one; exit with 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1, help="of the first round")
    parser.add_argument("--count", type=int, default=830, help="orders a round")
    parser.add_argument("--faults", type=int, default=8, help="of each kind a round")
    parser.add_argument("--orders", type=Path, help="a file of orders, instead of generated ones")
    parser.add_argument("--stock", type=Path, help="the stock that goes with it")
    asked = parser.parse_args()
    last = monotonic() + asked.minutes * 60
    seed = asked.seed
    while seed == asked.seed or monotonic() < last:
        folder = Path(tempfile.mkdtemp(prefix="chaos-"))
        orders, stock_file = asked.orders, asked.stock
        if orders is None:
            orders, stock_file = write(folder, asked.count, seed)
        faults = schedule(Random(seed), EACH * asked.faults, calm_s=CALM_S)
        say(told(seed, faults))
        begun = monotonic()
        try:
            lived = run(folder, orders, stock_file, seed=seed, faults=faults)
        except (AssertionError, PartError, BaseExceptionGroup) as exc:
            sys.exit(f"seed {seed}: {exc!r}\nthe folder is kept: {folder}")
        counts = ", ".join(f"{n} {kind.name.lower()}" for kind, n in lived.storm.fired.items())
        took = monotonic() - begun
        say(f"seed {seed}: {counts}, {lived.refused} refused, {took:.0f} s, audit clean")
        shutil.rmtree(folder)
        seed += 1


def say(text: str) -> None:
    """Write a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

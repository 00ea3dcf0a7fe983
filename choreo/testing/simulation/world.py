"""A whole system of services in one process: on a virtual clock, with faults, from one seed.

    with simulate([orders, payments], seed=7, faults=Faults(crash=0.02)) as world:
        world.publish(OrderPlaced(order_id="17"))
        world.run(days=30)
        world.audit()

The same seed gives the same history, on every run and every machine.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from choreo.adapters.sqlite import Log, SqliteStore
from choreo.adapters.sqlite.contents import contents_of
from choreo.adapters.sqlite.inline import Disk, InlineDatabase
from choreo.adapters.sqlite.tx import SqliteTx, driven
from choreo.app import App, migrate
from choreo.audit import Evidence, Recovery, Report, judge
from choreo.errors import SimulationError
from choreo.events import FLOW, Event
from choreo.service import ParamKind, Service
from choreo.testing.faults import CALM, ROUGH, Faults
from choreo.testing.simulation.broker import SimBroker
from choreo.testing.simulation.chance import Chance, Crash, Fired, Injected
from choreo.testing.simulation.clock import HostClock
from choreo.testing.simulation.cluster import Cluster, Stored, copied
from choreo.testing.simulation.evidence import Tables
from choreo.testing.simulation.guard import Guard
from choreo.testing.simulation.host import LIMITS, Machine
from choreo.testing.simulation.loop import SimLoop
from choreo.testing.simulation.outside import Outside
from choreo.testing.simulation.tracking import Tracking

LOG = logging.getLogger("choreo")
"""What goes wrong in a simulation does so on purpose: nobody is warned of it."""

__all__ = ["Invariant", "Plan", "World", "simulate"]

Invariant = Callable[[Evidence], Iterable[str]]
StandIn = Callable[[Outside], Any]
START_WITHIN_S = 60.0
SETTLE_S = 86_400.0
STOP_WITHIN_S = 60.0
CANONICAL = json.JSONEncoder(separators=(",", ":")).encode
OFFSET_S = 0.25
DRIFT = 1e-5


@dataclass(frozen=True, slots=True)
class Plan:
    """What goes wrong by plan: crashes at certain awaits; and of drawn faults, these `only`."""

    crashes: tuple[Crash, ...] = ()
    only: Collection[Injected] | None = None


def simulate(
    services: Service | Sequence[Service],
    *,
    seed: int = 1,
    faults: Faults | None = None,
    resources: Mapping[type, Any] | None = None,
    invariants: Sequence[Invariant] = (),
    plan: Plan | None = None,
) -> World:
    """Make a world of these services; use it in a `with` block of a plain function.

    Without `faults` some of every kind fire. `resources` are given to handlers as App gives
    them; a resource class that has a class method `simulated(outside)` stands in for itself.
    `invariants` are held by every audit, beside the framework's own.
    """
    listed = [services] if isinstance(services, Service) else list(services)
    return World(
        listed,
        seed=seed,
        faults=ROUGH if faults is None else faults,
        resources=resources or {},
        invariants=invariants,
        plan=plan or Plan(),
    )


class World:
    """What `simulate` gives: services on machines, a cluster, the outside, and virtual time."""

    def __init__(
        self,
        services: Sequence[Service],
        *,
        seed: int,
        faults: Faults,
        resources: Mapping[type, Any],
        invariants: Sequence[Invariant],
        plan: Plan,
    ) -> None:
        """Made by `simulate`."""
        self.seed = seed
        self.services = services
        self.invariants = tuple(invariants)
        self.loop = SimLoop(random.Random(f"{seed}/loop"))
        self.cluster = Cluster(random.Random(f"{seed}/cluster"), now=self.loop.time)
        self._tracking = Tracking(self.cluster)
        self.fired: list[Fired] = []
        self.happenings: list[tuple[float, str]] = []
        self.rng = random.Random(f"{seed}/scenario")
        """For scenarios: dice that hang on the seed."""
        self._plan = plan
        self._faults = faults
        self._resources = dict(resources)
        self._stand_ins: dict[type, StandIn] = {}
        self._outside: dict[str, Outside] = {}
        self._chance = self._chance_of("caller")
        self._caller = self._app()
        self._started = False
        self._at_rest = False
        self._recovery: Recovery | None = None
        self._level = logging.NOTSET
        self._guard = Guard(services, self.loop)
        self.machines = {service.name: self._machine(service) for service in services}

    # ── life ─────────────────────────────────────────────────────────────────────────────

    def __enter__(self) -> Self:
        """Begin."""
        self._guard.begin()
        self._level = LOG.level
        LOG.setLevel(logging.CRITICAL + 1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End, for good."""
        self._guard.end()
        self._tracking.end()
        self.loop.bury()
        LOG.setLevel(self._level)

    def start(self) -> None:
        """Start every service, calmly; what is published or run first does so by itself."""
        if self._at_rest:  # it was judged, and is to go on
            self._at_rest = False
            self._recovery = None
            for machine in self.machines.values():
                machine.start()
        if self._started:
            return
        self._started = True
        for machine in self.machines.values():
            machine.start()
        self._go(START_WITHIN_S)
        for machine in self.machines.values():
            machine.chance.faults = self._faults
            machine.counting = True
        for outside in self._outside.values():
            outside.faults(self._faults)
        self._chance.faults = self._faults

    # ── what a scenario does ─────────────────────────────────────────────────────────────

    def publish(self, event: Event, *, id: str | None = None) -> str:
        """Publish the first event of a flow, as `App.publish` does; give the flow's id."""
        self.start()
        flow: str = self.loop.at_once(self._caller.publish(event, id=id))
        if self._chance.fires("duplicate", "publish"):
            self.cluster.append([copied(self.cluster.history[-1].record)])
        return flow

    def run(
        self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0
    ) -> None:
        """Let virtual time go on, with all that happens in it."""
        self.start()
        self._go(days * 86_400 + hours * 3600 + minutes * 60 + seconds)
        self._tracking.read_on()

    def execute(self, service: str, sql: str, *values: object) -> None:
        """Write to a service's store behind its back: what a system begins with."""
        tx = SqliteTx(self.machines[service].disk.connection)
        driven(tx.execute(sql, *values))

    def settle(self, *, within_s: float = SETTLE_S) -> None:
        """Let nothing go wrong any more, and everything come to its end."""
        self.start()
        for outside in self._outside.values():
            outside.calm()
        self._chance.calm()
        for machine in self.machines.values():
            machine.settle()
        self._go(within_s)

    def _stop(self) -> None:
        """Have every service end as on SIGTERM: then nobody holds anything, and nothing waits."""
        self._at_rest = True
        self._recovery = Recovery(self._caller.clock.now(), stopped=True)
        for machine in self.machines.values():
            machine.stop()
        self._go(STOP_WITHIN_S)

    def stand_in(self, kind: type, maker: StandIn) -> None:
        """Have `maker(outside)` make the resource of a class, once for every process."""
        self._stand_ins[kind] = maker

    def outside(self, name: str) -> Outside:
        """Give a system outside of choreo, which fails by the seed."""
        if name not in self._outside:
            made = Outside(name, self._chance_of(f"outside {name}"), self.loop.time)
            if self._started:
                made.faults(self._faults)
            self._outside[name] = made
        return self._outside[name]

    # ── what is judged ───────────────────────────────────────────────────────────────────

    def judge(self, *invariants: Invariant) -> Report:
        """Let all come to rest, stop every service; say what should not be, and what was judged."""
        self.settle()
        self._stop()
        with tempfile.TemporaryDirectory(prefix="choreo-simulation-") as folder:
            for outside in self._outside.values():
                outside.report(Path(folder))
            evidence = self.evidence(Path(folder))
            return judge(evidence, invariants=(*self.invariants, *invariants))

    def audit(self, *invariants: Invariant) -> None:
        """Let all come to rest; raise SimulationError with the story if something is wrong."""
        found = self.judge(*invariants).violations
        if found:
            from choreo.testing.simulation.story import told

            raise SimulationError(
                told(self, found), code="CH8003", fix="the story above says what went wrong"
            )

    def evidence(self, folder: Path) -> Evidence:
        """Give the log, and the stores as one, as they are now."""
        disks = {name: machine.disk for name, machine in self.machines.items()}
        return Evidence(
            [copied(stored.record) for stored in self.cluster.history],
            Tables(disks.items()).rows,
            folder,
            stores=[contents_of(disk.connection) for disk in disks.values()],
            positions=self.cluster.positions(),
            commits=self.cluster.commits,
            views=self._tracking.shown(),
            outside={name: one.entries for name, one in self._outside.items() if one.entries},
            recovery=self._recovery,
            skew_s=self.skew_s,
        )

    @property
    def skew_s(self) -> float:
        """How far two clocks may differ: as they were set, as they drift, as they jumped."""
        faults = self._faults
        jumps = 2 * faults.jump_s if any(one.fault == "jump" for one in self.fired) else 0.0
        return 2 * OFFSET_S + 2 * DRIFT * self.loop.time() + jumps

    @property
    def history(self) -> Sequence[Stored]:
        """Every record, in the order in which it came, with the virtual second."""
        return self.cluster.history

    @property
    def history_hash(self) -> str:
        """Give the sha256 of all records in a canonical form: the same for the same seed."""
        digest = hashlib.sha256()
        for at, record in self.cluster.history:
            key = None if record.key is None else record.key.hex()
            line = [
                f"{at:.6f}", record.topic, record.partition, record.offset, key,
                sorted(record.headers.items()), record.value.hex(),
            ]  # fmt: skip
            digest.update(CANONICAL(line).encode())
        return digest.hexdigest()

    @property
    def awaits(self) -> int:
        """How many awaits the services have come to: so many places to crash at."""
        return sum(machine.awaits for machine in self.machines.values())

    @property
    def flows(self) -> int:
        """How many flows there were."""
        return len({record.headers.get(FLOW) for _, record in self.cluster.history} - {None})

    def counted(self) -> Counter[str]:
        """Count the faults that fired, by name."""
        found = Counter(one.fault for one in self.fired)
        found["crash"] += sum(machine.planned for machine in self.machines.values())
        return +found

    # ── parts ────────────────────────────────────────────────────────────────────────────

    def resources_of(self, service: Service) -> Mapping[type, Any]:
        """Give what handlers of a service ask for, made for one process."""
        found = dict(self._resources)
        for handler in service.handlers.values():
            for param in handler.signature.params:
                if param.kind is not ParamKind.RESOURCE or param.of in found:
                    continue
                kind: Any = param.of
                maker = self._stand_ins.get(kind) or getattr(kind, "simulated", None)
                if maker is not None:
                    found[kind] = maker(self.outside(kind.__name__))
        return found

    def happened(self, what: str) -> None:
        """Note what happens to processes, for the story."""
        self.happenings.append((self.loop.time(), what))

    def _go(self, seconds: float) -> None:
        self.loop.run_until(self.loop.time() + seconds)
        self.loop.check()

    def _chance_of(self, name: str) -> Chance:
        return Chance(
            self.seed, name, CALM, only=self._plan.only, fired=self.fired.append,
            now=self.loop.time,
        )  # fmt: skip

    def _app(self) -> App:
        clock = HostClock(self.loop)
        disk = Disk()
        store = SqliteStore(Log(InlineDatabase(disk, "caller")), clock=clock, publishes=False)
        app = App(broker=SimBroker(self.cluster), store=store, clock=clock, limits=LIMITS)
        app._rng = random.Random(f"{self.seed}/caller")  # noqa: SLF001 - as SimulatedApp's
        return app

    def _machine(self, service: Service) -> Machine:
        rng = random.Random(f"{self.seed}/{service.name}/clock")
        clock = HostClock(
            self.loop,
            offset_s=(2 * rng.random() - 1) * OFFSET_S,
            drift=(2 * rng.random() - 1) * DRIFT,
        )
        content = _installed(service)
        plan = frozenset(at for name, at in self._plan.crashes if name == service.name)
        return Machine(
            self, service, self.seed, Disk(content), clock,
            self._chance_of(service.name), plan,
        )  # fmt: skip


@lru_cache(maxsize=64)
def _installed(service: Service) -> bytes:
    """Give what is on a disk on which a service's migrations have run."""
    loop = SimLoop(random.Random(0))
    disk = Disk()
    database = InlineDatabase(disk, "installer")
    store = SqliteStore(Log(database), clock=HostClock(loop), publishes=False)
    loop.complete(database.open())
    loop.complete(migrate(store, service))
    loop.bury()
    return disk.content()

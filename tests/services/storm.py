"""A broker, a database and processes of services, and what may befall them.

What is to happen is drawn from a seed beforehand: the same seed, the same schedule. Each kind
of fault leaves evidence that it had the effect it is there for, not only that it was done.
"""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from random import Random
from typing import NamedTuple

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, for_code

from choreo.app import system_clock
from choreo.testing.servers import KafkaServer
from choreo.testing.servers.postgres import PostgresServer
from services.demo.processes import MODULES, Shop

SESSION_S = 3.0
COUNTING = "tests.services.counting"
GROUP = "counting"
SERVICES = (*MODULES, COUNTING)
EACH_IN = 2  # processes
PROCESSES = 3
PARTITIONS = 4
LOOK_S = 0.05
SUPERVISE_S = 0.2
VISIT_S = 1.0
WITHIN_S = 150.0
"""A machine that does much else is slow."""
MOVING = frozenset(("PreparingRebalance", "CompletingRebalance"))


class Kind(Enum):
    """What may happen."""

    KILL = "a process is killed with -9, and started again"
    FREEZE = "a process stands still for longer than its session, and goes on"
    BROKER = "the broker is killed with -9, and started again"
    DATABASE = "the database is killed with -9, and started again"
    MEMBER = "another process joins, and leaves again"


class Fault(NamedTuple):
    """One thing that happens: so long after the one before it began, to this one, for so long."""

    after_s: float
    kind: Kind
    target: int
    lasts_s: float

    def __str__(self) -> str:
        where = f" {self.target}" if self.kind in {Kind.KILL, Kind.FREEZE} else ""
        return f"+{self.after_s:.1f} {self.kind.name.lower()}{where}"


def schedule(random: Random, kinds: Sequence[Kind], *, calm_s: tuple[float, float]) -> list[Fault]:
    """Draw when and to whom each of these happens, in which order."""
    shuffled = random.sample(kinds, len(kinds))
    return [
        Fault(random.uniform(*calm_s), kind, random.randrange(PROCESSES), random.uniform(0.5, 2.5))
        for kind in shuffled
    ]


def modules_of(number: int) -> list[str]:
    """Give the services of a process: each service is in two of them."""
    size = -(-len(SERVICES) * EACH_IN // PROCESSES)
    first = number * size
    return [SERVICES[n % len(SERVICES)] for n in range(first, first + size)]


class _Part(NamedTuple):
    """A process: what it runs, and where in its log its present life begins."""

    modules: list[str]
    begun: int


@dataclass
class Storm:
    """The processes of a shop on a cluster and a database that are ours to kill."""

    shop: Shop
    kafka: KafkaServer
    postgres: PostgresServer
    fired: Counter[Kind] = field(default_factory=Counter)
    moved_at: list[float] = field(default_factory=list)
    """Moments, in epoch seconds, at which a group had not agreed on who has what."""
    refused: int = 0
    """How often a process could not begin, since a server was gone."""
    told: list[str] = field(default_factory=list)
    """What happened, and when, in epoch seconds."""
    _parts: dict[str, _Part] = field(default_factory=dict)
    _busy: set[int] = field(default_factory=set)  # processes to which something happens
    _guests: int = 0
    _broker: asyncio.Lock = field(default_factory=asyncio.Lock)
    _database: asyncio.Lock = field(default_factory=asyncio.Lock)

    # ── processes ────────────────────────────────────────────────────────────────────────

    def start(self, name: str, modules: Sequence[str]) -> None:
        """Start a process; by its name the brokers know its members."""
        log = self.shop.folder / f"{name}.log"
        begun = log.stat().st_size if log.exists() else 0
        self._parts[name] = _Part(list(modules), begun)
        self.shop.environment = {**self.shop.environment, "KAFKA_CLIENT_ID": name}
        self.shop.start_services(modules, name=name)

    def start_all(self) -> None:
        """Start every process of the schedule."""
        for number in range(PROCESSES):
            self.start(name_of(number), modules_of(number))

    @property
    def names(self) -> list[str]:
        """Name the processes of services that there are."""
        return list(self._parts)

    async def watch(self) -> None:
        """Start again who could not begin, as a supervisor does, until cancelled.

        A server that is gone is told at the start; whoever has begun waits for it, and may not
        end.
        """
        while True:
            await asyncio.sleep(SUPERVISE_S)
            for name in ("tracker", "provider"):
                if self.shop.running[name].poll() is not None:
                    raise AssertionError(f"{name} ended by itself: {self.shop.log(name)}")
            for name, part in list(self._parts.items()):
                running = self.shop.running.get(name)
                if running is None or running.poll() is None:
                    continue
                if self._is_up(name):
                    raise AssertionError(f"{name} ended by itself: {self.shop.log(name)}")
                self.shop.running.pop(name)
                self.start(name, part.modules)
                self.refused += 1

    async def until_up(self, name: str) -> None:
        """Wait until a process says that it runs."""
        try:
            async with asyncio.timeout(WITHIN_S):
                while not self._is_up(name):  # noqa: ASYNC110 - it is another process that tells
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            said = self.shop.log(name)
            raise AssertionError(f"{name} is not up after {WITHIN_S:g} s: {said}") from None

    def _is_up(self, name: str) -> bool:
        with (self.shop.folder / f"{name}.log").open("rb") as log:
            log.seek(self._parts[name].begun)
            return any(line.startswith(b"running ") for line in log)

    def stop(self, name: str) -> None:
        """End a process in order; it has to say that all went well."""
        del self._parts[name]
        part = self.shop.running[name]
        self.shop.stop(name)
        assert part.returncode == 0, f"{name} ended with {part.returncode}: {self.shop.log(name)}"

    # ── faults ───────────────────────────────────────────────────────────────────────────

    async def befall(self, faults: Sequence[Fault]) -> None:
        """Let all of it happen; returns when everything that was stopped is there again.

        A last member comes and goes when all is calm: what the schedule has moved may have
        moved while a server was gone and nobody was at work.
        """
        watching = asyncio.create_task(self._look_at_moves())
        try:
            async with asyncio.TaskGroup() as tasks:
                for fault in faults:
                    await asyncio.sleep(fault.after_s)
                    tasks.create_task(self._happen(fault))
            await self._visit([COUNTING], VISIT_S)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _happen(self, fault: Fault) -> None:
        now = system_clock().now
        begun = now()
        await self._bring(fault)
        self.told.append(f"{fault.kind.name.lower()} {fault.target}: {begun:.3f} to {now():.3f}")

    async def _bring(self, fault: Fault) -> None:
        if fault.kind is Kind.KILL:
            await self._kill(self._free(fault.target))
        elif fault.kind is Kind.FREEZE:
            await self._freeze(self._free(fault.target), fault.lasts_s)
        elif fault.kind is Kind.BROKER:
            await self._restart_broker(fault.lasts_s)
        elif fault.kind is Kind.DATABASE:
            await self._restart_database(fault.lasts_s)
        else:
            await self._visit(modules_of(fault.target), fault.lasts_s)

    def _free(self, target: int) -> int:
        """Give the process that is meant, or the next one to which nothing happens just now."""
        numbers = [(target + n) % PROCESSES for n in range(PROCESSES)]
        return next((n for n in numbers if n not in self._busy), target)

    async def _kill(self, number: int) -> None:
        if number in self._busy:
            return
        self._busy.add(number)
        await asyncio.to_thread(self.shop.kill, name_of(number))
        self.start(name_of(number), modules_of(number))
        self._busy.discard(number)
        self.fired[Kind.KILL] += 1

    async def _freeze(self, number: int, lasts_s: float) -> None:
        if number in self._busy:
            return
        self._busy.add(number)
        name = name_of(number)
        part = self.shop.running[name]
        part.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(SESSION_S + lasts_s)
            async with asyncio.timeout(WITHIN_S):
                while await self._is_member(name):  # noqa: ASYNC110 - the broker tells nobody
                    await asyncio.sleep(LOOK_S)
        finally:
            part.send_signal(signal.SIGCONT)
            self._busy.discard(number)
        self.fired[Kind.FREEZE] += 1

    async def _restart_broker(self, lasts_s: float) -> None:
        async with self._broker:
            (node,) = self.kafka.nodes
            await asyncio.to_thread(node.kill)
            self.told.append(f"broker killed: {system_clock().now():.3f}")
            await asyncio.sleep(lasts_s)
            await asyncio.to_thread(self.kafka.begin)
            self.fired[Kind.BROKER] += 1

    async def _restart_database(self, lasts_s: float) -> None:
        async with self._database:
            await asyncio.to_thread(self.postgres.kill)
            self.told.append(f"database killed: {system_clock().now():.3f}")
            await asyncio.sleep(lasts_s)
            await asyncio.to_thread(self.postgres.start)
            self.fired[Kind.DATABASE] += 1

    async def _visit(self, modules: Sequence[str], lasts_s: float) -> None:
        self._guests += 1
        name = f"guest-{self._guests}"
        self.start(name, modules)
        await self.until_up(name)
        await asyncio.sleep(lasts_s)
        async with self._broker, self._database:  # it has to be able to say goodbye
            await asyncio.to_thread(self.stop, name)
        self.fired[Kind.MEMBER] += 1

    # ── what the brokers say ─────────────────────────────────────────────────────────────

    async def _look_at_moves(self) -> None:
        """Note when the group that counts moves its partitions, until cancelled."""
        clock = system_clock()
        while True:
            with suppress(KafkaError, OSError):
                async with self._desk() as desk:
                    while True:
                        group = await _group(desk, GROUP)
                        if group.state in MOVING:
                            self.moved_at.append(clock.now())
                        await asyncio.sleep(LOOK_S)
            await asyncio.sleep(LOOK_S)

    async def _is_member(self, name: str) -> bool:
        """Tell whether the group that counts takes a process for alive; so it does while nobody
        answers."""
        with suppress(KafkaError, OSError, TimeoutError):
            async with asyncio.timeout(SESSION_S), self._desk() as desk:
                return name in (await _group(desk, GROUP)).members
        return True

    @asynccontextmanager
    async def _desk(self) -> AsyncIterator[AIOKafkaAdminClient]:
        desk = AIOKafkaAdminClient(bootstrap_servers=self.kafka.bootstrap)
        try:
            await desk.start()
            yield desk
        finally:
            await desk.close()


class _Group(NamedTuple):
    state: str
    members: frozenset[str]


async def _group(desk: AIOKafkaAdminClient, name: str) -> _Group:
    (answer,) = await desk.describe_consumer_groups([name])
    ((code, _, state, _, _, members, *_),) = answer.groups
    if code:
        raise for_code(code)(name)
    return _Group(state, frozenset(member[1] for member in members))


def name_of(number: int) -> str:
    """Name a process of the schedule."""
    return f"services-{number}"

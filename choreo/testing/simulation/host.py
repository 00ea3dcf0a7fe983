"""Machines and the processes on them: what starts, crashes, hangs, and comes back.

A machine runs one service. Its disk, its clock and its luck outlive the process. A crash is
no cancellation: nothing of the process is scheduled any more, it runs no `finally`, and what
it was at is kept until the simulation is over, so that no collection of garbage runs one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Coroutine, Mapping
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from choreo.adapters.sqlite import Log, SqliteStore
from choreo.adapters.sqlite.inline import Disk, InlineDatabase
from choreo.app import App
from choreo.errors import ChoreoError
from choreo.events import ID, TIME, Partition, Record, rfc3339, root_id
from choreo.service import Service
from choreo.testing.simulation.broker import SimBroker
from choreo.testing.simulation.chance import Chance
from choreo.testing.simulation.clock import HostClock
from choreo.testing.simulation.cluster import Cluster
from choreo.testing.simulation.failing import HostBroker, HostStore, Mark
from choreo.testing.simulation.loop import HOST, SimLoop
from choreo.worker import Limits

__all__ = ["SESSION_S", "Machine", "Process", "SimulatedApp"]

SESSION_S = 10.0
"""After which the cluster gives a member up that is not heard of."""
RESTART_S = 20.0
"""Within which a process that is gone is there again."""
AWAITS_AHEAD = 40
"""A crash comes at once, or within so many awaits."""
LIMITS = Limits(
    switch_interval_s=None, gc_threshold=None, threads=False,
    relay_sweep_s=86_400.0,
    commit_every_s=1.0, prune_every_s=864_000.0,
)  # fmt: skip


_MANIFESTS: WeakKeyDictionary[Service, Record] = WeakKeyDictionary()


class Surroundings(Protocol):
    """What a machine is given by the world that it is in."""

    loop: SimLoop
    cluster: Cluster

    def resources_of(self, service: Service) -> Mapping[type, Any]:
        """Give what handlers ask for, made for one process."""
        ...

    def happened(self, what: str) -> None:
        """Note what happens to processes, for the story."""
        ...


class SimulatedApp(App):
    """The App of one service in one process: real, but for its dice."""

    def __init__(self, service: Service, *, rng: random.Random, **parts: Any) -> None:
        """Run `service` on these parts."""
        super().__init__(service, limits=LIMITS, **parts)
        self._rng = rng

    def _manifest(self, service: Service) -> Record:
        """Describe a service once: its processes come and go, what it declares stays."""
        known = _MANIFESTS.get(service)
        if known is None:
            known = _MANIFESTS[service] = super()._manifest(service)
            return known
        now = self.clock.now()
        made = {ID: root_id(now, self._rng.randbytes(10)), TIME: rfc3339(now)}
        return Record(known.topic, known.key, {**known.headers, **made}, known.value)

    async def work(self) -> None:
        """Start, and work until something stops it; raises that."""
        await self.start()
        assert self._worker is not None
        await self._worker.failure


class Process:
    """One life of a service, from its start to its end or the simulation's."""

    def __init__(self, machine: Machine, number: int) -> None:
        """Be the `number`-th process of this machine."""
        self.machine = machine
        self.name = f"{machine.service.name}-{number}"
        self.chance = machine.chance
        self.gone = False
        self._hangs = False
        self._kept: list[asyncio.Handle] = []
        self._crash_in: int | None = None
        self._durable: bytes | None = None
        surroundings = machine.world
        self._broker = SimBroker(surroundings.cluster)
        database = InlineDatabase(machine.disk, self.name)
        store = SqliteStore(Log(database), clock=machine.clock, publishes=False)
        self.app = SimulatedApp(
            machine.service,
            rng=random.Random(f"{machine.seed}/{self.name}"),
            broker=HostBroker(self._broker, self),
            store=HostStore(store, self),
            resources=surroundings.resources_of(machine.service),
            clock=machine.clock,
        )
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        self._begin(self._live())

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        context = Context()
        context.run(HOST.set, self)
        self._tasks.append(self.machine.world.loop.create_task(work, context=context))

    def stop(self) -> None:
        """End in order: what runs is finished, and nothing is held any more."""
        self._begin(self._leave())

    async def _leave(self) -> None:
        await self.app.stop()
        self.gone = True

    async def _live(self) -> None:
        try:
            await self.app.work()
        except ChoreoError as exc:
            self.machine.stopped(self, exc)

    # ── what the loop asks ───────────────────────────────────────────────────────────────

    def runs(self, handle: asyncio.Handle) -> bool:
        """Tell whether code of this process runs; keep it if not."""
        if self.gone:
            return False
        if self._hangs:
            self._kept.append(handle)
            return False
        return True

    def stepped(self) -> None:
        """Count an await; crash at it, if it is the one."""
        machine = self.machine
        if not machine.counting:
            return
        machine.awaits += 1
        if self._crash_in is not None:
            self._crash_in -= 1
        if machine.awaits in machine.plan:
            machine.planned += 1
            machine.world.happened(f"{self.name} crashes by plan, at its await {machine.awaits}")
            machine.crash(self)
        elif self._crash_in == 0:
            machine.crash(self, durable=self._durable)

    # ── faults ───────────────────────────────────────────────────────────────────────────

    def befall(self, fault: str) -> bool:
        """Have a fault happen; true when the process does not go on from here."""
        rng = self.chance.rng
        if fault == "jump":
            self.machine.clock.jump((2 * rng.random() - 1) * self.chance.faults.jump_s)
            return False
        if fault == "hang":
            self.machine.hang(self, SESSION_S + rng.random() * RESTART_S)
            return False
        ahead = rng.randrange(2 * AWAITS_AHEAD) - AWAITS_AHEAD
        self._crash_in = max(ahead, 1)
        return ahead <= 0

    def takes(self, partition: Partition, generation: int) -> bool:
        """Tell whether nobody who lives has it by a newer generation; note that it is ours."""
        takeovers = self.machine.takeovers
        newest, holder = takeovers.get(partition, (generation, self))
        if newest > generation and holder is not self and not holder.gone:
            return False
        takeovers[partition] = generation, self
        return True

    def acknowledge(self) -> None:
        """Note that somebody is told of something that was written: it is there for good."""
        self.machine.acknowledged += 1

    def at_mercy(self) -> Mark:
        """Give what the disk holds for certain."""
        disk = self.machine.disk
        content = disk.content() if disk.holder is None else None
        return Mark(content, self.machine.acknowledged)

    def lose_power(self, mark: Mark) -> None:
        """End at this very step; the last that was written may be gone, if nobody was told."""
        lost = self.chance.rng.random() < 1 / 2 and mark.acknowledged == self.machine.acknowledged
        self._durable = mark.content if lost else None
        self._crash_in = 1

    def hang(self) -> None:
        """Stand still."""
        self._hangs = True

    def go_on(self) -> None:
        """Stand still no more, as if nothing had been."""
        self._hangs = False
        kept, self._kept = self._kept, []
        self.machine.world.loop.requeue(kept)

    def leave(self) -> None:
        """Have the cluster give its memberships up: it has not been heard of."""
        for subscription in self._broker.subscriptions:
            subscription.expire()

    @property
    def hangs(self) -> bool:
        """Whether it stands still."""
        return self._hangs


@dataclass
class Machine:
    """Where a service runs: its disk and clock, its faults, and the process of the hour."""

    world: Surroundings
    service: Service
    seed: int
    disk: Disk
    clock: HostClock
    chance: Chance
    plan: Collection[int] = ()
    awaits: int = 0
    acknowledged: int = 0
    process: Process | None = None
    graves: list[object] = field(default_factory=list)
    takeovers: dict[Partition, tuple[int, Process]] = field(default_factory=dict)
    """By which generation of the group each partition was taken over last, and by whom."""
    planned: int = 0
    counting: bool = False
    """Whether awaits are counted: not at the start, and not once nothing is to go wrong."""
    _started: int = 0

    def start(self) -> None:
        """Start a process, unless one is there that works."""
        if self.process is None or self.process.gone or self.process.hangs:
            self._started += 1
            self.process = Process(self, self._started)
            self.process.start()

    def crash(self, process: Process, *, durable: bytes | None = None, again: bool = True) -> None:
        """End a process where it is; another one comes later."""
        if process.gone:
            return
        process.gone = True
        self.world.happened(f"{process.name} is gone")
        self._keep(process)
        self.disk.lose(process.name)
        if durable is not None:
            self.disk.restore(durable)
        self._later(SESSION_S, process.leave)
        if again:
            self._later(self._within(RESTART_S), self.start)

    def hang(self, process: Process, for_s: float) -> None:
        """Have a process stand still for so long that another one takes its place."""
        self.world.happened(f"{process.name} stands still")
        process.hang()
        self._later(SESSION_S, process.leave)
        self._later(self._within(SESSION_S), self.start)
        self._later(for_s, lambda: self._wake(process))

    def _wake(self, process: Process) -> None:
        """Let a zombie go on for a while beside its heir; then it is ended."""
        if process.gone or not process.hangs:
            return
        self.world.happened(f"{process.name} goes on")
        process.go_on()
        if self.process is not process:
            self._later(self._within(SESSION_S), lambda: self.crash(process, again=False))

    def stopped(self, process: Process, error: ChoreoError) -> None:
        """Start again what has ended by itself."""
        self.world.happened(f"{process.name} stops: {error}")
        if not process.gone:
            self.crash(process)

    def settle(self) -> None:
        """Let nothing go wrong any more: one process, which works."""
        self.chance.calm()
        self.counting = False
        process = self.process
        if process is not None and process.hangs:
            process.go_on()
        self.start()

    def stop(self) -> None:
        """Have the process end by itself, as when it is told to."""
        if self.process is not None and not self.process.gone:
            self.process.stop()

    def _keep(self, process: Process) -> None:
        """Keep what a process was at: dropped, its coroutines would run their `finally`."""
        self.graves.append(process)
        self.graves += asyncio.all_tasks(self.world.loop)

    def _within(self, most_s: float) -> float:
        """Draw a time. From dice of its own: a fault less must not move all that follows."""
        return random.Random(f"{self.seed}/{self.service.name}/{self.awaits}").random() * most_s

    def _later(self, delay_s: float, what: Callable[[], object]) -> None:
        self.world.loop.call_later(delay_s, what, context=Context())

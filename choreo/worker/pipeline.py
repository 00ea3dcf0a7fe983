"""What the loops of a worker share: queues between them, and how much is on its way."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from typing import TypeVar

from choreo.errors import (
    BrokerError,
    ChoreoError,
    ConfigurationError,
    StoreConflictError,
    StoreError,
)
from choreo.plan import Plan
from choreo.ports import Applied, Clock, Store
from choreo.step import Delivery
from choreo.worker.call import Caller

__all__ = ["Limits", "Pipeline"]

T = TypeVar("T")
Apply = Callable[[Sequence[Plan]], Awaitable[Sequence[Applied | BaseException]]]
log = logging.getLogger("choreo.worker")
OUTAGE_LASTS = 4
FORGOTTEN_S = 60.0
"""Since something was last not answered: what comes then is another outage."""

AWAY = {
    "store": "the store does not answer, everything waits for it",
    "log": "the log does not answer, what needs it waits",
    "rows": "another transaction wants the same rows for long, what needs them waits",
    "": "what is asked does not answer, what needs it waits",
}
BACK = {"store": "the store answers again", "log": "the log answers again"}


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a worker.

    `in_flight_max` deliveries are taken before polling waits, `poll_max` records polled and
    `batch_max` deliveries loaded or committed at once, `runners_max` handlers run at the
    same time, `burst` of them before other tasks have their turn. Offsets are committed
    every `commit_every_s` seconds; `drain_s` seconds are given to what runs at the end, `leave_s`
    more to whatever has to be closed then, and `revoke_s` to what runs in a partition that
    another process waits for. Where processes
    share a group's work, each looks every `sweep_s` seconds for what others have made due.
    While the store does not answer it is asked again every `outage_s` seconds.
    Where the store does not publish by itself, nothing is committed while `relay_max` records
    wait for the broker; `relay_batch` are published at once, and every `relay_sweep_s` seconds
    it is looked whether one was missed.
    A handler that runs for `spill_s` seconds is put into the store as it is: what comes behind
    it goes there, too, and neither its runner nor its offset is held any more. So is, once it
    is slow at all, one with more than `chain_max` deliveries waiting behind it.
    A delivery during which the process ended more than `crashes_max` times is given up.
    A handler that holds the event loop for `blocked_s` seconds, or runs for `stuck_s`, is
    named in the log; it goes on.
    What is older than it is kept goes every `prune_every_s` seconds, a little at a time:
    `Service(inbox_keep_s=, flow_keep_s=)` say how long; records stay `log_keep_s` seconds, if
    every service of the file has read them, or for ever (None).
    `switch_interval_s` is how long the event loop may keep the interpreter from the store's
    thread (`sys.setswitchinterval`), `gc_threshold` how many objects may come between two
    collections of the youngest (`gc.set_threshold`; what a step makes is in no cycle, and
    looking for cycles took a sixth of its time); None leaves either alone.
    Without `threads` a sync handler runs on the loop, and nobody watches what holds it up: so
    a simulation does.
    """

    in_flight_max: int = 4096
    poll_max: int = 1024
    batch_max: int = 256
    runners_max: int = 256
    burst: int = 64
    committers: int = 2
    commit_every_s: float = 0.2
    drain_s: float = 10.0
    leave_s: float = 15.0
    revoke_s: float = 5.0
    sweep_s: float = 1.0
    outage_s: float = 0.5
    relay_max: int = 8192
    relay_batch: int = 1024
    relay_sweep_s: float = 5.0
    spill_s: float = 5.0
    chain_max: int = 256
    crashes_max: int = 10
    blocked_s: float = 1.0
    stuck_s: float = 60.0
    prune_every_s: float = 3600.0
    log_keep_s: float | None = None
    switch_interval_s: float | None = 0.0005
    gc_threshold: int | None = 50_000
    threads: bool = True

    def __post_init__(self) -> None:
        """Refuse what no worker can run with; only `drain_s` may be 0."""
        for one in fields(self):
            value = getattr(self, one.name)
            if (value is None and "None" in str(one.type)) or one.type == "bool":
                continue
            seconds = one.name.endswith("_s")
            number = isinstance(value, (int, float) if seconds else int)
            large = number and (0 < value < math.inf or (one.name == "drain_s" and value == 0))
            if not large or isinstance(value, bool):
                what = "seconds, more than 0" if seconds else "a whole number from 1 on"
                raise ConfigurationError(
                    f"Limits: {one.name} must be {what}",
                    code="CH1011",
                    fix="correct the value",
                    value=repr(value),
                )


class Pipeline:
    """Queues: `fresh` to be loaded, `ready` to be run, `finished` to be committed."""

    def __init__(self, store: Store, caller: Caller, clock: Clock, limits: Limits) -> None:
        """Start empty."""
        self.store = store
        self.apply: Apply = store.apply
        self.caller = caller
        self.run: Callable[[Delivery, float], Awaitable[Plan]] = caller.run
        self.clock = clock
        self.limits = limits
        self.fresh: deque[Delivery] = deque()
        self.ready: deque[Delivery] = deque()
        self.finished: deque[tuple[Delivery | None, Plan]] = deque()
        self.fresh_added = asyncio.Event()
        self.finished_added = asyncio.Event()
        self.room = asyncio.Event()
        self.moved = asyncio.Event()  # there are offsets to commit
        self.attempt: Callable[[Delivery], Awaitable[None]]
        self.wake_runner: Callable[[], None] = lambda: None
        self.settled: Callable[[Delivery], None] = lambda _: None
        self.drop: Callable[[Delivery], None] = lambda _: None
        self.decide_again: Callable[[Delivery], None] = lambda _: None
        self.stopping = False
        self.in_flight = 0
        self.spilled = 0  # of these, how many are parked while they run
        self.crowded = False
        self.delayed = 0  # wait for their time
        self.behind = 0  # wait behind another one of their chain
        self.sleeping = 0
        self._away: dict[str, float] = {}  # what does not answer, and when it was last asked
        self._outage: tuple[float, ChoreoError] | None = None
        self.failure: asyncio.Future[None] | None = None
        self._outages = Counter[str]()  # loops that wait for the store to answer
        self._tasks: dict[asyncio.Task[None], None] = {}  # in order: a run repeats itself

    # ── queues ───────────────────────────────────────────────────────────────────────────

    def load(self, d: Delivery) -> None:
        """Let the delivery be looked up, then decided or run."""
        if d.writing is not None:
            d.writing = partial(self.load, d)
            return
        self.fresh.append(d)
        self.fresh_added.set()

    def finish(self, d: Delivery, plan: Plan) -> None:
        """Let the plan be committed; one that writes nothing ends the delivery at once."""
        if d.writing is not None:
            d.writing = partial(self._finish_parked, d, plan)
            return
        if not plan.changes and plan.section is None:
            self.settled(d)
            return
        self.finished.append((d, plan))
        self.finished_added.set()

    def _finish_parked(self, d: Delivery, plan: Plan) -> None:
        """Finish what was parked meanwhile: its plan stands on a row that was not there."""
        if not d.spilled:
            self.finish(d, plan)
        elif plan.section is not None:
            self.finish(d, plan._replace(changes=()))
        else:
            self.decide_again(d)

    def note(self, plan: Plan) -> None:
        """Publish what is only noted; nothing waits for it."""
        self.finished.append((None, plan))
        self.finished_added.set()

    async def wait_for_room(self) -> None:
        """Wait while too much is in flight."""
        while self.in_flight - self.spilled > self.limits.in_flight_max:
            self.crowded = True
            self.room.clear()
            await self.room.wait()

    def make_room(self) -> None:
        """Let the pollers go on, if there is room."""
        if self.in_flight - self.spilled <= self.limits.in_flight_max:
            self.crowded = False
            self.room.set()

    # ── tasks, time, outages ─────────────────────────────────────────────────────────────

    def spawn(self, work: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        """Run a loop; what it raises stops the worker."""
        task = asyncio.create_task(self._guarded(work), name=f"choreo {name}")
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        task.add_done_callback(lambda _: work.close())  # cancelled before its first turn
        return task

    async def _guarded(self, work: Coroutine[object, object, None]) -> None:
        try:
            await work
        except BaseException as exc:
            if isinstance(exc, asyncio.CancelledError) and self.stopping:
                raise
            if self.failure is not None and not self.failure.done():
                log.critical("the worker stops: %s", exc)
                self.failure.set_exception(exc)

    async def cancel_all(self) -> None:
        """End every task that was spawned."""
        for _ in range(2):  # the second time also those who wait for a handler's thread
            if tasks := list(self._tasks):
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks, timeout=1.0)

    def failed(self) -> bool:
        """Tell whether something has stopped the worker."""
        return self.failure is not None and self.failure.done()

    async def sleep(self, delay_s: float) -> None:
        """Sleep on the worker's clock."""
        self.sleeping += 1
        try:
            await self.clock.sleep(delay_s)
        finally:
            self.sleeping -= 1

    async def put_off(self, delay_s: float, *, deliveries: int = 1) -> None:
        """Sleep on behalf of deliveries that are not busy meanwhile."""
        self.delayed += deliveries
        try:
            await self.sleep(delay_s)
        finally:
            self.delayed -= deliveries

    async def sleep_or(self, event: asyncio.Event, delay_s: float) -> None:
        """Sleep until the event is set."""
        sleeper = asyncio.ensure_future(self.sleep(delay_s))
        waker = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait((sleeper, waker), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeper.cancel()
            waker.cancel()

    async def outlasting(
        self, ask: Callable[[], Awaitable[T]], *, loop: str = "", waiting: int = 0
    ) -> T:
        """Ask the store until it answers: while it is down the worker waits, and loses nothing.

        `waiting` is how many deliveries wait with it, `loop` which queue is not emptied.
        """
        away: set[str] = set()
        while True:
            try:
                answer = await ask()
            except ChoreoError as exc:
                if not exc.transient:
                    raise
                away.add(self.say_outage(exc))
            else:
                for part in away:
                    self.say_back(part)
                return answer
            with self.standing(loop, waiting):
                await self.sleep(self.limits.outage_s)

    @contextmanager
    def standing(self, loop: str, deliveries: int) -> Iterator[None]:
        """Say that a loop waits for an outage to end, and these deliveries with it."""
        self._outages[loop] += 1
        self.delayed += deliveries
        try:
            yield
        finally:
            self.delayed -= deliveries
            self._outages[loop] -= 1

    def say_outage(self, error: ChoreoError) -> str:
        """Say what does not answer: once an outage, however many wait for it; give its name."""
        now = self.clock.elapsed()
        self._outage = now, error
        part = _part_of(error)
        if now >= self._away.get(part, -math.inf) + FORGOTTEN_S:
            log.warning("%s: %s", AWAY[part], error)
        self._away[part] = now
        return part

    def say_back(self, part: str) -> None:
        """Say that it answers, if it was said that it does not."""
        if self._away.pop(part, None) is not None and part in BACK:
            log.warning(BACK[part])

    @property
    def stands(self) -> bool:
        """Whether nothing can be committed."""
        return self._outages["commit"] == self.limits.committers

    @property
    def outage(self) -> ChoreoError | None:
        """What is not answered: it is asked again every `outage_s`, so an old error is over."""
        if self._outage is None:
            return None
        at, error = self._outage
        return error if self.clock.elapsed() < at + OUTAGE_LASTS * self.limits.outage_s else None

    @property
    def stalled(self) -> int:
        """How many deliveries are in a queue that nobody empties while the store is down."""
        stalled = 0
        if self._outages["load"]:
            stalled += len(self.fresh)
        if self.stands:
            stalled += sum(d is not None for d, _ in self.finished)
        return stalled


def _part_of(error: ChoreoError) -> str:
    """Name what the error is of."""
    if isinstance(error, BrokerError):
        return "log"
    if isinstance(error, StoreConflictError):
        return "rows"
    return "store" if isinstance(error, StoreError) else ""

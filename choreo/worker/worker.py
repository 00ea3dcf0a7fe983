"""The worker: bounded queues between loops, no barrier. A slow handler delays its chain only.

poll ─► chains ─► load ─► run ─► commit ─► next of the chain
└─► again (inline retry)
due (parked deliveries, timers) ─► load
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from choreo.codec import binary_mode, decode
from choreo.errors import ChoreoError, DecodeError, FencedError, HandlerTimeoutError
from choreo.events import TYPE, VOID, Record
from choreo.plan import Change, Parked, Plan, Publish, SetTimer, Settle, Status
from choreo.ports import Applied, Broker, Clock, Due, Store
from choreo.step import (
    NOT_RUN,
    Compiled,
    Delivery,
    MoreGates,
    StepVoid,
    after_run,
    before_run,
    failed,
    parked_behind,
    payload_hash,
    route_of,
    thawed,
    want,
)
from choreo.worker.lane import Lane, Slot, subject_of
from choreo.worker.runner import Caller

__all__ = ["Limits", "Worker"]

T = TypeVar("T")
log = logging.getLogger("choreo.worker")


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a worker.

    `in_flight_max` deliveries are taken before polling waits, `batch_max` are loaded or
    committed at once, `runners_max` handlers run at the same time. Offsets are committed
    every `commit_every_s` seconds; `drain_s` seconds are given to what runs at the end.
    While the store does not answer it is asked again every `outage_s` seconds.
    `switch_interval_s` is how long the event loop may keep the interpreter from the store's
    thread (`sys.setswitchinterval`); None leaves it alone.
    """

    in_flight_max: int = 4096
    batch_max: int = 256
    poll_max: int = 1024
    runners_max: int = 256
    commit_every_s: float = 0.2
    drain_s: float = 10.0
    outage_s: float = 0.5
    switch_interval_s: float | None = 0.0005
    committers: int = 2
    burst: int = 64


class Worker:
    """Runs services against one broker and one store."""

    def __init__(
        self,
        services: Sequence[Compiled],
        broker: Broker,
        store: Store,
        *,
        clock: Clock,
        rng: random.Random,
        limits: Limits | None = None,
    ) -> None:
        """Prepare; `start` begins."""
        self._services = services
        self._broker = broker
        self._store = store
        self._clock = clock
        self._limits = limits or Limits()
        self._caller = Caller(store, clock, rng)
        self._lanes: list[Lane] = []
        self._fresh: deque[Delivery] = deque()
        self._ready: deque[Delivery] = deque()
        self._finished: deque[tuple[Delivery | None, Plan]] = deque()
        self._fresh_added = asyncio.Event()
        self._finished_added = asyncio.Event()
        self._idle_runners: list[asyncio.Future[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._sources: list[asyncio.Task[None]] = []
        self._timed: dict[asyncio.Task[None], tuple[Delivery, float]] = {}
        self._timed_added = asyncio.Event()
        self._room = asyncio.Event()
        self._due_wakes: dict[str, asyncio.Event] = {}
        self._stopping = False
        self._runners = 0
        self._in_flight = 0
        self._delayed = 0
        self._sleeping = 0
        self._running = 0
        self.failure: asyncio.Future[None] | None = None

    # ── life ─────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Join the groups, take the partitions over, begin. May be called twice."""
        if self._tasks or self._stopping:
            return
        self.failure = asyncio.get_running_loop().create_future()
        for compiled in self._services:
            name = compiled.service.name
            subscription = await self._broker.subscribe(name, compiled.topics)
            owned = await self._store.own(name, subscription.assigned())
            lane = Lane(compiled, subscription, owned)
            self._lanes.append(lane)
            self._due_wakes[name] = asyncio.Event()
        for lane in self._lanes:
            self._sources.append(self._spawn(self._poll(lane), f"poll {lane.name}"))
            self._sources.append(self._spawn(self._run_due(lane), f"due {lane.name}"))
        self._spawn(self._load(), "load")
        self._spawn(self._commit_offsets(), "offsets")
        self._spawn(self._sweep(), "sweep")
        for number in range(self._limits.committers):
            self._spawn(self._commit(), f"commit {number}")

    def _spawn(self, work: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(self._guarded(work), name=f"choreo {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guarded(self, work: Coroutine[object, object, None]) -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except BaseException as exc:
            if self.failure is not None and not self.failure.done():
                self.failure.set_exception(exc)
            log.critical("the worker stops: %s", exc)
            raise

    async def drain(self) -> None:
        """Take nothing new; finish and commit what runs, for at most `drain_s` seconds."""
        self._stopping = True
        for source in self._sources:
            source.cancel()
        await asyncio.gather(*self._sources, return_exceptions=True)
        last = self._clock.elapsed() + self._limits.drain_s
        while self.busy and self._clock.elapsed() < last and not self._failed():
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """Drain, commit offsets, leave. May be called twice, and before start."""
        if not self._stopping:
            await self.drain()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        lanes, self._lanes = self._lanes, []
        for lane in lanes:
            if not self._failed():
                await lane.subscription.commit(lane.watermarks())
            await lane.subscription.close()
        self._caller.close()
        if self.failure is not None and not self.failure.done():
            self.failure.cancel()

    def _failed(self) -> bool:
        return self.failure is not None and self.failure.done()

    @property
    def busy(self) -> int:
        """How many deliveries are on their way: not those that wait for their time."""
        return self._in_flight - self._delayed

    @property
    def waiting_in_handlers(self) -> int:
        """How many handlers are running now, that is: wait for something outside."""
        return self._running

    @property
    def sleeping(self) -> int:
        """How many of the worker's own loops sleep on the clock."""
        return self._sleeping

    async def _sleep(self, delay_s: float) -> None:
        self._sleeping += 1
        try:
            await self._clock.sleep(delay_s)
        finally:
            self._sleeping -= 1

    # ── poll ─────────────────────────────────────────────────────────────────────────────

    async def _poll(self, lane: Lane) -> None:
        limits = self._limits
        while records := await lane.subscription.poll(limits.poll_max):
            self._arrive(lane, records)
            while self._in_flight > limits.in_flight_max:
                self._room.clear()
                await self._room.wait()

    def _arrive(self, lane: Lane, records: Sequence[Record]) -> None:
        by_type = lane.compiled.by_type
        fresh = self._fresh
        for polled in records:
            record = polled
            if TYPE not in record.headers:
                record = self._unwrapped(record)
            headers = record.headers
            routes = by_type.get(headers.get(TYPE, ""), ()) if VOID not in headers else ()
            slot = lane.took(record, len(routes))
            if not routes:
                lane.uncommitted += 1
                continue
            subject = subject_of(record)
            hashed = payload_hash(record.value)
            for route in routes:
                d = lane.delivery(route, record, subject, slot)
                d.payload_hash = hashed
                self._in_flight += 1
                if self._chained(lane, d):
                    fresh.append(d)
        if fresh:
            self._fresh_added.set()

    @staticmethod
    def _unwrapped(record: Record) -> Record:
        try:
            return binary_mode(record)
        except DecodeError as exc:
            log.warning("skipped a record that is no event: %s", exc)
            return record

    @staticmethod
    def _chained(lane: Lane, d: Delivery) -> bool:
        try:
            return lane.chained(d)
        except DecodeError:  # told when it is loaded
            return True

    # ── due ──────────────────────────────────────────────────────────────────────────────

    async def _run_due(self, lane: Lane) -> None:
        wake = self._due_wakes[lane.name]
        most = self._limits.batch_max
        while not self._stopping:
            wake.clear()
            lane.next_due = None
            rows, after = await self._due(lane, most)
            for row in rows:
                self._take_due(lane, row)
            if after is not None:
                lane.due_at(after)
            if len(rows) == most:
                while self._in_flight > self._limits.in_flight_max:
                    self._room.clear()
                    await self._room.wait()
                continue
            if lane.next_due is None:
                await wake.wait()
                continue
            delay = lane.next_due - self._clock.now()
            if delay > 0:
                await self._wake_or_sleep(wake, delay)

    async def _due(self, lane: Lane, most: int) -> tuple[Sequence[Due], float | None]:
        while True:
            try:
                return await self._store.due(lane.owned, skip=lane.running_due, most=most)
            except ChoreoError as exc:
                if not exc.transient:
                    raise
                log.warning("the store does not answer: %s", exc)
            await self._sleep(self._limits.outage_s)

    async def _wake_or_sleep(self, wake: asyncio.Event, delay_s: float) -> None:
        sleeper = asyncio.ensure_future(self._sleep(delay_s))
        waker = asyncio.ensure_future(wake.wait())
        try:
            await asyncio.wait((sleeper, waker), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeper.cancel()
            waker.cancel()

    def _take_due(self, lane: Lane, row: Due) -> None:
        if self._stopping:
            return
        route = route_of(lane.compiled.by_name, row.handler, lane.compiled.former)
        if route is None:  # refused at start; another process may have parked it since
            log.error("CH1013 no handler %s for a parked delivery", row.handler)
            return
        d = thawed(route, row, lane.owned)
        d.slot = Slot(-1, 1)
        d.lane = lane
        lane.running_due.add((row.handler, row.subject))
        d.due_key = (row.handler, row.subject)
        self._in_flight += 1
        if self._chained(lane, d):
            self._fresh.append(d)
            self._fresh_added.set()

    # ── load ─────────────────────────────────────────────────────────────────────────────

    async def _load(self) -> None:
        fresh = self._fresh
        while True:
            if not fresh:
                self._fresh_added.clear()
                await self._fresh_added.wait()
            count = min(len(fresh), self._limits.batch_max)
            batch = [fresh.popleft() for _ in range(count)]
            await self._load_batch(batch)

    async def _load_batch(self, batch: list[Delivery]) -> None:
        wants = []
        loading = []
        for d in batch:
            try:
                wants.append(want(d))
            except DecodeError as exc:
                self._fail(d, exc)
            else:
                loading.append(d)
        seen = await self._outlasting(partial(self._store.load, wants))
        moment = self._caller.moment()
        ready = self._ready
        for d, one in zip(loading, seen, strict=True):
            d.loaded = one
            if d.route.memos:
                d.memos = dict(one.memos)
            plan = before_run(d, one, moment)
            if plan is not None:
                self._finish(d, plan)
            elif d.lane.is_held(d):
                self._finish(d, parked_behind(d))
            else:
                ready.append(d)
        self._wake_runner()

    async def _outlasting(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask the store until it answers: while it is down the worker waits, and loses nothing."""
        while True:
            try:
                return await ask()
            except ChoreoError as exc:
                if not exc.transient:
                    raise
                log.warning("the store does not answer: %s", exc)
            await self._sleep(self._limits.outage_s)

    # ── run ──────────────────────────────────────────────────────────────────────────────

    def _wake_runner(self) -> None:
        if not self._ready:
            return
        if self._idle_runners:
            waiting = self._idle_runners.pop()
            if not waiting.done():
                waiting.set_result(None)
        elif self._runners < self._limits.runners_max:
            self._runners += 1
            self._spawn(self._run(), f"runner {self._runners}")

    async def _run(self) -> None:
        ready = self._ready
        burst = self._limits.burst
        done = 0
        loop = asyncio.get_running_loop()
        while True:
            if not ready:
                done = 0
                waiting: asyncio.Future[None] = loop.create_future()
                self._idle_runners.append(waiting)
                await waiting
                continue
            d = ready.popleft()
            if ready:
                self._wake_runner()
            await self._attempt(d)
            done += 1
            if done >= burst:
                done = 0
                await asyncio.sleep(0)

    async def _attempt(self, d: Delivery) -> None:
        clock = self._clock
        d.error = None
        d.started = clock.now()
        begun = clock.elapsed()
        route = d.route
        self._running += 1
        try:
            if route.plain:
                record = d.record
                event = decode(route.views[record.headers[TYPE]], record)
                d.result = await route.handler.fn(event)
                d.took = clock.elapsed() - begun
                plan = after_run(d, d.loaded, d.result, self._caller.moment())
            elif route.handler.timeout_s is None:
                plan = await self._caller.run(d, begun)
            else:
                plan = await self._timed_run(d, begun, route.handler.timeout_s)
        except MoreGates as more:
            self._look_again(d, more)
        except StepVoid:
            self._reload(d)
        except Exception as exc:  # noqa: BLE001 - whatever a handler raises is decided by step
            d.took = clock.elapsed() - begun
            await self._failed_run(d, exc)
        else:
            self._finish(d, plan)
        finally:
            self._running -= 1

    async def _timed_run(self, d: Delivery, begun: float, timeout_s: float) -> Plan:
        task = asyncio.current_task()
        assert task is not None
        self._timed[task] = (d, begun + timeout_s)
        self._timed_added.set()
        try:
            return await self._caller.run(d, begun)
        except asyncio.CancelledError:
            if task in self._timed:
                raise
            task.uncancel()
            raise HandlerTimeoutError(
                f"did not end within {timeout_s:g} s",
                fix="raise timeout_s, or find out what it waits for",
                handler=d.route.name,
            ) from None
        finally:
            self._timed.pop(task, None)

    async def _sweep(self) -> None:
        """Cancel what runs for too long: one loop for all, no timer a delivery."""
        while True:
            if not self._timed:
                self._timed_added.clear()
                await self._timed_added.wait()
            soonest = min((deadline for _, deadline in self._timed.values()), default=None)
            if soonest is None:
                continue
            self._timed_added.clear()
            delay = soonest - self._clock.elapsed()
            if delay > 0:
                await self._wake_or_sleep(self._timed_added, delay)
            now = self._clock.elapsed()
            for task, (_, deadline) in list(self._timed.items()):
                if deadline <= now:
                    del self._timed[task]
                    task.cancel()

    async def _failed_run(self, d: Delivery, error: Exception) -> None:
        try:
            await self._caller.undo_calls(d, error)
        except StepVoid:
            self._reload(d)
        except Exception as exc:  # noqa: BLE001 - an undo's outcome is unknown: tried again
            self._fail(d, exc)
        else:
            self._fail(d, error)

    def _fail(self, d: Delivery, error: BaseException) -> None:
        if isinstance(error, FencedError):
            raise error
        d.error = error
        verdict = failed(d, d.loaded, error, self._caller.moment())
        if verdict.again_s is None:
            self._finish(d, verdict.plan)
            return
        self._note(verdict.plan)
        d.attempt += 1
        d.error = None
        self._spawn(self._again(d, verdict.again_s), "again")

    async def _again(self, d: Delivery, delay_s: float) -> None:
        self._delayed += 1
        try:
            await self._sleep(delay_s)
        finally:
            self._delayed -= 1
        self._reload(d)

    def _reload(self, d: Delivery) -> None:
        """Begin again with a look at the store."""
        self._fresh.append(d)
        self._fresh_added.set()

    def _look_again(self, d: Delivery, more: MoreGates) -> None:
        d.more = (*d.more, *more.keys)
        self._reload(d)

    # ── commit ───────────────────────────────────────────────────────────────────────────

    def _finish(self, d: Delivery, plan: Plan) -> None:
        if not plan.changes and plan.section is None:
            self._settled(d, ())
            return
        self._finished.append((d, plan))
        self._finished_added.set()

    def _note(self, plan: Plan) -> None:
        """Publish what is only noted; nothing waits for it."""
        self._finished.append((None, plan))
        self._finished_added.set()

    async def _commit(self) -> None:
        finished = self._finished
        most = self._limits.batch_max
        while True:
            while not finished:
                self._finished_added.clear()
                await self._finished_added.wait()
            if len(finished) <= most:
                group = list(finished)
                finished.clear()
            else:
                group = [finished.popleft() for _ in range(most)]
            plans = [plan for _, plan in group]
            results = await self._outlasting(partial(self._applied, plans))
            for (d, plan), result in zip(group, results, strict=True):
                if d is None:
                    continue
                if result is Applied.DONE:
                    self._settled(d, d.changes if plan.section else plan.changes)
                else:
                    self._not_applied(d, plan, result)

    async def _applied(self, plans: Sequence[Plan]) -> Sequence[Applied | BaseException]:
        results = await self._store.apply(plans)
        errors = [r for r in results if isinstance(r, ChoreoError) and r.transient]
        if errors and len(errors) == len(results) and not any(plan.section for plan in plans):
            raise errors[0]
        return results

    def _not_applied(self, d: Delivery, plan: Plan, result: object) -> None:
        if result is Applied.STALE:
            raise FencedError(
                "another process has taken the partition over",
                fix="let one process at a time run a service",
                handler=d.route.name,
            )
        if result is Applied.DUPLICATE:
            self._settled(d, ())
        elif isinstance(result, MoreGates):
            self._look_again(d, result)
        elif result is Applied.CONFLICT or isinstance(result, StepVoid):
            self._spawn(self._decide_again(d, plan), "decide again")
        else:
            assert isinstance(result, Exception), result
            self._spawn(self._failed_run(d, result), "failed")

    async def _decide_again(self, d: Delivery, plan: Plan) -> None:
        """A gate, state or memo changed since it was seen: look, and decide again.

        The handler is run again only where its result stands on what changed.
        """
        stands_on_it = plan.section is not None or d.route.state is not None or d.result is NOT_RUN
        if stands_on_it and d.error is None:
            self._reload(d)
            return
        (d.loaded,) = await self._outlasting(partial(self._store.load, [want(d)]))
        moment = self._caller.moment()
        again = before_run(d, d.loaded, moment)
        if again is not None:
            self._finish(d, again)
        elif d.error is not None:
            self._fail(d, d.error)
        else:
            try:
                plan = after_run(d, d.loaded, d.result, moment, flow=d.flow)
            except MoreGates as more:
                self._look_again(d, more)
            else:
                self._finish(d, plan)

    def _settled(self, d: Delivery, changes: Sequence[Change]) -> None:
        """A delivery's plan is committed: let its chain go on, count its record down."""
        lane = d.lane
        if not _plain(d, changes) and self._noted(lane, d, changes):
            return
        following = lane.unchained(d)
        if following is not None:
            self._fresh.append(following)
            self._fresh_added.set()
        d.slot.left -= 1
        lane.uncommitted += 1
        self._in_flight -= 1
        if not self._room.is_set():
            self._room.set()

    def _noted(self, lane: Lane, d: Delivery, changes: Sequence[Change]) -> bool:
        """Keep book of what is parked and due; true if `d` itself may run at once after all."""
        if d.due_key is not None:
            lane.running_due.discard(d.due_key)
        chain = (d.route.name, d.chain_text())
        own = _own_parking(changes)
        dues = [
            change.parked.due
            for change in changes
            if type(change) is Settle and change.parked and change.parked.due is not None
        ]
        dues += [change.due for change in changes if type(change) is SetTimer]
        again = False
        if chain[1] and d.seen is None and own is not None:
            again = own.due is None and lane.held[chain] == 0
            lane.held[chain] += 1
        elif chain[1] and d.seen is not None and own is None:
            lane.held[chain] -= 1
            if lane.held[chain] > 0:
                dues.append(0.0)  # the store let the next one of the chain go
            else:
                del lane.held[chain]
        if dues:
            lane.due_at(min(dues))
            self._due_wakes[lane.name].set()
        if again:  # what it was to wait for has been settled meanwhile
            d.seen = (d.run, d.attempt)
            self._reload(d)
        return again

    # ── offsets ──────────────────────────────────────────────────────────────────────────

    async def _commit_offsets(self) -> None:
        while True:
            await self._sleep(self._limits.commit_every_s)
            for lane in self._lanes:
                if lane.uncommitted:
                    lane.uncommitted = 0
                    marks = lane.watermarks()
                    await self._outlasting(partial(lane.subscription.commit, marks))


def _plain(d: Delivery, changes: Sequence[Change]) -> bool:
    """Tell whether nothing but a fresh delivery's end and one event came of it."""
    return (
        d.due_key is None
        and d.seen is None
        and len(changes) == 2  # noqa: PLR2004 - Settle and Publish
        and type(changes[1]) is Publish
        and changes[0].parked is None  # type: ignore[union-attr]
    )


def _own_parking(changes: Sequence[Change]) -> Parked | None:
    """Give how these changes park the delivery itself, if they do."""
    for change in changes:
        if type(change) is Settle and not change.spawn and change.status is Status.PARKED:
            return change.parked
    return None

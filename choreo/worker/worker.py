"""The worker: bounded queues between loops, no barrier. A slow handler delays its chain only.

poll ─► chains ─► load ─► run ─► commit ─► next of the chain
▲        └─► again (inline retry)
due (parked deliveries, timers)
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress

from choreo.errors import BrokerClosedError, ChoreoError, HandlerError
from choreo.ports import Broker, Clock, Store, Want
from choreo.step import Compiled
from choreo.telemetry import Attempts, LogFields
from choreo.worker.assigned import Assigned
from choreo.worker.call import Caller
from choreo.worker.commit import Committer
from choreo.worker.intake import Intake
from choreo.worker.lane import Lane
from choreo.worker.pipeline import Limits, Pipeline
from choreo.worker.pruning import prune
from choreo.worker.relay import Relay
from choreo.worker.runners import Runners
from choreo.worker.spill import Spiller
from choreo.worker.watch import Watch

__all__ = ["Worker"]

log = logging.getLogger("choreo.worker")
log.addFilter(LogFields())

COMMIT_S = 5.0
"""For the offsets of a service at the end: they only save looking again at what is settled."""
LEAVE_S = 1.0
"""For each service's goodbye, where something was left behind."""


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
        limits: Limits,
        attempts: Attempts | None = None,
    ) -> None:
        """Prepare; `start` begins. `attempts` is telemetry's way around what runs."""
        self._services = services
        self._broker = broker
        self._store = store
        self._caller = Caller(store, clock, rng, threads=limits.threads)
        self._pipeline = Pipeline(store, self._caller, clock, limits)
        self._runners = Runners(self._pipeline)
        if attempts is not None:
            self._pipeline.attempt = attempts.around(self._pipeline.attempt)
            self._pipeline.run = attempts.running(self._pipeline.run)
        self._watch = Watch(self._runners, self._pipeline, self._clock_was_set)
        self._spiller = Spiller(self._pipeline, self._runners)
        self._intake = Intake(self._pipeline, self._runners.fail)
        self._relay = None if store.traits.publishes else Relay(self._pipeline, broker)
        self._committer = Committer(self._pipeline, self._runners, self._relay)
        self._lanes: list[Lane] = []
        self._sources: list[asyncio.Task[None]] = []
        self._mute = False
        self.gave_up = False
        """Whether the drain left handlers behind that did not end in time."""

    async def start(self) -> None:
        """Join the groups, take the partitions over, begin. May be called twice."""
        pipeline = self._pipeline
        if pipeline.failure is not None:
            return
        pipeline.failure = asyncio.get_running_loop().create_future()
        if self._relay is not None:
            pipeline.spawn(self._relay.publish(), "relay")
            pipeline.spawn(self._relay.sweep(), "relay sweep")
            pipeline.spawn(self._relay.listen(), "relay listens")
        for compiled in self._services:
            # The store learns every handler's name now, not inside a transaction.
            await self._store.load(
                [Want(named, bytes(16), former=r.former) for named, r in compiled.by_name.items()]
            )
            lane = Lane(compiled)
            assigned = Assigned(pipeline, lane, self._relay)
            self._check_stopped()
            lane.subscription = await self._broker.subscribe(
                lane.name, compiled.topics, assignee=assigned
            )
            if pipeline.stopping:
                await lane.subscription.close()
            self._check_stopped()
            assigned.joined()
            self._lanes.append(lane)
        for lane in self._lanes:
            for loop, what in ((self._intake.due, "due"), (self._intake.poll, "poll")):
                self._sources.append(pipeline.spawn(loop(lane), f"{what} {lane.name}"))
        pipeline.spawn(self._intake.load(), "load")
        pipeline.spawn(self._runners.sweep(), "sweep")
        pipeline.spawn(self._committer.offsets(self._lanes), "offsets")
        pipeline.spawn(prune(pipeline, self._lanes, self._broker), "prune")
        if pipeline.limits.threads:
            self._watch.start()
        self._spiller.start()
        for number in range(pipeline.limits.committers):
            pipeline.spawn(self._committer.commit(), f"commit {number}")

    def _check_stopped(self) -> None:
        """Begin nothing that nobody would end any more."""
        if self._pipeline.stopping:
            raise BrokerClosedError("stopped while it started", fix="start a new one")

    async def drain(self) -> None:
        """Take nothing new; finish and commit what runs, for at most `drain_s` seconds."""
        pipeline = self._pipeline
        pipeline.stopping = True
        for source in self._sources:
            source.cancel()
        await asyncio.gather(*self._sources, return_exceptions=True)
        loop = asyncio.get_running_loop()
        last = loop.time() + pipeline.limits.drain_s
        while self._unfinished and loop.time() < last and not pipeline.failed():  # noqa: ASYNC110 - once
            await asyncio.sleep(0.002)
        self._give_up()
        if self._relay is not None and not pipeline.failed():
            await self._relay.finish(LEAVE_S)

    def _give_up(self) -> None:
        """Name what did not end in time."""
        if not self.busy or self._pipeline.failed():
            return
        self.gave_up = True
        names = sorted({d.route.name for d in self._runners.running()})
        error = HandlerError(
            f"{self.busy} deliveries did not end within drain_s="
            f"{self._pipeline.limits.drain_s:g} s and are left behind;"
            " they are run again at the next start",
            code="CH5011",
            fix="give the handlers timeout_s, or this worker a longer drain_s",
            handlers=", ".join(names) or "none runs: they could not be committed",
        )
        log.error("%s", error)

    async def stop(self) -> None:
        """Drain, commit offsets, leave. May be called twice, and before start."""
        pipeline = self._pipeline
        if not pipeline.stopping:
            await self.drain()
        self._watch.stop()
        self._spiller.stop()
        await pipeline.cancel_all()
        lanes, self._lanes = self._lanes, []
        async with AsyncExitStack() as last:  # each is left, whatever the others raise
            last.callback(self._end)
            for lane in reversed(lanes):
                last.push_async_callback(self._leave_in_time, lane)

    def _end(self) -> None:
        failure = self._pipeline.failure
        self._caller.close()
        if failure is not None and not failure.done():
            failure.cancel()

    def _clock_was_set(self) -> None:
        """Look again what is due: who sleeps until then has reckoned with another clock."""
        for lane in self._lanes:
            lane.due_added.set()

    async def _leave_in_time(self, lane: Lane) -> None:
        with suppress(TimeoutError):  # what was left behind may hold the store
            async with asyncio.timeout(LEAVE_S if self.gave_up else None):
                await self._leave(lane)

    async def _leave(self, lane: Lane) -> None:
        if not self._pipeline.failed() and not self._mute:
            try:
                async with asyncio.timeout(COMMIT_S):
                    await lane.subscription.commit(lane.watermarks())
            except TimeoutError:
                self._mute = True  # the others would wait as long, one after the other
                log.warning("the log does not answer; the inbox makes up for the offsets")
            except ChoreoError as exc:
                log.warning("offsets are not committed; the inbox makes up for it: %s", exc)
        await lane.subscription.close()

    @property
    def failure(self) -> asyncio.Future[None]:
        """What has stopped the worker, once something has."""
        assert self._pipeline.failure is not None, "the worker has not been started"
        return self._pipeline.failure

    @property
    def lanes(self) -> Sequence[Lane]:
        """The services that it runs."""
        return self._lanes

    @property
    def in_flight(self) -> int:
        """How many deliveries are taken and not settled."""
        return self._pipeline.in_flight

    @property
    def _unfinished(self) -> bool:
        return bool(self.busy or (self._relay is not None and self._relay.waiting))

    @property
    def relaying(self) -> bool:
        """Whether records are on their way from the store to the broker, and none waits for it."""
        return self._relay is not None and self._relay.busy

    @property
    def outage(self) -> ChoreoError | None:
        """What the store, or the log, answers instead of doing what it is asked for."""
        return self._pipeline.outage

    @property
    def busy(self) -> int:
        """How many deliveries are on their way: not those that wait for their time or turn."""
        pipeline = self._pipeline
        return pipeline.in_flight - pipeline.delayed - pipeline.behind

    @property
    def crowded(self) -> bool:
        """Whether no records are polled, since nothing can be committed."""
        return self._pipeline.crowded and self._pipeline.stands

    @property
    def stalled(self) -> int:
        """How many of the busy ones wait for a queue that stands still: the store is down."""
        return self._pipeline.stalled

    @property
    def sleeping(self) -> int:
        """How many of the worker's own loops sleep on the clock."""
        return self._pipeline.sleeping

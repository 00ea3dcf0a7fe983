"""The composition root: services, a deployment, and the life of both."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import random
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from choreo.adapters.system import SystemClock
from choreo.app.ending import Ending
from choreo.app.opening import deployed, open_codec
from choreo.app.preparing import migrate, refuse_orphans, warn_of_database, warn_of_topics
from choreo.codec import JSON_TYPE
from choreo.context import State
from choreo.errors import BrokerClosedError, ChoreoError, ConfigurationError
from choreo.events import (
    CONTENT_TYPE,
    DEAD_TOPIC,
    FLOW,
    ID,
    MANIFESTS_TOPIC,
    SOURCE,
    SPEC_VERSION,
    STEPS_TOPIC,
    SUBJECT,
    TIME,
    TYPE,
    Event,
    Record,
    keyed_root_id,
    rfc3339,
    root_id,
)
from choreo.outcomes import Outcomes
from choreo.ports import Broker, Clock, Enlisting, Store, Topic, Tx, Want
from choreo.service import ParamKind, Service
from choreo.step import Compiled, compiled
from choreo.telemetry import Telemetry
from choreo.topology import classes_of, manifest
from choreo.worker import Limits, Worker

__all__ = ["App"]

S = TypeVar("S", bound=State)
log = logging.getLogger("choreo.app")

CLOSE_S = 2.0  # for each part, where a handler that was left behind may hold it up
CALM_LOOKS = 12  # turns of the loop with nothing on its way, before time may go on


class App:
    """Services running in one process, on the embedded deployment unless told otherwise.

    `folder` holds the log and the store (`choreo.db`); without it `CHOREO_BROKER` and
    `CHOREO_STORE` say where they are, else `./.choreo/`. `folder=":memory:"` keeps nothing.
    `resources` are what handlers ask for by type. Without services an App only publishes.
    """

    def __init__(
        self,
        *services: Service,
        folder: str | Path | None = None,
        broker: Broker | None = None,
        store: Store | None = None,
        resources: Mapping[type, Any] | None = None,
        clock: Clock | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Compose; nothing is opened before `start`."""
        if (broker is None) != (store is None):
            what = "App takes broker= and store= together"
            raise ConfigurationError(what, code="CH1014", fix="give both or none")
        names = [service.name for service in services]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ConfigurationError(
                "two services of one name", code="CH1012", fix="rename one", service=twice
            )
        self.services = services
        self.clock = clock or SystemClock()
        self._given = dict(resources or {})
        if broker is None or store is None:
            broker, store = deployed(folder, clock=self.clock)
        self._ports = broker, store
        self.broker = broker
        self.store = store
        self.codec = open_codec(self.clock)
        self._limits = limits or Limits()
        self._rng = random.Random(os.urandom(16))
        self._stack = AsyncExitStack()
        self._stopped = False
        self._stopping = asyncio.Lock()
        self._stops: asyncio.Task[object] | None = None  # the one that has the lock
        self._compiled: list[Compiled] = []
        self._worker: Worker | None = None
        self._outcomes = Outcomes(broker, self.clock, self.codec, [s.flows for s in services])
        self._topics: set[str] = set()
        self.telemetry = Telemetry.configured()
        """What is told of this App; to be set before `start`. None: nothing, at no cost."""
        self._sampling: asyncio.Task[None] | None = None
        self.alone = False
        """Whether the process is its own: then it also ends with it, at the latest (CH5016)."""
        self._ending = Ending(self._limits.drain_s + self._limits.leave_s)
        self.started = self.leaving = False
        self.gave_up = False
        """Whether handlers were left behind that did not end when they were told to."""

    # ── life ─────────────────────────────────────────────────────────────────────────────

    async def __aenter__(self) -> Self:
        """Start."""
        try:
            await self.start()
        except BaseException:
            try:
                await self.stop()
            except Exception as later:  # noqa: BLE001 - what has failed first is raised
                log.warning("closed, but not in order: %s", later)
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop."""
        await self.stop()

    async def start(self) -> None:
        """Migrate, create topics, tell the manifests, begin to work. May be called twice."""
        if self._worker is not None:
            return
        if self._limits.switch_interval_s is not None:
            sys.setswitchinterval(self._limits.switch_interval_s)
        if self._limits.gc_threshold is not None:
            gc.set_threshold(self._limits.gc_threshold, *gc.get_threshold()[1:])
        (broker, store), attempts = self._ports, None
        if self.telemetry is not None:
            system = broker.traits.system
            self.broker = self.telemetry.broker(broker)
            self.store = self.telemetry.store(store, system)
            attempts = self.telemetry.attempts(system)
        self._compiled.clear()
        for service in self.services:
            await self.codec.open(classes_of(service))
            resources = await self._resources(service)
            self._compiled.append(compiled(service, resources, self.codec))
        await self._ensure(self._topics_of())
        if self.services:
            taken = [(one.service, one.topics) for one in self._compiled]
            await warn_of_topics(self.broker, self._topics, taken)
        for service in self.services:
            await migrate(self.store, service)
        if self.services:  # it has answered by now: a look that fails is no second wait
            await warn_of_database(self.store)
        await refuse_orphans(self.store, {c.service.name: c.names for c in self._compiled})
        if self.services:
            await self.broker.publish([self._manifest(service) for service in self.services])
        await self._outcomes.start()
        await self._check_stopped()
        self._worker = Worker(
            self._compiled,
            self.broker,
            self.store,
            clock=self.clock,
            rng=self._rng,
            limits=self._limits,
            attempts=attempts,
        )
        settle_with = getattr(self.clock, "settle_with", None)
        if settle_with is not None:
            self._stack.callback(settle_with(self._settle))
        await self._worker.start()
        self.started = True
        if self.telemetry is not None:
            self._sampling = self.telemetry.sample(self._worker, self._ports, self.clock)

    async def _check_stopped(self) -> None:
        """Begin nothing that nobody would end any more."""
        if self._stopped:
            await self._stack.aclose()
            raise BrokerClosedError("stopped while it started", fix="start a new one")

    @property
    def worker(self) -> Worker | None:
        """What runs the services, between `start` and `stop`."""
        return self._worker

    async def drain(self) -> None:
        """Take nothing new, finish what runs."""
        await self._last(self._drain)

    async def stop(self) -> None:
        """Drain and release everything. May be called twice, also at once, and before start.

        A resource that is just being released by it may call it, too.
        """
        self._stopped = True
        await self._last(self._stop)

    async def _last(self, step: Callable[[], Awaitable[None]]) -> None:
        """Take one step of leaving: who comes second waits for what the first is at."""
        self.leaving = True
        if self._stops is asyncio.current_task():
            return
        async with self._stopping:
            self._stops = asyncio.current_task()
            try:
                await step()
            finally:
                self._stops = None

    async def _drain(self) -> None:
        if self._worker is not None:
            await self._worker.drain()

    async def _stop(self) -> None:
        worker, self._worker = self._worker, None
        if self._sampling is not None:
            self._sampling.cancel()
        async with AsyncExitStack() as last:  # each is released, whatever the others raise
            released = (self.codec, self.broker, self.store)
            for close in (*(part.close for part in released), self._stack.aclose):
                last.push_async_callback(self._in_time, close)
            last.push_async_callback(self._outcomes.close)
            if worker is not None:
                await worker.stop()
                self.gave_up = worker.gave_up
        if not self.alone:
            self._ending.done()

    async def _in_time(self, close: Callable[[], Awaitable[None]]) -> None:
        """Close; what was left behind, or a full disk, does not keep us."""
        try:
            async with asyncio.timeout(CLOSE_S if self.gave_up else None):
                await close()
        except TimeoutError:
            return
        except ChoreoError as exc:
            if not exc.transient:
                raise
            log.warning("closed, but not in order; the next start makes up for it: %s", exc)

    async def serve(self) -> None:
        """Work until SIGTERM or SIGINT, then drain; at a second signal leave at once.

        Ends, too, when somebody else stops it. Raises what stopped the worker, if something did.
        What does not end, nor close, within `drain_s` and `leave_s` of a signal ends with the
        process (CH5016).
        """
        assert self._worker is not None, "serve() needs a started App"
        failure = self._worker.failure
        with self._ending.heard(to_the_end=self.alone) as told:
            waiting = asyncio.ensure_future(told.wait())
            try:
                await asyncio.wait((waiting, failure), return_when=asyncio.FIRST_COMPLETED)
                if failure.done() and not failure.cancelled():
                    failure.result()
                await self.drain()
            finally:
                waiting.cancel()

    # ── what callers ask for ─────────────────────────────────────────────────────────────

    async def publish(self, event: Event, *, id: str | None = None, tx: object = None) -> str:
        """Publish the first event of a flow; give the flow's id once the record is durable.

        `id` is the caller's own key: publishing again with the same one is harmless, since
        it gives the same event. With `tx` it is published when that transaction is committed,
        and never when it is not: a Tx of `transaction()`, and on PostgreSQL a connection of
        asyncpg, or a session or connection of SQLAlchemy's asyncio, to the store's database.
        """
        info = type(event).__event__
        if info.key is None:
            raise ConfigurationError(
                f"{type(event).__name__} is a view; only its owner publishes it",
                code="CH1010",
                fix="declare the event with key=, in the service that owns it",
            )
        now = self.clock.now()
        flow = (
            keyed_root_id(info.type, id)
            if id is not None
            else root_id(now, self._rng.randbytes(10))
        )
        key = str(getattr(event, info.key))
        headers = {
            SPEC_VERSION: "1.0",
            ID: flow,
            SOURCE: "app",
            TYPE: info.type,
            TIME: rfc3339(now),
            CONTENT_TYPE: self.codec.content_type,
            FLOW: flow,
        }
        if key:  # an attribute that has no text is none
            headers[SUBJECT] = key
        await self.codec.open([type(event)])
        if info.topic not in self._topics and (tx is None or not self.store.traits.publishes):
            await self._ensure({info.topic})  # in one file it would wait for the transaction
        record = Record(info.topic, key.encode(), headers, self.codec.encode(event))
        record.trusted = True
        record.fresh = id is None  # nobody can have handled an id that was just drawn
        if tx is None:
            await self.broker.publish([record])
        else:
            await cast("Enlisting", self.store).enlist(tx, record)
        if id is None:  # of a flow with a key, an earlier end may stand before this record
            self._outcomes.published(flow, record.offset)
        return flow

    def transaction(self) -> AbstractAsyncContextManager[Tx]:
        """Open a transaction on the store's database, outside of any step, for `publish` too."""
        return self.store.transaction()

    async def outcome(self, flow: str, *, within_s: float) -> Event:
        """Wait for the flow's end event; raises OutcomeTimeoutError after `within_s` seconds."""
        return await self._outcomes.wait(flow, within_s=within_s)

    async def load(self, kind: type[S], key: object) -> S | None:
        """Give a keyed state as it is stored now; None if there is none."""
        for one in self._compiled:
            for route in one.by_name.values():
                if route.state is kind:
                    named = (f"{one.service.name}.{kind.__name__}", str(key))
                    (seen,) = await self.store.load([Want(route.name, b"", (), named)])
                    if seen.state is None or seen.state.value is None:
                        return None
                    return kind.from_stored(seen.state.value)
        raise ConfigurationError(
            f"no handler of these services keeps {kind.__name__}",
            code="CH1006",
            fix="give App the service whose handlers take it",
        )

    # ── parts ────────────────────────────────────────────────────────────────────────────

    async def _resources(self, service: Service) -> dict[type, Any]:
        found = dict(self._given)
        wanted = {
            param.of
            for handler in service.handlers.values()
            for param in handler.signature.params
            if param.kind is ParamKind.RESOURCE
        }
        for kind, maker in service.resources.items():
            if kind not in wanted or kind in found:
                continue
            try:
                found[kind] = await self._stack.enter_async_context(maker())
            except Exception as exc:
                raise ConfigurationError(
                    f"the resource {kind.__name__} could not be made: {exc}",
                    code="CH1008",
                    fix="correct its maker, or give another one to App(…, resources=…)",
                    service=service.name,
                ) from exc
        return found

    def _topics_of(self) -> set[str]:
        topics = {STEPS_TOPIC, DEAD_TOPIC, MANIFESTS_TOPIC}
        for one in self._compiled:
            topics.update(one.topics)
            for handler in one.service.handlers.values():
                topics.update(e.__event__.topic for e in handler.signature.outputs.events)
                topics.update(e.__event__.topic for e in (*handler.inputs, *handler.on))
                if handler.nothing is not None:
                    topics.add(handler.nothing.__event__.topic)
            for flow in one.service.flows.values():
                topics.update(e.__event__.topic for e in (flow.starts, *flow.ends))
                if flow.overdue is not None:
                    topics.add(flow.overdue.__event__.topic)
        return topics

    async def _ensure(self, topics: set[str]) -> None:
        await self.broker.ensure([Topic(name) for name in sorted(topics)])
        self._topics |= topics

    def _manifest(self, service: Service) -> Record:
        value = json.dumps(
            manifest(service, self.codec.content_type), separators=(",", ":")
        ).encode()
        now = self.clock.now()
        headers = {
            SPEC_VERSION: "1.0",
            ID: root_id(now, self._rng.randbytes(10)),
            SOURCE: service.name,
            TYPE: f"{MANIFESTS_TOPIC}.ManifestPublished",
            TIME: rfc3339(now),
            SUBJECT: service.name,
            CONTENT_TYPE: JSON_TYPE,
        }
        return Record(MANIFESTS_TOPIC, service.name.encode(), headers, value)

    async def _settle(self) -> bool:
        """Wait until nothing goes on that needs no time to pass; true if there was something."""
        worker = self._worker
        waited = False
        calm = 0
        while worker is not None and calm < CALM_LOOKS:
            sleepers = getattr(self.clock, "sleepers", 0) - worker.sleeping
            busy = (
                worker.busy - worker.stalled > max(sleepers, 0)
                or worker.relaying
                or bool(getattr(self.store, "busy", 0))
                or (not worker.crowded and bool(getattr(self.broker, "busy", 0)))
                or bool(self.codec.busy)
            )
            waited = waited or busy
            calm = 0 if busy else calm + 1
            await asyncio.sleep(0.0005 if busy else 0)
        return waited

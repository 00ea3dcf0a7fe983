"""One handler, run for real on a database in memory: `await given(fn, sql=…).when(event)`."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from choreo.app import embedded, migrate
from choreo.codec import JSON_TYPE, encode
from choreo.context import AskFirst, Failure
from choreo.errors import ConfigurationError
from choreo.events import (
    CONTENT_TYPE,
    FLOW,
    ID,
    SPEC_VERSION,
    TIME,
    TYPE,
    Event,
    Partition,
    Record,
    id_bytes,
    rfc3339,
    root_id,
)
from choreo.plan import Change, Plan, Publish, SetTimer, Source
from choreo.ports import Row, Store, Topic, Want
from choreo.service import Service
from choreo.step import Compiled, Delivery, MoreGates, before_run, compiled, failed, want
from choreo.step.parking import unfrozen_record
from choreo.testing.clock import ManualClock
from choreo.worker.call import Caller

__all__ = ["Done", "Given", "given"]


@dataclass(frozen=True, slots=True)
class Done:
    """What a step left: events at once and later (with seconds from now), rows asked for.

    `error` is what the handler raised, `noted` what the log says of the step when it
    published nothing: "done", "retrying", "waiting", "dead", "given_up" or "void".
    """

    published: list[Event]
    later: list[tuple[Event, float]]
    rows: list[Row]
    error: BaseException | None
    noted: str | None


class Given:
    """A handler and what it finds: made by `given`."""

    def __init__(
        self,
        service: Service,
        name: str,
        *,
        sql: str | Sequence[str],
        resources: Mapping[type, Any],
        clock: ManualClock,
    ) -> None:
        """Keep it until `when`."""
        self._service = service
        self._name = name
        self._sql = [sql] if isinstance(sql, str) else list(sql)
        self._resources = resources
        self._clock = clock

    async def when(
        self,
        event: Event,
        *,
        why: Event | Failure | None = None,
        fetch: str | None = None,
        attempt: int = 1,
    ) -> Done:
        """Give it an event (and what triggered its undo, or why it stands in); run one attempt.

        `fetch` is a query whose rows the answer has; `attempt` counts from 1.
        """
        broker, store = embedded(":memory:", clock=self._clock)
        try:
            made = compiled(self._service, _Lenient(self._service, self._name, self._resources))
            d = self._delivery(made, event, why)
            d.attempt = attempt
            await broker.ensure([Topic(name) for name in sorted(_topics(made, d))])
            await migrate(store, self._service)
            async with store.transaction() as tx:
                for statement in filter(None, self._sql):
                    await tx.execute(statement)
            d.owned = await store.own(self._service.name, [Partition(d.record.topic, 0)])
            await store.load([Want(name, bytes(16)) for name in made.by_name])
            changes, error = await self._run(d, store)
            rows: list[Row] = []
            if fetch is not None:
                async with store.transaction() as tx:
                    rows = await tx.fetch(fetch)
        finally:
            await store.close()
            await broker.close()
        return self._done(d, changes, error, rows)

    def _delivery(self, made: Compiled, event: Event, why: Event | Failure | None) -> Delivery:
        route = made.by_name[self._name]
        record = self._record(event)
        d = Delivery(route, record, id_bytes(record.headers[ID]), Source(record.topic, 0, 1))
        if isinstance(why, Event):
            d.extras = {"why": self._record(why)}
        elif why is not None:
            d.failure = {
                "reason": why.reason,
                "error": why.error,
                "message": why.message,
                "attempts": why.attempts,
            }
        if route.slots:
            d.extras = {route.slots[0].name: record}
        return d

    def _record(self, event: Event) -> Record:
        info = type(event).__event__
        now = self._clock.now()
        id_ = root_id(now, random.Random(info.type).randbytes(10))
        headers = {
            SPEC_VERSION: "1.0",
            ID: id_,
            TYPE: info.type,
            TIME: rfc3339(now),
            CONTENT_TYPE: JSON_TYPE,
            FLOW: id_,
        }
        return Record(info.topic, b"", headers, encode(event), 0, 1)

    async def _run(
        self, d: Delivery, store: Store
    ) -> tuple[Sequence[Change], BaseException | None]:
        caller = Caller(store, self._clock, random.Random(0))
        (d.loaded,) = await store.load([want(d)])
        now = d.started = self._clock.now()
        plan = before_run(d, d.loaded, now)
        error: BaseException | None = None
        if plan is None:
            try:
                plan = await self._planned(d, store, caller)
            except Exception as exc:  # noqa: BLE001 - shown to the test
                error = exc
            except AskFirst as asking:
                error = asking.error
            if plan is None:
                assert error is not None
                plan = failed(d, d.loaded, error, now, draw=0.5).plan
        caller.close()
        return (d.changes if plan.section else plan.changes), error

    async def _planned(self, d: Delivery, store: Store, caller: Caller) -> Plan:
        """Run it, again with more gates in sight when the decision asks for them."""
        while True:
            try:
                plan = await caller.run(d, self._clock.elapsed())
                (applied,) = await store.apply([plan])
                if isinstance(applied, BaseException):
                    raise applied
            except MoreGates as more:
                d.see_more(more.keys)
                (d.loaded,) = await store.load([want(d)])
            else:
                return plan

    def _done(
        self,
        d: Delivery,
        changes: Sequence[Change],
        error: BaseException | None,
        rows: list[Row],
    ) -> Done:
        views = {cls.__event__.type: cls for cls in d.route.outputs}
        published, later, noted = [], [], None
        for change in changes:
            if isinstance(change, Publish):
                kind = change.record.headers[TYPE]
                if kind in views:
                    published.append(views[kind].model_validate_json(change.record.value))
                elif noted is None:
                    noted = _state_of(change.record)
            elif isinstance(change, SetTimer) and change.handler.endswith("!after"):
                record = unfrozen_record(change.payload)
                event = views[record.headers[TYPE]].model_validate_json(record.value)
                later.append((event, change.due - self._clock.now()))
        return Done(published, later, rows, error, noted)


class _Lenient(dict[type, Any]):
    """The resources given; what only other handlers of the service need may be missing."""

    def __init__(self, service: Service, name: str, given: Mapping[type, Any]) -> None:
        needed = {param.of for param in service.handlers[name].signature.params}
        others = {
            param.of: None
            for handler in service.handlers.values()
            for param in handler.signature.params
            if param.of is not None and param.of not in needed
        }
        super().__init__({**others, **given})


def _topics(made: Compiled, d: Delivery) -> set[str]:
    topics = {d.record.topic, "choreo.steps", "choreo.dead", *made.topics}
    return topics | {cls.__event__.topic for cls in d.route.outputs}


def _state_of(record: Record) -> str | None:
    found = json.loads(record.value).get("state") if record.topic == "choreo.steps" else None
    return None if found is None else str(found)


def given(
    fn: Callable[..., Any],
    *,
    sql: str | Sequence[str] = (),
    resources: Mapping[type, Any] | None = None,
    clock: ManualClock | None = None,
) -> Given:
    """Take a handler, `sql` to run after its service's migrations, and its resources.

    Raises ConfigurationError when the function is no handler.
    """
    declared = getattr(fn, "__choreo__", None)
    if declared is None:
        raise ConfigurationError(
            f"{getattr(fn, '__name__', fn)} is no handler",
            code="CH1006",
            fix="give a function that a service's decorator has declared",
        )
    service, name = declared
    return Given(service, name, sql=sql, resources=resources or {}, clock=clock or ManualClock())

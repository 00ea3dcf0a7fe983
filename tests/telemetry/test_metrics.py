"""Metrics, the table of all that is told, and what is never told."""

import asyncio
import logging
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from choreo import App, Service
from choreo.adapters.sqlite import Database, Log, SqliteBroker, SqliteStore
from choreo.adapters.system import SystemClock
from choreo.events import Partition, Record
from choreo.telemetry import ATTRIBUTES, METRICS, SPANS
from tests.bad_input.desk import Desk, headers_of, until
from tests.telemetry.conftest import Told
from tests.telemetry.desk import PRIVATE, SECRET, Answered, Asked, opened, service

UNSENT = "choreo.outbox.oldest.age"
SENT, CONSUMED = "messaging.client.sent.messages", "messaging.client.consumed.messages"
TOPIC = "messaging.destination.name"
ANSWERED = {TOPIC: "desk.answered"}
IDS = ("messaging.message.id", "messaging.message.conversation_id", "messaging.kafka.offset")


async def everything(told: Told, folder: Path) -> list[str]:
    """Let all happen that telemetry tells of; give the ids of the flows."""
    flows = []
    for what in ("", "fail", "retry", "later"):
        async with opened(service(), telemetry=told.telemetry, folder=str(folder)) as app:
            flow = await app.publish(Asked(k=what, what=what))
            flows.append(flow)
            if what == "fail":
                await until(lambda: told.count("choreo.dead_letters"))
            else:
                await app.outcome(flow, within_s=10)
    desk = Desk(folder)
    async with opened(service(), telemetry=told.telemetry, folder=str(folder)) as app:
        for _ in range(2):
            headers = headers_of(Asked.__event__.type, "twice")
            desk.write(Asked.__event__.topic, headers, "{}")
        await until(lambda: told.count("choreo.inbox.duplicates"))
        await until(lambda: told.count(SENT, **ANSWERED) == told.count(CONSUMED, **ANSWERED))
        await until(lambda: told.points("choreo.consumer.lag"))
        await until(lambda: told.spans("commit"))
        store = app.store
    assert store is not None
    await fail(told)
    return flows


async def fail(told: Told) -> None:
    """Let a send, a commit and a transaction fail: their ports are closed."""
    app = App(folder=":memory:")
    app.telemetry = told.telemetry
    async with app:
        subscription = await app.broker.subscribe("nobody", [])
        broker, store = app.broker, app.store
    for call in (
        broker.publish([Record("desk.lost", b"k", {"ce_id": "1", "ce_type": "a.B"}, b"{}")]),
        subscription.commit({Partition("desk.lost", 0): 1}),
        store.apply([]),
    ):
        with pytest.raises(Exception, match="CH3002"):
            await call


async def test_what_is_told_is_in_the_table_and_the_other_way_round(
    told: Told, tmp_path: Path
) -> None:
    await everything(told, tmp_path)
    metrics = told.metrics()
    assert set(metrics) == {one.name for one in METRICS if not one.needs}
    for one in METRICS:
        if one.needs:
            continue
        assert metrics[one.name].unit == one.unit
        labels = {name for point in told.points(one.name) for name in point.attributes}
        by_partition = {"messaging.destination.name", "messaging.destination.partition.id"}
        wanted = set(one.attributes) - (
            by_partition if one.name == "choreo.consumer.lag" else set()
        )
        assert labels == wanted, one.name
        if one.buckets:
            assert {point.explicit_bounds for point in told.points(one.name)} == {one.buckets}
    spans = told.spans()
    assert {span.name.split(" ")[0] for span in spans} == {one.operation for one in SPANS}
    for kind in SPANS:
        mine = told.spans(kind.operation)
        assert {span.kind.name for span in mine} == {kind.kind}
        attributes = {name for span in mine for name in span.attributes or ()}
        # The handlers of this desk raise no error of choreo's own.
        lost = {"choreo.error.code"} if kind.operation == "process" else set()
        assert attributes == set(kind.attributes) - lost, kind.operation
        for span in mine:
            assert span.name == f"{kind.operation} {(span.attributes or {})[TOPIC]!s}"
            assert not span.events
            assert span.status.description is None
    told_of = {*(a for one in METRICS for a in one.attributes)}
    told_of |= {a for one in SPANS for a in one.attributes}
    assert told_of == set(ATTRIBUTES)


async def test_no_label_holds_an_id(told: Told, tmp_path: Path) -> None:
    flows = await everything(told, tmp_path)
    ids = {str(span.attributes[EVENT]) for span in told.spans("send") if span.attributes}
    ids |= set(flows)
    assert len(ids) > 10
    for name in told.metrics():
        for point in told.points(name):
            assert not set(point.attributes) & set(IDS)
            assert not {str(value) for value in point.attributes.values()} & ids


EVENT = "messaging.message.id"


async def test_no_secret_and_no_payload_is_told(
    told: Told, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await everything(told, tmp_path)
    said = [span.to_json() for span in told.spans()]
    said += [metric.to_json() for metric in told.metrics().values()]
    said += [str(vars(record)) for record in caplog.records]
    assert len(said) > 50
    assert not [one for one in said if SECRET in one or PRIVATE in one]


async def test_attempts_are_counted_by_what_became_of_them(told: Told, tmp_path: Path) -> None:
    await everything(told, tmp_path)
    assert told.count("choreo.retries", choreo__handler="desk.answer") == 2
    assert told.count("choreo.deliveries.parked", choreo__handler="desk.answer") == 1
    assert told.count("choreo.dead_letters", choreo__reason="attempts used up") == 1
    assert told.count("choreo.inbox.duplicates", choreo__handler="desk.answer") == 1
    assert told.count(SENT, **ANSWERED) == told.count(CONSUMED, **ANSWERED) == 4
    failed = [p for p in told.points("messaging.process.duration") if "error.type" in p.attributes]
    assert [(p.attributes["error.type"], p.count) for p in failed] == [("DeskError", 3)]


async def test_a_busy_loop_is_measured(told: Told) -> None:
    async with opened(service(), telemetry=told.telemetry):
        await until(lambda: told.points("choreo.event_loop.lag"))
        end = time.monotonic() + 0.4
        while time.monotonic() < end:
            pass
        await until(lambda: told.points("choreo.event_loop.lag")[0].max > 0.1)


async def test_what_waits_for_a_relay_is_measured_and_sent_in_its_trace(
    told: Told, tmp_path: Path
) -> None:
    clock = SystemClock()
    outside = Log(Database(tmp_path / "log.db"))
    store = SqliteStore(Log(Database(tmp_path / "store.db")), clock=clock, publishes=False)
    desk, held = Service("desk"), asyncio.Event()

    @desk.on(Asked)
    async def answer(asked: Asked) -> Answered:
        await held.wait()
        return Answered()

    app = App(desk, broker=SqliteBroker(outside), store=store, clock=clock)
    app.telemetry = told.telemetry
    async with app:
        flow = await app.publish(Asked())
        with closing(sqlite3.connect(tmp_path / "log.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            held.set()
            await until(lambda: [p for p in told.points(UNSENT) if p.value > 0])
            assert not [span for span in told.spans("send") if span.name == "send desk.answered"]
            assert not told.count(SENT, **ANSWERED)
        await until(lambda: told.count(SENT, **ANSWERED))
        (labels,) = [dict(point.attributes) for point in told.points(UNSENT)]
    assert labels == {"messaging.consumer.group.name": "desk"}
    (sent,) = [
        span for span in told.spans("send")
        if span.name == "send desk.answered" and "error.type" not in (span.attributes or {})
    ]  # fmt: skip
    (processed,) = told.spans("process")
    assert sent.parent is not None
    assert sent.parent.span_id == processed.context.span_id
    assert (sent.attributes or {})["messaging.message.conversation_id"] == flow

"""The loop that feeds the views: from a real log, over restarts, beside another tracker."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from choreo.adapters.sqlite.views import SqliteViewStore
from choreo.app import open_broker, open_views
from choreo.events import MANIFESTS_TOPIC, STEPS_TOPIC, Record
from choreo.ports import Broker, FlowFilter, FlowSummary, Topic, ViewStore
from choreo.topology import manifest
from choreo.tracker import Tracker, catalog_of, view_of
from tests.unit.tracking import T0, Log, Placed, happy, shop, uuid

TOPICS = ["t.orders", "t.stock", "t.pay", "t.mail", "t.ship", STEPS_TOPIC, MANIFESTS_TOPIC]


class Turns:
    """A clock that lets the test say when a rest is over."""

    def __init__(self) -> None:
        self.resting = asyncio.Event()
        self.go_on = asyncio.Event()

    def now(self) -> float:
        return T0

    def elapsed(self) -> float:
        return 0.0

    async def sleep(self, delay_s: float) -> None:
        assert delay_s > 0
        self.resting.set()
        await self.go_on.wait()
        self.go_on.clear()

    async def turn(self) -> None:
        """Let one round pass."""
        await self.resting.wait()
        self.resting.clear()
        self.go_on.set()
        await self.resting.wait()


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    broker = open_broker(tmp_path)
    await broker.ensure([Topic(name) for name in TOPICS])
    await broker.publish([
        Record(
            MANIFESTS_TOPIC, service.name.encode(), {"ce_id": service.name},
            json.dumps(manifest(service)).encode(),
        )
        for service in shop()
    ])  # fmt: skip
    yield broker
    await broker.close()


@pytest.fixture
async def views(tmp_path: Path) -> AsyncIterator[ViewStore]:
    views = open_views(tmp_path)
    yield views
    await views.close()


async def flows(views: ViewStore) -> Sequence[FlowSummary]:
    return await views.flows(FlowFilter())


async def rebuilt(broker: Broker) -> Sequence[FlowSummary]:
    views = SqliteViewStore(":memory:")
    await Tracker(broker, views, Turns()).catch_up()
    found = await flows(views)
    await views.close()
    return found


async def test_what_is_published_becomes_visible(broker: Broker, views: ViewStore) -> None:
    clock = Turns()
    tracker = Tracker(broker, views, clock)
    running = asyncio.create_task(tracker.run())
    await clock.resting.wait()
    records = happy(Log()).records
    await broker.publish(records[:3])
    await clock.turn()
    assert [row.status for row in await flows(views)] == ["running"]
    await broker.publish(records[3:])
    await clock.turn()
    (row,) = await flows(views)
    assert (row.status, row.name, row.steps) == ("completed", "order", 5)
    view = await view_of(views, uuid(1))
    assert view is not None
    assert view.summary == row
    assert await view_of(views, uuid(2)) is None
    tracker.stop()
    tracker.stop()
    clock.go_on.set()
    await running
    assert await rebuilt(broker) == await flows(views)


async def test_a_new_tracker_goes_on_where_the_last_one_stood(
    broker: Broker, views: ViewStore
) -> None:
    records = happy(Log()).records
    await broker.publish(records[:4])
    at = await Tracker(broker, views, Turns()).catch_up()
    await broker.publish(records[4:])
    assert await Tracker(broker, views, Turns()).catch_up() == at + 2
    assert [row.status for row in await flows(views)] == ["completed"]
    assert await Tracker(broker, views, Turns()).catch_up() == at + 2


async def test_two_trackers_share_the_work(broker: Broker, views: ViewStore) -> None:
    trackers = [Tracker(broker, views, Turns()) for _ in range(3)]
    for number in range(1, 60, 6):
        log = Log(flow=number)
        log.event(number, Placed)
        await broker.publish(log.records)
        await asyncio.gather(*(tracker.catch_up() for tracker in trackers))
    assert {tracker.position for tracker in trackers} == {(await views.position())[0]}
    assert len(await flows(views)) == 10
    assert await rebuilt(broker) == await flows(views)


async def test_views_of_another_log_are_made_anew(
    broker: Broker, views: ViewStore, tmp_path: Path
) -> None:
    await broker.publish(happy(Log()).records)
    await Tracker(broker, views, Turns()).catch_up()
    other = open_broker(tmp_path / "other")
    await other.ensure([Topic(name) for name in TOPICS])
    assert await Tracker(other, views, Turns()).catch_up() == 0
    assert await flows(views) == []
    log = Log(flow=9)
    for number in range(9, 40):
        log.event(number, Placed)
    await other.publish(log.records)
    await Tracker(other, views, Turns()).catch_up()
    assert [row.flow for row in await flows(views)] == [uuid(9)]
    await Tracker(broker, views, Turns()).catch_up()
    assert [row.flow for row in await flows(views)] == [uuid(1)]
    await other.close()


async def test_manifests_that_come_late_tell_old_flows_anew(
    views: ViewStore, tmp_path: Path
) -> None:
    broker = open_broker(tmp_path / "late")
    await broker.ensure([Topic(name) for name in TOPICS])
    for number in range(1, 600):
        log = Log(flow=number)
        log.event(number, Placed)
        await broker.publish(log.records)
    tracker = Tracker(broker, views, Turns())
    await tracker.catch_up()
    assert {row.name for row in await flows(views)} == {""}
    (orders, *_) = shop()
    text = json.dumps(manifest(orders)).encode()
    await broker.publish([Record(MANIFESTS_TOPIC, b"orders", {"ce_id": "m"}, text)])
    await tracker.catch_up()
    assert {row.name for row in await flows(views)} == {"order"}
    assert (await catalog_of(views)).flows.keys() == {"t.orders.Placed"}
    await broker.close()

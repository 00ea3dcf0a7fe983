"""Trackers that share a log as a group: whatever each of them reads, the views are the same."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from choreo.adapters.sqlite.views import SqliteViewStore
from choreo.app import open_broker, open_views
from choreo.errors import StoreConflictError, StoreUnavailableError
from choreo.events import MANIFESTS_TOPIC, STEPS_TOPIC, Partition, Record
from choreo.ports import Broker, FlowFilter, FlowSummary, Topic, ViewBatch, ViewStore
from choreo.topology import manifest
from choreo.tracker import SharedTracker, Tracker, tracker_of
from tests.unit.test_tracker_properties import InMemory, histories, manifest_records, placed
from tests.unit.tracking import Log, Placed, happy, shop, uuid

TOPICS = ["t.orders", "t.stock", "t.pay", "t.mail", "t.ship", STEPS_TOPIC, MANIFESTS_TOPIC]
WITHIN_S = 20.0


class Quick:
    """A clock on which everything comes a hundred times as soon."""

    def now(self) -> float:
        return 0.0

    def elapsed(self) -> float:
        return 0.0

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s / 100)


def manifests() -> list[Record]:
    return [
        Record(
            MANIFESTS_TOPIC, service.name.encode(), {"ce_id": service.name},
            json.dumps(manifest(service)).encode(),
        )
        for service in shop()
    ]  # fmt: skip


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    broker = open_broker(tmp_path)
    await broker.ensure([Topic(name) for name in TOPICS])
    await broker.publish(manifests())
    yield broker
    await broker.close()


@pytest.fixture
async def views(tmp_path: Path) -> AsyncIterator[ViewStore]:
    views = open_views(tmp_path)
    yield views
    await views.close()


async def flows(views: ViewStore) -> dict[str, FlowSummary]:
    return {row.flow: row for row in await views.flows(FlowFilter())}


async def alone(broker: Broker) -> dict[str, FlowSummary]:
    """Give what one tracker makes of the log, read by its positions."""
    views = SqliteViewStore(":memory:")
    await Tracker(broker, views, Quick()).catch_up()
    found = await flows(views)
    await views.close()
    return found


class Running:
    """Trackers at work; each ends with the block."""

    def __init__(self, *trackers: SharedTracker) -> None:
        self.trackers = trackers

    async def __aenter__(self) -> Self:
        self.tasks = [asyncio.create_task(tracker.run()) for tracker in self.trackers]
        return self

    async def until(self, true: Callable[[], Any]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not await true():
                for task in self.tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.005)

    async def __aexit__(self, *_: object) -> None:
        for tracker in self.trackers:
            tracker.stop()
        await asyncio.gather(*self.tasks)


# ── the views do not depend on who read what, and when ───────────────────────────────────


@st.composite
def shares(draw: st.DrawFn) -> tuple[list[Record], list[tuple[int, list[Record]]]]:
    """Draw a log, and who writes which records of it: shuffled, split, some of them twice.

    Manifests come in the order of their partition, each with whatever else.
    """
    chance = draw(st.randoms(use_true_random=False))
    events = draw(histories)
    poor = manifest_records(rich=False) if draw(st.booleans()) else []
    declared = [*poor, *manifest_records(rich=True)]
    log = [*events]
    places = sorted(chance.choices(range(len(events) + 1), k=len(declared)), reverse=True)
    for place, record in zip(places, reversed(declared), strict=True):
        log.insert(place, record)
    placed(log)
    rest = [*events, *chance.sample(events, len(events) // 2)]
    chance.shuffle(rest)
    batches: list[tuple[int, list[Record]]] = []
    while rest or declared:
        size = chance.choice([1, 1, 2, 5])
        batch, rest = rest[:size], rest[size:]
        if declared and (not rest or chance.random() < 0.5):
            count = chance.choice([1, 2, len(declared)])
            batch += declared[:count]
            declared = declared[count:]
        chance.shuffle(batch)
        batches.append((chance.randrange(3), batch))
    return log, batches


async def write(tracker: SharedTracker, batch: Sequence[Record]) -> None:
    async with tracker._writing:
        await tracker._write(batch)


async def assert_same_views(
    many: ViewStore, log: list[Record], batches: list[tuple[int, list[Record]]]
) -> None:
    """Let three trackers write batches into empty views; compare with what one makes of the log."""
    one = SqliteViewStore(":memory:")
    await Tracker(InMemory(log, 1000), one, Quick()).catch_up()  # type: ignore[arg-type]
    trackers = [SharedTracker(None, many, Quick()) for _ in range(3)]  # type: ignore[arg-type]
    for number, batch in batches:
        try:
            await write(trackers[number], batch)
        except StoreConflictError:
            await trackers[number]._load()
            await write(trackers[number], batch)
    wanted, found = await flows(one), await flows(many)
    assert found == wanted
    for flow in wanted:
        assert sorted(await many.facts(flow)) == sorted(await one.facts(flow))
    await one.close()
    await many.close()


@settings(max_examples=40, deadline=None)
@given(shares())
def test_any_split_order_and_repetition_gives_the_same_views(
    drawn: tuple[list[Record], list[tuple[int, list[Record]]]],
) -> None:
    asyncio.run(assert_same_views(SqliteViewStore(":memory:"), *drawn))


# ── on a log ─────────────────────────────────────────────────────────────────────────────


def test_the_log_decides_which_tracker_it_is(broker: Broker, views: ViewStore) -> None:
    assert isinstance(tracker_of(broker, views, Quick()), Tracker)


async def test_several_share_the_work(broker: Broker, views: ViewStore) -> None:
    trackers = [SharedTracker(broker, views, Quick()) for _ in range(2)]
    async with Running(*trackers) as running:
        for number in range(1, 200, 6):
            log = happy(Log(flow=number)) if number == 1 else Log(flow=number)
            log.event(number, Placed)
            for record in log.records:
                record.key = str(number).encode()
            await broker.publish(log.records)

        async def written() -> bool:
            return await flows(views) == await alone(broker)

        await running.until(written)
    assert len(await flows(views)) == 34
    facts = [fact for flow in await flows(views) for fact in await views.facts(flow)]
    assert len(facts) == len(set(facts)) == 34 + 6


async def test_a_topic_that_comes_later_is_read_too(broker: Broker, views: ViewStore) -> None:
    async with Running(SharedTracker(broker, views, Quick())) as running:
        await broker.publish([Record("t.orders", b"k", {"ce_id": "first"}, b"{}")])

        async def seen() -> bool:
            return set(await flows(views)) >= {"first"}

        await running.until(seen)
        await broker.ensure([Topic("others.topic")])
        await broker.publish([Record("others.topic", b"k", {"ce_correlationid": "second"}, b"")])

        async def both_seen() -> bool:
            return set(await flows(views)) == {"first", "second"}

        await running.until(both_seen)


async def test_it_waits_while_there_is_no_topic(tmp_path: Path) -> None:
    broker, views = open_broker(tmp_path / "bare"), SqliteViewStore(":memory:")
    async with Running(SharedTracker(broker, views, Quick())) as running:
        await broker.ensure([Topic("t.late")])
        await broker.publish([Record("t.late", b"k", {"ce_id": "one"}, b"{}")])

        async def seen() -> bool:
            return set(await flows(views)) == {"one"}

        await running.until(seen)
    await views.close()
    await broker.close()


async def test_views_that_were_lost_are_filled_again(broker: Broker, tmp_path: Path) -> None:
    """The group has read it all; what the views lack they get all the same."""
    await broker.publish(happy(Log()).records)
    for _ in range(2):
        views = SqliteViewStore(":memory:")

        async def done(views: ViewStore = views) -> bool:
            return [row.status for row in (await flows(views)).values()] == ["completed"]

        async with Running(SharedTracker(broker, views, Quick())) as running:
            await running.until(done)
        await views.close()


async def test_views_that_are_emptied_meanwhile_are_filled_again(
    broker: Broker, views: ViewStore
) -> None:
    await broker.publish(happy(Log()).records)

    async def done() -> bool:
        return [row.status for row in (await flows(views)).values()] == ["completed"]

    async with Running(SharedTracker(broker, views, Quick())) as running:
        await running.until(done)
        number, last, _ = await views.position()
        nothing = SharedTracker(broker, views, Quick())._feed.summary
        await views.apply(ViewBatch(number, number + 1, last, nothing, ends=(), reset=True))
        assert not await done()
        await running.until(done)


async def test_views_of_another_log_are_made_anew(broker: Broker, tmp_path: Path) -> None:
    views = SqliteViewStore(":memory:")
    log = Log(flow=3)
    for number in range(40):
        log.event(number + 3, Placed)
    await broker.publish(log.records)
    await SharedTracker(broker, views, Quick()).catch_up()
    other = open_broker(tmp_path / "other")
    await other.ensure([Topic(name) for name in TOPICS])
    await other.publish([*manifests(), *happy(Log()).records])
    await SharedTracker(other, views, Quick()).catch_up()
    assert await flows(views) == await alone(other)
    for kind in (Tracker, SharedTracker, Tracker):  # each finds what the other has left
        await kind(other, views, Quick()).catch_up()
        assert await flows(views) == await alone(other)
    await other.close()
    await views.close()


async def test_what_lies_before_is_read_once(broker: Broker, views: ViewStore) -> None:
    """Another one goes on from the marks; catching up needs no place in the group."""
    records = happy(Log()).records
    await broker.publish(records[:4])
    first = SharedTracker(broker, views, Quick())
    await first.catch_up()
    assert [row.status for row in (await flows(views)).values()] == ["running"]
    assert set(first.marks) == {Partition(name, n) for name in TOPICS for n in range(4)}
    await broker.publish(records[4:])
    second = SharedTracker(broker, views, Quick())
    await second.catch_up()
    assert second.marks == (await views.position()).marks
    assert await flows(views) == await alone(broker)


async def test_manifests_that_come_late_tell_old_flows_anew(
    views: ViewStore, tmp_path: Path
) -> None:
    broker = open_broker(tmp_path / "late")
    await broker.ensure([Topic(name) for name in TOPICS])
    for number in range(1, 600):
        log = Log(flow=number)
        log.event(number, Placed)
        await broker.publish(log.records)
    tracker, other = (SharedTracker(broker, views, Quick()) for _ in range(2))
    await tracker.catch_up()
    await other.catch_up()
    assert {row.name for row in (await flows(views)).values()} == {""}
    await broker.publish(manifests())
    await tracker.catch_up()
    assert {row.name for row in (await flows(views)).values()} == {"order"}
    log = Log(flow=700)
    log.event(700, Placed)
    await broker.publish(log.records)
    with pytest.raises(StoreConflictError):  # it has not heard of them
        await other._fill(None)
    await other.catch_up()
    assert (await flows(views))[uuid(700)].name == "order"
    await broker.close()


class Failing(SqliteViewStore):
    """Views that do not answer once, after they have written or before."""

    def __init__(self, path: str, *, after: bool) -> None:
        super().__init__(path)
        self.after = after
        self.failures = 1

    async def apply(self, batch: ViewBatch) -> int:
        fails = bool(self.failures and batch.facts)
        if fails and not self.after:
            self.failures -= 1
            raise StoreUnavailableError("no answer")
        left = await super().apply(batch)
        if fails:
            self.failures -= 1
            raise StoreUnavailableError("no answer")
        return left


@pytest.mark.parametrize("after", [True, False])
async def test_what_was_written_or_not_is_written_once(
    broker: Broker,
    after: bool,  # noqa: FBT001 - drawn from the list
) -> None:
    views = Failing(":memory:", after=after)
    await broker.publish(happy(Log()).records)

    async def done() -> bool:
        return await flows(views) == await alone(broker)

    async with Running(SharedTracker(broker, views, Quick())) as running:
        await running.until(done)
    assert not views.failures
    assert len(await views.facts(uuid(1))) == 6
    await views.close()


async def test_marks_of_a_batch_are_what_follows(broker: Broker) -> None:
    """Of each partition the offset after the last of its records, in whatever order they stand."""
    log = placed([Record("t", b"k", {"ce_id": str(n)}, b"") for n in range(7)])

    async def marks(records: Sequence[Record]) -> dict[Partition, int]:
        views = SqliteViewStore(":memory:")
        await write(SharedTracker(broker, views, Quick()), records)
        found = (await views.position()).marks
        await views.close()
        return dict(found)

    wanted = {Partition("t", 0): 7, Partition("t", 1): 8, Partition("t", 2): 6}
    assert await marks(log) == await marks(log[::-1]) == wanted

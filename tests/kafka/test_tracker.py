"""The tracker on a real Kafka: several share it, and what others publish shows up."""

import asyncio
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from choreo.adapters.kafka import KafkaBroker, KafkaSettings
from choreo.adapters.sqlite.views import SqliteViewStore
from choreo.app import system_clock
from choreo.events import MANIFESTS_TOPIC, STEPS_TOPIC
from choreo.ports import Broker, FlowFilter, FlowSummary, Topic, ViewStore
from choreo.testing.servers import KafkaServer, absent
from choreo.tracker import SharedTracker, tracker_of, view_of
from tests.house.source import ROOT
from tests.kafka.settings import member
from tests.kafka.tracker import views_at
from tests.postgres.database import database
from tests.processes.test_trackers import flow_of
from tests.unit.test_tracker_shared import Quick, manifests

TOPICS = ["t.orders", "t.stock", "t.pay", "t.mail", "t.ship", STEPS_TOPIC, MANIFESTS_TOPIC]
FLOWS = 600
LOOK_S = 0.1
WITHIN_S = 60.0


@pytest.fixture
def settings(kafka_server: KafkaServer) -> KafkaSettings:
    return member(kafka_server.bootstrap)


@pytest.fixture
async def broker(settings: KafkaSettings) -> AsyncIterator[Broker]:
    broker = KafkaBroker(settings)
    await broker.ensure([Topic(name) for name in TOPICS])
    await broker.publish(manifests())
    yield broker
    await broker.close()


async def rows(views: ViewStore) -> dict[str, FlowSummary]:
    return {row.flow: row for row in await views.flows(FlowFilter())}


async def until(true: Callable[[], Awaitable[object]]) -> None:
    clock = system_clock()
    for _ in range(int(WITHIN_S / LOOK_S)):
        if await true():
            return
        await clock.sleep(LOOK_S)
    raise AssertionError("it did not come true")


# ── several ──────────────────────────────────────────────────────────────────────────────


class Trackers:
    """Processes on one cluster and the same views."""

    def __init__(self, *arguments: str) -> None:
        self.arguments = arguments
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.kafka.tracker", *self.arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
        )
        self.running.append(process)
        return process

    def end(self) -> None:
        for process in self.running:
            process.kill()
            process.wait()


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield str(tmp_path / "views.db")
    else:
        with database() as url:
            yield url


async def test_one_that_is_killed_loses_and_double_counts_nothing(
    settings: KafkaSettings, broker: Broker, place: str
) -> None:
    views, alone = views_at(place), SqliteViewStore(":memory:")
    trackers = Trackers(settings.bootstrap_servers, settings.namespace, place)
    try:
        first = trackers.start()
        await until(lambda: standing_has_marks(views))
        trackers.start()
        for number in range(0, FLOWS, 10):
            await broker.publish([one for n in range(number, number + 10) for one in flow_of(n)])
            if number == FLOWS // 2:
                first.kill()
        await SharedTracker(broker, alone, Quick()).catch_up()
        wanted = await rows(alone)
        assert len(wanted) == FLOWS

        async def written() -> bool:
            return await rows(views) == wanted

        await until(written)
        facts = [fact for flow in wanted for fact in await views.facts(flow)]
        assert len(facts) == len(set(facts)) == FLOWS * 6
        assert {row.status for row in wanted.values()} == {"completed"}
    finally:
        trackers.end()
        await views.close()
        await alone.close()


async def standing_has_marks(views: ViewStore) -> bool:
    return bool((await views.position()).marks)


async def test_two_have_read_all_of_it(broker: Broker, settings: KafkaSettings) -> None:
    """Whoever had which partition: what is to be read next is where each of them ends."""
    views, brokers = SqliteViewStore(":memory:"), [KafkaBroker(settings) for _ in range(2)]
    trackers = [SharedTracker(one, views, system_clock()) for one in brokers]
    tasks = [asyncio.create_task(tracker.run()) for tracker in trackers]
    try:
        await broker.publish([one for n in range(50) for one in flow_of(n)])
        ends = {place: end for place, end in (await broker.ends(None)).items() if end}

        async def all_read() -> bool:
            return (await views.position()).marks == ends

        await until(all_read)
    finally:
        for tracker in trackers:
            tracker.stop()
        await asyncio.gather(*tasks)
        for one in brokers:
            await one.close()
    assert (await views.position()).marks == ends  # whoever left has taken none of it back
    assert [row.status for row in (await rows(views)).values()] == ["completed"] * 50
    await views.close()


# ── others ───────────────────────────────────────────────────────────────────────────────


def command(page: str, tool: str, server: str, topic: str) -> list[str]:
    """Give a command as the page shows it, for this server and topic."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.search(rf"^(?:echo '(?P<said>.*)' \| )?(?P<line>{tool}.*)$", text, re.MULTILINE)
    assert found is not None
    return [
        server if word == "localhost:9092" else topic if word.startswith("shop.") else word
        for word in shlex.split(found["line"])
    ]


async def ran(words: list[str], said: bytes = b"") -> str:
    process = await asyncio.create_subprocess_exec(
        *words, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate(said)
    assert process.returncode == 0
    return out.decode()


async def test_a_producer_that_knows_nothing_of_choreo_shows_up(
    kafka_server: KafkaServer, broker: Broker, settings: KafkaSettings
) -> None:
    """The commands of the page, with kcat; on a topic that came after the tracker had begun."""
    if shutil.which("kcat") is None:
        raise absent("kcat", "install the package kcat")
    page = "docs/how-to/use-other-tools.md"
    views = SqliteViewStore(":memory:")
    tracker = tracker_of(broker, views, Quick())
    assert isinstance(tracker, SharedTracker)
    running = asyncio.create_task(tracker.run())
    await until(lambda: standing_has_marks(views))
    await broker.ensure([Topic("t.terminals", 2)])
    topic = f"{settings.namespace}t.terminals"
    write = command(page, "kcat -P", kafka_server.bootstrap, topic)
    assert "ce_correlationid=basket-17" in write
    await ran(write, b'{"order_id":"o-1"}\n')

    async def seen() -> bool:
        return "basket-17" in await rows(views)

    await until(seen)
    view = await view_of(views, "basket-17")
    assert view is not None
    (event,) = view.events
    assert (event.id, event.source, event.type, event.topic) == (
        "pay-1", "terminal", "shop.payments.PaymentCaptured", "t.terminals",
    )  # fmt: skip
    read = await ran(command(page, "kcat -C", kafka_server.bootstrap, topic))
    assert f"{topic} {event.partition} 0 o-1 ce_specversion=1.0,ce_id=pay-1" in read
    assert read.rstrip().endswith('{"order_id":"o-1"}')
    tracker.stop()
    await running
    await views.close()

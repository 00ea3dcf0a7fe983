"""Trackers in processes share a log: one that is killed loses nothing, and counts nothing twice."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from choreo.adapters.sqlite.views import SqliteViewStore
from choreo.app import open_broker, open_views, system_clock
from choreo.events import MANIFESTS_TOPIC, STEPS_TOPIC, Record
from choreo.ports import FlowFilter, FlowSummary, Topic, ViewStore
from choreo.tracker import GROUP, Tracker
from tests.unit.test_tracker_shared import manifests
from tests.unit.tracking import Log, happy, uuid

ROOT = Path(__file__).resolve().parents[2]
TOPICS = ["t.orders", "t.stock", "t.pay", "t.mail", "t.ship", STEPS_TOPIC, MANIFESTS_TOPIC]
FLOWS = 1500
LOOK_S = 0.05
WITHIN_S = 40.0


class Trackers:
    """Processes on one log and one file of views."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.processes.tracker", str(self.folder)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
        )
        self.running.append(process)
        return process

    def holders(self) -> set[int]:
        """Give the processes that have partitions."""
        with closing(sqlite3.connect(self.folder / "choreo.db", timeout=10)) as db:
            rows = db.execute(
                "SELECT holder FROM assignment JOIN member ON member.id = member"
                " WHERE assignment.grp = ?", (GROUP,)
            ).fetchall()  # fmt: skip
        return {int(holder.partition(" ")[0]) for (holder,) in rows}

    def end(self) -> None:
        for process in self.running:
            process.kill()
            process.wait()


@pytest.fixture
def trackers(tmp_path: Path) -> Iterator[Trackers]:
    found = Trackers(tmp_path)
    yield found
    found.end()


def flow_of(number: int) -> list[Record]:
    """Give an order that goes well, with ids and keys of its own."""
    log = happy(Log())
    for record in log.records:
        for name, text in record.headers.items():
            for one in range(1, 7):
                if text == uuid(one):
                    record.headers[name] = uuid(number * 10 + one)
        record.key = str(number).encode()
    return log.records


async def rows(views: ViewStore) -> dict[str, FlowSummary]:
    return {row.flow: row for row in await views.flows(FlowFilter())}


@pytest.mark.timeout(120)
async def test_one_that_is_killed_loses_and_double_counts_nothing(
    tmp_path: Path, trackers: Trackers
) -> None:
    clock = system_clock()
    broker, views = open_broker(tmp_path), open_views(tmp_path)
    await broker.ensure([Topic(name) for name in TOPICS])
    await broker.publish(manifests())
    first, second = trackers.start(), trackers.start()

    async def until_shared_by(*processes: subprocess.Popen[bytes]) -> None:
        for _ in range(int(WITHIN_S / LOOK_S)):
            if trackers.holders() == {one.pid for one in processes}:
                return
            await clock.sleep(LOOK_S)
        raise AssertionError(trackers.holders())

    await until_shared_by(first, second)
    for number in range(FLOWS):
        await broker.publish(flow_of(number))
        if number == FLOWS // 2:
            first.kill()
    await until_shared_by(second)
    alone = SqliteViewStore(":memory:")
    await Tracker(broker, alone, clock).catch_up()
    wanted = await rows(alone)
    for _ in range(int(WITHIN_S / LOOK_S)):
        if await rows(views) == wanted:
            break
        await clock.sleep(LOOK_S)
    assert await rows(views) == wanted
    assert {row.status for row in wanted.values()} == {"completed"}
    with closing(sqlite3.connect(tmp_path / "views.db")) as db:
        assert db.execute("SELECT count(*) FROM fact").fetchone() == (FLOWS * 6,)
    assert second.poll() is None
    for store in (alone, views, broker):
        await store.close()

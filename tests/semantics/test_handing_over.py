"""Partitions that move while something runs in them: between two apps on one file."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from choreo import After, App, Event, Service
from choreo.adapters.sqlite import members
from choreo.worker import Limits
from tests.semantics.lab import Unminded

KEYS = "abcdefgh"
WITHIN_S = 30
LATER_S = 60
BRIEF = Limits(revoke_s=0.2, drain_s=0.2, commit_every_s=0.05)


class Put(Event, topic="belt.put", key="key"):
    key: str
    n: int = 0


class Taken(Event, topic="belt.taken", key="key"):
    key: str
    n: int


class Belt:
    """A service whose handler waits with what is numbered 0 until it may go on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = 0
        self.may = asyncio.Event()
        self.service = Service("belt")

        @self.service.on(Put)
        async def take(put: Put) -> Taken:
            self.runs += 1
            if put.n == 0:
                await self.may.wait()
            return Taken(key=put.key, n=put.n)

    def open(self, limits: Limits) -> App:
        return App(self.service, folder=self.folder, limits=limits)


def ask(folder: Path, sql: str) -> list[tuple[int, ...]]:
    with closing(sqlite3.connect(folder / "choreo.db", timeout=10)) as db:
        return db.execute(sql).fetchall()


def taken(folder: Path) -> int:
    """Count what was taken."""
    sql = "SELECT 1 FROM log JOIN topic ON topic.id = log.topic WHERE name = 'belt.taken'"
    return len(ask(folder, sql))


def shares(folder: Path) -> list[int]:
    """Give how many partitions each member has."""
    ours = "topic = 'belt.put' AND member <> 0"
    sql = f"SELECT count(*) FROM assignment WHERE {ours} GROUP BY member"
    return [count for (count,) in ask(folder, sql)]


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not true():  # noqa: ASYNC110 - it is a file
            await asyncio.sleep(0.02)


async def test_a_row_that_was_left_to_another_and_came_back_runs_once_ours_has_ended(
    tmp_path: Path,
) -> None:
    first, second = Belt(tmp_path), Belt(tmp_path)
    limits = Limits(spill_s=0.1, revoke_s=0.2, drain_s=0.2)
    async with first.open(limits) as app:
        for key in KEYS:
            await app.publish(Put(key=key))
        await until(lambda: ask(tmp_path, "SELECT count(*) FROM inbox") == [(len(KEYS),)])
        async with second.open(limits):
            await until(lambda: second.runs)
        await until(lambda: shares(tmp_path) == [4])
        first.may.set()  # of some of these the store has a later epoch by now
        await until(lambda: taken(tmp_path) == len(KEYS))
    assert first.runs > len(KEYS)


async def test_what_ends_after_its_partition_has_gone_holds_up_no_other_offset(
    tmp_path: Path,
) -> None:
    first, second = Belt(tmp_path), Belt(tmp_path)
    second.may.set()
    async with first.open(BRIEF) as app:
        await asyncio.gather(*(app.publish(Put(key=key)) for key in KEYS))  # polled as one
        await until(lambda: first.runs == len(KEYS))
        async with second.open(BRIEF):
            await until(lambda: taken(tmp_path) == second.runs > 0)
            first.may.set()
            await until(lambda: taken(tmp_path) == len(KEYS))
            await until(lambda: ask(tmp_path, BEHIND) == [(0,)])


async def test_chains_are_held_for_as_long_as_something_is_parked_in_them_however_they_came(
    tmp_path: Path,
) -> None:
    """What is parked goes from one to the other, beside what that one has parked itself."""
    first, second = Belt(tmp_path), Belt(tmp_path)
    limits = Limits(spill_s=0.1, revoke_s=0.2, drain_s=0.2)
    async with first.open(limits) as app, second.open(limits) as other:
        await until(lambda: shares(tmp_path) == [2, 2])
        for key in KEYS:
            await app.publish(Put(key=key))
        await until(lambda: ask(tmp_path, "SELECT count(*) FROM inbox") == [(len(KEYS),)])
        await app.stop()
        await until(lambda: shares(tmp_path) == [4])
        second.may.set()
        await until(lambda: taken(tmp_path) == len(KEYS))
        ask(tmp_path, "CREATE TABLE waited (who)")
        ask(tmp_path, NOTE_WHO_WAITS)
        for key in KEYS:
            await other.publish(Put(key=key, n=1))
        await until(lambda: taken(tmp_path) == 2 * len(KEYS))
    assert not ask(tmp_path, "SELECT who FROM waited"), "there was nothing to wait for"


class Posted(Event, topic="belt.posted", key="key"):
    key: str


@pytest.mark.parametrize("beside", [False, True])
async def test_a_timer_from_a_topic_that_nobody_reads_any_more_fires(
    tmp_path: Path, *, beside: bool
) -> None:
    """Whoever read it has left in good order, beside another one or before it came."""
    former, present = Service("belt"), Service("belt")

    @former.on(Posted, name="later")
    async def later(posted: Posted) -> After[Taken]:
        return After[Taken](Taken(key=posted.key, n=0), after_s=LATER_S)

    @present.on(Put, name="later")
    async def as_well(put: Put) -> After[Taken]:
        return After[Taken](Taken(key=put.key, n=put.n), after_s=LATER_S)

    clock = Unminded()
    async with App(former, folder=tmp_path, clock=clock) as app:
        await app.publish(Posted(key="a"))
        await until(lambda: ask(tmp_path, "SELECT 1 FROM timer"))
        if beside:
            async with App(present, folder=tmp_path, clock=clock):
                await until(lambda: shares(tmp_path) == [4])
                await app.stop()
                await clock.advance(LATER_S)
                await until(lambda: taken(tmp_path))
    async with App(present, folder=tmp_path, clock=clock):
        await clock.advance(LATER_S)
        await until(lambda: taken(tmp_path))


NOTE_WHO_WAITS = (
    "CREATE TRIGGER waits AFTER INSERT ON inbox WHEN NEW.status = 1"
    " BEGIN INSERT INTO waited VALUES (NEW.subject); END"
)
BEHIND = (
    "SELECT count(*) FROM position JOIN topic ON topic.name = position.topic"
    " JOIN log ON log.topic = topic.id AND log.partition = position.partition"
    " WHERE grp = 'belt' AND log.position >= offset"
)


async def test_who_is_given_up_while_it_joins_joins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stood still between its two first looks at the group, for longer than its lease."""
    really = members.joined
    given_up: list[int] = []

    def joined(connection: sqlite3.Connection, group: str, topics: list[str], now: float) -> int:
        me = really(connection, group, topics, now)
        if not given_up:
            given_up.append(me)
            connection.execute("DELETE FROM member WHERE id = ?", (me,))
        return me

    monkeypatch.setattr(members, "joined", joined)
    belt = Belt(tmp_path)
    belt.may.set()
    async with belt.open(BRIEF) as app:
        await app.publish(Put(key="a"))
        await until(lambda: taken(tmp_path) == 1)
    assert given_up

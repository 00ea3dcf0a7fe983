"""Closed at a bad moment: whoever has asked for something gets an answer, and nothing is left."""

import asyncio
import gc
import sqlite3
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from choreo.adapters.sqlite import Database, Log, SqliteBroker, SqliteStore
from choreo.adapters.sqlite import database as module
from choreo.adapters.sqlite.database import TakenBackError, retried, translated
from choreo.errors import BrokerClosedError, StoreError, StoreUnavailableError
from choreo.events import Partition, Record
from choreo.plan import Change, Plan
from choreo.ports import Applied, Seen, Topic, Tx
from choreo.testing import ManualClock
from choreo.testing.contracts.place import TOPIC, publish, settle, want
from tests.waiting import ANSWER_S, answered

ORDERS = Topic("orders", 1)


class Door:
    """A function for one of the file's threads: it says that it is there, and waits."""

    def __init__(self) -> None:
        self._reached, self._open = threading.Event(), threading.Event()

    def __call__(self, _: sqlite3.Connection | None = None) -> None:
        self._reached.set()
        self._open.wait()

    async def reached(self) -> None:
        await asyncio.to_thread(self._reached.wait)

    def open(self) -> None:
        self._open.set()


def takes_all_back(_: sqlite3.Connection) -> None:
    raise TakenBackError("taken back with the step of another", fix="wait")


def order() -> Record:
    return Record("orders", b"1", {}, b"{}")


def threads(before: Collection[threading.Thread]) -> list[str]:
    found = [one.name for one in threading.enumerate() if one not in before]
    return sorted(name for name in found if name.startswith("choreo-sqlite-"))


# ── writing ──────────────────────────────────────────────────────────────────────────────


async def test_what_is_to_be_written_again_is_written_before_the_end(tmp_path: Path) -> None:
    database = Database(tmp_path / "choreo.db")
    database.hold()
    door = Door()
    first = asyncio.create_task(database.write(door))
    await door.reached()
    second = asyncio.create_task(database.write(lambda _: "written"))
    third = asyncio.create_task(database.write(takes_all_back))
    await asyncio.sleep(0)
    database._queue.put(None)  # the end: in one group with what is written then
    door.open()
    assert await answered(second) is None
    assert second.result() == "written"
    assert isinstance(await answered(third), TakenBackError)
    await first
    await database.close()


async def test_what_takes_all_back_whenever_it_is_written_is_told_and_holds_up_no_end(
    tmp_path: Path,
) -> None:
    database = Database(tmp_path / "choreo.db")
    database.hold()
    writing = [asyncio.create_task(database.write(takes_all_back)) for _ in range(3)]
    for one in writing:
        assert isinstance(await answered(one), TakenBackError)
    assert await answered(asyncio.create_task(database.close())) is None


async def test_a_read_of_memory_beside_what_can_not_be_written_is_answered() -> None:
    database = Database(":memory:")
    database.hold()
    door = Door()
    first = asyncio.create_task(database.write(door))
    await door.reached()

    def refused(_: sqlite3.Connection) -> None:
        raise StoreUnavailableError("the disk is full", fix="free it")

    second = asyncio.create_task(database.write(refused))
    third = asyncio.create_task(database.read(lambda _: "read"))
    await asyncio.sleep(0)
    door.open()
    assert isinstance(await answered(second), StoreUnavailableError)
    assert isinstance(await answered(third), StoreUnavailableError)
    await first
    await database.close()


async def test_a_log_that_is_damaged_is_told_to_whoever_waits_for_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, beside = (Log(Database(tmp_path / "choreo.db")) for _ in range(2))
    broker, other = SqliteBroker(log), SqliteBroker(beside)
    await broker.ensure([ORDERS])
    await broker.publish([order()])
    reading = aiter(broker.read(["orders"], follow=True))
    await anext(reading)
    member = await broker.subscribe("desk", ["orders"])
    await member.poll(10)
    waiting = [asyncio.ensure_future(one) for one in (anext(reading), member.poll(10))]

    def damaged(*_: object, **__: object) -> None:
        raise StoreError("the file is damaged", code="CH4003", fix="restore it")

    monkeypatch.setattr(log, "scan", damaged)
    await other.publish([order()])
    for one in waiting:
        assert "CH4003" in str(await answered(one))
    await broker.close()
    await other.close()


async def test_sections_for_which_there_was_no_time_are_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(Database(tmp_path / "choreo.db"))
    now = [0.0]
    monkeypatch.setattr(log.database, "seconds", lambda: now[0])
    store, broker = SqliteStore(log, clock=ManualClock()), SqliteBroker(log)
    await broker.ensure([TOPIC])
    door = Door()

    async def first(tx: Tx, seen: Seen) -> Sequence[Change]:
        del tx, seen
        door()
        now[0] = 1.0  # the transaction has taken long enough
        return settle(1), publish("1")

    async def second(tx: Tx, seen: Seen) -> Sequence[Change]:
        del tx, seen
        return settle(2), publish("2")

    plans = [Plan(None, (), first, want(1)), Plan(None, (), second, want(2))]
    applying = asyncio.create_task(store.apply(plans))
    await door.reached()
    closing = asyncio.gather(store.close(), broker.close())
    await asyncio.sleep(0)
    assert log.database.closed
    door.open()
    assert await answered(applying) is None
    done, left = applying.result()
    assert done is Applied.DONE
    assert isinstance(left, BrokerClosedError)
    await closing


async def test_a_publish_that_was_cancelled_does_not_keep_others_from_an_answer(
    tmp_path: Path,
) -> None:
    broker = SqliteBroker(Log(Database(tmp_path / "choreo.db")))
    await broker.ensure([ORDERS])
    first = asyncio.create_task(broker.publish([order()]))
    second = asyncio.create_task(broker.publish([order()]))
    await asyncio.sleep(0)  # both have asked; the loop is still to hand it over
    first.cancel()
    await broker.close()
    assert isinstance(await answered(second), BrokerClosedError)
    assert first.cancelled()


# ── following ────────────────────────────────────────────────────────────────────────────


async def test_a_member_after_a_cancelled_one_hears_of_records(tmp_path: Path) -> None:
    log = Log(Database(tmp_path / "choreo.db"))
    broker = SqliteBroker(log)
    await broker.ensure([ORDERS])
    elsewhere = SqliteBroker(Log(Database(tmp_path / "choreo.db")))
    door = Door()
    blocking = asyncio.create_task(log.database.read(door))
    await door.reached()
    first = asyncio.create_task(broker.subscribe("desk", ["orders"]))
    await asyncio.sleep(0)  # it asks where the log ends
    first.cancel()
    assert isinstance(await answered(first), asyncio.CancelledError)
    door.open()
    await blocking
    subscription = await broker.subscribe("desk", ["orders"])
    await elsewhere.publish([order()])
    polling = asyncio.create_task(subscription.poll(10))
    assert await answered(polling) is None
    assert [one.offset for one in polling.result()] == [1]
    await elsewhere.close()
    await broker.close()


async def test_what_is_appended_while_a_member_begins_is_not_overlooked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(Database(tmp_path / "choreo.db"))
    broker = SqliteBroker(log)
    await broker.ensure([ORDERS])
    told: list[Callable[[], object]] = []
    come = threading.Semaphore(0)

    def kept(fn: Callable[[], object]) -> None:
        told.append(fn)
        come.release()

    with monkeypatch.context() as patch:
        patch.setattr(log.database, "_hand_over", kept)
        subscribing = asyncio.create_task(broker.subscribe("desk", ["orders"]))
        await asyncio.to_thread(come.acquire)  # where the log ends
        publishing = asyncio.create_task(broker.publish([order()]))
        await asyncio.to_thread(come.acquire)  # it has one more record by now
    for fn in told:
        fn()
    await publishing
    polling = asyncio.create_task((await subscribing).poll(10))
    assert await answered(polling) is None
    assert [one.offset for one in polling.result()] == [1]
    await broker.close()


async def test_a_broker_closed_while_its_first_member_begins(tmp_path: Path) -> None:
    before = threading.enumerate()
    log = Log(Database(tmp_path / "choreo.db"))
    broker, store = SqliteBroker(log), SqliteStore(log, clock=ManualClock())
    await broker.ensure([ORDERS])
    door = Door()
    blocking = asyncio.create_task(log.database.read(door))
    await door.reached()
    subscribing = asyncio.create_task(broker.subscribe("desk", ["orders"]))
    await asyncio.sleep(0)  # it asks where the log ends
    await broker.close()  # the store goes on
    door.open()
    assert isinstance(await answered(subscribing), BrokerClosedError)
    await blocking
    assert threads(before) == ["choreo-sqlite-reader", "choreo-sqlite-writer"]
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await store.close()


async def test_a_broker_closed_while_a_member_joins_leaves_none(tmp_path: Path) -> None:
    log = Log(Database(tmp_path / "choreo.db"))
    broker, store = SqliteBroker(log), SqliteStore(log, clock=ManualClock())
    await broker.ensure([ORDERS])
    await (await broker.subscribe("other", ["orders"])).close()
    door = Door()
    blocking = asyncio.create_task(log.database.write(door))
    await door.reached()
    subscribing = asyncio.create_task(broker.subscribe("desk", ["orders"]))
    while log.database._queue.empty():  # noqa: ASYNC110 - until it asks to be a member
        await asyncio.sleep(0)
    await broker.close()  # the store goes on
    door.open()
    assert isinstance(await answered(subscribing), BrokerClosedError)
    await blocking
    members = await log.database.read(lambda c: c.execute("SELECT * FROM member").fetchall())
    assert members == []
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await store.close()


async def test_who_looks_after_the_log_was_lost_is_told(tmp_path: Path) -> None:
    file = tmp_path / "choreo.db"
    log = Log(Database(file))
    broker = SqliteBroker(log)
    await broker.ensure([ORDERS])
    await broker.publish([order()])
    reading = aiter(broker.read(["orders"], follow=True))
    assert len(await anext(reading)) == 1
    file.rename(tmp_path / "moved.db")
    watcher = log._watcher
    assert watcher is not None
    await asyncio.to_thread(watcher.join)  # it has told, and ended
    await asyncio.sleep(0)
    with pytest.raises(StoreError, match="CH4009"):
        async with asyncio.timeout(ANSWER_S):
            await anext(reading)
    await broker.close()


# ── held up by others ────────────────────────────────────────────────────────────────────


class Raced(sqlite3.OperationalError):
    """What SQLite raises after ten seconds, when a process was stopped inside its locks."""

    sqlite_errorcode = sqlite3.SQLITE_PROTOCOL


@pytest.mark.parametrize("lost", [1, 2])
def test_who_has_lost_a_race_for_locks_has_one_more_try(
    monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    monkeypatch.setattr(module, "BUSY_MAX_S", -1.0)  # it took longer than others have
    tries: list[int] = []

    def ask() -> int:
        tries.append(1)
        if len(tries) <= lost:
            raise Raced("locking protocol")
        return len(tries)

    if lost == 1:
        assert retried(ask) == lost + 1
    else:
        with pytest.raises(StoreUnavailableError, match="CH4001"), translated("choreo.db"):
            retried(ask)


async def test_offsets_that_could_not_be_committed_are_committed_by_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "choreo.db"
    broker = SqliteBroker(Log(Database(path)))
    await broker.ensure([ORDERS])
    await broker.publish([order()])
    subscription = await broker.subscribe("desk", ["orders"])
    (record,) = await subscription.poll(records_max=10)
    offsets = {Partition("orders", 0): record.offset + 1}
    monkeypatch.setattr(module, "BUSY_MAX_S", 0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError):
            await subscription.commit(offsets)
        other.execute("ROLLBACK")
        monkeypatch.setattr(module, "BUSY_MAX_S", 10.0)
        await subscription.commit(offsets)
        rows = other.execute("SELECT grp, offset FROM position").fetchall()
    assert rows == [("desk", record.offset + 1)]
    await broker.close()


# ── opening ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("which", ["writer", "reader"])
async def test_a_thread_that_can_not_be_had_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    start = threading.Thread.start

    def refused(thread: threading.Thread) -> None:
        if thread.name == f"choreo-sqlite-{which}":
            raise RuntimeError("can't start new thread")
        start(thread)

    database = Database(tmp_path / "choreo.db")
    database.hold()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        for _ in range(2):
            opening = asyncio.create_task(database.open())
            assert isinstance(await answered(opening), RuntimeError)
    closing = asyncio.create_task(database.close())
    assert await answered(closing) is None


async def test_an_error_of_an_opening_that_nobody_waits_for_is_not_shouted(
    tmp_path: Path,
) -> None:
    shouted: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: shouted.append(context))
    door = Door()

    class Held(Database):
        def connect(self) -> sqlite3.Connection:
            door()
            raise sqlite3.OperationalError("no disk")

    database = Held(tmp_path / "choreo.db")
    database.hold()
    opening = asyncio.create_task(database.open())
    await door.reached()
    opening.cancel()
    assert isinstance(await answered(opening), asyncio.CancelledError)
    door.open()
    await database.close()
    del database, opening
    gc.collect()
    assert shouted == []

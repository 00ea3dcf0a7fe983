"""The view store: what it keeps, finds and lists, and what it says of files that are not well."""

import asyncio
import json
import os
import sqlite3
import stat
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from choreo.adapters.sqlite.viewrows import VERSION, packed, unpacked
from choreo.adapters.sqlite.views import SqliteViewStore
from choreo.errors import BrokerClosedError, StoreConflictError, StoreError
from choreo.events import Record, root_id
from choreo.ports import FlowFilter, ViewBatch
from choreo.tracker import take
from choreo.tracker.fold import summarize
from tests.unit.tracking import CATALOG, T0, Declined, Log, NoStock, Placed, Reserved, happy, uuid


@pytest.fixture
async def views(tmp_path: Path) -> AsyncIterator[SqliteViewStore]:
    store = SqliteViewStore(tmp_path / "below" / "views.db")
    yield store
    await store.close()


def batch_of(log: Log, since: int = 0) -> ViewBatch:
    taken = take(log.records, CATALOG)
    return ViewBatch(
        since, since + len(log.records), "last",
        lambda _, facts: summarize(facts, CATALOG),
        taken.facts, taken.flows, ends=tuple(CATALOG.ends),
    )  # fmt: skip


async def fill(views: SqliteViewStore) -> None:
    """Four flows: completed, retrying, compensating, running; each a minute after the last."""
    logs = [Log(flow=1, at=T0)]
    happy(logs[0])
    second = Log(flow=11, at=T0 + 60)
    second.event(11, Placed)
    second.note("stock.reserve", 11, "retrying", due=T0 + 99, error="Timeout", message="50% gone_")
    third = Log(flow=21, at=T0 + 120)
    third.event(21, Placed)
    third.event(22, Reserved, "stock.reserve", 21)
    third.event(23, Declined, "pay.capture", 22)
    fourth = Log(flow=31, at=T0 + 180)
    fourth.event(31, Placed)
    position = 0
    for number, log in enumerate([*logs, second, third, fourth], 1):
        for record in log.records:
            record.headers["ce_subject"] = f"A-{number}"
            record.offset += position
        await views.apply(batch_of(log, position))
        position += len(log.records)


async def listed(views: SqliteViewStore, which: FlowFilter) -> list[str]:
    return [row.flow for row in await views.flows(which)]


# ── lists ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("which", "flows"),
    [
        (FlowFilter(), [31, 21, 11, 1]),
        (FlowFilter(limit=2), [31, 21]),
        (FlowFilter(status=("completed",)), [1]),
        (FlowFilter(status=("completed", "retrying", "retrying")), [11, 1]),
        (FlowFilter(status=("failed",)), []),
        (FlowFilter(status=("no such",)), []),
        (FlowFilter(name="order"), [31, 21, 11, 1]),
        (FlowFilter(name="order", limit=1), [31]),
        (FlowFilter(name="other"), []),
        (FlowFilter(name="order", status=("running",)), [31]),
        (FlowFilter(since=T0 + 120), [31, 21]),
        (FlowFilter(search="A-3"), [21]),
        (FlowFilter(search=uuid(11)), [11]),
        (FlowFilter(search="00000000-0000-0000-0000-00000000001"), [31, 21]),
        (FlowFilter(search="00000000-0000-0000-0000-00000000002"), []),
        (FlowFilter(search="00000000-0000-0000-0000-0000000000"), [31, 21, 11, 1]),
        (FlowFilter(search="Shipped"), [1]),
        (FlowFilter(search="t.orders.Placed"), [31, 21, 11, 1]),
        (FlowFilter(search="mail"), [1]),
        (FlowFilter(search="timeout"), [11]),
        (FlowFilter(search="50% gone_"), [11]),
        (FlowFilter(search="50_ gone"), []),
        (FlowFilter(search="%"), [11]),
        (FlowFilter(search="'; DROP TABLE flow; --"), []),
        (FlowFilter(search="Reserved", status=("compensating",), name="order", since=T0), [21]),
    ],
)
async def test_flows_are_found(views: SqliteViewStore, which: FlowFilter, flows: list[int]) -> None:
    await fill(views)
    assert await listed(views, which) == [uuid(flow) for flow in flows]


async def test_lists_use_an_index(views: SqliteViewStore, tmp_path: Path) -> None:
    await fill(views)
    await views.close()

    def plan(where: str) -> str:
        with closing(sqlite3.connect(tmp_path / "below" / "views.db")) as connection:
            sql = f"EXPLAIN QUERY PLAN SELECT * FROM flow WHERE {where} ORDER BY started DESC"
            return " ".join(row[3] for row in connection.execute(sql))

    for where in ("1", "status = 1", "shape = 1 AND status = 1", "started >= 5"):
        shown = await asyncio.to_thread(plan, where)
        assert "INDEX" in shown, (where, shown)
        assert "TEMP B-TREE" not in shown, (where, shown)


async def test_a_flow_is_found_by_id_key_or_beginning(views: SqliteViewStore) -> None:
    await fill(views)
    assert await views.find(uuid(11)) == [uuid(11)]
    assert await views.find("A-2") == [uuid(11)]
    assert sorted(await views.find(uuid(11)[:-1])) == [uuid(1), uuid(11)]
    assert sorted(await views.find(uuid(21)[:-1].upper())) == [uuid(21), uuid(31)]
    assert len(await views.find("0000")) == 4
    assert await views.find("ffff") == []
    assert await views.find("") == []


async def test_ids_that_are_no_uuids_are_kept_as_they_are(views: SqliteViewStore) -> None:
    log = Log()
    for name in ("order 7", "0" * 36, "Ü-1", root_id(T0, bytes(10)).upper(), ""):
        log.add("t.x", {"ce_correlationid": name, "ce_id": name, "ce_time": "2026-01-01T00:00:00Z"})
    await views.apply(batch_of(log))
    found = set(await listed(views, FlowFilter()))
    assert found == {"order 7", "0" * 36, "Ü-1", root_id(T0, bytes(10)).upper()}
    assert await views.find("order") == ["order 7"]
    for name in found:
        (fact,) = await views.facts(name)
        assert fact.id == fact.flow == name


@pytest.mark.parametrize("text", ["", "x", "a" * 36, "-" * 36, uuid(5), uuid(5).replace("0", "A")])
def test_packing_an_id_loses_nothing(text: str) -> None:
    assert unpacked(packed(text)) == text


# ── writing ──────────────────────────────────────────────────────────────────────────────


async def test_facts_come_back_as_they_were(views: SqliteViewStore) -> None:
    log = happy(Log())
    log.note("pay.capture", 2, "retrying", attempt=2, due=T0 + 0.125, error="E", message="ü")
    log.event(9, NoStock, "stock.reserve", 1, undoes=uuid(3), branch="b", failure="1")
    await views.apply(batch_of(log))
    assert sorted(await views.facts(uuid(1))) == sorted(log.facts())
    assert await views.facts(uuid(99)) == []


async def test_the_same_facts_again_change_nothing(views: SqliteViewStore) -> None:
    log = happy(Log())
    batch = batch_of(log)
    await views.apply(batch)
    before = await views.flows(FlowFilter())
    await views.apply(replace(batch, since=6, position=12))
    assert await views.flows(FlowFilter()) == before
    assert len(await views.facts(uuid(1))) == 6


async def test_a_position_moves_only_from_where_it_stands(views: SqliteViewStore) -> None:
    assert await views.position() == (0, "", {})
    await views.apply(batch_of(happy(Log())))
    assert await views.position() == (6, "last", {})
    with pytest.raises(StoreConflictError):
        await views.apply(batch_of(happy(Log(flow=2))))
    assert await listed(views, FlowFilter()) == [uuid(1)]


async def test_a_batch_that_fails_leaves_nothing(views: SqliteViewStore) -> None:
    log = happy(Log())
    log.note("pay.capture", 2, "retrying", error="E", message="m")

    def fold(flow: str, facts: object) -> None:
        raise LookupError(flow)

    with pytest.raises(LookupError):
        await views.apply(replace(batch_of(log), fold=fold))  # type: ignore[arg-type]
    assert await views.position() == (0, "", {})
    assert await listed(views, FlowFilter()) == []
    await views.apply(batch_of(log))
    assert await listed(views, FlowFilter()) == [uuid(1)]


async def test_of_two_manifests_the_later_one_holds(views: SqliteViewStore) -> None:
    empty = batch_of(Log())
    for since, place, text in ((0, 5, "five"), (1, 9, "nine"), (2, 7, "seven")):
        found = (("shop", place, text),)
        await views.apply(replace(empty, since=since, position=since + 1, manifests=found))
    assert await views.manifests() == {"shop": "nine"}


async def test_views_are_emptied_in_one_transaction(views: SqliteViewStore) -> None:
    await fill(views)
    position = (await views.position()).position
    await views.apply(replace(batch_of(Log()), since=position, position=0, reset=True))
    assert await listed(views, FlowFilter()) == []
    assert await views.position() == (0, "last", {})
    await fill(views)
    assert len(await listed(views, FlowFilter())) == 4


def ten_events(number: int) -> list[Record]:
    """Give a flow of ten events and four silent steps, with ids as they are in production."""
    flow = root_id(T0 + number, number.to_bytes(10, "big"))
    log = happy(Log(at=T0 + number))
    for one in range(7, 11):
        log.event(one, Reserved, "stock.reserve", one - 1)
        log.note("mail.confirm", one, "done")
    for record in log.records:
        text = json.dumps(record.headers)
        for one in range(1, 12):
            text = text.replace(uuid(one), flow if one == 1 else f"{flow[:-2]}{one:02x}")
        record.headers = json.loads(text)
    return log.records


async def test_a_flow_takes_less_than_5_kb(tmp_path: Path) -> None:
    store = SqliteViewStore(tmp_path / "views.db")
    position = 0
    for chunk in range(20):
        records = [record for one in range(50) for record in ten_events(chunk * 50 + one)]
        for record in records:
            record.offset += position
        await store.apply(batch_of(Log(records=records), position))
        position += len(records)
    assert len(await store.flows(FlowFilter())) == 1000
    await store.close()
    size = await asyncio.to_thread((tmp_path / "views.db").stat)
    assert size.st_size < 5_000_000


# ── files ────────────────────────────────────────────────────────────────────────────────


async def refused(path: Path) -> StoreError:
    store = SqliteViewStore(path)
    try:
        with pytest.raises(StoreError) as caught:
            await store.apply(batch_of(happy(Log())))
        return caught.value
    finally:
        await store.close()


async def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "views.db").write_bytes(b"this is no database at all" * 100)
    error = await refused(tmp_path / "views.db")
    assert error.code == "CH4003"
    assert error.fix
    assert str(tmp_path) in str(error)
    assert (tmp_path / "views.db").read_bytes().startswith(b"this is no")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everything")
async def test_a_folder_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    await asyncio.to_thread(tmp_path.chmod, stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert (await refused(tmp_path / "views.db")).code == "CH4004"
    finally:
        await asyncio.to_thread(tmp_path.chmod, stat.S_IRWXU)


async def test_a_path_that_can_not_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "views.db").mkdir()
    assert (await refused(tmp_path / "views.db")).code == "CH4004"


async def test_views_of_an_older_version_are_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteViewStore(tmp_path / "views.db")
    await fill(store)
    await store.close()
    monkeypatch.setattr("choreo.adapters.sqlite.views.VERSION", VERSION + 1)
    store = SqliteViewStore(tmp_path / "views.db")
    assert await store.position() == (0, "", {})
    await store.close()


async def test_used_after_close_it_says_so(views: SqliteViewStore) -> None:
    await views.close()
    await views.close()
    with pytest.raises(BrokerClosedError):
        await views.position()


async def test_what_is_asked_while_another_writes_is_answered(tmp_path: Path) -> None:
    first, second = (SqliteViewStore(tmp_path / "views.db") for _ in range(2))
    await fill(first)
    assert len(await listed(second, FlowFilter())) == 4
    log = Log(flow=77, at=T0 + 999)
    log.event(77, Placed).headers["ce_type"] = "a.new.Word"
    position = (await first.position()).position
    await first.apply(batch_of(log, position))
    assert await listed(second, FlowFilter(search="new.Word")) == [uuid(77)]
    (fact,) = await second.facts(uuid(77))
    assert fact.type == "a.new.Word"
    await first.close()
    await second.close()

"""Power loss: whatever part of the write-ahead log the disk has kept, the shop goes on from it.

`CHOREO_TEST_EVERY_FRAME=1` cuts at every frame, without it at some sixty.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from choreo.adapters.sqlite import Database
from choreo.audit import audit
from choreo.testing import ManualClock
from services import invariants
from services.invariants import ENDS
from services.shipping.carrier import CarrierRefusedError
from tests.auditing import judged
from tests.services.power import HEADER, Acknowledged, Lost, noted, state_of
from tests.services.shop import Shop, placed

CUTS = None if os.environ.get("CHOREO_TEST_EVERY_FRAME") else 60
FULL = 2  # https://www.sqlite.org/pragma.html#pragma_synchronous
ORDERS = tuple(str(number) for number in range(1, 6))


@pytest.fixture
async def lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lost:
    """Five orders: completed, declined, out of stock, refused by the carrier, rejected."""
    shop = Shop(tmp_path / "shop")
    monkeypatch.setenv("CHOREO_BROKER", f"sqlite:///{shop.folder / 'choreo.db'}")
    await shop.stock(A=20, B=5)
    told: list[Acknowledged] = []
    file = shop.folder / "choreo.db"
    base = file.read_bytes()
    with closing(sqlite3.connect(file, isolation_level=None)) as holding:
        holding.execute("BEGIN")
        holding.execute("SELECT count(*) FROM sqlite_master").fetchone()
        async with noted(shop, told) as app:
            await order_all(shop, app.publish)
            assert file.read_bytes() == base, "a checkpoint has moved what was to be cut"
            wal, shm = (file.with_name(f"choreo.db-{end}").read_bytes() for end in ("wal", "shm"))
    return Lost(tmp_path / "cut", base, wal, told, shm)


async def order_all(shop: Shop, publish: object) -> None:
    """Place every order, each with an outside of its own kind; the clock goes on."""
    shop.bank.mood = lambda path, attempt: "lost" if attempt == 1 else "plain"
    for number in ORDERS:
        shop.van.error = CarrierRefusedError("no") if number == "4" else None
        lines = {"3": [("B", 99)], "5": [("A", 0)]}.get(number, [("A", 2), ("B", 1)])
        await publish(placed(number, *lines), id=number)  # type: ignore[operator]
        await shop.clock.advance(60)


def chosen(ends: list[int], most: int | None) -> list[int]:
    """Choose so many, spread out evenly, first and last among them."""
    if most is None or len(ends) <= most:
        return ends
    step = (len(ends) - 1) / (most - 1)
    return [ends[round(step * number)] for number in range(most)]


def torn(wal: bytes, end: int, frame: int, random: Random) -> Iterator[bytes]:
    """Give logs that are whole up to a place, and in which the next frame is not."""
    whole, following = wal[:end], wal[end : end + frame]
    part = random.randrange(1, frame)
    yield whole + following[:part]
    yield whole + following[:part] + bytes(frame - part)
    yield whole + bytes(frame) + wal[end + frame : end + 3 * frame]  # what follows did arrive
    flipped = bytearray(following)
    flipped[random.randrange(frame)] ^= 0x40
    yield whole + bytes(flipped) + wal[end + frame : end + 2 * frame]


@pytest.mark.timeout(600)
@pytest.mark.blocks("reads how long a file is whenever something is acknowledged")
async def test_whatever_is_left_of_the_log_is_a_prefix_of_what_was_acknowledged(
    lost: Lost,
) -> None:
    full = lost.at(len(lost.wal)).evidence.history
    cuts = chosen(lost.ends(), CUTS)
    assert len(lost.commits()) > 50
    reached = 0
    for end in cuts:
        state = state_of(lost.place(lost.wal[:end]))
        history = state.evidence.history
        assert list(history) == list(full[: len(history)]), f"cut at {end}: no prefix"
        assert len(history) >= reached
        reached = len(history)
        missing = {told.what for told in lost.told if told.size <= end} - state.acknowledged
        assert not missing, f"cut at {end}: acknowledged, and gone: {sorted(missing)[:3]}"
        assert audit(state.evidence, at_rest=False) == [], f"cut at {end}"
        assert state.digest == lost.at(end).digest
    assert reached == len(full)


@pytest.mark.timeout(600)
@pytest.mark.blocks("reads how long a file is whenever something is acknowledged")
async def test_a_frame_that_is_torn_is_as_if_it_were_not_there(lost: Lost) -> None:
    random = Random(1)
    for end in chosen(lost.ends()[:-1], CUTS and CUTS // 3):
        whole = lost.at(end).digest
        for wal in torn(lost.wal, end, lost.frame, random):
            if lost.wal.startswith(wal[: end + lost.frame]) and len(wal) >= end + lost.frame:
                continue  # what was zeroed was zero
            assert state_of(lost.place(wal)).digest == whole, f"torn at {end}"


@pytest.mark.blocks("reads how long a file is whenever something is acknowledged")
async def test_what_is_acknowledged_is_in_the_log_by_then_and_is_synced(lost: Lost) -> None:
    """At each acknowledgement the log has a whole transaction that holds it.

    SQLite syncs the log at the end of each transaction, since `synchronous` is FULL.
    """
    database = Database(lost.place(lost.wal) / "choreo.db")
    database.hold()
    try:
        level = await database.write(lambda c: c.execute("PRAGMA synchronous").fetchone())
        assert level == (FULL,)
    finally:
        await database.close()
    assert len(lost.told) > 60
    sizes = [told.size for told in lost.told]
    assert all(before <= after for before, after in pairwise(sizes))
    for size in chosen(sorted(set(sizes)), CUTS):
        there = lost.at(size).acknowledged
        assert {told.what for told in lost.told if told.size <= size} <= there
    # A cut before the transaction that an acknowledgement is in would lose it: the sizes tell.
    first = next(told for told in lost.told if told.size > HEADER and told.what[0])
    earlier = [end for end in lost.commits() if first.what not in lost.at(end).acknowledged]
    assert earlier
    assert max(earlier) < first.size


@pytest.mark.blocks("reads how long a file is whenever something is acknowledged")
async def test_the_index_of_the_log_may_be_missing_or_worthless(lost: Lost) -> None:
    for end in chosen(lost.commits(), 6):
        whole = lost.at(end).digest
        garbage = bytes(Random(end).randbytes(len(lost.shm)))
        for shm in (lost.shm, garbage, bytes(len(lost.shm)), b""):
            assert state_of(lost.place(lost.wal[:end], shm=shm)).digest == whole


@pytest.mark.blocks("reads how long a file is whenever something is acknowledged")
async def test_a_checkpoint_that_was_cut_off_takes_nothing(lost: Lost) -> None:
    """Some pages of the log are in the file by then, others not; the log has them all."""
    whole = lost.at(len(lost.wal)).digest
    copied = lost.place(lost.wal) / "choreo.db"
    with closing(sqlite3.connect(copied)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    after, size = copied.read_bytes(), lost.frame - 24
    for seed in range(8):
        random = Random(seed)
        mixed = b"".join(
            after[at : at + size] if random.random() < 0.5 else lost.base[at : at + size]
            for at in range(0, len(lost.base), size)
        )
        mixed += after[len(lost.base) :][: random.randrange(4) * size]
        assert state_of(lost.place(lost.wal, base=mixed)).digest == whole


@pytest.mark.timeout(600)
@pytest.mark.blocks("reads how long a file is whenever something is acknowledged")
@pytest.mark.parametrize("part", [0.0, 0.2, 0.4, 0.6, 0.8, 0.97])
async def test_it_goes_on_from_there_and_every_order_ends(
    lost: Lost, part: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was not told that an order is placed places it again, under the same key."""
    end = lost.ends()[int((len(lost.ends()) - 1) * part)]
    began = ManualClock().now() + 60 * len(ORDERS)
    shop = Shop(lost.place(lost.wal[: end + 100]), clock=ManualClock(began))
    monkeypatch.setenv("CHOREO_BROKER", f"sqlite:///{shop.folder / 'choreo.db'}")
    async with shop.open() as app:
        await order_all(shop, app.publish)
        await shop.clock.advance(2 * 3600)
    ended = {
        record.headers["ce_subject"]
        for record in shop.history()
        if record.headers["ce_type"] in ENDS
    }
    assert ended == {*ORDERS}
    assert await judged(shop.folder, invariants.money, invariants.stock) == []

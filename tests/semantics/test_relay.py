"""The store beside the log: what steps commit is published by a relay, whatever fails between."""

import asyncio
import signal
import sqlite3
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import pytest

from choreo import App, Service
from choreo.errors import BrokerError, BrokerUnavailableError
from choreo.events import STEP, Partition, Record
from choreo.plan import Owned, Plan, Publish, Source
from choreo.ports import ORPHANS, Applied
from choreo.testing import CALM, Faults, FaultyBroker, FaultyStore
from choreo.worker import Limits
from tests.semantics.events import Paid, Placed, Reserved
from tests.semantics.lab import Lab

LOST = replace(CALM, ack_lost=1)
LIMITS = Limits(relay_sweep_s=1e6, drain_s=0.3)
"""No sweep helps: what has to be read again is known to be."""


class DeskBroker(FaultyBroker):
    """A broker that does not take what steps publish while it is `down`, or some of it never."""

    down = False
    refused: str | None = None
    tries = 0

    async def publish(self, records: Sequence[Record]) -> None:
        if any(STEP in record.headers for record in records):
            self.tries += 1
            if self.down:
                raise BrokerUnavailableError("down", fix="wait")
            if any(record.topic == self.refused for record in records):
                raise BrokerError("no such topic", code="CH3004", fix="create it")
        await super().publish(records)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, beside=True)


@asynccontextmanager
async def opened(
    lab: Lab, *services: Service, limits: Limits = LIMITS, seed: int = 1
) -> AsyncIterator[tuple[App, DeskBroker, FaultyStore]]:
    """Run services between parts that fail when they are told to."""
    inner_broker, inner_store = lab.parts()
    broker = DeskBroker(inner_broker, seed=seed, faults=CALM)
    store = FaultyStore(inner_store, seed=seed, faults=CALM)
    async with App(*services, broker=broker, store=store, clock=lab.clock, limits=limits) as app:
        await lab.clock.settle()
        yield app, broker, store


def desk(ran: list[tuple[str, int]]) -> Service:
    service = Service("desk")

    @service.on(Placed)
    async def reserve(placed: Placed) -> tuple[Reserved, Paid]:
        ran.append((placed.k, placed.n))
        return Reserved(k=placed.k, n=placed.n), Paid(k=placed.k, n=placed.n)

    return service


def till(ran: list[tuple[str, int]]) -> Service:
    service = Service("till")

    @service.on(Reserved)
    async def note(reserved: Reserved) -> None:
        ran.append((reserved.k, reserved.n))

    return service


def unsent(lab: Lab) -> int:
    """Count what the store still has to have published."""
    return int(lab.rows("SELECT count(*) FROM outbox")[0][0])


def seen(
    lab: Lab, kind: type[Reserved | Paid] = Reserved, *, once: bool = False
) -> dict[str, list[int]]:
    """Give, by key, the numbers that were published, in order."""
    found = defaultdict[str, list[int]](list)
    for record in lab.only(kind):
        event = kind.model_validate_json(record.value)
        if not once or event.n not in found[event.k]:
            found[event.k].append(event.n)
    return dict(found)


async def place(app: App, *numbers: int, keys: int = 1) -> None:
    for n in numbers:
        await app.publish(Placed(k=f"k{n % keys}", n=n))


async def test_what_is_committed_is_published_and_then_forgotten(lab: Lab) -> None:
    """While nothing follows that it could go along with, too."""
    ran: list[tuple[str, int]] = []
    taken: list[tuple[str, int]] = []
    async with opened(lab, desk(ran), till(taken)) as (app, *_):
        await place(app, *range(50), keys=3)
        await lab.clock.settle()
        assert seen(lab) == seen(lab, Paid) == {f"k{k}": list(range(k, 50, 3)) for k in range(3)}
        await lab.clock.advance(1)
        assert unsent(lab) == 0
    assert len(ran) == len(taken) == 50


async def test_a_broker_that_is_down_is_waited_for(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    """Said once, tried again every half second; steps go on, and order is kept."""
    ran: list[tuple[str, int]] = []
    async with opened(lab, desk(ran)) as (app, broker, _):
        for turn in range(2):
            broker.down = True
            await place(app, *range(20 * turn, 20 * turn + 20), keys=3)
            await lab.clock.advance(30)
            assert len(ran) == 20 * turn + 20
            assert broker.tries <= 70 * (turn + 1)
            assert unsent(lab) == 40
            broker.down = False
            await lab.clock.advance(2)
            assert unsent(lab) == 0
    assert seen(lab) == {f"k{k}": list(range(k, 40, 3)) for k in range(3)}
    assert sum("the broker does not answer" in one.message for one in caplog.records) == 2


async def test_no_more_is_committed_than_the_relay_may_hold(lab: Lab) -> None:
    """Then deliveries are not taken any more, and go on when the broker answers."""
    ran: list[tuple[str, int]] = []
    limits = replace(LIMITS, relay_max=10, batch_max=4, in_flight_max=16, poll_max=8)
    async with opened(lab, desk(ran), limits=limits) as (app, broker, _):
        broker.down = True
        await place(app, *range(100), keys=100)
        await lab.clock.advance(5)
        assert unsent(lab) <= 10 + 2 * 2 * 4
        assert len(ran) < 60
        broker.down = False
        await lab.clock.advance(20)
        assert len(ran) == 100
    assert len(lab.only(Reserved)) == 100


async def test_what_is_left_is_published_by_the_next_start_before_what_is_new(lab: Lab) -> None:
    ran: list[tuple[str, int]] = []
    async with opened(lab, desk(ran)) as (app, broker, _):
        broker.down = True
        await place(app, *range(10))
        await lab.clock.settle()
    assert unsent(lab) == 20
    async with opened(lab, desk(ran)) as (app, *_):
        await place(app, *range(10, 20))
        await lab.clock.advance(1)
        assert unsent(lab) == 0
    assert len(ran) == 20
    assert seen(lab) == {"k0": list(range(20))}


async def test_more_than_a_page_is_left(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read piece by piece, and what is new waits for the last one."""
    monkeypatch.setattr("choreo.worker.relay.PAGE", 7)
    ran: list[tuple[str, int]] = []
    async with opened(lab, desk(ran)) as (app, broker, _):
        broker.down = True
        await place(app, *range(30), keys=3)
        await lab.clock.settle()
    async with opened(lab, desk(ran)) as (app, *_):
        await place(app, *range(30, 45), keys=3)
        await lab.clock.advance(1)
        assert unsent(lab) == 0
    assert seen(lab) == {f"k{k}": list(range(k, 45, 3)) for k in range(3)}


async def test_what_drain_finds_it_publishes(lab: Lab) -> None:
    async with opened(lab, desk([]), limits=replace(LIMITS, drain_s=10)) as (app, *_):
        await place(app, *range(30), keys=3)
    assert unsent(lab) == 0
    assert len(lab.only(Reserved)) == len(lab.only(Placed))


@pytest.mark.parametrize("raised", [0.0, 1.0], ids=["in-its-place", "raised"])
async def test_what_an_unknown_commit_left_is_read_again(lab: Lab, raised: float) -> None:
    """No sweep comes, and nothing is asked but by what was told to have failed."""
    ran: list[tuple[str, int]] = []
    async with opened(lab, desk(ran)) as (app, _, store):
        for n in range(6):
            store.faults = replace(LOST, raised=raised) if n % 2 else CALM
            await place(app, n)
            await lab.clock.settle()
            store.faults = CALM
            await lab.clock.advance(1)
        assert store.fired["ack_lost", "apply"] >= 3
        assert seen(lab, once=True) == {"k0": list(range(6))}
        await lab.clock.advance(2)
        assert unsent(lab) == 0
    assert len(ran) == 6


async def test_a_row_that_was_missed_is_found_by_a_sweep(lab: Lab) -> None:
    """However it came to be missed: written behind everybody's back, and below what is known."""
    limits = replace(LIMITS, relay_sweep_s=3.0)
    async with opened(lab, desk([]), limits=limits) as (app, *_):
        await place(app, 1)
        await lab.clock.advance(1)
        (row,) = lab.only(Reserved)
        other = lab.parts()[1]
        partition = Partition("desk.placed", row.partition)
        owned = Owned("desk", {partition: epoch(lab, partition)})
        missed = Record("desk.reserved", b"k0", dict(row.headers), b'{"k":"k0","n":2}')
        assert await other.apply([Plan(owned, (Publish(missed),))]) == [Applied.DONE]
        await other.close()
        assert unsent(lab) == 1
        await lab.clock.advance(20)
        assert unsent(lab) == 0
    assert seen(lab) == {"k0": [1, 2]}


async def test_what_ends_after_a_takeover_leaves_nothing_behind(lab: Lab) -> None:
    """The line is made anew for it, and goes with the next sweep; that of what is ours stays."""
    limits = replace(LIMITS, relay_sweep_s=3.0)
    async with opened(lab, desk([]), limits=limits) as (app, *_):
        assert app.worker is not None
        relay = app.worker._relay
        assert relay is not None
        before = set(relay._lines)
        gone = Owned("desk", {Partition("desk.placed", 0): 0})
        gone.lost = True
        relay.drop([gone])
        late = Record("desk.reserved", b"k0", {}, b"{}")
        assert await relay.apply([Plan(gone, (Publish(late),))]) == [Applied.STALE]
        assert gone in relay._lines
        await place(app, 1)
        await lab.clock.advance(20)
        assert set(relay._lines) == before
        assert seen(lab) == {"k0": [1]}


async def test_what_ends_late_does_not_overtake_what_is_left_to_the_next_owner(lab: Lab) -> None:
    """The partition is revoked while the broker is away; a step that still runs commits then."""
    async with opened(lab, desk([])) as (app, broker, store):
        assert app.worker is not None
        relay = app.worker._relay
        assert relay is not None
        broker.down = True
        await place(app, 1)
        await lab.clock.settle()
        claim = next(one for one in relay._lines if one and relay.holds([one]))
        claim.lost = True
        relay.drop([claim])
        (row, *_) = await store.unsent(Owned("desk", dict(claim.epochs)), after=0, most=9)
        late = Record("desk.reserved", b"k0", dict(row.record.headers), b'{"k":"k0","n":2}')
        assert await relay.apply([Plan(claim, (Publish(late),))]) == [Applied.DONE]
        broker.down = False
        await lab.clock.advance(5)
        assert seen(lab) == {}
    async with opened(lab, desk([])):
        await lab.clock.settle()
    assert seen(lab) == {"k0": [1, 2]}


async def test_a_partition_of_nobody_is_the_next_members_if_its_topic_is_read_here(
    lab: Lab,
) -> None:
    """It publishes first what the one before has left: nothing parked there may go ahead."""
    async with opened(lab, desk([])) as (app, *_):
        assert app.worker is not None
        (lane,) = app.worker.lanes
        place = next(one for one in lane.claims if one[0] == "desk.placed")
        came, gone = Source(*place, 1), Source("desk.gone", 0, 1)
        assert lane.claim_of(came) is lane.claims[place]
        lane.lose([Partition(*place)])
        assert lane.claim_of(came) is None
        assert lane.claim_of(gone) is lane.claims[ORPHANS]


async def test_a_row_below_what_was_sent_is_found(lab: Lab) -> None:
    """Rows of one partition may be numbered before, and be seen after, those of another."""
    ran: list[tuple[str, int]] = []
    async with opened(lab, desk(ran)) as (app, broker, _):
        broker.down = True
        await place(app, *range(20), keys=20)
        await lab.clock.settle()
    assert unsent(lab) == 40
    kept = lab.rows("SELECT min(seq) FROM outbox")[0][0]
    limits = replace(LIMITS, relay_sweep_s=3.0)
    hidden = hide(lab, kept)
    async with opened(lab, desk(ran), limits=limits):
        await lab.clock.advance(10)
        assert unsent(lab) == 0
        show(lab, hidden)
        assert unsent(lab) == 1
        await lab.clock.advance(20000)
        assert unsent(lab) == 0
    assert len(lab.only(Reserved)) == len(lab.only(Paid)) == 20


def hide(lab: Lab, seq: int) -> tuple[object, ...]:
    """Take a row away, as if its transaction could not be seen yet."""
    with closing(sqlite3.connect(lab.folder / "store.db")) as db, db:
        row = db.execute("SELECT * FROM outbox WHERE seq = ?", (seq,)).fetchone()
        db.execute("DELETE FROM outbox WHERE seq = ?", (seq,))
    return tuple(row)


def show(lab: Lab, row: tuple[object, ...]) -> None:
    """Let it be seen."""
    with closing(sqlite3.connect(lab.folder / "store.db")) as db, db:
        db.execute("INSERT INTO outbox VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)


def epoch(lab: Lab, partition: Partition) -> int:
    rows = lab.rows(
        "SELECT epoch FROM owner WHERE grp = 'desk' AND topic = ? AND partition = ?", *partition
    )
    return int(rows[0][0])


async def test_a_record_that_is_refused_keeps_its_own_partition_only(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    """It is named, tried again less and less often, and goes when it may."""
    ran: list[tuple[str, int]] = []
    service = Service("desk")

    @service.on(Placed)
    async def reserve(placed: Placed) -> Reserved | Paid:
        ran.append((placed.k, placed.n))
        return Paid(k=placed.k, n=placed.n) if placed.n == 7 else Reserved(k=placed.k, n=placed.n)

    async with opened(lab, service) as (app, broker, _):
        broker.refused = "desk.paid"
        await place(app, *range(40), keys=20)
        await lab.clock.advance(60)
        assert len(ran) == 40
        held = 40 - len(lab.only(Reserved))
        assert 1 < held < 40
        said = [one.message for one in caplog.records if "CH3006" in one.message]
        assert 3 < len(said) < 12
        assert "desk.paid" in said[0]
        broker.refused = None
        await lab.clock.advance(60)
        assert unsent(lab) == 0
    assert len(lab.only(Reserved)) == 39
    assert all(numbers == sorted(numbers) for numbers in seen(lab).values())


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_nothing_is_lost_or_done_twice_however_it_fails(lab: Lab, seed: int) -> None:
    """Broker and store refuse, are late, and lose their answers; order per key is kept."""
    ran: list[tuple[str, int]] = []
    taken: list[tuple[str, int]] = []
    faults = Faults(refused=0.1, ack_lost=0.3, delayed=0.2, repeated=0.1)
    async with opened(lab, desk(ran), till(taken), seed=seed) as (app, broker, store):
        for turn in range(4):
            await place(app, *range(15 * turn, 15 * turn + 15), keys=4)
            broker.faults = store.faults = faults
            await lab.clock.advance(20)
            broker.faults = store.faults = CALM
            await lab.clock.advance(5)
        await lab.clock.advance(20)
        assert unsent(lab) == 0
        assert broker.fired["ack_lost", "publish"]
        assert store.fired["ack_lost", "apply"]
    wanted = {f"k{k}": list(range(k, 60, 4)) for k in range(4)}
    assert seen(lab, once=True) == wanted
    assert seen(lab, Paid, once=True) == wanted
    assert sorted(taken) == sorted((k, n) for k, numbers in wanted.items() for n in numbers)
    for key, numbers in wanted.items():
        assert [n for k, n in taken if k == key] == numbers


# The process ends, by SIGKILL, as its third step's records are to be published: before they are,
# or after, when nobody has been told yet.
DIES = """
import asyncio, os, signal, sys
from pathlib import Path
from choreo import App
from choreo.events import STEP
from choreo.testing import ManualClock
from tests.semantics.lab import Lab
from tests.semantics.test_relay import LIMITS, DeskBroker, CALM, desk, place

class Dies(DeskBroker):
    async def publish(self, records):
        mine = any(STEP in one.headers and b'"n":2' in one.value for one in records)
        if mine and sys.argv[2] == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        await super().publish(records)
        if mine:
            os.kill(os.getpid(), signal.SIGKILL)

async def main():
    lab = Lab(Path(sys.argv[1]), beside=True)
    broker, store = lab.parts()
    broker = Dies(broker, seed=1, faults=CALM)
    async with App(desk([]), broker=broker, store=store, clock=lab.clock, limits=LIMITS) as app:
        for n in range(5):
            await place(app, n)
            await lab.clock.settle()

asyncio.run(main())
"""


@pytest.mark.parametrize("when", ["before", "after"])
async def test_killed_around_the_publish_nothing_is_lost(lab: Lab, when: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DIES, str(lab.folder), when
    )
    assert await process.wait() == -signal.SIGKILL
    assert seen(lab, once=True) == {"k0": [0, 1, 2] if when == "after" else [0, 1]}
    assert unsent(lab) >= 2
    ran: list[tuple[str, int]] = []
    taken: list[tuple[str, int]] = []
    async with opened(lab, desk(ran), till(taken)) as (app, *_):
        await place(app, 3, 4)
        await lab.clock.advance(10)
        assert unsent(lab) == 0
    assert ran == [("k0", 3), ("k0", 4)]
    assert seen(lab, once=True) == seen(lab, Paid, once=True) == {"k0": [0, 1, 2, 3, 4]}
    assert taken == [("k0", n) for n in range(5)]

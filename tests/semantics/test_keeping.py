"""What is old is forgotten, and never done a second time for that."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import pytest

from choreo import After, App, ConfigurationError, Context, Later, Retry, Service
from choreo.app import open_views
from choreo.events import Record, root_id
from choreo.testing import ManualClock
from choreo.tracker import Tracker
from choreo.worker import Limits
from tests.semantics.events import Cancelled, Packed, Paid, Placed, Released, Reserved, Sent
from tests.semantics.lab import Lab, record_of

DAY_S = 86_400.0
SELDOM = Limits(prune_every_s=DAY_S, commit_every_s=3600.0)


def desk(ran: list[int]) -> Service:
    service = Service("desk", inbox_keep_s=10 * DAY_S, flow_keep_s=100 * DAY_S)

    @service.on(Placed)
    async def reserve(placed: Placed) -> Reserved:
        ran.append(placed.n)
        return Reserved(n=placed.n)

    @service.compensate(Reserved, on=Cancelled)
    async def release(reserved: Reserved, why: Cancelled) -> Released:
        return Released(n=reserved.n)

    return service


@asynccontextmanager
async def kept(lab: Lab, service: Service, limits: Limits = SELDOM) -> AsyncIterator[App]:
    async with lab.open(service, limits=limits) as app:
        yield app


def inbox(lab: Lab) -> int:
    """Count what the inbox remembers."""
    return int(lab.rows("SELECT count(*) FROM inbox")[0][0])


def again(record: Record) -> Record:
    """Make the same record once more, as a producer that repeats itself does."""
    return Record(record.topic, record.key, dict(record.headers), record.value)


async def test_a_forgotten_record_that_comes_again_is_a_dead_letter(lab: Lab) -> None:
    ran: list[int] = []
    async with kept(lab, desk(ran)) as app:
        await app.publish(Placed(n=1))
        await lab.clock.advance(1)
        before = inbox(lab)
        assert before >= 1
        await lab.clock.advance(12 * DAY_S)
        assert inbox(lab) == 0
        first = next(one for one in lab.log() if one.topic == "desk.placed")
        for _ in range(2):
            await app.broker.publish([again(first)])
            await lab.clock.advance(1)
        await app.publish(Placed(n=2))
        await lab.clock.advance(1)
    assert ran == [1, 2]
    letters = lab.dead()
    assert {one.headers["choreo-dead-step"] for one in letters} == {"desk.reserve"}
    assert len(letters) == 1  # the second time it is a dead letter already
    assert letters[0].headers["choreo-dead-message"].startswith("CH4020")
    assert letters[0].value == first.value


async def test_offsets_set_back_bring_no_forgotten_record_to_life(lab: Lab) -> None:
    ran: list[int] = []
    async with kept(lab, desk(ran)) as app:
        for n in range(5):
            await app.publish(Placed(n=n))
        await lab.clock.advance(12 * DAY_S)
        await app.publish(Placed(n=5))
        await lab.clock.advance(1)
    with closing(sqlite3.connect(lab.folder / "choreo.db")) as db, db:
        db.execute("UPDATE position SET offset = 1")
    async with kept(lab, desk(ran)):
        await lab.clock.advance(1)
    assert ran == [0, 1, 2, 3, 4, 5]
    assert len([one for one in lab.dead() if one.topic == "choreo.dead"]) == 5


async def test_a_callers_own_key_is_remembered_as_long_as_a_flow(lab: Lab) -> None:
    ran: list[int] = []
    async with kept(lab, desk(ran)) as app:
        for _ in range(3):
            await app.publish(Placed(n=7), id="basket-17")
            await lab.clock.advance(30 * DAY_S)
    assert ran == [7]
    assert lab.dead() == []


async def test_a_strangers_event_of_long_ago_is_no_old_record(lab: Lab) -> None:
    """Its id does not begin with a time, so its time is only what its producer says."""
    ran: list[int] = []
    async with kept(lab, desk(ran)) as app:
        await app.publish(Placed(n=1))
        await lab.clock.advance(12 * DAY_S)
        late = record_of(Placed(n=2), "from the archive")
        late.headers["ce_time"] = "1999-01-01T00:00:00Z"
        await app.broker.publish([late])
        timed = record_of(Placed(n=3), root_id(lab.clock.now(), bytes(10)))
        await app.broker.publish([timed])
        await lab.clock.advance(1)
    assert ran == [1, 2, 3]
    assert lab.dead() == []


async def test_a_new_service_reads_the_whole_log_whatever_others_have_forgotten(lab: Lab) -> None:
    ran: list[int] = []
    async with kept(lab, desk(ran)) as app:
        for n in range(3):
            await app.publish(Placed(n=n))
        await lab.clock.advance(20 * DAY_S)
    assert inbox(lab) == 0
    seen: list[str] = []
    service = Service("later", inbox_keep_s=DAY_S)

    @service.on(Placed)
    async def placed(placed: Placed) -> None:
        seen.append(f"placed {placed.n}")

    both = Service("desk", inbox_keep_s=DAY_S)  # also one that knew another topic only

    @both.on(Reserved)
    async def reserved(reserved: Reserved) -> None:
        seen.append(f"reserved {reserved.n}")

    async with lab.open(service, both, limits=SELDOM):
        await lab.clock.advance(5 * DAY_S)
    assert sorted(seen) == [
        *(f"placed {n}" for n in range(3)),
        *(f"reserved {n}" for n in range(3)),
    ]
    assert lab.dead() == []


async def test_what_waits_outlives_every_keep_time(lab: Lab) -> None:
    """Parked, put off, undone late: a flow that takes longer than rows are kept goes on."""
    service = Service("desk", inbox_keep_s=DAY_S, flow_keep_s=3 * DAY_S)
    fails = True

    @service.on(Placed)
    async def remind(placed: Placed) -> After[Sent]:
        return After(Sent(), after_s=40 * DAY_S, name="reminder")

    @service.on(Sent)
    async def sent(sent: Sent) -> Packed:
        return Packed()

    @service.on(Paid, retry=Retry(attempts_max=100, first_s=DAY_S, factor=1, longest_s=DAY_S))
    async def reserve(paid: Paid, ctx: Context) -> Reserved:
        await ctx.once("call", lambda: calls.append(ctx.attempt))
        if fails:
            raise ValueError("not yet")
        return Reserved()

    @service.compensate(Reserved, on=Cancelled)
    async def release(reserved: Reserved, why: Cancelled) -> Released:
        if fails:
            raise Later(after_s=DAY_S)
        return Released()

    calls: list[int] = []
    async with kept(lab, service) as app:
        await app.publish(Placed())
        await app.publish(Paid())
        await lab.clock.advance(30 * DAY_S)
        fails = False
        await lab.clock.advance(DAY_S)
        fails = True
        assert lab.kinds() == ["Placed", "Paid", "Reserved"]
        (effect,) = lab.only(Reserved)
        flow = effect.headers["ce_correlationid"]
        stop = record_of(Cancelled(), root_id(lab.clock.now(), bytes(10)), flow=flow)
        await app.broker.publish([stop])
        await lab.clock.advance(30 * DAY_S)
        fails = False
        await lab.clock.advance(DAY_S)
    assert calls == [1]
    assert lab.kinds()[3:] == ["Cancelled", "Sent", "Packed", "Released"]
    assert lab.dead() == []


async def test_records_wait_for_a_group_that_has_come_and_read_nothing_yet(lab: Lab) -> None:
    limits = Limits(prune_every_s=DAY_S, commit_every_s=3600.0, log_keep_s=5 * DAY_S)
    async with kept(lab, desk([]), limits) as app:
        late = await app.broker.subscribe("late", [Placed.__event__.topic])
        await late.close()
        await app.publish(Placed(n=1))
        await lab.clock.advance(20 * DAY_S)
        assert len(lab.only(Placed)) == 1


async def test_a_log_that_begins_later_is_read_by_all(lab: Lab) -> None:
    """Services, the tracker, who waits for an outcome; positions go on."""
    ran: list[int] = []
    limits = Limits(prune_every_s=DAY_S, commit_every_s=3600.0, log_keep_s=5 * DAY_S)
    service = desk(ran)
    service.flow("booking", starts=Placed, ends=Reserved)
    views = open_views(lab.folder)
    async with kept(lab, service, limits) as app:
        flow = await app.publish(Placed(n=1))
        await lab.clock.advance(1)
        tracker = Tracker(app.broker, views, lab.clock)
        await tracker.catch_up()
        await lab.clock.advance(20 * DAY_S)
        last = max(one.offset for one in lab.log())
        assert lab.only(Placed) == []
    async with kept(lab, service, limits) as app:
        tracker = Tracker(app.broker, views, lab.clock)
        await tracker.catch_up()
        assert [one.offset for one in await views.facts(flow)] != []  # it is not begun anew
        new = await app.publish(Placed(n=2))
        assert await app.outcome(new, within_s=5) == Reserved(n=2)
        await tracker.catch_up()
        assert await views.facts(new) != []
        assert min(one.offset for one in lab.only(Placed)) > last
    await views.close()
    assert ran == [1, 2]


@pytest.mark.parametrize(("inbox_s", "flow_s"), [(0, 10), (10, 5), (-1, 10)])
def test_keep_times_that_keep_nothing_are_refused(inbox_s: float, flow_s: float) -> None:
    with pytest.raises(ConfigurationError, match=r"CH1011.*Fix"):
        Service("desk", inbox_keep_s=inbox_s, flow_keep_s=flow_s)


async def test_a_clock_that_jumps_ahead_and_back_loses_nothing(lab: Lab) -> None:
    """Marks are of moments that were; what is published after is younger than all of them."""
    ran: list[int] = []
    async with kept(lab, desk(ran)) as app:
        await app.publish(Placed(n=1))
        await lab.clock.advance(2 * DAY_S)
    right = lab.clock
    lab.clock = ManualClock(right.now() + 3000 * DAY_S)
    async with kept(lab, desk(ran)) as app:
        await lab.clock.advance(3600)
    lab.clock = right
    async with kept(lab, desk(ran)) as app:
        await app.publish(Placed(n=2))
        await lab.clock.advance(30 * DAY_S)
        await app.publish(Placed(n=3))
        await lab.clock.advance(1)
    assert ran == [1, 2, 3]
    assert lab.dead() == []

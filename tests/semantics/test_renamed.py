"""Handlers renamed or removed: what was written under a former name is its heir's."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from choreo import App, ConfigurationError, Context, Later, Retry, Service
from choreo.errors import HandlerConflictError
from choreo.worker import Limits
from tests.semantics.events import Cancelled, Packed, Paid, Placed, Released, Reserved, TimedOut
from tests.semantics.lab import HASTY, Lab, record_of

WITHIN_S = 30
SLOW = Retry(attempts_max=9, first_s=10, factor=1)


def desk(ran: list[str], name: str, *was: str, fails: bool = False) -> Service:
    """A service of one handler, by some name."""
    service = Service("desk")

    @service.on(Placed, retry=SLOW, name=name, was=was)
    async def reserve(placed: Placed) -> Reserved:
        ran.append(f"{name} {placed.n}")
        if fails:
            raise ValueError("not yet")
        return Reserved(n=placed.n)

    return service


async def place(lab: Lab, service: Service, *numbers: int) -> None:
    async with lab.open(service) as app:
        for n in numbers:
            await app.broker.publish([record_of(Placed(n=n), f"{n}")])
        await lab.clock.settle()


async def test_what_was_done_under_a_former_name_is_not_done_again(lab: Lab) -> None:
    ran: list[str] = []
    await place(lab, desk(ran, "old"), 1, 2)
    await place(lab, desk(ran, "new", "old"), 1, 2, 3)
    assert ran == ["old 1", "old 2", "new 3"]
    await place(lab, desk(ran, "newest", "new", "old"), 1, 2, 3)
    await place(lab, desk(ran, "new", "old"), 1, 2, 3)  # rolled back
    await place(lab, desk(ran, "old"), 1, 2, 3, 4)
    await place(lab, desk(ran, "newest", "new", "old"), 1, 2, 3, 4)
    assert ran == ["old 1", "old 2", "new 3", "old 4"]


async def test_what_is_parked_runs_under_the_present_name_also_after_a_way_back(lab: Lab) -> None:
    ran: list[str] = []
    async with lab.open(desk(ran, "old", fails=True)) as app:
        await app.publish(Placed(n=1))
        await app.publish(Placed(n=2))
        await lab.clock.advance(1)
    async with lab.open(desk(ran, "new", "old", fails=True)):
        await lab.clock.advance(10)
    async with lab.open(desk(ran, "old", fails=True)) as app:
        await app.publish(Placed(n=3))  # waits behind the others, whoever parked them
        await lab.clock.advance(10)
    assert ran == ["old 1", "new 1", "old 1"]
    async with lab.open(desk(ran, "new", "old")):
        await lab.clock.advance(100)
    assert ran[3:] == ["new 1", "new 2", "new 3"]
    assert lab.kinds().count("Reserved") == 3


async def test_two_handlers_become_one_that_has_done_what_either_did(lab: Lab) -> None:
    ran: list[str] = []
    await place(lab, desk(ran, "a"), 1)
    await place(lab, desk(ran, "b"), 2)
    await place(lab, desk(ran, "one", "a", "b"), 1, 2, 3)
    await place(lab, desk(ran, "b"), 1, 2, 3)
    assert ran == ["a 1", "b 2", "one 3"]


async def test_who_still_runs_two_that_have_become_one_leaves_nothing_that_nobody_finds(
    tmp_path: Path,
) -> None:
    may = asyncio.Event()

    async def ready(placed: Placed | Paid) -> Reserved:
        if not may.is_set():
            raise Later(after_s=0.1)
        return Reserved(n=placed.n)

    former, present = Service("desk"), Service("desk")
    former.on(Placed, name="one")(ready)
    former.on(Paid, name="other")(ready)
    present.on(Placed, Paid, name="other", was="one")(ready)

    def count(sql: str) -> int:
        with closing(sqlite3.connect(tmp_path / "choreo.db", timeout=10)) as db:
            return len(db.execute(sql).fetchall())

    async def until(sql: str, wanted: int) -> None:
        async with asyncio.timeout(WITHIN_S):
            while count(sql) < wanted:  # noqa: ASYNC110 - it is a file
                await asyncio.sleep(0.02)

    limits = Limits(revoke_s=0.2, drain_s=0.2)
    async with App(former, folder=tmp_path, limits=limits) as old:
        for n in range(4):
            await old.publish(Placed(n=n))
            await old.publish(Paid(n=n))
        await until("SELECT 1 FROM inbox WHERE status = 1", 8)
        async with App(present, folder=tmp_path, limits=limits):
            for n in range(4, 12):
                await old.publish(Placed(n=n))
                await old.publish(Paid(n=n))
            await until("SELECT DISTINCT member FROM assignment WHERE member <> 0", 2)
            await old.stop()
            may.set()
            log = "SELECT 1 FROM log JOIN topic ON topic.id = log.topic WHERE topic.name = '{}'"
            await until(log.format(Reserved.__event__.topic), 24)
            assert not count("SELECT 1 FROM inbox WHERE status = 1")


async def test_a_new_handler_may_take_a_name_that_another_had_once(lab: Lab) -> None:
    ran: list[str] = []
    await place(lab, desk(ran, "old"), 1)
    await place(lab, desk(ran, "new", "old"), 1)
    service = desk(ran, "new")

    @service.on(Placed, name="old")
    async def another(placed: Placed) -> None:
        ran.append(f"another {placed.n}")

    await place(lab, service, 1, 2)
    assert sorted(ran) == ["another 1", "another 2", "new 2", "old 1"]
    await place(lab, service, 1, 2)
    assert len(ran) == 4


async def test_a_name_has_one_heir(lab: Lab) -> None:
    service = desk([], "new", "old")
    service.on(Paid, name="old")(_nothing)
    with pytest.raises(HandlerConflictError, match=r"CH1002 was='desk.old'.*Fix"):
        await place(lab, service)


async def _nothing(paid: Paid) -> None: ...


@pytest.mark.parametrize("what", ["parked", "timers", "calls"])
async def test_no_start_while_something_waits_for_a_handler_that_is_gone(
    lab: Lab, what: str
) -> None:
    service = Service("desk")

    @service.on(Placed, retry=SLOW)
    async def reserve(placed: Placed, ctx: Context) -> None:
        if what == "parked":
            raise ValueError("not yet")
        if what == "calls":
            await ctx.once("call", lambda: lab.clock.sleep(1000))

    @service.expects(Paid, after=Placed, within_s=50)
    async def overdue(placed: Placed) -> TimedOut:
        return TimedOut()

    async with lab.open(service, limits=HASTY) as app:
        await app.publish(Placed())
        await lab.until(lambda: lab.rows("SELECT 1 FROM timer"))
        if what == "timers":
            await lab.clock.advance(1)
        if what == "calls":
            await lab.until(lambda: lab.rows("SELECT 1 FROM memo"))
    other = Service("desk")
    other.on(Paid)(_nothing)
    if what != "timers":
        other.expects(Paid, after=Placed, within_s=50, name="overdue")(overdue)
    wanted = {
        "parked": "desk.reserve: 1 parked deliveries",
        "timers": "desk.overdue: 1 timers",
        "calls": "desk.reserve: 1 open outside calls",
    }[what]
    log = len(lab.log())
    with pytest.raises(ConfigurationError, match=rf"CH1013.*{wanted}.*was=.*") as refused:
        async with lab.open(other):
            pass
    assert refused.value.code == "CH1013"
    assert len(lab.log()) == log
    stranger = Service("desk-too")  # another service's rows are not its own
    stranger.on(Paid)(_nothing)
    async with lab.open(stranger):
        pass
    async with lab.open(service, limits=HASTY):
        pass


async def test_a_call_under_way_keeps_its_key_when_its_handler_is_renamed(lab: Lab) -> None:
    keys: list[str] = []

    def caller(name: str, *was: str) -> Service:
        service = Service("desk")

        @service.on(Placed, retry=SLOW, name=name, was=was)
        async def reserve(placed: Placed, ctx: Context) -> Reserved:
            def call() -> int:
                keys.append(ctx.idempotency_key)
                if len(keys) < 3:
                    raise ConnectionError("no answer")
                return 7

            await ctx.once("first", lambda: 1, returns=int)
            return Reserved(n=await ctx.once("call", call, returns=int))

        return service

    async with lab.open(caller("old")) as app:
        await app.publish(Placed())
        await lab.clock.settle()
    async with lab.open(caller("new", "old")):
        await lab.clock.advance(0.3)
    async with lab.open(caller("newest", "new", "old")):
        await lab.clock.advance(100)
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert [one.value for one in lab.only(Reserved)] == [b'{"k":"x","n":7}']


async def test_gates_marks_and_timers_go_with_the_name(lab: Lab) -> None:
    """Arrivals of a join, effects of a scope, what is expected: half before, half after."""

    def scene(suffix: str, *formers: str) -> Service:
        service = Service("desk")

        def was(name: str) -> tuple[str, ...]:
            return tuple(f"{name}{one}" for one in formers)

        @service.on(Placed)
        async def reserve(placed: Placed) -> Reserved:
            return Reserved()

        @service.compensate(Reserved, on=Cancelled, name=f"undo{suffix}", was=was("undo"))
        async def undo(reserved: Reserved, why: Cancelled) -> Released:
            return Released()

        @service.join(name=f"join{suffix}", was=was("join"))
        async def join(placed: Placed, paid: Paid) -> Packed:
            return Packed()

        @service.expects(
            Paid, after=Placed, within_s=10, name=f"overdue{suffix}", was=was("overdue")
        )
        async def overdue(placed: Placed) -> TimedOut:
            return TimedOut()

        return service

    async with lab.open(scene("_old")) as app:
        await app.broker.publish([record_of(Placed(), "1", flow="f")])
        await app.broker.publish([record_of(Placed(k="late"), "2", flow="late")])
        await lab.clock.advance(1)
    async with lab.open(scene("_new", "_old")) as app:
        await app.broker.publish([record_of(Placed(), "1", flow="f")])
        await app.broker.publish([record_of(Paid(), "3", flow="f")])
        await app.broker.publish([record_of(Cancelled(), "4", flow="f")])
        await lab.clock.advance(100)
    assert sorted(lab.kinds()) == sorted(
        ["Placed", "Placed", "Reserved", "Reserved", "Placed", "Paid", "Cancelled", "Packed",
         "Released", "TimedOut"]
    )  # fmt: skip
    (late,) = lab.only(TimedOut)
    assert late.headers["ce_correlationid"] == "late"
    assert lab.dead() == []
